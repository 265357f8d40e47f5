//! What the stores and the SERP service hold, against what the source has.

use std::time::Duration;

use fleet::output::{duration, number, table};
use serde_json::Value;
use testkit::{clickhouse, http};

use crate::Demo;
use crate::serp::Service;

impl Demo {
    /// Counts in the stores, compares with the source, and prints the tables.
    pub fn prove(&self, run: &Value, elapsed: Duration, service: Service) -> bool {
        let read = run["rows_fetched"].as_u64().unwrap_or(0);
        let source = self.source();
        let mut lines = Vec::new();
        for (n, (address, keys)) in self
            .hub
            .shards
            .iter()
            .zip(&source.keys_by_shard)
            .enumerate()
        {
            let target = format!("{}.keywords_metrics_local", self.hub.database);
            let stored = count(address, &format!("SELECT count() FROM {target} FINAL"));
            lines.push(Line::new(format!("ClickHouse, shard {n}"), stored, *keys));
        }
        for (index, expected) in [
            ("keywords-all-20220613", source.keys() - source.refused),
            ("keywords-lite-20241025", source.lite),
        ] {
            lines.push(Line::new(
                format!("Elasticsearch, {index}"),
                self.documents(index),
                expected,
            ));
        }
        let (quarantined, reasons) = self.quarantined();
        lines.push(Line::new(
            format!("quarantined{reasons}"),
            quarantined,
            source.refused,
        ));
        for (shard, address) in self.hub.shards.iter().enumerate() {
            let dictionary = format!("{}.keywords_metrics_dict", self.hub.database);
            let sql = format!("SELECT count() FROM {dictionary}");
            let what = format!("dictionary, shard {shard}");
            lines.push(Line::new(
                what,
                count(address, &sql),
                source.keys_by_shard[shard],
            ));
        }
        lines.extend(service.answers());
        let probed = service.stop();

        println!();
        let already = match read {
            0 => ": nothing changed since the last run, its rows were already there",
            _ => "",
        };
        println!(
            "rows in the source   {} ({} keys; {} rows are older versions)",
            number(source.rows),
            number(source.keys()),
            number(source.rows - source.keys())
        );
        println!("rows read            {}{already}", number(read));
        for store in run["stores"].as_array().into_iter().flatten() {
            let rows = |what: &str| number(store["rows"][what].as_u64().unwrap_or(0));
            println!(
                "{:<21}{} stored, {} already there, {} quarantined",
                store["store"].as_str().unwrap_or_default(),
                rows("stored"),
                rows("unchanged"),
                rows("quarantined")
            );
        }
        println!(
            "state of the run     {}",
            run["status"].as_str().unwrap_or("unknown")
        );
        println!("time                 {}", duration(elapsed));
        println!();
        println!("{}", stages(run));
        let cells = lines.iter().map(|line| {
            let agrees = if line.agrees() { "yes" } else { "NO" };
            [
                line.what.clone(),
                number(line.found),
                number(line.expected),
                agrees.to_owned(),
            ]
        });
        println!(
            "{}",
            table("where | >rows found | >by the source | agree", cells)
        );
        for (node, probed) in &probed {
            println!(
                "SERP node {node}: {} reads meanwhile, {} failed; at most {} port(s) down at once",
                number(probed.asked),
                number(probed.failed),
                probed.most_down
            );
        }
        let complete = run["status"]
            .as_str()
            .is_some_and(|state| state.starts_with("complete"));
        let answered = probed
            .iter()
            .all(|(_, probed)| probed.asked > 0 && probed.failed == 0);
        complete && answered && lines.iter().all(Line::agrees)
    }

    /// What the stores should hold, by the source's own rows: the latest version of each key.
    fn source(&self) -> Source {
        let table = format!("{}.{}", self.hub.database, self.hub.table);
        let latest = format!(
            "(SELECT argMax(processed_volume, changed_at) AS volume FROM {table} GROUP BY country, keyword)"
        );
        let sum = |sql: &str| {
            self.hub
                .shards
                .iter()
                .map(|address| count(address, sql))
                .sum()
        };
        let keys = format!("SELECT count() FROM {latest}");
        Source {
            rows: sum(&format!("SELECT count() FROM {table}")),
            keys_by_shard: self
                .hub
                .shards
                .iter()
                .map(|address| count(address, &keys))
                .collect(),
            refused: sum(&format!(
                "SELECT countIf(volume > 9223372036854775807) FROM {latest}"
            )),
            lite: sum(&format!(
                "SELECT countIf(volume BETWEEN 100 AND 9223372036854775807) FROM {latest}"
            )),
        }
    }

    fn documents(&self, index: &str) -> u64 {
        http(
            "POST",
            &format!("{}/{index}/_refresh", self.elasticsearch),
            "",
        );
        let (_, answer) = http("GET", &format!("{}/{index}/_count", self.elasticsearch), "");
        serde_json::from_str::<Value>(&answer)
            .ok()
            .and_then(|v| v["count"].as_u64())
            .unwrap_or(0)
    }

    /// Rows in quarantine and why, of the latest run that has any there: a run of all rows refuses the same again.
    fn quarantined(&self) -> (u64, String) {
        let listed = self.fleet.json(&["quarantine", "list"]);
        let groups = listed["groups"].as_array().cloned().unwrap_or_default();
        let latest = groups
            .iter()
            .filter_map(|group| group["run"].as_str())
            .max();
        let latest_groups = || {
            groups
                .iter()
                .filter(|group| group["run"].as_str() == latest)
        };
        let rows = latest_groups()
            .filter_map(|group| group["rows"].as_u64())
            .sum();
        let mut reasons: Vec<&str> = latest_groups()
            .filter_map(|group| group["reason"].as_str())
            .collect();
        reasons.sort_unstable();
        reasons.dedup();
        let reasons = if reasons.is_empty() {
            String::new()
        } else {
            format!(": {}", reasons.join(", "))
        };
        (rows, reasons)
    }
}

/// The decision of each gate.
fn stages(run: &Value) -> String {
    let stages = run["stages"].as_array().cloned().unwrap_or_default();
    let rows = stages.into_iter().map(|stage| {
        ["stage", "status", "why"].map(|key| stage[key].as_str().unwrap_or_default().to_owned())
    });
    table("stage | decision | why", rows)
}

struct Source {
    rows: u64,
    keys_by_shard: Vec<u64>,
    /// Keys whose volume Elasticsearch cannot hold.
    refused: u64,
    /// Keys of the volume that the lite index starts from.
    lite: u64,
}

impl Source {
    fn keys(&self) -> u64 {
        self.keys_by_shard.iter().sum()
    }
}

pub struct Line {
    what: String,
    found: u64,
    expected: u64,
}

impl Line {
    pub fn new(what: String, found: u64, expected: u64) -> Self {
        Self {
            what,
            found,
            expected,
        }
    }

    fn agrees(&self) -> bool {
        self.found == self.expected
    }
}

pub fn count(address: &str, sql: &str) -> u64 {
    let (ok, answer) = clickhouse::query(address, sql);
    assert!(ok, "{address} refuses {sql}: {answer}");
    answer
        .trim()
        .parse()
        .unwrap_or_else(|_| panic!("{sql} answers {answer}"))
}
