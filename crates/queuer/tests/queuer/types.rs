//! Keys and change columns of every type that the documentation allows, on the real engine.

use super::Hub;

/// A key column of this type, filled with the expression of `number`, is cut into many ranges that
/// together have every row and are read by the primary index.
async fn cut_over(r#type: &str, expression: &str) {
    let hub = Hub::new(&format!("k {} ", r#type), "k");
    for part in 0..2 {
        hub.database.run(
            0,
            &format!(
                "INSERT INTO {{db}}.hub SELECT {expression}, number, now64(3) - 1 FROM numbers({part} * 500, 1000)"
            ),
        );
    }
    let plan = hub.plan().await.unwrap();
    assert!(
        plan.task_count() >= 2,
        "{}: {} ranges",
        r#type,
        plan.task_count()
    );
    let mut rows = 0;
    for task in plan.tasks() {
        let (read, summary) = hub.read(&task).await;
        rows += read;
        assert!(read > 0, "{}: {:?}", r#type, task.range);
        assert!(summary.read_rows < 2_000, "{}: {:?}", r#type, task.range);
    }
    assert_eq!(rows, 2_000, "{}", r#type);
}

#[tokio::test]
async fn strings_of_any_bytes() {
    let bytes = "char(number % 256, number % 7, number % 251, intDiv(number, 3))";
    cut_over("String", bytes).await;
    cut_over("LowCardinality(String)", bytes).await;
    cut_over("FixedString(5)", bytes).await;
    cut_over("LowCardinality(FixedString(5))", bytes).await;
}

#[tokio::test]
async fn numbers_of_either_sign() {
    cut_over("Int16", "number - 700").await;
    cut_over("UInt64", "18446744073709551615 - number").await;
    cut_over("Int128", "toInt128(number) * -1000000000000000000").await;
    cut_over("Decimal(18, 3)", "toDecimal64(number, 3) / 7 - 100").await;
    cut_over("Bool", "number % 2").await;
}

#[tokio::test]
async fn dates_and_times_even_where_the_clock_is_set_back() {
    cut_over("Date", "toDate('2020-01-01') + number").await;
    cut_over("Date32", "toDate32('1930-01-01') + number").await;
    // 01:00 UTC of that day is the second 02:00 in Berlin.
    let night = "toDateTime('2020-10-25 00:30:00', 'UTC') + number * 3";
    cut_over("DateTime('Europe/Berlin')", night).await;
    cut_over("DateTime", night).await;
    cut_over(
        "DateTime64(6, 'Europe/Berlin')",
        "toDateTime64('2020-10-25 00:30:00.5', 6, 'UTC') + number * 3",
    )
    .await;
    cut_over(
        "DateTime64(0)",
        "toDateTime64('1950-10-25 00:30:00', 0, 'UTC') + number * 3",
    )
    .await;
}

#[tokio::test]
async fn enums_addresses_and_identifiers() {
    cut_over(
        "Enum8('z\\'z' = -3, 'a' = 0, 'm' = 9)",
        "[-3, 0, 9][number % 3 + 1]",
    )
    .await;
    cut_over("UUID", "reinterpretAsUUID(cityHash64(number))").await;
    cut_over("IPv4", "toIPv4(toUInt32(number * 100000))").await;
    cut_over("IPv6", "IPv4ToIPv6(toIPv4(toUInt32(number * 100000)))").await;
}

#[tokio::test]
async fn a_key_of_which_the_index_holds_only_the_beginning() {
    let hub = Hub::new("a UInt32, b String", "(a, b) PRIMARY KEY a");
    hub.database.run(
        0,
        "INSERT INTO {db}.hub SELECT number % 40, toString(number), number, now64(3) - 1 FROM numbers(4000)",
    );
    let plan = hub.plan().await.unwrap();
    assert_eq!(plan.read.key.len(), 2);
    assert!(plan.task_count() > 20);
    assert_eq!(hub.read_all(&plan).await, 4_000);
}

#[tokio::test]
async fn a_key_whose_later_columns_the_server_leaves_out_of_memory() {
    // Where the first columns alone are almost unique, the server keeps no others in memory, and the
    // index shows their default values.
    let hub = Hub::new("a String, b Int32", "(a, b)");
    hub.database.run(
        0,
        "INSERT INTO {db}.hub SELECT hex(cityHash64(intDiv(number, 2))), -number, number, now64(3) - 1 FROM numbers(4000)",
    );
    let plan = hub.plan().await.unwrap();
    assert!(plan.task_count() > 50);
    assert_eq!(hub.read_all(&plan).await, 4_000);
}

#[tokio::test]
async fn names_that_need_quotes() {
    let hub = Hub::new("`a b` String, `c``d` String", "(`a b`, `c``d`)");
    hub.database.run(
        0,
        "INSERT INTO {db}.hub SELECT toString(number % 7), toString(number), number, now64(3) - 1 FROM numbers(1000)",
    );
    let plan = hub.plan().await.unwrap();
    assert!(plan.task_count() > 5);
    assert_eq!(hub.read_all(&plan).await, 1_000);
}

/// Rows at `until - 1 unit`, `until` and `until + 1 unit`: the first alone belongs to the run.
async fn ends_before(changed: &str, value: &str, unit_ms: i64) {
    let hub = Hub::with_change_column("k UInt64", "k", changed);
    let insert = |key: u32, ms: i64| {
        let value = value.replace("MS", &format!("toInt64({ms})"));
        let sql = format!("INSERT INTO {{db}}.hub SELECT {key}, 1, {value}");
        hub.database.run(0, &sql);
    };
    insert(1, 1_700_000_000_000);
    let plan = hub.plan().await.unwrap();
    let until_ms = plan.read.until_ms;
    assert_eq!(until_ms % unit_ms, 0, "{changed}");
    insert(2, until_ms - unit_ms);
    insert(3, until_ms);
    insert(4, until_ms + unit_ms);
    assert_eq!(hub.read_all(&plan).await, 2, "{changed}");

    #[derive(serde::Deserialize)]
    struct Row {
        k: u64,
        _version: i64,
    }
    let task = plan.tasks().next().unwrap();
    let query = stores::clickhouse::read::select(&task).unwrap();
    let shard = hub.cluster.shard(0).unwrap();
    let mut rows: Vec<Row> = shard.rows(&query).await.unwrap();
    rows.sort_by_key(|row| row.k);
    let versions: Vec<i64> = rows.iter().map(|row| row._version).collect();
    assert_eq!(
        versions,
        [1_700_000_000_000, until_ms - unit_ms],
        "{changed}"
    );
}

#[tokio::test]
async fn change_columns_of_every_type() {
    let seconds = "toDateTime(intDiv(MS, 1000), 'UTC')";
    let millis = "fromUnixTimestamp64Milli(MS)";
    ends_before("changed_at DateTime", seconds, 1_000).await;
    ends_before("changed_at DateTime('Asia/Tokyo')", seconds, 1_000).await;
    ends_before("changed_at DateTime64(0)", millis, 1_000).await;
    ends_before("changed_at DateTime64(3, 'Europe/Berlin')", millis, 1).await;
    ends_before("changed_at DateTime64(6)", millis, 1).await;
    ends_before("changed_at DateTime64(9)", millis, 1).await;
    ends_before("changed_at Int64", "MS", 1).await;
    ends_before("changed_at UInt64", "MS", 1).await;
}
