//! Which nodes the settings name, which of them may be restarted, and what is refused.

use serp::SerpSettings;

fn by_template(template: &str) -> SerpSettings {
    SerpSettings {
        node_template: template.to_owned(),
        ..SerpSettings::default()
    }
}

fn listed(nodes: &[&[&str]]) -> SerpSettings {
    let owned = |names: &&[&str]| names.iter().map(|&n| n.to_owned()).collect();
    SerpSettings {
        nodes: nodes.iter().map(owned).collect(),
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
        let hosts: Vec<_> = hosts.iter().map(|names| self::hosts(names)).collect();
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
fn patterns_of_hosts_replace_what_is_derived() {
    let settings = SerpSettings {
        allowed_hosts: hosts(&["serp-*.int", "b"]),
        ..by_template("hotdog{NNN}")
    };
    assert!(settings.node("serp-1.int").is_ok());
    assert!(settings.node("b").is_ok());
    assert!(settings.node("serp-1.int.evil").is_err());
    assert!(settings.node("hotdog001").is_err());
    assert!(settings.node("b:9000").is_err());
    // A list that its own patterns refuse is a mistake.
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
