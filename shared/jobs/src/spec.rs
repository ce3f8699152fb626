//! What others must know of a kind to enqueue, schedule and show jobs of it: for kinds of this
//! build, and for kinds that somebody's own worker brings along.

use std::time::Duration;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{JobKind, Policy};

/// The most characters of a kind's or a queue's name.
const NAME_LENGTH_MAX: usize = 100;
/// The most characters of a summary.
const SUMMARY_LENGTH_MAX: usize = 500;
/// What a claim looks for one by one.
const PAYLOAD_VERSION_MAX: i16 = 100;
/// The most bytes of a schema.
const SCHEMA_SIZE_BYTES_MAX: usize = 64 * 1024;
/// The longest timeout or backoff.
const DURATION_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);

/// A kind of somebody's own: the arguments of its jobs, and how they are treated. The worker that
/// runs it publishes all this, so that API, scheduler and console need not be built with it.
pub trait OwnKind: Serialize + DeserializeOwned + Send + 'static {
    /// Its name: a letter, then letters, digits, `_`, `-` and `.`, at most 100 in all. No name of
    /// a [`JobKind`].
    const KIND: &'static str;
    /// What one job does, in a sentence.
    const SUMMARY: &'static str;
    /// Version of the payload's shape, raised when an older build could not read it. Payloads of
    /// older versions pass [`OwnKind::upcast`] before the handler gets them.
    const VERSION: i16 = 1;
    /// The payload as a JSON Schema (2020-12), an object at the top: what the API takes.
    const SCHEMA: &'static str = r#"{"type": "object"}"#;
    /// How its jobs are queued, retried and bounded.
    const POLICY: Policy = Policy::OF_OWN_KINDS;
    /// Which jobs are the same one.
    const UNIQUE: Option<UniqueBy> = None;
    /// Which jobs run one at a time, in the order in which they were enqueued.
    const ORDER: Option<OrderBy> = None;
    /// The limit that its jobs are under, 1 to 100 characters.
    const LIMIT: Option<&'static str> = None;

    /// Brings a payload of the version `from` into the shape of the next one. A worker calls it once
    /// for every version between that of a job and its own, so each step is written once and stays.
    ///
    /// # Errors
    /// Why that cannot be: the job becomes a dead letter.
    fn upcast(from: i16, payload: serde_json::Value) -> Result<serde_json::Value, String> {
        let _ = from;
        Ok(payload)
    }
}

/// Jobs of a kind with the same value in one field of their payload run one at a time, in the order
/// in which they were enqueued.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OrderBy {
    /// The field: text or a whole number. A payload without it stands in no line.
    pub field: &'static str,
    /// Whether those behind a dead letter go on, in place of waiting until somebody retries or
    /// discards it.
    pub skips_dead: bool,
}

/// Jobs of a kind with the same value in one field of their payload are the same job: while one
/// holds the value no second is enqueued.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UniqueBy {
    /// The field: text or a whole number. A payload without it is never a duplicate.
    pub field: &'static str,
    /// How long the value is held.
    pub until: UniqueUntil,
}

/// How long a job holds what makes it unique.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UniqueUntil {
    /// Until a worker takes it.
    Claimed,
    /// Until it ends.
    Finished,
}

impl UniqueUntil {
    /// As stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::Finished => "finished",
        }
    }
}

/// A kind as its worker describes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KindSpec {
    /// Its name.
    pub name: String,
    /// What one job does, in a sentence.
    pub summary: String,
    /// The newest payload version.
    pub payload_version: i16,
    /// The payload's JSON Schema, as JSON text.
    pub payload_schema: String,
    /// Where it waits unless its producer says otherwise.
    pub queue: String,
    /// Higher goes first within a queue.
    pub priority: i16,
    /// Runs allowed before the job becomes a dead letter.
    pub max_attempts: i32,
    /// Worker deaths under the job before it is taken for poison.
    pub max_deaths: i16,
    /// Upper bound of the delay before the second run.
    pub backoff_base: Duration,
    /// The bound never grows past this.
    pub backoff_cap: Duration,
    /// The longest one run may take.
    pub timeout: Duration,
    /// The longest a run may go without movement.
    pub progress_deadline: Option<Duration>,
    /// The field that makes jobs the same one, and for how long.
    pub unique: Option<(String, UniqueUntil)>,
    /// The field that makes jobs stand in one line, and whether the line passes its dead.
    pub order: Option<(String, bool)>,
    /// The limit that its jobs are under.
    pub limit_key: Option<String>,
    /// A step of Relevo's own: enqueueing one by hand steers a run.
    pub internal: bool,
}

impl KindSpec {
    /// That of a kind of somebody's own.
    ///
    /// # Errors
    /// What of it cannot be.
    pub fn of<K: OwnKind>() -> Result<Self, BadKind> {
        let spec = Self {
            unique: K::UNIQUE.map(|unique| (unique.field.to_owned(), unique.until)),
            order: K::ORDER.map(|order| (order.field.to_owned(), order.skips_dead)),
            limit_key: K::LIMIT.map(str::to_owned),
            ..Self::new(K::KIND, K::SUMMARY, K::VERSION, K::SCHEMA, K::POLICY)
        };
        spec.check()?;
        Ok(spec)
    }

    /// That of a kind of this build.
    #[must_use]
    pub fn of_built_in(kind: JobKind) -> Self {
        let (summary, schema) = (crate::summary(kind), crate::schema(kind));
        let policy = crate::policy(kind);
        Self {
            internal: kind.is_internal(),
            ..Self::new(kind.as_str(), summary, crate::version(kind), schema, policy)
        }
    }

