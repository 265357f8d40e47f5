use std::fmt::Write;

use batch::Decision;
use comfy_table::Cell;
use ledger::{Progress, StageProgress, StageStatus};

use super::{begun_ms, span, tasks, took, watch};
use crate::output::{Output, Tone, bytes, number, table, time};

/// A run as a drawing: what it carries, its stages, and what each store has accounted for.
pub fn describe(run: &Progress, output: Output) -> String {
    let mut text = beginning(run);
    if !run.stages.is_empty() {
        text.push('\n');
        text.push_str(&stages(run, output));
    }
    text.push('\n');
    text.push_str(&stores(run));
    text
}

fn beginning(run: &Progress) -> String {
    let mode = run.started.as_ref().map(|started| {
        let partial = if started.partial {
            ", some shards or a sample only"
        } else {
            ""
        };
        format!(
            "{} until {}{partial}",
            watch::mode(started.mode),
            time(started.until_ms)
        )
    });
    let rules = run.started.as_ref().and_then(|s| s.run_plan.as_ref());
    let rules = rules.map_or_else(Vec::new, |run_plan| {
        let rules = run_plan.overrides.iter();
        rules
            .map(|(rule, number)| format!("{rule}={number}"))
            .collect()
    });
    let mut lines = vec![
        ("run", run.run.to_string()),
        ("status", run.status.to_string()),
        (
            "carries",
            mode.unwrap_or_else(|| "unknown: its beginning is no longer on the ledger".into()),
        ),
        ("began (UTC)", time(begun_ms(run))),
        ("took", took(run)),
        ("tasks", tasks(run)),
        (
            "rows read",
            format!(
                "{} in {} batches, {}",
                number(run.rows_fetched),
                number(run.batches_fetched),
                bytes(run.bytes_fetched)
            ),
        ),
    ];
    if let Some(given_up) = &run.abandoned {
        let (at, who, why) = (time(given_up.at_ms), &given_up.who, &given_up.why);
        lines.push(("abandoned", format!("{at} by {who}: {why}")));
    }
    if let Some(left) = run.gap.as_ref().filter(|_| !run.status.is_unfinished()) {
        lines.push(("left out", left.clone()));
    }
    if !rules.is_empty() {
        lines.push(("its own rules", rules.join(", ")));
    }
    let mut text = String::new();
    for (name, value) in lines {
        let _ = writeln!(text, "{name:<14}{value}");
    }
    text
}

/// One line a stage, in the order of the run, and one for each thing that did not go well in it.
fn stages(run: &Progress, output: Output) -> String {
    let headers = ["stage", "status", "took", "done", "", "why"];
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
            let empty = || Cell::new("");
            let problem = output.cell(Tone::Warning, problem);
            [empty(), empty(), empty(), empty(), empty(), problem]
        });
        std::iter::once(row).chain(problems)
    });
    table(&headers, &[2, 3], rows)
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
    let skipped = stage.status == Decision::Skipped.into();
    let end = stage.ended_ms.unwrap_or(run.latest_ms);
    match stage.began_ms {
        Some(began) if !skipped => span(end.saturating_sub(began)),
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
    let headers = [
        "store",
        "accounted",
        "stored",
        "unchanged",
        "skipped",
        "quarantined",
        "why",
    ];
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
    table(&headers, &[1, 2, 3, 4, 5], rows)
}
