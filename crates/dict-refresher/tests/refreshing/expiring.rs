//! Orders that come too late, or again for the same run.

use batch::{Fact, Order};
use pipeline::Outcome;

use crate::failing::{SLOWLY, order_with, still_live, with_a_live_one};
use crate::proxy::{Action, Proxy};
use crate::support::{Done, KEYS, Tables, order, order_for, process};

/// It is discarded, and by its receipt the shard is given up.
fn expired(done: &Done, in_stage: &str) {
    assert!(
        matches!(done.outcome, Outcome::Discard { .. }),
        "{:?}",
        done.outcome
    );
    let (stage, step, _, given_up) = done.failure();
    assert_eq!(
        (stage.as_str(), step.as_str(), given_up),
        (in_stage, "expired", true)
    );
    assert!(done.restarts().is_empty());
}

async fn process_at(tables: &Tables, proxy: &Proxy, order: Order) -> Done {
    let mut target = tables.target.clone();
    target.cluster = proxy.url();
    process(&tables.app, &tables.worker_on(&target), order.to_message()).await
}

#[tokio::test]
async fn an_order_that_comes_too_late_is_given_up_and_changes_nothing() {
    let tables = with_a_live_one().await;
    let done = tables.process(order_for(0, 20, -1.0).to_message()).await;
    expired(&done, "sync");
    still_live(&tables);
    assert_eq!(tables.dictionaries(0)[1], "-");
}

#[tokio::test]
async fn an_order_whose_time_ends_in_the_sync_loads_nothing() {
    let tables = with_a_live_one().await;
    let proxy = Proxy::start(&tables.database.shards()[0], |statement| {
        if statement.sql.starts_with("SYSTEM SYNC") {
            return Action::Rewrite("SELECT sleep(2) FORMAT Null".into());
        }
        let described = statement.described_as_replicated();
        described.unwrap_or(Action::Forward)
    })
    .await;
    let done = process_at(&tables, &proxy, order_for(0, 20, 1.5)).await;
    expired(&done, "dictionary");
    assert!(done.facts().contains(&Fact::ShardSynced {
        shard: 0,
        replicas: 1
    }));
    assert!(proxy.beginning("CREATE DICTIONARY").is_empty());
    still_live(&tables);
}

#[tokio::test]
async fn what_was_loaded_for_an_order_whose_time_ended_meanwhile_is_dropped_and_not_put_in_place() {
    let tables = with_a_live_one().await;
    let done = order_with(&tables, order_for(0, 20, 2.0), " FINAL'", SLOWLY).await;
    expired(&done, "dictionary");
    still_live(&tables);
    assert_eq!(tables.dictionaries(0)[1], "-");
}

#[tokio::test]
async fn what_was_loaded_for_an_order_that_comes_back_too_late_is_dropped() {
    let mut tables = with_a_live_one().await;
    tables.settings.max_in_flight_seconds = 1;
    let order = order_for(0, 20, 3.0);
    let done = order_with(&tables, order.clone(), " FINAL'", SLOWLY).await;
    assert!(
        matches!(done.outcome, Outcome::Snooze { .. }),
        "{:?}",
        done.outcome
    );
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    expired(&tables.process(order.to_message()).await, "dictionary");
    still_live(&tables);
    assert_eq!(tables.dictionaries(0)[1], "-");
    // The one before the live one is of no order that is too late.
    tables.settings.max_in_flight_seconds = 60;
    assert_eq!(tables.refresh(0, 30).await.outcome, Outcome::Done);
    tables.process(order_for(0, 30, -1.0).to_message()).await;
    assert!(tables.dictionaries(0)[1].starts_with("r-10"));
}

#[tokio::test]
async fn an_order_that_waits_for_a_privilege_of_the_user_ends_with_its_time() {
    let tables = with_a_live_one().await;
    let proxy = Proxy::start(&tables.database.shards()[0], |statement| {
        if statement.sql.starts_with("CREATE DICTIONARY") {
            Action::Exception(497, "Not enough privileges".into())
        } else {
            Action::Forward
        }
    })
    .await;
    let order = order_for(0, 20, 1.5);
    let done = process_at(&tables, &proxy, order.clone()).await;
    assert!(
        matches!(done.outcome, Outcome::Snooze { .. }),
        "{:?}",
        done.outcome
    );
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    expired(&process_at(&tables, &proxy, order).await, "sync");
}

