//! The dictionary of one replica.

use batch::Column;
use serde::Deserialize;

use super::{ContractDifference, HubDescription};
use crate::clickhouse::ddl::TargetTable;
use crate::clickhouse::{DataType, KeyExpression, TableDescription, TargetSettings};
use crate::did_you_mean;

/// A dictionary, by its settings.
#[derive(Clone, Debug, PartialEq)]
pub struct DictionaryTarget {
    /// The table that it is loaded from.
    pub table: TargetSettings,
    pub database: String,
    pub name: String,
    /// Columns besides the key; empty: all of them.
    pub attributes: Vec<String>,
}

/// What a replica has where the dictionary has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DictionaryDescription {
    /// Engine of its database; `None` where there is none.
    pub database_engine: Option<String>,
    /// Engine of what has its name; `None` where nothing has.
    pub engine: Option<String>,
    pub live: Option<LiveDictionary>,
}

/// The dictionary that is read now.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct LiveDictionary {
    /// Names of the key's columns, in their order.
    pub key: Vec<String>,
    pub attributes: Vec<String>,
}

/// The columns that a dictionary has, with their types in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DictionaryColumns {
    /// In the order of the table's sorting key.
    pub key: Vec<Column>,
    pub attributes: Vec<Column>,
}

impl DictionaryColumns {
    /// Chooses them among a table's `columns`: those of its sorting key, and `wanted` or all others. The error has a
    /// text for everything because of which there is no dictionary.
    pub fn choose(
        columns: &[Column],
        key: &KeyExpression,
        wanted: &[String],
    ) -> Result<Self, Vec<String>> {
        let find = |name: &str| columns.iter().find(|column| column.name == name);
        let no_column = |name: &dyn std::fmt::Display| {
            format!(
                "it is ordered by {name}, which is no column: a dictionary has columns as its key"
            )
        };
        let names = key.columns().ok_or_else(|| vec![no_column(key)])?;
        let mut problems = Vec::new();
        if names.is_empty() {
            let why = "it is not ordered by any column, so that the dictionary has no key";
            problems.push(why.to_owned());
        }
        let mut take = |chosen: Vec<Result<&Column, String>>| -> Vec<Column> {
            let typed = chosen.into_iter().map(|column| in_dictionary(column?));
            let columns = typed.map(|column| column.map_err(|why| problems.push(why)));
            columns.filter_map(Result::ok).collect()
        };
        let key = names
            .iter()
            .map(|name| find(name).ok_or_else(|| no_column(name)));
        let key = take(key.collect());
        let is_key = |name: &str| names.iter().any(|key| key == name);
        let others = || columns.iter().filter(|column| !is_key(&column.name));
        let attributes = if wanted.is_empty() {
            others().map(Ok).collect()
        } else {
            let named = wanted.iter().map(|name| match find(name) {
                Some(_) if is_key(name) => Err(format!(
                    "{name:?} of dictionary.attributes is a column of the key, which every dictionary has"
                )),
                Some(column) => Ok(column),
                None => {
                    let names: Vec<&String> = others().map(|column| &column.name).collect();
                    let near = did_you_mean(name, &names);
                    Err(format!("it has no column {name:?} of dictionary.attributes{near}"))
                }
            });
            named.collect()
        };
        let attributes = take(attributes);
        if attributes.is_empty() && problems.is_empty() {
            problems.push("it has no columns besides its key: a dictionary needs one".to_owned());
        }
        if problems.is_empty() {
            Ok(Self { key, attributes })
        } else {
            Err(problems)
        }
    }
}

/// The column with the type that it has in a dictionary.
fn in_dictionary(column: &Column) -> Result<Column, String> {
    let data_type: Option<DataType> = column.r#type.parse().ok();
    match data_type.and_then(|data_type| data_type.in_dictionary()) {
        Some(r#type) => Ok(Column {
            name: column.name.clone(),
            r#type: r#type.to_string(),
        }),
        None => Err(format!(
            "column {:?} is {}, which a dictionary cannot hold; name the others in dictionary.attributes, or make it \
             a String or a number with ALTER TABLE … MODIFY COLUMN",
            column.name, column.r#type
        )),
    }
}

