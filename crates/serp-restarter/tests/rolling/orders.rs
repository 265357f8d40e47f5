use std::time::Duration;

use app::App;
use batch::{Command, Fact, Headers, Invalid, Message, MessageKind, Order, Reason, Receipt, Stage};
use pipeline::broker::{Broker, Memory};
use pipeline::testing::Sent;
use pipeline::{Outcome, Worker};
use serp::SERP_PAUSED;
use serp_restarter::{SerpRestarter, SerpRestarterSettings};
use testkit::serp::Fault;

use crate::support::{TestNode, name};

/// What a restarter did with one delivery.
struct Done {
    outcome: Outcome,
    facts: Vec<Fact>,
    app: App,
}

struct TestRestarter {
    worker: SerpRestarter,
    broker: Memory,
    app: App,
}

impl TestRestarter {
    fn new(node: &TestNode, settings: &SerpRestarterSettings) -> Self {
        let (app, broker) = (App::detached("serp-restarter"), Memory::new());
        let shared = Broker::Memory(broker.clone());
        let worker = SerpRestarter::new(&app, shared, &node.settings, settings).unwrap();
        Self {
            worker,
            broker,
            app,
        }
    }

    async fn process(&self, message: Message) -> Done {
        let (mut job, sent) = pipeline::testing::job(&self.app, message, 1);
        let outcome = self.worker.process(&mut job).await;
        pipeline::testing::confirmed(&mut job).await;
        Done {
            outcome,
            facts: facts(&sent),
            app: self.app.clone(),
        }
    }
}

fn facts(sent: &Sent) -> Vec<Fact> {
    let fact = |message: Message| Receipt::from_message(&message).unwrap().fact;
    sent.to("receipts").into_iter().map(fact).collect()
}

async fn process(node: &TestNode, message: Message) -> Done {
    let settings = SerpRestarterSettings::default();
    TestRestarter::new(node, &settings).process(message).await
}

fn order(version: i64, command: Command) -> Message {
    let order = Order {
        run: "r-2".parse().unwrap(),
        version,
        expires_at_ms: i64::MAX,
        shard: 1,
        command,
    };
    order.to_message()
}

fn restart(version: i64, node: &str) -> Message {
    let node = node.to_owned();
    order(version, Command::RestartSerp { node })
}

fn refused(outcome: &Outcome) -> &Invalid {
    match outcome {
        Outcome::Quarantine(invalid) => invalid,
        other => panic!("{other:?}"),
    }
}

