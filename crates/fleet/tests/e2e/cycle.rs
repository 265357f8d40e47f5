//! What a cycle does when nothing fails.

use serde_json::Value;
use testkit::{Hub, Stack};

use crate::support::*;

#[test]
fn every_row_reaches_both_stores_and_the_refused_ones_quarantine() {
    let _turn = one_at_a_time();
    let stack = configured(30_000, "");
    let mut workers = start_workers(&stack);
    let run = publish(&stack, &[]);
    let progress = complete(&stack, &run);

    assert_eq!(progress["rows_fetched"], 30_000, "{progress:#}");
    for store in progress["stores"].as_array().unwrap() {
        assert_eq!(store["rows_accounted"], 30_000, "{store:#}");
    }
    assert_stores_agree(&stack);
    assert_eq!(expected(&stack).refused, Hub::REFUSED);
    every_refused_row_has_its_reason(&stack);
    fields_are_the_same_in_both_stores(&stack);
    for worker in &mut workers {
        let ended = worker.terminate(std::time::Duration::from_secs(40));
        assert!(
            ended.is_some_and(|status| status.success()),
            "{}",
            worker.log()
        );
    }
}

fn every_refused_row_has_its_reason(stack: &Stack) {
    let quarantined = peek(stack, "es-writer-quar");
    let header = |message: &Value, name: &str| message["properties"]["headers"][name].clone();
    let rows: u64 = quarantined
        .iter()
        .filter_map(|m| header(m, "fleet-rows").as_u64())
        .sum();
    assert_eq!(rows, Hub::REFUSED);
    for message in &quarantined {
        assert_eq!(header(message, "fleet-reason"), "refused-rows");
        let history = header(message, "fleet-history");
        assert!(
            history.as_str().is_some_and(|h| h.contains("volume")),
            "{history}"
        );
    }
    assert_eq!(peek(stack, "ch-writer-quar").len(), 0);
}

