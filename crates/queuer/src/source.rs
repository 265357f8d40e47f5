//! The planner's queries to the source: tables, clocks, primary indices. No row is read.

use batch::{Invalid, ReadPlan};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use stores::clickhouse::{Cluster, Query, Shard, SourceSettings, Summary, quote_identifier, read};
use stores::contract::HubEngine;

use crate::columns::ShardTable;
use crate::plan::PlanError;
use crate::ranges::IndexEntry;

/// Shards that are asked at once: the answers are small, so this bounds connections, not memory.
const SHARDS_AT_ONCE: usize = 16;

/// Reads the table description and the clock of each shard.
pub(crate) async fn survey(
    shards: &[&Shard],
    settings: &SourceSettings,
) -> Result<Vec<ShardTable>, PlanError> {
    stream::iter(shards)
        .map(|shard| survey_shard(shard, settings))
        .buffered(SHARDS_AT_ONCE)
        .try_collect()
        .await
}

#[derive(Deserialize)]
struct Clock {
    now_ms: i64,
}

async fn survey_shard(shard: &Shard, settings: &SourceSettings) -> Result<ShardTable, PlanError> {
    let name = format!("{}.{}", settings.database, settings.table);
    let number = shard.number();
    let found = shard.describe(&settings.database, &settings.table).await?;
    let found = found.ok_or_else(|| {
        PlanError::Source(format!(
            "there is no table {name} on shard {number}; source.database and source.table name it"
        ))
    })?;
    if !found.engine.ends_with("MergeTree") {
        return Err(PlanError::Source(format!(
            "{name} of shard {number} has engine {}; only a table of the MergeTree family has a primary index to plan from: name the shards' own table, not one over it",
            found.engine
        )));
    }
    let clock = Query::new("SELECT toUnixTimestamp64Milli(now64(3)) AS now_ms");
    let clock: Vec<Clock> = shard.rows(&clock).await?;
    let clock = clock.first().ok_or_else(|| {
        PlanError::Source(format!("shard {number} does not answer with its time"))
    })?;
    Ok(ShardTable {
        shard: number,
        now_ms: clock.now_ms,
        engine: HubEngine::new(&found),
        columns: found.readable_columns(),
        sorting_key: found.sorting_key,
        primary_key: found.primary_key,
    })
}

/// The primary indices of some shards, and what was read for them.
#[derive(Default)]
pub(crate) struct PrimaryIndices {
    /// By shard, in the order of their keys.
    pub entries: Vec<Vec<IndexEntry>>,
    pub read: Summary,
}

#[derive(Deserialize)]
struct EntryRow {
    bound: Vec<String>,
    rows: u64,
}

/// Reads the primary index of each shard. `indexed`: how many columns of the plan's key are in it.
pub(crate) async fn primary_indices(
    shards: &[&Shard],
    plan: &ReadPlan,
    indexed: usize,
) -> Result<PrimaryIndices, PlanError> {
    let query = index_query(plan, indexed)?;
    let mut answers = stream::iter(shards)
        .map(|shard| shard.counted_rows::<EntryRow>(&query))
        .buffered(SHARDS_AT_ONCE);
    let entry = |row: EntryRow| {
        let values = plan.key.iter().zip(row.bound);
        let key = values.map(|(column, text)| read::bound_value(column, text));
        Ok(IndexEntry {
            key: key.collect::<Result<_, Invalid>>()?,
            rows: row.rows,
        })
    };
    let mut indices = PrimaryIndices::default();
    while let Some((rows, read)) = answers.try_next().await? {
        let entries: Result<_, Invalid> = rows.into_iter().map(entry).collect();
        indices.entries.push(entries?);
        indices.read.read_rows += read.read_rows;
        indices.read.read_bytes += read.read_bytes;
    }
    Ok(indices)
}

/// The server sorts: it alone knows the order of each type as the index has it.
fn index_query(plan: &ReadPlan, indexed: usize) -> Result<Query, PlanError> {
    let key = &plan.key[..indexed];
    let texts = key.iter().map(read::bound_expression);
    let texts: Vec<String> = texts.collect::<Result<_, _>>()?;
    let order: Vec<String> = key.iter().map(|c| quote_identifier(&c.name)).collect();
    Ok(Query::new(format!(
        "SELECT [{}] AS bound, rows_in_granule AS rows \
         FROM mergeTreeIndex({{database:String}}, {{table:String}}) \
         WHERE rows_in_granule > 0 ORDER BY {}",
        texts.join(", "),
        order.join(", ")
    ))
    .param("database", &plan.database)
    .param("table", &plan.table))
}

/// The shards of these numbers, each once and in order; all of them for none.
pub(crate) fn chosen<'a>(
    cluster: &'a Cluster,
    numbers: &[u32],
) -> Result<Vec<&'a Shard>, PlanError> {
    if numbers.is_empty() {
        return Ok(cluster.shards().collect());
    }
    let mut numbers = numbers.to_vec();
    numbers.sort_unstable();
    numbers.dedup();
    let shards = numbers.into_iter().map(|number| cluster.shard(number));
    Ok(shards.collect::<Result<_, _>>()?)
}
