//! `relevo doctor`: what is not as it should be, and what to do about it.

use std::path::Path;
use std::sync::Arc;

use relevo_doctor::{Level, Patient, Report, examine, unreachable};

use crate::args::DoctorArgs;
use crate::failure::{Exit, Failure};
use crate::output::{Output, clean};
use crate::{control, embedded};

/// Connections that the questions take.
const CONNECTIONS: u32 = 4;

/// Runs it.
pub async fn doctor(config: Option<&Path>, args: DoctorArgs, out: Output) -> Result<(), Failure> {
    let mut settings = control::load(config)?.settings;
    let embedded = settings.database.url.is_none();
    let mut found_before = Vec::new();
    let advice = |failure: &Failure| {
        let advice =
            "see that the database runs and database.url leads to it, or start `relevo up`";
        unreachable(failure.line(), advice.to_owned())
    };
    let mut pool = None;
    match embedded::find_into(&mut settings).await {
        Err(failure) => found_before.push(advice(&failure)),
        Ok(()) => match control::connect(&settings, "relevo-doctor", CONNECTIONS).await {
            Ok(opened) => pool = Some(opened),
            Err(failure) => found_before.push(advice(&failure)),
        },
    }
    let patient = Patient { settings: Arc::new(settings), pool, embedded, found_before };
    let report = Box::pin(examine(patient)).await;
    out.document(&report, || text(&report, args.all))?;
    let bad = if args.strict { Level::Warning } else { Level::Problem };
    let found = report.findings.iter().filter(|finding| finding.level >= bad).count();
    if found == 0 {
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, format!("{found} finding(s) need attention")))
}

/// For people: what is not as it should be, or `all` of it.
pub fn text(report: &Report, all: bool) -> String {
    let mut out = String::new();
    for finding in &report.findings {
        if finding.level == Level::Ok && !all {
            continue;
        }
        let level = finding.level.as_str().to_uppercase();
        out.push_str(&format!("{level:8} {}: {}\n", finding.subject, clean(&finding.message)));
        if let Some(advice) = &finding.advice {
            out.push_str(&format!("{:8}   do: {}\n", "", clean(advice)));
        }
    }
    let good = report.findings.iter().filter(|finding| finding.level == Level::Ok).count();
    let rest = if all || good == 0 { "" } else { "; --all shows them" };
    out.push_str(&format!(
        "{good} of {} checks are as they should be{rest}\n",
        report.findings.len()
    ));
    out
}
