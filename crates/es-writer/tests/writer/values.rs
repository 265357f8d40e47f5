//! Values that the real ClickHouse sends, in the real Elasticsearch.

use batch::{Column, Message};
use es_writer::{EsWriter, EsWriterSettings};
use serde_json::{Value, json};
use stores::clickhouse::{Cluster, Query, TargetSettings};
use stores::elasticsearch::{Client, IndexSettings, Minimum};
use testkit::{Database, IndexPrefix};

use crate::common::{Writer, headers};

struct Hub {
    database: Database,
    indices: IndexPrefix,
    writer: Writer,
}

impl Hub {
    /// `columns` are the fields of `all` besides the key; `lite` has those of `lite`.
    async fn create(columns: &[(&str, &str)], lite: IndexSettings) -> Self {
        let create = || (Database::create(), IndexPrefix::create());
        let (database, indices) = tokio::task::spawn_blocking(create).await.unwrap();
        let names = (indices.index("all"), indices.index("lite"));
        let settings = EsWriterSettings::default();
        let mut writer = Writer::new(indices.url(), &names.0, &names.1, &settings);
        let name = names.1;
        writer.store.indices[1] = IndexSettings { name, ..lite };
        let new = EsWriter::new(&writer.app, &writer.store, &settings);
        writer.writer = std::sync::Arc::new(new.unwrap());
        let column = |(name, r#type): &(&str, &str)| Column {
            name: (*name).to_owned(),
            r#type: (*r#type).to_owned(),
        };
        let key = [("country", "String"), ("keyword", "String")].map(|c| column(&c));
        let columns: Vec<Column> = columns.iter().map(column).collect();
        let client = Client::new(&writer.store).unwrap();
        let configured = client.configure(&writer.store, &key, &columns, false);
        configured.await.unwrap();
        Self {
            database,
            indices,
            writer,
        }
    }

    /// A batch of the rows that the server has for `SELECT 'us' AS country, keyword, …`.
    async fn batch(&self, select: &str, rows: u64) -> Message {
        let settings = TargetSettings {
            cluster: self.database.cluster(),
            ..TargetSettings::default()
        };
        let cluster = Cluster::new(&settings.connection()).unwrap();
        let query = Query::new(format!("SELECT 'us' AS country, {select}"))
            .setting("max_block_size", 100_000);
        let shard = cluster.shard(0).unwrap();
        let mut stream = shard.replicas()[0].stream(&query).await.unwrap();
        let mut body = Vec::new();
        while let Some(piece) = stream.try_next().await.unwrap() {
            body.extend_from_slice(&piece);
        }
        Message::new(headers(rows), body)
    }

    fn document(&self, id: &str) -> Value {
        let body = json!({ "docs": [{ "_index": self.indices.index("all"), "_id": id }] });
        let mut found = self.indices.api("POST", "_mget", &body.to_string());
        found["docs"][0]["_source"].take()
    }
}

