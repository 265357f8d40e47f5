use std::fmt;

use serde::{Deserialize, Serialize};

/// Why something is in quarantine. A closed set: these words are label values in the stats, filters of the operator's
/// commands and keys of the ledger's counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// A header is missing, of the wrong type, or holds an impossible number.
    BadHeader,
    /// The message is of a schema version that this release does not know.
    UnknownVersion,
    /// The body or the headers exceed the limits.
    Oversized,
    /// The body would decompress to more than the limits allow.
    DecompressionBomb,
    /// The body is not an Arrow stream, or not a task.
    NotReadable,
    /// The body ends before its end marker.
    Truncated,
    /// The body's columns are not those that this program needs.
    WrongSchema,
    /// The message is for a shard that the configuration does not have.
    UnknownShard,
    /// The source lacks a column of the plan, or it has another type there.
    SourceChanged,
    /// The table or the index does not exist.
    MissingTarget,
    /// The store refused these rows.
    RefusedRows,
    /// The store answered something that is not its protocol, such as a proxy's HTML page.
    UnexpectedAnswer,
    /// It failed as often as is allowed.
    TooManyRetries,
    /// It was delivered as often as is allowed without an acknowledgement: it probably kills its worker.
    DeliveryLimit,
    /// An operator or a gate rejected it.
    Rejected,
    /// The order is for a host that the configuration does not allow.
    ForbiddenTarget,
}

impl Reason {
    pub const ALL: [Reason; 16] = [
        Self::BadHeader,
        Self::UnknownVersion,
        Self::Oversized,
        Self::DecompressionBomb,
        Self::NotReadable,
        Self::Truncated,
        Self::WrongSchema,
        Self::UnknownShard,
        Self::SourceChanged,
        Self::MissingTarget,
        Self::RefusedRows,
        Self::UnexpectedAnswer,
        Self::TooManyRetries,
        Self::DeliveryLimit,
        Self::Rejected,
        Self::ForbiddenTarget,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadHeader => "bad-header",
            Self::UnknownVersion => "unknown-version",
            Self::Oversized => "oversized",
            Self::DecompressionBomb => "decompression-bomb",
            Self::NotReadable => "not-readable",
            Self::Truncated => "truncated",
            Self::WrongSchema => "wrong-schema",
            Self::UnknownShard => "unknown-shard",
            Self::SourceChanged => "source-changed",
            Self::MissingTarget => "missing-target",
            Self::RefusedRows => "refused-rows",
            Self::UnexpectedAnswer => "unexpected-answer",
            Self::TooManyRetries => "too-many-retries",
            Self::DeliveryLimit => "delivery-limit",
            Self::Rejected => "rejected",
            Self::ForbiddenTarget => "forbidden-target",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.as_str() == text)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Input that cannot be used, and why: it goes to quarantine, whatever the number of tries.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Invalid {
    pub reason: Reason,
    /// For a person: what was found, and where.
    pub detail: String,
}

impl Invalid {
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_reads_back_from_its_own_word() {
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(reason));
            assert_eq!(
                serde_json::to_string(&reason).unwrap(),
                format!("{:?}", reason.as_str())
            );
        }
    }
}
