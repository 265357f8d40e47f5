use std::fmt;

use crate::contract::ContractDifference;

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
    #[error("{}", lines(.0))]
    Conflict(Vec<ContractDifference>),
    #[error(transparent)]
    ClickHouse(#[from] crate::clickhouse::Error),
    #[error(transparent)]
    Elasticsearch(#[from] crate::elasticsearch::Error),
}

impl ConfigureError {
    /// Refuses the differences that configuring does not mend.
    pub fn refuse_what_stays(differences: Vec<ContractDifference>) -> Result<(), Self> {
        let stay = differences
            .into_iter()
            .filter(|difference| !difference.configure_mends);
        let stay: Vec<ContractDifference> = stay.collect();
        if stay.is_empty() {
            Ok(())
        } else {
            Err(Self::Conflict(stay))
        }
    }
}

fn lines(differences: &[ContractDifference]) -> String {
    let lines: Vec<String> = differences.iter().map(ToString::to_string).collect();
    lines.join("\n")
}
