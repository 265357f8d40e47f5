//! How far the rolling restart of one node is, and what is to be done next.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serp::{PortFailure, SerpNode, ServedVersion};
use tokio::time::Instant;

use crate::observer::{Observer, RestartEvent, StopReason};
use crate::restarter::PortCheck;

/// What a rolling restart is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartGoal {
    /// Every port serves this version or a newer one; those that do are left alone.
    Version(i64),
    /// Every port was restarted once, whatever it serves.
    Once,
}

impl RestartGoal {
    /// Whether a port that serves this is where it should be.
    pub fn is_reached(self, served: &ServedVersion, restarted: bool) -> bool {
        match self {
            // No version is older than any.
            Self::Version(version) => served.version >= Some(version),
            Self::Once => restarted,
        }
    }
}

/// What a rolling restart has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartSummary {
    pub restarted: u32,
    /// Ports that served the version without being restarted.
    pub already: u32,
}

/// The step at which the restart of a port failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartStep {
    /// Waiting for a port that was down before it was told to exit.
    WaitForDownPort,
    /// Telling a port to exit.
    Exit,
    /// Waiting until it is up again and serves the version.
    WaitForRestartedPort,
}

impl RestartStep {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WaitForDownPort => "wait-for-down-port",
            Self::Exit => "exit",
            Self::WaitForRestartedPort => "wait-for-restarted-port",
        }
    }
}

impl fmt::Display for RestartStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A port did not exit, or did not come back: no other port of its node is restarted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("port {port}: {detail}")]
pub struct PortRestartError {
    pub port: u16,
    pub step: RestartStep,
    pub detail: String,
}

/// A rolling restart ended before its goal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestartError {
    #[error(transparent)]
    Stopped(#[from] StopReason),
    #[error(transparent)]
    Failed(#[from] PortRestartError),
}

/// What is to be done next.
pub(crate) enum NextAction {
    Restart(PortBehind),
    Wait,
    Finish(RestartSummary),
}

/// A port that is up and not where the goal is.
pub(crate) struct PortBehind {
    pub port: u16,
    pub served: ServedVersion,
}

/// A rolling restart in progress.
pub(crate) struct RollingRestart<'a, O> {
    pub node: &'a SerpNode,
    pub goal: RestartGoal,
    pub observer: &'a O,
    pub max_unavailable: usize,
    pub back_timeout: Duration,
    /// Ports that are being restarted now.
    pub in_progress: BTreeSet<u16>,
    pub restarted: BTreeSet<u16>,
    /// Ports that are down without having been told to exit, and since when that is known.
    pub down: BTreeMap<u16, Instant>,
}

impl<O: Observer> RollingRestart<'_, O> {
    /// Whether one more port may be restarted, those left out that are down for another reason.
    pub fn has_room(&self) -> bool {
        self.in_progress.len() < self.max_unavailable
    }

    /// Decides by what the ports serve that are not being restarted now.
    pub async fn next(&mut self, checked: Vec<PortCheck>) -> Result<NextAction, RestartError> {
        let mut behind = Vec::new();
        for PortCheck { port, served } in checked {
            match served {
                Ok(served) => {
                    self.down.remove(&port);
                    let restarted = self.restarted.contains(&port);
                    if !self.goal.is_reached(&served, restarted) {
                        behind.push(PortBehind { port, served });
                    }
                }
                Err(failure) => self.wait_for_down_port(port, failure).await?,
            }
        }
        if behind.is_empty() && self.down.is_empty() {
            return Ok(if self.in_progress.is_empty() {
                NextAction::Finish(self.summary())
            } else {
                NextAction::Wait
            });
        }
        self.observer.may_restart().await?;
        let unavailable = self.in_progress.len() + self.down.len();
        Ok(match behind.into_iter().next() {
            Some(port) if unavailable < self.max_unavailable => NextAction::Restart(port),
            Some(_) | None => NextAction::Wait,
        })
    }

    /// A port that is down is waited for as long as one that was told to exit.
    async fn wait_for_down_port(
        &mut self,
        port: u16,
        failure: PortFailure,
    ) -> Result<(), PortRestartError> {
        match self.down.get(&port) {
            Some(since) if since.elapsed() >= self.back_timeout => {
                let seconds = self.back_timeout.as_secs_f64();
                Err(PortRestartError {
                    port,
                    step: RestartStep::WaitForDownPort,
                    detail: format!("it was down and is not back after {seconds} s: {failure}"),
                })
            }
            Some(_) => Ok(()),
            None => {
                self.down.insert(port, Instant::now());
                let event = RestartEvent::WaitingForDownPort { port, failure };
                self.observer.on_event(event).await;
                Ok(())
            }
        }
    }

    fn summary(&self) -> RestartSummary {
        let restarted = self.restarted.len() as u32;
        RestartSummary {
            restarted,
            already: self.node.ports.len() as u32 - restarted,
        }
    }
}
