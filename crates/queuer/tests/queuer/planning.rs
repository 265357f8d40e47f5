//! Plans that are made on the real engine, and read there.

use batch::{Fact, Invalid, ReadPlan, Reason, Receipt, RunMode, Started};
use ledger::Ledger;
use queuer::{History, PlanReport, PlannedRun, Since};
use stores::clickhouse::{Shard, read};

use super::Hub;

const GRANULE: u64 = 64;

/// Two shards of different sizes, in several parts whose keys overlap, with keys of any bytes: quotes,
/// control characters, invalid UTF-8, the empty keyword, and keys that several parts have.
fn hub() -> Hub {
    let hub = Hub::new(
        "country LowCardinality(String), keyword String",
        "(country, keyword)",
    );
    for (shard, rows) in [(0, 9_000), (1, 3_000)] {
        hub.database.run(shard, "SYSTEM STOP MERGES {db}.hub");
        for part in 0..3 {
            hub.database.run(
                shard,
                &format!(
                    "INSERT INTO {{db}}.hub SELECT ['us', 'de', '', 'x\\0y'][number % 4 + 1], \
                     if(number % 50 = 0, '', concat(char(cityHash64(number, 1) % 256, cityHash64(number, 2) % 256), toString(number * (1 + {part})))), \
                     number, fromUnixTimestamp64Milli(toInt64(1700000000000 + number)) FROM numbers({rows})"
                ),
            );
        }
    }
    hub
}

/// A ledger with a complete run of what `plan` reads, without tasks, that ended at `until_ms`.
fn complete(plan: &PlannedRun, until_ms: i64) -> Ledger {
    let started = Fact::Started(Started {
        pipeline: "direct".to_owned(),
        mode: RunMode::Full,
        until_ms,
        shards: plan.shard_count,
        stores: vec!["ch-writer".to_owned()],
        partial: false,
        source: plan.source.clone(),
        nonce: String::new(),
        differences: Vec::new(),
        run_plan: None,
    });
    let manifest = Fact::Manifest {
        tasks: 0,
        estimated_rows: 0,
    };
    let mut ledger = Ledger::new();
    for fact in [started, manifest] {
        ledger.apply(&Receipt {
            run: "r-1".parse().unwrap(),
            at_ms: until_ms,
            fact,
        });
    }
    ledger
}

#[tokio::test]
async fn every_row_is_in_exactly_one_range_and_no_range_is_empty() {
    let hub = hub();
    let plan = hub.plan().await.unwrap();
    let mut rows = [0, 0];
    for task in plan.tasks() {
        let (read, _) = hub.read(&task).await;
        assert!(read > 0, "{:?}", task.range);
        rows[task.shard as usize] += read;
    }
    assert_eq!(rows, [hub.count(0), hub.count(1)]);
    assert_eq!(plan.rows(), rows.iter().sum::<u64>());
}

#[tokio::test]
async fn ranges_are_nearly_equal_and_divided_among_shards_by_rows() {
    let mut hub = hub();
    hub.settings.min_ranges = 40;
    let plan = hub.plan().await.unwrap();
    let ranges: Vec<usize> = plan.shards.iter().map(|shard| shard.ranges.len()).collect();
    assert_eq!(ranges, [30, 10]);
    let mean = plan.rows() / 40;
    for task in plan.tasks() {
        let (read, _) = hub.read(&task).await;
        // Three parts, each with a granule that a boundary may cut anywhere.
        assert!(read.abs_diff(mean) <= 4 * GRANULE, "{read} of mean {mean}");
    }
}

#[tokio::test]
async fn a_table_of_few_rows_gives_as_many_ranges_as_its_index_has_keys() {
    let hub = Hub::new(
        "country LowCardinality(String), keyword String",
        "(country, keyword)",
    );
    hub.database.run(
        0,
        "INSERT INTO {db}.hub SELECT 'us', toString(number), number, now64(3) - 1 FROM numbers(100)",
    );
    let plan = hub.plan().await.unwrap();
    assert_eq!(plan.shards[0].ranges.len(), 2);
    assert!(plan.shards[1].ranges.is_empty());
    assert_eq!(hub.read_all(&plan).await, 100);
}

