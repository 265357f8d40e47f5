//! Whether a server has the memory for a second dictionary.

use serde::Deserialize;
use stores::Class;
use stores::clickhouse::{Query, Replica, classify};

use crate::failure::{RefreshFailure, RefreshStep};

const STEP: RefreshStep = RefreshStep::RefreshDict;

/// What the server may still take of its own limit, and what its machine and its container have left, each where
/// the server knows it. What a container uses is taken without the page cache, where the server tells that: it is freed
/// when memory is needed, and a server that reads much would seem full. Not every release has all the tables, and the
/// engine alone has no view of its machine.
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

/// Refuses to load a dictionary of about `live_bytes` where there is less than `factor` times as much memory; says how
/// much there is, and of what.
pub(crate) async fn check(
    replica: &Replica,
    live_bytes: u64,
    factor: f64,
) -> Result<(), RefreshFailure> {
    let needed = (live_bytes as f64 * factor) as u64;
    if needed == 0 {
        return Ok(());
    }
    let mut known = Vec::new();
    for sql in SOURCES {
        match replica.rows::<FreeMemory>(&Query::new(sql)).await {
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
            replica = replica.address(),
            "the server does not say how much memory it has left; loading the dictionary all the same"
        );
        return Ok(());
    };
    if least.free >= needed {
        return Ok(());
    }
    let what = format!(
        "not loaded: {}: {} MB of memory are free ({}), and {} MB are needed: memory_factor {factor} times the {} MB \
         of the dictionary that is in place",
        replica.address(),
        least.free >> 20,
        least.source,
        needed >> 20,
        live_bytes >> 20,
    );
    Err(RefreshFailure::retry(STEP, what))
}
