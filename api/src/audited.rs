//! Operator actions: each in one transaction with its line in the audit log.

use relevo_runs::audit::{self, Action, Actor};
use serde_json::Value;
use sqlx::{Postgres, Transaction};

use crate::app::App;
use crate::error::ApiError;

/// A transaction that ends with a line in the audit log, or changes nothing.
pub(crate) struct Audited {
    /// Where the action happens.
    pub(crate) tx: Transaction<'static, Postgres>,
    app: App,
    actor: Actor,
}

impl Audited {
    /// Begins an action of `actor`.
    pub(crate) async fn begin(app: &App, actor: Actor) -> Result<Self, ApiError> {
        Ok(Self { tx: app.pool.begin().await?, app: app.clone(), actor })
    }

    /// Notes what was done, `<resource>.<verb>`, and makes it durable.
    pub(crate) async fn commit(
        mut self,
        action: &'static str,
        object: &str,
        before: Option<Value>,
        after: Option<Value>,
    ) -> Result<(), ApiError> {
        let done = Action { action, object, before, after };
        audit::record_in(&mut self.tx, &self.actor, done).await?;
        self.tx.commit().await?;
        self.app.figures.forget().await;
        tracing::info!(action, object, by = self.actor.label(), "operator action over HTTP");
        Ok(())
    }
}
