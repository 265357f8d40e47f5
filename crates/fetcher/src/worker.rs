use std::time::{Duration, Instant};

use app::App;
use batch::{BatchId, Fact, Headers, Invalid, Message, Task, header};
use pipeline::{Job, Outcome, Worker, receipt};
use stores::clickhouse::{Cluster, ConfigError, Replica, SourceSettings};

use crate::config::FetcherSettings;
use crate::cutter::Cut;
use crate::reading::{Broken, Reading};
use crate::source::ReplicaChecks;

/// Replicas that one delivery of a task tries at most, and so the attempts that it may count.
const MOST_TRIES: u32 = 8;

/// A range that no replica may be asked for comes again after this: what it waits for is a person's hand,
/// or the next interval of a quota.
const SNOOZE: Duration = Duration::from_secs(60);

/// Reads ranges of the hub and cuts them into batches.
pub struct Fetcher {
    app: App,
    cluster: Cluster,
    settings: FetcherSettings,
    sources: ReplicaChecks,
}

/// What one attempt has read.
#[derive(Default)]
struct Fetched {
    batches: u32,
    rows: u64,
    bytes: u64,
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
            sources: ReplicaChecks::new(source.max_replica_delay_seconds),
        })
    }

    /// Reads the whole range from one replica and sends its batches on as they come.
    async fn fetch(
        &self,
        job: &mut Job,
        task: &Task,
        attempt: u32,
        replica: &Replica,
    ) -> Result<Fetched, Broken> {
        let mut fetched = Fetched::default();
        let mut reading = Reading::begin(replica, &self.sources, task, &self.settings).await?;
        while let Some(batch) = reading.next_batch().await? {
            let id = BatchId {
                task: task.task,
                attempt,
                sequence: fetched.batches,
            };
            fetched.batches += 1;
            fetched.rows += batch.rows;
            fetched.bytes += batch.body.len() as u64;
            let message = batch_message(task, id, batch);
            job.send("batches", message).await;
        }
        Ok(fetched)
    }

    async fn fetched(&self, job: &mut Job, task: &Task, attempt: u32, fetched: Fetched) {
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
        job.send("receipts", receipt(&task.run, fact).to_message())
            .await;
    }
}

impl Worker for Fetcher {
    const RECEIPTS: &'static str = "receipts";

    /// Batches of a broken attempt may be out when it breaks, and stay so: the next replica's are of another
    /// attempt, the ledger counts the batches of the one attempt that has read its range to the end, and a row
    /// that is stored twice is stored once.
    async fn process(&self, job: &mut Job) -> Outcome {
        let task = match Task::from_message(job.message()) {
            Ok(task) => task,
            Err(invalid) => return invalid.into(),
        };
        let shard = match self.cluster.shard(task.shard) {
            Ok(shard) => shard,
            Err(invalid) => return invalid.into(),
        };
        let mut failures = Vec::new();
        for (attempt, replica) in attempts(job.attempt()).zip(shard.replicas()) {
            let started = Instant::now();
            let broken = match self.fetch(job, &task, attempt, replica).await {
                Ok(fetched) => {
                    self.app.stats.time("read", &[], started.elapsed());
                    self.fetched(job, &task, attempt, fetched).await;
                    return Outcome::Done;
                }
                Err(broken) => broken,
            };
            match broken {
                Broken::Task(invalid) => return invalid.into(),
                Broken::Answer { .. } | Broken::Behind { .. } => replica.mark_down(),
                // Done already, if it is the replica's fault.
                Broken::Replica(_) => {}
            }
            tracing::warn!(task = %task.task, attempt, error = %broken, "an attempt failed");
            let fact = Fact::FetchFailed {
                task: task.task,
                attempt,
                error: broken.to_string(),
            };
            job.send("receipts", receipt(&task.run, fact).to_message())
                .await;
            failures.push(broken);
        }
        given_up(task.shard, &failures)
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

/// The attempts of one delivery of a task: each replica that it tries counts as one, so that no two have the
/// same batches' names.
fn attempts(delivery: u32) -> impl Iterator<Item = u32> {
    let before = delivery.saturating_sub(1).saturating_mul(MOST_TRIES);
    (1..=MOST_TRIES).map(move |n| before.saturating_add(n))
}

/// After the last replica: tried again later, unless the last one's fault is one that lasts. It costs no
/// attempt where a replica wants to be asked no more for now.
fn given_up(shard: u32, failures: &[Broken]) -> Outcome {
    if let Some(invalid) = failures.last().and_then(Broken::lasting) {
        return invalid.into();
    }
    let errors: Vec<_> = failures.iter().map(Broken::to_string).collect();
    let errors = errors.join("; ");
    if failures.iter().any(Broken::pauses) {
        let why = format!("shard {shard}: {errors}");
        return Outcome::Snooze { why, delay: SNOOZE };
    }
    Outcome::retry(errors, format!("shard {shard}"))
}

fn batch_message(task: &Task, id: BatchId, batch: Cut) -> Message {
    let headers = Headers::of_batch(&task.run, id, task.shard, batch.rows);
    Message::new(headers, batch.body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_tries_of_any_two_deliveries_are_the_same_attempt() {
        let of = |delivery| attempts(delivery).collect::<Vec<_>>();
        assert_eq!(of(1), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(of(2)[0], 9);
        assert_eq!(of(u32::MAX).last(), Some(&u32::MAX));
    }
}
