//! A pipeline of which only the persister is real: the tests publish what every other program would.

use std::time::Duration;

use app::App;
use batch::{
    BatchId, Decision, Fact, Headers, Message, Order, Reason, Receipt, Rows, RunId, RunMode,
    RunPlan, Stage, Started, TaskHash,
};
use ledger::{Ledger, RunRecord};
use persister::{GateSettings, PersisterInputs, PersisterSettings};
use pipeline::broker::{Broker, Confirm, Memory, Publication, QueueOptions};
use pipeline::{LoopOptions, Program, RetrySchedule, names};
use tokio::task::JoinHandle;

pub const TEST_TIMEOUT: Duration = Duration::from_secs(60);

pub struct Scene {
    pub memory: Memory,
    pub gates: GateSettings,
    pub max_queue_len: u64,
    holds: bool,
}

/// A persister at work. Dropped it is gone without a word, as after SIGKILL; its session is lost.
pub struct Running {
    task: JoinHandle<()>,
    app: App,
}

impl Running {
    pub async fn stop(mut self) {
        self.app.shutdown.trigger();
        tokio::time::timeout(TEST_TIMEOUT, &mut self.task)
            .await
            .expect("it stops in time")
            .unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn run(n: i64) -> RunId {
    RunId::new("test", 1_767_323_045_000 + n).unwrap()
}

pub fn task(n: u32) -> TaskHash {
    TaskHash::new([&n.to_le_bytes()[..]])
}

impl Scene {
    /// A pipeline that holds batches, or one that lets them by.
    pub fn new(holds: bool) -> Self {
        let memory = Memory::new();
        for queue in [
            "ledger",
            "runs",
            "persister-in",
            "persister-quar",
            "persister-lease",
            "stores",
            "orders",
        ] {
            memory.declare_queue(queue, QueueOptions::default());
        }
        let delay = QueueOptions {
            ttl: Some(Duration::from_secs(1)),
            dead_letter: Some("persister-in".to_owned()),
            ..QueueOptions::default()
        };
        memory.declare_queue("persister-delay-1s", delay);
        let exchange = names::output_exchange("persister");
        for (output, queue) in [
            ("batches", "stores"),
            ("orders", "orders"),
            ("receipts", "ledger"),
            ("records", "runs"),
        ] {
            memory.bind(&exchange, output, queue);
        }
        memory.declare_exchange(names::CONFIGURED);
        Self {
            memory,
            gates: GateSettings::default(),
            max_queue_len: 100_000,
            holds,
        }
    }

    pub fn start(&self) -> Running {
        let app = App::detached("persister");
        let schedule = RetrySchedule::new(vec![Duration::from_secs(1)]).unwrap();
        let settings = PersisterSettings {
            max_queue_len: self.max_queue_len,
            ..PersisterSettings::default()
        };
        let broker = Broker::Memory(self.memory.clone());
        let options: &LoopOptions = &settings.options;
        let program = Program::with_broker(&app, broker, options, schedule);
        let inputs = PersisterInputs {
            holds: self.holds,
            release_queues: vec!["stores".to_owned()],
        };
        let gates = self.gates.clone();
        let task = tokio::spawn(async move {
            let ended = persister::run(&program, &inputs, &gates, &settings).await;
            ended.unwrap();
        });
        Running { task, app }
    }

    pub async fn publish(&self, queue: &str, messages: impl IntoIterator<Item = Message>) {
        let broker = Broker::Memory(self.memory.clone());
        let session = broker.connect("test").await.unwrap();
        for message in messages {
            let publication = Publication::to_queue(queue.to_owned(), message);
            let answer = session.publisher.publish(publication).await.unwrap();
            assert_eq!(answer.await.unwrap(), Confirm::Stored);
        }
        session.close().await;
    }

    pub async fn publish_facts(&self, run: &RunId, facts: impl IntoIterator<Item = Fact>) {
        let receipts = facts.into_iter().map(|fact| {
            let receipt = Receipt {
                run: run.clone(),
                at_ms: now_ms(),
                fact,
            };
            receipt.to_message()
        });
        self.publish("ledger", receipts.collect::<Vec<_>>()).await;
    }

    /// Publishes the batches of an attempt at a task to the queue where they are held.
    pub async fn hold(&self, run: &RunId, n: u32, attempt: u32, batches: u32) {
        let messages = (0..batches).map(|sequence| {
            let id = BatchId {
                task: task(n),
                attempt,
                sequence,
            };
            Message::new(
                Headers::for_batch(run, id, 0, 10),
                format!("{n}/{attempt}/{sequence}"),
            )
        });
        self.publish("persister-in", messages.collect::<Vec<_>>())
            .await;
    }

    pub fn receipts(&self, run: &RunId) -> Vec<Fact> {
        let receipts = self.memory.ready("ledger");
        let receipts = receipts.iter().map(|m| Receipt::from_message(m).unwrap());
        receipts.filter(|r| r.run == *run).map(|r| r.fact).collect()
    }

    /// Decisions of the gates on a run, as they were published.
    pub fn decisions(&self, run: &RunId) -> Vec<(String, Decision)> {
        let facts = self.receipts(run).into_iter();
        let decided = facts.filter_map(|fact| match fact {
            Fact::GateDecided {
                stage, decision, ..
            } => Some((stage.to_string(), decision)),
            _ => None,
        });
        decided.collect()
    }

    pub fn orders(&self) -> Vec<Order> {
        let orders = self.memory.ready("orders");
        orders
            .iter()
            .map(|m| Order::from_message(m).unwrap())
            .collect()
    }

    /// Bodies of the messages of a queue, sorted.
    pub fn bodies(&self, queue: &str) -> Vec<String> {
        let messages = self.memory.ready(queue);
        let bodies = messages
            .iter()
            .map(|m| String::from_utf8_lossy(&m.body).into_owned());
        let mut bodies: Vec<String> = bodies.collect();
        bodies.sort();
        bodies
    }

    /// The ledger as a program that opens it now reads it.
    pub fn ledger(&self) -> Ledger {
        let mut ledger = Ledger::new();
        for message in self.memory.ready("runs") {
            ledger.take_record(RunRecord::from_message(&message).unwrap());
        }
        let from = ledger.resume_offset().unwrap_or(0);
        for (offset, message) in (0..).zip(self.memory.ready("ledger")) {
            if offset >= from {
                ledger.apply_at(offset, &Receipt::from_message(&message).unwrap());
            }
        }
        ledger
    }

    pub async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + TEST_TIMEOUT;
        while !condition(self) {
            assert!(
                tokio::time::Instant::now() < deadline,
                "not in time: {what}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn until_ended(&self, run: &RunId) {
        self.until("the run is recorded", |scene| {
            scene.ledger().record(run).is_some()
        })
        .await;
    }
}

pub fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap().as_millis() as i64
}

pub fn started(stores: &[&str]) -> Fact {
    let has_dictionary = stores.contains(&"ch");
    Fact::Started(Started {
        pipeline: "test".into(),
        mode: RunMode::Full,
        until_ms: 77,
        shards: 2,
        stores: stores.iter().map(|s| s.to_string()).collect(),
        partial: false,
        source: "s".into(),
        nonce: String::new(),
        differences: Vec::new(),
        run_plan: Some(RunPlan {
            dictionary_after: has_dictionary.then(|| "ch".to_owned()),
            serp: has_dictionary,
            ..RunPlan::default()
        }),
    })
}

pub fn manifest(tasks: u64) -> Fact {
    Fact::Manifest {
        tasks,
        estimated_rows: tasks * 10,
    }
}

pub fn fetched(n: u32, attempt: u32, batches: u32) -> Fact {
    Fact::Fetched {
        task: task(n),
        attempt,
        shard: 0,
        batches,
        rows: u64::from(batches) * 10,
        bytes: 1,
    }
}

pub fn given_up(n: u32) -> Fact {
    Fact::TaskQuarantined {
        task: task(n),
        program: "fetcher".into(),
        reason: Reason::TooManyRetries,
    }
}

pub fn stored(store: &str, n: u32, attempt: u32, sequence: u32) -> Fact {
    Fact::Stored {
        store: store.into(),
        batch: BatchId {
            task: task(n),
            attempt,
            sequence,
        },
        shard: 0,
        rows: Rows {
            stored: 10,
            ..Rows::default()
        },
        targets: [].into(),
        reasons: [].into(),
    }
}

pub fn applied(shard: u32, nodes: &[&str]) -> Fact {
    Fact::ShardApplied {
        shard,
        version: 77,
        entries: 1,
        nodes: nodes.iter().map(|n| n.to_string()).collect(),
    }
}

pub fn restarted(node: &str) -> Fact {
    Fact::NodeRestarted {
        node: node.into(),
        shard: 0,
        restarted: 8,
        already: 0,
    }
}

pub fn approved(stage: &str) -> Fact {
    Fact::OperatorDecided {
        stage: Stage::from(stage.to_owned()),
        decision: Decision::Passed,
        who: "ada".into(),
        why: "repaired".into(),
    }
}
