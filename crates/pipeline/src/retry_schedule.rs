use std::time::Duration;

/// How long a message waits after each of its failures, shortest delay first. Each delay is a queue of its own with
/// one time to live for all: a TTL per message would expire only at the head of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetrySchedule(Vec<Duration>);

impl RetrySchedule {
    /// `delays` in whole seconds, at least one, each longer than the one before.
    pub fn new(delays: Vec<Duration>) -> Result<Self, String> {
        let ascending = delays.windows(2).all(|pair| pair[0] < pair[1]);
        let whole = delays
            .iter()
            .all(|d| d.as_secs() > 0 && d.subsec_nanos() == 0);
        if delays.is_empty() || !ascending || !whole {
            return Err(format!(
                "retry delays must be whole seconds, at least one of them, each longer than the one before; \
                 found {delays:?}"
            ));
        }
        Ok(Self(delays))
    }

    pub fn delays(&self) -> &[Duration] {
        &self.0
    }

    /// The delay after the `failures`-th failure (from 1); the last delay serves all later ones.
    pub fn after(&self, failures: u32) -> Duration {
        let n = (failures.max(1) as usize - 1).min(self.0.len() - 1);
        self.0[n]
    }

    /// The longest delay of the schedule that is not longer than `delay`, or the first: what waits for a certain time
    /// must not miss it, and comes nearer to it in several steps.
    pub fn within(&self, delay: Duration) -> Duration {
        let fitting = self.0.iter().rev().find(|known| **known <= delay);
        *fitting.unwrap_or(&self.0[0])
    }

    /// Delay queue of `program` for one of the delays: `fetcher-delay-10m`.
    pub fn queue(program: &str, delay: Duration) -> String {
        let seconds = delay.as_secs();
        let label = match seconds {
            s if s % 3600 == 0 => format!("{}h", s / 3600),
            s if s % 60 == 0 => format!("{}m", s / 60),
            s => format!("{s}s"),
        };
        format!("{program}-delay-{label}")
    }
}

impl Default for RetrySchedule {
    /// 10 s for a hiccup, 1 min for a restart, 10 min for an outage, 1 h for a repair.
    fn default() -> Self {
        Self([10, 60, 600, 3600].map(Duration::from_secs).to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_failures_wait_longer_up_to_the_last_delay() {
        let schedule = RetrySchedule::default();
        let seconds: Vec<u64> = (0..7).map(|n| schedule.after(n).as_secs()).collect();
        assert_eq!(seconds, [10, 10, 60, 600, 3600, 3600, 3600]);
    }

    #[test]
    fn a_delay_finds_the_longest_one_that_is_not_longer_and_its_queue() {
        let within = |seconds| RetrySchedule::default().within(Duration::from_secs(seconds));
        // To a window that opens in 40 minutes, and is 20 long, an hour would be too late.
        let found: Vec<u64> = [2400, 599, 60, 59, 3, 90_000]
            .map(|s| within(s).as_secs())
            .into();
        assert_eq!(found, [600, 60, 60, 10, 10, 3600]);
        assert_eq!(
            RetrySchedule::queue("es-writer", within(90)),
            "es-writer-delay-1m"
        );
    }

    #[test]
    fn a_schedule_that_does_not_grow_is_refused() {
        let seconds = |list: &[u64]| {
            RetrySchedule::new(list.iter().copied().map(Duration::from_secs).collect())
        };
        assert!(seconds(&[]).is_err());
        assert!(seconds(&[60, 10]).is_err());
        assert!(seconds(&[0]).is_err());
    }
}
