//! The sentences, in each language.

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
    let (rows, tables) = (number("rows"), number("tables"));
    let (id, pipeline, source) = (run.id, &run.pipeline, &run.source);
    let error = run.error.as_deref();
    // Whether the new data went live is the certificate's to say; a run that ended otherwise left
    // the previous ones.
    match language {
        Language::En => {
            let took = seconds.map(|seconds| format!(" after {seconds} s")).unwrap_or_default();
            let head = format!("{pipeline} of {source}: run {id}");
            let subject = |what: &str| format!("[Relevo] {pipeline} of {source} {what}");
            match run.state {
                RunState::Succeeded => Words {
                    subject: subject("succeeded"),
                    text: format!(
                        "{head} succeeded{took}: {rows} rows in {tables} tables{}",
                        failing
                            .map(|alert| format!(
                                ". Resolved: it had been failing since {} ({} in a row)",
                                moment(alert.opened_at, zone),
                                alert.occurrences
                            ))
                            .unwrap_or_default()
                    ),
                },
                RunState::Failed => Words {
                    subject: subject("FAILED"),
                    text: format!(
                        "{head} FAILED{took}{}. {}",
                        in_a_row(failing, language, zone),
                        error.unwrap_or("No reason was recorded.")
                    ),
                },
                RunState::Pending | RunState::Running | RunState::Cancelled => Words {
                    subject: subject("was cancelled"),
                    text: format!("{head} was cancelled{took}; the previous data are untouched"),
                },
            }
        }
        Language::Es => {
            let took =
                seconds.map(|seconds| format!(" después de {seconds} s")).unwrap_or_default();
            let what = if pipeline == "backup" { "respaldo" } else { pipeline };
            let head = format!("{what} de {source}: la ejecución {id}");
            let subject = |state: &str| format!("[Relevo] {what} de {source}: {state}");
            match run.state {
                RunState::Succeeded => Words {
                    subject: subject("correcto"),
                    text: format!(
                        "{head} terminó bien{took}: {rows} filas en {tables} tablas{}",
                        failing
                            .map(|alert| format!(
                                ". Resuelto: fallaba desde {} ({} veces seguidas)",
                                moment(alert.opened_at, zone),
                                alert.occurrences
                            ))
                            .unwrap_or_default()
                    ),
                },
                RunState::Failed => Words {
                    subject: subject("FALLÓ"),
                    text: format!(
                        "{head} FALLÓ{took}{}. {}",
                        in_a_row(failing, language, zone),
                        error.unwrap_or("No quedó registrado el motivo.")
                    ),
                },
                RunState::Pending | RunState::Running | RunState::Cancelled => Words {
                    subject: subject("cancelado"),
                    text: format!(
                        "{head} fue cancelada{took}; los datos anteriores siguen intactos"
                    ),
                },
            }
        }
    }
}

fn in_a_row(failing: Option<&Alert>, language: Language, zone: Option<Tz>) -> String {
    let Some(alert) = failing.filter(|alert| alert.occurrences > 1) else { return String::new() };
    let (count, since) = (alert.occurrences, moment(alert.opened_at, zone));
    match language {
        Language::En => format!(" ({count} in a row since {since})"),
        Language::Es => format!(" ({count} seguidas desde {since})"),
    }
}

