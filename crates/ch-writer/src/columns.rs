//! The names of a batch's columns in the target.

use arrow_schema::{DataType, Field, Schema};
use batch::{Invalid, REASON_COLUMN, Reason, VERSION_COLUMN, arrow};
use bytes::Bytes;
use stores::Mapping;
use stores::clickhouse::{qualified, quote_identifier};

/// The columns of batches of one schema, under their names in the target. Batches with equal columns
/// go into one INSERT: the data of all of them follow one schema message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct InsertColumns {
    schema: Schema,
    schema_message: Bytes,
    version: usize,
}

impl InsertColumns {
    /// Refuses a schema without a version, and one in which two columns would have the same name.
    pub fn new(source: &Schema, mapping: &Mapping) -> Result<Self, Invalid> {
        let wrong = |detail: String| Invalid::new(Reason::WrongSchema, detail);
        let version = source
            .index_of(VERSION_COLUMN)
            .map_err(|_| wrong(format!("the batch has no column {VERSION_COLUMN}")))?;
        let found = source.field(version).data_type();
        if *found != DataType::Int64 {
            return Err(wrong(format!(
                "column {VERSION_COLUMN} is {found}; it must be Int64, milliseconds since the epoch"
            )));
        }
        let stored = source.fields().iter().map(|field| field.name().as_str());
        let names = mapping
            .target_names(stored.filter(|name| *name != REASON_COLUMN))
            .map_err(|error| wrong(error.to_string()))?;
        let mut names = names.into_iter();
        let fields = source.fields().iter().map(|field| {
            // A reason belongs to an earlier stay in quarantine: its data stay, as a column that is not named.
            if field.name() == REASON_COLUMN {
                return Field::clone(field);
            }
            let name = names.next().expect("every stored column has a name");
            Field::new(name, field.data_type().clone(), field.is_nullable())
        });
        let schema = Schema::new(fields.collect::<Vec<_>>());
        Ok(Self {
            schema_message: arrow::schema_bytes(&schema)?,
            schema,
            version,
        })
    }

    /// The Arrow message that comes before the batches' data.
    pub fn schema_message(&self) -> &Bytes {
        &self.schema_message
    }

    /// `INSERT INTO …` with the columns by name, so that their order in the table does not matter and
    /// what is not a column of the table is not read.
    pub fn insert_statement(&self, database: &str, table: &str) -> String {
        let names = self.schema.fields().iter().map(|field| field.name());
        let stored = names.filter(|name| *name != REASON_COLUMN);
        let columns: Vec<_> = stored.map(|name| quote_identifier(name)).collect();
        format!(
            "INSERT INTO {} ({}) FORMAT ArrowStream",
            qualified(database, table),
            columns.join(", ")
        )
    }

    /// Name of the version in the target.
    pub fn version_name(&self) -> &str {
        self.schema.field(self.version).name()
    }

    /// Index of a column of the target among the batch's columns.
    pub fn index_of(&self, target_name: &str) -> Option<usize> {
        self.schema.index_of(target_name).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(columns: &[(&str, DataType)]) -> Schema {
        let fields = columns
            .iter()
            .map(|(name, data_type)| Field::new(*name, data_type.clone(), false));
        Schema::new(fields.collect::<Vec<_>>())
    }

    fn named(columns: &[(&str, DataType)]) -> Result<InsertColumns, Invalid> {
        InsertColumns::new(&schema(columns), &Mapping::default())
    }

    #[test]
    fn columns_are_named_as_the_target_has_them_and_a_reason_is_left_out() {
        let columns = named(&[
            ("keyword", DataType::Utf8),
            ("processed_vol`ume", DataType::UInt64),
            ("_reason", DataType::Utf8),
            ("_version", DataType::Int64),
        ])
        .unwrap();
        assert_eq!(
            columns.insert_statement("k", "m"),
            r"INSERT INTO `k`.`m` (`keyword`, `vol\`ume`, `version`) FORMAT ArrowStream"
        );
        assert_eq!(columns.version_name(), "version");
        assert_eq!(columns.index_of("version"), Some(3));
    }

    #[test]
    fn a_schema_without_a_usable_version_is_refused_by_name() {
        for columns in [
            &[("keyword", DataType::Utf8)][..],
            &[("_version", DataType::UInt32)],
        ] {
            let error = named(columns).unwrap_err();
            assert_eq!(error.reason, Reason::WrongSchema);
            assert!(error.detail.contains("_version"), "{error}");
        }
    }

    #[test]
    fn two_columns_of_one_name_are_refused() {
        let columns = [
            ("volume", DataType::UInt64),
            ("processed_volume", DataType::UInt64),
            ("_version", DataType::Int64),
        ];
        let error = named(&columns).unwrap_err();
        assert_eq!(error.reason, Reason::WrongSchema);
        assert!(error.detail.contains("processed_volume"), "{error}");
    }
}
