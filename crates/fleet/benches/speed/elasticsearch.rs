//! The Elasticsearch path against a driver that sends the same documents, encoded beforehand.
//!
//! The documents are those that a first run of the fleet has left in the indices. The driver sends them in
//! requests of as many rows, as many at a time, through the same client, and checks every answer.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use es_writer::EsWriterSettings;
use serde_json::{Value, json};
use stores::elasticsearch::{Client, ElasticsearchSettings, ItemResult};
use testkit::{Hub, Stack};
use tokio::task::JoinSet;

use crate::figure::{Figure, median};
use crate::line::{Cycle, Line, cpu_figures};

const ROWS: u64 = 200_000;
const ROUNDS: usize = 3;
/// Documents of one page while they are read back.
const PAGE: usize = 5_000;

/// One bulk request: the index, and the body.
type Bulk = (String, Bytes);

pub fn run() -> Vec<Figure> {
    let line = Line::create("elasticsearch-only", &["fetcher", "es-writer"], ROWS);
    line.renew_indices();
    // Warms Elasticsearch up, and leaves the documents for the driver.
    line.cycle();
    let bulks = Arc::new(bulks(&line.stack));
    let mut limits = Vec::new();
    let mut cycles = Vec::new();
    // In turn, so that both see the machine in the same state.
    for _ in 0..ROUNDS {
        line.renew_indices();
        limits.push(drive(&line.stack, &bulks));
        line.renew_indices();
        cycles.push(line.cycle());
    }
    let path = "elasticsearch path";
    let rates = cycles.iter().map(Cycle::rate).collect();
    let mut figures = vec![Figure::against(
        path,
        "rows/s",
        median(rates),
        median(limits),
        ">=0.9",
    )];
    figures.extend(cpu_figures(path, &cycles));
    figures
}

/// The documents of both indices as bulk requests, those of the same rows next to each other.
fn bulks(stack: &Stack) -> Vec<Bulk> {
    let [all, lite] = stack.index_names();
    let documents = actions(stack, &all);
    assert_eq!(
        documents.len() as u64,
        ROWS - Hub::REFUSED - Hub::SUPERSEDED
    );
    let rows = EsWriterSettings::default().bulk_rows;
    let requests = documents.len().div_ceil(rows);
    let few = actions(stack, &lite);
    let index_bulks = |index: &str, documents: Vec<Vec<u8>>| -> Vec<Bulk> {
        // An index that takes fewer rows gets smaller requests, and as many.
        let size = documents.len().div_ceil(requests);
        let bodies = documents.chunks(size).map(|chunk| chunk.concat().into());
        bodies.map(|body| (index.to_owned(), body)).collect()
    };
    let pairs = index_bulks(&all, documents)
        .into_iter()
        .zip(index_bulks(&lite, few));
    pairs.flat_map(|(all, lite)| [all, lite]).collect()
}

/// Action line and document of everything in an index.
fn actions(stack: &Stack, index: &str) -> Vec<Vec<u8>> {
    let api = |path: &str, body: Value| stack.indices.api("POST", path, &body.to_string());
    stack.indices.api("POST", &format!("{index}/_refresh"), "");
    let first = json!({"size": PAGE, "sort": ["_doc"], "version": true});
    let mut page = api(&format!("{index}/_search?scroll=1m"), first);
    let mut actions = Vec::new();
    loop {
        let hits = page["hits"]["hits"]
            .as_array()
            .expect("a page of documents");
        if hits.is_empty() {
            return actions;
        }
        actions.extend(hits.iter().map(|hit| {
            let (id, version) = (&hit["_id"], &hit["_version"]);
            let action =
                json!({"index": {"_id": id, "version": version, "version_type": "external"}});
            format!("{action}\n{}\n", hit["_source"]).into_bytes()
        }));
        let next = json!({"scroll": "1m", "scroll_id": page["_scroll_id"]});
        page = api("_search/scroll", next);
    }
}

/// Rows a second.
fn drive(stack: &Stack, bulks: &Arc<Vec<Bulk>>) -> f64 {
    let settings = ElasticsearchSettings {
        urls: vec![stack.indices.url().to_owned()],
        ..ElasticsearchSettings::default()
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    runtime.block_on(async {
        let client = Client::new(&settings).expect("Elasticsearch's address");
        let started = Instant::now();
        let mut sending = JoinSet::new();
        for n in 0..bulks.len() {
            if sending.len() == EsWriterSettings::default().options.concurrency {
                sending
                    .join_next()
                    .await
                    .expect("some are sent")
                    .expect("it does not panic");
            }
            let (client, bulks) = (client.clone(), bulks.clone());
            sending.spawn(async move {
                let (index, body) = &bulks[n];
                let results = client.bulk(index, body.clone()).await;
                let results = results.expect("Elasticsearch takes it");
                assert!(results.iter().all(|v| *v == ItemResult::Stored), "{index}");
            });
        }
        sending.join_all().await;
        ROWS as f64 / started.elapsed().as_secs_f64()
    })
}
