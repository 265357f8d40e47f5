//! When a stage closes, and when it is rejected.

use std::collections::BTreeMap;

use batch::{Decision, Fact, Receipt, RunMode, Stage, Started};
use ledger::{GateRules, Progress, RunState, RunStatus, StageStatus, evaluate_gates};

use crate::receipts::*;

pub fn rules() -> GateRules {
    GateRules {
        max_failed_task_ratio: 0.1,
        max_rejected_row_ratio: 0.01,
        deadline_ms: 60_000,
        orders_deadline_ms: 60_000,
        serp_deadline_ms: 600_000,
        pass_without_changes: false,
        overrides: BTreeMap::new(),
    }
}

const SOON: i64 = 2_000;
const AFTER_THE_DEADLINE: i64 = 61_001;

fn ch() -> Stage {
    Stage::Store("ch".into())
}

fn es() -> Stage {
    Stage::Store("es".into())
}

/// Publishes what is due, as the persister does, until nothing is.
fn evaluate(state: &mut RunState, now_ms: i64) {
    loop {
        let due = evaluate_gates(state, &rules(), now_ms);
        for gate_decision in &due {
            let operator_decisions = state.operator_decisions();
            let mut receipt = gate_decided(
                gate_decision.stage.clone(),
                gate_decision.decision,
                operator_decisions,
            );
            receipt.at_ms = now_ms;
            if let Fact::GateDecided { why, .. } = &mut receipt.fact {
                why.clone_from(&gate_decision.why);
            }
            state.apply(&receipt);
        }
        if due.is_empty() {
            return;
        }
    }
}

/// A run of `planned` tasks for stores that answer nothing, of which `fetched` were read and `given_up` were not.
fn fetching(planned: u8, fetched_tasks: u8, given_up_tasks: u8) -> RunState {
    let mut state = fold(&[gated_run(&["es"]), manifest(planned.into())]);
    (0..fetched_tasks).for_each(|n| state.apply(&fetched(n, 1, 1, 100)));
    (fetched_tasks..fetched_tasks + given_up_tasks).for_each(|n| state.apply(&given_up(n)));
    state
}

fn decision(state: &mut RunState, stage: &Stage, now_ms: i64) -> Option<(Decision, String)> {
    evaluate(state, now_ms);
    let outcome = state.outcome(stage)?;
    Some((outcome.decision, outcome.why))
}

fn stage_decision(state: &mut RunState, stage: &Stage) -> Option<Decision> {
    decision(state, stage, SOON).map(|(decision, _)| decision)
}

#[test]
fn nothing_is_decided_before_the_manifest_says_how_many_tasks_there_are() {
    let mut state = fold(&[gated_run(&["es"]), fetched(1, 1, 1, 5)]);
    assert_eq!(evaluate_gates(&state, &rules(), SOON), []);
    state.apply(&manifest(1));
    assert_eq!(
        stage_decision(&mut state, &Stage::Fetch),
        Some(Decision::Passed)
    );
}

#[test]
fn a_run_of_which_a_task_is_still_out_is_not_decided_however_many_are_in() {
    let mut state = fetching(10, 9, 0);
    assert_eq!(stage_decision(&mut state, &Stage::Fetch), None);
    state.apply(&fetched(9, 1, 1, 100));
    assert_eq!(
        stage_decision(&mut state, &Stage::Fetch),
        Some(Decision::Passed)
    );
}

#[test]
fn one_failed_task_of_ten_is_at_the_limit_and_rejects_and_one_of_eleven_is_below_it() {
    let (decision, why) = decision(&mut fetching(10, 9, 1), &Stage::Fetch, SOON).unwrap();
    assert_eq!(decision, Decision::Rejected);
    assert!(why.contains("9 of 10 tasks fetched, 1 given up"), "{why}");
    assert!(why.contains("max_failed_task_ratio 0.1"), "{why}");
    assert_eq!(
        stage_decision(&mut fetching(11, 10, 1), &Stage::Fetch),
        Some(Decision::Passed)
    );
}

