use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{BatchId, Invalid, MessageKind, Reason, RunId, TaskHash};

/// Names of the headers. All begin with `fleet-`, so that they stand apart from the broker's own.
pub mod header {
    pub const SCHEMA: &str = "fleet-schema";
    pub const RUN: &str = "fleet-run";
    pub const TASK: &str = "fleet-task";
    pub const ATTEMPT: &str = "fleet-attempt";
    pub const SEQUENCE: &str = "fleet-sequence";
    pub const SHARD: &str = "fleet-shard";
    pub const ROWS: &str = "fleet-rows";
    /// Tries at the message that have ended, whatever their outcome; absent means none.
    pub const TRIES: &str = "fleet-tries";
    /// How often processing failed so far; absent means never.
    pub const FAILURES: &str = "fleet-failures";
    /// JSON list of [`super::Failure`], oldest first.
    pub const HISTORY: &str = "fleet-history";
    /// Step at which the last try at an order failed, by the role's own name for it; absent when it did not fail.
    pub const FAILED_STEP: &str = "fleet-failed-step";
    /// When an order failed for the first time since it was last given up, in milliseconds since the epoch.
    pub const FAILING_SINCE: &str = "fleet-failing-since";
    /// [`super::Reason`] of a message in quarantine.
    pub const REASON: &str = "fleet-reason";
    /// Program that put the message into quarantine.
    pub const PROGRAM: &str = "fleet-program";
}

/// Value of a header: the two kinds that the fleet itself writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum HeaderValue {
    Int(i64),
    Text(String),
}

impl From<i64> for HeaderValue {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<String> for HeaderValue {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<&str> for HeaderValue {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

/// One failed try, as it stands in the history of a message: who, when, what, where, how often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Program (process name) that failed.
    pub who: String,
    /// Host it ran on.
    pub host: String,
    /// Milliseconds since the epoch of the latest such failure.
    pub when_ms: i64,
    /// The error, shortened.
    pub what: String,
    /// Which store, table, index, replica or queue it was about; empty when none.
    #[serde(default)]
    pub r#where: String,
    /// How often in a row exactly this happened.
    pub times: u32,
    /// Milliseconds since the epoch of the first of them; absent for a failure that was not repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_ms: Option<i64>,
}

impl Failure {
    /// When it happened for the first time in a row, in milliseconds since the epoch.
    pub fn first_ms(&self) -> i64 {
        self.first_ms.unwrap_or(self.when_ms)
    }
}

/// Headers of a message. Typed readers fail with the name of the header.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Headers(BTreeMap<String, HeaderValue>);

impl Headers {
    /// Failures kept in the history: the first and the latest ones, so that a message's
    /// headers fit one frame (128 KiB) however long it is tried.
    const HISTORY_KEPT: usize = 24;
    /// Bytes kept of one error text.
    const ERROR_KEPT: usize = 1024;
    /// Largest count a message may name: rows, attempts, sequence numbers and shards all stay far below.
    const MAX_COUNT: i64 = 1_000_000_000;

    pub fn new() -> Self {
        Self::default()
    }

    /// The headers that every message of a run begins with.
    pub fn for_run(run: &RunId, kind: MessageKind) -> Self {
        let mut headers = Self::new();
        headers.set(header::SCHEMA, kind.schema());
        headers.set(header::RUN, run.as_str());
        headers
    }

    /// The headers of a batch of `rows` rows for `shard`.
    pub fn for_batch(run: &RunId, id: BatchId, shard: u32, rows: u64) -> Self {
        let mut headers = Self::for_run(run, MessageKind::Batch);
        headers.set(header::TASK, id.task.to_string());
        headers.set(header::ATTEMPT, i64::from(id.attempt));
        headers.set(header::SEQUENCE, i64::from(id.sequence));
        headers.set(header::SHARD, i64::from(shard));
        headers.set(header::ROWS, rows as i64);
        headers
    }

    pub fn set(&mut self, name: &str, value: impl Into<HeaderValue>) -> &mut Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    pub fn remove(&mut self, name: &str) -> Option<HeaderValue> {
        self.0.remove(name)
    }

