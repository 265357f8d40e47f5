use std::path::Path;

use super::*;
use pipeline::{RetrySchedule, Role, RoleKind};

mod controller;
mod objects;
mod refusals;

/// The roles that the built-in types are made of.
pub(crate) const ROLES: [Role; 9] = [
    role("queuer", RoleKind::Producer, &["tasks", "receipts"]),
    role("fetcher", RoleKind::Worker, &["batches", "receipts"]),
    role("ch-writer", RoleKind::Worker, &["receipts"]),
    role("es-writer", RoleKind::Worker, &["receipts"]),
    Role {
        name: "persister",
        kind: RoleKind::Controller,
        outputs: &["batches", "orders", "receipts", "records"],
        optional: &["batches", "orders"],
    },
    role("dict-refresher", RoleKind::Worker, &["orders", "receipts"]),
    role("serp-restarter", RoleKind::Worker, &["receipts"]),
    LEDGER,
    RUNS,
];

const fn role(name: &'static str, kind: RoleKind, outputs: &'static [&'static str]) -> Role {
    Role {
        name,
        kind,
        outputs,
        optional: &[],
    }
}

pub(crate) fn built_in(pipeline: &str) -> Topology {
    Catalog::built_in().topology(pipeline, &ROLES).unwrap()
}

fn parsed(text: &str) -> Result<Topology, TopologyError> {
    Catalog::parse("own.toml", text)?.topology("own", &ROLES)
}

fn edges(topology: &Topology) -> Vec<String> {
    let edges = topology.edges.iter();
    edges
        .map(|edge| format!("{}.{} -> {}", edge.program, edge.output, edge.reader))
        .collect()
}

/// Compares `found` with a file of `golden/`; `UPDATE_GOLDEN=1` writes the file.
pub(crate) fn assert_golden(file: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(file);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        found,
        wanted,
        "{} differs; UPDATE_GOLDEN=1 writes it again",
        path.display()
    );
}

#[test]
fn every_built_in_type_is_complete() {
    let catalog = Catalog::built_in();
    let names: Vec<&str> = catalog
        .types()
        .iter()
        .map(|entry| entry.name.as_str())
        .collect();
    let wanted = ["direct", "batched", "clickhouse-only", "elasticsearch-only"];
    assert_eq!(names, wanted);
    for name in names {
        assert_eq!(built_in(name).check(), [], "{name}");
    }
}

#[test]
fn the_programs_stand_in_the_order_of_the_flow() {
    let direct = built_in("direct");
    let names: Vec<&str> = direct
        .programs
        .iter()
        .map(|program| program.name.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "queuer",
            "fetcher",
            "ch-writer",
            "es-writer",
            "persister",
            "dict-refresher",
            "serp-restarter",
            "runs",
            "ledger"
        ]
    );
    assert_eq!(
        edges(&direct),
        [
            "queuer.tasks -> fetcher",
            "fetcher.batches -> ch-writer",
            "fetcher.batches -> es-writer",
            "persister.orders -> dict-refresher",
            "dict-refresher.orders -> serp-restarter",
            "persister.records -> runs",
            "queuer.receipts -> ledger",
            "fetcher.receipts -> ledger",
            "ch-writer.receipts -> ledger",
            "es-writer.receipts -> ledger",
            "persister.receipts -> ledger",
            "dict-refresher.receipts -> ledger",
            "serp-restarter.receipts -> ledger",
        ]
    );
    let readers: Vec<&str> = direct.readers("fetcher", "batches").collect();
    assert_eq!(readers, ["ch-writer", "es-writer"]);
}

#[test]
fn a_role_can_run_under_another_name() {
    let own = parsed(
        r#"
        [own]
        about = "two search clusters"
        flow = [
          "queuer.tasks -> fetcher",
          "fetcher.batches -> es-writer, es-writer-eu",
          "*.receipts -> ledger",
        ]
        [own.programs]
        es-writer-eu = "es-writer"
        [own.queues.es-writer-eu]
        delivery_limit = 5
        "#,
    )
    .unwrap();
    assert_eq!(own.check(), []);
    let europe = own.program("es-writer-eu").unwrap();
    assert_eq!(europe.role.name, "es-writer");
    assert_eq!(europe.queues.delivery_limit, Some(5));
    assert!(edges(&own).contains(&"es-writer-eu.receipts -> ledger".to_owned()));
}

#[test]
fn a_users_file_adds_types_and_takes_the_place_of_those_of_the_same_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("own.toml");
    let own = "[own]\nabout = 'mine'\nflow = ['queuer.receipts -> ledger']\n\
               [direct]\nabout = 'other'\nflow = ['queuer.receipts -> ledger']\n";
    std::fs::write(&file, own).unwrap();
    let catalog = Catalog::load(Some(&file)).unwrap();
    let names: Vec<&str> = catalog
        .types()
        .iter()
        .map(|entry| entry.name.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "direct",
            "batched",
            "clickhouse-only",
            "elasticsearch-only",
            "own"
        ]
    );
    assert_eq!(catalog.topology("direct", &ROLES).unwrap().about, "other");
}

#[test]
fn the_graphs_show_every_program_and_edge() {
    let direct = built_in("direct");
    assert_golden("direct.dot", &dot(&direct));
    assert_golden("direct.mermaid", &mermaid(&direct));
}
