//! The field of a document that a column becomes.

use batch::{Column, VERSION_COLUMN};
use serde_json::{Map, Value, json};

use super::IndexSettings;
use crate::clickhouse::DataType;
use crate::types::DocumentType;
use crate::{ConfigureError, Mapping, did_you_mean};

/// Longest text, in characters, that a `keyword` field indexes. Lucene refuses terms of more than
/// 32,766 bytes, and a character has at most 4: every text below this fits.
const IGNORE_ABOVE: u32 = 8191;

/// A field of an index: its name and its mapping.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct IndexField {
    pub name: String,
    pub mapping: Value,
}

/// The fields that `index` has, of the `key` columns (always) and the other `columns` (as selected).
pub(crate) fn fields_of_index(
    index: &IndexSettings,
    key: &[Column],
    columns: &[Column],
    mapping: &Mapping,
) -> Result<Vec<IndexField>, ConfigureError> {
    let invalid = |what: String| ConfigureError::Invalid(format!("index {:?}: {what}", index.name));
    // The version is the document's own, not a field.
    let is_field = |column: &&Column| column.name != VERSION_COLUMN;
    let key: Vec<&Column> = key.iter().filter(is_field).collect();
    let columns = columns.iter().filter(is_field);
    let all: Vec<&Column> = key.iter().copied().chain(columns).collect();
    let names = mapping
        .target_names(all.iter().map(|column| column.name.as_str()))
        .map_err(|e| invalid(e.to_string()))?;
    let mut wanted = index.fields.iter().filter(|name| *name != "*");
    if let Some(unknown) = wanted.find(|name| !names.contains(name)) {
        let near = did_you_mean(unknown, &names);
        let names = names.join(", ");
        return Err(invalid(format!(
            "no column gives field {unknown:?}{near}; there are {names}"
        )));
    }
    if let Some((value, object)) = value_and_object(&names) {
        return Err(invalid(format!(
            "field {object:?} would stand inside of {value:?}, which is a value itself; give one of them another name in `rename`"
        )));
    }
    let mut fields = Vec::new();
    for (n, (column, name)) in all.into_iter().zip(names).enumerate() {
        let is_key = n < key.len();
        if !is_key && !index.selects(&name) {
            continue;
        }
        let data_type: Option<DataType> = column.r#type.parse().ok();
        let mapping = data_type.and_then(|data_type| field_mapping(&data_type, is_key));
        let mapping = mapping.ok_or_else(|| {
            invalid(format!(
                "column {:?} of type {} has no counterpart among the fields of documents that holds its values unchanged; \
                 leave it out of `fields`",
                column.name, column.r#type
            ))
        })?;
        fields.push(IndexField { name, mapping });
    }
    Ok(fields)
}

/// Two names of which one is an object in documents, because of the other one's point, and a value.
fn value_and_object(names: &[String]) -> Option<(&String, &String)> {
    let inside = |value: &String| {
        let prefix = format!("{value}.");
        names.iter().find(|name| name.starts_with(&prefix))
    };
    names.iter().find_map(|value| Some((value, inside(value)?)))
}

/// The mapping of a field, by its name with points, as Elasticsearch nests it.
pub(crate) fn find_field<'a>(properties: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    if let Some(found) = properties.get(name) {
        return Some(found);
    }
    let (object, rest) = name.split_once('.')?;
    let inner = properties.get(object)?.get("properties")?.as_object()?;
    find_field(inner, rest)
}

/// The names of all fields that hold values, those inside of objects with points.
pub(crate) fn field_names(properties: &Map<String, Value>) -> Vec<String> {
    let names = properties.iter().flat_map(|(name, field)| {
        match field.get("properties").and_then(Value::as_object) {
            Some(inner) => {
                let inner = field_names(inner).into_iter();
                inner.map(|rest| format!("{name}.{rest}")).collect()
            }
            None => vec![name.clone()],
        }
    });
    names.collect()
}

