use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use settings::Secret;

use crate::Mapping;

/// The hub: where rows are read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SourceSettings {
    /// Shards and replicas of the reader cluster: `,` separates shards, `|` the replicas of a shard,
    /// `{001..200}` counts shards, `{a|b}` names replicas. Shards count from 0.
    /// Example: `http://hub{001..200}-{a|b}:8123`.
    pub cluster: String,
    /// User to read as. It needs SELECT on the table and on `system.columns`, `system.tables`,
    /// `system.parts` and `system.replicas`, and the right to change settings (`readonly` 0 or 2).
    pub user: String,
    /// Password of the user.
    pub password: Option<Secret>,
    /// Database of the hub table.
    pub database: String,
    /// The hub table on each shard: the local one, not a Distributed one over it.
    pub table: String,
    /// The column with the time of a row's last change: DateTime, DateTime64, or an integer of
    /// milliseconds. It becomes the row's version.
    pub changed_column: String,
    /// Columns that are distributed: a name, or a pattern in which `*` stands for anything.
    pub column_pattern: String,
    /// Columns that are distributed in addition to the key and those of the pattern.
    pub extra_columns: Vec<String>,
    /// Longest wait for a connection to a replica, in seconds.
    pub connect_timeout_seconds: u64,
    /// Longest silence of a replica in the middle of an answer, or before it, in seconds.
    pub idle_timeout_seconds: u64,
    /// Cooldown of a replica that failed, in seconds: it is tried after the others until then.
    pub replica_cooldown_seconds: u64,
    /// Largest replication delay of a replica that is read from, in seconds. An incremental run
    /// reads what changed since `queuer.change_overlap_seconds` before the previous run: rows that reach
    /// a replica later than that are in no run. So it has to be well under the overlap; the rest of the overlap is
    /// for rows on their way into the hub.
    pub max_replica_delay_seconds: u64,
}

impl Default for SourceSettings {
    fn default() -> Self {
        Self {
            cluster: "http://localhost:8123".to_owned(),
            user: "default".to_owned(),
            password: None,
            database: "keywords".to_owned(),
            table: "keywords_data_local".to_owned(),
            changed_column: "changed_at".to_owned(),
            column_pattern: "processed_*".to_owned(),
            extra_columns: Vec::new(),
            connect_timeout_seconds: CONNECT_TIMEOUT,
            idle_timeout_seconds: IDLE_TIMEOUT,
            replica_cooldown_seconds: REPLICA_COOLDOWN,
            // Well under the overlap of 300 s.
            max_replica_delay_seconds: 120,
        }
    }
}

/// A connection that takes longer is to a machine that is down: those on one site take milliseconds.
const CONNECT_TIMEOUT: u64 = 5;
/// ClickHouse itself gives up on a silent peer after `http_receive_timeout`, 30 s by default; a query
/// that sorts or waits for a busy disk sends nothing for longer than that.
const IDLE_TIMEOUT: u64 = 120;
/// A replica that waits for its session with the Keeper may take 20 tries (`insert_keeper_max_retries`)
/// of up to 10 s each.
const INSERT_TIMEOUT: u64 = 300;
/// Long enough to spare requests the connect timeout, short enough for a restarted replica to share the load soon.
const REPLICA_COOLDOWN: u64 = 30;

/// The customer-facing ClickHouse: where rows are written.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TargetSettings {
    /// Shards and replicas of the target cluster, written as `source.cluster`. It has as many shards
    /// as the source: rows of a shard go to the shard of the same number.
    pub cluster: String,
    /// User to write as. It needs INSERT on the table; `fleet clickhouse configure` needs CREATE and ALTER too.
    pub user: String,
    /// Password of the user.
    pub password: Option<Secret>,
    /// Database of the target table.
    pub database: String,
    /// The target table on each shard.
    pub table: String,
    /// Prefix that the names of source columns lose in the target.
    pub strip_prefix: String,
    /// Names of columns in the target, by their names in the source. `_version` is the row's version.
    pub rename: BTreeMap<String, String>,
    /// Columns that the table may have although no column of the source gives them values, such as one that the source
    /// has no longer: rows that are written again get its default. Columns that the table computes need not be named.
    pub own_columns: Vec<String>,
    /// Engine of the target table when it is created. Both keep, of the rows of one key, that of the highest version.
    pub engine: Replication,
    /// Path of the table in ZooKeeper or Keeper; used with `replicated-replacing` alone. It is the same on all
    /// replicas of a shard and differs between shards: `{shard}` is a macro of the server's configuration.
    pub zookeeper_path: String,
    /// Name of a replica in ZooKeeper or Keeper; used with `replicated-replacing` alone. `{replica}` is a macro of
    /// the server's configuration.
    pub replica_name: String,
    /// How many of the latest inserts the table remembers, so that one that is sent again is taken once.
    pub deduplication_window: u64,
    /// Longest wait for a connection to a replica, in seconds.
    pub connect_timeout_seconds: u64,
    /// Longest silence of a replica before or in the middle of an answer, in seconds.
    pub idle_timeout_seconds: u64,
    /// Longest time for one insert altogether, in seconds.
    pub insert_timeout_seconds: u64,
    /// Cooldown of a replica that failed, in seconds: it is tried after the others until then.
    pub replica_cooldown_seconds: u64,
}

