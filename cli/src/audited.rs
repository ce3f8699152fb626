//! What a command changes by hand, in one transaction with its line in the audit log.

use anyhow::Context as _;
use relevo_runs::audit::{self, Action, Actor};
use serde_json::Value;
use sqlx::{Postgres, Transaction};

use crate::control::ControlPlane;
use crate::failure::Failure;

/// A transaction that ends with a line in the audit log, or changes nothing.
pub struct Audited {
    /// Where the change happens.
    pub tx: Transaction<'static, Postgres>,
}

impl Audited {
    /// Begins a change.
    pub async fn begin(control: &ControlPlane) -> Result<Self, Failure> {
        let tx = control.pool.begin().await.context("the control plane can't be changed")?;
        Ok(Self { tx })
    }

    /// Notes what was done, `<resource>.<verb>` as over the API, and makes it durable.
    pub async fn commit(
        mut self,
        action: &'static str,
        object: &str,
        before: Option<Value>,
        after: Option<Value>,
    ) -> Result<(), Failure> {
        let done = Action { action, object, before, after };
        audit::record_in(&mut self.tx, &actor(), done)
            .await
            .context("the audit log can't be written; nothing was changed")?;
        self.tx.commit().await.context("the change can't be made durable")?;
        Ok(())
    }
}

/// Whoever runs this command, by the name the system knows.
pub fn actor() -> Actor {
    let uid = rustix::process::getuid().as_raw();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let user = name_of(uid, &users).unwrap_or_else(|| format!("uid {uid}"));
    Actor::Cli { user }
}

fn name_of(uid: u32, users: &str) -> Option<String> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid) && !name.is_empty()).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_their_number() {
        let users = "root:x:0:0:root:/root:/bin/sh\nbad\nshop:x:1000:1000::/home/shop:/bin/sh\n";
        assert_eq!(name_of(1000, users).as_deref(), Some("shop"));
        assert_eq!(name_of(0, users).as_deref(), Some("root"));
        assert_eq!(name_of(7, users), None);
    }
}