#[test]
fn nine_tasks_of_ten_close_a_run_that_may_lose_more_than_one_and_eight_reject_it() {
    let with_rule = |fetched_tasks: u8, given_up_tasks: u8| {
        let mut begun = gated_run(&["es"]);
        if let Fact::Started(Started { run_plan, .. }) = &mut begun.fact {
            let rule = ("max_failed_task_ratio".to_owned(), "0.2".to_owned());
            run_plan.as_mut().unwrap().overrides = BTreeMap::from([rule]);
        }
        let mut state = fold(&[begun, manifest(10)]);
        (0..fetched_tasks).for_each(|n| state.apply(&fetched(n, 1, 1, 100)));
        (fetched_tasks..10)
            .take(given_up_tasks.into())
            .for_each(|n| state.apply(&given_up(n)));
        stage_decision(&mut state, &Stage::Fetch)
    };
    assert_eq!(with_rule(9, 1), Some(Decision::Passed));
    assert_eq!(with_rule(8, 2), Some(Decision::Rejected));
}

#[test]
fn a_task_that_fails_twice_and_succeeds_the_third_time_is_a_success() {
    let mut state = fold(&[gated_run(&["es"]), manifest(1), failed(1, 1), failed(1, 2)]);
    assert_eq!(stage_decision(&mut state, &Stage::Fetch), None);
    state.apply(&fetched(1, 3, 1, 10));
    assert_eq!(
        stage_decision(&mut state, &Stage::Fetch),
        Some(Decision::Passed)
    );
}

#[test]
fn repeated_failures_of_one_task_count_once() {
    let mut state = fetching(20, 19, 0);
    (0..9).for_each(|_| state.apply(&given_up(19)));
    assert_eq!(
        stage_decision(&mut state, &Stage::Fetch),
        Some(Decision::Passed)
    );
}

#[test]
fn too_many_failed_tasks_reject_before_the_last_one_is_in() {
    assert_eq!(
        stage_decision(&mut fetching(10, 2, 1), &Stage::Fetch),
        Some(Decision::Rejected)
    );
}

#[test]
fn an_empty_run_is_rejected() {
    for receipts in [
        vec![gated_run(&["es"]), manifest(0)],
        vec![gated_run(&["es"]), manifest(1), fetched(1, 1, 0, 0)],
    ] {
        let mut state = fold(&receipts);
        let (decision, why) = decision(&mut state, &Stage::Fetch, SOON).unwrap();
        assert_eq!(decision, Decision::Rejected);
        assert!(why.contains("an empty run"), "{why}");
        assert_eq!(state.status(), RunStatus::Rejected);
    }
}

#[test]
fn a_run_of_changes_without_any_closes_where_that_is_allowed_and_orders_nothing() {
    let mut begun = gated_run(&["ch"]);
    if let Fact::Started(Started { mode, .. }) = &mut begun.fact {
        *mode = RunMode::Since { since_ms: 1 };
    }
    let state = fold(&[begun, manifest(1), fetched(1, 1, 0, 0)]);
    assert_eq!(
        evaluate_gates(&state, &rules(), SOON)[1].decision,
        Decision::Rejected
    );
    let allowed = GateRules {
        pass_without_changes: true,
        ..rules()
    };
    let due = evaluate_gates(&state, &allowed, SOON);
    let decisions: Vec<_> = due.iter().map(|d| (d.stage.as_str(), d.decision)).collect();
    assert_eq!(
        decisions,
        [
            ("plan", Decision::Passed),
            ("fetch", Decision::Passed),
            ("ch", Decision::Passed),
            ("sync", Decision::Skipped),
            ("dictionary", Decision::Skipped),
            ("serp", Decision::Skipped),
        ]
    );
}

#[test]
fn a_run_past_its_deadline_is_rejected_with_what_is_missing() {
    let mut state = fetching(10, 9, 0);
    let (decision, why) = decision(&mut state, &Stage::Fetch, AFTER_THE_DEADLINE).unwrap();
    assert_eq!(decision, Decision::Rejected);
    assert!(why.contains("past its deadline: 9 of 10"), "{why}");
    assert_eq!(state.status(), RunStatus::Rejected);
}

#[test]
fn a_run_whose_queuer_died_before_the_manifest_ends_at_its_deadline() {
    let mut state = fold(&[gated_run(&["es"]), fetched(1, 1, 1, 5)]);
    evaluate(&mut state, SOON);
    assert_eq!(state.status(), RunStatus::Planning);
    evaluate(&mut state, AFTER_THE_DEADLINE);
    assert_eq!(state.status(), RunStatus::Rejected);
}

