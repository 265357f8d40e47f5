//! What an operator asks and does: which version each replica serves, and back to the one before.

use batch::Invalid;
use futures_util::future::join_all;
use serde::Serialize;
use stores::clickhouse::{Cluster, Error, Replica, Shard};

use crate::DictionarySettings;
use crate::state::{
    DictionaryRow, DictionaryTag, LoadStatus, ReplicaDictionaries, exchange, replicas_by_address,
};

/// A dictionary as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DictionaryStatus {
    /// Run that it was made for; absent, if something else made it.
    pub run: Option<String>,
    pub version: Option<i64>,
    pub entries: u64,
    pub bytes: u64,
    /// The server's word: `LOADED`, `LOADING`, `FAILED`, `NOT_LOADED`.
    pub status: String,
    /// The server's last error with it; empty when there is none.
    pub error: String,
}

/// What a replica has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReplicaStatus {
    pub shard: u32,
    pub replica: String,
    /// The one that is read.
    pub live: Option<DictionaryStatus>,
    /// The one before it, or of a higher version, one that is being loaded or was rolled back.
    pub next: Option<DictionaryStatus>,
    /// Why the replica could not be asked.
    pub error: Option<String>,
}

/// What a rollback does to one replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RollbackStep {
    pub shard: u32,
    pub replica: String,
    /// Version that is read; absent, if something else made the dictionary.
    pub from: Option<i64>,
    pub to: i64,
    pub to_run: String,
    /// It was rolled back before: nothing is done.
    pub already: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum RollbackError {
    #[error("{}", .0.detail)]
    UnknownShard(#[from] Invalid),
    /// Nothing was changed.
    #[error("shard {shard}: {replica}: {why}; nothing is rolled back")]
    Refused {
        shard: u32,
        replica: String,
        why: String,
    },
    #[error(transparent)]
    ClickHouse(#[from] Error),
}

impl From<&DictionaryRow> for DictionaryStatus {
    fn from(row: &DictionaryRow) -> Self {
        let tag = row.tag();
        Self {
            run: tag.as_ref().map(|tag| tag.run.to_string()),
            version: tag.map(|tag| tag.version),
            entries: row.entries,
            bytes: row.bytes,
            status: row.status_text.clone(),
            error: row.last_exception.clone(),
        }
    }
}

/// What every replica of every shard has, by shard and address.
pub async fn status(cluster: &Cluster, settings: &DictionarySettings) -> Vec<ReplicaStatus> {
    let status = async |shard: u32, replica: &Replica| {
        let found = ReplicaDictionaries::inspect(replica, settings).await;
        let error = found.as_ref().err().map(Error::to_string);
        let found = found.unwrap_or_default();
        ReplicaStatus {
            shard,
            replica: replica.address().to_owned(),
            live: found.live.as_ref().map(DictionaryStatus::from),
            next: found.next.as_ref().map(DictionaryStatus::from),
            error,
        }
    };
    let shards = cluster.shards().flat_map(|shard| {
        let replicas = replicas_by_address(shard).into_iter();
        replicas.map(|replica| status(shard.number(), replica))
    });
    join_all(shards).await
}

/// What [`rollback`] would do; changes nothing. `shard`: one alone, or all of them.
pub async fn plan_rollback(
    cluster: &Cluster,
    settings: &DictionarySettings,
    shard: Option<u32>,
) -> Result<Vec<RollbackStep>, RollbackError> {
    let shards: Vec<&Shard> = match shard {
        None => cluster.shards().collect(),
        Some(number) => vec![cluster.shard(number)?],
    };
    let mut replicas = Vec::new();
    for shard in shards {
        for replica in replicas_by_address(shard) {
            replicas.push(InspectedReplica {
                shard: shard.number(),
                address: replica.address(),
                found: ReplicaDictionaries::inspect(replica, settings).await?,
            });
        }
    }
    // All go back to one version. Those that have it already stay: an earlier rollback broke off, or the last refresh
    // never reached them.
    let target = replicas.iter().filter_map(|r| r.found.earlier());
    let target = target.max_by_key(|tag| tag.version);
    let steps = replicas.iter().map(|replica| replica.step(target.as_ref()));
    steps.collect()
}

/// Makes the dictionary that was live before the live one again, on every replica; that of the last refresh stays as the
/// next one. Refuses, before anything is changed, where there is no earlier one, where it is not the same on all
/// replicas, or where what the server would read is no longer that. A second call after one that broke off continues
/// with the replicas that are left.
pub async fn rollback(
    cluster: &Cluster,
    settings: &DictionarySettings,
    shard: Option<u32>,
) -> Result<Vec<RollbackStep>, RollbackError> {
    let steps = plan_rollback(cluster, settings, shard).await?;
    for step in steps.iter().filter(|step| !step.already) {
        let replicas = cluster.shard(step.shard)?.replicas();
        let replica = replicas.iter().find(|r| r.address() == step.replica);
        let Some(replica) = replica else { continue };
        exchange(replica, settings, true).await?;
    }
    Ok(steps)
}

struct InspectedReplica<'a> {
    shard: u32,
    address: &'a str,
    found: ReplicaDictionaries,
}

impl InspectedReplica<'_> {
    fn step(&self, target: Option<&DictionaryTag>) -> Result<RollbackStep, RollbackError> {
        let refused = |why: String| RollbackError::Refused {
            shard: self.shard,
            replica: self.address.to_owned(),
            why,
        };
        let nothing_earlier = || refused(nothing_earlier(&self.found));
        let target = target.ok_or_else(nothing_earlier)?;
        let already = self.found.live_version() == Some(target.version);
        if !already {
            let own = self.found.earlier().ok_or_else(nothing_earlier)?;
            if own.version != target.version {
                return Err(refused(format!(
                    "the version before is {} here, and {} on others: roll the shards back one by one",
                    own.version, target.version
                )));
            }
            self.found.check_intact().map_err(refused)?;
        }
        Ok(RollbackStep {
            shard: self.shard,
            replica: self.address.to_owned(),
            from: self.found.live_version(),
            to: target.version,
            to_run: target.run.to_string(),
            already,
        })
    }
}

