use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use batch::{Invalid, Message, Reason, header};
use futures_util::FutureExt;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Intake;
use super::finish::finish;
use super::groups::{Group, Groups};
use crate::broker::{AckBook, Acknowledgement, Delivery, Session, Subscription};
use crate::job::{Job, Lost};
use crate::{BatchWorker, Outcome, Program, Weight};

/// How long a completion behind a gap may wait for the gap to close, and with it one acknowledgement for both.
const GAP: Duration = Duration::from_millis(50);
/// Deliveries without an answer that make a message suspect of killing its worker. One or two
/// happen to every message in hand when a worker or the broker restarts.
const SUSPECT: u32 = 3;

/// A message in hand, with its delivery tag.
struct Member<T> {
    tag: u64,
    job: Job,
    item: T,
}

type Gathered<W> = Group<<W as BatchWorker>::Key, Member<<W as BatchWorker>::Item>>;

/// One session at work.
pub(super) struct Serving<'a, W: BatchWorker> {
    program: &'a Program,
    worker: &'a Arc<W>,
    session: &'a Session,
    subscription: Subscription,
    book: AckBook,
    groups: Groups<W::Key, Member<W::Item>>,
    /// Full groups that wait for a free slot.
    ready: VecDeque<Gathered<W>>,
    /// Groups of one suspect each: processed with nothing else in work, so that a message that kills its
    /// worker takes as few others with it as can be.
    suspects: Vec<Gathered<W>>,
    slots: Arc<Semaphore>,
    slot_freed: Arc<Notify>,
    /// Tags of what is to go back to the queue.
    going_back: Vec<u64>,
    /// Whether anything was acknowledged.
    fruitful: bool,
    /// Whether messages are taken in; shut, the session is ended as for a stop.
    intake: Intake,
    /// Each answers with the tags of its messages once these are confirmed.
    running: JoinSet<Result<Finished, Lost>>,
}

/// Tags of messages that are done with, and of those that go back to their queue.
#[derive(Default)]
struct Finished {
    done: Vec<u64>,
    returned: Vec<u64>,
}

/// How a session's serving ended.
pub(super) struct Served {
    /// Whether anything was acknowledged.
    pub fruitful: bool,
    /// The intake was shut.
    pub shut: bool,
}

impl<'a, W: BatchWorker> Serving<'a, W> {
    pub fn new(
        program: &'a Program,
        worker: &'a Arc<W>,
        session: &'a Session,
        subscription: Subscription,
        intake: Intake,
    ) -> Self {
        Self {
            intake,
            program,
            worker,
            session,
            subscription,
            book: AckBook::new(),
            groups: Groups::new(worker.limits()),
            ready: VecDeque::new(),
            suspects: Vec::new(),
            slots: Arc::new(Semaphore::new(program.options.concurrency)),
            slot_freed: Arc::new(Notify::new()),
            going_back: Vec::new(),
            fruitful: false,
            running: JoinSet::new(),
        }
    }

    /// Serves until the session is lost, the intake is shut or the program is told to stop, and in these cases to the
    /// end of what is in work. The order of stopping: intake, what has not begun, what is in work, acknowledgements.
    pub async fn run(mut self) -> Served {
        let mut intake = self.intake.clone();
        let mut gaps = tokio::time::interval(GAP);
        let session = self.session.clone();
        let lost = std::pin::pin!(session.lost());
        let mut lost = lost.fuse();
        let shut = loop {
            self.dispatch();
            let due = self.groups.due_at();
            tokio::select! {
                biased;
                _ = &mut lost => return self.lost(),
                () = self.program.app.shutdown.triggered() => break false,
                () = intake.is(false) => break true,
                Some(done) = self.running.join_next() => {
                    self.ended(done);
                    self.give_back();
                }
                delivery = self.subscription.deliveries.recv() => match delivery {
                    Some(delivery) => self.admit(delivery),
                    // The session is lost, and about to say so.
                    None => return self.lost(),
                },
                () = until(due) => {
                    let due = self.groups.due();
                    self.ready.extend(due);
                }
                () = self.slot_freed.notified() => {}
                _ = gaps.tick() => {
                    self.acknowledge_all();
                    self.dispatch_suspect();
                }
            }
        };
        tokio::select! {
            _ = &mut lost => {}
            () = self.drain(shut) => {}
        }
        Served {
            fruitful: true,
            shut,
        }
    }

