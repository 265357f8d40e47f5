use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::task::{Versioned, from_json};
use crate::{BatchId, Headers, Invalid, Message, Reason, RunId, RunMode, SCHEMA_VERSION, TaskHash};

/// What became of the rows of one batch in one store. The four add up to the batch's rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rows {
    /// Rows that the store took.
    pub stored: u64,
    /// Rows that the store already had in this version or a newer one.
    pub unchanged: u64,
    /// Rows that the configuration keeps out of this store altogether.
    #[serde(default)]
    pub skipped: u64,
    /// Rows in quarantine.
    pub quarantined: u64,
}

impl Rows {
    pub fn total(&self) -> u64 {
        self.stored + self.unchanged + self.skipped + self.quarantined
    }

    pub fn add(&mut self, other: &Rows) {
        self.stored += other.stored;
        self.unchanged += other.unchanged;
        self.skipped += other.skipped;
        self.quarantined += other.quarantined;
    }
}

/// One thing that happened in a run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "kebab-case")]
pub enum Fact {
    /// The run exists from here on: no other run of the pipeline may begin before it ends.
    Started {
        pipeline: String,
        mode: RunMode,
        until_ms: i64,
        shards: u32,
        /// Programs that must account for every row, by their process names.
        stores: Vec<String>,
        /// The run leaves rows out that a default run would carry (a sample, some of the shards, a
        /// later start): no later run may begin where this one ended.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        partial: bool,
        /// Fingerprint of the table, key and columns that are read. Empty: not known.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        source: String,
        /// Tells apart two queuers that announce a run of one name: the first in the ledger goes on.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        nonce: String,
    },
    /// Every task has been published and confirmed. The proof of completeness starts from this number.
    Manifest { tasks: u64, estimated_rows: u64 },
    /// An attempt read its whole range.
    Fetched {
        task: TaskHash,
        attempt: u32,
        shard: u32,
        batches: u32,
        rows: u64,
        /// Bytes of the batches' bodies.
        bytes: u64,
    },
    /// An attempt failed and will be tried again.
    FetchFailed {
        task: TaskHash,
        attempt: u32,
        error: String,
    },
    /// A task was given up: it is in quarantine.
    TaskQuarantined {
        task: TaskHash,
        program: String,
        reason: Reason,
    },
    /// A store has answered for every row of a batch.
    Stored {
        /// The program that writes to the store, by its process name.
        store: String,
        batch: BatchId,
        shard: u32,
        rows: Rows,
        /// The same by index; empty where the store has but one target.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        targets: BTreeMap<String, Rows>,
        /// Quarantined rows by reason.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        reasons: BTreeMap<Reason, u64>,
    },
    /// An operator gave the run up; the pipeline is free for the next one.
    Abandoned { who: String, why: String },
}

impl PartialOrd for RunMode {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for RunMode {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let key = |m: &RunMode| match m {
            RunMode::Full => None,
            RunMode::Since { since_ms } => Some(*since_ms),
        };
        key(self).cmp(&key(other))
    }
}

/// A small fact about a run, a task or a batch: what the ledger is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    pub run: RunId,
    /// When it happened, in milliseconds since the epoch, by the clock of the program that says it.
    pub at_ms: i64,
    #[serde(flatten)]
    pub fact: Fact,
}

impl Receipt {
    pub fn to_message(&self) -> Message {
        let body = serde_json::to_vec(&Versioned {
            schema: SCHEMA_VERSION,
            content: self,
        });
        Message::new(
            Headers::of_run(&self.run),
            body.expect("a receipt is plain data"),
        )
    }

    pub fn from_message(message: &Message) -> Result<Self, Invalid> {
        message.headers.check_schema()?;
        from_json(&message.body, "a receipt")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_survives_its_message() {
        let receipt = Receipt {
            run: "r-1".parse().unwrap(),
            at_ms: 7,
            fact: Fact::Stored {
                store: "es-writer".into(),
                batch: BatchId {
                    task: TaskHash::of([b"t".as_slice()]),
                    attempt: 1,
                    sequence: 2,
                },
                shard: 1,
                rows: Rows {
                    stored: 9,
                    unchanged: 0,
                    skipped: 0,
                    quarantined: 1,
                },
                targets: BTreeMap::new(),
                reasons: [(Reason::RefusedRows, 1)].into(),
            },
        };
        assert_eq!(
            Receipt::from_message(&receipt.to_message()).unwrap(),
            receipt
        );
    }
}
