use std::sync::{Arc, Mutex, PoisonError};

use batch::{BatchId, RunId};
use ledger::Ledger;
use tokio::sync::watch;

use crate::release_tracker::{Disposition, ReleaseTracker};

/// The ledger as this process knows it, shared by the gates of runs and the release of their batches.
///
/// Whether held batches are taken out of their queue (the intake) follows from what is behind the one lock, and is set
/// under it: so a batch that is held has either not missed a decision, or the decision opens the intake again.
#[derive(Clone, Default)]
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
    /// Since the latest decision no held batch was found whose run's stage `fetch` is not decided.
    may_release: bool,
}

impl SharedLedger {
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

    /// Reads or changes what is known.
    pub fn with<T>(&self, ask: impl FnOnce(&mut ReleaseTracker) -> T) -> T {
        self.change(|state| ask(&mut state.tracker))
    }

    /// A run was decided on: the held batches are taken out of their queue again.
    pub fn decided(&self) {
        self.change(|state| state.may_release = true);
    }

    /// While there is no room, nothing is taken out of the queue.
    pub fn set_room(&self, room: bool) {
        self.change(|state| {
            if room && !state.has_room {
                state.tracker.restart_stuck_timer();
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

    fn change<T>(&self, change: impl FnOnce(&mut SharedState) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut state);
        let open = state.has_lease && state.has_room && state.may_release;
        self.intake
            .send_if_modified(|intake| std::mem::replace(intake, open) != open);
        changed
    }
}
