use batch::{Headers, Invalid, Message, MessageKind, Reason, RunId};
use serde::{Deserialize, Serialize};

use crate::progress::Progress;

/// What is kept of a run that has ended, so that its receipts need not be read again. Of several records of
/// one run the one of the highest revision counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    schema: i64,
    pub run: RunId,
    pub revision: u64,
    /// Offset in the ledger of the run's first receipt.
    pub first_offset: u64,
    pub content: RecordContent,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordContent {
    /// The run ended so.
    Finished {
        /// Offset in the ledger from which on a decision on the run is not in here.
        at_offset: u64,
        /// Offset in the ledger from which on there is everything of the runs that were unfinished then.
        resume_offset: u64,
        progress: Box<Progress>,
    },
    /// An operator decided on it after its end: its receipts count again.
    Reopened,
}

impl RunRecord {
    pub fn new(run: &RunId, revision: u64, first_offset: u64, content: RecordContent) -> Self {
        Self {
            schema: MessageKind::RunRecord.schema(),
            run: run.clone(),
            revision,
            first_offset,
            content,
        }
    }

    pub fn to_message(&self) -> Message {
        let body = serde_json::to_vec(self).expect("a record is plain data");
        Message::new(Headers::for_run(&self.run, MessageKind::RunRecord), body)
    }

    pub fn from_message(message: &Message) -> Result<Self, Invalid> {
        message.headers.check_schema(MessageKind::RunRecord)?;
        serde_json::from_slice(&message.body).map_err(|error| {
            let detail = format!("body is not the record of a run: {error}");
            Invalid::new(Reason::NotReadable, detail)
        })
    }
}
