use super::*;

/// What is wrong with a type `own` that has this flow and these further tables.
fn refused(flow: &[&str], tables: &str) -> String {
    let flow: Vec<String> = flow.iter().map(|edge| format!("  {edge:?},\n")).collect();
    let text = format!(
        "[own]\nabout = \"test\"\nflow = [\n{}]\n{tables}",
        flow.concat()
    );
    match parsed(&text) {
        Err(error) => error.to_string(),
        Ok(topology) => {
            let problems: Vec<String> = topology.check().iter().map(Problem::to_string).collect();
            problems.join("\n")
        }
    }
}

#[test]
fn an_unknown_program_is_refused_with_its_line_and_the_nearest_name() {
    let error = refused(&["queuer.tasks -> fetchr"], "");
    assert_eq!(
        error,
        "own.toml:4: [own] no role is called \"fetchr\" (did you mean \"fetcher\"?); \
         for a program of another name add fetchr = \"ROLE\" to [own.programs]"
    );
}

#[test]
fn an_unknown_role_is_refused_with_its_line_and_the_nearest_name() {
    let error = refused(
        &["queuer.tasks -> other"],
        "[own.programs]\n# comment\nother = \"es-writr\"\n",
    );
    assert_eq!(
        error,
        "own.toml:8: [own] program \"other\" is to run the role \"es-writr\", which does not exist \
         (did you mean \"es-writer\"?); there are: queuer, fetcher, ch-writer, es-writer, persister, \
         dict-refresher, serp-restarter, ledger, runs"
    );
}

#[test]
fn an_unknown_output_is_refused_with_those_that_there_are() {
    let error = refused(&["queuer.task -> fetcher"], "");
    assert_eq!(
        error,
        "own.toml:4: [own] queuer has no output \"task\" (did you mean \"tasks\"?); it has: tasks, receipts"
    );
    let error = refused(&["queuer.receipts -> ledger", "ledger.rows -> fetcher"], "");
    assert_eq!(
        error,
        "own.toml:5: [own] ledger has no output \"rows\"; it has none"
    );
}

#[test]
fn a_star_that_stands_for_no_program_is_refused() {
    let error = refused(&["queuer.tasks -> fetcher", "*.receipt -> ledger"], "");
    assert_eq!(
        error,
        "own.toml:5: [own] no program of this type has an output \"receipt\" (did you mean \"receipts\"?)"
    );
}

#[test]
fn everything_that_is_wrong_is_reported_at_once_in_the_order_of_the_lines() {
    let error = refused(
        &["queuer.tasks fetcher", "queuer.receipts -> legder", "-> x"],
        "",
    );
    let lines: Vec<&str> = error.lines().map(|line| &line[..11]).collect();
    assert_eq!(lines, ["own.toml:4:", "own.toml:5:", "own.toml:6:"]);
    assert!(error.contains("it has no \"->\""), "{error}");
}

#[test]
fn an_edge_that_is_written_twice_is_refused_with_both_lines() {
    let error = refused(
        &[
            "*.receipts -> ledger",
            "queuer.tasks -> fetcher",
            "queuer.receipts -> ledger",
        ],
        "",
    );
    assert_eq!(
        error,
        "own.toml:6: [own] queuer.receipts -> ledger is already in line 4"
    );
    let error = refused(&["queuer.tasks -> fetcher, fetcher"], "");
    assert!(error.contains("already in line 4"), "{error}");
}

#[test]
fn a_circle_is_refused_with_its_way() {
    let error = refused(
        &[
            "queuer.tasks -> fetcher",
            "fetcher.batches -> ch-writer",
            "ch-writer.receipts -> fetcher",
        ],
        "",
    );
    assert_eq!(
        error,
        "own.toml:6: [own] messages would circulate without end: fetcher -> ch-writer -> fetcher"
    );
    let error = refused(&["fetcher.batches -> fetcher"], "");
    assert!(error.contains("fetcher -> fetcher"), "{error}");
}

#[test]
fn two_ways_to_the_same_reader_are_no_circle() {
    let flow = [
        "queuer.tasks -> fetcher",
        "fetcher.batches -> ch-writer",
        "*.receipts -> ledger",
    ];
    assert_eq!(refused(&flow, ""), "");
}

