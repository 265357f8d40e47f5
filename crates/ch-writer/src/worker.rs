//! The path of a batch: `admit`, gathered by its [`GroupKey`], `process`, `insert`, `report`, [`settle`].

use std::sync::Arc;

use app::App;
use batch::{Invalid, Message, Rows};
use pipeline::{
    AdmittedBatch, BatchWorker, GroupLimits, Job, Outcome, RefusedRows, StoreReport, Weight, settle,
};
use stores::clickhouse::{Cluster, ConfigError, Shard, TargetSettings};
use stores::{CircuitBreakers, Mapping, RequestLimit};
use tokio::sync::OnceCell;

use crate::columns::InsertColumns;
use crate::config::ChWriterSettings;
use crate::inserter::{InsertTarget, Inserter};
use crate::search::insert_all;

/// Writes batches into the target table of their shard.
pub struct ChWriter {
    settings: ChWriterSettings,
    mapping: Mapping,
    target: InsertTarget,
}

/// What the batches of one INSERT have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GroupKey {
    shard: u32,
    columns: Arc<InsertColumns>,
}

impl ChWriter {
    /// Connects to nothing yet; fails when the cluster's addresses are not usable.
    pub fn new(
        app: &App,
        target: &TargetSettings,
        settings: &ChWriterSettings,
    ) -> Result<Self, ConfigError> {
        let (poll, limit) = (settings.pause.poll(), settings.pause.limit());
        Ok(Self {
            settings: settings.clone(),
            mapping: target.mapping(),
            target: InsertTarget {
                app: app.clone(),
                cluster: Cluster::new(&target.connection())?,
                database: target.database.clone(),
                table: target.table.clone(),
                key: OnceCell::new(),
                breakers: CircuitBreakers::new(app, "clickhouse", "paused-shards", poll, limit),
                limit: RequestLimit::new("clickhouse"),
            },
        })
    }
}

impl BatchWorker for ChWriter {
    type Key = GroupKey;
    type Item = AdmittedBatch;

    fn admit(&self, message: &Message) -> Result<(GroupKey, Weight, AdmittedBatch), Invalid> {
        let batch = AdmittedBatch::new(message)?;
        let shard = batch.headers.shard;
        self.target.cluster.shard(shard)?;
        let columns = InsertColumns::new(&batch.stream.schema, &self.mapping)?;
        let key = GroupKey {
            shard,
            columns: Arc::new(columns),
        };
        let weight = Weight {
            rows: batch.stream.rows(),
            bytes: message.body.len() as u64,
        };
        Ok((key, weight, batch))
    }

    fn limits(&self) -> GroupLimits {
        self.settings.group_limits()
    }

    async fn process(&self, key: GroupKey, group: &mut [(Job, AdmittedBatch)]) -> Vec<Outcome> {
        let batches: Vec<&AdmittedBatch> = group.iter().map(|(_, batch)| batch).collect();
        let results = match self.target.cluster.shard(key.shard) {
            Ok(shard) => self.insert(shard, &key.columns, &batches).await,
            Err(invalid) => vec![Err(invalid.into()); batches.len()],
        };
        settle(group, results).await
    }

    fn quarantined(&self, message: &Message, why: &Invalid) -> Option<Message> {
        StoreReport::quarantined(&self.target.app, message, why)
    }
}

impl ChWriter {
    /// Inserts the batches together, and reports on each. A batch is left out if the table has all of its rows.
    async fn insert(
        &self,
        shard: &Shard,
        columns: &InsertColumns,
        batches: &[&AdmittedBatch],
    ) -> Vec<Result<StoreReport, Outcome>> {
        let rows = |n: usize| batches[n].stream.rows();
        let unchanged = if self.settings.count_unchanged {
            self.target.count_unchanged(shard, columns, batches).await
        } else {
            vec![0; batches.len()]
        };
        let report = |n: usize, refused| Ok(report(rows(n), unchanged[n], refused));
        let all = 0..batches.len();
        let mut results: Vec<_> = all.clone().map(|n| report(n, RefusedRows::new())).collect();

        let new: Vec<usize> = all.filter(|n| rows(*n) > unchanged[*n]).collect();
        let ids = new.iter().map(|n| batches[*n].headers.batch);
        let streams: Vec<_> = new.iter().map(|n| &batches[*n].stream).collect();
        let inserter = Inserter::new(&self.target, shard, columns, ids);
        let inserted = insert_all(&inserter, &streams, self.settings.max_refused_rows).await;
        for (n, refused) in new.into_iter().zip(inserted) {
            results[n] = refused.and_then(|refused| report(n, refused));
        }
        results
    }
}

/// `rows` are those of the batch, `unchanged` how many of them the table had before.
fn report(rows: u64, unchanged: u64, refused: RefusedRows) -> StoreReport {
    let quarantined = refused.len() as u64;
    let taken = rows - quarantined;
    // The table may have a row in a newer version and refuse it nevertheless.
    let unchanged = unchanged.min(taken);
    StoreReport {
        rows: Rows {
            stored: taken - unchanged,
            unchanged,
            skipped: 0,
            quarantined,
        },
        refused,
        ..StoreReport::default()
    }
}