    fn lost(&self) -> Served {
        Served {
            fruitful: self.fruitful,
            shut: false,
        }
    }

    async fn drain(mut self, shut: bool) {
        tracing::info!(
            in_work = self.running.len(),
            "stopping: finishing what is in work"
        );
        self.subscription.cancel();
        self.put_back_waiting();
        // Others of the program may go on with it at once. Behind a shut intake it keeps its order instead: the
        // broker gives out again in the order in which it was given back.
        if !shut {
            self.give_back();
        }
        let deadline = Instant::now() + self.program.options.grace();
        while !self.running.is_empty() {
            match tokio::time::timeout_at(deadline, self.running.join_next()).await {
                Ok(Some(done)) => self.ended(done),
                Ok(None) => break,
                Err(_) => {
                    tracing::warn!(
                        in_work = self.running.len(),
                        "time is up; what is in work goes back to the queue"
                    );
                    self.running.shutdown().await;
                }
            }
        }
        self.acknowledge_all();
        self.give_back();
        self.subscription.close().await;
    }

    fn put_back_waiting(&mut self) {
        let groups = self
            .groups
            .take()
            .into_iter()
            .chain(self.ready.drain(..))
            .chain(self.suspects.drain(..));
        let members = groups.flat_map(|group| group.members);
        self.going_back.extend(members.map(|member| member.tag));
    }

    fn give_back(&mut self) {
        self.going_back.sort_unstable();
        for tag in self.going_back.drain(..) {
            self.book.given_back(tag);
            self.subscription.answer(Acknowledgement::GiveBack { tag });
        }
    }

    fn admit(&mut self, delivery: Delivery) {
        let Delivery {
            message,
            tag,
            delivery_count,
            ..
        } = delivery;
        self.book.delivered(tag);
        let tries = message.headers.count(header::TRIES).unwrap_or(0);
        let attempt = tries.saturating_add(delivery_count).saturating_add(1);
        let counted = self.intake.counts_deliveries();
        let suspicion = if counted { delivery_count } else { 0 };
        let checked =
            check(self.program, &message, suspicion).and_then(|()| admit(&**self.worker, &message));
        let job = Job::new(
            message,
            attempt,
            self.program.clone(),
            self.session.publisher.clone(),
        );
        match checked {
            Ok((key, _, item)) if suspicion >= SUSPECT => {
                tracing::warn!(
                    delivery_count,
                    attempt,
                    "this message was given up by its workers before; processing it alone"
                );
                let group = Group::of_one(key, Member { tag, job, item });
                self.suspects.push(group);
            }
            Ok((key, weight, item)) => {
                let full = self.groups.add(key, weight, Member { tag, job, item });
                self.ready.extend(full);
            }
            Err(invalid) => self.refuse(tag, job, invalid),
        }
    }

    /// What cannot be read takes no slot: it only has to be put away.
    fn refuse(&mut self, tag: u64, mut job: Job, invalid: Invalid) {
        let (worker, program) = (self.worker.clone(), self.program.clone());
        self.running.spawn(async move {
            finish(&*worker, &program, &mut job, Outcome::Quarantine(invalid)).await?;
            Ok(Finished {
                done: vec![tag],
                ..Finished::default()
            })
        });
    }

    /// Begins as many groups as there are slots for; none while there are suspects.
    fn dispatch(&mut self) {
        while self.suspects.is_empty() && !self.ready.is_empty() {
            let Ok(slot) = self.slots.clone().try_acquire_owned() else {
                return;
            };
            if let Some(group) = self.ready.pop_front() {
                self.begin(group, slot);
            }
        }
    }

    /// Begins one suspect, alone: with all slots, and not before what was in work is acknowledged, lest it share
    /// a killer's fate. Called at intervals, so that the suspects of one prefetch come together first.
    fn dispatch_suspect(&mut self) {
        if self.suspects.is_empty() || !self.running.is_empty() {
            return;
        }
        let all = self.program.options.concurrency as u32;
        let Ok(slots) = self.slots.clone().try_acquire_many_owned(all) else {
            return;
        };
        // In no order that repeats: a killer in front would take the others with it each time.
        let random = std::hash::RandomState::new().hash_one(self.book.in_work().next());
        let suspect = self
            .suspects
            .swap_remove(random as usize % self.suspects.len());
        self.begin(suspect, slots);
    }

