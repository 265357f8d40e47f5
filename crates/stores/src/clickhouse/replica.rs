use std::sync::Arc;
use std::time::Duration;

use ::clickhouse::error::Error as TransportError;
use app::with_causes;
use bytes::Bytes;
use futures_util::TryStreamExt;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::de::DeserializeOwned;
use settings::Secret;
use url::Url;

use super::{ByteStream, ConfigError, ConnectionSettings, Error, Query, Summary};
use crate::answer::excerpt;
use crate::health::EndpointHealth;

/// Below the 3 s (10 s since 23.11) after which ClickHouse closes an idle connection: one that
/// closes as a request goes out would look like a failed replica.
pub(super) const POOL_IDLE: Duration = Duration::from_secs(2);
/// Every Arrow stream begins with this: <https://arrow.apache.org/docs/format/Columnar.html>.
const ARROW_BEGINNING: [u8; 4] = [0xFF; 4];

/// One server. It has no failover: [`super::Shard`] has.
pub struct Replica {
    pub(super) origin: Arc<Origin>,
    /// Transport of everything but inserts.
    queries: ::clickhouse::Client,
    /// Transport of inserts: see [`super::insert`].
    pub(super) inserts: reqwest::Client,
    pub(super) url: Url,
    pub(super) user: String,
    password: Option<Secret>,
    idle_timeout: Duration,
    pub(super) insert_timeout: Duration,
}

/// What a stream shares with the replica that it comes from.
#[derive(Debug)]
pub(super) struct Origin {
    pub address: String,
    pub health: EndpointHealth,
}

impl Replica {
    pub(super) fn new(url: Url, settings: &ConnectionSettings, transports: &Transports) -> Self {
        let address = url.as_str().trim_end_matches('/').to_owned();
        let queries = transports
            .queries
            .clone()
            .with_url(url.as_str())
            .with_user(&settings.user);
        Self {
            origin: Arc::new(Origin {
                address,
                health: EndpointHealth::new(settings.replica_cooldown),
            }),
            queries,
            inserts: transports.inserts.clone(),
            url,
            user: settings.user.clone(),
            password: settings.password.clone(),
            idle_timeout: settings.idle_timeout,
            insert_timeout: settings.insert_timeout,
        }
    }

    /// Its address, without credentials, as in logs and errors.
    pub fn address(&self) -> &str {
        &self.origin.address
    }

    /// Starts its cooldown of `replica_cooldown_seconds`. Its own methods do this by themselves.
    pub fn mark_down(&self) {
        self.origin.health.mark_down();
    }

    /// The answer of a query in ArrowStream, piece by piece. Returns with the first piece, so that an
    /// exception, a proxy's page or a dead server is an error here and not in the stream.
    ///
    /// A server before 25.11 writes an exception in mid-stream among the data, and a network may split it
    /// so that it is not recognised: an incomplete Arrow stream is a failed attempt, not bad data.
    pub async fn stream(&self, query: &Query) -> Result<ByteStream, Error> {
        let (first, rest) = self.begin(query, "ArrowStream").await?;
        let Some(first) = first else {
            return Err(self.failed(Error::Truncated {
                replica: self.address().to_owned(),
                detail: "it is empty where an Arrow stream should be".to_owned(),
            }));
        };
        let beginning = first.len().min(ARROW_BEGINNING.len());
        if first[..beginning] != ARROW_BEGINNING[..beginning] {
            return Err(self.unexpected(&first));
        }
        Ok(rest.beginning_with(first))
    }

    /// The rows of a query, read from JSONEachRow. For small answers: all of it is held in memory.
    pub async fn rows<T: DeserializeOwned>(&self, query: &Query) -> Result<Vec<T>, Error> {
        Ok(self.counted_rows(query).await?.0)
    }

