//! Batches that wait for the decision on their run's fetching.

use std::time::Duration;

use batch::{Decision, Fact, Headers, Message, MessageKind, Reason, header};
use pipeline::broker::QueueOptions;

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_on_before_the_last_task_is_in_and_then_one_attempt_of_every_task_does() {
    let scene = Scene::new(true);
    let run = run(1);
    let persister = scene.start();
    scene.publish_facts(&run, [started(&["es"])]).await;
    // A task that failed in the middle of its first attempt and succeeded at its second, one that was read twice, and a
    // batch that the broker delivered twice.
    scene.hold(&run, 0, 1, 1).await;
    scene.hold(&run, 0, 2, 3).await;
    scene.hold(&run, 1, 1, 2).await;
    scene.hold(&run, 1, 9, 2).await;
    scene.hold(&run, 1, 1, 1).await;
    let receipts = [fetched(0, 2, 3), fetched(1, 9, 2), fetched(1, 1, 2)];
    scene.publish_facts(&run, receipts).await;
    // Longer than the persister checks its deadlines: the batches are left alone all the while.
    tokio::time::sleep(Duration::from_millis(500)).await;
    for _ in 0..50 {
        assert_eq!(
            scene.memory.unacked("persister-in"),
            0,
            "nothing is in flight"
        );
        assert_eq!(scene.memory.ready("persister-in").len(), 9);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(scene.bodies("stores"), [""; 0]);
    scene.publish_facts(&run, [manifest(2)]).await;
    scene
        .until("all are released", |scene| {
            scene.bodies("stores").len() >= 6
        })
        .await;
    scene
        .until("the rest is dropped", |scene| {
            scene.memory.ready("persister-in").is_empty()
                && scene.memory.ready("persister-delay-1s").is_empty()
                && scene.memory.unacked("persister-in") == 0
        })
        .await;
    let mut wanted = vec!["0/2/0", "0/2/1", "0/2/2", "1/1/0", "1/1/1"];
    // The copy of a batch that was released is the same batch: it changes nothing in the stores.
    wanted.insert(3, "1/1/0");
    assert_eq!(scene.bodies("stores"), wanted);
    let released: Vec<_> = scene
        .receipts(&run)
        .into_iter()
        .filter(|fact| matches!(fact, Fact::Released { .. }))
        .collect();
    assert_eq!(released.len(), 2, "{released:?}");
    persister.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_batches_of_a_rejected_run_go_to_quarantine_under_one_cause_and_back_when_it_is_approved()
 {
    let scene = Scene::new(true);
    let run = run(1);
    let persister = scene.start();
    scene.publish_facts(&run, [started(&["es"])]).await;
    scene.hold(&run, 0, 1, 3).await;
    let receipts = [fetched(0, 1, 3), given_up(1), manifest(2)];
    scene.publish_facts(&run, receipts).await;
    scene
        .until("all are in quarantine", |s| {
            s.bodies("persister-quar").len() == 3
        })
        .await;
    scene.until_ended(&run).await;
    assert_eq!(scene.bodies("stores"), [""; 0]);
    let mut causes: Vec<String> = Vec::new();
    for message in scene.memory.ready("persister-quar") {
        assert_eq!(
            message.headers.text(header::REASON),
            Some(Reason::Rejected.as_str())
        );
        causes.push(message.headers.history().last().unwrap().what.clone());
    }
    causes.dedup();
    assert_eq!(causes.len(), 1, "{causes:?}");
    assert!(
        causes[0].contains("1 of 2 tasks fetched, 1 given up"),
        "{causes:?}"
    );

    // Of another run, and for another reason: they stay.
    let mut other = Message::new(
        Headers::for_run(&crate::support::run(2), MessageKind::Batch),
        "other",
    );
    other.headers.set(header::REASON, Reason::Rejected.as_str());
    let mut unreadable = Message::new(Headers::for_run(&run, MessageKind::Batch), "unreadable");
    unreadable
        .headers
        .set(header::REASON, Reason::BadHeader.as_str());
    scene.publish("persister-quar", [other, unreadable]).await;
    scene.publish_facts(&run, [approved("fetch")]).await;
    scene
        .until("all are released", |scene| {
            scene.bodies("stores").len() == 3
        })
        .await;
    // One more look is under way, perhaps.
    scene
        .until("the others stay", |scene| {
            scene.bodies("persister-quar") == ["other", "unreadable"]
        })
        .await;
    for message in scene.memory.ready("stores") {
        assert_eq!(message.headers.get(header::REASON), None);
        assert_eq!(message.headers.history().len(), 1, "its history stays");
    }
    let answers = (0..3).map(|sequence| stored("es", 0, 1, sequence));
    scene.publish_facts(&run, answers.collect::<Vec<_>>()).await;
    scene.until_ended(&run).await;
    let ledger = scene.ledger();
    let progress = ledger.record(&run).unwrap().progress;
    assert!(progress.status.is_complete(), "{progress:?}");
    assert_eq!(progress.stages[1].by.as_deref(), Some("ada"));
    persister.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persister_killed_in_the_middle_of_a_release_leaves_the_rest_to_the_next() {
    let scene = Scene::new(true);
    let run = run(1);
    let first = scene.start();
    scene.publish_facts(&run, [started(&["es"])]).await;
    const TASKS: u32 = 40;
    for n in 0..TASKS {
        scene.hold(&run, n, 1, 5).await;
    }
    let facts = (0..TASKS).map(|n| fetched(n, 1, 5));
    scene.publish_facts(&run, facts.collect::<Vec<_>>()).await;
    scene.publish_facts(&run, [manifest(TASKS.into())]).await;
    scene
        .until("some are released", |scene| {
            !scene.bodies("stores").is_empty()
        })
        .await;
    drop(first);
    scene.memory.disconnect("killed");
    let second = scene.start();
    scene
        .until("all are released", |scene| {
            let mut bodies = scene.bodies("stores");
            bodies.dedup();
            bodies.len() == (TASKS * 5) as usize
        })
        .await;
    second.stop().await;
    let fetch = scene.decisions(&run);
    assert_eq!(
        fetch.iter().filter(|(stage, _)| stage == "fetch").count(),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_of_an_abandoned_run_are_dropped_and_those_of_the_next_wait_for_its_own_decision() {
    let scene = Scene::new(true);
    let (first, second) = (run(1), run(2));
    let persister = scene.start();
    scene.publish_facts(&first, [started(&["es"])]).await;
    scene.hold(&first, 0, 1, 2).await;
    let (who, why) = ("ada".to_owned(), "wrong table".to_owned());
    scene
        .publish_facts(&first, [Fact::Abandoned { who, why }])
        .await;
    scene
        .until("the first run's are gone", |scene| {
            scene.memory.ready("persister-in").is_empty()
                && scene.memory.unacked("persister-in") == 0
        })
        .await;
    assert_eq!(scene.bodies("stores"), [""; 0]);
    scene.publish_facts(&second, [started(&["es"])]).await;
    scene.hold(&second, 0, 1, 2).await;
    // A straggler of the first run may have to wait behind them.
    scene.hold(&first, 1, 1, 1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(scene.bodies("stores"), [""; 0]);
    scene
        .publish_facts(&second, [fetched(0, 1, 2), manifest(1)])
        .await;
    scene
        .until(
            "the second run's are released, and the straggler is gone",
            |scene| {
                scene.bodies("stores").len() == 2
                    && scene.memory.ready("persister-in").is_empty()
                    && scene.memory.unacked("persister-in") == 0
            },
        )
        .await;
    persister.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_batch_goes_to_quarantine_by_its_own_reason_and_the_rest_goes_on() {
    let scene = Scene::new(true);
    let run = run(1);
    let persister = scene.start();
    scene
        .publish_facts(&run, [started(&["es"]), fetched(0, 1, 1), manifest(1)])
        .await;
    let mut absurd = Message::new(Headers::for_run(&run, MessageKind::Batch), "absurd");
    absurd.headers.set(header::ATTEMPT, -4);
    let mut newer = Message::new(Headers::for_run(&run, MessageKind::Batch), "newer");
    newer.headers.set(header::SCHEMA, 9);
    scene.publish("persister-in", [absurd, newer]).await;
    scene.hold(&run, 0, 1, 1).await;
    scene
        .until("the batch is released", |scene| {
            scene.bodies("stores") == ["0/1/0"]
        })
        .await;
    scene
        .until("both are in quarantine", |s| {
            s.bodies("persister-quar") == ["absurd", "newer"]
        })
        .await;
    let reasons = scene.memory.ready("persister-quar");
    let mut reasons: Vec<_> = reasons
        .iter()
        .filter_map(|m| m.headers.text(header::REASON))
        .collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["bad-header", "unknown-version"]);
    assert!(
        scene
            .decisions(&run)
            .contains(&("fetch".into(), Decision::Passed))
    );
    persister.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_opens_the_fetching_of_a_run_that_still_goes_on() {
    let scene = Scene::new(true);
    let run = run(1);
    let persister = scene.start();
    scene
        .publish_facts(&run, [started(&["es"]), manifest(2)])
        .await;
    scene.hold(&run, 0, 1, 3).await;
    scene.publish_facts(&run, [fetched(0, 1, 3)]).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(scene.bodies("stores"), [""; 0]);
    scene.publish_facts(&run, [approved("fetch")]).await;
    scene
        .until("what is read is released", |s| {
            s.bodies("stores").len() == 3
        })
        .await;
    persister.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_released_while_the_stores_have_no_room_for_it() {
    let mut scene = Scene::new(true);
    scene.max_queue_len = 2;
    let run = run(1);
    scene
        .publish(
            "stores",
            (0..5)
                .map(|n| Message::new(Headers::for_run(&run, MessageKind::Batch), format!("{n}"))),
        )
        .await;
    let persister = scene.start();
    scene
        .publish_facts(&run, [started(&["es"]), manifest(1)])
        .await;
    // The length of the queue is known by now.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    scene.hold(&run, 0, 1, 3).await;
    scene.publish_facts(&run, [fetched(0, 1, 3)]).await;
    scene
        .until("it is decided", |scene| !scene.decisions(&run).is_empty())
        .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(scene.bodies("stores").len(), 5);
    scene.memory.delete_queue("stores");
    scene
        .memory
        .declare_queue("stores", QueueOptions::default());
    scene
        .until("all are released", |scene| {
            scene.bodies("stores").len() == 3
        })
        .await;
    persister.stop().await;
}
