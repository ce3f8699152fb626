//! The sentences in Spanish.

use super::{EndedRun, RunState, Seen, Tongue, Words};

pub(super) struct Spanish;

impl Tongue for Spanish {
    fn run(&self, ended: &EndedRun<'_>) -> Words {
        let EndedRun { run, seconds, rows, tables, failing } = ended;
        let source = &run.source;
        let took = seconds.map(|seconds| format!(" después de {seconds} s")).unwrap_or_default();
        let what = if run.pipeline == "backup" { "respaldo" } else { run.pipeline.as_str() };
        let head = format!("{what} de {source}: la ejecución {}", run.id);
        let subject = |state: &str| format!("[Relevo] {what} de {source}: {state}");
        match run.state {
            RunState::Succeeded => {
                let resolved = failing.as_ref().map(|(since, count)| {
                    format!(". Resuelto: fallaba desde {since} ({count} veces seguidas)")
                });
                Words {
                    subject: subject("correcto"),
                    text: format!(
                        "{head} terminó bien{took}: {rows} filas en {tables} tablas{}",
                        resolved.unwrap_or_default()
                    ),
                }
            }
            RunState::Failed => {
                let in_a_row = failing.as_ref().filter(|(_, count)| *count > 1);
                let in_a_row =
                    in_a_row.map(|(since, count)| format!(" ({count} seguidas desde {since})"));
                let error = run.error.as_deref().unwrap_or("No quedó registrado el motivo.");
                Words {
                    subject: subject("FALLÓ"),
                    text: format!("{head} FALLÓ{took}{}. {error}", in_a_row.unwrap_or_default()),
                }
            }
            RunState::Pending | RunState::Running | RunState::Cancelled => Words {
                subject: subject("cancelado"),
                text: format!("{head} fue cancelada{took}; los datos anteriores siguen intactos"),
            },
        }
    }

    fn alert(&self, seen: &Seen<'_>) -> (String, String) {
        let subject = &seen.alert.subject;
        match seen.alert.rule.as_str() {
            "overdue" => {
                let last = seen.last_success.as_ref();
                let last = last.map_or("nunca ha terminado bien".to_owned(), |at| {
                    format!("el último correcto fue el {at}")
                });
                let title = format!("{subject} está atrasado");
                let sentence = format!(
                    "{title}: {last}, y se espera uno cada {} h. `relevo run list` muestra qué pasó",
                    seen.detail("interval_hours")
                );
                (title, sentence)
            }
            "disk_low" => {
                let sentence = format!(
                    "el disco se llena: en {subject} queda libre el {} % ({} MiB); libere espacio",
                    seen.detail("free_percent"),
                    seen.detail("free_mib")
                );
                ("el disco se llena".to_owned(), sentence)
            }
            "no_worker" => (
                "no hay ningún worker vivo".to_owned(),
                "no hay ningún worker vivo, así que nada avanza; inicie `relevo worker` o vea por qué terminó"
                    .to_owned(),
            ),
            "dead_letters" => {
                let sentence = format!(
                    "{} trabajo(s) se dieron por perdidos (dead letters); `relevo dead list` los muestra y dice por qué",
                    seen.alert.level
                );
                ("trabajos perdidos".to_owned(), sentence)
            }
            "channel" => {
                let title = format!("el canal {subject} no recibe mensajes");
                let sentence = format!("{title}: {}", seen.detail("error"));
                (title, sentence)
            }
            _ => {
                let title = format!("{subject} sigue fallando");
                let sentence = format!("{title}: {}", seen.detail("error"));
                (title, sentence)
            }
        }
    }

    fn open(&self, title: &str, sentence: &str, since: &str) -> Words {
        Words { subject: format!("[Relevo] {title}"), text: format!("{sentence} (desde {since})") }
    }

    fn resolved(&self, title: &str, since: &str, until: &str) -> Words {
        Words {
            subject: format!("[Relevo] resuelto: {title}"),
            text: format!("resuelto: {title} (de {since} a {until})"),
        }
    }

    fn test(&self, channel: &str) -> Words {
        Words {
            subject: "[Relevo] prueba".to_owned(),
            text: format!("Esta es una prueba del canal {channel}: los mensajes de Relevo llegan."),
        }
    }
}
