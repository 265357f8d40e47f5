//! The rolling restart, against real processes that exit, come back, fail and hang.

mod continuing;
mod faults;
mod orders;
mod processes;
mod rolling;
mod support;

/// Not a test: the program of the SERP processes, which the supervisor starts by this name.
#[test]
#[ignore = "it is the SERP process of the other tests"]
fn serp_process() {
    testkit::serp::main();
}
