use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use batch::Invalid;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::Intake;
use super::attempt::attempt;
use super::calls::{call_admit, call_process, check_limits};
use super::finish::finish;
use super::groups::{Groups, MessageGroup};
use crate::broker::{AckTracker, Acknowledgement, ConnectionLost, Delivery, Session, Subscription};
use crate::{BatchWorker, Job, Outcome, Program};

/// How long a message that is done may wait for those in front of it, and with them for one acknowledgement of all.
const ACK_DELAY: Duration = Duration::from_millis(50);
/// Deliveries without an acknowledgement that make a message a poison candidate: it may kill its worker. One or two
/// happen to every message in flight when a worker or the broker restarts.
const POISON_DELIVERIES: u32 = 3;

/// A message in flight, with its delivery tag.
struct Member<T> {
    tag: u64,
    job: Job,
    item: T,
}

type JobGroup<W> = MessageGroup<<W as BatchWorker>::Key, Member<<W as BatchWorker>::Item>>;

/// Consumes in one session.
pub(super) struct ConsumerLoop<'a, W: BatchWorker> {
    program: &'a Program,
    worker: &'a Arc<W>,
    session: &'a Session,
    subscription: Subscription,
    intake: Intake,
    acks: AckTracker,
    groups: Groups<W::Key, Member<W::Item>>,
    /// Full groups that wait for a free slot.
    ready: VecDeque<JobGroup<W>>,
    /// Groups of one poison candidate each: processed with nothing else in flight, so that a message that kills its
    /// worker takes as few others with it as can be.
    poison_candidates: Vec<JobGroup<W>>,
    slots: Arc<Semaphore>,
    slot_freed: Arc<Notify>,
    /// Tags of deliveries that are to be requeued.
    to_requeue: Vec<u64>,
    /// Whether anything was acknowledged.
    made_progress: bool,
    /// Each returns the tags of its messages once these are confirmed; `None` when the connection is lost first.
    /// Dropped, and so cancelled, with the loop.
    running: JoinSet<Option<Finished>>,
}

/// Tags of messages that are done, and of those that go back to their queue.
#[derive(Default)]
struct Finished {
    done: Vec<u64>,
    to_requeue: Vec<u64>,
}

/// Why a session's loop ended.
pub(super) enum SessionEnd {
    /// The program was stopped.
    Stopped,
    IntakePaused,
    ConnectionLost {
        /// Whether anything was acknowledged.
        made_progress: bool,
    },
}

impl<'a, W: BatchWorker> ConsumerLoop<'a, W> {
    pub fn new(
        program: &'a Program,
        worker: &'a Arc<W>,
        session: &'a Session,
        subscription: Subscription,
        intake: Intake,
    ) -> Self {
        Self {
            program,
            worker,
            session,
            subscription,
            intake,
            acks: AckTracker::new(),
            groups: Groups::new(worker.limits()),
            ready: VecDeque::new(),
            poison_candidates: Vec::new(),
            slots: Arc::new(Semaphore::new(program.options.concurrency)),
            slot_freed: Arc::new(Notify::new()),
            to_requeue: Vec::new(),
            made_progress: false,
            running: JoinSet::new(),
        }
    }

    /// Runs until the session is lost, the intake is paused or the program is stopped; in the last two cases to the end
    /// of what is in flight. A lost session ends the loop at once, also then, and cancels all jobs.
    pub async fn run(mut self) -> SessionEnd {
        let session = self.session;
        let end = tokio::select! {
            biased;
            _ = session.lost() => self.connection_lost(),
            end = self.consume() => end,
        };
        if matches!(end, SessionEnd::ConnectionLost { .. }) {
            return end;
        }
        let stopping = matches!(end, SessionEnd::Stopped);
        tokio::select! {
            _ = session.lost() => {}
            () = self.drain(stopping) => {}
        }
        end
    }

