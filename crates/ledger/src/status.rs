use std::fmt;

use batch::Decision;
use serde::{Deserialize, Serialize};

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunStatus {
    /// Its tasks are being published: how many there will be is not known yet.
    Planning,
    Running,
    /// Every row of every task is accounted for in every store, and every stage of a run with gates passed.
    Complete,
    /// The same, but some tasks or rows are in quarantine instead of in the stores.
    CompleteWithQuarantine,
    /// Every stage but that of the SERP service is decided: the next run may begin.
    Restarting,
    /// Every stage is decided, and one of them was rejected.
    Rejected,
    /// An operator gave it up.
    Abandoned,
}

impl RunStatus {
    /// Whether more receipts of the run are expected.
    pub fn is_unfinished(self) -> bool {
        matches!(self, Self::Planning | Self::Running | Self::Restarting)
    }

    /// Whether the run stands in the way of the next one. A SERP service of many nodes is restarted for longer than
    /// a cycle takes; the next run's version is as good to it as this one's.
    pub fn blocks_the_next(self) -> bool {
        matches!(self, Self::Planning | Self::Running)
    }

    pub fn is_complete(self) -> bool {
        matches!(self, Self::Complete | Self::CompleteWithQuarantine)
    }
}

impl fmt::Display for RunStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Planning => "planning",
            Self::Running => "running",
            Self::Complete => "complete",
            Self::CompleteWithQuarantine => "complete, with quarantine",
            Self::Restarting => "restarting",
            Self::Rejected => "rejected",
            Self::Abandoned => "abandoned",
        })
    }
}

/// How a run was given up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Abandoned {
    pub at_ms: i64,
    pub who: String,
    pub why: String,
}

/// Where a stage of a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StageStatus {
    /// What it builds on is not done.
    Waiting,
    Running,
    Passed,
    Skipped,
    Rejected,
}

impl fmt::Display for StageStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Passed => "passed",
            Self::Skipped => "skipped",
            Self::Rejected => "rejected",
        })
    }
}

impl From<Decision> for StageStatus {
    fn from(decision: Decision) -> Self {
        match decision {
            Decision::Passed => Self::Passed,
            Decision::Skipped => Self::Skipped,
            Decision::Rejected => Self::Rejected,
        }
    }
}