fn nothing_earlier(found: &ReplicaDictionaries) -> String {
    let next = match (&found.live, &found.next) {
        (None, _) => return "it has no dictionary".to_owned(),
        (_, None) => {
            return "it has no earlier dictionary: this is the first, or a refresh is under way"
                .to_owned();
        }
        (_, Some(next)) => next.version(),
    };
    match (next, found.live_version()) {
        (None, _) => "the next dictionary was made by something else".to_owned(),
        (Some(next), Some(live)) => format!(
            "the next dictionary is newer (version {next}, and {live} is live): it was rolled back already, or is \
             being loaded"
        ),
        (Some(next), None) => {
            format!(
                "the live dictionary was made by something else, and the next one is of version {next}"
            )
        }
    }
}

impl ReplicaDictionaries {
    /// What the dictionary was made for that was live before, if there is one.
    fn earlier(&self) -> Option<DictionaryTag> {
        let next = self.next.as_ref()?.tag()?;
        (Some(next.version) < self.live_version()).then_some(next)
    }

    /// A server keeps what it loaded in memory alone: after a restart it would read the table of today under the
    /// name of the earlier version.
    fn check_intact(&self) -> Result<(), String> {
        let (Some(live), Some(next)) = (&self.live, &self.next) else {
            return Ok(());
        };
        let version = next.version().unwrap_or_default();
        if next.status() != LoadStatus::Loaded {
            return Err(format!(
                "version {version} is not in memory any more ({}): the server was restarted since, and would load \
                 the table as it is now",
                next.status_text
            ));
        }
        if live.loaded_at > 0 && next.loaded_at > live.loaded_at {
            return Err(format!(
                "version {version} was loaded again after the live one: it has the rows of then"
            ));
        }
        Ok(())
    }
}
