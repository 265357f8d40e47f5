//! What a controller has in the broker, by what the type makes of it.

use std::collections::BTreeSet;

use serde_json::json;

use super::*;

fn queues_of(topology: &Topology, program: &str) -> BTreeSet<String> {
    let objects = desired(
        topology,
        &PipelineSettings::default(),
        &RetrySchedule::default(),
    );
    let queues = objects.queues.into_iter();
    let own = queues.filter(|queue| queue.program == program);
    own.map(|queue| queue.name).collect()
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

#[test]
fn a_controller_without_an_input_has_its_lease_alone() {
    for pipeline in ["direct", "clickhouse-only", "elasticsearch-only"] {
        let topology = built_in(pipeline);
        assert!(!topology.has_input("persister"), "{pipeline}");
        let queues = queues_of(&topology, "persister");
        assert_eq!(queues, set(["persister-lease"]), "{pipeline}");
    }
}

#[test]
fn a_controller_that_holds_the_batches_has_the_queues_of_a_worker_too() {
    let batched = built_in("batched");
    assert!(batched.has_input("persister"));
    let queues = queues_of(&batched, "persister");
    let wanted = [
        "persister-lease",
        "persister-in",
        "persister-quar",
        "persister-delay-10s",
        "persister-delay-1m",
        "persister-delay-10m",
        "persister-delay-1h",
    ];
    assert_eq!(queues, set(wanted));
    assert!(edges(&batched).contains(&"fetcher.batches -> persister".to_owned()));
    let readers: Vec<&str> = batched.readers("persister", "batches").collect();
    assert_eq!(readers, ["ch-writer", "es-writer"]);
}

#[test]
fn only_the_optional_outputs_of_a_controller_may_be_left_unread() {
    let own = |flow: &str| {
        let text = format!("[own]\nabout = ''\nflow = [{flow}]\n");
        parsed(&text).unwrap().check()
    };
    let complete = "'queuer.tasks -> fetcher', 'fetcher.batches -> ch-writer', \
                    'persister.records -> runs', '*.receipts -> ledger'";
    assert_eq!(own(complete), []);
    let problems = own(&complete.replace(
        "'persister.records -> runs', ",
        "'persister.orders -> dict-refresher', \
                    'dict-refresher.orders -> serp-restarter', ",
    ));
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("records"), "{problems:?}");
}

#[test]
fn batches_that_are_held_may_be_delivered_without_end() {
    let objects = desired(
        &built_in("batched"),
        &PipelineSettings::default(),
        &RetrySchedule::default(),
    );
    let limit = |name: &str| {
        let policy = objects.policies.iter().find(|policy| policy.name == name);
        policy.unwrap().definition["delivery-limit"].clone()
    };
    assert_eq!(limit("fleet-persister-in"), json!(1_000_000_000));
    assert_eq!(limit("fleet-fetcher-in"), json!(20));
}
