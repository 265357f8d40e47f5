use std::collections::HashMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use settings::matches_pattern;

use crate::node::{Node, Template, host_of, parse_ports};
use crate::window::Window;

/// The longest that one port may be waited for, in seconds. A broker takes an order back that is held for more than
/// 30 minutes; a roll is put off before that, but not in the middle of a port.
const MOST_BACK_SECONDS: f64 = 600.0;
/// The longest that one request may take, in seconds: a port is asked again and again while it is waited for.
const MOST_REQUEST_SECONDS: f64 = 60.0;

/// The SERP service, which loads the dictionary of its shard when it starts, and so is restarted after every refresh.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SerpSettings {
    /// Nodes by shard: a list for each shard, from shard 0 on, such as `[["serp-a", "serp-b"], ["serp-c"]]`. A node
    /// may have ports of its own: `127.0.0.1:21100-21103`. With neither this nor `node_template` there is no SERP
    /// service, and nothing is restarted.
    pub nodes: Vec<Vec<String>>,
    /// Name of the node beside each replica of a ClickHouse shard, where `nodes` is empty: the first digits in the
    /// replica's host name stand for `{NNN}`. With `hotdog{NNN}.int.example` the node of replica `laksa017` is
    /// `hotdog017.int.example`. Fewer digits than there are N get zeros before them.
    pub node_template: String,
    /// Ports of a node, each a process of its own: `8093-8100`, or several separated by commas.
    pub ports: String,
    /// `http` or `https`.
    pub scheme: String,
    /// A POST to this path ends the process of a port; whoever keeps it running starts it again.
    pub exit_path: String,
    /// A port is up when a GET of this path is answered with a status of 200 to 299.
    pub health_path: String,
    /// A GET of this path is answered with the version of the dictionary that the port has loaded: a number, or JSON
    /// with a number `version`. A port that names none, or has no such path (status 404), is up and behind: it is
    /// restarted, and has to name one then.
    pub version_path: String,
    /// Hosts that may be restarted; `*` stands for anything. An order for another host goes to quarantine. Without
    /// any, they are those of `nodes` or of `node_template`. Ports other than `ports` are asked only of a node that
    /// `nodes` has with them.
    pub allowed_hosts: Vec<String>,
    /// Longest wait for a connection to a port, in seconds.
    pub connect_timeout_seconds: f64,
    /// Longest time for one request to a port, in seconds.
    pub request_timeout_seconds: f64,
    /// How long a port may take, after it was told to exit, until it is up and serves the new version, in seconds; at
    /// most 600.
    pub back_timeout_seconds: f64,
    /// Ports of one node that may be down at once, those that fell over by themselves included.
    pub max_unavailable_ports: usize,
    /// Nodes that one serp-restarter restarts at once. Several processes of it do not know of each other: with two
    /// of them it is twice as many.
    pub max_unavailable_nodes: usize,
    /// When restarts may begin, as `02:00-05:00` in UTC, also over midnight; empty is always. Orders wait for it, and a
    /// roll that is not done when it ends goes on in the next one.
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
    /// replicas; a replica whose name has no digits for the template gives no node ([`Self::without_node`]).
    pub fn nodes_of(&self, shard: u32, replica_hosts: &[String]) -> Vec<String> {
        let mut nodes = Vec::new();
        let named: Vec<String> = match self.nodes.is_empty() {
            false => self.nodes.get(shard as usize).cloned().unwrap_or_default(),
            true => self.by_template(replica_hosts).flatten().collect(),
        };
        for node in named {
            if !nodes.contains(&node) {
                nodes.push(node);
            }
        }
        nodes
    }

    /// Those of the replicas that the template gives no node for, although it should.
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
    pub fn node(&self, name: &str) -> Result<Node, String> {
        let default = parse_ports(&self.ports).map_err(|e| format!("serp.ports: {e}"))?;
        let node = Node::parse(name, &default)?;
        let listed = self.nodes.iter().flatten().any(|known| known == name);
        let of_template = Template::parse(&self.node_template)
            .ok()
            .flatten()
            .is_some_and(|template| template.matches(&node.host));
        let by_pattern = self
            .allowed_hosts
            .iter()
            .any(|p| matches_pattern(p, &node.host));
        let host_allowed = match self.allowed_hosts.is_empty() {
            true => listed || of_template,
            false => by_pattern,
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

    /// When restarts may begin; `None` is always. Settings that were checked have a window that can be read.
    pub fn window(&self) -> Option<Window> {
        Window::parse(&self.window).ok().flatten()
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
        Template::parse(&self.node_template).map_err(|e| format!("serp.node_template: {e}"))?;
        Window::parse(&self.window).map_err(|e| format!("serp.window: {e}"))?;
        for name in self.nodes.iter().flatten() {
            Node::parse(name, &default).map_err(|e| format!("serp.nodes: {e}"))?;
            self.node(name).map_err(|e| format!("serp.nodes: {e}"))?;
        }
        self.check_one_shard()?;
        self.check_requests()?;
        match self.max_unavailable_ports.min(self.max_unavailable_nodes) {
            0 => Err(
                "serp.max_unavailable_ports and serp.max_unavailable_nodes must be at least 1"
                    .to_owned(),
            ),
            _ => Ok(()),
        }
    }

    /// A process has loaded the dictionary of one shard: orders of two would restart it for one another for ever.
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
        let of_shard = |(shard, hosts): (u32, Vec<String>)| (shard, self.nodes_of(shard, &hosts));
        self.each_in_one_shard("serp.node_template", shards.into_iter().map(of_shard))
    }

    fn each_in_one_shard(
        &self,
        setting: &str,
        shards: impl Iterator<Item = (u32, Vec<String>)>,
    ) -> Result<(), String> {
        let mut of_port: HashMap<(String, u16), u32> = HashMap::new();
        for (shard, names) in shards {
            for name in names {
                let node = self.node(&name).map_err(|e| format!("{setting}: {e}"))?;
                for port in node.ports {
                    let other = *of_port.entry((node.host.clone(), port)).or_insert(shard);
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
            ("connect_timeout_seconds", connect, MOST_REQUEST_SECONDS),
            ("request_timeout_seconds", request, MOST_REQUEST_SECONDS),
            (
                "back_timeout_seconds",
                self.back_timeout_seconds,
                MOST_BACK_SECONDS,
            ),
        ] {
            if !(seconds > 0.0 && seconds <= most) {
                return Err(format!("serp.{name} must be more than 0, at most {most}"));
            }
        }
        Ok(())
    }

    fn by_template(&self, replica_hosts: &[String]) -> impl Iterator<Item = Option<String>> {
        let template = Template::parse(&self.node_template).ok().flatten();
        replica_hosts.iter().map(move |address| {
            let template = template.as_ref()?;
            template.fill(host_of(address))
        })
    }
}
