//! The fetcher against the real engine, with servers that fail on demand.

mod support;

use std::time::Duration;

use batch::{Fact, KeyRange, Reason, header};
use pipeline::{LoopOptions, Outcome, Worker};
use support::{Done, Hub, ROWS, SentBatches, below, from, lines};
use testkit::{ProfileAnswer, ProfileServer, Proxy, clickhouse};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

/// An address where nothing listens: the port is reserved.
const DEAD: &str = "http://127.0.0.1:1";

fn all_lines(done: &Done) -> Vec<String> {
    let batches = done.sent.rows_of_success();
    batches.iter().flat_map(|b| lines(&b.stream)).collect()
}

fn failed_attempts(done: &Done) -> Vec<u32> {
    let attempt = |fact: Fact| match fact {
        Fact::FetchFailed { attempt, .. } => Some(attempt),
        _ => None,
    };
    done.sent.facts().into_iter().filter_map(attempt).collect()
}

fn fetched(done: &Done) -> Option<(u32, u32, u64)> {
    done.sent.facts().into_iter().find_map(|fact| match fact {
        Fact::Fetched {
            attempt,
            batches,
            rows,
            ..
        } => Some((attempt, batches, rows)),
        _ => None,
    })
}

fn quarantined(done: &Done) -> Reason {
    match &done.outcome {
        Outcome::Quarantine(invalid) => invalid.reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_range_becomes_batches_with_every_row_of_the_source_in_its_order() {
    let hub = Hub::create();
    let task = hub.task(KeyRange::default());
    let done = hub.fetch(&hub.database.cluster(), &task, 1).await;
    assert_eq!(done.outcome, Outcome::Done);
    assert_eq!(all_lines(&done), hub.rows("1"));
    let batches = done.sent.batches();
    assert_eq!(fetched(&done), Some((1, batches.len() as u32, ROWS)));
    let sequences: Vec<_> = batches.iter().map(|b| b.sequence as usize).collect();
    assert_eq!(sequences, (0..batches.len()).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_source_sends_blocks_of_the_scrolled_rows_also_where_it_filters() {
    let mut hub = Hub::create();
    hub.settings.scroll_rows = 400;
    // The range begins in the middle of a granule.
    let task = hub.task(from("de", 700));
    let done = hub.fetch(&hub.database.cluster(), &task, 1).await;
    assert_eq!(done.outcome, Outcome::Done);
    // Two blocks fit into a batch, a third does not; a larger block would have been divided at 1,000.
    let batches = done.sent.batches();
    let whole = batches.iter().filter(|batch| batch.rows == 800).count();
    assert!(whole >= 25, "{whole} of {}", batches.len());
}

#[tokio::test]
async fn blocks_of_whole_granules_such_as_those_of_compact_parts_are_divided() {
    let hub = Hub::with_parts("Compact");
    let task = hub.task(KeyRange::default());
    let done = hub.fetch(&hub.database.cluster(), &task, 1).await;
    assert_eq!(done.outcome, Outcome::Done);
    assert_eq!(all_lines(&done), hub.rows("1"));
    assert!(done.sent.batches().iter().all(|batch| batch.rows <= 1000));
}

#[tokio::test]
async fn ranges_that_meet_have_each_row_once() {
    let hub = Hub::create();
    let mut all = Vec::new();
    for range in [below("fr", 12_000), from("fr", 12_000)] {
        let task = hub.task(range);
        let done = hub.fetch(&hub.database.cluster(), &task, 1).await;
        assert_eq!(done.outcome, Outcome::Done);
        all.extend(all_lines(&done));
    }
    assert_eq!(all, hub.rows("1"));
}

#[tokio::test]
async fn an_empty_range_is_fetched_without_a_batch() {
    let hub = Hub::create();
    let task = hub.task(from("zz", 0));
    let done = hub.fetch(&hub.database.cluster(), &task, 1).await;
    assert_eq!(done.outcome, Outcome::Done);
    assert_eq!(fetched(&done), Some((1, 0, 0)));
    assert!(done.sent.batches().is_empty());
}

#[tokio::test]
async fn a_dead_replica_is_skipped() {
    let hub = Hub::create();
    let cluster = format!("{DEAD}|{}", hub.database.shards()[0]);
    let done = hub.fetch(&cluster, &hub.task(KeyRange::default()), 2).await;
    assert_eq!(done.outcome, Outcome::Done);
    assert_eq!(failed_attempts(&done), [9]);
    assert_eq!(fetched(&done).unwrap().0, 10);
    assert_eq!(all_lines(&done).len() as u64, ROWS);
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_read_again_from_another_replica_as_an_attempt_of_its_own() {
    let hub = Hub::create();
    let proxy = Proxy::to(&hub.server()).await;
    proxy.cut_after(400_000);
    let cluster = format!("http://{}|{}", proxy.address(), hub.database.shards()[0]);
    let done = hub.fetch(&cluster, &hub.task(KeyRange::default()), 1).await;
    assert_eq!(done.outcome, Outcome::Done);
    assert_eq!(failed_attempts(&done), [1]);
    assert_eq!(fetched(&done).unwrap().0, 2);
    assert_eq!(all_lines(&done), hub.rows("1"));
    let broken = done.sent.batches();
    let broken: u64 = broken
        .iter()
        .filter(|b| b.attempt == 1)
        .map(|b| b.rows)
        .sum();
    assert!(
        0 < broken && broken < ROWS,
        "{broken} rows of the broken attempt"
    );
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_never_a_success() {
    let hub = Hub::create();
    let proxy = Proxy::to(&hub.server()).await;
    let cluster = format!("http://{}", proxy.address());
    let task = hub.task(KeyRange::default());
    let whole = hub.fetch(&cluster, &task, 1).await;
    assert_eq!(whole.outcome, Outcome::Done);
    for bytes in [1_000, 5_000, 100_000, 500_000] {
        proxy.cut_after(bytes);
        let done = hub.fetch(&cluster, &task, 1).await;
        assert!(
            matches!(done.outcome, Outcome::Retry { .. }),
            "{bytes}: {:?}",
            done.outcome
        );
        assert_eq!(fetched(&done), None, "{bytes}");
        assert_eq!(failed_attempts(&done), [1], "{bytes}");
    }
}

#[tokio::test]
async fn an_exception_in_mid_stream_is_never_a_success() {
    let hub = Hub::create();
    let mut plan = hub.plan();
    plan.columns.push(batch::Column {
        name: "processed_bad".into(),
        r#type: "UInt8".into(),
    });
    let task = hub.task_for(0, KeyRange::default(), plan);
    let done = hub.fetch(&hub.database.cluster(), &task, 1).await;
    let Outcome::Retry { error, .. } = &done.outcome else {
        panic!("{:?}", done.outcome)
    };
    assert!(error.contains("broken in mid-stream"), "{error}");
    assert_eq!(fetched(&done), None);
}

#[tokio::test]
async fn a_column_that_is_missing_or_of_another_type_is_named_and_nothing_is_sent() {
    let hub = Hub::create();
    for (name, r#type) in [
        ("processed_gone", "UInt64"),
        ("processed_clicks", "Float64"),
    ] {
        let mut plan = hub.plan();
        plan.columns.retain(|column| column.name != name);
        plan.columns.push(batch::Column {
            name: name.into(),
            r#type: r#type.into(),
        });
        let task = hub.task_for(0, KeyRange::default(), plan);
        let done = hub.fetch(&hub.database.cluster(), &task, 1).await;
        let Outcome::Quarantine(invalid) = &done.outcome else {
            panic!("{:?}", done.outcome)
        };
        assert_eq!(invalid.reason, Reason::SourceChanged);
        assert!(invalid.detail.contains(name), "{invalid}");
        assert!(done.sent.batches().is_empty() && done.sent.facts().is_empty());
    }
}

#[tokio::test]
async fn a_table_that_is_gone_is_named() {
    let hub = Hub::create();
    let mut plan = hub.plan();
    plan.table = "elsewhere".into();
    let task = hub.task_for(0, KeyRange::default(), plan);
    let done = hub.fetch(&hub.database.cluster(), &task, 1).await;
    assert_eq!(quarantined(&done), Reason::SourceChanged);
}

#[tokio::test]
async fn a_shard_that_the_cluster_does_not_have_is_named() {
    let hub = Hub::create();
    let task = hub.task_for(7, KeyRange::default(), hub.plan());
    let done = hub.fetch(&hub.database.cluster(), &task, 1).await;
    assert_eq!(quarantined(&done), Reason::UnknownShard);
}

/// A server that gives this answer to every request.
async fn answering(status: &str, body: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let length = body.len();
    let answer =
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = client.read(&mut request).await;
            let _ = client.write_all(answer.as_bytes()).await;
        }
    });
    format!("http://{address}")
}

#[tokio::test]
async fn answers_that_are_always_web_pages_are_retried_then_quarantined_with_their_reason() {
    let hub = Hub::create();
    let page = "<html><body>Welcome to the portal</body></html>";
    let cluster = answering("200 OK", page).await;
    let mut message = hub.task(KeyRange::default()).to_message();
    let done = hub.fetch_message(&cluster, message.clone(), 1).await;
    let Outcome::Retry { error, .. } = &done.outcome else {
        panic!("{:?}", done.outcome)
    };
    assert!(
        error.starts_with("unexpected-answer: ") && error.contains("portal"),
        "{error}"
    );
    let all = LoopOptions::default().max_retries;
    message.headers.set(header::FAILURES, i64::from(all));
    let done = hub.fetch_message(&cluster, message, 11).await;
    assert_eq!(quarantined(&done), Reason::UnexpectedAnswer);
}

#[tokio::test]
async fn an_exhausted_quota_or_refused_credentials_count_as_no_failure() {
    let hub = Hub::create();
    let task = hub.task(KeyRange::default());
    for (status, what) in [
        (
            "500 Internal Server Error",
            "Code: 201. DB::Exception: Quota for user `reader` has been exceeded. (QUOTA_EXCEEDED)",
        ),
        (
            "403 Forbidden",
            "Code: 516. DB::Exception: reader: Authentication failed. (AUTHENTICATION_FAILED)",
        ),
    ] {
        let cluster = format!("{}|{DEAD}", answering(status, what).await);
        let done = hub.fetch(&cluster, &task, 1).await;
        let Outcome::Snooze { why, delay } = &done.outcome else {
            panic!("{:?}", done.outcome)
        };
        assert!(why.contains("shard 0: ") && why.contains("reader"), "{why}");
        assert_eq!(*delay, Duration::from_secs(60));
    }
}

/// A proxy of the real server that answers by itself how far its table is behind.
async fn replica_with_delay(hub: &Hub, seconds: u64) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = hub.server();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut request = vec![0; 65_536];
            let n = client.read(&mut request).await.unwrap_or(0);
            let request = &request[..n];
            if String::from_utf8_lossy(request).contains("absolute_delay") {
                let row = format!("{{\"absolute_delay\":{seconds}}}\n");
                let length = row.len();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nX-ClickHouse-Summary: {{}}\r\nContent-Length: {length}\r\n\
                     Connection: close\r\n\r\n{row}"
                );
                let _ = client.write_all(answer.as_bytes()).await;
                continue;
            }
            let mut real = TcpStream::connect(&server).await.unwrap();
            real.write_all(request).await.unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut client, &mut real).await });
        }
    });
    format!("http://{address}")
}

