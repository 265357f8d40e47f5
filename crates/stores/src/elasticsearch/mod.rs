//! Elasticsearch: bulk requests classified item by item, followers of an index, and the indices themselves.

mod bulk;
mod client;
mod configure;
mod error;
mod fields;
mod followers;
mod settings;

pub use crate::ConfigError;
pub use client::Client;
pub use error::{Error, ItemResult, classify};
pub use followers::Followers;
pub use settings::{ElasticsearchSettings, IndexSettings, Minimum};
