use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use batch::{Command, Decision, Fact, Message, Order, Receipt, RunId, Stage};
use futures_util::FutureExt;
use ledger::{GateDecision, RunState, Started, evaluate_gates};
use pipeline::broker::StreamConsumer;
use pipeline::history::{self, Reopened};
use pipeline::{ConnectionLost, Leader, Program, now_ms, receipt};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior};

use crate::config::GateSettings;
use crate::release::Shared;
use crate::replay::replaying;
use crate::{ORDERS, RECEIPTS, RECORDS};

/// How often deadlines and the room for released batches are looked at.
const TICK: Duration = Duration::from_secs(1);
/// Receipts taken in before the runs that they are about are judged: bounds how long a decision waits for them.
const WAVE: usize = 5_000;
/// By how much an order ends before its gate gives it up, at most: for an exchange that is under way, and for clocks
/// that differ.
const MARGIN_MS: i64 = 120_000;

/// The judge at work: the one process that has the lease.
pub(crate) struct Judge<'a> {
    program: &'a Program,
    gates: &'a GateSettings,
    shared: &'a Shared,
    leader: Leader,
    /// Asks for batches of approved runs to be taken out of quarantine.
    replay: Arc<Notify>,
}

/// Why a judge stopped who was not told to.
type Cut = String;

impl<'a> Judge<'a> {
    pub fn new(
        program: &'a Program,
        gates: &'a GateSettings,
        shared: &'a Shared,
        leader: Leader,
    ) -> Self {
        Self {
            program,
            gates,
            shared,
            leader,
            replay: Arc::default(),
        }
    }

    pub async fn close(self) {
        self.leader.close().await;
    }

    /// Follows the ledger and judges until told to stop. `queues`: those that released batches go to, and the length
    /// above which there is no room in them.
    pub async fn run(
        &mut self,
        mut consumer: StreamConsumer,
        queues: (&[String], u64),
        holds: bool,
    ) -> Result<(), Cut> {
        let shutdown = self.program.app.shutdown.clone();
        let session = self.leader.session().clone();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let replaying = replaying(
            session.clone(),
            self.program.name().to_owned(),
            self.shared.clone(),
            self.replay.clone(),
        );
        let _replaying = holds.then(|| AbortOnDrop(tokio::spawn(replaying)));
        self.look_for_room(queues).await;
        self.begin().await?;
        self.shared.decided();
        loop {
            let mut dirty = BTreeSet::new();
            let begun;
            tokio::select! {
                biased;
                () = shutdown.triggered() => return Ok(()),
                cause = session.lost() => return Err(cause),
                _ = ticks.tick() => {
                    begun = Instant::now();
                    dirty = self.unfinished();
                    self.look_for_room(queues).await;
                }
                received = consumer.next() => {
                    begun = Instant::now();
                    let mut next = Some(received);
                    let mut taken = 0;
                    while let Some(received) = next {
                        let (offset, message) = received.map_err(|error| error.to_string())?;
                        self.take(offset, &message, &mut dirty);
                        taken += 1;
                        let more = taken < WAVE;
                        next = more.then(|| consumer.next().now_or_never()).flatten();
                    }
                }
            }
            self.reopen(&mut dirty).await?;
            for run in dirty {
                self.settle(&run).await.map_err(|ConnectionLost| lost())?;
            }
            let stats = &self.program.app.stats;
            stats.time("main_loop", &[], begun.elapsed());
        }
    }

    /// What an earlier judge did not come to, and what was decided since.
    async fn begin(&mut self) -> Result<(), Cut> {
        let mut dirty = self.unfinished();
        self.reopen(&mut dirty).await?;
        for run in dirty {
            self.settle(&run).await.map_err(|ConnectionLost| lost())?;
        }
        self.replay_if_approved();
        Ok(())
    }

    fn unfinished(&self) -> BTreeSet<RunId> {
        self.shared.with(|held| {
            let runs = held.ledger.runs();
            runs.map(|run| run.run().clone()).collect()
        })
    }

    fn take(&self, offset: u64, message: &Message, dirty: &mut BTreeSet<RunId>) {
        match Receipt::from_message(message) {
            Ok(receipt) => {
                self.shared
                    .with(|held| held.ledger.apply_at(offset, &receipt));
                if let Fact::OperatorDecided { .. } | Fact::Abandoned { .. } = receipt.fact {
                    self.shared.decided();
                    self.replay_if_approved();
                }
                dirty.insert(receipt.run);
            }
            Err(invalid) => {
                tracing::warn!(error = %invalid, "the ledger holds what is no receipt; passed over");
            }
        }
    }

    /// Makes every decision on the run that is due, orders what they allow, and records the run when it has ended.
    async fn settle(&mut self, run: &RunId) -> Result<(), ConnectionLost> {
        loop {
            let due = self.of(run, |state| self.due(state));
            let Some((due, operator_decisions)) = due.filter(|(due, _)| !due.is_empty()) else {
                break;
            };
            for gate_decision in due {
                self.pronounce(run, gate_decision, operator_decisions)
                    .await?;
            }
        }
        let shards = self.of(run, |state| {
            (state.shards_to_order(), state.operator_decisions())
        });
        if let Some((shards, operator_decisions)) = shards.filter(|(shards, _)| !shards.is_empty())
        {
            self.order(run, shards, operator_decisions).await?;
        }
        self.finish(run).await
    }

