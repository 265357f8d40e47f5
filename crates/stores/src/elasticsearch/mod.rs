//! Elasticsearch: bulk requests judged item by item, followers of an index, and the indices themselves.

mod addresses;
mod client;
mod error;
mod followers;
mod settings;

pub use crate::{Change, Class, ConfigureError, Mapping, MappingError};
pub use addresses::OneOrMany;
pub use client::Client;
pub use error::{ConfigError, Error, ItemVerdict, classify, classify_item};
pub use followers::Followers;
pub use settings::{IndexSettings, Minimum, Settings};
