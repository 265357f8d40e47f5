//! One suite for every broker: what the loops promise, on the broker in memory and on RabbitMQ.

/// Tests of behaviours that every broker has.
macro_rules! on_every_broker {
    ($($behaviour:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test(start_paused = true)]
            async fn $behaviour() {
                super::$behaviour(super::Fixture::memory()).await;
            })+
        }
        mod rabbitmq {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $behaviour() {
                super::$behaviour(super::Fixture::rabbitmq()).await;
            })+
        }
    };
}

mod ending;
mod fixture;
mod headers;
mod history;
mod intake;
mod lease;
mod particular;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use batch::{Invalid, Message, Reason, header};
use tokio::sync::{Semaphore, mpsc};

use crate::broker::{Delivery, Publication};
use crate::{Job, LoopOptions, Outcome, Worker};

use fixture::{
    By, DELIVERY_LIMIT, Fixture, Running, TEST_TIMEOUT, eventually, numbered, options, relay,
};

/// Ways to break the loop on purpose: the suite must catch each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Mutant {
    #[default]
    None,
    AcknowledgesBeforeConfirm,
}

async fn every_message_arrives_and_none_is_left(fixture: Fixture) {
    fixture.fill(500).await;
    let running = Running::start(fixture.program(options(50, 10)), relay());
    let taken = fixture.take("end", 500).await;
    assert_eq!(taken.len(), 500, "none is repeated while nothing fails");
    running.stop().await;
    fixture.length_becomes("relay-in", 0).await;
}

async fn headers_and_bodies_arrive_as_they_were(fixture: Fixture) {
    fixture.fill(1).await;
    let running = Running::start(fixture.program(options(5, 1)), relay());
    let taken = fixture.take("end", 1).await;
    assert_eq!(taken[0].message, numbered(0));
    running.stop().await;
}

