//! What the suite works with: a broker with the objects of one program, and the running program.

use std::collections::HashSet;
use std::future::Future;
use std::time::Duration;

use app::App;
use batch::{Headers, Message, MessageKind};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::broker::{Broker, Memory, Publication, QueueOptions, RabbitMq, Session};
use crate::{
    Job, LoopOptions, Outcome, Program, RetrySchedule, Worker, names, run_worker, run_worker_while,
};

/// Everything that is expected happens within this time, also on a loaded machine.
pub(super) const TEST_TIMEOUT: Duration = Duration::from_secs(30);
/// As the topology has it by default.
pub(super) const DELIVERY_LIMIT: u32 = 20;

/// A broker with the objects of one program, `relay`, whose output `next` fills the queue `end`.
pub(super) struct Fixture {
    pub broker: Broker,
    pub host: Option<testkit::VirtualHost>,
}

impl Fixture {
    pub(super) fn memory() -> Self {
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

    pub(super) fn rabbitmq() -> Self {
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

    /// Adds the queue of `relay`'s lease.
    pub(super) fn add_lease(&self) {
        let queue = names::lease_queue("relay");
        match (&self.broker, &self.host) {
            (Broker::Memory(memory), _) => memory.declare_queue(&queue, QueueOptions::default()),
            (_, Some(host)) => {
                let arguments =
                    r#"{"x-queue-type":"quorum","x-single-active-consumer":true,"x-max-length":0}"#;
                let body = format!(r#"{{"durable":true,"arguments":{arguments}}}"#);
                host.api("PUT", &format!("queues/{}/{queue}", host.name()), &body);
            }
            _ => unreachable!("RabbitMQ has a virtual host"),
        }
    }

    /// Adds a stream.
    pub(super) fn add_stream(&self, stream: &str) {
        match (&self.broker, &self.host) {
            (Broker::Memory(memory), _) => memory.declare_queue(stream, QueueOptions::default()),
            (_, Some(host)) => {
                let body = r#"{"durable":true,"arguments":{"x-queue-type":"stream"}}"#;
                host.api("PUT", &format!("queues/{}/{stream}", host.name()), body);
            }
            _ => unreachable!("RabbitMQ has a virtual host"),
        }
    }

    pub(super) fn program(&self, options: LoopOptions) -> Program {
        let schedule = RetrySchedule::new(vec![Duration::from_secs(1)]).unwrap();
        let app = App::detached("relay");
        Program::with_broker(&app, self.broker.clone(), &options, schedule)
    }

    pub(super) async fn session(&self) -> Session {
        self.broker.connect("test").await.unwrap()
    }

    /// Publishes messages numbered from `0` to `count - 1` to `relay-in`.
    pub(super) async fn fill(&self, count: usize) {
        self.publish("relay-in", (0..count).map(numbered)).await;
    }

    pub(super) async fn publish(&self, queue: &str, messages: impl IntoIterator<Item = Message>) {
        let session = self.session().await;
        let mut confirms = Vec::new();
        for message in messages {
            let publication = Publication::to_queue(queue.to_owned(), message);
            confirms.push(session.publisher.publish(publication).await.unwrap());
        }
        for confirm in confirms {
            assert_eq!(confirm.await.unwrap(), crate::broker::Confirm::Stored);
        }
        session.close().await;
    }

    /// Takes messages out of a queue until there are as many distinct bodies as wanted; returns all taken.
    pub(super) async fn take(&self, queue: &str, distinct: usize) -> Vec<crate::broker::Delivery> {
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
                subscription.acknowledge(crate::broker::Acknowledgement::Ack {
                    tag,
                    multiple: false,
                });
                taken.push(delivery);
            }
        };
        let complete = tokio::time::timeout(TEST_TIMEOUT, taking).await;
        assert!(
            complete.is_ok(),
            "{queue} gave {} of {distinct} messages",
            bodies.len()
        );
        subscription.close().await;
        session.close().await;
        taken
    }

    pub(super) async fn length(&self, queue: &str) -> u64 {
        let session = self.session().await;
        let length = session.queue_length(queue).await.unwrap();
        session.close().await;
        length
    }

    pub(super) async fn length_becomes(&self, queue: &str, wanted: u64) {
        let reached = eventually(async || self.length(queue).await == wanted).await;
        assert!(
            reached,
            "{queue} has {} messages, not {wanted}",
            self.length(queue).await
        );
    }

    /// Ends every session, this one among them: the broker may be some seconds in listing it.
    pub(super) async fn lose(&self, session: &Session) {
        let lost = eventually(async || {
            self.lose_sessions().await;
            session.is_lost()
        });
        assert!(lost.await, "the session lasts");
    }

    pub(super) async fn lose_sessions(&self) {
        match (&self.broker, &self.host) {
            (Broker::Memory(memory), _) => memory.disconnect("the test ends it"),
            (_, Some(host)) => host.close_connections(),
            _ => unreachable!("RabbitMQ has a virtual host"),
        }
    }
}

pub(super) fn numbered(n: usize) -> Message {
    let mut headers = Headers::for_run(&"conformance-1".parse().unwrap(), MessageKind::Batch);
    headers.set("number", n as i64);
    Message::new(headers, n.to_string())
}

pub(super) async fn eventually(mut condition: impl AsyncFnMut() -> bool) -> bool {
    let deadline = tokio::time::Instant::now() + TEST_TIMEOUT;
    while tokio::time::Instant::now() < deadline {
        if condition().await {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}

pub(super) fn options(prefetch: u16, concurrency: usize) -> LoopOptions {
    LoopOptions {
        grace_seconds: 5.0,
        ..LoopOptions::sized(prefetch, concurrency)
    }
}

/// A program that runs until it is stopped.
pub(super) struct Running {
    pub program: Program,
    task: JoinHandle<Result<(), crate::broker::BrokerError>>,
}

impl Running {
    pub(super) fn start<W: Worker>(program: Program, worker: W) -> Self {
        let running = program.clone();
        Self {
            program,
            task: tokio::spawn(async move { run_worker(&running, worker).await }),
        }
    }

    /// Consumes while `intake` is true.
    pub(super) fn start_while<W: Worker>(
        program: Program,
        worker: W,
        intake: watch::Receiver<bool>,
    ) -> Self {
        let running = program.clone();
        Self {
            program,
            task: tokio::spawn(async move { run_worker_while(&running, worker, intake).await }),
        }
    }

    /// Ends it where it stands, as SIGKILL would.
    pub(super) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    pub(super) async fn stop(self) {
        self.program.app.shutdown.trigger();
        let ended = tokio::time::timeout(TEST_TIMEOUT, self.task).await;
        ended
            .expect("it stops")
            .expect("it does not panic")
            .expect("it ends well");
    }
}

/// A worker made of a closure.
pub(super) struct By<F>(pub F);

impl<F, Fut> Worker for By<F>
where
    F: Fn(Message, u32) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = (bool, Outcome)> + Send,
{
    async fn process(&self, job: &mut Job) -> Outcome {
        let (send, outcome) = (self.0)(job.message().clone(), job.attempt()).await;
        if send {
            job.send("next", job.message().clone()).await;
        }
        outcome
    }
}

pub(super) fn relay() -> impl Worker {
    By(async |_, _| (true, Outcome::Done))
}