    fn of<T>(&self, run: &RunId, look: impl FnOnce(&RunState) -> T) -> Option<T> {
        self.shared.with(|held| held.ledger.run(run).map(look))
    }

    fn due(&self, state: &RunState) -> (Vec<GateDecision>, u32) {
        let pipeline = state.started().map_or("", |started| &started.pipeline);
        let rules = self.gates.of(pipeline);
        (
            evaluate_gates(state, &rules, now_ms()),
            state.operator_decisions(),
        )
    }

    /// Says a decision, once it is sure to be heard.
    async fn pronounce(
        &mut self,
        run: &RunId,
        gate_decision: GateDecision,
        operator_decisions: u32,
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
            operator_decisions,
        };
        self.say(run, fact).await?;
        let stats = &self.program.app.stats;
        stats.count("decisions", &[("decision", decision.as_str())], 1);
        match decision {
            Decision::Rejected => tracing::error!(%run, %stage, error = why, "rejected"),
            Decision::Passed | Decision::Skipped => tracing::info!(%run, %stage, %decision, why),
        }
        if stage == Stage::Fetch {
            self.shared.decided();
        }
        Ok(())
    }

    /// Publishes a receipt, and takes it in when it is stored. That it comes again by the ledger changes nothing.
    async fn say(&mut self, run: &RunId, fact: Fact) -> Result<(), ConnectionLost> {
        let receipt = receipt(run, fact);
        self.leader.send(RECEIPTS, receipt.to_message()).await?;
        self.leader.flush().await?;
        self.shared.with(|held| held.ledger.apply(&receipt));
        Ok(())
    }

    /// Orders first, then the receipt that says so: who dies in between leaves the next one to order again, which
    /// changes nothing for who has carried out an order already.
    async fn order(
        &mut self,
        run: &RunId,
        shards: Vec<u32>,
        operator_decisions: u32,
    ) -> Result<(), ConnectionLost> {
        let started = self.of(run, |state| state.started().cloned());
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
        self.say(
            run,
            Fact::Ordered {
                shards,
                operator_decisions,
            },
        )
        .await
    }

    /// When orders given now are too late: before the gate gives them up, so that none is carried out after it.
    fn expires_at_ms(&self, started: &Started) -> i64 {
        let of_run = started
            .run_plan
            .as_ref()
            .map(|run_plan| &run_plan.overrides);
        let rules = self.gates.of(&started.pipeline);
        let rules = rules.of_stage(&Stage::Dictionary, of_run.unwrap_or(&BTreeMap::new()));
        let deadline = rules.orders_deadline_ms;
        now_ms().saturating_add(deadline - (deadline / 10).min(MARGIN_MS))
    }

    /// Records the run when it has ended: from then on it is known by its record.
    async fn finish(&mut self, run: &RunId) -> Result<(), ConnectionLost> {
        let record = self.shared.with(|held| {
            let record = held.ledger.finish(run)?;
            held.forget(run);
            let started = held.ledger.record(run)?.progress.started.as_ref();
            let watermarks = started.and_then(|started| held.ledger.watermarks(&started.pipeline));
            Some((record, watermarks.unwrap_or_default()))
        });
        let Some((record, watermarks)) = record else {
            return Ok(());
        };
        self.leader.send(RECORDS, record.to_message()).await?;
        self.leader.flush().await?;
        self.shared.decided();
        let ends = || watermarks.values().copied();
        if let (Some(first), Some(last)) = (ends().min(), ends().max()) {
            let skew = (last - first) as f64 / 1000.0;
            let stats = &self.program.app.stats;
            stats.gauge("store-skew-seconds", &[], skew);
        }
        Ok(())
    }

    /// Opens ended runs that were decided on again: their receipts are read again.
    async fn reopen(&mut self, dirty: &mut BTreeSet<RunId>) -> Result<(), Cut> {
        let reopened = self
            .shared
            .with(|held| history::take_reopened(&mut held.ledger));
        let any = !reopened.is_empty();
        for Reopened { run, first_offset } in reopened {
            let read = history::read_run(&self.program.broker, &run, first_offset).await;
            let Some(state) = read.map_err(|error| error.to_string())? else {
                tracing::error!(%run, "the decision has no effect: the run's receipts are no longer on the ledger");
                continue;
            };
            let record = self.shared.with(|held| held.ledger.reopen(state));
            if let Some(record) = record {
                let sent = async {
                    self.leader.send(RECORDS, record.to_message()).await?;
                    self.leader.flush().await
                };
                sent.await.map_err(|ConnectionLost| lost())?;
            }
            tracing::info!(%run, "opened again by an operator's decision");
            dirty.insert(run);
        }
        if any {
            self.shared.decided();
            self.replay_if_approved();
        }
        Ok(())
    }

    /// The batches of a run that an operator closed the fetching of may be in quarantine.
    fn replay_if_approved(&self) {
        if self.shared.with(|held| held.has_approved()) {
            self.replay.notify_one();
        }
    }

    async fn look_for_room(&self, (queues, max_queue_len): (&[String], u64)) {
        let session = self.leader.session();
        let room = session.check_room(queues, max_queue_len).await;
        self.shared.set_room(room.is_ok());
        self.program.app.health.set("room", room);
    }
}

/// A task that ends with whoever began it.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn lost() -> Cut {
    ConnectionLost.to_string()
}
