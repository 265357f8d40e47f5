use batch::Column;
use serde::de::IgnoredAny;

use super::{TargetTable, column_definition};
use crate::clickhouse::{Cluster, Error, Query, Replica, Shard};
use crate::contract::compare_table;
use crate::{Change, ConfigureError};

/// Brings the table of every replica of every shard into the wanted state: creates the database and the
/// table where they are missing, adds missing columns, sets the deduplication window. Returns what it
/// changed: nothing, when all was in place. A dry run changes nothing, and returns what would change.
///
/// Refuses, before it changes anything on that replica, what it cannot mend: a table of another engine, key or version, a
/// column that does not hold the source's values, and one that the source does not have. Stops at the first such replica.
pub async fn configure_target(
    cluster: &Cluster,
    table: &TargetTable,
    dry_run: bool,
) -> Result<Vec<Change>, ConfigureError> {
    let mut changes = Vec::new();
    for replica in cluster.shards().flat_map(Shard::replicas) {
        for DdlStep { sql, what } in steps(replica, table).await? {
            if !dry_run {
                replica.execute(&Query::new(sql)).await?;
            }
            let target = replica.address().to_owned();
            changes.push(Change { target, what });
        }
    }
    Ok(changes)
}

/// A statement, and what it changes.
struct DdlStep {
    sql: String,
    what: String,
}

async fn steps(replica: &Replica, table: &TargetTable) -> Result<Vec<DdlStep>, ConfigureError> {
    let mut steps = Vec::new();
    let mut step = |sql: String, what: String| steps.push(DdlStep { sql, what });
    let (database, name) = (&table.settings.database, &table.settings.table);
    let Some(existing) = replica.describe(database, name).await? else {
        if !database_exists(replica, database).await? {
            let what = format!("database {database} created");
            step(table.create_database(), what);
        }
        let (columns, engine) = (table.columns.len(), table.engine_name());
        let what =
            format!("table {database}.{name} created with {columns} columns, engine {engine}");
        step(table.create_table(), what);
        return Ok(steps);
    };
    let differences = compare_table(table, replica.address(), Some(&existing));
    ConfigureError::refuse_what_stays(differences)?;
    let alter = format!("ALTER TABLE {}", table.qualified_name());
    let missing = |column: &&Column| existing.column(&column.name).is_none();
    for column in table.columns.iter().filter(missing) {
        let definition = column_definition(column);
        let what = format!("column {} {} added", column.name, column.r#type);
        step(
            format!("{alter} ADD COLUMN IF NOT EXISTS {definition}"),
            what,
        );
    }
    let setting = table.window_setting();
    let window = table.settings.deduplication_window.to_string();
    let there = existing.setting(setting).unwrap_or("unset");
    if there != window {
        let what = format!("{setting} set to {window}, from {there}");
        step(format!("{alter} MODIFY SETTING {setting} = {window}"), what);
    }
    Ok(steps)
}

async fn database_exists(replica: &Replica, database: &str) -> Result<bool, Error> {
    let query = Query::new("SELECT name FROM system.databases WHERE name = {database:String}")
        .param("database", database);
    Ok(!replica.rows::<IgnoredAny>(&query).await?.is_empty())
}