async fn a_retry_waits_and_keeps_its_history(fixture: Fixture) {
    fixture.fill(1).await;
    let worker = By(
        async |message: Message, _| match message.headers.failures() {
            0 | 1 => (false, Outcome::retry("the store is away", "shard 0")),
            _ => (true, Outcome::Done),
        },
    );
    let started = tokio::time::Instant::now();
    let running = Running::start(fixture.program(options(5, 1)), worker);
    let message = fixture.take("end", 1).await.remove(0).message;
    assert!(
        started.elapsed() >= Duration::from_secs(2),
        "each retry waits"
    );
    let history = message.headers.history();
    assert_eq!(message.headers.failures(), 2);
    assert_eq!((history.len(), history[0].times), (1, 2));
    assert_eq!(
        (history[0].who.as_str(), history[0].r#where.as_str()),
        ("relay", "shard 0")
    );
    running.stop().await;
}

async fn a_snooze_costs_no_attempt(fixture: Fixture) {
    fixture.fill(1).await;
    let worker = By(async |_, attempt| match attempt {
        1 => {
            let why = "the index is blocked".to_owned();
            (
                false,
                Outcome::Snooze {
                    why,
                    delay: Duration::from_secs(1),
                },
            )
        }
        _ => (true, Outcome::Done),
    });
    let running = Running::start(fixture.program(options(5, 1)), worker);
    let message = fixture.take("end", 1).await.remove(0).message;
    assert_eq!(message.headers.failures(), 0);
    running.stop().await;
}

async fn too_many_retries_end_in_quarantine(fixture: Fixture) {
    fixture.fill(1).await;
    let program = fixture.program(LoopOptions {
        max_retries: 1,
        ..options(5, 1)
    });
    let worker = By(async |_, _| (false, Outcome::retry("refused", "")));
    let running = Running::start(program, worker);
    let message = fixture.take("relay-quar", 1).await.remove(0).message;
    assert_eq!(
        message.headers.text(header::REASON),
        Some("too-many-retries")
    );
    assert_eq!(message.body, numbered(0).body);
    running.stop().await;
}

async fn what_can_never_be_processed_goes_to_quarantine_and_the_rest_goes_on(fixture: Fixture) {
    fixture.fill(10).await;
    let worker = By(async |message: Message, _| {
        if message.body == "3" {
            (
                false,
                Invalid::new(Reason::WrongSchema, "no column volume").into(),
            )
        } else {
            (true, Outcome::Done)
        }
    });
    let running = Running::start(fixture.program(options(5, 2)), worker);
    assert_eq!(fixture.take("end", 9).await.len(), 9);
    let message = fixture.take("relay-quar", 1).await.remove(0).message;
    assert_eq!(message.headers.text(header::REASON), Some("wrong-schema"));
    assert_eq!(message.headers.text(header::PROGRAM), Some("relay"));
    assert_eq!(message.headers.history()[0].what, "no column volume");
    running.stop().await;
}

async fn a_panic_is_a_failed_try(fixture: Fixture) {
    fixture.fill(1).await;
    let worker = By(async |_, attempt| {
        assert!(attempt > 1, "the first try panics");
        (true, Outcome::Done)
    });
    let running = Running::start(fixture.program(options(5, 1)), worker);
    let message = fixture.take("end", 1).await.remove(0).message;
    assert!(
        message.headers.history()[0]
            .what
            .contains("the first try panics")
    );
    running.stop().await;
}

async fn oversized_messages_go_to_quarantine_unread(fixture: Fixture) {
    let session = fixture.session().await;
    let mut big = numbered(0);
    big.body = vec![0; 2000].into();
    let publication = Publication::to_queue("relay-in".into(), big);
    session
        .publisher
        .publish(publication)
        .await
        .unwrap()
        .await
        .unwrap();
    let program = fixture.program(LoopOptions {
        max_body_bytes: 1000,
        ..options(5, 1)
    });
    let running = Running::start(program, relay());
    let message = fixture.take("relay-quar", 1).await.remove(0).message;
    assert_eq!(message.headers.text(header::REASON), Some("oversized"));
    running.stop().await;
}

async fn concurrency_is_bounded(fixture: Fixture) {
    fixture.fill(40).await;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (in_flight, peak) = (now.clone(), most.clone());
    let worker = By(move |_, _| {
        let (in_flight, peak) = (in_flight.clone(), peak.clone());
        async move {
            peak.fetch_max(
                in_flight.fetch_add(1, Ordering::SeqCst) + 1,
                Ordering::SeqCst,
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
            in_flight.fetch_sub(1, Ordering::SeqCst);
            (true, Outcome::Done)
        }
    });
    let running = Running::start(fixture.program(options(20, 4)), worker);
    fixture.take("end", 40).await;
    assert_eq!(most.load(Ordering::SeqCst), 4);
    running.stop().await;
}

async fn a_lost_session_loses_no_message(fixture: Fixture) {
    fixture.fill(300).await;
    let worker = By(async |_, _| {
        tokio::time::sleep(Duration::from_millis(5)).await;
        (true, Outcome::Done)
    });
    let running = Running::start(fixture.program(options(20, 4)), worker);
    for _ in 0..3 {
        let before = fixture.length("end").await;
        eventually(async || fixture.length("end").await > before + 10).await;
        fixture.lose_sessions().await;
    }
    fixture.take("end", 300).await;
    running.stop().await;
    fixture.length_becomes("relay-in", 0).await;
}

async fn a_message_that_kills_its_worker_ends_in_quarantine(fixture: Fixture) {
    let max_deliveries = LoopOptions::default().max_deliveries;
    let killer = kill_until_it_is_given_up(&fixture, max_deliveries, max_deliveries).await;
    assert_eq!(
        killer.message.headers.text(header::REASON),
        Some("delivery-limit")
    );
    let history = killer.message.headers.history();
    assert!(history[0].what.contains("15 times"), "{history:?}");
}

async fn the_broker_itself_gives_up_what_its_worker_does_not(fixture: Fixture) {
    let killer = kill_until_it_is_given_up(&fixture, u32::MAX, DELIVERY_LIMIT + 1).await;
    assert_eq!(killer.death.as_deref(), Some("delivery_limit"));
}

/// Message 7 of 20 kills the worker, `kills` times; returns it as it is in quarantine then. The other
/// messages must arrive.
async fn kill_until_it_is_given_up(fixture: &Fixture, max_deliveries: u32, kills: u32) -> Delivery {
    fixture.fill(20).await;
    let (killed, mut killings) = mpsc::unbounded_channel();
    let start = || {
        let killed = killed.clone();
        let worker = By(move |message: Message, _| {
            let killed = killed.clone();
            async move {
                if message.body == "7" {
                    let _ = killed.send(());
                    std::future::pending::<()>().await;
                }
                (true, Outcome::Done)
            }
        });
        let options = LoopOptions {
            max_deliveries,
            ..options(5, 2)
        };
        Running::start(fixture.program(options), worker)
    };
    let mut running = start();
    for _ in 0..kills {
        let kill = tokio::time::timeout(TEST_TIMEOUT, killings.recv()).await;
        kill.expect("the message is delivered again");
        running.kill().await;
        running = start();
    }
    let killer = fixture.take("relay-quar", 1).await.remove(0);
    assert_eq!(killer.message.body, "7");
    fixture.take("end", 19).await;
    let others = fixture.length("relay-quar").await;
    assert_eq!(others, 0, "no other is taken with it");
    running.stop().await;
    killer
}

async fn a_stop_finishes_what_is_in_flight_and_requeues_the_rest(fixture: Fixture) {
    fixture.fill(10).await;
    let begun = Arc::new(Semaphore::new(0));
    let gate = Arc::new(Semaphore::new(0));
    let (at_work, opened) = (begun.clone(), gate.clone());
    let worker = By(move |_, _| {
        let (at_work, opened) = (at_work.clone(), opened.clone());
        async move {
            at_work.add_permits(1);
            opened.acquire().await.unwrap().forget();
            (true, Outcome::Done)
        }
    });
    let running = Running::start(fixture.program(options(10, 2)), worker);
    begun.acquire_many(2).await.unwrap().forget();
    running.program.app.shutdown.trigger();
    gate.add_permits(10);
    running.stop().await;
    fixture.length_becomes("end", 2).await;
    fixture.length_becomes("relay-in", 8).await;
}

async fn an_output_without_a_reader_is_never_taken_for_delivered(fixture: Fixture) {
    fixture.fill(3).await;
    let worker = By(async |message: Message, _| (message.body != "1", Outcome::Done));
    struct Elsewhere<W>(W);
    impl<W: Worker> Worker for Elsewhere<W> {
        async fn process(&self, job: &mut Job) -> Outcome {
            job.send("nowhere", job.message().clone()).await;
            self.0.process(job).await
        }
    }
    let running = Running::start(fixture.program(options(5, 5)), Elsewhere(worker));
    let app = running.program.app.clone();
    let shown = eventually(async || app.health.failures().contains_key("publishing")).await;
    assert!(shown, "the health page shows that there is no reader");
    running.stop().await;
    fixture.length_becomes("relay-in", 3).await;
}

async fn a_check_for_what_does_not_exist_costs_no_session(fixture: Fixture) {
    let session = fixture.session().await;
    assert!(!session.exchange_exists("nowhere").await.unwrap());
    assert!(session.exchange_exists("relay-out").await.unwrap());
    // Time for the loss to be noticed, if there were one.
    let lost = tokio::time::timeout(Duration::from_millis(500), session.lost()).await;
    assert!(lost.is_err(), "the session is lost: {lost:?}");
    session.close().await;
}

on_every_broker!(
    every_message_arrives_and_none_is_left,
    headers_and_bodies_arrive_as_they_were,
    a_retry_waits_and_keeps_its_history,
    a_snooze_costs_no_attempt,
    too_many_retries_end_in_quarantine,
    what_can_never_be_processed_goes_to_quarantine_and_the_rest_goes_on,
    a_panic_is_a_failed_try,
    oversized_messages_go_to_quarantine_unread,
    concurrency_is_bounded,
    a_lost_session_loses_no_message,
    a_message_that_kills_its_worker_ends_in_quarantine,
    the_broker_itself_gives_up_what_its_worker_does_not,
    a_stop_finishes_what_is_in_flight_and_requeues_the_rest,
    an_output_without_a_reader_is_never_taken_for_delivered,
    a_check_for_what_does_not_exist_costs_no_session,
);
