//! ClickHouse as the tests see it.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::{Services, unique};

/// A database of its own on every shard; dropped on drop.
pub struct Database {
    name: String,
    shards: Vec<String>,
}

impl Database {
    pub fn create() -> Self {
        let services = Services::start(&["clickhouse"]);
        let shards = services.get("FLEET__CLICKHOUSE__CLUSTER").split(',');
        let database = Self {
            name: unique("test").replace('-', "_"),
            shards: shards.map(str::to_owned).collect(),
        };
        for shard in 0..database.shards.len() {
            database.run(shard, &format!("CREATE DATABASE {}", database.name));
        }
        database
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Addresses, one a shard.
    pub fn shards(&self) -> &[String] {
        &self.shards
    }

    /// The addresses as a cluster string: shards separated by commas.
    pub fn cluster(&self) -> String {
        self.shards.join(",")
    }

    /// Runs a statement on a shard and answers with what it printed; panics on failure. `{db}` in it
    /// stands for the database's name.
    pub fn run(&self, shard: usize, sql: &str) -> String {
        let (ok, answer) = self.call(shard, sql);
        assert!(ok, "{sql}: {answer}");
        answer.trim_end().to_owned()
    }

    fn call(&self, shard: usize, sql: &str) -> (bool, String) {
        query(&self.shards[shard], &sql.replace("{db}", &self.name))
    }
}

/// Runs a statement; answers with whether it succeeded and what was printed. By curl, because drop and plain tests
/// have no async runtime to call from.
pub fn query(address: &str, sql: &str) -> (bool, String) {
    let mut curl = Command::new("curl")
        .args(["-sS", "--fail-with-body", "--data-binary", "@-", address])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("curl is needed by the tests: install it");
    let written = curl
        .stdin
        .take()
        .map(|mut stdin| stdin.write_all(sql.as_bytes()));
    let output = curl.wait_with_output().expect("it was started");
    let answer = [output.stdout, output.stderr].concat();
    let ok = output.status.success() && written.is_some_and(|w| w.is_ok());
    (ok, String::from_utf8_lossy(&answer).into_owned())
}

impl Drop for Database {
    fn drop(&mut self) {
        for shard in 0..self.shards.len() {
            self.call(shard, &format!("DROP DATABASE IF EXISTS {}", self.name));
        }
    }
}
