use std::fmt::Write;

use config::{Value, ValueKind};
use serde::Serialize;
use serde_json::Value as Json;

use crate::Loaded;
use crate::reference::literal;
use crate::validate::{FILE_SUFFIX, join};

impl<C: Serialize> Loaded<C> {
    /// The settings in effect as TOML; what is not a default says where it comes from. Secrets are
    /// hidden, settings without a value left out.
    pub fn to_toml(&self) -> String {
        let json = serde_json::to_value(&self.settings).unwrap_or_default();
        let mut page = String::new();
        table(&mut page, None, &json, "", Some(&self.tree));
        page.trim_start().to_owned()
    }
}

fn table(page: &mut String, header: Option<String>, json: &Json, path: &str, set: Option<&Value>) {
    let Json::Object(entries) = json else { return };
    let (tables, plain): (Vec<_>, Vec<_>) = entries
        .iter()
        .partition(|(_, json)| is_table(json) || is_list_of_tables(json));
    let lines: Vec<_> = plain
        .into_iter()
        .filter_map(|(name, json)| line(name, json, child(set, name)))
        .collect();
    if let Some(header) = header.filter(|_| !lines.is_empty()) {
        let _ = writeln!(page, "\n{header}");
    }
    page.extend(lines);
    for (name, json) in tables {
        let path = join(path, name);
        let set = child(set, name);
        match json {
            Json::Array(items) => {
                for (n, item) in items.iter().enumerate() {
                    table(page, Some(format!("[[{path}]]")), item, &path, nth(set, n));
                }
            }
            json => table(page, Some(format!("[{path}]")), json, &path, set),
        }
    }
}

/// `name = value  # origin`; none for a setting without a value.
fn line(name: &str, json: &Json, set: Option<&Value>) -> Option<String> {
    // Of a secret in a file, merging keeps the origin of the path, not of the table around it.
    let file = child(set, "file");
    let (name, value, set) = match file.and_then(text) {
        Some(path) => (format!("{name}{FILE_SUFFIX}"), Json::from(path), file),
        None => (name.to_owned(), json.clone(), set),
    };
    let value = literal(&value)?;
    let origin = set.and_then(Value::origin);
    let comment = origin
        .map(|origin| format!("  # {origin}"))
        .unwrap_or_default();
    Some(format!("{name} = {value}{comment}\n"))
}

/// An empty table is a value: it has no lines of its own to show it by.
fn is_table(json: &Json) -> bool {
    json.as_object().is_some_and(|entries| !entries.is_empty())
}

fn is_list_of_tables(json: &Json) -> bool {
    json.as_array()
        .is_some_and(|items| !items.is_empty() && items.iter().all(is_table))
}

fn child<'v>(value: Option<&'v Value>, name: &str) -> Option<&'v Value> {
    match &value?.kind {
        ValueKind::Table(entries) => entries.get(name),
        _ => None,
    }
}

fn nth(value: Option<&Value>, n: usize) -> Option<&Value> {
    match &value?.kind {
        ValueKind::Array(items) => items.get(n),
        _ => None,
    }
}

fn text(value: &Value) -> Option<&str> {
    match &value.kind {
        ValueKind::String(text) => Some(text),
        _ => None,
    }
}
