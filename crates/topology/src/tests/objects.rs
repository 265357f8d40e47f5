use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use super::*;

fn objects_of(topology: &Topology) -> Desired {
    desired(
        topology,
        &PipelineSettings::default(),
        &RetrySchedule::default(),
    )
}

#[test]
fn the_objects_of_every_built_in_type_are_these() {
    for pipeline in ["direct", "batched", "clickhouse-only", "elasticsearch-only"] {
        let objects = objects_of(&built_in(pipeline));
        let text = serde_json::to_string_pretty(&objects).unwrap() + "\n";
        assert_golden(&format!("{pipeline}.json"), &text);
    }
}

#[test]
fn every_queue_has_exactly_one_policy_and_every_policy_a_queue() {
    let objects = objects_of(&built_in("batched"));
    let names: BTreeSet<&str> = objects
        .policies
        .iter()
        .map(|policy| policy.name.as_str())
        .collect();
    assert_eq!(names.len(), objects.policies.len());
    let mut used = BTreeSet::new();
    for queue in &objects.queues {
        let name = queue.class.policy(&queue.program);
        assert!(names.contains(name.as_str()), "{}", queue.name);
        used.insert(name);
    }
    assert_eq!(used.len(), names.len());
}

#[test]
fn a_dead_letter_always_finds_a_queue() {
    let objects = objects_of(&built_in("batched"));
    let queues: BTreeSet<&str> = objects
        .queues
        .iter()
        .map(|queue| queue.name.as_str())
        .collect();
    for policy in &objects.policies {
        if let Some(target) = policy.definition.get("dead-letter-routing-key") {
            assert!(queues.contains(target.as_str().unwrap()), "{}", policy.name);
            assert_eq!(policy.definition["dead-letter-exchange"], json!(""));
            assert_eq!(
                policy.definition["dead-letter-strategy"],
                json!("at-least-once")
            );
            assert_eq!(policy.definition["overflow"], json!("reject-publish"));
        }
    }
}

#[test]
fn another_retry_schedule_gives_other_delay_queues_and_nothing_else() {
    let direct = built_in("direct");
    let schedule = RetrySchedule::new([5, 90, 7200].map(Duration::from_secs).to_vec()).unwrap();
    let objects = desired(&direct, &PipelineSettings::default(), &schedule);
    let of_fetcher = objects
        .queues
        .iter()
        .filter(|queue| queue.program == "fetcher");
    let names: Vec<&str> = of_fetcher.map(|queue| queue.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "fetcher-quar",
            "fetcher-in",
            "fetcher-delay-5s",
            "fetcher-delay-90s",
            "fetcher-delay-2h"
        ]
    );
    assert_eq!(objects.policies, objects_of(&direct).policies);
    assert_eq!(objects.bindings, objects_of(&direct).bindings);
}

#[test]
fn settings_change_policies_and_never_arguments() {
    let direct = built_in("direct");
    let settings = PipelineSettings {
        file: None,
        delivery_limit: 7,
        quarantine_max_messages: 8,
        quarantine_max_bytes: 9,
        ledger_max_age_days: 10,
        runs_max_age_days: 11,
        ledger_max_bytes: 12,
    };
    let objects = desired(&direct, &settings, &RetrySchedule::default());
    assert_eq!(objects.queues, objects_of(&direct).queues);
    let definition = |name: &str| {
        &objects
            .policies
            .iter()
            .find(|p| p.name == name)
            .unwrap()
            .definition
    };
    assert_eq!(definition("fleet-es-writer-in")["delivery-limit"], json!(7));
    assert_eq!(definition("fleet-es-writer-quar")["max-length"], json!(8));
    assert_eq!(
        definition("fleet-es-writer-quar")["max-length-bytes"],
        json!(9)
    );
    assert_eq!(definition("fleet-ledger")["max-age"], json!("10D"));
    assert_eq!(definition("fleet-ledger")["max-length-bytes"], json!(12));
    assert_eq!(definition("fleet-runs")["max-age"], json!("11D"));
}

#[test]
fn a_programs_own_queue_settings_win() {
    let own = parsed(
        "[own]\nabout = ''\nflow = ['queuer.tasks -> fetcher', '*.receipts -> ledger']\n\
         [own.queues.fetcher]\ndelivery_limit = 3\nquarantine_max_messages = 4\nreplicas = 5\n\
         [own.queues.ledger]\nmax_age_days = 6\nreplicas = 1\n",
    )
    .unwrap();
    let objects = objects_of(&own);
    let definition = |name: &str| {
        &objects
            .policies
            .iter()
            .find(|p| p.name == name)
            .unwrap()
            .definition
    };
    assert_eq!(definition("fleet-fetcher-in")["delivery-limit"], json!(3));
    assert_eq!(definition("fleet-fetcher-quar")["max-length"], json!(4));
    assert_eq!(definition("fleet-ledger")["max-age"], json!("6D"));
    let queue = |name: &str| {
        &objects
            .queues
            .iter()
            .find(|q| q.name == name)
            .unwrap()
            .arguments
    };
    assert_eq!(queue("fetcher-in")["x-quorum-initial-group-size"], json!(5));
    assert_eq!(queue("ledger")["x-initial-cluster-size"], json!(1));
}

#[test]
fn a_setting_of_zero_is_refused_by_its_name() {
    let settings = PipelineSettings {
        delivery_limit: 0,
        ..PipelineSettings::default()
    };
    assert_eq!(
        settings.check().unwrap_err(),
        "pipeline.delivery_limit must be at least 1"
    );
    assert_eq!(PipelineSettings::default().check(), Ok(()));
}
