//! For tests of roles: a job without a broker.

use std::sync::{Arc, Mutex};

use app::App;
use batch::Message;

use crate::broker::{Broker, Confirm, Memory, MessageLimit, Publication, Publisher};
use crate::{Job, LoopOptions, Outcome, Program, RetrySchedule};

/// What a detached job sent: output (or queue) and message, in order.
#[derive(Clone, Default)]
pub struct Sent(Arc<Mutex<Vec<(String, Message)>>>);

impl Sent {
    /// Messages sent to `output` so far. Rows for quarantine are under the queue's name, `NAME-quar`.
    pub fn to(&self, output: &str) -> Vec<Message> {
        let sent = self.0.lock().expect("no test panics while it holds this");
        let to_output = sent.iter().filter(|(name, _)| name == output);
        to_output.map(|(_, message)| message.clone()).collect()
    }
}

/// A job of program `app` with `message` at its `attempt`-th try, whose outputs are all confirmed.
pub fn job(app: &App, message: Message, attempt: u32) -> (Job, Sent) {
    limited_job(app, message, attempt, None)
}

/// The same on a broker that is known to take messages of so many bytes at most.
pub fn limited_job(
    app: &App,
    message: Message,
    attempt: u32,
    max_message_bytes: Option<usize>,
) -> (Job, Sent) {
    let broker = Broker::Memory(Memory::new());
    let program = Program::with_broker(
        app,
        broker,
        &LoopOptions::default(),
        RetrySchedule::default(),
    );
    let limit = MessageLimit::default();
    if let Some(bytes) = max_message_bytes {
        limit.set(bytes);
    }
    let (publisher, mut requests) = Publisher::new(limit);
    let sent = Sent::default();
    let record = sent.clone();
    tokio::spawn(async move {
        while let Some(request) = requests.recv().await {
            let Publication {
                routing_key,
                message,
                ..
            } = request.publication;
            record
                .0
                .lock()
                .expect("no test panics while it holds this")
                .push((routing_key, message));
            let _ = request.confirm.send(Confirm::Stored);
        }
    });
    (Job::new(message, attempt, &program, publisher), sent)
}

/// Waits until everything that `job` sent is confirmed, and so in its [`Sent`].
pub async fn confirmed(job: &mut Job) {
    let confirmed = job.outbox.flush().await;
    confirmed.expect("the connection of a detached job is not lost");
}

/// What the loop makes of an outcome: tries that are used up end in quarantine.
pub fn settled(job: &Job, outcome: Outcome) -> Outcome {
    crate::worker::exhausted(job, outcome)
}
