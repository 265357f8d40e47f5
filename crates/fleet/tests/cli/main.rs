//! What commands print and how programs begin and end. The texts are in `tests/golden`.

mod addresses;
mod clickhouse;
mod contract;
mod dictionary;
mod elasticsearch;
mod golden;
mod pipeline;
mod programs;
mod quarantine;
mod runs;
mod serp;

use golden::{Folder, repository, same_as};

#[test]
fn help_needs_neither_broker_nor_configuration() {
    let folder = Folder::new();
    folder.write("fleet.toml", "this is not a configuration");
    for (arguments, name) in [
        (&["--help"][..], "help.txt"),
        (&["config", "--help"], "help-config.txt"),
        (&["config", "show", "--help"], "help-config-show.txt"),
    ] {
        let answer = folder.fleet(arguments, &[]);
        assert_eq!(answer.code, Some(0));
        answer.must_be(name);
    }
}

#[test]
fn an_unknown_command_is_a_usage_error() {
    Folder::new()
        .fleet(&["confg"], &[])
        .must_be("usage-unknown-command.txt");
}

#[test]
fn completions_exist_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let answer = Folder::new().fleet(&["completions", shell], &[]);
        assert_eq!(answer.code, Some(0));
        assert!(answer.stdout.contains("reference"), "{shell}");
    }
}

#[test]
fn all_mistakes_in_the_settings_are_listed_at_once() {
    let folder = Folder::new();
    folder.write(
        "fleet.toml",
        "[stats]\nhosst = \"x\"\nport = 70000\n\n[brocker]\nurl = \"x\"\n\n[processes.w.log]\nformat = \"xml\"\n",
    );
    let variables = [
        ("FLEET__LOG__FORMAT", "yaml"),
        ("FLEET__BROKER__GIVE_UP", "5"),
    ];
    folder
        .fleet(
            &["config", "check", "--set", "stats.style=dots"],
            &variables,
        )
        .must_be("config-mistakes.txt");
    folder
        .fleet(&["--json", "config", "check"], &[])
        .must_be("config-mistakes-json.txt");
}

#[test]
fn values_that_cannot_work_together_are_refused() {
    Folder::new()
        .fleet(
            &[
                "config",
                "check",
                "--set",
                "broker.retry_delays_seconds=60,10",
            ],
            &[("FLEET__PIPELINE__DELIVERY_LIMIT", "0")],
        )
        .must_be("config-cannot-work.txt");
    let folder = Folder::new();
    let index = "[[elasticsearch.indices]]\nname = \"x\"\n";
    folder.write("fleet.toml", &format!("{index}{index}"));
    folder
        .fleet(&["config", "check"], &[])
        .must_be("config-one-index-twice.txt");
}

#[test]
fn gate_rules_that_would_never_apply_are_refused() {
    let check = |setting: &str| Folder::new().fleet(&["config", "check", "--set", setting], &[]);
    check("gates.max_rejected_row_ratio=7").must_be("config-gate-share.txt");
    check("gates.pipelines.dircet.max_failed_task_ratio=0.2").must_be("config-gate-pipeline.txt");
    check("gates.pipelines.direct.max_failed_task_ratio=0.2").must_be("config-gate.txt");
}

#[test]
fn mistakes_that_only_the_program_can_find_are_named_by_key_and_position_too() {
    let folder = Folder::new();
    folder.write(
        "fleet.toml",
        "\n[[elasticsearch.indices]]\nname = \"x\"\nminimum.field = \"volume\"\n",
    );
    folder
        .fleet(&["config", "check"], &[])
        .must_be("config-missing-value.txt");
    Folder::new()
        .fleet(&["config", "check"], &[("FLEET__HEALTH__ADDRESS", "8080")])
        .must_be("config-address.txt");
    Folder::new()
        .fleet(&["run", "fetcher", "--set", "log.level=verbose"], &[])
        .must_be("config-log-level.txt");
}

#[test]
fn checking_reads_the_files_of_secrets() {
    let folder = Folder::new();
    folder.write("empty", "\n").write(
        "fleet.toml",
        "broker.url_file = \"empty\"\nsource.password_file = \"none\"\n",
    );
    folder
        .fleet(&["config", "check"], &[])
        .must_be("config-secret-files.txt");
}

#[test]
fn a_valid_configuration_is_confirmed() {
    let folder = Folder::new();
    folder.write("a.toml", "stats.host = \"statsd\"\n");
    folder
        .fleet(&["config", "check"], &[])
        .must_be("config-valid-without-file.txt");
    folder
        .fleet(&["config", "check"], &[("FLEET_CONFIG", "a.toml")])
        .must_be("config-valid.txt");
    folder
        .fleet(&["config", "check", "--json", "--config", "a.toml"], &[])
        .must_be("config-valid-json.txt");
}

#[test]
fn the_configurations_in_the_repository_are_valid() {
    let files = std::fs::read_dir(repository().join("deploy")).unwrap();
    let configurations = files
        .map(|file| file.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .filter(|path| !path.ends_with("pipelines.toml"));
    let mut checked = 0;
    for path in configurations {
        let path = path.to_str().unwrap();
        let answer = Folder::new().fleet(&["config", "show", "--config", path], &[]);
        assert_eq!(answer.code, Some(0), "{path}: {}", answer.stderr);
        checked += 1;
    }
    assert!(checked > 0);
}

#[test]
fn a_file_that_is_named_must_exist() {
    Folder::new()
        .fleet(&["config", "check", "--config", "none.toml"], &[])
        .must_be("config-missing-file.txt");
}

#[test]
fn what_is_in_effect_is_shown_with_its_origin() {
    let folder = Folder::new();
    folder.write(
        "fleet.toml",
        "[stats]\nhost = \"statsd\"\n\n[broker]\nurl = \"amqp://user:hunter2@broker/%2f\"\n\
         [processes.fetcher-2.stats]\nport = 9125\n",
    );
    let variables = [("FLEET__DEPLOYMENT__NAME", "production")];
    let answer = folder.fleet(&["config", "show", "--process", "fetcher-2"], &variables);
    assert!(!answer.stdout.contains("hunter2"));
    for line in [
        "name = \"production\"  # environment variable FLEET__DEPLOYMENT__NAME\n",
        "url = \"***\"  # fleet.toml:5\n",
        "port = 9125  # fleet.toml:7\n",
    ] {
        assert!(
            answer.stdout.contains(line),
            "{line} is not in\n{}",
            answer.stdout
        );
    }
    let general = folder.fleet(&["config", "show"], &variables);
    assert!(
        general.stdout.contains("port = 8125\n"),
        "{}",
        general.stdout
    );
}

#[test]
fn what_is_shown_is_a_configuration_with_the_same_effect() {
    let folder = Folder::new();
    let first = folder.fleet(&["config", "show"], &[]);
    let without_secrets: Vec<_> = first
        .stdout
        .lines()
        .filter(|line| !line.contains("\"***\""))
        .collect();
    folder.write("shown.toml", &without_secrets.join("\n"));
    let effect = |arguments: &[&str]| folder.fleet(arguments, &[]).stdout;
    assert_eq!(
        effect(&["config", "show", "--json"]),
        effect(&["config", "show", "--json", "--config", "shown.toml"])
    );
}

/// `UPDATE_GOLDEN=1 cargo test -p fleet` writes the page.
#[test]
fn the_reference_page_is_what_the_command_prints() {
    let answer = Folder::new().fleet(&["config", "reference"], &[]);
    assert_eq!(answer.code, Some(0));
    same_as(&repository().join("docs/CONFIGURATION.md"), &answer.stdout);
}
