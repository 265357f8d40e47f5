//! Values as they are written in a file, an environment variable or an option, each with its origin.

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

/// Reads a TOML file. An error tells the line but does not quote the line, which may hold a secret.
pub(crate) fn read_file(path: &Path) -> Result<Value, InvalidSetting> {
    let name = path.display().to_string();
    let problem = |origin: String, message: String| InvalidSetting {
        origin: Some(origin),
        path: String::new(),
        message,
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| problem(name.clone(), format!("cannot be read: {error}")))?;
    let file = Origin::File { name, text: &text };
    let table = DeTable::parse(&text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        let message = format!("is not TOML: {}", error.message().replace('\n', ", "));
        problem(file.text(offset), message)
    })?;
    Ok(file.table(table.get_ref(), 0))
}

/// A TOML array out of one line of text, if it is one: for items that are tables or hold a comma.
pub(crate) fn read_list(text: &str, origin: Option<&String>) -> Option<Vec<Value>> {
    if !text.trim_start().starts_with('[') {
        return None;
    }
    let value = DeValue::parse(text).ok()?;
    let origin = Origin::Option(origin.cloned().unwrap_or_default());
    match origin.value(&value, 0).kind {
        ValueKind::Array(items) => Some(items),
        _ => None,
    }
}

/// What a piece of TOML was read from.
enum Origin<'t> {
    File {
        name: String,
        text: &'t str,
    },
    /// One environment variable or option.
    Option(String),
}

impl Origin<'_> {
    /// As a reader finds it.
    fn text(&self, offset: usize) -> String {
        match self {
            Self::File { name, text } => {
                let before = &text.as_bytes()[..offset.min(text.len())];
                let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
                format!("{name}:{line}")
            }
            Self::Option(origin) => origin.clone(),
        }
    }

    fn table(&self, table: &DeTable<'_>, offset: usize) -> Value {
        let entries = table.iter().map(|(key, value)| {
            let value = self.value(value, key.span().start);
            (key.get_ref().to_string(), value)
        });
        let entries: Map<String, Value> = entries.collect();
        Value::new(Some(&self.text(offset)), entries)
    }

    /// `offset` is where the key stands, which is where a reader looks for it.
    fn value(&self, value: &Spanned<DeValue<'_>>, offset: usize) -> Value {
        let kind = match value.get_ref() {
            DeValue::String(text) => ValueKind::String(text.to_string()),
            DeValue::Integer(digits) => integer(digits.as_str(), digits.radix()),
            DeValue::Float(digits) => digits
                .as_str()
                .parse()
                .map_or(ValueKind::Nil, ValueKind::Float),
            DeValue::Boolean(value) => ValueKind::Boolean(*value),
            DeValue::Datetime(time) => ValueKind::String(time.to_string()),
            DeValue::Array(items) => {
                let items = items.iter().map(|item| self.value(item, item.span().start));
                ValueKind::Array(items.collect())
            }
            DeValue::Table(table) => return self.table(table, offset),
        };
        Value::new(Some(&self.text(offset)), kind)
    }
}

fn integer(digits: &str, radix: u32) -> ValueKind {
    match i128::from_str_radix(digits, radix) {
        Ok(number) => i64::try_from(number).map_or(ValueKind::I128(number), ValueKind::I64),
        Err(_) => ValueKind::String(digits.to_owned()),
    }
}

/// The variables that configure something, each as a table that leads to its text.
pub(crate) fn read_environment(
    variables: impl IntoIterator<Item = (String, String)>,
) -> Vec<Value> {
    let mut ours: Vec<_> = variables
        .into_iter()
        .filter(|(name, _)| name.starts_with(PREFIX))
        .collect();
    ours.sort();
    ours.into_iter()
        .map(|(name, text)| {
            let mut path: Vec<String> = name[PREFIX.len()..]
                .split(SEPARATOR)
                .map(str::to_lowercase)
                .collect();
            // Process names have hyphens, which shells do not take in the name of a variable.
            if let [section, process, ..] = path.as_mut_slice()
                && section == PROCESSES
            {
                *process = process.replace('_', "-");
            }
            nest(&path, text, &format!("environment variable {name}"))
        })
        .collect()
}

/// One `--set a.b=text`, as a table that leads to the text.
pub(crate) fn read_override(option: &str) -> Result<Value, InvalidSetting> {
    let Some((path, text)) = option.split_once('=') else {
        return Err(InvalidSetting {
            origin: Some(format!("--set {option}")),
            path: String::new(),
            message: "must be a key's path and its value, such as stats.port=8125".to_owned(),
        });
    };
    let path = path.trim();
    let parts: Vec<_> = path.split('.').map(str::to_owned).collect();
    Ok(nest(
        &parts,
        text.trim().to_owned(),
        &format!("--set {path}"),
    ))
}

fn nest(path: &[String], text: String, origin: &str) -> Value {
    let origin = origin.to_owned();
    let leaf = Value::new(Some(&origin), text);
    path.iter().rev().fold(leaf, |inner, name| {
        let entries: Map<String, Value> = [(name.clone(), inner)].into_iter().collect();
        Value::new(Some(&origin), entries)
    })
}
