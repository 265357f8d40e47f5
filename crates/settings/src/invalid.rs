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

/// Everything that is wrong with a configuration: all of it, so that it can be mended at once.
#[derive(Debug, Clone, PartialEq, Eq)]
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

impl fmt::Display for InvalidSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [one] => write!(f, "the configuration has a problem\n  {one}"),
            all => {
                write!(f, "the configuration has {} problems", all.len())?;
                all.iter()
                    .try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}

impl std::error::Error for InvalidSettings {}

/// Where the value at `path` was set; for one that is missing, where that around it was.
fn origin(set: &Value, path: &str) -> Option<String> {
    let mut value = set;
    let parts = path.split(['.', '[', ']']).filter(|part| !part.is_empty());
    for part in parts {
        let inner = match &value.kind {
            ValueKind::Table(entries) => entries.get(part),
            ValueKind::Array(items) => part.parse().ok().and_then(|n: usize| items.get(n)),
            _ => None,
        };
        match inner {
            Some(inner) => value = inner,
            None => break,
        }
    }
    value.origin().map(str::to_owned)
}
