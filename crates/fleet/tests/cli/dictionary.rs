//! `fleet dictionary`: against the real engine, with dictionaries as a refresh leaves them.

use testkit::{Database, VirtualHost};

use crate::golden::{Answer, Folder};

#[test]
fn help_needs_no_store() {
    for (arguments, name) in [
        (&["dictionary", "--help"][..], "help-dictionary.txt"),
        (
            &["dictionary", "status", "--help"],
            "help-dictionary-status.txt",
        ),
        (
            &["dictionary", "rollback", "--help"],
            "help-dictionary-rollback.txt",
        ),
    ] {
        Folder::new().fleet(arguments, &[]).must_be(name);
    }
}

/// Two shards of one replica each, and a broker that knows whether the SERP service is paused.
struct Shards {
    database: Database,
    folder: Folder,
    host: VirtualHost,
}

impl Shards {
    fn new() -> Self {
        let shards = Self {
            database: Database::create(),
            folder: Folder::new(),
            host: VirtualHost::create(),
        };
        shards.configure(&shards.database.cluster());
        shards
    }

    fn configure(&self, cluster: &str) {
        self.folder.write(
            "fleet.toml",
            &format!(
                "[broker]\nurl = \"{}\"\nmanagement_url = \"{}\"\n[clickhouse]\ncluster = \"{cluster}\"\nconnect_timeout_seconds = 1\n\
                 [dictionary]\ndatabase = \"{}\"\n[serp]\nnodes = [[\"serp-a\"], [\"serp-b\", \"serp-c\"]]\n",
                self.host.url(),
                self.host.management_url(),
                self.database.name()
            ),
        );
    }

    /// A dictionary of `version`, loaded after those that are there.
    fn load(&self, shard: usize, name: &str, version: u64) {
        let create = format!(
            "CREATE DICTIONARY {{db}}.{name} (k String, v UInt64) PRIMARY KEY k
             SOURCE(CLICKHOUSE(QUERY 'SELECT toString(number) AS k, {version} AS v FROM numbers(1000)'))
             LAYOUT(COMPLEX_KEY_HASHED_ARRAY()) LIFETIME(0)
             COMMENT '{{\"run\":\"direct-{version}\",\"version\":{version},\"keys\":1000}}'"
        );
        self.database.run(shard, &create);
        self.database
            .run(shard, &format!("SYSTEM RELOAD DICTIONARY {{db}}.{name}"));
    }

    fn version(&self, shard: usize) -> String {
        self.database.run(
            shard,
            "SELECT dictGet('{db}.keywords_metrics_dict', 'v', '7')",
        )
    }

    fn pause(&self) {
        let pause = ["serp", "pause", "--reason", "a test"];
        assert_eq!(self.fleet(&pause).code, Some(0));
    }

    /// The answer, with addresses that are always the same.
    fn fleet(&self, arguments: &[&str]) -> Answer {
        let mut answer = self.folder.fleet(arguments, &[]);
        for text in [&mut answer.stdout, &mut answer.stderr] {
            for (shard, address) in self.database.shards().iter().enumerate() {
                // As long as an address of the tests' own, so that tables stay in shape.
                *text = text.replace(address, &format!("http://shard-{shard}.exa:81"));
            }
        }
        answer
    }
}

#[test]
fn a_rollback_is_announced_before_it_is_done_and_is_done_once() {
    let shards = Shards::new();
    for shard in 0..2 {
        shards.load(shard, "keywords_metrics_dict_next", 10);
        shards.load(shard, "keywords_metrics_dict", 20);
    }
    let status = ["dictionary", "status"];
    shards.fleet(&status).must_be("dictionary-status.txt");
    let rollback = ["dictionary", "rollback"];
    shards
        .fleet(&rollback)
        .must_be("dictionary-rollback-dry.txt");
    assert_eq!(shards.version(0), "20");
    shards.pause();
    shards
        .fleet(&["dictionary", "rollback", "--shard", "1", "--yes"])
        .must_be("dictionary-rollback-shard.txt");
    assert_eq!(
        (shards.version(0), shards.version(1)),
        ("20".into(), "10".into())
    );
    shards
        .fleet(&["--json", "dictionary", "rollback", "--shard", "0", "--yes"])
        .must_be("dictionary-rollback-json.txt");
    assert_eq!(shards.version(0), "10");
    shards
        .fleet(&["dictionary", "rollback", "--yes"])
        .must_be("dictionary-rollback-again.txt");
    shards
        .fleet(&["--json", "dictionary", "status"])
        .must_be("dictionary-status-json.txt");
}

#[test]
fn a_rollback_is_refused_while_orders_may_restart_the_serp_service() {
    let shards = Shards::new();
    for shard in 0..2 {
        shards.load(shard, "keywords_metrics_dict_next", 10);
        shards.load(shard, "keywords_metrics_dict", 20);
    }
    let yes = ["dictionary", "rollback", "--yes"];
    shards
        .fleet(&yes)
        .must_be("dictionary-rollback-restarting.txt");
    assert_eq!(shards.version(0), "20");
    let more = |more: &'static [&'static str]| [&yes[..], more].concat();
    let unknown = more(&["--set", "broker.management_url=http://127.0.0.1:1"]);
    let unknown = shards.fleet(&unknown);
    assert_eq!(unknown.code, Some(4), "{}", unknown.stderr);
    assert_eq!(shards.version(0), "20");
    // Without a service there is nothing to restart.
    let none = more(&["--set", "serp.nodes=[]", "--shard", "0"]);
    assert_eq!(shards.fleet(&none).code, Some(0));
    assert_eq!(shards.version(0), "10");
    let so = more(&["--while-restarting", "--shard", "1"]);
    assert_eq!(shards.fleet(&so).code, Some(0));
    assert_eq!(shards.version(1), "10");
}

#[test]
fn the_status_shows_replicas_without_a_dictionary() {
    let shards = Shards::new();
    shards.load(0, "keywords_metrics_dict", 20);
    shards.pause();
    shards
        .fleet(&["dictionary", "status"])
        .must_be("dictionary-status-missing.txt");
    shards
        .fleet(&["dictionary", "rollback", "--yes"])
        .must_be("dictionary-rollback-none.txt");
    shards.configure("http://127.0.0.1:1");
    let dead = shards.fleet(&["dictionary", "rollback", "--yes"]);
    assert_eq!(dead.code, Some(5), "{}", dead.stderr);
    let dead = shards.fleet(&["dictionary", "status"]);
    assert_eq!(dead.code, Some(6));
    assert!(dead.stdout.contains("no connection"), "{}", dead.stdout);
}

#[test]
fn replicas_of_a_shard_that_serve_different_versions_differ() {
    let shards = Shards::new();
    shards.configure(&shards.database.shards().join("|"));
    shards.load(0, "keywords_metrics_dict", 20);
    shards.load(1, "keywords_metrics_dict", 30);
    assert_eq!(shards.fleet(&["dictionary", "status"]).code, Some(6));
}
