use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use ::elasticsearch::auth::Credentials;
use ::elasticsearch::http::Method;
use ::elasticsearch::http::headers::{CONTENT_TYPE, HeaderMap, HeaderValue};
use ::elasticsearch::http::transport::{SingleNodeConnectionPool, TransportBuilder};
use ::elasticsearch::indices::{
    IndicesGetSettingsParts, IndicesRefreshParts, IndicesResolveIndexParts,
};
use ::elasticsearch::{BulkParts, CountParts, Elasticsearch};
use app::with_causes;
use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;

use super::{ElasticsearchConfigError, ElasticsearchSettings, Error, ItemVerdict, bulk};
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
    timeout: Duration,
}

/// The official client has no failover: each node gets one, and [`Client`] decides the order. The client's `*Parts`
/// make the paths. Its request builders are not used: that of `_bulk` copies the body, and each would need a failover of
/// its own.
#[derive(Debug)]
struct ElasticsearchNode {
    address: String,
    api: Elasticsearch,
    health: EndpointHealth,
}

impl Client {
    /// Connects to nothing yet. Reads the files of secrets.
    pub fn new(settings: &ElasticsearchSettings) -> Result<Self, ElasticsearchConfigError> {
        let credentials = credentials(settings)?;
        let timeout = Duration::from_secs(settings.request_timeout_seconds);
        let node = |url: &String| {
            let url = Url::parse(url)
                .map_err(|e| ElasticsearchConfigError::Urls(format!("{url:?}: {e}")))?;
            if !matches!(url.scheme(), "http" | "https") || !url.username().is_empty() {
                return Err(ElasticsearchConfigError::Urls(
                    "an address begins with http:// or https:// and holds no user name or password; \
                     they belong into `user` and `password_file`"
                        .to_owned(),
                ));
            }
            let mut transport = TransportBuilder::new(SingleNodeConnectionPool::new(url.clone()))
                // A store is reached directly: a proxy of the environment is for requests to the internet.
                .disable_proxy()
                .timeout(timeout);
            if let Some(credentials) = &credentials {
                transport = transport.auth(credentials.clone());
            }
            let transport = transport
                .build()
                .map_err(|e| ElasticsearchConfigError::Client(e.to_string()))?;
            Ok(ElasticsearchNode {
                address: url.as_str().trim_end_matches('/').to_owned(),
                api: Elasticsearch::new(transport),
                health: EndpointHealth::new(Duration::from_secs(settings.node_cooldown_seconds)),
            })
        };
        let nodes: Vec<ElasticsearchNode> =
            settings.urls.iter().map(node).collect::<Result<_, _>>()?;
        if nodes.is_empty() {
            return Err(ElasticsearchConfigError::Urls(
                "no address is given".to_owned(),
            ));
        }
        Ok(Self {
            inner: Arc::new(ClientInner {
                nodes,
                turn: AtomicUsize::new(0),
                timeout,
            }),
        })
    }

    /// Sends one bulk request of NDJSON, the concatenation of `body`, and classifies the answer for each of
    /// its actions, in their order. Actions that name no index are for `index`. One piece is sent uncopied;
    /// several are joined, because the official client takes only a whole body.
    pub async fn bulk(&self, index: &str, body: Vec<Bytes>) -> Result<Vec<ItemVerdict>, Error> {
        let answer: bulk::BulkAnswer = self
            .call(
                Method::Post,
                &BulkParts::Index(index).url(),
                &[("filter_path", bulk::FILTER)],
                Some(RequestBody::Lines(joined(body))),
            )
            .await?;
        Ok(answer.verdicts())
    }

    /// Open indices named `LEADER-follower-*`, sorted. [`Error::MissingIndex`] when there is no index
    /// `leader`: a bulk request would make Elasticsearch create one, with guessed types.
    pub async fn followers(&self, leader: &str) -> Result<Vec<String>, Error> {
        let prefix = format!("{leader}-follower-");
        let path = IndicesResolveIndexParts::Name(&[leader, &format!("{prefix}*")]).url();
        let missing = |detail: String| Error::MissingIndex {
            index: leader.to_owned(),
            detail,
        };
        let resolved: ResolvedNames = match self.get(&path, &[]).await {
            Err(Error::Exception { status: 404, .. }) => {
                return Err(missing(format!("there is no index {leader:?}")));
            }
            result => result?,
        };
        if let Some(alias) = resolved.aliases.iter().find(|alias| alias.name == leader) {
            return Err(missing(format!(
                "{leader:?} is an alias of {}: name the index itself",
                alias.indices.join(", ")
            )));
        }
        let names = resolved.indices.into_iter().map(|index| index.name);
        let (leaders, mut followers): (Vec<_>, Vec<_>) = names.partition(|name| name == leader);
        if leaders.is_empty() {
            return Err(missing(format!("there is no index {leader:?}")));
        }
        followers.retain(|name| name.starts_with(&prefix));
        followers.sort();
        Ok(followers)
    }