/// How the replicas of the target share their rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Replication {
    /// `ReplacingMergeTree`: each shard has one replica.
    #[default]
    Replacing,
    /// `ReplicatedReplacingMergeTree`: the replicas of a shard copy from one another.
    ReplicatedReplacing,
}

impl Default for TargetSettings {
    fn default() -> Self {
        Self {
            cluster: "http://localhost:8123".to_owned(),
            user: "default".to_owned(),
            password: None,
            database: "keywords".to_owned(),
            table: "keywords_metrics_local".to_owned(),
            strip_prefix: "processed_".to_owned(),
            rename: BTreeMap::new(),
            own_columns: Vec::new(),
            engine: Replication::Replacing,
            // ClickHouse's own default has `{uuid}`, which it refuses where each replica gets a statement of its own.
            zookeeper_path: "/clickhouse/tables/{shard}/{database}/{table}".to_owned(),
            replica_name: "{replica}".to_owned(),
            // 50 inserts in flight, each sent again at most `max_retries` (10) times over hours: the window
            // must outlast all that is inserted in between. ClickHouse's own default for replicated tables.
            deduplication_window: 10_000,
            connect_timeout_seconds: CONNECT_TIMEOUT,
            idle_timeout_seconds: IDLE_TIMEOUT,
            insert_timeout_seconds: INSERT_TIMEOUT,
            replica_cooldown_seconds: REPLICA_COOLDOWN,
        }
    }
}

impl TargetSettings {
    /// How columns are named in the target.
    pub fn mapping(&self) -> Mapping {
        Mapping::new(self.strip_prefix.clone(), self.rename.clone())
    }

    /// How to reach the target.
    pub fn connection(&self) -> ConnectionSettings {
        ConnectionSettings {
            section: "clickhouse",
            cluster: self.cluster.clone(),
            user: self.user.clone(),
            password: self.password.clone(),
            connect_timeout: Duration::from_secs(self.connect_timeout_seconds),
            idle_timeout: Duration::from_secs(self.idle_timeout_seconds),
            insert_timeout: Duration::from_secs(self.insert_timeout_seconds),
            replica_cooldown: Duration::from_secs(self.replica_cooldown_seconds),
        }
    }
}

impl SourceSettings {
    /// How to reach the source.
    pub fn connection(&self) -> ConnectionSettings {
        ConnectionSettings {
            section: "source",
            cluster: self.cluster.clone(),
            user: self.user.clone(),
            password: self.password.clone(),
            connect_timeout: Duration::from_secs(self.connect_timeout_seconds),
            idle_timeout: Duration::from_secs(self.idle_timeout_seconds),
            insert_timeout: Duration::from_secs(INSERT_TIMEOUT),
            replica_cooldown: Duration::from_secs(self.replica_cooldown_seconds),
        }
    }
}

/// How to reach a cluster, whichever section of the configuration it comes from.
#[derive(Debug, Clone)]
pub struct ConnectionSettings {
    /// The section that errors name.
    pub section: &'static str,
    pub cluster: String,
    pub user: String,
    pub password: Option<Secret>,
    pub connect_timeout: Duration,
    /// Longest silence between two pieces of an answer, and before the first.
    pub idle_timeout: Duration,
    /// Total time of an insert.
    pub insert_timeout: Duration,
    pub replica_cooldown: Duration,
}
