//! Batches, a writer of them, and what it made of them.

use std::sync::Arc;

use app::App;
use arrow_array::{ArrayRef, BinaryArray, Float64Array, Int64Array, RecordBatch, UInt64Array};
use arrow_schema::{DataType, Field, Schema};
use batch::arrow::{self, Limits, Stream};
use batch::{BatchId, Fact, Headers, Message, Receipt, RunId, TaskHash};
use es_writer::{EsWriter, EsWriterSettings};
use pipeline::testing::{Sent, job};
use pipeline::{BatchWorker, Outcome};
use stores::elasticsearch::{ElasticsearchSettings, IndexSettings, Minimum};

/// A row of the hub.
#[derive(Clone, Debug)]
pub struct Row {
    pub country: String,
    pub keyword: Vec<u8>,
    pub volume: u64,
    pub cpc: Option<f64>,
    pub version: i64,
}

pub fn row(keyword: impl AsRef<[u8]>, volume: u64, version: i64) -> Row {
    Row {
        country: "us".into(),
        keyword: keyword.as_ref().to_vec(),
        volume,
        cpc: Some(0.5),
        version,
    }
}

/// A batch as a fetcher sends it.
pub fn batch(rows: &[Row]) -> Message {
    let texts = |text: fn(&Row) -> &[u8]| -> ArrayRef {
        Arc::new(BinaryArray::from_iter_values(rows.iter().map(text)))
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("country", texts(|r| r.country.as_bytes())),
        ("keyword", texts(|r| &r.keyword)),
        (
            "processed_volume",
            Arc::new(UInt64Array::from_iter_values(rows.iter().map(|r| r.volume))),
        ),
        (
            "processed_cpc",
            Arc::new(Float64Array::from_iter(rows.iter().map(|r| r.cpc))),
        ),
        (
            "_version",
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.version))),
        ),
    ];
    let data = RecordBatch::try_from_iter(columns).unwrap();
    let data = arrow::encode(&data.schema(), &[data]).unwrap();
    let frames = Stream::parse(&data, &Limits::default()).unwrap().frames;
    let schema = Schema::new(vec![
        Field::new("country", DataType::Utf8, false),
        Field::new("keyword", DataType::Utf8, false),
        Field::new("processed_volume", DataType::UInt64, false),
        Field::new("processed_cpc", DataType::Float64, true),
        Field::new("_version", DataType::Int64, false),
    ]);
    let body = arrow::join_contiguous(&arrow::schema_bytes(&schema).unwrap(), &frames);
    Message::new(headers(rows.len() as u64), body)
}

pub fn headers(rows: u64) -> Headers {
    let run: RunId = "direct-20260102T030405678Z".parse().unwrap();
    let id = BatchId {
        task: TaskHash::new([b"t".as_slice()]),
        attempt: 1,
        sequence: 0,
    };
    Headers::for_batch(&run, id, 1, rows)
}

/// A program that writes to the Elasticsearch at `url`: to `all` every row, to `lite` those of volume 10 and more.
pub struct Writer {
    pub app: App,
    pub writer: Arc<EsWriter>,
    pub store: ElasticsearchSettings,
}

impl Writer {
    pub fn new(url: &str, all: &str, lite: &str, settings: &EsWriterSettings) -> Self {
        let app = App::detached("es-writer");
        let store = ElasticsearchSettings {
            urls: vec![url.to_owned()],
            indices: vec![
                IndexSettings {
                    name: all.to_owned(),
                    ..IndexSettings::default()
                },
                IndexSettings {
                    name: lite.to_owned(),
                    fields: vec!["volume".to_owned()],
                    minimum: Some(Minimum {
                        field: "volume".to_owned(),
                        value: 10.0,
                    }),
                    ..IndexSettings::default()
                },
            ],
            ..ElasticsearchSettings::default()
        };
        let writer = Arc::new(EsWriter::new(&app, &store, settings).unwrap());
        Self { app, writer, store }
    }

    /// Processes the batches as one group.
    pub async fn write(&self, batches: Vec<Message>) -> Vec<Written> {
        let (mut group, mut sents) = (Vec::new(), Vec::new());
        for message in batches {
            let ((), _, item) = self.writer.admit(&message).unwrap();
            let (job, sent) = job(&self.app, message, 1);
            group.push((job, item));
            sents.push(sent);
        }
        let outcomes = self.writer.process((), &mut group).await;
        for (outcome, sent) in outcomes.iter().zip(&sents) {
            // The receipt goes out last: once it is recorded, everything is.
            while *outcome == Outcome::Done && sent.to("receipts").is_empty() {
                tokio::task::yield_now().await;
            }
        }
        let written = outcomes.into_iter().zip(&group).zip(sents);
        written
            .map(|((outcome, (job, _)), sent)| Written {
                outcome: pipeline::testing::settled(job, outcome),
                sent,
            })
            .collect()
    }

    /// Processes one batch alone.
    pub async fn write_one(&self, batch: Message) -> Written {
        self.write(vec![batch]).await.remove(0)
    }
}

/// Keyword of a row in quarantine, and why it is there.
pub type Refused = (Vec<u8>, String);

/// What became of one batch.
pub struct Written {
    pub outcome: Outcome,
    pub sent: Sent,
}

impl Written {
    /// Rows and the rows of each index, by the receipt: stored, unchanged, skipped, quarantined.
    pub fn counts(&self) -> (Counts, Vec<(String, Counts)>) {
        assert_eq!(self.outcome, Outcome::Done);
        let receipts = self.sent.to("receipts");
        assert_eq!(receipts.len(), 1);
        match Receipt::from_message(&receipts[0]).unwrap().fact {
            Fact::Stored {
                store,
                rows,
                targets,
                ..
            } => {
                assert_eq!(store, "es-writer");
                let targets = targets.into_iter();
                (
                    counts(&rows),
                    targets
                        .map(|(index, rows)| (index, counts(&rows)))
                        .collect(),
                )
            }
            other => panic!("{other:?}"),
        }
    }

    /// The rows in quarantine: headers, and keyword and reason of each.
    pub fn quarantined(&self) -> Option<(Headers, Vec<Refused>)> {
        let mut messages = self.sent.to("es-writer-quar");
        assert!(messages.len() < 2);
        let message = messages.pop()?;
        let stream = Stream::parse(&message.body, &Limits::default()).unwrap();
        let rows = stream.decode().unwrap().remove(0);
        let texts = |name: &str| -> Vec<Vec<u8>> {
            let column = rows.column_by_name(name).unwrap();
            let column = column.as_any().downcast_ref::<BinaryArray>().unwrap();
            column.iter().map(|text| text.unwrap().to_vec()).collect()
        };
        let reasons = texts("_reason")
            .into_iter()
            .map(|r| String::from_utf8(r).unwrap());
        Some((
            message.headers,
            texts("keyword").into_iter().zip(reasons).collect(),
        ))
    }
}

/// Rows stored, unchanged, skipped and quarantined.
pub type Counts = [u64; 4];

fn counts(rows: &batch::Rows) -> Counts {
    [rows.stored, rows.unchanged, rows.skipped, rows.quarantined]
}
