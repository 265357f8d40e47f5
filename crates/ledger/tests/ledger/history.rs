//! Ended runs are kept as their records.

use batch::{Decision, Fact, Receipt, RunId, Stage, Started};
use ledger::{Ledger, RecordContent, RunRecord, RunState, RunStatus};

use crate::receipts::*;

fn of_run(end: i64, mut receipt: Receipt) -> Receipt {
    receipt.run = RunId::new("direct", end).unwrap();
    if let Fact::Started(Started { until_ms, .. }) = &mut receipt.fact {
        *until_ms = end;
    }
    receipt
}

fn receipts(end: i64) -> Vec<Receipt> {
    let all = [
        started(&["ch"]),
        manifest(1),
        fetched(1, 1, 1, 10),
        stored("ch", 1, 1, 0, [10, 0, 0]),
    ];
    all.map(|receipt| of_run(end, receipt)).into()
}

#[test]
fn an_ended_run_is_known_by_its_record_alone_and_late_receipts_change_nothing() {
    let run = RunId::new("direct", 10).unwrap();
    let mut ledger = Ledger::new();
    let all = receipts(10);
    for (offset, receipt) in (5..).zip(&all[..3]) {
        ledger.apply_at(offset, receipt);
    }
    assert_eq!(ledger.finish(&run), None, "it has not ended");
    ledger.apply_at(8, &all[3]);
    let before = ledger.progress(&run).unwrap().into_owned();
    let record = ledger.finish(&run).unwrap();
    assert_eq!((record.first_offset, record.revision), (5, 1));
    assert!(ledger.run(&run).is_none());
    ledger.apply_at(10, &all[3]);
    ledger.apply_at(11, &of_run(10, given_up(2)));
    assert_eq!(*ledger.progress(&run).unwrap(), before);
    assert_eq!(before.status, RunStatus::Complete);
}

#[test]
fn records_read_back_and_say_from_where_the_ledger_still_has_to_be_read() {
    let mut ledger = Ledger::new();
    assert_eq!(ledger.resume_offset(), None);
    for (offset, receipt) in (0..).zip(receipts(10)) {
        ledger.apply_at(offset, &receipt);
    }
    // Another run began among the receipts of the first.
    ledger.apply_at(4, &of_run(20, started(&["ch"])));
    let run = RunId::new("direct", 10).unwrap();
    let record = ledger.finish(&run).unwrap();
    let mut opened = Ledger::new();
    opened.take_record(RunRecord::from_message(&record.to_message()).unwrap());
    assert_eq!(opened.resume_offset(), Some(4));
    assert_eq!(opened.ended("direct").len(), 1);
    assert!(opened.knows(&run));
}

#[test]
fn a_decision_after_the_record_opens_the_run_again_and_one_before_it_does_not() {
    let run = RunId::new("direct", 10).unwrap();
    let mut ledger = Ledger::new();
    let all = receipts(10);
    for (offset, receipt) in (3..).zip(&all) {
        ledger.apply_at(offset, receipt);
    }
    let first = ledger.finish(&run).unwrap();
    let decision = of_run(10, operator_decided(9, Stage::Fetch, Decision::Passed));
    ledger.apply_at(6, &decision);
    ledger.apply_at(8, &all[3]);
    assert!(ledger.take_reopened().is_empty());
    ledger.apply_at(8, &decision);
    assert!(ledger.take_reopened().contains_key(&run));
    assert!(ledger.take_reopened().is_empty());
    let mut state = RunState::new(run.clone());
    all.iter().chain([&decision]).for_each(|r| state.apply(r));
    let reopened = ledger.reopen(state).unwrap();
    assert_eq!(reopened.content, RecordContent::Reopened);
    assert!(ledger.run(&run).is_some());
    let mut opened = Ledger::new();
    // In whatever order the records are read.
    opened.take_record(reopened);
    opened.take_record(first);
    assert!(opened.record(&run).is_none());
    let again = ledger.finish(&run).unwrap();
    opened.take_record(again);
    assert!(opened.record(&run).is_some());
}

#[test]
fn a_reopened_run_is_read_from_its_first_receipt() {
    let mut ledger = Ledger::new();
    let record = |n: i64, revision, first_offset, content| {
        let run = RunId::new("direct", n).unwrap();
        RunRecord::new(&run, revision, first_offset, content)
    };
    let mut finished = Ledger::new();
    for (offset, receipt) in (896..).zip(receipts(1)) {
        finished.apply_at(offset, &receipt);
    }
    let run = RunId::new("direct", 1).unwrap();
    ledger.take_record(finished.finish(&run).unwrap());
    assert_eq!(ledger.resume_offset(), Some(900));
    ledger.take_record(record(2, 2, 300, RecordContent::Reopened));
    assert_eq!(ledger.resume_offset(), Some(300));
}
