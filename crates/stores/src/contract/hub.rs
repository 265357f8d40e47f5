//! What the hub itself must be, whichever stores its rows go to.

use batch::Column;

use super::ContractDifference;
use crate::clickhouse::{DataType, TableDescription};

/// The hub table, as a run reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubDescription {
    /// `DATABASE.TABLE`.
    pub table: String,
    /// The engines that its shards have, each once.
    pub engines: Vec<HubEngine>,
    /// Columns of the sorting key: the identity of a row.
    pub key: Vec<Column>,
    /// The other columns that are distributed.
    pub columns: Vec<Column>,
    /// The column with the time of a row's last change.
    pub changed: Column,
}

/// An engine with its arguments, as they are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubEngine {
    pub name: String,
    pub arguments: Vec<String>,
}

impl HubEngine {
    pub fn new(table: &TableDescription) -> Self {
        let arguments = table.engine_arguments().into_iter();
        Self {
            name: table.engine.clone(),
            arguments: arguments.map(str::to_owned).collect(),
        }
    }

    /// The name without what it says of replicas, and the arguments without those.
    fn without_replication(&self) -> (&str, &[String]) {
        for prefix in ["Replicated", "Shared"] {
            if let Some(family) = self.name.strip_prefix(prefix) {
                // Path and replica, which a server can have defaults for.
                let is_text = |argument: &String| argument.starts_with('\'');
                let texts = self
                    .arguments
                    .iter()
                    .take(2)
                    .take_while(|a| is_text(a))
                    .count();
                return (family, &self.arguments[texts..]);
            }
        }
        (&self.name, &self.arguments)
    }
}

impl HubDescription {
    /// All columns that travel: those of the key first.
    pub fn all(&self) -> impl Iterator<Item = &Column> {
        let others = self.columns.iter();
        let others = others.filter(|c| !self.key.iter().any(|key| key.name == c.name));
        self.key.iter().chain(others)
    }

    pub(super) fn names(&self) -> Vec<&str> {
        self.all().map(|column| column.name.as_str()).collect()
    }
}

pub(super) fn compare_hub(hub: &HubDescription) -> Vec<ContractDifference> {
    let place = format!("hub {}", hub.table);
    let engines = hub.engines.iter().filter_map(|engine| {
        let why = engine_problem(engine, &hub.changed.name)?;
        Some(ContractDifference::new(
            &place,
            format!("its engine is {}: {why}", engine.name),
            "make it a MergeTree with the rows as they are to be distributed, or read from a table that is one (source.table)",
        ))
    });
    let types = hub.all().filter_map(|Column { name, r#type }| {
        let why = match r#type.parse::<DataType>() {
            Ok(data_type) => data_type.refusal()?,
            Err(error) => error.to_string(),
        };
        Some(
            ContractDifference::new(
                &place,
                format!("column {name:?} is {type}, which cannot be distributed ({why})"),
                "leave it out of source.column_pattern and source.extra_columns, or give the hub a column of another type instead",
            )
            .in_column(name),
        )
    });
    engines.chain(types).collect()
}

/// Why rows that are read one by one, each a version of its key by its change time, are not what the engine means by
/// them.
fn engine_problem(engine: &HubEngine, changed: &str) -> Option<String> {
    let (family, arguments) = engine.without_replication();
    match family {
        "MergeTree" => None,
        "ReplacingMergeTree" => replacing_problem(arguments, changed),
        "SummingMergeTree" => Some(
            "rows of one key are parts of a sum until they are merged, and are read one by one"
                .to_owned(),
        ),
        "AggregatingMergeTree" | "CoalescingMergeTree" | "GraphiteMergeTree" => Some(
            "rows of one key are parts of one row until they are merged, and are read one by one"
                .to_owned(),
        ),
        "CollapsingMergeTree" | "VersionedCollapsingMergeTree" => Some(
            "rows that cancel each other are there until they are merged, and are read one by one"
                .to_owned(),
        ),
        _ => Some("what it makes of rows of one key is not known to the fleet".to_owned()),
    }
}

fn replacing_problem(arguments: &[String], changed: &str) -> Option<String> {
    let unquoted = |argument: &String| crate::clickhouse::unquote_identifier(argument);
    let Some(version) = arguments.first() else {
        return Some(format!(
            "it has no version and keeps the row that came last, where the stores keep that of the highest {changed}"
        ));
    };
    if unquoted(version).as_deref() != Some(changed) {
        return Some(format!(
            "it keeps the row of the highest {version}, where the stores keep that of the highest {changed}"
        ));
    }
    let deleted = arguments.get(1)?;
    Some(format!(
        "rows that {deleted} marks as deleted are read like any other"
    ))
}
