use std::collections::BTreeMap;
use std::time::Duration;

use super::name::Series;

/// Most series of one program between two flushes. Programs have some dozens; a label whose values
/// come from an open set would grow without end.
const MAX_SERIES: usize = 2000;

/// Most observations of one timer sent at once: enough for the 99th percentile of a second, and no
/// more than some 5 KiB of datagrams.
pub(super) const MAX_OBSERVATIONS: usize = 100;

/// What was counted since the last flush.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) counters: BTreeMap<Series, u64>,
    pub(super) gauges: BTreeMap<Series, f64>,
    pub(super) timers: BTreeMap<Series, Observations>,
    /// Calls that were left out: one series too many, or a value that is no number.
    pub(super) dropped: u64,
}

impl Gathered {
    pub(super) fn is_empty(&self) -> bool {
        self.series() == 0 && self.dropped == 0
    }

    pub(super) fn count(&mut self, series: Series, n: u64) {
        if self.has_room() || self.counters.contains_key(&series) {
            let total = self.counters.entry(series).or_default();
            *total = total.saturating_add(n);
        } else {
            self.dropped += 1;
        }
    }

    pub(super) fn gauge(&mut self, series: Series, value: f64) {
        let room = self.has_room() || self.gauges.contains_key(&series);
        if room && value.is_finite() {
            self.gauges.insert(series, value);
        } else {
            self.dropped += 1;
        }
    }

    pub(super) fn time(&mut self, series: Series, took: Duration) {
        if self.has_room() || self.timers.contains_key(&series) {
            self.timers.entry(series).or_default().add(took);
        } else {
            self.dropped += 1;
        }
    }

    fn series(&self) -> usize {
        self.counters.len() + self.gauges.len() + self.timers.len()
    }

    fn has_room(&self) -> bool {
        self.series() < MAX_SERIES
    }
}

/// A sample of a timer's observations in which each has the same chance to be.
#[derive(Debug)]
pub(super) struct Observations {
    pub(super) kept: Vec<Duration>,
    pub(super) seen: u64,
    random: u64,
}

impl Default for Observations {
    fn default() -> Self {
        Self {
            kept: Vec::new(),
            seen: 0,
            // Any number but zero starts the generator; the same each time, for tests that repeat.
            random: 0x9E37_79B9_7F4A_7C15,
        }
    }
}

impl Observations {
    fn add(&mut self, took: Duration) {
        self.seen += 1;
        if self.kept.len() < MAX_OBSERVATIONS {
            self.kept.push(took);
            return;
        }
        // Reservoir sampling: the n-th observation takes a slot with probability slots / n.
        let slot = usize::try_from(self.next_random() % self.seen).ok();
        if let Some(kept) = slot.and_then(|slot| self.kept.get_mut(slot)) {
            *kept = took;
        }
    }

    /// Marsaglia's xorshift64: fair enough for a sample, and nothing depends on it being secret.
    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StatsStyle;

    fn series(name: &str) -> Series {
        Series::new(StatsStyle::Equals, name, &[])
    }

    #[test]
    fn series_without_end_are_dropped_and_counted_but_known_ones_are_kept() {
        let mut gathered = Gathered::default();
        for n in 0..MAX_SERIES + 5 {
            gathered.count(series(&format!("s{n}")), 1);
        }
        gathered.count(series("s0"), 1);
        gathered.time(series("t"), Duration::ZERO);
        assert_eq!(gathered.counters.len(), MAX_SERIES);
        assert_eq!(gathered.counters[&series("s0")], 2);
        assert_eq!(gathered.dropped, 6);
    }

    #[test]
    fn a_gauge_that_is_no_number_is_dropped() {
        let mut gathered = Gathered::default();
        gathered.gauge(series("g"), f64::NAN);
        gathered.gauge(series("g"), f64::INFINITY);
        assert_eq!((gathered.gauges.len(), gathered.dropped), (0, 2));
    }

    #[test]
    fn the_sample_of_a_timer_is_bounded_and_fair() {
        let mut observations = Observations::default();
        for ms in 0..10_000 {
            observations.add(Duration::from_millis(ms));
        }
        assert_eq!(observations.kept.len(), MAX_OBSERVATIONS);
        assert_eq!(observations.seen, 10_000);
        let total: Duration = observations.kept.iter().sum();
        let mean = total.as_millis() / MAX_OBSERVATIONS as u128;
        assert!((4_000..6_000).contains(&mean), "mean {mean} of 0..10,000");
    }
}