/// An alert that has begun, lasts, or is over.
pub(crate) fn alert(alert: &Alert, resolved: bool, language: Language, zone: Option<Tz>) -> Words {
    let detail = |name: &str| match alert.details.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    };
    let since = moment(alert.opened_at, zone);
    let subject = &alert.subject;
    let last_success = || {
        let at = alert.details.get("last_success_at").and_then(Value::as_str);
        at.and_then(|at| DateTime::parse_from_rfc3339(at).ok())
            .map(|at| moment(at.with_timezone(&Utc), zone))
    };
    let what = match (language, alert.rule.as_str()) {
        (Language::En, "overdue") => format!(
            "{subject} is overdue: {}, and a success is expected every {} h. `relevo run list` shows what happened",
            last_success().map_or("it has never succeeded".to_owned(), |at| format!("its last success was at {at}")),
            detail("interval_hours")
        ),
        (Language::Es, "overdue") => format!(
            "{subject} está atrasado: {}, y se espera uno cada {} h. `relevo run list` muestra qué pasó",
            last_success().map_or("nunca ha terminado bien".to_owned(), |at| format!("el último correcto fue el {at}")),
            detail("interval_hours")
        ),
        (Language::En, "disk_low") => format!(
            "the disk fills up: {subject} has {} % free ({} MiB); free some space",
            detail("free_percent"),
            detail("free_mib")
        ),
        (Language::Es, "disk_low") => format!(
            "el disco se llena: en {subject} queda libre el {} % ({} MiB); libere espacio",
            detail("free_percent"),
            detail("free_mib")
        ),
        (Language::En, "no_worker") => {
            "no worker is alive, so nothing is done; start `relevo worker` or see why it ended"
                .to_owned()
        }
        (Language::Es, "no_worker") => {
            "no hay ningún worker vivo, así que nada avanza; inicie `relevo worker` o vea por qué terminó"
                .to_owned()
        }
        (Language::En, "dead_letters") => format!(
            "{} job(s) were given up (dead letters); `relevo dead list` shows them and why",
            alert.level
        ),
        (Language::Es, "dead_letters") => format!(
            "{} trabajo(s) se dieron por perdidos (dead letters); `relevo dead list` los muestra y dice por qué",
            alert.level
        ),
        (Language::En, "channel") => {
            format!("the channel {subject} takes no messages: {}", detail("error"))
        }
        (Language::Es, "channel") => {
            format!("el canal {subject} no recibe mensajes: {}", detail("error"))
        }
        (Language::En, _) => format!("{subject} keeps failing: {}", detail("error")),
        (Language::Es, _) => format!("{subject} sigue fallando: {}", detail("error")),
    };
    let title = match (language, alert.rule.as_str()) {
        (Language::En, "overdue") => format!("{subject} is overdue"),
        (Language::Es, "overdue") => format!("{subject} está atrasado"),
        (Language::En, "disk_low") => "the disk fills up".to_owned(),
        (Language::Es, "disk_low") => "el disco se llena".to_owned(),
        (Language::En, "no_worker") => "no worker is alive".to_owned(),
        (Language::Es, "no_worker") => "no hay ningún worker vivo".to_owned(),
        (Language::En, "dead_letters") => "dead letters".to_owned(),
        (Language::Es, "dead_letters") => "trabajos perdidos".to_owned(),
        (Language::En, "channel") => format!("the channel {subject} takes no messages"),
        (Language::Es, "channel") => format!("el canal {subject} no recibe mensajes"),
        (Language::En, _) => format!("{subject} keeps failing"),
        (Language::Es, _) => format!("{subject} sigue fallando"),
    };
    match (language, resolved) {
        (Language::En, false) => {
            Words { subject: format!("[Relevo] {title}"), text: format!("{what} (since {since})") }
        }
        (Language::Es, false) => {
            Words { subject: format!("[Relevo] {title}"), text: format!("{what} (desde {since})") }
        }
        (Language::En, true) => Words {
            subject: format!("[Relevo] resolved: {title}"),
            text: format!(
                "resolved: {title} (from {since} to {})",
                moment(alert.resolved_at.unwrap_or(alert.last_seen_at), zone)
            ),
        },
        (Language::Es, true) => Words {
            subject: format!("[Relevo] resuelto: {title}"),
            text: format!(
                "resuelto: {title} (de {since} a {})",
                moment(alert.resolved_at.unwrap_or(alert.last_seen_at), zone)
            ),
        },
    }
}

/// A message that somebody asked for, to see whether it arrives.
pub(crate) fn test(channel: &str, language: Language) -> Words {
    match language {
        Language::En => Words {
            subject: "[Relevo] a test".to_owned(),
            text: format!("This is a test of the channel {channel}: messages from Relevo arrive."),
        },
        Language::Es => Words {
            subject: "[Relevo] prueba".to_owned(),
            text: format!("Esta es una prueba del canal {channel}: los mensajes de Relevo llegan."),
        },
    }
}
