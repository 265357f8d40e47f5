use std::fmt;

use batch::{RunId, RunMode};
use serde::Serialize;
use stores::clickhouse::read;
use stores::contract::ContractDifference;

use crate::plan::{PlanError, PlannedRun, describe};

/// A plan as `--dry-run` prints it, as text or as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlanReport {
    /// The name that the run would have.
    pub run: RunId,
    pub mode: RunMode,
    pub until_ms: i64,
    pub partial: bool,
    /// Which run its baseline is, and why it is no later one, in words.
    pub because: String,
    /// One row in this many is read.
    pub sample: u32,
    pub table: String,
    /// Names of the columns read, the key first.
    pub columns: Vec<String>,
    pub ranges: u64,
    /// Rows that the primary index counts in all ranges.
    pub rows: u64,
    pub shards: Vec<ShardReport>,
    /// The statement that reads the first range, with the values of its parameters.
    pub first_statement: Option<String>,
    /// What ClickHouse read of the primary indices; of the table itself nothing is read.
    pub planning_read_rows: u64,
    pub planning_read_bytes: u64,
    /// Why the run would not begin.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<ContractDifference>,
    /// Targets that could not be asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_compared: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShardReport {
    pub shard: u32,
    pub ranges: u64,
    pub rows: u64,
    /// Rows of the smallest and of the largest range.
    pub smallest: u64,
    pub largest: u64,
}

impl PlanReport {
    pub fn new(plan: &PlannedRun) -> Result<Self, PlanError> {
        let read = &plan.read;
        let shards = plan.shards.iter().map(|shard| {
            let rows = || shard.ranges.iter().map(|range| range.rows);
            ShardReport {
                shard: shard.shard,
                ranges: shard.ranges.len() as u64,
                rows: shard.rows(),
                smallest: rows().min().unwrap_or(0),
                largest: rows().max().unwrap_or(0),
            }
        });
        let columns = read.key.iter().chain(&read.columns);
        let first = plan.tasks().next();
        Ok(Self {
            run: plan.run.clone(),
            mode: read.mode,
            until_ms: read.until_ms,
            partial: plan.partial,
            because: plan.because.clone(),
            sample: read.sample,
            table: format!("{}.{}", read.database, read.table),
            columns: columns.map(|column| column.name.clone()).collect(),
            ranges: plan.task_count(),
            rows: plan.rows(),
            shards: shards.collect(),
            first_statement: first.as_ref().map(read::select_text).transpose()?,
            planning_read_rows: plan.planning.read_rows,
            planning_read_bytes: plan.planning.read_bytes,
            differences: Vec::new(),
            not_compared: Vec::new(),
        })
    }
}

impl fmt::Display for PlanReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "run      {} (not started: this is a dry run)", self.run)?;
        write!(
            f,
            "reads    {} of {}",
            describe(self.mode, self.until_ms),
            self.table
        )?;
        if self.sample > 1 {
            write!(f, ", one in {}", self.sample)?;
        }
        writeln!(f)?;
        writeln!(f, "because  {}", self.because)?;
        if self.partial {
            writeln!(
                f,
                "         it leaves rows out: no later run begins where it ends"
            )?;
        }
        writeln!(f, "columns  {}", self.columns.join(", "))?;
        writeln!(f, "ranges   {} of {} rows in all", self.ranges, self.rows)?;
        for shard in &self.shards {
            match shard.ranges {
                0 => writeln!(f, "         shard {}: empty", shard.shard)?,
                ranges => writeln!(
                    f,
                    "         shard {}: {ranges} of {} rows, the smallest {}, the largest {}",
                    shard.shard, shard.rows, shard.smallest, shard.largest
                )?,
            }
        }
        writeln!(
            f,
            "planning read {} entries of primary indices, {} bytes",
            self.planning_read_rows, self.planning_read_bytes
        )?;
        for difference in &self.differences {
            writeln!(f, "differs  {difference}")?;
        }
        for error in &self.not_compared {
            writeln!(f, "unknown  {error}")?;
        }
        if let Some(statement) = &self.first_statement {
            write!(f, "first range\n{statement}")?;
        }
        Ok(())
    }
}