/// Compares some rows, the hard ones among them, field by field with the source's latest version.
fn fields_are_the_same_in_both_stores(stack: &Stack) {
    let [all, _] = stack.index_names();
    let mut compared = 0;
    let last = stack.hub.rows - Hub::SUPERSEDED;
    for shard in 0..stack.database.shards().len() {
        let source = rows(stack, shard, &format!("SELECT number, country, keyword, processed_volume AS volume,
             processed_global_volume AS global_volume, processed_clicks AS clicks, processed_cpc AS cpc,
             processed_difficulty AS difficulty, processed_parent_topic AS parent_topic,
             processed_serp_features AS serp_features, processed_pe_traffic AS pe_traffic,
             toUnixTimestamp(processed_updated) AS updated, toUnixTimestamp64Milli(changed_at) AS version
             FROM {{db}}.keywords_data_local WHERE (number < 60 OR number % 997 = 0 OR number >= {last})
             AND processed_volume < 9223372036854775808
             ORDER BY changed_at DESC LIMIT 1 BY country, keyword"));
        for row in source {
            let key = format!(
                "hex(keyword) = '{}' AND country = '{}'",
                hex(&row["keyword"]),
                row["country"].as_str().unwrap()
            );
            let stored = rows(
                stack,
                shard,
                &format!(
                    "SELECT * REPLACE (toUnixTimestamp(updated) AS updated)
                 FROM {{db}}.keywords_metrics_local FINAL WHERE {key}"
                ),
            );
            assert_eq!(stored.len(), 1, "{row}");
            let document = find(stack, &all, &row);
            for (field, value) in row.as_object().unwrap() {
                if field == "number" {
                    continue;
                }
                assert_same(&stored[0][field], value, field, "ClickHouse", &row);
                if field != "version" {
                    assert_same(
                        &document["_source"][field],
                        value,
                        field,
                        "Elasticsearch",
                        &row,
                    );
                }
            }
            assert_eq!(document["_version"], row["version"], "{row}");
            compared += 1;
        }
    }
    assert!(compared > 50, "only {compared} rows were compared");
}

fn assert_same(found: &Value, wanted: &Value, field: &str, store: &str, row: &Value) {
    // Floats are compared as numbers: stores write 0.5 and 5e-1.
    let same = match (found.as_f64(), wanted.as_f64()) {
        (Some(found), Some(wanted)) => (found - wanted).abs() <= wanted.abs() * 1e-6,
        // A field without a value may be absent from a document.
        _ => found == wanted,
    };
    assert!(
        same,
        "{field} in {store} is {found}, not {wanted}, of {row}"
    );
}

fn rows(stack: &Stack, shard: usize, sql: &str) -> Vec<Value> {
    let sql =
        format!("{sql} SETTINGS output_format_json_quote_64bit_integers = 0 FORMAT JSONEachRow");
    let printed = stack.database.run(shard, &sql);
    printed
        .lines()
        .map(|line| serde_json::from_str(line).expect("a row as JSON"))
        .collect()
}

fn hex(text: &Value) -> String {
    text.as_str()
        .unwrap()
        .bytes()
        .map(|b| format!("{b:02X}"))
        .collect()
}

fn find(stack: &Stack, index: &str, row: &Value) -> Value {
    let body = serde_json::json!({
        "version": true,
        "query": {"bool": {"filter": [
            {"term": {"country": row["country"]}},
            {"term": {"keyword": row["keyword"]}},
        ]}},
    });
    let answer = stack
        .indices
        .api("GET", &format!("{index}/_search"), &body.to_string());
    let hits = answer["hits"]["hits"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    assert_eq!(hits.len(), 1, "documents of {row}: {answer:#}");
    hits[0].clone()
}

#[test]
fn a_second_run_includes_only_what_changed_and_a_third_nothing() {
    let _turn = one_at_a_time();
    let stack = configured(5_000, "[queuer]\nchange_overlap_seconds = 0\n");
    let _workers = start_workers(&stack);
    let first = publish(&stack, &[]);
    assert_eq!(complete(&stack, &first)["rows_fetched"], 5_000);

    stack.hub.change(10);
    let second = publish(&stack, &[]);
    let changed = complete(&stack, &second)["rows_fetched"].as_u64().unwrap();
    assert!((480..=500).contains(&changed), "{changed} rows changed");
    assert_stores_agree(&stack);

    let third = publish(&stack, &[]);
    assert_eq!(complete(&stack, &third)["rows_fetched"], 0);
}

#[test]
fn the_same_run_again_changes_nothing() {
    let _turn = one_at_a_time();
    let stack = configured(5_000, "");
    let _workers = start_workers(&stack);
    let first = publish(&stack, &["--full"]);
    complete(&stack, &first);
    let second = publish(&stack, &["--full"]);
    let progress = complete(&stack, &second);
    let elasticsearch = store(&progress, "es-writer");
    assert_eq!(elasticsearch["rows"]["stored"], 0, "{progress:#}");
    assert_stores_agree(&stack);
}

pub fn store(progress: &Value, name: &str) -> Value {
    let stores = progress["stores"].as_array().cloned().unwrap_or_default();
    stores
        .into_iter()
        .find(|store| store["store"] == name)
        .unwrap_or_default()
}

#[test]
fn followers_get_what_their_leader_gets() {
    let _turn = one_at_a_time();
    let stack = configured(3_000, "");
    let [all, lite] = stack.index_names();
    for leader in [&all, &lite] {
        let mapping = stack.indices.api("GET", &format!("{leader}/_mapping"), "");
        let body = serde_json::json!({"mappings": mapping[leader.as_str()]["mappings"], "settings": {"number_of_replicas": 0}});
        stack
            .indices
            .api("PUT", &format!("{leader}-follower-eu"), &body.to_string());
    }
    let _workers = start_workers(&stack);
    let run = publish(&stack, &[]);
    complete(&stack, &run);
    assert_stores_agree(&stack);
    for leader in [&all, &lite] {
        let follower = format!("{leader}-follower-eu");
        assert_eq!(
            documents(&stack, &follower),
            documents(&stack, leader),
            "{follower}"
        );
    }
}

#[test]
fn a_run_is_refused_while_another_is_unfinished_and_abandoned_by_name() {
    let _turn = one_at_a_time();
    let stack = configured(2_000, "");
    let first = publish(&stack, &[]);
    let refused = stack.fleet.output(&["run", "queuer"]);
    assert!(!refused.status.success());
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        text.contains(&first) && text.contains("--abandon"),
        "{text}"
    );

    let second = publish(&stack, &["--abandon", &first]);
    assert_ne!(first, second);
    assert_eq!(progress(&stack, &first)["status"], "abandoned");
    let _workers = start_workers(&stack);
    complete(&stack, &second);
    assert_stores_agree(&stack);
}

#[test]
fn a_dry_run_publishes_nothing() {
    let _turn = one_at_a_time();
    let stack = configured(2_000, "");
    let plan = stack.fleet.run(&["run", "queuer", "--dry-run"]);
    assert!(plan.contains("SELECT"), "{plan}");
    assert_eq!(peek(&stack, "fetcher-in").len(), 0);
}

#[test]
fn an_old_batch_that_arrives_late_changes_nothing() {
    let _turn = one_at_a_time();
    let stack = configured(2_000, "[queuer]\nchange_overlap_seconds = 0\n");
    let fetcher = stack.fleet.start("fetcher");
    let first = publish(&stack, &[]);
    assert!(eventually(
        || progress(&stack, &first)["rows_fetched"] == 2_000
    ));
    // The batches of the first run wait in the queues; a copy of each comes back at the end.
    let late = WRITERS.map(|writer| (writer, copies(&stack, &format!("{writer}-in"))));
    let _writers = WRITERS.map(|writer| stack.fleet.start(writer));
    let _closers = CLOSERS.map(|closer| stack.fleet.start(closer));
    complete(&stack, &first);
    stack.hub.change(1);
    let second = publish(&stack, &[]);
    complete(&stack, &second);
    assert_stores_agree(&stack);

    for (writer, messages) in late {
        assert!(!messages.is_empty());
        for message in messages {
            send(&stack, &format!("{writer}-in"), message);
        }
        assert!(eventually(
            || peek(&stack, &format!("{writer}-in")).is_empty()
        ));
    }
    drop(fetcher);
    assert_stores_agree(&stack);
    fields_are_the_same_in_both_stores(&stack);
}
