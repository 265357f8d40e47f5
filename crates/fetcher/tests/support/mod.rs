//! A hub table of its own on the real engine, and a fetcher to read it.

use std::sync::Arc;

use app::App;
use batch::arrow::{Limits, Stream};
use batch::{Column, Fact, KeyRange, KeyValue, Message, ReadPlan, Receipt, RunMode, Task, header};
use fetcher::{Fetcher, FetcherSettings};
use pipeline::testing::Sent;
use pipeline::{Outcome, Worker};
use stores::clickhouse::SourceSettings;
use testkit::Database;

/// Rows of the table, all on shard 0.
pub const ROWS: u64 = 25_000;

pub struct Hub {
    pub database: Database,
    /// The settings of the program; a test may change some.
    pub settings: FetcherSettings,
    /// What the broker is known to take.
    pub max_message_bytes: Option<usize>,
}

/// What a fetcher did with one delivery.
pub struct Done {
    pub outcome: Outcome,
    pub sent: Sent,
}

impl Hub {
    pub fn create() -> Self {
        Self::with_parts("Wide")
    }

    /// A table whose parts are `Wide`, as large ones are, or `Compact`, as small ones are.
    pub fn with_parts(kind: &str) -> Self {
        let database = Database::create();
        let wide_from = if kind == "Wide" { 0 } else { 1u64 << 40 };
        database.run(
            0,
            &"CREATE TABLE {db}.hub (
                country LowCardinality(String),
                keyword String,
                processed_volume UInt64,
                processed_clicks Nullable(Float64),
                processed_tags Array(String),
                processed_bad UInt8 ALIAS throwIf(processed_volume = 17000, 'broken in mid-stream'),
                changed_at DateTime64(3)
            ) ENGINE = MergeTree ORDER BY (country, keyword)
            SETTINGS min_bytes_for_wide_part = WIDE_FROM"
                .replace("WIDE_FROM", &wide_from.to_string()),
        );
        // Keys in the order of their numbers: some with characters that need escapes, some that are not UTF-8.
        database.run(
            0,
            &format!(
                "INSERT INTO {{db}}.hub SELECT
                    ['de', 'fr', 'us'][1 + intDiv(number * 3, {ROWS})],
                    concat(leftPad(toString(number), 9, '0'),
                        [' \\t\\n\\'\\\"', ' \\xFF\\xFE', ' 東京 🚀', ''][1 + number % 4]),
                    number,
                    if(number % 3 = 0, NULL, number / 7),
                    arrayMap(x -> toString(x), range(number % 4)),
                    toDateTime64('2026-01-01 00:00:00', 3, 'UTC') + number / 1000
                FROM numbers({ROWS}) SETTINGS async_insert = 0"
            ),
        );
        let found = "SELECT DISTINCT part_type FROM system.parts WHERE database = '{db}'";
        assert_eq!(database.run(0, found), kind);
        Self {
            database,
            settings: FetcherSettings::default(),
            max_message_bytes: None,
        }
    }

    /// `host:port` of the server with the table.
    pub fn server(&self) -> String {
        let address = &self.database.shards()[0];
        address.trim_start_matches("http://").to_owned()
    }

    /// The columns of the table, without the one whose read fails.
    pub fn plan(&self) -> ReadPlan {
        let column = |name: &str, r#type: &str| Column {
            name: name.into(),
            r#type: r#type.into(),
        };
        ReadPlan {
            database: self.database.name().into(),
            table: "hub".into(),
            key: vec![
                column("country", "LowCardinality(String)"),
                column("keyword", "String"),
            ],
            columns: vec![
                column("processed_volume", "UInt64"),
                column("processed_clicks", "Nullable(Float64)"),
                column("processed_tags", "Array(String)"),
            ],
            changed: column("changed_at", "DateTime64(3)"),
            mode: RunMode::Full,
            until_ms: 4_000_000_000_000,
            sample: 1,
        }
    }

    pub fn task(&self, range: KeyRange) -> Task {
        self.task_for(0, range, self.plan())
    }

    pub fn task_for(&self, shard: u32, range: KeyRange, plan: ReadPlan) -> Task {
        let run = "direct-20260102T030405678Z".parse().unwrap();
        Task::new(&run, shard, range, ROWS, Arc::new(plan))
    }

    /// Reads a task from a cluster, as its `attempt`-th delivery.
    pub async fn fetch(&self, cluster: &str, task: &Task, attempt: u32) -> Done {
        self.fetch_message(cluster, task.to_message(), attempt)
            .await
    }

