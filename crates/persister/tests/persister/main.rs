//! The persister at work, on the broker in memory.

mod gates;
mod release;
mod support;
