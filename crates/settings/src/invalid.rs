use std::fmt;

use config::{ConfigError, Value, ValueKind};
use serde::Serialize;

/// Something wrong with one key, or with one source of keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InvalidSetting {
    /// Where it was set: `fleet.toml:12`, `environment variable FLEET__STATS__PORT`, `--set …`.
    pub origin: Option<String>,
    /// The key's full path, such as `stats.port`; empty if it is not about a key.
    pub path: String,
    /// What is wrong and what would be right. Never holds a secret.
    pub message: String,
}

impl fmt::Display for InvalidSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

impl InvalidSetting {
    /// About a source as a whole, or a line of it.
    pub(crate) fn in_source(origin: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            origin: Some(origin.into()),
            path: String::new(),
            message: message.into(),
        }
    }
}

/// Everything that is wrong with a configuration: all of it, so that it can be mended at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines(.0))]
pub struct InvalidSettings(pub Vec<InvalidSetting>);

impl InvalidSettings {
    pub fn one(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self(vec![InvalidSetting {
            origin: None,
            path: path.into(),
            message: message.into(),
        }])
    }

    /// What serde found wrong with values of the right shape; `set` are the values with their origins.
    pub(crate) fn from_config(error: ConfigError, set: Option<&Value>) -> Self {
        let (key, message) = match error {
            ConfigError::At {
                error,
                key: Some(key),
                ..
            } => (key, error.to_string()),
            ConfigError::NotFound(key) => (key, "must be set".to_owned()),
            other => (String::new(), other.to_string()),
        };
        // The config crate leaves the dot after an index out.
        let path = key.replace(']', "].").replace("..", ".");
        let path = path.trim_end_matches('.').to_owned();
        Self(vec![InvalidSetting {
            origin: set.and_then(|set| origin(set, &path)),
            path,
            message,
        }])
    }

    /// All that several checks found.
    pub fn join(checks: impl IntoIterator<Item = Result<(), Self>>) -> Result<(), Self> {
        let found = checks.into_iter().filter_map(Result::err);
        let problems: Vec<_> = found.flat_map(|Self(problems)| problems).collect();
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Self(problems))
        }
    }
}

fn lines(problems: &[InvalidSetting]) -> String {
    let head = match problems.len() {
        1 => "the configuration has a problem".to_owned(),
        n => format!("the configuration has {n} problems"),
    };
    let lines = problems.iter().map(|problem| format!("\n  {problem}"));
    head + &lines.collect::<String>()
}

/// Where the value at `path` was set; for one that is missing, where that around it was.
fn origin(set: &Value, path: &str) -> Option<String> {
    let mut value = set;
    let parts = path.split(['.', '[', ']']).filter(|part| !part.is_empty());
    for part in parts {
        match child(value, part) {
            Some(inner) => value = inner,
            None => break,
        }
    }
    value.origin().map(str::to_owned)
}

/// The entry of a table with this name, or the item of a list with this number.
pub(crate) fn child<'v>(value: &'v Value, part: &str) -> Option<&'v Value> {
    match &value.kind {
        ValueKind::Table(entries) => entries.get(part),
        ValueKind::Array(items) => items.get(part.parse::<usize>().ok()?),
        _ => None,
    }
}
