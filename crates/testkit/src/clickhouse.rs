//! ClickHouse for tests.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::elasticsearch::answer;
use crate::{Services, unique};

/// A database of its own on every replica of every shard; dropped on drop.
pub struct Database {
    name: String,
    /// Addresses of the replicas, by shard.
    replicas: Vec<Vec<String>>,
    /// The first replica of each shard.
    shards: Vec<String>,
}

impl Database {
    pub fn create() -> Self {
        let services = Services::start(&["clickhouse"]);
        let replicas = replicas(services.get("FLEET__CLICKHOUSE__CLUSTER"));
        let database = Self {
            name: unique("test").replace('-', "_"),
            shards: replicas.iter().map(|shard| shard[0].clone()).collect(),
            replicas,
        };
        let sql = format!("CREATE DATABASE {}", database.name);
        for shard in 0..database.shards.len() {
            database.on_replicas(shard, &sql);
        }
        database
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Addresses, one a shard: that of its first replica.
    pub fn shards(&self) -> &[String] {
        &self.shards
    }

    /// Addresses of a shard's replicas: one, unless the services are a replicated cluster.
    pub fn replicas(&self, shard: usize) -> &[String] {
        &self.replicas[shard]
    }

    /// The addresses as a cluster string: shards separated by commas, replicas by `|`.
    pub fn cluster(&self) -> String {
        let shards: Vec<String> = self.replicas.iter().map(|shard| shard.join("|")).collect();
        shards.join(",")
    }

    /// Runs a statement on the first replica of a shard and returns what it printed; panics on failure. `{db}` in it stands
    /// for the database's name.
    pub fn run(&self, shard: usize, sql: &str) -> String {
        self.run_on(&self.shards[shard], sql)
    }

    /// Runs a statement on every replica of a shard; returns what each printed.
    pub fn on_replicas(&self, shard: usize, sql: &str) -> Vec<String> {
        let replicas = self.replicas[shard].iter();
        replicas.map(|replica| self.run_on(replica, sql)).collect()
    }

    /// Runs a statement on the server of this address, which is one of the replicas.
    pub fn run_on(&self, address: &str, sql: &str) -> String {
        let sql = sql.replace("{db}", &self.name);
        let (ok, answer) = query(address, &sql);
        assert!(ok, "{address}: {sql}: {answer}");
        answer.trim_end().to_owned()
    }
}

/// Addresses of the replicas in a cluster string, by shard.
pub(crate) fn replicas(cluster: &str) -> Vec<Vec<String>> {
    let addresses = |shard: &str| shard.split('|').map(str::to_owned).collect();
    cluster.split(',').map(addresses).collect()
}

/// Runs a statement; returns whether it succeeded, and what it printed. It runs curl, because drop and plain tests have
/// no async runtime.
pub fn query(address: &str, sql: &str) -> (bool, String) {
    let mut curl = Command::new("curl")
        .args(["-sS", "--noproxy", "*", "--fail-with-body"])
        .args(["--data-binary", "@-", address])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("curl is needed by the tests: install it");
    let mut stdin = curl.stdin.take().expect("it is piped");
    let written = stdin.write_all(sql.as_bytes());
    drop(stdin);
    let (ok, text) = answer(curl.wait_with_output());
    (ok && written.is_ok(), text)
}

impl Drop for Database {
    fn drop(&mut self) {
        for shard in &self.replicas {
            // A replicated table leaves Keeper only when it is dropped for good; until then its path is taken.
            let rest = if shard.len() > 1 { " SYNC" } else { "" };
            let drop = format!("DROP DATABASE IF EXISTS {}{rest}", self.name);
            for replica in shard {
                query(replica, &drop);
            }
        }
    }
}
