//! One INSERT: retried, and held back while its shard takes no writes.

use std::time::{Duration, Instant};

use app::App;
use batch::arrow::Frame;
use batch::{BatchId, Invalid};
use bytes::Bytes;
use pipeline::{Outcome, paused};
use sha2::{Digest, Sha256};
use stores::clickhouse::{Cluster, Error, Query, Shard, classify};
use stores::{CircuitBreakers, Class, RequestLimit};
use tokio::sync::OnceCell;

use crate::columns::InsertColumns;
use crate::search::RowStore;

/// Pauses before an insert that no replica could be reached for is tried again. Together they outlast the
/// restart of a server behind a balancer; a longer outage is for the delay queues.
const RETRY_PAUSES: [Duration; 3] = [
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(3),
];

/// Rows and bytes below which the server joins the blocks of one INSERT into one part. These are the
/// server's own defaults, far above a group; a profile may have smaller ones, and every part costs a merge.
const BLOCK_ROWS: u64 = 1_048_449;
const BLOCK_BYTES: u64 = 256 << 20;

/// The tables that a program inserts into: one on each shard.
pub(crate) struct InsertTarget {
    pub app: App,
    pub cluster: Cluster,
    pub database: String,
    pub table: String,
    /// Key columns of the table, once a shard has described it.
    pub key: OnceCell<Vec<String>>,
    pub breakers: CircuitBreakers,
    /// Bytes of one INSERT, learnt from answers.
    pub limit: RequestLimit,
}

/// The inserts of one group: batches of one shard and one schema.
pub(crate) struct Inserter<'a> {
    target: &'a InsertTarget,
    shard: &'a Shard,
    columns: &'a InsertColumns,
    statement: String,
    /// Hash of the ids of the group's batches, in order.
    group: Sha256,
}

impl<'a> Inserter<'a> {
    pub fn new(
        target: &'a InsertTarget,
        shard: &'a Shard,
        columns: &'a InsertColumns,
        batches: impl Iterator<Item = BatchId>,
    ) -> Self {
        let mut group = Sha256::new();
        for id in batches {
            group.update(id.to_string());
            group.update(b"\n");
        }
        Self {
            target,
            shard,
            columns,
            statement: columns.insert_statement(&target.database, &target.table),
            group,
        }
    }

    /// Names an insert by the batches that it belongs to and by its rows. The rows are part of it
    /// because an id alone does not tell them: a repaired batch, or one that was read again, has the same.
    fn token(&self, frames: &[Frame]) -> String {
        let mut hash = self.group.clone();
        frames.iter().for_each(|frame| hash.update(frame.bytes()));
        let first = &hash.finalize()[..16];
        first.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn query(&self, token: &str) -> Query {
        Query::new(&self.statement)
            .deduplication_token(token)
            .setting("min_insert_block_size_rows", BLOCK_ROWS)
            .setting("min_insert_block_size_bytes", BLOCK_BYTES)
            .setting("max_insert_threads", 1)
    }

    /// Tries until the insert is answered, or has failed as often as is worth waiting for.
    async fn try_insert(&self, query: &Query, pieces: &[Bytes]) -> Result<(), Error> {
        let mut pauses = RETRY_PAUSES.iter();
        loop {
            let Err(error) = self.shard.insert(query, pieces.to_vec()).await else {
                return Ok(());
            };
            let pause = pauses
                .next()
                .filter(|_| classify(&error) == Class::RetryNow);
            let Some(pause) = pause else {
                return Err(error);
            };
            tokio::select! {
                () = self.target.app.shutdown.triggered() => return Err(error),
                () = tokio::time::sleep(*pause) => {}
            }
        }
    }

    fn failed(&self, error: &Error) -> Outcome {
        let (database, table) = (&self.target.database, &self.target.table);
        let at = format!("table {database}.{table} of shard {}", self.shard.number());
        match classify(error) {
            Class::Quarantine(reason) => Invalid::new(reason, format!("{at}: {error}")).into(),
            _ => Outcome::retry(error, at),
        }
    }
}

impl RowStore for Inserter<'_> {
    async fn insert(&self, frames: Vec<Frame>) -> Result<Option<String>, Outcome> {
        let InsertTarget {
            app,
            breakers,
            limit,
            ..
        } = self.target;
        let endpoint = format!("shard {}", self.shard.number());
        let query = self.query(&self.token(&frames));
        let pieces = batch::arrow::join(self.columns.schema_message(), &frames);
        let bytes = pieces.iter().map(Bytes::len).sum();
        let divisible = frames.iter().map(|frame| frame.rows).sum::<u64>() > 1;
        if divisible && !limit.allows(bytes) {
            let limit = limit.bytes();
            return Ok(Some(format!(
                "larger than the {limit} bytes that are taken"
            )));
        }
        let mut tripped_since = None;
        loop {
            let permit = breakers.acquire(&endpoint, &mut tripped_since).await;
            let _permit = permit.map_err(paused)?;
            let started = Instant::now();
            let result = self.try_insert(&query, &pieces).await;
            app.stats.time("insert", &[], started.elapsed());
            let refused = match result {
                Ok(()) => None,
                Err(error) => match classify(&error) {
                    // What the server says of the rows, without where the server is.
                    Class::Refused => Some(error.kind.to_string()),
                    Class::TooLarge => {
                        if divisible {
                            limit.lower(bytes, &error);
                        }
                        // The answer of a proxy: it says nothing of the shard.
                        return Ok(Some(format!("{} (of {bytes} bytes)", error.kind)));
                    }
                    Class::Pause => {
                        breakers.trip(&endpoint, &error.to_string());
                        continue;
                    }
                    _ => return Err(self.failed(&error)),
                },
            };
            breakers.reset(&endpoint);
            return Ok(refused);
        }
    }
}
