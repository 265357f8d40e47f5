use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use ::elasticsearch::auth::Credentials;
use ::elasticsearch::http::Method;
use ::elasticsearch::http::headers::{CONTENT_TYPE, HeaderMap, HeaderValue};
use ::elasticsearch::http::transport::{SingleNodeConnectionPool, TransportBuilder};
use ::elasticsearch::indices::{IndicesGetSettingsParts, IndicesResolveIndexParts};
use ::elasticsearch::{BulkParts, Elasticsearch};
use app::with_causes;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use settings::Secret;
use url::Url;

use super::error::TOO_LARGE;
use super::{ElasticsearchSettings, Error, ItemResult, bulk};
use crate::ConfigError;
use crate::answer::excerpt;
use crate::health::{EndpointHealth, in_order_to_try};

/// An Elasticsearch cluster. Cheap to clone.
///
/// When a node cannot be reached, or a proxy answers in its place, the request goes to the next node, and
/// the node is tried after the others for `node_cooldown_seconds`. Every request here is idempotent.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<ClientInner>,
}

#[derive(Debug)]
struct ClientInner {
    nodes: Vec<ElasticsearchNode>,
    turn: AtomicUsize,
}

/// The official client has no failover: each node gets one, and [`Client`] decides the order. The client's `*Parts`
/// make the paths. Its request builders are not used: that of `_bulk` copies the body, and each would need a failover
/// of its own.
#[derive(Debug)]
struct ElasticsearchNode {
    address: String,
    api: Elasticsearch,
    timeout: Duration,
    health: EndpointHealth,
}

/// A request, whichever node it goes to.
struct ClientRequest<'a> {
    method: Method,
    path: &'a str,
    query: &'a [(&'a str, &'a str)],
    content_type: &'static str,
    body: Option<Bytes>,
}

impl Client {
    /// Connects to nothing yet. Reads the files of secrets.
    pub fn new(settings: &ElasticsearchSettings) -> Result<Self, ConfigError> {
        let credentials = credentials(settings)?;
        let node = |url: &String| ElasticsearchNode::new(url, settings, credentials.clone());
        let nodes: Vec<_> = settings.urls.iter().map(node).collect::<Result<_, _>>()?;
        if nodes.is_empty() {
            let what = "elasticsearch.urls: no address is given";
            return Err(ConfigError(what.to_owned()));
        }
        let turn = AtomicUsize::new(0);
        Ok(Self {
            inner: Arc::new(ClientInner { nodes, turn }),
        })
    }

    /// Sends one bulk request of NDJSON, and classifies the answer for each of its actions, in their order. Actions
    /// that name no index are for `index`.
    pub async fn bulk(&self, index: &str, body: Bytes) -> Result<Vec<ItemResult>, Error> {
        let request = ClientRequest {
            method: Method::Post,
            path: &BulkParts::Index(index).url(),
            query: &[("filter_path", bulk::FILTER)],
            content_type: "application/x-ndjson",
            body: Some(body),
        };
        Ok(self.call::<bulk::BulkAnswer>(request).await?.results())
    }

    /// Open indices named `LEADER-follower-*`, sorted. [`Error::MissingIndex`] when there is no index
    /// `leader`: a bulk request would make Elasticsearch create one, with guessed types.
    pub async fn followers(&self, leader: &str) -> Result<Vec<String>, Error> {
        let prefix = format!("{leader}-follower-");
        let path = IndicesResolveIndexParts::Name(&[leader, &format!("{prefix}*")]).url();
        let there_is_none = || Error::MissingIndex(format!("there is no index {leader:?}"));
        let resolved: Option<ResolvedNames> = self.get(&path, &[]).await?;
        let resolved = resolved.ok_or_else(there_is_none)?;
        if let Some(alias) = resolved.aliases.iter().find(|alias| alias.name == leader) {
            let indices = alias.indices.join(", ");
            return Err(Error::MissingIndex(format!(
                "{leader:?} is an alias of {indices}: name the index itself"
            )));
        }
        let names = resolved.indices.into_iter().map(|index| index.name);
        let (leaders, mut followers): (Vec<_>, Vec<_>) = names.partition(|name| name == leader);
        if leaders.is_empty() {
            return Err(there_is_none());
        }
        followers.retain(|name| name.starts_with(&prefix));
        followers.sort();
        Ok(followers)
    }

    /// What prevents writes to `index`, if anything does: a block (`write`, `read_only`, or
    /// `read_only_allow_delete`, which the disk's flood stage sets), or its state `closed`.
    pub async fn write_block(&self, index: &str) -> Result<Option<&'static str>, Error> {
        const BLOCKS: [&str; 3] = ["write", "read_only", "read_only_allow_delete"];
        let wanted = ["index.blocks.*", "index.verified_before_close"];
        let path = IndicesGetSettingsParts::IndexName(&[index], &wanted).url();
        let request = ClientRequest::get(&path, &[("flat_settings", "true")]);
        let found: BTreeMap<String, Value> = self.call(request).await?;
        let is_set = |setting: &str| found.values().any(|i| i["settings"][setting] == "true");
        let is_blocked = |block: &&str| is_set(&format!("index.blocks.{block}"));
        let closed = || is_set("index.verified_before_close").then_some("closed");
        Ok(BLOCKS.into_iter().find(is_blocked).or_else(closed))
    }

    /// `None` when there is nothing of that name (status 404).
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Option<T>, Error> {
        match self.call(ClientRequest::get(path, query)).await {
            Err(Error::Exception { status: 404, .. }) => Ok(None),
            result => result.map(Some),
        }
    }

    pub(super) async fn put(&self, path: &str, body: &Value) -> Result<(), Error> {
        let request = ClientRequest {
            method: Method::Put,
            body: Some(Bytes::from(body.to_string())),
            ..ClientRequest::get(path, &[])
        };
        self.call::<Value>(request).await.map(drop)
    }

    async fn call<T: DeserializeOwned>(&self, request: ClientRequest<'_>) -> Result<T, Error> {
        let ClientInner { nodes, turn } = &*self.inner;
        let mut failed = None;
        for node in in_order_to_try(nodes, turn, |node| &node.health) {
            match node.call(&request).await {
                Err(error) if error.allows_failover() => {
                    tracing::warn!(node = node.address, %error, "a node failed");
                    node.health.mark_down();
                    failed = Some(error);
                }
                Err(error) => {
                    if matches!(error, Error::Timeout { .. }) {
                        node.health.mark_down();
                    }
                    return Err(error);
                }
                Ok(answer) => {
                    node.health.mark_up();
                    return Ok(answer);
                }
            }
        }
        Err(failed.expect("there is a node"))
    }
}

