//! A run that proves itself: gates, held batches, dictionaries and the SERP service, every program its own process.

use std::time::Duration;

use serde_json::Value;
use testkit::serp::{Prober, Supervisor, free_ports};
use testkit::{Hub, Stack, clickhouse};

use crate::support::*;

/// Not a test: what the supervisors of the tests here start for each port, in a process of its own.
#[test]
fn serp_process() {
    testkit::serp::main();
}

const SERP_PROCESS: [&str; 2] = ["proof::serp_process", "--exact"];

/// A stack with a SERP node of two ports a shard.
struct ServedRun {
    stack: Stack,
    nodes: Vec<Supervisor>,
}

impl ServedRun {
    fn create(rows: u64, pipeline: &str, more: &str) -> Self {
        let ports: Vec<Vec<u16>> = (0..2).map(|_| free_ports(2)).collect();
        let node = |ports: &Vec<u16>| format!("[\"127.0.0.1:{},{}\"]", ports[0], ports[1]);
        let nodes: Vec<String> = ports.iter().map(node).collect();
        let serp = format!(
            "[serp]\nnodes = [{}]\nback_timeout_seconds = 30\n{more}",
            nodes.join(", ")
        );
        let stack = Stack::create(BINARY, rows, &serp);
        configure_as(&stack, pipeline);
        let shards = stack.database.shards().iter();
        let start = |(address, ports): (&String, &Vec<u16>)| {
            let source = format!("{address}/{}.keywords_metrics_dict", stack.database.name());
            let node = Supervisor::start(&SERP_PROCESS, ports, &source);
            node.wait_until_up(Duration::from_secs(60));
            node
        };
        let nodes = shards.zip(&ports).map(start).collect();
        Self { stack, nodes }
    }

    fn version(port: u16) -> i64 {
        let (_, answer) = testkit::http("GET", &format!("http://127.0.0.1:{port}/version"), "");
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        answer["version"].as_i64().unwrap_or(-1)
    }

    /// Asserts that every port serves this version.
    fn assert_served(&self, version: i64) {
        for (shard, node) in self.nodes.iter().enumerate() {
            for port in node.ports() {
                assert_eq!(Self::version(port), version, "shard {shard}, port {port}");
            }
        }
    }

    /// Asserts that the dictionaries have what the tables have.
    fn assert_dictionaries(&self) {
        for (shard, keys) in expected(&self.stack).keys.iter().enumerate() {
            let sql = "SELECT count() FROM {db}.keywords_metrics_dict";
            for entries in self.stack.database.on_replicas(shard, sql) {
                assert_eq!(entries, keys.to_string(), "shard {shard}");
            }
        }
    }
}

fn version_of(progress: &Value) -> i64 {
    progress["started"]["until_ms"]
        .as_i64()
        .expect("a run has an end")
}

#[test]
fn a_run_goes_from_the_hub_to_every_port_of_the_serp_service_which_answers_all_the_time() {
    let _turn = one_at_a_time();
    let served = ServedRun::create(8_000, "direct", "");
    let stack = &served.stack;
    let _workers = start_workers(stack);
    let first = publish(stack, &[]);
    let progress = complete(stack, &first);
    served.assert_dictionaries();
    served.assert_served(version_of(&progress));

    // A keyword's new volume, with readers on the service and on the dictionary all the while.
    let probers: Vec<Prober> = served
        .nodes
        .iter()
        .map(|node| Prober::start(&node.ports(), "/version"))
        .collect();
    let reader = DictionaryReader::start(stack);
    stack.hub.change(10);
    let second = publish(stack, &[]);
    let progress = complete(stack, &second);
    served.assert_served(version_of(&progress));
    for prober in probers {
        let probed = prober.stop();
        assert!(probed.asked > 0 && probed.failed == 0, "{probed:?}");
        assert!(probed.most_down <= 1, "{probed:?}");
    }
    let (read, failed) = reader.stop();
    assert!(read > 0, "the dictionary was read");
    assert_eq!(failed, Vec::<String>::new());
    for name in [
        "plan",
        "fetch",
        "ch-writer",
        "es-writer",
        "sync",
        "dictionary",
        "serp",
    ] {
        assert_eq!(stage(&progress, name)["status"], "passed", "{progress:#}");
    }

    // Nothing changed: nothing is refreshed or restarted.
    let starts = || -> u32 {
        let node_answers = |node: &Supervisor| {
            node.ports()
                .into_iter()
                .map(|port| node.starts(port))
                .sum::<u32>()
        };
        served.nodes.iter().map(node_answers).sum()
    };
    let before = starts();
    let third = publish(stack, &[]);
    let progress = complete(stack, &third);
    if progress["rows_fetched"] == 0 {
        assert_eq!(
            stage(&progress, "serp")["status"],
            "skipped",
            "{progress:#}"
        );
        assert_eq!(starts(), before, "no port was restarted");
    }
}

