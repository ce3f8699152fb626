//! `relevo audit …`.

use anyhow::Context as _;
use relevo_runs::audit::{self, AuditFilter};
use serde_json::Value;

use crate::args::AuditCommand;
use crate::control::ControlPlane;
use crate::failure::Failure;
use crate::output::{Output, compact, moment, table};

/// Runs it.
pub async fn audit(
    control: &ControlPlane,
    command: AuditCommand,
    out: Output,
) -> Result<(), Failure> {
    let AuditCommand::List { actor, action, object, page } = command;
    let filter = AuditFilter { actor, action, object, before: page.before, limit: page.limit };
    let entries = audit::list(&control.pool, &filter).await.context("reading the log failed")?;
    out.document(&entries, || {
        let rows: Vec<Vec<String>> = entries
            .iter()
            .map(|entry| {
                let shown = |value: &Option<Value>| value.as_ref().map(compact).unwrap_or_default();
                vec![
                    entry.id.to_string(),
                    moment(entry.at),
                    entry.actor.clone(),
                    entry.action.clone(),
                    entry.object.clone(),
                    shown(&entry.before),
                    shown(&entry.after),
                ]
            })
            .collect();
        let headers = ["ID", "AT", "WHO", "WHAT", "TO", "BEFORE", "AFTER"];
        table(&headers, &rows, "nobody changed anything")
    })
}