    pub async fn fetch_message(&self, cluster: &str, message: Message, attempt: u32) -> Done {
        let app = App::detached("fetcher");
        let source = SourceSettings {
            cluster: cluster.to_owned(),
            connect_timeout_seconds: 2,
            ..SourceSettings::default()
        };
        let fetcher = Fetcher::new(&app, &source, &self.settings).unwrap();
        let limit = self.max_message_bytes;
        let (mut job, sent) = pipeline::testing::limited_job(&app, message, attempt, limit);
        let outcome = fetcher.process(&mut job).await;
        pipeline::testing::confirmed(&mut job).await;
        let outcome = pipeline::testing::settled(&job, outcome);
        let counted = app.stats.counter("rows", &[("status", "fetched")]);
        let rows: u64 = sent.rows_of_success().iter().map(|b| b.rows).sum();
        assert_eq!(counted, rows, "rows are counted once");
        Done { outcome, sent }
    }

    /// The rows of the table as the server gives them, one a line.
    pub fn rows(&self, condition: &str) -> Vec<String> {
        let sql = format!(
            "SELECT country, hex(keyword), processed_volume, toUnixTimestamp64Milli(changed_at)
             FROM {{db}}.hub WHERE {condition} ORDER BY country, keyword"
        );
        let lines = self.database.run(0, &sql);
        lines.lines().map(str::to_owned).collect()
    }
}

pub fn below(country: &str, number: u64) -> KeyRange {
    KeyRange {
        lower: None,
        upper: Some(bound(country, number)),
    }
}

pub fn from(country: &str, number: u64) -> KeyRange {
    KeyRange {
        lower: Some(bound(country, number)),
        upper: None,
    }
}

fn bound(country: &str, number: u64) -> Vec<KeyValue> {
    let hex = |text: &str| text.bytes().map(|b| format!("{b:02X}")).collect();
    vec![
        KeyValue::Hex(hex(country)),
        KeyValue::Hex(hex(&format!("{number:09}"))),
    ]
}

/// A batch that was sent.
pub struct SentBatch {
    pub attempt: u32,
    pub sequence: u32,
    pub rows: u64,
    pub stream: Stream,
}

pub trait SentBatches {
    fn batches(&self) -> Vec<SentBatch>;
    fn facts(&self) -> Vec<Fact>;
    /// The batches of the attempt that read the whole range.
    fn rows_of_success(&self) -> Vec<SentBatch>;
}

impl SentBatches for Sent {
    fn batches(&self) -> Vec<SentBatch> {
        let parse = |message: batch::Message| {
            let stream = Stream::parse(&message.body, &Limits::default()).unwrap();
            let id = message.headers.batch_id().unwrap();
            assert_eq!(u64::from(message.headers.rows().unwrap()), stream.rows());
            assert!(message.headers.text(header::RUN).is_some());
            SentBatch {
                attempt: id.attempt,
                sequence: id.sequence,
                rows: stream.rows(),
                stream,
            }
        };
        self.to("batches").into_iter().map(parse).collect()
    }

    fn facts(&self) -> Vec<Fact> {
        let fact = |message: batch::Message| Receipt::from_message(&message).unwrap().fact;
        self.to("receipts").into_iter().map(fact).collect()
    }

    fn rows_of_success(&self) -> Vec<SentBatch> {
        let success = self.facts().into_iter().find_map(|fact| match fact {
            Fact::Fetched { attempt, .. } => Some(attempt),
            _ => None,
        });
        let mut batches = self.batches();
        batches.retain(|batch| Some(batch.attempt) == success);
        batches
    }
}

/// The rows of a batch, formatted as by [`Hub::rows`].
pub fn lines(stream: &Stream) -> Vec<String> {
    use arrow_array::types::{Int64Type, UInt64Type};
    use arrow_array::{Array, cast::AsArray};
    let format = |rows: &arrow_array::RecordBatch| -> Vec<String> {
        let column = |name| rows.column_by_name(name).unwrap();
        let countries = column("country").as_binary::<i32>();
        let keywords = column("keyword").as_binary::<i32>();
        let volumes = column("processed_volume").as_primitive::<UInt64Type>();
        let clicks = column("processed_clicks");
        let tags = column("processed_tags").as_list::<i32>();
        let versions = column("_version").as_primitive::<Int64Type>();
        let line = |row: usize| {
            let volume = volumes.value(row);
            assert_eq!(clicks.is_null(row), volume.is_multiple_of(3));
            assert_eq!(tags.value_length(row) as u64, volume % 4);
            let country = String::from_utf8(countries.value(row).to_vec()).unwrap();
            let keyword = keywords.value(row).iter().map(|b| format!("{b:02X}"));
            let keyword: String = keyword.collect();
            format!("{country}\t{keyword}\t{volume}\t{}", versions.value(row))
        };
        (0..rows.num_rows()).map(line).collect()
    };
    let decoded = stream.decode().unwrap();
    decoded.iter().flat_map(format).collect()
}