#[test]
fn a_store_closes_only_when_every_row_read_is_stored_unchanged_skipped_or_quarantined() {
    let mut state = fetching(1, 1, 0);
    assert_eq!(stage_decision(&mut state, &es()), None);
    state.apply(&stored("es", 0, 1, 0, [99, 0, 0]));
    assert_eq!(stage_decision(&mut state, &es()), None, "a row is missing");
    state.apply(&stored("es", 0, 1, 0, [60, 40, 0]));
    let (closed, why) = decision(&mut state, &es(), SOON).unwrap();
    assert_eq!(closed, Decision::Passed);
    assert!(
        why.contains("100 rows read = 60 stored + 40 unchanged"),
        "{why}"
    );
    assert_eq!(state.status(), RunStatus::Complete);
}

#[test]
fn rows_that_do_not_add_up_never_close_a_store() {
    let mut state = fetching(1, 1, 0);
    state.apply(&stored("es", 0, 1, 0, [101, 0, 0]));
    assert_eq!(stage_decision(&mut state, &es()), None);
    let (rejected, why) = decision(&mut state, &es(), AFTER_THE_DEADLINE).unwrap();
    assert_eq!(rejected, Decision::Rejected);
    assert!(why.contains("do not add up"), "{why}");
}

#[test]
fn as_many_rejected_rows_as_the_limit_reject_a_store_and_fewer_do_not() {
    let with = |quarantined| {
        let mut state = fold(&[gated_run(&["es"]), manifest(1), fetched(0, 1, 1, 1_000)]);
        state.apply(&stored(
            "es",
            0,
            1,
            0,
            [1_000 - quarantined, 0, quarantined],
        ));
        decision(&mut state, &es(), SOON).unwrap()
    };
    assert_eq!(with(9).0, Decision::Passed);
    let (rejected, why) = with(10);
    assert_eq!(rejected, Decision::Rejected);
    assert!(
        why.contains("max_rejected_row_ratio") && why.contains("refused-rows"),
        "{why}"
    );
}

/// A run of one task that both stores have; the dictionary's two shards are ordered.
fn ordered_run() -> RunState {
    let mut state = fold(&[
        gated_run(&["ch", "es"]),
        manifest(1),
        fetched(0, 1, 1, 100),
        stored("ch", 0, 1, 0, [100, 0, 0]),
        stored("es", 0, 1, 0, [100, 0, 0]),
    ]);
    evaluate(&mut state, SOON);
    assert_eq!(state.shards_to_order(), [0, 1]);
    state.apply(&ordered(&[0, 1]));
    assert_eq!(state.shards_to_order(), [0; 0]);
    state
}

#[test]
fn clickhouse_succeeds_elasticsearch_fails_and_the_dictionary_is_refreshed_all_the_same() {
    let mut state = fold(&[
        gated_run(&["ch", "es"]),
        manifest(1),
        fetched(0, 1, 1, 100),
        stored("es", 0, 1, 0, [50, 0, 50]),
        stored("ch", 0, 1, 0, [100, 0, 0]),
    ]);
    evaluate(&mut state, SOON);
    assert_eq!(state.outcome(&es()).unwrap().decision, Decision::Rejected);
    assert_eq!(state.shards_to_order(), [0, 1]);
    assert_eq!(state.status(), RunStatus::Running);
    for receipt in [
        ordered(&[0, 1]),
        applied(0, &["hotdog000"]),
        applied(1, &[]),
        restarted("hotdog000"),
    ] {
        state.apply(&receipt);
    }
    evaluate(&mut state, SOON);
    assert_eq!(state.status(), RunStatus::Rejected);
    let stores = Progress::new(&state).stores;
    let closed: Vec<_> = stores
        .iter()
        .map(|s| (s.store.as_str(), s.complete))
        .collect();
    assert_eq!(closed, [("ch", true), ("es", false)]);
}

#[test]
fn elasticsearch_succeeds_clickhouse_fails_and_no_dictionary_is_touched() {
    let mut state = fold(&[
        gated_run(&["ch", "es"]),
        manifest(1),
        fetched(0, 1, 1, 100),
        stored("es", 0, 1, 0, [100, 0, 0]),
        stored("ch", 0, 1, 0, [50, 0, 50]),
    ]);
    evaluate(&mut state, SOON);
    assert_eq!(state.shards_to_order(), [0; 0]);
    assert_eq!(state.outcome(&es()).unwrap().decision, Decision::Passed);
    for stage in [Stage::Sync, Stage::Dictionary, Stage::Serp] {
        assert_eq!(state.outcome(&stage).unwrap().decision, Decision::Skipped);
    }
    assert_eq!(state.status(), RunStatus::Rejected);
}

