//! Each kind of bad input: a named reason in quarantine, and the worker continues.

use batch::{BatchId, HeaderValue, Headers, Message, TaskHash, header};
use bytes::Bytes;
use testkit::Stack;

use crate::support::*;

fn headers(shard: u32, rows: u64) -> Headers {
    let id = BatchId {
        task: TaskHash::new([b"bad input".as_slice()]),
        attempt: 1,
        sequence: 0,
    };
    Headers::for_batch(&"bad-1".parse().unwrap(), id, shard, rows)
}

/// A batch as a fetcher sends it, taken from the queue of a store that is not at work.
fn good_batch(stack: &Stack) -> Message {
    let fetcher = stack.fleet.start("fetcher");
    let run = publish(stack, &[]);
    assert!(eventually(|| progress(stack, &run)["rows_fetched"]
        .as_u64()
        .unwrap_or(0)
        > 0));
    drop(fetcher);
    let taken = take(stack, "es-writer-in");
    take(stack, "ch-writer-in");
    taken
}

#[tokio::main(flavor = "current_thread")]
async fn take(stack: &Stack, queue: &str) -> Message {
    let session = connect(stack).await;
    let mut subscription = session.subscribe(queue, 1).await.unwrap();
    let delivery = subscription.deliveries.recv().await.unwrap();
    session.close().await;
    stack.host.api(
        "DELETE",
        &format!("queues/{}/{queue}/contents", stack.host.name()),
        "",
    );
    delivery.message
}

fn with(message: &Message, change: impl FnOnce(&mut Message)) -> Message {
    let mut message = message.clone();
    change(&mut message);
    message
}

fn set(message: &Message, name: &str, value: impl Into<HeaderValue>) -> Message {
    with(message, |m| {
        m.headers.set(name, value);
    })
}

fn other_columns() -> Bytes {
    use arrow_array::{Int64Array, RecordBatch};
    let column: arrow_array::ArrayRef = std::sync::Arc::new(Int64Array::from(vec![1, 2, 3]));
    let batch = RecordBatch::try_from_iter([("unknown", column)]).unwrap();
    batch::arrow::encode(&batch.schema(), &[batch]).unwrap()
}

/// Some kilobytes that hold a hundred megabytes.
fn bomb() -> Bytes {
    use arrow_array::{RecordBatch, StringArray};
    let text = "a".repeat(100 << 20);
    let column: arrow_array::ArrayRef = std::sync::Arc::new(StringArray::from(vec![text]));
    let batch = RecordBatch::try_from_iter([("keyword", column)]).unwrap();
    batch::arrow::encode(&batch.schema(), &[batch]).unwrap()
}

/// Keys in a batch that has all rows of its shard; one of the keys may have several versions in it.
fn keys_of(stack: &Stack, batch: &Message) -> u64 {
    let shard = batch.headers.shard().unwrap() as usize;
    let count = |what: &str| -> u64 {
        let sql = format!("SELECT {what} FROM {{db}}.keywords_data_local");
        stack.database.run(shard, &sql).parse().unwrap()
    };
    let rows = u64::from(batch.headers.rows().unwrap());
    assert_eq!(
        rows,
        count("count()"),
        "the batch has all rows of its shard"
    );
    count("uniqExact(country, keyword)")
}

