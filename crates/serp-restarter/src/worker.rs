use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use app::App;
use batch::{Command, Fact, Invalid, Message, Order, Reason, Stage};
use pipeline::broker::Broker;
use pipeline::{Job, MAX_IN_FLIGHT_SECONDS, Outcome, Worker, receipt};
use serp::{ClientError, Node, SerpSettings, Window};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::config::SerpRestarterSettings;
use crate::roll::{Goal, RollError, Rolled, Roller, Stopped};
use crate::switch::Switch;
use crate::watch::{Event, Halt, Watch};

/// How long an order is in flight before it is put off between two ports: the last port may take another ten minutes
/// (`serp.back_timeout_seconds`).
const MOST_IN_HAND: Duration = Duration::from_secs(MAX_IN_FLIGHT_SECONDS - 600);
/// An order that finds the service paused comes again after this.
const PAUSED: Duration = Duration::from_secs(60);
/// One that has to wait for something short comes again after this.
const SHORTLY: Duration = Duration::from_secs(10);

/// What is said to have failed where nothing was tried.
const DRY_RUN: &str = "dry-run";

/// Restarts one node of the SERP service for each order.
pub struct SerpRestarter {
    app: App,
    serp: SerpSettings,
    window: Option<Window>,
    roller: Roller,
    switch: Switch,
    dry_run: bool,
    /// Nodes that may be restarted at once, whatever the number of orders in hand.
    turns: Semaphore,
    /// Nodes being restarted: two orders for one node would each count its ports alone.
    in_work: Mutex<HashSet<String>>,
}

impl SerpRestarter {
    /// Connects to nothing yet. `broker` is asked for the pause switch.
    pub fn new(
        app: &App,
        broker: Broker,
        serp: &SerpSettings,
        settings: &SerpRestarterSettings,
    ) -> Result<Self, ClientError> {
        Ok(Self {
            app: app.clone(),
            window: serp.window(),
            roller: Roller::new(serp)?,
            switch: Switch::new(broker, &app.name),
            dry_run: settings.dry_run,
            turns: Semaphore::new(serp.max_unavailable_nodes.max(1)),
            in_work: Mutex::default(),
            serp: serp.clone(),
        })
    }

    /// Says what a roll would do; the ledger hears that nothing is done.
    async fn only_say(&self, job: &mut Job, order: &Order, node: &Node) -> Outcome {
        for (port, look) in self.roller.survey(node).await {
            let port = node.address(port);
            match look {
                Ok(serving) => {
                    let version = serving.version;
                    let restart = version < Some(order.version);
                    tracing::info!(port, version, restart, "dry run");
                }
                Err(error) => tracing::info!(port, %error, "dry run: down"),
            }
        }
        let why = "serp_restarter.dry_run is set".to_owned();
        let fact = Fact::OrderFailed {
            stage: Stage::Serp,
            target: node.name.clone(),
            step: DRY_RUN.to_owned(),
            error: why.clone(),
            given_up: true,
        };
        job.send("receipts", receipt(&order.run, fact).to_message())
            .await;
        Outcome::Discard { why }
    }

    async fn restarted(
        &self,
        job: &mut Job,
        order: &Order,
        node: &Node,
        rolled: Rolled,
    ) -> Outcome {
        let Rolled { restarted, already } = rolled;
        let stats = &self.app.stats;
        stats.count("ports", &[("status", "already")], already.into());
        tracing::info!(run = %order.run, node = node.name, restarted, already, "node restarted");
        let fact = Fact::NodeRestarted {
            node: node.name.clone(),
            shard: order.shard,
            restarted,
            already,
        };
        job.send("receipts", receipt(&order.run, fact).to_message())
            .await;
        Outcome::Done
    }

    async fn failed(
        &self,
        job: &mut Job,
        order: &Order,
        node: &Node,
        error: &RollError,
    ) -> Outcome {
        let step = error.step.as_str();
        self.app.stats.count("ports", &[("status", "failed")], 1);
        self.app.stats.count("failures", &[("step", step)], 1);
        let fact = Fact::OrderFailed {
            stage: Stage::Serp,
            target: node.name.clone(),
            step: step.to_owned(),
            error: error.to_string(),
            given_up: false,
        };
        job.send("receipts", receipt(&order.run, fact).to_message())
            .await;
        Outcome::retry(error, format!("{}, {step}", node.name))
    }

