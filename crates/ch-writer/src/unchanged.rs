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
use stores::clickhouse::{Query, Shard, qualified, quote_identifier};

use crate::columns::InsertColumns;
use crate::inserter::InsertTarget;

/// Column next to the keys and versions: the batch of a row, by its index in the group.
const BATCH: &str = "_batch";

/// Why a group cannot be looked up; it is only logged.
type LookupError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Deserialize)]
struct UnchangedRow {
    batch: usize,
    unchanged: u64,
}

impl InsertTarget {
    /// How many rows of each batch the shard already has in their version or a newer one. None where that is not known:
    /// inserting a row again does no harm.
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
                "the rows that are there already are not known; counting all as stored"
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
        let key = self.key.get_or_try_init(|| self.key_columns(shard)).await?;
        let body = keys_and_versions(key, columns, batches)?;
        let table = qualified(&self.database, &self.table);
        let sql = statement(&table, key, columns.version_name(), &body);
        let size = sql.len();
        let query = Query::new(sql)
            .setting("max_query_size", size + 1)
            // A key that may be NULL is not looked up in the index.
            .setting("schema_inference_make_columns_nullable", 0)
            .setting("max_threads", 1);
        let mut counts = vec![0; batches.len()];
        for row in shard.rows::<UnchangedRow>(&query).await? {
            if let Some(count) = counts.get_mut(row.batch) {
                *count = row.unchanged;
            }
        }
        Ok(counts)
    }

    /// The columns that name a row of the table.
    async fn key_columns(&self, shard: &Shard) -> Result<Vec<String>, LookupError> {
        let (database, table) = (&self.database, &self.table);
        let found = shard.describe(database, table).await?;
        let columns = found.map_or_else(Vec::new, |table| table.columns);
        let key = columns.into_iter().filter(|column| column.in_sorting_key);
        let key: Vec<String> = key.map(|column| column.name).collect();
        if key.is_empty() {
            return Err(format!("there is no table {database}.{table}, or it has no key").into());
        }
        Ok(key)
    }
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
