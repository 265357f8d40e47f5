//! The writer against the real engine, with servers that fail on demand.

mod failures;
mod proxy_limits;
mod support;
mod unchanged;

use batch::{Message, REASON_COLUMN, Reason, header};
use pipeline::{BatchWorker, Outcome};
use support::{Tables, Written, rows, texts};

fn all_done(written: &[Written]) -> bool {
    written.iter().all(|w| w.outcome == Outcome::Done)
}

#[tokio::test]
async fn a_group_is_one_part_with_every_row_as_the_source_has_it() {
    let tables = Tables::create(20_000).await;
    let batches = tables.batches("1", 1000).await;
    assert_eq!(batches.len(), 20);
    let written = tables.write(&batches).await;
    assert!(all_done(&written));
    assert!(written.iter().all(|w| w.rows() == rows(1000, 0, 0)));
    assert_eq!(tables.differences("1"), "");
    assert_eq!(tables.parts(), 1);
    let counter = |name, status| tables.app.stats.counter(name, &[("status", status)]);
    assert_eq!(counter("rows", "stored"), 20_000);
    assert_eq!(counter("batches", "stored"), 20);
}

#[tokio::test]
async fn many_small_batches_make_few_parts() {
    let tables = Tables::create(20_000).await;
    let batches = tables.batches("1", 100).await;
    assert_eq!(batches.len(), 200);
    for group in batches.chunks(100) {
        assert!(all_done(&tables.write(group).await));
    }
    assert_eq!(tables.parts(), 2);
    assert_eq!(tables.differences("1"), "");
}

#[tokio::test]
async fn the_same_group_again_is_inserted_once() {
    let tables = Tables::create(3000).await;
    let batches = tables.batches("1", 1000).await;
    for _ in 0..3 {
        assert!(all_done(&tables.write(&batches).await));
    }
    assert_eq!((tables.inserted(), tables.parts()), (3000, 1));
}

#[tokio::test]
async fn other_rows_under_the_name_of_an_earlier_batch_are_inserted() {
    let tables = Tables::create(2000).await;
    let first = tables.batches("processed_volume < 1000", 1000).await;
    let second = tables.batches("processed_volume >= 1000", 1000).await;
    assert_eq!(first[0].headers.batch_id(), second[0].headers.batch_id());
    for batch in [first, second] {
        assert!(all_done(&tables.write(&batch).await));
    }
    assert_eq!(tables.differences("1"), "");
}

#[tokio::test]
async fn refused_rows_are_found_and_quarantined_alone_with_the_servers_reason() {
    let tables = Tables::create(10_000).await;
    tables.run(
        "ALTER TABLE {db}.keywords_metrics_local
         ADD CONSTRAINT small CHECK volume NOT IN (17, 4711, 4712)",
    );
    let batches = tables.batches("1", 1000).await;
    let written = tables.write(&batches).await;
    assert!(all_done(&written));
    assert_eq!(
        tables.differences("processed_volume NOT IN (17, 4711, 4712)"),
        ""
    );
    let all: u64 = written.iter().map(|w| w.rows().unwrap().total()).sum();
    assert_eq!(all, 10_000);

    let quarantined: Vec<Message> = written.iter().filter_map(Written::quarantined).collect();
    let refused: u64 = written.iter().map(|w| w.rows().unwrap().quarantined).sum();
    assert_eq!(refused, 3);
    let mut keywords = Vec::new();
    for message in &quarantined {
        keywords.extend(texts(&message.body, "keyword"));
        for reason in texts(&message.body, REASON_COLUMN) {
            assert!(reason.contains("Constraint `small`"), "{reason}");
            assert!(reason.contains("VIOLATED_CONSTRAINT"), "{reason}");
        }
        assert_eq!(message.headers.text(header::PROGRAM), Some("ch-writer"));
    }
    keywords.sort();
    assert_eq!(keywords, ["17 \u{FFFD}\u{FFFD}", "4711", "4712 \t\n'\""]);
}

#[tokio::test]
async fn quarantined_rows_go_in_when_they_come_again_and_nothing_is_wrong_any_more() {
    let tables = Tables::create(1000).await;
    let constraint = "ALTER TABLE {db}.keywords_metrics_local";
    tables.run(&format!(
        "{constraint} ADD CONSTRAINT small CHECK volume < 990"
    ));
    let written = tables.write(&tables.batches("1", 1000).await).await;
    assert_eq!(written[0].rows(), rows(990, 0, 10));
    tables.run(&format!("{constraint} DROP CONSTRAINT small"));
    let again = tables.write(&[written[0].quarantined().unwrap()]).await;
    assert_eq!(again[0].outcome, Outcome::Done);
    assert_eq!(again[0].rows(), rows(10, 0, 0));
    assert_eq!(tables.differences("1"), "");
}

