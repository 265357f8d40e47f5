//! `fleet pipeline`: without a broker, and against the real one in a virtual host of its own.

use testkit::{PrivateBroker, VirtualHost};

use crate::golden::{Answer, Folder};

/// A type whose every line is wrong in another way.
const MISTAKES: &str = r#"
[own]
about = "mistakes"
flow = [
  "queuer.task -> fetcher",
  "fetcher.batches > es-writer",
  "fetcher.batches -> es-writr",
]

[own.programs]
es-writer-eu = "es-writer"

[half]
about = "nothing reads the batches"
flow = ["queuer.tasks -> fetcher", "*.receipts -> ledger"]
"#;

#[test]
fn help_needs_no_broker() {
    let folder = Folder::new();
    folder
        .fleet(&["pipeline", "--help"], &[])
        .must_be("help-pipeline.txt");
    let arguments = ["pipeline", "configure", "--help"];
    folder
        .fleet(&arguments, &[])
        .must_be("help-pipeline-configure.txt");
}

#[test]
fn types_are_checked_without_a_broker() {
    let folder = Folder::new();
    folder
        .fleet(&["pipeline", "test"], &[])
        .must_be("pipeline-test.txt");
    folder
        .fleet(&["pipeline", "test", "--type", "direct", "--json"], &[])
        .must_be("pipeline-test-json.txt");
    folder.write("own.toml", MISTAKES);
    folder
        .fleet(&["pipeline", "test", "--file", "own.toml"], &[])
        .must_be("pipeline-test-mistakes.txt");
    let own_file = [("FLEET__PIPELINE__FILE", "own.toml")];
    folder
        .fleet(&["pipeline", "test", "--type", "half"], &own_file)
        .must_be("pipeline-test-half.txt");
    folder
        .fleet(&["pipeline", "test", "--type", "dirct"], &[])
        .must_be("pipeline-unknown-type.txt");
}

#[test]
fn a_type_is_drawn_without_a_broker() {
    let folder = Folder::new();
    let graph = |more: &[&str]| {
        let arguments = [&["pipeline", "graph", "--type", "direct"], more].concat();
        folder.fleet(&arguments, &[])
    };
    graph(&[]).must_be("pipeline-graph.txt");
    graph(&["--format", "mermaid"]).must_be("pipeline-graph-mermaid.txt");
    graph(&["--json"]).must_be("pipeline-graph-json.txt");
}

#[test]
fn an_unreachable_broker_is_named_with_what_to_do() {
    // Nothing listens on the ports below 10.
    let nowhere = [
        ("FLEET__BROKER__URL", "amqp://127.0.0.1:8/%2f"),
        ("FLEET__BROKER__MANAGEMENT_URL", "http://127.0.0.1:9"),
    ];
    let folder = Folder::new();
    folder
        .fleet(&["pipeline", "qlen"], &nowhere)
        .must_be("pipeline-no-broker.txt");
    folder
        .fleet(&["pipeline", "wait", "--timeout", "0"], &nowhere)
        .must_be("pipeline-wait-no-broker.txt");
}

#[test]
fn a_discard_without_a_number_is_a_usage_error() {
    let arguments = [
        "pipeline",
        "delete",
        "--type",
        "direct",
        "--discard",
        "ledger",
    ];
    Folder::new()
        .fleet(&arguments, &[])
        .must_be("pipeline-discard-usage.txt");
}

/// What a command answers about a virtual host, under a name that is always the same.
fn about(host: &VirtualHost, folder: &Folder, arguments: &[&str]) -> Answer {
    let variables = [
        ("FLEET__BROKER__URL", host.url()),
        ("FLEET__BROKER__MANAGEMENT_URL", host.management_url()),
    ];
    let mut answer = folder.fleet(arguments, &variables);
    answer.stdout = answer.stdout.replace(host.name(), "HOST");
    answer.stderr = answer.stderr.replace(host.name(), "HOST");
    answer
}

#[test]
fn a_pipeline_is_declared_shown_changed_and_removed() {
    let (host, folder) = (VirtualHost::create(), Folder::new());
    let fleet = |arguments: &[&str]| about(&host, &folder, &[&["pipeline"], arguments].concat());
    fleet(&["show"]).must_be("pipeline-show-none.txt");
    fleet(&["wait", "--timeout", "0", "--json"]).must_be("pipeline-wait-late.txt");
    fleet(&["diff", "--type", "clickhouse-only"]).must_be("pipeline-diff-new.txt");
    fleet(&["configure", "--type", "clickhouse-only"]).must_be("pipeline-configure-new.txt");
    fleet(&["configure", "--type", "clickhouse-only"]).must_be("pipeline-configure-again.txt");
    fleet(&["diff"]).must_be("pipeline-diff-none.txt");
    // The broker counts new queues within seconds.
    fleet(&["wait", "--empty", "--timeout", "30"]).must_be("pipeline-wait.txt");
    fleet(&["show"]).must_be("pipeline-show.txt");
    fleet(&["qlen", "--json"]).must_be("pipeline-qlen-json.txt");
    fleet(&["diff", "--type", "elasticsearch-only", "--json"])
        .must_be("pipeline-diff-type-json.txt");
    fleet(&["delete", "--type", "direct"]).must_be("pipeline-delete-other.txt");
    fleet(&["delete", "--type", "clickhouse-only"]).must_be("pipeline-delete.txt");
}

#[test]
fn where_the_broker_does_not_count_figures_are_unknown_and_nothing_is_removed() {
    let settings = "management_agent.disable_metrics_collector = true";
    let broker = PrivateBroker::start_with(22_400, settings);
    let (host, folder) = (VirtualHost::on(broker.services()), Folder::new());
    let fleet = |arguments: &[&str]| about(&host, &folder, &[&["pipeline"], arguments].concat());
    let configured = fleet(&["configure", "--type", "clickhouse-only"]);
    assert_eq!(configured.code, Some(0), "{}", configured.stderr);
    fleet(&["show"]).must_be("pipeline-show-uncounted.txt");
    fleet(&["qlen"]).must_be("pipeline-qlen-uncounted.txt");
    let not_empty = fleet(&["wait", "--empty", "--timeout", "1"]).stdout;
    assert!(not_empty.contains("ch-writer-in (unknown)"), "{not_empty}");
    fleet(&["diff", "--type", "elasticsearch-only"]).must_be("pipeline-diff-uncounted.txt");
    fleet(&["delete", "--type", "clickhouse-only"]).must_be("pipeline-delete-uncounted.txt");
    fleet(&["diff"]).must_be("pipeline-diff-none.txt");
    // The additions are made, and what should go is named and stays.
    let changed = fleet(&["configure", "--type", "elasticsearch-only", "--json"]).stdout;
    let changed: serde_json::Value = serde_json::from_str(&changed).unwrap();
    let changes = changed["changes"].as_array().unwrap();
    let blocked = |queue: &str| {
        let mut changes = changes.iter();
        changes.any(|change| change["action"] == "blocked" && change["name"] == queue)
    };
    assert!(
        blocked("ch-writer-in") && blocked("ch-writer-quar"),
        "{changes:#?}"
    );
    let queues = host.api("GET", &format!("queues/{}", host.name()), "");
    assert!(queues.contains("\"ch-writer-in\"") && queues.contains("\"es-writer-in\""));
}
