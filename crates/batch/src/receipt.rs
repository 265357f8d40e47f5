use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::task::from_json;
use crate::{
    BatchId, Decision, Headers, Invalid, Message, Reason, RunId, RunMode, SCHEMA_VERSION, Stage,
    TaskHash,
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

/// One thing that happened in a run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
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
        /// What the run must pass beyond the stores; absent in a pipeline that nobody judges.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        run_plan: Option<RunPlan>,
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
    /// The held batches of a task went on: all of them, of this attempt.
    Released {
        task: TaskHash,
        attempt: u32,
        batches: u32,
    },
    /// A gate judged a stage by its receipts. Said once; the earliest counts.
    GateDecided {
        stage: Stage,
        decision: Decision,
        /// The counts that decided, for a person.
        why: String,
        /// Decisions of operators on the run that were known then: one on an earlier stage makes the decision void.
        #[serde(default, skip_serializing_if = "is_zero")]
        operator_decisions: u32,
    },
    /// An operator decided on a stage, whatever its gate said. The latest counts.
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
        /// Version that is in place: that of the run.
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
    /// An order could not be carried out.
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

/// What a judged run must pass beyond the stores, and by which rules: fixed when it begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct RunPlan {
    /// The store whose closing lets the dictionaries be refreshed. Absent: the pipeline has no dictionary.
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
        let store = self.dictionary_after.clone().map(Stage::Store);
        let all = [Some(Stage::Plan), Some(Stage::Fetch), store];
        let orders = [Some(Stage::Sync), Some(Stage::Dictionary)];
        let count = match stage {
            Stage::Plan => 0,
            Stage::Fetch => 1,
            Stage::Store(_) => 2,
            Stage::Sync => 3,
            Stage::Dictionary => 4,
            Stage::Serp => 5,
        };
        all.into_iter()
            .chain(orders)
            .take(count)
            .flatten()
            .collect()
    }
}

fn is_zero(n: &u32) -> bool {
    *n == 0
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
    pub fact: Fact,
}

/// A receipt as it is written. Facts are tagged from outside and nothing is flattened, so that it is read in one pass.
#[derive(Serialize)]
struct Written<'a> {
    schema: i64,
    #[serde(flatten)]
    receipt: &'a Receipt,
}

impl Receipt {
    pub fn to_message(&self) -> Message {
        let body = serde_json::to_vec(&Written {
            schema: SCHEMA_VERSION,
            receipt: self,
        });
        Message::new(
            Headers::of_run(&self.run),
            body.expect("a receipt is plain data"),
        )
    }

    pub fn from_message(message: &Message) -> Result<Self, Invalid> {
        #[derive(Deserialize)]
        struct Read {
            schema: i64,
            run: RunId,
            at_ms: i64,
            fact: Fact,
        }
        message.headers.check_schema()?;
        match serde_json::from_slice::<Read>(&message.body) {
            Ok(read) if read.schema == SCHEMA_VERSION => Ok(Self {
                run: read.run,
                at_ms: read.at_ms,
                fact: read.fact,
            }),
            // Of another release perhaps: the slower way tells why it cannot be read.
            _ => from_json(&message.body, "a receipt"),
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
