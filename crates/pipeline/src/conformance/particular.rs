//! What only one of the brokers can show.

use std::time::Duration;

use app::App;
use batch::{Invalid, Reason};

use super::Mutant;
use super::fixture::{By, Fixture, Running, eventually, numbered, options, relay};
use crate::broker::{Broker, Memory, Publication, QueueOptions, RabbitMq};
use crate::{Program, RetrySchedule, names, run_worker};

/// Whether the loop keeps a message until its outputs are confirmed. On the broker in memory, whose confirms
/// can be held back: the message must still be there when the session is lost before the confirm.
async fn acknowledges_only_after_the_confirm(mutant: Mutant) -> bool {
    let fixture = Fixture::memory();
    let Broker::Memory(memory) = fixture.broker.clone() else {
        unreachable!()
    };
    fixture.fill(1).await;
    memory.hold_confirms();
    let mut program = fixture.program(options(5, 1));
    program.mutant = mutant;
    let running = Running::start(program, relay());
    assert!(eventually(async || memory.ready("end").len() == 1).await);
    // Well past the time after which completed deliveries are acknowledged.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let kept = memory.unacked("relay-in") == 1;
    memory.release_confirms();
    running.stop().await;
    kept
}

#[tokio::test(start_paused = true)]
async fn a_message_is_acknowledged_only_after_its_outputs_are_confirmed() {
    assert!(acknowledges_only_after_the_confirm(Mutant::None).await);
}

/// A test of the test above: a loop that acknowledges too early must fail it.
#[tokio::test(start_paused = true)]
async fn a_loop_that_acknowledges_before_the_confirm_is_caught() {
    assert!(!acknowledges_only_after_the_confirm(Mutant::AcknowledgesBeforeConfirm).await);
}

#[tokio::test(start_paused = true)]
async fn refused_credentials_end_the_program_at_once() {
    let fixture = Fixture::memory();
    let Broker::Memory(memory) = &fixture.broker else {
        unreachable!()
    };
    memory.refuse_connections(true);
    let error = run_worker(&fixture.program(options(1, 1)), relay())
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("Check user, password"),
        "{error}"
    );
}

#[tokio::test]
async fn refused_credentials_end_the_program_at_once_on_rabbitmq() {
    let host = testkit::VirtualHost::create();
    let mut url = url::Url::parse(host.url()).unwrap();
    url.set_password(Some("wrong")).unwrap();
    let broker = Broker::RabbitMq(RabbitMq::new(url.as_str()).unwrap());
    let schedule = RetrySchedule::default();
    let program = Program::with_broker(&App::detached("relay"), broker, &options(1, 1), schedule);
    let error = run_worker(&program, relay()).await.unwrap_err();
    assert!(
        error.to_string().contains("refuses the connection"),
        "{error}"
    );
    assert!(
        !error.to_string().contains("wrong"),
        "no password in an error: {error}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_alarm_of_the_broker_is_waited_out_and_shown() {
    let fixture = Fixture::memory();
    let Broker::Memory(memory) = fixture.broker.clone() else {
        unreachable!()
    };
    fixture.fill(3).await;
    memory.block(Some("low on disk"));
    let running = Running::start(fixture.program(options(5, 1)), relay());
    let app = running.program.app.clone();
    assert!(eventually(async || app.health.failures().contains_key("broker-alarm")).await);
    assert_eq!(memory.ready("end").len(), 0);
    memory.block(None);
    fixture.take("end", 3).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_waits_until_its_pipeline_is_configured() {
    let memory = Memory::new();
    let fixture = Fixture {
        broker: Broker::Memory(memory.clone()),
        host: None,
    };
    let running = Running::start(fixture.program(options(5, 1)), relay());
    tokio::time::sleep(Duration::from_secs(60)).await;
    for queue in ["relay-in", "end"] {
        memory.declare_queue(queue, QueueOptions::default());
    }
    memory.bind("relay-out", "next", "end");
    fixture.fill(1).await;
    memory.declare_exchange(names::CONFIGURED);
    fixture.take("end", 1).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_quarantine_holds_the_message_instead_of_losing_it() {
    let fixture = Fixture::memory();
    let Broker::Memory(memory) = fixture.broker.clone() else {
        unreachable!()
    };
    let full = QueueOptions {
        max_length: Some(0),
        ..QueueOptions::default()
    };
    memory.declare_queue("relay-quar", full);
    fixture.fill(1).await;
    let worker = By(async |_, _| (false, Invalid::new(Reason::WrongSchema, "broken").into()));
    let running = Running::start(fixture.program(options(5, 1)), worker);
    // It is put off again and again, and healthy messages pass it by.
    tokio::time::sleep(Duration::from_secs(300)).await;
    let kept = ["relay-in", "relay-delay-1s"].map(|queue| memory.ready(queue).len());
    assert_eq!(kept.iter().sum::<usize>() + memory.unacked("relay-in"), 1);
    memory.declare_queue("relay-quar", QueueOptions::default());
    fixture.take("relay-quar", 1).await;
    running.stop().await;
}

#[tokio::test]
async fn a_returned_message_fails_its_own_publication_among_many_in_flight() {
    let fixture = Fixture::rabbitmq();
    let session = fixture.session().await;
    let mut answers = Vec::new();
    for n in 0..2000 {
        let queue = if n % 7 == 0 { "missing" } else { "end" };
        let publication = Publication::to_queue(queue.into(), numbered(n));
        let publisher = session.publisher.clone();
        answers.push(tokio::spawn(async move {
            (
                n,
                publisher.publish(publication).await.unwrap().await.unwrap(),
            )
        }));
    }
    for answer in answers {
        let (n, confirm) = answer.await.unwrap();
        let unroutable = confirm == crate::broker::Confirm::Unroutable;
        assert_eq!(unroutable, n % 7 == 0, "message {n}: {confirm:?}");
    }
}
