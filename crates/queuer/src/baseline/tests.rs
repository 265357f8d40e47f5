use super::*;
use batch::{BatchId, Decision, Fact, Reason, Receipt, Rows, RunMode, RunPlan, Stage, Started};

const NOW: i64 = 1_767_323_045_678;

struct Run {
    end_ms: i64,
    stores: &'static [&'static str],
    shards: u32,
    source: &'static str,
    partial: bool,
    quarantined: bool,
}

const RUN: Run = Run {
    end_ms: NOW,
    stores: &["ch-writer", "es-writer"],
    shards: 2,
    source: "same",
    partial: false,
    quarantined: false,
};

/// The baseline of a run for `stores`, 2 shards and the source "same", after `runs` of one task.
fn after(runs: &[Run], stores: &[&str]) -> Baseline {
    let mut ledger = Ledger::new();
    let task = TaskHash::new([b"t".as_slice()]);
    for run in runs {
        let started = Fact::Started(Started {
            pipeline: "direct".into(),
            mode: RunMode::Full,
            until_ms: run.end_ms,
            shards: run.shards,
            stores: run.stores.iter().map(|s| s.to_string()).collect(),
            partial: run.partial,
            source: run.source.into(),
            nonce: String::new(),
            differences: Vec::new(),
            run_plan: None,
        });
        let manifest = Fact::Manifest {
            tasks: 1,
            estimated_rows: 0,
        };
        let fetched = if run.quarantined {
            Fact::TaskQuarantined {
                task,
                program: "fetcher".into(),
                reason: Reason::TooManyRetries,
            }
        } else {
            Fact::Fetched {
                task,
                attempt: 1,
                shard: 0,
                batches: 0,
                rows: 0,
                bytes: 0,
            }
        };
        for fact in [started, manifest, fetched] {
            ledger.apply(&Receipt {
                run: RunId::new("direct", run.end_ms).unwrap(),
                at_ms: run.end_ms,
                fact,
            });
        }
    }
    let stores: Vec<String> = stores.iter().map(|s| s.to_string()).collect();
    let history = History {
        ledger: &ledger,
        stores: &stores,
    };
    baseline(history, "direct", 2, "same")
}

#[test]
fn the_latest_complete_run_is_the_baseline_and_named() {
    let baseline = after(
        &[
            RUN,
            Run {
                end_ms: NOW + 1,
                ..RUN
            },
        ],
        RUN.stores,
    );
    assert_eq!(baseline.end_ms, Some(NOW + 1));
    let run = RunId::new("direct", NOW + 1).unwrap();
    assert_eq!(baseline.why, format!("run {run} left nothing out"));
    // One that was for more stores than are left has all that they need.
    assert_eq!(after(&[RUN], &["ch-writer"]).end_ms, Some(NOW));
}

#[test]
fn runs_that_left_rows_out_are_skipped_and_named() {
    let quarantined = Run {
        end_ms: NOW + 1,
        quarantined: true,
        ..RUN
    };
    let partial = Run {
        end_ms: NOW + 2,
        partial: true,
        source: "trial",
        ..RUN
    };
    let baseline = after(&[RUN, quarantined, partial], RUN.stores);
    assert_eq!(baseline.end_ms, Some(NOW));
    assert!(baseline.why.contains("not fetched: 1"), "{}", baseline.why);
    assert!(baseline.why.contains("it was partial"), "{}", baseline.why);
}

/// A run of one task with one row that has ended, and passed or was rejected in its stores.
fn ended(ledger: &mut Ledger, end_ms: i64, passed: [bool; 2]) {
    ended_as(ledger, end_ms, RunMode::Full, passed);
}

fn ended_as(ledger: &mut Ledger, end_ms: i64, mode: RunMode, passed: [bool; 2]) {
    let task = TaskHash::new([b"t".as_slice()]);
    let stores = ["ch-writer", "es-writer"];
    let mut facts = vec![
        Fact::Started(Started {
            pipeline: "direct".into(),
            mode,
            until_ms: end_ms,
            shards: 2,
            stores: stores.map(str::to_owned).into(),
            partial: false,
            source: "same".into(),
            nonce: String::new(),
            differences: Vec::new(),
            run_plan: Some(RunPlan::default()),
        }),
        Fact::Manifest {
            tasks: 1,
            estimated_rows: 1,
        },
        Fact::Fetched {
            task,
            attempt: 1,
            shard: 0,
            batches: 1,
            rows: 1,
            bytes: 1,
        },
    ];
    facts.extend(stores.map(|store| Fact::Stored {
        store: store.into(),
        batch: BatchId {
            task,
            attempt: 1,
            sequence: 0,
        },
        shard: 0,
        rows: Rows {
            stored: 1,
            ..Rows::default()
        },
        targets: [].into(),
        reasons: [].into(),
    }));
    let mut decide = |stage, passed| {
        let decision = if passed {
            Decision::Passed
        } else {
            Decision::Rejected
        };
        facts.push(Fact::GateDecided {
            stage,
            decision,
            why: String::new(),
            operator_decisions: 0,
        });
    };
    decide(Stage::Plan, true);
    decide(Stage::Fetch, true);
    for (store, passed) in stores.into_iter().zip(passed) {
        decide(Stage::Store(store.into()), passed);
    }
    for fact in facts {
        ledger.apply(&Receipt {
            run: RunId::new("direct", end_ms).unwrap(),
            at_ms: end_ms,
            fact,
        });
    }
}

