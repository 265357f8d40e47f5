//! What a configuration may be, and how others are refused.

mod example;
mod files;

use settings::{Loader, reference};

use example::{Order, Root, Target};
use files::{Files, load, problems, variables};

#[test]
fn without_any_source_everything_has_its_default() {
    let root = load(&Loader::new()).settings;
    assert_eq!(root.broker.url.reveal().unwrap(), "amqp://localhost");
    assert_eq!(root.fetcher.frame.prefetch, 10);
}

#[test]
fn a_flattened_struct_keeps_the_defaults_of_the_role_that_it_is_flattened_into() {
    let loader = Loader::new().set("writer.slack=0.25");
    let root = load(&loader).settings;
    assert_eq!(root.writer.frame.prefetch, 50);
    assert_eq!(root.writer.frame.slack, 0.25);
}

#[test]
fn later_files_then_the_environment_then_options_win() {
    let files = Files::new();
    let first = files.write(
        "1.toml",
        "[fetcher]\nprefetch = 1\nbatch_rows = 1\nslack = 1",
    );
    let second = files.write("2.toml", "[fetcher]\nprefetch = 2\nbatch_rows = 2");
    let loader = Loader::new()
        .file(first)
        .file(second)
        .environment(variables(&[("FLEET__FETCHER__PREFETCH", "3")]));
    let root = load(&loader).settings;
    assert_eq!(
        (
            root.fetcher.frame.slack,
            root.fetcher.batch_rows,
            root.fetcher.frame.prefetch
        ),
        (1.0, 2, 3)
    );
    let root = load(&loader.set("fetcher.prefetch=4")).settings;
    assert_eq!(root.fetcher.frame.prefetch, 4);
}

#[test]
fn text_of_the_environment_becomes_what_the_key_wants() {
    let loader = Loader::new().environment(variables(&[
        ("FLEET__FETCHER__BATCH_ROWS", " 7 "),
        ("FLEET__FETCHER__COUNT", "TRUE"),
        ("FLEET__FETCHER__SLACK", "1e-3"),
        ("FLEET__FETCHER__ORDER", "newest"),
        ("FLEET__BROKER__NAMES", "a, b,,1"),
        ("FLEET__BROKER__PASSWORD", "12345"),
        ("FLEET__WRITER__RENAME__X", "7"),
        ("FLEET__WRITER__BOUNDS__LOW", "-3"),
        ("FLEET_CONFIG", "not a setting"),
    ]));
    let root = load(&loader).settings;
    assert_eq!(root.fetcher.batch_rows, 7);
    assert!(root.fetcher.count);
    assert_eq!(root.fetcher.frame.slack, 0.001);
    assert_eq!(root.fetcher.order, Some(Order::Newest));
    assert_eq!(root.broker.names, ["a", "b", "1"]);
    assert_eq!(root.broker.password.unwrap().reveal().unwrap(), "12345");
    assert_eq!(root.writer.rename["x"], "7");
    assert_eq!(root.writer.bounds.unwrap().low, -3);
}

