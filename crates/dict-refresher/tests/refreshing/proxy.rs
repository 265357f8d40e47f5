//! A server in front of the real engine that records each statement, and may change it, answer it by itself, or die.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, Response};
use axum::routing::post;
use tokio::sync::Notify;

/// A statement on its way.
#[derive(Debug, Clone)]
pub struct Statement {
    pub sql: String,
    /// Settings and parameters, as they stand in the address.
    pub options: String,
}

impl Statement {
    /// What makes the engine, which has no replicated tables, describe a table as one; `None` for any other statement.
    pub fn described_as_replicated(&self) -> Option<Action> {
        let rest = self.sql.strip_prefix("SELECT engine, ")?;
        let sql = format!("SELECT 'ReplicatedReplacingMergeTree' AS engine, {rest}");
        Some(Action::Rewrite(sql))
    }
}

/// What is done with a statement.
pub enum Action {
    Forward,
    /// Another statement is sent instead.
    Rewrite(String),
    /// Rows as JSON, one a line.
    Rows(String),
    /// An exception of the server.
    Exception(i32, String),
    /// The worker is dead before the server gets it.
    KillBefore,
    /// The server executes it, and the worker is dead before it gets the answer.
    KillAfter,
}

type Decide = dyn FnMut(&Statement) -> Action + Send;

struct Shared {
    upstream: String,
    client: reqwest::Client,
    decide: Mutex<Box<Decide>>,
    seen: Mutex<Vec<Statement>>,
    killed: Notify,
}

#[derive(Clone)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    pub async fn start(
        upstream: &str,
        decide: impl FnMut(&Statement) -> Action + Send + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            client: reqwest::Client::new(),
            decide: Mutex::new(Box::new(decide)),
            seen: Mutex::default(),
            killed: Notify::new(),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/", post(handle))
            .with_state(shared.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, shared }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn seen(&self) -> Vec<Statement> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// The statements that begin so.
    pub fn beginning(&self, with: &str) -> Vec<Statement> {
        let seen = self.seen().into_iter();
        seen.filter(|s| s.sql.starts_with(with)).collect()
    }

    /// Resolves when the worker is to be dead.
    pub async fn killed(&self) {
        self.shared.killed.notified().await;
    }
}

async fn handle(
    State(shared): State<Arc<Shared>>,
    RawQuery(options): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let options = options.unwrap_or_default();
    let statement = Statement {
        sql: sql_from(&String::from_utf8_lossy(&body)),
        options: options.clone(),
    };
    shared.seen.lock().unwrap().push(statement.clone());
    let action = (shared.decide.lock().unwrap())(&statement);
    let forward = |body: Bytes| {
        let mut request = shared
            .client
            .post(format!("{}/?{options}", shared.upstream))
            .body(body);
        for (name, value) in &headers {
            let name_text = name.as_str();
            if name_text.starts_with("x-clickhouse")
                || ["authorization", "content-type"].contains(&name_text)
            {
                request = request.header(name, value);
            }
        }
        request.send()
    };
    let body = match action {
        Action::Forward => body,
        Action::Rewrite(sql) => String::from_utf8_lossy(&body)
            .replacen(&statement.sql, &sql, 1)
            .into(),
        Action::Rows(rows) => return answer(200, None, rows),
        Action::Exception(code, text) => {
            let text = format!("Code: {code}. DB::Exception: {text}. (TEST) (version 26.9)");
            return answer(500, Some(code), text);
        }
        Action::KillBefore => return die(&shared).await,
        Action::KillAfter => {
            forward(body).await.unwrap().bytes().await.unwrap();
            return die(&shared).await;
        }
    };
    let upstream = forward(body).await.unwrap();
    let mut response = Response::builder().status(upstream.status().as_u16());
    for (name, value) in upstream.headers() {
        if name.as_str().starts_with("x-clickhouse") {
            response = response.header(name, value);
        }
    }
    response
        .body(Body::from(upstream.bytes().await.unwrap()))
        .unwrap()
}

/// The statement of a request; one with parameters is a form.
fn sql_from(body: &str) -> String {
    let in_form = body.split_once("name=\"query\"\r\n\r\n");
    let sql = in_form.and_then(|(_, rest)| rest.split_once("\r\n--"));
    sql.map_or(body, |(sql, _)| sql).to_owned()
}

async fn die(shared: &Shared) -> Response<Body> {
    shared.killed.notify_one();
    std::future::pending().await
}

fn answer(status: u16, code: Option<i32>, body: String) -> Response<Body> {
    let mut response = Response::builder()
        .status(status)
        .header("X-ClickHouse-Summary", "{\"read_rows\":\"0\"}");
    if let Some(code) = code {
        response = response.header("X-ClickHouse-Exception-Code", code);
    }
    response.body(Body::from(body)).unwrap()
}
