//! The program itself, as a process on a real broker.

use std::process::{Child, Command as Program, Stdio};
use std::time::{Duration, Instant};

use app::{App, AppSettings};
use batch::{Command, Fact, Message, Order, Receipt};
use pipeline::broker::{Broker, Publication, RabbitMq};
use pipeline::{BrokerSettings, LoopOptions, Role, RoleKind, names, run_worker};
use serde::{Deserialize, Serialize};
use serp::{Pause, SerpSettings};
use serp_restarter::{SerpRestarter, SerpRestarterSettings};
use testkit::VirtualHost;
use testkit::serp::{Fault, Prober};
use topology::management::{Discards, Management};
use topology::{Catalog, LEDGER, PipelineSettings, desired};

use crate::support::{READ, TestNode, name};

/// Variable that makes this program a serp-restarter.
const RESTARTER: &str = "TEST_SERP_RESTARTER";

/// The program that sends the orders.
const ORDERER: Role = Role {
    name: "orderer",
    kind: RoleKind::Producer,
    outputs: &["orders"],
    optional: &[],
};

const TYPE: &str = "[orders]\nabout = \"Orders alone.\"\nflow = [\n\"orderer.orders -> serp-restarter\",\n\
                    \"*.receipts -> ledger\",\n]\n";

#[derive(Serialize, Deserialize)]
struct Configuration {
    broker: BrokerSettings,
    serp: SerpSettings,
    restarter: SerpRestarterSettings,
}

/// Not a test: the program of the restarters, which the tests start by this name.
#[test]
#[ignore = "it is the serp-restarter of the other tests"]
fn restarter_process() {
    let Ok(configuration) = std::env::var(RESTARTER) else {
        return;
    };
    let Configuration {
        broker,
        serp,
        restarter,
    } = serde_json::from_str(&configuration).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let app = App::start("serp-restarter", &AppSettings::default()).unwrap();
        let options = restarter.loop_options(&serp);
        let program = pipeline::Program::new(&app, &broker, &options).unwrap();
        let broker = program.broker.clone();
        let worker = SerpRestarter::new(&app, broker, &serp, &restarter).unwrap();
        run_worker(&program, worker).await.unwrap();
    });
}

/// A broker with the restarter's queues.
struct Fleet {
    configuration: Configuration,
    management: Management,
    broker: Broker,
    host: VirtualHost,
}

impl Fleet {
    async fn new(serp: &SerpSettings, max_retries: u32) -> Self {
        let host = VirtualHost::create();
        let broker = BrokerSettings {
            url: host.url().into(),
            management_url: Some(host.management_url().into()),
            retry_delays_seconds: vec![1],
            ..BrokerSettings::default()
        };
        let management = Management::from_settings(&broker).unwrap();
        let catalog = Catalog::parse("test", TYPE).unwrap();
        let roles = [ORDERER, serp_restarter::ROLE, LEDGER];
        let topology = catalog.topology("orders", &roles).unwrap();
        let schedule = broker.retry_schedule().unwrap();
        let wanted = desired(&topology, &PipelineSettings::default(), &schedule);
        let configured = management.configure(&wanted, &Discards::new()).await;
        configured.unwrap();
        let options = LoopOptions {
            max_retries,
            ..LoopOptions::sized(1, 1)
        };
        let restarter = SerpRestarterSettings {
            options,
            dry_run: false,
        };
        Self {
            broker: Broker::RabbitMq(RabbitMq::new(host.url()).unwrap()),
            configuration: Configuration {
                broker,
                serp: serp.clone(),
                restarter,
            },
            management,
            host,
        }
    }

