//! Real services for tests, and ways to make them fail. Development only.
//!
//! Every function here starts the services that it needs (`deploy/local/services up NAME`), and panics with what is
//! missing when it cannot: no test passes because a service is missing.

pub mod clickhouse;
mod elasticsearch;
mod fleet;
mod hub;
mod limiting_proxy;
mod profile;
mod proxy;
mod rabbitmq;
pub mod serp;
mod services;
mod stack;

pub use clickhouse::Database;
pub use elasticsearch::{IndexPrefix, PrivateElasticsearch, http};
pub use fleet::{Fleet, FleetProcess};
pub use hub::Hub;
pub use limiting_proxy::{LimitingProxy, ProxyLimits};
pub use profile::{ProfileAnswer, ProfileServer};
pub use proxy::Proxy;
pub use rabbitmq::{PrivateBroker, VirtualHost};
pub use services::{Services, repository, unique};
pub use stack::Stack;
