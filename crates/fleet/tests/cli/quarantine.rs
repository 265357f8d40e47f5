//! `fleet quarantine` against the real broker, with messages as programs leave them and as none should.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, BinaryArray, Float64Array, Int64Array, RecordBatch, StringArray, UInt64Array,
};
use batch::{
    BatchId, Failure, Headers, KeyRange, Message, Reason, RunId, Task, TaskHash, arrow, header,
};
use pipeline::broker::{Acknowledgement, Broker, Confirm, Publication, RabbitMq, Session};
use testkit::VirtualHost;

use crate::golden::{Answer, Folder};

const RUN: &str = "direct-20260102T030405678Z";
const TIME: i64 = 1_767_323_045_678;

fn failure(who: &str, minutes: i64, times: u32, at: &str, what: &str) -> Failure {
    Failure {
        who: who.into(),
        host: "worker-1".into(),
        when_ms: TIME + minutes * 60_000,
        what: what.into(),
        r#where: at.into(),
        times,
        first_ms: None,
    }
}

fn quarantined(
    mut message: Message,
    program: &str,
    reason: Reason,
    history: &[Failure],
) -> Message {
    message.headers.set(header::REASON, reason.as_str());
    message.headers.set(header::PROGRAM, program);
    for failure in history {
        message.headers.add_failure(failure.clone());
    }
    message
}

/// Headers of batch `n` of a task.
fn batch_headers(n: u32, rows: u64) -> Headers {
    let id = BatchId {
        task: TaskHash::new([b"task".as_slice()]),
        attempt: 1,
        sequence: n,
    };
    Headers::for_batch(&RUN.parse().unwrap(), id, 0, rows)
}

