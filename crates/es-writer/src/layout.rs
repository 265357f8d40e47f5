//! How bodies of one schema become documents: resolved once for a schema, used for every row.

use std::collections::BTreeSet;

use arrow_schema::{DataType, Schema};
use batch::{Invalid, REASON_COLUMN, Reason, VERSION_COLUMN};
use stores::Mapping;
use stores::elasticsearch::IndexSettings;

use crate::json_column::{is_comparable, is_text, is_writable};

/// Which columns documents are made of, by their indices in the schema.
#[derive(Debug)]
pub(crate) struct DocumentLayout {
    /// Columns that name a row, in their order.
    pub key: Vec<usize>,
    pub version: usize,
    /// One for each configured index, in the configuration's order.
    pub indices: Vec<IndexFields>,
    /// The columns' own names, for messages.
    pub names: Vec<String>,
}

/// What one index and its followers take of a row.
#[derive(Debug)]
pub(crate) struct IndexFields {
    pub fields: Vec<DocumentField>,
    pub minimum: Option<ColumnMinimum>,
}

/// Rows whose number in this column is lower stay out of the index.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ColumnMinimum {
    pub column: usize,
    pub value: f64,
}

#[derive(Debug)]
pub(crate) struct DocumentField {
    pub column: usize,
    /// What stands before the value: `{"country":` or `,"keyword":`.
    pub before: Vec<u8>,
}

impl DocumentLayout {
    /// Refuses, by name, a schema that lacks a column or has one that cannot be written as JSON.
    pub fn new(
        schema: &Schema,
        key: &[String],
        mapping: &Mapping,
        indices: &[IndexSettings],
    ) -> Result<Self, Invalid> {
        let version = column(schema, VERSION_COLUMN)?;
        let wanted = "Int64, milliseconds since the epoch";
        check_type(schema, version, |found| *found == DataType::Int64, wanted)?;
        let key = key.iter().map(|name| key_column(schema, name));
        let key = key.collect::<Result<Vec<_>, _>>()?;
        let fields = named_fields(schema, mapping)?;
        let indices = indices
            .iter()
            .map(|index| IndexFields::new(schema, &fields, &key, index));
        Ok(Self {
            indices: indices.collect::<Result<_, _>>()?,
            names: schema.fields().iter().map(|f| f.name().clone()).collect(),
            key,
            version,
        })
    }

    /// The columns that some document takes, or that decide on it.
    pub fn used_columns(&self) -> BTreeSet<usize> {
        let fields = self.indices.iter().flat_map(|index| &index.fields);
        let minimums = self.indices.iter().filter_map(|index| index.minimum);
        let mut columns: BTreeSet<usize> = self.key.iter().copied().collect();
        columns.insert(self.version);
        columns.extend(fields.map(|field| field.column));
        columns.extend(minimums.map(|minimum| minimum.column));
        columns
    }
}

/// A field that documents may have.
struct NamedField {
    name: String,
    column: usize,
}

impl IndexFields {
    pub fn takes(&self, column: usize) -> bool {
        self.fields.iter().any(|field| field.column == column)
    }

    fn new(
        schema: &Schema,
        named: &[NamedField],
        key: &[usize],
        index: &IndexSettings,
    ) -> Result<Self, Invalid> {
        for name in index.fields.iter().filter(|name| *name != "*") {
            find(named, name, index)?;
        }
        let mut fields = Vec::new();
        for NamedField { name, column } in named {
            if !key.contains(column) && !index.selects(name) {
                continue;
            }
            let wanted = "of a type that JSON can represent";
            check_type(schema, *column, is_writable, wanted)?;
            let mut before = vec![if fields.is_empty() { b'{' } else { b',' }];
            serde_json::to_writer(&mut before, name).expect("a name goes into memory");
            before.push(b':');
            let column = *column;
            fields.push(DocumentField { column, before });
        }
        let minimum = index.minimum.as_ref().map(|minimum| {
            let column = find(named, &minimum.field, index)?;
            let wanted = "a number to be compared with the index's minimum";
            check_type(schema, column, is_comparable, wanted)?;
            let value = minimum.value;
            Ok(ColumnMinimum { column, value })
        });
        let minimum = minimum.transpose()?;
        Ok(Self { fields, minimum })
    }
}

fn find(named: &[NamedField], name: &str, index: &IndexSettings) -> Result<usize, Invalid> {
    let found = named.iter().find(|field| field.name == name);
    found.map(|field| field.column).ok_or_else(|| {
        wrong_schema(format!(
            "index {} asks for field {name}, which no column of the batch gives; it has {}",
            index.name,
            list(named.iter().map(|field| &field.name)),
        ))
    })
}

/// Every field that documents may have, in the columns' order.
fn named_fields(schema: &Schema, mapping: &Mapping) -> Result<Vec<NamedField>, Invalid> {
    // The version goes into the action, and a reason belongs to an earlier stay in quarantine.
    let is_field = |column: &usize| {
        let name = schema.field(*column).name();
        name != VERSION_COLUMN && name != REASON_COLUMN
    };
    let columns: Vec<usize> = (0..schema.fields().len()).filter(is_field).collect();
    let names = columns.iter().map(|n| schema.field(*n).name().as_str());
    let names = mapping.target_names(names);
    let names = names.map_err(|error| wrong_schema(error.to_string()))?;
    let named = |(name, column)| NamedField { name, column };
    Ok(names.into_iter().zip(columns).map(named).collect())
}

