//! `fleet serp`: against processes that exit and come back, and a broker.

use std::time::Duration;

use testkit::VirtualHost;
use testkit::serp::{Supervisor, free_ports};

use crate::golden::{Answer, Folder};

/// Not a test: the program of the SERP processes, which the supervisor starts by this name.
#[test]
#[ignore = "it is the SERP process of the other tests"]
fn serp_process() {
    testkit::serp::main();
}

#[test]
fn help_needs_no_broker() {
    for (arguments, name) in [
        (&["serp", "--help"][..], "help-serp.txt"),
        (&["serp", "pause", "--help"], "help-serp-pause.txt"),
        (&["serp", "restart", "--help"], "help-serp-restart.txt"),
    ] {
        Folder::new().fleet(arguments, &[]).must_be(name);
    }
}

/// A SERP node of two ports that serves version 1, and a broker.
struct Serp {
    supervisor: Supervisor,
    ports: Vec<u16>,
    folder: Folder,
    host: VirtualHost,
}

impl Serp {
    fn start() -> Self {
        let (folder, host, ports) = (Folder::new(), VirtualHost::create(), free_ports(2));
        folder.write(
            "dictionary.json",
            r#"{"version": 1, "run": "r-1", "rows": []}"#,
        );
        let dictionary = folder.path().join("dictionary.json");
        let arguments = ["--exact", "serp::serp_process", "--ignored"];
        let supervisor = Supervisor::start(&arguments, &ports, dictionary.to_str().unwrap());
        supervisor.wait_until_up(Duration::from_secs(20));
        let serp = Self {
            supervisor,
            ports,
            folder,
            host,
        };
        let text = format!(
            "[broker]\nurl = \"{}\"\nmanagement_url = \"{}\"\n[serp]\nnodes = [[\"{}\"]]\n\
             connect_timeout_seconds = 0.5\nrequest_timeout_seconds = 0.5\nback_timeout_seconds = 20\n",
            serp.host.url(),
            serp.host.management_url(),
            serp.node(),
        );
        serp.folder.write("fleet.toml", &text);
        serp
    }

    fn node(&self) -> String {
        format!("127.0.0.1:{},{}", self.ports[0], self.ports[1])
    }

    /// The answer, with the ports and the time replaced, which differ between tests.
    fn fleet(&self, arguments: &[&str]) -> Answer {
        let mut answer = self.folder.fleet(arguments, &[]);
        answer.stdout = self.tidy(&answer.stdout);
        answer.stderr = self.tidy(&answer.stderr);
        answer
    }

    fn tidy(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (n, port) in self.ports.iter().enumerate() {
            text = text.replace(&port.to_string(), &format!("2110{n}"));
        }
        let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit());
        if let Some((before, after)) = text.clone().split_once("paused since ") {
            text = format!("{before}paused since 2026-01-02 03:04:05{}", &after[19..]);
        }
        if let Some((before, after)) = text.clone().split_once("\"since_ms\": ") {
            let end = digits(after).unwrap_or(after.len());
            text = format!("{before}\"since_ms\": 1{}", &after[end..]);
        }
        text
    }

    fn starts(&self) -> Vec<u32> {
        let ports = self.ports.iter();
        ports.map(|port| self.supervisor.starts(*port)).collect()
    }
}

#[test]
fn status_says_what_every_port_serves() {
    let serp = Serp::start();
    serp.fleet(&["serp", "status"]).must_be("serp-status.txt");
    serp.fleet(&["serp", "status", "--json"])
        .must_be("serp-status-json.txt");
    let dead = ["serp", "status", "--set", "serp.scheme=https"];
    let answer = serp.fleet(&dead);
    assert_eq!(answer.code, Some(6), "{}", answer.stdout);
    assert_eq!(answer.stdout.matches("down: ").count(), 2);
}

#[test]
fn without_a_service_status_says_so_and_without_a_broker_it_says_that() {
    let variables = [
        ("FLEET__BROKER__URL", "amqp://127.0.0.1:1/%2f"),
        ("FLEET__BROKER__MANAGEMENT_URL", "http://a:b@127.0.0.1:1"),
    ];
    let folder = Folder::new();
    folder
        .fleet(&["serp", "status"], &variables)
        .must_be("serp-status-nothing.txt");
    let paused = folder.fleet(&["serp", "pause", "--reason", "x"], &variables);
    assert_eq!(paused.code, Some(4), "{}", paused.stderr);
}

