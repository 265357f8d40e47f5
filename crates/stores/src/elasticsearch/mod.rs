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
pub(crate) use configure::ExistingIndex;
pub use error::{Error, ItemResult, classify};
pub(crate) use fields::{FieldFit, IndexField, field_names, fields_of_index, find_field, fit};
pub use followers::Followers;
pub use settings::{ElasticsearchSettings, IndexSettings, Minimum};
