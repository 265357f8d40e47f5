use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// Gives a broker that restarts time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// One that was away for long is found again within this time.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The pauses between tries at the broker, whatever is tried: doubled from half a second to ten.
pub(crate) struct Backoff(ExponentialBackoff);

impl Backoff {
    pub fn new() -> Self {
        let pauses = ExponentialBuilder::new()
            .with_min_delay(FIRST_PAUSE)
            .with_max_delay(LONGEST_PAUSE)
            .with_factor(2.0)
            .without_max_times();
        Self(pauses.build())
    }

    pub fn next_pause(&mut self) -> Duration {
        self.0.next().unwrap_or(LONGEST_PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut backoff = Backoff::new();
        let pauses: Vec<u64> = (0..8)
            .map(|_| backoff.next_pause().as_millis() as u64)
            .collect();
        assert_eq!(
            pauses,
            [500, 1000, 2000, 4000, 8000, 10_000, 10_000, 10_000]
        );
    }
}
