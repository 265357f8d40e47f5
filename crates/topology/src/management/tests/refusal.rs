//! A queue whose arguments differ, which the broker never changes.

use serde_json::json;

use super::memory::Host;
use super::{blocked, configure, direct, discarding, has, objects_of, shown};
use crate::Desired;
use crate::management::apply::{apply, forecast};
use crate::management::{Discards, ManagementError};

/// The host after `es-writer-in` was made by a release that gave its queues other arguments.
async fn with_other_arguments() -> Host {
    let host = direct().await;
    host.change(|actual| {
        let queue = actual
            .queues
            .iter_mut()
            .find(|queue| queue.name == "es-writer-in")
            .unwrap();
        queue
            .arguments
            .insert("x-quorum-initial-group-size".to_owned(), json!(5));
    });
    host
}

async fn refused(host: &Host, desired: &Desired) -> ManagementError {
    let before = host.state();
    let error = apply(host, desired, &Discards::new()).await.unwrap_err();
    assert_eq!(host.state(), before, "a refusal changes nothing");
    error
}

#[tokio::test]
async fn a_queue_with_other_arguments_is_refused_with_what_to_do_and_nothing_is_changed() {
    let host = with_other_arguments().await;
    let wanted = objects_of("direct");
    let error = refused(&host, &wanted).await.to_string();
    assert_eq!(
        error,
        "the broker cannot change the arguments of a queue: es-writer-in (x-quorum-initial-group-size 5 -> absent). \
         Nothing was changed; delete the pipeline (fleet pipeline delete --type direct), which names the queues that \
         still hold messages, and configure again"
    );
    let forecast = forecast(&wanted, &host.state(), &Discards::new());
    assert_eq!(forecast.unwrap_err().to_string(), error);
    // As it says, the pipeline can be deleted and configured again.
    configure(&host, &Desired::nothing("direct")).await;
    configure(&host, &wanted).await;
    assert_eq!(host.state(), direct().await.state());
    assert_eq!(configure(&host, &wanted).await, []);
}

#[tokio::test]
async fn messages_in_a_queue_with_other_arguments_outlive_the_refusal_and_the_deletion() {
    let host = with_other_arguments().await;
    host.put_messages("es-writer-in", 4);
    let wanted = objects_of("direct");
    refused(&host, &wanted).await;
    let changes = configure(&host, &Desired::nothing("direct")).await;
    assert!(
        blocked(&changes).contains(&"es-writer-in"),
        "{:#?}",
        shown(&changes)
    );
    refused(&host, &wanted).await;
    assert_eq!(host.messages(), 4);
    discarding(&host, &Desired::nothing("direct"), "es-writer-in", 4)
        .await
        .unwrap();
    configure(&host, &wanted).await;
    assert_eq!(host.messages(), 0);
    assert_eq!(configure(&host, &wanted).await, []);
}

#[tokio::test]
async fn a_running_pipeline_stays_configured_when_a_changed_argument_is_refused() {
    let host = with_other_arguments().await;
    host.put_consumers("fetcher-in", 2);
    // The type to delete is the one that is configured, not the one that was asked for.
    let error = refused(&host, &objects_of("batched")).await.to_string();
    assert!(error.contains("delete --type direct"), "{error}");
    assert_eq!(host.state().pipeline(), Some("direct"));
    assert!(has(&host, "es-writer-in"));
}
