//! The SERP service: which of its nodes serve which shard, and how they may be restarted.

mod node;
mod window;

use std::collections::HashMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use node::Node;
pub use window::Window;

use node::{Template, host_of, matches};

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
        let default = node::parse_ports(&self.ports).map_err(|e| format!("serp.ports: {e}"))?;
        let node = Node::parse(name, &default)?;
        let listed = self.nodes.iter().flatten().any(|known| known == name);
        let of_template = Template::parse(&self.node_template)
            .ok()
            .flatten()
            .is_some_and(|template| template.matches(&node.host));
        let by_pattern = self.allowed_hosts.iter().any(|p| matches(p, &node.host));
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
        let default = node::parse_ports(&self.ports).map_err(|e| format!("serp.ports: {e}"))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn by_template(template: &str) -> SerpSettings {
        SerpSettings {
            node_template: template.to_owned(),
            ..SerpSettings::default()
        }
    }

    fn listed(nodes: &[&[&str]]) -> SerpSettings {
        let of_shard = |names: &&[&str]| names.iter().map(|&n| n.to_owned()).collect();
        SerpSettings {
            nodes: nodes.iter().map(of_shard).collect(),
            ..SerpSettings::default()
        }
    }

    fn hosts(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn without_nodes_and_template_there_is_no_service() {
        let settings = SerpSettings::default();
        settings.check().unwrap();
        assert!(!settings.is_enabled());
        assert!(settings.nodes_of(0, &hosts(&["laksa001"])).is_empty());
        assert!(settings.node("laksa001").is_err());
    }

    #[test]
    fn a_node_has_the_number_of_its_replica() {
        let settings = by_template("hotdog{NNN}.int.example");
        settings.check().unwrap();
        let replicas = hosts(&[
            "laksa017",
            "http://laksa7.int:8123/",
            "laksa017-b:8123",
            "hub",
        ]);
        assert_eq!(
            settings.nodes_of(3, &replicas),
            ["hotdog017.int.example", "hotdog007.int.example"]
        );
        assert_eq!(settings.without_node(&replicas), ["hub"]);
        // An address is no name.
        assert_eq!(settings.without_node(&hosts(&["127.0.0.1"])).len(), 1);
    }

    #[test]
    fn the_list_goes_before_the_template_and_a_shard_that_it_lacks_has_no_node() {
        let settings = SerpSettings {
            node_template: "hotdog{NNN}".to_owned(),
            ..listed(&[&["a", "a"], &[]])
        };
        let replicas = hosts(&["laksa001"]);
        assert_eq!(settings.nodes_of(0, &replicas), ["a"]);
        assert!(settings.nodes_of(1, &replicas).is_empty());
        assert!(settings.nodes_of(2, &replicas).is_empty());
        assert!(settings.without_node(&hosts(&["hub"])).is_empty());
    }

    #[test]
    fn a_node_of_two_shards_is_refused_and_both_are_named() {
        let refused = listed(&[&["a"], &["b", "a"]]).check().unwrap_err();
        let expected = "serp.nodes: node a is of shard 0 and of shard 1; a node serves one";
        assert_eq!(refused, expected);
        let refused = listed(&[&["a:7-8"], &[], &["a:8"]]).check().unwrap_err();
        assert!(
            refused.contains("a:8 is of shard 0 and of shard 2"),
            "{refused}"
        );
        listed(&[&["a:7-8", "b", "b"], &["a:9"]]).check().unwrap();
    }

    #[test]
    fn a_template_that_gives_two_shards_one_node_is_refused() {
        let settings = by_template("hotdog{NNN}");
        let shards = |hosts: &[&[&str]]| {
            let hosts: Vec<_> = hosts
                .iter()
                .map(|names| super::tests::hosts(names))
                .collect();
            settings.check_template((0..).zip(hosts))
        };
        shards(&[&["laksa001-a", "laksa001-b"], &["laksa002"]]).unwrap();
        // The first number is that of the data centre.
        let refused = shards(&[&["db1-metrics001"], &["db1-metrics002"]]).unwrap_err();
        assert!(
            refused.starts_with("serp.node_template: node hotdog001 is of shard 0 and of shard 1"),
            "{refused}"
        );
    }

    #[test]
    fn only_nodes_of_the_settings_may_be_restarted() {
        let settings = by_template("hotdog{NNN}.int.example");
        assert_eq!(
            settings.node("hotdog001.int.example").unwrap().ports,
            (8093..=8100).collect::<Vec<_>>()
        );
        for other in [
            "hotdog.int.example",
            "hotdogx01.int.example",
            "hotdog001.int.example.evil",
            "xhotdog001.int.example",
            "hotdog001.int.example:22",
            "hotdog001.int.example/x",
            "a@hotdog001.int.example",
            "",
        ] {
            assert!(settings.node(other).is_err(), "{other}");
        }
        let settings = listed(&[&["127.0.0.1:21100-21103"]]);
        settings.check().unwrap();
        let node = settings.node("127.0.0.1:21100-21103").unwrap();
        assert_eq!(node.ports, [21100, 21101, 21102, 21103]);
        assert!(settings.node("127.0.0.1:22").is_err());
        assert!(settings.node("127.0.0.1").is_err());
    }

    #[test]
    fn patterns_of_hosts_stand_in_the_place_of_what_is_derived() {
        let settings = SerpSettings {
            allowed_hosts: hosts(&["serp-*.int", "b"]),
            ..by_template("hotdog{NNN}")
        };
        assert!(settings.node("serp-1.int").is_ok());
        assert!(settings.node("b").is_ok());
        assert!(settings.node("serp-1.int.evil").is_err());
        assert!(settings.node("hotdog001").is_err());
        assert!(settings.node("b:9000").is_err());
        // A list that its own patterns refuse is a slip.
        let settings = SerpSettings {
            allowed_hosts: hosts(&["b"]),
            ..listed(&[&["a"]])
        };
        assert!(settings.check().unwrap_err().starts_with("serp.nodes: "));
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        let refused = |change: fn(&mut SerpSettings)| {
            let mut settings = SerpSettings::default();
            change(&mut settings);
            settings.check().unwrap_err()
        };
        assert!(refused(|s| s.ports = "9-8".into()).starts_with("serp.ports"));
        assert!(refused(|s| s.node_template = "hotdog".into()).starts_with("serp.node_template"));
        assert!(refused(|s| s.window = "2-5".into()).starts_with("serp.window"));
        assert!(refused(|s| s.nodes = vec![vec!["a b".into()]]).starts_with("serp.nodes"));
        assert!(refused(|s| s.scheme = "ftp".into()).starts_with("serp.scheme"));
        assert!(refused(|s| s.exit_path = "exit".into()).starts_with("serp.exit_path"));
        assert!(refused(|s| s.back_timeout_seconds = 601.0).contains("back_timeout_seconds"));
        assert!(refused(|s| s.connect_timeout_seconds = f64::NAN).contains("connect_timeout"));
        assert!(refused(|s| s.max_unavailable_ports = 0).contains("max_unavailable_ports"));
    }
}
