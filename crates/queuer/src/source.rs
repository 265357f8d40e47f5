//! The planner's queries to the source: tables, clocks, primary indices. No row is read.

use batch::{KeyValue, ReadPlan};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use stores::clickhouse::{Cluster, Query, Shard, SourceSettings, Summary, quote_identifier, read};

use crate::columns::ShardTable;
use crate::plan::PlanError;
use crate::ranges::IndexEntry;

/// Shards that are asked at once: the answers are small, so this bounds connections, not memory.
const SHARDS_AT_ONCE: usize = 16;

/// The tables and the clocks of all shards.
pub(crate) struct Survey {
    pub tables: Vec<ShardTable>,
    /// The earliest of the shards' clocks, in milliseconds since the epoch.
    pub now_ms: i64,
}

/// The table and the clock of one shard.
struct ShardSurvey {
    table: ShardTable,
    now_ms: i64,
}

/// Reads the table description and the clock of each shard.
pub(crate) async fn survey(
    shards: &[&Shard],
    settings: &SourceSettings,
) -> Result<Survey, PlanError> {
    let answers: Vec<ShardSurvey> = stream::iter(shards)
        .map(|shard| survey_shard(shard, settings))
        .buffered(SHARDS_AT_ONCE)
        .try_collect()
        .await?;
    // A row that a slow clock stamps later than a fast clock's "now" must still come before the end.
    let now_ms = answers.iter().map(|answer| answer.now_ms).min();
    Ok(Survey {
        now_ms: now_ms.ok_or_else(|| PlanError::Source("the source has no shard".to_owned()))?,
        tables: answers.into_iter().map(|answer| answer.table).collect(),
    })
}

async fn survey_shard(shard: &Shard, settings: &SourceSettings) -> Result<ShardSurvey, PlanError> {
    #[derive(Deserialize)]
    struct Clock {
        now_ms: i64,
    }
    let name = format!("{}.{}", settings.database, settings.table);
    let found = shard.describe(&settings.database, &settings.table).await?;
    let found = found.ok_or_else(|| {
        PlanError::Source(format!(
            "there is no table {name} on shard {}; source.database and source.table name it",
            shard.number()
        ))
    })?;
    if !found.engine.ends_with("MergeTree") {
        return Err(PlanError::Source(format!(
            "{name} of shard {} has engine {}; only a table of the MergeTree family has a primary index to plan from: name the shards' own table, not one over it",
            shard.number(),
            found.engine
        )));
    }
    let clock = Query::new("SELECT toUnixTimestamp64Milli(now64(3)) AS now_ms");
    let clock: Vec<Clock> = shard.rows(&clock).await?;
    let now_ms = clock.first().map(|clock| clock.now_ms).ok_or_else(|| {
        PlanError::Source(format!("shard {} does not tell its time", shard.number()))
    })?;
    let table = ShardTable {
        shard: shard.number(),
        columns: found.readable_columns(),
        sorting_key: found.sorting_key,
        primary_key: found.primary_key,
    };
    Ok(ShardSurvey { table, now_ms })
}

/// The marks of each shard's primary index, in the order of their keys, and what was read for them.
/// `indexed`: how many columns of the plan's key are in the index.
pub(crate) async fn marks(
    shards: &[&Shard],
    plan: &ReadPlan,
    indexed: usize,
) -> Result<(Vec<Vec<IndexEntry>>, Summary), PlanError> {
    let query = marks_query(plan, indexed)?;
    let answers: Vec<ShardIndex> = stream::iter(shards)
        .map(|shard| marks_of(shard, &query, plan))
        .buffered(SHARDS_AT_ONCE)
        .try_collect()
        .await?;
    let read = sum(answers.iter().map(|answer| &answer.read));
    Ok((
        answers.into_iter().map(|answer| answer.entries).collect(),
        read,
    ))
}

/// The server sorts: it alone knows the order of each type as the index has it.
fn marks_query(plan: &ReadPlan, indexed: usize) -> Result<Query, PlanError> {
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

/// The index entries of one shard, and what was read for them.
struct ShardIndex {
    entries: Vec<IndexEntry>,
    read: Summary,
}

async fn marks_of(shard: &Shard, query: &Query, plan: &ReadPlan) -> Result<ShardIndex, PlanError> {
    #[derive(Deserialize)]
    struct MarkRow {
        bound: Vec<String>,
        rows: u64,
    }
    let (rows, read) = shard.counted_rows::<MarkRow>(query).await?;
    let mark = |row: MarkRow| {
        let values = plan.key.iter().zip(row.bound);
        let key: Vec<KeyValue> = values
            .map(|(column, text)| read::bound_value(column, text))
            .collect::<Result<_, _>>()?;
        Ok(IndexEntry {
            key,
            rows: row.rows,
        })
    };
    let entries: Result<Vec<IndexEntry>, PlanError> = rows.into_iter().map(mark).collect();
    Ok(ShardIndex {
        entries: entries?,
        read,
    })
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

fn sum<'a>(reads: impl IntoIterator<Item = &'a Summary>) -> Summary {
    reads
        .into_iter()
        .fold(Summary::default(), |sum, read| Summary {
            read_rows: sum.read_rows + read.read_rows,
            read_bytes: sum.read_bytes + read.read_bytes,
            ..sum
        })
}
