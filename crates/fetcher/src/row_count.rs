//! The proof that an answer has all rows of its range: the replica counts them apart from it
//! (docs/decisions/0022-settings-that-can-change-a-result-are-pinned.md).

use batch::Task;
use serde::Deserialize;
use stores::clickhouse::read::count;
use stores::clickhouse::{Query, Replica};

use crate::config::FetcherSettings;
use crate::range_reader::ReadError;

/// The rows of a range, as its replica counted them before they were read.
#[derive(Debug)]
pub(crate) struct RowCount {
    query: Query,
    before: u64,
}

#[derive(Deserialize)]
struct CountRow {
    rows: u64,
}

impl RowCount {
    pub async fn take(
        replica: &Replica,
        task: &Task,
        settings: &FetcherSettings,
    ) -> Result<Self, ReadError> {
        let query = count(task).map_err(ReadError::Task)?;
        let query = query.setting("max_threads", settings.max_threads);
        let before = rows(replica, &query).await?;
        Ok(Self { query, before })
    }

    /// Fails when an answer that ended properly cannot have been the whole range.
    ///
    /// Rows may come (late ones, below the bound of the run) and go (merged with a newer version, deleted) between the
    /// count and the answer, so of two different numbers the count is made once more: the answer was given between
    /// the two counts, and has a number of rows between theirs.
    pub async fn prove(&self, replica: &Replica, read: u64) -> Result<(), ReadError> {
        let before = self.before;
        if read == before {
            return Ok(());
        }
        let after = rows(replica, &self.query).await?;
        if (before.min(after)..=before.max(after)).contains(&read) {
            return Ok(());
        }
        let counted = if before == after {
            format!("{before} rows")
        } else {
            format!("{before} rows before and {after} rows after it was read")
        };
        Err(ReadError::Unusable {
            replica: replica.address().to_owned(),
            problem: format!(
                "its answer has {read} rows of the range, and it counts {counted}; the range is read again. If this \
                 lasts, look for a limit that cuts answers: in the profile of source.user, or in a proxy before the server"
            ),
        })
    }
}

async fn rows(replica: &Replica, query: &Query) -> Result<u64, ReadError> {
    let counted: Vec<CountRow> = replica.rows(query).await?;
    counted
        .first()
        .map(|row| row.rows)
        .ok_or_else(|| ReadError::Unusable {
            replica: replica.address().to_owned(),
            problem: "it does not count the rows of the range".to_owned(),
        })
}
