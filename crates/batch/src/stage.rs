use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A stage of a run. Each is decided on by itself; the order here is that in which they can pass.
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
    /// Loading the new dictionary next to the live one, and exchanging them.
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

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a stage ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// What builds on it may begin.
    Passed,
    /// Not needed in this run; nothing that builds on it is either.
    Skipped,
    /// Nothing that builds on it begins.
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

/// The stages that a run has beyond the stores, and the rules that are its own: fixed when it begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct RunPlan {
    /// The store that has to pass before the dictionaries are refreshed. Absent: the pipeline has no dictionary.
    pub dictionary_after: Option<String>,
    /// The SERP service is restarted after its dictionary.
    pub serp: bool,
    /// Rules of this run alone: values by the names that they have in `[gates]`.
    pub overrides: BTreeMap<String, String>,
}

impl RunPlan {
    /// The stages of a run for these stores, in their order.
    pub fn stages(&self, stores: &[String]) -> Vec<Stage> {
        let mut stages = vec![Stage::Plan, Stage::Fetch];
        stages.extend(stores.iter().cloned().map(Stage::Store));
        if self.dictionary_after.is_some() {
            stages.extend([Stage::Sync, Stage::Dictionary]);
            stages.extend(self.serp.then_some(Stage::Serp));
        }
        stages
    }

    /// The stages that `stage` builds on.
    pub fn before(&self, stage: &Stage) -> Vec<Stage> {
        let count = match stage {
            Stage::Plan => 0,
            Stage::Fetch => 1,
            Stage::Store(_) => 2,
            Stage::Sync => 3,
            Stage::Dictionary => 4,
            Stage::Serp => 5,
        };
        let all = [
            Some(Stage::Plan),
            Some(Stage::Fetch),
            self.dictionary_after.clone().map(Stage::Store),
            Some(Stage::Sync),
            Some(Stage::Dictionary),
        ];
        all.into_iter().take(count).flatten().collect()
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
            assert_eq!(Stage::from(stage.as_str().to_owned()), stage);
        }
    }
}
