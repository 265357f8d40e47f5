//! One port of a node, as it is asked and told.

use std::time::Duration;

use app::root_cause;
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Response};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::{Node, SerpSettings};

/// Bytes of an answer, at most: a version takes a hundred.
const MOST_BYTES: usize = 64 << 10;

/// What a port that is up has loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Serving {
    /// Version of its dictionary: that of the run whose rows it has; `None` when it names none.
    pub version: Option<i64>,
    /// The run, where the port tells it.
    pub run: Option<String>,
}

/// Why a port does not count as up, or did not do as it was told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    #[error("no connection: {0}")]
    Connection(String),
    #[error("no answer to {path} within {} s", .within.as_secs_f64())]
    Timeout { path: String, within: Duration },
    #[error("the connection ended in the middle of {path}: {detail}")]
    Broken { path: String, detail: String },
    #[error("{path} is answered with status {status}")]
    Status { path: String, status: u16 },
    #[error("{path} is answered with a redirect (status {status}), which is not followed")]
    Redirect { path: String, status: u16 },
    #[error("{path} is answered with more than {MOST_BYTES} bytes")]
    TooLong { path: String },
}

/// The HTTP client could not be built.
#[derive(Debug, thiserror::Error)]
#[error("cannot build the client for the SERP service: {0}")]
pub struct ClientError(#[from] reqwest::Error);

/// Asks and tells ports. Follows no redirects and takes no proxy from the environment: it talks to nobody but
/// the hosts of the settings.
#[derive(Debug, Clone)]
pub struct Ports {
    http: Client,
    scheme: String,
    exit_path: String,
    health_path: String,
    version_path: String,
    connect_timeout: Duration,
    request_timeout: Duration,
}

impl Ports {
    /// Connects to nothing yet.
    pub fn new(settings: &SerpSettings) -> Result<Self, ClientError> {
        let http = Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            // A connection that is kept is one to a process that was told to exit.
            .pool_max_idle_per_host(0)
            .connect_timeout(settings.connect_timeout())
            .timeout(settings.request_timeout())
            .build()?;
        Ok(Self {
            http,
            scheme: settings.scheme.clone(),
            exit_path: settings.exit_path.clone(),
            health_path: settings.health_path.clone(),
            version_path: settings.version_path.clone(),
            connect_timeout: settings.connect_timeout(),
            request_timeout: settings.request_timeout(),
        })
    }

    /// What the port serves, if it is up: that its health path says alone. One that names no version may be of a
    /// release that cannot, or have loaded nothing yet, and is no more down for that.
    pub async fn look(&self, node: &Node, port: u16) -> Result<Serving, Trouble> {
        self.call(Method::GET, node, port, &self.health_path)
            .await?;
        let path = &self.version_path;
        match self.call(Method::GET, node, port, path).await {
            Ok(answer) => Ok(serving(&self.text(answer, path).await?)),
            Err(Trouble::Status { status: 404, .. }) => Ok(Serving::default()),
            Err(trouble) => Err(trouble),
        }
    }

    /// Holds a connection to the process that serves the port now: it ends with the process.
    pub async fn hold(&self, node: &Node, port: u16) -> Result<Held, Trouble> {
        let connecting = TcpStream::connect(node.address(port));
        match tokio::time::timeout(self.connect_timeout, connecting).await {
            Ok(Ok(stream)) => Ok(Held(stream)),
            Ok(Err(error)) => Err(Trouble::Connection(error.to_string())),
            Err(_) => Err(Trouble::Connection("no answer".to_owned())),
        }
    }

    /// Tells the process of the port to end. One that ends before it has answered did as it was told.
    pub async fn exit(&self, node: &Node, port: u16) -> Result<(), Trouble> {
        match self.call(Method::POST, node, port, &self.exit_path).await {
            Ok(_) | Err(Trouble::Broken { .. }) => Ok(()),
            Err(trouble) => Err(trouble),
        }
    }

    async fn call(
        &self,
        method: Method,
        node: &Node,
        port: u16,
        path: &str,
    ) -> Result<Response, Trouble> {
        let url = format!("{}://{}{path}", self.scheme, node.address(port));
        let answer = self.http.request(method, url).send().await;
        let answer = answer.map_err(|error| self.trouble(&error, path))?;
        let (path, status) = (path.to_owned(), answer.status());
        if status.is_success() {
            return Ok(answer);
        }
        let is_redirect = status.is_redirection();
        let status = status.as_u16();
        Err(match is_redirect {
            true => Trouble::Redirect { path, status },
            false => Trouble::Status { path, status },
        })
    }

    async fn text(&self, mut answer: Response, path: &str) -> Result<String, Trouble> {
        let mut bytes = Vec::new();
        loop {
            let chunk = answer.chunk().await;
            let Some(chunk) = chunk.map_err(|error| self.trouble(&error, path))? else {
                return Ok(String::from_utf8_lossy(&bytes).into_owned());
            };
            if bytes.len() + chunk.len() > MOST_BYTES {
                let path = path.to_owned();
                return Err(Trouble::TooLong { path });
            }
            bytes.extend_from_slice(&chunk);
        }
    }

    fn trouble(&self, error: &reqwest::Error, path: &str) -> Trouble {
        let (path, detail) = (path.to_owned(), root_cause(error));
        if error.is_connect() {
            Trouble::Connection(detail)
        } else if error.is_timeout() {
            let within = self.request_timeout;
            Trouble::Timeout { path, within }
        } else {
            Trouble::Broken { path, detail }
        }
    }
}

/// A connection to a process that is to end.
#[derive(Debug)]
pub struct Held(TcpStream);

impl Held {
    /// Resolves when the other side has closed. Safe to be dropped and called again.
    pub async fn closed(&mut self) {
        let mut ignored = [0; 256];
        // A server may say something to a silent client before it hangs up.
        while matches!(self.0.read(&mut ignored).await, Ok(read) if read > 0) {}
    }
}

/// JSON with a number `version`, or the number alone; anything else names no version.
fn serving(text: &str) -> Serving {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Answer {
        Number(i64),
        Object {
            version: i64,
            #[serde(default)]
            run: Option<String>,
        },
    }
    let (version, run) = match serde_json::from_str(text.trim()) {
        Ok(Answer::Number(version)) => (Some(version), None),
        Ok(Answer::Object { version, run }) => (Some(version), run),
        Err(_) => (None, None),
    };
    let run = run.filter(|run| !run.is_empty());
    Serving { version, run }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_json_or_a_number_alone() {
        let of = |text| {
            let Serving { version, run } = serving(text);
            version.map(|version| (version, run))
        };
        let with_run = Some((7, Some("r-1".to_owned())));
        assert_eq!(of(r#"{"version": 7, "run": "r-1", "since": 1}"#), with_run);
        assert_eq!(of(r#"{"version": 7}"#), Some((7, None)));
        assert_eq!(of(r#"{"version": 7, "run": null}"#), Some((7, None)));
        assert_eq!(of(" 1767323045678\n"), Some((1_767_323_045_678, None)));
        let null = r#"{"version": null}"#;
        for text in [
            "",
            "x",
            "null",
            "{}",
            null,
            r#"{"version": "7"}"#,
            "7.5",
            "<html>",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
    }
}
