//! Brings the replicas of a shard into sync: what was written to any of them is on all of them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use batch::{Fact, Order, RunId};
use futures_util::future::join_all;
use serde::Deserialize;
use stores::Class;
use stores::clickhouse::{
    Error, Query, Replica, Shard, TargetSettings, classify, quote_identifier, quote_string,
};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, timeout};

use crate::DictRefresherSettings;
use crate::failure::{After, Failure, Step, shortened};

const STEP: Step = Step::Sync;

/// What the server's own limit is given beyond it, to answer that it was reached.
pub(crate) const GRACE: Duration = Duration::from_secs(10);

/// Run, shard and `expires_at_ms` of an order.
type Waiting = (RunId, u32, i64);

pub(crate) struct Syncer {
    target: TargetSettings,
    limit: Duration,
    on_cluster: String,
    /// Since when an order waits for its replicas: one that is put off in the middle goes on with the time it has left.
    since: Mutex<HashMap<Waiting, Instant>>,
}

/// A replica that lacks something, or does not say.
struct Late {
    replica: String,
    behind_seconds: Option<u64>,
    error: String,
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
            since: Mutex::default(),
        }
    }

    /// Waits for all replicas of the order's shard at once; tells of each as soon as it is known. `shard` has to bear
    /// as long a silence.
    pub async fn run(
        &self,
        order: &Order,
        shard: &Shard,
        facts: &UnboundedSender<Fact>,
    ) -> Result<(), Failure> {
        let waiting = (order.run.clone(), order.shard, order.expires_at_ms);
        let since = self.waiting_since(&waiting);
        let left = self
            .limit
            .saturating_sub(since.elapsed())
            .max(Duration::from_secs(1));
        let verdicts = match self.on_cluster.is_empty() {
            true => self.each_by_itself(shard, left, facts).await,
            false => self.over_the_cluster(shard, left, facts).await,
        };
        self.lock().remove(&waiting);
        let replicas = verdicts.len();
        let late: Vec<String> = verdicts
            .into_iter()
            .filter_map(Result::err)
            .collect::<Result<Vec<Late>, Failure>>()?
            .into_iter()
            .map(|late| format!("{} {}", late.replica, late.error))
            .collect();
        if !late.is_empty() {
            let text = format!(
                "{} of {replicas} replicas late: {}",
                late.len(),
                late.join("; ")
            );
            return Err(Failure::retry(STEP, text));
        }
        let _ = facts.send(Fact::ShardSynced {
            shard: order.shard,
            replicas: replicas as u32,
        });
        Ok(())
    }

    async fn each_by_itself(
        &self,
        shard: &Shard,
        left: Duration,
        facts: &UnboundedSender<Fact>,
    ) -> Vec<Result<(), Result<Late, Failure>>> {
        let statement = format!("SYSTEM SYNC REPLICA {} LIGHTWEIGHT", self.table());
        let query = self.limited(Query::new(statement), left);
        join_all(shard.replicas().into_iter().map(async |replica| {
            let started = Instant::now();
            let synced = async {
                match self.replicated(replica).await? {
                    true => self.execute(replica, &query, left).await.map(|()| true),
                    false => Ok(false),
                }
            };
            let verdict = synced.await;
            self.judge(shard, replica, started, verdict, facts).await
        }))
        .await
    }

    /// One statement for all servers of the cluster; those of this shard are told by their hosts.
    async fn over_the_cluster(
        &self,
        shard: &Shard,
        left: Duration,
        facts: &UnboundedSender<Fact>,
    ) -> Vec<Result<(), Result<Late, Failure>>> {
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
        let answer = async {
            let mut replicated = false;
            for replica in shard.replicas() {
                replicated |= self.replicated(replica).await?;
            }
            match replicated {
                true => self
                    .within(left, shard.rows::<OnHost>(&query))
                    .await
                    .map(Some),
                false => Ok(None),
            }
        };
        let answer = answer.await;
        join_all(shard.replicas().into_iter().map(async |replica| {
            let verdict = match &answer {
                Ok(None) => Ok(false),
                Ok(Some(hosts)) => OnHost::verdict(replica, hosts, &self.on_cluster).map(|()| true),
                Err(problem) => Err(problem.clone()),
            };
            self.judge(shard, replica, started, verdict, facts).await
        }))
        .await
    }

    /// The server's own limit is the one of network waits: `SYNC REPLICA` has no other.
    fn limited(&self, query: Query, left: Duration) -> Query {
        query.setting("receive_timeout", whole_seconds(left))
    }

    async fn replicated(&self, replica: &Replica) -> Result<bool, Problem> {
        #[derive(Deserialize)]
        struct Row {
            engine: String,
        }
        let query = self.about_table(
            "SELECT engine FROM system.tables \
             WHERE database = {database:String} AND name = {table:String}",
        );
        let rows: Vec<Row> = replica.rows(&query).await.map_err(Problem::Answer)?;
        let Some(row) = rows.first() else {
            return Err(Problem::NoTable);
        };
        Ok(["Replicated", "Shared"]
            .iter()
            .any(|kind| row.engine.starts_with(kind)))
    }

    async fn execute(
        &self,
        replica: &Replica,
        query: &Query,
        left: Duration,
    ) -> Result<(), Problem> {
        self.within(left, replica.execute(query)).await.map(drop)
    }

    async fn within<T>(
        &self,
        left: Duration,
        request: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Problem> {
        match timeout(left + GRACE, request).await {
            Ok(answer) => answer.map_err(Problem::Answer),
            Err(_) => Err(Problem::Other(format!(
                "no answer in {} s",
                whole_seconds(left)
            ))),
        }
    }

    /// Turns what was found out of a replica into its receipt. `Ok(false)`: it needs no sync.
    async fn judge(
        &self,
        shard: &Shard,
        replica: &Replica,
        started: Instant,
        verdict: Result<bool, Problem>,
        facts: &UnboundedSender<Fact>,
    ) -> Result<(), Result<Late, Failure>> {
        let address = replica.address().to_owned();
        let problem = match verdict {
            Ok(false) => return Ok(()),
            Ok(true) => {
                let _ = facts.send(Fact::ReplicaSynced {
                    shard: shard.number(),
                    replica: address,
                    took_ms: started.elapsed().as_millis() as u64,
                });
                return Ok(());
            }
            Err(problem) => problem,
        };
        if let Some(failure) = problem.lasting(replica, &self.target) {
            return Err(Err(failure));
        }
        let lag = self.lag(replica).await;
        let error = match &lag {
            Some(lag) => shortened(format!("{lag}: {problem}")),
            None => shortened(format!("does not say how far it is behind: {problem}")),
        };
        let late = Late {
            replica: address.clone(),
            behind_seconds: lag.map(|lag| lag.absolute_delay),
            error,
        };
        let _ = facts.send(Fact::ReplicaLate {
            shard: shard.number(),
            replica: address,
            behind_seconds: late.behind_seconds,
            error: late.error.clone(),
        });
        Err(Ok(late))
    }

    async fn lag(&self, replica: &Replica) -> Option<Lag> {
        let query = self.about_table(
            "SELECT absolute_delay, toUInt64(queue_size) AS queue_size, is_readonly FROM system.replicas \
             WHERE database = {database:String} AND table = {table:String}",
        );
        // One that does not answer is asked with the patience of a sync: the connection itself is short of it.
        let rows = timeout(GRACE, replica.rows::<Lag>(&query)).await;
        rows.ok()?.ok()?.into_iter().next()
    }

    fn waiting_since(&self, waiting: &Waiting) -> Instant {
        let mut since = self.lock();
        // Those that another process went on with.
        since.retain(|_, since| since.elapsed() < self.limit * 3);
        *since.entry(waiting.clone()).or_insert_with(Instant::now)
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

    fn lock(&self) -> MutexGuard<'_, HashMap<Waiting, Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
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
        match self.is_readonly {
            0 => Ok(()),
            _ => f.write_str(", and read-only"),
        }
    }
}

