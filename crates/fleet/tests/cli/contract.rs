//! `fleet check`, and what `configure` refuses: against the real stores, after a change at the hub or in a store.

use testkit::{Database, IndexPrefix};

use crate::golden::{Answer, Folder};

/// A hub with a table, indices and a dictionary of its own.
struct Stores {
    database: Database,
    indices: IndexPrefix,
    folder: Folder,
}

const HUB: &str = "(country LowCardinality(String), keyword String, device String, processed_volume UInt32, \
                   processed_state Enum8('new' = 1, 'old' = 2), changed_at DateTime64(3)) ENGINE = MergeTree";
const ATTRIBUTES: &str = "attributes = [\"volume\"]\n";

impl Stores {
    /// Configured, and as they have to be.
    fn configured() -> Self {
        let stores = Self::new(&format!("{HUB} ORDER BY (country, keyword)"), "");
        stores.configure();
        stores.must_agree();
        stores
    }

    /// With a hub of these columns, engine and order, and more settings at the end, of `[es_writer]`.
    fn new(hub: &str, es_writer: &str) -> Self {
        let (database, indices, folder) =
            (Database::create(), IndexPrefix::create(), Folder::new());
        let stores = Self {
            database,
            indices,
            folder,
        };
        stores.run(&format!("CREATE TABLE {{db}}.hub {hub}"));
        stores.settings(ATTRIBUTES, es_writer);
        stores
    }

    fn settings(&self, dictionary: &str, es_writer: &str) {
        self.folder.write(
            "fleet.toml",
            &format!(
                "[broker]\nmanagement_url = \"http://127.0.0.1:9\"\n\
                 [source]\ncluster = \"{cluster}\"\ndatabase = \"{name}\"\ntable = \"hub\"\n\
                 [clickhouse]\ncluster = \"{cluster}\"\ndatabase = \"{name}\"\ntable = \"metrics\"\n\
                 [dictionary]\ndatabase = \"{name}\"\n{dictionary}\
                 [elasticsearch]\nurls = [\"{url}\"]\n\
                 [[elasticsearch.indices]]\nname = \"{all}\"\n\
                 [es_writer]\n{es_writer}",
                cluster = self.database.cluster(),
                name = self.database.name(),
                url = self.indices.url(),
                all = self.indices.index("all"),
            ),
        );
    }

    /// Runs a statement on every shard.
    fn run(&self, sql: &str) {
        for shard in 0..self.database.shards().len() {
            self.database.run(shard, sql);
        }
    }

    fn fleet(&self, arguments: &[&str]) -> Answer {
        let mut answer = self.folder.fleet(arguments, &[]);
        for text in [&mut answer.stdout, &mut answer.stderr] {
            for (shard, address) in self.database.shards().iter().enumerate() {
                *text = text.replace(address, &format!("http://shard-{shard}:8123"));
            }
            *text = text.replace(self.database.name(), "keywords");
            *text = text.replace(&self.indices.index(""), "");
        }
        answer
    }

    fn configure(&self) {
        for store in ["clickhouse", "elasticsearch"] {
            let answer = self.fleet(&[store, "configure"]);
            assert_eq!(answer.code, Some(0), "{}{}", answer.stdout, answer.stderr);
        }
    }

    fn must_agree(&self) {
        let answer = self.fleet(&["check"]);
        assert_eq!(answer.code, Some(0), "{}{}", answer.stdout, answer.stderr);
        for store in ["clickhouse", "elasticsearch"] {
            let answer = self.fleet(&[store, "configure", "--dry-run"]);
            assert_eq!(answer.code, Some(0), "{}{}", answer.stdout, answer.stderr);
        }
    }

    /// `fleet check` says all of this, with exit code 6.
    fn must_differ(&self, told: &[&str]) -> Answer {
        let answer = self.fleet(&["check"]);
        assert_eq!(answer.code, Some(6), "{}{}", answer.stdout, answer.stderr);
        for text in told {
            assert!(answer.stdout.contains(text), "{text}\n{}", answer.stdout);
        }
        answer
    }

    /// The same of `fleet STORE configure`, which changes nothing.
    fn must_be_refused(&self, store: &str, told: &[&str]) {
        for more in [&[][..], &["--dry-run"]] {
            let answer = self.fleet(&[&[store, "configure"], more].concat());
            assert_eq!(answer.code, Some(6), "{}{}", answer.stdout, answer.stderr);
            assert_eq!(answer.stdout, "");
            for text in told {
                assert!(answer.stderr.contains(text), "{text}\n{}", answer.stderr);
            }
        }
    }
}

