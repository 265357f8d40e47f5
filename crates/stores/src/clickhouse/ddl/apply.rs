use std::collections::BTreeMap;

use serde::Deserialize;

use super::super::{Cluster, Error, Query, Replica, Shard, quote_identifier};
use super::TargetTable;
use crate::{Change, ConfigureError};

/// Makes the table what it has to be on every replica of every shard: creates the database and the
/// table where they are missing, adds missing columns, sets the deduplication window. Says what it
/// changed; nothing, when all was well.
///
/// Refuses, before it changes anything on that replica, a table of another engine, key or version,
/// and a column that has another type there. Goes on with no other replica after an error.
pub async fn configure_target(
    cluster: &Cluster,
    table: &TargetTable,
) -> Result<Vec<Change>, ConfigureError> {
    let mut changes = Vec::new();
    for replica in cluster.shards().flat_map(Shard::replicas) {
        for Step { sql, change } in steps(replica, table).await? {
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
struct Step {
    sql: String,
    change: Change,
}

async fn steps(replica: &Replica, table: &TargetTable) -> Result<Vec<Step>, ConfigureError> {
    let mut steps = Vec::new();
    let mut step = |sql: String, what: String| {
        let place = replica.address().to_owned();
        let change = Change { place, what };
        steps.push(Step { sql, change });
    };
    let Some(existing) = Existing::find(replica, table).await? else {
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
    existing.check(replica, table)?;
    for column in &table.columns {
        if existing.columns.contains_key(&column.name) {
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
    struct Row {}
    let query = Query::new("SELECT name FROM system.databases WHERE name = {database:String}")
        .param("database", &table.database);
    Ok(!replica.rows::<Row>(&query).await?.is_empty())
}

/// The table as a replica has it.
struct Existing {
    engine: String,
    /// The engine with its arguments and all that follows it in the statement that would create the table.
    engine_full: String,
    sorting_key: String,
    /// Types by name.
    columns: BTreeMap<String, String>,
}

impl Existing {
    async fn find(replica: &Replica, table: &TargetTable) -> Result<Option<Self>, Error> {
        #[derive(Deserialize)]
        struct Table {
            engine: String,
            engine_full: String,
            sorting_key: String,
        }
        #[derive(Deserialize)]
        struct Row {
            name: String,
            r#type: String,
        }
        let about = |sql: &str| {
            Query::new(sql)
                .param("database", &table.database)
                .param("table", &table.name)
        };
        let found: Vec<Table> = replica
            .rows(&about(
                "SELECT engine, engine_full, sorting_key FROM system.tables \
                 WHERE database = {database:String} AND name = {table:String}",
            ))
            .await?;
        let Some(found) = found.into_iter().next() else {
            return Ok(None);
        };
        let columns: Vec<Row> = replica
            .rows(&about(
                "SELECT name, type FROM system.columns \
                 WHERE database = {database:String} AND table = {table:String}",
            ))
            .await?;
        Ok(Some(Self {
            engine: found.engine,
            engine_full: found.engine_full,
            sorting_key: found.sorting_key,
            columns: columns
                .into_iter()
                .map(|row| (row.name, row.r#type))
                .collect(),
        }))
    }

    /// The value of one of the table's own settings.
    fn setting(&self, name: &str) -> Option<&str> {
        let (_, settings) = self.engine_full.split_once(" SETTINGS ")?;
        let mut pairs = settings
            .split(", ")
            .filter_map(|pair| pair.split_once(" = "));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    fn check(&self, replica: &Replica, table: &TargetTable) -> Result<(), ConfigureError> {
        let conflict = |what: String| {
            Err(ConfigureError::Conflict {
                place: replica.address().to_owned(),
                what: format!("table {}.{}: {what}", table.database, table.name),
            })
        };
        if self.engine != table.engine_name() {
            return conflict(format!(
                "its engine is {}, not {}; move its rows into a table of the right engine",
                self.engine,
                table.engine_name()
            ));
        }
        for column in &table.columns {
            match self.columns.get(&column.name) {
                Some(found) if !holds(found, &column.r#type) => {
                    return conflict(format!(
                        "column {:?} is {found}, and {} in the source; change one of them with \
                         ALTER TABLE … MODIFY COLUMN, or give the column another name in `rename`",
                        column.name, column.r#type
                    ));
                }
                None if table.key.contains(&column.name) => {
                    return conflict(format!("key column {:?} is missing", column.name));
                }
                _ => {}
            }
        }
        if plain_names(&self.sorting_key) != table.key {
            return conflict(format!(
                "it is ordered by ({}), not by ({}); move its rows into a table of the right order",
                self.sorting_key,
                table.key.join(", ")
            ));
        }
        self.check_version(table).or_else(conflict)
    }

    /// Without its version column the engine would keep whichever row came last.
    fn check_version(&self, table: &TargetTable) -> Result<(), String> {
        let arguments = self
            .engine_full
            .split_once(" ORDER BY ")
            .map_or("", |(e, _)| e);
        let arguments = arguments
            .split_once('(')
            .and_then(|(_, rest)| rest.split_once(')'))
            .map_or("", |(arguments, _)| arguments);
        let version = plain_name(arguments.rsplit(", ").next().unwrap_or_default());
        if version == table.version {
            return Ok(());
        }
        Err(format!(
            "its engine has the version column {version:?}, not {:?}; move its rows into a table that has it",
            table.version
        ))
    }
}

/// Whether a column of type `there` holds every value of type `wanted`: the same type, or one that
/// takes nulls besides or stores texts by number. The other way round, nulls would become zeros.
fn holds(there: &str, wanted: &str) -> bool {
    let unwrapped = |outer: &str, text: &str| {
        let inner = text
            .strip_prefix(outer)?
            .strip_prefix('(')?
            .strip_suffix(')')?;
        Some(inner.to_owned())
    };
    let plain = |text: &str| unwrapped("LowCardinality", text).unwrap_or_else(|| text.to_owned());
    let (there, wanted) = (plain(there), plain(wanted));
    there == wanted || unwrapped("Nullable", &there).is_some_and(|inner| inner == wanted)
}

/// The names in `a, b` or `a, \`b c\``.
fn plain_names(list: &str) -> Vec<String> {
    list.split(", ").map(plain_name).collect()
}

fn plain_name(name: &str) -> String {
    let name = name.trim();
    let inner = name.strip_prefix('`').and_then(|n| n.strip_suffix('`'));
    inner
        .unwrap_or(name)
        .replace("\\`", "`")
        .replace("\\\\", "\\")
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

    #[test]
    fn names_are_read_out_of_their_quotes() {
        assert_eq!(plain_names(r"a, `b c`, `d\`e`"), ["a", "b c", "d`e"]);
    }
}
