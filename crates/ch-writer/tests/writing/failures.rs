//! Servers that are away, take no writes, or are not ClickHouse.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use batch::{Reason, header};
use pipeline::{LoopOptions, Outcome};
use testkit::Proxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::all_done;
use crate::support::{Tables, Written, rows};

/// An address where nothing listens: the port is reserved.
const DEAD: &str = "http://127.0.0.1:1";

fn quarantined(written: &Written) -> Reason {
    match &written.outcome {
        Outcome::Quarantine(invalid) => invalid.reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_dead_replica_is_passed_over() {
    let mut tables = Tables::create(1000).await;
    let batches = tables.batches("1", 1000).await;
    tables.target.cluster = format!("{DEAD}|{}", tables.database.shards()[0]);
    assert!(all_done(&tables.write(&batches).await));
    assert_eq!(tables.differences("1"), "");
}

#[tokio::test]
async fn an_insert_whose_answer_is_lost_is_repeated_and_taken_once() {
    let mut tables = Tables::create(1000).await;
    let batches = tables.batches("1", 1000).await;
    let server = tables.database.shards()[0].clone();
    let proxy = Proxy::to(server.trim_start_matches("http://")).await;
    proxy.cut_after(10);
    tables.target.cluster = format!("http://{}|{server}", proxy.address());
    assert!(all_done(&tables.write(&batches).await));
    assert_eq!((tables.inserted(), tables.parts()), (1000, 1));
}

#[tokio::test]
async fn a_shard_that_cannot_be_reached_is_tried_again_later() {
    let mut tables = Tables::create(1000).await;
    let batches = tables.batches("1", 500).await;
    tables.target.cluster = DEAD.to_owned();
    for written in tables.write(&batches).await {
        assert!(matches!(&written.outcome, Outcome::Retry { at, .. } if at.contains("shard 0")));
        assert_eq!(written.rows(), None);
    }
}

#[tokio::test]
async fn a_missing_table_and_a_missing_column_are_named() {
    let tables = Tables::create(1000).await;
    let batches = tables.batches("1", 1000).await;
    tables.run("ALTER TABLE {db}.keywords_metrics_local DROP COLUMN tags");
    assert_eq!(
        quarantined(&tables.write(&batches).await[0]),
        Reason::WrongSchema
    );
    tables.run("DROP TABLE {db}.keywords_metrics_local");
    assert_eq!(
        quarantined(&tables.write(&batches).await[0]),
        Reason::MissingTarget
    );
}

#[tokio::test]
async fn a_batch_with_broken_data_is_named_and_the_rest_of_its_group_is_stored() {
    let tables = Tables::create(3000).await;
    let mut batches = tables.batches("1", 1000).await;
    let mut body = batches[1].body.to_vec();
    let at = body.len() - 200;
    body[at..at + 100].fill(0xAA);
    batches[1].body = body.into();
    let written = tables.write(&batches).await;
    assert_eq!(quarantined(&written[1]), Reason::NotReadable);
    assert_eq!(written[0].rows(), rows(1000, 0, 0));
    assert_eq!(written[2].rows(), rows(1000, 0, 0));
}

/// A server that gives these answers to inserts, and then the last one again and again.
async fn answering(answers: Vec<String>) -> (String, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut request = Vec::new();
            // The end marker of the body's Arrow stream.
            while !request.ends_with(&[0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0]) {
                if client.read_buf(&mut request).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            let n = count.fetch_add(1, Ordering::SeqCst) as usize;
            let answer = answers.get(n).or(answers.last()).unwrap();
            let _ = client.write_all(answer.as_bytes()).await;
        }
    });
    (address, asked)
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    )
}

fn exception(code: u32, text: &str) -> String {
    let header = format!("X-ClickHouse-Exception-Code: {code}\r\n");
    let body = format!("Code: {code}. DB::Exception: {text} (version 26.9.2.1)");
    answer("500 Internal Server Error", &header, &body)
}

#[tokio::test]
async fn pages_without_end_are_retried_and_at_last_quarantined_for_what_they_are() {
    let mut tables = Tables::create(1000).await;
    let mut batches = tables.batches("1", 1000).await;
    let page = answer(
        "200 OK",
        "",
        "<html><body>Welcome to the portal</body></html>",
    );
    tables.target.cluster = answering(vec![page]).await.0;
    let written = tables.write(&batches).await;
    let Outcome::Retry { error, .. } = &written[0].outcome else {
        panic!("{:?}", written[0].outcome)
    };
    assert!(
        error.starts_with("unexpected-answer: ") && error.contains("portal"),
        "{error}"
    );
    let all = LoopOptions::default().max_retries;
    batches[0].headers.set(header::FAILURES, i64::from(all));
    assert_eq!(
        quarantined(&tables.write(&batches).await[0]),
        Reason::UnexpectedAnswer
    );
}

#[tokio::test]
async fn a_shard_that_takes_nothing_is_waited_for() {
    let mut tables = Tables::create(1000).await;
    let batches = tables.batches("1", 1000).await;
    tables.settings.pause.poll_seconds = 1;
    let read_only = exception(242, "Table is in readonly mode. (TABLE_IS_READ_ONLY)");
    let taken = answer(
        "200 OK",
        "X-ClickHouse-Summary: {\"written_rows\":\"1000\"}\r\n",
        "",
    );
    // A lone replica is asked twice before the shard is paused.
    let (address, asked) = answering(vec![read_only.clone(), read_only, taken]).await;
    tables.target.cluster = address;
    let written = tables.write(&batches).await;
    assert_eq!(written[0].rows(), rows(1000, 0, 0));
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    assert_eq!(
        tables.app.stats.gauge_value("paused-shards", &[]),
        Some(0.0)
    );
    assert!(tables.app.health.failures().is_empty());
}

#[tokio::test]
async fn a_writer_that_is_told_to_stop_does_not_wait_for_a_paused_shard() {
    let mut tables = Tables::create(1000).await;
    let batches = tables.batches("1", 1000).await;
    let full = exception(243, "Cannot reserve 1.00 MiB (NOT_ENOUGH_SPACE)");
    let (address, _) = answering(vec![full]).await;
    tables.target.cluster = address;
    let app = tables.app.clone();
    let stop = async {
        while app.health.failures().is_empty() {
            tokio::task::yield_now().await;
        }
        app.shutdown.trigger();
    };
    let (written, ()) = tokio::join!(tables.write(&batches), stop);
    let Outcome::Snooze { why, .. } = &written[0].outcome else {
        panic!("{:?}", written[0].outcome)
    };
    assert!(why.contains("Cannot reserve"), "{why}");
    assert!(tables.app.health.failures()["clickhouse"].contains("Cannot reserve"));
}

#[tokio::test]
async fn a_busy_shard_is_tried_again_later() {
    let mut tables = Tables::create(1000).await;
    let batches = tables.batches("1", 1000).await;
    let busy = exception(
        252,
        "Too many parts (300). Merges are slower than inserts (TOO_MANY_PARTS)",
    );
    let (address, asked) = answering(vec![busy]).await;
    tables.target.cluster = address;
    let written = tables.write(&batches).await;
    let Outcome::Retry { error, .. } = &written[0].outcome else {
        panic!("{:?}", written[0].outcome)
    };
    assert!(error.contains("Too many parts"), "{error}");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}
