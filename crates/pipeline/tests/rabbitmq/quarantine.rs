use std::time::Duration;

use batch::Reason;
use pipeline::broker::{Acknowledgement, BrokerError};
use pipeline::quarantine::{Inspection, Quarantined, inspect};

use crate::support::{Pipeline, numbered};

async fn inspected(pipeline: &Pipeline, limit: u16) -> Inspection<Quarantined> {
    inspect(&pipeline.broker, "relay", limit, Some)
        .await
        .unwrap()
}

/// Positions and numbers of what was found.
fn found(look: &Inspection<Quarantined>) -> Vec<(u64, i64)> {
    let kept = look.kept.iter();
    kept.map(|message| (message.position, message.headers.int("number").unwrap()))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inspecting_changes_neither_the_messages_nor_their_order() {
    const MESSAGES: usize = 600;
    let pipeline = Pipeline::create();
    pipeline.publish("relay-quar", numbered(0, MESSAGES)).await;
    // More often than a broker that limits deliveries would allow.
    for limit in [5, 3, 300, 1, 299, 2, 1000, 7].repeat(3) {
        let inspection = inspected(&pipeline, limit).await;
        let wanted = MESSAGES.min(limit.into());
        assert_eq!(
            (inspection.seen, inspection.ready),
            (wanted as u64, MESSAGES as u64)
        );
        let in_order = (0..wanted as i64).map(|n| (n as u64 + 1, n));
        assert!(
            found(&inspection).into_iter().eq(in_order),
            "first {limit}: {:?}",
            found(&inspection)
        );
    }
    // Who comes to take them finds them as they were published.
    let session = pipeline.broker.connect("test").await.unwrap();
    let mut subscription = session.subscribe("relay-quar", 1000).await.unwrap();
    for (n, wanted) in numbered(0, MESSAGES).enumerate() {
        let delivery = subscription.deliveries.recv().await.unwrap();
        assert_eq!(delivery.message, wanted, "message {n}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_is_wanted_is_kept() {
    let pipeline = Pipeline::create();
    pipeline.publish("relay-quar", numbered(0, 30)).await;
    let every_tenth = |message: Quarantined| {
        let number = message.headers.int("number")?;
        (number % 10 == 0).then_some(message.position)
    };
    let inspection = inspect(&pipeline.broker, "relay", 1000, every_tenth)
        .await
        .unwrap();
    assert_eq!((inspection.kept, inspection.seen), (vec![1, 11, 21], 30));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_quarantine_and_a_missing_one_are_told_apart() {
    let pipeline = Pipeline::create();
    let inspection = inspected(&pipeline, 10).await;
    assert_eq!((inspection.kept.len(), inspection.ready), (0, 0));
    let error = inspect(&pipeline.broker, "no-program", 10, Some)
        .await
        .unwrap_err();
    assert!(matches!(error, BrokerError::NotFound { .. }), "{error:?}");
    assert!(error.to_string().contains("no-program-quar"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_does_not_wait_for_what_another_reader_holds() {
    let pipeline = Pipeline::create();
    pipeline.publish("relay-quar", numbered(0, 10)).await;
    let other = pipeline.broker.connect("test").await.unwrap();
    let mut held = other.subscribe("relay-quar", 4).await.unwrap();
    for _ in 0..4 {
        held.deliveries.recv().await.unwrap();
    }
    let inspection = tokio::time::timeout(Duration::from_secs(20), inspected(&pipeline, 100)).await;
    assert_eq!(inspection.expect("it ends").seen, 6);
    held.close().await;
    assert_eq!(inspected(&pipeline, 100).await.seen, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_the_broker_gave_up_says_so() {
    let pipeline = Pipeline::create();
    pipeline.publish("relay-in", numbered(0, 1)).await;
    let session = pipeline.broker.connect("test").await.unwrap();
    let mut subscription = session.subscribe("relay-in", 1).await.unwrap();
    // The topology's delivery limit, and the delivery that goes past it.
    for _ in 0..=20 {
        let delivery = subscription.deliveries.recv().await.unwrap();
        subscription.acknowledge(Acknowledgement::Requeue { tag: delivery.tag });
    }
    let mut inspection = inspected(&pipeline, 10).await;
    for _ in 0..100 {
        if inspection.seen > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        inspection = inspected(&pipeline, 10).await;
    }
    assert_eq!(inspection.kept[0].death.as_deref(), Some("delivery_limit"));
    assert_eq!(inspection.kept[0].reason, Some(Reason::DeliveryLimit));
}
