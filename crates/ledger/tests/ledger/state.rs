//! What a run's state is.

use std::collections::BTreeMap;

use batch::{Fact, Reason, Receipt, RunId, RunMode, Started};
use ledger::{Ledger, ProblemKind, Progress, RunState, RunStatus, TaskProblem};

use crate::receipts::*;

#[test]
fn a_run_is_complete_only_when_every_store_has_accounted_for_every_row() {
    let mut state = RunState::new(run_id());
    let mut expect = |receipt: Receipt, wanted: RunStatus| {
        state.apply(&receipt);
        assert_eq!(state.status(), wanted, "after {receipt:?}");
    };
    expect(started(&["ch", "es"]), RunStatus::Planning);
    expect(fetched(1, 1, 2, 15), RunStatus::Planning);
    expect(manifest(2), RunStatus::Running);
    expect(stored("ch", 1, 1, 0, [10, 0, 0]), RunStatus::Running);
    expect(stored("ch", 1, 1, 1, [5, 0, 0]), RunStatus::Running);
    expect(stored("es", 1, 1, 1, [0, 5, 0]), RunStatus::Running);
    expect(stored("es", 1, 1, 0, [10, 0, 0]), RunStatus::Running);
    expect(fetched(2, 1, 0, 0), RunStatus::Complete);
}

#[test]
fn a_run_without_tasks_is_complete_with_its_manifest() {
    assert_eq!(
        fold(&[started(&["ch"]), manifest(0)]).status(),
        RunStatus::Complete
    );
}

#[test]
fn a_manifest_alone_proves_nothing_without_the_stores_that_must_answer() {
    let state = fold(&[manifest(1), fetched(1, 1, 1, 5)]);
    assert!(!state.is_complete());
    assert_eq!(state.status(), RunStatus::Running);
}

#[test]
fn answers_to_batches_of_an_unknown_task_keep_no_run_open() {
    let mut state = fold(&[
        started(&["ch"]),
        manifest(1),
        stored("ch", 9, 1, 0, [4, 0, 0]),
    ]);
    assert_eq!(state.status(), RunStatus::Running);
    state.apply(&fetched(1, 1, 1, 10));
    state.apply(&stored("ch", 1, 1, 0, [10, 0, 0]));
    assert_eq!(state.status(), RunStatus::Complete);
    assert_eq!(Progress::new(&state).stores[0].rows.stored, 10);
}

#[test]
fn as_many_rows_as_were_read_are_not_enough_while_a_batch_is_missing() {
    let receipts = [
        started(&["ch"]),
        manifest(1),
        fetched(1, 1, 2, 10),
        stored("ch", 1, 1, 0, [10, 0, 0]),
    ];
    assert_eq!(fold(&receipts).status(), RunStatus::Running);
}

#[test]
fn the_first_success_of_a_task_wins_and_erases_its_failures() {
    let state = fold(&[
        started(&["ch"]),
        manifest(1),
        failed(1, 1),
        failed(1, 2),
        failed(1, 2),
        fetched(1, 3, 1, 10),
    ]);
    let progress = Progress::new(&state);
    assert_eq!((progress.tasks_failed, progress.tasks_fetched), (0, 1));
    assert_eq!(state.problems(), []);
}

#[test]
fn repeated_failures_of_a_task_count_once_and_the_latest_is_told() {
    let state = fold(&[failed(1, 2), failed(1, 1), failed(1, 2)]);
    assert_eq!(Progress::new(&state).tasks_failed, 1);
    let error = "attempt 2 timed out".to_owned();
    let problem = ProblemKind::Failed { attempt: 2, error };
    assert_eq!(
        state.problems(),
        [TaskProblem {
            task: task(1),
            problem
        }]
    );
}

#[test]
fn batches_of_attempts_that_do_not_count_enter_no_sum() {
    let state = fold(&[
        stored("ch", 1, 2, 0, [9, 0, 0]),
        stored("ch", 1, 1, 0, [8, 0, 0]),
        fetched(1, 2, 2, 9),
        fetched(1, 1, 1, 8),
        stored("ch", 1, 3, 0, [6, 0, 0]),
    ]);
    let progress = Progress::new(&state);
    assert_eq!(progress.rows_fetched, 8);
    assert_eq!(progress.stores[0].rows.stored, 8);
}

