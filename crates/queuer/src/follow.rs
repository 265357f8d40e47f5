//! Which run a run of changes follows: decided from the ledger. Pure.

use std::borrow::Cow;

use batch::{Column, RunId, RunMode, TaskHash};
use ledger::{Ledger, Progress, Started};

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

/// Where a run of changes may begin: the older of the marks that the stores have, so that what one of them missed is
/// sent again; what the other has already counts as unchanged there.
///
/// A store's mark is the latest ended run of `pipeline` that closed well in it and left nothing out, unless a run since
/// then, or that run itself, was for another source, for other shards, or not for the store: rows that did not
/// change since are missing then, and only a full run brings them.
pub(crate) fn follow(past: Past<'_>, pipeline: &str, shards: u32, source: &str) -> Basis {
    let ended = past.ledger.ended(pipeline);
    // A plan for no pipeline in particular follows a run that is complete in all that it was for.
    let none = [String::new()];
    let stores = match past.stores {
        [] => &none[..],
        stores => stores,
    };
    let marks = stores
        .iter()
        .map(|store| (store, mark(&ended, store, shards, source)));
    let marks: Vec<(&String, Basis)> = marks.collect();
    let oldest = marks.iter().min_by_key(|(_, mark)| mark.end_ms);
    let Some((store, oldest)) = oldest else {
        return basis(None, "no run has ended yet".to_owned(), &[]);
    };
    let mut oldest = oldest.clone();
    // `None`, a full run, is the least of all.
    if marks.iter().any(|(_, mark)| mark.end_ms != oldest.end_ms) {
        oldest.why = format!("of the stores {store} is behind: {}", oldest.why);
    }
    oldest
}

