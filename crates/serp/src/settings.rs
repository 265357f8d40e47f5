use std::collections::HashMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use settings::matches_pattern;

use crate::RestartWindow;
use crate::node::{NodeTemplate, SerpNode, host_of, parse_ports};

/// Longest `back_timeout_seconds`. The broker takes an order back that is in flight for more than 30 minutes; a rolling
/// restart is put off before that, but not in the middle of a port.
const MAX_BACK_SECONDS: f64 = 600.0;
/// Longest timeout of one request, in seconds: a port that is waited for gets many of them.
const MAX_REQUEST_SECONDS: f64 = 60.0;

/// The SERP service, which loads the dictionary of its shard when it starts, and so is restarted after every refresh.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SerpSettings {
    /// Nodes by shard: a list for each shard, from shard 0 on, such as `[["serp-a", "serp-b"], ["serp-c"]]`. A node
    /// may have ports of its own: `127.0.0.1:21100-21103`. With neither this nor `node_template` there is no SERP
    /// service, and nothing is restarted.
    pub nodes: Vec<Vec<String>>,
    /// Name of the node of each replica of a ClickHouse shard, where `nodes` is empty: the first digits in the
    /// replica's host name replace `{NNN}`. With `hotdog{NNN}.int.example` the node of replica `laksa017` is
    /// `hotdog017.int.example`. Fewer digits than there are N get zeros before them.
    pub node_template: String,
    /// Ports of a node, each a process of its own: `8093-8100`, or several separated by commas.
    pub ports: String,
    /// `http` or `https`.
    pub scheme: String,
    /// A POST to this path ends the process of a port; its supervisor starts it again.
    pub exit_path: String,
    /// A port is up when a GET of this path is answered with a status of 200 to 299.
    pub health_path: String,
    /// A GET of this path is answered with the version of the dictionary that the port has loaded: a number, or JSON
    /// with a number `version`. A port that names none, or has no such path (status 404), is up and behind: it is
    /// restarted, and has to name one then.
    pub version_path: String,
    /// Hosts that may be restarted; `*` stands for anything. An order for another host goes to quarantine. Without
    /// any, they are those of `nodes` or of `node_template`. A node may have other ports than `ports` only if
    /// `nodes` lists it with them.
    pub allowed_hosts: Vec<String>,
    /// Longest wait for a connection to a port, in seconds.
    pub connect_timeout_seconds: f64,
    /// Longest time for one request to a port, in seconds.
    pub request_timeout_seconds: f64,
    /// How long a port may take, after it was told to exit, until it is up and serves the new version, in seconds; at
    /// most 600.
    pub back_timeout_seconds: f64,
    /// Ports of one node that may be down at once, those included that are down for another reason.
    pub max_unavailable_ports: usize,
    /// Nodes that one serp-restarter restarts at once. Each process counts its own: two of them
    /// restart twice as many.
    pub max_unavailable_nodes: usize,
    /// When restarts may begin, as `02:00-05:00` in UTC, also across midnight; empty is always. Orders wait for it, and a
    /// rolling restart that is not done when it ends continues in the next one.
    pub window: String,
}

impl Default for SerpSettings {
    fn default() -> Self {
        Self {
            nodes: Vec::new(),
            node_template: String::new(),
            ports: "8093-8100".to_owned(),
            scheme: "http".to_owned(),
            exit_path: "/exit".to_owned(),
            health_path: "/health".to_owned(),
            version_path: "/version".to_owned(),
            allowed_hosts: Vec::new(),
            // Nodes are on the same site: what takes longer is down.
            connect_timeout_seconds: 2.0,
            request_timeout_seconds: 5.0,
            // Loading a shard's dictionary takes a minute or two.
            back_timeout_seconds: 300.0,
            max_unavailable_ports: 1,
            // 200 nodes of 8 ports at 90 s a port take 15 h with 4 (the SERP stage has a deadline of its own for them in
            // `[gates]`), and each of the 4 keeps 7 of its 8 ports up.
            max_unavailable_nodes: 4,
            window: String::new(),
        }
    }
}

impl SerpSettings {
    /// Whether there is a SERP service at all.
    pub fn is_enabled(&self) -> bool {
        !self.nodes.is_empty() || !self.node_template.is_empty()
    }

    /// The nodes that serve `shard`, without repetitions. `replica_hosts` are the hosts, or the addresses, of the shard's
    /// replicas; a replica whose name has no digits for the template has no node ([`Self::without_node`]).
    pub fn nodes_of(&self, shard: u32, replica_hosts: &[String]) -> Vec<String> {
        let mut nodes = Vec::new();
        let named: Vec<String> = if self.nodes.is_empty() {
            self.by_template(replica_hosts).flatten().collect()
        } else {
            self.nodes.get(shard as usize).cloned().unwrap_or_default()
        };
        for node in named {
            if !nodes.contains(&node) {
                nodes.push(node);
            }
        }
        nodes
    }

    /// The replicas that the template should give a node for, and does not.
    pub fn without_node(&self, replica_hosts: &[String]) -> Vec<String> {
        if self.node_template.is_empty() || !self.nodes.is_empty() {
            return Vec::new();
        }
        let nodes = self.by_template(replica_hosts);
        let pairs = replica_hosts.iter().zip(nodes);
        pairs
            .filter(|(_, node)| node.is_none())
            .map(|(host, _)| host.clone())
            .collect()
    }

