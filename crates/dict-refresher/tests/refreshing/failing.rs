//! Refreshes that fail: the live dictionary stays what it was.

use batch::{Fact, Invalid, Order, Reason, Receipt, header};
use pipeline::{Outcome, Worker};

use crate::proxy::{Action, Proxy};
use crate::support::{Done, KEYS, Tables, order};

/// Tables with a live dictionary of version 10, and newer rows of version 20.
pub async fn with_a_live_one() -> Tables {
    let tables = Tables::create();
    assert_eq!(tables.refresh(0, 10).await.outcome, Outcome::Done);
    tables.insert(0, 20, 0..KEYS);
    tables
}

/// Refreshes through a server that creates another dictionary than was asked for.
async fn refresh_with(tables: &Tables, from: &'static str, to: &'static str) -> Done {
    order_with(tables, order(0, 20), from, to).await
}

pub async fn order_with(
    tables: &Tables,
    order: Order,
    from: &'static str,
    to: &'static str,
) -> Done {
    let server = tables.database.shards()[0].clone();
    let proxy = Proxy::start(&server, move |statement| {
        if !statement.sql.starts_with("CREATE DICTIONARY") {
            return Action::Forward;
        }
        assert!(statement.sql.contains(from), "{}", statement.sql);
        Action::Rewrite(statement.sql.replacen(from, to, 1))
    })
    .await;
    let mut target = tables.target.clone();
    target.cluster = proxy.url();
    let worker = tables.worker_on(&target);
    crate::support::process(&tables.app, &worker, order.to_message()).await
}

pub fn still_live(tables: &Tables) {
    assert_eq!(tables.dictionaries(0)[0], format!("r-10 LOADED {KEYS}"));
    assert_eq!(
        tables.run(0, "SELECT dictGet('{db}.metrics', 'volume', ('de', '0'))"),
        "10"
    );
}

/// It is tried again, its receipt has the reason, and nothing else happened.
fn refused(done: &Done, tables: &Tables, text: &str) {
    assert!(done.retried().contains(text), "{}", done.retried());
    let (stage, step, error, given_up) = done.failure();
    assert_eq!(
        (stage.as_str(), step.as_str(), given_up),
        ("dictionary", "refresh_dict", false)
    );
    assert!(error.contains(text), "{error}");
    assert!(done.restarts().is_empty());
    still_live(tables);
}

#[tokio::test]
async fn a_dictionary_that_cannot_be_loaded_leaves_the_live_one_and_is_created_again() {
    let tables = with_a_live_one().await;
    let done = refresh_with(&tables, "`volume`, ", "toUInt64(`keyword`) AS `volume`, ").await;
    refused(&done, &tables, "it cannot be loaded: Code: ");
    assert_eq!(tables.dictionaries(0)[1], "-");
    assert_eq!(tables.refresh(0, 20).await.outcome, Outcome::Done);
    assert_eq!(tables.differences(0), format!("0\t0\t{KEYS}"));
}

/// Loading takes 2.7 s with it.
pub const SLOWLY: &str = " FINAL WHERE sleepEachRow(0.0009) = 0'";

#[tokio::test]
async fn loading_may_take_longer_than_a_server_may_be_silent() {
    let mut tables = with_a_live_one().await;
    tables.target.idle_timeout_seconds = 1;
    let done = refresh_with(&tables, " FINAL'", SLOWLY).await;
    assert_eq!(done.outcome, Outcome::Done, "{:?}", done.facts());
    assert_eq!(tables.differences(0), format!("0\t0\t{KEYS}"));
}

#[tokio::test]
async fn a_dictionary_that_is_not_loaded_in_time_is_taken_away() {
    let mut tables = with_a_live_one().await;
    tables.settings.load_timeout_seconds = 1;
    let done = refresh_with(&tables, " FINAL'", SLOWLY).await;
    refused(&done, &tables, "it was not loaded in 1 s");
    assert_eq!(tables.dictionaries(0)[1], "-");
}

