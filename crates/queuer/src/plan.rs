use std::sync::Arc;

use batch::{Invalid, ReadPlan, RunId, RunMode, Task};
use stores::clickhouse::{Cluster, SourceSettings, Summary};

use crate::admission::{Extent, Refused, extent};
use crate::config::QueuerSettings;
use crate::cut::{Cut, cut};
use crate::follow::{Basis, Past, follow, source_of};
use crate::options::Options;
use crate::{columns, source};

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The source is not what the configuration says, or not the same on all shards.
    #[error("{0}")]
    Source(String),
    #[error("the source cannot be asked: {0}")]
    Store(#[from] stores::clickhouse::Error),
    #[error(transparent)]
    Refused(#[from] Refused),
}

impl From<Invalid> for PlanError {
    fn from(invalid: Invalid) -> Self {
        Self::Source(invalid.detail)
    }
}

/// A run, ready to be published.
#[derive(Debug)]
pub struct Plan {
    pub run: RunId,
    pub read: Arc<ReadPlan>,
    pub partial: bool,
    /// Which run it follows, and why no later one: for a person.
    pub basis: String,
    /// Fingerprint of the table, key and columns that it reads.
    pub source: String,
    pub shards: Vec<ShardPlan>,
    /// Shards of the source, planned or not.
    pub shard_count: u32,
    /// What ClickHouse says it read of the primary indices; of the table itself nothing is read.
    pub planning: Summary,
}

/// The ranges of one shard, in the order of their keys.
#[derive(Debug, PartialEq, Eq)]
pub struct ShardPlan {
    pub shard: u32,
    pub ranges: Vec<Cut>,
}

impl ShardPlan {
    pub fn rows(&self) -> u64 {
        self.ranges.iter().map(|range| range.rows).sum()
    }
}

impl Plan {
    /// Rows that the primary indices count in all ranges: an estimate from above.
    pub fn rows(&self) -> u64 {
        self.shards.iter().map(ShardPlan::rows).sum()
    }

    pub fn task_count(&self) -> u64 {
        let ranges = self.shards.iter().map(|shard| shard.ranges.len() as u64);
        ranges.sum()
    }

    /// The tasks, a range of each shard in turn: fetchers that take them in this order read from all
    /// shards at once.
    pub fn tasks(&self) -> impl Iterator<Item = Task> + '_ {
        let most = self.shards.iter().map(|shard| shard.ranges.len()).max();
        (0..most.unwrap_or(0)).flat_map(move |n| {
            let nth = move |shard: &ShardPlan| Some((shard.shard, shard.ranges.get(n)?.clone()));
            self.shards.iter().filter_map(nth).map(|(shard, cut)| {
                Task::new(&self.run, shard, cut.range, cut.rows, self.read.clone())
            })
        })
    }
}

/// What a run is planned for and from.
pub struct Planner<'a> {
    pub cluster: &'a Cluster,
    pub source: &'a SourceSettings,
    pub settings: &'a QueuerSettings,
    pub options: &'a Options,
}

impl Planner<'_> {
    /// Plans a run of `pipeline`, one of changes if there is a run in the past that it can follow.
    ///
    /// The run ends at the earliest "now" of its shards, cut to what the change column can tell apart:
    /// a row stamped in a moment that is not over yet might be stamped so again, with other values.
    pub async fn plan(&self, pipeline: &str, past: Option<Past<'_>>) -> Result<Plan, PlanError> {
        let shards = source::chosen(self.cluster, &self.options.shards)?;
        let survey = source::survey(&shards, self.source).await?;
        let resolved = columns::resolve(&survey.tables, self.source).map_err(PlanError::Source)?;
        let resolution_ms = stores::clickhouse::read::change_resolution_ms(&resolved.changed)?;
        let until_ms = survey.now_ms - survey.now_ms.rem_euclid(resolution_ms);
        let shard_count = self.cluster.shard_count();
        let table = (self.source.database.as_str(), self.source.table.as_str());
        let source = source_of(table, &resolved.key, &resolved.columns, &resolved.changed);
        let basis = past.map(|past| follow(past, pipeline, shard_count, &source));
        let followed = basis.as_ref().and_then(|basis| basis.end_ms);
        let overlap_ms = self.settings.overlap_ms();
        let Extent { mode, partial } = extent(self.options, followed, overlap_ms, until_ms)?;
        let read = ReadPlan {
            database: self.source.database.clone(),
            table: self.source.table.clone(),
            key: resolved.key,
            columns: resolved.columns,
            changed: resolved.changed,
            mode,
            until_ms,
            sample: self.options.sample,
        };
        let (marks, planning) = source::marks(&shards, &read, resolved.indexed).await?;
        let cuts = cut(&marks, self.settings.min_ranges);
        let shard_plan = |(shard, ranges): (u32, Vec<Cut>)| ShardPlan { shard, ranges };
        let numbers = shards.iter().map(|shard| shard.number());
        Ok(Plan {
            run: RunId::new(pipeline, until_ms)?,
            read: Arc::new(read),
            partial,
            basis: self.basis(basis),
            source,
            shards: numbers.zip(cuts).map(shard_plan).collect(),
            shard_count,
            planning,
        })
    }

    fn basis(&self, basis: Option<Basis>) -> String {
        match basis {
            _ if self.options.full => "asked for with --full".to_owned(),
            Some(basis) => basis.why,
            None => "no earlier run is known".to_owned(),
        }
    }
}

/// What a run carries, in words.
pub(crate) fn describe(mode: RunMode, until_ms: i64) -> String {
    let time = |ms: i64| match chrono::DateTime::from_timestamp_millis(ms) {
        Some(time) => time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
        None => format!("{ms} ms"),
    };
    match mode {
        RunMode::Full => format!("every row changed before {}", time(until_ms)),
        RunMode::Since { since_ms } => {
            format!(
                "rows changed from {} up to {}",
                time(since_ms),
                time(until_ms)
            )
        }
    }
}
