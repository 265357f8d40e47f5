use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use app::App;
use arrow_array::RecordBatch;
use batch::arrow::{Limits, Stream};
use batch::{BatchId, Fact, Headers, Invalid, Message, MessageKind, Reason, Rows, RunId, header};
use bytes::Bytes;
use pipeline::{BatchWorker, GroupLimits, Job, Outcome, Weight, receipt};
use stores::Mapping;
use stores::elasticsearch::{Client, ElasticsearchSettings, IndexSettings};

use crate::RECEIPTS;
use crate::config::Settings;
use crate::judge::{Settled, Verdict};
use crate::layout::Layout;
use crate::sink::Sink;
use crate::table::Table;

/// Turns batches into documents, and verdicts on documents into outcomes and receipts.
pub struct EsWriter {
    app: App,
    settings: Settings,
    mapping: Mapping,
    indices: Vec<IndexSettings>,
    sink: Sink,
    /// The latest schema message and what it was resolved to: all batches of a run have the same.
    layout: Mutex<Option<(Bytes, Arc<Layout>)>>,
}

/// A batch that was found sound from outside. Its rows are still encoded.
pub struct Admitted {
    identity: Identity,
    stream: Stream,
    layout: Arc<Layout>,
}

/// What a batch says of itself in its headers.
struct Identity {
    run: RunId,
    batch: BatchId,
    shard: u32,
    rows: u64,
}

impl EsWriter {
    /// Connects to nothing yet. Fails when a setting cannot work, or a secret's file cannot be read.
    pub fn new(
        app: &App,
        elasticsearch: &ElasticsearchSettings,
        settings: &Settings,
    ) -> anyhow::Result<Self> {
        settings.check("es_writer").map_err(anyhow::Error::msg)?;
        elasticsearch.check().map_err(anyhow::Error::msg)?;
        let client = Client::new(elasticsearch)?;
        Ok(Self {
            app: app.clone(),
            sink: Sink::new(app, client, elasticsearch, settings),
            settings: settings.clone(),
            mapping: elasticsearch.mapping(),
            indices: elasticsearch.indices.clone(),
            layout: Mutex::default(),
        })
    }

    fn layout_of(&self, stream: &Stream) -> Result<Arc<Layout>, Invalid> {
        let mut latest = self.layout.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((schema, layout)) = &*latest
            && *schema == stream.schema_bytes
        {
            return Ok(layout.clone());
        }
        let key = &self.settings.key_columns;
        let layout = Layout::of(&stream.schema, key, &self.mapping, &self.indices)?;
        let layout = Arc::new(layout);
        // A copy: the schema message is a part of the whole body, and would keep it.
        let schema = Bytes::copy_from_slice(&stream.schema_bytes);
        *latest = Some((schema, layout.clone()));
        Ok(layout)
    }

    /// Sends off the refused rows and the receipt of a batch that every index has answered for.
    async fn settle(
        &self,
        job: &mut Job,
        item: &Admitted,
        rows: &RecordBatch,
        settled: Settled,
    ) -> Outcome {
        if let Some(first) = settled.refused.values().next() {
            let body = match batch::arrow::body_of_refused(&item.stream, rows, &settled.refused) {
                Ok(body) => body,
                Err(invalid) => return invalid.into(),
            };
            let (refused, all) = (settled.refused.len(), item.identity.rows);
            let why = format!("{refused} of {all} rows refused, the first with: {first}");
            let mut headers = job.message().headers.clone();
            headers.set(header::ROWS, refused as i64);
            let why = Invalid::new(Reason::RefusedRows, why);
            job.quarantine_rows(Message::new(headers, body), &why).await;
        }
        let fact = self.stored(&item.identity, settled.rows.clone(), settled.targets);
        let receipt = receipt(&item.identity.run, fact);
        job.send(RECEIPTS, receipt.to_message()).await;
        self.count(&settled.rows);
        Outcome::Done
    }

