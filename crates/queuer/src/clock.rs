//! When the cycles of `--loop` start.

use std::time::Duration;

use pipeline::now_ms;

/// Cycles start at every multiple of a number of seconds since the epoch, each of them once.
#[derive(Debug)]
pub(crate) struct Cycles {
    every_ms: i64,
    /// The latest start that [`Cycles::next`] returned.
    latest: Option<i64>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CycleStart {
    /// Milliseconds since the epoch.
    pub at_ms: i64,
    /// Starts that passed since the one before.
    pub missed: i64,
}

impl Cycles {
    pub fn every(seconds: u64) -> Self {
        let every_ms = i64::try_from(seconds.saturating_mul(1_000)).unwrap_or(i64::MAX);
        Self {
            every_ms: every_ms.max(1),
            latest: None,
        }
    }

    /// The next start at or after `now_ms`.
    pub fn next(&mut self, now_ms: i64) -> CycleStart {
        let aligned = now_ms
            .saturating_add(self.every_ms - 1)
            .div_euclid(self.every_ms)
            .saturating_mul(self.every_ms);
        let following = self.latest.map(|start| start.saturating_add(self.every_ms));
        let at_ms = aligned.max(following.unwrap_or(aligned));
        let missed = following.map_or(0, |following| (at_ms - following) / self.every_ms);
        self.latest = Some(at_ms);
        CycleStart { at_ms, missed }
    }
}

/// Waits until the clock shows `at_ms`. The clock may be set meanwhile, so it is read every minute.
pub(crate) async fn wait_until(at_ms: i64) {
    const POLL_INTERVAL_MS: i64 = 60_000;
    loop {
        let left = at_ms - now_ms();
        if left <= 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(left.min(POLL_INTERVAL_MS) as u64)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(at_ms: i64, missed: i64) -> CycleStart {
        CycleStart { at_ms, missed }
    }

    #[test]
    fn cycles_start_at_multiples_of_their_length() {
        let mut cycles = Cycles::every(60);
        assert_eq!(cycles.next(30_001), start(60_000, 0));
        assert_eq!(cycles.next(60_000), start(120_000, 0));
        assert_eq!(cycles.next(119_999), start(180_000, 0));
    }

    #[test]
    fn starts_that_passed_during_a_cycle_are_skipped_and_counted() {
        let mut cycles = Cycles::every(60);
        cycles.next(60_000);
        assert_eq!(cycles.next(185_000), start(240_000, 2));
        assert_eq!(cycles.next(240_000), start(300_000, 0));
    }
}