fn snoozed(outcome: &Outcome) -> (&str, Duration) {
    match outcome {
        Outcome::Snooze { why, delay } => (why, *delay),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_order_restarts_its_node_and_sends_a_receipt() {
    let node = TestNode::start(2);
    node.publish(2);
    let node_name = name(&node.ports);
    let restarter = TestRestarter::new(&node, &SerpRestarterSettings::default());
    let done = restarter.process(restart(2, &node_name)).await;
    assert_eq!(done.outcome, Outcome::Done);
    let fact = |restarted, already| Fact::NodeRestarted {
        node: node_name.clone(),
        shard: 1,
        restarted,
        already,
    };
    assert_eq!(done.facts, [fact(2, 0)]);
    let ports = |status| done.app.stats.counter("ports", &[("status", status)]);
    assert_eq!((ports("restarted"), ports("already")), (2, 0));
    assert_eq!(done.app.stats.observations("restart", &[]), 2);
    // The same order again, and an older one, restart nothing.
    for version in [2, 1] {
        let again = restarter.process(restart(version, &node_name)).await;
        assert_eq!(again.outcome, Outcome::Done);
        assert_eq!(again.facts, [fact(0, 2)]);
    }
    assert_eq!(node.starts(), [2, 2]);
}

#[tokio::test]
async fn a_node_that_fails_is_tried_again_while_the_other_nodes_go_on() {
    let (mut bad, good) = (TestNode::start(2), TestNode::start(2));
    bad.settings.back_timeout_seconds = 1.0;
    let names = [name(&bad.ports), name(&good.ports)];
    bad.settings.nodes = vec![names.to_vec()];
    bad.settings.max_unavailable_nodes = 2;
    bad.publish(2);
    good.publish(2);
    bad.supervisor.fault(bad.ports[0], Fault::Fail);
    let restarter = TestRestarter::new(&bad, &SerpRestarterSettings::default());
    let (failed, restarted) = tokio::join!(
        restarter.process(restart(2, &names[0])),
        restarter.process(restart(2, &names[1])),
    );
    assert_eq!(restarted.outcome, Outcome::Done);
    assert_eq!(good.versions().await, [Some(2), Some(2)]);
    assert!(matches!(&failed.outcome, Outcome::Retry { at, .. } if at.contains(&names[0])));
    let [
        Fact::OrderFailed {
            stage,
            target,
            step,
            error,
            given_up,
        },
    ] = failed.facts.as_slice()
    else {
        panic!("{:?}", failed.facts)
    };
    assert_eq!((stage, target, *given_up), (&Stage::Serp, &names[0], false));
    assert_eq!(step, "wait-for-restarted-port");
    assert!(error.contains(&bad.ports[0].to_string()), "{error}");
    // Its other port was left alone.
    assert_eq!(bad.versions().await, [None, Some(1)]);
    let by_step = [("step", "wait-for-restarted-port")];
    assert_eq!(failed.app.stats.counter("failures", &by_step), 1);
}

#[tokio::test]
async fn an_order_for_another_host_goes_to_quarantine_by_name() {
    let node = TestNode::start(1);
    for other in [
        "localhost",
        "example.com",
        "127.0.0.1:22",
        "127.0.0.1",
        "a/b",
    ] {
        let done = process(&node, restart(2, other)).await;
        let invalid = refused(&done.outcome);
        assert_eq!(invalid.reason, Reason::ForbiddenTarget, "{invalid}");
        assert!(done.facts.is_empty());
    }
    let refresh = order(2, Command::RefreshDictionary);
    let done = process(&node, refresh).await;
    assert_eq!(refused(&done.outcome).reason, Reason::NotReadable);
    let bytes = Message::new(
        Headers::for_run(&"r-2".parse().unwrap(), MessageKind::Order),
        b"x".to_vec(),
    );
    let done = process(&node, bytes).await;
    assert_eq!(refused(&done.outcome).reason, Reason::NotReadable);
    assert_eq!(node.starts(), [1]);
}

#[tokio::test]
async fn a_quarantined_order_sends_a_receipt_that_the_node_is_given_up() {
    let node = TestNode::start(1);
    let restarter = TestRestarter::new(&node, &SerpRestarterSettings::default());
    let why = Invalid::new(Reason::TooManyRetries, "failed 11 times");
    let sent = restarter.worker.quarantined(&restart(2, "hotdog001"), &why);
    let fact = Receipt::from_message(&sent.unwrap()).unwrap().fact;
    let expected = Fact::OrderFailed {
        stage: Stage::Serp,
        target: "hotdog001".to_owned(),
        step: "too-many-retries".to_owned(),
        error: "failed 11 times".to_owned(),
        given_up: true,
    };
    assert_eq!(fact, expected);
    let refresh = order(2, Command::RefreshDictionary);
    assert!(restarter.worker.quarantined(&refresh, &why).is_none());
}

#[tokio::test]
async fn while_the_service_is_paused_an_order_is_snoozed() {
    let node = TestNode::start(2);
    node.publish(2);
    let node_name = name(&node.ports);
    let restarter = TestRestarter::new(&node, &SerpRestarterSettings::default());
    restarter.broker.declare_exchange(SERP_PAUSED);
    let done = restarter.process(restart(2, &node_name)).await;
    let (why, delay) = snoozed(&done.outcome);
    assert!(why.contains("paused") && delay == Duration::from_secs(60));
    assert_eq!(node.starts(), [1, 1]);
    assert!(done.facts.is_empty());
    assert_eq!(done.app.stats.counter("stops", &[("why", "paused")]), 1);
}

#[tokio::test]
async fn outside_of_the_window_an_order_waits_until_it_opens() {
    let mut node = TestNode::start(1);
    node.publish(2);
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let in_hours = |hours| (since / 3600 + hours) % 24;
    node.settings.window = format!("{:02}:00-{:02}:00", in_hours(3), in_hours(4));
    node.settings.check().unwrap();
    let done = process(&node, restart(2, &name(&node.ports))).await;
    let (why, delay) = snoozed(&done.outcome);
    assert!(why.contains("serp.window"), "{why}");
    let hours = delay.as_secs_f64() / 3600.0;
    assert!((1.9..=3.0).contains(&hours), "{hours}");
    assert_eq!(node.starts(), [1]);
}

#[tokio::test]
async fn a_program_that_is_stopped_restarts_no_other_port() {
    let node = TestNode::start(2);
    node.publish(2);
    let restarter = TestRestarter::new(&node, &SerpRestarterSettings::default());
    restarter.app.shutdown.trigger();
    let done = restarter.process(restart(2, &name(&node.ports))).await;
    assert!(snoozed(&done.outcome).0.contains("being stopped"));
    assert_eq!(node.starts(), [1, 1]);
}

#[tokio::test]
async fn two_orders_for_one_node_are_not_processed_at_once() {
    let mut node = TestNode::start(2);
    node.settings.max_unavailable_nodes = 2;
    node.publish(3);
    let node_name = name(&node.ports);
    let restarter = TestRestarter::new(&node, &SerpRestarterSettings::default());
    let (first, second) = tokio::join!(
        restarter.process(restart(2, &node_name)),
        restarter.process(restart(3, &node_name)),
    );
    assert_eq!(first.outcome, Outcome::Done);
    assert!(snoozed(&second.outcome).0.contains("another order"));
    assert_eq!(node.starts(), [2, 2]);
}

#[tokio::test]
async fn a_dry_run_changes_nothing_and_sends_a_receipt_that_nothing_is_done() {
    let node = TestNode::start(2);
    node.publish(2);
    let settings = SerpRestarterSettings {
        dry_run: true,
        ..SerpRestarterSettings::default()
    };
    let restarter = TestRestarter::new(&node, &settings);
    let done = restarter.process(restart(2, &name(&node.ports))).await;
    assert!(matches!(done.outcome, Outcome::Discard { .. }));
    let given_up = Fact::OrderFailed {
        stage: Stage::Serp,
        target: name(&node.ports),
        step: "dry-run".to_owned(),
        error: "serp_restarter.dry_run is set".to_owned(),
        given_up: true,
    };
    assert_eq!(done.facts, [given_up]);
    assert_eq!(node.starts(), [1, 1]);
    assert_eq!(node.versions().await, [Some(1), Some(1)]);
}
