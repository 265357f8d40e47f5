//! A SERP service of one node a shard, each with some ports, kept running and read from all the time.

use std::time::Duration;

use serde_json::Value;
use testkit::serp::{Probed, Prober, Supervisor};
use testkit::{Hub, clickhouse, http};

use crate::proof::Line;

/// Loading a dictionary of 100,000 rows takes a second.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Between two reads of a prober: often enough to meet every restart, and no load next to the run.
const PAUSE: Duration = Duration::from_millis(20);

/// The nodes of `[serp]`, in the order of the shards.
pub struct Service {
    nodes: Vec<Node>,
}

struct Node {
    name: String,
    keyword: Keyword,
    ports: Supervisor,
    prober: Prober,
}

/// A keyword of a shard, with its latest volume by the source.
struct Keyword {
    country: String,
    keyword: String,
    volume: u64,
}

impl Service {
    /// Starts every port, each of which loads the dictionary of its node's shard, and a prober for each node.
    pub fn start(settings: &Value, hub: &Hub) -> Self {
        let dictionary = format!(
            "{}.{}",
            crate::text(settings, "/dictionary/database"),
            crate::text(settings, "/dictionary/name")
        );
        let by_shard = settings["serp"]["nodes"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let node = |(shard, address): (&Value, &String)| {
            let name = shard[0].as_str().expect("a node for each shard").to_owned();
            let source = format!("{address}/{dictionary}");
            let ports = Supervisor::start(&[], &ports(&name), &source);
            ports.wait_until_up(START_TIMEOUT);
            let keyword = Keyword::new(hub, address);
            let prober = Prober::paced(&ports.ports(), &keyword.path(), PAUSE);
            Node {
                name,
                keyword,
                ports,
                prober,
            }
        };
        let nodes = by_shard.iter().zip(&hub.shards).map(node);
        Self {
            nodes: nodes.collect(),
        }
    }

    /// What every port answers for its node's keyword.
    pub fn answers(&self) -> Vec<Line> {
        let probes = |node: &Node| {
            let Keyword {
                country,
                keyword,
                volume,
            } = &node.keyword;
            let asked = node.ports.ports().into_iter().map(|port| {
                let (_, answer) = http(
                    "GET",
                    &format!("http://127.0.0.1:{port}{}", node.keyword.path()),
                    "",
                );
                let row: Value = serde_json::from_str(&answer).unwrap_or_default();
                let found = &row["volume"];
                found
                    .as_u64()
                    .or_else(|| found.as_str()?.parse().ok())
                    .unwrap_or(0)
            });
            // Of all ports the one that is furthest off.
            let found = asked
                .max_by_key(|found| found.abs_diff(*volume))
                .unwrap_or(0);
            let what = format!("SERP node {}, volume of {keyword:?} ({country})", node.name);
            Line::new(what, found, *volume)
        };
        self.nodes.iter().map(probes).collect()
    }

    /// Ends the service; what each node's prober has seen.
    pub fn stop(self) -> Vec<(String, Probed)> {
        let nodes = self.nodes.into_iter();
        nodes.map(|node| (node.name, node.prober.stop())).collect()
    }
}

impl Keyword {
    fn new(hub: &Hub, address: &str) -> Self {
        let sql = format!(
            "SELECT country, keyword, toString(argMax(processed_volume, changed_at)) AS volume FROM {db}.{table} \
             WHERE (country, keyword) IN (SELECT country, keyword FROM {db}.{table} WHERE number BETWEEN 20 AND 500 \
             ORDER BY number LIMIT 1) GROUP BY country, keyword FORMAT JSONEachRow",
            db = hub.database,
            table = hub.table
        );
        let (ok, answer) = clickhouse::query(address, &sql);
        assert!(ok, "{address} refuses {sql}: {answer}");
        let row: Value = serde_json::from_str(answer.trim()).expect("a keyword in JSON");
        let text = |name: &str| row[name].as_str().expect("a text").to_owned();
        Self {
            country: text("country"),
            keyword: text("keyword"),
            volume: text("volume").parse().expect("a number"),
        }
    }

    fn path(&self) -> String {
        let Self {
            country, keyword, ..
        } = self;
        format!(
            "/keyword?country={country}&keyword={}",
            keyword.replace(' ', "%20")
        )
    }
}

/// Ports of a node that names them: `127.0.0.1:21100-21103`.
fn ports(node: &str) -> Vec<u16> {
    let range = node
        .rsplit_once(':')
        .and_then(|(_, ports)| ports.split_once('-'));
    let (first, last) = range.unwrap_or_else(|| panic!("node {node:?} names no range of ports"));
    let port = |text: &str| text.parse::<u16>().expect("a port");
    (port(first)..=port(last)).collect()
}