/// Rows that a store refused, their keywords as bad as keywords get.
fn refused_rows() -> bytes::Bytes {
    let keywords: [&[u8]; 5] = [
        b"caf\xe9 in latin-1",
        "\u{1b}[2Jclears the screen".as_bytes(),
        "two\nlines and a\ttab".as_bytes(),
        "\u{202e}كلمة مفتاحية 👩‍🚀".as_bytes(),
        &[b'x'; 600],
    ];
    let reason = "mapper_parsing_exception: failed to parse field [volume] of type [integer]";
    let columns: [(&str, ArrayRef); 6] = [
        (
            "country",
            Arc::new(StringArray::from(vec!["de", "fr", "us", "eg", "us"])),
        ),
        ("keyword", Arc::new(BinaryArray::from(keywords.to_vec()))),
        (
            "processed_volume",
            Arc::new(UInt64Array::from(vec![u64::MAX, 0, 7, 12, 1])),
        ),
        (
            "processed_clicks",
            Arc::new(Float64Array::from(vec![
                Some(0.1),
                None,
                Some(1e300),
                Some(-2.5),
                None,
            ])),
        ),
        ("_version", Arc::new(Int64Array::from(vec![TIME; 5]))),
        ("_reason", Arc::new(StringArray::from(vec![reason; 5]))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    arrow::encode(&batch.schema(), &[batch]).unwrap()
}

fn task() -> Message {
    let plan = serde_json::json!({
        "database": "keywords", "table": "keywords_data_local",
        "key": [{"name": "country", "type": "LowCardinality(String)"}],
        "columns": [{"name": "processed_volume", "type": "UInt64"}],
        "changed": {"name": "changed_at", "type": "DateTime64(3)"},
        "mode": {"mode": "full"}, "until_ms": TIME, "sample": 1,
    });
    let plan = Arc::new(serde_json::from_value(plan).unwrap());
    let run: RunId = RUN.parse().unwrap();
    Task::new(&run, 1, KeyRange::default(), 8192, plan).to_message()
}

/// Everything but what the broker itself moves.
fn messages() -> Vec<(&'static str, Message)> {
    let refused = failure(
        "es-writer",
        0,
        1,
        "keywords-all-20220613",
        "5 of 1000 rows are refused",
    );
    let away = failure(
        "fetcher",
        -30,
        10,
        "shard 1, replica http://b:8123",
        "connection refused",
    );
    let cut = failure(
        "es-writer",
        5,
        1,
        "",
        "the Arrow stream ends before its end marker",
    );
    let mut hostile = Message::new(
        Headers::new(),
        &b"\x1b]0;owned\x07 not a batch \xff\xfe\x00"[..],
    );
    hostile.headers.set(header::RUN, "\u{1b}[31mred\u{9b}0m");
    hostile.headers.set(header::ROWS, -1);
    hostile.headers.set("other", "two\nlines\\");
    hostile.headers.set(header::HISTORY, "[{\"who\":");
    let body = refused_rows();
    let half = body.slice(..body.len() / 2);
    let rows = |n| Message::new(batch_headers(n, 5), body.clone());
    vec![
        (
            "es-writer-quar",
            quarantined(
                rows(0),
                "es-writer",
                Reason::RefusedRows,
                std::slice::from_ref(&refused),
            ),
        ),
        (
            "es-writer-quar",
            quarantined(
                rows(1),
                "es-writer",
                Reason::RefusedRows,
                &[
                    failure("es-writer", -9, 3, "", "429 Too Many Requests"),
                    refused,
                ],
            ),
        ),
        (
            "es-writer-quar",
            quarantined(
                Message::new(batch_headers(2, 1000), half),
                "es-writer",
                Reason::Truncated,
                &[cut],
            ),
        ),
        ("es-writer-quar", hostile),
        (
            "fetcher-quar",
            quarantined(task(), "fetcher", Reason::TooManyRetries, &[away]),
        ),
    ]
}

async fn publish(session: &Session, queue: &str, message: Message) {
    let publication = Publication::to_queue(queue.to_owned(), message);
    let confirm = session.publisher.publish(publication).await.unwrap();
    assert_eq!(confirm.await.unwrap(), Confirm::Stored);
}

/// Lets the broker move a message to quarantine, as one that kills its worker again and again.
async fn give_up(session: &Session) {
    let headers = batch_headers(3, 5);
    publish(
        session,
        "ch-writer-in",
        Message::new(headers, refused_rows()),
    )
    .await;
    let mut subscription = session.subscribe("ch-writer-in", 1).await.unwrap();
    for _ in 0..=20 {
        let delivery = subscription.deliveries.recv().await.unwrap();
        subscription.acknowledge(Acknowledgement::Requeue { tag: delivery.tag });
    }
    subscription.close().await;
    while session.queue_length("ch-writer-quar").await.unwrap() == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// A virtual host with a configured pipeline.
struct Quarantine {
    host: VirtualHost,
    folder: Folder,
}

impl Quarantine {
    fn new() -> Self {
        let quarantine = Self {
            host: VirtualHost::create(),
            folder: Folder::new(),
        };
        let configured = quarantine.fleet(&["pipeline", "configure", "--type", "direct"]);
        assert_eq!(configured.code, Some(0), "{}", configured.stderr);
        quarantine
    }

    fn fleet(&self, arguments: &[&str]) -> Answer {
        let variables = [
            ("FLEET__BROKER__URL", self.host.url()),
            ("FLEET__BROKER__MANAGEMENT_URL", self.host.management_url()),
        ];
        let mut answer = self.folder.fleet(arguments, &variables);
        // The virtual host is another one in each test.
        answer.stderr = answer.stderr.replace(self.host.name(), "VHOST");
        answer
    }

    fn list(&self, more: &[&str]) -> Answer {
        self.fleet(&[&["quarantine", "list"], more].concat())
    }

    fn show(&self, more: &[&str]) -> Answer {
        self.fleet(&[&["quarantine", "show"], more].concat())
    }

    fn fill(&self) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let broker = Broker::RabbitMq(RabbitMq::new(self.host.url()).unwrap());
            let session = broker.connect("test").await.unwrap();
            for (queue, message) in messages() {
                publish(&session, queue, message).await;
            }
            give_up(&session).await;
            session.close().await;
        });
    }
}

#[test]
fn help_needs_no_broker() {
    let folder = Folder::new();
    for (arguments, name) in [
        (&["quarantine", "--help"][..], "help-quarantine.txt"),
        (
            &["quarantine", "list", "--help"],
            "help-quarantine-list.txt",
        ),
        (
            &["quarantine", "show", "--help"],
            "help-quarantine-show.txt",
        ),
    ] {
        folder.fleet(arguments, &[]).must_be(name);
    }
    folder
        .fleet(&["quarantine", "show", "fetcher"], &[])
        .must_be("quarantine-show-usage.txt");
    folder
        .fleet(&["quarantine", "list", "--reason", "refused"], &[])
        .must_be("quarantine-list-usage.txt");
}

