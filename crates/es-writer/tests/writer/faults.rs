//! Answers that a real Elasticsearch gives too rarely to wait for.

use crate::common::{Writer, batch, row};
use crate::fake::{Answer, Fake, items, stored};
use batch::{Invalid, Reason, header};
use es_writer::EsWriterSettings;
use pipeline::{LoopOptions, Outcome, PauseSettings};

const PAGE: &str = "<html><body>Bad Gateway</body></html>";

/// The shortest pauses, and few of them.
fn hasty() -> EsWriterSettings {
    EsWriterSettings {
        resend_first_ms: 1,
        resend_longest_ms: 2,
        resend_tries: 3,
        pause: PauseSettings {
            poll_seconds: 1,
            ..PauseSettings::default()
        },
        ..EsWriterSettings::default()
    }
}

fn writer(fake: &Fake) -> Writer {
    Writer::new(&fake.url, "all", "lite", &hasty())
}

#[tokio::test]
async fn only_the_documents_that_there_was_no_room_for_are_sent_again() {
    let busy = |before: usize| match before {
        0 => items([
            ("us/b", (429, "es_rejected_execution_exception")),
            ("us/c", (503, "unavailable_shards_exception")),
        ]),
        1 => items([("us/c", (429, "es_rejected_execution_exception"))]),
        _ => stored(),
    };
    let fake = Fake::new(&[], move |request, before| match request.index.as_str() {
        "all" => busy(before),
        _ => stored(),
    })
    .await;
    let writer = writer(&fake);
    let rows = [row("a", 1, 1), row("b", 1, 1), row("c", 1, 1)];
    let written = writer.write_one(batch(&rows)).await;
    assert_eq!(written.counts().0, [3, 0, 0, 0]);
    let sent: Vec<_> = fake
        .requests("all")
        .iter()
        .map(|ids| ids.join(" "))
        .collect();
    assert_eq!(sent, ["us/a us/b us/c", "us/b us/c", "us/c"]);
    assert_eq!(writer.app.stats.counter("resent-rows", &[]), 3);
    assert_eq!(writer.app.stats.counter("rows", &[("status", "stored")]), 3);
}

#[tokio::test]
async fn a_batch_that_there_is_never_room_for_comes_again_and_the_others_are_done() {
    let fake = Fake::new(&[], |_, _| {
        items([("us/b", (429, "es_rejected_execution_exception"))])
    })
    .await;
    let written = writer(&fake)
        .write(vec![batch(&[row("a", 1, 1)]), batch(&[row("b", 1, 1)])])
        .await;
    assert_eq!(written[0].counts().0, [1, 0, 0, 0]);
    let Outcome::Retry { error, at } = &written[1].outcome else {
        panic!("{:?}", written[1].outcome);
    };
    assert!(error.contains("429") && at == "index all", "{error} {at}");
    assert!(written[1].sent.to("receipts").is_empty());
    // Once, and then `resend_tries` times.
    assert_eq!(fake.requests("all").len(), 1 + 3);
}

#[tokio::test]
async fn refused_rows_of_a_batch_that_comes_again_are_not_quarantined_yet() {
    let fake = Fake::new(&[], |_, _| {
        items([
            ("us/a", (400, "document_parsing_exception")),
            ("us/b", (429, "es_rejected_execution_exception")),
        ])
    })
    .await;
    let written = writer(&fake)
        .write_one(batch(&[row("a", 1, 1), row("b", 1, 1)]))
        .await;
    assert!(matches!(written.outcome, Outcome::Retry { .. }));
    assert!(written.quarantined().is_none());
}

#[tokio::test]
async fn a_row_is_quarantined_if_a_follower_refuses_it() {
    let fake = Fake::new(&["all-follower-eu"], |request, _| {
        match request.index.as_str() {
            "all-follower-eu" => items([("us/a", (400, "document_parsing_exception"))]),
            _ => stored(),
        }
    })
    .await;
    let written = writer(&fake)
        .write_one(batch(&[row("a", 1, 1), row("b", 1, 1)]))
        .await;
    assert_eq!(written.counts().0, [1, 0, 0, 1]);
    let (_, refused) = written.quarantined().unwrap();
    let why = "all-follower-eu: us/a is not taken (document_parsing_exception, status 400)";
    assert_eq!(refused, [(b"a".to_vec(), why.to_owned())]);
}

#[tokio::test]
async fn a_follower_that_is_gone_costs_no_attempt_and_no_quarantine() {
    let fake = Fake::new(&["all-follower-eu"], |request, _| {
        match request.index.as_str() {
            "all-follower-eu" => items([("us/a", (404, "index_not_found_exception"))]),
            _ => stored(),
        }
    })
    .await;
    let written = writer(&fake).write_one(batch(&[row("a", 1, 1)])).await;
    let Outcome::Snooze { why, .. } = &written.outcome else {
        panic!("{:?}", written.outcome);
    };
    assert!(why.contains("all-follower-eu"), "{why}");
}

