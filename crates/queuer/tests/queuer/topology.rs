//! What the queuer makes of a topology.

use pipeline::topology::{Catalog, LEDGER};
use pipeline::{Role, RoleKind};
use queuer::Pipeline;

const fn worker(name: &'static str, outputs: &'static [&'static str]) -> Role {
    Role {
        name,
        kind: RoleKind::Worker,
        outputs,
    }
}

#[test]
fn stores_are_where_batches_end_and_their_queues_are_looked_at_with_those_before_them() {
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
    let pipeline = Pipeline::of(&catalog.topology("own", &roles).unwrap(), "queuer");
    assert_eq!(pipeline.stores, ["ch-writer", "es-writer"]);
    assert_eq!(pipeline.task_queues, ["fetcher-in"]);
    let mut queues = pipeline.batch_queues;
    queues.sort();
    assert_eq!(queues, ["ch-writer-in", "es-writer-in", "filter-in"]);
}
