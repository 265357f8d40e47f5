//! The target table of one replica.

use batch::{Column, VERSION_COLUMN};

use super::lossless::holds;
use super::{ContractDifference, HubDescription, compare_rename};
use crate::clickhouse::ddl::TargetTable;
use crate::clickhouse::{
    ColumnComputation, ColumnDescription, TableDescription, TargetSettings, quote_identifier,
    unquote_identifier,
};

const CONFIGURE: &str = "fleet clickhouse configure";

pub(super) fn compare(
    hub: &HubDescription,
    settings: &TargetSettings,
    replica: &str,
    found: Option<&TableDescription>,
) -> Vec<ContractDifference> {
    let known = [&hub.names()[..], &[VERSION_COLUMN]].concat();
    let rename = compare_rename("clickhouse", &settings.mapping(), &known);
    let table = match TargetTable::new(settings, &hub.key, &hub.columns) {
        Ok(table) => compare_table(&table, replica, found),
        Err(error) => {
            let remedy = "change the hub, or what is read of it (source.*)";
            vec![ContractDifference::new(
                format!("hub {}", hub.table),
                error.to_string(),
                remedy,
            )]
        }
    };
    rename.into_iter().chain(table).collect()
}

/// Compares the table that has to be with the one that is there.
pub(crate) fn compare_table(
    table: &TargetTable,
    replica: &str,
    found: Option<&TableDescription>,
) -> Vec<ContractDifference> {
    let name = table.plain_name();
    let place = format!("{replica}: table {name}");
    let Some(found) = found else {
        let create = ContractDifference::new(place, "it does not exist", CONFIGURE);
        return vec![create.mended_by_configure()];
    };
    let comparer = TableComparer {
        table,
        place,
        found,
    };
    let columns = table.columns().iter();
    let columns = columns.filter_map(|column| comparer.column(column));
    comparer
        .engine()
        .into_iter()
        .chain(columns)
        .chain(comparer.strangers())
        .collect()
}

struct TableComparer<'a> {
    table: &'a TargetTable,
    place: String,
    found: &'a TableDescription,
}

impl TableComparer<'_> {
    fn engine(&self) -> Option<ContractDifference> {
        let (found, table) = (self.found, self.table);
        let differs = |what: String, of: &str| {
            let remedy = format!("move its rows into a table {of}");
            Some(ContractDifference::new(&self.place, what, remedy))
        };
        let (engine, wanted) = (&found.engine, table.engine_name());
        if engine != wanted {
            return differs(
                format!("its engine is {engine}, not {wanted}"),
                "of the right engine",
            );
        }
        if found.sorting_key.columns() != Some(table.key()) {
            let what = format!(
                "it is ordered by ({}), not by ({})",
                found.sorting_key,
                table.key().join(", ")
            );
            return differs(what, "of the right order");
        }
        // Without its version column the engine would keep whichever row came last.
        let version = found.engine_arguments().pop().and_then(unquote_identifier);
        let (version, wanted) = (version.unwrap_or_default(), table.version());
        if version != wanted {
            let what = format!("its engine has the version column {version:?}, not {wanted:?}");
            return differs(what, "that has it");
        }
        None
    }

    fn column(&self, Column { name, r#type }: &Column) -> Option<ContractDifference> {
        let differs = |what: String, remedy: String| {
            Some(ContractDifference::new(&self.place, what, remedy).in_column(name))
        };
        let alter = format!("ALTER TABLE {}", self.table.qualified_name());
        let quoted = quote_identifier(name);
        let Some(there) = self.found.column(name) else {
            let what = format!("column {name:?} is missing, and {type} in the source");
            if self.table.key().contains(name) {
                return differs(what, "move its rows into a table that has it".to_owned());
            }
            return differs(what, CONFIGURE.to_owned())
                .map(ContractDifference::mended_by_configure);
        };
        if let Some(how) = computed(there) {
            let what = format!(
                "column {name:?} is {how}, so that what the hub has ({type}) is not stored"
            );
            return differs(
                what,
                format!("{alter} DROP COLUMN {quoted}, then {CONFIGURE}"),
            );
        }
        if !holds(&there.r#type, r#type) {
            let what = format!(
                "column {name:?} is {}, and {type} in the source",
                there.r#type
            );
            return differs(
                what,
                format!(
                    "{alter} MODIFY COLUMN {quoted} {type}, or give the column another name in `rename`"
                ),
            );
        }
        None
    }

    /// Columns that hold values which no run brings: those of a row that is written again become defaults.
    fn strangers(&self) -> impl Iterator<Item = ContractDifference> {
        let own = self.table.own_columns();
        let wanted = |name: &str| {
            self.table
                .columns()
                .iter()
                .any(|column| column.name == name)
        };
        let strangers = self.found.columns.iter().filter(move |column| {
            column.computed == ColumnComputation::Stored
                && !wanted(&column.name)
                && !own.contains(&column.name)
        });
        strangers.map(|ColumnDescription { name, r#type, .. }| {
            let what = format!(
                "column {name:?} ({type}) is not among the columns that are read of the source, so that rows which are written again lose its value"
            );
            let remedy = format!(
                "ALTER TABLE {} DROP COLUMN {}, or name it in clickhouse.own_columns",
                self.table.qualified_name(),
                quote_identifier(name)
            );
            ContractDifference::new(&self.place, what, remedy).in_column(name)
        })
    }
}

/// How the server computes the column, in the words of its statements.
fn computed(column: &ColumnDescription) -> Option<&'static str> {
    match column.computed {
        ColumnComputation::Stored => None,
        ColumnComputation::Materialized => Some("MATERIALIZED"),
        ColumnComputation::Alias => Some("ALIAS"),
        ColumnComputation::Ephemeral => Some("EPHEMERAL"),
    }
}
