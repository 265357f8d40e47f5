use std::sync::Arc;

use batch::{Invalid, ReadPlan, RunId, RunMode, Task};
use stores::clickhouse::{Cluster, SourceSettings, Summary};
use stores::contract::HubDescription;

use crate::admission::{AdmissionError, RunScope, run_scope};
use crate::baseline::{History, baseline, source_fingerprint};
use crate::config::QueuerSettings;
use crate::options::Options;
use crate::ranges::{RangeEstimate, split_into_ranges};
use crate::{columns, source};

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The source is not as configured, or not the same on all shards.
    #[error("{0}")]
    Source(String),
    #[error("the source cannot be asked: {0}")]
    Store(#[from] stores::clickhouse::Error),
    #[error(transparent)]
    Admission(#[from] AdmissionError),
}

impl From<Invalid> for PlanError {
    fn from(invalid: Invalid) -> Self {
        Self::Source(invalid.detail)
    }
}

/// A run, ready to be published.
#[derive(Debug)]
pub struct PlannedRun {
    pub run: RunId,
    pub read: Arc<ReadPlan>,
    /// The hub, as the contract with the stores sees it.
    pub hub: HubDescription,
    pub partial: bool,
    /// Which run its baseline is, and why it is no later one, in words.
    pub because: String,
    /// Fingerprint of the table, key and columns that it reads.
    pub source: String,
    pub shards: Vec<ShardPlan>,
    /// Shards of the source, planned or not.
    pub shard_count: u32,
    /// What ClickHouse read of the primary indices; of the table itself nothing is read.
    pub planning: Summary,
}

/// The ranges of one shard, in the order of their keys.
#[derive(Debug, PartialEq, Eq)]
pub struct ShardPlan {
    pub shard: u32,
    pub ranges: Vec<RangeEstimate>,
}

impl ShardPlan {
    pub fn rows(&self) -> u64 {
        self.ranges.iter().map(|range| range.rows).sum()
    }
}

impl PlannedRun {
    /// Rows that the primary indices count in all ranges: an upper estimate.
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
        let max = self.shards.iter().map(|shard| shard.ranges.len()).max();
        (0..max.unwrap_or(0)).flat_map(move |n| {
            let nth = move |shard: &ShardPlan| Some((shard.shard, shard.ranges.get(n)?.clone()));
            self.shards.iter().filter_map(nth).map(|(shard, part)| {
                Task::new(&self.run, shard, part.range, part.rows, self.read.clone())
            })
        })
    }
}

/// What a run is planned from.
pub struct Planner<'a> {
    pub cluster: &'a Cluster,
    pub source: &'a SourceSettings,
    pub settings: &'a QueuerSettings,
    pub options: &'a Options,
}

impl Planner<'_> {
    /// Plans a run of `pipeline`, an incremental one if the history has a baseline for it.
    ///
    /// The run ends at the earliest "now" of its shards, rounded down to the resolution of the change column: until
    /// that moment is over, a row may get the same change time again, with other values.
    pub async fn plan(
        &self,
        pipeline: &str,
        history: Option<History<'_>>,
    ) -> Result<PlannedRun, PlanError> {
        let shards = source::chosen(self.cluster, &self.options.shards)?;
        let tables = source::survey(&shards, self.source).await?;
        let resolved = columns::resolve(&tables, self.source).map_err(PlanError::Source)?;
        let resolution_ms = stores::clickhouse::read::change_resolution_ms(&resolved.changed)?;
        // The earliest: what a slow clock stamps later than a fast clock's "now" must still come before the end.
        let now_ms = tables.iter().map(|table| table.now_ms).min();
        let now_ms = now_ms.expect("resolved columns are of a table");
        let until_ms = now_ms - now_ms.rem_euclid(resolution_ms);
        let shard_count = self.cluster.shard_count();
        let source = source_fingerprint(self.source, &resolved);
        let baseline = history.map(|history| baseline(history, pipeline, shard_count, &source));
        let baseline_ms = baseline.as_ref().and_then(|baseline| baseline.end_ms);
        let overlap_ms = self.settings.overlap_ms();
        let RunScope { mode, partial } =
            run_scope(self.options, baseline_ms, overlap_ms, until_ms)?;
        let because = match baseline {
            _ if self.options.full => "asked for with --full".to_owned(),
            Some(baseline) => baseline.why,
            None => "no earlier run is known".to_owned(),
        };
        let hub = resolved.hub(self.source);
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
        let indices = source::primary_indices(&shards, &read, resolved.indexed).await?;
        let ranges = split_into_ranges(&indices.entries, self.settings.min_ranges);
        let shards = shards.iter().zip(ranges).map(|(shard, ranges)| ShardPlan {
            shard: shard.number(),
            ranges,
        });
        Ok(PlannedRun {
            run: RunId::new(pipeline, until_ms)?,
            read: Arc::new(read),
            hub,
            partial,
            because,
            source,
            shards: shards.collect(),
            shard_count,
            planning: indices.read,
        })
    }
}

/// What a run reads, in words.
pub(crate) fn describe(mode: RunMode, until_ms: i64) -> String {
    let time = |ms: i64| match chrono::DateTime::from_timestamp_millis(ms) {
        Some(time) => time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
        None => format!("{ms} ms"),
    };
    match mode {
        RunMode::Full => format!("every row changed before {}", time(until_ms)),
        RunMode::Since { since_ms } => {
            let (since, until) = (time(since_ms), time(until_ms));
            format!("rows changed from {since} up to {until}")
        }
    }
}
