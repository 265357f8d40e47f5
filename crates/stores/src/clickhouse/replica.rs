use std::sync::Arc;
use std::time::Duration;

use app::with_causes;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::Url;

use super::pinned::{Access, Pins};
use super::{ByteStream, ConnectionSettings, Error, ErrorKind, Query, Summary};
use crate::ConfigError;
use crate::answer::excerpt;
use crate::health::EndpointHealth;

/// Below the 3 s (10 s since 23.11) after which ClickHouse closes an idle connection: one that
/// closes as a request goes out would look like a failed replica.
pub(super) const POOL_IDLE: Duration = Duration::from_secs(2);
/// Every Arrow stream begins with this: <https://arrow.apache.org/docs/format/Columnar.html>.
const ARROW_BEGINNING: [u8; 4] = [0xFF; 4];

/// One server. It has no failover: [`super::Shard`] has.
pub struct Replica {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) url: Url,
    pub(super) settings: Arc<ConnectionSettings>,
    pub(super) transports: Transports,
    pub(super) pins: Pins,
}

#[derive(Deserialize)]
struct SettingNames {
    names: Vec<String>,
}

/// What a stream shares with the replica that it comes from.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub address: String,
    pub health: EndpointHealth,
}

/// The connection pools that all replicas of a cluster share.
#[derive(Clone)]
pub(super) struct Transports {
    /// Of everything but inserts.
    queries: ::clickhouse::Client,
    /// Of inserts: see [`super::insert`].
    pub inserts: reqwest::Client,
}

impl Replica {
    pub(super) fn new(url: Url, settings: Arc<ConnectionSettings>, transports: Transports) -> Self {
        let endpoint = Endpoint {
            address: url.as_str().trim_end_matches('/').to_owned(),
            health: EndpointHealth::new(settings.replica_cooldown),
        };
        Self {
            endpoint: Arc::new(endpoint),
            url,
            settings,
            transports,
            pins: Pins::default(),
        }
    }

    /// Its address, without credentials, as in logs and errors.
    pub fn address(&self) -> &str {
        &self.endpoint.address
    }

    /// Starts its cooldown of `replica_cooldown_seconds`. Its own methods do this by themselves.
    pub fn mark_down(&self) {
        self.endpoint.health.mark_down();
    }

    /// The answer of a query in ArrowStream, piece by piece. Returns with the first piece, so that an
    /// exception, a proxy's page or a dead server is an error here and not in the stream.
    ///
    /// A server before 25.11 writes an exception in mid-stream among the data, and a network may split it
    /// so that it is not recognised: an incomplete Arrow stream is a failed attempt, not bad data.
    pub async fn stream(&self, query: &Query) -> Result<ByteStream, Error> {
        let stream = self.begin(query, "ArrowStream", Access::Read).await?;
        let Some(first) = &stream.first else {
            let detail = "it is empty where an Arrow stream should be".to_owned();
            return Err(self.endpoint.failed(ErrorKind::Truncated(detail)));
        };
        let beginning = first.len().min(ARROW_BEGINNING.len());
        if first[..beginning] != ARROW_BEGINNING[..beginning] {
            return Err(self.unexpected(first));
        }
        Ok(stream)
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
        // The summary is in the headers: they must not go out before all is read.
        let query = query.clone().setting("wait_end_of_query", 1);
        let (body, summary) = self.collect(&query, "JSONEachRow", Access::Rows).await?;
        Ok((self.parse(&body)?, summary))
    }

    /// Reads a body of JSONEachRow.
    fn parse<T: DeserializeOwned>(&self, body: &[u8]) -> Result<Vec<T>, Error> {
        let lines = body.split(|byte| *byte == b'\n');
        lines
            .filter(|line| !line.trim_ascii().is_empty())
            .map(|line| {
                serde_json::from_slice(line).map_err(|e| {
                    let detail = format!("{e}, in {:?}", excerpt(line));
                    self.endpoint.failed(ErrorKind::UnreadableRow(detail))
                })
            })
            .collect()
    }

    /// Executes a statement that returns no rows.
    pub async fn execute(&self, query: &Query) -> Result<Summary, Error> {
        Ok(self.collect(query, "Null", Access::Read).await?.1)
    }

    /// A whole answer. Only ClickHouse sends a summary: an empty page of a proxy is not taken for "no rows".
    async fn collect(
        &self,
        query: &Query,
        format: &str,
        access: Access,
    ) -> Result<(Vec<u8>, Summary), Error> {
        let stream = self.begin(query, format, access).await?;
        self.read_whole(stream).await
    }

