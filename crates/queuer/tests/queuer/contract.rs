//! Runs that would lose or change values, against real tables.

use std::collections::BTreeMap;

use batch::Fact;
use queuer::{Options, QueuerError, QueuerExit};
use stores::clickhouse::TargetSettings;
use stores::contract::StoreTarget;

use super::publishing::Fleet;

/// A fleet whose target has the hub's columns, but for what `volume` is in it.
fn fleet(volume: &str) -> Fleet {
    let mut fleet = Fleet::new();
    let database = &fleet.hub.database;
    for shard in 0..database.shards().len() {
        database.run(
            shard,
            &format!(
                "CREATE TABLE {{db}}.metrics (country String, keyword String, {volume} version Int64) \
                 ENGINE = ReplacingMergeTree(version) ORDER BY (country, keyword)"
            ),
        );
    }
    let settings = TargetSettings {
        cluster: database.cluster(),
        database: database.name().to_owned(),
        table: "metrics".to_owned(),
        ..TargetSettings::default()
    };
    fleet.downstream.targets = vec![StoreTarget::Tables(Box::new(settings))];
    fleet
}

/// The text of the refusal; nothing was published.
async fn refused(fleet: &Fleet) -> String {
    let refused = fleet.run(&Options::default()).await.unwrap_err();
    assert_eq!(fleet.receipts(), []);
    assert_eq!(fleet.tasks(), []);
    refused.to_string()
}

#[tokio::test]
async fn a_run_begins_where_the_table_holds_what_the_hub_has() {
    let fleet = fleet("volume UInt64,");
    let run = fleet.publish(&Options::default()).await.run;
    assert_eq!(
        fleet
            .ledger()
            .run(&run)
            .unwrap()
            .started()
            .unwrap()
            .differences,
        [""; 0]
    );
}

#[tokio::test]
async fn a_run_that_would_lose_or_change_a_value_does_not_begin() {
    for (volume, told) in [
        (
            "",
            "column \"volume\" is missing, and UInt64 in the source; fleet clickhouse configure",
        ),
        (
            "volume UInt32,",
            "column \"volume\" is UInt32, and UInt64 in the source",
        ),
        ("volume UInt64 EPHEMERAL,", "column \"volume\" is EPHEMERAL"),
        (
            "volume UInt64, trend UInt8,",
            "column \"trend\" (UInt8) is not among the columns",
        ),
    ] {
        let text = refused(&fleet(volume)).await;
        assert!(text.contains(told) && text.contains("--force"), "{text}");
    }
    let mut unreachable = fleet("volume UInt64,");
    let StoreTarget::Tables(settings) = &mut unreachable.downstream.targets[0] else {
        unreachable!();
    };
    settings.cluster = "http://127.0.0.1:9".to_owned();
    let text = refused(&unreachable).await;
    assert!(
        text.contains("is not known, and it does not begin"),
        "{text}"
    );
}

#[tokio::test]
async fn a_dry_run_tells_why_the_run_would_not_begin() {
    let options = Options {
        dry_run: true,
        ..Options::default()
    };
    let QueuerExit::Planned(report) = fleet("volume UInt32,").run(&options).await.unwrap() else {
        panic!("nothing is published by a dry run");
    };
    let text = report.to_string();
    assert!(
        text.contains("differs  ") && text.contains("volume"),
        "{text}"
    );
}

#[tokio::test]
async fn a_forced_run_is_published_tells_why_for_ever_and_is_no_baseline() {
    let fleet = fleet("volume UInt32,");
    let force = Options {
        force: true,
        ..Options::default()
    };
    let run = fleet.publish(&force).await.run;
    fleet.complete(&run).await;
    let ledger = fleet.ledger();
    let progress = ledger.progress(&run).unwrap();
    let told: BTreeMap<_, _> = fleet
        .receipts()
        .into_iter()
        .filter_map(|receipt| match receipt.fact {
            Fact::Started(started) => Some((receipt.run, started.differences)),
            _ => None,
        })
        .collect();
    assert!(
        told[&run][0].contains("column \"volume\" is UInt32"),
        "{told:?}"
    );
    let gap = progress.gap.as_deref().unwrap_or_default();
    assert!(gap.contains("differed from the hub"), "{gap}");
    let again = fleet.run(&Options::default()).await;
    assert!(matches!(again, Err(QueuerError::Differs(_))), "{again:?}");
}
