use std::collections::BTreeSet;
use std::time::Duration;

use app::App;
use batch::{Headers, Message, MessageKind};
use pipeline::broker::{Acknowledgement, Broker, BrokerError, Confirm, Publication, RabbitMq};
use pipeline::{
    Job, LoopOptions, Outcome, Program, RetrySchedule, Role, RoleKind, Worker, run_worker,
};
use testkit::VirtualHost;
use tokio::task::JoinHandle;
use topology::{Catalog, LEDGER, PipelineSettings, desired};

/// Nothing that is to happen takes longer on a loaded machine.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(60);

const FLOW: &str = r#"
[own]
about = "One worker between two queues."
flow = ["relay.next -> end", "relay.receipts -> ledger"]
"#;

const ROLES: [Role; 3] = [
    Role {
        name: "relay",
        kind: RoleKind::Worker,
        outputs: &["next", "receipts"],
        optional: &[],
    },
    Role {
        name: "end",
        kind: RoleKind::Worker,
        outputs: &[],
        optional: &[],
    },
    LEDGER,
];

/// A virtual host with a pipeline as the topology has it: `relay-in`, whose worker fills `end-in`.
pub struct Pipeline {
    pub host: VirtualHost,
    pub broker: Broker,
}

impl Pipeline {
    pub fn create() -> Self {
        Self::on(VirtualHost::create())
    }

    pub fn on(host: VirtualHost) -> Self {
        let catalog = Catalog::parse("own.toml", FLOW).unwrap();
        let topology = catalog.topology("own", &ROLES).unwrap();
        let objects = desired(
            &topology,
            &PipelineSettings::default(),
            &RetrySchedule::default(),
        );
        let vhost = host.name();
        for policy in &objects.policies {
            let body = serde_json::json!({
                "pattern": policy.pattern, "priority": policy.priority,
                "definition": policy.definition, "apply-to": "queues",
            });
            host.api(
                "PUT",
                &format!("policies/{vhost}/{}", policy.name),
                &body.to_string(),
            );
        }
        for queue in &objects.queues {
            let body = serde_json::json!({"durable": true, "arguments": queue.arguments});
            host.api(
                "PUT",
                &format!("queues/{vhost}/{}", queue.name),
                &body.to_string(),
            );
        }
        for exchange in objects.exchanges.iter().chain([&objects.marker]) {
            let body = serde_json::json!({"durable": true, "type": exchange.kind});
            host.api(
                "PUT",
                &format!("exchanges/{vhost}/{}", exchange.name),
                &body.to_string(),
            );
        }
        for binding in &objects.bindings {
            let path = format!(
                "bindings/{vhost}/e/{}/q/{}",
                binding.exchange, binding.queue
            );
            let body = serde_json::json!({"routing_key": binding.output});
            host.api("POST", &path, &body.to_string());
        }
        let broker = Broker::RabbitMq(RabbitMq::new(host.url()).unwrap());
        Self { host, broker }
    }

    pub async fn publish(&self, queue: &str, messages: impl IntoIterator<Item = Message>) {
        publish(&self.broker, queue, messages).await;
    }

    /// Takes messages out of `queue` until there are `distinct` different bodies.
    pub async fn take(&self, queue: &str, distinct: usize) {
        let session = self.broker.connect("test").await.unwrap();
        let mut subscription = session.subscribe(queue, 1000).await.unwrap();
        let mut bodies = BTreeSet::new();
        let taking = async {
            while bodies.len() < distinct {
                let delivery = subscription.deliveries.recv().await;
                let delivery = delivery.expect("the session lasts");
                bodies.insert(delivery.message.body);
                subscription.acknowledge(Acknowledgement::Ack {
                    tag: delivery.tag,
                    multiple: false,
                });
            }
        };
        let complete = tokio::time::timeout(TEST_TIMEOUT, taking).await.is_ok();
        assert!(
            complete,
            "{queue} gave {} of {distinct} messages",
            bodies.len()
        );
        subscription.close().await;
        session.close().await;
    }

    pub async fn length(&self, queue: &str) -> u64 {
        let session = self.broker.connect("test").await.unwrap();
        let length = session.queue_length(queue).await.unwrap();
        session.close().await;
        length
    }

    pub fn program(&self, options: &LoopOptions) -> Program {
        Program::with_broker(
            &App::detached("relay"),
            self.broker.clone(),
            options,
            RetrySchedule::default(),
        )
    }
}

/// Publishes messages and waits until all are confirmed.
pub async fn publish(broker: &Broker, queue: &str, messages: impl IntoIterator<Item = Message>) {
    let session = broker.connect("test").await.unwrap();
    let mut confirms = Vec::new();
    for message in messages {
        let publication = Publication::to_queue(queue.to_owned(), message);
        confirms.push(session.publisher.publish(publication).await.unwrap());
    }
    for confirm in confirms {
        assert_eq!(confirm.await.unwrap(), Confirm::Stored);
    }
    session.close().await;
}

/// Messages numbered from `from` to below `to`, in header and body.
pub fn numbered(from: usize, to: usize) -> impl Iterator<Item = Message> {
    (from..to).map(|n| {
        let mut headers = Headers::for_run(&"r-1".parse().unwrap(), MessageKind::Batch);
        headers.set("number", n as i64);
        Message::new(headers, n.to_string())
    })
}

/// The numbers of messages, in their order.
pub fn numbers(messages: &[Message]) -> Vec<usize> {
    let number = |message: &Message| message.headers.int("number").unwrap() as usize;
    messages.iter().map(number).collect()
}

pub async fn eventually(mut condition: impl AsyncFnMut() -> bool) -> bool {
    let deadline = tokio::time::Instant::now() + TEST_TIMEOUT;
    while tokio::time::Instant::now() < deadline {
        if condition().await {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}

/// Passes every message on, after `delay`.
pub struct Relay {
    pub delay: Duration,
}

impl Worker for Relay {
    async fn process(&self, job: &mut Job) -> Outcome {
        tokio::time::sleep(self.delay).await;
        job.send("next", job.message().clone()).await;
        Outcome::Done
    }
}

/// A worker that runs until it is stopped.
pub struct Running {
    pub program: Program,
    task: JoinHandle<Result<(), BrokerError>>,
}

impl Running {
    pub fn start(program: Program, worker: impl Worker) -> Self {
        let running = program.clone();
        Self {
            program,
            task: tokio::spawn(async move { run_worker(&running, worker).await }),
        }
    }

    /// Whether the health page tells of a failure of this part of the program.
    pub fn fails(&self, part: &str) -> bool {
        self.program.app.health.failures().contains_key(part)
    }

    /// Stops it in good order.
    pub async fn stop(self) {
        self.program.app.shutdown.trigger();
        self.ended().await.expect("it ends well");
    }

    /// Its end, which must come.
    pub async fn ended(self) -> Result<(), BrokerError> {
        let ended = tokio::time::timeout(TEST_TIMEOUT, self.task).await;
        ended.expect("it ends").expect("it does not panic")
    }
}

/// All messages of a stream.
pub async fn read_stream(broker: &Broker, stream: &str) -> Result<Vec<Message>, BrokerError> {
    let mut messages = Vec::new();
    let read = broker.read_stream_from(stream, 0, |_, message| messages.push(message));
    read.await?;
    Ok(messages)
}