    fn halted(&self, halt: Halt) -> Outcome {
        let (label, delay) = match &halt {
            Halt::Paused => ("paused", PAUSED),
            Halt::Window { opens_in } => ("window", *opens_in),
            Halt::Unknown(_) => ("unknown", SHORTLY),
            Halt::Stopping => ("stopping", SHORTLY),
            Halt::TimeUp => ("time-up", SHORTLY),
        };
        self.app.stats.count("halts", &[("why", label)], 1);
        let why = halt.to_string();
        Outcome::Snooze { why, delay }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        self.in_work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` while another order has the node in work.
    fn take(&self, node: &Node) -> Option<Taken<'_>> {
        let taken = self.lock().insert(node.name.clone());
        taken.then(|| Taken {
            restarter: self,
            name: node.name.clone(),
        })
    }
}

impl Worker for SerpRestarter {
    const RECEIPTS: &'static str = "receipts";

    /// Nothing is kept from one try to the next: ports that serve the version by then are left alone.
    async fn process(&self, job: &mut Job) -> Outcome {
        let (order, node) = match self.read(job.message()) {
            Ok(read) => read,
            Err(invalid) => return invalid.into(),
        };
        if self.dry_run {
            return self.only_say(job, &order, &node).await;
        }
        let Some(_taken) = self.take(&node) else {
            let why = format!("another order restarts {}", node.name);
            let delay = SHORTLY;
            return Outcome::Snooze { why, delay };
        };
        let _turn = self.turns.acquire().await;
        let watch = InHand::new(self, &node);
        let goal = Goal::Version(order.version);
        match self.roller.roll(&node, goal, &watch).await {
            Ok(rolled) => self.restarted(job, &order, &node, rolled).await,
            Err(Stopped::Halted(halt)) => self.halted(halt),
            Err(Stopped::Failed(error)) => self.failed(job, &order, &node, &error).await,
        }
    }

    fn quarantined(&self, message: &Message, why: &Invalid) -> Option<Message> {
        let order = Order::from_message(message).ok()?;
        let Command::RestartSerp { node } = order.command else {
            return None;
        };
        let fact = Fact::OrderFailed {
            stage: Stage::Serp,
            target: node,
            step: why.reason.as_str().to_owned(),
            error: why.detail.clone(),
            given_up: true,
        };
        Some(receipt(&order.run, fact).to_message())
    }
}

impl SerpRestarter {
    fn read(&self, message: &Message) -> Result<(Order, Node), Invalid> {
        let order = Order::from_message(message)?;
        let Command::RestartSerp { node } = &order.command else {
            let detail = "it is an order, but not one to restart a SERP node";
            return Err(Invalid::new(Reason::NotReadable, detail));
        };
        let node = self.serp.node(node);
        let node = node.map_err(|detail| Invalid::new(Reason::ForbiddenTarget, detail))?;
        Ok((order, node))
    }
}

/// A node in work, until it is dropped.
struct Taken<'a> {
    restarter: &'a SerpRestarter,
    name: String,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.restarter.lock().remove(&self.name);
    }
}

/// What a roll is allowed while its order is in hand.
struct InHand<'a> {
    restarter: &'a SerpRestarter,
    node: &'a Node,
    until: Instant,
}

impl<'a> InHand<'a> {
    fn new(restarter: &'a SerpRestarter, node: &'a Node) -> Self {
        Self {
            restarter,
            node,
            until: Instant::now() + MOST_IN_HAND,
        }
    }
}

impl Watch for InHand<'_> {
    async fn may_restart(&self) -> Result<(), Halt> {
        let restarter = self.restarter;
        if restarter.app.shutdown.is_triggered() {
            return Err(Halt::Stopping);
        }
        if Instant::now() >= self.until {
            return Err(Halt::TimeUp);
        }
        let window = restarter.window.as_ref();
        if let Some(opens_in) = window.and_then(|window| window.opens_in(SystemTime::now())) {
            return Err(Halt::Window { opens_in });
        }
        match restarter.switch.is_paused().await {
            Ok(false) => Ok(()),
            Ok(true) => Err(Halt::Paused),
            Err(error) => Err(Halt::Unknown(error.to_string())),
        }
    }

    async fn tell(&self, event: Event) {
        let (node, stats) = (&self.node.name, &self.restarter.app.stats);
        match event {
            Event::Waiting { port, trouble } => {
                tracing::warn!(node, port, error = %trouble, "a port is down already; waiting for it");
            }
            Event::Exiting { port, serving } => {
                let version = serving.version;
                tracing::info!(node, port, version, "restarting a port");
            }
            Event::Exited { port } => tracing::debug!(node, port, "the port was told to exit"),
            Event::Gone { port } => tracing::debug!(node, port, "the process has ended"),
            Event::Back {
                port,
                serving,
                took,
            } => {
                stats.count("ports", &[("status", "restarted")], 1);
                stats.time("restart", &[], took);
                let (version, took_ms) = (serving.version, took.as_millis() as u64);
                tracing::info!(node, port, version, took_ms, "the port is back");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use pipeline::broker::Memory;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_order_that_is_in_hand_for_a_quarter_of_an_hour_is_put_off_before_its_next_port() {
        let serp = SerpSettings {
            nodes: vec![vec!["hotdog001".to_owned()]],
            ..SerpSettings::default()
        };
        let broker = Broker::Memory(Memory::new());
        let app = App::detached("serp-restarter");
        let settings = SerpRestarterSettings::default();
        let restarter = SerpRestarter::new(&app, broker, &serp, &settings).unwrap();
        let node = serp.node("hotdog001").unwrap();
        let watch = InHand::new(&restarter, &node);
        tokio::time::advance(Duration::from_secs(15 * 60 - 1)).await;
        assert_eq!(watch.may_restart().await, Ok(()));
        tokio::time::advance(Duration::from_secs(1)).await;
        let halt = watch.may_restart().await.unwrap_err();
        assert_eq!(halt, Halt::TimeUp);
        // With the last port and what is sent after it, it is back before the broker takes it back.
        assert!(MOST_IN_HAND + Duration::from_secs(600) < Duration::from_secs(30 * 60));
        assert!(matches!(
            restarter.halted(halt),
            Outcome::Snooze { delay, .. } if delay == SHORTLY
        ));
    }
}