    /// What prevents writes to `index`, if anything does: a block (`write`, `read_only`, or
    /// `read_only_allow_delete`, which the disk's flood stage sets), or its state `closed`.
    pub async fn write_block(&self, index: &str) -> Result<Option<String>, Error> {
        const BLOCKS: [(&str, &str); 4] = [
            ("index.blocks.write", "write"),
            ("index.blocks.read_only", "read_only"),
            (
                "index.blocks.read_only_allow_delete",
                "read_only_allow_delete",
            ),
            ("index.verified_before_close", "closed"),
        ];
        let wanted = ["index.blocks.*", "index.verified_before_close"];
        let path = IndicesGetSettingsParts::IndexName(&[index], &wanted).url();
        let settings: Value = self.get(&path, &[("flat_settings", "true")]).await?;
        let indices: Vec<&Value> = settings
            .as_object()
            .map(|indices| indices.values().collect())
            .unwrap_or_default();
        let set = |key: &str| indices.iter().any(|index| index["settings"][key] == "true");
        let block = BLOCKS.iter().find(|(key, _)| set(key));
        Ok(block.map(|(_, name)| (*name).to_owned()))
    }

    /// Documents that can be searched in an index or an alias.
    pub async fn count(&self, index: &str) -> Result<u64, Error> {
        #[derive(Deserialize)]
        struct Count {
            count: u64,
        }
        let count: Count = self.get(&CountParts::Index(&[index]).url(), &[]).await?;
        Ok(count.count)
    }

    /// Makes everything written so far searchable.
    pub async fn refresh(&self, index: &str) -> Result<(), Error> {
        let path = IndicesRefreshParts::Index(&[index]).url();
        let _: Value = self.call(Method::Post, &path, &[], None).await?;
        Ok(())
    }

    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<T, Error> {
        self.call(Method::Get, path, query, None).await
    }

    pub(super) async fn put_json(&self, path: &str, body: &Value) -> Result<(), Error> {
        let body = RequestBody::Json(Bytes::from(body.to_string()));
        let _: Value = self.call(Method::Put, path, &[], Some(body)).await?;
        Ok(())
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<RequestBody>,
    ) -> Result<T, Error> {
        let inner = &self.inner;
        let mut failed = None;
        for node in in_order_to_try(&inner.nodes, &inner.turn, |node| &node.health) {
            let result = node
                .call(method, path, query, body.clone(), inner.timeout)
                .await;
            match result {
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

#[derive(Clone)]
enum RequestBody {
    Json(Bytes),
    Lines(Bytes),
}

impl ElasticsearchNode {
    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<RequestBody>,
        timeout: Duration,
    ) -> Result<T, Error> {
        let mut headers = HeaderMap::new();
        let body = body.map(|body| match body {
            RequestBody::Json(bytes) => bytes,
            RequestBody::Lines(bytes) => {
                let lines = HeaderValue::from_static("application/x-ndjson");
                headers.insert(CONTENT_TYPE, lines);
                bytes
            }
        });
        let failed = |error: ::elasticsearch::Error| self.failed(&error, timeout);
        let response = self
            .api
            .transport()
            .send(method, path, headers, Some(query), body, None)
            .await
            .map_err(failed)?;
        let status = response.status_code();
        let bytes = response.bytes().await.map_err(failed)?;
        if status.is_success()
            && let Ok(answer) = serde_json::from_slice(&bytes)
        {
            return Ok(answer);
        }
        Err(self.refused(status.as_u16(), &bytes))
    }

    fn failed(&self, error: &::elasticsearch::Error, timeout: Duration) -> Error {
        let node = self.address.clone();
        if error.is_timeout() {
            return Error::Timeout {
                node,
                after: timeout,
            };
        }
        Error::Connection {
            node,
            detail: with_causes(error),
        }
    }

    fn refused(&self, status: u16, body: &[u8]) -> Error {
        let node = self.address.clone();
        #[derive(Deserialize)]
        struct Refusal {
            error: Value,
        }
        match serde_json::from_slice::<Refusal>(body) {
            Ok(Refusal { error }) => {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let (kind, reason) = match &error {
                    // Errors of the HTTP layer itself are a text, not an object.
                    Value::String(reason) => (String::new(), reason.clone()),
                    error => (text(&error["type"]), text(&error["reason"])),
                };
                Error::Exception {
                    node,
                    status,
                    kind,
                    reason,
                }
            }
            Err(_) => Error::UnexpectedAnswer {
                node,
                status,
                excerpt: excerpt(body),
            },
        }
    }
}

fn credentials(
    settings: &ElasticsearchSettings,
) -> Result<Option<Credentials>, ElasticsearchConfigError> {
    if let Some(key) = &settings.api_key {
        return Ok(Some(Credentials::EncodedApiKey(key.reveal()?.into_owned())));
    }
    let Some(user) = &settings.user else {
        return Ok(None);
    };
    let password = match &settings.password {
        Some(password) => password.reveal()?.into_owned(),
        None => String::new(),
    };
    Ok(Some(Credentials::Basic(user.clone(), password)))
}

fn joined(mut pieces: Vec<Bytes>) -> Bytes {
    if pieces.len() == 1 {
        return pieces.remove(0);
    }
    let mut whole = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    for piece in &pieces {
        whole.extend_from_slice(piece);
    }
    whole.freeze()
}

#[derive(Deserialize)]
struct ResolvedNames {
    indices: Vec<ResolvedIndex>,
    aliases: Vec<ResolvedAlias>,
}

#[derive(Deserialize)]
struct ResolvedIndex {
    name: String,
}

#[derive(Deserialize)]
struct ResolvedAlias {
    name: String,
    indices: Vec<String>,
}
