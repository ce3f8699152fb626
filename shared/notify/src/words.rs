//! The sentences: what there is to say, and in which language.

mod english;
mod spanish;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use relevo_runs::{Run, RunState};
use relevo_settings::Language;
use serde_json::Value;

use crate::alerts::Alert;

/// The head line and the sentence of a message.
pub(crate) struct Words {
    pub(crate) subject: String,
    pub(crate) text: String,
}

/// What each language says.
trait Tongue {
    /// The end of a run.
    fn run(&self, ended: &EndedRun<'_>) -> Words;
    /// What goes on, as a title and as a sentence.
    fn alert(&self, seen: &Seen<'_>) -> (String, String);
    /// An alert that has begun or lasts.
    fn open(&self, title: &str, sentence: &str, since: &str) -> Words;
    /// One that is over.
    fn resolved(&self, title: &str, since: &str, until: &str) -> Words;
    /// A message that somebody asked for.
    fn test(&self, channel: &str) -> Words;
}

fn tongue(language: Language) -> &'static dyn Tongue {
    match language {
        Language::En => &english::English,
        Language::Es => &spanish::Spanish,
    }
}

/// What there is to say of a run.
struct EndedRun<'a> {
    run: &'a Run,
    /// How long it took.
    seconds: Option<i64>,
    rows: u64,
    tables: u64,
    /// The state of failing that it goes on with or ends: since when, and how often in a row.
    failing: Option<(String, i64)>,
}

/// What there is to say of an alert.
struct Seen<'a> {
    alert: &'a Alert,
    /// When what is overdue last succeeded.
    last_success: Option<String>,
}

impl Seen<'_> {
    /// A figure of the alert, as text.
    fn detail(&self, name: &str) -> String {
        match self.alert.details.get(name) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Null) | None => String::new(),
            Some(other) => other.to_string(),
        }
    }
}

/// A moment as people read it, in the zone of the shop where it is known.
pub(crate) fn moment(at: DateTime<Utc>, zone: Option<Tz>) -> String {
    match zone {
        Some(zone) => at.with_timezone(&zone).format("%Y-%m-%d %H:%M %Z").to_string(),
        None => at.format("%Y-%m-%d %H:%M UTC").to_string(),
    }
}

/// The end of a run. `failing` is the state of failing that it goes on with or ends.
pub(crate) fn run(
    run: &Run,
    failing: Option<&Alert>,
    language: Language,
    zone: Option<Tz>,
) -> Words {
    let seconds = run
        .finished_at
        .map(|end| (end - run.started_at.unwrap_or(run.created_at)).num_seconds().max(0));
    let number = |name: &str| run.stats.get(name).and_then(Value::as_u64).unwrap_or(0);
    let failing = failing.map(|alert| (moment(alert.opened_at, zone), alert.occurrences));
    let (rows, tables) = (number("rows"), number("tables"));
    tongue(language).run(&EndedRun { run, seconds, rows, tables, failing })
}

/// An alert that has begun, lasts, or is over.
pub(crate) fn alert(alert: &Alert, resolved: bool, language: Language, zone: Option<Tz>) -> Words {
    let last_success = alert.details.get("last_success_at").and_then(Value::as_str);
    let last_success = last_success
        .and_then(|at| DateTime::parse_from_rfc3339(at).ok())
        .map(|at| moment(at.with_timezone(&Utc), zone));
    let tongue = tongue(language);
    let (title, sentence) = tongue.alert(&Seen { alert, last_success });
    let since = moment(alert.opened_at, zone);
    if resolved {
        let until = moment(alert.resolved_at.unwrap_or(alert.last_seen_at), zone);
        return tongue.resolved(&title, &since, &until);
    }
    tongue.open(&title, &sentence, &since)
}

/// A message that somebody asked for, to see whether it arrives.
pub(crate) fn test(channel: &str, language: Language) -> Words {
    tongue(language).test(channel)
}
