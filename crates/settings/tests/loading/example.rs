//! A configuration with every shape that settings have.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use settings::ProcessSettings;
use settings::Secret;

/// The whole configuration.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Root {
    pub broker: Broker,
    pub fetcher: Fetcher,
    pub writer: Writer,
    pub processes: BTreeMap<String, ProcessSettings>,
}

/// The way to the broker.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Broker {
    /// Where it is; a local one by default.
    pub url: Secret,
    /// A second secret.
    pub password: Option<Secret>,
    /// Names to announce.
    pub names: Vec<String>,
}

impl Default for Broker {
    fn default() -> Self {
        Self {
            url: Secret::new("amqp://localhost"),
            password: None,
            names: Vec::new(),
        }
    }
}

/// What every role has.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Frame {
    /// Messages in flight at once.
    pub prefetch: u16,
    /// Part of the time
    /// that may be lost.
    pub slack: f64,
}

impl Default for Frame {
    fn default() -> Self {
        Self {
            prefetch: 10,
            slack: 0.5,
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Fetcher {
    #[serde(flatten)]
    pub frame: Frame,
    /// Rows in a batch.
    #[schemars(range(min = 1))]
    pub batch_rows: u32,
    /// Whether rows are counted first.
    pub count: bool,
    pub order: Option<Order>,
}

/// Which rows come first.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// The old ones.
    Oldest,
    /// The new ones.
    Newest,
}

#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Writer {
    #[serde(flatten)]
    pub frame: Frame,
    /// Columns with other names | in the target.
    pub rename: BTreeMap<String, String>,
    pub bounds: Option<Bounds>,
    /// Where rows go.
    pub targets: Vec<Target>,
}

impl Default for Writer {
    fn default() -> Self {
        Self {
            frame: Frame {
                prefetch: 50,
                ..Frame::default()
            },
            rename: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            bounds: None,
            targets: Vec::new(),
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Bounds {
    pub low: i64,
}

/// One target.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Target {
    /// What it is called.
    pub name: String,
    /// Columns, or one text with commas.
    pub columns: Vec<String>,
}
