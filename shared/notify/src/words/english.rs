//! The sentences in English.

use super::{EndedRun, RunState, Seen, Tongue, Words};

pub(super) struct English;

impl Tongue for English {
    fn run(&self, ended: &EndedRun<'_>) -> Words {
        let EndedRun { run, seconds, rows, tables, failing } = ended;
        let (pipeline, source) = (&run.pipeline, &run.source);
        let took = seconds.map(|seconds| format!(" after {seconds} s")).unwrap_or_default();
        let head = format!("{pipeline} of {source}: run {}", run.id);
        let subject = |what: &str| format!("[Relevo] {pipeline} of {source} {what}");
        // Whether the new data went live is the certificate's to say; a run that ended otherwise left
        // the previous ones.
        match run.state {
            RunState::Succeeded => {
                let resolved = failing.as_ref().map(|(since, count)| {
                    format!(". Resolved: it had been failing since {since} ({count} in a row)")
                });
                Words {
                    subject: subject("succeeded"),
                    text: format!(
                        "{head} succeeded{took}: {rows} rows in {tables} tables{}",
                        resolved.unwrap_or_default()
                    ),
                }
            }
            RunState::Failed => {
                let in_a_row = failing.as_ref().filter(|(_, count)| *count > 1);
                let in_a_row =
                    in_a_row.map(|(since, count)| format!(" ({count} in a row since {since})"));
                let error = run.error.as_deref().unwrap_or("No reason was recorded.");
                Words {
                    subject: subject("FAILED"),
                    text: format!("{head} FAILED{took}{}. {error}", in_a_row.unwrap_or_default()),
                }
            }
            RunState::Pending | RunState::Running | RunState::Cancelled => Words {
                subject: subject("was cancelled"),
                text: format!("{head} was cancelled{took}; the previous data are untouched"),
            },
        }
    }

    fn alert(&self, seen: &Seen<'_>) -> (String, String) {
        let subject = &seen.alert.subject;
        match seen.alert.rule.as_str() {
            "overdue" => {
                let last = seen.last_success.as_ref();
                let last = last.map_or("it has never succeeded".to_owned(), |at| {
                    format!("its last success was at {at}")
                });
                let title = format!("{subject} is overdue");
                let sentence = format!(
                    "{title}: {last}, and a success is expected every {} h. `relevo run list` shows what happened",
                    seen.detail("interval_hours")
                );
                (title, sentence)
            }
            "disk_low" => {
                let sentence = format!(
                    "the disk fills up: {subject} has {} % free ({} MiB); free some space",
                    seen.detail("free_percent"),
                    seen.detail("free_mib")
                );
                ("the disk fills up".to_owned(), sentence)
            }
            "no_worker" => (
                "no worker is alive".to_owned(),
                "no worker is alive, so nothing is done; start `relevo worker` or see why it ended"
                    .to_owned(),
            ),
            "dead_letters" => {
                let sentence = format!(
                    "{} job(s) were given up (dead letters); `relevo dead list` shows them and why",
                    seen.alert.level
                );
                ("dead letters".to_owned(), sentence)
            }
            "channel" => {
                let title = format!("the channel {subject} takes no messages");
                let sentence = format!("{title}: {}", seen.detail("error"));
                (title, sentence)
            }
            _ => {
                let title = format!("{subject} keeps failing");
                let sentence = format!("{title}: {}", seen.detail("error"));
                (title, sentence)
            }
        }
    }

    fn open(&self, title: &str, sentence: &str, since: &str) -> Words {
        Words { subject: format!("[Relevo] {title}"), text: format!("{sentence} (since {since})") }
    }

    fn resolved(&self, title: &str, since: &str, until: &str) -> Words {
        Words {
            subject: format!("[Relevo] resolved: {title}"),
            text: format!("resolved: {title} (from {since} to {until})"),
        }
    }

    fn test(&self, channel: &str) -> Words {
        Words {
            subject: "[Relevo] a test".to_owned(),
            text: format!("This is a test of the channel {channel}: messages from Relevo arrive."),
        }
    }
}