/// The mapping of a field for values of a ClickHouse type, as es-writer writes them.
fn field_mapping(data_type: &DataType, is_key: bool) -> Option<Value> {
    Some(match data_type.document_field()? {
        DocumentType::Keyword if is_key && data_type.name == "String" => json!({
            "type": "keyword",
            "ignore_above": IGNORE_ABOVE,
            // A key of many values is what readers search in.
            "fields": { "text": { "type": "text" } },
        }),
        DocumentType::Keyword => json!({ "type": "keyword", "ignore_above": IGNORE_ABOVE }),
        DocumentType::Boolean => json!({ "type": "boolean" }),
        DocumentType::Integer => json!({ "type": "integer" }),
        DocumentType::Long => json!({ "type": "long" }),
        DocumentType::Float => json!({ "type": "float" }),
        DocumentType::Double => json!({ "type": "double" }),
        DocumentType::Seconds => json!({ "type": "date", "format": "epoch_second" }),
        DocumentType::Milliseconds => json!({ "type": "date", "format": "epoch_millis" }),
    })
}

/// Whether an existing field can hold the values of the wanted one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum FieldFit {
    Good,
    /// It can with this mapping instead of its own, which Elasticsearch allows.
    Change(Value),
    /// It is of another type, which cannot be changed.
    Conflict,
}

/// The format of a date field whose mapping names none.
const DEFAULT_DATE_FORMAT: &str = "strict_date_optional_time||epoch_millis";
const WHOLE: [&str; 5] = ["byte", "short", "integer", "long", "unsigned_long"];
const FRACTION: [&str; 4] = ["half_float", "float", "double", "scaled_float"];

