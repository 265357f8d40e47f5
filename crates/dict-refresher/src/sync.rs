//! Brings the replicas of a shard into sync: what was written to any of them is on all of them.

use std::time::Duration;

use app::lock;
use batch::{Fact, Reason};
use futures_util::future::join_all;
use serde::Deserialize;
use stores::Class;
use stores::clickhouse::{
    Error, Query, Replica, TargetSettings, classify, qualified, quote_identifier, quote_string,
};
use tokio::time::{Instant, timeout};

use crate::failure::{RefreshFailure, RefreshStep, shortened};
use crate::shard::ShardRefresh;

const STEP: RefreshStep = RefreshStep::Sync;

/// What a request gets beyond the server's own limit, for the answer that it was reached.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a replica is not known to be in sync.
#[derive(Debug, Clone)]
struct NotInSync {
    why: String,
    /// Of what no waiting makes better.
    lasting: Option<Reason>,
}

#[derive(Debug, Deserialize)]
struct Lag {
    absolute_delay: u64,
    queue_size: u64,
    is_readonly: u8,
}

impl ShardRefresh<'_> {
    /// Waits for all replicas of the shard at once; sends a fact about each as soon as it is known.
    pub async fn sync_replicas(&self) -> Result<(), RefreshFailure> {
        let limit = Duration::from_secs(self.refresher.settings.sync_timeout_seconds);
        let left = limit.saturating_sub(self.waited(limit));
        let left = left.max(Duration::from_secs(1));
        let on_cluster = &self.refresher.settings.sync_on_cluster;
        let results = if on_cluster.is_empty() {
            self.each_by_itself(left).await
        } else {
            self.over_the_cluster(on_cluster, left).await
        };
        lock(&self.refresher.waiting).remove(self.order);
        let replicas = results.len();
        let late: Result<Vec<Option<String>>, RefreshFailure> = results.into_iter().collect();
        let late: Vec<String> = late?.into_iter().flatten().collect();
        if late.is_empty() {
            self.report_synced();
            return Ok(());
        }
        let (n, late) = (late.len(), late.join("; "));
        let text = format!("{n} of {replicas} replicas late: {late}");
        Err(RefreshFailure::retry(STEP, text))
    }

    /// For each replica the result of [`Self::record`].
    async fn each_by_itself(&self, left: Duration) -> Vec<Result<Option<String>, RefreshFailure>> {
        let query = self.sync_query("", left);
        let replicas = self.slow_shard.replicas();
        join_all(replicas.into_iter().map(async |replica| {
            let started = Instant::now();
            let sync = async {
                let replicated = self.is_replicated(replica).await?;
                if replicated {
                    within(left, replica.execute(&query)).await?;
                }
                Ok(replicated)
            };
            let waited = sync.await;
            self.record(replica, started, waited).await
        }))
        .await
    }

    /// One statement for all servers of the cluster; those of this shard are found by their hosts. For each replica the
    /// result of [`Self::record`].
    async fn over_the_cluster(
        &self,
        cluster: &str,
        left: Duration,
    ) -> Vec<Result<Option<String>, RefreshFailure>> {
        let on_cluster = format!("ON CLUSTER {} ", quote_identifier(cluster));
        let query = self
            .sync_query(&on_cluster, left)
            .setting("distributed_ddl_task_timeout", whole_seconds(left))
            // A row for each server, with its error, or none while it is not done.
            .setting("distributed_ddl_output_mode", "never_throw");
        let started = Instant::now();
        let replicas = self.slow_shard.replicas();
        let sync = async {
            let mut replicated = false;
            for replica in &replicas {
                replicated |= self.is_replicated(replica).await?;
            }
            if !replicated {
                return Ok(None);
            }
            let hosts = within(left, self.slow_shard.rows::<HostRow>(&query));
            hosts.await.map(Some)
        };
        let hosts = sync.await;
        join_all(replicas.iter().map(async |replica| {
            let waited = match &hosts {
                Ok(None) => Ok(false),
                Ok(Some(hosts)) => HostRow::check(replica, hosts, cluster).map(|()| true),
                Err(error) => Err(NotInSync::clone(error)),
            };
            self.record(replica, started, waited).await
        }))
        .await
    }

    fn sync_query(&self, on_cluster: &str, left: Duration) -> Query {
        let TargetSettings {
            database, table, ..
        } = &self.refresher.target;
        let table = qualified(database, table);
        let sql = format!("SYSTEM SYNC REPLICA {on_cluster}{table} LIGHTWEIGHT");
        // The server's own limit is the one of network waits: `SYNC REPLICA` has no other.
        Query::new(sql).setting("receive_timeout", whole_seconds(left))
    }

    async fn is_replicated(&self, replica: &Replica) -> Result<bool, NotInSync> {
        let TargetSettings {
            database, table, ..
        } = &self.refresher.target;
        let found = replica.describe(database, table).await?;
        let found = found.ok_or_else(|| NotInSync {
            why: "the table does not exist".to_owned(),
            lasting: Some(Reason::MissingTarget),
        })?;
        let kinds = ["Replicated", "Shared"];
        Ok(kinds.iter().any(|kind| found.engine.starts_with(kind)))
    }

    /// Sends the receipt of a replica, unless it had nothing to wait for; returns why it is late, if it is. Fails with
    /// what no waiting makes better.
    async fn record(
        &self,
        replica: &Replica,
        started: Instant,
        waited: Result<bool, NotInSync>,
    ) -> Result<Option<String>, RefreshFailure> {
        let (shard, address) = (self.order.shard, replica.address().to_owned());
        let NotInSync { why, lasting } = match waited {
            Ok(waited) => {
                if waited {
                    let _ = self.facts.send(Fact::ReplicaSynced {
                        shard,
                        replica: address,
                        took_ms: started.elapsed().as_millis() as u64,
                    });
                }
                return Ok(None);
            }
            Err(error) => error,
        };
        if let Some(reason) = lasting {
            let TargetSettings {
                database, table, ..
            } = &self.refresher.target;
            let text = format!("{address}: {database}.{table}: {why}");
            return Err(RefreshFailure::quarantine(STEP, reason, text));
        }
        let lag = self.lag(replica).await;
        let behind = match &lag {
            None => "does not tell how far it is behind".to_owned(),
            Some(lag) => format!(
                "is {} s behind, with {} entries in its queue{}",
                lag.absolute_delay,
                lag.queue_size,
                if lag.is_readonly == 0 {
                    ""
                } else {
                    ", and read-only"
                }
            ),
        };
        let error = shortened(format!("{behind}: {why}"));
        let late = format!("{address} {error}");
        let _ = self.facts.send(Fact::ReplicaLate {
            shard,
            replica: address,
            behind_seconds: lag.map(|lag| lag.absolute_delay),
            error,
        });
        Ok(Some(late))
    }

    async fn lag(&self, replica: &Replica) -> Option<Lag> {
        let query = Query::new(
            "SELECT absolute_delay, toUInt64(queue_size) AS queue_size, is_readonly FROM system.replicas \
             WHERE database = {database:String} AND table = {table:String}",
        )
        .param("database", &self.refresher.target.database)
        .param("table", &self.refresher.target.table);
        // The connection itself bears the silence of a whole sync.
        let rows = timeout(ANSWER_TIMEOUT, replica.rows::<Lag>(&query)).await;
        rows.ok()?.ok()?.into_iter().next()
    }

    /// How long the order has waited for its replicas by now.
    fn waited(&self, limit: Duration) -> Duration {
        let mut waiting = lock(&self.refresher.waiting);
        // Another process took the others over.
        waiting.retain(|_, since| since.elapsed() < limit * 3);
        let since = waiting.entry(self.order.clone());
        since.or_insert_with(Instant::now).elapsed()
    }
}

