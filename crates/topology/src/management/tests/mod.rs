mod controller;
mod foreign;
mod http;
mod memory;
mod protection;
mod rabbitmq;
mod refusal;
mod repetition;

use memory::Host;

use super::apply::apply;
use super::{BrokerChange, ChangeAction, Discards, ManagementError};
use crate::tests::built_in;
use crate::{Desired, PipelineSettings, desired};
use pipeline::RetrySchedule;

fn objects_of(pipeline: &str) -> Desired {
    desired(
        &built_in(pipeline),
        &PipelineSettings::default(),
        &RetrySchedule::default(),
    )
}

fn with_delays(pipeline: &str, seconds: &[u64]) -> Desired {
    let delays = seconds.iter().copied().map(std::time::Duration::from_secs);
    let schedule = RetrySchedule::new(delays.collect()).unwrap();
    desired(&built_in(pipeline), &PipelineSettings::default(), &schedule)
}

fn shown(changes: &[BrokerChange]) -> Vec<String> {
    changes.iter().map(BrokerChange::to_string).collect()
}

async fn configure(host: &Host, desired: &Desired) -> Vec<BrokerChange> {
    apply(host, desired, &Discards::new()).await.unwrap()
}

async fn discarding(
    host: &Host,
    desired: &Desired,
    queue: &str,
    count: u64,
) -> Result<Vec<BrokerChange>, ManagementError> {
    apply(
        host,
        desired,
        &Discards::from_iter([(queue.to_owned(), count)]),
    )
    .await
}

async fn direct() -> Host {
    let host = Host::default();
    configure(&host, &objects_of("direct")).await;
    host
}

fn has(host: &Host, queue: &str) -> bool {
    host.state().queue(queue).is_some()
}

fn blocked(changes: &[BrokerChange]) -> Vec<&str> {
    let blocked = changes
        .iter()
        .filter(|change| change.action == ChangeAction::Blocked);
    blocked.map(|change| change.name.as_str()).collect()
}
