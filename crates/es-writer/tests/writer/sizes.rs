//! Bulk requests that are larger than Elasticsearch, or a proxy before it, takes.

use es_writer::EsWriterSettings;
use testkit::{IndexPrefix, LimitingProxy, PrivateElasticsearch, ProxyLimits, http};

use crate::common::{Row, Writer, batch, row};

const ROWS: usize = 4000;

fn rows() -> Vec<Row> {
    let keyword = |n| format!("keyword {n} that has some words more");
    (0..ROWS).map(|n| row(keyword(n), 10, 5)).collect()
}

fn create(url: &str, index: &str) {
    let (ok, answer) = http("PUT", &format!("{url}/{index}"), "");
    assert!(ok, "{answer}");
}

fn count(url: &str, index: &str) -> u64 {
    http("POST", &format!("{url}/{index}/_refresh"), "");
    let (_, answer) = http("GET", &format!("{url}/{index}/_count"), "");
    let count: serde_json::Value = serde_json::from_str(&answer).unwrap();
    count["count"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn elasticsearchs_own_limit_halves_bulks_and_refuses_one_row_that_is_larger() {
    let node = PrivateElasticsearch::start(25_100, "http.max_content_length: 100kb");
    create(node.url(), "all");
    create(node.url(), "lite");
    let writer = Writer::new(node.url(), "all", "lite", &EsWriterSettings::default());
    let (counts, _) = writer.write_one(batch(&rows())).await.counts();
    assert_eq!(counts, [ROWS as u64, 0, 0, 0]);
    for index in ["all", "lite"] {
        assert_eq!(count(node.url(), index), ROWS as u64, "{index}");
    }
    // A document's name has 512 bytes at most: here it does not hold the keyword.
    let settings = EsWriterSettings {
        key_columns: vec!["country".to_owned()],
        ..EsWriterSettings::default()
    };
    let writer = Writer::new(node.url(), "all", "lite", &settings);
    let huge = Row {
        country: "de".to_owned(),
        ..row("x".repeat(150_000), 1, 5)
    };
    let huge = [row("small", 1, 5), huge];
    let written = writer.write_one(batch(&huge)).await;
    assert_eq!(written.counts().0, [1, 0, 0, 1]);
    let (_, refused) = written.quarantined().unwrap();
    let why = &refused[0].1;
    for part in ["413", "http.max_content_length"] {
        assert!(why.contains(part), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxys_limit_is_learnt_once() {
    let prefix = IndexPrefix::create();
    let (all, lite) = (prefix.index("all"), prefix.index("lite"));
    create(prefix.url(), &all);
    create(prefix.url(), &lite);
    let limits = ProxyLimits {
        url_bytes: 8 << 10,
        body_bytes: 50_000,
    };
    let proxy = LimitingProxy::to(prefix.url().trim_start_matches("http://"), limits).await;
    let writer = Writer::new(&proxy.url(), &all, &lite, &EsWriterSettings::default());
    let (counts, _) = writer.write_one(batch(&rows())).await.counts();
    assert_eq!(counts, [ROWS as u64, 0, 0, 0]);
    let refused = proxy.refused();
    assert!(refused > 0, "the test shows nothing");
    // The same rows again, in the same versions.
    let (counts, _) = writer.write_one(batch(&rows())).await.counts();
    assert_eq!(counts, [0, ROWS as u64, 0, 0]);
    assert_eq!(proxy.refused(), refused);
    assert_eq!(count(prefix.url(), &all), ROWS as u64);
}