    fn begin(&mut self, group: Gathered<W>, slot: OwnedSemaphorePermit) {
        let (worker, program) = (self.worker.clone(), self.program.clone());
        let freed = self.slot_freed.clone();
        let abandoned = Arc::new(Notify::new());
        self.running.spawn(async move {
            let (tags, mut members): (Vec<u64>, Vec<_>) = group
                .members
                .into_iter()
                .map(|mut m| {
                    m.job.abandon_through(&abandoned);
                    (m.tag, (m.job, m.item))
                })
                .unzip();
            let started = Instant::now();
            let processed = tokio::select! {
                biased;
                outcomes = process(&*worker, group.key, &mut members) => Ok(outcomes),
                () = abandoned.notified() => Err(Lost),
            };
            program.app.stats.time("main_loop", &[], started.elapsed());
            drop(slot);
            freed.notify_one();
            let mut finished = Finished::default();
            for (((job, _), tag), outcome) in members.iter_mut().zip(tags).zip(processed?) {
                let tags = match outcome {
                    Outcome::Return { .. } => &mut finished.returned,
                    _ => &mut finished.done,
                };
                tags.push(tag);
                finish(&*worker, &program, job, outcome).await?;
            }
            Ok(finished)
        });
    }

    fn ended(&mut self, done: Result<Result<Finished, Lost>, tokio::task::JoinError>) {
        let mut ended = Some(done);
        while let Some(done) = ended {
            match done {
                Ok(Ok(Finished { done, returned })) => {
                    done.into_iter().for_each(|tag| self.book.done(tag));
                    self.going_back.extend(returned);
                }
                // The session is over, or the program is: its messages come again.
                Ok(Err(Lost)) => {}
                Err(error) => {
                    tracing::error!(%error, "a task of the worker loop ended abnormally; its messages come again")
                }
            }
            ended = self.running.try_join_next();
        }
        if let Some(answer) = self.book.front() {
            self.fruitful = true;
            self.subscription.answer(answer);
        }
    }

    fn acknowledge_all(&mut self) {
        for answer in self.book.all() {
            self.fruitful = true;
            self.subscription.answer(answer);
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn check(program: &Program, message: &Message, delivery_count: u32) -> Result<(), Invalid> {
    if delivery_count >= program.options.max_deliveries {
        return Err(Invalid::new(
            Reason::DeliveryLimit,
            format!(
                "delivered {delivery_count} times without an answer: it probably kills its worker"
            ),
        ));
    }
    let limits = [
        ("body", message.body.len(), program.options.max_body_bytes),
        (
            "headers",
            message.headers.size(),
            program.options.max_header_bytes,
        ),
    ];
    for (part, size, limit) in limits {
        if size > limit {
            return Err(Invalid::new(
                Reason::Oversized,
                format!("the message's {part} have {size} bytes; at most {limit} are accepted"),
            ));
        }
    }
    Ok(())
}

/// The role's own look at a message. A panic in it is the fault of this message, not of the program.
fn admit<W: BatchWorker>(
    worker: &W,
    message: &Message,
) -> Result<(W::Key, Weight, W::Item), Invalid> {
    let admitted = std::panic::catch_unwind(AssertUnwindSafe(|| worker.admit(message)));
    admitted.unwrap_or_else(|panic| {
        let what = format!("looking at it panicked: {}", text_of(&*panic));
        Err(Invalid::new(Reason::NotReadable, what))
    })
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_default()
}

/// The role's own processing. A panic in it is a failure of these messages, not of the program.
async fn process<W: BatchWorker>(
    worker: &W,
    key: W::Key,
    members: &mut [(Job, W::Item)],
) -> Vec<Outcome> {
    let count = members.len();
    match AssertUnwindSafe(worker.process(key, members))
        .catch_unwind()
        .await
    {
        Ok(outcomes) if outcomes.len() == count => outcomes,
        Ok(outcomes) => {
            let error = format!(
                "the role answered for {} messages of {count}",
                outcomes.len()
            );
            vec![Outcome::retry(error, "worker"); count]
        }
        Err(panic) => {
            let error = format!("the role panicked: {}", text_of(&*panic));
            vec![Outcome::retry(error, "worker"); count]
        }
    }
}