    /// [`Replica::rows`], and what the server read for them.
    pub async fn counted_rows<T: DeserializeOwned>(
        &self,
        query: &Query,
    ) -> Result<(Vec<T>, Summary), Error> {
        let query = query
            .clone()
            // Numbers stay numbers in every release: 64 bits were quoted before 24.x.
            .setting("output_format_json_quote_64bit_integers", 0)
            // The summary is in the headers: they must not go out before all is read.
            .setting("wait_end_of_query", 1);
        let (body, summary) = self.collect(&query, "JSONEachRow").await?;
        let rows: Result<Vec<T>, Error> = body
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.trim_ascii().is_empty())
            .map(|line| {
                serde_json::from_slice(line).map_err(|e| Error::UnreadableRow {
                    replica: self.address().to_owned(),
                    detail: format!("{e}, in {:?}", excerpt(line)),
                })
            })
            .collect();
        Ok((rows?, summary))
    }

    /// Executes a statement that returns no rows.
    pub async fn execute(&self, query: &Query) -> Result<Summary, Error> {
        let (_, summary) = self.collect(query, "Null").await?;
        Ok(summary)
    }

    /// A whole answer. Only ClickHouse sends a summary: an empty page of a proxy is not taken for "no rows".
    async fn collect(&self, query: &Query, format: &str) -> Result<(Vec<u8>, Summary), Error> {
        let (first, mut stream) = self.begin(query, format).await?;
        let mut body = first.map(Vec::from).unwrap_or_default();
        let Some(summary) = stream.summary() else {
            return Err(self.unexpected(&body));
        };
        while let Some(piece) = stream.try_next().await? {
            body.extend_from_slice(&piece);
        }
        Ok((body, summary))
    }

    /// Sends a query; returns with the first piece of the answer and the stream of the others.
    async fn begin(
        &self,
        query: &Query,
        format: &str,
    ) -> Result<(Option<Bytes>, ByteStream), Error> {
        let mut request = self
            .queries
            .clone()
            .with_password(self.password()?)
            .query_raw(query.sql());
        for (name, value) in query.options() {
            request = request.with_setting(name, value);
        }
        let cursor = request
            .fetch_bytes(format)
            .map_err(|e| self.failed(self.origin.error(e)))?;
        let mut stream = ByteStream::new(cursor, self.origin.clone(), self.idle_timeout);
        let first = stream.try_next().await?;
        Ok((first, stream))
    }

    /// Read for each request, so that a rotated password counts at once.
    pub(super) fn password(&self) -> Result<String, Error> {
        let Some(password) = &self.password else {
            return Ok(String::new());
        };
        let password = password.reveal().map_err(|e| Error::NoPassword {
            replica: self.address().to_owned(),
            detail: e.to_string(),
        })?;
        Ok(password.into_owned())
    }

    /// Starts the replica's cooldown if `error` may be its fault; returns the error.
    pub(super) fn failed(&self, error: Error) -> Error {
        self.origin.note_failure(&error);
        error
    }

    fn unexpected(&self, body: &[u8]) -> Error {
        self.failed(Error::UnexpectedAnswer {
            replica: self.address().to_owned(),
            status: 200,
            excerpt: excerpt(body),
        })
    }
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

impl Origin {
    pub fn note_failure(&self, error: &Error) {
        if error.allows_failover() {
            self.health.mark_down();
        }
    }

    /// Translates an error of the `clickhouse` crate.
    pub fn error(&self, error: TransportError) -> Error {
        let replica = self.address.clone();
        match error {
            // The crate drops the status; the text shows whether the answer is ClickHouse's.
            TransportError::BadResponse(text) => Error::from_answer(&replica, 0, None, &text),
            TransportError::Network(error) => {
                use hyper_util::client::legacy::Error as RequestError;
                match error.downcast_ref::<RequestError>() {
                    Some(request) => Error::Connection {
                        replica,
                        sent: !request.is_connect(),
                        detail: with_causes(error.as_ref()),
                    },
                    // Not of the request: the body of the answer broke off.
                    None => Error::Truncated {
                        replica,
                        detail: with_causes(error.as_ref()),
                    },
                }
            }
            TransportError::InvalidParams(_) | TransportError::Unsupported(_) => {
                Error::Unsendable {
                    replica,
                    detail: with_causes(&error),
                }
            }
            other => Error::Truncated {
                replica,
                detail: with_causes(&other),
            },
        }
    }
}

/// The connection pools that all replicas of a cluster share.
pub(super) struct Transports {
    queries: ::clickhouse::Client,
    inserts: reqwest::Client,
}

impl Transports {
    pub fn new(settings: &ConnectionSettings) -> Result<Self, ConfigError> {
        let mut tcp = HttpConnector::new();
        tcp.set_connect_timeout(Some(settings.connect_timeout));
        tcp.set_nodelay(true);
        // The TLS layer above decides which schemes are valid.
        tcp.enforce_http(false);
        let failed = |detail: String| ConfigError::Client {
            section: settings.section,
            detail,
        };
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_provider_and_webpki_roots(rustls::crypto::ring::default_provider())
            .map_err(|e| failed(e.to_string()))?
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let http = HttpClient::builder(TokioExecutor::new())
            .pool_idle_timeout(POOL_IDLE)
            .build(connector);
        let queries = ::clickhouse::Client::with_http_client(http)
            .with_product_info("keyword-fleet", env!("CARGO_PKG_VERSION"))
            // ArrowStream is compressed already, and by column.
            .with_compression(::clickhouse::Compression::None);
        let inserts = super::insert::client(settings).map_err(|e| failed(with_causes(&e)))?;
        Ok(Self { queries, inserts })
    }
}