#[test]
fn every_kind_of_bad_batch_is_named_in_quarantine_and_the_writers_continue() {
    let _turn = one_at_a_time();
    let limits = "[ch_writer]\nmax_body_bytes = 1000000\n[es_writer]\nmax_body_bytes = 1000000\n";
    let stack = configured(1_000, limits);
    let good = good_batch(&stack);
    let cases = [
        (
            "not-readable",
            with(&good, |m| {
                m.body = Bytes::from_static(b"<html>502 Bad Gateway</html>")
            }),
        ),
        (
            "truncated",
            with(&good, |m| m.body = m.body.slice(..m.body.len() / 2)),
        ),
        ("truncated", with(&good, |m| m.body = Bytes::new())),
        ("wrong-schema", Message::new(headers(0, 3), other_columns())),
        ("unknown-version", set(&good, header::SCHEMA, 99)),
        ("bad-header", set(&good, header::ROWS, -5)),
        ("bad-header", set(&good, header::ROWS, i64::MAX)),
        ("bad-header", set(&good, header::SHARD, "zero")),
        (
            "bad-header",
            with(&good, |m| drop(m.headers.remove(header::TASK))),
        ),
        (
            "oversized",
            with(&good, |m| m.body = vec![0; 1_000_001].into()),
        ),
        ("decompression-bomb", Message::new(headers(0, 1), bomb())),
        ("unknown-shard", set(&good, header::SHARD, 77)),
    ];
    let mut workers = [
        stack.fleet.start("ch-writer"),
        stack.fleet.start("es-writer"),
    ];
    for (worker, process) in ["ch-writer", "es-writer"].into_iter().zip(&mut workers) {
        let mut wanted: Vec<&str> = Vec::new();
        for (reason, message) in &cases {
            // Elasticsearch has no shards of ours: any number will do there.
            if worker == "es-writer" && *reason == "unknown-shard" {
                continue;
            }
            wanted.push(reason);
            send(&stack, &format!("{worker}-in"), message.clone());
        }
        send(&stack, &format!("{worker}-in"), good.clone());
        let queue = format!("{worker}-quar");
        let quarantined = |n: usize| eventually(|| peek(&stack, &queue).len() >= n);
        assert!(
            quarantined(wanted.len()),
            "{worker}: {} of {}: {}",
            peek(&stack, &queue).len(),
            wanted.len(),
            process.log()
        );
        let mut found: Vec<String> = peek(&stack, &queue)
            .iter()
            .filter_map(|m| {
                m["properties"]["headers"]["fleet-reason"]
                    .as_str()
                    .map(str::to_owned)
            })
            .filter(|reason| reason != "refused-rows")
            .collect();
        found.sort();
        wanted.sort_unstable();
        assert_eq!(found, wanted, "{worker}");
        assert!(
            process.ended().is_none(),
            "{worker} has ended: {}",
            process.log()
        );
    }
    // Nothing of the good batch after the bad ones is lost.
    let rows = keys_of(&stack, &good);
    let stored = || -> u64 {
        let sql = "SELECT count() FROM {db}.keywords_metrics_local FINAL";
        let shards = 0..stack.database.shards().len();
        shards
            .map(|shard| stack.database.run(shard, sql).parse::<u64>().unwrap())
            .sum()
    };
    assert!(
        eventually(|| stored() == rows),
        "{} of {rows} rows",
        stored()
    );
    let [all, _] = stack.index_names();
    let refused = || -> u64 {
        let of = |message: &serde_json::Value| {
            let headers = &message["properties"]["headers"];
            (headers["fleet-reason"] == "refused-rows").then(|| headers["fleet-rows"].as_u64())?
        };
        peek(&stack, "es-writer-quar").iter().filter_map(of).sum()
    };
    let indexed = || documents(&stack, &all) + refused();
    assert!(
        eventually(|| indexed() == rows),
        "{} of {rows} rows",
        indexed()
    );
}

#[test]
fn an_index_that_does_not_exist_is_named_in_quarantine() {
    let _turn = one_at_a_time();
    let stack = configured(1_000, "");
    let [all, _] = stack.index_names();
    stack.indices.api("DELETE", &all, "");
    let _workers = start_workers(&stack);
    // The comparison before a run would find it: as if it went after that.
    publish(&stack, &["--force"]);
    assert!(eventually(|| !peek(&stack, "es-writer-quar").is_empty()));
    let message = &peek(&stack, "es-writer-quar")[0]["properties"]["headers"];
    assert_eq!(message["fleet-reason"], "missing-target", "{message:#}");
    assert!(
        message["fleet-history"].as_str().unwrap().contains(&all),
        "{message:#}"
    );
}

#[test]
fn a_task_that_is_no_task_is_named_in_quarantine() {
    let _turn = one_at_a_time();
    let stack = configured(1_000, "");
    let _fetcher = stack.fleet.start("fetcher");
    let headers = headers(0, 1);
    for body in ["not JSON", "{}", r#"{"schema": 7}"#] {
        send(&stack, "fetcher-in", Message::new(headers.clone(), body));
    }
    assert!(eventually(|| peek(&stack, "fetcher-quar").len() == 3));
    let mut reasons: Vec<_> = peek(&stack, "fetcher-quar")
        .iter()
        .map(|m| {
            m["properties"]["headers"]["fleet-reason"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    reasons.sort();
    assert_eq!(reasons, ["not-readable", "not-readable", "unknown-version"]);
}
