//! Checks the values of one source against the model, and types those that came as text.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use config::{Map, Value, ValueKind};

use crate::invalid::InvalidSetting;
use crate::model::{Key, Shape};
use crate::source;

/// What the key that names a secret's file ends with.
pub(crate) const FILE_SUFFIX: &str = "_file";

/// Names less alike than this are not worth suggesting: `batch_rowz` is 0.9 of `batch_rows`, `host`
/// 0.5 of `port`.
const ALIKE: f64 = 0.6;

/// Letters that a name must share from its beginning to be meant by it.
const SHORTEST_BEGINNING: usize = 4;

/// The values of one source: one file, the whole environment, all `--set`.
pub(crate) struct Validator<'m> {
    root: &'m Key,
    /// Values are text, to be read as what the key wants.
    raw: bool,
    /// What the paths of secret files are relative to.
    folder: PathBuf,
    /// Secrets seen so far, with the key that set each.
    secrets: BTreeMap<String, String>,
    problems: Vec<InvalidSetting>,
}

impl<'m> Validator<'m> {
    /// For a file, or else for values that are text.
    pub(crate) fn new(root: &'m Key, file: Option<&Path>) -> Self {
        Self {
            root,
            raw: file.is_none(),
            folder: file
                .and_then(Path::parent)
                .unwrap_or(Path::new(""))
                .to_owned(),
            secrets: BTreeMap::new(),
            problems: Vec::new(),
        }
    }

    /// The value without what is wrong in it; that is among the problems.
    pub(crate) fn validate(&mut self, value: Value) -> Map<String, Value> {
        let root = self.root;
        match self.value(value, root, "").map(|value| value.kind) {
            Some(ValueKind::Table(entries)) => entries,
            _ => Map::new(),
        }
    }

    /// In the order of the lines, where they have some.
    pub(crate) fn into_problems(mut self) -> Vec<InvalidSetting> {
        self.problems.sort_by_key(|problem| {
            let origin = problem.origin.as_deref().unwrap_or_default();
            let line = origin
                .rsplit_once(':')
                .map(|(_, line)| line.parse::<usize>());
            line.and_then(Result::ok)
        });
        self.problems
    }

    fn value(&mut self, value: Value, key: &Key, path: &str) -> Option<Value> {
        let origin = value.origin().map(str::to_owned);
        let is_empty_text = matches!(&value.kind, ValueKind::String(text) if text.is_empty());
        if self.raw && key.nullable && is_empty_text {
            return Some(Value::new(origin.as_ref(), ValueKind::Nil));
        }
        let kind = match (&key.shape, value.kind) {
            (Shape::Section(keys), ValueKind::Table(entries)) => {
                ValueKind::Table(self.section(entries, keys, path))
            }
            (Shape::Map(item), ValueKind::Table(entries)) => {
                let valid = entries.into_iter().filter_map(|(name, value)| {
                    Some((name.clone(), self.value(value, item, &join(path, &name))?))
                });
                ValueKind::Table(valid.collect())
            }
            (Shape::List(item), kind) => self.list(kind, item, path, origin.as_ref())?,
            (shape, kind) => match typed(shape, kind, self.raw) {
                Ok(kind) => kind,
                Err(found) => {
                    let found = match shape {
                        Shape::Secret => "something else".to_owned(),
                        _ => found,
                    };
                    self.report(origin, path, format!("must be {shape}, not {found}"));
                    return None;
                }
            },
        };
        Some(Value::new(origin.as_ref(), kind))
    }

    fn section(
        &mut self,
        entries: Map<String, Value>,
        keys: &BTreeMap<String, Key>,
        path: &str,
    ) -> Map<String, Value> {
        let mut valid = Map::new();
        // In an order that is the same each time, for people and tests that compare.
        for (name, value) in entries.into_iter().collect::<BTreeMap<_, _>>() {
            let own_path = join(path, &name);
            let secret = name
                .strip_suffix(FILE_SUFFIX)
                .filter(|stem| keys.get(*stem).is_some_and(is_secret));
            match (keys.get(&name), secret) {
                (Some(key), _) => {
                    if is_secret(key) {
                        self.only_one(&own_path, &own_path, value.origin());
                    }
                    if let Some(value) = self.value(value, key, &own_path) {
                        valid.insert(name, value);
                    }
                }
                (None, Some(secret)) => {
                    self.only_one(&join(path, secret), &own_path, value.origin());
                    if let Some(value) = self.secret_file(value, &own_path) {
                        valid.insert(secret.to_owned(), value);
                    }
                }
                (None, None) => {
                    let message = self.unknown(&name, keys, path);
                    self.report(value.origin().map(str::to_owned), &own_path, message);
                }
            }
        }
        valid
    }

    /// `NAME_file = "path"` becomes what [`crate::Secret`] reads a file from.
    fn secret_file(&mut self, value: Value, path: &str) -> Option<Value> {
        let origin = value.origin().map(str::to_owned);
        let ValueKind::String(file) = value.kind else {
            let message = "must be the path of a file that holds the secret";
            self.report(origin, path, message.to_owned());
            return None;
        };
        let file = self.folder.join(file).display().to_string();
        let entries = [("file", file), ("key", path.to_owned())]
            .map(|(name, text)| (name.to_owned(), Value::new(origin.as_ref(), text)));
        Some(Value::new(origin.as_ref(), Map::from(entries)))
    }

    /// One source sets a secret either by value or by file: which of the two would win is a guess.
    fn only_one(&mut self, secret: &str, key: &str, origin: Option<&str>) {
        if let Some(other) = self.secrets.insert(secret.to_owned(), key.to_owned()) {
            let message = format!("{other} is set in the same place; keep one of the two");
            self.report(origin.map(str::to_owned), key, message);
        }
    }