/// Reads one entry of the dictionary on each replica of each shard in a tight loop.
struct DictionaryReader {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: std::thread::JoinHandle<(u64, Vec<String>)>,
}

impl DictionaryReader {
    fn start(stack: &Stack) -> Self {
        let name = format!("{}.keywords_metrics_dict", stack.database.name());
        let table = format!("{}.keywords_metrics_local", stack.database.name());
        let shards = 0..stack.database.shards().len();
        let replicas: Vec<String> = shards
            .flat_map(|shard| stack.database.replicas(shard).to_vec())
            .collect();
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let (mut read, mut failed) = (0, Vec::new());
            while !stopped.load(std::sync::atomic::Ordering::SeqCst) {
                for replica in &replicas {
                    let sql = format!(
                        "SELECT dictHas('{name}', (country, keyword)) FROM {table} ORDER BY keyword LIMIT 1"
                    );
                    match clickhouse::query(replica, &sql) {
                        (true, answer) if answer.trim() == "1" => read += 1,
                        (_, answer) => failed.push(answer),
                    }
                }
            }
            (read, failed)
        });
        Self { stop, thread }
    }

    fn stop(self) -> (u64, Vec<String>) {
        self.stop.store(true, std::sync::atomic::Ordering::SeqCst);
        self.thread.join().expect("the reader does not panic")
    }
}

#[test]
fn persister_dict_refresher_and_serp_restarter_killed_again_and_again_lose_no_step() {
    let _turn = one_at_a_time();
    let served = ServedRun::create(8_000, "direct", "");
    let stack = &served.stack;
    let _writers = ["fetcher", "ch-writer", "es-writer"].map(|role| stack.fleet.start(role));
    let run = publish(stack, &[]);
    let mut closers = CLOSERS.map(|closer| stack.fleet.start(closer));
    let is_over = || {
        !matches!(
            progress(stack, &run)["status"].as_str(),
            Some("planning" | "running")
        )
    };
    for round in 0..12 {
        // Each time at another point of their work.
        std::thread::sleep(Duration::from_millis(150 + round * 170));
        if is_over() {
            break;
        }
        let victim = (round % 3) as usize;
        closers[victim].kill();
        closers[victim] = stack.fleet.start(CLOSERS[victim]);
    }
    let progress = complete(stack, &run);
    served.assert_dictionaries();
    served.assert_served(version_of(&progress));
    assert_stores_agree(stack);
    for (shard, node) in served.nodes.iter().enumerate() {
        for port in node.ports() {
            // Once when the test began, once for the run, and once more for a kill between an exit and its success.
            assert!(
                node.starts(port) <= 4,
                "shard {shard}, port {port}: {}",
                node.starts(port)
            );
        }
    }
}

#[test]
fn a_batched_run_writes_nothing_before_it_is_read_whole_and_then_all_of_it() {
    let _turn = one_at_a_time();
    let stack = Stack::create(BINARY, 20_000, "[fetcher]\nconcurrency = 1\nprefetch = 1\n");
    configure_as(&stack, "batched");
    let mut workers = start_workers(&stack);
    let run = publish(&stack, &[]);
    let in_the_middle = eventually(|| progress(&stack, &run)["tasks_fetched"].as_u64() > Some(0));
    assert!(in_the_middle);
    // Killed in the middle of the fetching: its task is read again, by another attempt.
    workers[0].kill();
    workers[0] = stack.fleet.start("fetcher");
    let early = progress(&stack, &run);
    if stage(&early, "fetch")["status"] != "passed" {
        for store in WRITERS {
            assert_eq!(stage(&early, store)["done"], 0, "{early:#}");
        }
    }
    let progress = complete(&stack, &run);
    assert_stores_agree(&stack);
    assert_eq!(progress["rows_fetched"], 20_000);
    assert!(eventually(|| peek(&stack, "persister-in").is_empty()));
    assert_eq!(peek(&stack, "persister-quar").len(), 0);
}