#[tokio::test]
async fn an_empty_table_gives_no_range() {
    let hub = Hub::new(
        "country LowCardinality(String), keyword String",
        "(country, keyword)",
    );
    let plan = hub.plan().await.unwrap();
    assert_eq!((plan.task_count(), plan.rows()), (0, 0));
}

#[tokio::test]
async fn keys_beyond_those_of_the_index_are_in_the_outer_ranges() {
    let hub = hub();
    let plan = hub.plan().await.unwrap();
    let before = hub.read_all(&plan).await;
    hub.database.run(
        1,
        "INSERT INTO {db}.hub SELECT c, k, 0, toDateTime64('2020-01-01 00:00:00', 3) \
         FROM (SELECT ['', 'zz'] AS cs, arrayJoin(arrayZip(cs, ['', unhex('FFFF')])) AS t, t.1 AS c, t.2 AS k)",
    );
    assert_eq!(hub.read_all(&plan).await, before + 2);
}

#[tokio::test]
async fn planning_reads_the_primary_index_and_no_row() {
    let hub = hub();
    let plan = hub.plan().await.unwrap();
    let entries = |shard| {
        let sql = "SELECT count() FROM mergeTreeIndex({db}, hub)";
        hub.database.run(shard, sql).parse::<u64>().unwrap()
    };
    assert_eq!(plan.planning.read_rows, entries(0) + entries(1));
    assert!(plan.planning.read_rows < plan.rows() / 30);
    assert!(plan.planning.read_bytes > 0);
}

#[tokio::test]
async fn reading_a_range_reads_its_granules_and_few_others() {
    let mut hub = hub();
    hub.settings.min_ranges = 20;
    let plan = hub.plan().await.unwrap();
    for task in plan.tasks() {
        let (rows, summary) = hub.read(&task).await;
        // In each of three parts, the granules that the two bounds lie in.
        let most = rows + 3 * 2 * GRANULE;
        let read = summary.read_rows;
        assert!(read <= most, "{read} read for {rows} in {:?}", task.range);
    }
}

#[tokio::test]
async fn an_incremental_run_reads_what_changed_in_its_time_and_overlaps_the_last_one() {
    let mut hub = hub();
    hub.options.full = false;
    hub.settings.change_overlap_seconds = 1;
    let ledger = complete(&hub.plan().await.unwrap(), 1_700_000_002_000);
    let stores = ["ch-writer".to_owned()];
    let history = History {
        ledger: &ledger,
        stores: &stores,
    };
    let plan = hub.plan_after(Some(history)).await.unwrap();
    let since_ms = 1_700_000_001_000;
    assert_eq!(plan.read.mode, RunMode::Since { since_ms });
    assert!(!plan.partial);
    let changed = |shard| {
        let sql =
            "SELECT countIf(toUnixTimestamp64Milli(changed_at) >= 1700000001000) FROM {db}.hub";
        hub.database.run(shard, sql).parse::<u64>().unwrap()
    };
    assert_eq!(hub.read_all(&plan).await, changed(0) + changed(1));
}

#[tokio::test]
async fn rows_that_change_after_the_end_belong_to_the_next_run() {
    let hub = hub();
    let plan = hub.plan().await.unwrap();
    let before = hub.read_all(&plan).await;
    hub.database.run(
        0,
        &format!(
            "INSERT INTO {{db}}.hub SELECT 'us', 'late', 1, fromUnixTimestamp64Milli(toInt64({} + number)) FROM numbers(2)",
            plan.read.until_ms
        ),
    );
    assert_eq!(hub.read_all(&plan).await, before);
}

#[tokio::test]
async fn a_span_counts_back_from_the_end_of_the_run() {
    let mut hub = hub();
    hub.options.full = false;
    hub.options.since = Some(Since::Before(3_600_000));
    let plan = hub.plan().await.unwrap();
    let since_ms = plan.read.until_ms - 3_600_000;
    assert_eq!(plan.read.mode, RunMode::Since { since_ms });
    assert_eq!(hub.read_all(&plan).await, 0);
}

