//! Access to the two stores: endpoints, failover, error classes, and the tables and indices themselves.
//!
//! Each store has one client type and one function that classifies its errors: [`clickhouse::classify`]
//! and [`elasticsearch::classify`]. Programs ask for the [`Class`] and never read a code themselves.

mod answer;
mod circuit_breakers;
mod class;
pub mod clickhouse;
mod configured;
pub mod contract;
pub mod elasticsearch;
mod health;
mod mapping;
mod request_limit;
mod types;

pub use circuit_breakers::{CircuitBreakers, Permit};
pub use class::Class;
pub use configured::{Change, ConfigError, ConfigureError};
use mapping::did_you_mean;
pub use mapping::{Mapping, MappingError};
pub use request_limit::RequestLimit;
