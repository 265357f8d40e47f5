use anyhow::bail;
use batch::{Decision, Fact, Receipt, RunId, Stage};
use ledger::{Ledger, Progress, RunStatus, StageStatus};
use pipeline::broker::{Broker, Confirm, Publication};
use pipeline::{history, names, now_ms};
use serde_json::json;

use super::{Attribution, DecideArguments, find_run, read_ledger};
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
        attribution,
    } = arguments;
    let ledger = read_ledger(broker).await?;
    let progress = find_run(&ledger, &run)?;
    check_stage(&progress, &stage, decision)?;
    check_receipts(broker, &ledger, &run).await?;
    let (who, why) = (attribution.who(), attribution.reason);
    let answer =
        json!({ "run": run, "stage": stage, "decision": decision, "who": who, "why": why });
    let mut text = format!(
        "Stage {stage} of run {run}: {decision} by {who}. Follow it: fleet runs show {run} --watch\n"
    );
    for warning in warnings(&progress, &stage, decision) {
        text += &format!("{}\n", output.paint(Tone::Warning, warning));
    }
    let fact = Fact::OperatorDecided {
        stage,
        decision,
        who,
        why,
    };
    publish(broker, &progress, fact).await?;
    output.answer(&answer, text)?;
    Ok(Exit::Ok)
}

/// Refuses a decision that would change nothing.
fn check_stage(progress: &Progress, stage: &Stage, decision: Decision) -> anyhow::Result<()> {
    let run = &progress.run;
    let stages: Vec<&str> = progress.stages.iter().map(|s| s.stage.as_str()).collect();
    if stages.is_empty() {
        bail!(
            "run {run} has no gates: its pipeline has no persister, so there is nothing to decide"
        );
    }
    if !stages.contains(&stage.as_str()) {
        let (stage, stages) = (stage.as_str(), stages.join(", "));
        bail!("run {run} has no stage {stage:?}; its stages are {stages}");
    }
    if progress.status == RunStatus::Abandoned {
        bail!("run {run} was abandoned: the next run includes what it did not");
    }
    if *stage == Stage::Plan && decision == Decision::Passed && progress.tasks_planned.is_none() {
        bail!(
            "run {run} has no manifest: how many tasks there are is not known, and it can only be abandoned"
        );
    }
    Ok(())
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
            "{unread} of {planned} tasks are not fetched: the next run begins before this one, and includes what they leave out."
        ));
    }
    let run_plan = run.started.as_ref().and_then(|s| s.run_plan.as_ref());
    let before = run_plan.map_or_else(Vec::new, |run_plan| run_plan.before(stage));
    let blocking = before.iter().find_map(|earlier| {
        let earlier = run.stages.iter().find(|known| known.stage == *earlier)?;
        matches!(earlier.status, StageStatus::Rejected | StageStatus::Skipped).then_some(earlier)
    });
    if let Some(earlier) = blocking {
        warnings.push(format!(
            "Nothing follows while {}, which it builds on, is {}: approve that.",
            earlier.stage, earlier.status
        ));
    }
    warnings
}

pub async fn abandon(
    broker: &Broker,
    run: RunId,
    attribution: Attribution,
    output: Output,
) -> anyhow::Result<Exit> {
    let ledger = read_ledger(broker).await?;
    let progress = find_run(&ledger, &run)?;
    if !progress.status.is_unfinished() {
        let status = progress.status;
        bail!("run {run} is {status}: only an unfinished run can be abandoned");
    }
    let (who, why) = (attribution.who(), attribution.reason);
    let answer = json!({ "run": run, "status": "abandoned", "who": who, "why": why });
    let text = format!("Run {run}: abandoned by {who}.");
    publish(broker, &progress, Fact::Abandoned { who, why }).await?;
    output.answer(&answer, text)?;
    Ok(Exit::Ok)
}

/// Refuses to decide on an ended run whose receipts are cut off: nothing would come of it.
async fn check_receipts(broker: &Broker, ledger: &Ledger, run: &RunId) -> anyhow::Result<()> {
    if let Some(ended) = ledger.record(run)
        && history::read_run(broker, run, ended.first_offset)
            .await?
            .is_none()
    {
        bail!(
            "the receipts of run {run} are no longer on the ledger (pipeline.ledger_max_age_days): begin a run with --full instead"
        );
    }
    Ok(())
}

/// Publishes a receipt, up to the confirm. Decisions count in the order of their times: this one comes after all that
/// is known of the run, whatever the clock here shows.
async fn publish(broker: &Broker, progress: &Progress, fact: Fact) -> anyhow::Result<()> {
    let run = &progress.run;
    let receipt = Receipt {
        run: run.clone(),
        at_ms: now_ms().max(progress.latest_ms.saturating_add(1)),
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
            "the connection was lost before the broker had confirmed; check with fleet runs show {run} and decide again"
        ),
    }
}

impl Attribution {
    fn who(&self) -> String {
        self.who
            .clone()
            .unwrap_or_else(|| format!("{}@{}", user(), app::host_name()))
    }
}
