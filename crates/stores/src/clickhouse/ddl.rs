//! The target's database and table: created, extended with missing columns, checked.

mod apply;

use batch::{Column, VERSION_COLUMN};

use super::{DataType, Replication, TargetSettings, qualified, quote_identifier, quote_string};
use crate::ConfigureError;

pub use apply::configure_target;

/// Type of the version column: change times in milliseconds, negative before 1970.
const VERSION_TYPE: &str = "Int64";

/// The target table as it has to be on every replica.
#[derive(Clone, Debug)]
pub struct TargetTable {
    settings: TargetSettings,
    /// Names in the target, in the order of the source's primary key.
    key: Vec<String>,
    version: String,
    /// All columns by their names in the target: key, others, version.
    columns: Vec<Column>,
}

impl TargetTable {
    /// `key` and `columns` as the source has them; the version column is added. Refuses what cannot
    /// be a table: no key, a nullable key, two columns of one name, a type that cannot be read.
    pub fn new(
        settings: &TargetSettings,
        key: &[Column],
        columns: &[Column],
    ) -> Result<Self, ConfigureError> {
        if key.is_empty() {
            let what = "the target table needs a key: the source's primary key is empty";
            return Err(ConfigureError::Invalid(what.to_owned()));
        }
        let version = Column {
            name: VERSION_COLUMN.to_owned(),
            r#type: VERSION_TYPE.to_owned(),
        };
        let rest = columns.iter().filter(|c| c.name != VERSION_COLUMN);
        let sources: Vec<&Column> = key.iter().chain(rest).chain([&version]).collect();
        for (n, column) in sources.iter().enumerate() {
            let nullable = data_type(column)?.contains("Nullable");
            if nullable && n < key.len() {
                let Column { name, r#type } = column;
                let what = format!("key column {name:?} is {type}; a key cannot be nullable");
                return Err(ConfigureError::Invalid(what));
            }
        }
        let names = settings
            .mapping()
            .target_names(sources.iter().map(|c| c.name.as_str()))
            .map_err(|e| ConfigureError::Invalid(e.to_string()))?;
        let columns = sources.iter().zip(&names).map(|(source, name)| Column {
            name: name.clone(),
            r#type: source.r#type.clone(),
        });
        Ok(Self {
            settings: settings.clone(),
            columns: columns.collect(),
            key: names[..key.len()].to_vec(),
            version: names[names.len() - 1].clone(),
        })
    }

    /// `DATABASE.TABLE`, quoted.
    pub(crate) fn qualified_name(&self) -> String {
        qualified(&self.settings.database, &self.settings.table)
    }

    /// `DATABASE.TABLE`, for people.
    pub(crate) fn plain_name(&self) -> String {
        format!("{}.{}", self.settings.database, self.settings.table)
    }

    /// The names of the key's columns.
    pub(crate) fn key(&self) -> &[String] {
        &self.key
    }

    /// The name of the version column.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// All columns by their names in the target: key, others, version.
    pub(crate) fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Columns that the table may have besides.
    pub(crate) fn own_columns(&self) -> &[String] {
        &self.settings.own_columns
    }

    /// The statement that creates the database, if it is missing.
    fn create_database(&self) -> String {
        let database = quote_identifier(&self.settings.database);
        format!("CREATE DATABASE IF NOT EXISTS {database}")
    }

    /// The statement that creates the table, if it is missing.
    fn create_table(&self) -> String {
        let columns = self.columns.iter().map(column_definition);
        let columns: Vec<String> = columns.map(|column| format!("    {column}")).collect();
        format!(
            "CREATE TABLE IF NOT EXISTS {}\n(\n{}\n)\nENGINE = {}({})\nORDER BY {}\nSETTINGS {} = {}",
            self.qualified_name(),
            columns.join(",\n"),
            self.engine_name(),
            self.engine_arguments(),
            self.order(),
            self.window_setting(),
            self.settings.deduplication_window,
        )
    }

    /// One column stands without brackets: with them it is another expression to some servers.
    fn order(&self) -> String {
        let key: Vec<String> = self.key.iter().map(|name| quote_identifier(name)).collect();
        match key.as_slice() {
            [one] => one.clone(),
            several => format!("({})", several.join(", ")),
        }
    }

    /// The engine comes from a closed list: names of engines cannot be bound as parameters.
    pub(crate) fn engine_name(&self) -> &'static str {
        match self.settings.engine {
            Replication::Replacing => "ReplacingMergeTree",
            Replication::ReplicatedReplacing => "ReplicatedReplacingMergeTree",
        }
    }

    fn engine_arguments(&self) -> String {
        let version = quote_identifier(&self.version);
        match self.settings.engine {
            Replication::Replacing => version,
            Replication::ReplicatedReplacing => {
                let path = quote_string(&self.settings.zookeeper_path);
                let replica = quote_string(&self.settings.replica_name);
                format!("{path}, {replica}, {version}")
            }
        }
    }

