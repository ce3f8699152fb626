//! The bridge between the kinds of this build and the queue, which knows none: what is enqueued by
//! Relevo itself passes here, so that every job carries its kind's policy.

use std::fmt;

use relevo_jobs::{JobKind, Payload, Policy};
use relevo_queue::NewJob;
use relevo_telemetry::trace;
use serde_json::value::RawValue;

/// A job of a kind of this build, with its policy applied, its run noted, and in the trace of the
/// work that makes it.
///
/// # Panics
/// When a payload cannot be written as JSON, which no payload of this build can bring about.
#[must_use]
pub fn typed_job<P: Payload>(payload: &P) -> NewJob {
    // Unwrap safety: payloads are plain structs of numbers, words and options with derived
    // `Serialize`; writing those into memory cannot fail, and the test below writes one of each.
    #[expect(clippy::unwrap_used, reason = "see above")]
    let job = NewJob::new(P::KIND.as_str(), payload).unwrap();
    let job = with_policy(job, P::KIND);
    match payload.run_id() {
        Some(run_id) => job.run_id(run_id),
        None => job,
    }
}

/// A job of a kind of this build from JSON given by somebody else: the payload must be what the
/// worker would decode.
pub(crate) fn built_in_job(kind: JobKind, payload: &RawValue) -> Result<NewJob, PayloadError> {
    relevo_jobs::validate(kind, payload.get()).map_err(|error| PayloadError::Invalid {
        kind: kind.as_str().to_owned(),
        what: error.to_string(),
    })?;
    let job = with_policy(NewJob::from_raw(kind.as_str(), payload.to_owned()), kind);
    Ok(match run_id_of(payload) {
        Some(run_id) => job.run_id(run_id),
        None => job,
    })
}

fn with_policy(job: NewJob, kind: JobKind) -> NewJob {
    let Policy { queue, max_attempts, max_deaths, priority, .. } = relevo_jobs::policy(kind);
    let mut job = job
        .payload_version(relevo_jobs::version(kind))
        .queue(queue)
        .max_attempts(max_attempts)
        .max_deaths(max_deaths)
        .priority(priority);
    job.traceparent = trace::current_traceparent();
    job
}

/// The run a validated payload names: every kind that has one calls it `run_id`.
fn run_id_of(payload: &RawValue) -> Option<i64> {
    #[derive(serde::Deserialize)]
    struct Named {
        run_id: Option<i64>,
    }
    serde_json::from_str::<Named>(payload.get()).ok()?.run_id
}

/// Why a job given as JSON is not taken.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// No kind has this name.
    #[error(transparent)]
    UnknownKind(UnknownKind),
    /// The payload is not one of this kind.
    #[error("the payload is not one of {kind}: {what}")]
    Invalid {
        /// The kind.
        kind: String,
        /// What is wrong, with its place.
        what: String,
    },
}

/// A name that no kind has, and the names that come closest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownKind {
    /// The name as given, cut to a length fit to be shown.
    pub kind: String,
    /// The nearest names, best first; empty when none comes close.
    pub nearest: Vec<String>,
    /// All names, to be shown where none comes close.
    all: Vec<String>,
}

impl UnknownKind {
    /// How alike two names must be to be offered, between 0 and 1.
    const LIKENESS_MIN: f64 = 0.7;
    /// The comparison takes time with the square of the length.
    const CHARS_MAX: usize = 100;

    pub(crate) fn new<'a>(kind: &str, known: impl Iterator<Item = &'a str>) -> Self {
        let kind: String = kind.chars().take(Self::CHARS_MAX).collect();
        let folded = kind.to_lowercase().replace(['_', '-', ' '], "");
        let all: Vec<String> = known.map(str::to_owned).collect();
        let mut nearest: Vec<(f64, &String)> = all
            .iter()
            .map(|known| (strsim::jaro_winkler(&folded, &known.to_lowercase()), known))
            .filter(|(likeness, _)| *likeness >= Self::LIKENESS_MIN)
            .collect();
        nearest.sort_by(|a, b| b.0.total_cmp(&a.0));
        nearest.truncate(3);
        let nearest = nearest.into_iter().map(|(_, name)| name.clone()).collect();
        Self { kind, nearest, all }
    }
}

impl fmt::Display for UnknownKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no job kind is called {:?}", self.kind)?;
        if self.nearest.is_empty() {
            write!(f, "; kinds are {}", self.all.join(", "))?;
            f.write_str("; one of your own is known from the start of a worker that runs it")
        } else {
            write!(f, "; did you mean {}?", self.nearest.join(" or "))
        }
    }
}

impl std::error::Error for UnknownKind {}

#[cfg(test)]
mod tests {
    use relevo_jobs::{DownloadDump, Noop};

    use super::*;
    use crate::kinds::KindBook;

    fn job(kind: &str, payload: &RawValue) -> Result<NewJob, PayloadError> {
        KindBook::default().job(kind, payload)
    }

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn both_ways_make_the_same_job() {
        let typed = typed_job(&DownloadDump { run_id: 4, request_id: 9 });
        let given = job("DownloadDump", &raw(r#"{"run_id": 4, "request_id": 9}"#)).unwrap();
        assert_eq!(typed.queue, "backup");
        assert_eq!(typed.run_id, Some(4));
        for (a, b) in [(&typed.kind, &given.kind), (&typed.queue, &given.queue)] {
            assert_eq!(a, b);
        }
        assert_eq!(typed.run_id, given.run_id);
        assert_eq!(typed.payload_version, given.payload_version);
        assert_eq!(typed.max_attempts, given.max_attempts);
        assert_eq!(typed_job(&Noop::default()).run_id, None);
    }

    #[test]
    fn an_unknown_kind_names_the_nearest() {
        let error = job("download_dmp", &raw("{}")).unwrap_err();
        assert!(error.to_string().contains("did you mean DownloadDump"), "{error}");
        let error = job("zzz", &raw("{}")).unwrap_err();
        assert!(error.to_string().contains("kinds are RequestBackup"), "{error}");
    }

    #[test]
    fn a_wrong_payload_says_what_is_wrong() {
        let error = job("Noop", &raw(r#"{"sleep": 1}"#)).unwrap_err();
        let PayloadError::Invalid { what, .. } = error else { panic!("{error}") };
        assert!(what.contains("sleep"), "{what}");
    }
}
