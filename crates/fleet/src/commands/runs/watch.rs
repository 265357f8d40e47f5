use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use batch::{Receipt, Stage};
use indicatif::{ProgressBar, ProgressStyle};
use ledger::{Progress, StageProgress, StageStatus};
use pipeline::broker::{Broker, StreamMessage};
use pipeline::history;
use tokio::time::{Instant, MissedTickBehavior};

use super::describe::describe;
use crate::exit::Exit;
use crate::output::{Output, duration, number};

/// How often the run is drawn on a terminal, and a line is printed elsewhere.
const DRAW_INTERVAL: Duration = Duration::from_millis(200);
const LINE_INTERVAL: Duration = Duration::from_secs(2);

/// Shows how far the run is, until it has ended or the time is over: a bar on a terminal, lines elsewhere.
pub async fn watch(
    broker: &Broker,
    name: &str,
    timeout: Option<u64>,
    output: Output,
) -> anyhow::Result<Exit> {
    let mut view = ProgressView::new(output);
    let interval = if view.bar.is_some() {
        DRAW_INTERVAL
    } else {
        LINE_INTERVAL
    };
    let timeout = timeout.map(Duration::from_secs);
    follow(broker, name, interval, timeout, |run, last| {
        view.show(run, last)
    })
    .await
}

/// Draws the run until it has ended: on a terminal over the drawing before, elsewhere a line for each stage whose
/// status changes, and the drawing at the end.
pub async fn draw(broker: &Broker, name: &str, output: Output) -> anyhow::Result<Exit> {
    let in_place = std::io::stdout().is_terminal() && !output.is_json();
    let mut printed = BTreeMap::new();
    let mut lines = 0;
    let show = |progress: &Progress, last: bool| {
        if in_place {
            let drawing = describe(progress, output);
            let up = if lines > 0 {
                format!("\x1b[{lines}A\x1b[J")
            } else {
                String::new()
            };
            lines = drawing.lines().count();
            return Ok(output.text(&format!("{up}{drawing}"))?);
        }
        let changes = stage_changes(progress, &mut printed);
        if output.is_json() {
            if last || !changes.is_empty() {
                output.json_line(progress)?;
            }
            return Ok(());
        }
        for line in changes {
            output.line(line)?;
        }
        if last {
            output.text(&describe(progress, output))?;
        }
        Ok(())
    };
    follow(broker, name, DRAW_INTERVAL, None, show).await
}

/// Gives the state of a run to `show` at every interval, the last time (`true`) when it has ended or the time is over.
async fn follow(
    broker: &Broker,
    name: &str,
    interval: Duration,
    timeout: Option<Duration>,
    mut show: impl FnMut(&Progress, bool) -> anyhow::Result<()>,
) -> anyhow::Result<Exit> {
    let (mut ledger, mut added) = history::follow(broker).await?;
    history::reopen(broker, &mut ledger).await?;
    let run = super::find(&ledger, name)?.run;
    let timeout = tokio::time::sleep(timeout.unwrap_or(Duration::MAX));
    tokio::pin!(timeout);
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        let in_time = tokio::select! {
            _ = ticks.tick() => true,
            () = &mut timeout => false,
            received = added.next() => {
                let StreamMessage { offset, message } = received?;
                if let Ok(receipt) = Receipt::from_message(&message) {
                    ledger.apply_at(offset, &receipt);
                    history::reopen(broker, &mut ledger).await?;
                }
                continue;
            }
        };
        let progress = super::find_run(&ledger, &run)?;
        let last = !in_time || !progress.status.is_unfinished();
        show(&progress, last)?;
        if last {
            return Ok(Exit::differs_if(!progress.status.is_complete()));
        }
    }
}

/// A line for each stage whose status is not the one printed before.
fn stage_changes(progress: &Progress, printed: &mut BTreeMap<Stage, StageStatus>) -> Vec<String> {
    let stages = progress.stages.iter();
    let changed = stages
        .filter(|stage| printed.insert(stage.stage.clone(), stage.status) != Some(stage.status));
    let line = |stage: &StageProgress| match stage.why.as_str() {
        "" => format!("{} is {}", stage.stage, stage.status),
        why => format!("{} is {}: {why}", stage.stage, stage.status),
    };
    changed.map(line).collect()
}

/// A bar on a terminal, plain lines elsewhere, JSON lines with --json.
struct ProgressView {
    output: Output,
    bar: Option<ProgressBar>,
    /// When the first state was shown, and the rows accounted for then.
    since: Option<(Instant, u64)>,
}