#[tokio::test]
async fn a_batch_that_is_refused_throughout_costs_few_inserts() {
    let mut tables = Tables::create(1000).await;
    tables.settings.max_refused_rows = 5;
    tables.run("ALTER TABLE {db}.keywords_metrics_local ADD CONSTRAINT no CHECK 0");
    let written = tables.write(&tables.batches("1", 1000).await).await;
    assert_eq!(written[0].rows(), rows(0, 0, 1000));
    let inserts = tables.app.stats.observations("insert", &[]);
    assert!(inserts < 40, "{inserts} inserts");
    let reasons = texts(&written[0].quarantined().unwrap().body, REASON_COLUMN);
    assert_eq!(
        reasons
            .iter()
            .filter(|r| r.starts_with("not tried"))
            .count(),
        995
    );
}

#[tokio::test]
async fn a_null_for_a_column_that_takes_none_is_refused_and_not_turned_into_a_zero() {
    let tables = Tables::create(30).await;
    tables.run("ALTER TABLE {db}.keywords_metrics_local DROP COLUMN clicks");
    tables.run("ALTER TABLE {db}.keywords_metrics_local ADD COLUMN clicks Float64");
    let written = tables.write(&tables.batches("1", 1000).await).await;
    assert_eq!(written[0].rows(), rows(20, 0, 10));
    assert_eq!(tables.differences("processed_clicks IS NOT NULL"), "");
}

#[tokio::test]
async fn an_old_version_that_arrives_late_does_not_replace_a_newer_one() {
    let tables = Tables::create(1000).await;
    let old = tables.batches("1", 1000).await;
    // Every row changes once more; the writer gets the new rows first.
    tables.run(
        "INSERT INTO {db}.source SELECT * REPLACE (processed_volume + 5 AS processed_volume,
            changed_at + 3600 AS changed_at) FROM {db}.source SETTINGS async_insert = 0",
    );
    let new = "changed_at >= toDateTime64('2026-01-01 01:00:00', 3, 'UTC')";
    assert!(all_done(
        &tables.write(&tables.batches_from(new, 1000, 1).await).await
    ));
    assert!(all_done(&tables.write(&old).await));
    assert_eq!(tables.inserted(), 2000);
    assert_eq!(tables.differences(new), "");
}

#[tokio::test]
async fn a_bad_batch_is_named_before_it_is_gathered() {
    let tables = Tables::create(1000).await;
    let writer = tables.writer();
    let good = tables.batches("1", 1000).await.remove(0);
    let refused = |change: fn(&mut Message)| {
        let mut message = good.clone();
        change(&mut message);
        writer.admit(&message).unwrap_err().reason
    };
    assert_eq!(
        refused(|m| {
            m.headers.set(header::SHARD, 9);
        }),
        Reason::UnknownShard
    );
    assert_eq!(
        refused(|m| {
            m.headers.set(header::ROWS, 999);
        }),
        Reason::BadHeader
    );
    assert_eq!(
        refused(|m| {
            m.headers.set(header::SEQUENCE, -1);
        }),
        Reason::BadHeader
    );
    assert_eq!(
        refused(|m| {
            m.headers.set(header::SCHEMA, 2);
        }),
        Reason::UnknownVersion
    );
    assert_eq!(
        refused(|m| m.body = m.body.slice(..m.body.len() - 9)),
        Reason::Truncated
    );
    assert_eq!(
        refused(|m| m.body = "<html></html>".into()),
        Reason::NotReadable
    );
}

#[tokio::test]
async fn the_ledger_hears_of_a_batch_in_quarantine_if_its_headers_tell_which() {
    let tables = Tables::create(1000).await;
    let writer = tables.writer();
    let mut message = tables.batches("1", 1000).await.remove(0);
    let why = batch::Invalid::new(Reason::Truncated, "cut off");
    let receipt = writer.quarantined(&message, &why).unwrap();
    let batch::Fact::Stored {
        rows: found,
        reasons,
        ..
    } = batch::Receipt::from_message(&receipt).unwrap().fact
    else {
        panic!("{receipt:?}")
    };
    assert_eq!(Some(found), rows(0, 0, 1000));
    assert_eq!(reasons, [(Reason::Truncated, 1000)].into());
    message.headers.remove(header::TASK);
    assert_eq!(writer.quarantined(&message, &why), None);
    let counter = |name| tables.app.stats.counter(name, &[("status", "quarantined")]);
    assert_eq!((counter("batches"), counter("rows")), (2, 2000));
}
