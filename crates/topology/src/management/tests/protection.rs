use std::time::Duration;

use serde_json::json;

use super::memory::Host;
use super::{blocked, configure, direct, discarding, has, objects_of, shown, with_delays};
use crate::Desired;
use crate::management::apply::{delete, forecast};
use crate::management::{ChangeAction, Discards, ManagementError, Object};

#[tokio::test]
async fn the_marker_that_the_pipeline_is_configured_comes_last_and_goes_first() {
    let host = direct().await;
    assert_eq!(
        host.log.borrow().last().unwrap(),
        "put exchange fleet-configured"
    );
    host.log.borrow_mut().clear();
    configure(&host, &objects_of("clickhouse-only")).await;
    assert_eq!(host.log.borrow()[0], "delete exchange fleet-configured");
    assert_eq!(
        host.log.borrow().last().unwrap(),
        "put exchange fleet-configured"
    );
    host.log.borrow_mut().clear();
    configure(&host, &Desired::nothing("clickhouse-only")).await;
    assert_eq!(host.log.borrow()[0], "delete exchange fleet-configured");
    assert!(host.state().pipeline().is_none());
}

#[tokio::test]
async fn policies_are_there_before_the_queues_they_are_for() {
    let host = direct().await;
    let log = host.log.borrow();
    let last_policy = log
        .iter()
        .rposition(|line| line.starts_with("put policy"))
        .unwrap();
    let first_queue = log
        .iter()
        .position(|line| line.starts_with("put queue"))
        .unwrap();
    assert!(last_policy < first_queue);
}

#[tokio::test]
async fn another_type_takes_the_place_of_the_first_without_a_trace() {
    let host = direct().await;
    configure(&host, &objects_of("clickhouse-only")).await;
    let fresh = Host::default();
    configure(&fresh, &objects_of("clickhouse-only")).await;
    let sorted = |host: &Host| {
        let mut state = host.state();
        state.queues.sort_by(|a, b| a.name.cmp(&b.name));
        state.exchanges.sort_by(|a, b| a.name.cmp(&b.name));
        state
            .bindings
            .sort_by(|a, b| (&a.source, &a.destination).cmp(&(&b.source, &b.destination)));
        state.policies.sort_by(|a, b| a.name.cmp(&b.name));
        state
    };
    assert_eq!(sorted(&host), sorted(&fresh));
}

#[tokio::test]
async fn a_program_with_work_left_keeps_all_it_needs_to_finish_it_but_gets_no_more() {
    let host = direct().await;
    host.put_messages("es-writer-delay-10m", 3);
    let changes = configure(&host, &objects_of("clickhouse-only")).await;
    assert_eq!(
        blocked(&changes),
        ["es-writer-delay-10m", "es-writer-quar"],
        "{:#?}",
        shown(&changes)
    );
    for queue in [
        "es-writer-in",
        "es-writer-quar",
        "es-writer-delay-10s",
        "es-writer-delay-10m",
    ] {
        assert!(has(&host, queue), "{queue}");
    }
    let state = host.state();
    let bound = |source: &str, queue: &str| {
        let mut bindings = state.bindings.iter();
        bindings.any(|binding| binding.source == source && binding.destination == queue)
    };
    assert!(bound("es-writer-out", "ledger"));
    assert!(!bound("fetcher-out", "es-writer-in"));
    let policies: Vec<&str> = state
        .policies
        .iter()
        .map(|policy| policy.name.as_str())
        .collect();
    assert!(policies.contains(&"fleet-es-writer-delay"), "{policies:?}");
    assert_eq!(state.pipeline(), Some("clickhouse-only"));

    host.put_messages("es-writer-delay-10m", 0);
    let changes = configure(&host, &objects_of("clickhouse-only")).await;
    assert_eq!(blocked(&changes), [""; 0]);
    assert!(
        !host
            .state()
            .queues
            .iter()
            .any(|queue| queue.name.starts_with("es-writer"))
    );
    assert!(
        !host
            .state()
            .policies
            .iter()
            .any(|policy| policy.name.contains("es-writer"))
    );
}

