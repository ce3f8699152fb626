//! How long the phases of a finish take.

use std::time::{Duration, Instant};

use crate::certificate::PhaseDuration;
use crate::progress::{ImportProgress, Phase, ProgressEvent};

/// Measures phases.
pub(super) struct Clock<'a> {
    progress: &'a dyn ImportProgress,
    phases: Vec<PhaseDuration>,
    open: Option<(Phase, Instant)>,
}

impl<'a> Clock<'a> {
    /// Goes on after the phases that are over.
    pub(super) fn new(progress: &'a dyn ImportProgress, phases: Vec<PhaseDuration>) -> Self {
        Self { progress, phases, open: None }
    }

    /// Ends the open phase and begins this one.
    pub(super) fn enter(&mut self, phase: Phase) {
        self.leave();
        self.open = Some((phase, Instant::now()));
        self.progress.report(ProgressEvent::Phase(phase));
    }

    fn leave(&mut self) {
        if let Some((phase, started)) = self.open.take() {
            self.phases.push(PhaseDuration { phase, duration_ms: millis(started.elapsed()) });
        }
    }

    /// All phases, the open one up to now.
    pub(super) fn so_far(&self) -> Vec<PhaseDuration> {
        let open = self.open.map(|(phase, started)| PhaseDuration {
            phase,
            duration_ms: millis(started.elapsed()),
        });
        self.phases.iter().copied().chain(open).collect()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
