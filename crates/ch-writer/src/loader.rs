//! Loads a group of batches into their shard, and says what became of each row.

use std::collections::BTreeMap;

use batch::arrow::Stream;
use batch::{BatchId, Invalid, Reason, Rows};
use bytes::Bytes;
use pipeline::Outcome;
use stores::clickhouse::{Shard, quote_identifier};
use tokio::sync::OnceCell;

use crate::inserter::{Inserter, Target};
use crate::layout::Layout;
use crate::rows::DecodedRows;
use crate::search::{Fate, insert_all};
use crate::unchanged::{self, LookupError};

/// A batch, taken apart but not decoded.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    pub id: BatchId,
    pub stream: Stream,
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Loaded {
    /// The store has judged every row.
    Judged {
        rows: Rows,
        refused: Option<RefusedRows>,
    },
    /// To be tried again, put off, or quarantined whole.
    Not(Outcome),
}

/// The rows of a batch that the store refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RefusedRows {
    /// A batch of their own, with the reasons in a column.
    pub body: Bytes,
    pub rows: u64,
    pub why: Invalid,
}

pub(crate) struct Loader {
    pub target: Target,
    pub max_refused_rows: usize,
    pub count_unchanged: bool,
    /// Key columns of the table, once a shard has told them.
    key: OnceCell<Vec<String>>,
}

impl Loader {
    pub fn new(target: Target, max_refused_rows: usize, count_unchanged: bool) -> Self {
        Self {
            target,
            max_refused_rows,
            count_unchanged,
            key: OnceCell::new(),
        }
    }

    /// Answers for each batch, in their order.
    pub async fn load(&self, shard: &Shard, layout: &Layout, batches: &[&Batch]) -> Vec<Loaded> {
        let unchanged = self.unchanged(shard, layout, batches).await;
        let (mut wanted, mut places) = (Vec::new(), Vec::new());
        for (place, batch) in batches.iter().enumerate() {
            if batch.stream.rows() > unchanged[place] {
                wanted.push(*batch);
                places.push(place);
            }
        }
        let all_there = |place: usize| Loaded::Judged {
            rows: Rows {
                unchanged: unchanged[place],
                ..Rows::default()
            },
            refused: None,
        };
        let mut loaded: Vec<_> = (0..batches.len()).map(all_there).collect();
        let fates = self.insert(shard, layout, &wanted).await;
        for ((place, batch), fate) in places.into_iter().zip(wanted).zip(fates) {
            loaded[place] = judge(&batch.stream, unchanged[place], fate);
        }
        loaded
    }

    async fn insert(&self, shard: &Shard, layout: &Layout, batches: &[&Batch]) -> Vec<Fate> {
        let ids = batches.iter().map(|batch| &batch.id);
        match Inserter::new(&self.target, shard, layout, ids) {
            Ok(inserter) => {
                let streams: Vec<_> = batches.iter().map(|batch| &batch.stream).collect();
                insert_all(&inserter, &streams, self.max_refused_rows).await
            }
            Err(invalid) => vec![Fate::Unreadable(invalid); batches.len()],
        }
    }

    /// Rows of each batch that the shard has already. None, where that is not asked or cannot be told:
    /// inserting a row again does no harm.
    async fn unchanged(&self, shard: &Shard, layout: &Layout, batches: &[&Batch]) -> Vec<u64> {
        let none = vec![0; batches.len()];
        if !self.count_unchanged {
            return none;
        }
        match self.look_up(shard, layout, batches).await {
            Ok(counts) => counts,
            Err(error) => {
                tracing::warn!(
                    shard = shard.number(), %error,
                    "cannot tell which rows are there already; counting them as stored"
                );
                none
            }
        }
    }

    async fn look_up(
        &self,
        shard: &Shard,
        layout: &Layout,
        batches: &[&Batch],
    ) -> Result<Vec<u64>, LookupError> {
        let Target {
            database, table, ..
        } = &self.target;
        let key = || unchanged::key_columns(shard, database, table);
        let key = self.key.get_or_try_init(key).await?;
        let table = format!("{}.{}", quote_identifier(database), quote_identifier(table));
        let streams: Vec<_> = batches.iter().map(|batch| &batch.stream).collect();
        unchanged::count(shard, &table, key, layout, &streams).await
    }
}

fn judge(stream: &Stream, unchanged: u64, fate: Fate) -> Loaded {
    let refused = match fate {
        Fate::Taken { refused } => refused,
        Fate::Unreadable(invalid) => return Loaded::Not(invalid.into()),
        Fate::Failed(outcome) => return Loaded::Not(outcome),
    };
    let taken = stream.rows() - refused.len() as u64;
    // A row may be there already in a newer version and be refused all the same.
    let unchanged = unchanged.min(taken);
    let rows = Rows {
        stored: taken - unchanged,
        unchanged,
        skipped: 0,
        quarantined: refused.len() as u64,
    };
    if refused.is_empty() {
        return Loaded::Judged {
            rows,
            refused: None,
        };
    }
    match refused_rows(stream, &refused) {
        Ok(refused) => Loaded::Judged {
            rows,
            refused: Some(refused),
        },
        Err(invalid) => Loaded::Not(invalid.into()),
    }
}

fn refused_rows(
    stream: &Stream,
    refused: &BTreeMap<usize, String>,
) -> Result<RefusedRows, Invalid> {
    let first = refused.values().next().map_or("", String::as_str);
    Ok(RefusedRows {
        body: DecodedRows::of(stream)?.body_of_refused(stream, refused)?,
        rows: refused.len() as u64,
        why: Invalid::new(
            Reason::RefusedRows,
            format!(
                "the table refuses {} of {} rows, the first one because: {first}",
                refused.len(),
                stream.rows()
            ),
        ),
    })
}
