use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use batch::{Command, Decision, Fact, Message, Order, Receipt, RunId, Stage, Started};
use futures_util::FutureExt;
use ledger::{GateDecision, RunState, evaluate_gates};
use pipeline::broker::{StreamConsumer, StreamMessage};
use pipeline::history::{self, ReopenedRun};
use pipeline::{ConnectionLost, Leader, ORDERS, Program, RECEIPTS, now_ms, receipt};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::task::AbortOnDropHandle;

use crate::config::{GateSettings, PersisterSettings};
use crate::replay::replay_approved;
use crate::shared_ledger::SharedLedger;
use crate::{PersisterInputs, RECORDS};

/// How often deadlines and the room for released batches are checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Receipts taken in before the gates of their runs are evaluated: bounds how long a decision waits for them.
const MAX_RECEIPTS_AT_ONCE: usize = 5_000;
/// By how much an order expires before its gate gives it up, at most: for an exchange of dictionaries that has begun,
/// and for clocks that differ.
const MARGIN_MS: i64 = 120_000;

/// Decides on runs by their gates, orders what a passed stage allows, and records runs that have ended: in the one
/// process that has the lease.
pub(crate) struct GateController<'a> {
    pub program: &'a Program,
    pub inputs: &'a PersisterInputs,
    pub gates: &'a GateSettings,
    pub settings: &'a PersisterSettings,
    pub ledger: &'a SharedLedger,
    pub leader: Leader,
    /// Asks for batches of approved runs to be taken out of quarantine.
    pub replay: Arc<Notify>,
}

