//! What a replica of the source must have before a range is read from it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use batch::{RunId, Task};
use serde::Deserialize;
use stores::clickhouse::read::compare_columns;
use stores::clickhouse::{Error, Query, Replica};

use crate::config::FetcherSettings;
use crate::delays::ReplicaDelays;
use crate::range_reader::ReadError;

/// Checks replicas, and remembers by their addresses those that passed.
pub(crate) struct ReplicaCheck {
    delays: ReplicaDelays,
    checked: Mutex<HashMap<String, Arc<CheckedReplica>>>,
}

/// A replica that has all columns of a run's plan.
#[derive(Debug)]
pub(crate) struct CheckedReplica {
    run: RunId,
    /// Of [`OPTIONAL`], the settings that this server knows.
    known_settings: Vec<String>,
}

/// Settings that older servers do not know, and refuse.
const OPTIONAL: [&str; 2] = [
    // From 25.3 on: with it the source reads filtered rows in blocks of a whole granule, whatever
    // `max_block_size` says, and remembers conditions that never come again.
    "use_query_condition_cache",
    // From 26.9 on: joins the few rows that a selective read leaves of each block.
    "output_format_arrow_record_batch_size",
];

impl ReplicaCheck {
    /// A replica that is behind by more than `max_replica_delay_seconds` fails the check.
    pub fn new(max_replica_delay_seconds: u64) -> Self {
        Self {
            delays: ReplicaDelays::new(max_replica_delay_seconds),
            checked: Mutex::default(),
        }
    }

    /// Checks that the replica is not too far behind its shard's others and, once for each run and replica, that it
    /// has every column of the plan with the plan's type. Tasks that arrive during the first check make one too.
    pub async fn check(
        &self,
        replica: &Replica,
        task: &Task,
    ) -> Result<Arc<CheckedReplica>, ReadError> {
        if let Some(problem) = self.delays.too_long(replica, task).await? {
            let replica = replica.address().to_owned();
            return Err(ReadError::Behind { replica, problem });
        }
        if let Some(checked) = self.lock().get(replica.address())
            && checked.run == task.run
        {
            return Ok(checked.clone());
        }
        let found = replica
            .describe(&task.plan.database, &task.plan.table)
            .await?;
        let found = found.map_or_else(Vec::new, |table| table.readable_columns());
        compare_columns(task.shard, &task.plan, &found).map_err(ReadError::Task)?;
        let checked = Arc::new(CheckedReplica {
            run: task.run.clone(),
            known_settings: known_settings(replica).await?,
        });
        let address = replica.address().to_owned();
        self.lock().insert(address, checked.clone());
        Ok(checked)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<CheckedReplica>>> {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CheckedReplica {
    /// `select` with the settings that make the answer a stream of small, compressed record batches in the order of the key.
    pub fn tuned(&self, select: Query, settings: &FetcherSettings) -> Query {
        let query = select
            // Plain columns: text as Utf8, no dictionaries.
            .setting("output_format_arrow_string_as_string", 1)
            .setting("output_format_arrow_low_cardinality_as_dictionary", 0)
            .setting("output_format_arrow_compression_method", "lz4_frame")
            // Blocks of exactly this number of rows: otherwise their bytes decide too.
            .setting("max_block_size", settings.scroll_rows)
            .setting("preferred_block_size_bytes", 0)
            .setting("max_threads", settings.max_threads)
            .setting("output_format_parallel_formatting", 0)
            // A fetcher that stops in mid-stream does not need the rest.
            .setting("cancel_http_readonly_queries_on_client_close", 1)
            // The broker may hold the fetcher back for longer than the server's 30 s.
            .setting("http_send_timeout", 300);
        let optional = OPTIONAL
            .into_iter()
            .filter(|name| self.known_settings.iter().any(|known| known == name));
        optional.fold(query, |query, name| {
            let value = match name {
                "use_query_condition_cache" => 0,
                // Joined record batches have fewer than twice as many rows: never too many for a batch.
                _ => (settings.batch_rows / 2).max(1),
            };
            query.setting(name, value)
        })
    }
}

async fn known_settings(replica: &Replica) -> Result<Vec<String>, Error> {
    #[derive(Deserialize)]
    struct SettingName {
        name: String,
    }
    let names = OPTIONAL.map(|name| format!("'{name}'")).join(", ");
    let sql = format!("SELECT name FROM system.settings WHERE name IN ({names})");
    let rows: Vec<SettingName> = replica.rows(&Query::new(sql)).await?;
    Ok(rows.into_iter().map(|row| row.name).collect())
}
