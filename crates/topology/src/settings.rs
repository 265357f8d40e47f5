use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use pipeline::RoleKind;

/// What the broker holds for the pipeline. Everything but `file` can be changed on a running pipeline, and
/// `fleet pipeline configure` changes it without losing a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PipelineSettings {
    /// A file with pipeline types of your own; it is read on top of the types built in.
    pub file: Option<PathBuf>,
    /// Deliveries of one message without an acknowledgement after which it goes to quarantine: it probably kills
    /// its worker. Well above what a few restarts of a worker in one day cause.
    pub delivery_limit: u32,
    /// Messages that the quarantine of one program holds. When it is full nothing more goes in: the
    /// program's failing messages stay where they are, and are tried again.
    pub quarantine_max_messages: u64,
    /// Bytes of message bodies that the quarantine of one program holds; as with
    /// `quarantine_max_messages`, whichever is reached first.
    pub quarantine_max_bytes: u64,
    /// Days that the ledger keeps a receipt: for so long a run that ended can be decided on again. How it ended
    /// is kept for `runs_max_age_days`.
    pub ledger_max_age_days: u32,
    /// Days that the record of a run that ended is kept. A run older than that is no longer known.
    pub runs_max_age_days: u32,
    /// Bytes that the ledger holds at most; the oldest receipts go first. With three receipts of about
    /// 300 bytes for a batch of 1000 rows, 4 GiB last for some 4,000 million rows.
    pub ledger_max_bytes: u64,
}

impl Default for PipelineSettings {
    fn default() -> Self {
        Self {
            file: None,
            delivery_limit: 20,
            quarantine_max_messages: 100_000,
            quarantine_max_bytes: 4 << 30,
            ledger_max_age_days: 30,
            // A year of hourly runs is 8,760 records of some 2 KB.
            runs_max_age_days: 400,
            ledger_max_bytes: 4 << 30,
        }
    }
}

impl PipelineSettings {
    /// Refuses what the broker would refuse, or what could hold nothing.
    pub fn check(&self) -> Result<(), String> {
        let numbers = [
            ("delivery_limit", u64::from(self.delivery_limit)),
            ("quarantine_max_messages", self.quarantine_max_messages),
            ("quarantine_max_bytes", self.quarantine_max_bytes),
            ("ledger_max_age_days", u64::from(self.ledger_max_age_days)),
            ("runs_max_age_days", u64::from(self.runs_max_age_days)),
            ("ledger_max_bytes", self.ledger_max_bytes),
        ];
        match numbers.into_iter().find(|(_, number)| *number == 0) {
            Some((key, _)) => Err(format!("pipeline.{key} must be at least 1")),
            None => Ok(()),
        }
    }
}

/// Settings of one program's queues in the pipeline file, where they differ from [`PipelineSettings`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueueSettings {
    pub delivery_limit: Option<u32>,
    pub quarantine_max_messages: Option<u64>,
    pub quarantine_max_bytes: Option<u64>,
    /// Of a stream.
    pub max_age_days: Option<u32>,
    /// Of a stream.
    pub max_bytes: Option<u64>,
    /// Nodes that hold a copy of each queue; the broker's own default is three, or as many as there are.
    pub replicas: Option<u32>,
}

impl QueueSettings {
    /// What is wrong with the first setting that is zero, or that a program of this kind has no use for.
    pub(super) fn refuse(&self, program: &str, kind: RoleKind) -> Option<String> {
        let (worker, stream, both) = match kind {
            RoleKind::Worker | RoleKind::Controller => {
                (None, Some("its queues are no streams"), None)
            }
            RoleKind::Stream => {
                let why = "it is a stream, which has neither deliveries to count nor a quarantine";
                (Some(why), None, None)
            }
            RoleKind::Producer => {
                let why = Some("it has no queue");
                (why, why, why)
            }
        };
        let settings = [
            ("delivery_limit", self.delivery_limit.map(u64::from), worker),
            (
                "quarantine_max_messages",
                self.quarantine_max_messages,
                worker,
            ),
            ("quarantine_max_bytes", self.quarantine_max_bytes, worker),
            ("max_age_days", self.max_age_days.map(u64::from), stream),
            ("max_bytes", self.max_bytes, stream),
            ("replicas", self.replicas.map(u64::from), both),
        ];
        settings.into_iter().find_map(|(setting, value, unfit)| {
            let zero = (value? == 0).then_some("it must be at least 1");
            let why = unfit.or(zero)?;
            Some(format!("{setting} means nothing for {program}: {why}"))
        })
    }
}
