use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::Context;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router, extract};
use serde::Serialize;
use tokio::time::Instant;

use crate::{Shutdown, lock};

/// The state of a program's parts, as they report it; clones share it.
///
/// `GET /health` answers 200, or 503 while a part is failing. `GET /ready` answers 503 also while a
/// part that was announced with [`Health::expect`] has not reported yet, and once the program is
/// ending.
#[derive(Debug, Clone, Default)]
pub struct Health {
    parts: Arc<Mutex<BTreeMap<String, Part>>>,
}

#[derive(Debug, Clone)]
enum Part {
    Expected,
    Well,
    Failing { why: String, since: Instant },
}

/// The body of an answer: `{"status": "failing", "process": "es-writer", "reasons": {"broker": "…"}}`.
#[derive(Debug, Serialize)]
struct Report {
    /// `ok`, `failing`, `starting` or `ending`.
    status: &'static str,
    process: Arc<str>,
    reasons: BTreeMap<String, String>,
}

impl Health {
    pub fn new() -> Self {
        Self::default()
    }

    /// Announces a part that will report later: until then the program is alive but not ready.
    pub fn expect(&self, component: &str) {
        let mut parts = self.lock();
        parts.entry(component.to_owned()).or_insert(Part::Expected);
    }

    /// Reports the state of a part. A part that fails for another reason than before is failing since it
    /// failed first.
    pub fn set(&self, component: &str, state: Result<(), String>) {
        let mut parts = self.lock();
        let part = match (state, parts.get(component)) {
            (Ok(()), _) => Part::Well,
            (Err(why), Some(Part::Failing { since, .. })) => Part::Failing { why, since: *since },
            (Err(why), _) => Part::Failing {
                why,
                since: Instant::now(),
            },
        };
        parts.insert(component.to_owned(), part);
    }

    /// The failing parts, each with why and for how long.
    pub fn failures(&self) -> BTreeMap<String, String> {
        self.reasons(|part| match part {
            Part::Failing { why, since } => {
                Some(format!("{why} (for {} s)", since.elapsed().as_secs()))
            }
            Part::Expected | Part::Well => None,
        })
    }

    fn expected(&self) -> BTreeMap<String, String> {
        let expected = |part: &Part| matches!(part, Part::Expected);
        self.reasons(|part| expected(part).then(|| "has not reported yet".to_owned()))
    }

    fn reasons(&self, reason: impl Fn(&Part) -> Option<String>) -> BTreeMap<String, String> {
        let parts = self.lock();
        let reasons = parts
            .iter()
            .filter_map(|(name, part)| Some((name.clone(), reason(part)?)));
        reasons.collect()
    }

    /// Answers on `address` until the program ends, in the tokio runtime that this is called in;
    /// returns the address with the port that was bound. Fails when it cannot be bound.
    pub fn serve(
        &self,
        address: &SocketAddr,
        process: &Arc<str>,
        shutdown: &Shutdown,
    ) -> anyhow::Result<SocketAddr> {
        let listener = std::net::TcpListener::bind(address)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .and_then(tokio::net::TcpListener::from_std)
            .with_context(|| format!("health.address: cannot listen on {address}"))?;
        let bound = listener.local_addr()?;
        let page = Page {
            health: self.clone(),
            process: process.clone(),
            shutdown: shutdown.clone(),
        };
        let routes = Router::new()
            .route("/health", get(health))
            .route("/ready", get(ready))
            .with_state(page);
        // Not stopped by the shutdown: while the program drains, the page says so.
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, routes).await {
                tracing::error!(%error, "the health page ended");
            }
        });
        Ok(bound)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Part>> {
        lock(&self.parts)
    }
}

#[derive(Debug, Clone)]
struct Page {
    health: Health,
    process: Arc<str>,
    shutdown: Shutdown,
}

impl Page {
    fn answer(
        self,
        status: &'static str,
        reasons: BTreeMap<String, String>,
    ) -> (StatusCode, Json<Report>) {
        let code = match status {
            "ok" => StatusCode::OK,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        let process = self.process;
        (
            code,
            Json(Report {
                status,
                process,
                reasons,
            }),
        )
    }
}

async fn health(extract::State(page): extract::State<Page>) -> (StatusCode, Json<Report>) {
    let failures = page.health.failures();
    let status = if failures.is_empty() { "ok" } else { "failing" };
    page.answer(status, failures)
}

async fn ready(extract::State(page): extract::State<Page>) -> (StatusCode, Json<Report>) {
    let failures = page.health.failures();
    let expected = page.health.expected();
    let status = match () {
        () if page.shutdown.is_triggered() => "ending",
        () if !failures.is_empty() => "failing",
        () if !expected.is_empty() => "starting",
        () => "ok",
    };
    page.answer(status, failures.into_iter().chain(expected).collect())
}
