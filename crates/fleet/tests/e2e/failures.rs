//! What a cycle survives.

use std::process::Stdio;

use testkit::{PrivateBroker, Stack, VirtualHost};

use crate::support::*;

/// Waits until some, but not all, of the run's batches are stored by every store.
fn in_the_middle(stack: &Stack, run: &str) {
    let reached = eventually(|| {
        let progress = progress(stack, run);
        let stores = progress["stores"].as_array().cloned().unwrap_or_default();
        stores
            .iter()
            .any(|store| store["rows_accounted"].as_u64().unwrap_or(0) > 0)
    });
    assert!(reached, "nothing is stored: {:#}", progress(stack, run));
}

#[test]
fn killed_workers_lose_no_row() {
    let _turn = one_at_a_time();
    let stack = configured(60_000, "[fetcher]\nconcurrency = 1\nprefetch = 1\n");
    let mut workers = start_workers(&stack);
    let run = publish(&stack, &[]);
    in_the_middle(&stack, &run);
    for (worker, role) in workers.iter_mut().zip(WORKERS) {
        worker.kill();
        *worker = stack.fleet.start(role);
    }
    complete(&stack, &run);
    assert_stores_agree(&stack);
}

#[test]
fn a_broker_that_restarts_loses_no_row() {
    let _turn = one_at_a_time();
    let broker = PrivateBroker::start(23_000);
    let host = VirtualHost::on(broker.services());
    let stack = Stack::on(
        host,
        BINARY,
        60_000,
        "[fetcher]\nconcurrency = 1\nprefetch = 1\n",
    );
    configure(&stack);
    let mut workers = start_workers(&stack);
    let run = publish(&stack, &[]);
    in_the_middle(&stack, &run);
    broker.restart();
    complete(&stack, &run);
    assert_stores_agree(&stack);
    for worker in &mut workers {
        assert!(
            worker.ended().is_none(),
            "a worker gave up: {}",
            worker.log()
        );
    }
}

#[test]
fn batches_above_the_brokers_limit_are_named_with_both_sizes_and_cut_smaller() {
    let _turn = one_at_a_time();
    let broker = PrivateBroker::start_with(23_100, "max_message_size = 20000");
    let stack = Stack::on(VirtualHost::on(broker.services()), BINARY, 5_000, "");
    configure(&stack);
    let workers = start_workers(&stack);
    let run = publish(&stack, &[]);
    complete(&stack, &run);
    assert_stores_agree(&stack);
    let told = "it takes 20000 at most (max_message_size)";
    let named = workers.iter().any(|worker| worker.log().contains(told));
    assert!(named, "no program names the limit");
}

#[test]
fn a_replica_that_is_down_is_done_without() {
    let _turn = one_at_a_time();
    let stack = configured(5_000, "");
    // Nothing listens on the first ports: machines that are down.
    let shards = stack.database.shards().iter().enumerate();
    let with_dead = |(n, shard): (usize, &String)| format!("http://127.0.0.1:{}|{shard}", n + 1);
    let cluster: Vec<String> = shards.map(with_dead).collect();
    let set = |key: &str| format!("{key}.cluster={}", cluster.join(","));
    let (source, target) = (set("source"), set("clickhouse"));
    let options = ["--set", &source, "--set", &target];
    let start = |role: &&str| {
        let mut worker = stack
            .fleet
            .command(&[&options[..], &["run", role]].concat());
        let worker = worker.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Background(worker.expect("the binary can be run"))
    };
    let _workers: Vec<Background> = WORKERS.iter().map(start).collect();
    let run = publish(&stack, &options);
    for store in WRITERS {
        until_stage(&stack, &run, store, "passed");
    }
    assert_stores_agree(&stack);
    // A dictionary goes live on all replicas or on none: the run waits for the dead ones, and names them.
    let named = eventually(|| {
        let progress = progress(&stack, &run);
        let problems =
            ["sync", "dictionary"].map(|name| stage(&progress, name)["problems"].to_string());
        problems
            .iter()
            .any(|problems| problems.contains("127.0.0.1:1"))
    });
    assert!(named, "{:#}", progress(&stack, &run));
}

struct Background(std::process::Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_stopped_worker_exits_with_0_and_leaves_the_rest_to_the_next() {
    let _turn = one_at_a_time();
    let stack = configured(60_000, "[fetcher]\nconcurrency = 1\nprefetch = 1\n");
    let mut workers = start_workers(&stack);
    let run = publish(&stack, &[]);
    in_the_middle(&stack, &run);
    for (worker, role) in workers.iter_mut().zip(WORKERS) {
        let ended = worker.terminate(std::time::Duration::from_secs(40));
        assert!(
            ended.is_some_and(|status| status.success()),
            "{role}: {}",
            worker.log()
        );
        *worker = stack.fleet.start(role);
    }
    complete(&stack, &run);
    assert_stores_agree(&stack);
}

#[test]
fn an_index_blocked_for_writing_pauses_the_writer_and_nothing_is_quarantined() {
    let _turn = one_at_a_time();
    let stack = configured(5_000, "");
    let [all, _] = stack.index_names();
    let block = |on: bool| {
        let body = format!(
            r#"{{"index.blocks.read_only_allow_delete": {}}}"#,
            if on { "true" } else { "null" }
        );
        stack.indices.api("PUT", &format!("{all}/_settings"), &body);
    };
    block(true);
    let workers = start_workers(&stack);
    let run = publish(&stack, &[]);
    let logged =
        eventually(|| workers[2].log().contains(&all) && workers[2].log().contains("block"));
    assert!(logged, "{}", workers[2].log());
    block(false);
    complete(&stack, &run);
    assert_stores_agree(&stack);
    let reasons: Vec<_> = peek(&stack, "es-writer-quar")
        .iter()
        .map(|message| message["properties"]["headers"]["fleet-reason"].clone())
        .collect();
    assert!(
        reasons.iter().all(|reason| reason == "refused-rows"),
        "{reasons:?}"
    );
}
