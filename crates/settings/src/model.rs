use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

/// The section whose entries may hold every other section again, for one process alone.
pub(crate) const PROCESSES: &str = "processes";

/// What may be configured, taken from the JSON schema of the settings: the one source of the checks
/// and of the reference page.
#[derive(Debug, Clone, Default)]
pub(crate) struct Key {
    pub(crate) doc: String,
    /// It may be left unset although it has no default.
    pub(crate) nullable: bool,
    /// As the schema has it: of the type alone, where a struct that holds it may have another.
    pub(crate) default: Value,
    pub(crate) shape: Shape,
}

#[derive(Debug, Clone, Default)]
pub(crate) enum Shape {
    /// A table with known keys.
    Section(BTreeMap<String, Key>),
    /// A table whose keys are the user's.
    Map(Box<Key>),
    /// Taken as one text with commas too.
    List(Box<Key>),
    Text,
    /// Text that is never shown; `NAME_file` is taken as well as `NAME`.
    Secret,
    /// One of some words, each with what it means.
    Choice(Vec<(String, String)>),
    Integer {
        min: i128,
        max: i128,
    },
    Number {
        min: Option<f64>,
        max: Option<f64>,
    },
    Boolean,
    /// Whatever serde makes of it.
    #[default]
    Any,
}

impl Key {
    /// The model of a whole configuration.
    pub(crate) fn root<C: JsonSchema>() -> Self {
        let settings = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
        let schema = settings.into_generator().into_root_schema_for::<C>();
        let mut root = Self::read(schema.as_value());
        root.nest_sections_in_processes();
        root
    }

    pub(crate) fn section(&self) -> Option<&BTreeMap<String, Key>> {
        match &self.shape {
            Shape::Section(keys) => Some(keys),
            _ => None,
        }
    }

    fn nest_sections_in_processes(&mut self) {
        let Shape::Section(keys) = &mut self.shape else {
            return;
        };
        let general = keys.clone();
        if let Some(Shape::Map(process)) = keys.get_mut(PROCESSES).map(|key| &mut key.shape)
            && let Shape::Section(own) = &mut process.shape
        {
            for (name, key) in general.into_iter().filter(|(name, _)| name != PROCESSES) {
                own.entry(name).or_insert(key);
            }
        }
    }

    fn read(schema: &Value) -> Self {
        let doc = text(schema, "description");
        let alternatives = ["anyOf", "oneOf", "allOf"]
            .into_iter()
            .find_map(|word| schema.get(word)?.as_array());
        if let Some(alternatives) = alternatives {
            let default = schema.get("default").cloned().unwrap_or_default();
            return Self {
                default,
                ..Self::read_alternatives(doc, alternatives)
            };
        }
        let types: Vec<_> = match schema.get("type") {
            Some(Value::Array(types)) => types.iter().filter_map(Value::as_str).collect(),
            Some(Value::String(name)) => vec![name.as_str()],
            _ => Vec::new(),
        };
        let mut proper = types.iter().filter(|name| **name != "null");
        let shape = match (proper.next(), proper.next()) {
            (Some(name), None) => Shape::read(name, schema),
            _ => Shape::Any,
        };
        Self {
            doc,
            nullable: types.contains(&"null"),
            default: schema.get("default").cloned().unwrap_or_default(),
            shape,
        }
    }

    fn read_alternatives(doc: String, alternatives: &[Value]) -> Self {
        let (null, proper): (Vec<_>, Vec<_>) = alternatives
            .iter()
            .partition(|schema| schema.get("type").is_some_and(|name| name == "null"));
        let mut keys: Vec<_> = proper.into_iter().map(Self::read).collect();
        let shapes: Vec<_> = keys.iter().map(|key| &key.shape).collect();
        let words = |shape: &Shape| match shape {
            Shape::Choice(words) => Some(words.clone()),
            _ => None,
        };
        let choice: Option<Vec<_>> = shapes.iter().map(|shape| words(shape)).collect();
        let mut key = match (shapes.as_slice(), choice) {
            ([_], _) => keys.remove(0),
            // Lists take text with commas anyway.
            ([Shape::Text, Shape::List(_)], _) => keys.remove(1),
            (_, choice) => Self {
                shape: choice.map_or(Shape::Any, |words| Shape::Choice(words.concat())),
                ..Self::default()
            },
        };
        key.nullable |= !null.is_empty();
        if !doc.is_empty() {
            key.doc = doc;
        }
        key
    }
}

