//! How long a decision takes, from the last receipt that it needs until it is on the ledger.

use std::time::{Duration, Instant};

use batch::{Fact, Message, Receipt, RunId, RunPlan, Started};
use pipeline::broker::{Broker, RabbitMq, StreamConsumer};
use pipeline::{history, names};
use testkit::{Fleet, VirtualHost, repository, unique};

use crate::figure::Figure;
use crate::ledger_cost::{RECEIPTS, messages, publish};
use crate::line::BINARY;

/// Runs that are judged while the large one is open.
const RUNS: u32 = 200;
/// Receipts of each of them.
const SMALL: u32 = 60;
const PATIENCE: Duration = Duration::from_secs(120);

pub fn run() -> Vec<Figure> {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    let (mut beside, own) = runtime.block_on(measure());
    beside.sort_by(f64::total_cmp);
    let p99 = beside[beside.len() * 99 / 100];
    vec![
        Figure::absolute(
            format!(
                "gates: last receipt to decision, p99 of {RUNS} runs beside one of {RECEIPTS} receipts"
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

    let mut large = judged(&run_id(0), RECEIPTS);
    let last_of_large = large.pop().expect("it has receipts");
    publish(&broker, names::LEDGER, large).await;
    let (_, mut consumer) = history::follow(&broker)
        .await
        .expect("the ledger can be followed");
    let mut beside = Vec::new();
    for n in 1..=RUNS {
        let mut small = judged(&run_id(n), SMALL);
        let last = small.pop().expect("it has receipts");
        publish(&broker, names::LEDGER, small).await;
        beside.push(decision(&broker, &mut consumer, &run_id(n), last).await);
    }
    let own = decision(&broker, &mut consumer, &run_id(0), last_of_large).await;
    let _ = std::fs::remove_dir_all(&folder);
    (beside, own)
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
        let next = tokio::time::timeout(PATIENCE, consumer.next()).await;
        let (_, message) = next
            .expect("a decision in time")
            .expect("the ledger goes on");
        let receipt = Receipt::from_message(&message).expect("a receipt");
        let store = matches!(&receipt.fact, Fact::GateDecided { stage, .. } if stage.as_str() == "es-writer");
        if store && receipt.run == *run {
            return begun.elapsed().as_secs_f64();
        }
    }
}

fn run_id(n: u32) -> RunId {
    RunId::new("elasticsearch-only", 1_767_323_045_000 + i64::from(n)).expect("a name")
}

/// The receipts of a run for two stores that is judged up to them and ordered nothing after.
fn judged(run: &RunId, count: u32) -> Vec<Message> {
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
    // The last one is an answer of the store that is waited for.
    let is_answer = |message: &Message| {
        let receipt = Receipt::from_message(message).expect("a receipt");
        matches!(receipt.fact, Fact::Stored { store, .. } if store == "es-writer")
    };
    let last = messages
        .iter()
        .rposition(is_answer)
        .expect("a store answered");
    let last = messages.remove(last);
    messages.push(last);
    messages
}
