//! What only the real broker can prove: streams, looking into quarantine, restarts, alarms.

mod broker_restart;
mod lease;
mod quarantine;
mod stream;
mod support;
