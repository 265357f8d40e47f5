//! Readers of the dictionary while it is refreshed, as fast as they can.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pipeline::Outcome;

use crate::support::{KEYS, Tables};

/// Reads key 0 in a tight loop. Answers with the versions that it saw, in their order, and the number of reads.
async fn read(server: String, database: String, stop: Arc<AtomicBool>) -> (Vec<i64>, u64) {
    // One call for both attributes: of one dictionary, whichever it is.
    let sql = format!(
        "SELECT dictGet('{database}.metrics', ('volume', 'version'), ('de', '0')) AS r, tupleElement(r, 1), \
         tupleElement(r, 2) FORMAT TSV"
    );
    let client = reqwest::Client::new();
    let (mut versions, mut reads) = (Vec::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        let answer = client.post(&server).body(sql.clone()).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "a read failed: {text}");
        let fields: Vec<i64> = text
            .trim()
            .split('\t')
            .skip(1)
            .map(|f| f.parse().unwrap())
            .collect();
        assert_eq!(
            fields[0], fields[1],
            "half of one dictionary and half of another: {text}"
        );
        if versions.last() != Some(&fields[1]) {
            versions.push(fields[1]);
        }
        reads += 1;
    }
    (versions, reads)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_read_fails_or_finds_nothing_while_dictionaries_are_exchanged() {
    let mut tables = Tables::create();
    tables.as_replicas();
    assert_eq!(tables.refresh(0, 10).await.outcome, Outcome::Done);
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..4)
        .map(|n| {
            let server = tables.database.shards()[n % 2].clone();
            tokio::spawn(read(
                server,
                tables.database.name().to_owned(),
                stop.clone(),
            ))
        })
        .collect();
    let versions: Vec<i64> = (2..=12).map(|n| n * 10).collect();
    for version in &versions {
        for server in 0..2 {
            tables.insert(server, *version, 0..KEYS);
        }
        assert_eq!(tables.refresh(0, *version).await.outcome, Outcome::Done);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let all: Vec<i64> = [10].into_iter().chain(versions).collect();
    for reader in readers {
        let (seen, reads) = reader.await.unwrap();
        assert_eq!(seen, all, "every version, each once, in its order");
        assert!(reads > 100, "only {reads} reads");
    }
}
