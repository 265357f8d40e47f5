use proptest::prelude::*;
use serde_json::json;

use super::memory::Host;
use super::{objects_of, shown, with_delays};
use crate::Desired;
use crate::management::apply::{apply, forecast};
use crate::management::{ChangeAction, Discards, ManagementError};

#[derive(Debug, Clone)]
enum Step {
    Configure(usize),
    /// Messages appear in, or leave, the queue of this number.
    Messages(usize, u64),
    Consumers(usize, u64),
    /// An operator removes a queue, an exchange or a policy by hand, or changes an argument.
    LoseQueue(usize),
    LoseExchange(usize),
    LosePolicy(usize),
    ChangeArgument(usize),
}

fn wanted(n: usize) -> Desired {
    match n {
        0 => objects_of("direct"),
        1 => objects_of("clickhouse-only"),
        2 => objects_of("elasticsearch-only"),
        3 => with_delays("direct", &[5, 60, 7200]),
        4 => with_delays("clickhouse-only", &[1]),
        _ => Desired::nothing("direct"),
    }
}

fn step() -> impl Strategy<Value = Step> {
    let queue = || 0..40usize;
    prop_oneof![
        4 => (0..6usize).prop_map(Step::Configure),
        4 => (queue(), 0..3u64).prop_map(|(queue, n)| Step::Messages(queue, n)),
        1 => (queue(), 0..2u64).prop_map(|(queue, n)| Step::Consumers(queue, n)),
        1 => queue().prop_map(Step::LoseQueue),
        1 => queue().prop_map(Step::LoseExchange),
        1 => queue().prop_map(Step::LosePolicy),
        1 => queue().prop_map(Step::ChangeArgument),
    ]
}

fn names<T>(items: &[T], name: impl Fn(&T) -> &str) -> Vec<String> {
    items.iter().map(|item| name(item).to_owned()).collect()
}

fn by_hand(host: &Host, step: &Step) {
    let state = host.state();
    let queues = names(&state.queues, |queue| &queue.name);
    let pick = |names: &[String], n: usize| names.get(n % names.len().max(1)).cloned();
    match *step {
        Step::Configure(_) => {}
        Step::Messages(n, messages) => {
            if let Some(queue) = pick(&queues, n) {
                host.put_messages(&queue, messages);
            }
        }
        Step::Consumers(n, consumers) => {
            if let Some(queue) = pick(&queues, n) {
                host.put_consumers(&queue, consumers);
            }
        }
        Step::LoseQueue(n) => host.change(|actual| {
            let lost = pick(&queues, n).unwrap_or_default();
            actual.queues.retain(|queue| queue.name != lost);
            actual
                .bindings
                .retain(|binding| binding.destination != lost);
        }),
        Step::LoseExchange(n) => host.change(|actual| {
            let lost =
                pick(&names(&state.exchanges, |exchange| &exchange.name), n).unwrap_or_default();
            actual.exchanges.retain(|exchange| exchange.name != lost);
            actual.bindings.retain(|binding| binding.source != lost);
        }),
        Step::LosePolicy(n) => host.change(|actual| {
            let lost = pick(&names(&state.policies, |policy| &policy.name), n).unwrap_or_default();
            actual.policies.retain(|policy| policy.name != lost);
        }),
        Step::ChangeArgument(n) => host.change(|actual| {
            let changed = pick(&queues, n).unwrap_or_default();
            for queue in actual
                .queues
                .iter_mut()
                .filter(|queue| queue.name == changed)
            {
                queue
                    .arguments
                    .insert("x-quorum-initial-group-size".to_owned(), json!(7));
            }
        }),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happened before: configuring is refused without a change, or loses no message, leaves nothing
    /// undone but what it reports, and changes nothing when it is done again.
    #[test]
    fn once_configured_nothing_is_left_to_change(steps in proptest::collection::vec(step(), 1..14)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let host = Host::default();
            for step in &steps {
                by_hand(&host, step);
                let Step::Configure(n) = step else { continue };
                let (wanted, messages) = (wanted(*n), host.messages());
                let (state, log) = (host.state(), host.log.borrow().len());
                match apply(&host, &wanted, &Discards::new()).await {
                    // A queue whose argument was changed: nothing is touched.
                    Err(ManagementError::ArgumentsChanged { .. }) => {
                        prop_assert_eq!(host.state(), state);
                        prop_assert_eq!(host.log.borrow().len(), log);
                        continue;
                    }
                    applied => drop(applied.unwrap()),
                }
                prop_assert_eq!(host.messages(), messages);
                let left = forecast(&wanted, &host.state(), &Discards::new()).unwrap();
                let undone: Vec<_> = left.iter().filter(|change| change.action != ChangeAction::Blocked).collect();
                prop_assert!(undone.is_empty(), "{:#?}", shown(&left));
                let before = host.log.borrow().len();
                apply(&host, &wanted, &Discards::new()).await.unwrap();
                prop_assert_eq!(host.log.borrow().len(), before);
                for queue in &wanted.queues {
                    prop_assert!(host.state().queue(&queue.name).is_some());
                }
                let pipeline = (!wanted.is_nothing()).then_some(wanted.pipeline.as_str());
                let state = host.state();
                prop_assert_eq!(state.pipeline(), pipeline);
            }
            Ok(())
        })?;
    }
}
