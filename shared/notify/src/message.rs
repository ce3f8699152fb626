//! What is said, for people and for machines.

use chrono_tz::Tz;
use relevo_runs::{Run, RunState};
use relevo_settings::{ChannelEvent, Language, Settings};
use serde_json::{Value, json};

use crate::alerts::Alert;
use crate::words;

/// What a message is about.
#[derive(Clone, Debug)]
pub enum Occasion {
    /// A run ended. The alert is the state of failing that it goes on with or ends.
    Run(Box<Run>, Option<Alert>),
    /// A state began or lasts.
    Alert(Alert),
    /// A state is over.
    Resolved(Alert),
    /// Somebody wants to see whether messages arrive.
    Test,
}

/// A message in the language of its channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// One line that heads an e-mail.
    pub subject: String,
    /// One sentence.
    pub text: String,
    /// A JSON object whose `text` Slack and its like show.
    pub body: Value,
    /// The same for every try to send it, so that a receiver can tell a repetition.
    pub id: String,
}

impl Occasion {
    /// Which channels hear of it.
    #[must_use]
    pub fn event(&self) -> ChannelEvent {
        match self {
            Self::Run(run, _) if run.state == RunState::Succeeded => ChannelEvent::Success,
            Self::Run(..) => ChannelEvent::Failure,
            Self::Alert(_) | Self::Resolved(_) | Self::Test => ChannelEvent::Alert,
        }
    }

    /// The source it concerns.
    #[must_use]
    pub fn source(&self) -> Option<&str> {
        match self {
            Self::Run(run, _) => Some(&run.source),
            Self::Alert(alert) | Self::Resolved(alert) => {
                // `<pipeline>/<source>`; the subjects of other rules are no sources.
                let of_source = matches!(alert.rule.as_str(), "overdue" | "failed");
                alert.subject.rsplit('/').next().filter(|_| of_source)
            }
            Self::Test => None,
        }
    }
}

/// Writes the message about `occasion` for a channel.
#[must_use]
pub fn compose(
    occasion: &Occasion,
    channel: &str,
    language: Language,
    settings: &Settings,
) -> Message {
    let source = occasion.source().and_then(|source| settings.backup.get(source));
    let zone: Option<Tz> = source.map(|source| source.timezone);
    let (words, id, mut body) = match occasion {
        Occasion::Run(run, failing) => {
            let words = words::run(run, failing.as_ref(), language, zone);
            let duration =
                run.finished_at.map(|end| end - run.started_at.unwrap_or(run.created_at));
            let body = json!({
                "event": format!("run.{}", run.state),
                "run_id": run.id,
                "pipeline": run.pipeline,
                "source": run.source,
                "state": run.state,
                "trigger": run.trigger,
                "created_at": run.created_at,
                "started_at": run.started_at,
                "finished_at": run.finished_at,
                "duration_seconds": duration.map(|duration| duration.num_seconds().max(0)),
                "stats": run.stats,
                "error": run.error,
                "email": settings.notify.email,
                "alert": failing,
            });
            (words, format!("run{}-{}", run.id, run.state), body)
        }
        Occasion::Alert(alert) => {
            let words = words::alert(alert, false, language, zone);
            // The moment of the telling: further looks while it is tried again don't change it.
            let told_at = alert.told_at.unwrap_or(alert.opened_at);
            let id = format!("alert{}-{}", alert.id, told_at.timestamp());
            (words, id, alert_body(alert, "open"))
        }
        Occasion::Resolved(alert) => {
            let words = words::alert(alert, true, language, zone);
            (words, format!("alert{}-resolved", alert.id), alert_body(alert, "resolved"))
        }
        Occasion::Test => {
            let words = words::test(channel, language);
            let id = format!("test-{:016x}", random());
            (words, id, json!({"event": "test", "channel": channel}))
        }
    };
    body["text"] = json!(words.text);
    Message { subject: words.subject, text: words.text, body, id }
}

fn random() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    // Seeded anew for each one; nothing more than being different is wanted.
    RandomState::new().hash_one(0)
}

fn alert_body(alert: &Alert, state: &str) -> Value {
    json!({
        "event": format!("alert.{state}"),
        "alert_id": alert.id,
        "key": alert.key,
        "rule": alert.rule,
        "subject": alert.subject,
        "state": state,
        "level": alert.level,
        "details": alert.details,
        "opened_at": alert.opened_at,
        "last_seen_at": alert.last_seen_at,
        "resolved_at": alert.resolved_at,
    })
}

impl Message {
    /// The plain text of an e-mail: the sentence, and what is known.
    #[must_use]
    pub fn mail_text(&self) -> String {
        let mut text = format!("{}\r\n\r\n", self.text.replace('\n', "\r\n"));
        let Value::Object(fields) = &self.body else { return text };
        for (name, value) in fields {
            let shown = match value {
                Value::Null => continue,
                Value::Object(inner) if inner.is_empty() => continue,
                // Said above.
                Value::String(_) if matches!(name.as_str(), "text" | "error") => continue,
                Value::String(inner) => inner.clone(),
                Value::Object(inner) if name == "stats" || name == "details" => {
                    for (name, value) in inner {
                        text.push_str(&format!("{name}: {}\r\n", plain(value)));
                    }
                    continue;
                }
                Value::Object(_) => continue,
                other => other.to_string(),
            };
            text.push_str(&format!("{name}: {shown}\r\n"));
        }
        text
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta, Utc};
    use relevo_runs::RunId;

    use super::*;

