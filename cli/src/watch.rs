//! Following a run: a bar on a terminal, plain lines otherwise, nothing for programs.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use relevo_runs::{LogLevel, Run, RunId};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::control::ControlPlane;
use crate::failure::{Exit, Failure};
use crate::output::{Output, clean, size};

/// A run is looked at after so long at first, then less and less often.
const PAUSE_MIN: Duration = Duration::from_millis(200);

/// The longest pause between two looks.
pub const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Without a terminal, one line at least and at most so often while figures change.
const LINE_PAUSE: Duration = Duration::from_secs(10);

/// A database that doesn't answer for so long ends the watching.
const PATIENCE: Duration = Duration::from_secs(120);

/// Looks at a run until it has ended or `stop`; returns it as last seen.
pub async fn to_the_end(
    control: &ControlPlane,
    id: RunId,
    out: Output,
    stop: &CancellationToken,
) -> Result<Run, Failure> {
    let mut view = View::new(out);
    let mut pause = PAUSE_MIN;
    let mut silent_since = None;
    let mut last: Option<Run> = None;
    loop {
        match look(control, id, &mut view).await {
            Ok(run) => {
                silent_since = None;
                if run.state.is_ended() {
                    view.finish();
                    return Ok(run);
                }
                last = Some(run);
            }
            // The watcher outlives a restart of the database, as the run does.
            Err(failure) if failure.exit() == Exit::ControlPlane => {
                let since = *silent_since.get_or_insert_with(Instant::now);
                if since.elapsed() > PATIENCE {
                    return Err(failure);
                }
            }
            Err(failure) => return Err(failure),
        }
        tokio::select! {
            () = stop.cancelled() => {
                view.finish();
                return last.ok_or_else(|| Failure::new(Exit::Interrupted, "interrupted"));
            }
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 5 / 4).min(PAUSE_MAX);
    }
}

async fn look(control: &ControlPlane, id: RunId, view: &mut View) -> Result<Run, Failure> {
    let run = control
        .runs
        .get(id)
        .await
        .context("looking at the run failed")?
        .ok_or_else(|| Failure::new(Exit::NotFound, format!("run {id} is gone")))?;
    if view.wants_log() {
        let events = control
            .runs
            .logs(id, view.last_event, 200)
            .await
            .context("reading the run's log failed")?;
        for event in events {
            view.last_event = Some(event.id);
            if event.level >= LogLevel::Info {
                view.line(&format!("{:5} {}", event.level.as_str(), clean(&event.message)));
            }
        }
    }
    view.show(&run);
    Ok(run)
}

/// A run's progress in one line.
pub fn progress_text(progress: &Value) -> String {
    let figure = |name: &str| progress.get(name).and_then(Value::as_u64);
    let word = |name: &str| progress.get(name).and_then(Value::as_str).unwrap_or_default();
    let unit = word("unit");
    let shown = |figure: u64| {
        if unit == "bytes" { size(figure) } else { crate::output::count(figure) }
    };
    let mut text = match (figure("done"), figure("total")) {
        (Some(done), Some(total)) if total > 0 => {
            let percent = u128::from(done.min(total)) * 100 / u128::from(total);
            format!("{} of {} ({percent} %)", shown(done), shown(total))
        }
        (Some(done), _) => shown(done),
        (None, _) => String::new(),
    };
    if unit != "bytes" && !text.is_empty() {
        text.push(' ');
        text.push_str(unit);
    }
    let message = word("message");
    if !message.is_empty() {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(message);
    }
    clean(&text)
}

enum Form {
    Silent,
    Lines { last: String, at: Option<Instant> },
    Bar(ProgressBar),
}

/// How the watching shows itself.
struct View {
    form: Form,
    last_event: Option<i64>,
}

impl View {
    fn new(out: Output) -> Self {
        let form = if out.is_json() {
            Form::Silent
        } else if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(0);
            bar.enable_steady_tick(Duration::from_millis(250));
            Form::Bar(bar)
        } else {
            Form::Lines { last: String::new(), at: None }
        };
        Self { form, last_event: None }
    }

    fn wants_log(&self) -> bool {
        !matches!(self.form, Form::Silent)
    }

    fn line(&self, text: &str) {
        match &self.form {
            Form::Silent => {}
            Form::Lines { .. } => eprintln!("{text}"),
            Form::Bar(bar) => bar.println(text),
        }
    }

    fn show(&mut self, run: &Run) {
        // What an ended run did last says nothing any more.
        let progress = run.progress.as_ref().filter(|_| !run.state.is_ended());
        let figure =
            |name: &str| progress.and_then(|progress| progress.get(name)).and_then(Value::as_u64);
        match &mut self.form {
            Form::Silent => {}
            Form::Bar(bar) => {
                match (figure("done"), figure("total")) {
                    (Some(done), Some(total)) if total > 0 => {
                        bar.set_style(style("{elapsed_precise} [{bar:30}] {msg}"));
                        bar.set_length(total);
                        bar.set_position(done.min(total));
                    }
                    _ => bar.set_style(style("{elapsed_precise} {spinner} {msg}")),
                }
                let detail = progress.map(progress_text).unwrap_or_default();
                bar.set_message(format!("{} {} {detail}", run.state, run.phase));
            }
            Form::Lines { last, at } => {
                let step = format!("{} {}", run.state, run.phase);
                let due = at.is_none_or(|at| at.elapsed() >= LINE_PAUSE);
                let detail = progress.map(progress_text).unwrap_or_default();
                let now = format!("{step} {detail}").trim_end().to_owned();
                let changed_step = !last.starts_with(&step);
                if changed_step || (due && *last != now) {
                    eprintln!("run {}: {now}", run.id);
                    *last = now;
                    *at = Some(Instant::now());
                }
            }
        }
    }

    fn finish(&self) {
        if let Form::Bar(bar) = &self.form {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // A template of ours that didn't parse would be a plain bar.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn progress_reads_well_whatever_is_known() {
        let bytes = json!({"done": 100_000_000, "total": 400_000_000, "unit": "bytes", "message": "downloading"});
        assert_eq!(progress_text(&bytes), "100.0 MB of 400.0 MB (25 %), downloading");
        let rows = json!({"done": 1200, "total": null, "unit": "rows", "message": ""});
        assert_eq!(progress_text(&rows), "1,200 rows");
        assert_eq!(progress_text(&json!({"message": "waiting"})), "waiting");
        assert_eq!(progress_text(&json!({})), "");
    }
}
