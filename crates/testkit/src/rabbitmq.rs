use url::Url;

use crate::services::PrivateService;
use crate::{Services, http, unique};

/// A virtual host of its own on the shared broker; deleted, with all its queues, on drop.
pub struct VirtualHost {
    name: String,
    url: String,
    management: String,
}

impl VirtualHost {
    pub fn create() -> Self {
        Self::on(&Services::start(&["rabbitmq"]))
    }

    /// On the broker of `services`.
    pub fn on(services: &Services) -> Self {
        let name = unique("test");
        let mut url =
            Url::parse(services.get("FLEET__BROKER__URL")).expect("the script prints URLs");
        url.set_path(&format!("/{name}"));
        let management = services.get("FLEET__BROKER__MANAGEMENT_URL").to_owned();
        let permissions = format!("permissions/{name}/{}", url.username());
        let host = Self {
            url: url.to_string(),
            management,
            name,
        };
        host.api("PUT", &format!("vhosts/{}", host.name), "{}");
        let everything = r#"{"configure":".*","write":".*","read":".*"}"#;
        host.api("PUT", &permissions, everything);
        host
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// AMQP address, this virtual host included.
    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn management_url(&self) -> &str {
        &self.management
    }

    /// Ends every connection to this virtual host, as an operator would.
    pub fn close_connections(&self) {
        let listed = self.api("GET", &format!("vhosts/{}/connections", self.name), "");
        let connections: serde_json::Value = serde_json::from_str(&listed).unwrap_or_default();
        for connection in connections.as_array().into_iter().flatten() {
            if let Some(name) = connection["name"].as_str() {
                let name = name.replace(' ', "%20").replace('>', "%3E");
                self.call("DELETE", &format!("connections/{name}"), "");
            }
        }
    }

    /// Calls the management API and returns the body; panics on failure.
    pub fn api(&self, method: &str, path: &str, body: &str) -> String {
        let (ok, answer) = self.call(method, path, body);
        assert!(ok, "{method} /api/{path}: {answer}");
        answer
    }

    fn call(&self, method: &str, path: &str, body: &str) -> (bool, String) {
        http(method, &format!("{}/api/{path}", self.management), body)
    }
}

impl Drop for VirtualHost {
    fn drop(&mut self) {
        self.call("DELETE", &format!("vhosts/{}", self.name), "");
    }
}

/// A broker of its own, for tests that stop, restart or kill it. Stopped and removed on drop.
pub struct PrivateBroker(PrivateService);

impl PrivateBroker {
    /// `port_base`: first of some ports that no other test uses, below 32768.
    pub fn start(port_base: u16) -> Self {
        Self::start_with(port_base, "")
    }

    /// `settings` are lines of rabbitmq.conf.
    pub fn start_with(port_base: u16, settings: &str) -> Self {
        let more = [("FLEET_RABBITMQ_SETTINGS", settings)];
        Self(PrivateService::start("rabbitmq", port_base, &more))
    }

    pub fn services(&self) -> &Services {
        self.0.services()
    }

    /// Runs RabbitMQ's own tool on this node and returns what it printed.
    pub fn rabbitmqctl(&self, arguments: &[&str]) -> String {
        self.0.script(&[&["rabbitmqctl"], arguments].concat())
    }

    pub fn restart(&self) {
        self.0.script(&["restart", "rabbitmq"]);
    }

    pub fn stop(&self) {
        self.0.script(&["down", "rabbitmq"]);
    }

    pub fn start_again(&self) {
        self.0.script(&["up", "rabbitmq"]);
    }
}
