//! The kinds that there are: those of this build, and those that workers have published. Everybody
//! who takes a job by name (API, scheduler, command line) asks a [`KindBook`] for it.

mod store;
mod unserved;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use jsonschema::{PatternOptions, Validator};
use relevo_jobs::{JobKind, KindSpec, OwnKind, UniqueUntil, is_kind_name};
use relevo_queue::{NewJob, OnDead, QueueError, UniqueScope};
use serde_json::Value;
use serde_json::value::RawValue;
use sqlx::{PgConnection, PgPool};

use crate::typed::{PayloadError, UnknownKind, built_in_job};

pub use store::publish;
pub use unserved::{Unserved, unserved};

/// For so long a book is used without looking whether there is a newer one.
const FRESH: Duration = Duration::from_secs(2);
/// A name that the book lacks is looked for again, but not more often than this.
const LOOKED_AGAIN: Duration = Duration::from_millis(200);

/// A kind as some worker has published it.
#[derive(Debug, Clone)]
pub struct Published {
    /// What it is like.
    pub spec: KindSpec,
    /// When a worker last said so, to half a minute.
    pub seen_at: DateTime<Utc>,
    /// None where the schema cannot be used; then no payload fits.
    validator: Option<Arc<Validator>>,
}

/// The kinds there were at one moment.
#[derive(Debug, Clone, Default)]
pub struct KindBook {
    own: BTreeMap<String, Published>,
}

impl KindBook {
    /// Reads what is published.
    ///
    /// # Errors
    /// Database errors.
    pub async fn load(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        Self::after(connection, &Self::default()).await
    }

    /// A book to look `kind` up in; for a kind of this build the database is not asked.
    ///
    /// # Errors
    /// Database errors.
    pub async fn load_for(connection: &mut PgConnection, kind: &str) -> Result<Self, sqlx::Error> {
        if kind.parse::<JobKind>().is_ok() {
            return Ok(Self::default());
        }
        Self::load(connection).await
    }

    /// Reads what is published; what `before` has understood is not read anew.
    async fn after(connection: &mut PgConnection, before: &Self) -> Result<Self, sqlx::Error> {
        let rows = store::list(connection).await?;
        let own = rows.into_iter().map(|(spec, seen_at)| {
            let known = before.own.get(&spec.name);
            let validator = match known {
                Some(known) if known.spec.payload_schema == spec.payload_schema => {
                    known.validator.clone()
                }
                _ => validator(&spec.payload_schema).ok().map(Arc::new),
            };
            (spec.name.clone(), Published { spec, seen_at, validator })
        });
        // What this build has it knows better.
        let own = own.filter(|(name, _)| name.parse::<JobKind>().is_err()).collect();
        Ok(Self { own })
    }

    /// The published kinds that are not of this build, by name.
    pub fn own(&self) -> impl Iterator<Item = &Published> {
        self.own.values()
    }

    /// One of them.
    #[must_use]
    pub fn find(&self, kind: &str) -> Option<&Published> {
        self.own.get(kind)
    }

    /// The names of all kinds, those of this build first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        JobKind::ALL.iter().map(|kind| kind.as_str()).chain(self.own.keys().map(String::as_str))
    }

    /// A job from names and JSON given by somebody else (HTTP, command line, a schedule): the kind
    /// must be known, and the payload what its handler takes.
    ///
    /// # Errors
    /// [`PayloadError`] says what to write instead.
    pub fn job(&self, kind: &str, payload: &RawValue) -> Result<NewJob, PayloadError> {
        if let Ok(known) = kind.parse::<JobKind>() {
            return built_in_job(known, payload);
        }
        let published = self
            .own
            .get(kind)
            .ok_or_else(|| PayloadError::UnknownKind(UnknownKind::new(kind, self.names())))?;
        published.job(payload)
    }

    /// The same for what will be enqueued later, when its worker may have been started: a name that
    /// is nearly that of a kind of this build is taken for a slip, another one for a kind to come.
    ///
    /// # Errors
    /// As [`KindBook::job`].
    pub fn check_later(kind: &str, payload: &RawValue) -> Result<(), PayloadError> {
        let book = Self::default();
        match book.job(kind, payload) {
            Err(PayloadError::UnknownKind(unknown))
                if unknown.nearest.is_empty() && is_kind_name(kind) =>
            {
                object(kind, payload).map(drop)
            }
            outcome => outcome.map(drop),
        }
    }
}