fn key_column(schema: &Schema, name: &str) -> Result<usize, Invalid> {
    let key = column(schema, name)?;
    let wanted = "text or a whole number to be part of a key";
    check_type(
        schema,
        key,
        |found| is_text(found) || found.is_integer(),
        wanted,
    )?;
    Ok(key)
}

fn column(schema: &Schema, name: &str) -> Result<usize, Invalid> {
    schema.index_of(name).map_err(|_| {
        wrong_schema(format!(
            "the batch has no column {name}; it has {}",
            list(schema.fields().iter().map(|f| f.name())),
        ))
    })
}

fn check_type(
    schema: &Schema,
    column: usize,
    fits: fn(&DataType) -> bool,
    wanted: &str,
) -> Result<(), Invalid> {
    let field = schema.field(column);
    let (name, found) = (field.name(), field.data_type());
    if fits(found) {
        return Ok(());
    }
    let detail = format!("column {name} is of type {found}; it must be {wanted}");
    Err(wrong_schema(detail))
}

fn wrong_schema(detail: String) -> Invalid {
    Invalid::new(Reason::WrongSchema, detail)
}

fn list<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.map(String::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_schema::Field as Column;
    use stores::elasticsearch::Minimum;

    fn schema(columns: &[(&str, DataType)]) -> Schema {
        let columns = columns
            .iter()
            .map(|(n, t)| Column::new(*n, t.clone(), true));
        Schema::new(columns.collect::<Vec<_>>())
    }

    fn hub() -> Vec<(&'static str, DataType)> {
        vec![
            ("country", DataType::Utf8),
            ("keyword", DataType::Utf8),
            ("processed_volume", DataType::UInt64),
            ("processed_tags", DataType::new_list(DataType::Utf8, true)),
            (REASON_COLUMN, DataType::Utf8),
            (VERSION_COLUMN, DataType::Int64),
        ]
    }

    fn all() -> IndexSettings {
        IndexSettings {
            name: "all".into(),
            ..IndexSettings::default()
        }
    }

    fn lite() -> IndexSettings {
        IndexSettings {
            name: "lite".into(),
            fields: vec!["volume".into()],
            minimum: Some(Minimum {
                field: "volume".into(),
                value: 10.0,
            }),
            ..IndexSettings::default()
        }
    }

    fn layout(
        columns: &[(&str, DataType)],
        indices: &[IndexSettings],
    ) -> Result<DocumentLayout, Invalid> {
        let key = ["country".to_owned(), "keyword".to_owned()];
        DocumentLayout::new(&schema(columns), &key, &Mapping::default(), indices)
    }

    fn refusal(columns: &[(&str, DataType)]) -> String {
        let error = layout(columns, &[all(), lite()]).unwrap_err();
        assert_eq!(error.reason, Reason::WrongSchema);
        error.detail
    }

    #[test]
    fn an_index_takes_all_fields_or_those_chosen_without_version_and_reason() {
        let layout = layout(&hub(), &[all(), lite()]).unwrap();
        let names = |index: usize| {
            let before = layout.indices[index]
                .fields
                .iter()
                .map(|f| f.before.clone());
            String::from_utf8(before.collect::<Vec<_>>().concat()).unwrap()
        };
        assert_eq!(names(0), r#"{"country":,"keyword":,"volume":,"tags":"#);
        assert_eq!(names(1), r#"{"country":,"keyword":,"volume":"#);
        assert_eq!(layout.indices[0].minimum, None);
        assert_eq!(
            layout.indices[1].minimum,
            Some(ColumnMinimum {
                column: 2,
                value: 10.0
            })
        );
        assert_eq!((layout.key, layout.version), (vec![0, 1], 5));
    }

    #[test]
    fn a_missing_column_is_named() {
        for missing in ["country", "keyword", VERSION_COLUMN, "processed_volume"] {
            let mut columns = hub();
            columns.retain(|(name, _)| *name != missing);
            let detail = refusal(&columns);
            let field = missing.trim_start_matches("processed_");
            assert!(detail.contains(field), "{detail}");
        }
    }

    #[test]
    fn a_column_of_an_unusable_type_is_named_with_its_type() {
        let list_of_lists = DataType::new_list(DataType::new_list(DataType::Utf8, true), true);
        for (number, unusable) in [
            (0, DataType::Float64),
            (2, DataType::Utf8),
            (3, list_of_lists),
            (5, DataType::UInt64),
        ] {
            let mut columns = hub();
            columns[number].1 = unusable.clone();
            let detail = refusal(&columns);
            assert!(detail.contains(columns[number].0), "{detail}");
            assert!(detail.contains(&unusable.to_string()), "{detail}");
        }
    }

    #[test]
    fn a_column_that_no_index_takes_may_be_of_any_type() {
        let mut columns = hub();
        columns[3].1 = DataType::Duration(arrow_schema::TimeUnit::Second);
        layout(&columns, &[lite()]).unwrap();
        assert!(refusal(&columns).contains("processed_tags"));
    }

    #[test]
    fn a_field_that_an_index_asks_for_and_no_column_gives_is_named_with_the_index() {
        let mut index = lite();
        index.fields = vec!["clicks".into()];
        let error = layout(&hub(), &[index]).unwrap_err();
        assert!(
            error.detail.contains("index lite asks for field clicks"),
            "{error}"
        );
    }

    #[test]
    fn two_columns_of_one_field_are_named() {
        let mut columns = hub();
        columns.push(("volume", DataType::UInt64));
        let detail = refusal(&columns);
        assert!(detail.contains("processed_volume"), "{detail}");
        assert!(detail.contains("\"volume\""), "{detail}");
    }
}
