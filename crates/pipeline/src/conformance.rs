//! One suite for every broker: what the loops promise, on the broker in memory and on RabbitMQ.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use app::App;
use batch::{Headers, Invalid, Message, Reason, header};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use crate::broker::{Broker, Memory, Publication, QueueOptions, RabbitMq, Session};
use crate::{Job, Ladder, LoopOptions, Lost, Outcome, Program, Worker, names, run_worker};

/// Ways to break the loop on purpose: the suite must catch each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Mutant {
    #[default]
    None,
    AcknowledgesBeforeConfirm,
}

/// Nothing that is to happen takes longer on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// As the topology has it by default.
const DELIVERY_LIMIT: u32 = 20;

/// A broker with the objects of one program, `relay`, whose output `next` fills the queue `end`.
struct Bench {
    broker: Broker,
    host: Option<testkit::VirtualHost>,
}

impl Bench {
    fn memory() -> Self {
        let memory = Memory::new();
        let to = |queue: &str| Some(queue.to_owned());
        let input = QueueOptions {
            dead_letter: to("relay-quar"),
            delivery_limit: Some(DELIVERY_LIMIT),
            ..QueueOptions::default()
        };
        memory.declare_queue("relay-in", input);
        memory.declare_queue("relay-quar", QueueOptions::default());
        memory.declare_queue("end", QueueOptions::default());
        let delay = QueueOptions {
            ttl: Some(Duration::from_secs(1)),
            dead_letter: to("relay-in"),
            ..QueueOptions::default()
        };
        memory.declare_queue("relay-delay-1s", delay);
        memory.declare_exchange("relay-out");
        memory.bind("relay-out", "next", "end");
        memory.declare_exchange(names::CONFIGURED);
        let broker = Broker::Memory(memory);
        Self { broker, host: None }
    }

