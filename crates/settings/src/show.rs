use std::fmt::Write;

use config::{Value, ValueKind};
use serde::Serialize;
use serde_json::Value as Json;

use crate::LoadedSettings;
use crate::invalid::child;
use crate::reference::literal;
use crate::validate::{FILE_SUFFIX, join};

impl<C: Serialize> LoadedSettings<C> {
    /// The settings in effect as TOML; what is not a default has its origin. Secrets are
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
        .filter_map(|(name, json)| line(name, json, set.and_then(|set| child(set, name))))
        .collect();
    if let Some(header) = header.filter(|_| !lines.is_empty()) {
        let _ = writeln!(page, "\n{header}");
    }
    page.extend(lines);
    for (name, json) in tables {
        let path = join(path, name);
        let set = set.and_then(|set| child(set, name));
        match json {
            Json::Array(items) => {
                for (n, item) in items.iter().enumerate() {
                    let set = set.and_then(|set| child(set, &n.to_string()));
                    table(page, Some(format!("[[{path}]]")), item, &path, set);
                }
            }
            json => table(page, Some(format!("[{path}]")), json, &path, set),
        }
    }
}

/// `name = value  # origin`; none for a setting without a value.
fn line(name: &str, json: &Json, set: Option<&Value>) -> Option<String> {
    // Of a secret in a file, merging keeps the origin of the path, not of the table around it.
    let file = set.and_then(|set| child(set, "file"));
    let (name, value, set) = match file.map(|file| &file.kind) {
        Some(ValueKind::String(path)) => (
            format!("{name}{FILE_SUFFIX}"),
            Json::from(path.as_str()),
            file,
        ),
        _ => (name.to_owned(), json.clone(), set),
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
