use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How runs are planned and published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct QueuerSettings {
    /// Ranges that a run is cut into, at least, over all shards together. They are cut at the entries of
    /// the source table's primary index, without reading a row; an entry stands for `index_granularity`
    /// rows of the table (8192 by default). A table of fewer entries is cut into as many ranges as it has entries.
    pub min_ranges: usize,
    /// How far an incremental run reaches back before the end of the last complete run, in seconds: for
    /// rows that become visible some time after their change time.
    pub change_overlap_seconds: u64,
    /// Messages in a queue of tasks, or of batches for a store, above which no more tasks are published until it is
    /// shorter.
    pub max_queue_len: u64,
}

impl Default for QueuerSettings {
    fn default() -> Self {
        Self {
            // Enough for 200 shards to have a few ranges each, and for a failed range to be cheap to read again.
            min_ranges: 1024,
            // Inserts into the hub take seconds; five minutes outlast a slow batch of them, and a replica that lags.
            change_overlap_seconds: 300,
            // A quorum queue keeps an index of its messages in memory: 100,000 of them take some tens of megabytes.
            max_queue_len: 100_000,
        }
    }
}

impl QueuerSettings {
    /// Refuses what cannot work.
    pub fn check(&self) -> Result<(), String> {
        if (1..=MAX_RANGES).contains(&self.min_ranges) {
            return Ok(());
        }
        Err(format!("queuer.min_ranges must be 1 to {MAX_RANGES}"))
    }

    pub(crate) fn overlap_ms(&self) -> i64 {
        i64::try_from(self.change_overlap_seconds.saturating_mul(1_000)).unwrap_or(i64::MAX)
    }
}

/// Every task is a message and at least three receipts.
const MAX_RANGES: usize = 1_000_000;
