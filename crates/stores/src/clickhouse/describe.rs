//! What a table is, as a server describes it.

use std::fmt;

use batch::Column;
use serde::Deserialize;

use super::syntax::{identifier, in_brackets, split_list};
use super::{Error, Query, Replica, Shard, quote_identifier};

/// A table as one server has it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TableDescription {
    /// Name of the engine, such as `ReplacingMergeTree`.
    pub engine: String,
    /// The engine with its arguments, and all that follows it in the statement that would create the table.
    pub engine_full: String,
    /// `ORDER BY`.
    pub sorting_key: KeyExpression,
    /// `PRIMARY KEY`: the sorting key, or its beginning.
    pub primary_key: KeyExpression,
    /// In the table's order.
    pub columns: Vec<ColumnDescription>,
}

/// One column of a table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "[String; 5]")]
pub struct ColumnDescription {
    pub name: String,
    /// As the server writes it; [`super::DataType`] reads it.
    pub r#type: String,
    pub computed: ColumnComputation,
    /// Whether the sorting key names it, by itself or inside an expression.
    pub in_sorting_key: bool,
}

/// How the values of a column come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnComputation {
    /// They are what is inserted, or else a default.
    Stored,
    /// The server computes them when rows are inserted.
    Materialized,
    /// The server computes them when rows are read.
    Alias,
    /// They exist in inserts alone, to compute others from.
    Ephemeral,
}

impl TableDescription {
    /// The columns that a SELECT can name: all but the ephemeral ones.
    pub fn readable_columns(&self) -> Vec<Column> {
        let columns = self.columns.iter();
        columns
            .filter(|column| column.computed != ColumnComputation::Ephemeral)
            .map(|column| Column {
                name: column.name.clone(),
                r#type: column.r#type.clone(),
            })
            .collect()
    }

    pub fn column(&self, name: &str) -> Option<&ColumnDescription> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// What stands in the brackets after the engine's name, argument by argument.
    pub(crate) fn engine_arguments(&self) -> Vec<&str> {
        let arguments = self.engine_full.strip_prefix(&self.engine);
        arguments
            .and_then(in_brackets)
            .map(split_list)
            .unwrap_or_default()
    }

    /// The value of one of the table's own settings.
    pub fn setting(&self, name: &str) -> Option<&str> {
        let (_, settings) = self.engine_full.split_once(" SETTINGS ")?;
        let pairs = split_list(settings).into_iter();
        let mut pairs = pairs.filter_map(|pair| pair.split_once(" = "));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    }
}

/// A sorting key or a primary key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub struct KeyExpression {
    text: String,
    columns: Option<Vec<String>>,
}

impl KeyExpression {
    /// From `a, b`, as the server writes it. A key of one column stands in brackets since 26.9, and a name that is no
    /// plain word in backquotes.
    pub fn new(text: &str) -> Self {
        let mut text = text.trim();
        // As SHOW CREATE gives it back, it can have more of them.
        while let Some(inner) = in_brackets(text).filter(|inner| inner.len() + 2 == text.len()) {
            text = inner.trim();
        }
        Self {
            text: text.to_owned(),
            columns: split_list(text).into_iter().map(identifier).collect(),
        }
    }

    /// A key of plain columns in ascending order.
    pub(crate) fn from_columns(names: &[String]) -> Self {
        let quoted: Vec<String> = names.iter().map(|name| quote_identifier(name)).collect();
        Self {
            text: quoted.join(", "),
            columns: Some(names.to_vec()),
        }
    }

    /// The names of its columns; `None` where something in it is no plain column in ascending order.
    pub fn columns(&self) -> Option<&[String]> {
        self.columns.as_deref()
    }
}

impl fmt::Display for KeyExpression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<String> for KeyExpression {
    fn from(text: String) -> Self {
        Self::new(&text)
    }
}

