use bytes::Bytes;
use serde::Deserialize;
use stores::Class;
use stores::clickhouse::{Cluster, ConnectionSettings, Query, TargetSettings, classify};
use testkit::{Database, LimitingProxy, ProxyLimits};

use crate::collect;

/// Settings that keep Arrow plain: text as text, compressed by column.
fn arrow(query: Query) -> Query {
    query
        .setting("output_format_arrow_string_as_string", 1)
        .setting("output_format_arrow_compression_method", "lz4_frame")
}

fn connection(cluster: &str) -> ConnectionSettings {
    let settings = TargetSettings {
        cluster: cluster.to_owned(),
        ..TargetSettings::default()
    };
    settings.connection()
}

fn cluster(database: &Database) -> Cluster {
    Cluster::new(&connection(&database.cluster())).unwrap()
}

async fn pieces(cluster: &Cluster, query: &Query) -> Vec<Bytes> {
    let shard = cluster.shard(0).unwrap();
    let stream = shard.replicas()[0].stream(query).await.unwrap();
    collect(stream).await.unwrap()
}

#[tokio::test]
async fn rows_travel_out_and_in_as_arrow_streams_without_being_touched() {
    let database = Database::create();
    let cluster = cluster(&database);
    database.run(
        0,
        "CREATE TABLE {db}.t (k LowCardinality(String), v Nullable(Float64)) ENGINE = MergeTree ORDER BY k",
    );
    let select = arrow(Query::new(
        "SELECT concat('k', toString(number)) AS k, if(number % 2 = 0, NULL, number / 2) AS v \
         FROM numbers(100000) FORMAT ArrowStream",
    ));
    let pieces = pieces(&cluster, &select).await;
    assert!(pieces.len() > 1, "it comes in pieces");
    let insert = Query::new(format!(
        "INSERT INTO {}.t (k, v) FORMAT ArrowStream",
        database.name()
    ));
    let summary = cluster
        .shard(0)
        .unwrap()
        .insert(&insert, pieces)
        .await
        .unwrap();
    assert_eq!(summary.written_rows, 100_000);
    assert_eq!(
        database.run(
            0,
            "SELECT count(), uniqExact(k), count(v), sum(v) FROM {db}.t"
        ),
        "100000\t100000\t50000\t1250000000"
    );
}

#[tokio::test]
async fn an_insert_with_the_same_token_counts_once() {
    let database = Database::create();
    let cluster = cluster(&database);
    database.run(
        0,
        "CREATE TABLE {db}.t (k UInt64) ENGINE = MergeTree ORDER BY k \
         SETTINGS non_replicated_deduplication_window = 100",
    );
    let insert = Query::new(format!("INSERT INTO {}.t FORMAT TSV", database.name()));
    let shard = cluster.shard(0).unwrap();
    for (token, body) in [("one", "1\n"), ("one", "1\n"), ("two", "1\n")] {
        let insert = insert.clone().deduplication_token(token);
        let body = vec![Bytes::from_static(body.as_bytes())];
        shard.insert(&insert, body).await.unwrap();
    }
    assert_eq!(database.run(0, "SELECT count() FROM {db}.t"), "2");
}

#[tokio::test]
async fn parameters_hold_any_text_and_numbers_come_back_whole() {
    #[derive(Debug, Deserialize, PartialEq)]
    struct Row {
        text: String,
        number: u64,
    }
    let database = Database::create();
    let text = "it's a \\ tab\tnew\nline \u{1F600} {x:String} ?";
    let query =
        Query::new("SELECT {text:String} AS text, {n:UInt64} AS number FROM {db:Identifier}.one")
            .param("text", text)
            .param("n", u64::MAX)
            .param("db", "system");
    let rows: Vec<Row> = cluster(&database)
        .shard(0)
        .unwrap()
        .rows(&query)
        .await
        .unwrap();
    let expected = Row {
        text: text.to_owned(),
        number: u64::MAX,
    };
    assert_eq!(rows, [expected]);
}

#[tokio::test]
async fn no_rows_are_no_error() {
    #[derive(Debug, Deserialize)]
    struct Row {}
    let database = Database::create();
    let query = Query::new("SELECT 1 AS x WHERE 0");
    let rows: Vec<Row> = cluster(&database)
        .shard(0)
        .unwrap()
        .rows(&query)
        .await
        .unwrap();
    assert!(rows.is_empty());
}

