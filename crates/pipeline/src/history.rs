//! Reading the ledger: the records of runs that have ended, then the receipts that no record covers.

use std::collections::BTreeMap;

use batch::{Receipt, RunId, header};
use ledger::{Ledger, RunRecord, RunState};

use crate::broker::{Broker, BrokerError, StreamConsumer};
use crate::names;

/// The state of every run, from what was confirmed before the call. `see` is shown each receipt that was read; after
/// an error it has seen some of them.
pub async fn read(broker: &Broker, mut see: impl FnMut(&Receipt)) -> Result<Ledger, BrokerError> {
    let mut opening = Opening::begin(broker).await?;
    let from = opening.from();
    let read = broker.read_stream_from(names::LEDGER, from, |offset, message| {
        opening.take(offset, message, &mut see);
    });
    read.await?;
    let mut ledger = opening.end();
    reopen(broker, &mut ledger).await?;
    Ok(ledger)
}

/// As [`read`], and what is added from then on. Ended runs that were decided on again are left to [`reopen`] or
/// [`read_reopened`].
pub async fn follow(broker: &Broker) -> Result<(Ledger, StreamConsumer), BrokerError> {
    let mut opening = Opening::begin(broker).await?;
    let from = opening.from();
    let consumer = broker.follow_stream(names::LEDGER, from, |offset, message| {
        opening.take(offset, message, &mut |_| {});
    });
    let consumer = consumer.await?;
    Ok((opening.end(), consumer))
}

/// Reads the receipts of ended runs that were decided on again, so that they are known by them from then on.
pub async fn reopen(broker: &Broker, ledger: &mut Ledger) -> Result<(), BrokerError> {
    let reopened = read_reopened(broker, ledger.take_reopened()).await?;
    for state in reopened.into_iter().filter_map(|reopened| reopened.state) {
        ledger.reopen(state);
    }
    Ok(())
}

/// An ended run that was decided on again.
pub struct ReopenedRun {
    pub run: RunId,
    /// By its receipts; `None`: they are no longer on the ledger.
    pub state: Option<RunState>,
}

/// The states of ended runs that were decided on again, as [`Ledger::take_reopened`] names them.
pub async fn read_reopened(
    broker: &Broker,
    first_offsets: BTreeMap<RunId, u64>,
) -> Result<Vec<ReopenedRun>, BrokerError> {
    let mut reopened = Vec::new();
    for (run, first_offset) in first_offsets {
        let state = read_run(broker, &run, first_offset).await?;
        reopened.push(ReopenedRun { run, state });
    }
    Ok(reopened)
}

/// The state of one run by its receipts, from the offset `first` on. `None`: its beginning is no longer there.
pub async fn read_run(
    broker: &Broker,
    run: &RunId,
    first: u64,
) -> Result<Option<RunState>, BrokerError> {
    let mut state = RunState::new(run.clone());
    let read = broker.read_stream_from(names::LEDGER, first, |_, message| {
        if message.headers.text(header::RUN) == Some(run.as_str())
            && let Ok(receipt) = Receipt::from_message(&message)
            && receipt.run == *run
        {
            state.apply(&receipt);
        }
    });
    read.await?;
    Ok(state.started().is_some().then_some(state))
}

struct Opening {
    ledger: Ledger,
    /// Messages that are no receipts or records of this release: one of them must not keep a pipeline from running,
    /// but is logged.
    refused: u64,
    first: Option<batch::Invalid>,
}

impl Opening {
    async fn begin(broker: &Broker) -> Result<Self, BrokerError> {
        let mut opening = Self {
            ledger: Ledger::new(),
            refused: 0,
            first: None,
        };
        let read = broker.read_stream_from(names::RUNS, 0, |_, message| {
            match RunRecord::from_message(&message) {
                Ok(record) => opening.ledger.take_record(record),
                Err(invalid) => opening.refuse(invalid),
            }
        });
        match read.await {
            // A pipeline without a persister has no records.
            Err(BrokerError::NotFound { .. }) => {}
            read => read?,
        }
        Ok(opening)
    }

    fn from(&self) -> u64 {
        self.ledger.resume_offset().unwrap_or(0)
    }

    fn take(&mut self, offset: u64, message: batch::Message, see: &mut impl FnMut(&Receipt)) {
        match Receipt::from_message(&message) {
            Ok(receipt) => {
                self.ledger.apply_at(offset, &receipt);
                see(&receipt);
            }
            Err(invalid) => self.refuse(invalid),
        }
    }

    fn refuse(&mut self, invalid: batch::Invalid) {
        self.refused += 1;
        self.first.get_or_insert(invalid);
    }

    fn end(self) -> Ledger {
        if let Some(first) = self.first {
            let count = self.refused;
            tracing::warn!(count, %first, "the ledger holds what is no receipt of this release; passed over");
        }
        self.ledger
    }
}