    fn rabbitmq() -> Self {
        let host = testkit::VirtualHost::create();
        let queue = |name: &str, arguments: serde_json::Value| {
            let mut body =
                serde_json::json!({"durable": true, "arguments": {"x-queue-type": "quorum"}});
            for (key, value) in arguments.as_object().into_iter().flatten() {
                body["arguments"][key] = value.clone();
            }
            host.api(
                "PUT",
                &format!("queues/{}/{name}", host.name()),
                &body.to_string(),
            );
        };
        let moves_to = |target: &str| {
            serde_json::json!({
                "x-dead-letter-exchange": "", "x-dead-letter-routing-key": target,
                "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish",
            })
        };
        let mut input = moves_to("relay-quar");
        input["x-delivery-limit"] = DELIVERY_LIMIT.into();
        queue("relay-in", input);
        let mut delay = moves_to("relay-in");
        delay["x-message-ttl"] = 1000.into();
        queue("relay-delay-1s", delay);
        queue("relay-quar", serde_json::json!({}));
        queue("end", serde_json::json!({}));
        let direct = r#"{"type":"direct","durable":true}"#;
        for exchange in ["relay-out", names::CONFIGURED] {
            host.api(
                "PUT",
                &format!("exchanges/{}/{exchange}", host.name()),
                direct,
            );
        }
        let binding = format!("bindings/{}/e/relay-out/q/end", host.name());
        host.api("POST", &binding, r#"{"routing_key":"next"}"#);
        let broker = RabbitMq::new(host.url()).unwrap();
        Self {
            broker: Broker::RabbitMq(broker),
            host: Some(host),
        }
    }

    fn program(&self, options: LoopOptions) -> Program {
        let ladder = Ladder::new(vec![Duration::from_secs(1)]).unwrap();
        let app = App::detached("relay");
        Program::with_broker(&app, self.broker.clone(), &options, ladder)
    }

    async fn session(&self) -> Session {
        self.broker.connect("test").await.unwrap()
    }

    /// Publishes messages numbered from `0` to `count - 1` to `relay-in`.
    async fn fill(&self, count: usize) {
        let session = self.session().await;
        let mut confirms = Vec::new();
        for n in 0..count {
            let publication = Publication::to_queue("relay-in".into(), numbered(n));
            confirms.push(session.publisher.publish(publication).await.unwrap());
        }
        for confirm in confirms {
            assert_eq!(confirm.await.unwrap(), crate::broker::Confirm::Stored);
        }
        session.close().await;
    }

    /// Takes messages out of a queue until there are as many distinct bodies as wanted; answers with all taken.
    async fn take(&self, queue: &str, distinct: usize) -> Vec<crate::broker::Delivery> {
        let session = self.session().await;
        let mut subscription = session.subscribe(queue, 1000).await.unwrap();
        let mut taken = Vec::new();
        let mut bodies = HashSet::new();
        let taking = async {
            while bodies.len() < distinct {
                let delivery = subscription
                    .deliveries
                    .recv()
                    .await
                    .expect("the session lasts");
                bodies.insert(delivery.message.body.clone());
                let tag = delivery.tag;
                subscription.answer(crate::broker::Acknowledgement::Ack {
                    tag,
                    multiple: false,
                });
                taken.push(delivery);
            }
        };
        let complete = tokio::time::timeout(PATIENCE, taking).await;
        assert!(
            complete.is_ok(),
            "{queue} gave {} of {distinct} messages",
            bodies.len()
        );
        subscription.close().await;
        session.close().await;
        taken
    }

    async fn length(&self, queue: &str) -> u64 {
        let session = self.session().await;
        let length = session.queue_length(queue).await.unwrap();
        session.close().await;
        length
    }

    async fn length_becomes(&self, queue: &str, wanted: u64) {
        let reached = eventually(async || self.length(queue).await == wanted).await;
        assert!(
            reached,
            "{queue} has {} messages, not {wanted}",
            self.length(queue).await
        );
    }

    async fn lose_sessions(&self) {
        match (&self.broker, &self.host) {
            (Broker::Memory(memory), _) => memory.disconnect("the test said so"),
            (_, Some(host)) => host.close_connections(),
            _ => unreachable!("RabbitMQ has a virtual host"),
        }
    }
}

fn numbered(n: usize) -> Message {
    let mut headers = Headers::of_run(&"conformance-1".parse().unwrap());
    headers.set("number", n as i64);
    Message::new(headers, n.to_string())
}

async fn eventually(mut condition: impl AsyncFnMut() -> bool) -> bool {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while tokio::time::Instant::now() < deadline {
        if condition().await {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}

fn options(prefetch: u16, concurrency: usize) -> LoopOptions {
    LoopOptions {
        grace_seconds: 5.0,
        ..LoopOptions::sized(prefetch, concurrency)
    }
}

/// A program at work until it is stopped.
struct Running {
    program: Program,
    task: JoinHandle<Result<(), crate::broker::BrokerError>>,
}

impl Running {
    fn start<W: Worker>(program: Program, worker: W) -> Self {
        let running = program.clone();
        Self {
            program,
            task: tokio::spawn(async move { run_worker(&running, worker).await }),
        }
    }

    /// Ends it where it stands, as SIGKILL would.
    async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    async fn stop(self) {
        self.program.app.shutdown.trigger();
        let ended = tokio::time::timeout(PATIENCE, self.task).await;
        ended
            .expect("it stops")
            .expect("it does not panic")
            .expect("it ends well");
    }
}

/// A worker made of a closure.
struct By<F>(F);

impl<F, Fut> Worker for By<F>
where
    F: Fn(Message, u32) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = (bool, Outcome)> + Send,
{
    async fn process(&self, job: &mut Job) -> Result<Outcome, Lost> {
        let (send, outcome) = (self.0)(job.message().clone(), job.attempt()).await;
        if send {
            job.send("next", job.message().clone()).await?;
        }
        Ok(outcome)
    }
}

fn relay() -> impl Worker {
    By(async |_, _| (true, Outcome::Done))
}

async fn every_message_arrives_and_none_is_left(bench: Bench) {
    bench.fill(500).await;
    let running = Running::start(bench.program(options(50, 10)), relay());
    let taken = bench.take("end", 500).await;
    assert_eq!(taken.len(), 500, "none is repeated while nothing fails");
    running.stop().await;
    bench.length_becomes("relay-in", 0).await;
}

async fn headers_and_bodies_arrive_as_they_were(bench: Bench) {
    bench.fill(1).await;
    let running = Running::start(bench.program(options(5, 1)), relay());
    let taken = bench.take("end", 1).await;
    assert_eq!(taken[0].message, numbered(0));
    running.stop().await;
}

async fn a_retry_waits_on_the_ladder_and_keeps_its_history(bench: Bench) {
    bench.fill(1).await;
    let worker = By(async |_, attempt| match attempt {
        1 | 2 => (false, Outcome::retry("the store is away", "shard 0")),
        _ => (true, Outcome::Done),
    });
    let started = tokio::time::Instant::now();
    let running = Running::start(bench.program(options(5, 1)), worker);
    let message = bench.take("end", 1).await.remove(0).message;
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

async fn a_snooze_costs_no_attempt(bench: Bench) {
    bench.fill(1).await;
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
    let running = Running::start(bench.program(options(5, 1)), worker);
    let message = bench.take("end", 1).await.remove(0).message;
    assert_eq!(message.headers.failures(), 0);
    running.stop().await;
}

async fn too_many_retries_end_in_quarantine(bench: Bench) {
    bench.fill(1).await;
    let program = bench.program(LoopOptions {
        max_retries: 1,
        ..options(5, 1)
    });
    let worker = By(async |_, _| (false, Outcome::retry("refused", "")));
    let running = Running::start(program, worker);
    let message = bench.take("relay-quar", 1).await.remove(0).message;
    assert_eq!(
        message.headers.text(header::REASON),
        Some("too-many-retries")
    );
    assert_eq!(message.body, numbered(0).body);
    running.stop().await;
}

async fn what_can_never_be_processed_goes_to_quarantine_and_the_rest_goes_on(bench: Bench) {
    bench.fill(10).await;
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
    let running = Running::start(bench.program(options(5, 2)), worker);
    assert_eq!(bench.take("end", 9).await.len(), 9);
    let message = bench.take("relay-quar", 1).await.remove(0).message;
    assert_eq!(message.headers.text(header::REASON), Some("wrong-schema"));
    assert_eq!(message.headers.text(header::PROGRAM), Some("relay"));
    assert_eq!(message.headers.history()[0].what, "no column volume");
    running.stop().await;
}

async fn a_panic_is_a_failed_try(bench: Bench) {
    bench.fill(1).await;
    let worker = By(async |_, attempt| {
        assert!(attempt > 1, "the first try panics");
        (true, Outcome::Done)
    });
    let running = Running::start(bench.program(options(5, 1)), worker);
    let message = bench.take("end", 1).await.remove(0).message;
    assert!(
        message.headers.history()[0]
            .what
            .contains("the first try panics")
    );
    running.stop().await;
}

async fn oversized_messages_go_to_quarantine_unread(bench: Bench) {
    let session = bench.session().await;
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
    let program = bench.program(LoopOptions {
        max_body_bytes: 1000,
        ..options(5, 1)
    });
    let running = Running::start(program, relay());
    let message = bench.take("relay-quar", 1).await.remove(0).message;
    assert_eq!(message.headers.text(header::REASON), Some("oversized"));
    running.stop().await;
}

async fn concurrency_is_bounded(bench: Bench) {
    bench.fill(40).await;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (in_work, peak) = (now.clone(), most.clone());
    let worker = By(move |_, _| {
        let (in_work, peak) = (in_work.clone(), peak.clone());
        async move {
            peak.fetch_max(in_work.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(10)).await;
            in_work.fetch_sub(1, Ordering::SeqCst);
            (true, Outcome::Done)
        }
    });
    let running = Running::start(bench.program(options(20, 4)), worker);
    bench.take("end", 40).await;
    assert_eq!(most.load(Ordering::SeqCst), 4);
    running.stop().await;
}

async fn a_lost_session_loses_no_message(bench: Bench) {
    bench.fill(300).await;
    let worker = By(async |_, _| {
        tokio::time::sleep(Duration::from_millis(5)).await;
        (true, Outcome::Done)
    });
    let running = Running::start(bench.program(options(20, 4)), worker);
    for _ in 0..3 {
        let before = bench.length("end").await;
        eventually(async || bench.length("end").await > before + 10).await;
        bench.lose_sessions().await;
    }
    bench.take("end", 300).await;
    running.stop().await;
    bench.length_becomes("relay-in", 0).await;
}

async fn a_message_that_kills_its_worker_ends_in_quarantine(bench: Bench) {
    bench.fill(20).await;
    let (killed, mut kills) = mpsc::unbounded_channel();
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
        Running::start(bench.program(options(5, 2)), worker)
    };
    let mut running = start();
    for _ in 0..=DELIVERY_LIMIT {
        let kill = tokio::time::timeout(PATIENCE, kills.recv()).await;
        kill.expect("the message is delivered again");
        running.kill().await;
        running = start();
    }
    let taken = bench.take("relay-quar", 1).await;
    assert_eq!(taken[0].message.body, "7");
    assert_eq!(taken[0].death.as_deref(), Some("delivery_limit"));
    bench.take("end", 19).await;
    assert_eq!(
        bench.length("relay-quar").await,
        0,
        "no other is taken with it"
    );
    running.stop().await;
}

async fn a_stop_finishes_what_is_in_work_and_gives_back_the_rest(bench: Bench) {
    bench.fill(10).await;
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
    let running = Running::start(bench.program(options(10, 2)), worker);
    begun.acquire_many(2).await.unwrap().forget();
    running.program.app.shutdown.trigger();
    gate.add_permits(10);
    running.stop().await;
    bench.length_becomes("end", 2).await;
    bench.length_becomes("relay-in", 8).await;
}

async fn an_output_without_a_reader_is_never_taken_for_delivered(bench: Bench) {
    bench.fill(3).await;
    let worker = By(async |message: Message, _| (message.body != "1", Outcome::Done));
    struct Elsewhere<W>(W);
    impl<W: Worker> Worker for Elsewhere<W> {
        async fn process(&self, job: &mut Job) -> Result<Outcome, Lost> {
            job.send("nowhere", job.message().clone()).await?;
            self.0.process(job).await
        }
    }
    let running = Running::start(bench.program(options(5, 5)), Elsewhere(worker));
    let app = running.program.app.clone();
    let said = eventually(async || app.health.failures().contains_key("publishing")).await;
    assert!(said, "the health page says that there is no reader");
    running.stop().await;
    bench.length_becomes("relay-in", 3).await;
}

/// Whether the loop keeps a message until its outputs are confirmed. On the broker in memory, whose confirms
/// can be held back: the message must still be there when the session is lost before the confirm.
async fn acknowledges_only_after_the_confirm(mutant: Mutant) -> bool {
    let bench = Bench::memory();
    let Broker::Memory(memory) = bench.broker.clone() else {
        unreachable!()
    };
    bench.fill(1).await;
    memory.hold_confirms();
    let mut program = bench.program(options(5, 1));
    program.mutant = mutant;
    let running = Running::start(program, relay());
    assert!(eventually(async || memory.ready("end").len() == 1).await);
    // Well past the time after which completed deliveries are acknowledged.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let kept = memory.unanswered("relay-in") == 1;
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
    let bench = Bench::memory();
    let Broker::Memory(memory) = &bench.broker else {
        unreachable!()
    };
    memory.refuse_connections(true);
    let error = run_worker(&bench.program(options(1, 1)), relay())
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
    let ladder = Ladder::default();
    let program = Program::with_broker(&App::detached("relay"), broker, &options(1, 1), ladder);
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
    let bench = Bench::memory();
    let Broker::Memory(memory) = bench.broker.clone() else {
        unreachable!()
    };
    bench.fill(3).await;
    memory.block(Some("low on disk"));
    let running = Running::start(bench.program(options(5, 1)), relay());
    let app = running.program.app.clone();
    assert!(eventually(async || app.health.failures().contains_key("broker-alarm")).await);
    assert_eq!(memory.ready("end").len(), 0);
    memory.block(None);
    bench.take("end", 3).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_waits_until_its_pipeline_is_configured() {
    let memory = Memory::new();
    let bench = Bench {
        broker: Broker::Memory(memory.clone()),
        host: None,
    };
    let running = Running::start(bench.program(options(5, 1)), relay());
    tokio::time::sleep(Duration::from_secs(60)).await;
    for queue in ["relay-in", "end"] {
        memory.declare_queue(queue, QueueOptions::default());
    }
    memory.bind("relay-out", "next", "end");
    bench.fill(1).await;
    memory.declare_exchange(names::CONFIGURED);
    bench.take("end", 1).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_quarantine_holds_the_message_instead_of_losing_it() {
    let bench = Bench::memory();
    let Broker::Memory(memory) = bench.broker.clone() else {
        unreachable!()
    };
    let full = QueueOptions {
        max_length: Some(0),
        ..QueueOptions::default()
    };
    memory.declare_queue("relay-quar", full);
    bench.fill(1).await;
    let worker = By(async |_, _| (false, Invalid::new(Reason::WrongSchema, "broken").into()));
    let running = Running::start(bench.program(options(5, 1)), worker);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(memory.unanswered("relay-in"), 1);
    memory.declare_queue("relay-quar", QueueOptions::default());
    bench.take("relay-quar", 1).await;
    running.stop().await;
}

#[tokio::test]
async fn a_returned_message_fails_its_own_publication_among_many_in_flight() {
    let bench = Bench::rabbitmq();
    let session = bench.session().await;
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

macro_rules! on_every_broker {
    ($($behaviour:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test(start_paused = true)]
            async fn $behaviour() {
                super::$behaviour(super::Bench::memory()).await;
            })+
        }
        mod rabbitmq {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $behaviour() {
                super::$behaviour(super::Bench::rabbitmq()).await;
            })+
        }
    };
}

on_every_broker!(
    every_message_arrives_and_none_is_left,
    headers_and_bodies_arrive_as_they_were,
    a_retry_waits_on_the_ladder_and_keeps_its_history,
    a_snooze_costs_no_attempt,
    too_many_retries_end_in_quarantine,
    what_can_never_be_processed_goes_to_quarantine_and_the_rest_goes_on,
    a_panic_is_a_failed_try,
    oversized_messages_go_to_quarantine_unread,
    concurrency_is_bounded,
    a_lost_session_loses_no_message,
    a_message_that_kills_its_worker_ends_in_quarantine,
    a_stop_finishes_what_is_in_work_and_gives_back_the_rest,
    an_output_without_a_reader_is_never_taken_for_delivered,
);