#[tokio::test]
async fn an_order_that_is_put_off_while_the_server_loads_continues_with_what_was_loaded_meanwhile()
{
    let mut tables = with_a_live_one().await;
    tables.settings.max_in_flight_seconds = 1;
    let done = refresh_with(&tables, " FINAL'", SLOWLY).await;
    assert!(
        matches!(done.outcome, Outcome::Snooze { .. }),
        "{:?}",
        done.outcome
    );
    assert!(tables.dictionaries(0)[1].starts_with("r-20 LOADING"));
    tables.settings.max_in_flight_seconds = 60;
    let begun = "SELECT loading_start_time FROM system.dictionaries
         WHERE database = '{db}' AND comment LIKE '%r-20%'";
    let before = tables.run(0, begun);
    let done = tables.refresh(0, 20).await;
    assert_eq!(done.outcome, Outcome::Done, "{:?}", done.facts());
    assert_eq!(tables.run(0, begun), before, "it was loaded once");
}

#[tokio::test]
async fn a_dictionary_with_fewer_entries_than_the_table_has_keys_is_not_put_in_place() {
    let tables = with_a_live_one().await;
    let done = refresh_with(&tables, " FINAL'", " FINAL WHERE volume != 27'").await;
    refused(&done, &tables, "has 2999 entries, and the table 3000 keys");
    assert_eq!(tables.dictionaries(0)[1], "-");
    assert_eq!(tables.refresh(0, 20).await.outcome, Outcome::Done);
}

#[tokio::test]
async fn a_difference_within_the_tolerance_is_let_pass() {
    let mut tables = with_a_live_one().await;
    tables.settings.entries_tolerance_ratio = 0.001;
    tables.settings.probe_keys = 0;
    let done = refresh_with(&tables, " FINAL'", " FINAL WHERE volume != 27'").await;
    assert_eq!(done.applied(20).map(|(entries, _)| entries), Some(2999));
}

#[tokio::test]
async fn a_dictionary_with_another_value_than_the_table_is_not_put_in_place() {
    for (from, to, attribute) in [
        ("`volume`, ", "`volume` + 1 AS `volume`, ", "volume"),
        ("`clicks`, ", "ifNull(`clicks`, 0) AS `clicks`, ", "clicks"),
        ("`tags`, ", "arrayReverse(`tags`) AS `tags`, ", "tags"),
        (
            "`price`, ",
            "`price` + toDecimal64(0.0001, 4) AS `price`, ",
            "price",
        ),
    ] {
        let mut tables = with_a_live_one().await;
        tables.settings.probe_keys = 50;
        let done = refresh_with(&tables, from, to).await;
        refused(
            &done,
            &tables,
            &format!("differs from the table in {attribute} of key ("),
        );
        assert_eq!(tables.dictionaries(0)[1], "-");
    }
}

#[tokio::test]
async fn older_rows_than_the_newest_are_never_loaded() {
    // Without FINAL both rows of a key are read, and the last one wins by chance.
    let tables = with_a_live_one().await;
    let done = refresh_with(&tables, " FINAL'", " WHERE version < 20'").await;
    refused(&done, &tables, "differs from the table in volume");
}

#[tokio::test]
async fn a_server_with_too_little_free_memory_loads_nothing() {
    let mut tables = with_a_live_one().await;
    tables.settings.memory_factor = 1e9;
    let done = tables.refresh(0, 20).await;
    refused(
        &done,
        &tables,
        "MB of memory are free (max_server_memory_usage), and",
    );
    assert_eq!(tables.dictionaries(0)[1], "-");
    tables.settings.memory_factor = 0.0;
    assert_eq!(tables.refresh(0, 20).await.outcome, Outcome::Done);
}

#[tokio::test]
async fn the_memory_that_a_real_server_says_it_has_left_is_respected() {
    let tables = with_a_live_one().await;
    let server = tables.database.shards()[0].clone();
    // The engine alone has no such table: a whole server does.
    let proxy = Proxy::start(&server, |statement| {
        if statement.sql.contains("asynchronous_metrics") {
            return Action::Rows("{\"source\":\"OSMemoryAvailable\",\"free\":1024}\n".into());
        }
        Action::Forward
    })
    .await;
    let mut target = tables.target.clone();
    target.cluster = proxy.url();
    let worker = tables.worker_on(&target);
    let done = crate::support::process(&tables.app, &worker, order(0, 20).to_message()).await;
    refused(
        &done,
        &tables,
        "0 MB of memory are free (OSMemoryAvailable)",
    );
}

