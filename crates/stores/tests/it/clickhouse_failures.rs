use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use stores::Class;
use stores::clickhouse::{Cluster, ConnectionSettings, ErrorKind, Query, TargetSettings, classify};
use testkit::{Database, Proxy};

use crate::{collect, fakes};

fn settings(cluster: String) -> ConnectionSettings {
    let settings = TargetSettings {
        cluster,
        ..TargetSettings::default()
    };
    settings.connection()
}

fn cluster(replicas: &[String]) -> Cluster {
    Cluster::new(&settings(replicas.join("|"))).unwrap()
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

fn one_row() -> Vec<Bytes> {
    vec![Bytes::from_static(b"1\n")]
}

fn numbers(count: u64) -> Query {
    Query::new(format!(
        "SELECT number, toString(number) FROM numbers({count}) FORMAT ArrowStream"
    ))
}

#[tokio::test]
async fn a_dead_replica_costs_one_attempt_and_is_then_tried_last() {
    let database = Database::create();
    database.run(
        0,
        "CREATE TABLE {db}.t (k UInt64) ENGINE = MergeTree ORDER BY k",
    );
    let (dead, alive) = (url(fakes::dead().await), database.shards()[0].clone());
    let cluster = cluster(&[dead.clone(), alive.clone()]);
    let shard = cluster.shard(0).unwrap();
    let insert = Query::new(format!("INSERT INTO {}.t FORMAT TSV", database.name()));
    // Without a token: the dead replica certainly got nothing.
    shard.insert(&insert, one_row()).await.unwrap();
    for _ in 0..4 {
        let order = shard.replicas();
        assert_eq!(order[0].address(), alive);
        assert_eq!(order[1].address(), dead);
    }
    shard.execute(&Query::new("SELECT 1")).await.unwrap();
    assert_eq!(database.run(0, "SELECT count() FROM {db}.t"), "1");
}

#[tokio::test]
async fn when_all_replicas_are_dead_the_error_names_one_and_is_retried() {
    let dead = [url(fakes::dead().await), url(fakes::dead().await)];
    let cluster = cluster(&dead);
    let error = cluster
        .shard(0)
        .unwrap()
        .execute(&Query::new("SELECT 1"))
        .await
        .unwrap_err();
    assert!(
        matches!(error.kind, ErrorKind::Connection { sent: false, .. }),
        "{error:?}"
    );
    assert!(dead.contains(&error.replica));
    assert_eq!(classify(&error), Class::RetryNow);
}

#[tokio::test]
async fn a_foreign_page_is_never_taken_for_an_answer() {
    let fake = url(fakes::answering(&fakes::page("200 OK")).await);
    let cluster = cluster(&[fake]);
    let shard = cluster.shard(0).unwrap();
    let query = Query::new("SELECT 1 AS x");
    let errors = [
        shard.execute(&query).await.unwrap_err(),
        shard.rows::<serde_json::Value>(&query).await.unwrap_err(),
        shard.replicas()[0].stream(&query).await.unwrap_err(),
        shard.insert(&query, one_row()).await.unwrap_err(),
    ];
    for error in errors {
        assert!(
            matches!(error.kind, ErrorKind::UnexpectedAnswer { .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains("<html>"), "{error}");
        assert_eq!(
            classify(&error),
            Class::Quarantine(batch::Reason::UnexpectedAnswer)
        );
    }
}

#[tokio::test]
async fn an_empty_foreign_answer_is_not_taken_for_no_rows() {
    let empty = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let cluster = cluster(&[url(fakes::answering(empty).await)]);
    let shard = cluster.shard(0).unwrap();
    let query = Query::new("SELECT 1 AS x");
    let errors = [
        shard.execute(&query).await.unwrap_err(),
        shard.rows::<serde_json::Value>(&query).await.unwrap_err(),
        shard.insert(&query, one_row()).await.unwrap_err(),
    ];
    for error in errors {
        assert!(
            matches!(error.kind, ErrorKind::UnexpectedAnswer { .. }),
            "{error:?}"
        );
    }
    let error = shard.replicas()[0].stream(&query).await.unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Truncated(_)), "{error:?}");
}

#[tokio::test]
async fn a_gateway_whose_server_is_away_is_retried() {
    let cluster = cluster(&[url(fakes::answering(&fakes::page("502 Bad Gateway")).await)]);
    let shard = cluster.shard(0).unwrap();
    let errors = [
        shard.execute(&Query::new("SELECT 1")).await.unwrap_err(),
        shard
            .insert(&Query::new("INSERT"), one_row())
            .await
            .unwrap_err(),
    ];
    for error in errors {
        assert_eq!(classify(&error), Class::RetryNow, "{error}");
    }
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_an_error_and_its_replica_is_tried_last() {
    let database = Database::create();
    let target = database.shards()[0]
        .trim_start_matches("http://")
        .to_owned();
    let proxy = Proxy::to(&target).await;
    proxy.cut_after(200_000);
    let (broken, whole) = (url(proxy.address()), database.shards()[0].clone());
    let cluster = cluster(&[broken.clone(), whole.clone()]);
    let shard = cluster.shard(0).unwrap();
    let replica = shard.replicas()[0];
    assert_eq!(replica.address(), broken);
    let stream = replica.stream(&numbers(1_000_000)).await.unwrap();
    let error = collect(stream).await.unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Truncated(_)), "{error:?}");
    assert_eq!(classify(&error), Class::RetryNow);
    assert_eq!(shard.replicas()[0].address(), whole);
    assert_eq!(shard.replicas()[0].address(), whole);
}