    fn stored(&self, of: &Identity, rows: Rows, targets: BTreeMap<String, Rows>) -> Fact {
        let quarantined = (Reason::RefusedRows, rows.quarantined);
        Fact::Stored {
            store: self.app.name.to_string(),
            batch: of.batch,
            shard: of.shard,
            rows,
            targets,
            reasons: [quarantined].into_iter().filter(|(_, n)| *n > 0).collect(),
        }
    }

    /// Counts a batch and its rows; each once, when its receipt goes out.
    fn count(&self, rows: &Rows) {
        let by_status = [
            ("stored", rows.stored),
            ("unchanged", rows.unchanged),
            ("skipped", rows.skipped),
            ("quarantined", rows.quarantined),
        ];
        let counted = by_status.iter().filter(|(_, n)| *n > 0);
        for (status, n) in counted.clone() {
            self.app.stats.count("rows", &[("status", status)], *n);
        }
        // Of a mixed batch the first word counts: it has rows that are new in the store.
        let status = counted
            .clone()
            .next()
            .map_or("unchanged", |(status, _)| status);
        self.app.stats.count("batches", &[("status", status)], 1);
    }
}

impl BatchWorker for EsWriter {
    const RECEIPTS: &'static str = RECEIPTS;
    /// All batches go to the same indices.
    type Key = ();
    type Item = Admitted;

    fn admit(&self, message: &Message) -> Result<((), Weight, Admitted), Invalid> {
        message.headers.check_schema(MessageKind::Batch)?;
        let identity = Identity::of(&message.headers)?;
        let limits = Limits {
            body_bytes: self.settings.options.max_body_bytes,
            ..Limits::default()
        };
        let stream = Stream::parse(&message.body, &limits)?;
        let rows = stream.rows();
        if rows != identity.rows {
            let (said, name) = (identity.rows, header::ROWS);
            let detail = format!("header {name} says {said} rows; the body has {rows}");
            return Err(Invalid::new(Reason::BadHeader, detail));
        }
        let layout = self.layout_of(&stream)?;
        let bytes = stream.frames.iter().map(|frame| frame.decoded_bytes).sum();
        let item = Admitted {
            identity,
            stream,
            layout,
        };
        Ok(((), Weight { rows, bytes }, item))
    }

    fn limits(&self) -> GroupLimits {
        self.settings.group_limits()
    }

    async fn process(&self, (): (), group: &mut [(Job, Admitted)]) -> Vec<Outcome> {
        let mut tables = Vec::with_capacity(group.len());
        let decoded: Vec<Result<RecordBatch, Invalid>> = group
            .iter()
            .map(|(_, item)| {
                let rows = item.stream.decode_all()?;
                tables.push(Table::new(&rows, item.layout.clone()));
                Ok(rows)
            })
            .collect();
        let mut verdicts = self.sink.write(&tables).await.into_iter();
        let mut outcomes = Vec::with_capacity(group.len());
        for ((job, item), rows) in group.iter_mut().zip(decoded) {
            let outcome = match rows {
                Err(invalid) => invalid.into(),
                Ok(rows) => match verdicts.next().expect("every table has a verdict") {
                    Verdict::Settled(settled) => self.settle(job, item, &rows, settled).await,
                    Verdict::Unfinished(outcome) => outcome,
                },
            };
            outcomes.push(outcome);
        }
        outcomes
    }

    fn quarantined(&self, message: &Message, why: &Invalid) -> Option<Message> {
        let of = Identity::of(&message.headers).ok()?;
        let rows = Rows {
            quarantined: of.rows,
            ..Rows::default()
        };
        self.count(&rows);
        let fact = Fact::Stored {
            store: self.app.name.to_string(),
            batch: of.batch,
            shard: of.shard,
            reasons: [(why.reason, of.rows)].into(),
            targets: BTreeMap::new(),
            rows,
        };
        Some(receipt(&of.run, fact).to_message())
    }
}

impl Identity {
    fn of(headers: &Headers) -> Result<Self, Invalid> {
        Ok(Self {
            run: headers.run()?,
            batch: headers.batch_id()?,
            shard: headers.shard()?,
            rows: u64::from(headers.rows()?),
        })
    }
}