/// Position, name, type, default kind, whether it is in the sorting key. All as texts of one array: what a tuple is
/// in JSON depends on the server's release.
impl From<[String; 5]> for ColumnDescription {
    fn from([_, name, r#type, default_kind, in_sorting_key]: [String; 5]) -> Self {
        Self {
            name,
            r#type,
            computed: match default_kind.as_str() {
                "MATERIALIZED" => ColumnComputation::Materialized,
                "ALIAS" => ColumnComputation::Alias,
                "EPHEMERAL" => ColumnComputation::Ephemeral,
                _ => ColumnComputation::Stored,
            },
            in_sorting_key: in_sorting_key == "1",
        }
    }
}

impl Replica {
    /// Describes a table; `None` where there is none of that name.
    pub async fn describe(
        &self,
        database: &str,
        table: &str,
    ) -> Result<Option<TableDescription>, Error> {
        Ok(self.rows(&query(database, table)).await?.pop())
    }
}

impl Shard {
    /// [`Replica::describe`], by whichever of its replicas answers.
    pub async fn describe(
        &self,
        database: &str,
        table: &str,
    ) -> Result<Option<TableDescription>, Error> {
        Ok(self.rows(&query(database, table)).await?.pop())
    }
}

/// One statement, so that the columns are those of the same table as the rest.
fn query(database: &str, table: &str) -> Query {
    Query::new(
        "SELECT engine, engine_full, sorting_key, primary_key, \
         (SELECT arraySort(column -> toUInt64(column[1]), groupArray(\
         [toString(position), name, type, default_kind, toString(is_in_sorting_key)])) \
         FROM system.columns WHERE database = {database:String} AND table = {table:String}) AS columns \
         FROM system.tables WHERE database = {database:String} AND name = {table:String}",
    )
    .param("database", database)
    .param("table", table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(key: &str) -> Option<Vec<String>> {
        KeyExpression::new(key).columns().map(<[String]>::to_vec)
    }

    #[test]
    fn keys_are_read_as_the_server_writes_them() {
        let names = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(columns("a, b_1"), names(&["a", "b_1"]));
        assert_eq!(columns(r"`a b`, `c\`d, e`"), names(&["a b", "c`d, e"]));
        assert_eq!(columns("(keyword)"), names(&["keyword"]));
        assert_eq!(columns("((keyword))"), names(&["keyword"]));
        assert_eq!(columns("(`a, b`)"), names(&["a, b"]));
        assert_eq!(columns(""), names(&[]));
        for expression in [
            "f(a)",
            "a, b DESC",
            "a b",
            "`a",
            "tuple()",
            "a,,b",
            "-a",
            "(a), (b)",
        ] {
            assert_eq!(columns(expression), None, "{expression}");
        }
    }

    #[test]
    fn a_key_of_one_column_is_the_same_with_brackets_and_without() {
        assert_eq!(
            KeyExpression::new("(keyword)"),
            KeyExpression::new("keyword")
        );
        assert_eq!(KeyExpression::new("(keyword)").to_string(), "keyword");
    }

    #[test]
    fn arguments_and_settings_of_an_engine_may_hold_commas_and_brackets() {
        let description = TableDescription {
            engine: "ReplicatedReplacingMergeTree".to_owned(),
            engine_full: "ReplicatedReplacingMergeTree('/x, (y)', '{replica}', `the, version`) \
                          ORDER BY (a, b) SETTINGS storage_policy = 'a, b', index_granularity = 8192"
                .to_owned(),
            sorting_key: KeyExpression::new("a, b"),
            primary_key: KeyExpression::new("a, b"),
            columns: Vec::new(),
        };
        let arguments = ["'/x, (y)'", "'{replica}'", "`the, version`"];
        assert_eq!(description.engine_arguments(), arguments);
        assert_eq!(description.setting("storage_policy"), Some("'a, b'"));
        assert_eq!(description.setting("index_granularity"), Some("8192"));
        assert_eq!(description.setting("granularity"), None);
    }

    #[tokio::test]
    async fn a_real_server_describes_its_tables() {
        use crate::clickhouse::{Cluster, TargetSettings};
        let database = testkit::Database::create();
        database.run(
            0,
            "CREATE TABLE {db}.t (z String, `a, b` String, k LowCardinality(String), \
             m UInt8 MATERIALIZED 1, e String EPHEMERAL, d UInt8 DEFAULT 2, l UInt8 ALIAS d) \
             ENGINE = ReplacingMergeTree(d) ORDER BY (k, `a, b`, lower(z)) PRIMARY KEY (k)",
        );
        let settings = TargetSettings {
            cluster: database.cluster(),
            ..TargetSettings::default()
        };
        let cluster = Cluster::new(&settings.connection()).unwrap();
        let shard = cluster.shard(0).unwrap();
        let found = shard.describe(database.name(), "t").await.unwrap().unwrap();
        assert_eq!(found.engine, "ReplacingMergeTree");
        assert_eq!(found.engine_arguments(), ["d"]);
        assert_eq!(found.sorting_key.columns(), None);
        assert_eq!(found.primary_key.columns(), Some(&["k".to_owned()][..]));
        let names = |columns: Vec<Column>| columns.into_iter().map(|column| column.name);
        let readable: Vec<String> = names(found.readable_columns()).collect();
        assert_eq!(readable, ["z", "a, b", "k", "m", "d", "l"]);
        for (name, computed) in [
            ("z", ColumnComputation::Stored),
            ("d", ColumnComputation::Stored),
            ("m", ColumnComputation::Materialized),
            ("l", ColumnComputation::Alias),
            ("e", ColumnComputation::Ephemeral),
        ] {
            assert_eq!(found.column(name).unwrap().computed, computed, "{name}");
        }
        let key = found.columns.iter().filter(|column| column.in_sorting_key);
        let key: Vec<&str> = key.map(|column| column.name.as_str()).collect();
        assert_eq!(key, ["z", "a, b", "k"]);
        assert_eq!(
            shard.describe(database.name(), "nothing").await.unwrap(),
            None
        );
    }
}
