use batch::Column;
use serde::de::IgnoredAny;

use super::{TargetTable, column_definition};
use crate::clickhouse::syntax::identifier;
use crate::clickhouse::{Cluster, DataType, Error, Query, Replica, Shard, TableDescription};
use crate::{Change, ConfigureError};

/// Brings the table of every replica of every shard into the wanted state: creates the database and the
/// table where they are missing, adds missing columns, sets the deduplication window. Returns what it
/// changed: nothing, when all was in place. A dry run changes nothing, and returns what would change.
///
/// Refuses, before it changes anything on that replica, a table of another engine, key or version,
/// and a column that has another type there. Stops at the first error.
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
    if let Some(what) = conflict(&existing, table) {
        return Err(ConfigureError::Conflict {
            target: replica.address().to_owned(),
            what: format!("table {database}.{name}: {what}"),
        });
    }
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

/// A difference that cannot be removed without losing rows.
fn conflict(existing: &TableDescription, table: &TargetTable) -> Option<String> {
    let (engine, wanted) = (&existing.engine, table.engine_name());
    if engine != wanted {
        return Some(format!(
            "its engine is {engine}, not {wanted}; move its rows into a table of the right engine"
        ));
    }
    for Column { name, r#type } in &table.columns {
        match existing.column(name) {
            Some(found) if !holds(&found.r#type, r#type) => {
                return Some(format!(
                    "column {name:?} is {}, and {type} in the source; change one of them with \
                     ALTER TABLE … MODIFY COLUMN, or give the column another name in `rename`",
                    found.r#type
                ));
            }
            None if table.key.contains(name) => {
                return Some(format!("key column {name:?} is missing"));
            }
            Some(_) | None => {}
        }
    }
    if existing.sorting_key.columns() != Some(&table.key) {
        return Some(format!(
            "it is ordered by ({}), not by ({}); move its rows into a table of the right order",
            existing.sorting_key,
            table.key.join(", ")
        ));
    }
    // Without its version column the engine would keep whichever row came last.
    let version = existing.engine_arguments().pop().and_then(identifier);
    let (version, wanted) = (version.unwrap_or_default(), &table.version);
    (version != *wanted).then(|| {
        format!(
            "its engine has the version column {version:?}, not {wanted:?}; move its rows into a table that has it"
        )
    })
}

/// Whether a column of type `there` holds every value of type `wanted`: the same type, or one that takes nulls too
/// or stores texts by number. The other way round, nulls would become zeros.
fn holds(there: &str, wanted: &str) -> bool {
    let (Ok(there), Ok(wanted)) = (there.parse::<DataType>(), wanted.parse::<DataType>()) else {
        return there == wanted;
    };
    let there = there.unwrapped("LowCardinality");
    let wanted = wanted.unwrapped("LowCardinality");
    there == wanted || there.unwrapped("Nullable") == wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wider_type_holds_the_values_of_a_narrower_one_and_not_the_other_way_round() {
        assert!(holds("String", "LowCardinality(String)"));
        assert!(holds("LowCardinality(Nullable(String))", "String"));
        assert!(holds("Nullable(UInt64)", "UInt64"));
        assert!(!holds("UInt64", "Nullable(UInt64)"));
        assert!(!holds("UInt32", "UInt64"));
    }
}
