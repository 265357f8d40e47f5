//! One read of a range from one replica.

use batch::arrow::Limits;
use batch::{Invalid, Reason, Task};
use stores::Class;
use stores::clickhouse::read::select;
use stores::clickhouse::{ByteStream, Error, Replica, classify};

use crate::config::FetcherSettings;
use crate::cutter::{BatchCutter, BatchSize, EncodedBatch};
use crate::replica_check::ReplicaCheck;
use crate::row_count::RowCount;

/// A range that is being read.
#[derive(Debug)]
pub(crate) struct RangeReader<'a> {
    replica: &'a Replica,
    stream: ByteStream,
    /// `None` after the end of the answer.
    cutter: Option<BatchCutter>,
    count: RowCount,
    /// Rows of the batches so far.
    rows: u64,
}

/// Why a range could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// Another replica, or the same one later, may do better.
    #[error(transparent)]
    Replica(Error),
    /// This replica is behind, or its answer is not a valid stream; another one's may be.
    #[error("{replica}: {problem}")]
    Unusable { replica: String, problem: String },
    /// No replica can do better.
    #[error(transparent)]
    Task(Invalid),
}

impl<'a> RangeReader<'a> {
    /// Checks the replica, lets it count the rows, and sends it the statement; returns when the answer begins.
    pub async fn open(
        replica: &'a Replica,
        check: &ReplicaCheck,
        task: &Task,
        settings: &FetcherSettings,
        size: BatchSize,
    ) -> Result<Self, ReadError> {
        let select = select(task).map_err(ReadError::Task)?;
        let checked = check.check(replica, task).await?;
        let count = RowCount::take(replica, task, settings).await?;
        let stream = replica.stream(&checked.tuned(select, settings)).await?;
        Ok(Self {
            replica,
            stream,
            cutter: Some(BatchCutter::new(size, Limits::default())),
            count,
            rows: 0,
        })
    }

    /// The next batch; `None` after the last one, when the answer was complete to its end marker and has as many rows
    /// as the replica counts.
    pub async fn next_batch(&mut self) -> Result<Option<EncodedBatch>, ReadError> {
        let batch = self.read_batch().await?;
        self.rows += batch.as_ref().map_or(0, |batch| batch.rows);
        if batch.is_none() {
            self.count.prove(self.replica, self.rows).await?;
        }
        Ok(batch)
    }

    async fn read_batch(&mut self) -> Result<Option<EncodedBatch>, ReadError> {
        let replica = self.replica.address();
        let invalid = |problem| ReadError::from_answer(replica, problem);
        while let Some(cutter) = &mut self.cutter {
            if let Some(batch) = cutter.next_batch().map_err(invalid)? {
                return Ok(Some(batch));
            }
            match self.stream.try_next().await? {
                Some(piece) => cutter.push(piece),
                None => {
                    let last = self.cutter.take().map(BatchCutter::finish).transpose();
                    return last.map(Option::flatten).map_err(invalid);
                }
            }
        }
        Ok(None)
    }
}

impl From<Error> for ReadError {
    fn from(error: Error) -> Self {
        match classify(&error) {
            _ if error.allows_failover() => Self::Replica(error),
            // The source lost a table or a column after the plan was made.
            Class::Quarantine(Reason::MissingTarget | Reason::WrongSchema) => {
                Self::Task(Invalid::new(Reason::SourceChanged, error.to_string()))
            }
            Class::Quarantine(reason) => Self::Task(Invalid::new(reason, error.to_string())),
            _ => Self::Replica(error),
        }
    }
}

impl ReadError {
    fn from_answer(replica: &str, problem: Invalid) -> Self {
        match problem.reason {
            // The rows are too large, on every replica.
            Reason::Oversized | Reason::DecompressionBomb => Self::Task(Invalid::new(
                problem.reason,
                format!("{}; lower fetcher.scroll_rows", problem.detail),
            )),
            _ => Self::Unusable {
                replica: replica.to_owned(),
                problem: problem.to_string(),
            },
        }
    }

    /// Why the task goes to quarantine when no replica is left to try; `None` if a later try may succeed.
    pub fn permanent(&self) -> Option<Invalid> {
        match self {
            Self::Task(invalid) => Some(invalid.clone()),
            Self::Replica(error) => match classify(error) {
                Class::Quarantine(reason) => Some(Invalid::new(reason, error.to_string())),
                _ => None,
            },
            Self::Unusable { .. } => None,
        }
    }

    /// Whether the replica refuses every query for now: wrong credentials, a quota that is used up.
    pub fn is_pause(&self) -> bool {
        matches!(self, Self::Replica(error) if classify(error) == Class::Pause)
    }
}