fn volume() -> IndexSettings {
    IndexSettings {
        fields: vec!["volume".to_owned()],
        ..IndexSettings::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_is_none_keeps_its_row_out_of_the_indices_that_have_it_alone() {
    for (r#type, bad, good) in [
        ("Array(String)", "['ok', unhex('ff')]", "['ok']"),
        (
            "Array(LowCardinality(String))",
            "['ok', unhex('ff')]",
            "['ok']",
        ),
        ("Array(Nullable(String))", "[NULL, unhex('ff')]", "['ok']"),
        ("Array(FixedString(2))", "[unhex('ff00')]", "['ok']"),
        ("LowCardinality(Nullable(String))", "unhex('ff')", "'ok'"),
        ("FixedString(2)", "unhex('ff00')", "'ok'"),
        ("String", "unhex('ff')", "'ok'"),
    ] {
        let columns = [("processed_volume", "UInt64"), ("processed_tags", r#type)];
        let hub = Hub::create(&columns, volume()).await;
        let select = format!(
            "toString(number) AS keyword, number AS processed_volume, \
             CAST(if(number = 7, {bad}, {good}), '{type}') AS processed_tags, toInt64(1) AS _version \
             FROM numbers(1000)"
        );
        let written = hub.writer.write_one(hub.batch(&select, 1000).await).await;
        let (rows, targets) = written.counts();
        assert_eq!(rows, [999, 0, 0, 1], "{type}");
        assert_eq!(targets[0].1, [999, 0, 0, 1], "{type}");
        assert_eq!(targets[1].1, [1000, 0, 0, 0], "{type}");
        let (_, refused) = written.quarantined().unwrap();
        assert_eq!(refused.len(), 1);
        let (keyword, why) = &refused[0];
        assert_eq!(keyword, b"7");
        assert!(why.contains("column processed_tags is not UTF-8"), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_no_index_has_may_hold_any_bytes() {
    let hub = Hub::create(&[("processed_volume", "UInt64")], volume()).await;
    let mut settings = hub.writer.store.clone();
    settings.indices[0].fields = vec!["volume".to_owned()];
    let new = EsWriter::new(&hub.writer.app, &settings, &EsWriterSettings::default());
    let hub = Hub {
        writer: Writer {
            app: hub.writer.app.clone(),
            writer: std::sync::Arc::new(new.unwrap()),
            store: settings,
        },
        ..hub
    };
    for column in [
        "map('k', unhex('ff'))",
        "CAST((unhex('ff'), 1), 'Tuple(a String, b UInt8)')",
        "[[unhex('ff')], []]",
        "[map('k', [unhex('ff')])]",
        "unhex('ff')",
    ] {
        let select = format!(
            "toString(number) AS keyword, number AS processed_volume, {column} AS processed_x, \
             toInt64(1) AS _version FROM numbers(10)"
        );
        let written = hub.writer.write_one(hub.batch(&select, 10).await).await;
        let (rows, _) = written.counts();
        assert_eq!(rows[3], 0, "{column}");
        assert_eq!(rows[0] + rows[1], 10, "{column}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minimum_of_any_numeric_type_takes_the_rows_that_reach_it() {
    for r#type in [
        "UInt16",
        "Int32",
        "UInt64",
        "Int64",
        "Float32",
        "Float64",
        "Decimal(9,2)",
        "Decimal(18,2)",
        "Decimal(38,2)",
        "Decimal(76,2)",
        "Nullable(Decimal(18,2))",
    ] {
        let lite = IndexSettings {
            minimum: Some(Minimum {
                field: "volume".to_owned(),
                value: 10.0,
            }),
            ..volume()
        };
        let hub = Hub::create(&[("processed_volume", r#type)], lite).await;
        let select = format!(
            "toString(number) AS keyword, CAST(number, '{type}') AS processed_volume, \
             toInt64(1) AS _version FROM numbers(3000)"
        );
        let written = hub.writer.write_one(hub.batch(&select, 3000).await).await;
        let (_, targets) = written.counts();
        assert_eq!(targets[1].1, [2990, 0, 10, 0], "{type}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_at_the_edges_of_their_types_are_the_hubs() {
    let utc = |text: &str| format!("toDateTime64('{text}', 3, 'UTC')");
    let cases: Vec<(&str, String, Value)> = vec![
        ("Int64", "-9223372036854775808".into(), json!(i64::MIN)),
        (
            "Int64",
            "9007199254740993".into(),
            json!(9_007_199_254_740_993_i64),
        ),
        ("UInt64", "9223372036854775807".into(), json!(i64::MAX)),
        ("Float64", "-0.0".into(), json!(-0.0)),
        ("Float64", "nan".into(), Value::Null),
        ("Float64", "-inf".into(), Value::Null),
        ("Float32", "0.1".into(), json!(0.1)),
        ("Bool", "true".into(), json!(true)),
        ("Nullable(UInt8)", "NULL".into(), Value::Null),
        (
            "Decimal(18,4)",
            "'-12345678901234.5678'".into(),
            json!("-12345678901234.5678"),
        ),
        (
            "Decimal(76,2)",
            "'123456789012345678901234567890.12'".into(),
            json!("123456789012345678901234567890.12"),
        ),
        ("Date", "'1970-01-02'".into(), json!(86_400_000)),
        ("Date", "'2149-06-06'".into(), json!(5_662_224_000_000_i64)),
        (
            "Date32",
            "'1900-01-01'".into(),
            json!(-2_208_988_800_000_i64),
        ),
        (
            "Date32",
            "'2299-12-31'".into(),
            json!(10_413_705_600_000_i64),
        ),
        ("DateTime", "4294967295".into(), json!(4_294_967_295_i64)),
        (
            "DateTime64(3)",
            utc("1900-01-01 00:00:00.001"),
            json!(-2_208_988_799_999_i64),
        ),
        (
            "DateTime64(0)",
            utc("2299-12-31 23:59:59"),
            json!(10_413_791_999_000_i64),
        ),
        ("DateTime64(3)", utc("1969-12-31 23:59:59.999"), json!(-1)),
        ("FixedString(4)", "'us'".into(), json!("us")),
        ("String", "''".into(), json!("")),
        ("String", "unhex('610062')".into(), json!("a\u{0}b")),
        (
            "Array(Nullable(UInt8))",
            "[1, NULL]".into(),
            json!([1, null]),
        ),
        ("Array(Date)", "['1970-01-02']".into(), json!([86_400_000])),
    ];
    let names: Vec<String> = (0..cases.len()).map(|n| format!("x{n}")).collect();
    let columns = names.iter().zip(&cases);
    let columns = columns.map(|(name, (r#type, ..))| (name.as_str(), *r#type));
    let columns: Vec<_> = [("processed_volume", "UInt64")]
        .into_iter()
        .chain(columns)
        .collect();
    let hub = Hub::create(&columns, volume()).await;
    let values = names.iter().zip(&cases);
    let values = values.map(|(name, (r#type, value, _))| {
        let r#type = r#type.replace('\'', "\\'");
        format!("CAST({value}, '{type}') AS {name}")
    });
    let values: Vec<String> = values.collect();
    let select = format!(
        "'a' AS keyword, toUInt64(1) AS processed_volume, {}, toInt64(1) AS _version",
        values.join(", ")
    );
    let written = hub.writer.write_one(hub.batch(&select, 1).await).await;
    assert_eq!(written.counts().0, [1, 0, 0, 0]);
    let document = hub.document("us/a");
    for (name, (r#type, value, expected)) in names.iter().zip(cases) {
        assert_eq!(document[name], expected, "{type} {value}");
    }
}
