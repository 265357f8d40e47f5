//! One try at reading a range from one replica.

use batch::arrow::Limits;
use batch::{Invalid, Reason, Task};
use futures_util::TryStreamExt;
use stores::Class;
use stores::clickhouse::read::select;
use stores::clickhouse::{ByteStream, Error, Replica, classify};

use crate::config::FetcherSettings;
use crate::cutter::{Cut, Cutter};
use crate::source::ReplicaChecks;

/// A range that is being read.
#[derive(Debug)]
pub(crate) struct Reading {
    stream: ByteStream,
    /// None once the answer has ended well.
    cutter: Option<Cutter>,
}

/// Why a range could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// Another replica, or the same one later, may do better.
    #[error(transparent)]
    Replica(Error),
    /// The replica's answer is not what it should be; another one's may be.
    #[error("{replica}: {what}")]
    Answer { replica: String, what: Invalid },
    /// The replica lacks what others may have.
    #[error("{replica}: {what}")]
    Behind { replica: String, what: String },
    /// No replica can do better.
    #[error(transparent)]
    Task(Invalid),
}

impl Reading {
    /// Returns when the answer has begun.
    pub async fn begin(
        replica: &Replica,
        sources: &ReplicaChecks,
        task: &Task,
        settings: &FetcherSettings,
    ) -> Result<Self, Broken> {
        let select = select(task).map_err(Broken::Task)?;
        let source = sources.check(replica, task).await?;
        let stream = replica.stream(&source.tuned(select, settings)).await?;
        Ok(Self {
            stream,
            cutter: Some(Cutter::new(settings.batch_size(), Limits::default())),
        })
    }

    /// The next batch; `None` after the last one, when the answer was complete to its end marker.
    pub async fn next_batch(&mut self) -> Result<Option<Cut>, Broken> {
        let replica = self.stream.replica().to_owned();
        let broken = |what| Broken::answer(&replica, what);
        while let Some(cutter) = &mut self.cutter {
            if let Some(batch) = cutter.next_batch().map_err(broken)? {
                return Ok(Some(batch));
            }
            match self.stream.try_next().await? {
                Some(piece) => cutter.push(piece),
                None => {
                    let last = self.cutter.take().map(Cutter::finish).transpose();
                    return last.map(Option::flatten).map_err(broken);
                }
            }
        }
        Ok(None)
    }
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        match classify(&error) {
            _ if error.allows_failover() => Self::Replica(error),
            // It is the source that lacks a table or a column, after the plan was made.
            Class::Quarantine(Reason::MissingTarget | Reason::WrongSchema) => {
                Self::Task(Invalid::new(Reason::SourceChanged, error.to_string()))
            }
            Class::Quarantine(reason) => Self::Task(Invalid::new(reason, error.to_string())),
            _ => Self::Replica(error),
        }
    }
}

impl Broken {
    fn answer(replica: &str, what: Invalid) -> Self {
        match what.reason {
            // These say how large the rows are: every replica's are.
            Reason::Oversized | Reason::DecompressionBomb => Self::Task(Invalid::new(
                what.reason,
                format!("{}; lower fetcher.scroll_rows", what.detail),
            )),
            _ => Self::Answer {
                replica: replica.to_owned(),
                what,
            },
        }
    }

    /// What cannot get better when no other replica is left to try.
    pub fn lasting(&self) -> Option<Invalid> {
        match self {
            Self::Task(invalid) => Some(invalid.clone()),
            Self::Replica(error) => match classify(error) {
                Class::Quarantine(reason) => Some(Invalid::new(reason, error.to_string())),
                _ => None,
            },
            Self::Answer { .. } | Self::Behind { .. } => None,
        }
    }

    /// Whether the replica refuses all questions for now: wrong credentials, a quota that is used up.
    pub fn pauses(&self) -> bool {
        matches!(self, Self::Replica(error) if classify(error) == Class::Pause)
    }
}