/// The latest run that closed well in the store and is connected, by runs that did, to one of all rows, or to the oldest
/// run that is known: where a run of changes begins later than the one before it ended well, rows are missing.
fn mark(ended: &[Cow<'_, Progress>], store: &str, shards: u32, source: &str) -> Basis {
    let mut passed = Vec::new();
    // The run that is accepted, if those before it carry what it does not, and from when on it does not need them.
    let mut accepted: Option<(&Progress, &Started, i64)> = None;
    for run in ended {
        let Some(started) = &run.started else {
            continue;
        };
        // A partial run is no sign of anything: it may have been a trial.
        let unlike = match started.partial {
            true => None,
            false => unlike(started, store, shards, source),
        };
        if let Some(unlike) = unlike {
            let why = format!("run {} {unlike}", run.run);
            return basis(None, why, &passed);
        }
        if let Some(what) = missed(run, store) {
            passed.push((&run.run, what));
            continue;
        }
        if let Some((latest, _, since_ms)) = accepted
            && started.until_ms < since_ms
        {
            let gap = format!("what changed before it since {} is missing", run.run);
            passed.push((&latest.run, gap));
            accepted = None;
        }
        let (latest, end, carried_ms) = accepted.unwrap_or((run, started, i64::MAX));
        match started.mode {
            RunMode::Full => return followed(latest, end, &passed),
            RunMode::Since { since_ms } => accepted = Some((latest, end, carried_ms.min(since_ms))),
        }
    }
    if let Some((latest, end, _)) = accepted {
        return followed(latest, end, &passed);
    }
    let why = match passed.is_empty() {
        true => "no run is complete yet",
        false => "no complete run left nothing out",
    };
    basis(None, why.to_owned(), &passed)
}

fn followed(run: &Progress, started: &Started, passed: &[(&RunId, String)]) -> Basis {
    let why = format!("run {} left nothing out", run.run);
    basis(Some(started.until_ms), why, passed)
}

/// What the store does not have of the run that it should.
fn missed(run: &Progress, store: &str) -> Option<String> {
    if store.is_empty() {
        let incomplete = (!run.state.is_complete()).then(|| format!("it was {}", run.state));
        return incomplete.or_else(|| run.leaves_out.clone());
    }
    match run.stores.iter().find(|known| known.store == store) {
        Some(known) if known.closed => known.leaves_out.clone(),
        _ => Some(format!("it did not close well in {store}")),
    }
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
fn unlike(started: &Started, store: &str, shards: u32, source: &str) -> Option<String> {
    if !store.is_empty() && !started.stores.iter().any(|known| known == store) {
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
    use batch::{BatchId, Course, Fact, Reason, Receipt, Rows, RunMode, Stage, Verdict};

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
                course: None,
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

    /// A judged run of one task with one row, whose stores closed or were rejected.
    fn judged(ledger: &mut Ledger, end_ms: i64, closed: [bool; 2]) {
        judged_as(ledger, end_ms, RunMode::Full, closed);
    }

    fn judged_as(ledger: &mut Ledger, end_ms: i64, mode: RunMode, closed: [bool; 2]) {
        let task = TaskHash::of([b"t".as_slice()]);
        let stores = ["ch-writer", "es-writer"];
        let mut facts = vec![
            Fact::Started {
                pipeline: "direct".into(),
                mode,
                until_ms: end_ms,
                shards: 2,
                stores: stores.map(str::to_owned).into(),
                partial: false,
                source: "same".into(),
                nonce: String::new(),
                course: Some(Course::default()),
            },
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
        let mut judge = |stage, closed| {
            let verdict = match closed {
                true => Verdict::Closed,
                false => Verdict::Rejected,
            };
            facts.push(Fact::Judged {
                stage,
                verdict,
                why: String::new(),
                decisions: 0,
            });
        };
        judge(Stage::Plan, true);
        judge(Stage::Fetch, true);
        for (store, closed) in stores.into_iter().zip(closed) {
            judge(Stage::Store(store.into()), closed);
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
    fn the_next_run_begins_at_the_older_of_the_marks_that_the_stores_have() {
        let mut ledger = Ledger::new();
        let after = |ledger: &Ledger| {
            let stores = ["ch-writer".to_owned(), "es-writer".to_owned()];
            let past = Past {
                ledger,
                stores: &stores,
            };
            follow(past, "direct", 2, "same")
        };
        judged(&mut ledger, NOW, [true, true]);
        assert_eq!(after(&ledger).end_ms, Some(NOW));
        // Elasticsearch failed: what it missed is sent again, from where it closed well.
        judged(&mut ledger, NOW + 1, [true, false]);
        let basis = after(&ledger);
        assert_eq!(basis.end_ms, Some(NOW));
        assert!(basis.why.contains("es-writer is behind"), "{}", basis.why);
        assert!(basis.why.contains("did not close well"), "{}", basis.why);
        judged(&mut ledger, NOW + 2, [true, true]);
        assert_eq!(after(&ledger).end_ms, Some(NOW + 2));
        judged(&mut ledger, NOW + 3, [false, false]);
        assert_eq!(after(&ledger).end_ms, Some(NOW + 2));
    }

    #[test]
    fn a_run_of_changes_is_a_mark_only_if_those_before_it_carry_what_it_does_not() {
        let since = |since_ms| RunMode::Since { since_ms };
        let after = |runs: &[(i64, RunMode, bool)]| {
            let mut ledger = Ledger::new();
            for (end_ms, mode, closed) in runs {
                judged_as(&mut ledger, NOW + end_ms, *mode, [*closed, true]);
            }
            let stores = ["ch-writer".to_owned()];
            let past = Past {
                ledger: &ledger,
                stores: &stores,
            };
            follow(past, "direct", 2, "same")
        };
        let (full, from_10, from_20) = (RunMode::Full, since(NOW + 10), since(NOW + 20));
        let end = |runs: &[(i64, RunMode, bool)]| after(runs).end_ms.map(|end| end - NOW);
        assert_eq!(
            end(&[(10, full, true), (20, from_10, true), (30, from_20, true)]),
            Some(30)
        );
        // The one in the middle was found bad afterwards: what it carried is missing, and so is the end of the later one.
        let broken = [(10, full, true), (20, from_10, false), (30, from_20, true)];
        assert_eq!(end(&broken), Some(10));
        let why = after(&broken).why;
        assert!(why.contains("is missing"), "{why}");
        // Carried again since then, from where all was well.
        assert_eq!(
            end(&[broken[0], broken[1], broken[2], (40, from_10, true)]),
            Some(40)
        );
        // What came before the oldest run that is known is taken for good.
        assert_eq!(end(&[(20, from_10, true), (30, from_20, true)]), Some(30));
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
