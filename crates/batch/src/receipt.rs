use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::message::{from_json, to_json};
use crate::{
    BatchId, Decision, Headers, Invalid, Message, MessageKind, Reason, RunId, RunMode, RunPlan,
    Stage, TaskHash,
};

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

/// The announcement of a run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Started {
    pub pipeline: String,
    pub mode: RunMode,
    /// The end of the data that it reads, in milliseconds since the epoch: its version.
    pub until_ms: i64,
    pub shards: u32,
    /// Programs that must account for every row, by their process names.
    pub stores: Vec<String>,
    /// The run leaves rows out that a default run has (a sample, some of the shards, a later start): no later run may
    /// begin where this one ended.
    #[serde(default)]
    pub partial: bool,
    /// Fingerprint of the table, key and columns that are read. Empty: not known.
    #[serde(default)]
    pub source: String,
    /// In what its stores differed from the contract with the hub, and it was published all the same. Empty: in nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<String>,
    /// What the run must pass beyond the stores; absent in a pipeline without gates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_plan: Option<RunPlan>,
    /// Tells apart two queuers that announce a run of one name: that of the first in the ledger counts.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub nonce: String,
}

impl Started {
    /// Whether the other announcement is of the same run, by another queuer perhaps.
    pub fn agrees_with(&self, other: &Self) -> bool {
        let nonce = self.nonce.clone();
        *self
            == Self {
                nonce,
                ..other.clone()
            }
    }
}

/// One thing that happened in a run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fact {
    /// The run exists from here on: no other run of the pipeline may begin before it ends.
    Started(Started),
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
    /// A store has accounted for every row of a batch.
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
    /// The held batches of a task were released: all of them, of this attempt.
    Released {
        task: TaskHash,
        attempt: u32,
        batches: u32,
    },
    /// A gate decided on a stage by its receipts. Published once; the earliest counts.
    GateDecided {
        stage: Stage,
        decision: Decision,
        /// The counts that decided, for a person.
        why: String,
        /// Decisions of operators on the run that were known then: one on an earlier stage makes the decision void.
        #[serde(default, skip_serializing_if = "is_zero")]
        operator_decisions: u32,
    },
    /// An operator decided on a stage, whatever its gate decided. The latest counts.
    OperatorDecided {
        stage: Stage,
        decision: Decision,
        who: String,
        why: String,
    },
    /// The dictionaries of these shards were ordered to be refreshed.
    Ordered {
        shards: Vec<u32>,
        /// As in [`Fact::GateDecided`].
        #[serde(default, skip_serializing_if = "is_zero")]
        operator_decisions: u32,
    },
    /// A replica has everything that was written to its shard before it was asked.
    ReplicaSynced {
        shard: u32,
        replica: String,
        took_ms: u64,
    },
    /// A replica lacks some of it still.
    ReplicaLate {
        shard: u32,
        replica: String,
        /// By its own account (`absolute_delay` of `system.replicas`), where it gives one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        behind_seconds: Option<u64>,
        error: String,
    },
    /// Every replica of the shard is in sync.
    ShardSynced { shard: u32, replicas: u32 },
    /// Readers of the shard's dictionary see the run's version, on every replica.
    ShardApplied {
        shard: u32,
        /// The version that they see: that of the run.
        version: i64,
        /// Entries of the dictionary.
        entries: u64,
        /// SERP nodes that were ordered to be restarted for it.
        nodes: Vec<String>,
    },
    /// Every port of a SERP node serves the run's version.
    NodeRestarted {
        node: String,
        shard: u32,
        /// Ports that were restarted, and ports that served the version already.
        restarted: u32,
        already: u32,
    },
    /// An order failed.
    OrderFailed {
        stage: Stage,
        /// The number of the shard, or the name of the node.
        target: String,
        /// What was being done.
        step: String,
        error: String,
        /// It will not be tried again by itself.
        given_up: bool,
    },
    /// An operator gave the run up; the pipeline is free for the next one.
    Abandoned { who: String, why: String },
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// A small fact about a run, a task or a batch: what the ledger is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    pub run: RunId,
    /// When it happened, in milliseconds since the epoch, by the clock of the program that sent it.
    pub at_ms: i64,
    pub fact: Fact,
}

impl Receipt {
    pub fn to_message(&self) -> Message {
        let headers = Headers::for_run(&self.run, MessageKind::Receipt);
        Message::new(headers, to_json(MessageKind::Receipt, self))
    }

    pub fn from_message(message: &Message) -> Result<Self, Invalid> {
        // Facts are tagged from outside and nothing is flattened here, so that a receipt is read in one pass.
        #[derive(Deserialize)]
        struct FlatReceipt {
            schema: i64,
            run: RunId,
            at_ms: i64,
            fact: Fact,
        }
        message.headers.check_schema(MessageKind::Receipt)?;
        match serde_json::from_slice::<FlatReceipt>(&message.body) {
            Ok(read) if read.schema == MessageKind::Receipt.schema() => Ok(Self {
                run: read.run,
                at_ms: read.at_ms,
                fact: read.fact,
            }),
            // Of another release perhaps: the slower way finds out why it cannot be read.
            _ => from_json(MessageKind::Receipt, message),
        }
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
                    task: TaskHash::new([b"t".as_slice()]),
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
