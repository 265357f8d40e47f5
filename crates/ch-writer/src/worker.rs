use std::sync::Arc;

use app::App;
use batch::arrow::{Limits, Stream};
use batch::{Fact, Headers, Invalid, Message, MessageKind, Reason, Receipt, Rows, header};
use pipeline::{BatchWorker, GroupLimits, Job, Outcome, Weight, receipt};
use stores::clickhouse::{Cluster, ConfigError, TargetSettings};
use stores::{CircuitBreakers, Mapping};

use crate::config::ChWriterSettings;
use crate::inserter::Target;
use crate::layout::Layout;
use crate::loader::{Batch, Loaded, Loader, RefusedRows};

/// Writes batches into the target table of their shard.
pub struct ChWriter {
    app: App,
    mapping: Mapping,
    group: GroupLimits,
    loader: Loader,
}

/// What the batches of one INSERT have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GroupKey {
    shard: u32,
    layout: Arc<Layout>,
}

/// A batch, checked and taken apart.
#[derive(Debug)]
pub struct Item(Batch);

impl ChWriter {
    /// Connects to nothing yet; fails when the cluster's addresses are not usable.
    pub fn new(
        app: &App,
        target: &TargetSettings,
        settings: &ChWriterSettings,
    ) -> Result<Self, ConfigError> {
        let cluster = Cluster::new(&target.connection())?;
        let breakers = CircuitBreakers::new(
            app,
            "clickhouse",
            "paused-shards",
            settings.pause_poll(),
            settings.pause_limit(),
        );
        let target_table = Target {
            app: app.clone(),
            cluster,
            database: target.database.clone(),
            table: target.table.clone(),
            breakers,
        };
        Ok(Self {
            app: app.clone(),
            mapping: target.mapping(),
            group: settings.group_limits(),
            loader: Loader::new(
                target_table,
                settings.max_refused_rows,
                settings.count_unchanged,
            ),
        })
    }

    fn cluster(&self) -> &Cluster {
        &self.loader.target.cluster
    }

    /// Says what became of a judged batch, in this order: the refused rows are safe before the ledger
    /// hears of them, and the batch is acknowledged after both.
    async fn report(&self, job: &mut Job, shard: u32, rows: Rows, refused: Option<RefusedRows>) {
        if let Some(refused) = refused {
            let mut part = Message::new(job.message().headers.clone(), refused.body);
            part.headers.set(header::ROWS, refused.rows as i64);
            job.quarantine_rows(part, &refused.why).await;
        }
        self.count(&rows);
        let receipt = self.receipt(&job.message().headers, shard, rows, Reason::RefusedRows);
        let receipt = receipt.expect("the headers were read when the batch was admitted");
        job.send("receipts", receipt.to_message()).await;
    }

    fn receipt(
        &self,
        headers: &Headers,
        shard: u32,
        rows: Rows,
        reason: Reason,
    ) -> Result<Receipt, Invalid> {
        let quarantined = rows.quarantined;
        let reasons = (quarantined > 0).then_some((reason, quarantined));
        let fact = Fact::Stored {
            store: self.app.name.to_string(),
            batch: headers.batch_id()?,
            shard,
            rows,
            targets: Default::default(),
            reasons: reasons.into_iter().collect(),
        };
        Ok(receipt(&headers.run()?, fact))
    }

    /// Counts a batch and each of its rows once. A batch counts as stored if any of its rows is.
    fn count(&self, rows: &Rows) {
        let by_status = [
            ("stored", rows.stored),
            ("unchanged", rows.unchanged),
            ("quarantined", rows.quarantined),
        ];
        let mut counted = by_status.into_iter().filter(|(_, n)| *n > 0).peekable();
        let (status, _) = *counted.peek().unwrap_or(&("quarantined", 0));
        self.app.stats.count("batches", &[("status", status)], 1);
        for (status, n) in counted {
            self.app.stats.count("rows", &[("status", status)], n);
        }
    }
}

impl BatchWorker for ChWriter {
    const RECEIPTS: &'static str = "receipts";
    type Key = GroupKey;
    type Item = Item;

    fn admit(&self, message: &Message) -> Result<(GroupKey, Weight, Item), Invalid> {
        let headers = &message.headers;
        headers.check_schema(MessageKind::Batch)?;
        headers.run()?;
        let id = headers.batch_id()?;
        let shard = headers.shard()?;
        self.cluster().shard(shard)?;
        let stream = Stream::parse(&message.body, &Limits::default())?;
        let (said, rows) = (u64::from(headers.rows()?), stream.rows());
        if said != rows {
            return Err(Invalid::new(
                Reason::BadHeader,
                format!(
                    "header {} says {said} rows; the body has {rows}",
                    header::ROWS
                ),
            ));
        }
        let weight = Weight {
            rows,
            bytes: message.body.len() as u64,
        };
        let layout = Arc::new(Layout::of(&stream.schema, &self.mapping)?);
        Ok((
            GroupKey { shard, layout },
            weight,
            Item(Batch { id, stream }),
        ))
    }

    fn limits(&self) -> GroupLimits {
        self.group
    }

    async fn process(&self, key: GroupKey, group: &mut [(Job, Item)]) -> Vec<Outcome> {
        let shard = match self.cluster().shard(key.shard) {
            Ok(shard) => shard,
            Err(invalid) => return vec![invalid.into(); group.len()],
        };
        let batches: Vec<&Batch> = group.iter().map(|(_, Item(batch))| batch).collect();
        let loaded = self.loader.load(shard, &key.layout, &batches).await;
        let mut outcomes = Vec::with_capacity(group.len());
        for ((job, _), loaded) in group.iter_mut().zip(loaded) {
            outcomes.push(match loaded {
                Loaded::Judged { rows, refused } => {
                    self.report(job, key.shard, rows, refused).await;
                    Outcome::Done
                }
                Loaded::Not(outcome) => outcome,
            });
        }
        outcomes
    }

    fn quarantined(&self, message: &Message, why: &Invalid) -> Option<Message> {
        let headers = &message.headers;
        // What cannot say how many rows it has cannot be accounted for by rows.
        let rows = Rows {
            quarantined: headers.rows().map_or(0, u64::from),
            ..Rows::default()
        };
        self.count(&rows);
        let shard = headers.shard().ok()?;
        let receipt = self.receipt(headers, shard, rows, why.reason).ok()?;
        Some(receipt.to_message())
    }
}
