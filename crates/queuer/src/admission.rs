//! Whether a run may begin, and from where: decided from the ledger. Pure.

use batch::{RunId, RunMode};
use ledger::Ledger;

use crate::options::{Options, Since};

/// Why no run begins now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    #[error(
        "another run of pipeline {pipeline} is unfinished. {progress}. Wait for it (fleet runs watch {run}), or abandon it: --abandon {run}"
    )]
    Unfinished {
        pipeline: String,
        run: RunId,
        /// How far it has come, in a sentence.
        progress: String,
    },
    #[error("--abandon {run}: {why}; see fleet runs list")]
    NothingToAbandon { run: RunId, why: String },
    #[error(
        "the run would read changes from {since_ms} up to {until_ms} (milliseconds since the epoch), which is no time at all; {hint}"
    )]
    EmptyPeriod {
        since_ms: i64,
        until_ms: i64,
        hint: &'static str,
    },
    #[error("run {0} exists already; start again in a second")]
    AlreadyExists(RunId),
    #[error("--gate {rule}: the run has no stage {stage:?}; its stages are {stages}")]
    UnknownStage {
        rule: String,
        stage: String,
        stages: String,
    },
    #[error("run {0} ended before its tasks were published; see fleet runs show {0}")]
    AlreadyEnded(RunId),
    #[error(
        "another queuer started run {0} at the same moment, and continues it: fleet runs watch {0}"
    )]
    Simultaneous(RunId),
}

/// Which rows a run reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunScope {
    pub mode: RunMode,
    /// It leaves rows out that a default run would read.
    pub partial: bool,
}

/// Admits a run of `pipeline`, unless another one is unfinished that `abandoned` does not name. Returns the unfinished run
/// that has to be abandoned first.
pub fn admit(
    ledger: &Ledger,
    pipeline: &str,
    abandoned: Option<&RunId>,
) -> Result<Option<RunId>, AdmissionError> {
    let mut abandon = None;
    for run in ledger.unfinished(pipeline) {
        if Some(run.run()) == abandoned {
            abandon = Some(run.run().clone());
            continue;
        }
        return Err(AdmissionError::Unfinished {
            pipeline: pipeline.to_owned(),
            run: run.run().clone(),
            progress: ledger::Progress::new(run).summary(),
        });
    }
    if let (Some(run), None) = (abandoned, &abandon) {
        let why = match ledger.progress(run) {
            Some(progress) => format!("it is {}", progress.status),
            None => "the ledger knows no such run".to_owned(),
        };
        let run = run.clone();
        return Err(AdmissionError::NothingToAbandon { run, why });
    }
    Ok(abandon)
}

/// Which rows a run that ends at `until_ms` reads. `baseline_ms`: the end of the run that it can begin at.
pub fn run_scope(
    options: &Options,
    baseline_ms: Option<i64>,
    overlap_ms: i64,
    until_ms: i64,
) -> Result<RunScope, AdmissionError> {
    let default = baseline_ms.map(|baseline| baseline.saturating_sub(overlap_ms));
    let since_ms = match (options.full, options.since) {
        (true, _) => None,
        (false, Some(Since::At(ms))) => Some(ms),
        (false, Some(Since::Before(ms))) => Some(until_ms.saturating_sub(ms)),
        (false, None) => default,
    };
    // A later start than that of a default run leaves a gap that no later run would close.
    let gap = since_ms.is_some_and(|since| default.is_none_or(|default| since > default));
    let partial = gap || options.sample > 1 || !options.shards.is_empty();
    let mode = match since_ms {
        None => RunMode::Full,
        Some(since_ms) if since_ms < until_ms => RunMode::Since { since_ms },
        Some(since_ms) => {
            let hint = match options.since {
                Some(_) => "give an earlier --since",
                None => "the clock of the source was set back: wait, or start with --full",
            };
            return Err(AdmissionError::EmptyPeriod {
                since_ms,
                until_ms,
                hint,
            });
        }
    };
    Ok(RunScope { mode, partial })
}

#[cfg(test)]
mod tests {
    use super::*;
    use batch::{Fact, Receipt, Started};

    const HOUR: i64 = 3_600_000;
    const NOW: i64 = 1_767_323_045_678;

    fn run(until_ms: i64) -> RunId {
        RunId::new("direct", until_ms).unwrap()
    }

