use std::fmt;
use std::time::Duration;

use batch::{Invalid, Reason, Stage};
use pipeline::Outcome;
use stores::Class;
use stores::clickhouse::{Error, classify};

/// What waits for a person's hand, such as a right that the user lacks, is tried again after this.
const SNOOZE: Duration = Duration::from_secs(600);

/// Steps of a refresh, by the names that they have had since before this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Sync,
    ConfineShard,
    DeleteOldDict,
    RefreshDict,
    ApplyDict,
    /// Not a step: the order is older than what is in place.
    Stale,
    /// Not steps: the order's time was over, before the replicas were known to be in sync or after it.
    ExpiredUnsynced,
    Expired,
}

impl Step {
    const ALL: [Self; 6] = [
        Self::Sync,
        Self::ConfineShard,
        Self::DeleteOldDict,
        Self::RefreshDict,
        Self::ApplyDict,
        Self::Stale,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::ConfineShard => "confine_shard",
            Self::DeleteOldDict => "delete_old_dict",
            Self::RefreshDict => "refresh_dict",
            Self::ApplyDict => "apply_dict",
            Self::Stale => "stale",
            Self::ExpiredUnsynced | Self::Expired => "expired",
        }
    }

    pub const fn stage(self) -> Stage {
        match self {
            Self::Sync | Self::ExpiredUnsynced => Stage::Sync,
            _ => Stage::Dictionary,
        }
    }

    /// The step that a quarantined [`Failure`] was about, read from its text in the reason for a quarantine: the runtime keeps only
    /// the text when the retries are used up.
    pub fn named_in(text: &str) -> Option<Self> {
        let at = |step: &Self| {
            let label = format!("{step}: ");
            let found = text.match_indices(&label).map(|(at, _)| at);
            found
                .into_iter()
                .find(|at| *at == 0 || text.as_bytes()[at - 1] == b' ')
        };
        let found = Self::ALL.into_iter().filter_map(|s| Some((at(&s)?, s)));
        found.min_by_key(|(at, _)| *at).map(|(_, step)| step)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Texts of servers can be long, and of many servers longer: what a receipt and a history keep of one.
const KEPT: usize = 600;

/// The beginning of a text, so that many of them fit into a receipt.
pub(crate) fn shortened(text: impl fmt::Display) -> String {
    let mut text = text.to_string();
    if text.len() > KEPT {
        let end = (0..=KEPT).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
    text
}

/// What is to become of an order that could not be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    Retry,
    Snooze,
    Quarantine(Reason),
    Discard,
}

/// Why an order could not be carried out.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{step}: {error}")]
pub(crate) struct Failure {
    pub step: Step,
    pub error: String,
    pub after: After,
}

impl Failure {
    pub fn retry(step: Step, error: impl fmt::Display) -> Self {
        Self {
            step,
            error: shortened(error),
            after: After::Retry,
        }
    }

    pub fn lasting(step: Step, reason: Reason, error: impl fmt::Display) -> Self {
        Self {
            step,
            error: shortened(error),
            after: After::Quarantine(reason),
        }
    }

    pub fn stale(error: String) -> Self {
        Self {
            step: Step::Stale,
            error,
            after: After::Discard,
        }
    }

    /// `synced`: whether all replicas are known to have been in sync for the order.
    pub fn expired(expires_at_ms: i64, synced: bool) -> Self {
        Self {
            step: match synced {
                true => Step::Expired,
                false => Step::ExpiredUnsynced,
            },
            error: format!(
                "it was to be carried out by {expires_at_ms} (ms since the epoch); the run has given it up by now"
            ),
            after: After::Discard,
        }
    }

    /// A statement's error, as [`classify`] judges it.
    pub fn of(step: Step, error: &Error) -> Self {
        let after = match classify(error) {
            Class::RetryNow | Class::RetryLater | Class::Refused => After::Retry,
            Class::Pause => After::Snooze,
            Class::Quarantine(reason) => After::Quarantine(reason),
        };
        Self {
            step,
            error: shortened(error),
            after,
        }
    }

    /// The error of a statement about a dictionary. One that is missing is there again at the next try, which looks
    /// at what there is first.
    pub fn of_dictionary(step: Step, error: &Error) -> Self {
        let failure = Self::of(step, error);
        match failure.after {
            After::Quarantine(Reason::MissingTarget) => Self {
                after: After::Retry,
                ..failure
            },
            _ => failure,
        }
    }

    pub fn outcome(&self, shard: u32) -> Outcome {
        match self.after {
            After::Retry => Outcome::retry(self, format!("shard {shard}")),
            After::Snooze => Outcome::Snooze {
                why: self.to_string(),
                delay: SNOOZE,
            },
            After::Quarantine(reason) => Invalid::new(reason, self.to_string()).into(),
            After::Discard => Outcome::Discard {
                why: self.error.clone(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_step_is_found_in_whatever_the_runtime_makes_of_a_failure() {
        for step in Step::ALL {
            let failure = Failure::retry(step, "http://a: sync: no");
            assert_eq!(Step::named_in(&failure.to_string()), Some(step));
            let late = format!("failed 11 times, the last time with: {failure} (shard 1)");
            assert_eq!(Step::named_in(&late), Some(step));
        }
        assert_eq!(Step::named_in("async: no"), None);
    }
}