#[tokio::test]
async fn a_request_that_is_too_large_is_halved_until_it_is_not() {
    let fake = Fake::new(&[], |request, _| match request.ids.len() {
        0..=2 => stored(),
        _ => Answer::Whole(413, r#"{"error": "too large"}"#),
    })
    .await;
    let rows: Vec<_> = ["a", "b", "c", "d", "e"]
        .iter()
        .map(|k| row(k, 1, 1))
        .collect();
    let written = writer(&fake).write_one(batch(&rows)).await;
    assert_eq!(written.counts().0, [5, 0, 0, 0]);
    let sizes: Vec<_> = fake.requests("all").iter().map(Vec::len).collect();
    // The other three are more bytes than half of what was too large: they are divided at once.
    assert_eq!(sizes, [5, 2, 1, 2]);
}

#[tokio::test]
async fn a_document_that_alone_is_too_large_is_refused() {
    let fake = Fake::new(&[], |request, _| {
        if request.ids.iter().any(|id| id == "us/b") {
            Answer::Whole(413, r#"{"error": "too large"}"#)
        } else {
            stored()
        }
    })
    .await;
    let written = writer(&fake)
        .write_one(batch(&[row("a", 1, 1), row("b", 1, 1), row("c", 1, 1)]))
        .await;
    assert_eq!(written.counts().0, [2, 0, 0, 1]);
    let (_, refused) = written.quarantined().unwrap();
    assert!(
        refused[0].0 == b"b" && refused[0].1.contains("too large"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_page_of_a_proxy_is_tried_again() {
    let fake = Fake::new(&[], |_, before| match before {
        0 => Answer::Whole(200, PAGE),
        1 => Answer::Whole(502, PAGE),
        _ => stored(),
    })
    .await;
    let written = writer(&fake).write_one(batch(&[row("a", 1, 1)])).await;
    assert_eq!(written.counts().0, [1, 0, 0, 0]);
}

#[tokio::test]
async fn pages_without_end_are_retried_and_at_last_quarantined_for_what_they_are() {
    let fake = Fake::new(&[], |_, _| Answer::Whole(200, PAGE)).await;
    let writer = writer(&fake);
    let mut message = batch(&[row("a", 1, 1)]);
    let Outcome::Retry { error, .. } = writer.write_one(message.clone()).await.outcome else {
        panic!("not retried");
    };
    assert!(
        error.starts_with("unexpected-answer: ") && error.contains("Bad Gateway"),
        "{error}"
    );
    let all = LoopOptions::default().max_retries;
    message.headers.set(header::FAILURES, i64::from(all));
    let outcome = writer.write_one(message).await.outcome;
    let Outcome::Quarantine(Invalid { reason, detail }) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(reason, Reason::UnexpectedAnswer);
    assert!(detail.contains("Bad Gateway"), "{detail}");
}

#[tokio::test]
async fn an_answer_for_other_documents_than_were_sent_is_no_answer() {
    let fake = Fake::new(&[], |_, before| match before {
        0 => Answer::Whole(200, r#"{"items": [{"index": {"status": 201}}]}"#),
        _ => stored(),
    })
    .await;
    let written = writer(&fake)
        .write_one(batch(&[row("a", 1, 1), row("b", 1, 1)]))
        .await;
    assert_eq!(written.counts().0, [2, 0, 0, 0]);
    assert_eq!(fake.requests("all"), [["us/a", "us/b"], ["us/a", "us/b"]]);
}

#[tokio::test]
async fn refused_credentials_pause_the_writer() {
    let fake = Fake::new(&[], |_, before| match before {
        0 => Answer::Whole(
            401,
            r#"{"error": {"type": "security_exception", "reason": "who are you?"}}"#,
        ),
        _ => stored(),
    })
    .await;
    let writer = writer(&fake);
    let (written, ()) = tokio::join!(writer.write_one(batch(&[row("a", 1, 1)])), async {
        while writer.app.health.failures().is_empty() {
            tokio::task::yield_now().await;
        }
        let failures = writer.app.health.failures();
        assert!(
            failures["elasticsearch"].contains("who are you?"),
            "{failures:?}"
        );
    });
    assert_eq!(written.counts().0, [1, 0, 0, 0]);
    assert!(writer.app.health.failures().is_empty());
}

#[tokio::test]
async fn a_user_without_the_right_to_write_pauses_the_index_and_refuses_no_row() {
    let fake = Fake::new(&[], |_, before| match before {
        0 => items([("us/a", (403, "security_exception"))]),
        _ => stored(),
    })
    .await;
    let written = writer(&fake)
        .write_one(batch(&[row("a", 1, 1), row("b", 1, 1)]))
        .await;
    assert_eq!(written.counts().0, [2, 0, 0, 0]);
    assert!(written.quarantined().is_none());
    assert_eq!(fake.requests("all")[1], ["us/a"]);
}

#[tokio::test]
async fn a_store_that_cannot_be_reached_is_a_failure_of_the_batch() {
    let writer = Writer::new("http://127.0.0.1:1", "all", "lite", &hasty());
    let written = writer.write_one(batch(&[row("a", 1, 1)])).await;
    let Outcome::Retry { error, at } = &written.outcome else {
        panic!("{:?}", written.outcome);
    };
    assert!(
        error.contains("127.0.0.1:1") && at == "index all",
        "{error} {at}"
    );
}

#[tokio::test]
async fn no_more_bulks_are_in_flight_than_allowed() {
    let fake = Fake::new(&["all-follower-a", "all-follower-b"], |_, _| stored()).await;
    let settings = EsWriterSettings {
        options: LoopOptions::sized(10, 2),
        bulk_rows: 1,
        ..hasty()
    };
    let writer = Writer::new(&fake.url, "all", "lite", &settings);
    let rows = [row("a", 10, 1), row("b", 10, 1), row("c", 10, 1)];
    writer.write_one(batch(&rows)).await.counts();
    assert_eq!(fake.requests("all-follower-b").len(), 3);
    assert_eq!(fake.most_in_flight(), 2);
}
