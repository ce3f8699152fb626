//! The closed set of Relevo's own job kinds: the payload, the queue, the retry policy and the
//! timeout of each. Nothing here runs; serde is the only dependency, so producers (api, scheduler,
//! cli) and the worker share one definition of what a job is.
//!
//! Adding a kind starts with one variant of [`JobKind`]; the exhaustive matches in this crate and
//! in the worker's registry lead to everything else. A kind of somebody's own needs no change here:
//! it is an [`OwnKind`], and its worker publishes its [`KindSpec`].

mod backup_deadline;
mod download_dump;
mod finish_import;
mod kind;
mod noop;
mod notify;
mod policy;
mod request_backup;
mod spec;
mod translate_chunk;

use serde::{Serialize, de::DeserializeOwned};

pub use backup_deadline::BackupDeadline;
pub use download_dump::DownloadDump;
pub use finish_import::FinishImport;
pub use kind::{JobKind, UnknownKind};
pub use noop::{Noop, NoopFailure};
pub use notify::Notify;
pub use policy::{Policy, policy};
pub use request_backup::{RequestBackup, RequestMode, UnknownRequestMode};
pub use spec::{BadKind, KindSpec, OrderBy, OwnKind, UniqueBy, UniqueUntil, is_kind_name};
pub use translate_chunk::TranslateChunk;

/// The arguments of one kind of job. A payload carries ids and small switches, never a secret and
/// never bulk data: it is kept in the control plane's tables and shown to people.
pub trait Payload: Serialize + DeserializeOwned + Send + 'static {
    /// The kind whose arguments these are.
    const KIND: JobKind;
    /// Version of the payload's shape, raised when an older build could not read it. A worker
    /// claims only versions up to the one it was built with.
    const VERSION: i16;
    /// The payload as a JSON Schema (2020-12), for people and for generated clients. `format`
    /// bounds the integers. It says what [`validate`] takes; a test holds the two together.
    const SCHEMA: &'static str;

    /// The run this job works for, written to the job's correlation column so that a run's jobs
    /// can be listed. `None` for kinds that stand alone.
    fn run_id(&self) -> Option<i64>;
}

/// Checks that `payload` is a well-formed payload of `kind`, as the worker would decode it.
///
/// # Errors
/// The decoding error with its place in the text: malformed JSON, a missing or unknown field, a
/// value of the wrong type or out of range.
pub fn validate(kind: JobKind, payload: &str) -> Result<(), serde_json::Error> {
    fn decode<P: Payload>(payload: &str) -> Result<(), serde_json::Error> {
        // A derived struct would also take its fields as an array, by position: that form would
        // change its meaning silently with the order of the fields.
        if !payload.trim_start().starts_with('{') {
            return Err(serde::de::Error::custom("a payload is a JSON object"));
        }
        serde_json::from_str::<P>(payload).map(drop)
    }
    match kind {
        JobKind::RequestBackup => decode::<RequestBackup>(payload),
        JobKind::DownloadDump => decode::<DownloadDump>(payload),
        JobKind::TranslateChunk => decode::<TranslateChunk>(payload),
        JobKind::FinishImport => decode::<FinishImport>(payload),
        JobKind::BackupDeadline => decode::<BackupDeadline>(payload),
        JobKind::Notify => decode::<Notify>(payload),
        JobKind::Noop => decode::<Noop>(payload),
    }
}

/// The newest payload version of `kind` that this build reads.
#[must_use]
pub fn version(kind: JobKind) -> i16 {
    match kind {
        JobKind::RequestBackup => RequestBackup::VERSION,
        JobKind::DownloadDump => DownloadDump::VERSION,
        JobKind::TranslateChunk => TranslateChunk::VERSION,
        JobKind::FinishImport => FinishImport::VERSION,
        JobKind::BackupDeadline => BackupDeadline::VERSION,
        JobKind::Notify => Notify::VERSION,
        JobKind::Noop => Noop::VERSION,
    }
}

/// The JSON Schema of the newest payload of `kind`, as JSON text.
#[must_use]
pub const fn schema(kind: JobKind) -> &'static str {
    match kind {
        JobKind::RequestBackup => RequestBackup::SCHEMA,
        JobKind::DownloadDump => DownloadDump::SCHEMA,
        JobKind::TranslateChunk => TranslateChunk::SCHEMA,
        JobKind::FinishImport => FinishImport::SCHEMA,
        JobKind::BackupDeadline => BackupDeadline::SCHEMA,
        JobKind::Notify => Notify::SCHEMA,
        JobKind::Noop => Noop::SCHEMA,
    }
}