#[test]
fn a_column_that_is_new_in_the_hub_differs_until_both_stores_are_configured() {
    let stores = Stores::configured();
    stores.run("ALTER TABLE {db}.hub ADD COLUMN processed_new UInt8");
    let mut answer = stores.fleet(&["check"]);
    // It has the time of the log.
    answer.stderr.clear();
    answer.must_be("check-new-column.txt");
    let json = stores.fleet(&["check", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["differences"][0]["column"], "new");
    assert_eq!(json["differences"][0]["configure_mends"], true);
    stores.configure();
    stores.must_agree();
}

#[test]
fn a_column_that_the_hub_dropped_is_refused_until_it_is_dropped_or_named_as_the_stores_own() {
    let stores = Stores::configured();
    stores.run("ALTER TABLE {db}.hub DROP COLUMN processed_state");
    let table = "column \"state\" (Enum8('new' = 1, 'old' = 2)) is not among the columns";
    let drop = "ALTER TABLE `keywords`.`metrics` DROP COLUMN `state`, or name it in clickhouse.own_columns";
    let index = "index all: field \"state\" is not among";
    stores.must_differ(&[table, drop, index, "elasticsearch.own_fields"]);
    stores.must_be_refused("clickhouse", &[table, drop]);
    stores.must_be_refused("elasticsearch", &[index, "elasticsearch.own_fields"]);
    let own = [
        "clickhouse.own_columns=[\"state\"]",
        "elasticsearch.own_fields=[\"state\"]",
    ];
    let kept = stores.fleet(&["check", "--set", own[0], "--set", own[1]]);
    assert_eq!(kept.code, Some(0), "{}", kept.stdout);
}

#[test]
fn a_type_that_became_wider_in_the_hub_is_refused_with_both_types_and_the_statement() {
    let stores = Stores::configured();
    stores.run("ALTER TABLE {db}.hub MODIFY COLUMN processed_volume UInt64");
    let told = [
        "column \"volume\" is UInt32, and UInt64 in the source",
        "ALTER TABLE `keywords`.`metrics` MODIFY COLUMN `volume` UInt64",
    ];
    stores.must_differ(&told);
    stores.must_be_refused("clickhouse", &told);
    stores.run("ALTER TABLE {db}.metrics MODIFY COLUMN volume UInt64");
    stores.run("ALTER TABLE {db}.hub MODIFY COLUMN processed_volume UInt32");
    stores.must_agree();
    stores.run("ALTER TABLE {db}.hub MODIFY COLUMN processed_volume Int32");
    stores.must_differ(&["column \"volume\" is UInt64, and Int32 in the source"]);
}

#[test]
fn an_enum_of_the_table_must_have_every_member_of_the_hubs() {
    let stores = Stores::configured();
    let more = "Enum8('new' = 1, 'old' = 2, 'gone' = 3)";
    stores.run(&format!(
        "ALTER TABLE {{db}}.hub MODIFY COLUMN processed_state {more}"
    ));
    let modify = format!("MODIFY COLUMN `state` {more}");
    stores.must_differ(&[
        "column \"state\" is Enum8('new' = 1, 'old' = 2), and",
        &modify,
    ]);
    stores.run(&format!(
        "ALTER TABLE {{db}}.metrics MODIFY COLUMN state {more}"
    ));
    stores.must_agree();
}

#[test]
fn a_target_column_that_the_server_computes_is_refused_by_configure() {
    for how in ["MATERIALIZED", "ALIAS", "EPHEMERAL"] {
        let stores = Stores::new(&format!("{HUB} ORDER BY (country, keyword)"), "");
        stores.run(&format!(
            "CREATE TABLE {{db}}.metrics (country LowCardinality(String), keyword String, volume UInt32 {how} 0, \
             version Int64) ENGINE = ReplacingMergeTree(version) ORDER BY (country, keyword)"
        ));
        let told = [
            &format!("column \"volume\" is {how}"),
            "DROP COLUMN `volume`, then fleet clickhouse configure",
        ];
        stores.must_differ(&told);
        stores.must_be_refused("clickhouse", &told);
        stores.run("ALTER TABLE {db}.metrics DROP COLUMN volume");
        stores.configure();
        stores.must_agree();
        // One that only the table has is its own affair.
        stores.run("ALTER TABLE {db}.metrics ADD COLUMN double UInt64 MATERIALIZED volume * 2");
        stores.must_agree();
    }
}

#[test]
fn documents_must_be_named_by_the_hubs_key() {
    let stores = Stores::new(&format!("{HUB} ORDER BY (country, keyword, device)"), "");
    let told = [
        "es_writer.key_columns: column \"device\" of the hub's key (country, keyword, device) does not name documents",
        "set it to [\"country\", \"keyword\", \"device\"]",
    ];
    stores.must_differ(&told);
    stores.must_be_refused("elasticsearch", &told);
    stores.settings(
        ATTRIBUTES,
        "key_columns = [\"country\", \"keyword\", \"device\"]\n",
    );
    stores.configure();
    stores.must_agree();
    stores.settings(
        ATTRIBUTES,
        "key_columns = [\"country\", \"keyword\", \"devise\"]\n",
    );
    stores.must_differ(&[
        "column \"devise\" names documents",
        "did you mean \"device\"?",
    ]);
}

#[test]
fn a_key_of_one_column_works_however_it_is_written() {
    for order in ["keyword", "(keyword)", "((keyword))", "tuple(keyword)"] {
        let stores = Stores::new(
            &format!("{HUB} ORDER BY {order}"),
            "key_columns = [\"keyword\"]\n",
        );
        stores.configure();
        stores.configure();
        stores.must_agree();
        let shown = stores
            .database
            .run(0, "SHOW CREATE TABLE {db}.metrics FORMAT TSVRaw");
        stores.run("DROP TABLE {db}.metrics SYNC");
        stores.run(&shown);
        stores.must_agree();
    }
    let stores = Stores::new(&format!("{HUB} ORDER BY keyword"), "");
    stores
        .must_differ(&["column \"country\" names documents and is not in the hub's key (keyword)"]);
}

#[test]
fn a_hub_whose_rows_are_parts_of_one_another_is_refused_with_the_reason() {
    let columns = HUB.split(") ENGINE").next().unwrap();
    for (engine, why) in [
        ("SummingMergeTree(processed_volume)", "parts of a sum"),
        ("AggregatingMergeTree", "parts of one row"),
        ("CollapsingMergeTree(sign)", "cancel each other"),
        (
            "VersionedCollapsingMergeTree(sign, ver)",
            "cancel each other",
        ),
        ("ReplacingMergeTree", "keeps the row that came last"),
        (
            "ReplacingMergeTree(ver)",
            "keeps the row of the highest ver",
        ),
        (
            "ReplacingMergeTree(changed_at, deleted)",
            "marks as deleted",
        ),
    ] {
        let more = "sign Int8, ver UInt8, deleted UInt8";
        let order = if engine.contains("ver)") && engine.starts_with('V') {
            "(country, keyword, ver)"
        } else {
            "(country, keyword)"
        };
        let hub = format!("{columns}, {more}) ENGINE = {engine} ORDER BY {order}");
        let stores = Stores::new(&hub, "");
        stores.must_differ(&[why, "hub keywords.hub: its engine is"]);
        stores.must_be_refused("clickhouse", &[why]);
    }
    let hub =
        format!("{columns}) ENGINE = ReplacingMergeTree(changed_at) ORDER BY (country, keyword)");
    let stores = Stores::new(&hub, "");
    stores.configure();
    stores.must_agree();
}

#[test]
fn a_type_that_does_not_travel_is_refused_by_name() {
    let stores = Stores::configured();
    for (r#type, why) in [
        ("AggregateFunction(sum, UInt64)", "address of its memory"),
        (
            "Array(AggregateFunction(sum, UInt64))",
            "address of its memory",
        ),
        ("Variant(String, UInt8)", "no one type"),
        ("Dynamic", "no one type"),
        ("JSON", "no one type"),
        ("Time64(3)", "end after a day"),
        ("BFloat16", "Arrow"),
    ] {
        stores.run(&format!(
            "ALTER TABLE {{db}}.hub ADD COLUMN processed_odd {}",
            r#type
        ));
        let told = ["column \"processed_odd\" is ", why, "source.column_pattern"];
        stores.must_differ(&told);
        stores.must_be_refused("clickhouse", &told);
        stores.must_be_refused("elasticsearch", &told);
        stores.run("ALTER TABLE {db}.hub DROP COLUMN processed_odd");
    }
    stores.must_agree();
}

#[test]
fn what_documents_do_not_hold_unchanged_is_refused_before_the_run() {
    let stores = Stores::configured();
    for r#type in [
        "DateTime64(6)",
        "Array(Array(UInt8))",
        "Map(String, UInt8)",
        "UUID",
        "Int128",
    ] {
        stores.run(&format!(
            "ALTER TABLE {{db}}.hub ADD COLUMN processed_odd {}",
            r#type
        ));
        stores.must_differ(&[
            "column \"processed_odd\" of type ",
            "leave it out of `fields`",
        ]);
        stores.run("ALTER TABLE {db}.hub DROP COLUMN processed_odd");
    }
}

