use serde_json::json;

use super::memory::Host;
use super::{configure, direct, discarding, objects_of, shown};

/// The host after `es-writer-in` was made by a release that gave its queues other arguments.
async fn with_other_arguments() -> Host {
    let host = direct().await;
    host.change(|present| {
        let queue = present
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

#[tokio::test]
async fn a_queue_with_other_arguments_is_replaced_when_it_is_empty_and_at_rest() {
    let host = with_other_arguments().await;
    let bindings = host.state().bindings.len();
    let changes = configure(&host, &objects_of("direct")).await;
    assert_eq!(
        shown(&changes),
        ["replace queue es-writer-in (x-quorum-initial-group-size 5 -> absent)"]
    );
    assert_eq!(host.state().bindings.len(), bindings);
    assert_eq!(configure(&host, &objects_of("direct")).await, []);
}

#[tokio::test]
async fn a_queue_with_other_arguments_and_messages_is_left_with_the_advice() {
    let host = with_other_arguments().await;
    host.put_messages("es-writer-in", 4);
    let changes = configure(&host, &objects_of("direct")).await;
    assert_eq!(
        shown(&changes),
        [
            "keep queue es-writer-in (the broker cannot change x-quorum-initial-group-size 5 -> absent; \
          it holds 4 messages: let them be worked off and configure again, or give them up with \
          --discard es-writer-in=4)"
        ]
    );
    discarding(&host, &objects_of("direct"), "es-writer-in", 4)
        .await
        .unwrap();
    assert_eq!(host.messages(), 0);
    assert_eq!(configure(&host, &objects_of("direct")).await, []);
}

#[tokio::test]
async fn a_queue_whose_writers_run_is_not_replaced() {
    let host = with_other_arguments().await;
    host.put_consumers("fetcher-in", 2);
    let changes = configure(&host, &objects_of("direct")).await;
    assert!(
        shown(&changes)[0].contains("stop fetcher and configure again"),
        "{changes:?}"
    );
    assert_eq!(host.state().pipeline(), Some("direct"));
}