#[test]
fn a_rejected_fetch_touches_neither_dictionary_nor_serp() {
    let mut state = fold(&[
        gated_run(&["ch", "es"]),
        manifest(2),
        fetched(0, 1, 1, 5),
        given_up(1),
    ]);
    evaluate(&mut state, SOON);
    assert_eq!(state.shards_to_order(), [0; 0]);
    let decisions = Progress::new(&state).stages;
    let skipped = decisions
        .iter()
        .filter(|s| s.status == StageStatus::Skipped);
    assert_eq!(skipped.count(), 5);
    assert_eq!(state.status(), RunStatus::Rejected);
}

#[test]
fn a_partial_run_orders_no_dictionary() {
    let mut begun = gated_run(&["ch"]);
    if let Fact::Started(Started { partial, .. }) = &mut begun.fact {
        *partial = true;
    }
    let mut state = fold(&[
        begun,
        manifest(1),
        fetched(0, 1, 1, 10),
        stored("ch", 0, 1, 0, [10, 0, 0]),
    ]);
    evaluate(&mut state, SOON);
    assert_eq!(state.shards_to_order(), [0; 0]);
    assert_eq!(state.status(), RunStatus::Complete);
}

#[test]
fn a_run_is_complete_when_every_node_serves_what_every_shard_has_applied() {
    let mut state = ordered_run();
    let mut expect = |receipt: Receipt, closed: &[Stage]| {
        state.apply(&receipt);
        evaluate(&mut state, SOON);
        for stage in closed {
            assert_eq!(
                state.outcome(stage).map(|r| r.decision),
                Some(Decision::Passed),
                "{stage} after {receipt:?}"
            );
        }
        state.status()
    };
    expect(synced(0), &[]);
    expect(synced(1), &[Stage::Sync]);
    expect(applied(0, &["hotdog000", "hotdog001"]), &[]);
    expect(restarted("hotdog000"), &[]);
    assert_eq!(
        expect(applied(1, &["hotdog002"]), &[Stage::Dictionary]),
        RunStatus::Restarting
    );
    assert_eq!(expect(restarted("hotdog002"), &[]), RunStatus::Restarting);
    assert_eq!(
        expect(restarted("hotdog001"), &[Stage::Serp]),
        RunStatus::Complete
    );
}

#[test]
fn a_late_replica_is_named_with_how_far_it_is_behind_and_its_shard_is_not_refreshed() {
    let mut state = ordered_run();
    for receipt in [
        synced(0),
        applied(0, &["hotdog000"]),
        restarted("hotdog000"),
        late(1, 4_200),
        order_failed(Stage::Sync, "1", false),
    ] {
        state.apply(&receipt);
    }
    evaluate(&mut state, SOON);
    assert_eq!(state.status(), RunStatus::Running);
    let sync = &Progress::new(&state).stages[4];
    assert_eq!(sync.stage, Stage::Sync);
    assert!(
        sync.problems[0].contains("laksa001 is 4200 s behind"),
        "{:?}",
        sync.problems
    );
    let mut given_up = order_failed(Stage::Sync, "1", true);
    given_up.at_ms += 1;
    state.apply(&given_up);
    evaluate(&mut state, SOON);
    assert_eq!(
        state.outcome(&Stage::Sync).unwrap().decision,
        Decision::Rejected
    );
    assert_eq!(
        state.outcome(&Stage::Dictionary).unwrap().decision,
        Decision::Rejected
    );
    // The node of the shard that was refreshed was restarted.
    assert_eq!(
        state.outcome(&Stage::Serp).unwrap().decision,
        Decision::Passed
    );
    assert_eq!(state.status(), RunStatus::Rejected);
}

#[test]
fn a_serp_node_that_does_not_come_back_is_no_longer_only_a_line_in_a_log() {
    let mut state = ordered_run();
    for receipt in [
        applied(0, &["hotdog000"]),
        applied(1, &["hotdog001"]),
        restarted("hotdog000"),
        order_failed(Stage::Serp, "hotdog001", true),
    ] {
        state.apply(&receipt);
    }
    let (rejected, why) = decision(&mut state, &Stage::Serp, SOON).unwrap();
    assert_eq!(rejected, Decision::Rejected);
    assert!(
        why.contains("1 of 2 nodes") && why.contains("hotdog001"),
        "{why}"
    );
}

