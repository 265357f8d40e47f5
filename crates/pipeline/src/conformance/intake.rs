//! A worker whose intake is paused at times, and what it requeues.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use batch::Message;
use tokio::sync::{Barrier, Semaphore, watch};

use super::fixture::{By, Fixture, Running, eventually, numbered, options, relay};
use crate::broker::{Broker, QueueOptions};
use crate::{LoopOptions, Outcome};

fn held() -> (bool, Outcome) {
    let why = "not decided yet".to_owned();
    (false, Outcome::Requeue { why })
}

/// Whether nothing was delayed or quarantined.
async fn nothing_went_elsewhere(fixture: &Fixture) {
    for queue in ["relay-delay-1s", "relay-quar"] {
        assert_eq!(fixture.length(queue).await, 0, "{queue}");
    }
}

async fn what_is_requeued_is_where_it_was_and_as_it_was(fixture: Fixture) {
    const MESSAGES: usize = 10;
    fixture.fill(MESSAGES).await;
    let switch = Arc::new(watch::Sender::new(true));
    let intake = switch.subscribe();
    let worker = By(move |_, _| {
        let switch = switch.clone();
        async move {
            switch.send_replace(false);
            held()
        }
    });
    let running = Running::start_while(fixture.program(options(5, 2)), worker, intake.clone());
    let paused = async || !*intake.borrow();
    assert!(eventually(paused).await);
    fixture.length_becomes("relay-in", MESSAGES as u64).await;
    running.stop().await;
    let taken = fixture.take("relay-in", MESSAGES).await;
    let messages: Vec<Message> = taken.into_iter().map(|delivery| delivery.message).collect();
    let wanted: Vec<Message> = (0..MESSAGES).map(numbered).collect();
    assert_eq!(messages, wanted);
    nothing_went_elsewhere(&fixture).await;
}

async fn nothing_is_taken_while_the_intake_is_paused(fixture: Fixture) {
    fixture.fill(10).await;
    let (switch, intake) = watch::channel(false);
    let running = Running::start_while(fixture.program(options(5, 1)), relay(), intake);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fixture.length("relay-in").await, 10);
    switch.send_replace(true);
    fixture.take("end", 10).await;
    running.stop().await;
    fixture.length_becomes("relay-in", 0).await;
}

async fn paused_in_the_middle_it_finishes_what_is_in_flight_and_the_rest_keeps_its_order(
    fixture: Fixture,
) {
    const MESSAGES: usize = 20;
    fixture.fill(MESSAGES).await;
    let begun = Arc::new(Semaphore::new(0));
    let may_end = Arc::new(Semaphore::new(0));
    let order = Arc::new(Mutex::new(Vec::new()));
    let (begin, ending, worked) = (begun.clone(), may_end.clone(), order.clone());
    let worker = By(move |message: Message, _| {
        let (begin, ending) = (begin.clone(), ending.clone());
        worked.lock().unwrap().push(message.clone());
        async move {
            begin.add_permits(1);
            ending.acquire().await.unwrap().forget();
            (true, Outcome::Done)
        }
    });
    let (switch, intake) = watch::channel(true);
    let running = Running::start_while(fixture.program(options(10, 1)), worker, intake);
    for round in 1..=3 {
        begun.acquire().await.unwrap().forget();
        switch.send_replace(false);
        may_end.add_permits(1);
        fixture.length_becomes("end", round).await;
        fixture
            .length_becomes("relay-in", MESSAGES as u64 - round)
            .await;
        assert!(begun.try_acquire().is_err(), "nothing else was begun");
        switch.send_replace(true);
    }
    may_end.add_permits(MESSAGES);
    fixture.take("end", MESSAGES).await;
    running.stop().await;
    let wanted: Vec<Message> = (0..MESSAGES).map(numbered).collect();
    assert_eq!(*order.lock().unwrap(), wanted, "each once, as it was");
    nothing_went_elsewhere(&fixture).await;
}