/// Why a replica is not known to be in sync.
#[derive(Debug, Clone, thiserror::Error)]
enum Problem {
    #[error("{0}")]
    Answer(Error),
    #[error("the table does not exist")]
    NoTable,
    #[error("{0}")]
    Other(String),
}

impl Problem {
    /// What no waiting makes better.
    fn lasting(&self, replica: &Replica, target: &TargetSettings) -> Option<Failure> {
        let reason = match self {
            Self::NoTable => batch::Reason::MissingTarget,
            Self::Answer(error) => match classify(error) {
                Class::Quarantine(reason) => reason,
                _ => return None,
            },
            Self::Other(_) => return None,
        };
        let text = format!(
            "{}: {}.{}: {self}",
            replica.address(),
            target.database,
            target.table
        );
        Some(Failure {
            step: STEP,
            error: text,
            after: After::Quarantine(reason),
        })
    }
}

/// A row of the answer to a statement `ON CLUSTER`.
#[derive(Debug, Clone, Deserialize)]
struct OnHost {
    host: String,
    /// 0 when it was done; absent while it is not.
    status: Option<i64>,
    #[serde(default)]
    error: Option<String>,
}

impl OnHost {
    /// A host may hold several servers of the cluster: all of them must be in sync.
    fn verdict(replica: &Replica, hosts: &[Self], cluster: &str) -> Result<(), Problem> {
        let url = url::Url::parse(replica.address()).ok();
        let name = url
            .as_ref()
            .and_then(url::Url::host_str)
            .unwrap_or_default();
        let name = name.trim_matches(['[', ']']);
        let mut own = hosts.iter().filter(|row| row.host == name).peekable();
        if own.peek().is_none() {
            let names: Vec<_> = hosts.iter().map(|row| row.host.as_str()).collect();
            return Err(Problem::Other(format!(
                "cluster {} has no host {name}, only {}: name the replicas in clickhouse.cluster as it does, or leave \
                 sync_on_cluster empty",
                quote_string(cluster),
                names.join(", ")
            )));
        }
        for row in own {
            match row.status {
                Some(0) => {}
                Some(_) => {
                    let error = row.error.clone().unwrap_or_default();
                    return Err(Problem::Other(error));
                }
                None => return Err(Problem::Other("it was not done in time".to_owned())),
            }
        }
        Ok(())
    }
}
