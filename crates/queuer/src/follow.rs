//! Which run a run of changes follows: decided from the ledger. Pure.

use batch::{Column, RunId, TaskHash};
use ledger::{Ledger, Started};

/// Runs passed over that are named one by one; there may be hundreds of partial ones.
const NAMED: usize = 3;

/// What is known of earlier runs, and what must have been the same for one of them to be followed.
#[derive(Debug, Clone, Copy)]
pub struct Past<'a> {
    pub ledger: &'a Ledger,
    /// Programs that must account for every row, by their process names.
    pub stores: &'a [String],
}

/// The run that is followed, if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Basis {
    /// Where it ended, in milliseconds since the epoch.
    pub end_ms: Option<i64>,
    /// Which one, and why no later one: for a person.
    pub why: String,
}

/// What a run reads, without the moment and the extent: two runs of one source read the same columns of
/// the same table. Their order is of no account.
pub(crate) fn source_of(
    (database, table): (&str, &str),
    key: &[Column],
    columns: &[Column],
    changed: &Column,
) -> String {
    let mut columns: Vec<&Column> = columns.iter().collect();
    columns.sort_by_key(|column| &column.name);
    // The count keeps a key column from being taken for another one.
    let count = (key.len() as u64).to_le_bytes();
    let all = key.iter().chain(columns).chain([changed]);
    let all = all.flat_map(|column| [column.name.as_bytes(), column.r#type.as_bytes()]);
    let parts = [database.as_bytes(), table.as_bytes(), &count[..]];
    TaskHash::of(parts.into_iter().chain(all)).to_string()
}

/// The latest complete run of `pipeline` that left nothing out, unless a run since then, or that run
/// itself, was for another source, for other shards, or not for all of the stores: rows that did not
/// change since are missing then, and only a full run brings them.
pub(crate) fn follow(past: Past<'_>, pipeline: &str, shards: u32, source: &str) -> Basis {
    let mut passed = Vec::new();
    for run in past.ledger.complete(pipeline) {
        let Some(started) = run.started() else {
            continue;
        };
        // A partial run is no sign of anything: it may have been a trial.
        let unlike = match started.partial {
            true => None,
            false => unlike(started, past.stores, shards, source),
        };
        if let Some(unlike) = unlike {
            let why = format!("run {} {unlike}", run.run());
            return basis(None, why, &passed);
        }
        match run.leaves_out() {
            Some(what) => passed.push((run.run(), what)),
            None => {
                let why = format!("run {} left nothing out", run.run());
                return basis(Some(started.until_ms), why, &passed);
            }
        }
    }
    let why = match passed.is_empty() {
        true => "no run is complete yet",
        false => "no complete run left nothing out",
    };
    basis(None, why.to_owned(), &passed)
}

fn basis(end_ms: Option<i64>, mut why: String, passed: &[(&RunId, String)]) -> Basis {
    let named = passed.iter().take(NAMED);
    let mut named: Vec<String> = named.map(|(run, what)| format!("{run} ({what})")).collect();
    if passed.len() > NAMED {
        named.push(format!("{} more", passed.len() - NAMED));
    }
    if !named.is_empty() {
        why.push_str("; passed over: ");
        why.push_str(&named.join(", "));
    }
    Basis { end_ms, why }
}

/// Why rows that the run did not carry would be missing now, if so.
fn unlike(started: &Started, stores: &[String], shards: u32, source: &str) -> Option<String> {
    let missing = stores.iter().find(|store| !started.stores.contains(store));
    if let Some(store) = missing {
        return Some(format!("was not for {store}"));
    }
    if started.shards != shards {
        let were = started.shards;
        return Some(format!("was for {were} shards, and now there are {shards}"));
    }
    match started.source.as_str() {
        "" => Some("does not say which columns it read".to_owned()),
        same if same == source => None,
        _ => Some("read another table, or other columns of it".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use batch::{Fact, Reason, Receipt, RunMode};

    const NOW: i64 = 1_767_323_045_678;

    struct Run {
        end_ms: i64,
        stores: &'static [&'static str],
        shards: u32,
        source: &'static str,
        partial: bool,
        gave_up: bool,
    }

    const RUN: Run = Run {
        end_ms: NOW,
        stores: &["ch-writer", "es-writer"],
        shards: 2,
        source: "same",
        partial: false,
        gave_up: false,
    };

    /// What a run for `stores`, 2 shards and the source "same" follows after `runs` of one task.
    fn after(runs: &[Run], stores: &[&str]) -> Basis {
        let mut ledger = Ledger::new();
        let task = TaskHash::of([b"t".as_slice()]);
        for run in runs {
            let started = Fact::Started {
                pipeline: "direct".into(),
                mode: RunMode::Full,
                until_ms: run.end_ms,
                shards: run.shards,
                stores: run.stores.iter().map(|s| s.to_string()).collect(),
                partial: run.partial,
                source: run.source.into(),
                nonce: String::new(),
            };
            let manifest = Fact::Manifest {
                tasks: 1,
                estimated_rows: 0,
            };
            let settled = match run.gave_up {
                true => Fact::TaskQuarantined {
                    task,
                    program: "fetcher".into(),
                    reason: Reason::TooManyRetries,
                },
                false => Fact::Fetched {
                    task,
                    attempt: 1,
                    shard: 0,
                    batches: 0,
                    rows: 0,
                    bytes: 0,
                },
            };
            for fact in [started, manifest, settled] {
                ledger.apply(&Receipt {
                    run: RunId::new("direct", run.end_ms).unwrap(),
                    at_ms: run.end_ms,
                    fact,
                });
            }
        }
        let stores: Vec<String> = stores.iter().map(|s| s.to_string()).collect();
        let past = Past {
            ledger: &ledger,
            stores: &stores,
        };
        follow(past, "direct", 2, "same")
    }

    #[test]
    fn the_latest_complete_run_is_followed_and_named() {
        let basis = after(
            &[
                RUN,
                Run {
                    end_ms: NOW + 1,
                    ..RUN
                },
            ],
            RUN.stores,
        );
        assert_eq!(basis.end_ms, Some(NOW + 1));
        let run = RunId::new("direct", NOW + 1).unwrap();
        assert_eq!(basis.why, format!("run {run} left nothing out"));
        // One that was for more stores than are left has all that they need.
        assert_eq!(after(&[RUN], &["ch-writer"]).end_ms, Some(NOW));
    }

    #[test]
    fn runs_that_left_rows_out_are_passed_over_and_said() {
        let gave_up = Run {
            end_ms: NOW + 1,
            gave_up: true,
            ..RUN
        };
        let partial = Run {
            end_ms: NOW + 2,
            partial: true,
            source: "trial",
            ..RUN
        };
        let basis = after(&[RUN, gave_up, partial], RUN.stores);
        assert_eq!(basis.end_ms, Some(NOW));
        assert!(basis.why.contains("not fetched: 1"), "{}", basis.why);
        assert!(basis.why.contains("it was partial"), "{}", basis.why);
    }

    #[test]
    fn many_runs_passed_over_are_counted() {
        let partial = |n| Run {
            end_ms: NOW + n,
            partial: true,
            ..RUN
        };
        let runs: Vec<Run> = (0..9).map(partial).collect();
        let basis = after(&runs, RUN.stores);
        assert_eq!(basis.end_ms, None);
        assert!(basis.why.ends_with("6 more"), "{}", basis.why);
    }

    #[test]
    fn a_run_for_fewer_stores_other_shards_or_another_source_makes_the_next_one_full() {
        let expect = |latest: Run, why: &str| {
            let basis = after(
                &[
                    RUN,
                    Run {
                        end_ms: NOW + 1,
                        ..latest
                    },
                ],
                RUN.stores,
            );
            assert_eq!(basis.end_ms, None);
            assert!(basis.why.contains(why), "{}", basis.why);
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
        expect(Run { source: "", ..RUN }, "does not say");
        expect(
            Run {
                source: "other",
                gave_up: true,
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
        let of = |table, key: &[&Column], columns: &[&Column], changed| {
            let own = |columns: &[&Column]| columns.iter().copied().cloned().collect::<Vec<_>>();
            source_of(("db", table), &own(key), &own(columns), changed)
        };
        let one = of("hub", &[&a], &[&b, &c], &t);
        assert_eq!(one, of("hub", &[&a], &[&c, &b], &t));
        let wider = column("b", "UInt16");
        for other in [
            of("hub2", &[&a], &[&b, &c], &t),
            of("hub", &[&a, &b], &[&c], &t),
            of("hub", &[&a], &[&b], &t),
            of("hub", &[&a], &[&wider, &c], &t),
            of("hub", &[&a], &[&b, &c], &c),
        ] {
            assert_ne!(one, other);
        }
    }
}