impl GateController<'_> {
    /// Follows the ledger and decides until the program is stopped.
    pub async fn run(&mut self, mut consumer: StreamConsumer) -> anyhow::Result<()> {
        let shutdown = self.program.app.shutdown.clone();
        let session = self.leader.session().clone();
        let mut ticks = tokio::time::interval(CHECK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let _replay = self.inputs.holds.then(|| {
            let program = self.program.name().to_owned();
            let (ledger, asked) = (self.ledger.clone(), self.replay.clone());
            let replay = replay_approved(session.clone(), program, ledger, asked);
            AbortOnDropHandle::new(tokio::spawn(replay))
        });
        self.check_room().await;
        // What the process before this one did not get to, and what was decided since.
        self.evaluate_all(self.unfinished()).await?;
        self.replay_if_approved();
        self.ledger.decided();
        loop {
            let mut next = tokio::select! {
                biased;
                () = shutdown.triggered() => return Ok(()),
                cause = session.lost() => return Err(anyhow::Error::msg(cause)),
                _ = ticks.tick() => None,
                received = consumer.next() => Some(received),
            };
            let begun = Instant::now();
            let mut changed = BTreeSet::new();
            if next.is_none() {
                changed = self.unfinished();
                self.check_room().await;
            }
            let mut taken = 0;
            while let Some(received) = next {
                let StreamMessage { offset, message } = received?;
                self.take(offset, &message, &mut changed);
                taken += 1;
                let more = taken < MAX_RECEIPTS_AT_ONCE;
                next = more.then(|| consumer.next().now_or_never()).flatten();
            }
            self.evaluate_all(changed).await?;
            let stats = &self.program.app.stats;
            stats.time("main_loop", &[], begun.elapsed());
        }
    }

    async fn evaluate_all(&mut self, mut changed: BTreeSet<RunId>) -> anyhow::Result<()> {
        self.reopen(&mut changed).await?;
        for run in changed {
            self.evaluate(&run).await?;
        }
        Ok(())
    }

    fn unfinished(&self) -> BTreeSet<RunId> {
        self.ledger.with(|tracker| {
            let runs = tracker.ledger.runs();
            runs.map(|run| run.run().clone()).collect()
        })
    }

    fn take(&self, offset: u64, message: &Message, changed: &mut BTreeSet<RunId>) {
        let receipt = match Receipt::from_message(message) {
            Ok(receipt) => receipt,
            Err(invalid) => {
                return tracing::warn!(
                    error = %invalid,
                    "a message of the ledger is not a receipt of this release; passed over"
                );
            }
        };
        self.ledger
            .with(|tracker| tracker.ledger.apply_at(offset, &receipt));
        if let Fact::OperatorDecided { .. } | Fact::Abandoned { .. } = receipt.fact {
            self.ledger.decided();
            self.replay_if_approved();
        }
        changed.insert(receipt.run);
    }

    /// Publishes every decision on the run that is due, orders what they allow, and records the run when it has ended.
    async fn evaluate(&mut self, run: &RunId) -> Result<(), ConnectionLost> {
        loop {
            let due = self.with_run(run, |state| {
                let pipeline = state.started().map_or("", |started| &started.pipeline);
                let rules = self.gates.for_pipeline(pipeline);
                evaluate_gates(state, &rules, now_ms())
            });
            let Some(due) = due.filter(|due| !due.is_empty()) else {
                break;
            };
            for gate_decision in due {
                self.publish_decision(run, gate_decision).await?;
            }
        }
        let shards = self.with_run(run, RunState::shards_to_order);
        if let Some(shards) = shards.filter(|shards| !shards.is_empty()) {
            self.order(run, shards).await?;
        }
        self.finish(run).await
    }

    fn with_run<T>(&self, run: &RunId, ask: impl FnOnce(&RunState) -> T) -> Option<T> {
        self.ledger.with(|tracker| tracker.ledger.run(run).map(ask))
    }

    /// What a receipt of a decision or an order has to name. Only this task takes receipts in, so these are the
    /// operators' decisions that the gates knew.
    fn operator_decisions(&self, run: &RunId) -> u32 {
        self.with_run(run, RunState::operator_decisions)
            .unwrap_or_default()
    }

    async fn publish_decision(
        &mut self,
        run: &RunId,
        gate_decision: GateDecision,
    ) -> Result<(), ConnectionLost> {
        let GateDecision {
            stage,
            decision,
            why,
        } = gate_decision;
        let fact = Fact::GateDecided {
            stage: stage.clone(),
            decision,
            why: why.clone(),
            operator_decisions: self.operator_decisions(run),
        };
        self.publish_receipt(run, fact).await?;
        let stats = &self.program.app.stats;
        stats.count("gate-decisions", &[("decision", decision.as_str())], 1);
        match decision {
            Decision::Rejected => tracing::error!(%run, %stage, error = why, "rejected"),
            Decision::Passed | Decision::Skipped => tracing::info!(%run, %stage, %decision, why),
        }
        if stage == Stage::Fetch {
            self.ledger.decided();
        }
        Ok(())
    }

    /// Publishes a receipt, and takes it in when it is stored: nothing may follow from it before. When it comes again
    /// by the ledger, that changes nothing.
    async fn publish_receipt(&mut self, run: &RunId, fact: Fact) -> Result<(), ConnectionLost> {
        let receipt = receipt(run, fact);
        self.leader.send(RECEIPTS, receipt.to_message()).await?;
        self.leader.flush().await?;
        self.ledger.with(|tracker| tracker.ledger.apply(&receipt));
        Ok(())
    }

    /// Orders first, then their receipt: after a crash in between the next process orders again, and an order that was
    /// processed already changes nothing.
    async fn order(&mut self, run: &RunId, shards: Vec<u32>) -> Result<(), ConnectionLost> {
        let started = self.with_run(run, |state| state.started().cloned());
        let Some(started) = started.flatten() else {
            return Ok(());
        };
        let (version, expires_at_ms) = (started.until_ms, self.expires_at_ms(&started));
        for &shard in &shards {
            let order = Order {
                run: run.clone(),
                version,
                expires_at_ms,
                shard,
                command: Command::RefreshDictionary,
            };
            self.leader.send(ORDERS, order.to_message()).await?;
        }
        self.leader.flush().await?;
        tracing::info!(%run, ?shards, "dictionaries ordered");
        let operator_decisions = self.operator_decisions(run);
        let fact = Fact::Ordered {
            shards,
            operator_decisions,
        };
        self.publish_receipt(run, fact).await
    }

    /// When orders given now are too late: before the gate gives them up, so that none is processed after it.
    fn expires_at_ms(&self, started: &Started) -> i64 {
        let plan = started.run_plan.as_ref();
        let overrides = plan.map_or(const { &BTreeMap::new() }, |plan| &plan.overrides);
        let rules = self.gates.for_pipeline(&started.pipeline);
        let rules = rules.for_stage(&Stage::Dictionary, overrides);
        let deadline = rules.orders_deadline_ms;
        now_ms().saturating_add(deadline - (deadline / 10).min(MARGIN_MS))
    }

    /// Records the run when it has ended: from then on it is known by its record.
    async fn finish(&mut self, run: &RunId) -> Result<(), ConnectionLost> {
        let record = self.ledger.with(|tracker| {
            let record = tracker.ledger.finish(run)?;
            tracker.forget(run);
            let started = tracker.ledger.record(run)?.progress.started.as_ref();
            let watermarks =
                started.and_then(|started| tracker.ledger.watermarks(&started.pipeline));
            Some((record, watermarks.unwrap_or_default()))
        });
        let Some((record, watermarks)) = record else {
            return Ok(());
        };
        self.leader.send(RECORDS, record.to_message()).await?;
        self.leader.flush().await?;
        self.ledger.decided();
        let ends = || watermarks.values().copied();
        if let (Some(first), Some(last)) = (ends().min(), ends().max()) {
            let skew = (last - first) as f64 / 1000.0;
            let stats = &self.program.app.stats;
            stats.gauge("store-skew-seconds", &[], skew);
        }
        Ok(())
    }

    /// Opens ended runs that an operator decided on: their receipts are read again.
    async fn reopen(&mut self, changed: &mut BTreeSet<RunId>) -> anyhow::Result<()> {
        let reopened = self.ledger.with(|tracker| tracker.ledger.take_reopened());
        if reopened.is_empty() {
            return Ok(());
        }
        let reopened = history::read_reopened(&self.program.broker, reopened).await?;
        for ReopenedRun { run, state } in reopened {
            let Some(state) = state else {
                tracing::error!(%run, "the decision has no effect: the run's receipts are no longer on the ledger");
                continue;
            };
            let record = self.ledger.with(|tracker| tracker.ledger.reopen(state));
            if let Some(record) = record {
                self.leader.send(RECORDS, record.to_message()).await?;
                self.leader.flush().await?;
            }
            tracing::info!(%run, "opened again by an operator's decision");
            changed.insert(run);
        }
        self.ledger.decided();
        self.replay_if_approved();
        Ok(())
    }

    /// The batches of a run whose fetching an operator passed may be in quarantine.
    fn replay_if_approved(&self) {
        if self.ledger.with(|tracker| tracker.has_approved()) {
            self.replay.notify_one();
        }
    }

    /// Whether the queues that released batches go to have room.
    async fn check_room(&self) {
        let queues = &self.inputs.release_queues;
        let session = self.leader.session();
        let room = session
            .check_room(queues, self.settings.max_queue_len)
            .await;
        self.ledger.set_room(room.is_ok());
        self.program.app.health.set("room", room);
    }
}