#[test]
fn the_next_run_begins_at_the_oldest_watermark_of_the_stores() {
    let mut ledger = Ledger::new();
    let after = |ledger: &Ledger| {
        let stores = ["ch-writer".to_owned(), "es-writer".to_owned()];
        let history = History {
            ledger,
            stores: &stores,
        };
        baseline(history, "direct", 2, "same")
    };
    ended(&mut ledger, NOW, [true, true]);
    assert_eq!(after(&ledger).end_ms, Some(NOW));
    // Elasticsearch failed: what it missed is sent again, from where it passed.
    ended(&mut ledger, NOW + 1, [true, false]);
    let baseline = after(&ledger);
    assert_eq!(baseline.end_ms, Some(NOW));
    assert!(
        baseline.why.contains("es-writer is behind"),
        "{}",
        baseline.why
    );
    assert!(baseline.why.contains("did not pass"), "{}", baseline.why);
    ended(&mut ledger, NOW + 2, [true, true]);
    assert_eq!(after(&ledger).end_ms, Some(NOW + 2));
    ended(&mut ledger, NOW + 3, [false, false]);
    assert_eq!(after(&ledger).end_ms, Some(NOW + 2));
}

#[test]
fn an_incremental_run_is_a_watermark_only_if_those_before_it_have_what_it_has_not() {
    let since = |since_ms| RunMode::Since { since_ms };
    let after = |runs: &[(i64, RunMode, bool)]| {
        let mut ledger = Ledger::new();
        for (end_ms, mode, passed) in runs {
            ended_as(&mut ledger, NOW + end_ms, *mode, [*passed, true]);
        }
        let stores = ["ch-writer".to_owned()];
        let history = History {
            ledger: &ledger,
            stores: &stores,
        };
        baseline(history, "direct", 2, "same")
    };
    let (full, from_10, from_20) = (RunMode::Full, since(NOW + 10), since(NOW + 20));
    let end = |runs: &[(i64, RunMode, bool)]| after(runs).end_ms.map(|end| end - NOW);
    assert_eq!(
        end(&[(10, full, true), (20, from_10, true), (30, from_20, true)]),
        Some(30)
    );
    // The one in the middle was rejected: its rows are missing, so the later one is no watermark either.
    let broken = [(10, full, true), (20, from_10, false), (30, from_20, true)];
    assert_eq!(end(&broken), Some(10));
    let why = after(&broken).why;
    assert!(why.contains("is missing"), "{why}");
    // A later run read them again.
    assert_eq!(
        end(&[broken[0], broken[1], broken[2], (40, from_10, true)]),
        Some(40)
    );
    // The oldest run that is known is trusted in what came before it.
    assert_eq!(end(&[(20, from_10, true), (30, from_20, true)]), Some(30));
}

#[test]
fn many_skipped_runs_are_counted() {
    let partial = |n| Run {
        end_ms: NOW + n,
        partial: true,
        ..RUN
    };
    let runs: Vec<Run> = (0..9).map(partial).collect();
    let baseline = after(&runs, RUN.stores);
    assert_eq!(baseline.end_ms, None);
    assert!(baseline.why.ends_with("6 more"), "{}", baseline.why);
}

#[test]
fn a_run_for_fewer_stores_other_shards_or_another_source_makes_the_next_one_full() {
    let expect = |latest: Run, why: &str| {
        let baseline = after(
            &[
                RUN,
                Run {
                    end_ms: NOW + 1,
                    ..latest
                },
            ],
            RUN.stores,
        );
        assert_eq!(baseline.end_ms, None);
        assert!(baseline.why.contains(why), "{}", baseline.why);
    };
    expect(
        Run {
            stores: &["ch-writer"],
            ..RUN
        },
        "was not for es-writer",
    );
    expect(
        Run { shards: 3, ..RUN },
        "was for 3 shards, and now there are 2",
    );
    expect(
        Run {
            source: "other",
            ..RUN
        },
        "other columns",
    );
    expect(Run { source: "", ..RUN }, "does not tell");
    expect(
        Run {
            source: "other",
            quarantined: true,
            ..RUN
        },
        "other columns",
    );
}

#[test]
fn a_source_is_its_table_key_columns_and_types_whatever_their_order() {
    let column = |name: &str, r#type: &str| Column {
        name: name.into(),
        r#type: r#type.into(),
    };
    let [a, b] = [column("a", "String"), column("b", "UInt8")];
    let [c, t] = [column("c", "UInt8"), column("t", "DateTime")];
    let fingerprint = |table: &str, key: &[&Column], columns: &[&Column], changed: &Column| {
        let own = |columns: &[&Column]| columns.iter().copied().cloned().collect::<Vec<_>>();
        let settings = SourceSettings {
            database: "db".to_owned(),
            table: table.to_owned(),
            ..SourceSettings::default()
        };
        let source = SourceColumns {
            engines: Vec::new(),
            key: own(key),
            indexed: 1,
            columns: own(columns),
            changed: Column::clone(changed),
        };
        source_fingerprint(&settings, &source)
    };
    let one = fingerprint("hub", &[&a], &[&b, &c], &t);
    assert_eq!(one, fingerprint("hub", &[&a], &[&c, &b], &t));
    let wider = column("b", "UInt16");
    for other in [
        fingerprint("hub2", &[&a], &[&b, &c], &t),
        fingerprint("hub", &[&a, &b], &[&c], &t),
        fingerprint("hub", &[&a], &[&b], &t),
        fingerprint("hub", &[&a], &[&wider, &c], &t),
        fingerprint("hub", &[&a], &[&b, &c], &c),
    ] {
        assert_ne!(one, other);
    }
}
