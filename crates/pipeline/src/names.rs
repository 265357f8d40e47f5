//! Names of a program's objects in the broker, each defined here alone.

/// Queue that `program` reads.
pub fn input_queue(program: &str) -> String {
    format!("{program}-in")
}

/// Exchange that `program` publishes to; the routing key is the output's name.
pub fn output_exchange(program: &str) -> String {
    format!("{program}-out")
}

/// Queue of the messages that `program` could never process.
pub fn quarantine_queue(program: &str) -> String {
    format!("{program}-quar")
}

/// Queue whose only subscriber is the one active process of `program`.
pub fn lease_queue(program: &str) -> String {
    format!("{program}-lease")
}

/// Stream that holds the record of every run that has ended.
pub const RUNS: &str = "runs";

/// Stream that holds every receipt.
pub const LEDGER: &str = "ledger";

/// Exchange that exists while a pipeline is configured; workers wait for it.
pub const CONFIGURED: &str = "fleet-configured";
