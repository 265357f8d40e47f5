use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Outcome;

/// Longest time for which a program may have a message in flight, in seconds. The broker's consumer timeout is 30
/// minutes: it takes back what is in flight for longer. The rest is for what is published at the end, and its confirms.
pub const MAX_IN_FLIGHT_SECONDS: u64 = 1500;

/// Delay of what is put off while a target takes no writes: the shortest of the retry schedule, so that it is processed
/// soon after the target takes writes again.
const PAUSED_DELAY: Duration = Duration::from_secs(10);

/// How a writer waits for a target that takes no writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PauseSettings {
    /// Seconds between the requests that try whether a target takes writes again which took none (read-only, disk full,
    /// credentials refused).
    #[serde(rename = "pause_poll_seconds")]
    pub poll_seconds: u64,
    /// Longest time for which batches wait in this program for a target that takes no writes, in seconds. Then they
    /// wait in a delay queue, which does not count as a failure. At most 1500: the broker takes back what is in flight
    /// for 30 minutes.
    #[serde(rename = "pause_limit_seconds")]
    pub limit_seconds: u64,
}

impl Default for PauseSettings {
    fn default() -> Self {
        Self {
            poll_seconds: 5,
            limit_seconds: 600,
        }
    }
}

impl PauseSettings {
    /// Refuses what cannot work; `section` names the settings in the error.
    pub fn check(&self, section: &str) -> Result<(), String> {
        check_positive(section, &[("pause_poll_seconds", self.poll_seconds)])?;
        if self.limit_seconds > MAX_IN_FLIGHT_SECONDS {
            return Err(format!(
                "{section}.pause_limit_seconds must be at most {MAX_IN_FLIGHT_SECONDS}"
            ));
        }
        Ok(())
    }

    pub fn poll(&self) -> Duration {
        Duration::from_secs(self.poll_seconds)
    }

    pub fn limit(&self) -> Duration {
        Duration::from_secs(self.limit_seconds)
    }
}

/// The outcome of what cannot be written while a target takes no writes.
pub fn paused(why: String) -> Outcome {
    Outcome::Snooze {
        why,
        delay: PAUSED_DELAY,
    }
}

/// Refuses the first setting of `section` that is 0.
pub fn check_positive(section: &str, settings: &[(&str, u64)]) -> Result<(), String> {
    match settings.iter().find(|(_, value)| *value == 0) {
        Some((name, _)) => Err(format!("{section}.{name} must be at least 1")),
        None => Ok(()),
    }
}
