use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Invalid, Reason};

/// Name of a run: the pipeline's name and the moment its source snapshot was fixed,
/// `direct-20260102T030405678Z`. Sorts by time within a pipeline.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct RunId(String);

impl RunId {
    /// Longest name accepted, in bytes: it travels in headers, labels and file names.
    pub const MAX_BYTES: usize = 96;

    /// The run of `pipeline` whose snapshot is taken at `until_ms` (milliseconds since the epoch).
    pub fn new(pipeline: &str, until_ms: i64) -> Result<Self, Invalid> {
        let at = chrono::DateTime::from_timestamp_millis(until_ms).ok_or_else(|| {
            let detail = format!("{until_ms} ms is not a time a run can have");
            Invalid::new(Reason::BadHeader, detail)
        })?;
        format!("{pipeline}-{}", at.format("%Y%m%dT%H%M%S%3fZ")).try_into()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for RunId {
    type Error = Invalid;

    fn try_from(name: String) -> Result<Self, Invalid> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > Self::MAX_BYTES || !name.chars().all(plain) {
            let most = Self::MAX_BYTES;
            let detail = format!(
                "{name:?} is not the name of a run: 1 to {most} letters, digits, '-', '_' or '.'"
            );
            return Err(Invalid::new(Reason::BadHeader, detail));
        }
        Ok(Self(name))
    }
}

impl FromStr for RunId {
    type Err = Invalid;

    fn from_str(name: &str) -> Result<Self, Invalid> {
        name.to_owned().try_into()
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Stable hash of (run, shard, range): the same in every process and every release, 64 bits of SHA-256.
/// Written as 16 hexadecimal digits everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TaskHash(u64);

impl TaskHash {
    /// Hash of `parts`, each preceded by its length, so that no two lists of parts read the same.
    pub fn new<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let digest = hash.finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        Self(u64::from_be_bytes(first))
    }
}

impl fmt::Display for TaskHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for TaskHash {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let digits = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        match u64::from_str_radix(text, 16) {
            Ok(hash) if digits => Ok(Self(hash)),
            _ => {
                let detail = format!("{text:?} is not a task hash: 16 hexadecimal digits");
                Err(Invalid::new(Reason::BadHeader, detail))
            }
        }
    }
}

impl TryFrom<String> for TaskHash {
    type Error = Invalid;
    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<TaskHash> for String {
    fn from(task: TaskHash) -> String {
        task.to_string()
    }
}

/// Name of a batch: which task, which try at it, and the how-manyth batch of that try (from 0).
/// Written `task/attempt/sequence`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BatchId {
    pub task: TaskHash,
    /// From 1; a redelivery and a retry both count on.
    pub attempt: u32,
    pub sequence: u32,
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.task, self.attempt, self.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_hash_is_the_same_in_every_release() {
        let hash = TaskHash::new([b"direct-1".as_slice(), b"0", b"range"]);
        assert_eq!(hash.to_string(), "8bbe7c6a4ac69ad9");
        assert_eq!(hash.to_string().parse::<TaskHash>().unwrap(), hash);
    }

    #[test]
    fn parts_of_a_task_hash_do_not_run_together() {
        assert_ne!(
            TaskHash::new([b"ab".as_slice(), b"c"]),
            TaskHash::new([b"a".as_slice(), b"bc"])
        );
    }

    #[test]
    fn a_run_is_named_by_pipeline_and_time_and_refuses_anything_else() {
        let run = RunId::new("direct", 1_767_323_045_678).unwrap();
        assert_eq!(run.as_str(), "direct-20260102T030405678Z");
        for bad in ["", "a b", "a/b", "ключ", &"x".repeat(97)] {
            assert!(bad.parse::<RunId>().is_err(), "{bad:?}");
        }
    }
}
