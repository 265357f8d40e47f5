//! The rolling restart of one node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use serp::{
    ClientError, PortClient, PortFailure, ProcessConnection, SerpNode, SerpSettings, ServedVersion,
};
use tokio::time::{Instant, sleep, timeout};

use crate::observer::{Observer, RestartEvent};
use crate::progress::{
    NextAction, PortBehind, PortRestartError, RestartError, RestartGoal, RestartStep,
    RestartSummary, RollingRestart,
};

/// How often a port is checked that was told to exit.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// How often ports are checked that are down for another reason.
const DOWN_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How long the answers of a port are not believed after its connection was closed: the process may still be ending,
/// behind a proxy that closes silent connections.
const EXIT_DELAY: Duration = Duration::from_secs(3);

/// A port, and the version that it serves, or why it is not up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortCheck {
    pub port: u16,
    pub served: Result<ServedVersion, PortFailure>,
}

/// Restarts nodes, port by port.
#[derive(Debug, Clone)]
pub struct Restarter {
    client: PortClient,
    back_timeout: Duration,
    max_unavailable: usize,
}

impl Restarter {
    /// Connects to nothing yet.
    pub fn new(settings: &SerpSettings) -> Result<Self, ClientError> {
        Ok(Self {
            client: PortClient::new(settings)?,
            back_timeout: settings.back_timeout(),
            max_unavailable: settings.max_unavailable_ports.max(1),
        })
    }

    /// What each port of the node serves; changes nothing.
    pub async fn check_ports(&self, node: &SerpNode) -> Vec<PortCheck> {
        self.check_ports_except(node, &BTreeSet::new()).await
    }

    /// Restarts the ports of the node that are not where the goal is. At any moment no more than
    /// `max_unavailable_ports` of them are down, those included that were down before.
    pub async fn restart_node(
        &self,
        node: &SerpNode,
        goal: RestartGoal,
        observer: &impl Observer,
    ) -> Result<RestartSummary, RestartError> {
        let mut rolling = RollingRestart {
            node,
            goal,
            observer,
            max_unavailable: self.max_unavailable,
            back_timeout: self.back_timeout,
            in_progress: BTreeSet::new(),
            restarted: BTreeSet::new(),
            down: BTreeMap::new(),
        };
        let mut restarts = FuturesUnordered::new();
        let mut ended: Option<RestartError> = None;
        loop {
            if ended.is_none() && rolling.has_room() {
                let checked = self.check_ports_except(node, &rolling.in_progress).await;
                match rolling.next(checked).await {
                    Ok(NextAction::Finish(summary)) => return Ok(summary),
                    Ok(NextAction::Restart(behind)) => {
                        rolling.in_progress.insert(behind.port);
                        restarts.push(self.restart_port(node, behind, goal, observer));
                        continue;
                    }
                    Ok(NextAction::Wait) => {}
                    Err(error) => ended = Some(error),
                }
            }
            let restarted = match ended {
                Some(error) if restarts.is_empty() => return Err(error),
                None if restarts.is_empty() => {
                    sleep(DOWN_POLL_INTERVAL).await;
                    None
                }
                None if rolling.has_room() => {
                    let restarted = timeout(DOWN_POLL_INTERVAL, restarts.next()).await;
                    restarted.ok().flatten()
                }
                Some(_) | None => restarts.next().await,
            };
            match restarted {
                Some(Ok(port)) => {
                    rolling.in_progress.remove(&port);
                    rolling.restarted.insert(port);
                }
                Some(Err(error)) => {
                    rolling.in_progress.remove(&error.port);
                    // A failure says more than the reason for a stop that came before it.
                    ended = Some(error.into());
                }
                None => {}
            }
        }
    }

    async fn check_ports_except(&self, node: &SerpNode, except: &BTreeSet<u16>) -> Vec<PortCheck> {
        let ports = node.ports.iter().filter(|port| !except.contains(port));
        let checks = ports.map(async |&port| PortCheck {
            port,
            served: self.client.check(node, port).await,
        });
        join_all(checks).await
    }

    /// Restarts one port, waits until it is up again, and returns it.
    async fn restart_port(
        &self,
        node: &SerpNode,
        PortBehind { port, served }: PortBehind,
        goal: RestartGoal,
        observer: &impl Observer,
    ) -> Result<u16, PortRestartError> {
        let failed = |step, detail| PortRestartError { port, step, detail };
        let begun = Instant::now();
        let exited = self.exit(node, port, served, observer).await;
        let connection =
            exited.map_err(|failure| failed(RestartStep::Exit, failure.to_string()))?;
        observer.on_event(RestartEvent::ExitAccepted { port }).await;
        let back = self.wait_until_back(node, port, goal, connection, observer);
        let back = back.await;
        let served = back.map_err(|state| failed(RestartStep::WaitForRestartedPort, state))?;
        let took = begun.elapsed();
        observer
            .on_event(RestartEvent::Back { port, served, took })
            .await;
        Ok(port)
    }

    /// Tells the process of the port to exit; the connection that is returned ends with it.
    async fn exit(
        &self,
        node: &SerpNode,
        port: u16,
        served: ServedVersion,
        observer: &impl Observer,
    ) -> Result<ProcessConnection, PortFailure> {
        let mut connection = self.client.connect(node, port).await?;
        observer
            .on_event(RestartEvent::Exiting { port, served })
            .await;
        let exited = self.client.exit(node, port).await;
        let gone = timeout(Duration::ZERO, connection.closed()).await.is_ok();
        match exited {
            Err(failure) if !gone => Err(failure),
            Ok(()) | Err(_) => Ok(connection),
        }
    }

    /// Waits until the port is up with the version that it should serve; an error is its state at the deadline.
    async fn wait_until_back(
        &self,
        node: &SerpNode,
        port: u16,
        goal: RestartGoal,
        mut connection: ProcessConnection,
        observer: &impl Observer,
    ) -> Result<ServedVersion, String> {
        let deadline = Instant::now() + self.back_timeout;
        let exit_delay = EXIT_DELAY.min(self.back_timeout);
        let (mut gone, mut was_down, mut up_since) = (false, false, None);
        loop {
            if gone {
                sleep(POLL_INTERVAL).await;
            } else if timeout(POLL_INTERVAL, connection.closed()).await.is_ok() {
                gone = true;
                observer.on_event(RestartEvent::ProcessEnded { port }).await;
            }
            let state = match self.client.check(node, port).await {
                Ok(served) => {
                    let since = *up_since.get_or_insert_with(Instant::now);
                    let stays_up = gone && since.elapsed() >= exit_delay;
                    if goal.is_reached(&served, stays_up || (gone && was_down)) {
                        return Ok(served);
                    }
                    match served.version {
                        _ if !gone => "its process does not end".to_owned(),
                        // It may not have loaded anything yet.
                        None => "it is up and names no version".to_owned(),
                        Some(version) if stays_up => {
                            return Err(format!("it came back with version {version}"));
                        }
                        Some(version) => format!("it serves version {version}"),
                    }
                }
                Err(failure) => {
                    (was_down, up_since) = (gone, None);
                    format!("it is not back: {failure}")
                }
            };
            if !gone {
                up_since = None;
            }
            if Instant::now() >= deadline {
                let seconds = self.back_timeout.as_secs_f64();
                return Err(format!("{state} ({seconds} s after it was told to exit)"));
            }
        }
    }
}