#[tokio::test]
async fn a_silent_replica_is_given_up_after_the_idle_timeout_and_the_next_one_answers() {
    let database = Database::create();
    let silent = url(fakes::silent().await);
    let mut settings = settings([silent.clone(), database.shards()[0].clone()].join("|"));
    settings.idle_timeout = Duration::from_millis(300);
    settings.insert_timeout = Duration::from_millis(300);
    let cluster = Cluster::new(&settings).unwrap();
    let shard = cluster.shard(0).unwrap();
    let replica = shard.replicas()[0];
    assert_eq!(replica.address(), silent);
    let errors = [
        replica.stream(&numbers(1)).await.unwrap_err(),
        replica.execute(&Query::new("SELECT 1")).await.unwrap_err(),
        replica
            .insert(&Query::new("INSERT"), one_row())
            .await
            .unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error.kind, ErrorKind::Timeout { .. }), "{error:?}");
    }
    shard.execute(&Query::new("SELECT 1")).await.unwrap();
}

#[tokio::test]
async fn an_insert_that_may_have_arrived_goes_to_another_replica_only_with_a_token() {
    let database = Database::create();
    database.run(
        0,
        "CREATE TABLE {db}.t (k UInt64) ENGINE = MergeTree ORDER BY k \
         SETTINGS non_replicated_deduplication_window = 100",
    );
    let target = database.shards()[0]
        .trim_start_matches("http://")
        .to_owned();
    let proxy = Proxy::to(&target).await;
    // The insert is done, and its answer is lost.
    proxy.cut_after(1);
    let insert = Query::new(format!("INSERT INTO {}.t FORMAT TSV", database.name()));
    let replicas = [url(proxy.address()), database.shards()[0].clone()];

    let cluster_of = || cluster(&replicas);
    let error = cluster_of()
        .shard(0)
        .unwrap()
        .insert(&insert, one_row())
        .await
        .unwrap_err();
    assert!(
        matches!(error.kind, ErrorKind::Connection { sent: true, .. }),
        "{error:?}"
    );
    assert_eq!(database.run(0, "SELECT count() FROM {db}.t"), "1");

    let insert = insert.deduplication_token("t");
    cluster_of()
        .shard(0)
        .unwrap()
        .insert(&insert, one_row())
        .await
        .unwrap();
    assert_eq!(database.run(0, "SELECT count() FROM {db}.t"), "2");
}

#[tokio::test]
async fn a_single_replica_gets_an_insert_twice_only_with_a_token() {
    for (token, requests) in [(false, 1), (true, 2)] {
        let (address, seen) = fakes::closing().await;
        let mut insert = Query::new("INSERT INTO t FORMAT TSV");
        if token {
            insert = insert.deduplication_token("t");
        }
        let cluster = cluster(&[url(address)]);
        let error = cluster
            .shard(0)
            .unwrap()
            .insert(&insert, one_row())
            .await
            .unwrap_err();
        assert!(
            matches!(error.kind, ErrorKind::Connection { sent: true, .. }),
            "{error:?}"
        );
        assert_eq!(seen.load(Ordering::SeqCst), requests);
    }
}

#[tokio::test]
async fn a_wrong_answer_of_one_replica_sends_the_request_to_the_next() {
    let database = Database::create();
    let fake = url(fakes::answering(&fakes::page("200 OK")).await);
    let cluster = cluster(&[fake, database.shards()[0].clone()]);
    let rows: Vec<serde_json::Value> = cluster
        .shard(0)
        .unwrap()
        .rows(&Query::new("SELECT 7 AS x"))
        .await
        .unwrap();
    assert_eq!(rows[0]["x"], 7);
}

#[tokio::test]
async fn a_large_insert_that_is_refused_before_it_is_read_still_has_its_reason() {
    let database = Database::create();
    let cluster = cluster(&[database.shards()[0].clone()]);
    let insert = Query::new(format!(
        "INSERT INTO {}.missing FORMAT TSV",
        database.name()
    ));
    let body = vec![Bytes::from(vec![b'1'; 1 << 20]); 32];
    let error = cluster
        .shard(0)
        .unwrap()
        .insert(&insert, body)
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(60), "{error:?}");
}

#[tokio::test]
async fn an_insert_has_its_length_and_is_synchronous() {
    let (address, request) = fakes::recording().await;
    let cluster = cluster(&[url(address)]);
    let insert = Query::new("INSERT INTO t FORMAT TSV")
        .param("x", "a b")
        .setting("query_id", "q");
    let body = vec![Bytes::from_static(b"1\n"), Bytes::from_static(b"2\n")];
    let shard = cluster.shard(0).unwrap();
    shard.insert(&insert, body).await.unwrap_err();
    let request = request.await.unwrap();
    assert!(request.starts_with("POST /?"), "{request}");
    let (line, _) = request.split_once("\r\n").unwrap();
    assert!(!line.contains("query="), "{request}");
    for setting in ["async_insert=0", "param_x=a+b", "query_id=q"] {
        assert!(
            line.contains(&format!("?{setting}")) || line.contains(&format!("&{setting}")),
            "{request}"
        );
    }
    // That of the statement, a line break and the rows.
    assert!(request.contains("content-length: 29\r\n"), "{request}");
    assert!(!request.contains("transfer-encoding"), "{request}");
}
