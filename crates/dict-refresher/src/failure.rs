use std::fmt;
use std::time::Duration;

use batch::{Invalid, Reason, Stage};
use pipeline::Outcome;
use stores::Class;
use stores::clickhouse::{Error, classify};

/// What only an operator can set right, such as a privilege that the user lacks, is tried again after this.
const PAUSE_SNOOZE: Duration = Duration::from_secs(600);

/// Texts of servers can be long, and of many servers longer: what a receipt and a history keep of one.
const MAX_ERROR_BYTES: usize = 600;

/// Steps of a refresh, by the names that they have had since before this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefreshStep {
    Sync,
    ConfineShard,
    DeleteOldDict,
    RefreshDict,
    ApplyDict,
    /// Not a step: the order is older than the dictionary.
    Stale,
    /// Not a step: the order's time was over.
    Expired,
}

impl RefreshStep {
    const ALL: [Self; 7] = [
        Self::Sync,
        Self::ConfineShard,
        Self::DeleteOldDict,
        Self::RefreshDict,
        Self::ApplyDict,
        Self::Stale,
        Self::Expired,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::ConfineShard => "confine_shard",
            Self::DeleteOldDict => "delete_old_dict",
            Self::RefreshDict => "refresh_dict",
            Self::ApplyDict => "apply_dict",
            Self::Stale => "stale",
            Self::Expired => "expired",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.as_str() == text)
    }

    pub fn stage(self) -> Stage {
        if self == Self::Sync {
            Stage::Sync
        } else {
            Stage::Dictionary
        }
    }
}

/// The beginning of a text, so that many of them fit into a receipt.
pub(crate) fn shortened(text: impl fmt::Display) -> String {
    let mut text = text.to_string();
    batch::truncate(&mut text, MAX_ERROR_BYTES);
    text
}

/// Why an order failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}: {error}", step.as_str())]
pub(crate) struct RefreshFailure {
    pub step: RefreshStep,
    pub stage: Stage,
    pub error: String,
    /// What the failure asks for; nothing, where the order has become useless.
    pub class: Option<Class>,
}

impl RefreshFailure {
    fn new(step: RefreshStep, error: impl fmt::Display, class: Option<Class>) -> Self {
        Self {
            step,
            stage: step.stage(),
            error: shortened(error),
            class,
        }
    }

    pub fn retry(step: RefreshStep, error: impl fmt::Display) -> Self {
        Self::new(step, error, Some(Class::RetryLater))
    }

    pub fn quarantine(step: RefreshStep, reason: Reason, error: impl fmt::Display) -> Self {
        Self::new(step, error, Some(Class::Quarantine(reason)))
    }

    pub fn stale(error: String) -> Self {
        Self::new(RefreshStep::Stale, error, None)
    }

    /// `synced`: whether all replicas are known to have been in sync for the order.
    pub fn expired(expires_at_ms: i64, synced: bool) -> Self {
        let error = format!(
            "it was due by {expires_at_ms} (ms since the epoch); the run has given it up by now"
        );
        let stage = if synced {
            Stage::Dictionary
        } else {
            Stage::Sync
        };
        Self {
            stage,
            ..Self::new(RefreshStep::Expired, error, None)
        }
    }

    /// The error of a statement.
    pub fn for_statement(step: RefreshStep, error: &Error) -> Self {
        Self::new(step, error, Some(classify(error)))
    }

    /// The error of a statement about a dictionary. The next try, which inspects the replica first, makes a missing one
    /// again.
    pub fn for_dictionary(step: RefreshStep, error: &Error) -> Self {
        let failure = Self::for_statement(step, error);
        if failure.class == Some(Class::Quarantine(Reason::MissingTarget)) {
            return Self::retry(step, error);
        }
        failure
    }

    /// Whether the order is tried again at the cost of an attempt. [`Reason::UnexpectedAnswer`] is mostly that of a
    /// proxy: the loop tries it again, as long as there are attempts left.
    pub fn costs_attempt(&self) -> bool {
        self.is_retried() || self.class == Some(Class::Quarantine(Reason::UnexpectedAnswer))
    }

    pub fn is_retried(&self) -> bool {
        matches!(
            self.class,
            Some(Class::RetryNow | Class::RetryLater | Class::Refused)
        )
    }

    /// The same for an order that is not retried any more.
    pub fn given_up(self, why: impl fmt::Display) -> Self {
        Self {
            error: format!("{}; {why}", self.error),
            class: Some(Class::Quarantine(Reason::TooManyRetries)),
            ..self
        }
    }

    pub fn outcome(&self, shard: u32) -> Outcome {
        match self.class {
            Some(Class::RetryNow | Class::RetryLater | Class::Refused | Class::TooLarge) => {
                Outcome::retry(self, format!("shard {shard}"))
            }
            Some(Class::Pause) => Outcome::Snooze {
                why: self.to_string(),
                delay: PAUSE_SNOOZE,
            },
            Some(Class::Quarantine(reason)) => Invalid::new(reason, self.to_string()).into(),
            None => Outcome::Discard {
                why: self.error.clone(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_reads_back_from_its_own_word() {
        for step in RefreshStep::ALL {
            let read = RefreshStep::parse(step.as_str()).unwrap();
            assert_eq!(read.as_str(), step.as_str());
        }
        assert_eq!(RefreshStep::parse("async"), None);
    }
}
