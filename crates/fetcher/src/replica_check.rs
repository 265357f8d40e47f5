//! What a replica of the source must have before a range is read from it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use app::lock;
use batch::{RunId, Task};
use serde::Deserialize;
use stores::clickhouse::read::compare_columns;
use stores::clickhouse::{Error, Query, Replica};

use crate::config::FetcherSettings;
use crate::range_reader::ReadError;

/// How long a delay is used: a range is read in seconds, and no delay grows faster than time.
const MAX_DELAY_AGE: Duration = Duration::from_secs(5);

// Settings that older servers do not know, and refuse.
/// From 25.3 on: with it the source reads filtered rows in blocks of a whole granule, whatever `max_block_size` is, and
/// remembers conditions that never come again.
const CONDITION_CACHE: &str = "use_query_condition_cache";
/// From 26.9 on: joins the few rows that a selective read leaves of each block.
const RECORD_BATCH_SIZE: &str = "output_format_arrow_record_batch_size";

/// Checks replicas, and remembers by their addresses what they had.
pub(crate) struct ReplicaCheck {
    max_delay_seconds: u64,
    delays: Mutex<HashMap<String, KnownDelay>>,
    checked: Mutex<HashMap<String, Arc<CheckedReplica>>>,
}

/// How far the table of a run was behind.
#[derive(Clone)]
struct KnownDelay {
    run: RunId,
    at: Instant,
    seconds: u64,
}

/// A replica that has all columns of a run's plan.
#[derive(Debug)]
pub(crate) struct CheckedReplica {
    run: RunId,
    /// Of the settings above, those that this server knows.
    known_settings: Vec<String>,
}

impl ReplicaCheck {
    /// A replica that is behind by more than `max_delay_seconds` fails the check.
    pub fn new(max_delay_seconds: u64) -> Self {
        Self {
            max_delay_seconds,
            delays: Mutex::default(),
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
        let address = replica.address().to_owned();
        let (seconds, max) = (self.delay(replica, task).await?, self.max_delay_seconds);
        if seconds > max {
            return Err(ReadError::Unusable {
                replica: address,
                problem: format!(
                    "it is {seconds} s behind; source.max_replica_delay_seconds allows {max} s"
                ),
            });
        }
        let checked = lock(&self.checked).get(&address).cloned();
        if let Some(checked) = checked.filter(|checked| checked.run == task.run) {
            return Ok(checked);
        }
        let (database, table) = (&task.plan.database, &task.plan.table);
        let found = replica.describe(database, table).await?;
        let found = found.map_or_else(Vec::new, |table| table.readable_columns());
        compare_columns(task.shard, &task.plan, &found).map_err(ReadError::Task)?;
        let checked = Arc::new(CheckedReplica {
            run: task.run.clone(),
            known_settings: known_settings(replica).await?,
        });
        lock(&self.checked).insert(address, checked.clone());
        Ok(checked)
    }

    /// Seconds since the oldest change that the replica knows of and has not fetched yet; a very large number where it
    /// does not know yet, and 0 where the table is not replicated.
    async fn delay(&self, replica: &Replica, task: &Task) -> Result<u64, Error> {
        let known = lock(&self.delays).get(replica.address()).cloned();
        if let Some(known) = known
            && known.run == task.run
            && known.at.elapsed() < MAX_DELAY_AGE
        {
            return Ok(known.seconds);
        }
        let query = Query::new(
            "SELECT absolute_delay FROM system.replicas \
             WHERE database = {database:String} AND table = {table:String}",
        )
        .param("database", &task.plan.database)
        .param("table", &task.plan.table);
        let rows: Vec<DelayRow> = replica.rows(&query).await?;
        let known = KnownDelay {
            run: task.run.clone(),
            at: Instant::now(),
            seconds: rows.first().map_or(0, |row| row.absolute_delay),
        };
        let seconds = known.seconds;
        lock(&self.delays).insert(replica.address().to_owned(), known);
        Ok(seconds)
    }
}

#[derive(Deserialize)]
struct DelayRow {
    absolute_delay: u64,
}

#[derive(Deserialize)]
struct SettingName {
    name: String,
}

async fn known_settings(replica: &Replica) -> Result<Vec<String>, Error> {
    let sql = format!(
        "SELECT name FROM system.settings WHERE name IN ('{CONDITION_CACHE}', '{RECORD_BATCH_SIZE}')"
    );
    let rows: Vec<SettingName> = replica.rows(&Query::new(sql)).await?;
    Ok(rows.into_iter().map(|row| row.name).collect())
}

impl CheckedReplica {
    /// `select` with the settings that make the answer a stream of small, compressed record batches in the order of the key.
    pub fn tuned(&self, select: Query, settings: &FetcherSettings) -> Query {
        let query = select
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
        let optional = [
            (CONDITION_CACHE, 0),
            // Joined record batches have fewer than twice as many rows: never too many for a batch.
            (RECORD_BATCH_SIZE, (settings.batch_rows / 2).max(1)),
        ];
        let known = |name: &str| self.known_settings.iter().any(|known| known == name);
        let known = optional.into_iter().filter(|(name, _)| known(name));
        known.fold(query, |query, (name, value)| query.setting(name, value))
    }
}
