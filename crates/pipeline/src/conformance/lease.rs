//! One active process.

use std::time::Duration;

use super::fixture::{Fixture, TEST_TIMEOUT, options};
use crate::broker::{BrokerError, Lease, Session};
use crate::{Leader, Program, Sessions};

/// Longer than a process that stands by takes to see that the lease is free.
const A_WHILE: Duration = Duration::from_secs(4);

async fn try_for(session: &Session) -> Option<Lease> {
    session.lease("relay-lease").await.unwrap()
}

/// Takes the lease as soon as the broker knows that it is free.
async fn takes(session: &Session) -> Lease {
    let taking = async {
        loop {
            if let Some(lease) = try_for(session).await {
                return lease;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let taken = tokio::time::timeout(TEST_TIMEOUT, taking).await;
    taken.expect("the lease is given up")
}

async fn one_session_holds_the_lease_until_it_is_closed(fixture: Fixture) {
    fixture.add_lease();
    let (first, second) = (fixture.session().await, fixture.session().await);
    let _held = try_for(&first).await.expect("it is free");
    for _ in 0..3 {
        assert!(try_for(&second).await.is_none());
    }
    assert!(try_for(&first).await.is_none(), "not even itself");
    assert!(!first.is_lost() && !second.is_lost());
    first.close().await;
    let _held = takes(&second).await;
    second.close().await;
}

async fn a_lease_that_is_dropped_is_free(fixture: Fixture) {
    fixture.add_lease();
    let (first, second) = (fixture.session().await, fixture.session().await);
    let held = try_for(&first).await.expect("it is free");
    assert!(try_for(&second).await.is_none());
    drop(held);
    let _held = takes(&second).await;
    assert!(try_for(&first).await.is_none());
    assert!(!first.is_lost());
}

async fn a_lease_is_lost_with_its_session(fixture: Fixture) {
    fixture.add_lease();
    let first = fixture.session().await;
    let _held = try_for(&first).await.expect("it is free");
    fixture.lose(&first).await;
    let second = fixture.session().await;
    let _held = takes(&second).await;
}

async fn the_lease_of_a_queue_that_is_not_there_is_an_error(fixture: Fixture) {
    let session = fixture.session().await;
    let error = session.lease("relay-lease").await.err().unwrap();
    assert!(matches!(error, BrokerError::NotFound { .. }), "{error:?}");
    fixture.add_lease();
    let session = fixture.session().await;
    let _held = takes(&session).await;
}

async fn elected(program: Program) -> Leader {
    let elected = tokio::time::timeout(TEST_TIMEOUT, Sessions::new(&program).elect()).await;
    elected
        .expect("it leads")
        .unwrap()
        .expect("it is not stopped")
}

async fn a_second_process_stands_by_until_the_first_gives_up(fixture: Fixture) {
    fixture.add_lease();
    let first = elected(fixture.program(options(1, 1))).await;
    let mut second = tokio::spawn(elected(fixture.program(options(1, 1))));
    let waited = tokio::time::timeout(A_WHILE, &mut second).await;
    assert!(waited.is_err(), "two are active");
    first.close().await;
    second.await.unwrap().close().await;
}

async fn a_process_that_stands_by_can_be_stopped(fixture: Fixture) {
    fixture.add_lease();
    let first = elected(fixture.program(options(1, 1))).await;
    let program = fixture.program(options(1, 1));
    let waiting = program.clone();
    let second = tokio::spawn(async move {
        let elected = Sessions::new(&waiting).elect().await;
        elected.unwrap().is_some()
    });
    tokio::time::sleep(A_WHILE).await;
    program.app.shutdown.trigger();
    assert!(!second.await.unwrap());
    first.close().await;
}

async fn the_active_process_is_told_that_its_lease_is_lost(fixture: Fixture) {
    fixture.add_lease();
    let first = elected(fixture.program(options(1, 1))).await;
    fixture.lose(first.session()).await;
    let lost = tokio::time::timeout(TEST_TIMEOUT, first.session().lost()).await;
    assert!(!lost.expect("it ends").is_empty());
    let second = elected(fixture.program(options(1, 1))).await;
    second.close().await;
}

on_every_broker!(
    one_session_holds_the_lease_until_it_is_closed,
    a_lease_that_is_dropped_is_free,
    a_lease_is_lost_with_its_session,
    the_lease_of_a_queue_that_is_not_there_is_an_error,
    a_second_process_stands_by_until_the_first_gives_up,
    a_process_that_stands_by_can_be_stopped,
    the_active_process_is_told_that_its_lease_is_lost,
);
