use std::io;
use std::process::{Command, Output};

use crate::services::PrivateService;
use crate::{Services, unique};

/// Index names that begin with a prefix of their own; deleted on drop, with the templates that guard them.
pub struct IndexPrefix {
    prefix: String,
    url: String,
}

impl IndexPrefix {
    pub fn create() -> Self {
        let services = Services::start(&["elasticsearch"]);
        Self {
            prefix: unique("test"),
            url: services.get("FLEET__ELASTICSEARCH__URLS").to_owned(),
        }
    }

    /// An index of this test: `PREFIX-NAME`.
    pub fn index(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Calls Elasticsearch and returns the body as JSON; panics on failure.
    pub fn api(&self, method: &str, path: &str, body: &str) -> serde_json::Value {
        let (ok, answer) = self.call(method, path, body);
        assert!(ok, "{method} /{path}: {answer}");
        serde_json::from_str(&answer).unwrap_or_default()
    }

    fn call(&self, method: &str, path: &str, body: &str) -> (bool, String) {
        http(method, &format!("{}/{path}", self.url), body)
    }
}

/// Sends one HTTP request with a JSON body (none if empty); returns whether it succeeded, and the answer. It runs curl,
/// because drop and plain tests have no async runtime.
pub fn http(method: &str, url: &str, body: &str) -> (bool, String) {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--noproxy", "*", "--fail-with-body"]);
    curl.args(["-X", method, url]);
    curl.args(["-H", "content-type: application/json"]);
    if !body.is_empty() {
        curl.args(["--data-binary", body]);
    }
    answer(curl.output())
}

/// Whether curl succeeded, and the answer.
pub(crate) fn answer(output: io::Result<Output>) -> (bool, String) {
    let output = output.expect("curl is needed by the tests: install it");
    let answer = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&answer).into_owned();
    (output.status.success(), text)
}

impl Drop for IndexPrefix {
    fn drop(&mut self) {
        let prefix = &self.prefix;
        let list = format!("_cat/indices/{prefix}-*?h=index&expand_wildcards=all");
        let templates = format!("_index_template/fleet-{prefix}-*");
        self.call("DELETE", &templates, "");
        // Elasticsearch deletes by full names alone (`action.destructive_requires_name`).
        let (ok, names) = self.call("GET", &list, "");
        for name in names.lines().filter(|_| ok) {
            self.call("DELETE", name.trim(), "");
        }
    }
}

/// A node of its own, with settings of its own. Stopped and removed on drop.
pub struct PrivateElasticsearch(PrivateService);

impl PrivateElasticsearch {
    /// `port_base` as for [`crate::PrivateBroker`]; `settings` are lines of elasticsearch.yml.
    pub fn start(port_base: u16, settings: &str) -> Self {
        let more = [
            ("FLEET_ELASTICSEARCH_SETTINGS", settings),
            ("FLEET_ELASTICSEARCH_HEAP", "512m"),
        ];
        Self(PrivateService::start("elasticsearch", port_base, &more))
    }

    pub fn url(&self) -> &str {
        self.0.services().get("FLEET__ELASTICSEARCH__URLS")
    }
}
