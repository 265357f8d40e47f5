//! The refresher against the real engine, with a server before it that records and fails on demand.

mod expiring;
mod failing;
mod killed;
mod operator;
mod proxy;
mod readers;
mod support;
mod syncing;

use batch::{Command, Fact, Order, Reason};
use pipeline::Outcome;
use support::{KEYS, Tables, order};

#[tokio::test]
async fn every_key_of_every_shard_is_served_in_its_newest_version() {
    let tables = Tables::create();
    for shard in 0..2 {
        let done = tables.refresh(shard, 10).await;
        assert_eq!(done.outcome, Outcome::Done);
        let nodes = done.restarts();
        let expected = [["serp-a", "serp-b"].as_slice(), &["serp-c"]][shard as usize];
        assert_eq!(nodes, expected);
        assert_eq!(done.applied(10), Some((KEYS, nodes)));
        let synced = Fact::ShardSynced { shard, replicas: 1 };
        assert_eq!(done.facts()[0], synced);
        assert_eq!(tables.differences(shard as usize), format!("0\t0\t{KEYS}"));
        assert_eq!(
            tables.dictionaries(shard as usize),
            [format!("r-10 LOADED {KEYS}"), "-".to_owned()]
        );
    }
}

#[tokio::test]
async fn the_next_run_replaces_the_dictionary_and_the_old_one_stays_until_the_one_after_it() {
    let tables = Tables::create();
    for (version, earlier) in [(10, None), (20, Some("r-10")), (30, Some("r-20"))] {
        tables.insert(0, version, 0..KEYS + version as u64);
        let done = tables.refresh(0, version).await;
        assert_eq!(done.outcome, Outcome::Done);
        assert_eq!(done.applied(version).unwrap().0, KEYS + version as u64);
        let [live, next] = tables.dictionaries(0);
        assert!(live.starts_with(&format!("r-{version} LOADED")), "{live}");
        assert_eq!(next.split(' ').next(), earlier.or(Some("-")));
        assert_eq!(
            tables.differences(0),
            format!("0\t0\t{}", KEYS + version as u64)
        );
    }
}

#[tokio::test]
async fn an_order_that_was_processed_already_is_reported_again_and_loads_nothing() {
    let tables = Tables::create();
    let first = tables.refresh(0, 10).await;
    let loaded = "SELECT loading_start_time, last_successful_update_time FROM system.dictionaries
         WHERE database = '{db}'";
    let before = tables.run(0, loaded);
    let again = tables.refresh(0, 10).await;
    assert_eq!(again.outcome, Outcome::Done);
    assert_eq!(again.facts(), first.facts());
    assert_eq!(again.restarts(), first.restarts());
    assert_eq!(tables.run(0, loaded), before);
}

#[tokio::test]
async fn an_order_older_than_what_is_in_place_is_dropped_as_stale() {
    let tables = Tables::create();
    tables.refresh(0, 20).await;
    let before = tables.dictionaries(0);
    let stale = tables.refresh(0, 10).await;
    assert!(
        matches!(stale.outcome, Outcome::Discard { .. }),
        "{:?}",
        stale.outcome
    );
    let (stage, step, error, given_up) = stale.failure();
    assert_eq!(
        (stage.as_str(), step.as_str(), given_up),
        ("dictionary", "stale", true)
    );
    assert!(error.contains("version 20 is live"), "{error}");
    assert_eq!(tables.dictionaries(0), before);
    assert!(stale.restarts().is_empty());
}

#[tokio::test]
async fn only_the_rows_of_the_shard_are_loaded() {
    let mut tables = Tables::create();
    tables.dictionary.shard_expression = "cityHash64(country, keyword)".to_owned();
    let mut all = 0;
    for shard in 0..2 {
        let done = tables.refresh(shard, 10).await;
        assert_eq!(done.outcome, Outcome::Done);
        let entries = done.applied(10).unwrap().0;
        let own = tables.run(
            shard as usize,
            &format!("SELECT count() FROM {{db}}.keywords_metrics_local FINAL WHERE cityHash64(country, keyword) % 2 = {shard}"),
        );
        assert_eq!(entries.to_string(), own);
        all += entries;
    }
    assert_eq!(all, KEYS);
}

#[tokio::test]
async fn chosen_attributes_and_another_layout_make_the_dictionary() {
    let mut tables = Tables::create();
    tables.dictionary.attributes = vec!["volume".into(), "lang".into()];
    tables.dictionary.layout = dict_refresher::DictionaryLayout::ComplexKeySparseHashed;
    assert_eq!(tables.refresh(0, 10).await.outcome, Outcome::Done);
    let made = tables.run(
        0,
        "SELECT type, `attribute.names`, `attribute.types`, lifetime_max FROM system.dictionaries WHERE database = '{db}'",
    );
    assert_eq!(
        made,
        "ComplexKeySparseHashed\t['volume','lang']\t['UInt64','Nullable(String)']\t0"
    );
}

#[tokio::test]
async fn rows_that_a_later_run_brings_meanwhile_are_no_fault_of_the_dictionary() {
    let tables = Tables::create();
    let database = tables.database.name().to_owned();
    let server = tables.database.shards()[0].clone();
    let mut waiting = true;
    // After it is created, and counted: half of the keys change once more, and new ones come.
    let proxy = proxy::Proxy::start(&server.clone(), move |statement| {
        if statement.sql.starts_with("SELECT count() AS keys") && !waiting {
            let insert = format!(
                "INSERT INTO {database}.keywords_metrics_local (country, keyword, volume, version)
                 SELECT ['de', 'fr', 'us'][1 + number % 3], toString(number), 0, 99 FROM numbers(0, 9000, 2)
                 SETTINGS async_insert = 0"
            );
            assert!(testkit::clickhouse::query(&server, &insert).0);
        }
        waiting &= !statement.sql.starts_with("SYSTEM RELOAD");
        proxy::Action::Forward
    })
    .await;
    let mut tables = tables;
    tables.target.cluster = proxy.url();
    let done = tables.refresh(0, 10).await;
    assert_eq!(done.outcome, Outcome::Done, "{:?}", done.facts());
    assert_eq!(done.applied(10).unwrap().0, KEYS);
}

#[tokio::test]
async fn what_is_no_order_for_a_shard_of_ours_goes_to_quarantine_by_name() {
    let tables = Tables::create();
    let restart = Order {
        command: Command::RestartSerp { node: "a".into() },
        ..order(0, 1)
    };
    for (message, reason) in [
        (restart.to_message(), Reason::NotReadable),
        (order(9, 1).to_message(), Reason::UnknownShard),
    ] {
        let Outcome::Quarantine(why) = tables.process(message).await.outcome else {
            panic!()
        };
        assert_eq!(why.reason, reason);
    }
}