#[tokio::test]
async fn a_server_that_reads_much_is_not_taken_for_full() {
    let tables = with_a_live_one().await;
    let database = tables.database.name().to_owned();
    let server = tables.database.shards()[0].clone();
    tables.run(
        0,
        "CREATE TABLE {db}.of_the_machine (metric String, value Float64) ENGINE = Memory",
    );
    // The engine alone has no such table: one of the same columns stands for it.
    let proxy = Proxy::start(&server, move |statement| {
        let own = format!("{database}.of_the_machine");
        if statement.sql.contains("asynchronous_metrics") {
            Action::Rewrite(statement.sql.replace("system.asynchronous_metrics", &own))
        } else {
            Action::Forward
        }
    })
    .await;
    let mut target = tables.target.clone();
    target.cluster = proxy.url();
    let worker = tables.worker_on(&target);
    let total = "('CGroupMemoryTotal', 1e11), ('CGroupMemoryUsed', 1e11)";
    let refresh = async |more: &str| {
        tables.run(0, "TRUNCATE TABLE {db}.of_the_machine");
        let insert = format!("INSERT INTO {{db}}.of_the_machine VALUES {total}{more}");
        tables.run(0, &insert);
        crate::support::process(&tables.app, &worker, order(0, 20).to_message()).await
    };
    for full in ["", ", ('MemoryResident', 1e11)"] {
        let done = refresh(full).await;
        refused(
            &done,
            &tables,
            "0 MB of memory are free (CGroupMemoryTotal)",
        );
    }
    let page_cache_alone = ", ('CGroupMemoryUsedWithoutPageCache', 1e9), ('MemoryResident', 1e11)";
    assert_eq!(refresh(page_cache_alone).await.outcome, Outcome::Done);
}

#[tokio::test]
async fn a_count_that_takes_longer_than_an_order_may_be_in_flight_is_a_failure_and_no_endless_wait()
{
    let mut tables = with_a_live_one().await;
    tables.settings.max_in_flight_seconds = 4;
    let server = tables.database.shards()[0].clone();
    let proxy = Proxy::start(&server, |statement| {
        if statement.sql.starts_with("SELECT count() AS keys") {
            let slow = "SELECT toUInt64(sum(sleepEachRow(0.1))) AS keys FROM numbers(1000) \
                        SETTINGS max_block_size = 1";
            Action::Rewrite(slow.into())
        } else {
            Action::Forward
        }
    })
    .await;
    let mut target = tables.target.clone();
    target.cluster = proxy.url();
    let worker = tables.worker_on(&target);
    let done = crate::support::process(&tables.app, &worker, order(0, 20).to_message()).await;
    assert!(
        done.retried().contains("TIMEOUT_EXCEEDED"),
        "{}",
        done.retried()
    );
    still_live(&tables);
}

#[tokio::test]
async fn a_table_that_lost_most_of_its_rows_does_not_empty_the_dictionary() {
    let mut tables = with_a_live_one().await;
    tables.run(0, "TRUNCATE TABLE {db}.keywords_metrics_local");
    tables.insert(0, 20, 0..1000);
    let done = tables.refresh(0, 20).await;
    refused(
        &done,
        &tables,
        "has 1000 entries, the live one 3000: less than min_entries_ratio (0.5)",
    );
    tables.settings.min_entries_ratio = 0.0;
    assert_eq!(tables.refresh(0, 20).await.outcome, Outcome::Done);
}

#[tokio::test]
async fn a_user_that_may_not_read_the_table_is_named_by_the_servers_own_words() {
    let mut tables = with_a_live_one().await;
    tables.dictionary.source_user = "nobody".to_owned();
    tables.dictionary.source_password = Some("it's".into());
    let done = tables.refresh(0, 20).await;
    refused(&done, &tables, "nobody: Authentication failed");
    assert!(!done.failure().2.contains("it's"), "{}", done.failure().2);
}

