//! What is read of the ledger, and what the records of ended runs cover.

use std::time::Duration;

use batch::{Fact, Message, Receipt, RunId, RunMode, Started};
use ledger::{Ledger, RunRecord};

use super::fixture::{Fixture, numbered};
use crate::broker::{StreamConsumer, StreamMessage};
use crate::{history, names};

fn run(end: i64) -> RunId {
    RunId::new("direct", end).unwrap()
}

/// All receipts of a run that is given up.
fn receipts(end: i64) -> [Receipt; 2] {
    let started = Fact::Started(Started {
        pipeline: "direct".into(),
        mode: RunMode::Full,
        until_ms: end,
        shards: 1,
        stores: vec!["store".into()],
        partial: false,
        source: String::new(),
        nonce: String::new(),
        differences: Vec::new(),
        run_plan: None,
    });
    let abandoned = Fact::Abandoned {
        who: "operator".into(),
        why: "test".into(),
    };
    [started, abandoned].map(|fact| Receipt {
        run: run(end),
        at_ms: end,
        fact,
    })
}

/// The record of a run whose receipts are the first of the ledger.
fn record(end: i64) -> RunRecord {
    let mut ledger = Ledger::new();
    for (offset, receipt) in (0..).zip(receipts(end)) {
        ledger.apply_at(offset, &receipt);
    }
    ledger.finish(&run(end)).unwrap()
}

fn messages(receipts: impl IntoIterator<Item = Receipt>) -> Vec<Message> {
    receipts.into_iter().map(|r| r.to_message()).collect()
}

/// The state of the ledger, and the runs of the receipts that were read.
async fn read(fixture: &Fixture) -> (Ledger, Vec<RunId>) {
    let mut seen = Vec::new();
    let ledger = history::read(&fixture.broker, |receipt| seen.push(receipt.run.clone()));
    (ledger.await.unwrap(), seen)
}

async fn without_records_every_receipt_is_read(fixture: Fixture) {
    fixture.add_stream(names::LEDGER);
    fixture.publish(names::LEDGER, messages(receipts(10))).await;
    let (ledger, seen) = read(&fixture).await;
    assert_eq!(seen, [run(10), run(10)]);
    assert!(ledger.run(&run(10)).is_some());
    // The same when the stream is there and empty.
    fixture.add_stream(names::RUNS);
    assert_eq!(read(&fixture).await.1, [run(10), run(10)]);
}

async fn receipts_that_a_record_covers_are_not_read(fixture: Fixture) {
    fixture.add_stream(names::LEDGER);
    fixture.add_stream(names::RUNS);
    fixture.publish(names::LEDGER, messages(receipts(10))).await;
    fixture.publish(names::LEDGER, messages(receipts(20))).await;
    fixture
        .publish(names::RUNS, [record(10).to_message()])
        .await;
    let (ledger, seen) = read(&fixture).await;
    assert_eq!(seen, [run(20), run(20)]);
    assert!(ledger.record(&run(10)).is_some() && ledger.run(&run(10)).is_none());
    assert!(ledger.run(&run(20)).is_some());
    let (ledger, _) = history::follow(&fixture.broker).await.unwrap();
    assert!(ledger.record(&run(10)).is_some() && ledger.run(&run(20)).is_some());
}

async fn next(consumer: &mut StreamConsumer) -> (u64, Receipt) {
    let added = tokio::time::timeout(Duration::from_secs(30), consumer.next()).await;
    let StreamMessage { offset, message } = added.expect("it comes").unwrap();
    (offset, Receipt::from_message(&message).unwrap())
}

async fn a_consumer_gets_what_is_added_with_offsets_that_continue(fixture: Fixture) {
    fixture.add_stream(names::LEDGER);
    fixture.add_stream(names::RUNS);
    fixture.publish(names::LEDGER, messages(receipts(10))).await;
    fixture
        .publish(names::RUNS, [record(10).to_message()])
        .await;
    let (ledger, mut consumer) = history::follow(&fixture.broker).await.unwrap();
    assert_eq!(ledger.resume_offset(), Some(2));
    fixture.publish(names::LEDGER, messages(receipts(20))).await;
    let (first, receipt) = next(&mut consumer).await;
    assert_eq!(receipt, receipts(20)[0]);
    assert!(first >= 2, "{first}");
    let (second, receipt) = next(&mut consumer).await;
    assert_eq!(receipt, receipts(20)[1]);
    assert_eq!(second, first + 1);
}

async fn what_is_no_receipt_or_record_is_skipped(fixture: Fixture) {
    fixture.add_stream(names::LEDGER);
    fixture.add_stream(names::RUNS);
    for stream in [names::LEDGER, names::RUNS] {
        fixture.publish(stream, [numbered(0)]).await;
    }
    fixture.publish(names::LEDGER, messages(receipts(10))).await;
    let (ledger, seen) = read(&fixture).await;
    assert_eq!(seen, [run(10), run(10)]);
    assert!(ledger.run(&run(10)).is_some());
    assert_eq!(ledger.resume_offset(), None);
}

async fn an_offset_past_the_end_is_of_another_stream_and_reads_this_one_whole(fixture: Fixture) {
    fixture.add_stream(names::LEDGER);
    fixture.publish(names::LEDGER, (0..5).map(numbered)).await;
    let mut found = 0;
    let broker = &fixture.broker;
    let read = broker.read_stream_from(names::LEDGER, 1_000, |_, _| found += 1);
    read.await.unwrap();
    assert_eq!(found, 5);
    let consumer = broker.follow_stream(names::LEDGER, 1_000, |_, _| found += 1);
    let mut consumer = consumer.await.unwrap();
    assert_eq!(found, 10);
    fixture.publish(names::LEDGER, [numbered(5)]).await;
    let added = tokio::time::timeout(Duration::from_secs(30), consumer.next()).await;
    let added = added.expect("it comes").unwrap();
    assert_eq!(added.message, numbered(5));
}

async fn a_stream_is_read_from_an_offset_on(fixture: Fixture) {
    fixture.add_stream(names::LEDGER);
    fixture.publish(names::LEDGER, (0..20).map(numbered)).await;
    for from in [0, 1, 7, 19] {
        let mut found = Vec::new();
        let broker = &fixture.broker;
        let read = broker.read_stream_from(names::LEDGER, from, |offset, message| {
            found.push((offset, message));
        });
        read.await.unwrap();
        let wanted: Vec<_> = (from..20).map(|n| (n, numbered(n as usize))).collect();
        assert_eq!(found, wanted, "from {from}");
        let mut followed = Vec::new();
        let consumer = broker.follow_stream(names::LEDGER, from, |offset, message| {
            followed.push((offset, message));
        });
        consumer.await.unwrap();
        assert_eq!(followed, wanted, "from {from}");
    }
}

on_every_broker!(
    a_stream_is_read_from_an_offset_on,
    an_offset_past_the_end_is_of_another_stream_and_reads_this_one_whole,
    without_records_every_receipt_is_read,
    receipts_that_a_record_covers_are_not_read,
    a_consumer_gets_what_is_added_with_offsets_that_continue,
    what_is_no_receipt_or_record_is_skipped,
);
