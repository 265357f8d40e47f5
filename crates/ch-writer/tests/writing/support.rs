//! A source and a target table of their own on the real engine, and a writer between them.

use app::App;
use batch::arrow::{self, Limits, Stream};
use batch::{BatchId, Column, Fact, Headers, Message, Receipt, Rows, RunId, TaskHash, header};
use bytes::{Bytes, BytesMut};
use ch_writer::{ChWriter, ChWriterSettings};
use pipeline::testing::Sent;
use pipeline::{BatchWorker, Outcome};
use stores::clickhouse::{Cluster, Query, TargetSettings, ddl};
use testkit::Database;

pub struct Tables {
    pub database: Database,
    pub app: App,
    pub settings: ChWriterSettings,
    pub target: TargetSettings,
}

impl Tables {
    /// Source rows `0..rows` on shard 0, and the target as `fleet clickhouse configure` makes it. Parts of the
    /// target are not merged, so that what was inserted can be counted.
    pub async fn create(rows: u64) -> Self {
        let database = Database::create();
        database.run(
            0,
            "CREATE TABLE {db}.source (
                country LowCardinality(String), keyword String,
                processed_volume UInt64, processed_clicks Nullable(Float64),
                processed_tags Array(String), changed_at DateTime64(3)
            ) ENGINE = MergeTree ORDER BY (country, keyword)
            -- Small parts are compact by default, and read by whole granules.
            SETTINGS min_bytes_for_wide_part = 0",
        );
        database.run(
            0,
            &format!(
                "INSERT INTO {{db}}.source SELECT
                    ['de', 'fr', 'us'][1 + number % 3],
                    concat(toString(number), [' \\t\\n\\'\\\"', ' \\xFF\\xFE', ' 東京 🚀', ''][1 + number % 4]),
                    number,
                    if(number % 3 = 0, NULL, number / 7),
                    arrayMap(x -> toString(x), range(number % 4)),
                    toDateTime64('2026-01-01 00:00:00', 3, 'UTC') + number / 1000
                FROM numbers({rows}) SETTINGS async_insert = 0"
            ),
        );
        let target = TargetSettings {
            cluster: database.cluster(),
            database: database.name().to_owned(),
            connect_timeout_seconds: 2,
            ..TargetSettings::default()
        };
        let column = |(name, r#type): (&str, &str)| Column {
            name: name.into(),
            r#type: r#type.into(),
        };
        let key = [("country", "LowCardinality(String)"), ("keyword", "String")].map(column);
        let columns = [
            ("processed_volume", "UInt64"),
            ("processed_clicks", "Nullable(Float64)"),
            ("processed_tags", "Array(String)"),
        ];
        let table = ddl::TargetTable::new(&target, &key, &columns.map(column)).unwrap();
        let cluster = Cluster::new(&target.connection()).unwrap();
        ddl::configure_target(&cluster, &table, false)
            .await
            .unwrap();
        database.run(0, "SYSTEM STOP MERGES {db}.keywords_metrics_local");
        Self {
            database,
            app: App::detached("ch-writer"),
            settings: ChWriterSettings::default(),
            target,
        }
    }

    pub fn run(&self, sql: &str) -> String {
        self.database.run(0, sql)
    }

    /// The rows of the source under a condition as batches of `size` rows, as the fetcher would send them.
    pub async fn batches(&self, condition: &str, size: u64) -> Vec<Message> {
        self.batches_from(condition, size, 0).await
    }

    /// The same, whose sequence numbers begin with `first`.
    pub async fn batches_from(&self, condition: &str, size: u64, first: u32) -> Vec<Message> {
        let query = Query::new(format!(
            "SELECT country, keyword, processed_volume, processed_clicks, processed_tags, \
             toUnixTimestamp64Milli(changed_at) AS _version FROM {}.source WHERE {condition}",
            self.database.name()
        ))
        .setting("output_format_arrow_string_as_string", 1)
        .setting("output_format_arrow_compression_method", "lz4_frame")
        .setting("max_block_size", size)
        .setting("preferred_block_size_bytes", 0)
        .setting("use_query_condition_cache", 0)
        .setting("max_threads", 1);
        let cluster = Cluster::new(&self.target.connection()).unwrap();
        let replica = cluster.shard(0).unwrap().replicas()[0];
        let mut pieces = replica.stream(&query).await.unwrap();
        let mut body = BytesMut::new();
        while let Some(piece) = pieces.try_next().await.unwrap() {
            body.extend_from_slice(&piece);
        }
        let limits = Limits {
            body_bytes: usize::MAX,
            decoded_bytes: u64::MAX,
            rows: u64::MAX,
        };
        let whole = Stream::parse(&body.freeze(), &limits).unwrap();
        let frames = whole.frames.iter().filter(|frame| frame.rows > 0);
        let message = |(sequence, frame)| {
            let body = arrow::join_contiguous(&whole.schema_bytes, [frame]);
            batch_message(first + sequence as u32, body)
        };
        frames.enumerate().map(message).collect()
    }

    pub fn writer(&self) -> ChWriter {
        ChWriter::new(&self.app, &self.target, &self.settings).unwrap()
    }

    pub async fn write(&self, messages: &[Message]) -> Vec<Written> {
        write(&self.app, &self.writer(), messages).await
    }

    /// Rows that were inserted into the target, those of repeated keys counted each time.
    pub fn inserted(&self) -> u64 {
        self.run("SELECT count() FROM {db}.keywords_metrics_local")
            .parse()
            .unwrap()
    }

    pub fn parts(&self) -> u64 {
        self.run(
            "SELECT count() FROM system.parts
             WHERE database = '{db}' AND table = 'keywords_metrics_local' AND active",
        )
        .parse()
        .unwrap()
    }

    /// Rows of the source under a condition that are not in the target, field by field, or the other way round.
    pub fn differences(&self, condition: &str) -> String {
        let source = format!(
            "SELECT country, keyword, processed_volume, processed_clicks, processed_tags,
                toUnixTimestamp64Milli(changed_at) FROM {{db}}.source WHERE {condition}"
        );
        let target = "SELECT country, keyword, volume, clicks, tags, version
             FROM {db}.keywords_metrics_local FINAL";
        self.run(&format!(
            "SELECT * FROM ({source} EXCEPT {target}) UNION ALL SELECT * FROM ({target} EXCEPT {source}) LIMIT 5"
        ))
    }
}

pub fn batch_message(sequence: u32, body: Bytes) -> Message {
    let run: RunId = "direct-20260102T030405678Z".parse().unwrap();
    let id = BatchId {
        task: TaskHash::new([b"task".as_slice()]),
        attempt: 1,
        sequence,
    };
    let rows = Stream::parse(&body, &Limits::default()).unwrap().rows();
    Message::new(Headers::for_batch(&run, id, 0, rows), body)
}

/// What became of one message.
pub struct Written {
    pub outcome: Outcome,
    sent: Sent,
}

/// Gives the messages to the writer as one group: all must be of one key.
pub async fn write(app: &App, writer: &ChWriter, messages: &[Message]) -> Vec<Written> {
    let (mut group, mut sent, mut key) = (Vec::new(), Vec::new(), None);
    for message in messages {
        let (of_message, _, item) = writer.admit(message).unwrap();
        let key = key.get_or_insert(of_message.clone());
        assert_eq!(*key, of_message, "the messages are of one group");
        let (job, of_job) = pipeline::testing::job(app, message.clone(), 1);
        group.push((job, item));
        sent.push(of_job);
    }
    let outcomes = writer.process(key.unwrap(), &mut group).await;
    for (job, _) in &mut group {
        pipeline::testing::confirmed(job).await;
    }
    outcomes
        .into_iter()
        .zip(&group)
        .zip(sent)
        .map(|((outcome, (job, _)), sent)| Written {
            outcome: pipeline::testing::settled(job, outcome),
            sent,
        })
        .collect()
}

impl Written {
    /// The rows of the one receipt; none, if there is no receipt.
    pub fn rows(&self) -> Option<Rows> {
        let receipts = self.sent.to("receipts");
        assert!(receipts.len() <= 1);
        let receipt = Receipt::from_message(receipts.first()?).unwrap();
        match receipt.fact {
            Fact::Stored {
                store,
                rows,
                reasons,
                ..
            } => {
                assert_eq!(store, "ch-writer");
                assert_eq!(reasons.values().sum::<u64>(), rows.quarantined);
                Some(rows)
            }
            other => panic!("{other:?}"),
        }
    }

