use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use batch::Message;
use pipeline::broker::{Broker, Confirm, Publication, RabbitMq, Session};
use serde_json::Value;
use testkit::{FleetProcess, Stack};

/// A cycle of some ten thousand rows takes seconds; a loaded machine may take minutes.
const TIMEOUT: Duration = Duration::from_secs(240);

/// One cycle at a time: several at once would only slow each other down, and their timeouts with them.
pub fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

pub const BINARY: &str = env!("CARGO_BIN_EXE_fleet");
pub const WORKERS: [&str; 6] = [
    "fetcher",
    "ch-writer",
    "es-writer",
    "persister",
    "dict-refresher",
    "serp-restarter",
];
/// Programs that see a run from its stores to its end.
pub const CLOSERS: [&str; 3] = ["persister", "dict-refresher", "serp-restarter"];
pub const WRITERS: [&str; 2] = ["ch-writer", "es-writer"];

/// A stack whose tables, indices and pipeline are declared.
pub fn configured(rows: u64, more: &str) -> Stack {
    let stack = Stack::create(BINARY, rows, more);
    configure(&stack);
    stack
}

pub fn configure(stack: &Stack) {
    configure_as(stack, "direct");
}

pub fn configure_as(stack: &Stack, pipeline: &str) {
    stack.fleet.run(&["clickhouse", "configure"]);
    stack.fleet.run(&["elasticsearch", "configure"]);
    stack
        .fleet
        .run(&["pipeline", "configure", "--type", pipeline]);
}

pub fn start_workers(stack: &Stack) -> Vec<FleetProcess> {
    WORKERS.iter().map(|role| stack.fleet.start(role)).collect()
}

/// Publishes a run; answers with its name.
pub fn publish(stack: &Stack, options: &[&str]) -> String {
    stack.fleet.run(&[&["run", "queuer"], options].concat());
    let runs = stack.fleet.json(&["runs", "list"]);
    let runs = runs["runs"].as_array().cloned().unwrap_or_default();
    let names = runs.iter().filter_map(|run| run["run"].as_str());
    names.max().expect("the run is on the ledger").to_owned()
}

/// The progress of a run by the ledger.
pub fn progress(stack: &Stack, run: &str) -> Value {
    stack.fleet.json(&["runs", "show", run])
}

/// Waits until the run is complete; returns its progress.
pub fn complete(stack: &Stack, run: &str) -> Value {
    let progress = || progress(stack, run);
    let done = eventually(|| {
        progress()["status"]
            .as_str()
            .is_some_and(|s| s.starts_with("complete"))
    });
    let last = progress();
    assert!(done, "run {run} is not complete: {last:#}");
    last
}

/// What became of a stage of a run.
pub fn stage(progress: &Value, name: &str) -> Value {
    let stages = progress["stages"].as_array().cloned().unwrap_or_default();
    let mut stages = stages.into_iter();
    stages
        .find(|stage| stage["stage"] == name)
        .unwrap_or_default()
}

/// Waits until a stage of the run has this status; returns the progress of the run.
pub fn until_stage(stack: &Stack, run: &str, name: &str, status: &str) -> Value {
    let reached = || stage(&progress(stack, run), name)["status"] == status;
    let done = eventually(reached);
    let last = progress(stack, run);
    assert!(done, "stage {name} of run {run} is not {status}: {last:#}");
    last
}

pub fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + TIMEOUT;
    while Instant::now() < deadline {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    false
}

/// Rows of the source, keys of it, and keys that Elasticsearch must refuse.
pub struct Expected {
    pub keys: Vec<u64>,
    pub refused: u64,
    pub lite: u64,
}

pub fn expected(stack: &Stack) -> Expected {
    let latest = "(SELECT argMax(processed_volume, changed_at) AS volume FROM {db}.keywords_data_local GROUP BY country, keyword)";
    let shards = 0..stack.database.shards().len();
    let count = |shard: usize, what: &str| -> u64 {
        let sql = format!("SELECT {what} FROM {latest}");
        stack.database.run(shard, &sql).parse().expect("a count")
    };
    let sum = |what: &str| shards.clone().map(|shard| count(shard, what)).sum();
    Expected {
        keys: shards
            .clone()
            .map(|shard| count(shard, "count()"))
            .collect(),
        refused: sum("countIf(volume > 9223372036854775807)"),
        lite: sum("countIf(volume BETWEEN 100 AND 9223372036854775807)"),
    }
}

pub fn documents(stack: &Stack, index: &str) -> u64 {
    stack.indices.api("POST", &format!("{index}/_refresh"), "");
    stack.indices.api("GET", &format!("{index}/_count"), "")["count"]
        .as_u64()
        .expect("a count")
}

/// Counts in both stores and compares with the source.
pub fn assert_stores_agree(stack: &Stack) {
    let expected = expected(stack);
    for (shard, keys) in expected.keys.iter().enumerate() {
        let sql = "SELECT count() FROM {db}.keywords_metrics_local FINAL";
        for found in stack.database.on_replicas(shard, sql) {
            assert_eq!(found, keys.to_string(), "ClickHouse shard {shard}");
        }
    }
    let [all, lite] = stack.index_names();
    let keys: u64 = expected.keys.iter().sum();
    assert_eq!(
        documents(stack, &all),
        keys - expected.refused,
        "index {all}"
    );
    assert_eq!(documents(stack, &lite), expected.lite, "index {lite}");
}

/// Messages in a queue, read through the management interface without removing them: headers and payload.
pub fn peek(stack: &Stack, queue: &str) -> Vec<Value> {
    let path = format!("queues/{}/{queue}/get", stack.host.name());
    let request = r#"{"count":1000,"ackmode":"ack_requeue_true","encoding":"base64"}"#;
    let answer = stack.host.api("POST", &path, request);
    serde_json::from_str(&answer).expect("the management interface answers in JSON")
}

pub async fn connect(stack: &Stack) -> Session {
    let broker = Broker::RabbitMq(RabbitMq::new(stack.host.url()).unwrap());
    broker.connect("test").await.unwrap()
}

/// Publishes a message to a queue, up to the confirm.
#[tokio::main(flavor = "current_thread")]
pub async fn send(stack: &Stack, queue: &str, message: Message) {
    let session = connect(stack).await;
    let publication = Publication::to_queue(queue.to_owned(), message);
    let answer = session.publisher.publish(publication).await.unwrap();
    assert_eq!(answer.await.unwrap(), Confirm::Stored);
    session.close().await;
}

/// Copies of all messages of a queue, which stay there.
#[tokio::main(flavor = "current_thread")]
pub async fn copies(stack: &Stack, queue: &str) -> Vec<Message> {
    let session = connect(stack).await;
    let length = session.queue_length(queue).await.unwrap();
    let mut subscription = session.subscribe(queue, 1000).await.unwrap();
    let mut messages = Vec::new();
    for _ in 0..length {
        messages.push(subscription.deliveries.recv().await.unwrap().message);
    }
    session.close().await;
    messages
}