#[tokio::test]
async fn a_quarantine_with_messages_stays_while_the_program_goes() {
    let host = direct().await;
    host.put_messages("es-writer-quar", 1);
    let changes = configure(&host, &objects_of("clickhouse-only")).await;
    let blocked_lines: Vec<String> = shown(&changes)
        .into_iter()
        .filter(|line| line.starts_with("blocked"))
        .collect();
    assert_eq!(
        blocked_lines,
        [
            "blocked queue es-writer-quar (holds 1 message; see them with fleet quarantine list; \
          or give them up with --discard es-writer-quar=1)"
        ]
    );
    assert!(!has(&host, "es-writer-in"));
    let state = host.state();
    let of_writer = state
        .policies
        .iter()
        .filter(|policy| policy.name.contains("es-writer"));
    let of_writer: Vec<&str> = of_writer.map(|policy| policy.name.as_str()).collect();
    assert_eq!(of_writer, ["fleet-es-writer-quar"]);
}

#[tokio::test]
async fn messages_are_given_up_only_by_their_number() {
    let host = direct().await;
    host.put_messages("es-writer-in", 12);
    let before = host.state();
    let wanted = objects_of("clickhouse-only");
    let error = discarding(&host, &wanted, "es-writer-in", 11)
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            ManagementError::DiscardCount {
                named: 11,
                held: 12,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(host.state(), before);
    let error = discarding(&host, &wanted, "ch-writer-in", 0)
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("pipeline clickhouse-only has it"),
        "{error}"
    );
    let error = discarding(&host, &wanted, "nothing-in", 0)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("there is no such queue"),
        "{error}"
    );
    assert_eq!(host.state(), before);

    let changes = discarding(&host, &wanted, "es-writer-in", 12)
        .await
        .unwrap();
    assert_eq!(blocked(&changes), [""; 0]);
    assert!(!has(&host, "es-writer-in"));
}

#[tokio::test]
async fn a_delay_that_the_schedule_lost_goes_when_it_is_empty() {
    let host = direct().await;
    host.put_messages("ch-writer-delay-1h", 2);
    let changes = configure(&host, &with_delays("direct", &[10, 60])).await;
    assert_eq!(blocked(&changes), ["ch-writer-delay-1h"]);
    assert!(has(&host, "ch-writer-delay-1h") && !has(&host, "es-writer-delay-1h"));
    host.put_messages("ch-writer-delay-1h", 0);
    configure(&host, &with_delays("direct", &[10, 60])).await;
    assert!(!has(&host, "ch-writer-delay-1h") && has(&host, "ch-writer-delay-1m"));
}

#[tokio::test]
async fn the_ledger_outlives_its_pipeline_unless_given_up() {
    let host = direct().await;
    host.put_messages("ledger", 9);
    let changes = configure(&host, &Desired::nothing("direct")).await;
    assert_eq!(blocked(&changes), ["ledger"]);
    let left: Vec<String> = host
        .state()
        .queues
        .iter()
        .map(|queue| queue.name.clone())
        .collect();
    assert_eq!(left, ["ledger"]);
    discarding(&host, &Desired::nothing("direct"), "ledger", 9)
        .await
        .unwrap();
    let state = host.state();
    assert!(state.queues.is_empty() && state.exchanges.is_empty() && state.policies.is_empty());
}