    fn list(
        &mut self,
        kind: ValueKind,
        item: &Key,
        path: &str,
        origin: Option<&String>,
    ) -> Option<ValueKind> {
        let (items, written_as_toml) = match kind {
            ValueKind::Array(items) => (items, !self.raw),
            ValueKind::String(text) => match source::read_list(&text, origin) {
                Some(items) => (items, true),
                None => (split(&text, origin), false),
            },
            other => {
                let message = format!("must be a list, not {}", describe(&other));
                self.report(origin.cloned(), path, message);
                return None;
            }
        };
        let raw = std::mem::replace(&mut self.raw, !written_as_toml);
        let valid = items
            .into_iter()
            .enumerate()
            .filter_map(|(n, value)| self.value(value, item, &format!("{path}[{n}]")))
            .collect();
        self.raw = raw;
        Some(ValueKind::Array(valid))
    }

    fn unknown(&self, name: &str, keys: &BTreeMap<String, Key>, path: &str) -> String {
        let section = match path {
            "" => "at the top".to_owned(),
            path => format!("in [{path}]"),
        };
        let hint = match (
            nearest(name, keys.keys().map(String::as_str)),
            self.elsewhere(name),
        ) {
            (Some(near), _) => format!("; did you mean {near}?"),
            (None, Some(other)) => format!("; there is one in [{other}]."),
            (None, None) => ".".to_owned(),
        };
        let names = keys.iter().map(|(name, key)| {
            let file = is_secret(key).then(|| format!(", {name}{FILE_SUFFIX}"));
            format!("{name}{}", file.unwrap_or_default())
        });
        let names = names.collect::<Vec<_>>().join(", ");
        format!("there is no such key {section}{hint} Valid keys {section}: {names}")
    }

    /// The section that has a key of this name: it was likely put into the wrong one.
    fn elsewhere(&self, name: &str) -> Option<&str> {
        let sections = self.root.section()?;
        let has_it = |key: &Key| key.section().is_some_and(|keys| keys.contains_key(name));
        let (section, _) = sections.iter().find(|(_, key)| has_it(key))?;
        Some(section)
    }

    fn report(&mut self, origin: Option<String>, path: &str, message: String) {
        self.problems.push(InvalidSetting {
            origin,
            path: path.to_owned(),
            message,
        });
    }
}

/// The value as the shape wants it, or what it is instead.
fn typed(shape: &Shape, kind: ValueKind, raw: bool) -> Result<ValueKind, String> {
    let kind = match kind {
        ValueKind::String(text) if raw => parse(shape, text),
        kind => kind,
    };
    let whole = match kind {
        ValueKind::I64(number) => Some(i128::from(number)),
        ValueKind::U64(number) => Some(i128::from(number)),
        ValueKind::I128(number) => Some(number),
        _ => None,
    };
    let kind = match (shape, whole) {
        (Shape::Number { .. }, Some(whole)) => ValueKind::Float(whole as f64),
        _ => kind,
    };
    let fits = match (shape, &kind) {
        (Shape::Any, _)
        | (Shape::Text | Shape::Secret, ValueKind::String(_))
        | (Shape::Boolean, ValueKind::Boolean(_)) => true,
        (Shape::Choice(words), ValueKind::String(text)) => {
            words.iter().any(|(word, _)| word == text)
        }
        (Shape::Integer { min, max }, _) => whole.is_some_and(|n| (*min..=*max).contains(&n)),
        (Shape::Number { min, max }, ValueKind::Float(number)) => {
            number.is_finite()
                && min.is_none_or(|min| *number >= min)
                && max.is_none_or(|max| *number <= max)
        }
        _ => false,
    };
    if fits { Ok(kind) } else { Err(describe(&kind)) }
}

/// Text as what the shape wants, where it can be read so.
fn parse(shape: &Shape, text: String) -> ValueKind {
    let trimmed = text.trim();
    let parsed = match shape {
        Shape::Integer { .. } => trimmed.parse().ok().map(source::whole_number),
        Shape::Number { .. } => trimmed.parse().ok().map(ValueKind::Float),
        Shape::Boolean => match trimmed.to_lowercase().as_str() {
            "true" | "1" => Some(ValueKind::Boolean(true)),
            "false" | "0" => Some(ValueKind::Boolean(false)),
            _ => None,
        },
        _ => None,
    };
    parsed.unwrap_or(ValueKind::String(text))
}

fn split(text: &str, origin: Option<&String>) -> Vec<Value> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(|item| Value::new(origin, item))
        .collect()
}

fn describe(kind: &ValueKind) -> String {
    match kind {
        ValueKind::Nil => "nothing".to_owned(),
        ValueKind::String(text) => format!("{text:?}"),
        ValueKind::Table(_) => "a table".to_owned(),
        ValueKind::Array(_) => "a list".to_owned(),
        plain => plain.to_string(),
    }
}

fn is_secret(key: &Key) -> bool {
    matches!(key.shape, Shape::Secret)
}

/// The name most like `name`, if any is alike. One that begins with the other is: `give_up` is meant as
/// `give_up_seconds`.
pub fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |other: &str| {
        let (short, long) = if name.len() < other.len() {
            (name, other)
        } else {
            (other, name)
        };
        let begins = short.len() >= SHORTEST_BEGINNING && long.starts_with(short);
        let edits = strsim::normalized_damerau_levenshtein(name, other);
        if begins { edits.max(ALIKE) } else { edits }
    };
    names
        .into_iter()
        .map(|other| (likeness(other), other))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, other)| other)
}

pub(crate) fn join(path: &str, name: &str) -> String {
    match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    }
}
