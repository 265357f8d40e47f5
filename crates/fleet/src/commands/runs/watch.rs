use std::io::IsTerminal;
use std::time::Duration;

use batch::{Message, Receipt, RunMode, Stage};
use indicatif::{ProgressBar, ProgressStyle};
use ledger::{Ledger, ProblemKind, Progress, StageStatus};
use pipeline::broker::Broker;
use pipeline::history;
use tokio::time::{Instant, MissedTickBehavior};

use super::describe::describe;
use crate::exit::Exit;
use crate::output::{Output, duration, number, time};

/// How often the picture is drawn anew on a terminal, and a line is printed elsewhere.
const DRAW: Duration = Duration::from_millis(200);
const LINE: Duration = Duration::from_secs(2);

pub async fn watch(
    broker: &Broker,
    name: &str,
    timeout: Option<u64>,
    output: Output,
) -> anyhow::Result<Exit> {
    let (mut ledger, mut added) = history::follow(broker).await?;
    history::reopen(broker, &mut ledger).await?;
    let run = super::find(&ledger, name)?.run;
    let mut view = View::new(output);
    let deadline = timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut ticks = tokio::time::interval(view.interval());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        let over = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let in_time = tokio::select! {
            _ = ticks.tick() => true,
            () = over => false,
            received = added.next() => {
                take(broker, &mut ledger, received?).await?;
                continue;
            }
        };
        let progress = super::find(&ledger, run.as_str())?;
        if progress.status.is_unfinished() && in_time {
            view.show(&progress)?;
            continue;
        }
        view.end(&progress)?;
        return Ok(match progress.status.is_complete() {
            true => Exit::Ok,
            false => Exit::Differs,
        });
    }
}

/// Draws the run anew whenever something changed, until it has ended: on a terminal in place of the drawing before,
/// elsewhere one line for each stage whose status changes, and the drawing last.
pub async fn draw(broker: &Broker, name: &str, output: Output) -> anyhow::Result<Exit> {
    let (mut ledger, mut added) = history::follow(broker).await?;
    history::reopen(broker, &mut ledger).await?;
    let run = super::find(&ledger, name)?.run;
    let in_place = std::io::stdout().is_terminal() && !output.is_json();
    let mut said: Vec<(Stage, StageStatus)> = Vec::new();
    let mut lines = 0;
    let mut ticks = tokio::time::interval(DRAW);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            received = added.next() => {
                take(broker, &mut ledger, received?).await?;
                continue;
            }
        }
        let progress = super::find(&ledger, run.as_str())?;
        let ended = !progress.status.is_unfinished();
        if output.is_json() {
            if ended || changes(&progress, &mut said).next().is_some() {
                output.json_line(&progress)?;
            }
        } else if in_place {
            let drawing = describe(&progress, output);
            // Up to where the drawing before began, and away with it.
            let up = if lines > 0 {
                format!("\x1b[{lines}A\x1b[J")
            } else {
                String::new()
            };
            lines = drawing.lines().count();
            output.text(&format!("{up}{drawing}"))?;
        } else {
            for line in changes(&progress, &mut said).collect::<Vec<_>>() {
                output.line(line)?;
            }
            if ended {
                output.text(&describe(&progress, output))?;
            }
        }
        if ended {
            return Ok(match progress.status.is_complete() {
                true => Exit::Ok,
                false => Exit::Differs,
            });
        }
    }
}

/// A line for each stage whose status is another one than was said.
fn changes<'a>(
    progress: &'a Progress,
    said: &'a mut Vec<(Stage, StageStatus)>,
) -> impl Iterator<Item = String> + 'a {
    progress.stages.iter().filter_map(|stage| {
        let now = (stage.stage.clone(), stage.status);
        if said.contains(&now) {
            return None;
        }
        said.retain(|(known, _)| *known != stage.stage);
        said.push(now);
        let why = match stage.why.as_str() {
            "" => String::new(),
            why => format!(": {why}"),
        };
        Some(format!("{} is {}{why}", stage.stage, stage.status))
    })
}

