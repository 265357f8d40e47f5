//! What a user's profile and the release of a server cannot change, and what they can.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use serde::Deserialize;
use stores::Class;
use stores::clickhouse::{Cluster, Error, Query, TargetSettings, classify};
use testkit::{Database, ProfileAnswer, ProfileServer};

fn cluster(address: &str) -> Cluster {
    let settings = TargetSettings {
        cluster: address.to_owned(),
        ..TargetSettings::default()
    };
    Cluster::new(&settings.connection()).unwrap()
}

fn server(database: &Database) -> String {
    database.shards()[0]
        .trim_start_matches("http://")
        .to_owned()
}

#[derive(Debug, Deserialize, PartialEq)]
struct Row {
    n: u64,
}

async fn numbers(address: &str) -> Result<Vec<Row>, Error> {
    let query = Query::new("SELECT number AS n FROM numbers(100000)");
    cluster(address).shard(0).unwrap().rows(&query).await
}

#[tokio::test]
async fn a_profile_cannot_make_an_answer_shorter_or_another_one() {
    let database = Database::create();
    for profile in [
        "limit=10",
        "offset=10",
        "additional_result_filter=n%3D1",
        "extremes=1",
        "output_format_json_array_of_rows=1",
        "output_format_json_quote_64bit_integers=1",
        "compatibility=21.1",
        "use_query_cache=1",
        "timeout_overflow_mode=break",
    ] {
        let profile = ProfileServer::with_settings(&server(&database), profile).await;
        let rows = numbers(&profile.url()).await.unwrap();
        assert_eq!(rows.len(), 100_000);
        assert_eq!(rows[99_999], Row { n: 99_999 });
    }
}

#[tokio::test]
async fn a_limit_of_a_profile_is_an_error_that_names_it() {
    let database = Database::create();
    for (profile, named) in [
        (
            "max_result_rows=500&result_overflow_mode=break",
            "max rows: 500",
        ),
        (
            "max_rows_to_read=500&read_overflow_mode=break",
            "max rows: 500",
        ),
        (
            "max_result_bytes=500&result_overflow_mode=break",
            "max bytes",
        ),
    ] {
        let profile = ProfileServer::with_settings(&server(&database), profile).await;
        let error = numbers(&profile.url()).await.unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
}

#[tokio::test]
async fn a_profile_that_forbids_a_setting_is_an_error_that_says_what_it_has_to_allow() {
    let database = Database::create();
    for (code, text) in [
        (
            164,
            "Cannot modify 'result_overflow_mode' setting in readonly mode. (READONLY)",
        ),
        (
            452,
            "Setting result_overflow_mode should not be changed. (SETTING_CONSTRAINT_VIOLATION)",
        ),
    ] {
        let profile = ProfileServer::new(&server(&database), move |_| {
            ProfileAnswer::Exception(code, text.to_owned())
        })
        .await;
        let error = numbers(&profile.url()).await.unwrap_err();
        assert_eq!(classify(&error), Class::Pause);
        let error = error.to_string();
        for part in ["result_overflow_mode", "readonly = 0 or 2", "no constraint"] {
            assert!(error.contains(part), "{error}");
        }
    }
}

/// A server that does not know two of the settings; and how often it was asked.
async fn older_server(database: &Database) -> (ProfileServer, Arc<Mutex<u32>>) {
    const UNKNOWN: [&str; 2] = ["session_timezone", "date_time_overflow_behavior"];
    let asked = Arc::new(Mutex::new(0));
    let counter = asked.clone();
    let server = ProfileServer::new(&server(database), move |settings| {
        *counter.lock().unwrap() += 1;
        match UNKNOWN.iter().find(|name| settings.contains(&format!("{name}="))) {
            Some(name) => {
                ProfileAnswer::Exception(115, format!("Unknown setting '{name}'. (UNKNOWN_SETTING)"))
            }
            // What `system.settings` of that server does not have.
            None => ProfileAnswer::Forward(format!(
                "additional_table_filters={{'system.settings':'name NOT IN (''{}'',''{}'')'}}&{settings}",
                UNKNOWN[0], UNKNOWN[1]
            ).replace(' ', "%20").replace('\'', "%27")),
        }
    })
    .await;
    (server, asked)
}

#[tokio::test]
async fn a_server_that_does_not_know_a_setting_is_asked_once_and_gets_those_that_it_knows() {
    let database = Database::create();
    database.run(
        0,
        "CREATE TABLE {db}.t (n UInt64) ENGINE = MergeTree ORDER BY n",
    );
    let (server, asked) = older_server(&database).await;
    let cluster = cluster(&server.url());
    let shard = cluster.shard(0).unwrap();
    let insert = Query::new(format!("INSERT INTO {}.t FORMAT TSV", database.name()));
    let body = vec![Bytes::from_static(b"7\n")];
    let summary = shard.insert(&insert, body.clone()).await.unwrap();
    assert_eq!(summary.written_rows, 1);
    // Refused, asked for its settings, and sent again.
    assert_eq!(*asked.lock().unwrap(), 3);
    shard.insert(&insert, body).await.unwrap();
    let query = Query::new(format!("SELECT n FROM {}.t", database.name()));
    assert_eq!(shard.rows::<Row>(&query).await.unwrap().len(), 2);
    assert_eq!(*asked.lock().unwrap(), 5);
}

#[tokio::test]
async fn a_setting_of_the_statement_itself_that_is_unknown_stays_an_error() {
    let database = Database::create();
    let cluster = cluster(&database.shards()[0]);
    let query = Query::new("SELECT 1 AS n").setting("no_such_setting", 1);
    let error = cluster
        .shard(0)
        .unwrap()
        .rows::<Row>(&query)
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(115), "{error}");
    assert!(error.to_string().contains("no_such_setting"), "{error}");
}

#[tokio::test]
async fn an_insert_of_a_profile_that_leaves_out_or_alters_values_is_refused() {
    let database = Database::create();
    database.run(
        0,
        "CREATE TABLE {db}.t (n UInt64, day Date) ENGINE = MergeTree ORDER BY n",
    );
    let profile = "input_format_allow_errors_num=10&input_format_null_as_default=1&async_insert=1\
                   &wait_for_async_insert=0&date_time_overflow_behavior=ignore";
    let profile = ProfileServer::with_settings(&server(&database), profile).await;
    let cluster = cluster(&profile.url());
    let insert = |format: &str| {
        Query::new(format!(
            "INSERT INTO {}.t (n, day) FORMAT {format}",
            database.name()
        ))
    };
    for body in ["1\t2026-01-01\nx\t2026-01-01\n", "1\t\\N\n"] {
        let pieces = vec![Bytes::from(body.to_owned())];
        let shard = cluster.shard(0).unwrap();
        let error = shard.insert(&insert("TSV"), pieces).await.unwrap_err();
        assert_eq!(classify(&error), Class::Refused, "{error}");
    }
    // The year 2200 is beyond a Date.
    let query = Query::new("SELECT 1::UInt64 AS n, toDate32('2200-01-01') AS day");
    let shard = cluster.shard(0).unwrap();
    let stream = shard.replicas()[0].stream(&query).await.unwrap();
    let pieces = crate::collect(stream).await.unwrap();
    let error = shard
        .insert(&insert("ArrowStream"), pieces)
        .await
        .unwrap_err();
    assert_eq!(classify(&error), Class::Refused, "{error}");
    assert_eq!(database.run(0, "SELECT count() FROM {db}.t"), "0");
}
