use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as Turn, OwnedMutexGuard, watch};
use tokio::time::Instant;

use crate::App;

/// Who finds a gate shut, and another's trial under way, waits no longer than this: what waits holds a place
/// of the program's concurrency, which other shards and indices have use for. Long enough for a gate that opens in
/// a moment.
const SHORT_WAIT: Duration = Duration::from_secs(1);

/// Holds back the requests to places that take nothing from anyone: an index, a shard. The gate of a place is shut
/// when it is read-only, its disk is full, or it refuses the credentials. From then on a single request goes
/// through every `poll`, until one is taken; the others are put off. Places whose gate is open are not even known here.
pub struct Gates {
    app: App,
    /// Part of the health page that tells of shut gates.
    component: &'static str,
    /// Gauge of the number of shut gates.
    gauge: &'static str,
    poll: Duration,
    patience: Duration,
    shut: Mutex<BTreeMap<String, Gate>>,
}

/// A gate that is shut.
struct Gate {
    why: String,
    since: Instant,
    turn: Arc<Turn<()>>,
    /// Closes when the gate opens.
    opening: watch::Sender<()>,
}

/// Leave to send a request; to be kept until it is judged.
#[derive(Debug)]
pub struct Leave(Option<OwnedMutexGuard<()>>);

impl Leave {
    /// Whether the gate is still shut: this request is to find out.
    pub fn is_trial(&self) -> bool {
        self.0.is_some()
    }
}

impl Gates {
    /// `component` of the health page and `gauge` of the stats tell of shut gates; `patience` is how long one
    /// request waits before a shut gate, trials of its own included.
    pub fn new(
        app: &App,
        component: &'static str,
        gauge: &'static str,
        poll: Duration,
        patience: Duration,
    ) -> Self {
        Self {
            app: app.clone(),
            component,
            gauge,
            poll,
            patience,
            shut: Mutex::default(),
        }
    }

    /// Waits until a request to `place` may be tried; the error says why it may not. Only the trial waits
    /// until the patience is used up; everyone else hears after a moment that the gate is shut. `since` is when
    /// the request first found the gate shut: it is set here, and to be handed in again.
    pub async fn pass(&self, place: &str, since: &mut Option<Instant>) -> Result<Leave, String> {
        let (turn, mut opening) = match self.lock().get(place) {
            None => {
                *since = None;
                return Ok(Leave(None));
            }
            Some(gate) => (gate.turn.clone(), gate.opening.subscribe()),
        };
        let deadline = *since.get_or_insert_with(Instant::now) + self.patience;
        let trial = async {
            let held = tokio::time::timeout(SHORT_WAIT.min(self.poll), turn.lock_owned()).await?;
            tokio::time::sleep(self.poll).await;
            Ok::<_, tokio::time::error::Elapsed>(held)
        };
        tokio::select! {
            biased;
            () = self.app.shutdown.triggered() => Err(self.why_shut(place)),
            // Nothing is ever sent: it ends in an error when the gate is gone, which is what is waited for.
            _ = opening.changed() => Ok(Leave(None)),
            () = tokio::time::sleep_until(deadline) => Err(self.why_shut(place)),
            held = trial => match held {
                Ok(held) => Ok(Leave(Some(held))),
                Err(_) => Err(self.why_shut(place)),
            },
        }
    }

    /// The place takes nothing. Said once, in the log and on the health page, however many requests find out.
    pub fn shut(&self, place: &str, why: &str) {
        let mut shut = self.lock();
        if let Some(gate) = shut.get_mut(place) {
            why.clone_into(&mut gate.why);
        } else {
            tracing::error!(
                place,
                error = why,
                "paused: it takes no writes; trying from time to time"
            );
            let gate = Gate {
                why: why.to_owned(),
                since: Instant::now(),
                turn: Arc::default(),
                opening: watch::Sender::new(()),
            };
            shut.insert(place.to_owned(), gate);
        }
        self.report(&shut);
    }

    /// The place took a request, or judged its rows.
    pub fn open(&self, place: &str) {
        let mut shut = self.lock();
        if let Some(gate) = shut.remove(place) {
            let paused_s = gate.since.elapsed().as_secs();
            tracing::info!(place, paused_s, "it takes writes again");
            self.report(&shut);
        }
    }

