//! Against the real Elasticsearch.

use std::time::Duration;

use crate::common::{Counts, Row, Writer, batch, row};
use batch::{Column, Message, Reason, header};
use es_writer::EsWriterSettings;
use pipeline::{BatchWorker, Outcome, PauseSettings};
use serde_json::{Value, json};
use stores::elasticsearch::Client;
use testkit::IndexPrefix;

/// Indices of this test alone, configured as for the demo's hub.
struct Store {
    indices: IndexPrefix,
    writer: Writer,
}

impl Store {
    async fn new() -> Self {
        Self::with(EsWriterSettings::default()).await
    }

    async fn with(settings: EsWriterSettings) -> Self {
        let indices = tokio::task::spawn_blocking(IndexPrefix::create)
            .await
            .unwrap();
        let writer = Writer::new(
            indices.url(),
            &indices.index("all"),
            &indices.index("lite"),
            &settings,
        );
        let column = |name: &str, r#type: &str| Column {
            name: name.to_owned(),
            r#type: r#type.to_owned(),
        };
        let key = [
            column("country", "LowCardinality(String)"),
            column("keyword", "String"),
        ];
        let columns = [
            column("processed_volume", "UInt64"),
            column("processed_cpc", "Nullable(Float64)"),
        ];
        let client = Client::new(&writer.store).unwrap();
        client
            .configure(&writer.store, &key, &columns, false)
            .await
            .unwrap();
        Self { indices, writer }
    }

    /// The document of an index and its version; nothing when there is none.
    fn document(&self, index: &str, id: &str) -> Option<(Value, i64)> {
        let body = json!({ "docs": [{ "_index": self.indices.index(index), "_id": id }] });
        let mut found = self.indices.api("POST", "_mget", &body.to_string());
        let found = found["docs"][0].take();
        let version = found["_version"].as_i64()?;
        Some((found["_source"].clone(), version))
    }

    fn follow(&self, leader: &str, follower: &str) -> String {
        let name = format!("{leader}-follower-{follower}");
        self.indices.api("PUT", &self.indices.index(&name), "");
        name
    }

    fn block(&self, index: &str, blocked: bool) {
        let path = format!("{}/_settings", self.indices.index(index));
        let value = blocked.then_some(true);
        let body = json!({ "index.blocks.read_only_allow_delete": value });
        self.indices.api("PUT", &path, &body.to_string());
    }

    /// Waits until the writer reports an index as paused.
    async fn paused(&self) {
        let stats = &self.writer.app.stats;
        while stats.gauge_value("paused-indices", &[]) != Some(1.0) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// The index names of a receipt without their prefix.
fn short(targets: Vec<(String, Counts)>) -> Vec<(String, Counts)> {
    let cut = |name: String| {
        name.rsplit_once("all")
            .map_or("lite".to_owned(), |(_, rest)| format!("all{rest}"))
    };
    targets
        .into_iter()
        .map(|(name, counts)| (cut(name), counts))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_stored_in_both_indices_and_all_their_followers() {
    let store = Store::new().await;
    store.follow("all", "eu");
    store.follow("all", "us");
    let written = store
        .writer
        .write_one(batch(&[row("shoes", 10, 5), row("rare", 9, 6)]))
        .await;
    let (rows, targets) = written.counts();
    assert_eq!(rows, [2, 0, 0, 0]);
    let both = [2, 0, 0, 0];
    assert_eq!(
        short(targets),
        [
            ("all".to_owned(), both),
            ("all-follower-eu".to_owned(), both),
            ("all-follower-us".to_owned(), both),
            ("lite".to_owned(), [1, 0, 1, 0]),
        ]
    );
    let full = json!({ "country": "us", "keyword": "shoes", "volume": 10, "cpc": 0.5 });
    for index in ["all", "all-follower-eu", "all-follower-us"] {
        assert_eq!(store.document(index, "us/shoes"), Some((full.clone(), 5)));
    }
    let lite = json!({ "country": "us", "keyword": "shoes", "volume": 10 });
    assert_eq!(store.document("lite", "us/shoes"), Some((lite, 5)));
    assert_eq!(store.document("lite", "us/rare"), None);
    let stats = &store.writer.app.stats;
    assert_eq!(stats.counter("rows", &[("status", "stored")]), 2);
    assert_eq!(stats.counter("batches", &[("status", "stored")]), 1);
    assert_eq!(stats.observations("bulk", &[]), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_row_never_replaces_a_newer_one_and_the_same_one_is_unchanged() {
    let store = Store::new().await;
    store
        .writer
        .write_one(batch(&[row("a", 20, 5), row("b", 20, 5), row("c", 20, 5)]))
        .await
        .counts();
    let again = batch(&[
        row("a", 21, 4),
        row("b", 20, 5),
        row("c", 22, 6),
        row("d", 20, 1),
    ]);
    let (rows, _) = store.writer.write_one(again).await.counts();
    assert_eq!(rows, [2, 2, 0, 0]);
    let volume = |id: &str| store.document("all", id).unwrap().0["volume"].clone();
    assert_eq!((volume("us/a"), volume("us/c")), (json!(20), json!(22)));
    assert_eq!(
        store
            .writer
            .app
            .stats
            .counter("rows", &[("status", "unchanged")]),
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_versions_in_one_group_the_newer_stays() {
    let store = Store::new().await;
    let group = vec![
        batch(&[row("a", 30, 8), row("a", 20, 7)]),
        batch(&[row("a", 40, 9)]),
    ];
    for written in store.writer.write(group).await {
        written.counts();
    }
    assert_eq!(
        store.document("all", "us/a").unwrap().0["volume"],
        json!(40)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_any_text_are_found_under_their_ids() {
    let store = Store::new().await;
    let keywords = [
        "a b",
        "say \"hi\"",
        "tab\there",
        "line\nbreak",
        "\u{1}\0",
        "👟🔥",
        "שלום עולם",
        "a/b\\c",
    ];
    let rows: Vec<Row> = keywords.iter().map(|k| row(k, 10, 1)).collect();
    store.writer.write_one(batch(&rows)).await.counts();
    for keyword in keywords {
        let (document, _) = store.document("all", &format!("us/{keyword}")).unwrap();
        assert_eq!(document["keyword"], json!(keyword));
    }
    let long = "x".repeat(600);
    store
        .writer
        .write_one(batch(&[row(&long, 10, 1)]))
        .await
        .counts();
    let all = store.indices.index("all");
    store.indices.api("POST", &format!("{all}/_refresh"), "");
    let found = store.indices.api("GET", &format!("{all}/_count"), "");
    assert_eq!(found["count"], keywords.len() as u64 + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_refused_rows_go_to_quarantine_each_with_its_reason() {
    let store = Store::new().await;
    let rows = [
        row("good", 10, 1),
        row("too big for a long", u64::MAX, 1),
        row(b"not \xff text", 10, 1),
        row("too old", 10, -1),
    ];
    let written = store.writer.write_one(batch(&rows)).await;
    let (counts, targets) = written.counts();
    assert_eq!(counts, [1, 0, 0, 3]);
    assert!(
        targets.iter().all(|(_, rows)| *rows == [1, 0, 0, 3]),
        "{targets:?}"
    );
    let (headers, refused) = written.quarantined().unwrap();
    assert_eq!(headers.rows().unwrap(), 3);
    assert_eq!(
        headers.text(header::REASON),
        Some(Reason::RefusedRows.as_str())
    );
    let keywords: Vec<_> = refused.iter().map(|(keyword, _)| keyword.clone()).collect();
    let expected: Vec<_> = rows[1..].iter().map(|row| row.keyword.clone()).collect();
    assert_eq!(keywords, expected);
    assert!(refused[0].1.contains("[volume]"), "{refused:?}");
    assert!(
        refused[0].1.contains(&store.indices.index("lite")),
        "{refused:?}"
    );
    assert!(
        refused[1].1.contains("column keyword is not UTF-8"),
        "{refused:?}"
    );
    assert!(refused[2].1.contains("_version is -1"), "{refused:?}");
    assert!(store.document("all", "us/good").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_from_quarantine_can_be_sent_again_as_they_are() {
    let store = Store::new().await;
    let written = store
        .writer
        .write_one(batch(&[row("a", u64::MAX, 1), row("b", 10, 1)]))
        .await;
    let message = written.sent.to("es-writer-quar").remove(0);
    let again = store.writer.write_one(message).await;
    assert_eq!(again.counts().0, [0, 0, 0, 1]);
    let (_, refused) = again.quarantined().unwrap();
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].0, b"a");
}

fn pausing(limit_seconds: u64) -> EsWriterSettings {
    EsWriterSettings {
        pause: PauseSettings {
            poll_seconds: 1,
            limit_seconds,
        },
        ..EsWriterSettings::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_index_pauses_the_writer_until_it_takes_writes_again() {
    let store = Store::with(pausing(600)).await;
    store.block("lite", true);
    let group = vec![batch(&[row("a", 10, 1)]), batch(&[row("b", 10, 1)])];
    let (written, ()) = tokio::join!(store.writer.write(group), async {
        store.paused().await;
        let failures = store.writer.app.health.failures();
        assert!(
            failures["elasticsearch"].contains(&store.indices.index("lite")),
            "{failures:?}"
        );
        store.block("lite", false);
    });
    for written in written {
        assert_eq!(written.counts().0, [1, 0, 0, 0]);
        assert!(written.quarantined().is_none());
    }
    assert_eq!(
        store.writer.app.stats.gauge_value("paused-indices", &[]),
        Some(0.0)
    );
    assert!(store.writer.app.health.failures().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_wait_too_long_for_a_blocked_index_come_again_without_a_failure() {
    let store = Store::with(pausing(2)).await;
    store.block("lite", true);
    let group = vec![batch(&[row("a", 10, 1)]), batch(&[row("rare", 1, 1)])];
    let written = store.writer.write(group).await;
    let Outcome::Snooze { why, .. } = &written[0].outcome else {
        panic!("{:?}", written[0].outcome);
    };
    assert!(why.contains(&store.indices.index("lite")), "{why}");
    assert!(written[0].sent.to("receipts").is_empty());
    // Nothing of the second batch is for the blocked index.
    assert_eq!(written[1].counts().0, [1, 0, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_writer_ends_at_once_when_told_to() {
    let store = Store::with(pausing(600)).await;
    store.block("all", true);
    let (written, ()) = tokio::join!(store.writer.write_one(batch(&[row("a", 1, 1)])), async {
        store.paused().await;
        store.writer.app.shutdown.trigger();
    });
    assert!(
        matches!(written.outcome, Outcome::Snooze { .. }),
        "{:?}",
        written.outcome
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_for_an_index_that_is_not_there_are_quarantined_with_what_to_do() {
    let store = Store::new().await;
    store
        .indices
        .api("DELETE", &store.indices.index("lite"), "");
    let group = vec![batch(&[row("a", 10, 1)]), batch(&[row("rare", 1, 1)])];
    let written = store.writer.write(group).await;
    let Outcome::Quarantine(why) = &written[0].outcome else {
        panic!("{:?}", written[0].outcome);
    };
    assert_eq!(why.reason, Reason::MissingTarget);
    assert!(why.detail.contains(&store.indices.index("lite")), "{why}");
    assert!(
        why.detail.contains("fleet elasticsearch configure"),
        "{why}"
    );
    assert_eq!(written[1].counts().0, [1, 0, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_in_quarantine_is_accounted_for_if_its_headers_can_be_read() {
    let store = Store::new().await;
    let mut message = batch(&[row("a", 10, 1), row("b", 10, 1)]);
    message.body = message.body.slice(..message.body.len() - 4);
    let why = store.writer.writer.admit(&message).map(drop).unwrap_err();
    assert_eq!(why.reason, Reason::Truncated);
    let receipt = store.writer.writer.quarantined(&message, &why).unwrap();
    let receipt = batch::Receipt::from_message(&receipt).unwrap();
    let batch::Fact::Stored { rows, reasons, .. } = receipt.fact else {
        panic!("{receipt:?}");
    };
    assert_eq!((rows.quarantined, rows.total()), (2, 2));
    assert_eq!(reasons, [(Reason::Truncated, 2)].into());
    let unreadable = Message::default();
    assert!(store.writer.writer.quarantined(&unreadable, &why).is_none());
}
