//! Whole batches through the writer, against the real Elasticsearch and against one that misbehaves.

mod busy;
mod common;
mod fake;
mod faults;
mod sizes;
mod store;
mod values;