async fn within<T>(
    left: Duration,
    request: impl Future<Output = Result<T, Error>>,
) -> Result<T, NotInSync> {
    match timeout(left + ANSWER_TIMEOUT, request).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(format!("no answer in {} s", whole_seconds(left)).into()),
    }
}

/// Rounded up: the server takes 0 for no limit.
fn whole_seconds(left: Duration) -> u64 {
    left.as_secs_f64().ceil() as u64
}

impl From<Error> for NotInSync {
    fn from(error: Error) -> Self {
        let lasting = match classify(&error) {
            Class::Quarantine(reason) => Some(reason),
            Class::RetryNow
            | Class::RetryLater
            | Class::Pause
            | Class::Refused
            | Class::TooLarge => None,
        };
        let why = error.to_string();
        Self { why, lasting }
    }
}

impl From<String> for NotInSync {
    fn from(why: String) -> Self {
        let lasting = None;
        Self { why, lasting }
    }
}

/// A row of the answer to a statement `ON CLUSTER`.
#[derive(Debug, Deserialize)]
struct HostRow {
    host: String,
    /// 0 when it was done; absent while it is not.
    status: Option<i64>,
    #[serde(default)]
    error: Option<String>,
}

impl HostRow {
    /// A host may hold several servers of the cluster: all of them must be in sync.
    fn check(replica: &Replica, hosts: &[Self], cluster: &str) -> Result<(), NotInSync> {
        let url = url::Url::parse(replica.address()).ok();
        let name = url.as_ref().and_then(url::Url::host_str);
        let name = name.unwrap_or_default().trim_matches(['[', ']']);
        let own: Vec<&Self> = hosts.iter().filter(|row| row.host == name).collect();
        if own.is_empty() {
            let names: Vec<_> = hosts.iter().map(|row| row.host.as_str()).collect();
            let (cluster, names) = (quote_string(cluster), names.join(", "));
            return Err(NotInSync::from(format!(
                "cluster {cluster} has no host {name}, only {names}: name the replicas in clickhouse.cluster as it does, \
                 or leave sync_on_cluster empty"
            )));
        }
        match own.into_iter().find(|row| row.status != Some(0)) {
            None => Ok(()),
            Some(Self { status: None, .. }) => Err("it was not done in time".to_owned().into()),
            Some(row) => Err(row.error.clone().unwrap_or_default().into()),
        }
    }
}
