use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use app::App;
use tokio::sync::{OwnedMutexGuard, watch};
use tokio::time::Instant;

/// A request that finds a breaker tripped, and another's probe under way, waits no longer than this: what waits
/// takes up the program's concurrency, which other shards and indices have use for. Long enough for a breaker that
/// is reset in a moment.
const SHORT_WAIT: Duration = Duration::from_secs(1);

/// Holds back the requests to a shard or an index that takes nothing from anyone ([`crate::Class::Pause`]):
/// its breaker is tripped. From then on a single request, the probe, goes through every `poll`, until one is taken;
/// the others are put off. Only endpoints whose breaker is tripped are known here.
pub struct CircuitBreakers {
    app: App,
    /// Part of the health page that tells of tripped breakers.
    component: &'static str,
    /// Gauge of the number of tripped breakers.
    gauge: &'static str,
    poll: Duration,
    pause_limit: Duration,
    tripped: Mutex<BTreeMap<String, Breaker>>,
}

/// A breaker that is tripped.
struct Breaker {
    why: String,
    since: Instant,
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Closes when the breaker is reset.
    reset: watch::Sender<()>,
}

/// Permission to send a request; to be kept until its outcome is known.
#[derive(Debug)]
pub struct Permit(Option<OwnedMutexGuard<()>>);

impl Permit {
    /// Whether the breaker is still tripped: this request is to find out.
    pub fn is_probe(&self) -> bool {
        self.0.is_some()
    }
}

impl CircuitBreakers {
    /// `component` of the health page and `gauge` of the stats tell of tripped breakers; `pause_limit` is how long
    /// one request waits at a tripped breaker, probes of its own included.
    pub fn new(
        app: &App,
        component: &'static str,
        gauge: &'static str,
        poll: Duration,
        pause_limit: Duration,
    ) -> Self {
        Self {
            app: app.clone(),
            component,
            gauge,
            poll,
            pause_limit,
            tripped: Mutex::default(),
        }
    }

    /// Waits until a request to `endpoint` may be tried; the error says why it may not. Only the probe waits
    /// until the limit is reached; all others fail after a moment. `since` is when the request first found the
    /// breaker tripped: it is set here, and to be handed in again.
    pub async fn acquire(
        &self,
        endpoint: &str,
        since: &mut Option<Instant>,
    ) -> Result<Permit, String> {
        let (turn, mut reset) = match self.lock().get(endpoint) {
            None => {
                *since = None;
                return Ok(Permit(None));
            }
            Some(breaker) => (breaker.turn.clone(), breaker.reset.subscribe()),
        };
        let deadline = *since.get_or_insert_with(Instant::now) + self.pause_limit;
        let probe = async {
            let held = tokio::time::timeout(SHORT_WAIT.min(self.poll), turn.lock_owned()).await;
            if held.is_ok() {
                tokio::time::sleep(self.poll).await;
            }
            held.ok()
        };
        let permit = tokio::select! {
            biased;
            () = self.app.shutdown.triggered() => None,
            // Nothing is ever sent: it ends in an error when the breaker is gone, which is what is waited for.
            _ = reset.changed() => Some(Permit(None)),
            () = tokio::time::sleep_until(deadline) => None,
            held = probe => held.map(|held| Permit(Some(held))),
        };
        permit.ok_or_else(|| self.why_tripped(endpoint))
    }

    /// The endpoint takes nothing. Logged once, and shown on the health page, however many requests find out.
    pub fn trip(&self, endpoint: &str, why: &str) {
        let mut tripped = self.lock();
        if let Some(breaker) = tripped.get_mut(endpoint) {
            why.clone_into(&mut breaker.why);
        } else {
            tracing::error!(
                endpoint,
                error = why,
                "paused: it takes no writes; trying from time to time"
            );
            let breaker = Breaker {
                why: why.to_owned(),
                since: Instant::now(),
                turn: Arc::default(),
                reset: watch::Sender::new(()),
            };
            tripped.insert(endpoint.to_owned(), breaker);
        }
        self.report(&tripped);
    }

    /// The endpoint took a request, or refused some of its rows.
    pub fn reset(&self, endpoint: &str) {
        let mut tripped = self.lock();
        if let Some(breaker) = tripped.remove(endpoint) {
            let paused_s = breaker.since.elapsed().as_secs();
            tracing::info!(endpoint, paused_s, "it takes writes again");
            self.report(&tripped);
        }
    }

