//! The runtime of every program: its logs, stats, health and shutdown, and their settings.
//!
//! [`App::start`] is the first thing a program calls; what it returns is cheap to clone and is
//! handed to everything that logs, counts, waits or can fail.

mod causes;
mod health;
mod lock;
mod logs;
mod settings;
mod shutdown;
mod stats;

pub use causes::{root_cause, with_causes};
pub use health::Health;
pub use lock::lock;
pub use logs::start as start_logs;
pub use settings::{
    AppSettings, DeploymentSettings, HealthSettings, LogFormat, LogSettings, StatsSettings,
    StatsStyle,
};
pub use shutdown::Shutdown;
pub use stats::Stats;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

/// Longest wait, at the end, for the last stats to be handed to the network.
const LAST_STATS: Duration = Duration::from_secs(2);

/// A started program: its name, and the handles that everything in it shares.
#[derive(Debug, Clone)]
pub struct App {
    /// The process name, such as `es-writer` or `es-writer-eu`: it is part of the names of queues and stats.
    pub name: Arc<str>,
    /// Name of the machine or container, as it calls itself.
    pub host: Arc<str>,
    pub stats: Stats,
    pub shutdown: Shutdown,
    pub health: Health,
}

impl App {
    /// Starts the logs, the stats, the health page and the listening for SIGTERM and SIGINT.
    /// To be called once, inside a tokio runtime. Fails when a setting is invalid or the health
    /// address cannot be bound.
    pub fn start(name: &str, settings: &AppSettings) -> anyhow::Result<Self> {
        logs::start(&settings.log)?;
        let app = Self {
            name: name.into(),
            host: host_name().into(),
            stats: Stats::start(&settings.stats, &settings.deployment.name, name),
            shutdown: Shutdown::on_signals().context("cannot listen for signals")?,
            health: Health::new(),
        };
        if let Some(address) = &settings.health.address {
            app.health.serve(address, &app.name, &app.shutdown)?;
        }
        tracing::info!(process = name, host = %app.host, version = env!("CARGO_PKG_VERSION"), "started");
        Ok(app)
    }

    /// A program without logs, signals and sockets, whose stats can be read back: for tests.
    #[cfg(any(test, feature = "testing"))]
    pub fn detached(name: &str) -> Self {
        Self {
            name: name.into(),
            host: "localhost".into(),
            stats: Stats::in_memory(),
            shutdown: Shutdown::new(),
            health: Health::new(),
        }
    }

    /// Sends what the stats still hold. The last thing a program calls before it ends.
    pub async fn finish(self) {
        let stats = self.stats.clone();
        let flushed = tokio::task::spawn_blocking(move || stats.flush(LAST_STATS)).await;
        if !matches!(flushed, Ok(true)) {
            tracing::warn!("the last stats were not sent in {} s", LAST_STATS.as_secs());
        }
        tracing::info!(process = %self.name, "ended");
    }
}

/// The name the kernel gives this machine; `HOSTNAME` where there is no such file.
pub fn host_name() -> String {
    let named = |name: String| Some(name.trim().to_owned()).filter(|name| !name.is_empty());
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .and_then(named)
        .or_else(|| std::env::var("HOSTNAME").ok().and_then(named))
        .unwrap_or_else(|| "localhost".to_owned())
}