#[test]
fn a_list_with_commas_in_its_items_is_written_as_in_toml() {
    let loader = Loader::new().set(r#"broker.names=["a,b", "c"]"#);
    assert_eq!(load(&loader).settings.broker.names, ["a,b", "c"]);
}

#[test]
fn a_list_in_a_file_may_be_one_text_with_commas() {
    let files = Files::new();
    let file = files.write("fleet.toml", "broker.names = \"a, b\"");
    assert_eq!(
        load(&Loader::new().file(file)).settings.broker.names,
        ["a", "b"]
    );
}

#[test]
fn a_list_of_tables_may_come_from_a_file_or_one_variable() {
    let files = Files::new();
    let file = files.write(
        "fleet.toml",
        "[[writer.targets]]\nname = \"a\"\ncolumns = [\"x\", \"y\"]\n",
    );
    let targets = |loader: &Loader| load(loader).settings.writer.targets;
    let target = |name: &str, columns: &[&str]| Target {
        name: name.to_owned(),
        columns: columns.iter().map(|column| (*column).to_owned()).collect(),
    };
    let loader = Loader::new().file(file);
    assert_eq!(targets(&loader), [target("a", &["x", "y"])]);
    let written = r#"[{name = "b"}, {name = "c", columns = "z"}]"#;
    let loader = loader.environment(variables(&[("FLEET__WRITER__TARGETS", written)]));
    assert_eq!(targets(&loader), [target("b", &[]), target("c", &["z"])]);
    let wrong = r#"[{name = 5, colums = "z"}]"#;
    let loader = Loader::new().set(format!("writer.targets={wrong}"));
    assert_eq!(
        problems(&loader, &files),
        [
            "--set writer.targets: writer.targets[0].colums: there is no such key in \
             [writer.targets[0]]; did you mean columns? Valid keys in [writer.targets[0]]: \
             columns, name",
            "--set writer.targets: writer.targets[0].name: must be text, not 5",
        ]
    );
}

#[test]
fn empty_text_unsets_what_may_be_unset() {
    let files = Files::new();
    let file = files.write("fleet.toml", "fetcher.order = \"oldest\"");
    let loader = Loader::new()
        .file(file)
        .environment(variables(&[("FLEET__FETCHER__ORDER", "")]));
    assert_eq!(load(&loader).settings.fetcher.order, None);
}

#[test]
fn a_process_has_its_own_sections_over_the_general_ones_of_the_same_kind_of_source() {
    let files = Files::new();
    let file = files.write(
        "fleet.toml",
        "[processes.writer-eu]\nrole = \"writer\"\nwriter.prefetch = 2\nwriter.slack = 2\n\
         [writer]\nprefetch = 1\nslack = 1",
    );
    let loader = Loader::new()
        .file(file)
        .environment(variables(&[("FLEET__WRITER__SLACK", "3")]));
    let general = load(&loader).settings;
    assert_eq!(
        (general.writer.frame.prefetch, general.writer.frame.slack),
        (1, 3.0)
    );
    let own = load(&loader.clone().process("writer-eu")).settings;
    assert_eq!(
        (own.writer.frame.prefetch, own.writer.frame.slack),
        (2, 3.0)
    );
    assert_eq!(own.processes["writer-eu"].role.as_deref(), Some("writer"));
    let loader = loader.environment(variables(&[(
        "FLEET__PROCESSES__WRITER_EU__WRITER__SLACK",
        "4",
    )]));
    assert_eq!(
        load(&loader.process("writer-eu"))
            .settings
            .writer
            .frame
            .slack,
        4.0
    );
}

#[test]
fn an_unknown_key_is_refused_with_its_line_the_nearest_and_the_valid_ones() {
    let files = Files::new();
    let file = files.write(
        "fleet.toml",
        "[fetcher]\n\nbatch_rowz = 5\n\n[writers]\n\n[processes.x.writer]\nbatch_rows = 1",
    );
    assert_eq!(
        problems(&Loader::new().file(file), &files),
        [
            "fleet.toml:3: fetcher.batch_rowz: there is no such key in [fetcher]; did you mean \
             batch_rows? Valid keys in [fetcher]: batch_rows, count, order, prefetch, slack",
            "fleet.toml:5: writers: there is no such key at the top; did you mean writer? Valid \
             keys at the top: broker, fetcher, processes, writer",
            "fleet.toml:8: processes.x.writer.batch_rows: there is no such key in \
             [processes.x.writer]; there is one in [fetcher]. Valid keys in [processes.x.writer]: \
             bounds, prefetch, rename, slack, targets",
        ]
    );
}

#[test]
fn a_value_of_another_type_is_refused_with_its_line() {
    let files = Files::new();
    let file = files.write(
        "fleet.toml",
        "broker.names = 1\nfetcher.prefetch = 70000\nfetcher.batch_rows = 0\n\
         fetcher.order = \"odd\"\nfetcher.count = 1\nwriter = 5\n",
    );
    let loader = Loader::new()
        .file(file)
        .environment(variables(&[
            ("FLEET__FETCHER__PREFETCH", "many"),
            ("FLEET__WRITER", "x"),
        ]))
        .set("fetcher.slack=half")
        .set("fetcher.slack");
    let mut found = problems(&loader, &files);
    found.sort();
    assert_eq!(
        found,
        [
            "--set fetcher.slack: fetcher.slack: must be a number, not \"half\"",
            "--set fetcher.slack: must be a key's path and its value, such as stats.port=8125",
            "environment variable FLEET__FETCHER__PREFETCH: fetcher.prefetch: must be a whole \
             number from 0 to 65535, not \"many\"",
            "environment variable FLEET__WRITER: writer: must be a section, not \"x\"",
            "fleet.toml:1: broker.names: must be a list, not 1",
            "fleet.toml:2: fetcher.prefetch: must be a whole number from 0 to 65535, not 70000",
            "fleet.toml:3: fetcher.batch_rows: must be a whole number from 1 to 4294967295, not 0",
            "fleet.toml:4: fetcher.order: must be one of oldest, newest, not \"odd\"",
            "fleet.toml:5: fetcher.count: must be true or false, not 1",
            "fleet.toml:6: writer: must be a section, not 5",
        ]
    );
}

#[test]
fn text_that_is_not_toml_is_refused_without_being_quoted() {
    let files = Files::new();
    let file = files.write("fleet.toml", "[broker]\npassword = hunter2\n");
    let found = problems(&Loader::new().file(file), &files).join("\n");
    assert!(found.starts_with("fleet.toml:2: is not TOML: "), "{found}");
    assert!(!found.contains("hunter2"), "{found}");
}

#[test]
fn a_missing_file_is_named() {
    let files = Files::new();
    let found = problems(&Loader::new().file(files.path().join("none.toml")), &files);
    assert!(
        found[0].starts_with("none.toml: cannot be read: "),
        "{found:?}"
    );
}

#[test]
fn a_secret_may_be_in_a_file_next_to_the_configuration() {
    let files = Files::new();
    files.write("url.txt", "amqp://from-a-file\n");
    let file = files.write("fleet.toml", "broker.url_file = \"url.txt\"");
    let loaded = load(&Loader::new().file(file));
    let url = loaded.settings.broker.url.reveal().unwrap();
    assert_eq!(url, "amqp://from-a-file");
}

#[test]
fn the_errors_of_a_secret_file_name_its_key() {
    let loader = Loader::new().set("broker.password_file=/nowhere/password");
    let broker = load(&loader).settings.broker;
    let error = broker.password.unwrap().reveal().unwrap_err().to_string();
    assert!(
        error.starts_with("broker.password_file: cannot read the file /nowhere/password: "),
        "{error}"
    );
}

#[test]
fn of_a_secret_and_its_file_the_later_source_wins() {
    let files = Files::new();
    let file = files.write("fleet.toml", "broker.url_file = \"url.txt\"");
    let loader = Loader::new()
        .file(file)
        .environment(variables(&[("FLEET__BROKER__URL", "amqp://here")]));
    assert_eq!(
        load(&loader).settings.broker.url.reveal().unwrap(),
        "amqp://here"
    );
}

#[test]
fn a_secret_and_its_file_from_one_source_are_refused() {
    let files = Files::new();
    let file = files.write("fleet.toml", "[broker]\nurl = \"a\"\nurl_file = \"b\"");
    let loader = Loader::new().file(file).environment(variables(&[
        ("FLEET__BROKER__PASSWORD", "a"),
        ("FLEET__BROKER__PASSWORD_FILE", "b"),
    ]));
    let found = problems(&loader, &files);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("is set in the same place; keep one of the two"));
    assert_eq!(
        found[1],
        "environment variable FLEET__BROKER__PASSWORD_FILE: broker.password_file: \
         broker.password is set in the same place; keep one of the two"
    );
}

