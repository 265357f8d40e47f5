//! What the queuer reads from a topology.

use pipeline::{Role, RoleKind};
use queuer::Downstream;
use topology::{Catalog, LEDGER, RUNS};

const fn worker(name: &'static str, outputs: &'static [&'static str]) -> Role {
    Role {
        name,
        kind: RoleKind::Worker,
        outputs,
        optional: &[],
    }
}

const CONTROLLER: Role = Role {
    name: "persister",
    kind: RoleKind::Controller,
    outputs: &["batches", "orders", "receipts", "records"],
    optional: &["batches", "orders"],
};

#[test]
fn stores_are_where_batches_end_and_their_queues_are_checked_with_those_before_them() {
    let roles = [
        queuer::ROLE,
        worker("fetcher", &["batches", "receipts"]),
        worker("filter", &["batches"]),
        worker("ch-writer", &["receipts"]),
        worker("es-writer", &["receipts"]),
        LEDGER,
    ];
    let text = r#"
        [own]
        about = "A store behind a filter."
        flow = [
            "queuer.tasks -> fetcher",
            "fetcher.batches -> ch-writer, filter",
            "filter.batches -> es-writer",
            "*.receipts -> ledger",
        ]
    "#;
    let catalog = Catalog::parse("own.toml", text).unwrap();
    let downstream = Downstream::from_topology(&catalog.topology("own", &roles).unwrap(), "queuer");
    assert_eq!(downstream.stores, ["ch-writer", "es-writer"]);
    assert_eq!(downstream.task_queues, ["fetcher-in"]);
    let mut queues = downstream.batch_queues;
    queues.sort();
    assert_eq!(queues, ["ch-writer-in", "es-writer-in", "filter-in"]);
}

fn built_in(pipeline: &str) -> Downstream {
    let roles = [
        queuer::ROLE,
        worker("fetcher", &["batches", "receipts"]),
        CONTROLLER,
        worker("ch-writer", &["receipts"]),
        worker("es-writer", &["receipts"]),
        worker("dict-refresher", &["orders", "receipts"]),
        worker("serp-restarter", &["receipts"]),
        LEDGER,
        RUNS,
    ];
    let catalog = Catalog::built_in();
    Downstream::from_topology(&catalog.topology(pipeline, &roles).unwrap(), "queuer")
}

#[test]
fn what_a_run_must_pass_follows_from_the_edges() {
    for pipeline in ["direct", "batched", "clickhouse-only"] {
        let run_plan = built_in(pipeline).run_plan.unwrap();
        assert_eq!(run_plan.dictionary_after.as_deref(), Some("ch-writer"));
        assert!(run_plan.serp, "{pipeline}");
    }
    let run_plan = built_in("elasticsearch-only").run_plan.unwrap();
    assert_eq!((run_plan.dictionary_after, run_plan.serp), (None, false));
}

#[test]
fn a_queue_that_holds_a_whole_run_holds_no_task_back() {
    let downstream = built_in("batched");
    assert_eq!(downstream.stores, ["ch-writer", "es-writer"]);
    let mut queues = downstream.batch_queues;
    queues.sort();
    assert_eq!(queues, ["ch-writer-in", "es-writer-in"]);
}

#[test]
fn a_rule_for_a_stage_that_the_run_will_not_have_is_refused_by_the_stages_that_it_has() {
    let gate = |rule: &str| [(rule.to_owned(), "0.05".to_owned())];
    let direct = built_in("direct");
    for rule in [
        "max_failed_task_ratio",
        "ch-writer.max_rejected_row_ratio",
        "serp.serp_deadline_seconds",
    ] {
        direct.check_gates(&gate(rule)).unwrap();
    }
    let refused = direct
        .check_gates(&gate("fetsh.max_failed_task_ratio"))
        .unwrap_err();
    assert!(
        refused.to_string().contains("plan, fetch, ch-writer"),
        "{refused}"
    );
    let elasticsearch = built_in("elasticsearch-only");
    assert!(
        elasticsearch
            .check_gates(&gate("serp.serp_deadline_seconds"))
            .is_err()
    );
}