#[test]
fn a_pause_has_a_reason_and_stays_until_it_is_ended_also_when_the_pipeline_changes() {
    let serp = Serp::start();
    serp.folder.write(
        "pipelines.toml",
        "[tiny]\nabout = \"Tiny.\"\nflow = [\n\"queuer.tasks -> fetcher\",\n\
         \"fetcher.batches -> ch-writer\",\n\"*.receipts -> ledger\",\n]\n",
    );
    let pause = ["serp", "pause", "--reason", "the shop is full"];
    serp.fleet(&pause).must_be("serp-pause.txt");
    let again = ["serp", "pause", "--reason", "another", "--json"];
    serp.fleet(&again).must_be("serp-pause-again-json.txt");
    for step in ["configure", "delete"] {
        let file = ["--file", "pipelines.toml"];
        let arguments = match step {
            "configure" => [&["pipeline", step, "--type", "tiny"], &file[..]].concat(),
            _ => vec!["pipeline", step, "--type", "tiny"],
        };
        let answer = serp.fleet(&arguments);
        assert_eq!(answer.code, Some(0), "{}{}", answer.stdout, answer.stderr);
        assert!(!answer.stdout.contains("fleet-serp-paused"));
        let status = serp.fleet(&["serp", "status"]);
        assert!(status.stdout.contains("the shop is full"), "{step}");
    }
    serp.fleet(&["serp", "status"])
        .must_be("serp-status-paused.txt");
    serp.fleet(&["serp", "resume"]).must_be("serp-resume.txt");
    serp.fleet(&["serp", "resume"])
        .must_be("serp-resume-again.txt");
}

#[test]
fn a_restart_by_hand_needs_yes_and_changes_nothing_without_it() {
    let serp = Serp::start();
    let node = serp.node();
    let restart = |more: &[&str]| serp.fleet(&[&["serp", "restart", node.as_str()], more].concat());
    let tidy = |mut answer: Answer| {
        answer.called_with(|called| serp.tidy(called));
        answer
    };
    tidy(restart(&[])).must_be("serp-restart-dry.txt");
    tidy(restart(&["--dry-run", "--version", "1"])).must_be("serp-restart-dry-version.txt");
    tidy(restart(&["--json"])).must_be("serp-restart-dry-json.txt");
    assert_eq!(serp.starts(), [1, 1]);
    // The pause is for serp-restarter alone.
    serp.fleet(&["serp", "pause", "--reason", "by hand"]);
    let answer = restart(&["--yes"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert!(
        answer.stdout.contains("127.0.0.1:21101 is back after"),
        "{}",
        answer.stdout
    );
    assert_eq!(serp.starts(), [2, 2]);
    tidy(restart(&["--yes", "--version", "1", "--json"])).must_be("serp-restart-already-json.txt");
    assert_eq!(serp.starts(), [2, 2]);
    let failed = restart(&[
        "--yes",
        "--version",
        "2",
        "--set",
        "serp.back_timeout_seconds=0.5",
    ]);
    assert_eq!(failed.code, Some(1));
    assert!(
        failed.stderr.contains("is not restarted to its end: port"),
        "{}",
        failed.stderr
    );
    assert_eq!(serp.starts()[1], 2);
}

#[test]
fn a_host_that_is_not_allowed_is_not_restarted() {
    Folder::new()
        .fleet(&["serp", "restart", "example.com", "--yes"], &[])
        .must_be("serp-restart-forbidden.txt");
}

#[test]
fn settings_of_the_service_that_cannot_work_are_refused() {
    let set = |key: &'static str| ["config", "check", "--set", key];
    Folder::new()
        .fleet(&set("serp.window=2-5"), &[])
        .must_be("config-serp-window.txt");
    Folder::new()
        .fleet(&set("serp.node_template=hotdog{NNN}.int.example"), &[])
        .must_be("config-serp-template.txt");
    let two_shards = "clickhouse.cluster=http://db1-metrics{001..002}:8123";
    let one_node = "serp.node_template=hotdog{NNN}.int.example";
    Folder::new()
        .fleet(
            &["config", "check", "--set", two_shards, "--set", one_node],
            &[],
        )
        .must_be("config-serp-template-shards.txt");
    Folder::new()
        .fleet(&set("serp_restarter.concurrency=5"), &[])
        .must_be("config-serp-concurrency.txt");
}
