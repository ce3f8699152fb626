//! The bridge between the closed set of kinds and the queue, which knows none: what is enqueued by
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

/// A job from names and JSON given by somebody else (HTTP, command line): the kind must be known and
/// the payload must be what the worker would decode.
///
/// # Errors
/// [`PayloadError`] says what to write instead.
pub fn job_from_json(kind: &str, payload: &RawValue) -> Result<NewJob, PayloadError> {
    let known: JobKind =
        kind.parse().map_err(|_| PayloadError::UnknownKind(UnknownKind::new(kind)))?;
    relevo_jobs::validate(known, payload.get())
        .map_err(|source| PayloadError::Invalid { kind: known, source })?;
    let job = with_policy(NewJob::from_raw(known.as_str(), payload.to_owned()), known);
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
    #[error("the payload is not one of {kind}")]
    Invalid {
        /// The kind.
        kind: JobKind,
        /// What is wrong, with its place.
        #[source]
        source: serde_json::Error,
    },
}

/// A name that no kind has, and the names that come closest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownKind {
    /// The name as given, cut to a length fit to be shown.
    pub kind: String,
    /// The nearest names, best first; empty when none comes close.
    pub nearest: Vec<&'static str>,
}

impl UnknownKind {
    /// How alike two names must be to be offered, between 0 and 1.
    const LIKENESS_MIN: f64 = 0.7;
    /// The comparison takes time with the square of the length.
    const CHARS_MAX: usize = 100;

    fn new(kind: &str) -> Self {
        let kind: String = kind.chars().take(Self::CHARS_MAX).collect();
        let folded = kind.to_lowercase().replace(['_', '-', ' '], "");
        let mut nearest: Vec<(f64, &'static str)> = JobKind::ALL
            .iter()
            .map(|known| {
                (strsim::jaro_winkler(&folded, &known.as_str().to_lowercase()), known.as_str())
            })
            .filter(|(likeness, _)| *likeness >= Self::LIKENESS_MIN)
            .collect();
        nearest.sort_by(|a, b| b.0.total_cmp(&a.0));
        nearest.truncate(3);
        Self { kind, nearest: nearest.into_iter().map(|(_, name)| name).collect() }
    }
}

impl fmt::Display for UnknownKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no job kind is called {:?}", self.kind)?;
        if self.nearest.is_empty() {
            let all: Vec<_> = JobKind::ALL.iter().map(|kind| kind.as_str()).collect();
            write!(f, "; kinds are {}", all.join(", "))
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

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn both_ways_make_the_same_job() {
        let typed = typed_job(&DownloadDump { run_id: 4, request_id: 9 });
        let given =
            job_from_json("DownloadDump", &raw(r#"{"run_id": 4, "request_id": 9}"#)).unwrap();
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
        let error = job_from_json("download_dmp", &raw("{}")).unwrap_err();
        assert!(error.to_string().contains("did you mean DownloadDump"), "{error}");
        let error = job_from_json("zzz", &raw("{}")).unwrap_err();
        assert!(error.to_string().contains("kinds are RequestBackup"), "{error}");
    }

    #[test]
    fn a_wrong_payload_says_what_is_wrong() {
        let error = job_from_json("Noop", &raw(r#"{"sleep": 1}"#)).unwrap_err();
        let PayloadError::Invalid { source, .. } = error else { panic!("{error}") };
        assert!(source.to_string().contains("sleep"), "{source}");
    }
}
