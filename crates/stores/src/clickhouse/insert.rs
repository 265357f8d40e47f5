//! Inserts, over a transport of their own.
//!
//! The `clickhouse` crate takes every answer of status 200 for success and keeps neither its headers
//! nor its body: rows that a proxy answered for would count as stored, and the number of rows written
//! would be unknown. So inserts go through `reqwest`, which gives the whole answer
//! (docs/decisions/0018-two-transports-to-clickhouse.md).

use app::with_causes;
use bytes::Bytes;
use futures_util::stream;
use reqwest::header::{CONTENT_LENGTH, HeaderMap};

use super::replica::{POOL_IDLE, Replica};
use super::{ConnectionSettings, Error, Query, Summary};

pub(super) fn client(settings: &ConnectionSettings) -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .connect_timeout(settings.connect_timeout)
        .timeout(settings.insert_timeout)
        .pool_idle_timeout(POOL_IDLE)
        .tcp_nodelay(true)
        .user_agent(concat!("keyword-fleet/", env!("CARGO_PKG_VERSION")))
        // A store is reached directly: a proxy of the environment is for requests to the internet.
        .no_proxy()
        // A redirected POST loses its body.
        .redirect(reqwest::redirect::Policy::none())
        .build()
}

impl Replica {
    /// Sends an `INSERT … FORMAT …` with the concatenation of `pieces` as its data, uncopied, and
    /// waits until it is done: synchronously, whatever the server's default.
    pub async fn insert(&self, query: &Query, pieces: Vec<Bytes>) -> Result<Summary, Error> {
        let length: usize = pieces.iter().map(Bytes::len).sum();
        let pieces = pieces.into_iter().map(Ok::<_, std::convert::Infallible>);
        let request = self
            .inserts
            .post(self.insert_url(query))
            .header("X-ClickHouse-User", &self.user)
            .header("X-ClickHouse-Key", self.password()?)
            // With a length the server knows a body that was cut off; chunks would cost it a copy too.
            .header(CONTENT_LENGTH, length)
            .body(reqwest::Body::wrap_stream(stream::iter(pieces)));
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(e) => return Err(self.failed(self.insert_error(&e))),
        };
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = match answer.text().await {
            Ok(body) => body,
            Err(e) => return Err(self.failed(self.insert_error(&e))),
        };
        let code = header(&headers, "X-ClickHouse-Exception-Code").and_then(|c| c.parse().ok());
        let summary = header(&headers, "X-ClickHouse-Summary").and_then(Summary::from_header);
        match summary {
            Some(summary) if status.is_success() && code.is_none() && body.trim().is_empty() => {
                self.origin.health.mark_up();
                Ok(summary)
            }
            _ => Err(self.failed(Error::from_answer(
                self.address(),
                status.as_u16(),
                code,
                &body,
            ))),
        }
    }

    fn insert_url(&self, query: &Query) -> url::Url {
        let mut url = self.url.clone();
        let mut pairs = url.query_pairs_mut();
        pairs.append_pair("query", query.sql());
        if !query.has_setting("async_insert") {
            pairs.append_pair("async_insert", "0");
        }
        for (name, value) in query.options() {
            pairs.append_pair(&name, value);
        }
        drop(pairs);
        url
    }

    fn insert_error(&self, error: &reqwest::Error) -> Error {
        let replica = self.address().to_owned();
        if error.is_connect() {
            Error::Connection {
                replica,
                sent: false,
                detail: with_causes(error),
            }
        } else if error.is_timeout() {
            Error::Timeout {
                replica,
                what: "an insert",
                after: self.insert_timeout,
            }
        } else {
            Error::Connection {
                replica,
                sent: true,
                detail: with_causes(error),
            }
        }
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