#[test]
fn orders_without_a_result_end_at_their_deadline() {
    let mut state = ordered_run();
    evaluate(&mut state, AFTER_THE_DEADLINE);
    assert_eq!(
        state.outcome(&Stage::Sync).unwrap().decision,
        Decision::Rejected
    );
    assert_eq!(state.status(), RunStatus::Rejected);
}

#[test]
fn a_decision_is_not_changed_by_what_comes_after_it() {
    let mut state = fetching(10, 9, 0);
    evaluate(&mut state, AFTER_THE_DEADLINE);
    state.apply(&fetched(9, 1, 1, 100));
    assert_eq!(evaluate_gates(&state, &rules(), SOON), []);
    assert_eq!(
        state.outcome(&Stage::Fetch).unwrap().decision,
        Decision::Rejected
    );
}

#[test]
fn an_approval_stands_above_the_gate_and_what_was_skipped_for_it_is_evaluated_again() {
    let mut state = fold(&[
        gated_run(&["ch", "es"]),
        manifest(1),
        fetched(0, 1, 1, 100),
        stored("es", 0, 1, 0, [100, 0, 0]),
        stored("ch", 0, 1, 0, [50, 0, 50]),
    ]);
    evaluate(&mut state, SOON);
    assert_eq!(state.status(), RunStatus::Rejected);
    state.apply(&operator_decided(5_000, ch(), Decision::Passed));
    assert_eq!(state.status(), RunStatus::Running);
    assert_eq!(state.shards_to_order(), [0, 1]);
    let outcome = state.outcome(&ch()).unwrap();
    assert_eq!(
        (outcome.decision, outcome.who.as_deref()),
        (Decision::Passed, Some("ada"))
    );
    // The other store's decision has nothing to do with it.
    assert_eq!(state.outcome(&es()).unwrap().who, None);
    let mut orders = ordered(&[0, 1]);
    orders.at_ms = 6_000;
    if let Fact::Ordered {
        operator_decisions, ..
    } = &mut orders.fact
    {
        *operator_decisions = 1;
    }
    for receipt in [orders, applied(0, &[]), applied(1, &[])] {
        state.apply(&receipt);
    }
    evaluate(&mut state, SOON);
    assert_eq!(state.status(), RunStatus::CompleteWithQuarantine);
}

#[test]
fn a_rejection_by_an_operator_ends_what_builds_on_it() {
    let mut state = fetching(10, 5, 0);
    state.apply(&operator_decided(5_000, Stage::Fetch, Decision::Rejected));
    evaluate(&mut state, SOON);
    assert_eq!(state.outcome(&es()).unwrap().decision, Decision::Skipped);
    assert_eq!(state.status(), RunStatus::Rejected);
}

#[test]
fn a_rule_for_one_stage_alone_stands_above_the_rule_for_all() {
    let overrides = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter().map(|(k, v)| (k.to_string(), v.to_string()));
        pairs.collect::<BTreeMap<_, _>>()
    };
    let both = overrides(&[
        ("max_rejected_row_ratio", "0.5"),
        ("es.max_rejected_row_ratio", "0.25"),
    ]);
    let of = |stage| {
        rules()
            .overridden(&both, &stage)
            .unwrap()
            .max_rejected_row_ratio
    };
    assert_eq!((of(ch()), of(es())), (0.5, 0.25));
    let unknown = overrides(&[("max_faild_tasks", "1")]);
    let error = rules().overridden(&unknown, &es()).unwrap_err();
    assert!(error.contains("max_failed_task_ratio"), "{error}");
    let negative = overrides(&[("max_failed_task_ratio", "-1")]);
    assert!(rules().overridden(&negative, &es()).is_err());
    // Meant as 7 %, it would never reject.
    let percent = overrides(&[("max_rejected_row_ratio", "7")]);
    let error = rules().overridden(&percent, &es()).unwrap_err();
    assert!(error.contains("7 % is 0.07"), "{error}");
}

#[test]
fn a_plan_that_was_approved_without_a_manifest_ends_at_its_next_deadline() {
    let mut state = fold(&[gated_run(&["es"])]);
    evaluate(&mut state, AFTER_THE_DEADLINE);
    state.apply(&operator_decided(
        AFTER_THE_DEADLINE,
        Stage::Plan,
        Decision::Passed,
    ));
    evaluate(&mut state, AFTER_THE_DEADLINE);
    assert!(state.status().is_unfinished());
    evaluate(&mut state, 2 * AFTER_THE_DEADLINE);
    assert_eq!(state.status(), RunStatus::Rejected);
}

