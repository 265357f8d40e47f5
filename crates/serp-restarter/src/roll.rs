//! The rolling restart of one node.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use serp::{ClientError, Held, Node, Ports, SerpSettings, Serving, Trouble};
use tokio::time::{Instant, sleep, timeout};

use crate::watch::{Event, Halt, Watch};

/// How often a port that was told to exit is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How often ports are looked at that were down before anything was done to them.
const LOOK_AT_DOWN: Duration = Duration::from_secs(1);
/// How long a port may answer as before after its process seemed to end: it may still be on its way out, behind
/// something that closes silent connections.
const ON_ITS_WAY_OUT: Duration = Duration::from_secs(3);

/// What a roll is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Every port serves this version or a newer one; those that do are left alone.
    Version(i64),
    /// Every port was restarted once, whatever it serves.
    Once,
}

/// What a roll has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rolled {
    pub restarted: u32,
    /// Ports that served the version without being restarted by this roll.
    pub already: u32,
}

/// What was being done when a roll failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Waiting for a port that was down before it was touched.
    Down,
    /// Telling a port to exit.
    Exit,
    /// Waiting until it is up again and serves the version.
    Back,
}

impl Step {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Down => "wait-for-down-port",
            Self::Exit => "exit",
            Self::Back => "wait-for-restarted-port",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A port that did not do as it should: the other ports of its node are left alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("port {port}: {detail}")]
pub struct RollError {
    pub port: u16,
    pub step: Step,
    pub detail: String,
}

/// A roll ended before its goal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    #[error(transparent)]
    Halted(#[from] Halt),
    #[error(transparent)]
    Failed(#[from] RollError),
}

/// Restarts nodes, port by port.
#[derive(Debug, Clone)]
pub struct Roller {
    ports: Ports,
    back_timeout: Duration,
    max_unavailable: usize,
}

impl Roller {
    /// Connects to nothing yet.
    pub fn new(settings: &SerpSettings) -> Result<Self, ClientError> {
        Ok(Self {
            ports: Ports::new(settings)?,
            back_timeout: settings.back_timeout(),
            max_unavailable: settings.max_unavailable_ports.max(1),
        })
    }

    /// What each port of the node serves; touches nothing.
    pub async fn survey(&self, node: &Node) -> Vec<(u16, Result<Serving, Trouble>)> {
        self.look_at(node, node.ports.iter().copied()).await
    }

    /// Restarts the ports of the node that are not where the goal is. At any moment no more than
    /// `max_unavailable_ports` of them are down, those included that were down before.
    pub async fn roll(
        &self,
        node: &Node,
        goal: Goal,
        watch: &impl Watch,
    ) -> Result<Rolled, Stopped> {
        let mut roll = Roll {
            roller: self,
            node,
            goal,
            watch,
            restarted: BTreeSet::new(),
            down: BTreeMap::new(),
        };
        let mut busy = BTreeSet::new();
        let mut running = FuturesUnordered::new();
        let mut stop: Option<Stopped> = None;
        loop {
            if stop.is_none() && busy.len() < self.max_unavailable {
                match roll.next(&busy).await {
                    Next::Reached(rolled) => return Ok(rolled),
                    Next::Restart(port, serving) => {
                        busy.insert(port);
                        running.push(self.restart(node, port, serving, goal, watch));
                        continue;
                    }
                    Next::Stop(why) => stop = Some(why),
                    Next::Wait => {}
                }
            }
            let done = if running.is_empty() {
                match stop {
                    Some(why) => return Err(why),
                    None => sleep(LOOK_AT_DOWN).await,
                }
                None
            } else if stop.is_some() || busy.len() >= self.max_unavailable {
                running.next().await
            } else {
                timeout(LOOK_AT_DOWN, running.next()).await.ok().flatten()
            };
            if let Some((port, restarted)) = done {
                busy.remove(&port);
                match restarted {
                    Ok(()) => drop(roll.restarted.insert(port)),
                    // A failure says more than a halt that came before it.
                    Err(error) => stop = Some(error.into()),
                }
            }
        }
    }

    async fn look_at(
        &self,
        node: &Node,
        ports: impl Iterator<Item = u16>,
    ) -> Vec<(u16, Result<Serving, Trouble>)> {
        join_all(ports.map(async |port| (port, self.ports.look(node, port).await))).await
    }

    /// Takes one port down and sees it up again.
    async fn restart(
        &self,
        node: &Node,
        port: u16,
        serving: Serving,
        goal: Goal,
        watch: &impl Watch,
    ) -> (u16, Result<(), RollError>) {
        let failed = |step, detail: String| RollError { port, step, detail };
        let begun = Instant::now();
        let exited = async {
            let mut held = self.ports.hold(node, port).await?;
            watch.tell(Event::Exiting { port, serving }).await;
            let told = self.ports.exit(node, port).await;
            let gone = timeout(Duration::ZERO, held.closed()).await.is_ok();
            match told {
                // A process that is gone needs no telling.
                Err(trouble) if !gone => Err(trouble),
                _ => Ok(held),
            }
        };
        let held = match exited.await {
            Ok(held) => held,
            Err(trouble) => return (port, Err(failed(Step::Exit, trouble.to_string()))),
        };
        watch.tell(Event::Exited { port }).await;
        let back = self.back(node, port, goal, held, watch).await;
        match back {
            Ok(serving) => {
                let took = begun.elapsed();
                let event = Event::Back {
                    port,
                    serving,
                    took,
                };
                watch.tell(event).await;
                (port, Ok(()))
            }
            Err(detail) => (port, Err(failed(Step::Back, detail))),
        }
    }

    /// Waits until the port is up with what it should serve; an error says what it does instead.
    async fn back(
        &self,
        node: &Node,
        port: u16,
        goal: Goal,
        mut held: Held,
        watch: &impl Watch,
    ) -> Result<Serving, String> {
        let deadline = Instant::now() + self.back_timeout;
        let (mut gone, mut was_down, mut up_since) = (false, false, None);
        loop {
            if gone {
                sleep(LOOK).await;
            } else if timeout(LOOK, held.closed()).await.is_ok() {
                gone = true;
                watch.tell(Event::Gone { port }).await;
            }
            let state = match self.ports.look(node, port).await {
                Ok(serving) => {
                    let since = *up_since.get_or_insert_with(Instant::now);
                    let patience = ON_ITS_WAY_OUT.min(self.back_timeout);
                    let stays = gone && since.elapsed() >= patience;
                    if goal.is_reached(&serving, stays || (gone && was_down)) {
                        return Ok(serving);
                    }
                    match serving.version {
                        _ if !gone => "its process does not end".to_owned(),
                        // It may not have loaded anything yet.
                        None => "it is up and names no version".to_owned(),
                        Some(version) if stays => {
                            return Err(format!("it came back with version {version}"));
                        }
                        Some(version) => format!("it serves version {version}"),
                    }
                }
                Err(trouble) => {
                    (was_down, up_since) = (gone, None);
                    format!("it is not back: {trouble}")
                }
            };
            if !gone {
                up_since = None;
            }
            if Instant::now() >= deadline {
                let within = self.back_timeout.as_secs_f64();
                return Err(format!("{state} ({within} s after it was told to exit)"));
            }
        }
    }
}

impl Goal {
    fn is_reached(self, serving: &Serving, restarted: bool) -> bool {
        match self {
            // No version is older than any.
            Self::Version(version) => serving.version >= Some(version),
            Self::Once => restarted,
        }
    }
}

/// What is to be done next.
enum Next {
    Restart(u16, Serving),
    Wait,
    Reached(Rolled),
    Stop(Stopped),
}

/// A roll on its way.
struct Roll<'a, W> {
    roller: &'a Roller,
    node: &'a Node,
    goal: Goal,
    watch: &'a W,
    restarted: BTreeSet<u16>,
    /// Ports that are down although nobody told them to exit, and since when that is known.
    down: BTreeMap<u16, Instant>,
}