#[tokio::test]
async fn one_replica_whose_dictionary_is_not_good_keeps_it_from_all() {
    let mut tables = Tables::create();
    tables.as_replicas();
    assert_eq!(tables.refresh(0, 10).await.outcome, Outcome::Done);
    tables.run(1, "TRUNCATE TABLE {db}.keywords_metrics_local");
    let done = tables.refresh(0, 20).await;
    assert!(
        done.retried().contains("min_entries_ratio"),
        "{}",
        done.retried()
    );
    for server in 0..2 {
        assert_eq!(
            tables.dictionaries(server)[0],
            format!("r-10 LOADED {KEYS}")
        );
    }
}

#[tokio::test]
async fn what_a_dictionary_cannot_have_is_quarantined_with_the_column_and_what_to_do() {
    let mut tables = Tables::create();
    let quarantined = async |tables: &Tables| match tables.refresh(0, 10).await.outcome {
        Outcome::Quarantine(why) => why,
        other => panic!("{other:?}"),
    };
    tables.dictionary.attributes = vec!["volume".into(), "no_such".into()];
    let why = quarantined(&tables).await;
    assert_eq!(why.reason, Reason::WrongSchema);
    assert!(why.detail.contains("no column \"no_such\""), "{why}");

    tables.dictionary.attributes.clear();
    tables.run(
        0,
        "ALTER TABLE {db}.keywords_metrics_local ADD COLUMN intent Enum8('a' = 1)",
    );
    let why = quarantined(&tables).await;
    assert!(
        why.detail
            .contains("column \"intent\" is Enum8('a' = 1), which a dictionary cannot hold"),
        "{why}"
    );
    assert!(why.detail.contains("dictionary.attributes"), "{why}");

    tables.dictionary.attributes = vec!["volume".into()];
    tables.dictionary.shard_expression = "no_such".into();
    let done = tables.refresh(0, 10).await;
    let step = done.message.headers.text(header::FAILED_STEP);
    assert_eq!(step, Some("confine_shard"));
    let why = quarantined(&tables).await;
    assert_eq!(why.reason, Reason::WrongSchema);
    assert!(why.detail.starts_with("confine_shard: "), "{why}");

    tables.dictionary.database = "no_such".into();
    let why = quarantined(&tables).await;
    assert_eq!(why.reason, Reason::MissingTarget);
    assert!(
        why.detail.contains("database no_such does not exist"),
        "{why}"
    );
    tables.dictionary.database = "system".into();
    let why = quarantined(&tables).await;
    assert!(why.detail.contains("of engine Memory"), "{why}");

    tables.run(0, "DROP TABLE {db}.keywords_metrics_local");
    let why = quarantined(&tables).await;
    assert_eq!(why.reason, Reason::MissingTarget);
    assert!(why.detail.contains("keywords_metrics_local"), "{why}");
}

#[tokio::test]
async fn the_receipt_of_an_order_in_quarantine_names_the_step_at_which_it_failed() {
    let tables = Tables::create();
    let worker = tables.worker();
    let receipt = |failed_step: Option<&str>, reason, detail: &str| {
        let mut message = order(1, 10).to_message();
        if let Some(step) = failed_step {
            message.headers.set(header::FAILED_STEP, step);
        }
        let why = Invalid::new(reason, detail);
        let receipt = worker.quarantined(&message, &why).unwrap();
        let receipt = Receipt::from_message(&receipt).unwrap();
        assert_eq!(receipt.run.as_str(), "r-10");
        match receipt.fact {
            Fact::OrderFailed {
                stage,
                target,
                step,
                given_up: true,
                ..
            } => (stage.to_string(), target, step),
            other => panic!("{other:?}"),
        }
    };
    for (failed_step, reason, detail, stage, step) in [
        (
            Some("sync"),
            Reason::TooManyRetries,
            "failed 11 times, the last time with: sync: 1 of 2 replicas late: x (shard 1)",
            "sync",
            "sync",
        ),
        (
            Some("confine_shard"),
            Reason::WrongSchema,
            "confine_shard: no",
            "dictionary",
            "confine_shard",
        ),
        (
            None,
            Reason::DeliveryLimit,
            "delivered 15 times",
            "dictionary",
            "delivery-limit",
        ),
        (
            Some("sync"),
            Reason::DeliveryLimit,
            "delivered 15 times",
            "dictionary",
            "delivery-limit",
        ),
    ] {
        assert_eq!(
            receipt(failed_step, reason, detail),
            (stage.into(), "1".into(), step.into())
        );
    }
}
