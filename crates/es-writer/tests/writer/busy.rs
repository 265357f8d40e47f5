//! Against a real Elasticsearch that has room for hardly any bulk request at a time.

use std::sync::Arc;

use es_writer::EsWriterSettings;
use futures_util::future::join_all;
use testkit::{PrivateElasticsearch, http};

use crate::common::{Writer, batch, row};

const BATCHES: usize = 24;
const ROWS: usize = 500;

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_busy_elasticsearch_answers_429_are_sent_again_until_all_are_stored() {
    let narrow = "thread_pool.write.size: 1\nthread_pool.write.queue_size: 1";
    let node = PrivateElasticsearch::start(25_000, narrow);
    for index in ["all", "lite"] {
        let (ok, answer) = http("PUT", &format!("{}/{index}", node.url()), "");
        assert!(ok, "{answer}");
    }
    // Short pauses, many of them: the test is to be over soon.
    let settings = EsWriterSettings {
        resend_first_ms: 20,
        resend_longest_ms: 200,
        resend_tries: 1000,
        ..EsWriterSettings::default()
    };
    let writer = Arc::new(Writer::new(node.url(), "all", "lite", &settings));
    let groups = (0..BATCHES).map(|n| {
        let writer = writer.clone();
        let rows: Vec<_> = (0..ROWS)
            .map(|row_n| row(format!("keyword {n} {row_n}"), 10, 5))
            .collect();
        tokio::spawn(async move { writer.write_one(batch(&rows)).await })
    });
    for written in join_all(groups).await {
        let (rows, _) = written.unwrap().counts();
        assert_eq!(
            rows,
            [ROWS as u64, 0, 0, 0],
            "stored, unchanged, skipped, quarantined"
        );
    }
    let resent = writer.app.stats.counter("resent-rows", &[]);
    assert!(
        resent > 0,
        "Elasticsearch was never busy: the test shows nothing"
    );
    for index in ["all", "lite"] {
        http("POST", &format!("{}/{index}/_refresh", node.url()), "");
        let (_, answer) = http("GET", &format!("{}/{index}/_count", node.url()), "");
        let count: serde_json::Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(count["count"], BATCHES * ROWS, "{index}");
    }
}