    /// The batch of refused rows, if there is one.
    pub fn quarantined(&self) -> Option<Message> {
        let messages = self.sent.to("ch-writer-quar");
        assert!(messages.len() <= 1);
        let message = messages.into_iter().next()?;
        let rows = Stream::parse(&message.body, &Limits::default())
            .unwrap()
            .rows();
        assert_eq!(u64::from(message.headers.rows().unwrap()), rows);
        assert_eq!(message.headers.text(header::REASON), Some("refused-rows"));
        Some(message)
    }
}

pub fn rows(stored: u64, unchanged: u64, quarantined: u64) -> Option<Rows> {
    Some(Rows {
        stored,
        unchanged,
        skipped: 0,
        quarantined,
    })
}

/// The values of a text column of a body.
pub fn texts(body: &Bytes, column: &str) -> Vec<String> {
    use arrow_array::{Array, cast::AsArray};
    let stream = Stream::parse(body, &Limits::default()).unwrap();
    let mut texts = Vec::new();
    for rows in stream.decode().unwrap() {
        let column = rows.column_by_name(column).unwrap().as_binary::<i32>();
        let of_rows = (0..column.len()).map(|row| column.value(row));
        texts.extend(of_rows.map(|text| String::from_utf8_lossy(text).into_owned()));
    }
    texts
}
