use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use app::App;
use batch::{Command, Fact, Invalid, Message, Order, Reason, Stage};
use pipeline::broker::Broker;
use pipeline::{Job, MAX_IN_FLIGHT_SECONDS, Outcome, Worker, receipt};
use serp::{ClientError, PauseSwitch, RestartWindow, SerpNode, SerpSettings};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::config::SerpRestarterSettings;
use crate::observer::{Observer, RestartEvent, StopReason};
use crate::progress::{PortRestartError, RestartError, RestartGoal, RestartSummary};
use crate::restarter::Restarter;

/// How long an order is in flight before it is put off between two ports: the last port may take another ten minutes
/// (`serp.back_timeout_seconds`).
const RESTART_TIMEOUT: Duration = Duration::from_secs(MAX_IN_FLIGHT_SECONDS - 600);
/// Delay of an order that finds the service paused.
const PAUSED_DELAY: Duration = Duration::from_secs(60);
/// Delay of an order that has to wait for something short.
const SHORT_DELAY: Duration = Duration::from_secs(10);

/// The step that a dry run names as failed: none was tried.
const DRY_RUN: &str = "dry-run";

/// Restarts one node of the SERP service for each order.
pub struct SerpRestarter {
    app: App,
    serp: SerpSettings,
    window: Option<RestartWindow>,
    restarter: Restarter,
    pause: PauseSwitch,
    dry_run: bool,
    /// Nodes that may be restarted at once, whatever the number of orders in flight.
    node_permits: Semaphore,
    /// Names of the nodes that are being restarted: two orders for one node would each count its ports alone.
    in_progress: Mutex<HashSet<String>>,
}

/// An order, and the node that it names.
struct NodeOrder {
    order: Order,
    node: SerpNode,
}

impl Worker for SerpRestarter {
    /// Nothing is kept from one try to the next: ports that serve the version by then are left alone.
    async fn process(&self, job: &mut Job) -> Outcome {
        let order = match self.read(job.message()) {
            Ok(order) => order,
            Err(invalid) => return invalid.into(),
        };
        if self.dry_run {
            return self.log_only(job, &order).await;
        }
        let Some(_lock) = self.lock_node(&order.node) else {
            let why = format!("another order restarts {}", order.node.name);
            let delay = SHORT_DELAY;
            return Outcome::Snooze { why, delay };
        };
        let _permit = self.node_permits.acquire().await;
        let observer = OrderObserver::new(self, &order.node);
        let goal = RestartGoal::Version(order.order.version);
        let restart = self.restarter.restart_node(&order.node, goal, &observer);
        match restart.await {
            Ok(summary) => self.restarted(job, &order, summary).await,
            Err(RestartError::Stopped(reason)) => self.stopped(reason),
            Err(RestartError::Failed(error)) => self.failed(job, &order, &error).await,
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
    /// Connects to nothing yet. `broker` has the pause switch.
    pub fn new(
        app: &App,
        broker: Broker,
        serp: &SerpSettings,
        settings: &SerpRestarterSettings,
    ) -> Result<Self, ClientError> {
        Ok(Self {
            app: app.clone(),
            window: serp.window(),
            restarter: Restarter::new(serp)?,
            pause: PauseSwitch::new(broker, &app.name),
            dry_run: settings.dry_run,
            node_permits: Semaphore::new(serp.max_unavailable_nodes.max(1)),
            in_progress: Mutex::default(),
            serp: serp.clone(),
        })
    }

    fn read(&self, message: &Message) -> Result<NodeOrder, Invalid> {
        let order = Order::from_message(message)?;
        let Command::RestartSerp { node } = &order.command else {
            let detail = "it is an order, but not one to restart a SERP node";
            return Err(Invalid::new(Reason::NotReadable, detail));
        };
        let node = self.serp.node(node);
        let node = node.map_err(|detail| Invalid::new(Reason::ForbiddenTarget, detail))?;
        Ok(NodeOrder { order, node })
    }

    /// Logs what a restart would do, and sends a receipt that nothing is done.
    async fn log_only(&self, job: &mut Job, order: &NodeOrder) -> Outcome {
        for check in self.restarter.check_ports(&order.node).await {
            let port = order.node.address(check.port);
            match check.served {
                Ok(served) => {
                    let version = served.version;
                    let restart = version < Some(order.order.version);
                    tracing::info!(port, version, restart, "dry run");
                }
                Err(error) => tracing::info!(port, %error, "dry run: down"),
            }
        }
        let why = "serp_restarter.dry_run is set".to_owned();
        job.report(&order.order.run, order.failed(DRY_RUN, &why, true))
            .await;
        Outcome::Discard { why }
    }

    async fn restarted(
        &self,
        job: &mut Job,
        order: &NodeOrder,
        RestartSummary { restarted, already }: RestartSummary,
    ) -> Outcome {
        let (run, node) = (&order.order.run, &order.node.name);
        let stats = &self.app.stats;
        stats.count("ports", &[("status", "already")], already.into());
        tracing::info!(%run, node, restarted, already, "node restarted");
        let fact = Fact::NodeRestarted {
            node: node.clone(),
            shard: order.order.shard,
            restarted,
            already,
        };
        job.report(&order.order.run, fact).await;
        Outcome::Done
    }

    async fn failed(&self, job: &mut Job, order: &NodeOrder, error: &PortRestartError) -> Outcome {
        let step = error.step.as_str();
        self.app.stats.count("ports", &[("status", "failed")], 1);
        self.app.stats.count("failures", &[("step", step)], 1);
        let fact = order.failed(step, &error.to_string(), false);
        job.report(&order.order.run, fact).await;
        Outcome::retry(error, format!("{}, {step}", order.node.name))
    }

    fn stopped(&self, reason: StopReason) -> Outcome {
        let (label, delay) = match &reason {
            StopReason::Paused => ("paused", PAUSED_DELAY),
            StopReason::OutsideWindow { opens_in } => ("window", *opens_in),
            StopReason::PauseUnknown(_) => ("unknown", SHORT_DELAY),
            StopReason::ShuttingDown => ("stopping", SHORT_DELAY),
            StopReason::TimeUp => ("time-up", SHORT_DELAY),
        };
        self.app.stats.count("stops", &[("why", label)], 1);
        let why = reason.to_string();
        Outcome::Snooze { why, delay }
    }

    /// `None` while another order restarts the node.
    fn lock_node(&self, node: &SerpNode) -> Option<NodeLock<'_>> {
        let inserted = self.in_progress().insert(node.name.clone());
        inserted.then(|| NodeLock {
            restarter: self,
            name: node.name.clone(),
        })
    }

    fn in_progress(&self) -> MutexGuard<'_, HashSet<String>> {
        app::lock(&self.in_progress)
    }
}

