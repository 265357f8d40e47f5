//! Headers that a role sets on the message that it processes.

use batch::header;

use super::fixture::{Fixture, Running, numbered, options};
use crate::{Job, LoopOptions, Outcome, Worker};

/// Fails every message; counts in a header of its own how often.
struct CountsInHeader;

impl Worker for CountsInHeader {
    async fn process(&self, job: &mut Job) -> Outcome {
        let headers = job.headers_mut();
        let count = headers.int("count").unwrap_or(0) + 1;
        headers.set("count", count);
        Outcome::retry("refused", "")
    }
}

async fn headers_that_a_role_sets_are_there_at_the_next_try_and_in_quarantine(fixture: Fixture) {
    fixture.fill(1).await;
    let program = fixture.program(LoopOptions {
        max_retries: 2,
        ..options(5, 1)
    });
    let running = Running::start(program, CountsInHeader);
    let message = fixture.take("relay-quar", 1).await.remove(0).message;
    assert_eq!(message.headers.int("count"), Some(3));
    assert_eq!(
        message.headers.text(header::REASON),
        Some("too-many-retries")
    );
    assert_eq!(message.body, numbered(0).body);
    running.stop().await;
}

on_every_broker!(headers_that_a_role_sets_are_there_at_the_next_try_and_in_quarantine);
