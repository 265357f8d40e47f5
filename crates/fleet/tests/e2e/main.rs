//! The whole fleet on real services: every program its own process, as an operator runs it.

mod bad_input;
mod cycle;
mod failures;
mod proof;
mod replicas;
mod support;