#[tokio::test]
async fn a_replica_that_is_too_far_behind_is_skipped_and_one_at_the_limit_is_read() {
    let hub = Hub::create();
    let behind = replica_with_delay(&hub, 121).await;
    let cluster = format!("{behind}|{}", replica_with_delay(&hub, 120).await);
    let done = hub.fetch(&cluster, &hub.task(KeyRange::default()), 1).await;
    assert_eq!(done.outcome, Outcome::Done);
    assert_eq!(failed_attempts(&done), [1]);
    assert_eq!(fetched(&done).unwrap().0, 2);
    assert_eq!(all_lines(&done).len() as u64, ROWS);
}

#[tokio::test]
async fn a_range_whose_replicas_are_all_behind_is_retried_and_says_how_far() {
    let hub = Hub::create();
    let (one, other) = (
        replica_with_delay(&hub, 700).await,
        replica_with_delay(&hub, 800).await,
    );
    let task = hub.task(KeyRange::default());
    let done = hub.fetch(&format!("{one}|{other}"), &task, 1).await;
    let Outcome::Retry { error, at } = &done.outcome else {
        panic!("{:?}", done.outcome)
    };
    assert_eq!(
        *error,
        format!(
            "{one}: it is 700 s behind; source.max_replica_delay_seconds allows 120 s; \
             {other}: it is 800 s behind; source.max_replica_delay_seconds allows 120 s"
        )
    );
    assert_eq!(at, "shard 0");
    assert!(done.sent.batches().is_empty());
}

