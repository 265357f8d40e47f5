//! The persister at work, on the broker in memory.

mod holding;
mod judging;
mod support;