impl Published {
    fn job(&self, payload: &RawValue) -> Result<NewJob, PayloadError> {
        let spec = &self.spec;
        let value = object(&spec.name, payload)?;
        let Some(validator) = &self.validator else {
            return Err(refused(&spec.name, "the schema that its worker published cannot be used"));
        };
        if let Err(error) = validator.validate(&value) {
            let place = error.instance_path().to_string();
            let place = if place.is_empty() { String::new() } else { format!(" at {place}") };
            // Of a long value its beginning tells enough.
            let text: String = error.to_string().chars().take(500).collect();
            return Err(refused(&spec.name, format!("{text}{place}")));
        }
        Ok(described_job(spec, payload.to_owned(), &value))
    }
}

/// A job of a kind of somebody's own by the kind's policy, in the trace of the work that makes it.
///
/// # Errors
/// A description that no kind can have, or a payload that cannot be written as JSON.
pub fn own_job<K: OwnKind>(payload: &K) -> Result<NewJob, QueueError> {
    let invalid = |error: &dyn fmt::Display| QueueError::InvalidJob(error.to_string());
    let spec = KindSpec::of::<K>().map_err(|error| invalid(&error))?;
    let value = serde_json::to_value(payload).map_err(|error| invalid(&error))?;
    let raw = serde_json::value::to_raw_value(&value).map_err(|error| invalid(&error))?;
    Ok(described_job(&spec, raw, &value))
}

fn described_job(spec: &KindSpec, payload: Box<RawValue>, value: &Value) -> NewJob {
    let mut job = NewJob::from_raw(&spec.name, payload)
        .payload_version(spec.payload_version)
        .queue(&spec.queue)
        .priority(spec.priority)
        .max_attempts(spec.max_attempts)
        .max_deaths(spec.max_deaths);
    if let Some((field, until)) = &spec.unique
        && let Some(value) = key_value(&value[field])
    {
        let scope = match until {
            UniqueUntil::Claimed => UniqueScope::Claimed,
            UniqueUntil::Finished => UniqueScope::Finished,
        };
        job = job.unique(format!("kind/{}/{value}", spec.name), scope);
    }
    if let Some((field, skips_dead)) = &spec.order
        && let Some(value) = key_value(&value[field])
    {
        let on_dead = if *skips_dead { OnDead::Skip } else { OnDead::Block };
        job = job.ordering_key(format!("kind/{}/{value}", spec.name), on_dead);
    }
    job.limit_key.clone_from(&spec.limit_key);
    job.traceparent = relevo_telemetry::trace::current_traceparent();
    job
}

/// Text or a whole number, as `payload ->> 'field'` has it.
fn key_value(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) if !number.is_f64() => Some(number.to_string()),
        _ => None,
    }
}

fn object(kind: &str, payload: &RawValue) -> Result<Value, PayloadError> {
    let value: Value = serde_json::from_str(payload.get()).map_err(|error| refused(kind, error))?;
    if value.is_object() { Ok(value) } else { Err(refused(kind, "a payload is a JSON object")) }
}

fn refused(kind: &str, what: impl fmt::Display) -> PayloadError {
    PayloadError::Invalid { kind: kind.to_owned(), what: what.to_string() }
}

/// What checks payloads by a schema. It fetches nothing from anywhere, and no pattern takes longer
/// than its text is long.
fn validator(schema: &str) -> Result<Validator, String> {
    let schema: Value = serde_json::from_str(schema).map_err(|error| error.to_string())?;
    jsonschema::options()
        .with_pattern_options(PatternOptions::regex())
        .build(&schema)
        .map_err(|error| error.to_string())
}

/// Whether a schema can be used to check payloads.
///
/// # Errors
/// Why not.
pub fn check_schema(schema: &str) -> Result<(), String> {
    validator(schema).map(drop)
}

/// A book, and when it was asked for.
type Looked = (Instant, Arc<KindBook>);

/// The kinds, for a process that is asked often: looks into the database every few seconds at most,
/// unless it is asked for a kind that it has not seen. Clones share what was found.
#[derive(Debug, Clone)]
pub struct Kinds {
    pool: PgPool,
    cached: Arc<Mutex<Option<Looked>>>,
}