#[tokio::test]
async fn a_task_in_quarantine_has_a_receipt() {
    let app = app::App::detached("fetcher-eu");
    let fetcher = fetcher::Fetcher::new(&app, &Default::default(), &Default::default()).unwrap();
    let hub = Hub::create();
    let task = hub.task(KeyRange::default());
    let why = batch::Invalid::new(Reason::TooManyRetries, "failed 11 times");
    let receipt = fetcher.quarantined(&task.to_message(), &why).unwrap();
    let receipt = batch::Receipt::from_message(&receipt).unwrap();
    let expected = Fact::TaskQuarantined {
        task: task.task,
        program: "fetcher-eu".into(),
        reason: Reason::TooManyRetries,
    };
    assert_eq!(receipt.fact, expected);
}

/// The hub's server, to a user with a profile of these settings.
async fn with_profile(hub: &Hub, settings: &str) -> String {
    ProfileServer::with_settings(&hub.server(), settings)
        .await
        .url()
}

#[tokio::test]
async fn a_limit_that_cuts_answers_is_an_error_and_never_fewer_rows() {
    let hub = Hub::create();
    let task = hub.task(KeyRange::default());
    for profile in [
        "max_result_rows=500&result_overflow_mode=break",
        "max_result_bytes=500&result_overflow_mode=break",
        "max_rows_to_read=500&read_overflow_mode=break",
        "max_bytes_to_read=500&read_overflow_mode=break",
        "max_execution_time=0.000001&timeout_overflow_mode=break",
    ] {
        let done = hub
            .fetch(&with_profile(&hub, profile).await, &task, 1)
            .await;
        let Outcome::Retry { error, .. } = &done.outcome else {
            panic!("{profile}: {:?}", done.outcome)
        };
        let named = ["Limit for", "Timeout exceeded"];
        assert!(
            named.iter().any(|text| error.contains(text)),
            "{profile}: {error}"
        );
        assert_eq!(fetched(&done), None, "{profile}");
    }
}

