use std::path::PathBuf;

use crate::services::repository;
use crate::{Database, Fleet, Hub, IndexPrefix, VirtualHost, unique};

/// Everything that one end-to-end test needs, separate from all others: a virtual host, a database with a filled
/// hub table, names of indices, and the `fleet` binary configured for them. Removed on drop.
pub struct Stack {
    pub host: VirtualHost,
    pub database: Database,
    pub indices: IndexPrefix,
    pub hub: Hub,
    pub fleet: Fleet,
    folder: PathBuf,
}

impl Stack {
    /// `binary`: path of `fleet`, which Cargo passes to its tests in `CARGO_BIN_EXE_fleet`. `more` is added to
    /// the configuration file.
    pub fn create(binary: &str, rows: u64, more: &str) -> Self {
        Self::on(VirtualHost::create(), binary, rows, more)
    }

    /// On the broker of `host`, which may be a private one.
    pub fn on(host: VirtualHost, binary: &str, rows: u64, more: &str) -> Self {
        let database = Database::create();
        let indices = IndexPrefix::create();
        let hub = Hub {
            shards: database.cluster().split(',').map(str::to_owned).collect(),
            database: database.name().to_owned(),
            table: "keywords_data_local".into(),
            rows,
        };
        hub.create();
        let folder = repository().join("target").join(unique("stack"));
        std::fs::create_dir_all(&folder).expect("the folder of the test can be made");
        let config = folder.join("fleet.toml");
        let text = Self::configuration(&host, &database, &indices) + more;
        std::fs::write(&config, text).expect("the configuration can be written");
        Self {
            fleet: Fleet::new(binary, config, Vec::new(), folder.join("log")).apart(),
            host,
            database,
            indices,
            hub,
            folder,
        }
    }

    /// Name of the index with all rows, and of the one with chosen ones.
    pub fn index_names(&self) -> [String; 2] {
        [self.indices.index("all"), self.indices.index("lite")]
    }

    /// On a replicated cluster the target is replicated, as the hub's table is.
    ///
    /// In small tables the rows that Elasticsearch refuses exceed the default of `max_rejected_row_ratio`.
    fn configuration(host: &VirtualHost, database: &Database, indices: &IndexPrefix) -> String {
        let clickhouse = format!(
            "cluster = \"{}\"\ndatabase = \"{}\"",
            database.cluster(),
            database.name()
        );
        let engine = match database.replicas(0).len() {
            1 => "",
            _ => "\nengine = \"replicated-replacing\"",
        };
        let index = |name: &str, rest: &str| {
            let name = indices.index(name);
            format!("[[elasticsearch.indices]]\nname = \"{name}\"\nreplicas = 0\n{rest}\n")
        };
        let lite =
            "fields = [\"volume\", \"difficulty\"]\nminimum = { field = \"volume\", value = 100 }";
        format!(
            "[deployment]\nname = \"test\"\n\n\
             [broker]\nurl = \"{}\"\nmanagement_url = \"{}\"\n\n\
             [source]\n{clickhouse}\n\n[clickhouse]\n{clickhouse}{engine}\n\n[dictionary]\ndatabase = \"{}\"\n\n\
             [gates]\npass_without_changes = true\nmax_rejected_row_ratio = 0.05\n\n\
             [elasticsearch]\nurls = [\"{}\"]\nfollowers_seconds = 1\n\n{}\n{}\n",
            host.url(),
            host.management_url(),
            database.name(),
            indices.url(),
            index("all", ""),
            index("lite", lite),
        )
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // The logs of a failed test say why it failed.
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}