#[tokio::test]
async fn exceptions_come_with_their_code_name_and_text_whichever_way_they_come() {
    let database = Database::create();
    let cluster = cluster(&database);
    let shard = cluster.shard(0).unwrap();
    let missing = format!("{}.missing", database.name());

    let select = Query::new(format!("SELECT * FROM {missing}"));
    let insert = Query::new(format!("INSERT INTO {missing} FORMAT TSV"));
    let body = vec![Bytes::from_static(b"1\n")];
    let errors = [
        shard.execute(&select).await.unwrap_err(),
        shard.rows::<serde_json::Value>(&select).await.unwrap_err(),
        shard.replicas()[0].stream(&select).await.unwrap_err(),
        shard.insert(&insert, body).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.code(), Some(60), "{error}");
        let text = error.to_string();
        assert!(text.starts_with(&database.shards()[0]), "{text}");
        assert!(text.ends_with("(UNKNOWN_TABLE, code 60)"), "{text}");
        assert!(text.contains("missing"), "{text}");
        assert!(!text.contains("(version"), "{text}");
        assert_eq!(
            classify(&error),
            Class::Quarantine(batch::Reason::MissingTarget)
        );
    }
}

#[tokio::test]
async fn a_refused_value_is_the_datas_fault() {
    let database = Database::create();
    let cluster = cluster(&database);
    database.run(
        0,
        "CREATE TABLE {db}.t (k UInt64, CONSTRAINT small CHECK k < 10) ENGINE = MergeTree ORDER BY k",
    );
    let insert = Query::new(format!("INSERT INTO {}.t FORMAT TSV", database.name()));
    for (body, code) in [("x\n", 27), ("11\n", 469)] {
        let body = vec![Bytes::from_static(body.as_bytes())];
        let error = cluster
            .shard(0)
            .unwrap()
            .insert(&insert, body)
            .await
            .unwrap_err();
        assert_eq!(error.code(), Some(code), "{error}");
        assert_eq!(classify(&error), Class::Refused);
    }
}

#[tokio::test]
async fn an_exception_in_mid_stream_is_an_error_of_the_stream() {
    let database = Database::create();
    let cluster = cluster(&database);
    let select = arrow(Query::new(
        "SELECT number, throwIf(number = 3000000, 'enough') FROM numbers(10000000) \
         SETTINGS max_threads = 1, max_block_size = 10000 FORMAT ArrowStream",
    ));
    let shard = cluster.shard(0).unwrap();
    let stream = shard.replicas()[0].stream(&select).await.unwrap();
    let error = collect(stream).await.unwrap_err();
    assert_eq!(error.code(), Some(395), "{error}");
}

#[tokio::test]
async fn a_statement_of_any_length_passes_a_proxy_that_takes_short_urls_alone() {
    let database = Database::create();
    let names: Vec<String> = (0..600)
        .map(|n| format!("column_{n}_{}", "x".repeat(80)))
        .collect();
    let typed: Vec<String> = names.iter().map(|name| format!("{name} UInt8")).collect();
    let create = format!(
        "CREATE TABLE {{db}}.wide ({}) ENGINE = MergeTree ORDER BY {}",
        typed.join(", "),
        names[0]
    );
    database.run(0, &create);
    let limits = ProxyLimits {
        url_bytes: 4 << 10,
        body_bytes: 1 << 20,
    };
    let server = database.shards()[0].trim_start_matches("http://");
    let proxy = LimitingProxy::to(server, limits).await;
    let cluster = Cluster::new(&connection(&proxy.url())).unwrap();
    let shard = cluster.shard(0).unwrap();
    let (table, columns) = (format!("{}.wide", database.name()), names.join(", "));
    let insert = Query::new(format!("INSERT INTO {table} ({columns}) FORMAT TSV"));
    let row = format!("{}\n", vec!["7"; 600].join("\t"));
    let rows = vec![Bytes::from(row.clone()), Bytes::from(row)];
    let written = shard.insert(&insert, rows).await.unwrap();
    assert_eq!(written.written_rows, 2);
    let long = "y".repeat(10_000);
    let select = Query::new(format!(
        "SELECT {columns} FROM {table} WHERE {{long:String}} != '' FORMAT ArrowStream"
    ));
    let select = arrow(select.param("long", long));
    let stream = shard.replicas()[0].stream(&select).await.unwrap();
    assert!(!collect(stream).await.unwrap().is_empty());
    assert_eq!(proxy.refused(), 0);
    let sum = format!("SELECT sum({}), count() FROM {{db}}.wide", names[599]);
    assert_eq!(database.run(0, &sum), "14\t2");
}
