//! How the fleet's programs begin and end.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use testkit::VirtualHost;

use crate::golden::Folder;

#[test]
fn each_role_has_its_help() {
    for (role, name) in [
        ("queuer", "help-run-queuer.txt"),
        ("fetcher", "help-run-fetcher.txt"),
    ] {
        Folder::new()
            .fleet(&["run", role, "--help"], &[])
            .must_be(name);
    }
    Folder::new()
        .fleet(&["run", "--help"], &[])
        .must_be("help-run.txt");
}

#[test]
fn a_program_called_by_the_name_of_a_role_runs_that_role() {
    let folder = Folder::new();
    let link = folder.path().join("es-writer");
    symlink(env!("CARGO_BIN_EXE_fleet"), &link).unwrap();
    let by_name = folder.call(&link, &["--help"], &[]);
    let by_command = folder.fleet(&["run", "es-writer", "--help"], &[]);
    assert_eq!(by_name.code, Some(0));
    assert_eq!(by_name.stdout, by_command.stdout);
}

#[test]
fn a_process_is_not_run_as_another_role_than_it_is_configured_for() {
    let folder = Folder::new();
    folder.write(
        "fleet.toml",
        "[processes.es-writer-eu]\nrole = \"es-writer\"\n",
    );
    folder
        .fleet(&["run", "fetcher", "--name", "es-writer-eu"], &[])
        .must_be("run-other-role.txt");
}

#[test]
fn a_process_of_an_unknown_role_is_a_mistake_in_the_settings() {
    let folder = Folder::new();
    folder.write(
        "fleet.toml",
        "[processes.es-writer-eu]\nrole = \"es-wrtier\"\n",
    );
    folder
        .fleet(&["config", "check"], &[])
        .must_be("config-unknown-role.txt");
}

#[test]
fn an_unreachable_broker_ends_a_program_when_its_time_is_up() {
    let variables = [
        // A port of the loopback that nothing can listen on.
        ("FLEET__BROKER__URL", "amqp://127.0.0.1:1/%2f"),
        ("FLEET__BROKER__GIVE_UP_SECONDS", "0"),
        ("FLEET__LOG__FORMAT", "json"),
    ];
    let answer = Folder::new().fleet(&["run", "fetcher"], &variables);
    assert_eq!(answer.code, Some(4), "{}", answer.stderr);
    let lines: Vec<serde_json::Value> = answer
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let error = lines.iter().find(|line| line["level"] == "ERROR").unwrap();
    assert_eq!(error["message"], "ended by an error");
    let text = error["error"].as_str().unwrap();
    let expected = "the broker at amqp://127.0.0.1:1/%2f cannot be reached";
    assert!(text.starts_with(expected), "{text}");
}

#[test]
fn an_invalid_address_is_a_mistake_in_the_settings() {
    for (role, mistake) in [
        ("fetcher", "broker.url=http://127.0.0.1"),
        ("fetcher", "source.cluster=http://{1..x}"),
        ("ch-writer", "clickhouse.cluster=ftp://127.0.0.1"),
        ("es-writer", "elasticsearch.urls=ftp://127.0.0.1"),
    ] {
        // If the mistake were not found, the missing broker would end the program.
        let variables = [("FLEET__BROKER__GIVE_UP_SECONDS", "0")];
        let answer = Folder::new().fleet(&["run", role, "--set", mistake], &variables);
        assert_eq!(answer.code, Some(3), "{mistake}: {}", answer.stderr);
        let key = mistake.split('=').next().unwrap();
        assert!(answer.stderr.contains(key), "{mistake}: {}", answer.stderr);
    }
}

#[test]
fn refused_credentials_end_a_program_at_once() {
    let host = VirtualHost::create();
    let url = host.url().replacen("amqp://", "", 1);
    let address = url
        .rsplit_once('@')
        .map_or(url.as_str(), |(_, address)| address);
    let url = format!("amqp://nobody:wrong@{address}");
    let answer = Folder::new().fleet(&["run", "es-writer"], &[("FLEET__BROKER__URL", &url)]);
    assert_eq!(answer.code, Some(4), "{}", answer.stderr);
    assert!(
        answer.stderr.contains("refuses the connection"),
        "{}",
        answer.stderr
    );
    assert!(!answer.stderr.contains("wrong@"), "{}", answer.stderr);
}

#[test]
fn a_program_stopped_while_it_waits_for_its_pipeline_exits_with_0() {
    let host = VirtualHost::create();
    for role in ["queuer", "fetcher", "ch-writer", "es-writer"] {
        let mut child = Command::new(Path::new(env!("CARGO_BIN_EXE_fleet")))
            .args(["run", role])
            .env_clear()
            .env("FLEET__BROKER__URL", host.url())
            .env("FLEET__BROKER__MANAGEMENT_URL", host.management_url())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let waits = lines.any(|line| line.unwrap().contains("waiting "));
        assert!(waits, "{role} ended without waiting");
        let id = child.id().to_string();
        let sent = Command::new("kill").args(["-s", "TERM", &id]).status();
        assert!(sent.unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(0), "{role}");
    }
}
