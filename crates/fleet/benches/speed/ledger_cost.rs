//! What it costs to read the ledger: folding receipts, and opening a long history.

use std::time::Instant;

use batch::{
    BatchId, Fact, Message, Reason, Receipt, Rows, RunId, RunMode, RunPlan, Started, TaskHash,
};
use ledger::{Ledger, RunState};
use pipeline::broker::{Broker, Publication, RabbitMq};
use pipeline::{history, names};
use testkit::VirtualHost;

use crate::figure::{Figure, median};

/// Receipts of the run that is folded, and of the one that is open in the long history.
pub const RECEIPTS: u32 = 100_000;
const FINISHED: u64 = 10_000;
const ROUNDS: usize = 5;

pub fn run() -> Vec<Figure> {
    let messages = messages(&run_id(0), RECEIPTS);
    let folded: Vec<f64> = (0..ROUNDS).map(|_| fold(&messages)).collect();
    vec![
        Figure::absolute(
            format!("ledger: {RECEIPTS} receipts read and folded, in memory"),
            "receipts/s",
            median(folded),
            Some(">=500000"),
        ),
        Figure::absolute(
            format!(
                "ledger: opening {FINISHED} ended runs and one of {RECEIPTS} receipts, from the broker"
            ),
            "s",
            open(&messages),
            Some("<=2"),
        ),
    ]
}

fn fold(messages: &[Message]) -> f64 {
    let begun = Instant::now();
    let mut ledger = Ledger::new();
    for message in messages {
        ledger.apply(&Receipt::from_message(message).expect("a receipt"));
    }
    let seconds = begun.elapsed().as_secs_f64();
    let run = ledger.run(&run_id(0)).expect("it is there");
    assert!(
        run.is_complete(),
        "{}",
        ledger::Progress::new(run).summary()
    );
    messages.len() as f64 / seconds
}

/// Seconds from nothing to the state of every run, from a broker that has it all.
fn open(messages: &[Message]) -> f64 {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    runtime.block_on(async {
        let host = VirtualHost::create();
        for stream in [names::RUNS, names::LEDGER] {
            let body = r#"{"durable":true,"arguments":{"x-queue-type":"stream"}}"#;
            host.api("PUT", &format!("queues/{}/{stream}", host.name()), body);
        }
        let broker = RabbitMq::new(host.url()).expect("an AMQP address");
        let broker = Broker::RabbitMq(broker);
        publish(&broker, names::RUNS, records()).await;
        publish(&broker, names::LEDGER, messages.to_vec()).await;
        let mut seconds = Vec::new();
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            let ledger = history::read(&broker, |_| {})
                .await
                .expect("it can be read");
            seconds.push(begun.elapsed().as_secs_f64());
            assert_eq!(ledger.all().len() as u64, FINISHED + 1);
        }
        median(seconds)
    })
}

pub async fn publish(broker: &Broker, queue: &str, messages: Vec<Message>) {
    let session = broker.connect("bench").await.expect("the broker is there");
    let mut confirms = Vec::with_capacity(messages.len());
    for message in messages {
        let publication = Publication::to_queue(queue.to_owned(), message);
        let published = session.publisher.publish(publication).await;
        confirms.push(published.expect("the session lasts"));
    }
    for confirm in confirms {
        confirm.await.expect("the session lasts");
    }
    session.close().await;
}

fn run_id(n: u64) -> RunId {
    RunId::new("direct", 1_767_323_045_000 + n as i64 * 3_600_000).expect("a name")
}

/// The records of runs that ended, each with some batches of its own in every figure.
fn records() -> Vec<Message> {
    let record = |n| {
        let run = run_id(n);
        let mut state = RunState::new(run.clone());
        for message in messages(&run, 60) {
            state.apply(&Receipt::from_message(&message).expect("a receipt"));
        }
        let mut ledger = Ledger::new();
        for message in messages(&run, 60) {
            ledger.apply(&Receipt::from_message(&message).expect("a receipt"));
        }
        ledger.finish(&run).expect("it has ended").to_message()
    };
    (1..=FINISHED).map(record).collect()
}

/// `count` receipts of a whole run for two stores, with the longest receipts of batches: targets, and here
/// and there a refused row.
pub fn messages(run: &RunId, count: u32) -> Vec<Message> {
    const BATCHES: u32 = 20;
    let tasks = (count - 2) / (1 + 2 * BATCHES);
    let mut facts = vec![
        Fact::Started(Started {
            pipeline: "direct".into(),
            mode: RunMode::Full,
            until_ms: 1_767_323_045_000,
            shards: 200,
            stores: vec!["ch-writer".into(), "es-writer".into()],
            partial: false,
            source: "5f2c".into(),
            nonce: String::new(),
            differences: Vec::new(),
            run_plan: None::<RunPlan>,
        }),
        Fact::Manifest {
            tasks: tasks.into(),
            estimated_rows: u64::from(count) * 1000,
        },
    ];
    for n in 0..tasks {
        let task = TaskHash::new([&n.to_le_bytes()[..]]);
        for sequence in 0..BATCHES {
            let batch = BatchId {
                task,
                attempt: 1,
                sequence,
            };
            facts.push(stored("ch-writer", batch, false));
            facts.push(stored("es-writer", batch, true));
        }
        facts.push(Fact::Fetched {
            task,
            attempt: 1,
            shard: n % 200,
            batches: BATCHES,
            rows: u64::from(BATCHES) * 1000,
            bytes: 1_320_000,
        });
    }
    let receipts = facts.into_iter().map(|fact| Receipt {
        run: run.clone(),
        at_ms: 1_767_323_046_000,
        fact,
    });
    receipts.map(|receipt| receipt.to_message()).collect()
}

fn stored(store: &str, batch: BatchId, indices: bool) -> Fact {
    let refused = u64::from(indices && batch.sequence == 7);
    let rows = Rows {
        stored: 1000 - refused,
        quarantined: refused,
        ..Rows::default()
    };
    let targets = ["keywords-all-20220613", "keywords-lite-20241025"];
    let targets = targets.map(|index| (index.to_owned(), rows.clone()));
    Fact::Stored {
        store: store.into(),
        batch,
        shard: 7,
        rows: rows.clone(),
        targets: targets.into_iter().filter(|_| indices).collect(),
        reasons: (refused > 0)
            .then_some((Reason::RefusedRows, refused))
            .into_iter()
            .collect(),
    }
}
