use batch::{Fact, Receipt, RunId};

/// Milliseconds since the epoch, by the clock of this machine.
pub fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}

/// What happened in a run, just now.
pub fn receipt(run: &RunId, fact: Fact) -> Receipt {
    Receipt {
        run: run.clone(),
        at_ms: now_ms(),
        fact,
    }
}
