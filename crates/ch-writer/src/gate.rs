//! Holds back the inserts into a shard that takes nothing from anyone.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use app::App;
use tokio::sync::{Mutex as Turn, MutexGuard as HeldTurn, watch};
use tokio::time::Instant;

/// Part of the health page.
const HEALTH: &str = "clickhouse";

/// One gate for each shard. A gate is shut when the shard says that it takes nothing: read-only, disk
/// full, credentials refused. From then on a single insert goes through every `poll`, until one is taken.
pub(crate) struct Gates {
    app: App,
    poll: Duration,
    patience: Duration,
    gates: Vec<Gate>,
    /// Why which gates are shut, and since when.
    shut: Mutex<BTreeMap<u32, Shut>>,
}

struct Gate {
    open: watch::Sender<bool>,
    turn: Turn<()>,
}

struct Shut {
    why: String,
    since: Instant,
}

/// Leave to insert; to be kept until the insert is judged.
#[derive(Debug)]
pub(crate) struct Leave<'a> {
    _turn: Option<HeldTurn<'a, ()>>,
}

/// The gate stayed shut, or the program is to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StillShut {
    pub why: String,
}

impl Gates {
    /// `patience` is how long one insert waits before a shut gate.
    pub fn new(app: &App, shards: u32, poll: Duration, patience: Duration) -> Self {
        let gate = |_| Gate {
            open: watch::Sender::new(true),
            turn: Turn::new(()),
        };
        Self {
            app: app.clone(),
            poll,
            patience,
            gates: (0..shards).map(gate).collect(),
            shut: Mutex::new(BTreeMap::new()),
        }
    }

    /// Waits until an insert into the shard may be tried.
    pub async fn pass(&self, shard: u32) -> Result<Leave<'_>, StillShut> {
        let gate = &self.gates[shard as usize];
        if *gate.open.borrow() {
            return Ok(Leave { _turn: None });
        }
        let mut open = gate.open.subscribe();
        let next_try = async {
            let turn = gate.turn.lock().await;
            tokio::time::sleep(self.poll).await;
            turn
        };
        tokio::select! {
            biased;
            () = self.app.shutdown.triggered() => Err(self.still_shut(shard)),
            _ = open.wait_for(|open| *open) => Ok(Leave { _turn: None }),
            turn = next_try => Ok(Leave { _turn: Some(turn) }),
            () = tokio::time::sleep(self.patience) => Err(self.still_shut(shard)),
        }
    }

    /// The shard takes nothing. Said once, in the log and on the health page, however many inserts find out.
    pub fn shut(&self, shard: u32, why: &str) {
        let mut shut = self.lock();
        let first = !shut.contains_key(&shard);
        let entry = shut.entry(shard).or_insert_with(|| Shut {
            why: String::new(),
            since: Instant::now(),
        });
        why.clone_into(&mut entry.why);
        if first {
            self.gates[shard as usize].open.send_replace(false);
            tracing::error!(
                shard,
                error = why,
                "the shard takes no rows; pausing until it does"
            );
        }
        self.report(&shut);
    }

    /// The shard took an insert, or judged one by its rows.
    pub fn open(&self, shard: u32) {
        let gate = &self.gates[shard as usize];
        // The usual case, without the lock that all inserts would share.
        if *gate.open.borrow() {
            return;
        }
        let mut shut = self.lock();
        if let Some(was) = shut.remove(&shard) {
            gate.open.send_replace(true);
            let paused_s = was.since.elapsed().as_secs();
            tracing::info!(shard, paused_s, "the shard takes rows again");
            self.report(&shut);
        }
    }

    fn still_shut(&self, shard: u32) -> StillShut {
        let shut = self.lock();
        let why = shut.get(&shard).map_or("", |shut| shut.why.as_str());
        StillShut {
            why: format!("shard {shard} takes no rows: {why}"),
        }
    }

    fn report(&self, shut: &BTreeMap<u32, Shut>) {
        self.app
            .stats
            .gauge("paused-shards", &[], shut.len() as f64);
        let reasons: Vec<_> = shut
            .iter()
            .map(|(shard, shut)| format!("shard {shard} takes no rows: {}", shut.why))
            .collect();
        let state = match reasons.is_empty() {
            true => Ok(()),
            false => Err(reasons.join("; ")),
        };
        self.app.health.set(HEALTH, state);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Shut>> {
        self.shut.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLL: Duration = Duration::from_secs(5);
    const PATIENCE: Duration = Duration::from_secs(60);

    fn gates() -> (App, Gates) {
        let app = App::detached("ch-writer");
        let gates = Gates::new(&app, 2, POLL, PATIENCE);
        (app, gates)
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_gate_lets_everyone_through() {
        let (_, gates) = gates();
        let _first = gates.pass(0).await.unwrap();
        gates.pass(0).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn one_insert_at_a_time_tries_a_shut_gate_and_other_shards_are_free() {
        let (app, gates) = gates();
        gates.shut(0, "disk full");
        gates.pass(1).await.unwrap();
        let since = Instant::now();
        let first = gates.pass(0).await.unwrap();
        assert_eq!(since.elapsed(), POLL);
        let second = tokio::time::timeout(POLL * 2, gates.pass(0)).await;
        assert!(second.is_err(), "a second insert went through");
        drop(first);
        gates.pass(0).await.unwrap();
        assert_eq!(app.stats.gauge_value("paused-shards", &[]), Some(1.0));
        assert!(app.health.failures()["clickhouse"].contains("disk full"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_gate_that_opens_lets_all_who_wait_through_at_once() {
        let (app, gates) = gates();
        gates.shut(0, "read-only");
        let since = Instant::now();
        let trying = gates.pass(0).await.unwrap();
        let (others, ()) = tokio::join!(
            async { tokio::join!(gates.pass(0), gates.pass(0)) },
            async {
                tokio::task::yield_now().await;
                gates.open(0);
            }
        );
        assert!(others.0.is_ok() && others.1.is_ok());
        assert_eq!(since.elapsed(), POLL);
        drop(trying);
        assert_eq!(app.stats.gauge_value("paused-shards", &[]), Some(0.0));
        assert!(app.health.failures().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_longer_than_its_patience_or_until_the_end_gives_up_with_the_reason() {
        let (app, gates) = gates();
        gates.shut(0, "read-only");
        let _trying = gates.pass(0).await.unwrap();
        let since = Instant::now();
        let given_up = gates.pass(0).await.unwrap_err();
        assert_eq!(given_up.why, "shard 0 takes no rows: read-only");
        assert_eq!(since.elapsed(), PATIENCE);
        app.shutdown.trigger();
        gates.pass(0).await.unwrap_err();
        assert_eq!(since.elapsed(), PATIENCE);
    }
}
