use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The settings that every program has.
#[derive(Debug, Clone, Default)]
pub struct AppSettings {
    pub deployment: DeploymentSettings,
    pub log: LogSettings,
    pub stats: StatsSettings,
    pub health: HealthSettings,
}

/// Which deployment this is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DeploymentSettings {
    /// Name of the deployment, such as `production` or `staging`: the realm in the names of stats.
    pub name: String,
}

impl Default for DeploymentSettings {
    fn default() -> Self {
        Self {
            name: "local".to_owned(),
        }
    }
}

/// Log lines, which go to the standard error.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// What is logged: `error`, `warn`, `info`, `debug` or `trace`, also by module
    /// (`info,lapin=debug`). The environment variable `RUST_LOG` wins over it.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Text,
        }
    }
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

/// Statistics, sent to a statsd server in UDP datagrams.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StatsSettings {
    /// Host of the statsd server; nothing is sent without one. Its address is looked up again
    /// every minute.
    pub host: Option<String>,
    /// UDP port of the statsd server.
    pub port: u16,
    /// How labels are written in the names.
    pub style: StatsStyle,
}

impl Default for StatsSettings {
    fn default() -> Self {
        Self {
            host: None,
            // The port that statsd listens on by default.
            port: 8125,
            style: StatsStyle::Equals,
        }
    }
}

/// How the labels of a stat are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StatsStyle {
    /// `name.label=value`
    #[default]
    Equals,
    /// `name.label_value`
    Underscore,
    /// `name;label=value`, the tags of Graphite 1.1.
    GraphiteTags,
    /// `name:1|c|#label:value`, the tags of DogStatsD, Telegraf and Vector.
    Dogstatsd,
}

/// The page that tells whether the program is well.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HealthSettings {
    /// Address and port to answer `GET /health` and `GET /ready` on, such as `0.0.0.0:8080`;
    /// there is no such page without one.
    pub address: Option<SocketAddr>,
}
