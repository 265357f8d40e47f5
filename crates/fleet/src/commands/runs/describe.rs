use batch::RunMode;
use comfy_table::Cell;
use ledger::{ProblemKind, Progress, StageProgress, StageStatus};

use super::{began_ms, span, tasks, took_ms};
use crate::output::{Output, Tone, bytes, number, table, time};

/// A run as text: what it includes, its stages, and what each store has accounted for.
pub fn describe(run: &Progress, output: Output) -> String {
    let mut text = beginning(run);
    if !run.stages.is_empty() {
        text += &format!("\n{}", stages(run, output));
    }
    text + &format!("\n{}", stores(run))
}

fn beginning(run: &Progress) -> String {
    let started = run.started.as_ref();
    let includes = started.map(|started| {
        let partial = if started.partial {
            ", some shards or a sample only"
        } else {
            ""
        };
        let rows = match started.mode {
            RunMode::Full => "all rows".to_owned(),
            RunMode::Since { since_ms } => format!("what changed since {}", time(since_ms)),
        };
        format!("{rows} until {}{partial}", time(started.until_ms))
    });
    let unknown = || "unknown: its beginning is no longer on the ledger".to_owned();
    let read = format!(
        "{} in {} batches, {}",
        number(run.rows_fetched),
        number(run.batches_fetched),
        bytes(run.bytes_fetched)
    );
    let mut lines = vec![
        ("run", run.run.to_string()),
        ("status", run.status.to_string()),
        ("includes", includes.unwrap_or_else(unknown)),
        ("began (UTC)", time(began_ms(run))),
        ("took", span(took_ms(run))),
        ("tasks", tasks(run)),
        ("rows read", read),
    ];
    if let Some(abandoned) = &run.abandoned {
        let (at, who, why) = (time(abandoned.at_ms), &abandoned.who, &abandoned.why);
        lines.push(("abandoned", format!("{at} by {who}: {why}")));
    }
    let differences = started.map(|started| started.differences.as_slice());
    for difference in differences.unwrap_or_default() {
        lines.push(("published although", difference.clone()));
    }
    if let Some(gap) = run.gap.as_ref().filter(|_| !run.status.is_unfinished()) {
        lines.push(("gap", gap.clone()));
    }
    let overrides = started.and_then(|started| Some(&started.run_plan.as_ref()?.overrides));
    if let Some(rules) = overrides.filter(|rules| !rules.is_empty()) {
        let rules = rules
            .iter()
            .map(|(rule, number)| format!("{rule}={number}"));
        lines.push(("its own rules", rules.collect::<Vec<_>>().join(", ")));
    }
    let lines = lines
        .iter()
        .map(|(name, value)| format!("{name:<14}{value}\n"));
    lines.collect()
}

/// A row for each stage in the order of the run, and one for each problem of it.
fn stages(run: &Progress, output: Output) -> String {
    let rows = run.stages.iter().flat_map(|stage| {
        let by = stage.by.as_deref().map(|who| match stage.ended_ms {
            Some(at) => format!("{who}, {}: ", time(at)),
            None => format!("{who}: "),
        });
        let row = [
            Cell::new(stage.stage.as_str()),
            output.cell(tone(stage.status), stage.status.to_string()),
            Cell::new(stage_took(run, stage)),
            Cell::new(done(stage)),
            Cell::new(&stage.unit),
            Cell::new(format!("{}{}", by.unwrap_or_default(), stage.why)),
        ];
        let problems = stage.problems.iter().map(|problem| {
            let mut row = [""; 6].map(Cell::new);
            row[5] = output.cell(Tone::Warning, problem);
            row
        });
        std::iter::once(row).chain(problems)
    });
    table("stage | status | >took | >done |  | why", rows)
}

fn tone(status: StageStatus) -> Tone {
    match status {
        StageStatus::Passed => Tone::Good,
        StageStatus::Rejected => Tone::Bad,
        StageStatus::Running => Tone::Warning,
        StageStatus::Waiting | StageStatus::Skipped => Tone::Faint,
    }
}

fn stage_took(run: &Progress, stage: &StageProgress) -> String {
    let end = stage.ended_ms.unwrap_or(run.latest_ms);
    match stage.began_ms {
        Some(began) if stage.status != StageStatus::Skipped => span(end.saturating_sub(began)),
        _ => "–".to_owned(),
    }
}

fn done(stage: &StageProgress) -> String {
    match stage.of {
        Some(of) => format!("{} of {}", number(stage.done), number(of)),
        None => number(stage.done),
    }
}

fn stores(run: &Progress) -> String {
    let row = |name: String, rows: &batch::Rows, why: String| {
        [
            name,
            number(rows.total()),
            number(rows.stored),
            number(rows.unchanged),
            number(rows.skipped),
            number(rows.quarantined),
            why,
        ]
    };
    let rows = run.stores.iter().flat_map(|store| {
        let reasons = store.reasons.iter();
        let why: Vec<String> = reasons
            .map(|(reason, n)| format!("{reason}: {}", number(*n)))
            .collect();
        let whole = row(store.store.clone(), &store.rows, why.join(", "));
        let targets = store.targets.iter();
        let targets = targets.map(|(name, rows)| row(format!("  {name}"), rows, String::new()));
        std::iter::once(whole).chain(targets)
    });
    table(
        "store | >accounted | >stored | >unchanged | >skipped | >quarantined | why",
        rows,
    )
}

pub fn problem(problem: &ProblemKind) -> String {
    match problem {
        ProblemKind::Failed { attempt, error } => {
            format!("attempt {attempt} failed, and it will be tried again: {error}")
        }
        ProblemKind::Quarantined {
            program,
            reason,
            error,
        } => {
            let error = error.as_ref().map_or(String::new(), |e| format!(": {e}"));
            format!("in the quarantine of {program} ({reason}){error}")
        }
    }
}