#[test]
fn a_rejected_run_touches_no_store_and_its_batches_are_released_when_it_is_approved() {
    let _turn = one_at_a_time();
    let stack = Stack::create(BINARY, 4_000, "");
    configure_as(&stack, "batched");
    let _others = WORKERS[1..]
        .iter()
        .map(|role| stack.fleet.start(role))
        .collect::<Vec<_>>();
    // No fetcher runs before the deadline.
    let run = publish(&stack, &["--gate", "deadline_seconds=2"]);
    let rejected = eventually(|| progress(&stack, &run)["status"] == "rejected");
    assert!(rejected, "{:#}", progress(&stack, &run));
    let _fetcher = stack.fleet.start("fetcher");
    let held = || -> u64 {
        let rows = |m: &Value| m["properties"]["headers"]["fleet-rows"].as_u64();
        peek(&stack, "persister-quar").iter().filter_map(rows).sum()
    };
    assert!(
        eventually(|| held() == 4_000),
        "{} rows in quarantine",
        held()
    );
    let shown = stack.fleet.run(&["runs", "show", &run]);
    assert!(
        shown.contains("past its deadline") && shown.contains("deadline_seconds=2"),
        "{shown}"
    );
    for shard in 0..2 {
        let sql = "SELECT count() FROM {db}.keywords_metrics_local";
        for found in stack.database.on_replicas(shard, sql) {
            assert_eq!(found, "0", "shard {shard}");
        }
    }

    // Every task is read by now: nothing else is wrong with the run.
    let refused = stack.fleet.output(&[
        "runs", "approve", &run, "--stage", "fletch", "--reason", "typo",
    ]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("its stages are plan, fetch"));
    let approve = |stage: &str| {
        let reason = ["--reason", "the fetchers were down", "--who", "ada"];
        let words = ["runs", "approve", &run, "--stage", stage];
        stack.fleet.run(&[&words[..], &reason].concat());
    };
    approve("fetch");
    let whole = eventually(|| {
        let stored = |shard| {
            stack.database.run(
                shard,
                "SELECT count() FROM {db}.keywords_metrics_local FINAL",
            )
        };
        let found: Vec<String> = (0..2).map(stored).collect();
        let keys: Vec<String> = expected(&stack).keys.iter().map(u64::to_string).collect();
        found == keys
    });
    assert!(whole, "{:#}", progress(&stack, &run));
    assert!(eventually(|| peek(&stack, "persister-quar").is_empty()));
    let fetch = stage(&progress(&stack, &run), "fetch");
    assert_eq!(fetch["by"], "ada", "{fetch:#}");
}

#[test]
fn both_kinds_of_pipeline_run_side_by_side_on_one_broker() {
    let _turn = one_at_a_time();
    let direct = configured(5_000, "");
    let batched = Stack::create(BINARY, 5_000, "");
    configure_as(&batched, "batched");
    let _workers = [start_workers(&direct), start_workers(&batched)];
    let runs = [publish(&direct, &[]), publish(&batched, &[])];
    for (stack, run) in [&direct, &batched].into_iter().zip(&runs) {
        complete(stack, run);
        assert_stores_agree(stack);
    }
    assert!(runs[0].starts_with("direct-") && runs[1].starts_with("batched-"));
}

#[test]
fn what_one_store_missed_is_sent_again_and_the_other_has_it_already() {
    let _turn = one_at_a_time();
    let stack = configured(4_000, "[queuer]\nchange_overlap_seconds = 0\n");
    let _workers = start_workers(&stack);
    let first = publish(&stack, &[]);
    complete(&stack, &first);
    stack.hub.change(4);
    // The gate of Elasticsearch has a rule that its refused rows do not pass; ClickHouse passes, and its stages follow.
    let second = publish(
        &stack,
        &[
            "--full",
            "--gate",
            "es-writer.max_rejected_row_ratio=0.0001",
        ],
    );
    let rejected = eventually(|| progress(&stack, &second)["status"] == "rejected");
    let last = progress(&stack, &second);
    assert!(rejected, "{last:#}");
    assert_eq!(stage(&last, "es-writer")["status"], "rejected");
    for name in ["ch-writer", "dictionary"] {
        assert_eq!(stage(&last, name)["status"], "passed", "{last:#}");
    }
    let listed = stack.fleet.json(&["runs", "list"]);
    let runs = listed["runs"].as_array().unwrap();
    assert!(
        runs.last().unwrap()["skew_seconds"].as_f64().unwrap() > 0.0,
        "{listed:#}"
    );

    // The next cycle begins where the last one passed in both, so the changes are in it once more.
    let third = publish(&stack, &[]);
    let progress = complete(&stack, &third);
    let read = progress["rows_fetched"].as_u64().unwrap();
    assert!(read >= 900, "the changes since the first run: {read} rows");
    let es = crate::cycle::store(&progress, "es-writer");
    assert_eq!(es["rows"]["unchanged"], read, "{progress:#}");
    assert_eq!(Hub::REFUSED, 25);
    let listed = stack.fleet.json(&["runs", "list"]);
    let runs = listed["runs"].as_array().unwrap();
    assert_eq!(runs.last().unwrap()["skew_seconds"], 0.0, "{listed:#}");
}