impl NodeOrder {
    fn failed(&self, step: &str, error: &str, given_up: bool) -> Fact {
        Fact::OrderFailed {
            stage: Stage::Serp,
            target: self.node.name.clone(),
            step: step.to_owned(),
            error: error.to_owned(),
            given_up,
        }
    }
}

/// A node that is being restarted, until it is dropped.
struct NodeLock<'a> {
    restarter: &'a SerpRestarter,
    name: String,
}

impl Drop for NodeLock<'_> {
    fn drop(&mut self) {
        self.restarter.in_progress().remove(&self.name);
    }
}

/// Follows the restart for an order: logs and counts it, and stops it between two ports.
struct OrderObserver<'a> {
    restarter: &'a SerpRestarter,
    node: &'a SerpNode,
    until: Instant,
}

impl<'a> OrderObserver<'a> {
    fn new(restarter: &'a SerpRestarter, node: &'a SerpNode) -> Self {
        Self {
            restarter,
            node,
            until: Instant::now() + RESTART_TIMEOUT,
        }
    }
}

impl Observer for OrderObserver<'_> {
    async fn may_restart(&self) -> Result<(), StopReason> {
        let restarter = self.restarter;
        if restarter.app.shutdown.is_triggered() {
            return Err(StopReason::ShuttingDown);
        }
        if Instant::now() >= self.until {
            return Err(StopReason::TimeUp);
        }
        let window = restarter.window.as_ref();
        if let Some(opens_in) = window.and_then(|window| window.opens_in(SystemTime::now())) {
            return Err(StopReason::OutsideWindow { opens_in });
        }
        match restarter.pause.is_paused().await {
            Ok(false) => Ok(()),
            Ok(true) => Err(StopReason::Paused),
            Err(error) => Err(StopReason::PauseUnknown(error.to_string())),
        }
    }

    async fn on_event(&self, event: RestartEvent) {
        let (node, stats) = (&self.node.name, &self.restarter.app.stats);
        match event {
            RestartEvent::WaitingForDownPort { port, failure } => {
                tracing::warn!(node, port, error = %failure, "a port is down already; waiting for it");
            }
            RestartEvent::Exiting { port, served } => {
                let version = served.version;
                tracing::info!(node, port, version, "restarting a port");
            }
            RestartEvent::ExitAccepted { port } => {
                tracing::debug!(node, port, "the port was told to exit");
            }
            RestartEvent::ProcessEnded { port } => {
                tracing::debug!(node, port, "the process has ended");
            }
            RestartEvent::Back { port, served, took } => {
                stats.count("ports", &[("status", "restarted")], 1);
                stats.time("restart", &[], took);
                let (version, took_ms) = (served.version, took.as_millis() as u64);
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
    async fn an_order_that_is_in_flight_for_a_quarter_of_an_hour_is_put_off_before_its_next_port() {
        let serp = SerpSettings {
            nodes: vec![vec!["hotdog001".to_owned()]],
            ..SerpSettings::default()
        };
        let broker = Broker::Memory(Memory::new());
        let app = App::detached("serp-restarter");
        let settings = SerpRestarterSettings::default();
        let restarter = SerpRestarter::new(&app, broker, &serp, &settings).unwrap();
        let node = serp.node("hotdog001").unwrap();
        let observer = OrderObserver::new(&restarter, &node);
        tokio::time::advance(Duration::from_secs(15 * 60 - 1)).await;
        assert_eq!(observer.may_restart().await, Ok(()));
        tokio::time::advance(Duration::from_secs(1)).await;
        let reason = observer.may_restart().await.unwrap_err();
        assert_eq!(reason, StopReason::TimeUp);
        // With its last port it is put off before the broker takes it back.
        assert!(RESTART_TIMEOUT + Duration::from_secs(600) < Duration::from_secs(30 * 60));
        assert!(matches!(
            restarter.stopped(reason),
            Outcome::Snooze { delay, .. } if delay == SHORT_DELAY
        ));
    }
}
