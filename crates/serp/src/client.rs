//! The HTTP client of a port of a node.

use std::time::Duration;

use app::root_cause;
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Response};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::{SerpNode, SerpSettings};

/// Longest answer that is read, in bytes: a version takes a hundred.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// What a port that is up has loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ServedVersion {
    /// Version of its dictionary: that of the run whose rows it has; `None` when it names none.
    pub version: Option<i64>,
    /// The run, where the port names it.
    pub run: Option<String>,
}

/// Why a port does not count as up, or did not exit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortFailure {
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
    #[error("{path} is answered with more than {MAX_ANSWER_BYTES} bytes")]
    TooLong { path: String },
}

/// The HTTP client could not be built.
#[derive(Debug, thiserror::Error)]
#[error("cannot build the client for the SERP service: {0}")]
pub struct ClientError(#[from] reqwest::Error);

/// Calls ports. Follows no redirects and takes no proxy from the environment: it connects to the hosts of the settings
/// alone.
#[derive(Debug, Clone)]
pub struct PortClient {
    http: Client,
    scheme: String,
    exit_path: String,
    health_path: String,
    version_path: String,
    connect_timeout: Duration,
    request_timeout: Duration,
}

impl PortClient {
    /// Connects to nothing yet.
    pub fn new(settings: &SerpSettings) -> Result<Self, ClientError> {
        let http = Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            // A kept connection could be one to a process that exits.
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

    /// What the port serves, if it is up, which its health path alone decides. A port that names no version is up too:
    /// its release may have no versions, or it has loaded nothing yet.
    pub async fn check(&self, node: &SerpNode, port: u16) -> Result<ServedVersion, PortFailure> {
        self.call(Method::GET, node, port, &self.health_path)
            .await?;
        let path = &self.version_path;
        match self.call(Method::GET, node, port, path).await {
            Ok(answer) => Ok(parse_version(&self.text(answer, path).await?)),
            Err(PortFailure::Status { status: 404, .. }) => Ok(ServedVersion::default()),
            Err(failure) => Err(failure),
        }
    }

    /// Connects to the process that serves the port now: the connection ends with the process.
    pub async fn connect(
        &self,
        node: &SerpNode,
        port: u16,
    ) -> Result<ProcessConnection, PortFailure> {
        let connecting = TcpStream::connect(node.address(port));
        match tokio::time::timeout(self.connect_timeout, connecting).await {
            Ok(Ok(stream)) => Ok(ProcessConnection(stream)),
            Ok(Err(error)) => Err(PortFailure::Connection(error.to_string())),
            Err(_) => Err(PortFailure::Connection("no answer".to_owned())),
        }
    }

    /// Asks the process of the port to exit. It may end before it has answered.
    pub async fn exit(&self, node: &SerpNode, port: u16) -> Result<(), PortFailure> {
        match self.call(Method::POST, node, port, &self.exit_path).await {
            Ok(_) | Err(PortFailure::Broken { .. }) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    async fn call(
        &self,
        method: Method,
        node: &SerpNode,
        port: u16,
        path: &str,
    ) -> Result<Response, PortFailure> {
        let url = format!("{}://{}{path}", self.scheme, node.address(port));
        let answer = self.http.request(method, url).send().await;
        let answer = answer.map_err(|error| self.failure(&error, path))?;
        let (path, status) = (path.to_owned(), answer.status());
        if status.is_success() {
            return Ok(answer);
        }
        let is_redirect = status.is_redirection();
        let status = status.as_u16();
        Err(if is_redirect {
            PortFailure::Redirect { path, status }
        } else {
            PortFailure::Status { path, status }
        })
    }

    async fn text(&self, mut answer: Response, path: &str) -> Result<String, PortFailure> {
        let mut bytes = Vec::new();
        loop {
            let chunk = answer.chunk().await;
            let Some(chunk) = chunk.map_err(|error| self.failure(&error, path))? else {
                return Ok(String::from_utf8_lossy(&bytes).into_owned());
            };
            if bytes.len() + chunk.len() > MAX_ANSWER_BYTES {
                let path = path.to_owned();
                return Err(PortFailure::TooLong { path });
            }
            bytes.extend_from_slice(&chunk);
        }
    }

    fn failure(&self, error: &reqwest::Error, path: &str) -> PortFailure {
        let (path, detail) = (path.to_owned(), root_cause(error));
        if error.is_connect() {
            PortFailure::Connection(detail)
        } else if error.is_timeout() {
            let within = self.request_timeout;
            PortFailure::Timeout { path, within }
        } else {
            PortFailure::Broken { path, detail }
        }
    }
}

/// A connection to a process that is to exit.
#[derive(Debug)]
pub struct ProcessConnection(TcpStream);

impl ProcessConnection {
    /// Resolves when the process has closed it. Cancel-safe.
    pub async fn closed(&mut self) {
        let mut ignored = [0; 256];
        // A server may send something to a silent client before it closes the connection.
        while matches!(self.0.read(&mut ignored).await, Ok(read) if read > 0) {}
    }
}

/// JSON with a number `version`, or the number alone; anything else names no version.
fn parse_version(text: &str) -> ServedVersion {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum VersionAnswer {
        Number(i64),
        Object {
            version: i64,
            #[serde(default)]
            run: Option<String>,
        },
    }
    let (version, run) = match serde_json::from_str(text.trim()) {
        Ok(VersionAnswer::Number(version)) => (Some(version), None),
        Ok(VersionAnswer::Object { version, run }) => (Some(version), run),
        Err(_) => (None, None),
    };
    let run = run.filter(|run| !run.is_empty());
    ServedVersion { version, run }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_json_or_a_number_alone() {
        let parsed = |text| {
            let ServedVersion { version, run } = parse_version(text);
            version.map(|version| (version, run))
        };
        let with_run = Some((7, Some("r-1".to_owned())));
        assert_eq!(
            parsed(r#"{"version": 7, "run": "r-1", "since": 1}"#),
            with_run
        );
        assert_eq!(parsed(r#"{"version": 7}"#), Some((7, None)));
        assert_eq!(parsed(r#"{"version": 7, "run": null}"#), Some((7, None)));
        assert_eq!(parsed(" 1767323045678\n"), Some((1_767_323_045_678, None)));
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
            assert_eq!(parsed(text), None, "{text}");
        }
    }
}