impl ProgressView {
    fn new(output: Output) -> Self {
        let terminal = std::io::stderr().is_terminal() && !output.is_json();
        let bar = terminal.then(|| {
            let style = ProgressStyle::with_template("{bar:30} {percent:>3} %  {msg}");
            ProgressBar::new(0).with_style(style.expect("the template is sound"))
        });
        Self {
            output,
            bar,
            since: None,
        }
    }

    fn show(&mut self, progress: &Progress, last: bool) -> anyhow::Result<()> {
        if self.output.is_json() {
            return Ok(self.output.json_line(progress)?);
        }
        if last {
            self.bar.iter().for_each(ProgressBar::finish_and_clear);
            return Ok(self.output.line(progress.summary())?);
        }
        let text = self.text(progress);
        let Some(bar) = &self.bar else {
            return Ok(self.output.line(text)?);
        };
        bar.set_length(expected(progress));
        bar.set_position(accounted(progress));
        bar.set_message(text);
        Ok(())
    }

    /// Rows that every store has accounted for, of how many, how fast, and how long it will still take.
    fn text(&mut self, progress: &Progress) -> String {
        let (done, all) = (accounted(progress), expected(progress));
        let (since, before) = *self.since.get_or_insert((Instant::now(), done));
        let seconds = since.elapsed().as_secs_f64();
        let rate = (done.saturating_sub(before)) as f64 / seconds.max(0.001);
        let left = if rate >= 1.0 && seconds >= 1.0 {
            let left = all.saturating_sub(done) as f64 / rate;
            format!(", {} left", duration(Duration::from_secs_f64(left)))
        } else {
            String::new()
        };
        let mut text = format!(
            "{} of {} rows in all stores, {} rows/s{left}",
            number(done),
            number(all),
            number(rate as u64)
        );
        let running = progress.stages.iter();
        for stage in running.filter(|stage| stage.status == StageStatus::Running) {
            if let Stage::Sync | Stage::Dictionary | Stage::Serp = stage.stage {
                let (done, of) = (number(stage.done), number(stage.of.unwrap_or(0)));
                text += &format!("; {}: {done} of {of} {}", stage.stage, stage.unit);
            }
        }
        text
    }
}

/// Rows that the slowest store has accounted for.
fn accounted(progress: &Progress) -> u64 {
    progress.rows_fetched - progress.rows_outstanding().min(progress.rows_fetched)
}

/// Rows that the run will have. Until all tasks are fetched, what those fetched so far found is taken
/// for all, as ranges are nearly equal: the plan's count is of all rows, changed or not.
fn expected(progress: &Progress) -> u64 {
    let (rows_fetched, tasks_fetched) = (progress.rows_fetched, progress.tasks_fetched);
    let planned = progress.tasks_planned.unwrap_or(0);
    let estimate = progress.estimated_rows.unwrap_or(0);
    let open = planned.saturating_sub(tasks_fetched + progress.tasks_quarantined);
    if open == 0 {
        return rows_fetched;
    }
    if tasks_fetched == 0 {
        return estimate;
    }
    let more = u128::from(rows_fetched) * u128::from(open) / u128::from(tasks_fetched);
    let more = u64::try_from(more).unwrap_or(u64::MAX);
    more.saturating_add(rows_fetched)
        .min(estimate.max(rows_fetched))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ledger::RunStatus;

    fn progress(planned: Option<u64>, fetched: u64, rows: u64) -> Progress {
        Progress {
            run: "r-1".parse().unwrap(),
            status: RunStatus::Running,
            started: None,
            started_ms: None,
            latest_ms: 0,
            tasks_planned: planned,
            tasks_fetched: fetched,
            tasks_failed: 0,
            tasks_quarantined: 1,
            estimated_rows: planned.map(|_| 1_000),
            rows_fetched: rows,
            batches_fetched: 0,
            bytes_fetched: 0,
            stores: Vec::new(),
            stages: Vec::new(),
            gap: None,
            abandoned: None,
        }
    }

    #[test]
    fn the_rows_of_a_run_are_estimated_from_those_found_so_far() {
        for (planned, fetched, rows, wanted) in [
            (None, 3, 30, 30),
            (Some(11), 0, 0, 1_000),
            (Some(11), 5, 50, 100),
            (Some(11), 5, 990, 1_000),
            (Some(11), 10, 70, 70),
        ] {
            assert_eq!(expected(&progress(planned, fetched, rows)), wanted);
        }
    }
}