pub(super) fn compare(
    hub: &HubDescription,
    target: &DictionaryTarget,
    replica: &str,
    table: Option<&TableDescription>,
    found: &DictionaryDescription,
) -> Vec<ContractDifference> {
    let place = format!("{replica}: dictionary {}.{}", target.database, target.name);
    let mut differences: Vec<ContractDifference> =
        compare_place(&place, target, found).into_iter().collect();
    // A table that cannot be is refused as such.
    let Ok(wanted) = TargetTable::new(&target.table, &hub.key, &hub.columns) else {
        return differences;
    };
    let key = KeyExpression::from_columns(wanted.key());
    let columns = columns_after_configure(&wanted, table);
    match DictionaryColumns::choose(&columns, &key, &target.attributes) {
        Err(problems) => {
            let table = wanted.plain_name();
            differences.extend(problems.into_iter().map(|problem| {
                let what = format!("it cannot be made of table {table}: {problem}");
                ContractDifference::new(&place, what, "change [dictionary] or the table")
            }));
        }
        Ok(columns) => {
            let live = found.live.as_ref();
            differences.extend(live.into_iter().flat_map(|live| {
                let named = !target.attributes.is_empty();
                compare_live(&place, live, &columns, named)
            }));
        }
    }
    differences
}

/// Where dictionaries can be exchanged atomically, and on one replica alone.
fn compare_place(
    place: &str,
    target: &DictionaryTarget,
    found: &DictionaryDescription,
) -> Option<ContractDifference> {
    let database = &target.database;
    let remedy = "name a database of engine Atomic in dictionary.database";
    match found.database_engine.as_deref() {
        None => Some(ContractDifference::new(
            place,
            format!("database {database} does not exist"),
            remedy,
        )),
        Some("Atomic") => match found.engine.as_deref() {
            None | Some("Dictionary") => None,
            Some(other) => {
                let what = format!("what has its name is a {other}");
                Some(ContractDifference::new(
                    place,
                    what,
                    "give the dictionary another name in dictionary.name",
                ))
            }
        },
        Some(engine) => {
            let what = format!("database {database} is of engine {engine}");
            Some(ContractDifference::new(place, what, remedy))
        }
    }
}

/// What readers of the live dictionary would miss in the next one.
fn compare_live(
    place: &str,
    live: &LiveDictionary,
    next: &DictionaryColumns,
    attributes_are_named: bool,
) -> Vec<ContractDifference> {
    let names = |columns: &[Column]| -> Vec<String> {
        columns.iter().map(|column| column.name.clone()).collect()
    };
    let key = names(&next.key);
    let mut differences = Vec::new();
    if live.key != key {
        let what = format!(
            "readers ask for it by ({}), and the next one has the key ({})",
            live.key.join(", "),
            key.join(", ")
        );
        let remedy =
            "give the next one another name in dictionary.name, and readers time to follow";
        differences.push(ContractDifference::new(place, what, remedy));
    }
    let attributes = names(&next.attributes);
    let gone = live
        .attributes
        .iter()
        .filter(|name| !attributes.contains(name));
    if !attributes_are_named {
        differences.extend(gone.map(|name| {
            let what =
                format!("attribute {name:?} is read of it, and the next one does not have it");
            let remedy = format!(
                "name the attributes that stay in dictionary.attributes: {}",
                attributes.join(", ")
            );
            ContractDifference::new(place, what, remedy).in_column(name)
        }));
    }
    differences
}

/// The columns of the table once it is configured.
fn columns_after_configure(wanted: &TargetTable, table: Option<&TableDescription>) -> Vec<Column> {
    let mut columns = table
        .map(TableDescription::readable_columns)
        .unwrap_or_default();
    for column in wanted.columns() {
        if !columns.iter().any(|there| there.name == column.name) {
            columns.push(column.clone());
        }
    }
    columns
}
