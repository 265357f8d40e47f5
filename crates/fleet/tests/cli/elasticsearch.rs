//! `fleet elasticsearch`: against the real stores, with a source and indices of its own.

use testkit::{Database, Hub, IndexPrefix};

use crate::golden::{Answer, Folder};

#[test]
fn help_needs_no_store() {
    let arguments = ["elasticsearch", "configure", "--help"];
    Folder::new()
        .fleet(&arguments, &[])
        .must_be("help-elasticsearch-configure.txt");
}

/// A hub and indices with names that no other test has.
struct Stores {
    database: Database,
    indices: IndexPrefix,
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
        let (indices, folder) = (IndexPrefix::create(), Folder::new());
        folder.write(
            "fleet.toml",
            &format!(
                "[source]\ncluster = \"{}\"\ndatabase = \"{}\"\ntable = \"hub\"\n\
                 [elasticsearch]\nurls = [\"{}\"]\n\
                 [[elasticsearch.indices]]\nname = \"{}\"\nalias = \"{}\"\n\
                 [[elasticsearch.indices]]\nname = \"{}\"\nfields = [\"volume\"]\n",
                database.cluster(),
                database.name(),
                indices.url(),
                indices.index("all-1"),
                indices.index("all"),
                indices.index("lite-1"),
            ),
        );
        Self {
            database,
            indices,
            folder,
        }
    }

    /// The answer, with the indices under names that are always the same.
    fn configure(&self, more: &[&str]) -> Answer {
        let arguments = [&["elasticsearch", "configure"], more].concat();
        let mut answer = self.folder.fleet(&arguments, &[]);
        let prefix = self.indices.index("");
        answer.stdout = answer.stdout.replace(&prefix, "");
        answer.stderr = answer.stderr.replace(&prefix, "");
        answer
    }
}

#[test]
fn indices_are_created_once_and_follow_the_columns_of_the_source() {
    let stores = Stores::new();
    let configure = |more: &[&str]| stores.configure(more);
    configure(&["--dry-run"]).must_be("elasticsearch-configure-dry.txt");
    configure(&[]).must_be("elasticsearch-configure-new.txt");
    configure(&["--dry-run"]).must_be("elasticsearch-configure-dry-again.txt");
    configure(&[]).must_be("elasticsearch-configure-again.txt");
    for shard in 0..stores.database.shards().len() {
        let sql = "ALTER TABLE {db}.hub ADD COLUMN processed_trend Array(UInt32)";
        stores.database.run(shard, sql);
    }
    configure(&["--json"]).must_be("elasticsearch-configure-column.txt");
}

#[test]
fn an_unreachable_elasticsearch_is_named_by_its_address() {
    let stores = Stores::new();
    let nowhere = "elasticsearch.urls=[\"http://127.0.0.1:9\"]";
    let answer = stores.configure(&["--set", nowhere]);
    assert_eq!((answer.code, answer.stdout.as_str()), (Some(5), ""));
    assert!(
        answer
            .stderr
            .contains("error: http://127.0.0.1:9: no connection"),
        "{}",
        answer.stderr
    );
}
