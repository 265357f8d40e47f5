use std::sync::{Arc, Mutex, PoisonError};

use batch::{BatchId, RunId};
use ledger::Ledger;
use tokio::sync::watch;

use crate::release_tracker::{Disposition, ReleaseTracker};

/// The ledger as this process knows it, shared by the gates of runs and the release of their batches.
///
/// Whether held batches are taken out of their queue (the intake) follows from what is behind the one lock, and is set
/// under it: so a batch that is held has either not missed a decision, or the decision opens the intake again.
#[derive(Clone)]
pub(crate) struct SharedLedger {
    state: Arc<Mutex<SharedState>>,
    intake: watch::Sender<bool>,
}

#[derive(Default)]
struct SharedState {
    /// Knows nothing while another process has the lease.
    tracker: ReleaseTracker,
    has_lease: bool,
    /// There is room where released batches go to.
    has_room: bool,
    /// Of what is held no batch was found, since the latest decision, whose run's fetching is not decided.
    may_release: bool,
}

impl SharedLedger {
    pub fn new() -> Self {
        Self {
            state: Arc::default(),
            intake: watch::Sender::new(false),
        }
    }

    /// Whether held batches are taken out of their queue.
    pub fn intake(&self) -> watch::Receiver<bool> {
        self.intake.subscribe()
    }

    /// This process has the lease from here on, and knows this. Held batches are taken out of their queue from the
    /// first [`Self::decided`] on, if there is room.
    pub fn begin(&self, ledger: Ledger) {
        self.change(|state| {
            *state = SharedState {
                tracker: ReleaseTracker::new(ledger),
                has_lease: true,
                ..SharedState::default()
            };
        });
    }

    /// It has the lease no longer.
    pub fn end(&self) {
        self.change(|state| *state = SharedState::default());
    }

    /// Looks at, or changes, what is known.
    pub fn with<T>(&self, look: impl FnOnce(&mut ReleaseTracker) -> T) -> T {
        self.change(|state| look(&mut state.tracker))
    }

    /// Whether batches in quarantine belong to a run that goes on by now; `false` without the lease.
    pub fn is_open(&self, run: &RunId) -> bool {
        self.with(|tracker| tracker.is_open(run))
    }

    /// A run was decided on: the held batches are looked at again.
    pub fn decided(&self) {
        self.change(|state| state.may_release = true);
    }

    /// While there is no room, nothing is taken out of the queue.
    pub fn set_room(&self, room: bool) {
        self.change(|state| {
            if room && !state.has_room {
                state.tracker.excuse();
            }
            state.has_room = room;
        });
    }

    /// What becomes of a held batch, by what is known now.
    pub fn disposition(&self, run: &RunId, batch: BatchId) -> Disposition {
        self.change(|state| {
            let disposition = if state.has_lease {
                state.tracker.disposition(run, batch)
            } else {
                Disposition::Hold
            };
            state.may_release &= disposition != Disposition::Hold;
            disposition
        })
    }

    /// As [`ReleaseTracker::released`].
    pub fn released(&self, run: &RunId, batch: BatchId) -> Option<u32> {
        self.with(|tracker| tracker.released(run, batch))
    }

    fn change<T>(&self, change: impl FnOnce(&mut SharedState) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut state);
        let open = state.has_lease && state.has_room && state.may_release;
        self.intake
            .send_if_modified(|intake| std::mem::replace(intake, open) != open);
        changed
    }
}