#[test]
fn a_store_that_has_another_attempt_than_the_first_adds_up_by_the_rows_of_that_one() {
    // Of the first attempt a batch was lost with the broker; meanwhile a row changed, and belongs to the next run.
    let mut state = fold(&[
        gated_run(&["es"]),
        manifest(1),
        fetched(0, 1, 2, 100),
        fetched(0, 2, 1, 99),
        stored("es", 0, 2, 0, [99, 0, 0]),
    ]);
    assert_eq!(stage_decision(&mut state, &es()), Some(Decision::Passed));
}

#[test]
fn who_ordered_and_died_before_he_could_say_so_is_followed_by_one_who_orders_again() {
    let mut state = fold(&[
        gated_run(&["ch"]),
        manifest(1),
        fetched(0, 1, 1, 100),
        stored("ch", 0, 1, 0, [100, 0, 0]),
        applied(0, &[]),
        applied(1, &[]),
    ]);
    evaluate(&mut state, SOON);
    assert_eq!(state.shards_to_order(), [0, 1]);
    state.apply(&ordered(&[0, 1]));
    evaluate(&mut state, SOON);
    assert_eq!(state.status(), RunStatus::Complete);
}

#[test]
fn an_order_that_is_given_up_before_it_was_said_to_be_out_counts_whatever_the_clocks_say() {
    let mut state = ordered_run();
    for shard in ["0", "1"] {
        let mut stale = order_failed(Stage::Dictionary, shard, true);
        stale.at_ms = -5;
        state.apply(&stale);
    }
    evaluate(&mut state, SOON);
    assert_eq!(state.status(), RunStatus::Rejected);
}

#[test]
fn what_was_given_up_before_a_decision_asked_for_it_again_counts_no_more() {
    let mut state = ordered_run();
    for shard in ["0", "1"] {
        state.apply(&order_failed(Stage::Sync, shard, true));
    }
    evaluate(&mut state, SOON);
    assert_eq!(state.status(), RunStatus::Rejected);
    state.apply(&operator_decided(5_000, Stage::Sync, Decision::Passed));
    evaluate(&mut state, SOON);
    assert_eq!(state.status(), RunStatus::Running);
    assert_eq!(state.shards_to_order(), [0, 1]);
}

#[test]
fn a_stage_that_was_approved_with_rows_missing_says_that_they_are_left_out() {
    let mut state = fold(&[gated_run(&["es"]), manifest(2), fetched(0, 1, 1, 100)]);
    state.apply(&operator_decided(1_500, Stage::Fetch, Decision::Passed));
    state.apply(&stored("es", 0, 1, 0, [100, 0, 0]));
    evaluate(&mut state, SOON);
    assert_eq!(state.status(), RunStatus::Complete);
    let progress = Progress::new(&state);
    assert_eq!(
        progress.stores[0].gap.as_deref(),
        Some("tasks not fetched: 1")
    );
    let mut state = fold(&[gated_run(&["es"]), manifest(1), fetched(0, 1, 2, 100)]);
    state.apply(&stored("es", 0, 1, 0, [50, 0, 0]));
    state.apply(&operator_decided(1_500, es(), Decision::Passed));
    evaluate(&mut state, SOON);
    let left = Progress::new(&state).stores[0].gap.clone().unwrap();
    assert!(left.contains("es has not accounted for"), "{left}");
}

#[test]
fn a_serp_service_that_takes_longer_than_a_cycle_keeps_no_run_from_beginning() {
    let mut state = ordered_run();
    for receipt in [applied(0, &["hotdog000"]), applied(1, &[])] {
        state.apply(&receipt);
    }
    evaluate(&mut state, AFTER_THE_DEADLINE);
    assert_eq!(state.status(), RunStatus::Restarting);
    assert!(!state.status().blocks_the_next() && state.status().is_unfinished());
    evaluate(&mut state, 10 * AFTER_THE_DEADLINE);
    assert_eq!(state.status(), RunStatus::Rejected);
}

#[test]
fn an_order_that_was_given_up_stays_so_whatever_a_host_with_another_clock_says_of_its_tries() {
    let mut state = ordered_run();
    for shard in ["0", "1"] {
        state.apply(&order_failed(Stage::Sync, shard, true));
        let mut fast = order_failed(Stage::Sync, shard, false);
        fast.at_ms += 500_000;
        state.apply(&fast);
    }
    evaluate(&mut state, SOON);
    assert_eq!(state.status(), RunStatus::Rejected);
}
