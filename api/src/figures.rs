//! What the queues hold, for pages that ask again and again.
//!
//! Counting a long queue has its price, and every open page would pay it every few seconds. So one
//! count serves all pages of this process for a while: the longer it took, the longer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use relevo_queue::{Queue, QueueError, QueueStats};
use tokio::sync::Mutex;

/// Figures are at least so long good enough: less than a page's pause between two looks.
const LIFE_MIN: Duration = Duration::from_secs(4);

/// And at most so long.
const LIFE_MAX: Duration = Duration::from_secs(60);

/// So much of the time, at most, somebody may be counting: one part in so many.
const SHARE: u32 = 20;

/// The figures that were counted last.
#[derive(Debug, Default)]
pub(crate) struct Figures(Mutex<Option<Counted>>);

#[derive(Debug, Clone)]
struct Counted {
    queues: Arc<Vec<QueueStats>>,
    until: Instant,
}

impl Figures {
    /// What each queue holds, as of a moment ago. Whoever asks while somebody counts waits for that
    /// count.
    pub(crate) async fn queues(&self, queue: &Queue) -> Result<Arc<Vec<QueueStats>>, QueueError> {
        let mut counted = self.0.lock().await;
        if let Some(known) = counted.as_ref().filter(|known| Instant::now() < known.until) {
            return Ok(Arc::clone(&known.queues));
        }
        let begun = Instant::now();
        let queues = Arc::new(queue.stats().await?);
        let until = Instant::now() + life(begun.elapsed());
        *counted = Some(Counted { queues: Arc::clone(&queues), until });
        Ok(queues)
    }

    /// Somebody has changed something here, and wants to see it.
    pub(crate) async fn forget(&self) {
        *self.0.lock().await = None;
    }
}

/// How long a count that took so long is good enough.
fn life(took: Duration) -> Duration {
    (took * SHARE).clamp(LIFE_MIN, LIFE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_to_count_is_counted_rarely() {
        assert_eq!(life(Duration::from_millis(1)), LIFE_MIN);
        assert_eq!(life(Duration::from_millis(500)), Duration::from_secs(10));
        assert_eq!(life(Duration::from_secs(9)), LIFE_MAX);
    }
}
