//! An import's progress on standard error: a bar on a terminal, plain lines otherwise.

use std::io::IsTerminal as _;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use relevo_import::{ImportProgress, Phase, ProgressEvent};

use crate::output::{Output, clean, count, size};

/// Figures are shown at most so often on a terminal.
const DRAW_PAUSE: Duration = Duration::from_millis(200);

/// Figures are shown at most so often as lines.
const LINE_PAUSE: Duration = Duration::from_secs(10);

/// Shows an import's progress.
pub struct ImportView {
    form: Form,
    input_size_bytes: Option<u64>,
    state: Mutex<State>,
}

enum Form {
    Silent,
    Lines,
    Bar(ProgressBar),
}

struct State {
    phase: Option<Phase>,
    input_bytes: u64,
    rows: u64,
    shown_at: Option<Instant>,
}

impl ImportView {
    /// A view of an input of this size, where it is known.
    pub fn new(out: Output, input_size_bytes: Option<u64>) -> Self {
        let form = if out.is_json() {
            Form::Silent
        } else if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(input_size_bytes.unwrap_or(0));
            let template = if input_size_bytes.is_some() {
                "{elapsed_precise} [{bar:30}] {percent:>3} % {msg}"
            } else {
                "{elapsed_precise} {spinner} {msg}"
            };
            // A template of ours that didn't parse would be a plain bar.
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(250));
            Form::Bar(bar)
        } else {
            Form::Lines
        };
        let state = State { phase: None, input_bytes: 0, rows: 0, shown_at: None };
        Self { form, input_size_bytes, state: Mutex::new(state) }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Form::Bar(bar) = &self.form {
            bar.finish_and_clear();
        }
    }

    fn show(&self, state: &mut State, step: &str, now: bool) {
        let pause = match self.form {
            Form::Silent => return,
            Form::Lines => LINE_PAUSE,
            Form::Bar(_) => DRAW_PAUSE,
        };
        if !now && state.shown_at.is_some_and(|at| at.elapsed() < pause) {
            return;
        }
        state.shown_at = Some(Instant::now());
        let phase = state.phase.map(|phase| phase.to_string()).unwrap_or_default();
        let mut text = phase;
        if state.phase == Some(Phase::Load) {
            let of = self.input_size_bytes.map(|total| format!(" of {}", size(total)));
            text.push_str(&format!(
                ": {}{} read, {} rows loaded",
                size(state.input_bytes),
                of.unwrap_or_default(),
                count(state.rows)
            ));
        }
        if !step.is_empty() {
            text.push_str(": ");
            text.push_str(&clean(step));
        }
        match &self.form {
            Form::Silent => {}
            Form::Lines => eprintln!("{text}"),
            Form::Bar(bar) => {
                if self.input_size_bytes.is_some() {
                    bar.set_position(state.input_bytes);
                }
                bar.set_message(text);
            }
        }
    }
}

impl ImportProgress for ImportView {
    fn report(&self, event: ProgressEvent<'_>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        match event {
            ProgressEvent::Phase(phase) => {
                state.phase = Some(phase);
                self.show(state, "", true);
            }
            ProgressEvent::Read { input_bytes, .. } => {
                state.input_bytes = input_bytes;
                self.show(state, "", false);
            }
            ProgressEvent::Loaded { rows, .. } => {
                state.rows = rows;
                self.show(state, "", false);
            }
            ProgressEvent::Step { done, total, name, .. } => {
                self.show(state, &format!("{done} of {total}, {name}"), false);
            }
            // It stands in the certificate as well.
            ProgressEvent::Notice(text) => match &self.form {
                Form::Bar(bar) => bar.println(format!("note: {}", clean(text))),
                Form::Lines => eprintln!("note: {}", clean(text)),
                Form::Silent => {}
            },
        }
    }
}
