use std::collections::HashMap;
use std::io::Read;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::Fault;
use crate::clickhouse::query;

/// Environment variables that make a program a SERP process.
pub(super) const PORT: &str = "SERP_DEMO_PORT";
pub(super) const SOURCE: &str = "SERP_DEMO_SOURCE";
pub(super) const FAULTS: &str = "SERP_DEMO_FAULTS";

/// Delay of the exit, in which the answer to `/exit` is sent.
const EXIT_DELAY: Duration = Duration::from_millis(30);

/// Whether the environment makes this program a SERP process: then it has to call [`main`] and nothing else.
pub fn is_process() -> bool {
    std::env::var_os(PORT).is_some()
}

/// Runs the SERP process that the environment names; does nothing without one. It ends when the supervisor does.
pub fn main() {
    let Ok(port) = std::env::var(PORT) else {
        return;
    };
    std::thread::spawn(|| {
        // The supervisor has the other end, which is closed when it dies.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let port = port.parse().expect("the supervisor names a port");
    let source = std::env::var(SOURCE).expect("the supervisor names a source");
    let faults = std::env::var_os(FAULTS).map(PathBuf::from);
    serve("127.0.0.1", port, &source, faults);
}

/// Loads the dictionary and serves it at an address and port until `/exit` is called. `source`:
/// `http://host:8123/DATABASE.DICTIONARY`, or a file of JSON,
/// `{"version": 1, "run": "…", "rows": [{"country": "us", "keyword": "…", …}]}`. A dictionary that does not exist yet
/// is one of version 0 without rows. Ends the process with an error when it cannot be loaded.
pub fn serve(address: &str, port: u16, source: &str, faults: Option<PathBuf>) {
    let service = SerpProcess {
        port,
        faults,
        loaded: LoadedDictionary::default(),
    };
    let fault = service.fault();
    if fault == Some(Fault::Fail) {
        eprintln!("port {port} fails, as its fault demands");
        std::process::exit(1);
    }
    let mut loaded = LoadedDictionary::from_source(source).unwrap_or_else(|error| {
        eprintln!("port {port} cannot load {source}: {error}");
        std::process::exit(1);
    });
    match fault {
        Some(Fault::Old(version)) => loaded.version = version,
        Some(Fault::Slow(ms)) => std::thread::sleep(Duration::from_millis(ms)),
        _ => {}
    }
    let service = SerpProcess { loaded, ..service };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let listener = TcpListener::bind((address, port)).await;
        let listener = listener.unwrap_or_else(|error| {
            eprintln!("port {port} cannot be listened on: {error}");
            std::process::exit(1);
        });
        if fault == Some(Fault::Hang) {
            hang(&listener).await;
        }
        let served = axum::serve(listener, router(Arc::new(service))).await;
        served.expect("the service runs until it exits");
    });
}

async fn hang(listener: &TcpListener) {
    let mut accepted = Vec::<(_, SocketAddr)>::new();
    while let Ok(connection) = listener.accept().await {
        accepted.push(connection);
    }
}

struct SerpProcess {
    port: u16,
    faults: Option<PathBuf>,
    loaded: LoadedDictionary,
}

impl SerpProcess {
    fn fault(&self) -> Option<Fault> {
        Fault::read(self.faults.as_ref()?, self.port)
    }
}

fn router(service: Arc<SerpProcess>) -> Router {
    Router::new()
        .route("/health", get(|| async { "ok\n" }))
        .route("/version", get(version))
        .route("/keyword", get(keyword))
        .route("/exit", post(exit))
        .layer(from_fn_with_state(service.clone(), redirect))
        .with_state(service)
}

async fn redirect(
    State(service): State<Arc<SerpProcess>>,
    request: Request,
    next: Next,
) -> Response {
    let Some(Fault::Redirect(port)) = service.fault() else {
        return next.run(request).await;
    };
    let to = format!("http://127.0.0.1:{port}{}", request.uri());
    (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, to)]).into_response()
}

async fn version(State(service): State<Arc<SerpProcess>>) -> Response {
    if service.fault() == Some(Fault::Unversioned) {
        return StatusCode::NOT_FOUND.into_response();
    }
    let LoadedDictionary { version, run, .. } = &service.loaded;
    as_json(json!({ "version": version, "run": run }).to_string())
}

async fn keyword(
    State(service): State<Arc<SerpProcess>>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let word = |name: &str| query.get(name).cloned().unwrap_or_default();
    match service.loaded.rows.get(&(word("country"), word("keyword"))) {
        Some(row) => as_json(row.clone()),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn exit(State(service): State<Arc<SerpProcess>>) -> &'static str {
    match service.fault() {
        Some(Fault::Drop) => std::process::exit(0),
        Some(Fault::Deaf) => return "not now\n",
        Some(Fault::Silent) => std::future::pending().await,
        _ => {}
    }
    tokio::spawn(async {
        tokio::time::sleep(EXIT_DELAY).await;
        std::process::exit(0);
    });
    "bye\n"
}

fn as_json(text: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

#[derive(Default)]
struct LoadedDictionary {
    version: i64,
    run: String,
    /// Rows as JSON, by country and keyword.
    rows: HashMap<(String, String), String>,
}

impl LoadedDictionary {
    fn from_source(source: &str) -> Result<Self, String> {
        if source.starts_with("http") {
            Self::from_clickhouse(source)
        } else {
            Self::from_file(source)
        }
    }

    fn from_file(path: &str) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        let content: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let mut loaded = Self::with_tag(&content);
        for row in content["rows"].as_array().into_iter().flatten() {
            loaded.add(row, row.to_string());
        }
        Ok(loaded)
    }

    fn from_clickhouse(source: &str) -> Result<Self, String> {
        let (address, dictionary) = source.rsplit_once('/').ok_or("it names no dictionary")?;
        let (database, name) = dictionary.split_once('.').ok_or("it names no database")?;
        let run = |sql: &str| match query(address, sql) {
            (true, answer) => Ok(answer),
            (false, answer) => Err(answer),
        };
        let comment = || {
            run(&format!(
                "SELECT comment FROM system.dictionaries WHERE database = '{database}' AND name = '{name}' \
                 FORMAT TSVRaw"
            ))
        };
        let before = comment()?;
        if before.is_empty() {
            return Ok(Self::default());
        }
        let rows = run(&format!(
            "SELECT * FROM {database}.{name} FORMAT JSONEachRow"
        ))?;
        if comment()? != before {
            return Err("it was exchanged while it was read".to_owned());
        }
        let tag = serde_json::from_str(before.trim()).unwrap_or_default();
        let mut loaded = Self::with_tag(&tag);
        for line in rows.lines() {
            let row = serde_json::from_str(line).map_err(|error| format!("{error} in {line}"))?;
            loaded.add(&row, line.to_owned());
        }
        Ok(loaded)
    }

    fn with_tag(tag: &Value) -> Self {
        Self {
            version: tag["version"].as_i64().unwrap_or(0),
            run: tag["run"].as_str().unwrap_or_default().to_owned(),
            rows: HashMap::new(),
        }
    }

    fn add(&mut self, row: &Value, text: String) {
        let word = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        self.rows.insert((word("country"), word("keyword")), text);
    }
}