impl<W: Watch> Roll<'_, W> {
    /// Looks at every port that is not `busy` being restarted, and decides.
    async fn next(&mut self, busy: &BTreeSet<u16>) -> Next {
        let idle = self.node.ports.iter().copied();
        let idle = idle.filter(|port| !busy.contains(port));
        let seen = self.roller.look_at(self.node, idle).await;
        let mut behind = Vec::new();
        for (port, look) in seen {
            match look {
                Ok(serving) => {
                    self.down.remove(&port);
                    let restarted = self.restarted.contains(&port);
                    if !self.goal.is_reached(&serving, restarted) {
                        behind.push((port, serving));
                    }
                }
                Err(trouble) => {
                    if let Err(error) = self.is_down(port, trouble).await {
                        return Next::Stop(error.into());
                    }
                }
            }
        }
        if behind.is_empty() && self.down.is_empty() {
            return match busy.is_empty() {
                true => Next::Reached(self.rolled()),
                false => Next::Wait,
            };
        }
        if let Err(halt) = self.watch.may_restart().await {
            return Next::Stop(halt.into());
        }
        let unavailable = busy.len() + self.down.len();
        match behind.into_iter().next() {
            Some((port, serving)) if unavailable < self.roller.max_unavailable => {
                Next::Restart(port, serving)
            }
            _ => Next::Wait,
        }
    }

    /// A port that is down is waited for, as long as one that was told to exit.
    async fn is_down(&mut self, port: u16, trouble: Trouble) -> Result<(), RollError> {
        let patience = self.roller.back_timeout;
        match self.down.get(&port) {
            Some(since) if since.elapsed() >= patience => {
                let within = patience.as_secs_f64();
                Err(RollError {
                    port,
                    step: Step::Down,
                    detail: format!("it was down and is not back after {within} s: {trouble}"),
                })
            }
            Some(_) => Ok(()),
            None => {
                self.down.insert(port, Instant::now());
                self.watch.tell(Event::Waiting { port, trouble }).await;
                Ok(())
            }
        }
    }

    fn rolled(&self) -> Rolled {
        let restarted = self.restarted.len() as u32;
        Rolled {
            restarted,
            already: self.node.ports.len() as u32 - restarted,
        }
    }
}