#[tokio::test]
async fn no_profile_changes_what_is_read() {
    let hub = Hub::create();
    let task = hub.task(KeyRange::default());
    let filter = format!(
        "additional_table_filters={{%27{}.hub%27:%27processed_volume%3C10%27}}",
        hub.database.name()
    );
    for profile in [
        "limit=500",
        "offset=500",
        &filter,
        "additional_result_filter=processed_volume%3C10",
        "compatibility=21.1",
        "session_timezone=Asia/Tokyo",
        "output_format_arrow_low_cardinality_as_dictionary=1",
        "output_format_arrow_string_as_string=0",
        "use_query_cache=1",
        "empty_result_for_aggregation_by_empty_set=1",
        "output_format_json_quote_64bit_integers=1",
        "output_format_json_array_of_rows=1",
    ] {
        let done = hub
            .fetch(&with_profile(&hub, profile).await, &task, 1)
            .await;
        assert_eq!(done.outcome, Outcome::Done, "{profile}");
        assert_eq!(all_lines(&done), hub.rows("1"), "{profile}");
    }
}

#[tokio::test]
async fn deleted_rows_are_not_read_whatever_the_profile_says() {
    let hub = Hub::create();
    hub.database.run(
        0,
        "DELETE FROM {db}.hub WHERE processed_volume < 1000 SETTINGS lightweight_deletes_sync = 2",
    );
    let profile = with_profile(&hub, "apply_deleted_mask=0").await;
    let done = hub.fetch(&profile, &hub.task(KeyRange::default()), 1).await;
    assert_eq!(done.outcome, Outcome::Done);
    assert_eq!(fetched(&done).unwrap().2, ROWS - 1000);
}

