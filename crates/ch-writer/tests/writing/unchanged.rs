//! `count_unchanged`.

use crate::all_done;
use crate::support::{Tables, rows};

#[tokio::test]
async fn rows_that_are_there_already_count_as_unchanged_and_are_not_inserted_again() {
    let mut tables = Tables::create(3000).await;
    tables.settings.count_unchanged = true;
    let first = tables.batches("1", 1000).await;
    let written = tables.write(&first).await;
    assert!(written.iter().all(|w| w.rows() == rows(1000, 0, 0)));
    // Names of their own, so that no token is known.
    let again = tables
        .write(&tables.batches_from("1", 1000, 100).await)
        .await;
    assert!(all_done(&again));
    assert!(again.iter().all(|w| w.rows() == rows(0, 1000, 0)));
    assert_eq!(tables.inserted(), 3000);
    let batches = tables
        .app
        .stats
        .counter("batches", &[("status", "unchanged")]);
    assert_eq!(batches, 3);
}

#[tokio::test]
async fn rows_are_counted_one_by_one_where_only_some_are_there() {
    let mut tables = Tables::create(2000).await;
    tables.settings.count_unchanged = true;
    tables
        .write(&tables.batches("processed_volume % 4 = 0", 1000).await)
        .await;
    let written = tables
        .write(&tables.batches_from("1", 2000, 100).await)
        .await;
    assert_eq!(written[0].rows(), rows(1500, 500, 0));
    assert_eq!(tables.differences("1"), "");
}

#[tokio::test]
async fn a_row_is_unchanged_where_a_newer_version_is_and_stored_where_an_older_one_is() {
    let mut tables = Tables::create(100).await;
    tables.settings.count_unchanged = true;
    let old = tables.batches("1", 1000).await;
    tables.run(
        "INSERT INTO {db}.source SELECT * REPLACE (changed_at + 3600 AS changed_at)
         FROM {db}.source SETTINGS async_insert = 0",
    );
    let newer = "changed_at >= toDateTime64('2026-01-01 01:00:00', 3, 'UTC')";
    let half = format!("{newer} AND processed_volume < 50");
    tables
        .write(&tables.batches_from(&half, 1000, 1).await)
        .await;
    let late = tables.write(&old).await;
    assert_eq!(late[0].rows(), rows(50, 50, 0));
    let new = tables
        .write(&tables.batches_from(newer, 1000, 2).await)
        .await;
    assert_eq!(new[0].rows(), rows(50, 50, 0));
}
