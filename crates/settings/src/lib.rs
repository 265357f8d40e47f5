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

use config::{Map, Source, Value, ValueKind};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use invalid::{InvalidSetting, InvalidSettings};
pub use pattern::matches_pattern;
pub use reference::reference;
pub use secret::{Secret, SecretError};

use model::{Key, PROCESSES, Shape};
use validate::Validator;

/// Beside its role it may hold any other section.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Process {
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
pub struct Loaded<C> {
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
    pub fn load<C>(&self) -> Result<Loaded<C>, InvalidSettings>
    where
        C: Default + Serialize + DeserializeOwned + JsonSchema,
    {
        let root = Key::root::<C>();
        let mut problems = Vec::new();
        let kinds = [
            self.read_files(&root, &mut problems),
            validate_all(
                &root,
                source::read_environment(self.environment.clone()),
                &mut problems,
            ),
            self.read_overrides(&root, &mut problems),
        ];
        if !problems.is_empty() {
            return Err(InvalidSettings(problems));
        }
        // The defaults are a layer as well: where one struct is flattened into several others, it is
        // those that say what its defaults are there.
        let mut builder =
            config::Config::builder().add_source(Layer(defaults(&root, &C::default())));
        let mut set = config::Config::builder();
        for layer in kinds
            .into_iter()
            .flat_map(|kind| self.split_processes(kind))
        {
            builder = builder.add_source(layer.clone());
            set = set.add_source(layer);
        }
        let tree = set
            .build()
            .map_err(|error| InvalidSettings::from_config(error, None))?
            .cache;
        let settings = builder.build().and_then(|merged| merged.try_deserialize());
        Ok(Loaded {
            settings: settings.map_err(|error| InvalidSettings::from_config(error, Some(&tree)))?,
            tree,
        })
    }

    fn read_files(&self, root: &Key, problems: &mut Vec<InvalidSetting>) -> Vec<Layer> {
        let mut layers = Vec::new();
        for path in &self.files {
            match source::read_file(path) {
                Ok(value) => {
                    let mut validator = Validator::for_file(root, path);
                    layers.push(Layer(validator.validate(value)));
                    problems.extend(validator.into_problems());
                }
                Err(problem) => problems.push(problem),
            }
        }
        layers
    }

    fn read_overrides(&self, root: &Key, problems: &mut Vec<InvalidSetting>) -> Vec<Layer> {
        let mut values = Vec::new();
        for option in &self.overrides {
            match source::read_override(option) {
                Ok(value) => values.push(value),
                Err(problem) => problems.push(problem),
            }
        }
        validate_all(root, values, problems)
    }

    /// The layers of one kind of source: all that is general, then what is this process's own.
    fn split_processes(&self, layers: Vec<Layer>) -> Vec<Layer> {
        let mut general = Vec::new();
        let mut own = Vec::new();
        for Layer(mut entries) in layers {
            if let Some(value) = entries.remove(PROCESSES)
                && let ValueKind::Table(processes) = value.kind
            {
                let mut roles = Map::new();
                for (name, value) in processes {
                    let ValueKind::Table(mut sections) = value.kind else {
                        continue;
                    };
                    let role: Map<_, _> = sections.remove_entry("role").into_iter().collect();
                    if Some(&name) == self.process.as_ref() {
                        own.push(Layer(sections));
                    }
                    roles.insert(name, Value::new(None, role));
                }
                entries.insert(PROCESSES.to_owned(), Value::new(None, roles));
            }
            general.push(Layer(entries));
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
            .into_iter()
            .map(PathBuf::from)
            .find(|path| Path::exists(path))
            .into_iter()
            .collect(),
    }
}

fn validate_all(root: &Key, values: Vec<Value>, problems: &mut Vec<InvalidSetting>) -> Vec<Layer> {
    let mut validator = Validator::for_text(root);
    let layers = values
        .into_iter()
        .map(|value| Layer(validator.validate(value)));
    let layers = layers.collect();
    problems.extend(validator.into_problems());
    layers
}

/// Values of one source, checked, as the `config` crate merges them.
#[derive(Debug, Clone)]
struct Layer(Map<String, Value>);

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(self.0.clone())
    }
}

/// The default settings as a layer, without secrets, which cannot be written.
fn defaults<C: Serialize>(root: &Key, settings: &C) -> Map<String, Value> {
    let json = serde_json::to_value(settings).unwrap_or_default();
    match default_value(root, json) {
        Some(ValueKind::Table(entries)) => entries,
        _ => Map::new(),
    }
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
