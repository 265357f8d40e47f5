use anyhow::{Context as _, bail};
use batch::{Decision, Fact, Receipt, RunId, Stage};
use ledger::{Ledger, Progress, StageStatus};
use pipeline::broker::{Broker, Confirm, Publication};
use pipeline::{history, names};
use serde_json::json;

use super::{Because, DecideArguments, read};
use crate::commands::user;
use crate::exit::Exit;
use crate::output::{Output, Tone};

/// Decides on a stage of a run: the decision is on the ledger when this returns.
pub async fn decide(
    broker: &Broker,
    arguments: DecideArguments,
    decision: Decision,
    output: Output,
) -> anyhow::Result<Exit> {
    let DecideArguments {
        run,
        stage,
        because,
    } = arguments;
    let ledger = read(broker).await?;
    let known = known(&ledger, &run)?;
    let stages: Vec<&str> = known.stages.iter().map(|s| s.stage.as_str()).collect();
    if stages.is_empty() {
        bail!(
            "run {run} has no gates: its pipeline has no persister, so there is nothing to decide"
        );
    }
    if !stages.contains(&stage.as_str()) {
        let stages = stages.join(", ");
        bail!(
            "run {run} has no stage {:?}; its stages are {stages}",
            stage.as_str()
        );
    }
    if known.status == ledger::RunStatus::Abandoned {
        bail!("run {run} was abandoned: the next run carries what it did not");
    }
    if stage == Stage::Plan && decision == Decision::Passed && known.tasks_planned.is_none() {
        bail!(
            "run {run} has no manifest: how many tasks there are is not known, and it can only be abandoned"
        );
    }
    still_there(broker, &ledger, &run).await?;
    let (who, why) = because.of();
    let fact = Fact::OperatorDecided {
        stage: stage.clone(),
        decision,
        who: who.clone(),
        why: why.clone(),
    };
    say(broker, &known, fact).await?;
    if output.is_json() {
        let answer =
            json!({ "run": run, "stage": stage, "decision": decision, "who": who, "why": why });
        output.json(&answer)?;
    } else {
        output.line(format!(
            "Stage {stage} of run {run} is {decision}, by {who}. Follow it: fleet runs show {run} --watch"
        ))?;
        for warning in warnings(&known, &stage, decision) {
            output.line(output.paint(Tone::Warning, warning))?;
        }
    }
    Ok(Exit::Ok)
}

/// What an approval does not bring about, although one might expect it to.
fn warnings(run: &Progress, stage: &Stage, decision: Decision) -> Vec<String> {
    let mut warnings = Vec::new();
    if decision != Decision::Passed {
        return warnings;
    }
    let planned = run.tasks_planned.unwrap_or(0);
    if *stage == Stage::Fetch && run.tasks_fetched < planned {
        let unread = planned - run.tasks_fetched;
        warnings.push(format!(
            "{unread} of {planned} tasks are not fetched: the next run begins before this one, and carries what they leave out."
        ));
    }
    let run_plan = run.started.as_ref().and_then(|s| s.run_plan.as_ref());
    let before = run_plan.map_or_else(Vec::new, |run_plan| run_plan.before(stage));
    for earlier in before {
        let bad = run.stages.iter().find(|known| {
            known.stage == earlier
                && matches!(known.status, StageStatus::Rejected | StageStatus::Skipped)
        });
        if let Some(bad) = bad {
            let status = bad.status;
            warnings.push(format!(
                "Nothing follows while {earlier}, which it builds on, is {status}: approve that."
            ));
            break;
        }
    }
    warnings
}

/// Gives a run up.
pub async fn abandon(
    broker: &Broker,
    run: RunId,
    because: Because,
    output: Output,
) -> anyhow::Result<Exit> {
    let ledger = read(broker).await?;
    let known = known(&ledger, &run)?;
    let status = known.status;
    if !status.is_unfinished() {
        bail!("run {run} stands in nobody's way: it is {status}");
    }
    let (who, why) = because.of();
    let fact = Fact::Abandoned {
        who: who.clone(),
        why: why.clone(),
    };
    say(broker, &known, fact).await?;
    match output.is_json() {
        true => {
            output.json(&json!({ "run": run, "status": "abandoned", "who": who, "why": why }))?
        }
        false => output.line(format!("Run {run} is abandoned, by {who}."))?,
    }
    Ok(Exit::Ok)
}

fn known(ledger: &Ledger, run: &RunId) -> anyhow::Result<Progress> {
    let progress = ledger.progress(run).with_context(|| {
        format!("the ledger knows no run {run}; fleet runs list names those that it knows")
    })?;
    Ok(progress.into_owned())
}

/// Refuses to decide on an ended run whose receipts are cut off: nothing would come of it.
async fn still_there(broker: &Broker, ledger: &Ledger, run: &RunId) -> anyhow::Result<()> {
    let Some(first) = ledger.record(run).map(|ended| ended.first_offset) else {
        return Ok(());
    };
    if history::read_run(broker, run, first).await?.is_none() {
        bail!(
            "the receipts of run {run} are no longer on the ledger (pipeline.ledger_max_age_days): begin a run with --full instead"
        );
    }
    Ok(())
}

/// Publishes a receipt, up to the confirm. Decisions count in the order of their times: this one comes after all that
/// is known of the run, whatever the clock here says.
async fn say(broker: &Broker, known: &Progress, fact: Fact) -> anyhow::Result<()> {
    let run = &known.run;
    let now = chrono::Utc::now().timestamp_millis();
    let receipt = Receipt {
        run: run.clone(),
        at_ms: now.max(known.latest_ms.saturating_add(1)),
        fact,
    };
    let session = broker.connect("fleet-runs").await?;
    let publication = Publication::to_queue(names::LEDGER.to_owned(), receipt.to_message());
    let confirm = session.publisher.publish_and_wait(publication).await;
    session.close().await;
    match confirm {
        Ok(Confirm::Stored) => Ok(()),
        Ok(_) => bail!("the broker does not take the receipt: is the pipeline configured?"),
        Err(_) => bail!(
            "the connection was lost before the broker had confirmed; look (fleet runs show {run}) and decide again"
        ),
    }
}

impl Because {
    /// Who decides, and why.
    fn of(self) -> (String, String) {
        let who = || {
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            match host.trim() {
                "" => user(),
                host => format!("{}@{host}", user()),
            }
        };
        (self.who.unwrap_or_else(who), self.reason)
    }
}