#[tokio::test]
async fn what_was_loaded_for_an_earlier_order_of_the_run_is_loaded_again_after_a_repair() {
    let mut tables = with_a_live_one().await;
    tables.settings.max_in_flight_seconds = 1;
    let first = order_for(0, 20, 60.0);
    order_with(&tables, first.clone(), " FINAL'", SLOWLY).await;
    while !tables.dictionaries(0)[1].starts_with("r-20 LOADED") {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    tables.settings.max_in_flight_seconds = 60;
    // Keys of the run that were missing.
    tables.insert(0, 20, KEYS..KEYS + 10);
    let proxy = Proxy::start(&tables.database.shards()[0], |statement| {
        if statement.sql.starts_with("SYSTEM SYNC") {
            return Action::Rows(String::new());
        }
        let described = statement.described_as_replicated();
        described.unwrap_or(Action::Forward)
    })
    .await;
    let again = Order {
        expires_at_ms: first.expires_at_ms + 1,
        ..first
    };
    let done = process_at(&tables, &proxy, again).await;
    assert_eq!(done.applied(20).map(|(keys, _)| keys), Some(KEYS + 10));
    assert_eq!(tables.differences(0), format!("0\t0\t{}", KEYS + 10));
    let synced = proxy.beginning("SYSTEM SYNC");
    assert_eq!(
        synced.len(),
        1,
        "the replicas are asked for their sync again"
    );
}

#[tokio::test]
async fn a_dictionary_in_place_that_a_restarted_server_has_not_loaded_is_loaded_before_it_counts() {
    let tables = Tables::create();
    tables.refresh(0, 10).await;
    tables.run(0, "DETACH DICTIONARY {db}.metrics");
    tables.run(0, "ATTACH DICTIONARY {db}.metrics");
    assert_eq!(tables.dictionaries(0)[0], "r-10 NOT_LOADED 0");
    let done = tables.refresh(0, 10).await;
    assert_eq!(done.applied(10).map(|(keys, _)| keys), Some(KEYS));
    assert_eq!(
        tables.dictionaries(0),
        [format!("r-10 LOADED {KEYS}"), "-".to_owned()]
    );
}

#[tokio::test]
async fn an_order_that_a_newer_one_overtakes_before_its_exchange_is_stale() {
    let tables = with_a_live_one().await;
    let database = tables.database.name().to_owned();
    let server = tables.database.shards()[0].clone();
    let upstream = server.clone();
    let mut overtaken = false;
    let proxy = Proxy::start(&upstream, move |statement| {
        if statement.sql.contains("dictHas") && !overtaken {
            overtaken = true;
            let newer = format!(
                "CREATE OR REPLACE DICTIONARY {database}.metrics (k String, v UInt64) PRIMARY KEY k
                 SOURCE(CLICKHOUSE(QUERY 'SELECT toString(number) AS k, 1 AS v FROM numbers(5)'))
                 LAYOUT(COMPLEX_KEY_HASHED_ARRAY()) LIFETIME(0)
                 COMMENT '{{\"run\":\"r-30\",\"version\":30,\"keys\":5}}'"
            );
            let (done, answer) = testkit::clickhouse::query(&server, &newer);
            assert!(done, "{answer}");
        }
        Action::Forward
    })
    .await;
    let done = process_at(&tables, &proxy, order(0, 20)).await;
    assert!(
        matches!(done.outcome, Outcome::Discard { .. }),
        "{:?}",
        done.outcome
    );
    assert_eq!(done.failure().1, "stale");
    assert!(proxy.beginning("EXCHANGE").is_empty());
    assert!(tables.dictionaries(0)[0].starts_with("r-30"));
}

#[tokio::test]
async fn a_shard_of_two_versions_is_brought_to_one_however_late_it_is() {
    let mut tables = Tables::create();
    tables.as_replicas();
    tables.insert(0, 20, 0..KEYS);
    tables.insert(1, 20, 0..KEYS);
    assert_eq!(tables.refresh(0, 10).await.outcome, Outcome::Done);
    let busy = |statement: &crate::proxy::Statement| {
        if statement.sql.starts_with("EXCHANGE") {
            Action::Exception(202, "too many queries".into())
        } else {
            Action::Forward
        }
    };
    let [first, second] = tables.database.shards() else {
        panic!("two servers")
    };
    let proxy = Proxy::start(second, busy).await;
    let mut target = tables.target.clone();
    target.cluster = format!("{first}|{}", proxy.url());
    let worker = tables.worker_on(&target);
    let order = order_for(0, 20, 3.0);
    let done = process(&tables.app, &worker, order.to_message()).await;
    assert!(
        done.retried().contains("too many queries"),
        "{}",
        done.retried()
    );
    assert!(tables.dictionaries(0)[0].starts_with("r-20"));
    assert!(tables.dictionaries(1)[0].starts_with("r-10"));

    while now_ms() < order.expires_at_ms {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let done = tables.process(order.to_message()).await;
    assert_eq!(done.outcome, Outcome::Done);
    for server in 0..2 {
        assert!(
            tables.dictionaries(server)[0].starts_with("r-20"),
            "server {server}"
        );
    }
}

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap().as_millis() as i64
}