#[test]
fn an_empty_quarantine_is_reported_as_empty() {
    let quarantine = Quarantine::new();
    quarantine.list(&[]).must_be("quarantine-list-nothing.txt");
    quarantine
        .list(&["--json", "--program", "fetcher-quar"])
        .must_be("quarantine-list-nothing-json.txt");
    quarantine
        .list(&["--program", "unknown"])
        .must_be("quarantine-list-unknown.txt");
    quarantine
        .show(&["fetcher", "1"])
        .must_be("quarantine-show-none.txt");
}

#[test]
fn what_is_in_quarantine_is_listed_and_filtered() {
    let quarantine = Quarantine::new();
    quarantine.fill();
    quarantine.list(&[]).must_be("quarantine-list.txt");
    quarantine
        .list(&["--json"])
        .must_be("quarantine-list-json.txt");
    quarantine
        .list(&["--each"])
        .must_be("quarantine-list-each.txt");
    let reason = ["--reason", "refused-rows", "--program", "es-writer"];
    quarantine
        .list(&reason)
        .must_be("quarantine-list-reason.txt");
    let few = [
        "--program",
        "es-writer",
        "--each",
        "--limit",
        "2",
        "--run",
        RUN,
    ];
    quarantine.list(&few).must_be("quarantine-list-few.txt");
    quarantine
        .list(&["--run", "direct-1"])
        .must_be("quarantine-list-other-run.txt");
    quarantine
        .list(&[
            "--json",
            "--each",
            "--program",
            "es-writer",
            "--reason",
            "truncated",
        ])
        .must_be("quarantine-list-each-json.txt");
    // All of this has changed nothing.
    quarantine.list(&[]).must_be("quarantine-list.txt");
}

#[test]
fn a_message_is_shown_with_all_that_is_known_of_it() {
    let quarantine = Quarantine::new();
    quarantine.fill();
    let show = |program: &str, position: &str, name: &str| {
        quarantine.show(&[program, position]).must_be(name);
    };
    show("es-writer", "2", "quarantine-show-rows.txt");
    show("es-writer", "3", "quarantine-show-truncated.txt");
    show("es-writer", "4", "quarantine-show-hostile.txt");
    show("fetcher", "1", "quarantine-show-task.txt");
    show("ch-writer", "1", "quarantine-show-given-up.txt");
    quarantine
        .show(&["es-writer", "1", "--json", "--rows", "2"])
        .must_be("quarantine-show-json.txt");
    quarantine
        .show(&["es-writer", "4", "--json"])
        .must_be("quarantine-show-hostile-json.txt");
    let nowhere = quarantine.show(&["es-writer", "5"]);
    nowhere.must_be("quarantine-show-no-position.txt");
}

#[test]
fn messages_are_found_by_their_task_and_saved() {
    let quarantine = Quarantine::new();
    quarantine.fill();
    let task = TaskHash::new([b"task".as_slice()]).to_string();
    let found = quarantine.show(&["es-writer", "--task", &task, "--rows", "0"]);
    found.must_be("quarantine-show-of-task.txt");
    let none = quarantine.show(&["fetcher", "--task", "0000000000000000"]);
    none.must_be("quarantine-show-other-task.txt");
    let several = quarantine.show(&["es-writer", "--task", &task, "--save", "body"]);
    several.must_be("quarantine-save-several.txt");
    let save = ["es-writer", "1", "--rows", "0", "--save", "body"];
    assert_eq!(quarantine.show(&save).code, Some(0));
    let saved = std::fs::read(quarantine.folder.path().join("body")).unwrap();
    assert_eq!(saved, refused_rows());
    quarantine.show(&save).must_be("quarantine-save-again.txt");
}

/// What would steer a terminal never reaches it, whatever is shown.
#[test]
fn no_answer_holds_a_control_character() {
    let quarantine = Quarantine::new();
    quarantine.fill();
    for more in [
        &["list", "--each"][..],
        &["list", "--each", "--json"],
        &["show", "es-writer", "1"],
        &["show", "es-writer", "4"],
        &["show", "es-writer", "4", "--json"],
        &["show", "es-writer", "2", "--json"],
    ] {
        let answer = quarantine.fleet(&[&["quarantine"], more].concat());
        let steers = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(
            !answer.stdout.is_empty() && !answer.stdout.contains(steers),
            "{more:?}"
        );
    }
}