impl<'a> ClientRequest<'a> {
    fn get(path: &'a str, query: &'a [(&'a str, &'a str)]) -> Self {
        Self {
            method: Method::Get,
            path,
            query,
            content_type: "application/json",
            body: None,
        }
    }
}

impl ElasticsearchNode {
    fn new(
        url: &str,
        settings: &ElasticsearchSettings,
        credentials: Option<Credentials>,
    ) -> Result<Self, ConfigError> {
        let invalid = |what: &str| ConfigError(format!("elasticsearch.urls: {what}"));
        let url = Url::parse(url).map_err(|e| invalid(&format!("{url:?}: {e}")))?;
        if !matches!(url.scheme(), "http" | "https") || !url.username().is_empty() {
            return Err(invalid(
                "an address begins with http:// or https:// and holds no user name or password; \
                 they belong into `user` and `password_file`",
            ));
        }
        let timeout = Duration::from_secs(settings.request_timeout_seconds);
        let mut transport = TransportBuilder::new(SingleNodeConnectionPool::new(url.clone()))
            // A store is reached directly: a proxy of the environment is for requests to the internet.
            .disable_proxy()
            .timeout(timeout);
        if let Some(credentials) = credentials {
            transport = transport.auth(credentials);
        }
        let transport = transport.build().map_err(|e| {
            ConfigError(format!(
                "elasticsearch: the HTTP client cannot be built: {e}"
            ))
        })?;
        Ok(Self {
            address: url.as_str().trim_end_matches('/').to_owned(),
            api: Elasticsearch::new(transport),
            timeout,
            health: EndpointHealth::new(Duration::from_secs(settings.node_cooldown_seconds)),
        })
    }

    async fn call<T: DeserializeOwned>(&self, request: &ClientRequest<'_>) -> Result<T, Error> {
        let content_type = HeaderValue::from_static(request.content_type);
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, content_type)]);
        let (query, body) = (Some(request.query), request.body.clone());
        let failed = |error| self.failed(&error);
        let response = self
            .api
            .transport()
            .send(request.method, request.path, headers, query, body, None)
            .await
            .map_err(failed)?;
        let status = response.status_code();
        let bytes = response.bytes().await.map_err(failed)?;
        if status.is_success()
            && let Ok(answer) = serde_json::from_slice(&bytes)
        {
            return Ok(answer);
        }
        if status.as_u16() == TOO_LARGE {
            return Err(Error::TooLarge {
                node: self.address.clone(),
                bytes: request.body.as_ref().map_or(0, Bytes::len),
                excerpt: excerpt(&bytes),
            });
        }
        Err(self.refused(status.as_u16(), &bytes))
    }

    fn failed(&self, error: &::elasticsearch::Error) -> Error {
        let node = self.address.clone();
        if error.is_timeout() {
            let after = self.timeout;
            return Error::Timeout { node, after };
        }
        let detail = with_causes(error);
        Error::Connection { node, detail }
    }

    fn refused(&self, status: u16, body: &[u8]) -> Error {
        #[derive(Deserialize)]
        struct Refusal {
            error: Value,
        }
        let node = self.address.clone();
        let Ok(Refusal { error }) = serde_json::from_slice(body) else {
            return Error::UnexpectedAnswer {
                node,
                status,
                excerpt: excerpt(body),
            };
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        // Errors of the HTTP layer itself are a text, not an object.
        let reason = if error.is_string() {
            &error
        } else {
            &error["reason"]
        };
        Error::Exception {
            node,
            status,
            kind: text(&error["type"]),
            reason: text(reason),
        }
    }
}

fn credentials(settings: &ElasticsearchSettings) -> Result<Option<Credentials>, ConfigError> {
    let reveal = |secret: &Secret| match secret.reveal() {
        Ok(secret) => Ok(secret.into_owned()),
        Err(e) => Err(ConfigError(e.to_string())),
    };
    if let Some(key) = &settings.api_key {
        return Ok(Some(Credentials::EncodedApiKey(reveal(key)?)));
    }
    let Some(user) = &settings.user else {
        return Ok(None);
    };
    let password = settings.password.as_ref().map(reveal).transpose()?;
    Ok(Some(Credentials::Basic(
        user.clone(),
        password.unwrap_or_default(),
    )))
}

#[derive(Deserialize)]
struct ResolvedNames {
    indices: Vec<ResolvedName>,
    aliases: Vec<ResolvedName>,
}

#[derive(Deserialize)]
struct ResolvedName {
    name: String,
    /// Those of an alias.
    #[serde(default)]
    indices: Vec<String>,
}
