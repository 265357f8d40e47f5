use std::net::Ipv6Addr;
use std::time::Duration;

use lapin::uri::{AMQPScheme, AMQPUri};
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpStream;
use url::Url;

use super::ManagementError;
use pipeline::BrokerSettings;
use pipeline::broker::parse_amqp_url;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Listing thousands of queues takes seconds on a busy broker.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
/// Default port of the plugin.
const PORT: u16 = 15672;

/// RabbitMQ's management API, as one user, for one virtual host.
#[derive(Clone)]
pub struct Management {
    http: reqwest::Client,
    /// Without user and password.
    base: Url,
    user: String,
    password: String,
    vhost: String,
    /// Host and port of the broker itself.
    amqp: (String, u16),
}

impl std::fmt::Debug for Management {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (url, user, vhost) = (self.base.as_str(), &self.user, &self.vhost);
        write!(f, "Management({url} as {user}, virtual host {vhost:?})")
    }
}

impl Management {
    /// From `broker.url`, which names the virtual host, and `broker.management_url`. Nothing is connected yet.
    pub fn from_settings(settings: &BrokerSettings) -> Result<Self, ManagementError> {
        let url = settings.url.reveal()?;
        let management = settings.management_url.as_ref();
        let management = management.map(settings::Secret::reveal).transpose()?;
        Self::new(&url, management.as_deref())
    }

    /// `amqp`: `amqp[s]://user:password@host:port/vhost`. `management`: `http[s]://user:password@host:port`;
    /// what it leaves out, or all of it, is taken from `amqp`, with the plugin's default port.
    pub fn new(amqp: &str, management: Option<&str>) -> Result<Self, ManagementError> {
        let refuse = |key, detail: &dyn std::fmt::Display| ManagementError::Address {
            key,
            detail: detail.to_string(),
        };
        let uri = parse_amqp_url(amqp).map_err(|error| refuse("broker.url", &error))?;
        if uri.vhost.is_empty() {
            let detail = "its path names no virtual host: the default one is written /%2f";
            return Err(refuse("broker.url", &detail));
        }
        let key = "broker.management_url";
        let at = |host: &str| match host.parse::<Ipv6Addr>() {
            Ok(address) => format!("[{address}]"),
            Err(_) => host.to_owned(),
        };
        let guessed = || match uri.scheme {
            AMQPScheme::AMQP => format!("http://{}:{PORT}", at(&uri.authority.host)),
            AMQPScheme::AMQPS => format!("https://{}:{PORT}", at(&uri.authority.host)),
        };
        let text = management.map_or_else(guessed, str::to_owned);
        let mut base = Url::parse(&text).map_err(|error| refuse(key, &error))?;
        if !matches!(base.scheme(), "http" | "https") || base.host().is_none() {
            return Err(refuse(
                key,
                &"it must begin with http:// or https:// and a host",
            ));
        }
        let broker = uri.authority.userinfo;
        let (user, password) = userinfo(&base).unwrap_or((broker.username, broker.password));
        // Both succeed on a URL with a host; a failure would only leave in the URL what is sent anyway.
        let _ = base.set_username("");
        let _ = base.set_password(None);
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(RESPONSE_TIMEOUT)
            // The broker is reached directly: a proxy of the environment is for requests to the internet.
            .no_proxy()
            .build()
            .map_err(|error| refuse(key, &error))?;
        Ok(Self {
            http,
            base,
            user,
            password,
            vhost: uri.vhost,
            amqp: (uri.authority.host, uri.authority.port),
        })
    }

    pub fn vhost(&self) -> &str {
        &self.vhost
    }

    /// Reads a list of this virtual host: `queues`, `exchanges`, `bindings` or `policies`.
    pub(super) async fn list<T: DeserializeOwned>(
        &self,
        kind: &str,
    ) -> Result<Vec<T>, ManagementError> {
        let what = format!("list the {kind}");
        match self
            .send(Method::GET, &[kind, &self.vhost], None, &what)
            .await
        {
            Ok(body) => serde_json::from_slice(&body).map_err(|error| {
                let url = self.base.to_string();
                let detail = format!("its list of {kind} does not read as one ({error})");
                ManagementError::NotManagement { url, detail }
            }),
            Err(ManagementError::Failed { status: 404, .. }) => {
                let vhost = self.vhost.clone();
                Err(ManagementError::NoVirtualHost { vhost })
            }
            Err(error) => Err(error),
        }
    }

    /// Calls the API with path segments, which are encoded here. `what` completes "the broker refused to".
    pub(super) async fn send(
        &self,
        method: Method,
        path: &[&str],
        body: Option<Value>,
        what: &str,
    ) -> Result<Vec<u8>, ManagementError> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("api").extend(path);
        }
        let deletes = method == Method::DELETE;
        let mut request = self
            .http
            .request(method, url)
            .basic_auth(&self.user, Some(&self.password));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let exchange = async {
            let answer = request.send().await?;
            Ok((answer.status(), answer.bytes().await?.to_vec()))
        };
        let (status, body) = match exchange.await {
            Ok(answer) => answer,
            Err(error) => return Err(self.unreachable(&error).await),
        };
        if status.is_success() || (deletes && status == StatusCode::NOT_FOUND) {
            return Ok(body);
        }
        Err(self.failure(status, &body, what))
    }

    fn failure(&self, status: StatusCode, body: &[u8], what: &str) -> ManagementError {
        let url = self.base.to_string();
        let answer: Option<Value> = serde_json::from_slice(body).ok();
        let text = |key: &str| Some(answer.as_ref()?.get(key)?.as_str()?.to_owned());
        // A proxy or another server answers in HTML or plain text.
        let Some(error) = text("error") else {
            let start: String = String::from_utf8_lossy(body).chars().take(120).collect();
            let words: Vec<&str> = start.split_whitespace().collect();
            let detail = format!("{status} {}", words.join(" "));
            return ManagementError::NotManagement { url, detail };
        };
        let detail = text("reason").unwrap_or(error);
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ManagementError::Refused {
                url,
                user: self.user.clone(),
                vhost: self.vhost.clone(),
                detail,
            },
            _ => ManagementError::Failed {
                what: what.to_owned(),
                status: status.as_u16(),
                detail,
            },
        }
    }

    /// Distinguishes a broker without its management plugin from no broker at all.
    async fn unreachable(&self, error: &reqwest::Error) -> ManagementError {
        let (url, detail) = (self.base.to_string(), app::root_cause(error));
        let (host, port) = &self.amqp;
        let connect = TcpStream::connect((host.as_str(), *port));
        match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
            Ok(Ok(_)) if error.is_connect() => ManagementError::PluginOff {
                amqp: format!("{host}:{port}"),
                url,
                detail,
            },
            _ => ManagementError::Unreachable { url, detail },
        }
    }
}

/// User and password of a URL, decoded: by the parser that reads those of `broker.url`.
fn userinfo(url: &Url) -> Option<(String, String)> {
    let (user, password) = (url.username(), url.password()?);
    let uri: AMQPUri = format!("amqp://{user}:{password}@host").parse().ok()?;
    let found = uri.authority.userinfo;
    (!user.is_empty()).then_some((found.username, found.password))
}
