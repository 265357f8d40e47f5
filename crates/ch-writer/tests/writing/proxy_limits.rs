//! A proxy before ClickHouse with limits of its own.

use batch::REASON_COLUMN;
use testkit::{LimitingProxy, ProxyLimits};

use crate::all_done;
use crate::support::{Tables, Written, texts, write};

/// As nginx has it by default, for bodies.
const URL_BYTES: usize = 8 << 10;

async fn proxy_of(tables: &Tables, body_bytes: usize) -> LimitingProxy {
    let server = tables.database.shards()[0].clone();
    let limits = ProxyLimits {
        url_bytes: URL_BYTES,
        body_bytes,
    };
    LimitingProxy::to(server.trim_start_matches("http://"), limits).await
}

#[tokio::test]
async fn an_insert_that_is_too_large_for_a_proxy_is_halved_and_the_size_is_remembered() {
    let mut tables = Tables::create(8000).await;
    let first = tables.batches("processed_volume < 4000", 1000).await;
    let second = tables.batches("processed_volume >= 4000", 1000).await;
    // About a fifth of a batch.
    let proxy = proxy_of(&tables, first[0].body.len() / 5).await;
    tables.target.cluster = proxy.url();
    let writer = tables.writer();
    let written = write(&tables.app, &writer, &first).await;
    assert!(all_done(&written));
    let stored: u64 = written.iter().map(|w| w.rows().unwrap().stored).sum();
    assert_eq!(stored, 4000);
    let refused = proxy.refused();
    assert!(
        (1..=8).contains(&refused),
        "{refused} requests were refused"
    );
    assert!(all_done(&write(&tables.app, &writer, &second).await));
    assert_eq!(tables.differences("1"), "");
    assert_eq!(proxy.refused(), refused);
}

#[tokio::test]
async fn one_row_that_is_too_large_for_a_proxy_is_refused_with_its_answer() {
    let mut tables = Tables::create(2000).await;
    tables.run(
        "INSERT INTO {db}.source SELECT 'us', concat('huge ', randomPrintableASCII(100000)), 5000,
             NULL, [], toDateTime64('2026-01-01 00:00:00', 3, 'UTC') SETTINGS async_insert = 0",
    );
    let batches = tables.batches("1", 3000).await;
    let proxy = proxy_of(&tables, 50_000).await;
    tables.target.cluster = proxy.url();
    let written = tables.write(&batches).await;
    assert!(all_done(&written));
    let all: u64 = written.iter().map(|w| w.rows().unwrap().total()).sum();
    let refused: u64 = written.iter().map(|w| w.rows().unwrap().quarantined).sum();
    assert_eq!((all, refused), (2001, 1));
    assert_eq!(tables.differences("processed_volume < 2000"), "");
    let quarantined = written.iter().filter_map(Written::quarantined);
    let reasons: Vec<String> = quarantined
        .flat_map(|message| texts(&message.body, REASON_COLUMN))
        .collect();
    assert_eq!(reasons.len(), 1);
    for part in ["413", "Request Entity Too Large", "limit"] {
        assert!(reasons[0].contains(part), "{reasons:?}");
    }
}