    fn settings() -> Settings {
        relevo_settings::load(None, &|name| match name {
            "TUNNEL_API_URL" => Some("https://gw.test".to_owned()),
            "TUNNEL_API_KEY" => Some("k".to_owned()),
            "NOTIFICATION_EMAIL" => Some("ops@example.com".to_owned()),
            _ => None,
        })
        .expect("the settings hold")
        .settings
    }

    fn at() -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000, 0).expect("a moment")
    }

    fn run(state: RunState) -> Run {
        let at = at();
        Run {
            id: RunId(7),
            incarnation: 1,
            pipeline: "backup".to_owned(),
            source: "sicar".to_owned(),
            state,
            phase: "finish".to_owned(),
            trigger: "cli".to_owned(),
            traceparent: None,
            options: json!({}),
            notes: json!({}),
            created_at: at,
            started_at: Some(at),
            finished_at: Some(at + TimeDelta::seconds(90)),
            updated_at: at,
            progress: None,
            stats: json!({ "rows": 1_082_334, "tables": 9 }),
            certificate: None,
            error: (state == RunState::Failed).then(|| "the gateway refused the key".to_owned()),
            cancel_requested: false,
            rolled_back_at: None,
            rolled_back_by: None,
            cleaned_at: None,
        }
    }

    fn alert(rule: &str, subject: &str, details: Value) -> Alert {
        Alert {
            id: 3,
            key: format!("{rule}/{subject}"),
            rule: rule.to_owned(),
            subject: subject.to_owned(),
            details,
            level: 4,
            occurrences: 3,
            opened_at: at(),
            last_seen_at: at(),
            told_at: Some(at()),
            resolved_at: Some(at() + TimeDelta::hours(1)),
        }
    }

    fn said(occasion: &Occasion, language: Language) -> Message {
        compose(occasion, "ops", language, &settings())
    }

    #[test]
    fn the_end_of_a_run_is_told_to_people_and_machines() {
        let success = Occasion::Run(Box::new(run(RunState::Succeeded)), None);
        let message = said(&success, Language::En);
        assert_eq!(
            message.text,
            "backup of sicar: run 7 succeeded after 90 s: 1082334 rows in 9 tables"
        );
        assert_eq!(message.body["event"], "run.succeeded");
        assert_eq!(message.body["email"], "ops@example.com");
        assert_eq!(message.body["text"], message.text);
        assert!(message.mail_text().contains("rows: 1082334\r\n"), "{}", message.mail_text());
        let message = said(&success, Language::Es);
        assert_eq!(
            message.text,
            "respaldo de sicar: la ejecución 7 terminó bien después de 90 s: 1082334 filas en 9 tablas"
        );

        let failing = alert("failed", "backup/sicar", json!({}));
        let failure = Occasion::Run(Box::new(run(RunState::Failed)), Some(failing.clone()));
        let message = said(&failure, Language::En);
        assert!(message.text.contains("FAILED after 90 s (3 in a row since"), "{}", message.text);
        assert!(message.text.contains("refused the key"), "{}", message.text);
        assert_eq!(
            (failure.event(), success.event()),
            (ChannelEvent::Failure, ChannelEvent::Success)
        );
        // Times are those of the shop.
        assert!(message.text.contains("2023-11-14 16:13 CST"), "{}", message.text);
        let recovered = Occasion::Run(Box::new(run(RunState::Succeeded)), Some(failing));
        assert!(said(&recovered, Language::Es).text.contains("Resuelto: fallaba desde"));
        assert!(said(&recovered, Language::En).text.contains("Resolved: it had been failing"));
    }

    #[test]
    fn templates_know_every_value_of_a_message() {
        let occasions = [
            Occasion::Run(Box::new(run(RunState::Succeeded)), None),
            Occasion::Alert(alert("overdue", "backup/sicar", json!({}))),
            Occasion::Test,
        ];
        for occasion in occasions {
            let Value::Object(values) = said(&occasion, Language::En).body else { unreachable!() };
            for name in values.keys() {
                let template = format!("{{{{{name}}}}}");
                assert_eq!(crate::unknown_names(&template), [], "{name}");
            }
        }
    }

    #[test]
    fn alerts_are_told_when_they_begin_and_when_they_are_over() {
        for (rule, subject, details, en, es) in [
            (
                "overdue",
                "backup/sicar",
                json!({"interval_hours": 12, "last_success_at": null}),
                "never succeeded",
                "nunca ha terminado bien",
            ),
            (
                "disk_low",
                "host:/data",
                json!({"free_percent": 3, "free_mib": 9}),
                "3 % free",
                "3 %",
            ),
            ("no_worker", "workers", json!({}), "no worker is alive", "ningún worker"),
            ("dead_letters", "queue", json!({}), "4 job(s) were given up", "4 trabajo(s)"),
            ("channel", "ops", json!({"error": "HTTP 404"}), "HTTP 404", "HTTP 404"),
        ] {
            let alert = alert(rule, subject, details);
            let open = Occasion::Alert(alert.clone());
            let seen_again = Alert { last_seen_at: at() + TimeDelta::minutes(1), ..alert.clone() };
            let tried_again = said(&Occasion::Alert(seen_again), Language::En);
            assert_eq!(tried_again.id, said(&open, Language::En).id, "a repetition can be told");
            let over = Occasion::Resolved(alert);
            for (language, words) in [(Language::En, en), (Language::Es, es)] {
                let message = said(&open, language);
                assert!(message.text.contains(words), "{}", message.text);
                assert_eq!(message.body["event"], "alert.open");
            }
            assert!(said(&over, Language::En).subject.contains("resolved"));
            assert!(said(&over, Language::Es).text.starts_with("resuelto: "));
            assert_eq!(open.source(), (rule == "overdue").then_some("sicar"));
        }
    }
}
