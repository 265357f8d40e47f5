use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::message::{from_json, to_json};
use crate::{Headers, Invalid, Message, MessageKind, RunId, TaskHash, header};

/// A column as the plan found it in the source: its name and its ClickHouse type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    pub r#type: String,
}

/// Which rows a run distributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "mode")]
pub enum RunMode {
    /// Every row that changed before the plan's upper bound.
    Full,
    /// Rows changed at or after `since_ms` (milliseconds since the epoch; the overlap is already taken off).
    Since { since_ms: i64 },
}

/// What every task of a run reads, resolved and frozen when the run was planned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadPlan {
    pub database: String,
    pub table: String,
    /// The source's primary key, in its order; ranges are over it.
    pub key: Vec<Column>,
    /// Columns read next to the key, in order: `processed_*` and whatever was configured.
    pub columns: Vec<Column>,
    /// The column that holds the change time: DateTime, DateTime64, or an integer of milliseconds.
    pub changed: Column,
    pub mode: RunMode,
    /// Rows changed at or after this time belong to the next run. Milliseconds since the epoch.
    pub until_ms: i64,
    /// One row in `sample` keys is read (by a hash of the key); 1 reads all.
    pub sample: u32,
}

/// A bound of a range: the values of the first columns of the primary key.
pub type Bound = Vec<KeyValue>;

/// One value of a key column. Strings are bytes, in hexadecimal: a keyword may hold anything.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyValue {
    /// Hexadecimal bytes of a String or FixedString.
    Hex(String),
    /// Any other type, as ClickHouse writes it in text.
    Text(String),
}

/// Keys at or above `lower` and below `upper`; an absent bound is open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRange {
    pub lower: Option<Bound>,
    pub upper: Option<Bound>,
}

/// One range of one shard: what one fetcher reads in one attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    pub run: RunId,
    pub task: TaskHash,
    pub shard: u32,
    pub range: KeyRange,
    /// Rows of the source that the primary index counts in this range: an estimate from above.
    pub estimated_rows: u64,
    pub plan: Arc<ReadPlan>,
}

impl Task {
    pub fn new(
        run: &RunId,
        shard: u32,
        range: KeyRange,
        estimated_rows: u64,
        plan: Arc<ReadPlan>,
    ) -> Self {
        let bounds = serde_json::to_vec(&range).expect("a range is plain data");
        let task = TaskHash::new([run.as_str().as_bytes(), &shard.to_le_bytes(), &bounds]);
        Self {
            run: run.clone(),
            task,
            shard,
            range,
            estimated_rows,
            plan,
        }
    }

    /// Its first message: attempt 1, from which the worker loop counts on.
    pub fn to_message(&self) -> Message {
        let mut headers = Headers::for_run(&self.run, MessageKind::Task);
        headers.set(header::TASK, self.task.to_string());
        headers.set(header::SHARD, i64::from(self.shard));
        Message::new(headers, to_json(MessageKind::Task, self))
    }

    pub fn from_message(message: &Message) -> Result<Self, Invalid> {
        from_json(MessageKind::Task, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reason;
    use proptest::prelude::*;

    fn task() -> Task {
        let plan = ReadPlan {
            database: "keywords".into(),
            table: "keywords_data_local".into(),
            key: vec![Column {
                name: "keyword".into(),
                r#type: "String".into(),
            }],
            columns: vec![],
            changed: Column {
                name: "changed_at".into(),
                r#type: "DateTime64(3)".into(),
            },
            mode: RunMode::Since { since_ms: 5 },
            until_ms: 7,
            sample: 1,
        };
        let range = KeyRange {
            lower: Some(vec![KeyValue::Hex("00ff".into())]),
            upper: None,
        };
        Task::new(&"r-1".parse().unwrap(), 1, range, 10, Arc::new(plan))
    }

    #[test]
    fn a_task_survives_its_message() {
        let task = task();
        assert_eq!(Task::from_message(&task.to_message()).unwrap(), task);
    }

    #[test]
    fn a_task_of_another_version_is_refused_by_name() {
        let mut message = task().to_message();
        let text = String::from_utf8(message.body.to_vec()).unwrap();
        message.body = text.replace("\"schema\":1", "\"schema\":9").into();
        let error = Task::from_message(&message).unwrap_err();
        assert_eq!(error.reason, Reason::UnknownVersion);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_task_or_a_named_refusal(body: Vec<u8>) {
            let message = Message::new(Headers::for_run(&"r-1".parse().unwrap(), MessageKind::Task), body);
            prop_assert!(Task::from_message(&message).is_err());
        }

        #[test]
        fn a_cut_task_is_refused(cut in 0usize..400) {
            let mut message = task().to_message();
            let cut = cut.min(message.body.len() - 1);
            message.body = message.body.slice(..cut);
            prop_assert!(Task::from_message(&message).is_err());
        }
    }
}
