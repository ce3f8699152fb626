//! How long to wait, at most, before trying again.

use std::time::Duration;

/// The ceiling of the delay after failure number `failures`, counted from 1: `base`, doubled with
/// every further failure, never above `cap`.
///
/// Whoever waits draws uniformly below it ([`relevo_queue::full_jitter`]): jobs that failed
/// together, because the database restarted or the gateway was down, must not come back together.
pub(crate) fn ceiling(base: Duration, cap: Duration, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(30);
    base.saturating_mul(1 << doublings).min(cap)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceilings_double_and_stop_at_the_cap() {
        let seconds = Duration::from_secs;
        let ceilings: Vec<u64> =
            (0..8).map(|failures| ceiling(seconds(2), seconds(60), failures).as_secs()).collect();
        assert_eq!(ceilings, [2, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(ceiling(seconds(2), seconds(60), u32::MAX), seconds(60));
    }
}
