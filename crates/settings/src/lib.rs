//! Reads the settings of all programs: files, environment variables and options, in this order, the
//! later winning. Every value is checked against the JSON schema of the settings before any is used,
//! and every problem names the key and where it was set.
//!
//! `[processes.NAME]` may hold every section again, for the process of that name alone; it wins over
//! the general section of the same kind of source (files; environment; options).

mod invalid;
mod model;
mod pattern;
mod reference;
mod secret;
mod show;
mod source;
mod validate;

use std::path::{Path, PathBuf};

use config::{Map, Value, ValueKind};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use invalid::{InvalidSetting, InvalidSettings};
pub use pattern::matches_pattern;
pub use reference::reference;
pub use secret::{Secret, SecretError};
pub use validate::nearest;

use model::{Key, PROCESSES, Shape};
use validate::Validator;

/// Besides its role it may hold any other section.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ProcessSettings {
    /// The role that the process runs; its own name if that is the name of a role.
    pub role: Option<String>,
}

/// Where settings come from.
#[derive(Debug, Clone, Default)]
pub struct Loader {
    files: Vec<PathBuf>,
    environment: Vec<(String, String)>,
    overrides: Vec<String>,
    process: Option<String>,
}

/// Settings that were read and checked.
#[derive(Debug, Clone)]
pub struct LoadedSettings<C> {
    pub settings: C,
    /// The values that were set, with their origins.
    tree: Value,
}

impl Loader {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a TOML file, which must exist.
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.files.push(path.into());
        self
    }

    /// Takes `FLEET__SECTION__KEY` among these variables.
    pub fn environment(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        self.environment.extend(variables);
        self
    }

    /// Adds `section.key=value`.
    pub fn set(mut self, option: impl Into<String>) -> Self {
        self.overrides.push(option.into());
        self
    }

    /// Applies `[processes.NAME]`.
    pub fn process(mut self, name: impl Into<String>) -> Self {
        self.process = Some(name.into());
        self
    }

    /// Reads and checks everything; fails with all the problems there are.
    pub fn load<C>(&self) -> Result<LoadedSettings<C>, InvalidSettings>
    where
        C: Default + Serialize + DeserializeOwned + JsonSchema,
    {
        let root = Key::root::<C>();
        let mut problems = Vec::new();
        let mut files = Vec::new();
        for path in &self.files {
            match source::read_file(path) {
                Ok(value) => files.extend(validate(&root, Some(path), vec![value], &mut problems)),
                Err(problem) => problems.push(problem),
            }
        }
        let environment = source::read_environment(&self.environment);
        let environment = validate(&root, None, environment, &mut problems);
        let mut overrides = Vec::new();
        for option in &self.overrides {
            match source::read_override(option) {
                Ok(value) => overrides.push(value),
                Err(problem) => problems.push(problem),
            }
        }
        let overrides = validate(&root, None, overrides, &mut problems);
        if !problems.is_empty() {
            return Err(InvalidSettings(problems));
        }
        let kinds = [files, environment, overrides].into_iter();
        let tree = merge(kinds.flat_map(|kind| self.split_processes(kind)))
            .map_err(|error| InvalidSettings::from_config(error, None))?
            .cache;
        // The defaults are a layer as well: where one struct is flattened into several others, its
        // defaults are theirs.
        let set = tree.clone().into_table().unwrap_or_default();
        let settings = merge([defaults(&root, &C::default()), set])
            .and_then(config::Config::try_deserialize)
            .map_err(|error| InvalidSettings::from_config(error, Some(&tree)))?;
        Ok(LoadedSettings { settings, tree })
    }

    /// The layers of one kind of source: all that is general, then what is this process's own.
    fn split_processes(&self, layers: Vec<Layer>) -> Vec<Layer> {
        let mut general = Vec::new();
        let mut own = Vec::new();
        for mut layer in layers {
            let processes = layer.remove(PROCESSES).map(Value::into_table);
            if let Some(Ok(processes)) = processes {
                let mut roles = Layer::new();
                for (name, process) in processes {
                    let mut sections = process.into_table().unwrap_or_default();
                    let role: Layer = sections.remove_entry("role").into_iter().collect();
                    if Some(&name) == self.process.as_ref() {
                        own.push(sections);
                    }
                    roles.insert(name, Value::new(None, role));
                }
                layer.insert(PROCESSES.to_owned(), Value::new(None, roles));
            }
            general.push(layer);
        }
        general.extend(own);
        general
    }
}

/// Files to read when none is named: those in `FLEET_CONFIG` (separated by `:`), else the first that
/// exists of `./fleet.toml` and `/etc/keyword-fleet/fleet.toml`.
pub fn default_files(fleet_config: Option<&str>) -> Vec<PathBuf> {
    match fleet_config.filter(|files| !files.is_empty()) {
        Some(files) => files.split(':').map(PathBuf::from).collect(),
        None => ["fleet.toml", "/etc/keyword-fleet/fleet.toml"]
            .map(PathBuf::from)
            .into_iter()
            .find(|path| path.exists())
            .into_iter()
            .collect(),
    }
}

/// Values of one source, checked.
type Layer = Map<String, Value>;

fn validate(
    root: &Key,
    file: Option<&Path>,
    values: Vec<Value>,
    problems: &mut Vec<InvalidSetting>,
) -> Vec<Layer> {
    let mut validator = Validator::new(root, file);
    let values = values.into_iter();
    let layers = values.map(|value| validator.validate(value)).collect();
    problems.extend(validator.into_problems());
    layers
}

/// Puts later layers on top of earlier ones.
fn merge(layers: impl IntoIterator<Item = Layer>) -> Result<config::Config, config::ConfigError> {
    let mut builder = config::Config::builder();
    for layer in layers {
        let mut source = config::Config::default();
        source.cache = Value::new(None, layer);
        builder = builder.add_source(source);
    }
    builder.build()
}

/// The default settings as a layer, without secrets, which cannot be written.
fn defaults<C: Serialize>(root: &Key, settings: &C) -> Layer {
    let json = serde_json::to_value(settings).unwrap_or_default();
    let value = default_value(root, json).map(|kind| Value::new(None, kind).into_table());
    value.and_then(Result::ok).unwrap_or_default()
}

fn default_value(key: &Key, json: serde_json::Value) -> Option<ValueKind> {
    use serde_json::Value as Json;
    Some(match (&key.shape, json) {
        (Shape::Secret, _) | (_, Json::Null) => return None,
        (Shape::Section(keys), Json::Object(entries)) => {
            let set = entries.into_iter().filter_map(|(name, json)| {
                let kind = default_value(keys.get(&name)?, json)?;
                Some((name, Value::new(None, kind)))
            });
            ValueKind::Table(set.collect())
        }
        (_, json) => serde_json::from_value::<Value>(json).ok()?.kind,
    })
}
