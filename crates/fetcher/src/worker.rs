use std::time::{Duration, Instant};

use app::App;
use batch::{BatchId, Fact, Headers, Invalid, Message, Reason, Task, header};
use pipeline::{BATCHES, Job, Outcome, Worker, receipt};
use stores::clickhouse::{Cluster, ConfigError, Replica, SourceSettings};

use crate::config::FetcherSettings;
use crate::range_reader::{RangeReader, ReadError};
use crate::replica_check::ReplicaCheck;

/// Replicas that one delivery of a task tries at most.
const MAX_REPLICAS: u32 = 8;

/// Delay of a range that no replica may be asked for: it waits for an operator, or for the next interval of a quota.
const PAUSED_DELAY: Duration = Duration::from_secs(60);

/// Reads ranges of the hub and cuts them into batches.
pub struct Fetcher {
    app: App,
    cluster: Cluster,
    settings: FetcherSettings,
    check: ReplicaCheck,
}

/// What one attempt has read.
#[derive(Default)]
struct Fetched {
    batches: u32,
    rows: u64,
    bytes: u64,
}

impl Worker for Fetcher {
    async fn process(&self, job: &mut Job) -> Outcome {
        self.fetch(job).await.unwrap_or_else(Outcome::from)
    }

    fn quarantined(&self, message: &Message, why: &Invalid) -> Option<Message> {
        let headers = &message.headers;
        let fact = Fact::TaskQuarantined {
            task: headers.text(header::TASK)?.parse().ok()?,
            program: self.app.name.to_string(),
            reason: why.reason,
        };
        Some(receipt(&headers.run().ok()?, fact).to_message())
    }
}

impl Fetcher {
    /// Connects to nothing yet; fails when the cluster's addresses are not usable.
    pub fn new(
        app: &App,
        source: &SourceSettings,
        settings: &FetcherSettings,
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            app: app.clone(),
            cluster: Cluster::new(&source.connection())?,
            settings: settings.clone(),
            check: ReplicaCheck::new(source.max_replica_delay_seconds),
        })
    }

    /// Tries the replicas of the range's shard until one has read it, with a receipt for every attempt. Batches of a
    /// failed attempt stay sent: the ledger counts those of the one attempt that read the whole range, and a row that is
    /// stored twice is stored once.
    async fn fetch(&self, job: &mut Job) -> Result<Outcome, Invalid> {
        let task = Task::from_message(job.message())?;
        let shard = self.cluster.shard(task.shard)?;
        let mut failures = Vec::new();
        for (attempt, replica) in attempts(job.attempt()).zip(shard.replicas()) {
            let started = Instant::now();
            let error = match self.read_range(job, &task, attempt, replica).await {
                Ok(fetched) => {
                    self.app.stats.time("read", &[], started.elapsed());
                    self.report(job, &task, attempt, fetched).await;
                    return Ok(Outcome::Done);
                }
                Err(ReadError::Task(invalid)) => return Err(invalid),
                Err(error) => error,
            };
            // The store's client has marked the replica down for its own errors.
            if matches!(error, ReadError::Unusable { .. }) {
                replica.mark_down();
            }
            tracing::warn!(task = %task.task, attempt, %error, "an attempt failed");
            let fact = Fact::FetchFailed {
                task: task.task,
                attempt,
                error: error.to_string(),
            };
            job.report(&task.run, fact).await;
            failures.push(error);
        }
        Ok(give_up(task.shard, &failures))
    }

    /// Reads the whole range from one replica and sends its batches as they come.
    async fn read_range(
        &self,
        job: &mut Job,
        task: &Task,
        attempt: u32,
        replica: &Replica,
    ) -> Result<Fetched, ReadError> {
        let mut fetched = Fetched::default();
        let (mut size, limit) = (self.settings.batch_size(), job.max_message_bytes());
        size.bytes = size.bytes.min(limit.unwrap_or(usize::MAX));
        let settings = &self.settings;
        let mut reader = RangeReader::open(replica, &self.check, task, settings, size).await?;
        while let Some(batch) = reader.next_batch().await? {
            if let Some(limit) = limit.filter(|limit| batch.body.len() > *limit) {
                return Err(ReadError::Task(too_large(batch.body.len(), limit)));
            }
            let id = BatchId {
                task: task.task,
                attempt,
                sequence: fetched.batches,
            };
            fetched.batches += 1;
            fetched.rows += batch.rows;
            fetched.bytes += batch.body.len() as u64;
            let headers = Headers::for_batch(&task.run, id, task.shard, batch.rows);
            job.send(BATCHES, Message::new(headers, batch.body)).await;
        }
        Ok(fetched)
    }

    /// Counts what the successful attempt has read, and sends its receipt.
    async fn report(&self, job: &mut Job, task: &Task, attempt: u32, fetched: Fetched) {
        let stats = &self.app.stats;
        let status = [("status", "fetched")];
        stats.count("batches", &status, fetched.batches.into());
        stats.count("rows", &status, fetched.rows);
        let fact = Fact::Fetched {
            task: task.task,
            attempt,
            shard: task.shard,
            batches: fetched.batches,
            rows: fetched.rows,
            bytes: fetched.bytes,
        };
        job.report(&task.run, fact).await;
    }
}

/// Why a range is not distributed that has a row which alone is larger than any message.
fn too_large(bytes: usize, limit: usize) -> Invalid {
    let detail = format!(
        "a single row of it makes a message of {bytes} bytes, and the broker takes {limit} at most: raise its \
         max_message_size, or shorten the row in the hub"
    );
    Invalid::new(Reason::Oversized, detail)
}

/// The attempts of one delivery of a task, one for each replica that it tries. Their numbers are part of the names of
/// batches: unique within the task, and greater than those of earlier deliveries. They may skip any.
fn attempts(delivery: u32) -> impl Iterator<Item = u32> {
    let before = delivery.saturating_sub(1).saturating_mul(MAX_REPLICAS);
    (1..=MAX_REPLICAS).map(move |n| before.saturating_add(n))
}

/// After the last replica: a retry, unless the last error is permanent, or a snooze, which does not count as a failure,
/// if a replica accepts no query for now.
fn give_up(shard: u32, failures: &[ReadError]) -> Outcome {
    if let Some(invalid) = failures.last().and_then(ReadError::permanent) {
        return invalid.into();
    }
    let errors: Vec<_> = failures.iter().map(ReadError::to_string).collect();
    let (errors, at) = (errors.join("; "), format!("shard {shard}"));
    if failures.iter().any(ReadError::is_pause) {
        let why = format!("{at}: {errors}");
        return Outcome::Snooze {
            why,
            delay: PAUSED_DELAY,
        };
    }
    Outcome::retry(errors, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_tries_of_any_two_deliveries_are_the_same_attempt() {
        let numbers = |delivery| attempts(delivery).collect::<Vec<_>>();
        assert_eq!(numbers(1), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(numbers(2)[0], 9);
        assert_eq!(numbers(u32::MAX).last(), Some(&u32::MAX));
    }
}
