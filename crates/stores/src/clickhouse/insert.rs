//! Inserts, over a transport of their own.
//!
//! The `clickhouse` crate takes every answer of status 200 for success and keeps neither its headers
//! nor its body: rows that a proxy answered for would count as stored, and the number of rows written
//! would be unknown. So inserts go through `reqwest`, which gives the whole answer
//! (docs/decisions/0018-two-transports-to-clickhouse.md).

use app::with_causes;
use bytes::Bytes;
use futures_util::stream;
use reqwest::header::CONTENT_LENGTH;

use super::pinned::Access;
use super::replica::{POOL_IDLE, Replica};
use super::{ConnectionSettings, Error, ErrorKind, Query, Summary};

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
    ///
    /// The statement stands in the body, before its data: one that names many columns is longer than a URL may be.
    pub async fn insert(&self, query: &Query, pieces: Vec<Bytes>) -> Result<Summary, Error> {
        match self.send_insert(query, pieces.clone()).await {
            Err(error) if self.learns_settings(&error).await? => {
                self.send_insert(query, pieces).await
            }
            inserted => inserted,
        }
    }

    async fn send_insert(&self, query: &Query, pieces: Vec<Bytes>) -> Result<Summary, Error> {
        // Data begin after the first line break.
        let statement = Bytes::from(format!("{}\n", query.sql()));
        let pieces: Vec<Bytes> = std::iter::once(statement).chain(pieces).collect();
        let length: usize = pieces.iter().map(Bytes::len).sum();
        let pieces = pieces.into_iter().map(Ok::<_, std::convert::Infallible>);
        let request = self
            .transports
            .inserts
            .post(self.insert_url(query))
            .header("X-ClickHouse-User", &self.settings.user)
            .header("X-ClickHouse-Key", self.password()?)
            // With a length the server knows a body that was cut off; chunks would cost it a copy too.
            .header(CONTENT_LENGTH, length)
            .body(reqwest::Body::wrap_stream(stream::iter(pieces)));
        let answered = async {
            let answer = request.send().await?;
            let (status, headers) = (answer.status(), answer.headers().clone());
            Ok((status, headers, answer.text().await?))
        };
        let (status, headers, body) = match answered.await {
            Ok(answer) => answer,
            Err(e) => return Err(self.endpoint.failed(self.insert_error(&e))),
        };
        let header = |name| headers.get(name)?.to_str().ok();
        let code = header("X-ClickHouse-Exception-Code").and_then(|code| code.parse().ok());
        match header("X-ClickHouse-Summary").and_then(Summary::from_header) {
            Some(summary) if status.is_success() && code.is_none() && body.trim().is_empty() => {
                self.endpoint.health.mark_up();
                Ok(summary)
            }
            _ => {
                let kind = ErrorKind::from_answer(Some(status.as_u16()), code, &body);
                Err(self.endpoint.failed(kind))
            }
        }
    }

    fn insert_url(&self, query: &Query) -> url::Url {
        let mut url = self.url.clone();
        let mut pairs = url.query_pairs_mut();
        pairs.extend_pairs(self.pins.settings(query, Access::Insert));
        pairs.extend_pairs(query.options());
        drop(pairs);
        url
    }

    fn insert_error(&self, error: &reqwest::Error) -> ErrorKind {
        if error.is_timeout() && !error.is_connect() {
            return ErrorKind::Timeout {
                what: "an insert",
                after: self.settings.insert_timeout,
            };
        }
        ErrorKind::Connection {
            sent: !error.is_connect(),
            detail: with_causes(error),
        }
    }
}