impl Kinds {
    /// Of the control plane of `pool`.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self { pool, cached: Arc::default() }
    }

    /// The book of now, at most two seconds old.
    ///
    /// # Errors
    /// Database errors.
    pub async fn book(&self) -> Result<Arc<KindBook>, sqlx::Error> {
        self.book_within(FRESH).await
    }

    /// A book to look `kind` up in.
    ///
    /// # Errors
    /// Database errors; none for a kind of this build, which needs no look.
    pub async fn book_for(&self, kind: &str) -> Result<Arc<KindBook>, sqlx::Error> {
        if kind.parse::<JobKind>().is_ok() {
            return Ok(self.cached().map(|(_, book)| book).unwrap_or_default());
        }
        let book = self.book().await?;
        if book.find(kind).is_some() || !is_kind_name(kind) {
            return Ok(book);
        }
        // Its worker may have been started a moment ago.
        self.book_within(LOOKED_AGAIN).await
    }

    fn cached(&self) -> Option<Looked> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn book_within(&self, age_max: Duration) -> Result<Arc<KindBook>, sqlx::Error> {
        let before = self.cached();
        if let Some((at, book)) = &before
            && at.elapsed() < age_max
        {
            return Ok(Arc::clone(book));
        }
        let before = before.map(|(_, book)| book).unwrap_or_default();
        let mut connection = self.pool.acquire().await?;
        let asked = Instant::now();
        let book = Arc::new(KindBook::after(&mut connection, &before).await?);
        *self.cached.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((asked, Arc::clone(&book)));
        Ok(book)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn book() -> KindBook {
        let schema = r#"{"type": "object", "additionalProperties": false,
            "properties": {"sku": {"type": "string", "pattern": "^(a+)+$"}}}"#;
        let spec = KindSpec {
            name: "Reprice".to_owned(),
            payload_version: 3,
            payload_schema: schema.to_owned(),
            queue: "prices".to_owned(),
            unique: Some(("sku".to_owned(), UniqueUntil::Finished)),
            order: Some(("sku".to_owned(), true)),
            limit_key: Some("prices".to_owned()),
            ..KindSpec::of_built_in(JobKind::Noop)
        };
        let validator = validator(schema).ok().map(Arc::new);
        assert!(validator.is_some());
        let published = Published { spec, seen_at: DateTime::UNIX_EPOCH, validator };
        KindBook { own: BTreeMap::from([("Reprice".to_owned(), published)]) }
    }

    #[test]
    fn a_published_kind_makes_jobs_by_its_own_policy() {
        let job = book().job("Reprice", &raw(r#"{"sku": "aaa"}"#)).unwrap();
        assert_eq!((job.queue.as_str(), job.payload_version), ("prices", 3));
        assert_eq!(job.unique.unwrap().key, "kind/Reprice/aaa");
        let order = job.ordering.unwrap();
        assert_eq!((order.key.as_str(), order.on_dead), ("kind/Reprice/aaa", OnDead::Skip));
        assert_eq!(job.limit_key.as_deref(), Some("prices"));
        assert!(book().job("Reprice", &raw("{}")).unwrap().unique.is_none());
    }

    #[test]
    fn a_payload_beside_the_schema_is_refused_with_its_place() {
        let error = book().job("Reprice", &raw(r#"{"sku": 7}"#)).unwrap_err().to_string();
        assert!(error.contains("Reprice") && error.contains("/sku"), "{error}");
        let error = book().job("Reprice", &raw("[]")).unwrap_err().to_string();
        assert!(error.contains("object"), "{error}");
    }

    #[test]
    fn a_pattern_that_could_take_for_ever_does_not() {
        let sku = "a".repeat(50_000) + "b";
        let payload = raw(&serde_json::json!({ "sku": sku }).to_string());
        assert!(book().job("Reprice", &payload).is_err());
    }

    #[test]
    fn a_schema_that_leads_elsewhere_is_refused_and_fetched_from_nowhere() {
        for schema in [
            r#"{"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/x.json"}}}"#,
            r#"{"type": "object", "properties": {"a": {"$ref": "file:///etc/passwd"}}}"#,
            r#"{"type": "object", "properties": {"a": {"type": "nonsense"}}}"#,
        ] {
            assert!(check_schema(schema).is_err(), "{schema}");
        }
    }

    #[test]
    fn a_slip_is_told_from_a_kind_to_come() {
        KindBook::check_later("Reprice", &raw("{}")).unwrap();
        KindBook::check_later("Noop", &raw("{}")).unwrap();
        for (kind, payload) in
            [("Nop", "{}"), ("no kind", "{}"), ("Reprice", "[]"), ("Noop", r#"{"a": 1}"#)]
        {
            assert!(KindBook::check_later(kind, &raw(payload)).is_err(), "{kind} {payload}");
        }
    }

    #[test]
    fn an_unknown_kind_is_answered_with_published_names_too() {
        let error = book().job("repriced", &raw("{}")).unwrap_err().to_string();
        assert!(error.contains("did you mean Reprice"), "{error}");
    }
}