    /// The setting that makes the table remember inserts: a plain one remembers none by default.
    fn window_setting(&self) -> &'static str {
        match self.settings.engine {
            Replication::Replacing => "non_replicated_deduplication_window",
            Replication::ReplicatedReplacing => "replicated_deduplication_window",
        }
    }
}

/// Types go into the statement as the source has them.
fn column_definition(column: &Column) -> String {
    format!("{} {}", quote_identifier(&column.name), column.r#type)
}

fn data_type(column: &Column) -> Result<DataType, ConfigureError> {
    let data_type = column.r#type.parse();
    data_type.map_err(|e| ConfigureError::Invalid(format!("column {:?}: {e}", column.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, r#type: &str) -> Column {
        Column {
            name: name.to_owned(),
            r#type: r#type.to_owned(),
        }
    }

    fn table(settings: &TargetSettings, columns: &[Column]) -> Result<TargetTable, ConfigureError> {
        let key = [
            column("country", "LowCardinality(String)"),
            column("keyword", "String"),
        ];
        TargetTable::new(settings, &key, columns)
    }

    #[test]
    fn the_table_keeps_of_each_key_the_row_of_the_highest_version() {
        let columns = [
            column("processed_volume", "UInt64"),
            column("odd`name", "Nullable(Float64)"),
        ];
        let table = table(&TargetSettings::default(), &columns).unwrap();
        assert_eq!(
            table.create_database(),
            "CREATE DATABASE IF NOT EXISTS `keywords`"
        );
        assert_eq!(
            table.create_table(),
            "CREATE TABLE IF NOT EXISTS `keywords`.`keywords_metrics_local`\n\
             (\n    \
             `country` LowCardinality(String),\n    \
             `keyword` String,\n    \
             `volume` UInt64,\n    \
             `odd\\`name` Nullable(Float64),\n    \
             `version` Int64\n\
             )\n\
             ENGINE = ReplacingMergeTree(`version`)\n\
             ORDER BY (`country`, `keyword`)\n\
             SETTINGS non_replicated_deduplication_window = 10000"
        );
    }

    #[test]
    fn a_replicated_table_has_its_path_and_replica_from_the_settings() {
        let settings = TargetSettings {
            engine: Replication::ReplicatedReplacing,
            zookeeper_path: "/tables/{shard}/it's".to_owned(),
            deduplication_window: 5,
            ..TargetSettings::default()
        };
        let statement = table(&settings, &[]).unwrap().create_table();
        assert!(
            statement.ends_with(
                "ENGINE = ReplicatedReplacingMergeTree('/tables/{shard}/it\\'s', '{replica}', `version`)\n\
                 ORDER BY (`country`, `keyword`)\n\
                 SETTINGS replicated_deduplication_window = 5"
            ),
            "{statement}"
        );
    }

    #[test]
    fn by_default_the_replicas_of_a_shard_find_each_other_under_one_path() {
        let settings = TargetSettings {
            engine: Replication::ReplicatedReplacing,
            ..TargetSettings::default()
        };
        let statement = table(&settings, &[]).unwrap().create_table();
        // The statement is executed on each replica separately, where `{uuid}` is refused.
        let engine = "ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}', ";
        assert!(statement.contains(engine), "{statement}");
    }

    #[test]
    fn what_cannot_be_a_table_is_refused_by_name() {
        let settings = TargetSettings::default();
        let refused = |columns: &[Column]| table(&settings, columns).unwrap_err().to_string();
        assert!(refused(&[column("processed_keyword", "String")]).contains("\"keyword\""));
        for bad in [
            "UInt64) ENGINE = Log --",
            "",
            "UInt64; DROP TABLE x",
            "a(b",
            "Enum8('a' = 1",
            "Int8 /* */",
            "Int8 -- x",
        ] {
            let refused = refused(&[column("x", bad)]);
            assert!(refused.contains("is not a type of ClickHouse"), "{refused}");
        }
        let nullable = [column("k", "Nullable(String)")];
        let refused = TargetTable::new(&settings, &nullable, &[]).unwrap_err();
        assert!(refused.to_string().contains("cannot be nullable"));
        assert!(TargetTable::new(&settings, &[], &[]).is_err());
    }

    #[test]
    fn real_types_are_let_through() {
        for good in [
            "LowCardinality(Nullable(String))",
            "DateTime64(3, 'Europe/Paris')",
            "Enum8('it\\'s) --' = -1, 'b' = 2)",
            "Tuple(a UInt8, b Array(String))",
            "Decimal(18, 4)",
        ] {
            assert!(data_type(&column("x", good)).is_ok(), "{good}");
        }
    }
}