#[test]
fn a_secret_of_another_type_is_not_shown() {
    let files = Files::new();
    let file = files.write("fleet.toml", "broker.password = 123456");
    assert_eq!(
        problems(&Loader::new().file(file), &files),
        ["fleet.toml:1: broker.password: must be text, not something else"]
    );
}

#[test]
fn what_is_in_effect_is_shown_with_where_it_comes_from_and_without_secrets() {
    let files = Files::new();
    let file = files.write(
        "fleet.toml",
        "[broker]\nurl = \"amqp://user:hunter2@host\"\npassword_file = \"p\"\n[fetcher]\nbatch_rows = 5\n\
         [[writer.targets]]\nname = \"a\"\n",
    );
    let loader = Loader::new()
        .file(file)
        .environment(variables(&[("FLEET__BROKER__NAMES", "a,b")]));
    let shown = load(&loader).to_toml();
    let folder = files.path().display().to_string();
    let expected = r#"processes = {}

[broker]
names = ["a", "b"]  # environment variable FLEET__BROKER__NAMES
password_file = "FOLDER/p"  # FOLDER/fleet.toml:3
url = "***"  # FOLDER/fleet.toml:2

[fetcher]
batch_rows = 5  # FOLDER/fleet.toml:5
count = false
prefetch = 10
slack = 0.5

[writer]
prefetch = 50
slack = 0.5

[writer.rename]
a = "b"

[[writer.targets]]
columns = []
name = "a"  # FOLDER/fleet.toml:7
"#;
    assert_eq!(shown.replace(&folder, "FOLDER"), expected);
}

#[test]
fn the_reference_lists_type_default_variable_and_meaning_of_every_key() {
    let page = reference::<Root>();
    for line in [
        "## [broker]\n\nThe way to the broker.\n",
        "| `url` | text, secret | – | `FLEET__BROKER__URL` | Where it is; a local one by default. |",
        "| `url_file` | text | – | `FLEET__BROKER__URL_FILE` | File that holds `url`, in place of it. |",
        "| `names` | list of: text | `[]` | `FLEET__BROKER__NAMES` | Names to announce. |",
        "| `slack` | number | `0.5` | `FLEET__FETCHER__SLACK` | Part of the time that may be lost. |",
        "| `prefetch` | whole number from 0 to 65535 | `50` | `FLEET__WRITER__PREFETCH` | Messages in flight at once. |",
        "| `order` | `oldest`, `newest` | – | `FLEET__FETCHER__ORDER` | Which rows come first. `oldest`: the old ones; `newest`: the new ones. |",
        "| `rename` | table of: text | `{ a = \"b\" }` | `FLEET__WRITER__RENAME__NAME` | Columns with other names \\| in the target. |",
        "| `targets` | list of tables | `[]` | `FLEET__WRITER__TARGETS` | Where rows go. |",
        "## [[writer.targets]]\n\nWhere rows go. One target.\n",
        "| `name` | text | `\"\"` | – | What it is called. |",
        "## [processes.NAME]",
        "| `role` | text | – | `FLEET__PROCESSES__NAME__ROLE` |",
    ] {
        assert!(page.contains(line), "{line}\nis not in\n{page}");
    }
    assert!(!page.contains("processes.NAME.fetcher"), "{page}");
}