    async fn consume(&mut self) -> SessionEnd {
        let shutdown = self.program.app.shutdown.clone();
        let mut intake = self.intake.clone();
        let mut ack_ticks = tokio::time::interval(ACK_DELAY);
        loop {
            self.dispatch();
            let due = self.groups.due_at();
            tokio::select! {
                biased;
                () = shutdown.triggered() => return SessionEnd::Stopped,
                () = intake.becomes(false) => return SessionEnd::IntakePaused,
                Some(ended) = self.running.join_next() => {
                    self.collect(ended);
                    self.requeue();
                }
                delivery = self.subscription.deliveries.recv() => match delivery {
                    Some(delivery) => self.accept(delivery),
                    // The session is about to be lost.
                    None => return self.connection_lost(),
                },
                () = until(due) => {
                    let due = self.groups.due();
                    self.ready.extend(due);
                }
                () = self.slot_freed.notified() => {}
                _ = ack_ticks.tick() => {
                    self.acknowledge_all();
                    self.dispatch_poison_candidate();
                }
            }
        }
    }

    const fn connection_lost(&self) -> SessionEnd {
        SessionEnd::ConnectionLost {
            made_progress: self.made_progress,
        }
    }

    /// The order of stopping: intake, what has not begun, what is in flight, acknowledgements.
    async fn drain(mut self, stopping: bool) {
        let in_flight = self.running.len();
        tracing::info!(in_flight, "finishing what is in flight");
        self.subscription.cancel();
        self.requeue_waiting();
        // Other processes of the program may consume it at once. Behind a paused intake it keeps its order instead:
        // the broker delivers again in the order in which it was requeued.
        if stopping {
            self.requeue();
        }
        let deadline = Instant::now() + self.program.options.grace();
        while !self.running.is_empty() {
            match tokio::time::timeout_at(deadline, self.running.join_next()).await {
                Ok(Some(ended)) => self.collect(ended),
                Ok(None) => break,
                Err(_) => {
                    let in_flight = self.running.len();
                    tracing::warn!(in_flight, "time is up; what is in flight is requeued");
                    self.running.shutdown().await;
                }
            }
        }
        self.acknowledge_all();
        self.requeue();
        self.subscription.close().await;
    }

    /// Marks what has not begun.
    fn requeue_waiting(&mut self) {
        let mut groups = self.groups.take();
        groups.extend(self.ready.drain(..));
        groups.append(&mut self.poison_candidates);
        let members = groups.into_iter().flat_map(|group| group.members);
        self.to_requeue.extend(members.map(|member| member.tag));
    }

    fn requeue(&mut self) {
        self.to_requeue.sort_unstable();
        for tag in self.to_requeue.drain(..) {
            self.acks.requeued(tag);
            self.subscription
                .acknowledge(Acknowledgement::Requeue { tag });
        }
    }

    /// Takes a delivery in: into its group, among the poison candidates or, if it is refused, to quarantine.
    fn accept(&mut self, delivery: Delivery) {
        let Delivery {
            message,
            tag,
            delivery_count,
            ..
        } = delivery;
        self.acks.delivered(tag);
        let attempt = attempt(&message.headers, delivery_count);
        let counts = self.intake.counts_deliveries();
        let counted = if counts { delivery_count } else { 0 };
        let admitted = check_limits(&self.program.options, &message, counted)
            .and_then(|()| call_admit(&**self.worker, &message));
        let publisher = self.session.publisher.clone();
        let job = Job::new(message, attempt, self.program, publisher);
        match admitted {
            Ok((key, _, item)) if counted >= POISON_DELIVERIES => {
                tracing::warn!(
                    delivery_count,
                    attempt,
                    "this message was left unacknowledged before; processing it alone"
                );
                let group = MessageGroup::new(key, vec![Member { tag, job, item }]);
                self.poison_candidates.push(group);
            }
            Ok((key, weight, item)) => {
                let full = self.groups.add(key, weight, Member { tag, job, item });
                self.ready.extend(full);
            }
            Err(invalid) => self.refuse(tag, job, invalid),
        }
    }