impl Shape {
    fn read(type_name: &str, schema: &Value) -> Self {
        match type_name {
            "object" => Self::read_object(schema),
            "array" => match schema.get("items") {
                Some(items) => Self::List(Box::new(Key::read(items))),
                None => Self::Any,
            },
            "string" => Self::read_text(schema),
            "integer" => Self::read_integer(schema),
            "number" => Self::Number {
                min: schema.get("minimum").and_then(Value::as_f64),
                max: schema.get("maximum").and_then(Value::as_f64),
            },
            "boolean" => Self::Boolean,
            _ => Self::Any,
        }
    }

    fn read_object(schema: &Value) -> Self {
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            let keys = properties
                .iter()
                .map(|(name, schema)| (name.clone(), Key::read(schema)));
            return Self::Section(keys.collect());
        }
        let of_patterns = schema
            .get("patternProperties")
            .and_then(Value::as_object)
            .and_then(|patterns| patterns.values().next());
        let values = schema.get("additionalProperties").or(of_patterns);
        match values {
            Some(schema @ Value::Object(_)) => Self::Map(Box::new(Key::read(schema))),
            _ => Self::Any,
        }
    }

    fn read_text(schema: &Value) -> Self {
        if schema.get("writeOnly") == Some(&Value::Bool(true)) {
            return Self::Secret;
        }
        if let Some(word) = schema.get("const").and_then(Value::as_str) {
            return Self::Choice(vec![(word.to_owned(), text(schema, "description"))]);
        }
        match schema.get("enum").and_then(Value::as_array) {
            Some(words) => {
                let words = words.iter().filter_map(Value::as_str);
                Self::Choice(words.map(|word| (word.to_owned(), String::new())).collect())
            }
            None => Self::Text,
        }
    }

    fn read_integer(schema: &Value) -> Self {
        let (min, max) = match schema.get("format").and_then(Value::as_str) {
            Some("uint8") => (0, i128::from(u8::MAX)),
            Some("uint16") => (0, i128::from(u16::MAX)),
            Some("uint32") => (0, i128::from(u32::MAX)),
            Some(format) if format.starts_with("uint") => (0, i128::from(u64::MAX)),
            Some("int8") => (i128::from(i8::MIN), i128::from(i8::MAX)),
            Some("int16") => (i128::from(i16::MIN), i128::from(i16::MAX)),
            Some("int32") => (i128::from(i32::MIN), i128::from(i32::MAX)),
            _ => (i128::from(i64::MIN), i128::from(i64::MAX)),
        };
        let bound = |word| schema.get(word).and_then(Value::as_number).and_then(whole);
        Self::Integer {
            min: bound("minimum").map_or(min, |own| own.max(min)),
            max: bound("maximum").map_or(max, |own| own.min(max)),
        }
    }
}

fn whole(number: &serde_json::Number) -> Option<i128> {
    let of_integer = number.as_i128();
    // Attributes of the schema may write a whole bound as a float.
    of_integer.or_else(|| number.as_f64().map(|bound| bound as i128))
}

fn text(schema: &Value, word: &str) -> String {
    let text = schema.get(word).and_then(Value::as_str).unwrap_or_default();
    // Doc comments are wrapped where the source is; here a line is a paragraph.
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What a value must be, for a person.
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Section(_) => f.write_str("a section"),
            Self::Map(_) => f.write_str("a table"),
            Self::List(item) => write!(f, "a list, each item {}", item.shape),
            Self::Text | Self::Secret => f.write_str("text"),
            Self::Choice(choices) => {
                let words: Vec<_> = choices.iter().map(|(word, _)| word.as_str()).collect();
                write!(f, "one of {}", words.join(", "))
            }
            Self::Integer { min, max } => {
                f.write_str("a whole number")?;
                bounds(
                    f,
                    (*min > i128::from(i64::MIN)).then_some(min),
                    (*max < i128::from(i64::MAX)).then_some(max),
                )
            }
            Self::Number { min, max } => {
                f.write_str("a number")?;
                bounds(f, min.as_ref(), max.as_ref())
            }
            Self::Boolean => f.write_str("true or false"),
            Self::Any => f.write_str("another value"),
        }
    }
}

fn bounds<T: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    min: Option<T>,
    max: Option<T>,
) -> fmt::Result {
    match (min, max) {
        (Some(min), Some(max)) => write!(f, " from {min} to {max}"),
        (Some(min), None) => write!(f, " from {min} up"),
        (None, Some(max)) => write!(f, " up to {max}"),
        (None, None) => Ok(()),
    }
}
