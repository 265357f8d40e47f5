use serde::Serialize;

use super::actual::{ActualExchange, ActualQueue};
use super::{Management, ManagementError};
use crate::QueueClass;

/// The broker's figures of one queue of the fleet, up to some ten seconds old. What it has not counted is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueueFigures {
    pub queue: String,
    pub program: String,
    pub class: QueueClass,
    /// Messages that wait, dead letters on their way among them.
    pub ready: Option<u64>,
    /// Messages that a program has and has not acknowledged.
    pub unacked: Option<u64>,
    /// Bytes of all bodies.
    pub bytes: Option<u64>,
    pub consumers: Option<u64>,
}

impl QueueFigures {
    fn new(queue: &ActualQueue) -> Option<Self> {
        let (program, class) = queue.owner()?;
        let unacked = queue.messages_unacknowledged;
        Some(Self {
            queue: queue.name.clone(),
            program: program.to_owned(),
            class,
            ready: queue
                .held()
                .zip(unacked)
                .map(|(held, unacked)| held.saturating_sub(unacked)),
            unacked,
            bytes: queue.message_bytes,
            consumers: queue.consumers,
        })
    }

    /// All messages in it.
    pub fn held(&self) -> Option<u64> {
        Some(self.ready? + self.unacked?)
    }

    /// Whether it is a queue of a worker: its messages are work to do.
    pub fn is_work(&self) -> bool {
        matches!(self.class, QueueClass::Input | QueueClass::Delay(_))
    }
}

impl Management {
    /// The pipeline type that is configured, if one is.
    pub async fn configured(&self) -> Result<Option<String>, ManagementError> {
        let exchanges: Vec<ActualExchange> = self.list("exchanges").await?;
        let mut pipelines = exchanges.iter().filter_map(ActualExchange::pipeline);
        Ok(pipelines.next().map(str::to_owned))
    }

    /// Figures of the fleet's queues, by program, inputs first.
    pub async fn figures(&self) -> Result<Vec<QueueFigures>, ManagementError> {
        let queues: Vec<ActualQueue> = self.list("queues").await?;
        let mut figures: Vec<_> = queues.iter().filter_map(QueueFigures::new).collect();
        figures.sort_by(|a, b| (&a.program, a.class).cmp(&(&b.program, b.class)));
        Ok(figures)
    }
}
