//! The import's own part of the cutover: the ledger says that it is live, and how it came to be, in
//! the transaction that readers see.

use std::collections::BTreeMap;
use std::pin::Pin;

use chrono::{DateTime, Utc};
use relevo_pg::cutover::{Exchanged, Finale};
use sqlx::PgConnection;

use super::finish::{Finish, Loaded};
use crate::build::Counted;
use crate::certificate::{Certificate, TableCertificate};
use crate::error::ImportError;
use crate::guard::RowsBefore;
use crate::identity::previous_schema;
use crate::ledger;
use crate::progress::each_once;

/// Writes the certificate.
pub(super) struct GoLive<'a, 'f> {
    pub(super) finish: &'a Finish<'f>,
    pub(super) loaded: &'a BTreeMap<String, Loaded>,
    pub(super) counted: &'a Counted,
    pub(super) before: &'a RowsBefore,
}

impl Finale<ImportError> for GoLive<'_, '_> {
    fn run<'c>(
        &'c mut self,
        connection: &'c mut PgConnection,
        exchanged: &'c Exchanged,
    ) -> Pin<Box<dyn Future<Output = Result<(), ImportError>> + Send + 'c>> {
        let Self { finish, loaded, counted, before } = self;
        Box::pin(finish.go_live(connection, exchanged, loaded, counted, before))
    }
}

impl Finish<'_> {
    /// The last statement before the cutover's COMMIT: one row, or roll back.
    async fn go_live(
        &self,
        connection: &mut PgConnection,
        exchanged: &Exchanged,
        loaded: &BTreeMap<String, Loaded>,
        counted: &Counted,
        before: &RowsBefore,
    ) -> Result<(), ImportError> {
        let failed = |source| ImportError::database("recording the cutover", source);
        let (now, newer): (DateTime<Utc>, Option<String>) = sqlx::query_as(
            "-- find_newer_import
             SELECT clock_timestamp(),
                    (SELECT id FROM relevo_ledger.import
                     WHERE schema = $1 AND state = 'live' AND rollback IS NULL AND begun_at > $2
                     ORDER BY begun_at DESC LIMIT 1)",
        )
        .bind(&self.options.schema)
        .bind(self.begun_at)
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
        if let Some(newer) = newer {
            let schema = self.options.schema.clone();
            return Err(ImportError::Superseded { schema, newer });
        }
        let certificate = self.certificate(now, exchanged, loaded, counted, before);
        let follow_up: Vec<(&str, &str)> = exchanged
            .follow_up
            .iter()
            .map(|statement| (statement.label.as_str(), statement.sql.as_str()))
            .collect();
        let live = sqlx::query(
            "-- go_live
             UPDATE relevo_ledger.import
             SET state = 'live', ended_at = $5, certificate = $6, follow_up = $7
             WHERE id = $1 AND state = 'sealed'
               AND (fence_incarnation, fence_job_id, fence_epoch) = ($2, $3, $4)",
        )
        .bind(self.id.as_str())
        .bind(self.fence.incarnation)
        .bind(self.fence.job_id)
        .bind(self.fence.epoch)
        .bind(now)
        .bind(ledger::write(self.id, "certificate", &certificate)?)
        .bind(ledger::write(self.id, "follow-up", &follow_up)?)
        .execute(connection)
        .await
        .map_err(failed)?;
        match live.rows_affected() {
            1 => Ok(()),
            _ => Err(ledger::why_refused(self.pool, self.id).await),
        }
    }

    fn certificate(
        &self,
        finished_at: DateTime<Utc>,
        exchanged: &Exchanged,
        loaded: &BTreeMap<String, Loaded>,
        counted: &Counted,
        before: &RowsBefore,
    ) -> Certificate {
        let tables = self.manifest.tables.iter().map(|table| {
            let name = table.name();
            let (rows_target, checksum_target) = counted.get(&name).copied().unwrap_or_default();
            let stats = loaded.get(&name).map(|loaded| loaded.stats.clone()).unwrap_or_default();
            let quarantined = loaded.get(&name).map_or(0, |loaded| loaded.quarantined);
            TableCertificate {
                rows_quarantined: (quarantined > 0).then_some(quarantined),
                rows_dump: table.rows,
                rows_recounted: table.rows_recounted,
                rows_filtered: self.filtered.get(&name).copied(),
                rows_target,
                rows_before: before.get(&name).copied(),
                checksum_dump: stats.checksum,
                checksum_target,
                stats,
                changes: exchanged.changes.get(&name).copied(),
                table: name,
            }
        });
        let notices = self
            .notices
            .iter()
            .chain(&self.objects.notices)
            .chain(&exchanged.notices)
            .chain(self.manifest.warnings.iter().map(|warning| &warning.message));
        let notices = each_once(notices.cloned());
        Certificate {
            import: self.id.clone(),
            schema: self.options.schema.clone(),
            previous_schema: exchanged.kept_previous.then(|| previous_schema(&self.options.schema)),
            started_at: self.begun_at,
            finished_at,
            duration_ms: u64::try_from((finished_at - self.begun_at).num_milliseconds())
                .unwrap_or(0),
            phases: self.clock.so_far(),
            verify: self.options.verify,
            rows: self.manifest.rows(),
            tables: tables.collect(),
            dump: self.manifest.summary.clone(),
            views_new: self.objects.views_new.clone(),
            skipped: self.objects.left.clone(),
            notices,
        }
    }
}
