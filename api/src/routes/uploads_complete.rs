//! The last byte of an upload: what arrived is checked and noted, and its run started.
//!
//! A large dump takes longer to read than a request may last, so this goes on beside the request
//! that brought the last byte, and whether or not its sender is still there. One who asks meanwhile
//! is told to ask again.
//!
//! Killed here, then what? Nothing is noted: the sender's next piece, an empty one, begins anew.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use relevo_jobs::JobKind;
use relevo_runs::RunError;
use relevo_runs::audit::Actor;
use relevo_runs::backup::{self, StartOptions};
use relevo_runs::uploads::{self, Store, Upload};
use relevo_telemetry::trace;
use serde_json::json;

use super::uploads::{blocking, found};
use crate::app::App;
use crate::audited::Audited;
use crate::error::ApiError;

/// How long a request waits for it; requests last no longer than 30 s.
const PATIENCE: Duration = Duration::from_secs(20);
/// How soon to ask again.
const RETRY_AFTER_SECONDS: u64 = 10;

/// The uploads that are being completed in this process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Completing(Arc<Mutex<HashSet<i64>>>);

impl Completing {
    /// Takes an upload in hand, unless it is in hand already.
    fn begin(&self, id: i64) -> Option<InHand> {
        let is_new = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        is_new.then(|| InHand { completing: self.clone(), id })
    }
}

/// An upload that is being completed.
struct InHand {
    completing: Completing,
    id: i64,
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.completing.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

/// All of it is there: checked, noted, and its run started. Why no run was started, when that is
/// what its sender has to see to.
pub(super) async fn complete(
    app: &App,
    actor: Actor,
    upload: Upload,
    store: Store,
) -> Result<(Upload, Option<String>), ApiError> {
    let busy = || {
        let words = "all of it is there and is being checked; ask again with an empty piece";
        ApiError::conflict("upload_busy", words).retry_after(RETRY_AFTER_SECONDS)
    };
    let in_hand = app.completing.begin(upload.id).ok_or_else(busy)?;
    let app = app.clone();
    let traceparent = trace::current_traceparent();
    let work = async move {
        let id = upload.id;
        let outcome = check_and_start(&app, actor, upload, store).await;
        drop(in_hand);
        if let Err(error) = &outcome {
            tracing::warn!(upload = id, code = error.code(), "an upload could not be completed");
        }
        outcome
    };
    let work = tokio::spawn(trace::within(traceparent.as_deref(), work));
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(ended) => ended.map_err(ApiError::internal)?,
        Err(_) => Err(busy()),
    }
}

async fn check_and_start(
    app: &App,
    actor: Actor,
    upload: Upload,
    store: Store,
) -> Result<(Upload, Option<String>), ApiError> {
    if let Some(expected) = upload.sha256.clone() {
        let id = upload.id;
        let (path, removing) = (store.path(id), store);
        let right = blocking(move || {
            let right = uploads::sha256_of(&path)?.as_slice() == expected;
            if !right {
                removing.remove(id)?;
            }
            std::io::Result::Ok(right)
        });
        if !right.await?.map_err(ApiError::internal)? {
            return Err(ApiError::unprocessable(
                "checksum_mismatch",
                "what arrived is not what was announced; it was thrown away, send it again from \
                 offset 0",
            ));
        }
    }
    let by = actor.label();
    let mut audited = Audited::begin(app, actor).await?;
    uploads::complete_in(&mut audited.tx, upload.id).await?;
    let mut message = None;
    let mut run = None;
    if let Ok(mut options) = serde_json::from_value::<StartOptions>(upload.options.clone())
        && upload.options != json!({})
    {
        options.upload = Some(upload.id);
        let tx = &mut audited.tx;
        match backup::start_in(tx, &app.queue, &upload.source, &options, &by).await {
            Ok(id) => run = Some(id),
            Err(error @ RunError::AlreadyActive { .. }) => {
                let start = format!("POST /api/v1/backups/{}", upload.source);
                message = Some(format!(
                    "{error}; then start its run: {start} {{\"upload\": {}}}",
                    upload.id
                ));
            }
            // Another process has completed it at the same time, or it was given up.
            Err(RunError::UploadUnusable { .. }) => {
                drop(audited);
                return Ok((found(app, upload.id).await?, None));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let after = json!({"run_id": run});
    audited.commit("upload.complete", &upload.id.to_string(), None, Some(after)).await?;
    if run.is_some() {
        let kind = JobKind::RequestBackup;
        app.count_built_in(kind);
    }
    Ok((found(app, upload.id).await?, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_is_in_one_hand_at_a_time() {
        let completing = Completing::default();
        let first = completing.begin(1).expect("nobody has it");
        assert!(completing.begin(1).is_none());
        assert!(completing.begin(2).is_some(), "another one");
        drop(first);
        assert!(completing.begin(1).is_some());
    }
}