#[test]
fn what_a_dictionary_cannot_hold_is_refused_before_the_run() {
    let stores = Stores::configured();
    stores.settings("", "");
    stores.must_differ(&[
        "dictionary keywords.keywords_metrics_dict: it cannot be made of table keywords.metrics: column \"state\" is Enum8",
        "name the others in dictionary.attributes",
    ]);
    stores.settings("attributes = [\"volum\"]\n", "");
    stores
        .must_differ(&["no column \"volum\" of dictionary.attributes (did you mean \"volume\"?)"]);
    stores.settings("attributes = [\"volume\"]\nname = \"hub\"\n", "");
    stores.must_differ(&["what has its name is a MergeTree"]);
    stores.settings(ATTRIBUTES, "");
    stores.run(
        "CREATE DICTIONARY {db}.keywords_metrics_dict (keyword String, volume UInt32) PRIMARY KEY keyword \
         SOURCE(NULL()) LAYOUT(COMPLEX_KEY_HASHED()) LIFETIME(0)",
    );
    stores.must_differ(&[
        "readers ask for it by (keyword), and the next one has the key (country, keyword)",
    ]);
}

#[test]
fn a_misspelt_column_is_named_with_the_nearest_one_wherever_it_stands() {
    let stores = Stores::configured();
    for (setting, told) in [
        (
            "clickhouse.rename.processed_volum=v",
            "clickhouse.rename: it names column \"processed_volum\", which no run reads (did you mean \"processed_volume\"?)",
        ),
        (
            "elasticsearch.rename.processed_volum=v",
            "elasticsearch.rename: it names column \"processed_volum\"",
        ),
        (
            "elasticsearch.indices=[{ name = \"x\", fields = [\"volum\"] }]",
            "no column gives field \"volum\" (did you mean \"volume\"?)",
        ),
        (
            "elasticsearch.indices=[{ name = \"x\", minimum = { field = \"volum\", value = 1 } }]",
            "minimum of index x: no column gives field \"volum\" (did you mean \"volume\"?)",
        ),
        (
            "elasticsearch.indices=[{ name = \"x\", minimum = { field = \"keyword\", value = 1 } }]",
            "field \"keyword\" is String in the hub, and no number",
        ),
    ] {
        let answer = stores.fleet(&["check", "--set", setting]);
        assert_eq!(answer.code, Some(6), "{}{}", answer.stdout, answer.stderr);
        assert!(answer.stdout.contains(told), "{told}\n{}", answer.stdout);
        let store = setting.split('.').next().unwrap();
        let answer = stores.fleet(&[store, "configure", "--set", setting]);
        assert_eq!(answer.code, Some(6), "{}{}", answer.stdout, answer.stderr);
        assert!(answer.stderr.contains(told), "{told}\n{}", answer.stderr);
    }
    let answer = stores.fleet(&["check", "--set", "source.extra_columns=[\"devise\"]"]);
    assert_eq!(answer.code, Some(1), "{}", answer.stderr);
    let told = "column devise is missing in keywords.hub of shard 0; did you mean device?";
    assert!(answer.stderr.contains(told), "{}", answer.stderr);
}

#[test]
fn nested_columns_come_to_rest() {
    let stores = Stores::configured();
    stores.run("ALTER TABLE {db}.hub ADD COLUMN `processed_stats.clicks` Array(UInt32), ADD COLUMN `processed_stats.name` Array(String)");
    stores.configure();
    stores.must_agree();
    stores.run("ALTER TABLE {db}.hub DROP COLUMN `processed_stats.name`");
    stores.must_differ(&["column \"stats.name\"", "field \"stats.name\""]);
}

#[test]
fn a_store_that_does_not_answer_is_not_taken_for_one_that_agrees() {
    let stores = Stores::configured();
    let answer = stores.fleet(&[
        "check",
        "--set",
        "elasticsearch.urls=[\"http://127.0.0.1:9\"]",
    ]);
    assert_eq!(answer.code, Some(5), "{}", answer.stdout);
    assert!(
        answer
            .stdout
            .contains("Not compared:\n  http://127.0.0.1:9"),
        "{}",
        answer.stdout
    );
}