/// Whether these are the settings of the request for the rows of a range, and not of one about them.
fn asks_for_rows(settings: &str) -> bool {
    settings.contains("default_format=ArrowStream")
}

#[tokio::test]
async fn an_answer_that_ends_properly_with_other_rows_than_are_counted_is_a_failed_attempt() {
    let hub = Hub::create();
    let cut = ProfileServer::new(&hub.server(), |settings| {
        let settings = settings.to_owned();
        ProfileAnswer::Forward(if asks_for_rows(&settings) {
            settings + "&limit=8192"
        } else {
            settings
        })
    })
    .await
    .url();
    let task = hub.task(KeyRange::default());
    let done = hub.fetch(&cut, &task, 1).await;
    let Outcome::Retry { error, .. } = &done.outcome else {
        panic!("{:?}", done.outcome)
    };
    assert!(
        error.contains("has 8192 rows of the range, and it counts 25000 rows;"),
        "{error}"
    );
    assert_eq!(fetched(&done), None);
    let done = hub
        .fetch(&format!("{cut}|{}", hub.database.shards()[0]), &task, 1)
        .await;
    assert_eq!(done.outcome, Outcome::Done);
    assert_eq!(failed_attempts(&done), [1]);
    assert_eq!(fetched(&done).unwrap().2, ROWS);
}

#[tokio::test]
async fn rows_that_come_or_go_while_a_range_is_read_are_no_failure() {
    for (change, rows) in [
        (
            "INSERT INTO {db}.hub SELECT 'zz', toString(number), 0, NULL, [], now64() FROM numbers(7) SETTINGS async_insert = 0",
            ROWS + 7,
        ),
        (
            "DELETE FROM {db}.hub WHERE processed_volume < 10 SETTINGS lightweight_deletes_sync = 2",
            ROWS - 10,
        ),
    ] {
        let hub = Hub::create();
        let (address, name) = (
            hub.database.shards()[0].clone(),
            hub.database.name().to_owned(),
        );
        // Between the count and the answer.
        let server = ProfileServer::new(&hub.server(), move |settings| {
            if asks_for_rows(settings) {
                let (ok, answer) = clickhouse::query(&address, &change.replace("{db}", &name));
                assert!(ok, "{answer}");
            }
            ProfileAnswer::Forward(settings.to_owned())
        })
        .await;
        let done = hub
            .fetch(&server.url(), &hub.task(KeyRange::default()), 1)
            .await;
        assert_eq!(done.outcome, Outcome::Done);
        assert_eq!(failed_attempts(&done), [0; 0]);
        assert_eq!(fetched(&done).unwrap().2, rows);
    }
}

#[tokio::test]
async fn a_profile_that_forbids_a_setting_is_waited_for_and_says_what_it_has_to_allow() {
    let hub = Hub::create();
    let server = ProfileServer::new(&hub.server(), |_| {
        let text = "Cannot modify 'max_parallel_replicas' setting in readonly mode. (READONLY)";
        ProfileAnswer::Exception(164, text.to_owned())
    })
    .await;
    let done = hub
        .fetch(&server.url(), &hub.task(KeyRange::default()), 1)
        .await;
    let Outcome::Snooze { why, .. } = &done.outcome else {
        panic!("{:?}", done.outcome)
    };
    assert!(
        why.contains("max_parallel_replicas") && why.contains("readonly = 0 or 2"),
        "{why}"
    );
}

