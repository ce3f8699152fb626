//! Figures for people: how far, how fast, how long still.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    time::{Duration, Instant},
};

use relevo_queue::Progress;

use super::step::{Step, Stop};

/// Speed is measured over the last so many seconds.
const WINDOW: Duration = Duration::from_secs(15);

/// Measures the speed of something that only grows.
pub(crate) struct Meter {
    samples: VecDeque<(Instant, u64)>,
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self { samples: VecDeque::new() }
    }

    /// Takes the figure of this moment and returns the speed per second, once there is one.
    pub(crate) fn sample(&mut self, now: Instant, done: u64) -> Option<f64> {
        self.samples.push_back((now, done));
        while self.samples.len() > 2
            && self.samples.front().is_some_and(|(at, _)| now.duration_since(*at) > WINDOW)
        {
            self.samples.pop_front();
        }
        let (since, before) = *self.samples.front()?;
        let seconds = now.duration_since(since).as_secs_f64();
        (seconds > 0.2).then(|| to_f64(done.saturating_sub(before)) / seconds)
    }
}

/// ` at 12.3 MiB/s, 17 s left`; what is not known is left out. How much there is of how much stands
/// in the progress itself.
pub(crate) fn pace(done: u64, total: Option<u64>, speed: Option<f64>) -> String {
    let Some(speed) = speed.filter(|speed| *speed > 0.0) else { return String::new() };
    let mut text = format!(" at {:.1} MiB/s", speed / f64::from(1 << 20));
    if let Some(left) = total.map(|total| to_f64(total.saturating_sub(done)) / speed) {
        // Writing into a text cannot fail.
        let _ = write!(text, ", {} left", seconds(left));
    }
    text
}

/// `, about 17 s left`; nothing where it cannot be told.
pub(crate) fn about_left(done: u64, total: u64, elapsed: Duration) -> String {
    if done == 0 || done >= total {
        return String::new();
    }
    let left = elapsed.as_secs_f64() * to_f64(total - done) / to_f64(done);
    format!(", about {} left", seconds(left))
}

/// Stores a step's progress with its job and its run. Trouble with the database is no reason to
/// stop; a lost lease is.
pub(crate) async fn tell(
    step: &Step<'_>,
    done: u64,
    total: Option<u64>,
    unit: &str,
    message: String,
) -> Result<(), Stop> {
    let done = i64::try_from(done).unwrap_or(i64::MAX);
    let total = total.map(|total| i64::try_from(total).unwrap_or(i64::MAX));
    let progress = Progress { done, total, unit: unit.to_owned(), message };
    match step.job.progress(&progress).await {
        Err(error) if error.is_lease_lost() => return Err(error.into()),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(error, "progress could not be stored");
            return Ok(());
        }
        Ok(()) => {}
    }
    let stored = step.context.runs.progress(step.run.id, done, total, unit, &progress.message);
    if let Err(error) = stored.await {
        let error = &error as &dyn std::error::Error;
        tracing::debug!(error, "progress could not be stored");
    }
    Ok(())
}

/// `1,234,567`.
pub(crate) fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Mebibytes.
pub(crate) fn mib(bytes: u64) -> f64 {
    to_f64(bytes) / f64::from(1 << 20)
}

/// `17 s`, `3 min 05 s`, `2 h 10 min`.
pub(crate) fn seconds(seconds: f64) -> String {
    // Beyond any wait; also what a division by almost nothing yields.
    let whole = Duration::try_from_secs_f64(seconds).map_or(u64::MAX, |wait| wait.as_secs());
    match whole {
        0..60 => format!("{whole} s"),
        60..3_600 => format!("{} min {:02} s", whole / 60, whole % 60),
        3_600..1_000_000 => format!("{} h {:02} min", whole / 3_600, whole % 3_600 / 60),
        _ => "a long time".to_owned(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people and rates")]
fn to_f64(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_what_is_known() {
        let mib = 1 << 20;
        let speed = Some(10.0 * f64::from(1 << 20));
        assert_eq!(pace(5 * mib, Some(200 * mib), None), "");
        assert_eq!(pace(5 * mib, None, speed), " at 10.0 MiB/s");
        assert_eq!(pace(50 * mib, Some(200 * mib), speed), " at 10.0 MiB/s, 15 s left");
        let minute = Duration::from_secs(60);
        assert_eq!(about_left(1_000, 4_000, minute), ", about 3 min 00 s left");
        assert_eq!((about_left(0, 4, minute), about_left(4, 4, minute)), Default::default());
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(seconds(f64::INFINITY), "a long time");
        assert_eq!(seconds(7_800.0), "2 h 10 min");
    }

    #[test]
    fn speed_is_that_of_the_last_seconds() {
        let start = Instant::now();
        let mut meter = Meter::new();
        assert_eq!(meter.sample(start, 1_000), None);
        for second in 1..=60u64 {
            let done = if second <= 30 { 1_000 } else { 1_000 + (second - 30) * 10 };
            meter.sample(start + Duration::from_secs(second), done);
        }
        let speed = meter.sample(start + Duration::from_secs(61), 1_310).expect("known");
        assert!((speed - 10.0).abs() < 0.01, "{speed}");
    }
}
