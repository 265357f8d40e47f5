//! Brings the replicas of a shard into sync: what was written to any of them is on all of them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use batch::{Fact, Order, Reason, RunId};
use futures_util::future::join_all;
use serde::Deserialize;
use stores::Class;
use stores::clickhouse::{
    Error, Query, Replica, Shard, TargetSettings, classify, quote_identifier, quote_string,
};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, timeout};

use crate::DictRefresherSettings;
use crate::failure::{RefreshFailure, RefreshStep, shortened};

const STEP: RefreshStep = RefreshStep::Sync;

/// What a request gets beyond the server's own limit, for the answer that it was reached.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) struct Syncer {
    target: TargetSettings,
    limit: Duration,
    on_cluster: String,
    /// Since when an order waits for its replicas: one that is put off meanwhile continues with the time it has left.
    waiting: Mutex<HashMap<OrderKey, Instant>>,
}

/// What tells the orders of all shards apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct OrderKey {
    run: RunId,
    shard: u32,
    expires_at_ms: i64,
}

/// How a replica came to be in sync.
enum InSync {
    Waited,
    NotReplicated,
}

#[derive(Debug, Deserialize)]
struct Lag {
    absolute_delay: u64,
    queue_size: u64,
    is_readonly: u8,
}

impl Syncer {
    pub fn new(target: &TargetSettings, settings: &DictRefresherSettings) -> Self {
        Self {
            target: target.clone(),
            limit: Duration::from_secs(settings.sync_timeout_seconds),
            on_cluster: settings.sync_on_cluster.clone(),
            waiting: Mutex::default(),
        }
    }

    /// Waits for all replicas of the order's shard at once; sends a fact about each as soon as it is known. The servers
    /// of `shard` may be silent for as long.
    pub async fn run(
        &self,
        order: &Order,
        shard: &Shard,
        facts: &UnboundedSender<Fact>,
    ) -> Result<(), RefreshFailure> {
        let key = OrderKey {
            run: order.run.clone(),
            shard: order.shard,
            expires_at_ms: order.expires_at_ms,
        };
        let left = self
            .limit
            .saturating_sub(self.waiting_since(&key).elapsed());
        let left = left.max(Duration::from_secs(1));
        let results = if self.on_cluster.is_empty() {
            self.each_by_itself(shard, left, facts).await
        } else {
            self.over_the_cluster(shard, left, facts).await
        };
        self.lock().remove(&key);
        let replicas = results.len();
        let late: Result<Vec<Option<String>>, RefreshFailure> = results.into_iter().collect();
        let late: Vec<String> = late?.into_iter().flatten().collect();
        if !late.is_empty() {
            let text = format!(
                "{} of {replicas} replicas late: {}",
                late.len(),
                late.join("; ")
            );
            return Err(RefreshFailure::retry(STEP, text));
        }
        let _ = facts.send(Fact::ShardSynced {
            shard: order.shard,
            replicas: replicas as u32,
        });
        Ok(())
    }

    /// For each replica the result of [`Self::record`].
    async fn each_by_itself(
        &self,
        shard: &Shard,
        left: Duration,
        facts: &UnboundedSender<Fact>,
    ) -> Vec<Result<Option<String>, RefreshFailure>> {
        let statement = format!("SYSTEM SYNC REPLICA {} LIGHTWEIGHT", self.table());
        let query = self.limited(Query::new(statement), left);
        join_all(shard.replicas().into_iter().map(async |replica| {
            let started = Instant::now();
            let sync = async {
                if !self.replicated(replica).await? {
                    return Ok(InSync::NotReplicated);
                }
                self.within(left, replica.execute(&query)).await?;
                Ok(InSync::Waited)
            };
            let result = sync.await;
            self.record(shard, replica, started, result, facts).await
        }))
        .await
    }

