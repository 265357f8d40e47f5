//! A server with as much of Elasticsearch's API as the writer uses, which answers as a test tells it to.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// One bulk request.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub index: String,
    /// The ids of its documents.
    pub ids: Vec<String>,
}

/// How a request is answered.
pub enum Answer {
    /// A status for each document, with the kind of its error; the next one for those not named.
    Items(BTreeMap<&'static str, (u16, &'static str)>, u16),
    /// The whole request, by a status and a body that is JSON or a page.
    Whole(u16, &'static str),
}

pub fn stored() -> Answer {
    Answer::Items(BTreeMap::new(), 201)
}

pub fn items<const N: usize>(named: [(&'static str, (u16, &'static str)); N]) -> Answer {
    Answer::Items(named.into(), 201)
}

type Script = Box<dyn Fn(&Request, usize) -> Answer + Send>;

pub struct Fake {
    pub url: String,
    state: Arc<Shared>,
}

struct Shared {
    script: Mutex<Script>,
    requests: Mutex<Vec<Request>>,
    followers: Vec<String>,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
}

impl Fake {
    /// A server whose index `all` has these followers. `script` answers a bulk request; its argument is how
    /// many there were before it for the same index.
    pub async fn new(
        followers: &[&str],
        script: impl Fn(&Request, usize) -> Answer + Send + 'static,
    ) -> Self {
        let state = Arc::new(Shared {
            script: Mutex::new(Box::new(script)),
            requests: Mutex::default(),
            followers: followers.iter().map(|name| (*name).to_owned()).collect(),
            in_flight: AtomicUsize::new(0),
            most_in_flight: AtomicUsize::new(0),
        });
        let routes = Router::new().fallback(answer).with_state(state.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { url, state }
    }

    /// The bulk requests for `index` so far: the ids of each.
    pub fn requests(&self, index: &str) -> Vec<Vec<String>> {
        let requests = self.state.requests.lock().unwrap();
        let of_index = requests.iter().filter(|request| request.index == index);
        of_index.map(|request| request.ids.clone()).collect()
    }

    /// Bulk requests that were waiting for their answers at one time, at most.
    pub fn most_in_flight(&self) -> usize {
        self.state.most_in_flight.load(Ordering::SeqCst)
    }
}

async fn answer(State(state): State<Arc<Shared>>, uri: Uri, body: Bytes) -> Response {
    let path = uri.path();
    if let Some(names) = path.strip_prefix("/_resolve/index/") {
        let leader = names.split(',').next().unwrap();
        let mut indices = vec![json!({ "name": leader })];
        if leader == "all" {
            indices.extend(state.followers.iter().map(|name| json!({ "name": name })));
        }
        return as_json(
            200,
            &json!({ "indices": indices, "aliases": [], "data_streams": [] }),
        );
    }
    let Some(index) = path.strip_suffix("/_bulk") else {
        return as_json(200, &json!({}));
    };
    let now = state.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
    state.most_in_flight.fetch_max(now, Ordering::SeqCst);
    // A store takes its time: requests that may overlap do.
    tokio::time::sleep(Duration::from_millis(5)).await;
    state.in_flight.fetch_sub(1, Ordering::SeqCst);
    let lines = body
        .split(|b| *b == b'\n')
        .step_by(2)
        .filter(|line| !line.is_empty());
    let ids = lines.map(|line| {
        let action: Value = serde_json::from_slice(line).unwrap();
        action["index"]["_id"].as_str().unwrap().to_owned()
    });
    let request = Request {
        index: index.trim_start_matches('/').to_owned(),
        ids: ids.collect(),
    };
    let before = {
        let mut requests = state.requests.lock().unwrap();
        let before = requests.iter().filter(|r| r.index == request.index).count();
        requests.push(request.clone());
        before
    };
    let answer = (state.script.lock().unwrap())(&request, before);
    match answer {
        Answer::Whole(status, body) if body.starts_with('<') => (
            status_of(status),
            [(header::CONTENT_TYPE, "text/html")],
            body,
        )
            .into_response(),
        Answer::Whole(status, body) => as_json(status, &serde_json::from_str(body).unwrap()),
        Answer::Items(named, other) => {
            let items = request.ids.iter().map(|id| match named.get(id.as_str()) {
                None => json!({ "index": { "status": other } }),
                Some((status, kind)) => {
                    let error = json!({ "type": kind, "reason": format!("{id} is not taken") });
                    json!({ "index": { "status": status, "error": error } })
                }
            });
            as_json(200, &json!({ "items": items.collect::<Vec<_>>() }))
        }
    }
}

fn status_of(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap()
}

fn as_json(status: u16, body: &Value) -> Response {
    (status_of(status), axum::Json(body)).into_response()
}
