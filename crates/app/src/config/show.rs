use std::fmt::Write;

use config::{Value, ValueKind};
use serde::Serialize;
use serde_json::Value as Json;

use super::Loaded;
use super::adopt::{FILE_SUFFIX, join};
use super::reference::literal;

impl<C: Serialize> Loaded<C> {
    /// The settings in effect as TOML; what is not a default says where it comes from. Secrets are
    /// hidden, settings without a value left out.
    pub fn to_toml(&self) -> String {
        let json = serde_json::to_value(&self.settings).unwrap_or_default();
        let mut page = String::new();
        table(&mut page, &json, "", Some(&self.tree));
        page.trim_start().to_owned()
    }
}

fn table(page: &mut String, json: &Json, path: &str, set: Option<&Value>) {
    let Json::Object(entries) = json else { return };
    let (tables, plain): (Vec<_>, Vec<_>) = entries.iter().partition(|(_, json)| is_table(json));
    if !path.is_empty() && !plain.is_empty() {
        let _ = writeln!(page, "\n[{path}]");
    }
    for (name, json) in plain {
        let set = child(set, name);
        // Of a secret in a file, merging keeps the origin of the path, not of the table around it.
        let file = child(set, "file");
        let (name, value, set) = match file.and_then(text) {
            Some(path) => (format!("{name}{FILE_SUFFIX}"), Json::from(path), file),
            None => (name.clone(), json.clone(), set),
        };
        let Some(value) = literal(&value) else {
            continue;
        };
        let origin = set.and_then(Value::origin);
        let comment = origin
            .map(|origin| format!("  # {origin}"))
            .unwrap_or_default();
        let _ = writeln!(page, "{name} = {value}{comment}");
    }
    for (name, json) in tables {
        table(page, json, &join(path, name), child(set, name));
    }
}

/// An empty table is a value: it has no lines of its own to show it by.
fn is_table(json: &Json) -> bool {
    json.as_object().is_some_and(|entries| !entries.is_empty())
}

fn child<'v>(value: Option<&'v Value>, name: &str) -> Option<&'v Value> {
    match &value?.kind {
        ValueKind::Table(entries) => entries.get(name),
        _ => None,
    }
}

fn text(value: &Value) -> Option<&str> {
    match &value.kind {
        ValueKind::String(text) => Some(text),
        _ => None,
    }
}
