use testkit::{Database, Hub};

#[test]
fn the_hub_has_the_rows_that_it_promises() {
    let database = Database::create();
    let hub = Hub {
        shards: database.shards().to_vec(),
        database: database.name().to_owned(),
        table: "keywords_data_local".into(),
        rows: 20_000,
    };
    hub.create();
    assert!(hub.is_filled());
    let sum = |expression: &str| -> u64 {
        let sql = format!("SELECT {expression} FROM {{db}}.keywords_data_local");
        let shards = 0..database.shards().len();
        shards
            .map(|shard| database.run(shard, &sql).parse::<u64>().unwrap())
            .sum()
    };
    assert_eq!(sum("uniqExact(country, keyword)"), 20_000 - Hub::SUPERSEDED);
    assert_eq!(
        sum("countIf(processed_volume > 9223372036854775807)"),
        Hub::REFUSED
    );
    assert_eq!(sum("countIf(length(keyword) >= 600)"), 1);
    assert_eq!(sum("countIf(position(keyword, '\\t') > 0)"), 1);
    assert_eq!(sum("toUInt64(max(changed_at) < now())"), 2);
    assert!(
        database
            .run(0, "SELECT count() FROM {db}.keywords_data_local")
            .parse::<u64>()
            .unwrap()
            > 9_000
    );
}