/// What one job of `kind` does, in a sentence.
#[must_use]
pub const fn summary(kind: JobKind) -> &'static str {
    match kind {
        JobKind::RequestBackup => "Asks the gateway for a full backup.",
        JobKind::DownloadDump => {
            "Fetches the finished dump, cuts it into chunks and prepares the staging schema."
        }
        JobKind::TranslateChunk => "Loads one chunk of the dump into the staging schema.",
        JobKind::FinishImport => {
            "Completes the import: indexes, keys, verification, cutover, certificate."
        }
        JobKind::BackupDeadline => "Looks after a request whose webhook did not come.",
        JobKind::Notify => "Tells people how a run ended, or of a state they should look at.",
        JobKind::Noop => {
            "Does nothing, on request slowly or with a failure: for tests and benchmarks."
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples() -> Vec<(JobKind, String)> {
        fn example<P: Payload>(payload: &P) -> (JobKind, String) {
            (P::KIND, serde_json::to_string(payload).expect("payloads serialise"))
        }
        vec![
            example(&RequestBackup { run_id: 7, mode: RequestMode::Auto, round: 1 }),
            example(&DownloadDump { run_id: 7, request_id: 3 }),
            example(&TranslateChunk { run_id: 7, request_id: 3, ordinal: 12 }),
            example(&FinishImport { run_id: 7, request_id: 3, round: 1 }),
            example(&BackupDeadline { run_id: 7, request_id: 3 }),
            example(&Notify::of_run(7)),
            example(&Noop::default()),
        ]
    }

    #[test]
    fn every_kind_validates_its_own_example_and_nothing_else() {
        let examples = examples();
        assert_eq!(
            examples.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(),
            JobKind::ALL,
            "one example per kind, in order"
        );
        for (kind, payload) in &examples {
            validate(*kind, payload).unwrap_or_else(|error| panic!("{kind}: {error}"));
            assert!(version(*kind) >= 1);
            assert!(validate(*kind, "[]").is_err());
            assert!(validate(*kind, "[7, 3]").is_err());
            assert!(validate(*kind, "not json").is_err());
            let mut with_stranger: serde_json::Value =
                serde_json::from_str(payload).expect("is JSON");
            with_stranger["stranger"] = 1.into();
            let error = validate(*kind, &with_stranger.to_string())
                .expect_err("unknown fields are refused");
            assert!(error.to_string().contains("stranger"), "{kind}: {error}");
        }
    }

    #[test]
    fn what_can_be_left_out_has_its_default() {
        let request: RequestBackup = serde_json::from_str(r#"{"run_id": 5}"#).expect("decodes");
        assert_eq!((request.mode, request.round), (RequestMode::Auto, 1));
        let finish: FinishImport =
            serde_json::from_str(r#"{"run_id": 5, "request_id": 1}"#).expect("decodes");
        assert_eq!(finish.round, 1);
        let noop: Noop = serde_json::from_str("{}").expect("decodes");
        assert_eq!(noop, Noop::default());
    }

    #[test]
    fn a_notify_that_reports_nothing_is_none() {
        for payload in ["{}", r#"{"channel": "ops"}"#, r#"{"run_id": null, "alert_id": null}"#] {
            let error = validate(JobKind::Notify, payload).expect_err("is refused");
            assert!(error.to_string().contains("run_id"), "{payload}: {error}");
        }
        for payload in [r#"{"run_id": 1}"#, r#"{"alert_id": 1, "resolved": true}"#] {
            validate(JobKind::Notify, payload).expect("is a Notify");
        }
    }

    #[test]
    fn modes_read_back_and_agree_with_serde() {
        for mode in [RequestMode::Auto, RequestMode::Webhook, RequestMode::Sync] {
            assert_eq!(mode.as_str().parse(), Ok(mode));
            assert_eq!(serde_json::to_value(mode).expect("serialises"), mode.as_str());
        }
        assert!("Sync".parse::<RequestMode>().is_err());
    }

    #[test]
    fn the_run_is_named_where_there_is_one() {
        assert_eq!(DownloadDump { run_id: 9, request_id: 1 }.run_id(), Some(9));
        assert_eq!(Noop::default().run_id(), None);
    }
}
