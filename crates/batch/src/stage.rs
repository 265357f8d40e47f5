use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A stage of a run. Each is judged by itself; the order here is that in which they can close.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Stage {
    /// Cutting the source into tasks and publishing them.
    Plan,
    /// Reading every task's range.
    Fetch,
    /// Writing into one store, named by the process that writes to it.
    Store(String),
    /// Waiting until the replicas of ClickHouse have what was written.
    Sync,
    /// Loading the new dictionary beside the live one, and exchanging them.
    Dictionary,
    /// Restarting the SERP service.
    Serp,
}

impl Stage {
    pub fn as_str(&self) -> &str {
        match self {
            Self::Plan => "plan",
            Self::Fetch => "fetch",
            Self::Store(program) => program,
            Self::Sync => "sync",
            Self::Dictionary => "dictionary",
            Self::Serp => "serp",
        }
    }
}

impl From<String> for Stage {
    fn from(name: String) -> Self {
        match name.as_str() {
            "plan" => Self::Plan,
            "fetch" => Self::Fetch,
            "sync" => Self::Sync,
            "dictionary" => Self::Dictionary,
            "serp" => Self::Serp,
            _ => Self::Store(name),
        }
    }
}

impl From<Stage> for String {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::Store(program) => program,
            other => other.as_str().to_owned(),
        }
    }
}

impl FromStr for Stage {
    type Err = std::convert::Infallible;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Ok(name.to_owned().into())
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a stage ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// Well: what builds on it may begin.
    Passed,
    /// Not needed in this run; nothing that builds on it is either.
    Skipped,
    /// Badly: nothing that builds on it begins.
    Rejected,
}

impl Decision {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Skipped => "skipped",
            Self::Rejected => "rejected",
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_reads_back_from_its_own_word_and_any_other_word_is_a_store() {
        let store = Stage::Store("es-writer".into());
        for stage in [
            Stage::Plan,
            Stage::Fetch,
            store,
            Stage::Sync,
            Stage::Dictionary,
            Stage::Serp,
        ] {
            assert_eq!(stage.as_str().parse(), Ok(stage.clone()));
        }
    }
}