#[test]
fn a_batch_that_was_lost_after_its_attempts_success_is_made_up_for_by_the_next_attempt() {
    let mut state = fold(&[
        started(&["ch", "es"]),
        manifest(1),
        fetched(1, 1, 2, 20),
        stored("ch", 1, 1, 0, [10, 0, 0]),
        stored("ch", 1, 1, 1, [10, 0, 0]),
        stored("es", 1, 1, 1, [10, 0, 0]),
        fetched(1, 2, 2, 20),
        stored("es", 1, 2, 0, [10, 0, 0]),
    ]);
    assert_eq!(state.status(), RunStatus::Running);
    state.apply(&stored("es", 1, 2, 1, [0, 10, 0]));
    assert_eq!(state.status(), RunStatus::Complete);
    let es = &Progress::new(&state).stores[1];
    assert_eq!((es.rows.stored, es.rows.unchanged, es.batches), (10, 10, 2));
    // Should the lost batch turn up after all, the first attempt counts again.
    state.apply(&stored("es", 1, 1, 0, [10, 0, 0]));
    assert_eq!(Progress::new(&state).stores[1].rows.stored, 20);
    assert_eq!(state.status(), RunStatus::Complete);
}

#[test]
fn a_redelivered_batch_counts_once_and_stays_stored() {
    let state = fold(&[
        fetched(1, 1, 1, 10),
        stored("ch", 1, 1, 0, [0, 10, 0]),
        stored("ch", 1, 1, 0, [10, 0, 0]),
        stored("ch", 1, 1, 0, [0, 10, 0]),
    ]);
    let store = &Progress::new(&state).stores[0];
    assert_eq!((store.rows.stored, store.rows.unchanged), (10, 0));
    assert_eq!((store.batches, store.rows_accounted), (1, 10));
}

#[test]
fn rows_that_were_repaired_leave_quarantine() {
    let state = fold(&[
        started(&["ch"]),
        manifest(1),
        fetched(1, 1, 1, 10),
        stored("ch", 1, 1, 0, [9, 0, 1]),
    ]);
    assert_eq!(state.status(), RunStatus::CompleteWithQuarantine);
    assert_eq!(
        Progress::new(&state).stores[0].reasons,
        BTreeMap::from([(Reason::RefusedRows, 1)])
    );
    let mut state = state;
    state.apply(&stored("ch", 1, 1, 0, [1, 9, 0]));
    assert_eq!(state.status(), RunStatus::Complete);
    assert_eq!(Progress::new(&state).stores[0].reasons, BTreeMap::new());
}

#[test]
fn a_task_in_quarantine_counts_as_ended_until_it_is_replayed() {
    let mut state = fold(&[started(&["ch"]), manifest(1), failed(1, 1), given_up(1)]);
    assert_eq!(state.status(), RunStatus::CompleteWithQuarantine);
    assert_eq!(Progress::new(&state).tasks_failed, 0);
    assert!(matches!(
        state.problems()[0].problem,
        ProblemKind::Quarantined { .. }
    ));
    state.apply(&fetched(1, 2, 1, 3));
    assert_eq!(state.status(), RunStatus::Running);
    state.apply(&stored("ch", 1, 2, 0, [3, 0, 0]));
    assert_eq!(state.status(), RunStatus::Complete);
    assert_eq!(state.problems(), []);
}

#[test]
fn an_abandoned_run_does_not_block_the_next() {
    let mut ledger = Ledger::new();
    ledger.apply(&started(&["ch"]));
    assert_eq!(ledger.unfinished("direct").count(), 1);
    assert_eq!(ledger.unfinished("other").count(), 0);
    let (who, why) = ("ada".to_owned(), "wrong table".to_owned());
    ledger.apply(&receipt(Fact::Abandoned { who, why }));
    assert_eq!(ledger.unfinished("direct").count(), 0);
    let run = ledger.run(&run_id()).unwrap();
    let abandoned = run.abandoned().unwrap();
    assert_eq!((&*abandoned.who, &*abandoned.why), ("ada", "wrong table"));
}

#[test]
fn ended_runs_are_told_latest_first_with_what_they_left_out() {
    let mut ledger = Ledger::new();
    for (until_ms, partial, tasks) in [
        (10, false, 0),
        (20, false, 0),
        (30, true, 0),
        (40, false, 1),
    ] {
        let run = RunId::new("direct", until_ms).unwrap();
        let mut publish = |fact| {
            ledger.apply(&Receipt {
                run: run.clone(),
                at_ms: until_ms,
                fact,
            });
        };
        publish(Fact::Started(Started {
            pipeline: "direct".into(),
            mode: RunMode::Full,
            until_ms,
            shards: 1,
            stores: vec![],
            partial,
            source: String::new(),
            nonce: String::new(),
            differences: Vec::new(),
            run_plan: None,
        }));
        publish(Fact::Manifest {
            tasks,
            estimated_rows: 0,
        });
    }
    let ended = ledger.ended("direct");
    let ends = ended
        .iter()
        .map(|run| run.started.as_ref().unwrap().until_ms);
    assert_eq!(ends.collect::<Vec<_>>(), [30, 20, 10]);
    let mut well = ended.iter().filter(|run| run.gap.is_none());
    let last = well.next().unwrap().started.as_ref().unwrap();
    assert_eq!(last.until_ms, 20);
    assert!(ledger.ended("other").is_empty());
}

