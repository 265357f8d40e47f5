//! Values as they are written in a file, an environment variable or an option, each with its origin. The `config`
//! crate's own readers know the file of a value but not its line, and no variable's name.

use std::path::Path;

use config::{Map, Value, ValueKind};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::invalid::InvalidSetting;
use crate::model::PROCESSES;

/// What the name of an environment variable begins with.
pub(crate) const PREFIX: &str = "FLEET__";

/// Between the parts of a variable's name; one underscore is part of many keys.
pub(crate) const SEPARATOR: &str = "__";

/// Reads a TOML file. An error names the line but does not quote the line, which may hold a secret.
pub(crate) fn read_file(path: &Path) -> Result<Value, InvalidSetting> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| InvalidSetting::in_source(&name, format!("cannot be read: {error}")))?;
    let line = |offset: usize| {
        let before = &text.as_bytes()[..offset.min(text.len())];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        format!("{name}:{line}")
    };
    let table = DeTable::parse(&text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        let message = format!("is not TOML: {}", error.message().replace('\n', ", "));
        InvalidSetting::in_source(line(offset), message)
    })?;
    Ok(table_with_origins(table.get_ref(), 0, &line))
}

/// A TOML array out of one line of text, if it is one: for items that are tables or hold a comma.
pub(crate) fn read_list(text: &str, origin: Option<&String>) -> Option<Vec<Value>> {
    if !text.trim_start().starts_with('[') {
        return None;
    }
    let value = DeValue::parse(text).ok()?;
    let origin = |_| origin.cloned().unwrap_or_default();
    match with_origins(&value, 0, &origin).kind {
        ValueKind::Array(items) => Some(items),
        _ => None,
    }
}

/// `origin` describes an offset as a reader finds it.
fn table_with_origins(
    table: &DeTable<'_>,
    offset: usize,
    origin: &dyn Fn(usize) -> String,
) -> Value {
    let entries = table.iter().map(|(key, value)| {
        let value = with_origins(value, key.span().start, origin);
        (key.get_ref().to_string(), value)
    });
    let entries: Map<String, Value> = entries.collect();
    Value::new(Some(&origin(offset)), entries)
}

/// `offset` is that of the key, which is where a reader looks for it.
fn with_origins(
    value: &Spanned<DeValue<'_>>,
    offset: usize,
    origin: &dyn Fn(usize) -> String,
) -> Value {
    let kind = match value.get_ref() {
        DeValue::String(text) => ValueKind::String(text.to_string()),
        DeValue::Integer(digits) => i128::from_str_radix(digits.as_str(), digits.radix())
            .map_or_else(|_| ValueKind::String(digits.to_string()), whole_number),
        DeValue::Float(digits) => digits
            .as_str()
            .parse()
            .map_or(ValueKind::Nil, ValueKind::Float),
        DeValue::Boolean(value) => ValueKind::Boolean(*value),
        DeValue::Datetime(time) => ValueKind::String(time.to_string()),
        DeValue::Array(items) => {
            let items = items.iter();
            let items = items.map(|item| with_origins(item, item.span().start, origin));
            ValueKind::Array(items.collect())
        }
        DeValue::Table(table) => return table_with_origins(table, offset, origin),
    };
    Value::new(Some(&origin(offset)), kind)
}

/// In the smallest type that holds it: serde buffers no number of 128 bits.
pub(crate) fn whole_number(number: i128) -> ValueKind {
    i64::try_from(number)
        .map(ValueKind::I64)
        .or_else(|_| u64::try_from(number).map(ValueKind::U64))
        .unwrap_or(ValueKind::I128(number))
}

/// The variables that configure something, each as a table that leads to its text.
pub(crate) fn read_environment(variables: &[(String, String)]) -> Vec<Value> {
    let mut ours: Vec<_> = variables
        .iter()
        .filter_map(|(name, text)| Some((name, name.strip_prefix(PREFIX)?, text)))
        .collect();
    ours.sort();
    ours.into_iter()
        .map(|(name, path, text)| {
            let path = path.to_lowercase();
            let mut path: Vec<String> = path.split(SEPARATOR).map(str::to_owned).collect();
            // Process names have hyphens, which shells do not take in the name of a variable.
            if let [section, process, ..] = path.as_mut_slice()
                && section == PROCESSES
            {
                *process = process.replace('_', "-");
            }
            nest(path, text, &format!("environment variable {name}"))
        })
        .collect()
}

/// One `--set a.b=text`, as a table that leads to the text.
pub(crate) fn read_override(option: &str) -> Result<Value, InvalidSetting> {
    let Some((path, text)) = option.split_once('=') else {
        let message = "must be a key's path and its value, such as stats.port=8125";
        return Err(InvalidSetting::in_source(
            format!("--set {option}"),
            message,
        ));
    };
    let path = path.trim();
    let parts = path.split('.').map(str::to_owned).collect();
    Ok(nest(parts, text.trim(), &format!("--set {path}")))
}

fn nest(path: Vec<String>, text: &str, origin: &str) -> Value {
    let origin = origin.to_owned();
    let leaf = Value::new(Some(&origin), text);
    path.into_iter().rev().fold(leaf, |inner, name| {
        Value::new(Some(&origin), Map::from_iter([(name, inner)]))
    })
}