    /// The node of this name, with its ports; an error when the settings do not allow to restart it.
    pub fn node(&self, name: &str) -> Result<SerpNode, String> {
        let default = parse_ports(&self.ports).map_err(|e| format!("serp.ports: {e}"))?;
        let node = SerpNode::parse(name, &default)?;
        let listed = self.nodes.iter().flatten().any(|known| known == name);
        let by_template = NodeTemplate::parse(&self.node_template)
            .ok()
            .flatten()
            .is_some_and(|template| template.matches(&node.host));
        let by_pattern = self
            .allowed_hosts
            .iter()
            .any(|p| matches_pattern(p, &node.host));
        let host_allowed = if self.allowed_hosts.is_empty() {
            listed || by_template
        } else {
            by_pattern
        };
        if !host_allowed {
            return Err(format!(
                "{:?} is none of the hosts that may be restarted (serp.allowed_hosts, serp.nodes or serp.node_template)",
                node.host
            ));
        }
        if node.has_own_ports && !listed {
            return Err(format!(
                "{name:?} names ports of its own, which only a node of serp.nodes may"
            ));
        }
        Ok(node)
    }

    /// When restarts may begin; `None` is always. The window of checked settings is valid.
    pub fn window(&self) -> Option<RestartWindow> {
        RestartWindow::parse(&self.window).ok().flatten()
    }

    pub fn connect_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.connect_timeout_seconds)
    }

    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.request_timeout_seconds)
    }

    pub fn back_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.back_timeout_seconds)
    }

    /// Refuses what cannot work.
    pub fn check(&self) -> Result<(), String> {
        let default = parse_ports(&self.ports).map_err(|e| format!("serp.ports: {e}"))?;
        NodeTemplate::parse(&self.node_template).map_err(|e| format!("serp.node_template: {e}"))?;
        RestartWindow::parse(&self.window).map_err(|e| format!("serp.window: {e}"))?;
        for name in self.nodes.iter().flatten() {
            SerpNode::parse(name, &default).map_err(|e| format!("serp.nodes: {e}"))?;
            self.node(name).map_err(|e| format!("serp.nodes: {e}"))?;
        }
        self.check_one_shard()?;
        self.check_requests()?;
        if self.max_unavailable_ports == 0 || self.max_unavailable_nodes == 0 {
            return Err(
                "serp.max_unavailable_ports and serp.max_unavailable_nodes must be at least 1"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// A process loads the dictionary of one shard: orders of two shards would restart it for each other without end.
    fn check_one_shard(&self) -> Result<(), String> {
        let lists = (0..).zip(&self.nodes).map(|(shard, names)| {
            let names = names.iter().cloned();
            (shard, names.collect::<Vec<_>>())
        });
        self.each_in_one_shard("serp.nodes", lists)
    }

    /// Refuses a template that gives one node to two shards. `shards`: each with the hosts, or the addresses, of its
    /// replicas.
    pub fn check_template(
        &self,
        shards: impl IntoIterator<Item = (u32, Vec<String>)>,
    ) -> Result<(), String> {
        if !self.nodes.is_empty() {
            return Ok(());
        }
        let with_nodes = |(shard, hosts): (u32, Vec<String>)| (shard, self.nodes_of(shard, &hosts));
        self.each_in_one_shard("serp.node_template", shards.into_iter().map(with_nodes))
    }

    fn each_in_one_shard(
        &self,
        setting: &str,
        shards: impl Iterator<Item = (u32, Vec<String>)>,
    ) -> Result<(), String> {
        let mut shards_by_port: HashMap<(String, u16), u32> = HashMap::new();
        for (shard, names) in shards {
            for name in names {
                let node = self.node(&name).map_err(|e| format!("{setting}: {e}"))?;
                for port in node.ports {
                    let other = *shards_by_port
                        .entry((node.host.clone(), port))
                        .or_insert(shard);
                    if other != shard {
                        return Err(format!(
                            "{setting}: node {name} is of shard {other} and of shard {shard}; a node serves one"
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    fn check_requests(&self) -> Result<(), String> {
        if !matches!(self.scheme.as_str(), "http" | "https") {
            let scheme = &self.scheme;
            return Err(format!("serp.scheme must be http or https, not {scheme:?}"));
        }
        for (name, path) in [
            ("exit_path", &self.exit_path),
            ("health_path", &self.health_path),
            ("version_path", &self.version_path),
        ] {
            if !path.starts_with('/') {
                return Err(format!("serp.{name} must begin with /, not be {path:?}"));
            }
        }
        let (connect, request) = (self.connect_timeout_seconds, self.request_timeout_seconds);
        for (name, seconds, most) in [
            ("connect_timeout_seconds", connect, MAX_REQUEST_SECONDS),
            ("request_timeout_seconds", request, MAX_REQUEST_SECONDS),
            (
                "back_timeout_seconds",
                self.back_timeout_seconds,
                MAX_BACK_SECONDS,
            ),
        ] {
            if !(seconds > 0.0 && seconds <= most) {
                return Err(format!("serp.{name} must be more than 0, at most {most}"));
            }
        }
        Ok(())
    }

    fn by_template(&self, replica_hosts: &[String]) -> impl Iterator<Item = Option<String>> {
        let template = NodeTemplate::parse(&self.node_template).ok().flatten();
        replica_hosts.iter().map(move |address| {
            let template = template.as_ref()?;
            template.fill(host_of(address))
        })
    }
}