    /// One statement for all servers of the cluster; those of this shard are found by their hosts. For each replica the
    /// result of [`Self::record`].
    async fn over_the_cluster(
        &self,
        shard: &Shard,
        left: Duration,
        facts: &UnboundedSender<Fact>,
    ) -> Vec<Result<Option<String>, RefreshFailure>> {
        let statement = format!(
            "SYSTEM SYNC REPLICA ON CLUSTER {} {} LIGHTWEIGHT",
            quote_identifier(&self.on_cluster),
            self.table()
        );
        let query = self
            .limited(Query::new(statement), left)
            .setting("distributed_ddl_task_timeout", whole_seconds(left))
            // A row for each server, with its error, or none while it is not done.
            .setting("distributed_ddl_output_mode", "never_throw");
        let started = Instant::now();
        let sync = async {
            let mut replicated = false;
            for replica in shard.replicas() {
                replicated |= self.replicated(replica).await?;
            }
            if !replicated {
                return Ok(None);
            }
            let hosts = self.within(left, shard.rows::<HostRow>(&query)).await?;
            Ok(Some(hosts))
        };
        let hosts = sync.await;
        join_all(shard.replicas().into_iter().map(async |replica| {
            let result = match &hosts {
                Ok(None) => Ok(InSync::NotReplicated),
                Ok(Some(hosts)) => HostRow::result(replica, hosts, &self.on_cluster),
                Err(error) => Err(SyncError::clone(error)),
            };
            self.record(shard, replica, started, result, facts).await
        }))
        .await
    }

    /// The server's own limit is the one of network waits: `SYNC REPLICA` has no other.
    fn limited(&self, query: Query, left: Duration) -> Query {
        query.setting("receive_timeout", whole_seconds(left))
    }

    async fn replicated(&self, replica: &Replica) -> Result<bool, SyncError> {
        #[derive(Deserialize)]
        struct Row {
            engine: String,
        }
        let query = self.about_table(
            "SELECT engine FROM system.tables \
             WHERE database = {database:String} AND name = {table:String}",
        );
        let rows: Vec<Row> = replica.rows(&query).await.map_err(SyncError::Answer)?;
        let Some(row) = rows.first() else {
            return Err(SyncError::NoTable);
        };
        Ok(["Replicated", "Shared"]
            .iter()
            .any(|kind| row.engine.starts_with(kind)))
    }

