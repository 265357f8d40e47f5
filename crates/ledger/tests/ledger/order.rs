//! Neither order nor repetition of receipts changes the state.

use batch::{Decision, Fact, Receipt, Stage};
use ledger::{GateDecision, Progress, RunState, RunStatus, TaskProblem, evaluate_gates};
use proptest::prelude::*;

use crate::gates::rules;
use crate::receipts::*;

fn any_fact() -> impl Strategy<Value = Receipt> {
    let store = prop_oneof![Just("ch"), Just("es"), Just("other")];
    let rows = prop::array::uniform3(0u64..4);
    prop_oneof![
        1 => prop::sample::subsequence(vec!["ch", "es"], 1..=2).prop_map(|s| started(&s)),
        2 => prop::sample::subsequence(vec!["ch", "es"], 1..=2).prop_map(|s| gated_run(&s)),
        4 => any_stage_fact(),
        1 => (0u64..4).prop_map(manifest),
        4 => (0u8..3, 1u32..4, 0u32..3, 0u64..6).prop_map(|(n, a, b, r)| fetched(n, a, b, r)),
        2 => (0u8..3, 1u32..4).prop_map(|(n, a)| failed(n, a)),
        1 => (0u8..3).prop_map(given_up),
        12 => (store, 0u8..3, 1u32..4, 0u32..3, rows).prop_map(|(s, n, a, q, r)| stored(s, n, a, q, r)),
        1 => Just(receipt(Fact::Abandoned { who: "ada".into(), why: "so".into() })),
    ]
}

fn any_stage_fact() -> impl Strategy<Value = Receipt> {
    let stage = prop::sample::select(vec![
        "plan",
        "fetch",
        "ch",
        "es",
        "sync",
        "dictionary",
        "serp",
    ]);
    let stage = stage.prop_map(|name| Stage::from(name.to_owned()));
    let decision = prop_oneof![
        Just(Decision::Passed),
        Just(Decision::Skipped),
        Just(Decision::Rejected)
    ];
    let both = (stage.clone(), decision);
    prop_oneof![
        4 => (both.clone(), 0u32..3).prop_map(|((s, v), n)| gate_decided(s, v, n)),
        1 => (both, 1_000i64..1_003).prop_map(|((s, v), at)| operator_decided(at, s, v)),
        1 => Just(ordered(&[0, 1])),
        1 => (0u32..2).prop_map(synced),
        1 => (0u32..2, 0u64..3).prop_map(|(shard, s)| late(shard, s)),
        1 => (0u32..2).prop_map(|shard| applied(shard, &["hotdog000"])),
        1 => Just(restarted("hotdog000")),
        1 => (stage, any::<bool>()).prop_map(|(s, up)| order_failed(s, "0", up)),
        1 => (0u8..3).prop_map(|n| receipt(Fact::Released { task: task(n), attempt: 1, batches: 1 })),
    ]
}

/// A run as it goes when nothing is lost: every receipt once, and which attempts counted.
fn whole_run() -> impl Strategy<Value = Vec<Receipt>> {
    prop::collection::vec((1u32..3, 0u32..4), 0..6).prop_map(|tasks| {
        let mut receipts = vec![started(&["ch", "es"]), manifest(tasks.len() as u64)];
        for (n, (attempts, batches)) in tasks.into_iter().enumerate() {
            let n = n as u8;
            for attempt in 1..=attempts {
                receipts.push(fetched(n, attempt, batches, u64::from(batches) * 10));
                for (store, sequence) in
                    (0..batches).flat_map(|sequence| [("ch", sequence), ("es", sequence)])
                {
                    receipts.push(stored(store, n, attempt, sequence, [10, 0, 0]));
                }
            }
        }
        receipts
    })
}

/// All that a run's state answers.
fn answers(
    state: &RunState,
) -> (
    Progress,
    Vec<TaskProblem>,
    bool,
    Option<String>,
    Vec<GateDecision>,
    Vec<u32>,
) {
    (
        Progress::new(state),
        state.problems(),
        state.is_complete(),
        Progress::new(state).gap,
        evaluate_gates(state, &rules(), 1_500),
        state.shards_to_order(),
    )
}

fn shuffled_and_repeated(
    receipts: impl Strategy<Value = Vec<Receipt>>,
) -> impl Strategy<Value = (Vec<Receipt>, Vec<Receipt>)> {
    receipts.prop_flat_map(|receipts| {
        let repeats = prop::collection::vec(any::<prop::sample::Index>(), 0..20);
        let again = (Just(receipts.clone()), repeats).prop_map(|(receipts, repeats)| {
            let mut all = receipts.clone();
            if !receipts.is_empty() {
                all.extend(repeats.iter().map(|at| at.get(&receipts).clone()));
            }
            all
        });
        (Just(receipts), again.prop_shuffle())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn every_shuffle_and_repetition_of_any_receipts_gives_the_same_state(
        (receipts, again) in shuffled_and_repeated(prop::collection::vec(any_fact(), 0..60))
    ) {
        prop_assert_eq!(answers(&fold(&receipts)), answers(&fold(&again)));
    }

    #[test]
    fn a_whole_run_is_complete_in_every_order_and_never_without_one_of_its_receipts(
        (receipts, again) in shuffled_and_repeated(whole_run()),
        missing: prop::sample::Index,
    ) {
        prop_assert_eq!(fold(&again).status(), RunStatus::Complete);
        let missing = missing.get(&receipts);
        let rest = fold(again.iter().filter(|receipt| *receipt != missing));
        if let Fact::Started(_) | Fact::Manifest { .. } = missing.fact {
            prop_assert!(!rest.is_complete());
        } else {
            // A second attempt may make up for what is missing of the first, but never half of it.
            let progress = Progress::new(&rest);
            let read = progress.rows_fetched;
            let closed = progress.stores.iter().all(|s| s.rows_accounted == read);
            prop_assert!(!rest.is_complete() || closed);
        }
    }
}