    fn start(&self) -> RestarterProcess {
        let mut configuration = serde_json::to_value(&self.configuration).unwrap();
        // Secrets are not written out.
        configuration["broker"]["url"] = self.host.url().into();
        configuration["broker"]["management_url"] = self.host.management_url().into();
        let child = Program::new(std::env::current_exe().unwrap())
            .args(["--exact", "processes::restarter_process", "--ignored"])
            .env(RESTARTER, configuration.to_string())
            // Nothing listens there: the restarter must not use a proxy.
            .env("http_proxy", "http://127.0.0.1:1")
            .env("all_proxy", "http://127.0.0.1:1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        RestarterProcess(child.unwrap())
    }

    async fn order(&self, version: i64, node: &str) {
        let session = self.broker.connect("test").await.unwrap();
        let order = Order {
            run: format!("r-{version}").parse().unwrap(),
            version,
            expires_at_ms: i64::MAX,
            shard: 0,
            command: Command::RestartSerp {
                node: node.to_owned(),
            },
        };
        let queue = names::input_queue("serp-restarter");
        let publication = Publication::to_queue(queue, order.to_message());
        let sent = session.publisher.publish(publication).await.unwrap();
        sent.await.unwrap();
        session.close().await;
    }

    async fn facts(&self) -> Vec<Fact> {
        let fact = |message: Message| Receipt::from_message(&message).unwrap().fact;
        let mut read = Vec::new();
        let take = |_, message| read.push(message);
        let reading = self.broker.read_stream_from(names::LEDGER, 0, take);
        reading.await.unwrap();
        read.into_iter().map(fact).collect()
    }

    async fn wait_for(&self, what: &str, wanted: impl Fn(&Fact) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.facts().await.iter().any(&wanted) {
            let facts = self.facts().await;
            assert!(Instant::now() < deadline, "{what}: {facts:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// A running restarter. Killed on drop.
struct RestarterProcess(Child);

impl RestarterProcess {
    /// SIGKILL.
    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for RestarterProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_restarter_that_is_killed_in_the_middle_of_a_node_is_continued_by_another() {
    let node = TestNode::start(2);
    let [first, second] = node.ports[..] else {
        unreachable!()
    };
    let node_name = name(&node.ports);
    let fleet = Fleet::new(&node.settings, 3).await;
    let prober = Prober::start(&node.ports, READ);
    let listens = |port| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
    for (round, (what, port)) in [("down", first), ("back", first), ("down", second)]
        .into_iter()
        .enumerate()
    {
        // Long enough down to be seen.
        node.ports
            .iter()
            .for_each(|port| node.supervisor.fault(*port, Fault::Slow(400)));
        let version = round as i64 + 2;
        node.publish(version);
        let killed = fleet.start();
        fleet.order(version, &node_name).await;
        let starts = node.supervisor.starts(port);
        until("the port is told to exit", async || !listens(port)).await;
        if what == "back" {
            until("it is back", async || {
                listens(port) && node.supervisor.starts(port) > starts
            })
            .await;
        }
        killed.kill();
        let other = fleet.start();
        let run_done = |fact: &Fact| matches!(fact, Fact::NodeRestarted { .. });
        until("the node is restarted", async || {
            fleet.facts().await.iter().filter(|f| run_done(f)).count() > round
        })
        .await;
        drop(other);
        assert_eq!(node.versions().await, [Some(version); 2], "{what} {port}");
        assert_eq!(node.starts(), [round as u32 + 2; 2], "{what} {port}");
    }
    let probed = prober.stop();
    assert_eq!((probed.failed, probed.most_down), (0, 1), "{probed:?}");
}

#[tokio::test]
async fn the_pause_switch_in_the_broker_stops_a_process_between_two_ports() {
    let node = TestNode::start(3);
    let node_name = name(&node.ports);
    let fleet = Fleet::new(&node.settings, 3).await;
    node.supervisor.fault(node.ports[0], Fault::Slow(1000));
    node.publish(2);
    let _restarter = fleet.start();
    fleet.order(2, &node_name).await;
    until("the first port is told to exit", async || {
        node.starts()[0] == 2
    })
    .await;
    let management = &fleet.management;
    let pause = Pause::begin(management, "a test", "an operator").await;
    let current = Pause::current(management).await;
    assert_eq!(current.unwrap(), Some(pause.unwrap()));
    until("the first port is back", async || {
        node.versions().await[0] == Some(2)
    })
    .await;
    // The order comes again every second meanwhile.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(node.starts(), [2, 1, 1]);
    assert!(fleet.facts().await.is_empty());
    let ended = Pause::end(management).await.unwrap();
    assert_eq!(ended.unwrap().reason, "a test");
    assert_eq!(Pause::end(management).await.unwrap(), None);
    fleet
        .wait_for("the node is restarted", |fact| {
            matches!(
                fact,
                Fact::NodeRestarted {
                    restarted: 2,
                    already: 1,
                    ..
                }
            )
        })
        .await;
    assert_eq!(node.starts(), [2; 3]);
}

#[tokio::test]
async fn a_node_that_never_returns_is_given_up_on_the_ledger_and_the_next_order_is_processed() {
    let (mut bad, good) = (TestNode::start(2), TestNode::start(1));
    let names = [name(&bad.ports), name(&good.ports)];
    bad.settings.back_timeout_seconds = 0.5;
    bad.settings.nodes = vec![names.to_vec()];
    bad.publish(2);
    good.publish(2);
    bad.supervisor.fault(bad.ports[0], Fault::Fail);
    let fleet = Fleet::new(&bad.settings, 1).await;
    let _restarter = fleet.start();
    fleet.order(2, &names[0]).await;
    fleet.order(2, &names[1]).await;
    fleet.order(2, "elsewhere").await;
    let given_up = |fact: &Fact| match fact {
        Fact::OrderFailed {
            target, given_up, ..
        } => given_up.then(|| target.clone()),
        _ => None,
    };
    fleet
        .wait_for("both are given up", |fact| {
            given_up(fact).is_some_and(|target| target == names[0])
        })
        .await;
    let facts = fleet.facts().await;
    let targets: Vec<_> = facts.iter().filter_map(given_up).collect();
    assert_eq!(targets, ["elsewhere", names[0].as_str()]);
    let tries = |fact: &&Fact| matches!(fact, Fact::OrderFailed { given_up, .. } if !given_up);
    assert!(facts.iter().filter(tries).count() >= 1, "{facts:?}");
    let restarted =
        |fact: &Fact| matches!(fact, Fact::NodeRestarted { node, .. } if *node == names[1]);
    assert!(facts.iter().any(restarted));
    assert_eq!(bad.versions().await, [None, Some(1)]);
}