async fn a_stop_is_obeyed_while_the_intake_is_paused(fixture: Fixture) {
    fixture.fill(1).await;
    let (switch, intake) = watch::channel(false);
    let running = Running::start_while(fixture.program(options(5, 1)), relay(), intake);
    tokio::time::sleep(Duration::from_millis(100)).await;
    running.stop().await;
    assert_eq!(fixture.length("relay-in").await, 1);
    drop(switch);
}

async fn an_intake_that_can_no_longer_be_paused_stays_as_it_was(fixture: Fixture) {
    fixture.fill(10).await;
    let (switch, intake) = watch::channel(true);
    drop(switch);
    let running = Running::start_while(fixture.program(options(5, 1)), relay(), intake);
    fixture.take("end", 10).await;
    running.stop().await;
    fixture.length_becomes("relay-in", 0).await;
}

/// More often than `max_deliveries`, and than it takes to become a poison candidate: if it were held against them, they
/// would be in quarantine, or each be processed with nothing else in flight.
async fn a_message_that_comes_back_often_is_neither_put_away_nor_processed_alone(fixture: Fixture) {
    const ROUNDS: usize = 6;
    fixture.fill(2).await;
    let switch = Arc::new(watch::Sender::new(true));
    let intake = switch.subscribe();
    let (both, round) = (Arc::new(Barrier::new(2)), Arc::new(AtomicUsize::new(0)));
    let (pausing, rounds) = (switch.clone(), round.clone());
    let worker = By(move |_, _| {
        let (switch, both, round) = (pausing.clone(), both.clone(), rounds.clone());
        async move {
            let last = round.load(Ordering::SeqCst) == ROUNDS;
            if both.wait().await.is_leader() && !last {
                switch.send_replace(false);
            }
            if last { (true, Outcome::Done) } else { held() }
        }
    });
    let options = LoopOptions {
        max_deliveries: 3,
        ..options(5, 2)
    };
    let running = Running::start_while(fixture.program(options), worker, intake);
    for n in 1..=ROUNDS {
        let paused = eventually(async || !*switch.borrow()).await;
        assert!(paused, "round {n}: both are in flight at once");
        fixture.length_becomes("relay-in", 2).await;
        nothing_went_elsewhere(&fixture).await;
        round.store(n, Ordering::SeqCst);
        switch.send_replace(true);
    }
    fixture.take("end", 2).await;
    running.stop().await;
    fixture.length_becomes("relay-in", 0).await;
    nothing_went_elsewhere(&fixture).await;
}

/// The attempts of a message are numbered by its deliveries, and a copy of it begins beyond them all.
#[tokio::test(start_paused = true)]
async fn a_copy_of_what_came_back_often_has_a_higher_attempt() {
    const RETURNS: u32 = 200;
    let fixture = Fixture::memory();
    let Broker::Memory(memory) = &fixture.broker else {
        unreachable!()
    };
    memory.declare_queue("relay-in", QueueOptions::default());
    fixture.fill(1).await;
    let highest = Arc::new(AtomicU32::new(0));
    let seen = highest.clone();
    let worker = By(move |message: Message, attempt| {
        let before = seen.fetch_max(attempt, Ordering::SeqCst);
        async move {
            assert!(attempt > before, "{attempt} after {before}");
            match message.headers.failures() {
                0 if attempt <= RETURNS => held(),
                0 => (false, Outcome::retry("the store is away", "")),
                _ => (true, Outcome::Done),
            }
        }
    });
    let (_gate, intake) = watch::channel(true);
    let running = Running::start_while(fixture.program(options(5, 1)), worker, intake);
    let message = fixture.take("end", 1).await.remove(0).message;
    assert_eq!(
        message.headers.failures(),
        1,
        "no attempt was a repeated one"
    );
    assert!(highest.load(Ordering::SeqCst) > RETURNS + 1);
    running.stop().await;
}

on_every_broker!(
    what_is_requeued_is_where_it_was_and_as_it_was,
    nothing_is_taken_while_the_intake_is_paused,
    paused_in_the_middle_it_finishes_what_is_in_flight_and_the_rest_keeps_its_order,
    a_stop_is_obeyed_while_the_intake_is_paused,
    an_intake_that_can_no_longer_be_paused_stays_as_it_was,
    a_message_that_comes_back_often_is_neither_put_away_nor_processed_alone,
);