#[tokio::test]
async fn a_sample_holds_about_one_key_in_n_and_always_the_same() {
    let mut hub = hub();
    hub.options.sample = 10;
    let plan = hub.plan().await.unwrap();
    let sampled = hub.read_all(&plan).await;
    let tenth = plan.rows() / 10;
    assert!(sampled.abs_diff(tenth) < tenth / 4, "{sampled} of {tenth}");
    assert_eq!(hub.read_all(&hub.plan().await.unwrap()).await, sampled);
    assert!(plan.partial);
}

#[tokio::test]
async fn chosen_shards_alone_are_planned_and_an_unknown_one_is_refused() {
    let mut hub = hub();
    hub.options.shards = vec![1, 1];
    let plan = hub.plan().await.unwrap();
    assert_eq!((plan.shards.len(), plan.shards[0].shard), (1, 1));
    assert_eq!(hub.read_all(&plan).await, hub.count(1));
    hub.options.shards = vec![7];
    let refused = hub.plan().await.unwrap_err().to_string();
    assert!(refused.contains("no shard 7"), "{refused}");
}

#[tokio::test]
async fn tasks_take_the_shards_in_turn() {
    let mut hub = hub();
    hub.settings.min_ranges = 4;
    let plan = hub.plan().await.unwrap();
    let shards: Vec<u32> = plan.tasks().map(|task| task.shard).collect();
    assert_eq!(shards, [0, 1, 0, 0]);
}

#[tokio::test]
async fn a_source_that_does_not_fit_is_named() {
    let mut hub = hub();
    hub.database.run(1, "SYSTEM START MERGES {db}.hub");
    hub.database.run(
        1,
        "ALTER TABLE {db}.hub MODIFY COLUMN processed_volume UInt32",
    );
    let refused = hub.plan().await.unwrap_err().to_string();
    let wanted = "column processed_volume of";
    assert!(refused.starts_with(wanted), "{refused}");
    assert!(
        refused.contains("is UInt32 on shard 1, but UInt64 on shard 0"),
        "{refused}"
    );
    hub.source.table = "nowhere".to_owned();
    let refused = hub.plan().await.unwrap_err().to_string();
    assert!(refused.contains("no table"), "{refused}");
    hub.database
        .run(0, "CREATE TABLE {db}.memory AS {db}.hub ENGINE = Memory");
    hub.source.table = "memory".to_owned();
    let refused = hub.plan().await.unwrap_err().to_string();
    assert!(refused.contains("engine Memory"), "{refused}");
}

/// As a fetcher does before it reads the first task of a run.
async fn check_columns(shard: &Shard, plan: &ReadPlan) -> Result<(), Invalid> {
    let found = shard.describe(&plan.database, &plan.table).await.unwrap();
    let found = found.unwrap().readable_columns();
    read::compare_columns(shard.number(), plan, &found)
}

#[tokio::test]
async fn a_column_that_changes_after_the_plan_is_found_before_it_is_read() {
    let hub = hub();
    let plan = hub.plan().await.unwrap();
    let shard = hub.cluster.shard(1).unwrap();
    check_columns(shard, &plan.read).await.unwrap();
    hub.database.run(1, "SYSTEM START MERGES {db}.hub");
    hub.database
        .run(1, "ALTER TABLE {db}.hub DROP COLUMN processed_volume");
    let changed = check_columns(shard, &plan.read).await.unwrap_err();
    assert_eq!(changed.reason, Reason::SourceChanged);
    let text = changed.to_string();
    assert!(
        text.contains("column processed_volume is missing"),
        "{text}"
    );
    assert!(text.contains("of shard 1"), "{text}");
}

#[tokio::test]
async fn a_dry_run_shows_what_would_be_read() {
    let mut hub = hub();
    hub.settings.min_ranges = 40;
    let report = PlanReport::new(&hub.plan().await.unwrap()).unwrap();
    assert_eq!((report.ranges, report.rows), (40, 36_000));
    assert!(
        report
            .shards
            .iter()
            .all(|s| 0 < s.smallest && s.smallest <= s.largest)
    );
    let text = report.to_string();
    for wanted in [
        "columns  country, keyword, processed_volume\n",
        "ranges   40 of 36000 rows in all\n",
        "shard 0: 30 of 27000 rows",
        "SELECT `country`, `keyword`, `processed_volume`, ",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
}