#[tokio::test]
async fn a_date_is_a_date_whatever_the_release_makes_of_it() {
    use arrow_array::{Array, Date32Array, ListArray, cast::AsArray};
    let hub = Hub::create();
    hub.database.run(
        0,
        "CREATE TABLE {db}.days (keyword String, processed_day Date, processed_other LowCardinality(Nullable(Date)), \
         processed_days Array(Date), changed_at DateTime64(3)) ENGINE = MergeTree ORDER BY keyword \
         SETTINGS allow_suspicious_low_cardinality_types = 1",
    );
    hub.database.run(
        0,
        "INSERT INTO {db}.days SELECT toString(number), [0, 1, 65535][1 + number], NULL, [0, 65535], now64() \
         FROM numbers(3) SETTINGS async_insert = 0",
    );
    // As a server before 26 does.
    let older = ProfileServer::new(&hub.server(), |settings| {
        ProfileAnswer::Forward(format!("{settings}&output_format_arrow_date_as_uint16=1"))
    })
    .await;
    let column = |name: &str, r#type: &str| batch::Column {
        name: name.into(),
        r#type: r#type.into(),
    };
    let mut plan = hub.plan();
    plan.table = "days".into();
    plan.key = vec![column("keyword", "String")];
    plan.columns = vec![
        column("processed_day", "Date"),
        column("processed_other", "LowCardinality(Nullable(Date))"),
        column("processed_days", "Array(Date)"),
    ];
    let task = hub.task_for(0, KeyRange::default(), plan);
    for address in [older.url(), hub.database.cluster()] {
        let done = hub.fetch(&address, &task, 1).await;
        assert_eq!(done.outcome, Outcome::Done);
        let batches = done.sent.rows_of_success();
        let rows = &batches[0].stream.decode().unwrap()[0];
        let dates = |array: &dyn Array| -> Vec<Option<i32>> {
            let days = array.as_any().downcast_ref::<Date32Array>();
            days.unwrap().iter().collect()
        };
        assert_eq!(dates(rows.column(1)), [Some(0), Some(1), Some(65_535)]);
        assert_eq!(dates(rows.column(2)), [None, None, None]);
        let lists: &ListArray = rows.column(3).as_list();
        assert_eq!(dates(&lists.value(2)), [Some(0), Some(65_535)]);
    }
}

#[tokio::test]
async fn batches_are_cut_to_what_the_broker_takes_and_a_row_that_is_larger_fails_its_range() {
    let mut hub = Hub::create();
    hub.max_message_bytes = Some(20_000);
    let task = hub.task(KeyRange::default());
    let done = hub.fetch(&hub.database.cluster(), &task, 1).await;
    assert_eq!(done.outcome, Outcome::Done);
    assert_eq!(all_lines(&done), hub.rows("1"));
    let batches = done.sent.to("batches");
    assert!(batches.iter().all(|batch| batch.body.len() <= 20_000));
    hub.database.run(
        0,
        "INSERT INTO {db}.hub SELECT 'us', randomPrintableASCII(50000), 1, NULL, [],
             toDateTime64('2026-01-01 00:00:00', 3, 'UTC') SETTINGS async_insert = 0",
    );
    let done = hub.fetch(&hub.database.cluster(), &task, 1).await;
    let Outcome::Quarantine(why) = &done.outcome else {
        panic!("{:?}", done.outcome);
    };
    assert_eq!(why.reason, Reason::Oversized);
    for part in ["single row", "20000", "max_message_size"] {
        assert!(why.detail.contains(part), "{}", why.detail);
    }
    assert_eq!(fetched(&done), None);
}
