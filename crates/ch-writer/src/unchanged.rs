//! Asks a shard which rows of a group it already has, in the same version or a newer one.
//!
//! The keys and versions of the group are inside the statement, as an Arrow stream in hexadecimal:
//! whatever the keys' types and bytes are, nothing has to be written as SQL, and the server looks the
//! keys up in the table's primary index. The answer is one number for each batch.

use std::fmt::Write;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, UInt32Array};
use arrow_schema::{DataType, Field, Schema};
use batch::arrow;
use batch::{Invalid, Reason};
use pipeline::AdmittedBatch;
use serde::Deserialize;
use stores::clickhouse::{Error, Query, Shard, quote_identifier};
use tokio::sync::OnceCell;

use crate::columns::InsertColumns;

/// Column next to the keys and versions: the batch of a row, by its index in the group.
const BATCH: &str = "_batch";

/// A group cannot be looked up: its rows count as stored.
#[derive(Debug, thiserror::Error)]
enum LookupError {
    #[error(transparent)]
    Store(#[from] Error),
    #[error(transparent)]
    Batch(#[from] Invalid),
}

/// Looks rows up in the target table of a shard.
pub(crate) struct VersionLookup {
    database: String,
    table: String,
    /// Key columns of the table, once a shard has told them.
    key: OnceCell<Vec<String>>,
}

impl VersionLookup {
    pub fn new(database: &str, table: &str) -> Self {
        Self {
            database: database.to_owned(),
            table: table.to_owned(),
            key: OnceCell::new(),
        }
    }

    /// How many rows of each batch the shard already has in their version or a newer one. None where that cannot be
    /// told: inserting a row again does no harm.
    pub async fn count_unchanged(
        &self,
        shard: &Shard,
        columns: &InsertColumns,
        batches: &[&AdmittedBatch],
    ) -> Vec<u64> {
        let counts = self.try_count(shard, columns, batches).await;
        counts.unwrap_or_else(|error| {
            tracing::warn!(
                shard = shard.number(), %error,
                "cannot tell which rows are there already; counting them as stored"
            );
            vec![0; batches.len()]
        })
    }

    async fn try_count(
        &self,
        shard: &Shard,
        columns: &InsertColumns,
        batches: &[&AdmittedBatch],
    ) -> Result<Vec<u64>, LookupError> {
        #[derive(Deserialize)]
        struct Row {
            batch: usize,
            unchanged: u64,
        }
        let Self {
            database, table, ..
        } = self;
        let key = || key_columns(shard, database, table);
        let key = self.key.get_or_try_init(key).await?;
        let body = keys_and_versions(key, columns, batches)?;
        let table = format!("{}.{}", quote_identifier(database), quote_identifier(table));
        let sql = statement(&table, key, columns.version_name(), &body);
        let size = sql.len();
        let query = Query::new(sql)
            .setting("max_query_size", size + 1)
            // A key that may be NULL is not looked up in the index.
            .setting("schema_inference_make_columns_nullable", 0)
            .setting("max_threads", 1);
        let mut counts = vec![0; batches.len()];
        for row in shard.rows::<Row>(&query).await? {
            if let Some(count) = counts.get_mut(row.batch) {
                *count = row.unchanged;
            }
        }
        Ok(counts)
    }
}

/// The columns that name a row of the table, as the shard says.
async fn key_columns(
    shard: &Shard,
    database: &str,
    table: &str,
) -> Result<Vec<String>, LookupError> {
    let found = shard.describe(database, table).await?;
    let columns = found.map_or_else(Vec::new, |table| table.columns);
    let key = columns.into_iter().filter(|column| column.in_sorting_key);
    let key: Vec<String> = key.map(|column| column.name).collect();
    if key.is_empty() {
        let detail = format!("there is no table {database}.{table}, or it has no key");
        return Err(Invalid::new(Reason::MissingTarget, detail).into());
    }
    Ok(key)
}

/// `table` is qualified and quoted.
fn statement(table: &str, key: &[String], version: &str, body: &[u8]) -> String {
    let key: Vec<_> = key.iter().map(|name| quote_identifier(name)).collect();
    let (key, version) = (key.join(", "), quote_identifier(version));
    let mut sql = "WITH sent AS (SELECT * FROM format(ArrowStream, unhex('".to_owned();
    sql.reserve(body.len() * 2 + 1024);
    for byte in body {
        write!(sql, "{byte:02x}").expect("a string takes everything");
    }
    write!(
        sql,
        "'))) SELECT {BATCH} AS batch, count() AS unchanged FROM sent INNER JOIN (\
         SELECT {key}, max({version}) AS _newest FROM {table} \
         WHERE ({key}) IN (SELECT {key} FROM sent) GROUP BY {key}\
         ) AS there USING ({key}) WHERE _newest >= sent.{version} GROUP BY batch"
    )
    .expect("a string takes everything");
    sql
}

/// Keys, versions and the index of their batch, of all rows of the group.
fn keys_and_versions(
    key: &[String],
    columns: &InsertColumns,
    batches: &[&AdmittedBatch],
) -> Result<bytes::Bytes, Invalid> {
    let wrong = |detail: String| Invalid::new(Reason::WrongSchema, detail);
    let key = key.iter().map(String::as_str);
    let names: Vec<&str> = key.chain([columns.version_name()]).collect();
    let indices = names.iter().map(|name| {
        columns
            .index_of(name)
            .ok_or_else(|| wrong(format!("the batch has no column for the key column {name}")))
    });
    let indices = indices.collect::<Result<Vec<_>, _>>()?;
    let mut parts: Vec<RecordBatch> = Vec::new();
    for (number, batch) in batches.iter().enumerate() {
        for rows in batch.stream.decode()? {
            let numbers = std::iter::repeat_n(number as u32, rows.num_rows());
            let numbers: ArrayRef = Arc::new(UInt32Array::from_iter_values(numbers));
            let data = indices.iter().map(|index| rows.column(*index).clone());
            let data: Vec<_> = data.chain([numbers]).collect();
            let fields = names.iter().zip(&indices).map(|(name, index)| {
                let field = rows.schema().field(*index).clone();
                field.with_name(*name)
            });
            let number = Field::new(BATCH, DataType::UInt32, false);
            let schema = Schema::new(fields.chain([number]).collect::<Vec<_>>());
            let part = RecordBatch::try_new(Arc::new(schema), data);
            parts.push(part.map_err(|error| wrong(error.to_string()))?);
        }
    }
    match parts.first() {
        Some(first) => arrow::encode(&first.schema(), &parts),
        None => Err(wrong("the group has no rows".to_owned())),
    }
}
