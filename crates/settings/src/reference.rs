use std::collections::BTreeMap;
use std::fmt::Write;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::model::{Key, PROCESSES, Shape};
use crate::source::{PREFIX, SEPARATOR};
use crate::validate::{FILE_SUFFIX, join};

/// What stands where there is nothing.
const NONE: &str = "–";

/// Stands for a name that the user chooses.
const CHOSEN: &str = "NAME";

/// Stands for an item's number in a list.
const LISTED: &str = "N";

/// The reference of all settings in Markdown: for each section a table of its keys, with type,
/// default, environment variable and meaning.
pub fn reference<C: Default + Serialize + JsonSchema>() -> String {
    let root = Key::root::<C>();
    let defaults = serde_json::to_value(C::default()).unwrap_or_default();
    let mut page = String::new();
    section(&mut page, &root, "", &defaults);
    page
}

fn section(page: &mut String, key: &Key, path: &str, defaults: &Value) {
    let Some(keys) = key.section() else { return };
    if !path.is_empty() {
        let _ = writeln!(page, "## {}\n", heading(path));
        if !key.doc.is_empty() {
            let _ = writeln!(page, "{}\n", key.doc);
        }
    }
    // What every process may hold again is described where it stands first.
    let (listed, repeated) = match path.strip_prefix(PROCESSES) {
        Some(_) => ("role", true),
        None => ("", false),
    };
    let keys: BTreeMap<_, _> = keys
        .iter()
        .filter(|(name, _)| !repeated || *name == listed)
        .collect();
    table(page, &keys, path, defaults);
    for (name, key) in keys {
        let path = join(path, name);
        let defaults = defaults.get(name).unwrap_or(&Value::Null);
        match &key.shape {
            Shape::Section(_) => section(page, key, &path, defaults),
            Shape::Map(item) if item.section().is_some() => {
                entries(page, key, item, &join(&path, CHOSEN));
            }
            Shape::List(item) if item.section().is_some() => {
                entries(page, key, item, &join(&path, LISTED));
            }
            _ => {}
        }
    }
}

/// The keys that each entry of a table or a list has.
fn entries(page: &mut String, key: &Key, item: &Key, path: &str) {
    let entry = Key {
        doc: format!("{} {}", key.doc, item.doc).trim().to_owned(),
        ..item.clone()
    };
    section(page, &entry, path, &Value::Null);
}

/// The path as a header of a TOML table: `[a.NAME]`, `[[a.b]]`.
fn heading(path: &str) -> String {
    let parts: Vec<_> = path.split('.').filter(|part| *part != LISTED).collect();
    let name = parts.join(".");
    if path.ends_with(&format!(".{LISTED}")) {
        format!("[[{name}]]")
    } else {
        format!("[{name}]")
    }
}

fn table(page: &mut String, keys: &BTreeMap<&String, &Key>, path: &str, defaults: &Value) {
    let plain: Vec<_> = keys.iter().filter(|(_, key)| !has_own_table(key)).collect();
    if plain.is_empty() {
        return;
    }
    page.push_str("| Key | Type | Default | Environment | Meaning |\n|---|---|---|---|---|\n");
    for (name, key) in plain {
        let default = defaults.get(name.as_str()).unwrap_or(&key.default);
        row(page, path, name, key, default);
        if matches!(key.shape, Shape::Secret) {
            let file = Key {
                doc: format!("File that holds `{name}`, in place of it."),
                shape: Shape::Text,
                ..Key::default()
            };
            let name = format!("{name}{FILE_SUFFIX}");
            row(page, path, &name, &file, &Value::Null);
        }
    }
    page.push('\n');
}

fn has_own_table(key: &Key) -> bool {
    match &key.shape {
        Shape::Section(_) => true,
        Shape::Map(item) => item.section().is_some(),
        // The list itself has a default and a variable; its items have a table of their own.
        _ => false,
    }
}

fn row(page: &mut String, path: &str, name: &str, key: &Key, default: &Value) {
    let default = match (&key.shape, literal(default)) {
        (Shape::Secret, _) | (_, None) => NONE.to_owned(),
        (_, Some(text)) => format!("`{text}`"),
    };
    let variable = variable(&join(path, name), key);
    let _ = writeln!(
        page,
        "| `{name}` | {} | {} | {variable} | {} |",
        cell(&kind(&key.shape)),
        cell(&default),
        cell(&meaning(key)),
    );
}

fn kind(shape: &Shape) -> String {
    match shape {
        Shape::Secret => "text, secret".to_owned(),
        Shape::Choice(words) => {
            let words = words.iter().map(|(word, _)| format!("`{word}`"));
            words.collect::<Vec<_>>().join(", ")
        }
        Shape::List(item) if item.section().is_some() => "list of tables".to_owned(),
        Shape::List(item) => format!("list of: {}", kind(&item.shape)),
        Shape::Map(item) => format!("table of: {}", kind(&item.shape)),
        // What the type can hold is no limit that anyone meant.
        Shape::Integer { min, max } if *max == i128::from(u32::MAX) => kind(&Shape::Integer {
            min: *min,
            max: i128::from(u64::MAX),
        }),
        other => other.to_string().trim_start_matches("a ").to_owned(),
    }
}

fn meaning(key: &Key) -> String {
    let Shape::Choice(words) = &key.shape else {
        return key.doc.clone();
    };
    let words: Vec<_> = words
        .iter()
        .filter(|(_, doc)| !doc.is_empty())
        .map(|(word, doc)| format!("`{word}`: {}", lower_first(doc.trim_end_matches('.'))))
        .collect();
    if words.is_empty() {
        key.doc.clone()
    } else {
        format!("{} {}.", key.doc, words.join("; "))
    }
}

fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    match (letters.next(), text.chars().nth(1)) {
        (Some(first), Some(second)) if second.is_lowercase() || second == ' ' => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}

/// The variable that sets the key; a table needs one for each of its entries, and an item of a list has none.
fn variable(path: &str, key: &Key) -> String {
    if path.split('.').any(|part| part == LISTED) {
        return NONE.to_owned();
    }
    let name = path.to_uppercase().replace('.', SEPARATOR);
    match key.shape {
        Shape::Map(_) => format!("`{PREFIX}{name}{SEPARATOR}{CHOSEN}`"),
        _ => format!("`{PREFIX}{name}`"),
    }
}

/// Text that cannot end the cell or the row of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

/// A value as TOML writes it in one line; none for null.
pub(crate) fn literal(value: &Value) -> Option<String> {
    Some(match value {
        Value::Null => return None,
        Value::Array(items) => {
            let items: Vec<_> = items.iter().filter_map(literal).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(entries) => {
            let entries = entries.iter().filter_map(|(name, value)| {
                let value = literal(value)?;
                Some(format!("{} = {value}", toml_key(name)))
            });
            let entries: Vec<_> = entries.collect();
            match entries.as_slice() {
                [] => "{}".to_owned(),
                entries => format!("{{ {} }}", entries.join(", ")),
            }
        }
        // A JSON string is a TOML string on one line.
        Value::String(_) | Value::Bool(_) | Value::Number(_) => value.to_string(),
    })
}

fn toml_key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.chars().all(bare) {
        name.to_owned()
    } else {
        Value::from(name).to_string()
    }
}
