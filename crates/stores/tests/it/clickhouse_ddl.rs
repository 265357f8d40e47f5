use batch::Column;
use stores::ConfigureError;
use stores::clickhouse::ddl::{TargetTable, configure_target};
use stores::clickhouse::{Cluster, TargetSettings};
use testkit::Database;

fn column(name: &str, r#type: &str) -> Column {
    Column {
        name: name.to_owned(),
        r#type: r#type.to_owned(),
    }
}

fn key() -> [Column; 2] {
    [
        column("country", "LowCardinality(String)"),
        column("keyword", "String"),
    ]
}

fn settings(database: &Database) -> TargetSettings {
    TargetSettings {
        cluster: database.cluster(),
        database: database.name().to_owned(),
        ..TargetSettings::default()
    }
}

async fn configure(
    settings: &TargetSettings,
    columns: &[Column],
) -> Result<Vec<String>, ConfigureError> {
    let cluster = Cluster::new(&settings.connection()).unwrap();
    let table = TargetTable::new(settings, &key(), columns)?;
    let changes = configure_target(&cluster, &table, false).await?;
    Ok(changes.iter().map(|change| change.what.clone()).collect())
}

#[tokio::test]
async fn the_table_is_created_on_every_shard_once() {
    let database = Database::create();
    for shard in 0..database.shards().len() {
        database.run(shard, "DROP DATABASE {db}");
    }
    let settings = settings(&database);
    let columns = [
        column("processed_volume", "UInt64"),
        column("processed_seen", "DateTime64(3, 'UTC')"),
    ];
    let changes = configure(&settings, &columns).await.unwrap();
    let expected = [
        format!("database {} created", database.name()),
        format!(
            "table {}.keywords_metrics_local created with 5 columns, engine ReplacingMergeTree",
            database.name()
        ),
    ];
    let expected = vec![expected; database.shards().len()].concat();
    assert_eq!(changes, expected);
    assert_eq!(configure(&settings, &columns).await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn of_two_rows_of_a_key_the_higher_version_stays_whichever_came_last() {
    let database = Database::create();
    configure(&settings(&database), &[]).await.unwrap();
    for version in [5, -7, 9, 8] {
        let row = format!("('us', 'a', {version})");
        database.run(
            0,
            &format!("INSERT INTO {{db}}.keywords_metrics_local VALUES {row}"),
        );
    }
    assert_eq!(
        database.run(0, "SELECT version FROM {db}.keywords_metrics_local FINAL"),
        "9"
    );
}

#[tokio::test]
async fn a_missing_column_and_another_window_are_corrected_and_reported() {
    let database = Database::create();
    let mut settings = settings(&database);
    configure(&settings, &[]).await.unwrap();
    settings.deduplication_window = 77;
    let columns = [column("processed_odd `name`", "Nullable(Float64)")];
    let changes = configure(&settings, &columns).await.unwrap();
    let expected = [
        "column odd `name` Nullable(Float64) added",
        "non_replicated_deduplication_window set to 77, from 10000",
    ];
    assert_eq!(changes, expected.repeat(database.shards().len()));
    assert_eq!(configure(&settings, &columns).await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn a_column_of_another_type_is_refused_by_name_and_nothing_is_changed() {
    let database = Database::create();
    let settings = settings(&database);
    configure(&settings, &[column("processed_volume", "UInt32")])
        .await
        .unwrap();
    let columns = [
        column("processed_new", "UInt8"),
        column("processed_volume", "UInt64"),
    ];
    let refused = configure(&settings, &columns).await.unwrap_err();
    assert!(matches!(refused, ConfigureError::Conflict { .. }));
    let text = refused.to_string();
    assert!(
        text.contains("column \"volume\" is UInt32, and UInt64 in the source"),
        "{text}"
    );
    assert_eq!(
        database.run(
            0,
            "SELECT count() FROM system.columns WHERE database = '{db}' AND name = 'new'"
        ),
        "0"
    );
}

#[tokio::test]
async fn a_table_of_another_engine_order_or_version_is_refused() {
    let database = Database::create();
    let settings = settings(&database);
    let columns = "(country LowCardinality(String), keyword String, version Int64, v Int64)";
    for (rest, complaint) in [
        (
            "ENGINE = MergeTree ORDER BY (country, keyword)",
            "its engine is MergeTree, not ReplacingMergeTree",
        ),
        (
            "ENGINE = ReplacingMergeTree(version) ORDER BY (keyword, country)",
            "it is ordered by (keyword, country), not by (country, keyword)",
        ),
        (
            "ENGINE = ReplacingMergeTree(v) ORDER BY (country, keyword)",
            "its engine has the version column \"v\", not \"version\"",
        ),
        (
            "ENGINE = ReplacingMergeTree ORDER BY (country, keyword)",
            "its engine has the version column \"\", not \"version\"",
        ),
    ] {
        for shard in 0..database.shards().len() {
            database.run(
                shard,
                "DROP TABLE IF EXISTS {db}.keywords_metrics_local SYNC",
            );
            let create = format!("CREATE TABLE {{db}}.keywords_metrics_local {columns} {rest}");
            database.run(shard, &create);
        }
        let refused = configure(&settings, &[]).await.unwrap_err().to_string();
        assert!(refused.contains(complaint), "{refused}");
    }
}

#[tokio::test]
async fn a_table_whose_key_has_a_comma_in_a_name_is_created_once() {
    let database = Database::create();
    let settings = settings(&database);
    let cluster = Cluster::new(&settings.connection()).unwrap();
    for key in [&["a, b"][..], &["a, b", "c`, d"]] {
        for shard in 0..database.shards().len() {
            database.run(
                shard,
                "DROP TABLE IF EXISTS {db}.keywords_metrics_local SYNC",
            );
        }
        let key: Vec<Column> = key.iter().map(|name| column(name, "String")).collect();
        let table = TargetTable::new(&settings, &key, &[]).unwrap();
        let changes = configure_target(&cluster, &table, false).await.unwrap();
        assert_eq!(changes.len(), database.shards().len());
        assert_eq!(configure_target(&cluster, &table, false).await.unwrap(), []);
    }
}