    fn new(name: &str, summary: &str, version: i16, schema: &str, policy: Policy) -> Self {
        Self {
            name: name.to_owned(),
            summary: summary.to_owned(),
            payload_version: version,
            payload_schema: schema.to_owned(),
            queue: policy.queue.to_owned(),
            priority: policy.priority,
            max_attempts: policy.max_attempts,
            max_deaths: policy.max_deaths,
            backoff_base: policy.backoff_base,
            backoff_cap: policy.backoff_cap,
            timeout: policy.timeout,
            progress_deadline: policy.progress_deadline,
            unique: None,
            order: None,
            limit_key: None,
            internal: false,
        }
    }

    /// Whether a kind of somebody's own can be like this; its schema is looked at as JSON only.
    ///
    /// # Errors
    /// What of it cannot be.
    pub fn check(&self) -> Result<(), BadKind> {
        let refuse = |what: String| Err(BadKind { kind: self.name.clone(), what });
        if !is_kind_name(&self.name) {
            return refuse(format!(
                "its name is a letter, then letters, digits, `_`, `-` and `.`, at most \
                 {NAME_LENGTH_MAX}"
            ));
        }
        if self.name.parse::<JobKind>().is_ok() {
            return refuse("the name is that of a kind of Relevo's own".to_owned());
        }
        if !(1..=SUMMARY_LENGTH_MAX).contains(&self.summary.chars().count()) {
            return refuse(format!("its summary has 1 to {SUMMARY_LENGTH_MAX} characters"));
        }
        if !(1..=NAME_LENGTH_MAX).contains(&self.queue.chars().count()) {
            return refuse(format!("its queue's name has 1 to {NAME_LENGTH_MAX} characters"));
        }
        let limit_length = self.limit_key.as_ref().map(|limit| limit.chars().count());
        if limit_length.is_some_and(|length| !(1..=NAME_LENGTH_MAX).contains(&length)) {
            return refuse(format!("its limit's name has 1 to {NAME_LENGTH_MAX} characters"));
        }
        if !(1..=PAYLOAD_VERSION_MAX).contains(&self.payload_version) {
            return refuse(format!("its version is from 1 to {PAYLOAD_VERSION_MAX}"));
        }
        if self.max_attempts < 1 || self.max_deaths < 1 {
            return refuse("its attempts and deaths start at 1".to_owned());
        }
        let times = [self.backoff_base, self.backoff_cap, self.timeout];
        if times
            .iter()
            .chain(&self.progress_deadline)
            .any(|time| time.is_zero() || *time > DURATION_MAX)
        {
            return refuse("its times are more than nothing and at most 30 days".to_owned());
        }
        if self.payload_schema.len() > SCHEMA_SIZE_BYTES_MAX {
            return refuse(format!("its schema has more than {SCHEMA_SIZE_BYTES_MAX} bytes"));
        }
        let schema: serde_json::Value = match serde_json::from_str(&self.payload_schema) {
            Ok(schema) => schema,
            Err(error) => return refuse(format!("its schema is no JSON: {error}")),
        };
        if schema["type"] != "object" {
            return refuse("its schema is of an object: \"type\": \"object\"".to_owned());
        }
        Ok(())
    }
}

/// Whether a kind can have this name.
#[must_use]
pub fn is_kind_name(name: &str) -> bool {
    name.len() <= NAME_LENGTH_MAX
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.chars().all(|each| each.is_ascii_alphanumeric() || "_-.".contains(each))
}

/// A description that no kind can have.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BadKind {
    /// The kind.
    pub kind: String,
    /// What is wrong.
    pub what: String,
}

impl std::fmt::Display for BadKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the kind {:?} cannot be: {}", self.kind, self.what)
    }
}

impl std::error::Error for BadKind {}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize, Serialize)]
    struct Good {}
    impl OwnKind for Good {
        const KIND: &'static str = "shop.Reprice";
        const SUMMARY: &'static str = "Reprices.";
    }

    #[derive(Deserialize, Serialize)]
    struct Taken {}
    impl OwnKind for Taken {
        const KIND: &'static str = "Noop";
        const SUMMARY: &'static str = "Does nothing.";
    }

    #[test]
    fn a_kind_of_its_own_has_sensible_defaults() {
        let spec = KindSpec::of::<Good>().unwrap();
        assert_eq!((spec.queue.as_str(), spec.payload_version), ("default", 1));
        assert!(!spec.internal && spec.unique.is_none());
    }

    #[test]
    fn what_no_kind_can_be_is_refused_with_the_reason() {
        assert!(KindSpec::of::<Taken>().unwrap_err().to_string().contains("Relevo's own"));
        let good = KindSpec::of::<Good>().unwrap();
        let cases: [(KindSpec, &str); 8] = [
            (KindSpec { name: "1st".to_owned(), ..good.clone() }, "a letter"),
            (KindSpec { payload_schema: "{".to_owned(), ..good.clone() }, "no JSON"),
            (KindSpec { payload_schema: "{}".to_owned(), ..good.clone() }, "object"),
            (KindSpec { payload_version: 0, ..good.clone() }, "from 1 to 100"),
            (KindSpec { payload_version: 101, ..good.clone() }, "from 1 to 100"),
            (KindSpec { timeout: Duration::ZERO, ..good.clone() }, "nothing"),
            (KindSpec { limit_key: Some(String::new()), ..good.clone() }, "limit"),
            (KindSpec { queue: String::new(), ..good }, "queue"),
        ];
        for (spec, part) in cases {
            let error = spec.check().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn the_kinds_of_this_build_are_described_too() {
        for kind in JobKind::ALL {
            let spec = KindSpec::of_built_in(kind);
            assert_eq!(spec.name, kind.as_str());
            assert!(is_kind_name(&spec.name));
        }
    }
}
