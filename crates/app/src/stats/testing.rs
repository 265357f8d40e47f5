//! Stats that are read back, which only tests do.

use std::sync::Arc;

use super::gathered::Gathered;
use super::name::Series;
use super::{Inner, Labels, Shared, Stats};
use crate::StatsStyle;

impl Stats {
    /// Sends nothing and forgets nothing.
    pub fn in_memory() -> Self {
        Self(Some(Arc::new(Inner {
            style: StatsStyle::Equals,
            gathered: Arc::new(Shared::default()),
            flushes: None,
        })))
    }

    /// What a counter has counted and not yet sent: all of it for [`Stats::in_memory`].
    pub fn counter(&self, name: &str, labels: &Labels<'_>) -> u64 {
        let total = self.read(name, labels, |gathered, series| {
            gathered.counters.get(series).copied()
        });
        total.unwrap_or_default()
    }

    /// The last value of a gauge that was not yet sent.
    pub fn gauge_value(&self, name: &str, labels: &Labels<'_>) -> Option<f64> {
        self.read(name, labels, |gathered, series| {
            gathered.gauges.get(series).copied()
        })
    }

    /// How many observations of a timer were not yet sent.
    pub fn observations(&self, name: &str, labels: &Labels<'_>) -> u64 {
        let seen = self.read(name, labels, |gathered, series| {
            gathered.timers.get(series).map(|timer| timer.seen)
        });
        seen.unwrap_or_default()
    }

    fn read<T>(
        &self,
        name: &str,
        labels: &Labels<'_>,
        get: impl FnOnce(&Gathered, &Series) -> Option<T>,
    ) -> Option<T> {
        let inner = self.0.as_ref()?;
        let series = Series::new(inner.style, name, labels);
        get(&inner.gathered.lock(), &series)
    }
}
