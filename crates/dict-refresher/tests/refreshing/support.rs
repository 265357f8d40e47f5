//! Tables and dictionaries of their own on the real engine, and a worker that refreshes them.

use std::time::{SystemTime, UNIX_EPOCH};

use app::App;
use batch::{Command, Fact, Message, Order, Receipt};
use dict_refresher::{DictRefresher, DictRefresherSettings, DictionarySettings};
use pipeline::testing::Sent;
use pipeline::{Outcome, Worker};
use serp::SerpSettings;
use stores::clickhouse::{Cluster, TargetSettings};
use testkit::Database;

pub const KEYS: u64 = 3000;

pub struct Tables {
    pub database: Database,
    pub app: App,
    pub target: TargetSettings,
    pub dictionary: DictionarySettings,
    pub serp: SerpSettings,
    pub settings: DictRefresherSettings,
}

/// What became of an order.
pub struct Done {
    pub outcome: Outcome,
    pub sent: Sent,
    /// The order as it is tried again or quarantined.
    pub message: Message,
}

impl Tables {
    /// [`KEYS`] keys on each of two servers, each with an older row and one of version 10 and volume = number + 10.
    /// Parts are not merged, so that only FINAL tells the rows apart.
    pub fn create() -> Self {
        let database = Database::create();
        for shard in 0..2 {
            database.run(
                shard,
                "CREATE TABLE {db}.keywords_metrics_local (
                    country LowCardinality(String), keyword String, volume UInt64,
                    clicks Nullable(Float64), tags Array(LowCardinality(String)),
                    lang LowCardinality(Nullable(String)), price Decimal(18, 4), version Int64
                ) ENGINE = ReplacingMergeTree(version) ORDER BY (country, keyword)",
            );
            database.run(shard, "SYSTEM STOP MERGES {db}.keywords_metrics_local");
        }
        let target = target(&database.cluster(), database.name());
        let dictionary = dictionary(database.name());
        let tables = Self {
            database,
            app: App::detached("dict-refresher"),
            target,
            dictionary,
            serp: SerpSettings {
                nodes: vec![
                    vec!["serp-a".into(), "serp-b".into()],
                    vec!["serp-c".into()],
                ],
                ..SerpSettings::default()
            },
            settings: DictRefresherSettings::default(),
        };
        for shard in 0..2 {
            tables.insert(shard, 1, 0..KEYS);
            tables.insert(shard, 10, 0..KEYS);
        }
        tables
    }

    /// Rows of a version for the keys of these numbers.
    pub fn insert(&self, shard: usize, version: i64, keys: std::ops::Range<u64>) {
        self.run(
            shard,
            &format!(
                "INSERT INTO {{db}}.keywords_metrics_local SELECT ['de', 'fr', 'us'][1 + number % 3],
                    concat(toString(number), ['', ' \\'\\\\', ' 東京'][1 + number % 3]), number + {version},
                    if(number % 2 = 0, NULL, number / 7), arrayMap(x -> toString(x), range(number % 4)),
                    if(number % 5 = 0, NULL, 'xx'), toDecimal64(number / 8, 4), {version}
                FROM numbers({}, {}) SETTINGS async_insert = 0",
                keys.start,
                keys.end - keys.start
            ),
        );
    }

    pub fn run(&self, shard: usize, sql: &str) -> String {
        self.database.run(shard, sql)
    }

    /// Both servers as the two replicas of one shard.
    pub fn as_replicas(&mut self) {
        self.target.cluster = self.database.shards().join("|");
    }

    pub fn worker(&self) -> DictRefresher {
        self.worker_on(&self.target)
    }

    /// A worker that knows the servers by other addresses.
    pub fn worker_on(&self, target: &TargetSettings) -> DictRefresher {
        let Self {
            app,
            dictionary,
            serp,
            settings,
            ..
        } = self;
        DictRefresher::new(app, target, dictionary, serp, settings).unwrap()
    }

    pub fn cluster(&self) -> Cluster {
        Cluster::new(&self.target.connection()).unwrap()
    }

    /// Gives the worker an order to refresh a shard for the run of this version.
    pub async fn refresh(&self, shard: u32, version: i64) -> Done {
        self.process(order(shard, version).to_message()).await
    }

    pub async fn process(&self, message: Message) -> Done {
        process(&self.app, &self.worker(), message).await
    }

    /// Version, state and entries of both dictionaries of a server, the live one first; `-` where there is none.
    pub fn dictionaries(&self, server: usize) -> [String; 2] {
        [("metrics", server), ("metrics_next", server)].map(|(name, server)| {
            let found = self.run(
                server,
                &format!(
                    "SELECT concat(JSONExtractString(comment, 'run'), ' ', toString(status), ' ', toString(element_count))
                     FROM system.dictionaries WHERE database = '{{db}}' AND name = '{name}'"
                ),
            );
            if found.is_empty() { "-".to_owned() } else { found }
        })
    }

    /// Rows of a server's table that are not in the live dictionary as they are with FINAL, keys that are not in it, and
    /// all keys.
    pub fn differences(&self, server: usize) -> String {
        let columns = ["volume", "clicks", "tags", "lang", "price", "version"];
        let served = columns.map(|c| format!("dictGet('{{db}}.metrics', '{c}', k)"));
        self.run(
            server,
            &format!(
                "SELECT countIf(toString(tuple({})) != toString(tuple({}))), countIf(NOT dictHas('{{db}}.metrics', k)),
                    count()
                 FROM (SELECT *, tuple(country, keyword) AS k FROM {{db}}.keywords_metrics_local FINAL)",
                columns.join(", "),
                served.join(", ")
            ),
        )
    }
}

fn target(cluster: &str, database: &str) -> TargetSettings {
    TargetSettings {
        cluster: cluster.to_owned(),
        database: database.to_owned(),
        connect_timeout_seconds: 2,
        ..TargetSettings::default()
    }
}

fn dictionary(database: &str) -> DictionarySettings {
    DictionarySettings {
        database: database.to_owned(),
        name: "metrics".to_owned(),
        ..DictionarySettings::default()
    }
}

/// A worker for tables that another process has made.
pub fn worker_for(cluster: &str, database: &str) -> DictRefresher {
    DictRefresher::new(
        &App::detached("dict-refresher"),
        &target(cluster, database),
        &dictionary(database),
        &SerpSettings::default(),
        &DictRefresherSettings::default(),
    )
    .unwrap()
}

pub fn order(shard: u32, version: i64) -> Order {
    Order {
        run: format!("r-{version}").parse().unwrap(),
        version,
        expires_at_ms: i64::MAX,
        shard,
        command: Command::RefreshDictionary,
    }
}

/// The same, which is too late after `seconds`.
pub fn order_for(shard: u32, version: i64, seconds: f64) -> Order {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Order {
        expires_at_ms: since.as_millis() as i64 + (seconds * 1000.0) as i64,
        ..order(shard, version)
    }
}

pub async fn process(app: &App, worker: &DictRefresher, message: Message) -> Done {
    let (mut job, sent) = pipeline::testing::job(app, message, 1);
    let outcome = worker.process(&mut job).await;
    pipeline::testing::confirmed(&mut job).await;
    let message = job.message().clone();
    Done {
        outcome,
        sent,
        message,
    }
}

impl Done {
    pub fn facts(&self) -> Vec<Fact> {
        facts(&self.sent)
    }

    /// Nodes that were ordered to be restarted.
    pub fn restarts(&self) -> Vec<String> {
        let orders = self.sent.to("orders");
        let node = |message: &Message| {
            let order = Order::from_message(message).unwrap();
            assert_eq!(order.expires_at_ms, i64::MAX);
            match order.command {
                Command::RestartSerp { node } => node,
                other => panic!("{other:?}"),
            }
        };
        orders.iter().map(node).collect()
    }

    /// Entries and nodes of the receipt that the shard was applied in this version.
    pub fn applied(&self, version: i64) -> Option<(u64, Vec<String>)> {
        self.facts().into_iter().find_map(|fact| match fact {
            Fact::ShardApplied {
                version: applied,
                entries,
                nodes,
                ..
            } if applied == version => Some((entries, nodes)),
            _ => None,
        })
    }

    /// Stage, step, error and whether it was given up, of the one receipt of a failure.
    pub fn failure(&self) -> (String, String, String, bool) {
        let failures = self.facts().into_iter().filter_map(|fact| match fact {
            Fact::OrderFailed {
                stage,
                step,
                error,
                given_up,
                ..
            } => Some((stage.to_string(), step, error, given_up)),
            _ => None,
        });
        let failures: Vec<_> = failures.collect();
        assert_eq!(failures.len(), 1, "{failures:?}");
        failures[0].clone()
    }

    pub fn retried(&self) -> &str {
        match &self.outcome {
            Outcome::Retry { error, .. } => error,
            other => panic!("{other:?}"),
        }
    }
}

pub fn facts(sent: &Sent) -> Vec<Fact> {
    let receipts = sent.to("receipts");
    let fact = |message: &Message| Receipt::from_message(message).unwrap().fact;
    receipts.iter().map(fact).collect()
}
