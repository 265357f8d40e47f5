//! How bodies of one schema become documents: resolved once for a schema, used for every row.

use arrow_schema::{DataType, Schema};
use batch::{Invalid, REASON_COLUMN, Reason, VERSION_COLUMN};
use stores::Mapping;
use stores::elasticsearch::IndexSettings;

/// Places of the columns that documents are made of.
#[derive(Debug)]
pub(crate) struct Layout {
    /// Columns that name a row, in their order.
    pub key: Vec<usize>,
    pub version: usize,
    /// One for each configured index, in the configuration's order.
    pub sets: Vec<FieldSet>,
    /// The columns' own names, for what is said of a row.
    pub names: Vec<String>,
}

/// What one index and its followers take of a row.
#[derive(Debug)]
pub(crate) struct FieldSet {
    pub fields: Vec<Field>,
    /// Rows whose number in this column is below the minimum stay out of the index.
    pub minimum: Option<(usize, f64)>,
}

#[derive(Debug)]
pub(crate) struct Field {
    pub column: usize,
    /// What stands before the value: `{"country":` or `,"keyword":`.
    pub before: Vec<u8>,
}

impl Layout {
    /// Refuses, by name, a schema that lacks a column or has one that cannot be written as JSON.
    pub fn of(
        schema: &Schema,
        key: &[String],
        mapping: &Mapping,
        indices: &[IndexSettings],
    ) -> Result<Self, Invalid> {
        let version = column(schema, VERSION_COLUMN)?;
        if schema.field(version).data_type() != &DataType::Int64 {
            let wanted = "Int64, milliseconds since the epoch";
            return Err(wrong_type(schema, version, wanted));
        }
        let key = key.iter().map(|name| key_column(schema, name));
        let key = key.collect::<Result<Vec<_>, _>>()?;
        let fields = named_fields(schema, mapping)?;
        let sets = indices
            .iter()
            .map(|index| FieldSet::of(schema, &fields, &key, index));
        Ok(Self {
            sets: sets.collect::<Result<_, _>>()?,
            names: schema.fields().iter().map(|f| f.name().clone()).collect(),
            key,
            version,
        })
    }
}

/// A field that documents may have: its name and its column.
type Named = (String, usize);

impl FieldSet {
    fn of(
        schema: &Schema,
        fields: &[Named],
        key: &[usize],
        index: &IndexSettings,
    ) -> Result<Self, Invalid> {
        for name in index.fields.iter().filter(|name| *name != "*") {
            find(fields, name, index)?;
        }
        let has = |(name, column): &&Named| key.contains(column) || index.selects(name);
        let mut set = Self {
            fields: Vec::new(),
            minimum: None,
        };
        for (name, column) in fields.iter().filter(has) {
            if !crate::cells::is_writable(schema.field(*column).data_type()) {
                return Err(wrong_type(schema, *column, "of a type that JSON can carry"));
            }
            let mut before = vec![if set.fields.is_empty() { b'{' } else { b',' }];
            serde_json::to_writer(&mut before, name).expect("a name goes into memory");
            before.push(b':');
            set.fields.push(Field {
                column: *column,
                before,
            });
        }
        if let Some(minimum) = &index.minimum {
            let column = find(fields, &minimum.field, index)?;
            if !schema.field(column).data_type().is_numeric() {
                let wanted = "a number to be held against the index's minimum";
                return Err(wrong_type(schema, column, wanted));
            }
            set.minimum = Some((column, minimum.value));
        }
        Ok(set)
    }
}

fn find(fields: &[Named], name: &str, index: &IndexSettings) -> Result<usize, Invalid> {
    let found = fields.iter().find(|(field, _)| field == name);
    found.map(|(_, column)| *column).ok_or_else(|| {
        wrong_schema(format!(
            "index {} asks for field {name}, which no column of the batch gives; it has {}",
            index.name,
            list(fields.iter().map(|(name, _)| name)),
        ))
    })
}

/// Every field that documents may have, in the columns' order.
fn named_fields(schema: &Schema, mapping: &Mapping) -> Result<Vec<Named>, Invalid> {
    // The version travels in the action, and a reason belongs to an earlier stay in quarantine.
    let columns = schema.fields().iter().enumerate();
    let columns = columns.filter(|(_, c)| c.name() != VERSION_COLUMN && c.name() != REASON_COLUMN);
    let (places, names): (Vec<usize>, Vec<&str>) = columns
        .map(|(place, column)| (place, column.name().as_str()))
        .unzip();
    let names = mapping.target_names(names);
    let names = names.map_err(|error| wrong_schema(error.to_string()))?;
    Ok(names.into_iter().zip(places).collect())
}

fn key_column(schema: &Schema, name: &str) -> Result<usize, Invalid> {
    let key = column(schema, name)?;
    let data_type = schema.field(key).data_type();
    if crate::cells::is_text(data_type) || data_type.is_integer() {
        return Ok(key);
    }
    let wanted = "text or a whole number to be part of a key";
    Err(wrong_type(schema, key, wanted))
}

fn column(schema: &Schema, name: &str) -> Result<usize, Invalid> {
    schema.index_of(name).map_err(|_| {
        wrong_schema(format!(
            "the batch has no column {name}; it has {}",
            list(schema.fields().iter().map(|f| f.name())),
        ))
    })
}

fn wrong_type(schema: &Schema, column: usize, wanted: &str) -> Invalid {
    let field = schema.field(column);
    wrong_schema(format!(
        "column {} is of type {}; it must be {wanted}",
        field.name(),
        field.data_type()
    ))
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

    fn layout(columns: &[(&str, DataType)], indices: &[IndexSettings]) -> Result<Layout, Invalid> {
        let key = ["country".to_owned(), "keyword".to_owned()];
        Layout::of(&schema(columns), &key, &Mapping::default(), indices)
    }

    fn refusal(columns: &[(&str, DataType)]) -> String {
        let error = layout(columns, &[all(), lite()]).unwrap_err();
        assert_eq!(error.reason, Reason::WrongSchema);
        error.detail
    }

    #[test]
    fn an_index_takes_all_fields_or_those_chosen_without_version_and_reason() {
        let layout = layout(&hub(), &[all(), lite()]).unwrap();
        let names = |set: usize| {
            let before = layout.sets[set].fields.iter().map(|f| f.before.clone());
            String::from_utf8(before.collect::<Vec<_>>().concat()).unwrap()
        };
        assert_eq!(names(0), r#"{"country":,"keyword":,"volume":,"tags":"#);
        assert_eq!(names(1), r#"{"country":,"keyword":,"volume":"#);
        assert_eq!(layout.sets[0].minimum, None);
        assert_eq!(layout.sets[1].minimum, Some((2, 10.0)));
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
        for (place, unusable) in [
            (0, DataType::Float64),
            (2, DataType::Utf8),
            (3, list_of_lists),
            (5, DataType::UInt64),
        ] {
            let mut columns = hub();
            columns[place].1 = unusable.clone();
            let detail = refusal(&columns);
            assert!(detail.contains(columns[place].0), "{detail}");
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