    pub fn get(&self, name: &str) -> Option<&HeaderValue> {
        self.0.get(name)
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        match self.0.get(name) {
            Some(HeaderValue::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub fn int(&self, name: &str) -> Option<i64> {
        match self.0.get(name) {
            Some(HeaderValue::Int(int)) => Some(*int),
            _ => None,
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &HeaderValue)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Bytes that the headers take, names and values together.
    pub fn size(&self) -> usize {
        let value = |v: &HeaderValue| match v {
            HeaderValue::Int(_) => 8,
            HeaderValue::Text(text) => text.len(),
        };
        self.0.iter().map(|(n, v)| n.len() + value(v)).sum()
    }

    /// Refuses a message of another schema version than [`MessageKind::schema`].
    pub fn check_schema(&self, kind: MessageKind) -> Result<(), Invalid> {
        let (name, reads) = (header::SCHEMA, kind.schema());
        match self.get(name) {
            Some(HeaderValue::Int(version)) if *version == reads => Ok(()),
            Some(HeaderValue::Int(other)) => {
                let detail = format!(
                    "header {name} is {other}; this release reads version {reads} of {kind}: \
                     upgrade it, then re-queue the message"
                );
                Err(Invalid::new(Reason::UnknownVersion, detail))
            }
            other => Err(bad(name, "an integer", other)),
        }
    }

    pub fn run(&self) -> Result<RunId, Invalid> {
        match self.get(header::RUN) {
            Some(HeaderValue::Text(name)) => name.parse(),
            other => Err(bad(header::RUN, "the name of a run", other)),
        }
    }

    pub fn batch_id(&self) -> Result<BatchId, Invalid> {
        let task = match self.get(header::TASK) {
            Some(HeaderValue::Text(hash)) => hash.parse::<TaskHash>()?,
            other => return Err(bad(header::TASK, "a task hash", other)),
        };
        Ok(BatchId {
            task,
            attempt: self.count(header::ATTEMPT)?,
            sequence: self.count(header::SEQUENCE)?,
        })
    }

    pub fn shard(&self) -> Result<u32, Invalid> {
        self.count(header::SHARD)
    }

    pub fn rows(&self) -> Result<u32, Invalid> {
        self.count(header::ROWS)
    }

    /// A count that must be there: 0 to 10⁹.
    pub fn count(&self, name: &str) -> Result<u32, Invalid> {
        match self.get(name) {
            Some(HeaderValue::Int(n)) if (0..=Self::MAX_COUNT).contains(n) => Ok(*n as u32),
            other => Err(bad(name, "a number from 0 to 10^9", other)),
        }
    }

    /// How often processing failed so far. An unusable number counts as none:
    /// the delivery itself must never be refused for its failures.
    pub fn failures(&self) -> u32 {
        self.count(header::FAILURES).unwrap_or(0)
    }

    /// Failures so far, oldest first.
    pub fn history(&self) -> Vec<Failure> {
        self.text(header::HISTORY)
            .and_then(|json| serde_json::from_str(json).ok())
            .unwrap_or_default()
    }

    /// Adds a failure to the history and counts it. The same failure again raises `times` of the latest entry, which
    /// keeps the time of the first one.
    pub fn add_failure(&mut self, mut failure: Failure) {
        truncate(&mut failure.what, Self::ERROR_KEPT);
        truncate(&mut failure.r#where, Self::ERROR_KEPT);
        let mut history = self.history();
        let same = |last: &&mut Failure| {
            (&last.who, &last.what, &last.r#where)
                == (&failure.who, &failure.what, &failure.r#where)
        };
        match history.last_mut().filter(same) {
            Some(last) => {
                last.times = last.times.saturating_add(1);
                last.first_ms = Some(last.first_ms());
                last.when_ms = failure.when_ms;
                last.host = failure.host;
            }
            None => history.push(failure),
        }
        if history.len() > Self::HISTORY_KEPT {
            // The first failures show how it began, the last ones how it ends.
            history.remove(Self::HISTORY_KEPT / 2);
        }
        let json = serde_json::to_string(&history).expect("a history is plain data");
        self.set(header::HISTORY, json);
        self.set(header::FAILURES, i64::from(self.failures()) + 1);
    }
}

/// Keeps the beginning of a text, of about `at` bytes.
pub fn truncate(text: &mut String, at: usize) {
    if text.len() > at {
        let end = (0..=at).rev().find(|i| text.is_char_boundary(*i));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
}

fn bad(name: &str, wanted: &str, found: Option<&HeaderValue>) -> Invalid {
    let found = match found {
        None => "it is absent".to_owned(),
        Some(HeaderValue::Int(n)) => format!("it is {n}"),
        Some(HeaderValue::Text(text)) => {
            let mut text = text.clone();
            truncate(&mut text, 80);
            format!("it is {text:?}")
        }
    };
    let detail = format!("header {name} must be {wanted}; {found}");
    Invalid::new(Reason::BadHeader, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(what: &str, when_ms: i64) -> Failure {
        Failure {
            who: "ch-writer".into(),
            host: "a".into(),
            when_ms,
            what: what.into(),
            r#where: "shard 0".into(),
            times: 1,
            first_ms: None,
        }
    }

    #[test]
    fn a_history_keeps_every_failure_and_counts_repeated_ones_once() {
        let mut headers = Headers::new();
        headers.add_failure(failure("refused", 1));
        headers.add_failure(failure("refused", 2));
        headers.add_failure(failure("timed out", 3));
        let history = headers.history();
        assert_eq!(history.len(), 2);
        assert_eq!((history[0].times, history[0].when_ms), (2, 2));
        assert_eq!((history[0].first_ms(), history[1].first_ms()), (1, 3));
        assert_eq!(history[1].what, "timed out");
        assert_eq!(headers.failures(), 3);
    }

    #[test]
    fn a_history_stays_within_a_frame_and_keeps_its_beginning() {
        let mut headers = Headers::new();
        for n in 0..500 {
            headers.add_failure(failure(&format!("{n}{}", "é".repeat(5000)), n));
        }
        assert!(headers.size() < 64 * 1024, "{}", headers.size());
        assert!(headers.history()[0].what.starts_with('0'));
        assert!(headers.history().last().unwrap().what.starts_with("499"));
        assert_eq!(headers.failures(), 500);
    }

    #[test]
    fn absurd_header_numbers_are_named() {
        for value in [-1, i64::MIN, i64::MAX, 1_000_000_001] {
            let mut headers = Headers::new();
            headers.set(header::ROWS, value);
            let error = headers.rows().unwrap_err();
            assert_eq!(error.reason, Reason::BadHeader);
            assert!(error.detail.contains("fleet-rows"), "{error}");
        }
    }

    #[test]
    fn an_unknown_schema_version_says_what_to_do() {
        let mut headers = Headers::new();
        headers.set(header::SCHEMA, 9);
        let error = headers.check_schema(MessageKind::Batch).unwrap_err();
        assert_eq!(error.reason, Reason::UnknownVersion);
        assert!(error.detail.contains("of a batch: upgrade"), "{error}");
    }
}
