//! The path of a batch: `admit`, gathered with others, `process` (decoded here), `write_index` (encoded and sent here),
//! [`reports`], [`settle`].

use std::borrow::Borrow;
use std::iter::once;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use app::App;
use batch::arrow::Stream;
use batch::{Invalid, Message, Reason};
use bytes::Bytes;
use futures_util::future::join_all;
use pipeline::{
    AdmittedBatch, BatchWorker, GroupLimits, Job, Outcome, StoreReport, Weight, settle,
};
use stores::elasticsearch::{
    Client, ConfigError, ElasticsearchSettings, Followers, IndexSettings, classify,
};
use stores::{Class, Mapping};

use crate::bulk_sender::BulkSender;
use crate::bulk_store::{BulkStore, RetryBudget, failed, missing};
use crate::config::EsWriterSettings;
use crate::documents::BatchDocuments;
use crate::encode::encode;
use crate::layout::DocumentLayout;
use crate::results::{IndexResult, reports};

/// Writes batches as documents into every configured index and its followers.
pub struct EsWriter {
    store: BulkStore,
    mapping: Mapping,
    indices: Vec<IndexSettings>,
    followers: Followers,
    /// The latest: all batches of a run have the same.
    layout: Mutex<Option<KnownLayout>>,
}

/// A schema message and the layout for it.
struct KnownLayout {
    schema_bytes: Bytes,
    layout: Arc<DocumentLayout>,
}

/// A batch and what its documents are made of.
pub struct Admitted {
    batch: AdmittedBatch,
    layout: Arc<DocumentLayout>,
}

impl EsWriter {
    /// Connects to nothing yet. Fails when the indices are not usable, or a secret's file cannot be read.
    pub fn new(
        app: &App,
        elasticsearch: &ElasticsearchSettings,
        settings: &EsWriterSettings,
    ) -> Result<Self, ConfigError> {
        elasticsearch.check()?;
        let client = Client::new(elasticsearch)?;
        let every = Duration::from_secs(elasticsearch.followers_seconds);
        Ok(Self {
            followers: Followers::new(client.clone(), every),
            store: BulkStore::new(app, client, settings),
            mapping: elasticsearch.mapping(),
            indices: elasticsearch.indices.clone(),
            layout: Mutex::default(),
        })
    }
}

impl BatchWorker for EsWriter {
    /// All batches go to the same indices.
    type Key = ();
    type Item = Admitted;

    fn admit(&self, message: &Message) -> Result<((), Weight, Admitted), Invalid> {
        let batch = AdmittedBatch::new(message)?;
        let layout = self.layout(&batch.stream)?;
        let frames = batch.stream.frames.iter();
        let weight = Weight {
            rows: batch.stream.rows(),
            bytes: frames.map(|frame| frame.decoded_bytes).sum(),
        };
        Ok(((), weight, Admitted { batch, layout }))
    }

    fn limits(&self) -> GroupLimits {
        self.store.settings.group_limits()
    }

    async fn process(&self, (): (), group: &mut [(Job, Admitted)]) -> Vec<Outcome> {
        let mut batches = Vec::with_capacity(group.len());
        let decoded = group.iter().map(|(_, Admitted { batch, layout })| {
            let rows = batch.stream.decode_all()?;
            batches.push(BatchDocuments::new(&rows, layout.clone()));
            Ok(())
        });
        let decoded: Vec<Result<(), Invalid>> = decoded.collect();
        let writes = (0..self.indices.len()).map(|n| self.write_index(n, &batches));
        let indices: Vec<IndexResult> = join_all(writes).await.into_iter().flatten().collect();
        let mut reports = reports(&batches, &indices).into_iter();
        let results = decoded.into_iter().map(|decoded| {
            decoded?;
            reports.next().expect("every decoded batch has a report")
        });
        settle(group, results.collect()).await
    }

    fn quarantined(&self, message: &Message, why: &Invalid) -> Option<Message> {
        StoreReport::quarantined(&self.store.app, message, why)
    }
}

impl EsWriter {
    /// Writes into the `n`-th index and its followers, which share the encoded documents.
    async fn write_index(&self, n: usize, batches: &[BatchDocuments]) -> Vec<IndexResult> {
        let leader = &self.indices[n].name;
        let bulks = encode(batches, n, self.store.settings.bulk_limits());
        let result = |index: &str| IndexResult::for_index(index, n, batches, &bulks);
        let followers = match self.followers(leader).await {
            Ok(followers) => followers,
            Err(outcome) => {
                let mut result = result(leader);
                result.give_up(outcome);
                return vec![result];
            }
        };
        let indices = once(leader).chain(followers.iter());
        let sends = indices.map(|index| {
            BulkSender::new(&self.store, result(index), index == leader).send_all(&bulks)
        });
        join_all(sends).await
    }

    async fn followers(&self, leader: &str) -> Result<Arc<[String]>, Outcome> {
        let endpoint = format!("the look-up of the followers of {leader}");
        let mut retries = RetryBudget::new(&self.store, endpoint);
        loop {
            let permit = retries.acquire().await?;
            let error = match self.followers.get(leader).await {
                Ok(followers) => {
                    retries.resume();
                    return Ok(followers);
                }
                Err(error) => error,
            };
            match classify(&error) {
                Class::Pause => retries.pause(&error.to_string()),
                Class::Quarantine(Reason::MissingTarget) => return Err(missing(leader, &error)),
                _ => retries.wait(failed(&error, leader)).await?,
            }
            drop(permit);
        }
    }

    fn layout(&self, stream: &Stream) -> Result<Arc<DocumentLayout>, Invalid> {
        let mut latest = app::lock(&self.layout);
        if let Some(known) = &*latest
            && known.schema_bytes == stream.schema_bytes
        {
            return Ok(known.layout.clone());
        }
        let key = &self.store.settings.key_columns;
        let layout = DocumentLayout::new(&stream.schema, key, &self.mapping, &self.indices)?;
        let layout = Arc::new(layout);
        *latest = Some(KnownLayout {
            // A copy: the schema message is a part of the whole body, and would keep it.
            schema_bytes: Bytes::copy_from_slice(&stream.schema_bytes),
            layout: layout.clone(),
        });
        Ok(layout)
    }
}

impl Borrow<AdmittedBatch> for Admitted {
    fn borrow(&self) -> &AdmittedBatch {
        &self.batch
    }
}
