//! `fleet clickhouse`: against the real engine, with a source and a target in a database of its own.

use testkit::{Database, Hub};

use crate::golden::{Answer, Folder};

#[test]
fn help_needs_no_store() {
    let arguments = ["clickhouse", "configure", "--help"];
    Folder::new()
        .fleet(&arguments, &[])
        .must_be("help-clickhouse-configure.txt");
}

struct Stores {
    database: Database,
    folder: Folder,
}

impl Stores {
    fn new() -> Self {
        let database = Database::create();
        let hub = Hub {
            shards: database.shards().to_vec(),
            database: database.name().to_owned(),
            table: "hub".to_owned(),
            rows: 100,
        };
        hub.create();
        let folder = Folder::new();
        folder.write(
            "fleet.toml",
            &format!(
                "[source]\ncluster = \"{cluster}\"\ndatabase = \"{name}\"\ntable = \"hub\"\n\
                 [clickhouse]\ncluster = \"{cluster}\"\ndatabase = \"{name}\"\ntable = \"metrics\"\n",
                cluster = database.cluster(),
                name = database.name(),
            ),
        );
        Self { database, folder }
    }

    /// The answer, with addresses and the database under names that are always the same.
    fn configure(&self, more: &[&str]) -> Answer {
        let arguments = [&["clickhouse", "configure"], more].concat();
        let mut answer = self.folder.fleet(&arguments, &[]);
        for text in [&mut answer.stdout, &mut answer.stderr] {
            for (shard, address) in self.database.shards().iter().enumerate() {
                *text = text.replace(address, &format!("http://shard-{shard}:8123"));
            }
            *text = text.replace(self.database.name(), "keywords");
        }
        answer
    }

    fn run(&self, sql: &str) {
        for shard in 0..self.database.shards().len() {
            self.database.run(shard, sql);
        }
    }
}

#[test]
fn tables_are_created_once_and_follow_the_columns_of_the_source() {
    let stores = Stores::new();
    stores
        .configure(&["--dry-run"])
        .must_be("clickhouse-configure-dry.txt");
    stores
        .configure(&[])
        .must_be("clickhouse-configure-new.txt");
    stores
        .configure(&["--dry-run"])
        .must_be("clickhouse-configure-dry-again.txt");
    stores
        .configure(&[])
        .must_be("clickhouse-configure-again.txt");
    stores.run("ALTER TABLE {db}.hub ADD COLUMN processed_trend Array(UInt32)");
    stores
        .configure(&["--json"])
        .must_be("clickhouse-configure-column.txt");
}

#[test]
fn a_table_that_contradicts_the_source_is_left_alone_and_named() {
    let stores = Stores::new();
    stores.configure(&[]);
    stores.run("ALTER TABLE {db}.metrics MODIFY COLUMN volume Int8");
    stores
        .configure(&[])
        .must_be("clickhouse-configure-conflict.txt");
}

#[test]
fn an_unreachable_clickhouse_is_named_by_its_address() {
    let stores = Stores::new();
    let nowhere = "clickhouse.cluster=http://127.0.0.1:9,http://127.0.0.1:10";
    let answer = stores.configure(&["--set", nowhere]);
    assert_eq!((answer.code, answer.stdout.as_str()), (Some(5), ""));
    let expected = "error: http://127.0.0.1:9: no connection";
    assert!(answer.stderr.contains(expected), "{}", answer.stderr);
}

#[test]
fn a_target_of_another_number_of_shards_is_refused() {
    let stores = Stores::new();
    stores
        .configure(&["--set", "clickhouse.cluster=http://localhost:8123"])
        .must_be("clickhouse-configure-shards.txt");
}