/// An index may be older than the fleet, so a field that takes the same values is accepted, even if it is
/// narrower (what does not fit is refused row by row) or has other parameters.
pub(crate) fn fit(existing: &Value, wanted: &Value) -> FieldFit {
    let there = existing["type"].as_str().unwrap_or_default();
    let good = match wanted["type"].as_str().unwrap_or_default() {
        "integer" | "long" => WHOLE.contains(&there) || FRACTION.contains(&there),
        "float" | "double" => FRACTION.contains(&there),
        "date" => {
            let formats = existing["format"].as_str().unwrap_or(DEFAULT_DATE_FORMAT);
            there == "date" && formats.split("||").any(|format| wanted["format"] == format)
        }
        needed => there == needed,
    };
    let limit = |mapping: &Value| mapping["ignore_above"].as_u64();
    match (good, limit(existing), limit(wanted)) {
        (false, ..) => FieldFit::Conflict,
        (true, Some(low), Some(needed)) if low < needed => {
            let mut changed = existing.clone();
            changed["ignore_above"] = needed.into();
            FieldFit::Change(changed)
        }
        (true, ..) => FieldFit::Good,
    }
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

    fn field_mapping(data_type: &str, is_key: bool) -> Option<Value> {
        super::field_mapping(&data_type.parse().ok()?, is_key)
    }

    #[test]
    fn each_type_has_its_field() {
        for (clickhouse_type, field) in [
            ("LowCardinality(String)", "keyword"),
            ("LowCardinality(Nullable(String))", "keyword"),
            ("FixedString(2)", "keyword"),
            ("Bool", "boolean"),
            ("UInt16", "integer"),
            ("Enum8('a' = 1)", "integer"),
            ("UInt64", "long"),
            ("Nullable(Float32)", "float"),
            ("Nullable(Float64)", "double"),
            ("Decimal(18, 4)", "double"),
            ("Array(UInt32)", "long"),
            ("DateTime64(3, 'UTC')", "date"),
        ] {
            let mapping = field_mapping(clickhouse_type, false).unwrap();
            assert_eq!(mapping["type"], field, "{clickhouse_type}");
            assert_eq!(mapping.get("fields"), None, "{clickhouse_type}");
        }
        for unknown in ["Map(String, String)", "Tuple(a Int8)", "UUID", ""] {
            assert_eq!(field_mapping(unknown, false), None, "{unknown}");
        }
    }

    #[test]
    fn only_a_key_of_many_values_can_be_searched_as_text() {
        let keyword = field_mapping("String", true).unwrap();
        assert_eq!(keyword["fields"]["text"]["type"], "text");
        assert_eq!(
            field_mapping("LowCardinality(String)", true)
                .unwrap()
                .get("fields"),
            None
        );
    }

    #[test]
    fn an_index_has_the_key_and_the_fields_it_selects_but_never_the_version() {
        let index = IndexSettings {
            name: "lite".to_owned(),
            fields: vec!["volume".to_owned()],
            ..IndexSettings::default()
        };
        let key = [column("keyword", "String")];
        let columns = [
            column("processed_volume", "UInt64"),
            column("processed_clicks", "Map(String, String)"),
            column(VERSION_COLUMN, "Int64"),
        ];
        let fields = fields_of_index(&index, &key, &columns, &Mapping::default()).unwrap();
        let names: Vec<_> = fields.iter().map(|field| field.name.as_str()).collect();
        assert_eq!(names, ["keyword", "volume"]);

        let all = IndexSettings {
            name: "all".to_owned(),
            ..IndexSettings::default()
        };
        let refused = fields_of_index(&all, &key, &columns, &Mapping::default()).unwrap_err();
        assert!(
            refused.to_string().starts_with(
                "index \"all\": column \"processed_clicks\" of type Map(String, String) has no counterpart"
            ),
            "{refused}"
        );
    }

    #[test]
    fn a_selected_field_that_no_column_gives_is_refused_by_name() {
        let index = IndexSettings {
            name: "lite".to_owned(),
            fields: vec!["volumes".to_owned()],
            ..IndexSettings::default()
        };
        let columns = [column("processed_volume", "UInt64")];
        let refused = fields_of_index(&index, &[], &columns, &Mapping::default()).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "index \"lite\": no column gives field \"volumes\" (did you mean \"volume\"?); there are volume"
        );
    }

    #[test]
    fn a_field_that_takes_the_same_values_will_do() {
        for (existing, wanted) in [
            (json!({"type": "integer"}), json!({"type": "long"})),
            (json!({"type": "double"}), json!({"type": "long"})),
            (json!({"type": "float"}), json!({"type": "double"})),
            (
                json!({"type": "date"}),
                json!({"type": "date", "format": "epoch_millis"}),
            ),
            (
                json!({"type": "keyword"}),
                json!({"type": "keyword", "ignore_above": 8191}),
            ),
        ] {
            assert_eq!(
                fit(&existing, &wanted),
                FieldFit::Good,
                "{existing} {wanted}"
            );
        }
    }

    #[test]
    fn a_field_that_takes_other_values_is_a_conflict() {
        for (existing, wanted) in [
            (json!({"type": "long"}), json!({"type": "double"})),
            (json!({"type": "text"}), json!({"type": "keyword"})),
            (json!({"properties": {}}), json!({"type": "long"})),
            (
                json!({"type": "date"}),
                json!({"type": "date", "format": "epoch_second"}),
            ),
        ] {
            assert_eq!(
                fit(&existing, &wanted),
                FieldFit::Conflict,
                "{existing} {wanted}"
            );
        }
    }

    #[test]
    fn a_keyword_field_that_leaves_out_long_texts_is_widened_and_keeps_what_else_it_has() {
        let existing = json!({"type": "keyword", "ignore_above": 256, "doc_values": false});
        let wanted = json!({"type": "keyword", "ignore_above": 8191});
        let changed = json!({"type": "keyword", "ignore_above": 8191, "doc_values": false});
        assert_eq!(fit(&existing, &wanted), FieldFit::Change(changed));
    }
}
