use std::fmt;

/// One thing that configuring a store changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where: the address of a replica, or the name of an index.
    pub target: String,
    /// What was done there, in words.
    pub what: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.target, self.what)
    }
}

/// Settings of a store that cannot be used: which, and why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub(crate) String);

/// A store could not be configured. What was changed before stays changed: configuring again continues from there.
#[derive(Debug, thiserror::Error)]
pub enum ConfigureError {
    /// What is asked for cannot be built: nothing was changed.
    #[error("{0}")]
    Invalid(String),
    /// What is there contradicts what is asked for, and changing it could lose data.
    #[error("{target}: {what}")]
    Conflict {
        /// The address of a replica, or the name of an index.
        target: String,
        /// Names the column or the field, both types, and what an operator can do.
        what: String,
    },
    #[error(transparent)]
    ClickHouse(#[from] crate::clickhouse::Error),
    #[error(transparent)]
    Elasticsearch(#[from] crate::elasticsearch::Error),
}
