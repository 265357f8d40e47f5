//! What only replicas show that copy from one another: `make test-cluster` runs it on a real cluster. The engine of the
//! other tests has no such tables.

use serde_json::Value;
use testkit::{Fleet, FleetProcess, Stack, clickhouse};

use crate::support::*;

/// What the servers of `docker/compose.cluster.yml` call their cluster.
const CLUSTER: &str = "fleet";

#[test]
#[ignore = "needs a replicated cluster: make test-cluster"]
fn what_is_written_to_one_replica_is_on_all_of_them_before_any_dictionary_is_loaded() {
    let _turn = one_at_a_time();
    let stack = configured_on_replicas("");
    let _workers = start(&stack, &stack.fleet);
    let run = publish(&stack, &[]);
    let progress = complete(&stack, &run);
    assert_stores_agree(&stack);
    assert_dictionaries(&stack);
    let sync = stage(&progress, "sync");
    assert_eq!(sync["status"], "passed", "{progress:#}");
}

#[test]
#[ignore = "needs a replicated cluster: make test-cluster"]
fn a_replica_that_lags_is_named_with_its_delay_and_its_shard_waits_until_it_has_caught_up() {
    let _turn = one_at_a_time();
    let stack = configured_on_replicas("[dict_refresher]\nsync_timeout_seconds = 3\n");
    let lagging = stack.database.replicas(0)[1].clone();
    named_until_it_has_caught_up(&stack, &stack.fleet, &lagging);
}

#[test]
#[ignore = "needs a replicated cluster: make test-cluster"]
fn one_statement_on_the_cluster_names_the_replica_that_lags_and_syncs_all_when_it_has_caught_up() {
    let _turn = one_at_a_time();
    let stack = configured_on_replicas("[dict_refresher]\nsync_timeout_seconds = 3\n");
    // The answer to such a statement names the servers as they name each other.
    let hosts = std::env::var("FLEET_CLUSTER_HOSTS")
        .expect("FLEET_CLUSTER_HOSTS is set by `deploy/local/cluster env`");
    let (_, after_first) = hosts.split_once('|').expect("shards have replicas");
    let lagging = after_first.split(',').next().expect("a second replica");
    let on_cluster = stack.fleet.with_variables(&[
        ("FLEET__CLICKHOUSE__CLUSTER", &hosts),
        ("FLEET__DICT_REFRESHER__SYNC_ON_CLUSTER", CLUSTER),
    ]);
    named_until_it_has_caught_up(&stack, &on_cluster, lagging);

    let asked = "SELECT count(DISTINCT host) FROM system.distributed_ddl_queue \
                 WHERE query LIKE '%SYNC REPLICA%{db}%' AND status = 'Finished'";
    assert_eq!(
        stack.database.run(0, asked),
        "4",
        "servers have executed the statement"
    );
}

/// A run while the second replica of shard 0 fetches nothing, up to its end, which comes when it fetches again.
/// `refresher`: configuration of the dict-refresher; `lagging`: the replica as that names it.
fn named_until_it_has_caught_up(stack: &Stack, refresher: &Fleet, lagging: &str) {
    let second = stack.database.replicas(0)[1].clone();
    let fetches = |verb: &str| {
        let sql = format!("SYSTEM {verb} FETCHES {{db}}.keywords_metrics_local");
        stack.database.run_on(&second, &sql);
    };
    fetches("STOP");
    let _workers = start(stack, refresher);
    let run = publish(stack, &[]);
    let late = || {
        let problems = problems(&stage(&progress(stack, &run), "sync"));
        let names_replica = |problem: &String| problem.starts_with("shard 0: replica ");
        problems
            .into_iter()
            .filter(names_replica)
            .collect::<Vec<_>>()
    };
    assert!(eventually(|| !late().is_empty()), "{}", last(stack, &run));
    let named = late();
    assert_eq!(named.len(), 1, "{named:?}");
    assert!(named[0].contains(lagging), "{named:?}");
    assert!(seconds_behind(&named[0]) >= Some(1), "{named:?}");

    // The other shard continues; this one is left as it is, on both replicas.
    assert!(
        eventually(|| dictionary_entries(stack, 1) == keys(stack, 1)),
        "{}",
        last(stack, &run)
    );
    assert_eq!(dictionary_entries(stack, 0), [None, None]);
    let now = progress(stack, &run);
    assert_ne!(stage(&now, "sync")["status"], "passed", "{now:#}");

    fetches("START");
    let end = complete(stack, &run);
    assert_eq!(
        problems(&stage(&end, "sync")),
        Vec::<String>::new(),
        "{end:#}"
    );
    assert_dictionaries(stack);
    assert_stores_agree(stack);
}

fn configured_on_replicas(more: &str) -> Stack {
    let stack = configured(4_000, more);
    for shard in 0..2 {
        let replicas = stack.database.replicas(shard);
        assert_eq!(
            replicas.len(),
            2,
            "this test needs a replicated cluster: make test-cluster"
        );
    }
    stack
}

/// Starts all workers: a ch-writer that writes to the first replica of each shard alone, and a dict-refresher of this
/// configuration.
fn start(stack: &Stack, refresher: &Fleet) -> Vec<FleetProcess> {
    let first = stack.database.shards().join(",");
    let writer = stack
        .fleet
        .with_variables(&[("FLEET__CLICKHOUSE__CLUSTER", &first)]);
    let of = |role: &&str| match *role {
        "ch-writer" => writer.start(role),
        "dict-refresher" => refresher.start(role),
        role => stack.fleet.start(role),
    };
    WORKERS.iter().map(of).collect()
}

fn assert_dictionaries(stack: &Stack) {
    for shard in 0..stack.database.shards().len() {
        assert_eq!(
            dictionary_entries(stack, shard),
            keys(stack, shard),
            "shard {shard}"
        );
    }
}

/// Entries of the dictionary on each replica of a shard; none where there is no such dictionary.
fn dictionary_entries(stack: &Stack, shard: usize) -> Vec<Option<u64>> {
    let sql = format!(
        "SELECT count() FROM {}.keywords_metrics_dict",
        stack.database.name()
    );
    let entries = |replica: &String| match clickhouse::query(replica, &sql) {
        (true, answer) => answer.trim().parse().ok(),
        (false, _) => None,
    };
    stack.database.replicas(shard).iter().map(entries).collect()
}

/// The keys of the source, once for each replica of the shard.
fn keys(stack: &Stack, shard: usize) -> Vec<Option<u64>> {
    let replicas = stack.database.replicas(shard).len();
    vec![Some(expected(stack).keys[shard]); replicas]
}

fn problems(stage: &Value) -> Vec<String> {
    let problems = stage["problems"].as_array().cloned().unwrap_or_default();
    let text = |problem: &Value| problem.as_str().map(str::to_owned);
    problems.iter().filter_map(text).collect()
}

/// The number in "replica … is 12 s behind".
fn seconds_behind(problem: &str) -> Option<u64> {
    let (before, _) = problem.split_once(" s behind")?;
    before.rsplit(' ').next()?.parse().ok()
}

fn last(stack: &Stack, run: &str) -> String {
    format!("{:#}", progress(stack, run))
}
