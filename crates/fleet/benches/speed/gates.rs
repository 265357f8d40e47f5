//! How long a decision takes, from the last receipt that it needs until it is on the ledger.

use std::time::{Duration, Instant};

use batch::{Fact, Message, Receipt, RunId, RunPlan, Started};
use pipeline::broker::{Broker, RabbitMq, StreamConsumer};
use pipeline::{history, names};
use testkit::{Fleet, VirtualHost, repository, unique};

use crate::figure::Figure;
use crate::ledger_cost::{RECEIPTS, messages, publish};
use crate::line::BINARY;

/// Runs that are decided while the large one is open.
const RUNS: u32 = 200;
/// Receipts of each of them.
const SMALL: u32 = 60;
const DECISION_TIMEOUT: Duration = Duration::from_secs(120);

pub fn run() -> Vec<Figure> {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    let (mut next_to_large, own) = runtime.block_on(measure());
    next_to_large.sort_by(f64::total_cmp);
    let p99 = next_to_large[next_to_large.len() * 99 / 100];
    vec![
        Figure::absolute(
            format!(
                "gates: last receipt to decision, p99 of {RUNS} runs next to one of {RECEIPTS} receipts"
            ),
            "s",
            p99,
            Some("<=1"),
        ),
        Figure::absolute(
            format!("gates: last receipt to decision, of the run of {RECEIPTS} receipts itself"),
            "s",
            own,
            Some("<=1"),
        ),
    ]
}

async fn measure() -> (Vec<f64>, f64) {
    let host = VirtualHost::create();
    let folder = repository().join("target").join(unique("gates"));
    std::fs::create_dir_all(&folder).expect("the folder can be made");
    let config = folder.join("fleet.toml");
    let text = format!(
        "[broker]\nurl = \"{}\"\nmanagement_url = \"{}\"\n",
        host.url(),
        host.management_url()
    );
    std::fs::write(&config, text).expect("the configuration can be written");
    let fleet = Fleet::new(BINARY, config, Vec::new(), folder.join("log"));
    fleet.run(&["pipeline", "configure", "--type", "elasticsearch-only"]);
    let _persister = fleet.start("persister");
    let broker = Broker::RabbitMq(RabbitMq::new(host.url()).expect("an AMQP address"));

    let mut large = decided_receipts(&run_id(0), RECEIPTS);
    let last_of_large = large.pop().expect("it has receipts");
    publish(&broker, names::LEDGER, large).await;
    let (_, mut consumer) = history::follow(&broker)
        .await
        .expect("the ledger can be followed");
    let mut next_to_large = Vec::new();
    for n in 1..=RUNS {
        let mut small = decided_receipts(&run_id(n), SMALL);
        let last = small.pop().expect("it has receipts");
        publish(&broker, names::LEDGER, small).await;
        next_to_large.push(decision(&broker, &mut consumer, &run_id(n), last).await);
    }
    let own = decision(&broker, &mut consumer, &run_id(0), last_of_large).await;
    let _ = std::fs::remove_dir_all(&folder);
    (next_to_large, own)
}

/// Seconds from the confirm of `last` to the decision on the run's last store, both as this process sees them.
async fn decision(
    broker: &Broker,
    consumer: &mut StreamConsumer,
    run: &RunId,
    last: Message,
) -> f64 {
    publish(broker, names::LEDGER, vec![last]).await;
    let begun = Instant::now();
    loop {
        let next = tokio::time::timeout(DECISION_TIMEOUT, consumer.next()).await;
        let received = next
            .expect("a decision in time")
            .expect("the ledger can be followed");
        let receipt = Receipt::from_message(&received.message).expect("a receipt");
        let store = matches!(&receipt.fact, Fact::GateDecided { stage, .. } if stage.as_str() == "es-writer");
        if store && receipt.run == *run {
            return begun.elapsed().as_secs_f64();
        }
    }
}

fn run_id(n: u32) -> RunId {
    RunId::new("elasticsearch-only", 1_767_323_045_000 + i64::from(n)).expect("a name")
}

/// The receipts of a run of two stores, whose gates decide on the stores and on nothing after them.
fn decided_receipts(run: &RunId, count: u32) -> Vec<Message> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now_ms = now.map_or(0, |now| now.as_millis() as i64);
    let change = |message: Message| {
        let mut receipt = Receipt::from_message(&message).expect("a receipt");
        receipt.at_ms = now_ms;
        if let Fact::Started(Started { run_plan, .. }) = &mut receipt.fact {
            *run_plan = Some(RunPlan::default());
        }
        receipt.to_message()
    };
    let mut messages: Vec<Message> = messages(run, count).into_iter().map(change).collect();
    // The last one is a receipt of the store that is waited for.
    let is_of_store = |message: &Message| {
        let receipt = Receipt::from_message(message).expect("a receipt");
        matches!(receipt.fact, Fact::Stored { store, .. } if store == "es-writer")
    };
    let last = messages
        .iter()
        .rposition(is_of_store)
        .expect("the store has receipts");
    let last = messages.remove(last);
    messages.push(last);
    messages
}
