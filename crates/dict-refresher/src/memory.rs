//! Whether a server has the memory for a second dictionary.

use serde::Deserialize;
use stores::Class;
use stores::clickhouse::{Query, classify};

use crate::failure::{RefreshFailure, RefreshStep};
use crate::replica::ReplicaRefresh;
use crate::state::ReplicaDictionaries;

const STEP: RefreshStep = RefreshStep::RefreshDict;

/// What the server may still take of its own limit, and what its machine and its container have left, each where the
/// server knows it: not every release has all the tables. The page cache of a container is left out of what it uses: it
/// is freed when memory is needed.
const SOURCES: [&str; 2] = [
    "SELECT 'max_server_memory_usage' AS source, toUInt64(greatest(limit - used, 0)) AS free FROM \
     (SELECT (SELECT toInt64(value) FROM system.server_settings WHERE name = 'max_server_memory_usage') AS limit, \
     (SELECT value FROM system.metrics WHERE metric = 'MemoryTracking') AS used) WHERE limit > 0",
    "SELECT source, toUInt64(greatest(value, 0)) AS free FROM \
     (SELECT 'OSMemoryAvailable' AS source, value FROM system.asynchronous_metrics WHERE metric = 'OSMemoryAvailable' \
     UNION ALL SELECT 'CGroupMemoryTotal' AS source, sumIf(value, metric = 'CGroupMemoryTotal') \
     - multiIf(countIf(metric = 'CGroupMemoryUsedWithoutPageCache') > 0, \
     sumIf(value, metric = 'CGroupMemoryUsedWithoutPageCache'), \
     countIf(metric = 'MemoryResident') > 0, sumIf(value, metric = 'MemoryResident'), \
     sumIf(value, metric = 'CGroupMemoryUsed')) FROM system.asynchronous_metrics WHERE metric IN \
     ('CGroupMemoryTotal', 'CGroupMemoryUsedWithoutPageCache', 'MemoryResident', 'CGroupMemoryUsed') \
     HAVING countIf(metric = 'CGroupMemoryTotal') > 0 AND uniqExact(metric) > 1)",
];

#[derive(Debug, Deserialize)]
struct FreeMemory {
    source: String,
    free: u64,
}

impl ReplicaRefresh<'_> {
    /// Refuses to load a dictionary as large as the live one where there is less than `memory_factor` times as much
    /// memory.
    pub async fn check_memory(&self, found: &ReplicaDictionaries) -> Result<(), RefreshFailure> {
        let live_bytes = found.live.as_ref().map_or(0, |live| live.bytes);
        let factor = self.refresher.settings.memory_factor;
        let needed = (live_bytes as f64 * factor) as u64;
        if needed == 0 {
            return Ok(());
        }
        let mut known = Vec::new();
        for sql in SOURCES {
            match self.replica.rows::<FreeMemory>(&Query::new(sql)).await {
                Ok(rows) => known.extend(rows),
                // A table that this server does not have.
                Err(error) if matches!(classify(&error), Class::Quarantine(_)) => {
                    tracing::debug!(%error, "free memory is not known from this source");
                }
                Err(error) => return Err(RefreshFailure::for_statement(STEP, &error)),
            }
        }
        let Some(least) = known.iter().min_by_key(|memory| memory.free) else {
            tracing::warn!(
                replica = self.replica.address(),
                "the server does not know how much memory it has left; loading the dictionary regardless"
            );
            return Ok(());
        };
        if least.free >= needed {
            return Ok(());
        }
        let what = format!(
            "not loaded: {}: {} MB of memory are free ({}), and {} MB are needed: memory_factor {factor} times the {} MB \
         of the live dictionary",
            self.replica.address(),
            least.free >> 20,
            least.source,
            needed >> 20,
            live_bytes >> 20,
        );
        Err(RefreshFailure::retry(STEP, what))
    }
}