async fn take(
    broker: &Broker,
    ledger: &mut Ledger,
    (place, message): (u64, Message),
) -> anyhow::Result<()> {
    if let Ok(receipt) = Receipt::from_message(&message) {
        ledger.apply_at(place, &receipt);
        history::reopen(broker, ledger).await?;
    }
    Ok(())
}

pub fn mode(mode: RunMode) -> String {
    match mode {
        RunMode::Full => "all rows".to_owned(),
        RunMode::Since { since_ms } => format!("what changed since {}", time(since_ms)),
    }
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
            let error = error
                .as_deref()
                .map(|e| format!(": {e}"))
                .unwrap_or_default();
            format!("in the quarantine of {program} ({reason}){error}")
        }
    }
}

/// The picture: a bar on a terminal, plain lines elsewhere, JSON lines with --json.
struct View {
    output: Output,
    bar: Option<ProgressBar>,
    since: Option<(Instant, u64)>,
}

impl View {
    fn new(output: Output) -> Self {
        let terminal = std::io::stderr().is_terminal() && !output.is_json();
        let bar = terminal.then(|| {
            let bar = ProgressBar::new(0);
            let style = ProgressStyle::with_template("{bar:30} {percent:>3} %  {msg}");
            bar.set_style(style.expect("the template is sound"));
            bar
        });
        Self {
            output,
            bar,
            since: None,
        }
    }

    fn interval(&self) -> Duration {
        if self.bar.is_some() { DRAW } else { LINE }
    }

    fn show(&mut self, progress: &Progress) -> anyhow::Result<()> {
        if self.output.is_json() {
            return Ok(self.output.json_line(progress)?);
        }
        let text = self.text(progress);
        match &self.bar {
            Some(bar) => {
                bar.set_length(expected(progress));
                bar.set_position(accounted(progress));
                bar.set_message(text);
            }
            None => self.output.line(text)?,
        }
        Ok(())
    }

    fn end(&mut self, progress: &Progress) -> anyhow::Result<()> {
        if self.output.is_json() {
            return Ok(self.output.json_line(progress)?);
        }
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        Ok(self.output.line(progress.summary())?)
    }

    /// Rows that every store has accounted for, of how many, how fast, and how long it will still take.
    fn text(&mut self, progress: &Progress) -> String {
        let (done, all) = (accounted(progress), expected(progress));
        let (since, before) = *self.since.get_or_insert((Instant::now(), done));
        let seconds = since.elapsed().as_secs_f64();
        let rate = (done.saturating_sub(before)) as f64 / seconds.max(0.001);
        let left = match rate {
            rate if rate >= 1.0 && seconds >= 1.0 => {
                let left = all.saturating_sub(done) as f64 / rate;
                format!(", {} left", duration(Duration::from_secs_f64(left)))
            }
            _ => String::new(),
        };
        let mut text = format!(
            "{} of {} rows in all stores, {} rows/s{left}",
            number(done),
            number(all),
            number(rate as u64)
        );
        let orders = [Stage::Sync, Stage::Dictionary, Stage::Serp];
        let of_orders = progress
            .stages
            .iter()
            .filter(|stage| orders.contains(&stage.stage));
        for stage in of_orders.filter(|stage| stage.status == StageStatus::Running) {
            let (done, of) = (number(stage.done), number(stage.of.unwrap_or(0)));
            text.push_str(&format!("; {}: {done} of {of} {}", stage.stage, stage.unit));
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
    let Progress {
        rows_fetched,
        tasks_fetched,
        ..
    } = *progress;
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
    let all = u64::try_from(more)
        .unwrap_or(u64::MAX)
        .saturating_add(rows_fetched);
    all.min(estimate.max(rows_fetched))
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