    /// A ledger with a run of one pipeline: (end, tasks planned if all are published).
    fn ledger(runs: &[(i64, Option<u64>)]) -> Ledger {
        let mut ledger = Ledger::new();
        for (until_ms, tasks) in runs {
            let mut apply = |fact| {
                ledger.apply(&Receipt {
                    run: run(*until_ms),
                    at_ms: *until_ms,
                    fact,
                });
            };
            apply(Fact::Started(Started {
                pipeline: "direct".into(),
                mode: RunMode::Full,
                until_ms: *until_ms,
                shards: 1,
                stores: vec!["ch-writer".into()],
                partial: false,
                source: String::new(),
                nonce: String::new(),
                differences: Vec::new(),
                run_plan: None,
            }));
            if let Some(tasks) = *tasks {
                apply(Fact::Manifest {
                    tasks,
                    estimated_rows: 0,
                });
            }
        }
        ledger
    }

    #[test]
    fn an_unfinished_run_refuses_the_next_one_by_name_and_progress() {
        let ledger = ledger(&[(NOW, Some(7))]);
        let refused = admit(&ledger, "direct", None).unwrap_err().to_string();
        assert!(refused.contains("0 of 7 tasks fetched"), "{refused}");
        assert!(
            refused.contains(&format!("--abandon {}", run(NOW))),
            "{refused}"
        );
        assert!(admit(&ledger, "other", None).is_ok());
    }

    #[test]
    fn the_run_that_is_named_is_abandoned_and_no_other() {
        let ledger = ledger(&[(NOW, Some(0)), (NOW + 1, Some(1)), (NOW + 2, None)]);
        let abandon = |ms| admit(&ledger, "direct", Some(&run(ms)));
        assert!(matches!(
            abandon(NOW + 1),
            Err(AdmissionError::Unfinished { .. })
        ));
        assert!(matches!(
            abandon(NOW),
            Err(AdmissionError::Unfinished { .. })
        ));
    }

    #[test]
    fn a_run_that_is_not_unfinished_cannot_be_abandoned() {
        let ledger = ledger(&[(NOW, Some(0)), (NOW + 1, Some(1))]);
        let abandon = admit(&ledger, "direct", Some(&run(NOW + 1))).unwrap();
        assert_eq!(abandon, Some(run(NOW + 1)));
        let ledger = super::tests::ledger(&[(NOW, Some(0))]);
        let refused = admit(&ledger, "direct", Some(&run(NOW))).unwrap_err();
        assert!(refused.to_string().contains("it is complete"), "{refused}");
        let refused = admit(&ledger, "direct", Some(&run(1))).unwrap_err();
        assert!(refused.to_string().contains("no such run"), "{refused}");
    }

    #[test]
    fn a_default_run_reaches_back_before_the_end_of_the_last_complete_one() {
        let default = Options::default();
        let scope = run_scope(&default, Some(NOW), 300_000, NOW + HOUR).unwrap();
        let since_ms = NOW - 300_000;
        let mode = RunMode::Since { since_ms };
        assert_eq!((scope.mode, scope.partial), (mode, false));
    }

    #[test]
    fn a_default_run_without_a_baseline_is_full() {
        let full = run_scope(&Options::default(), None, 300_000, NOW).unwrap();
        assert_eq!((full.mode, full.partial), (RunMode::Full, false));
    }

    #[test]
    fn a_run_that_leaves_rows_out_is_partial() {
        let partial = |change: fn(&mut Options), baseline_ms| {
            let mut options = Options::default();
            change(&mut options);
            run_scope(&options, baseline_ms, 0, NOW).unwrap().partial
        };
        assert!(partial(|o| o.sample = 10, None));
        assert!(partial(|o| o.shards = vec![0], None));
        assert!(partial(|o| o.since = Some(Since::Before(HOUR)), None));
        let before = Some(NOW - 2 * HOUR);
        assert!(partial(|o| o.since = Some(Since::Before(HOUR)), before));
        assert!(!partial(
            |o| o.since = Some(Since::Before(3 * HOUR)),
            before
        ));
        assert!(!partial(|o| o.full = true, before));
    }

    #[test]
    fn a_start_within_the_overlap_of_the_run_before_is_partial() {
        let partial = |since_ms| {
            let options = Options {
                since: Some(Since::At(since_ms)),
                ..Options::default()
            };
            let scope = run_scope(&options, Some(NOW), 300_000, NOW + HOUR).unwrap();
            scope.partial
        };
        assert!(!partial(NOW - 300_000));
        assert!(partial(NOW - 299_999));
        assert!(partial(NOW));
    }

    #[test]
    fn a_run_of_an_empty_period_is_refused() {
        let options = Options {
            since: Some(Since::At(NOW)),
            ..Options::default()
        };
        let refused = run_scope(&options, None, 0, NOW).unwrap_err().to_string();
        assert!(refused.contains("earlier --since"), "{refused}");
        let refused = run_scope(&Options::default(), Some(NOW), 0, NOW).unwrap_err();
        assert!(refused.to_string().contains("clock"), "{refused}");
    }
}
