//! Figures for people: how far, how fast, how long still.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    time::{Duration, Instant},
};

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

/// `45 % (171.2 of 378.6 MiB), 12.3 MiB/s, 17 s left`; what is not known is left out.
pub(crate) fn bytes_line(done: u64, total: Option<u64>, speed: Option<f64>) -> String {
    let mut line = match total.filter(|total| *total > 0) {
        Some(total) => {
            format!("{} % ({:.1} of {:.1} MiB)", percent(done, total), mib(done), mib(total))
        }
        None => format!("{:.1} MiB", mib(done)),
    };
    if let Some(speed) = speed.filter(|speed| *speed > 0.0) {
        // Writing into a text cannot fail.
        let _ = write!(line, ", {:.1} MiB/s", speed / f64::from(1 << 20));
        if let Some(left) = total.map(|total| to_f64(total.saturating_sub(done)) / speed) {
            let _ = write!(line, ", {} left", seconds(left));
        }
    }
    line
}

/// `45 % (12,345 of 27,000 rows), 17 s left`.
pub(crate) fn rows_line(done: u64, total: u64, elapsed: Duration) -> String {
    let mut line =
        format!("{} % ({} of {} rows)", percent(done, total), thousands(done), thousands(total));
    if done > 0 && done < total {
        let left = elapsed.as_secs_f64() * to_f64(total - done) / to_f64(done);
        let _ = write!(line, ", about {} left", seconds(left));
    }
    line
}

/// Whole percent, 100 only when all is done.
pub(crate) fn percent(done: u64, total: u64) -> u64 {
    if total == 0 {
        return 100;
    }
    let percent = u128::from(done.min(total)) * 100 / u128::from(total);
    u64::try_from(percent).unwrap_or(100)
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
        assert_eq!(bytes_line(5 * mib, None, None), "5.0 MiB");
        assert_eq!(
            bytes_line(50 * mib, Some(200 * mib), Some(10.0 * f64::from(1 << 20))),
            "25 % (50.0 of 200.0 MiB), 10.0 MiB/s, 15 s left"
        );
        assert_eq!(
            rows_line(1_000, 4_000, Duration::from_secs(60)),
            "25 % (1,000 of 4,000 rows), about 3 min 00 s left"
        );
        assert_eq!(rows_line(0, 0, Duration::ZERO), "100 % (0 of 0 rows)");
        assert_eq!(percent(999, 1_000), 99);
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
