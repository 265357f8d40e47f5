//! The queuer on real services.

mod contract;
mod planning;
mod publishing;
mod topology;
mod types;

use batch::Task;
use queuer::{History, Options, PlanError, PlannedRun, Planner, QueuerSettings};
use serde::de::IgnoredAny;
use stores::clickhouse::{Cluster, SourceSettings, Summary, read};
use testkit::Database;

/// A hub table of its own on every shard.
pub struct Hub {
    pub database: Database,
    pub cluster: Cluster,
    pub source: SourceSettings,
    pub settings: QueuerSettings,
    pub options: Options,
}

impl Hub {
    /// A hub whose table `hub` is created on every shard with these columns and this order, besides
    /// `processed_volume` and `changed_at`. Its granules have 64 rows, so that few rows have many index entries.
    pub fn new(columns: &str, order: &str) -> Self {
        Self::with_change_column(columns, order, "changed_at DateTime64(3)")
    }

    pub fn with_change_column(columns: &str, order: &str, changed: &str) -> Self {
        let database = Database::create();
        for shard in 0..database.shards().len() {
            database.run(
                shard,
                &format!(
                    "CREATE TABLE {{db}}.hub ({columns}, processed_volume UInt64, {changed}) \
                     ENGINE = MergeTree ORDER BY {order} SETTINGS index_granularity = 64"
                ),
            );
        }
        let source = SourceSettings {
            cluster: database.cluster(),
            database: database.name().to_owned(),
            table: "hub".to_owned(),
            ..SourceSettings::default()
        };
        Self {
            cluster: Cluster::new(&source.connection()).unwrap(),
            database,
            source,
            settings: QueuerSettings::default(),
            options: Options {
                full: true,
                ..Options::default()
            },
        }
    }

    pub async fn plan(&self) -> Result<PlannedRun, PlanError> {
        self.plan_after(None).await
    }

    pub async fn plan_after(&self, history: Option<History<'_>>) -> Result<PlannedRun, PlanError> {
        let planner = Planner {
            cluster: &self.cluster,
            source: &self.source,
            settings: &self.settings,
            options: &self.options,
        };
        planner.plan("direct", history).await
    }

    /// How many rows the statement of the task returns, and what ClickHouse read for them.
    pub async fn read(&self, task: &Task) -> (u64, Summary) {
        let shard = self.cluster.shard(task.shard).unwrap();
        let query = read::select(task).unwrap();
        let read = shard.counted_rows::<IgnoredAny>(&query).await;
        let (rows, summary) = read.unwrap_or_else(|e| panic!("{e}: {}", query.sql()));
        (rows.len() as u64, summary)
    }

    /// Rows that all tasks of the plan return together.
    pub async fn read_all(&self, plan: &PlannedRun) -> u64 {
        let mut rows = 0;
        for task in plan.tasks() {
            rows += self.read(&task).await.0;
        }
        rows
    }

    pub fn count(&self, shard: usize) -> u64 {
        let count = self.database.run(shard, "SELECT count() FROM {db}.hub");
        count.parse().unwrap()
    }
}