#[test]
fn a_run_with_tasks_given_up_leaves_rows_out_until_they_are_fetched() {
    let mut state = fold(&[started(&["ch"]), manifest(1), given_up(1)]);
    assert!(state.is_complete());
    let why = Progress::new(&state).gap.unwrap();
    assert!(why.contains("not fetched: 1"), "{why}");
    state.apply(&fetched(1, 2, 1, 3));
    state.apply(&stored("ch", 1, 2, 0, [3, 0, 0]));
    assert_eq!(Progress::new(&state).gap, None);
}

#[test]
fn rows_in_quarantine_are_left_out_unless_the_store_refused_them() {
    let with = |reason| {
        let answer = stored_but(stored("ch", 1, 1, 0, [8, 0, 2]), reason);
        let state = fold(&[started(&["ch"]), manifest(1), fetched(1, 1, 1, 10), answer]);
        assert_eq!(state.status(), RunStatus::CompleteWithQuarantine);
        Progress::new(&state).gap
    };
    assert_eq!(with(Reason::RefusedRows), None);
    for reason in [Reason::TooManyRetries, Reason::MissingTarget] {
        let why = with(reason).unwrap();
        assert!(why.contains("ch did not refuse: 2"), "{why}");
    }
}

#[test]
fn a_run_announced_by_two_queuers_with_unlike_plans_is_taken_to_leave_rows_out() {
    let mut state = fold(&[started(&["ch"]), manifest(0)]);
    let mut again = started(&["ch"]);
    again.at_ms += 1;
    state.apply(&again);
    assert_eq!(Progress::new(&state).gap, None);
    if let Fact::Started(Started { source, .. }) = &mut again.fact {
        "other columns".clone_into(source);
    }
    state.apply(&again);
    assert!(Progress::new(&state).gap.unwrap().contains("two queuers"));
}

#[test]
fn what_a_run_left_out_is_said_of_each_of_its_stores() {
    let mut ledger = Ledger::new();
    for (until_ms, is_given_up) in [(10, false), (20, true)] {
        let last = if is_given_up {
            given_up(1)
        } else {
            fetched(1, 1, 0, 0)
        };
        for mut receipt in [started(&["ch"]), manifest(1), last] {
            receipt.run = RunId::new("direct", until_ms).unwrap();
            if let Fact::Started(Started { until_ms: end, .. }) = &mut receipt.fact {
                *end = until_ms;
            }
            ledger.apply(&receipt);
        }
    }
    let ended = ledger.ended("direct");
    let left = ended.iter().map(|run| {
        let ch = &run.stores[0];
        (ch.complete, ch.gap.is_some())
    });
    assert_eq!(left.collect::<Vec<_>>(), [(true, true), (true, false)]);
}

#[test]
fn what_is_no_receipt_is_refused_by_name_and_the_rest_is_folded() {
    let mut broken = started(&["ch"]).to_message();
    broken.body = broken.body.slice(..10);
    let mut ledger = Ledger::new();
    let mut refused = Vec::new();
    for message in [broken, manifest(3).to_message()] {
        match Receipt::from_message(&message) {
            Ok(receipt) => ledger.apply(&receipt),
            Err(invalid) => refused.push(invalid),
        }
    }
    assert_eq!(refused[0].reason, Reason::NotReadable);
    assert_eq!(ledger.runs().count(), 1);
}

#[test]
fn absurd_numbers_do_no_harm() {
    let max = u64::MAX;
    let state = fold(&[
        started(&["ch"]),
        manifest(max),
        fetched(1, u32::MAX, u32::MAX, max),
        fetched(2, 1, 1, max),
        stored("ch", 2, 1, u32::MAX, [max, max, max]),
        stored("ch", 1, u32::MAX, 0, [max, max, max]),
    ]);
    assert_eq!(state.status(), RunStatus::Running);
    assert!(Progress::new(&state).summary().contains("running"));
}