    async fn read_whole(&self, mut stream: ByteStream) -> Result<(Vec<u8>, Summary), Error> {
        let Some(summary) = stream.cursor.summary().map(Summary::from) else {
            return Err(self.unexpected(&stream.first.unwrap_or_default()));
        };
        let mut body = Vec::new();
        while let Some(piece) = stream.try_next().await? {
            body.extend_from_slice(&piece);
        }
        Ok((body, summary))
    }

    /// Sends a query with all that is pinned; returns when the answer begins.
    async fn begin(
        &self,
        query: &Query,
        format: &str,
        access: Access,
    ) -> Result<ByteStream, Error> {
        let pinned = self.pins.settings(query, access);
        match self.send(query, format, &pinned).await {
            Err(error) if self.learns_settings(&error).await? => {
                let pinned = self.pins.settings(query, access);
                self.send(query, format, &pinned).await
            }
            begun => begun,
        }
    }

    /// After a failed request: whether the server did not know a setting of it, and has told by now which of the
    /// pinned ones it knows, so that the request can be sent again.
    pub(super) async fn learns_settings(&self, error: &Error) -> Result<bool, Error> {
        if !self.pins.may_be_unknown(error) {
            return Ok(false);
        }
        let stream = self.send(&Pins::question(), "JSONEachRow", &[]).await?;
        let (body, _) = self.read_whole(stream).await?;
        let Some(row) = self.parse::<SettingNames>(&body)?.pop() else {
            return Err(self.unexpected(&body));
        };
        self.pins.remember(row.names);
        Ok(true)
    }

    async fn send(
        &self,
        query: &Query,
        format: &str,
        pinned: &[(&str, &str)],
    ) -> Result<ByteStream, Error> {
        let mut request = self
            .transports
            .queries
            .clone()
            .with_url(self.url.as_str())
            .with_user(&self.settings.user)
            .with_password(self.password()?)
            .query_raw(query.sql());
        for (name, value) in pinned {
            request = request.with_setting(*name, *value);
        }
        for (name, value) in query.options() {
            request = request.with_setting(name, value);
        }
        let cursor = request
            .fetch_bytes(format)
            .map_err(|error| self.endpoint.failed(error.into()))?;
        let mut stream = ByteStream {
            first: None,
            cursor,
            endpoint: self.endpoint.clone(),
            idle_timeout: self.settings.idle_timeout,
        };
        stream.first = stream.try_next().await?;
        Ok(stream)
    }

    /// Read for each request, so that a rotated password counts at once.
    pub(super) fn password(&self) -> Result<String, Error> {
        let Some(password) = &self.settings.password else {
            return Ok(String::new());
        };
        let password = password.reveal().map_err(|e| Error {
            replica: self.address().to_owned(),
            kind: ErrorKind::NoPassword(e.to_string()),
        })?;
        Ok(password.into_owned())
    }

    fn unexpected(&self, body: &[u8]) -> Error {
        self.endpoint.failed(ErrorKind::UnexpectedAnswer {
            status: 200,
            excerpt: excerpt(body),
        })
    }
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl Endpoint {
    /// The error of a request. Starts the cooldown if it may be this replica's fault.
    pub fn failed(&self, kind: ErrorKind) -> Error {
        let replica = self.address.clone();
        let error = Error { replica, kind };
        if error.allows_failover() {
            self.health.mark_down();
        }
        error
    }
}

impl From<::clickhouse::error::Error> for ErrorKind {
    fn from(error: ::clickhouse::error::Error) -> Self {
        use ::clickhouse::error::Error as Transport;
        match error {
            // The crate drops the status; the text shows whether the answer is ClickHouse's.
            Transport::BadResponse(text) => Self::from_answer(None, None, &text),
            Transport::Network(error) => {
                let detail = with_causes(error.as_ref());
                match error.downcast_ref::<hyper_util::client::legacy::Error>() {
                    Some(request) => Self::Connection {
                        sent: !request.is_connect(),
                        detail,
                    },
                    // Not of the request: the body of the answer broke off.
                    None => Self::Truncated(detail),
                }
            }
            Transport::InvalidParams(_) | Transport::Unsupported(_) => {
                Self::Unsendable(with_causes(&error))
            }
            other => Self::Truncated(with_causes(&other)),
        }
    }
}

impl Transports {
    pub fn new(settings: &ConnectionSettings) -> Result<Self, ConfigError> {
        let mut tcp = HttpConnector::new();
        tcp.set_connect_timeout(Some(settings.connect_timeout));
        tcp.set_nodelay(true);
        // The TLS layer above decides which schemes are valid.
        tcp.enforce_http(false);
        let failed = |detail: String| {
            let section = settings.section;
            ConfigError(format!(
                "{section}: the HTTP client cannot be built: {detail}"
            ))
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