    fn why_tripped(&self, endpoint: &str) -> String {
        let tripped = self.lock();
        let why = tripped.get(endpoint).map_or("", |breaker| &breaker.why);
        takes_no_writes(endpoint, why)
    }

    fn report(&self, tripped: &BTreeMap<String, Breaker>) {
        self.app.stats.gauge(self.gauge, &[], tripped.len() as f64);
        let reason =
            |(endpoint, breaker): (&String, &Breaker)| takes_no_writes(endpoint, &breaker.why);
        let reasons: Vec<String> = tripped.iter().map(reason).collect();
        let state = if reasons.is_empty() {
            Ok(())
        } else {
            Err(reasons.join("; "))
        };
        self.app.health.set(self.component, state);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Breaker>> {
        app::lock(&self.tripped)
    }
}

fn takes_no_writes(endpoint: &str, why: &str) -> String {
    format!("{endpoint} takes no writes: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLL: Duration = Duration::from_secs(5);
    const PAUSE_LIMIT: Duration = Duration::from_secs(60);

    fn breakers() -> (App, CircuitBreakers) {
        let app = App::detached("es-writer");
        let breakers =
            CircuitBreakers::new(&app, "elasticsearch", "paused-indices", POLL, PAUSE_LIMIT);
        (app, breakers)
    }

    #[tokio::test(start_paused = true)]
    async fn one_request_at_a_time_probes_a_tripped_breaker_and_other_places_are_free() {
        let (app, breakers) = breakers();
        breakers.trip("index a", "disk full");
        assert!(
            !breakers
                .acquire("index b", &mut None)
                .await
                .unwrap()
                .is_probe()
        );
        let begin = Instant::now();
        let first = breakers.acquire("index a", &mut None).await.unwrap();
        assert!(first.is_probe());
        assert_eq!(begin.elapsed(), POLL);
        drop(first);
        assert!(
            breakers
                .acquire("index a", &mut None)
                .await
                .unwrap()
                .is_probe()
        );
        assert_eq!(app.stats.gauge_value("paused-indices", &[]), Some(1.0));
        assert!(app.health.failures()["elasticsearch"].contains("disk full"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_breaker_that_is_reset_lets_all_that_wait_through_at_once() {
        let (app, breakers) = breakers();
        breakers.trip("index a", "read-only");
        let begin = Instant::now();
        let (mut one, mut other) = (None, None);
        let waiting = async {
            tokio::join!(
                breakers.acquire("index a", &mut one),
                breakers.acquire("index a", &mut other)
            )
        };
        let ((one, other), ()) = tokio::join!(waiting, async {
            tokio::task::yield_now().await;
            breakers.reset("index a");
        });
        assert!(!one.unwrap().is_probe() && !other.unwrap().is_probe());
        assert_eq!(begin.elapsed(), Duration::ZERO);
        assert_eq!(app.stats.gauge_value("paused-indices", &[]), Some(0.0));
        assert!(app.health.failures().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_finds_another_waiting_at_a_tripped_breaker_is_put_off_after_a_moment() {
        let (_, breakers) = breakers();
        breakers.trip("shard 1", "disk full");
        let begin = Instant::now();
        let mut first = None;
        let probe = breakers.acquire("shard 1", &mut first);
        let others = async {
            tokio::task::yield_now().await;
            for _ in 0..3 {
                let why = breakers.acquire("shard 1", &mut None).await.unwrap_err();
                assert_eq!(why, "shard 1 takes no writes: disk full");
            }
            assert_eq!(begin.elapsed(), SHORT_WAIT * 3);
        };
        let (permit, ()) = tokio::join!(probe, others);
        assert!(permit.as_ref().unwrap().is_probe());
        // A probe may take its time as well.
        breakers.acquire("shard 1", &mut None).await.unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn probes_that_fail_use_up_the_limit_too() {
        let (_, breakers) = breakers();
        breakers.trip("index a", "read-only");
        let (begin, mut since) = (Instant::now(), None);
        let why = loop {
            match breakers.acquire("index a", &mut since).await {
                Ok(permit) => assert!(permit.is_probe()),
                Err(why) => break why,
            }
        };
        assert_eq!(why, "index a takes no writes: read-only");
        assert_eq!(begin.elapsed(), PAUSE_LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_waits_for_a_breaker_once_the_program_is_to_end() {
        let (app, breakers) = breakers();
        breakers.trip("index a", "read-only");
        app.shutdown.trigger();
        let begin = Instant::now();
        breakers.acquire("index a", &mut None).await.unwrap_err();
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }
}