#[tokio::test]
async fn the_ledger_stays_while_a_program_that_stays_still_writes_to_it() {
    let host = direct().await;
    host.put_messages("es-writer-in", 1);
    let changes = configure(&host, &Desired::nothing("direct")).await;
    assert_eq!(
        blocked(&changes),
        ["es-writer-in", "es-writer-quar", "ledger"]
    );
    assert!(
        shown(&changes)
            .iter()
            .any(|line| line.contains("exchange es-writer-out still feeds it"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_message_that_the_figures_do_not_show_yet_is_not_lost() {
    let host = Host::with_old_figures(Duration::from_secs(10));
    configure(&host, &objects_of("direct")).await;
    host.freeze_figures();
    host.put_messages("es-writer-in", 1);
    let late = async {
        tokio::time::sleep(Duration::from_secs(9)).await;
        host.refresh_figures();
    };
    let wanted = objects_of("clickhouse-only");
    let (changes, ()) = tokio::join!(configure(&host, &wanted), late);
    assert_eq!(blocked(&changes), ["es-writer-in", "es-writer-quar"]);
}

#[tokio::test]
async fn a_message_that_comes_after_the_figures_is_not_lost() {
    let host = direct().await;
    host.freeze_figures();
    host.put_messages("es-writer-delay-1m", 1);
    let changes = configure(&host, &objects_of("clickhouse-only")).await;
    assert_eq!(blocked(&changes), ["es-writer-delay-1m", "es-writer-quar"]);
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_read_is_counted_twice() {
    let host = Host::with_old_figures(Duration::from_secs(10));
    configure(&host, &objects_of("direct")).await;
    let start = tokio::time::Instant::now();
    host.put_consumers("es-writer-in", 1);
    configure(&host, &objects_of("clickhouse-only")).await;
    assert_eq!(start.elapsed(), Duration::from_secs(20));
    let start = tokio::time::Instant::now();
    configure(&host, &with_delays("clickhouse-only", &[10])).await;
    assert_eq!(start.elapsed(), Duration::from_secs(10));
    let start = tokio::time::Instant::now();
    configure(&host, &objects_of("direct")).await;
    assert_eq!(
        start.elapsed(),
        Duration::ZERO,
        "nothing to remove, nothing to wait for"
    );
}

#[tokio::test]
async fn a_changed_policy_is_updated_with_what_differs() {
    let host = direct().await;
    host.change(|actual| {
        let policy = actual
            .policies
            .iter_mut()
            .find(|policy| policy.name == "fleet-fetcher-in");
        policy
            .unwrap()
            .definition
            .insert("delivery-limit".to_owned(), json!(3));
    });
    assert_eq!(
        shown(&configure(&host, &objects_of("direct")).await),
        ["update policy fleet-fetcher-in (delivery-limit 3 -> 20)"]
    );
    let log = host.log.borrow();
    assert_eq!(
        log.last().unwrap(),
        "put policy fleet-fetcher-in",
        "the marker stays where it is"
    );
}

#[tokio::test]
async fn the_forecast_lists_what_will_be_done() {
    let host = direct().await;
    host.put_messages("es-writer-quar", 5);
    let wanted = objects_of("clickhouse-only");
    let expected = forecast(&wanted, &host.state(), &Discards::new()).unwrap();
    assert_eq!(shown(&configure(&host, &wanted).await), shown(&expected));
    let last = expected.last().unwrap();
    assert_eq!(
        (last.action, last.object),
        (ChangeAction::Update, Object::Pipeline)
    );
    assert_eq!(last.detail, "direct -> clickhouse-only");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_removed_on_the_strength_of_a_figure_that_is_missing() {
    let host = Host::with_old_figures(Duration::from_secs(10));
    configure(&host, &objects_of("direct")).await;
    host.stop_counting();
    let wanted = objects_of("clickhouse-only");
    let expected = forecast(&wanted, &host.state(), &Discards::new()).unwrap();
    let changes = configure(&host, &wanted).await;
    assert_eq!(shown(&changes), shown(&expected));
    let mut queues = blocked(&changes);
    queues.retain(|queue| *queue != "es-writer-quar");
    let input = "es-writer-in";
    assert!(queues.contains(&input) && queues.len() == 5, "{queues:?}");
    let change = changes.iter().find(|change| change.name == input).unwrap();
    for part in [
        "does not say how many messages",
        "disable_metrics_collector",
    ] {
        assert!(change.detail.contains(part), "{}", change.detail);
    }
    assert!(has(&host, input) && has(&host, "es-writer-quar"));
    let error = discarding(&host, &wanted, input, 0).await.unwrap_err();
    assert!(
        matches!(error, ManagementError::NotCounted { .. }),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_pipeline_is_not_deleted_where_the_broker_does_not_count() {
    let host = Host::with_old_figures(Duration::from_secs(10));
    configure(&host, &objects_of("direct")).await;
    host.stop_counting();
    let before = host.state();
    let error = delete(&host, &Desired::nothing("direct"), &Discards::new()).await;
    let error = error.unwrap_err().to_string();
    for part in ["does not count", "ledger", "disable_metrics_collector"] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(host.state(), before);
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_not_counted_yet_is_waited_for() {
    let host = Host::with_old_figures(Duration::from_secs(10));
    configure(&host, &objects_of("direct")).await;
    let counted = host.state();
    host.stop_counting();
    let nothing = Desired::nothing("direct");
    let discards = Discards::new();
    let deleted = delete(&host, &nothing, &discards);
    let counts_again = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        host.change(|actual| *actual = counted);
    };
    let (changes, ()) = tokio::join!(deleted, counts_again);
    assert_eq!(blocked(&changes.unwrap()), [""; 0]);
    assert!(host.state().queues.is_empty());
}
