//! One insert, with all that may come in its way.

use std::fmt::Write;
use std::time::{Duration, Instant};

use app::App;
use batch::arrow::Frame;
use batch::{BatchId, Invalid};
use bytes::Bytes;
use pipeline::Outcome;
use sha2::{Digest, Sha256};
use stores::clickhouse::{Cluster, Error, Query, Shard, classify};
use stores::{CircuitBreakers, Class};

use crate::layout::Layout;
use crate::search::{Store, Verdict};

/// Pauses before an insert that no replica could be reached for is tried again. Together they outlast the
/// restart of a server behind a balancer; a longer outage is for the delay queues.
const AGAIN_AFTER: [Duration; 3] = [
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(3),
];

/// What is put off while a shard takes no rows comes again after this: the first retry delay, so that it
/// is soon there when the shard takes rows again.
const SNOOZE: Duration = Duration::from_secs(10);

/// Rows and bytes below which the server joins the blocks of one INSERT into one part. These are the
/// server's own defaults, far above a group; a profile may have smaller ones, and every part costs a merge.
const BLOCK_ROWS: u64 = 1_048_449;
const BLOCK_BYTES: u64 = 256 << 20;

/// Where a program's inserts go.
pub(crate) struct Target {
    pub app: App,
    pub cluster: Cluster,
    pub database: String,
    pub table: String,
    pub breakers: CircuitBreakers,
}

/// The inserts of one group: batches of one shard and one layout.
pub(crate) struct Inserter<'a> {
    target: &'a Target,
    shard: &'a Shard,
    statement: String,
    schema: Bytes,
    /// Hash of the ids of the group's batches, in order.
    group: Sha256,
}

impl<'a> Inserter<'a> {
    pub fn new<'b>(
        target: &'a Target,
        shard: &'a Shard,
        layout: &Layout,
        batches: impl Iterator<Item = &'b BatchId>,
    ) -> Result<Self, Invalid> {
        let mut group = Sha256::new();
        for id in batches {
            group.update(id.to_string());
            group.update(b"\n");
        }
        Ok(Self {
            target,
            shard,
            statement: layout.insert_statement(&target.database, &target.table),
            schema: layout.schema_message()?,
            group,
        })
    }

    /// Names an insert by the batches that it belongs to and by its rows. The rows are part of it
    /// because an id alone does not tell them: a repaired batch, or one that was read again, has the same.
    fn token(&self, frames: &[Frame]) -> String {
        let mut hash = self.group.clone();
        frames.iter().for_each(|frame| hash.update(frame.bytes()));
        let mut token = String::with_capacity(32);
        for byte in &hash.finalize()[..16] {
            write!(token, "{byte:02x}").expect("a string takes everything");
        }
        token
    }

    fn query(&self, token: &str) -> Query {
        Query::new(&self.statement)
            .deduplication_token(token)
            .setting("async_insert", 0)
            .setting("insert_deduplicate", 1)
            // A NULL for a column that takes none is to be refused, not turned into a zero.
            .setting("input_format_null_as_default", 0)
            .setting("min_insert_block_size_rows", BLOCK_ROWS)
            .setting("min_insert_block_size_bytes", BLOCK_BYTES)
            .setting("max_insert_threads", 1)
    }

    /// Tries until the insert is judged, or failed as often as is worth waiting for.
    async fn try_insert(&self, query: &Query, pieces: &[Bytes]) -> Result<(), Error> {
        let mut pauses = AGAIN_AFTER.iter();
        loop {
            let error = match self.shard.insert(query, pieces.to_vec()).await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            let pause = match classify(&error) {
                Class::RetryNow => pauses.next(),
                _ => None,
            };
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
        let table = format!("{}.{}", self.target.database, self.target.table);
        match classify(error) {
            Class::Quarantine(reason) => Invalid::new(
                reason,
                format!("table {table} of shard {}: {error}", self.shard.number()),
            )
            .into(),
            _ => Outcome::retry(
                error,
                format!("table {table} of shard {}", self.shard.number()),
            ),
        }
    }
}

impl Store for Inserter<'_> {
    async fn insert(&self, frames: Vec<Frame>) -> Verdict {
        let breakers = &self.target.breakers;
        let place = format!("shard {}", self.shard.number());
        let query = self.query(&self.token(&frames));
        let pieces = batch::arrow::join(&self.schema, &frames);
        let mut tripped_since = None;
        loop {
            let permit = match breakers.acquire(&place, &mut tripped_since).await {
                Ok(permit) => permit,
                Err(why) => return Verdict::Failed(Outcome::Snooze { why, delay: SNOOZE }),
            };
            let started = Instant::now();
            let result = self.try_insert(&query, &pieces).await;
            self.target.app.stats.time("insert", &[], started.elapsed());
            let verdict = match result {
                Ok(()) => Verdict::Taken,
                Err(error) => match classify(&error) {
                    Class::Refused => Verdict::Refused(reason(&error)),
                    Class::Pause => {
                        breakers.trip(&place, &error.to_string());
                        drop(permit);
                        continue;
                    }
                    _ => return Verdict::Failed(self.failed(&error)),
                },
            };
            breakers.reset(&place);
            return verdict;
        }
    }
}

/// What the server says of the rows, without where the server is.
fn reason(error: &Error) -> String {
    match error {
        Error::Exception {
            code,
            name,
            message,
            ..
        } => format!("{message} ({name}, code {code})"),
        other => other.to_string(),
    }
}