    /// Quarantines what cannot be read; it takes no slot.
    fn refuse(&mut self, tag: u64, mut job: Job, invalid: Invalid) {
        let worker = self.worker.clone();
        self.running.spawn(async move {
            finish(&*worker, &mut job, invalid.into()).await.ok()?;
            Some(Finished {
                done: vec![tag],
                ..Finished::default()
            })
        });
    }

    /// Begins as many groups as there are slots for; none while there are poison candidates.
    fn dispatch(&mut self) {
        while self.poison_candidates.is_empty() && !self.ready.is_empty() {
            let Ok(slot) = self.slots.clone().try_acquire_owned() else {
                return;
            };
            if let Some(group) = self.ready.pop_front() {
                self.begin(group, slot);
            }
        }
    }

    /// Begins one poison candidate, alone: with all slots, and not before what was in flight is acknowledged, which
    /// would be delivered again otherwise if the candidate kills its worker. Called at intervals, so that the
    /// candidates of one prefetch come together first.
    fn dispatch_poison_candidate(&mut self) {
        if self.poison_candidates.is_empty() || !self.running.is_empty() {
            return;
        }
        let all = self.program.options.concurrency as u32;
        let Ok(slots) = self.slots.clone().try_acquire_many_owned(all) else {
            return;
        };
        // In no order that repeats: a killer in front would take the others with it each time.
        let random = RandomState::new().build_hasher().finish() as usize;
        let chosen = random % self.poison_candidates.len();
        let candidate = self.poison_candidates.swap_remove(chosen);
        self.begin(candidate, slots);
    }

    fn begin(&mut self, group: JobGroup<W>, slot: OwnedSemaphorePermit) {
        let (worker, stats) = (self.worker.clone(), self.program.app.stats.clone());
        let freed = self.slot_freed.clone();
        self.running.spawn(async move {
            let members = group.members.into_iter();
            let (tags, mut members): (Vec<u64>, Vec<_>) =
                members.map(|m| (m.tag, (m.job, m.item))).unzip();
            let started = Instant::now();
            let outcomes = process(&*worker, group.key, &mut members).await;
            stats.time("main_loop", &[], started.elapsed());
            drop(slot);
            freed.notify_one();
            let mut finished = Finished::default();
            for (((job, _), tag), outcome) in members.iter_mut().zip(tags).zip(outcomes.ok()?) {
                let tags = if matches!(outcome, Outcome::Requeue { .. }) {
                    &mut finished.to_requeue
                } else {
                    &mut finished.done
                };
                tags.push(tag);
                finish(&*worker, job, outcome).await.ok()?;
            }
            Some(finished)
        });
    }

    /// Takes in what has ended, and acknowledges what is done in order.
    fn collect(&mut self, ended: Result<Option<Finished>, JoinError>) {
        let mut next = Some(ended);
        while let Some(ended) = next {
            match ended {
                Ok(Some(Finished { done, to_requeue })) => {
                    done.into_iter().for_each(|tag| self.acks.done(tag));
                    self.to_requeue.extend(to_requeue);
                }
                // The session is over, or the program is: its messages are delivered again.
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(
                        %error,
                        "a task of the worker loop ended abnormally; its messages are delivered again"
                    );
                }
            }
            next = self.running.try_join_next();
        }
        if let Some(acknowledgement) = self.acks.front() {
            self.made_progress = true;
            self.subscription.acknowledge(acknowledgement);
        }
    }

    fn acknowledge_all(&mut self) {
        for acknowledgement in self.acks.all() {
            self.made_progress = true;
            self.subscription.acknowledge(acknowledgement);
        }
    }
}

/// Processes a group, for as long as each of its jobs can send.
async fn process<W: BatchWorker>(
    worker: &W,
    key: W::Key,
    members: &mut [(Job, W::Item)],
) -> Result<Vec<Outcome>, ConnectionLost> {
    let abandoned = Arc::new(Notify::new());
    for (job, _) in members.iter_mut() {
        job.abandon_through(&abandoned);
    }
    tokio::select! {
        biased;
        outcomes = call_process(worker, key, members) => Ok(outcomes),
        () = abandoned.notified() => Err(ConnectionLost),
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
