//! Elasticsearch: bulk requests classified item by item, followers of an index, and the indices themselves.

mod bulk;
mod client;
mod configure;
mod error;
mod fields;
mod followers;
mod settings;

pub use crate::{Change, Class, ConfigureError, Mapping, MappingError};
pub use client::Client;
pub use error::{ElasticsearchConfigError, Error, ItemVerdict, classify, classify_item};
pub use followers::Followers;
pub use settings::{ElasticsearchSettings, IndexSettings, Minimum};