    fn why_shut(&self, place: &str) -> String {
        let shut = self.lock();
        let why = shut.get(place).map_or("", |gate| gate.why.as_str());
        format!("{place} takes no writes: {why}")
    }

    fn report(&self, shut: &BTreeMap<String, Gate>) {
        self.app.stats.gauge(self.gauge, &[], shut.len() as f64);
        let reasons = shut
            .iter()
            .map(|(place, gate)| format!("{place} takes no writes: {}", gate.why));
        let state = match shut.is_empty() {
            true => Ok(()),
            false => Err(reasons.collect::<Vec<_>>().join("; ")),
        };
        self.app.health.set(self.component, state);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Gate>> {
        self.shut.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLL: Duration = Duration::from_secs(5);
    const PATIENCE: Duration = Duration::from_secs(60);

    fn gates() -> (App, Gates) {
        let app = App::detached("es-writer");
        let gates = Gates::new(&app, "elasticsearch", "paused-indices", POLL, PATIENCE);
        (app, gates)
    }

    #[tokio::test(start_paused = true)]
    async fn one_request_at_a_time_tries_a_shut_gate_and_other_places_are_free() {
        let (app, gates) = gates();
        gates.shut("index a", "disk full");
        assert!(!gates.pass("index b", &mut None).await.unwrap().is_trial());
        let begin = Instant::now();
        let first = gates.pass("index a", &mut None).await.unwrap();
        assert!(first.is_trial());
        assert_eq!(begin.elapsed(), POLL);
        drop(first);
        assert!(gates.pass("index a", &mut None).await.unwrap().is_trial());
        assert_eq!(app.stats.gauge_value("paused-indices", &[]), Some(1.0));
        assert!(app.health.failures()["elasticsearch"].contains("disk full"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_gate_that_opens_lets_all_who_wait_through_at_once() {
        let (app, gates) = gates();
        gates.shut("index a", "read-only");
        let begin = Instant::now();
        let (mut one, mut other) = (None, None);
        let waiting = async {
            tokio::join!(
                gates.pass("index a", &mut one),
                gates.pass("index a", &mut other)
            )
        };
        let ((one, other), ()) = tokio::join!(waiting, async {
            tokio::task::yield_now().await;
            gates.open("index a");
        });
        assert!(!one.unwrap().is_trial() && !other.unwrap().is_trial());
        assert_eq!(begin.elapsed(), Duration::ZERO);
        assert_eq!(app.stats.gauge_value("paused-indices", &[]), Some(0.0));
        assert!(app.health.failures().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_another_waiting_before_a_shut_gate_is_put_off_after_a_moment() {
        let (_, gates) = gates();
        gates.shut("shard 1", "disk full");
        let begin = Instant::now();
        let mut first = None;
        let trial = gates.pass("shard 1", &mut first);
        let others = async {
            tokio::task::yield_now().await;
            for _ in 0..3 {
                let why = gates.pass("shard 1", &mut None).await.unwrap_err();
                assert_eq!(why, "shard 1 takes no writes: disk full");
            }
            assert_eq!(begin.elapsed(), SHORT_WAIT * 3);
        };
        let (leave, ()) = tokio::join!(trial, others);
        assert!(leave.as_ref().unwrap().is_trial());
        // A trial may take its time as well.
        gates.pass("shard 1", &mut None).await.unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn trials_that_fail_use_up_the_patience_too() {
        let (_, gates) = gates();
        gates.shut("index a", "read-only");
        let (begin, mut since) = (Instant::now(), None);
        let why = loop {
            match gates.pass("index a", &mut since).await {
                Ok(leave) => assert!(leave.is_trial()),
                Err(why) => break why,
            }
        };
        assert_eq!(why, "index a takes no writes: read-only");
        assert_eq!(begin.elapsed(), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_gate_once_the_program_is_to_end() {
        let (app, gates) = gates();
        gates.shut("index a", "read-only");
        app.shutdown.trigger();
        let begin = Instant::now();
        gates.pass("index a", &mut None).await.unwrap_err();
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }
}
