use serde::Deserialize;

use super::TargetTable;
use crate::clickhouse::syntax::identifier;
use crate::clickhouse::{
    Cluster, DataType, Error, Query, Replica, Shard, TableDescription, TypeFamily, quote_identifier,
};
use crate::{Change, ConfigureError};

/// Brings the table of every replica of every shard into the wanted state: creates the database and the
/// table where they are missing, adds missing columns, sets the deduplication window. Returns what it
/// changed: nothing, when all was in place.
///
/// Refuses, before it changes anything on that replica, a table of another engine, key or version,
/// and a column that has another type there. Stops at the first error.
pub async fn configure_target(
    cluster: &Cluster,
    table: &TargetTable,
) -> Result<Vec<Change>, ConfigureError> {
    let mut changes = Vec::new();
    for replica in cluster.shards().flat_map(Shard::replicas) {
        for DdlStep { sql, change } in steps(replica, table).await? {
            replica.execute(&Query::new(sql)).await?;
            changes.push(change);
        }
    }
    Ok(changes)
}

/// What [`configure_target`] would change; changes nothing.
pub async fn diff_target(
    cluster: &Cluster,
    table: &TargetTable,
) -> Result<Vec<Change>, ConfigureError> {
    let mut changes = Vec::new();
    for replica in cluster.shards().flat_map(Shard::replicas) {
        let steps = steps(replica, table).await?;
        changes.extend(steps.into_iter().map(|step| step.change));
    }
    Ok(changes)
}

/// A statement, and what it changes.
struct DdlStep {
    sql: String,
    change: Change,
}

async fn steps(replica: &Replica, table: &TargetTable) -> Result<Vec<DdlStep>, ConfigureError> {
    let mut steps = Vec::new();
    let mut step = |sql: String, what: String| {
        let place = replica.address().to_owned();
        let change = Change { place, what };
        steps.push(DdlStep { sql, change });
    };
    let Some(existing) = replica.describe(&table.database, &table.name).await? else {
        if !database_exists(replica, table).await? {
            let what = format!("database {} created", table.database);
            step(table.create_database(), what);
        }
        let what = format!(
            "table {}.{} created with {} columns, engine {}",
            table.database,
            table.name,
            table.columns.len(),
            table.engine_name()
        );
        step(table.create_table(), what);
        return Ok(steps);
    };
    check(&existing, replica, table)?;
    for column in &table.columns {
        if existing.column(&column.name).is_some() {
            continue;
        }
        let add = format!(
            "ALTER TABLE {} ADD COLUMN IF NOT EXISTS {} {}",
            table.qualified_name(),
            quote_identifier(&column.name),
            column.r#type
        );
        step(
            add,
            format!("column {} {} added", column.name, column.r#type),
        );
    }
    let setting = table.window_setting();
    let window = table.deduplication_window.to_string();
    let there = existing.setting(setting);
    if there != Some(window.as_str()) {
        let modify = format!(
            "ALTER TABLE {} MODIFY SETTING {setting} = {window}",
            table.qualified_name()
        );
        let there = there.unwrap_or("unset");
        step(modify, format!("{setting} set to {window}, from {there}"));
    }
    Ok(steps)
}

async fn database_exists(replica: &Replica, table: &TargetTable) -> Result<bool, Error> {
    #[derive(Deserialize)]
    struct DatabaseRow {}
    let query = Query::new("SELECT name FROM system.databases WHERE name = {database:String}")
        .param("database", &table.database);
    Ok(!replica.rows::<DatabaseRow>(&query).await?.is_empty())
}

/// Refuses a difference that cannot be removed without losing rows.
fn check(
    existing: &TableDescription,
    replica: &Replica,
    table: &TargetTable,
) -> Result<(), ConfigureError> {
    let conflict = |what: String| {
        Err(ConfigureError::Conflict {
            place: replica.address().to_owned(),
            what: format!("table {}.{}: {what}", table.database, table.name),
        })
    };
    if existing.engine != table.engine_name() {
        return conflict(format!(
            "its engine is {}, not {}; move its rows into a table of the right engine",
            existing.engine,
            table.engine_name()
        ));
    }
    for column in &table.columns {
        match existing.column(&column.name) {
            Some(found) if !holds(&found.r#type, &column.r#type) => {
                return conflict(format!(
                    "column {:?} is {}, and {} in the source; change one of them with \
                     ALTER TABLE … MODIFY COLUMN, or give the column another name in `rename`",
                    column.name, found.r#type, column.r#type
                ));
            }
            None if table.key.contains(&column.name) => {
                return conflict(format!("key column {:?} is missing", column.name));
            }
            Some(_) | None => {}
        }
    }
    if existing.sorting_key.columns() != Some(&table.key) {
        return conflict(format!(
            "it is ordered by ({}), not by ({}); move its rows into a table of the right order",
            existing.sorting_key,
            table.key.join(", ")
        ));
    }
    // Without its version column the engine would keep whichever row came last.
    let version = existing.engine_arguments().pop().and_then(identifier);
    let version = version.unwrap_or_default();
    if version != table.version {
        return conflict(format!(
            "its engine has the version column {version:?}, not {:?}; move its rows into a table that has it",
            table.version
        ));
    }
    Ok(())
}

/// Whether a column of type `there` holds every value of type `wanted`: the same type, or one that takes nulls too
/// or stores texts by number. The other way round, nulls would become zeros.
fn holds(there: &str, wanted: &str) -> bool {
    let (Ok(there), Ok(wanted)) = (there.parse::<DataType>(), wanted.parse::<DataType>()) else {
        return there == wanted;
    };
    let there = there.unwrapped(&TypeFamily::LowCardinality);
    let wanted = wanted.unwrapped(&TypeFamily::LowCardinality);
    there == wanted || there.unwrapped(&TypeFamily::Nullable) == wanted
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