    async fn within<T>(
        &self,
        left: Duration,
        request: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, SyncError> {
        match timeout(left + ANSWER_TIMEOUT, request).await {
            Ok(answer) => answer.map_err(SyncError::Answer),
            Err(_) => Err(SyncError::Other(format!(
                "no answer in {} s",
                whole_seconds(left)
            ))),
        }
    }

    /// Sends the receipt of a replica; returns why it is late, if it is. Fails with what no waiting makes better.
    async fn record(
        &self,
        shard: &Shard,
        replica: &Replica,
        started: Instant,
        result: Result<InSync, SyncError>,
        facts: &UnboundedSender<Fact>,
    ) -> Result<Option<String>, RefreshFailure> {
        let address = replica.address();
        let error = match result {
            Ok(InSync::NotReplicated) => return Ok(None),
            Ok(InSync::Waited) => {
                let _ = facts.send(Fact::ReplicaSynced {
                    shard: shard.number(),
                    replica: address.to_owned(),
                    took_ms: started.elapsed().as_millis() as u64,
                });
                return Ok(None);
            }
            Err(error) => error,
        };
        if let Some(reason) = error.lasting() {
            let TargetSettings {
                database, table, ..
            } = &self.target;
            let text = format!("{address}: {database}.{table}: {error}");
            return Err(RefreshFailure::quarantine(STEP, reason, text));
        }
        let lag = self.lag(replica).await;
        let error = match &lag {
            Some(lag) => shortened(format!("{lag}: {error}")),
            None => shortened(format!("does not say how far it is behind: {error}")),
        };
        let late = format!("{address} {error}");
        let _ = facts.send(Fact::ReplicaLate {
            shard: shard.number(),
            replica: address.to_owned(),
            behind_seconds: lag.map(|lag| lag.absolute_delay),
            error,
        });
        Ok(Some(late))
    }

    async fn lag(&self, replica: &Replica) -> Option<Lag> {
        let query = self.about_table(
            "SELECT absolute_delay, toUInt64(queue_size) AS queue_size, is_readonly FROM system.replicas \
             WHERE database = {database:String} AND table = {table:String}",
        );
        // The connection itself bears the silence of a whole sync.
        let rows = timeout(ANSWER_TIMEOUT, replica.rows::<Lag>(&query)).await;
        rows.ok()?.ok()?.into_iter().next()
    }

    fn waiting_since(&self, key: &OrderKey) -> Instant {
        let mut waiting = self.lock();
        // Another process took the others over.
        waiting.retain(|_, since| since.elapsed() < self.limit * 3);
        *waiting.entry(key.clone()).or_insert_with(Instant::now)
    }

    fn about_table(&self, sql: &str) -> Query {
        Query::new(sql)
            .param("database", &self.target.database)
            .param("table", &self.target.table)
    }

    fn table(&self) -> String {
        format!(
            "{}.{}",
            quote_identifier(&self.target.database),
            quote_identifier(&self.target.table)
        )
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<OrderKey, Instant>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rounded up: the server takes 0 for no limit.
fn whole_seconds(left: Duration) -> u64 {
    left.as_secs_f64().ceil() as u64
}

impl std::fmt::Display for Lag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            absolute_delay,
            queue_size,
            ..
        } = self;
        write!(
            f,
            "is {absolute_delay} s behind, with {queue_size} entries in its queue"
        )?;
        if self.is_readonly != 0 {
            f.write_str(", and read-only")?;
        }
        Ok(())
    }
}

/// Why a replica is not known to be in sync.
#[derive(Debug, Clone, thiserror::Error)]
enum SyncError {
    #[error("{0}")]
    Answer(Error),
    #[error("the table does not exist")]
    NoTable,
    #[error("{0}")]
    Other(String),
}

impl SyncError {
    /// The reason of what no waiting makes better.
    fn lasting(&self) -> Option<Reason> {
        match self {
            Self::NoTable => Some(Reason::MissingTarget),
            Self::Answer(error) => match classify(error) {
                Class::Quarantine(reason) => Some(reason),
                Class::RetryNow | Class::RetryLater | Class::Pause | Class::Refused => None,
            },
            Self::Other(_) => None,
        }
    }
}

/// A row of the answer to a statement `ON CLUSTER`.
#[derive(Debug, Clone, Deserialize)]
struct HostRow {
    host: String,
    /// 0 when it was done; absent while it is not.
    status: Option<i64>,
    #[serde(default)]
    error: Option<String>,
}

impl HostRow {
    /// A host may hold several servers of the cluster: all of them must be in sync.
    fn result(replica: &Replica, hosts: &[Self], cluster: &str) -> Result<InSync, SyncError> {
        let url = url::Url::parse(replica.address()).ok();
        let name = url.as_ref().and_then(url::Url::host_str);
        let name = name.unwrap_or_default().trim_matches(['[', ']']);
        let mut own = hosts.iter().filter(|row| row.host == name).peekable();
        if own.peek().is_none() {
            let names: Vec<_> = hosts.iter().map(|row| row.host.as_str()).collect();
            return Err(SyncError::Other(format!(
                "cluster {} has no host {name}, only {}: name the replicas in clickhouse.cluster as it does, or leave \
                 sync_on_cluster empty",
                quote_string(cluster),
                names.join(", ")
            )));
        }
        for row in own {
            let error = match row.status {
                Some(0) => continue,
                Some(_) => row.error.clone().unwrap_or_default(),
                None => "it was not done in time".to_owned(),
            };
            return Err(SyncError::Other(error));
        }
        Ok(InSync::Waited)
    }
}
