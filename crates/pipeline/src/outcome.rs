use std::time::Duration;

use batch::Invalid;

/// What became of one message. The loop acknowledges the message only when everything that the outcome takes, and every
/// output of the message, is confirmed by the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Processed.
    Done,
    /// Failed for a reason that may pass: tried again after a delay that grows with the number of
    /// failures, and quarantined after `max_retries` of them.
    Retry {
        /// What failed, as text for an operator.
        error: String,
        /// Which store, table, index or replica it was about; may be empty.
        at: String,
    },
    /// Not now, without a failure: comes again after `delay` or sooner (the longest retry delay that is not longer),
    /// and costs no retry.
    Snooze { why: String, delay: Duration },
    /// Can never be processed as it is: kept in quarantine for an operator, with the reason.
    Quarantine(Invalid),
    /// Not to be taken out of its queue yet: goes back to where it was. Only for a role that pauses its intake as
    /// well (see [`crate::run_worker_while`]), or it would come again at once.
    Requeue { why: String },
    /// Of no use any more, such as a stale order: dropped, and counted.
    Discard { why: String },
}

impl Outcome {
    pub fn retry(error: impl std::fmt::Display, at: impl Into<String>) -> Self {
        Self::Retry {
            error: error.to_string(),
            at: at.into(),
        }
    }

    /// Label value of the `message{stat}` counter.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Retry { .. } => "retry",
            Self::Snooze { .. } => "snooze",
            Self::Quarantine(_) => "quarantine",
            Self::Requeue { .. } => "requeue",
            Self::Discard { .. } => "discard",
        }
    }
}

impl From<Invalid> for Outcome {
    fn from(invalid: Invalid) -> Self {
        Self::Quarantine(invalid)
    }
}
