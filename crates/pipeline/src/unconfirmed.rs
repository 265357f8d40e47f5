use std::collections::VecDeque;
use std::time::Duration;

use app::App;
use tokio::sync::oneshot;

use crate::Lost;
use crate::broker::{Confirm, Publication, Publisher};

/// Pauses before a refused publication is tried again: first, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Publications whose confirm has not come. They are kept until it has: what the broker refuses
/// or cannot route is published again until it is taken, for dropping it would lose it.
#[derive(Default)]
pub(crate) struct Unconfirmed(VecDeque<(Publication, State)>);

enum State {
    Waiting(oneshot::Receiver<Confirm>),
    Answered(Confirm),
    /// The session was lost before it was handed over.
    Unsent,
}

impl State {
    /// Takes an answer that is there.
    fn look(&mut self) {
        if let Self::Waiting(answer) = self
            && let Ok(confirm) = answer.try_recv()
        {
            *self = Self::Answered(confirm);
        }
    }
}

impl Unconfirmed {
    /// Publishes and keeps. What is lost on the way is kept too, for whoever can begin another session. What
    /// was refused is published again first, so that no more is kept than the window holds.
    pub async fn publish(
        &mut self,
        publisher: &Publisher,
        app: &App,
        publication: Publication,
    ) -> Result<(), Lost> {
        self.forget_stored();
        let refused = |(_, state): &(Publication, State)| matches!(state, State::Answered(_));
        let settled = match self.0.iter().any(refused) {
            true => self.settle(publisher, app).await,
            false => Ok(()),
        };
        if let Err(lost) = settled {
            self.0.push_back((publication, State::Unsent));
            return Err(lost);
        }
        let answer = publisher.publish(publication.clone()).await;
        let (state, result) = match answer {
            Ok(answer) => (State::Waiting(answer), Ok(())),
            Err(lost) => (State::Unsent, Err(lost)),
        };
        self.0.push_back((publication, state));
        result
    }

    /// Lets go of what is stored by now, so that a long job holds no more than the window.
    fn forget_stored(&mut self) {
        self.0.retain_mut(|(_, state)| {
            state.look();
            !matches!(state, State::Answered(Confirm::Stored))
        });
    }

    /// Waits until everything is answered, publishing again what was refused for as long as `patience`. Whether
    /// everything is stored; if not, what is not is let go of.
    pub async fn settle_within(
        &mut self,
        patience: Duration,
        publisher: &Publisher,
        app: &App,
    ) -> Result<bool, Lost> {
        if self.wait_for_answers().await?.is_none() {
            return Ok(true);
        }
        if let Ok(settled) = tokio::time::timeout(patience, self.settle(publisher, app)).await {
            return settled.map(|()| true);
        }
        self.forget_stored();
        let left = self.0.len();
        self.0.clear();
        Ok(left == 0)
    }

    /// Waits until everything is stored, publishing again what was refused.
    pub async fn settle(&mut self, publisher: &Publisher, app: &App) -> Result<(), Lost> {
        let mut pause = AGAIN.0;
        loop {
            let refused = self.wait_for_answers().await?;
            let Some(problem) = refused else {
                return Ok(());
            };
            let (messages, pause_ms) = (self.0.len(), pause.as_millis() as u64);
            tracing::warn!(error = problem, messages, pause_ms, "publishing again");
            app.health.set("publishing", Err(problem));
            tokio::select! {
                () = app.shutdown.triggered() => return Err(Lost),
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(AGAIN.1);
            for (publication, state) in &mut self.0 {
                *state = State::Waiting(publisher.publish(publication.clone()).await?);
            }
            app.health.set("publishing", Ok(()));
        }
    }

    /// Waits until everything is answered, and keeps what was refused; says why the first of it was.
    async fn wait_for_answers(&mut self) -> Result<Option<String>, Lost> {
        let mut n = 0;
        while let Some((_, state)) = self.0.get_mut(n) {
            let confirm = match state {
                State::Waiting(answer) => answer.await.map_err(|_| Lost)?,
                State::Answered(confirm) => confirm.clone(),
                State::Unsent => return Err(Lost),
            };
            // Remembered, because whoever waits here may be cut off.
            *state = State::Answered(confirm.clone());
            match confirm {
                Confirm::Stored => drop(self.0.remove(n)),
                Confirm::Refused | Confirm::Unroutable => n += 1,
            }
        }
        let first = self.0.front();
        Ok(first.map(|(publication, state)| explain(state, publication)))
    }

    /// Everything that is not known to be stored.
    pub fn take(&mut self) -> Vec<Publication> {
        let left = self.0.drain(..).filter_map(|(publication, mut state)| {
            state.look();
            let stored = matches!(state, State::Answered(Confirm::Stored));
            (!stored).then_some(publication)
        });
        left.collect()
    }
}

fn explain(state: &State, publication: &Publication) -> String {
    let target = match publication.exchange.as_str() {
        "" => format!("queue {}", publication.routing_key),
        exchange => format!("output {} of exchange {exchange}", publication.routing_key),
    };
    match state {
        State::Answered(Confirm::Unroutable) => format!(
            "no queue takes messages for {target}: configure the pipeline again (fleet pipeline configure)"
        ),
        _ => format!(
            "{target} is full: look at its messages (fleet pipeline qlen, fleet quarantine list)"
        ),
    }
}
