//! Decisions, orders and records.

use std::time::Duration;

use batch::{Command, Decision, Fact, Stage, Started};
use ledger::RunStatus;

use crate::support::*;

fn whole_run() -> Vec<Fact> {
    vec![
        started(&["ch", "es"]),
        manifest(1),
        fetched(0, 1, 1),
        stored("ch", 0, 1, 0),
        stored("es", 0, 1, 0),
    ]
}

const DECISIONS: [&str; 7] = ["plan", "fetch", "ch", "es", "sync", "dictionary", "serp"];

fn closed(decisions: &[(String, Decision)]) -> Vec<&str> {
    let closed = decisions.iter().filter(|(_, v)| *v == Decision::Passed);
    closed.map(|(stage, _)| stage.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_decided_stage_by_stage_and_recorded_when_the_last_one_is() {
    let scene = Scene::new(false);
    let run = run(1);
    let persister = scene.start();
    scene.publish_facts(&run, whole_run()).await;
    scene
        .until("both shards are ordered", |scene| scene.orders().len() == 2)
        .await;
    let orders = scene.orders();
    assert!(
        orders
            .iter()
            .all(|o| o.command == Command::RefreshDictionary && o.version == 77)
    );
    let shards: Vec<u32> = orders.iter().map(|order| order.shard).collect();
    assert_eq!(shards, [0, 1]);
    let rest = [
        applied(0, &["hotdog000"]),
        applied(1, &[]),
        restarted("hotdog000"),
    ];
    scene.publish_facts(&run, rest).await;
    scene.until_ended(&run).await;
    assert_eq!(closed(&scene.decisions(&run)), DECISIONS);
    let ledger = scene.ledger();
    assert_eq!(
        ledger.record(&run).unwrap().progress.status,
        RunStatus::Complete
    );
    assert_eq!(scene.orders().len(), 2, "ordered once");
    persister.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_dictionary_is_ordered_before_its_store_has_closed() {
    let scene = Scene::new(false);
    let run = run(1);
    let persister = scene.start();
    let mut receipts = whole_run();
    receipts.remove(3);
    scene.publish_facts(&run, receipts).await;
    scene
        .until("the other store is decided", |scene| {
            closed(&scene.decisions(&run)).contains(&"es")
        })
        .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(scene.orders(), []);
    persister.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persister_killed_at_any_point_is_followed_by_one_that_publishes_every_decision_once() {
    let scene = Scene::new(false);
    let run = run(1);
    let mut receipts = whole_run();
    receipts.extend([
        applied(0, &["hotdog000"]),
        applied(1, &[]),
        restarted("hotdog000"),
    ]);
    for (n, receipt) in receipts.into_iter().enumerate() {
        let persister = scene.start();
        scene.publish_facts(&run, [receipt]).await;
        // At another point of its work each time: before it has read, decided, ordered or recorded.
        tokio::time::sleep(Duration::from_millis(n as u64 * 3)).await;
        drop(persister);
        scene.memory.disconnect("killed");
    }
    let persister = scene.start();
    scene.until_ended(&run).await;
    assert_eq!(
        scene.ledger().record(&run).unwrap().progress.status,
        RunStatus::Complete
    );
    let mut decisions = scene.decisions(&run);
    decisions.sort();
    decisions.dedup();
    assert_eq!(decisions.len(), DECISIONS.len(), "{decisions:?}");
    persister.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_persisters_one_decides_and_the_other_takes_over_when_it_is_gone() {
    let scene = Scene::new(false);
    let (first_run, second_run) = (run(1), run(2));
    let first = scene.start();
    let second = scene.start();
    scene.publish_facts(&first_run, whole_run()).await;
    scene
        .until("it is decided", |scene| scene.orders().len() == 2)
        .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(
        scene.decisions(&first_run).len(),
        4,
        "{:?}",
        scene.decisions(&first_run)
    );
    first.stop().await;
    scene.publish_facts(&second_run, whole_run()).await;
    scene
        .until("the other one decides", |scene| scene.orders().len() == 4)
        .await;
    assert_eq!(scene.decisions(&second_run).len(), 4);
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_past_its_deadline_is_rejected_without_another_receipt() {
    let mut scene = Scene::new(false);
    scene.gates.deadline_seconds = 1;
    let run = run(1);
    let persister = scene.start();
    scene
        .publish_facts(
            &run,
            [started(&["ch", "es"]), manifest(2), fetched(0, 1, 1)],
        )
        .await;
    scene.until_ended(&run).await;
    let ledger = scene.ledger();
    let progress = ledger.record(&run).unwrap().progress;
    assert_eq!(progress.status, RunStatus::Rejected);
    assert!(
        progress.stages[1].why.contains("past its deadline: 1 of 2"),
        "{progress:?}"
    );
    assert_eq!(scene.orders(), []);
    persister.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_on_a_run_that_ended_opens_it_again_and_orders_what_it_allows() {
    let scene = Scene::new(false);
    let run = run(1);
    let persister = scene.start();
    let mut receipts = whole_run();
    if let Fact::Stored { rows, .. } = &mut receipts[3] {
        (rows.stored, rows.quarantined) = (5, 5);
    }
    scene.publish_facts(&run, receipts).await;
    scene.until_ended(&run).await;
    assert_eq!(
        scene.ledger().record(&run).unwrap().progress.status,
        RunStatus::Rejected
    );
    persister.stop().await;
    // Decided while no persister was there.
    scene.publish_facts(&run, [approved("ch")]).await;
    let persister = scene.start();
    scene
        .until("both shards are ordered", |scene| scene.orders().len() == 2)
        .await;
    assert!(scene.ledger().record(&run).is_none(), "it is open");
    scene
        .publish_facts(&run, [applied(0, &[]), applied(1, &[])])
        .await;
    scene.until_ended(&run).await;
    let ledger = scene.ledger();
    let progress = ledger.record(&run).unwrap().progress;
    assert_eq!(progress.status, RunStatus::CompleteWithQuarantine);
    let ch = progress
        .stages
        .iter()
        .find(|s| s.stage == Stage::Store("ch".into()));
    assert_eq!(ch.unwrap().by.as_deref(), Some("ada"));
    persister.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pipelines_on_one_ledger_are_decided_side_by_side_each_by_its_own_rules() {
    let mut scene = Scene::new(false);
    let rule = [("max_failed_task_ratio".to_owned(), 0.6)].into();
    scene.gates.pipelines.insert("lenient".to_owned(), rule);
    let (strict, lenient) = (run(1), run(2));
    let persister = scene.start();
    for (run, pipeline) in [(&strict, "test"), (&lenient, "lenient")] {
        let mut begun = started(&["es"]);
        if let Fact::Started(Started { pipeline: name, .. }) = &mut begun {
            pipeline.clone_into(name);
        }
        let facts = [
            begun,
            manifest(2),
            fetched(0, 1, 1),
            given_up(1),
            stored("es", 0, 1, 0),
        ];
        scene.publish_facts(run, facts).await;
    }
    scene.until_ended(&strict).await;
    scene.until_ended(&lenient).await;
    let ledger = scene.ledger();
    let state = |run| ledger.record(run).unwrap().progress.status;
    assert_eq!(state(&strict), RunStatus::Rejected);
    assert_eq!(state(&lenient), RunStatus::CompleteWithQuarantine);
    persister.stop().await;
}