#[test]
fn a_producer_cannot_be_a_reader() {
    let error = refused(&["fetcher.batches -> queuer"], "");
    assert!(error.contains("queuer reads nothing"), "{error}");
}

#[test]
fn an_output_without_a_reader_is_found() {
    let found = refused(&["queuer.tasks -> fetcher", "*.receipts -> ledger"], "");
    assert_eq!(
        found,
        "own.toml:4: [own] no program reads fetcher.batches: add an edge \"fetcher.batches -> READER\", \
         or its messages cannot be sent"
    );
}

#[test]
fn a_program_without_a_writer_is_found() {
    let found = refused(
        &["fetcher.batches -> ch-writer", "*.receipts -> ledger"],
        "",
    );
    assert_eq!(
        found,
        "own.toml:4: [own] nothing is sent to fetcher: add it to the readers of an edge"
    );
}

#[test]
fn a_program_that_is_declared_and_not_used_is_found() {
    let found = refused(
        &[
            "queuer.tasks -> fetcher",
            "fetcher.batches -> ch-writer",
            "*.receipts -> ledger",
        ],
        "[own.programs]\nes-writer-eu = \"es-writer\"\n",
    );
    assert_eq!(
        found,
        "own.toml:9: [own] program \"es-writer-eu\" is named in [own.programs] but is in no edge of the flow"
    );
}

#[test]
fn queue_settings_that_do_not_fit_are_refused() {
    let flow = ["queuer.tasks -> fetcher", "*.receipts -> ledger"];
    let settings = |table: &str| refused(&flow, table);
    let error = settings("[own.queues.fetchr]\nreplicas = 3\n");
    assert!(
        error.contains("not in the flow of this type (did you mean \"fetcher\"?)"),
        "{error}"
    );
    let error = settings("[own.queues.ledger]\ndelivery_limit = 3\n");
    assert!(
        error.contains("delivery_limit means nothing for ledger: it is a stream"),
        "{error}"
    );
    let error = settings("[own.queues.queuer]\nreplicas = 3\n");
    assert!(
        error.contains("replicas means nothing for queuer: it has no queue"),
        "{error}"
    );
    let error = settings("[own.queues.fetcher]\nmax_bytes = 3\n");
    assert!(
        error.contains("max_bytes means nothing for fetcher"),
        "{error}"
    );
    let error = settings("[own.queues.fetcher]\ndelivery_limit = 0\n");
    assert!(error.contains("it must be at least 1"), "{error}");
}

#[test]
fn names_that_the_broker_would_mistake_are_refused() {
    let error = refused(
        &["queuer.tasks -> a-in"],
        "[own.programs]\na-in = \"fetcher\"\n",
    );
    assert!(
        error.contains("\"a-in\" cannot be the name of a program"),
        "{error}"
    );
    let text = "[Own]\nabout = ''\nflow = ['queuer.receipts -> ledger']\n";
    let error = Catalog::parse("own.toml", text)
        .unwrap()
        .topology("Own", &ROLES)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("\"Own\" cannot be the name of a pipeline type"),
        "{error}"
    );
}

#[test]
fn an_empty_flow_is_refused() {
    assert!(refused(&[], "").contains("the flow is empty"));
}

#[test]
fn an_unknown_type_is_refused_with_the_nearest_one() {
    let error = Catalog::built_in().topology("dirct", &ROLES).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no pipeline type is called \"dirct\" (did you mean \"direct\"?); \
         there are: direct, batched, clickhouse-only, elasticsearch-only"
    );
}

#[test]
fn what_is_no_pipeline_file_is_refused_with_the_line() {
    let syntax = |text: &str| Catalog::parse("own.toml", text).unwrap_err().to_string();
    let error = syntax("[own]\nabout = 'x'\nflows = ['a.b -> c']\n");
    assert!(
        error.contains("own.toml is not a pipeline file") && error.contains("line 3"),
        "{error}"
    );
    assert!(error.contains("flows"), "{error}");
    let error = syntax("[own\n");
    assert!(error.contains("line 1"), "{error}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Catalog::load(Some(Path::new("/nowhere/own.toml")))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("cannot read the pipeline file /nowhere/own.toml"),
        "{error}"
    );
}
