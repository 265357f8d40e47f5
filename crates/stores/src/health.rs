//! Which of several equal endpoints to try first.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Whether an endpoint is in cooldown after a failure.
#[derive(Debug)]
pub(crate) struct EndpointHealth {
    cooldown: Duration,
    failed: Mutex<Option<Instant>>,
}

impl EndpointHealth {
    /// A failure counts until `cooldown` is over.
    pub fn new(cooldown: Duration) -> Self {
        Self {
            cooldown,
            failed: Mutex::new(None),
        }
    }

    pub fn mark_down(&self) {
        *app::lock(&self.failed) = Some(Instant::now());
    }

    pub fn mark_up(&self) {
        *app::lock(&self.failed) = None;
    }

    /// When it failed, if that still counts.
    fn down_since(&self) -> Option<Instant> {
        app::lock(&self.failed).filter(|failed| failed.elapsed() < self.cooldown)
    }
}

/// The order to try `endpoints` in: the healthy ones, starting at the next one for each request so that they
/// share the load, then those in cooldown, the longest failed first.
pub(crate) fn in_order_to_try<'a, T>(
    endpoints: &'a [T],
    turn: &AtomicUsize,
    health: impl Fn(&T) -> &EndpointHealth,
) -> Vec<&'a T> {
    let first = turn.fetch_add(1, Ordering::Relaxed) % endpoints.len().max(1);
    let (tail, head) = endpoints.split_at(first);
    let mut order: Vec<_> = head
        .iter()
        .chain(tail)
        .map(|endpoint| (health(endpoint).down_since(), endpoint))
        .collect();
    // A stable sort: `None`, the healthy, before any time, and in their rotated order.
    order.sort_by_key(|(down_since, _)| *down_since);
    order.into_iter().map(|(_, endpoint)| endpoint).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Endpoint(&'static str, EndpointHealth);

    fn endpoints() -> [Endpoint; 3] {
        ["a", "b", "c"].map(|name| Endpoint(name, EndpointHealth::new(Duration::from_secs(30))))
    }

    fn order(endpoints: &[Endpoint], turn: &AtomicUsize) -> String {
        in_order_to_try(endpoints, turn, |e| &e.1)
            .iter()
            .map(|e| e.0)
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn healthy_endpoints_take_turns_at_being_first() {
        let (endpoints, turn) = (endpoints(), AtomicUsize::new(0));
        let orders: Vec<_> = (0..4).map(|_| order(&endpoints, &turn)).collect();
        assert_eq!(orders, ["abc", "bca", "cab", "abc"]);
    }

    #[tokio::test(start_paused = true)]
    async fn failed_endpoints_come_last_the_longest_failed_first_until_their_cooldown_is_over() {
        let (endpoints, turn) = (endpoints(), AtomicUsize::new(0));
        endpoints[1].1.mark_down();
        tokio::time::advance(Duration::from_secs(1)).await;
        endpoints[0].1.mark_down();
        assert_eq!(order(&endpoints, &turn), "cba");
        tokio::time::advance(Duration::from_secs(29)).await;
        assert_eq!(order(&endpoints, &turn), "bca");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(order(&endpoints, &turn), "cab");
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_answers_again_is_healthy_at_once() {
        let (endpoints, turn) = (endpoints(), AtomicUsize::new(0));
        endpoints[0].1.mark_down();
        endpoints[0].1.mark_up();
        assert_eq!(order(&endpoints, &turn), "abc");
    }
}
