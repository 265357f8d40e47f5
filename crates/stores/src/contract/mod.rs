//! The contract between the hub and the stores: what must be so that a run loses and changes no value.
//!
//! [`compare`] is pure: it is fed with the hub and with each target as they are described. [`survey()`] asks the stores
//! for their descriptions. A run begins, and a store is configured, only where no [`ContractDifference`] is left that
//! `fleet … configure` does not mend.

mod dictionary;
mod hub;
mod index;
mod lossless;
mod survey;
mod table;

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

pub use dictionary::{DictionaryColumns, DictionaryDescription, DictionaryTarget, LiveDictionary};
pub use hub::{HubDescription, HubEngine};
pub use index::IndexTarget;
pub(crate) use index::compare_fields;
pub use survey::{Comparison, StoreTarget, Unreachable, survey};
pub(crate) use table::compare_table;

use crate::clickhouse::{TableDescription, TargetSettings};
use crate::elasticsearch::ExistingIndex;
use crate::{Mapping, did_you_mean};

/// Something because of which values would be lost or changed, or rows would not be stored.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ContractDifference {
    /// The table, index, dictionary or setting.
    pub place: String,
    /// The column or field, by its name there.
    pub column: Option<String>,
    /// What the hub has, and what is there.
    pub what: String,
    /// What to type or to set.
    pub remedy: String,
    /// Whether `fleet clickhouse configure` or `fleet elasticsearch configure` mends it.
    pub configure_mends: bool,
}

impl ContractDifference {
    pub(crate) fn new(
        place: impl Into<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            place: place.into(),
            column: None,
            what: what.into(),
            remedy: remedy.into(),
            configure_mends: false,
        }
    }

    pub(crate) fn in_column(self, name: &str) -> Self {
        Self {
            column: Some(name.to_owned()),
            ..self
        }
    }

    pub(crate) fn mended_by_configure(self) -> Self {
        Self {
            configure_mends: true,
            ..self
        }
    }
}

impl fmt::Display for ContractDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.place, self.what, self.remedy)
    }
}

/// What rows go to, as it is described.
#[derive(Debug)]
pub enum TargetDescription<'a> {
    /// The table of one replica; `None` where there is none.
    Table {
        settings: &'a TargetSettings,
        replica: &'a str,
        found: Option<&'a TableDescription>,
    },
    /// An index or a follower; `None` where there is none.
    Index {
        target: &'a IndexTarget,
        /// Which of the settings' indices.
        number: usize,
        name: &'a str,
        found: Option<&'a ExistingIndex>,
    },
    /// The dictionary of one replica, and the table that it is loaded from.
    Dictionary {
        target: &'a DictionaryTarget,
        replica: &'a str,
        table: Option<&'a TableDescription>,
        found: &'a DictionaryDescription,
    },
}

/// Compares the hub with itself being read row by row, and with every target.
pub fn compare(hub: &HubDescription, targets: &[TargetDescription<'_>]) -> Vec<ContractDifference> {
    let mut differences = hub::compare_hub(hub);
    for target in targets {
        differences.extend(match target {
            TargetDescription::Table {
                settings,
                replica,
                found,
            } => table::compare(hub, settings, replica, *found),
            TargetDescription::Index {
                target,
                number,
                name,
                found,
            } => index::compare(hub, target, *number, name, *found),
            TargetDescription::Dictionary {
                target,
                replica,
                table,
                found,
            } => dictionary::compare(hub, target, replica, *table, found),
        });
    }
    // What is wrong with the settings is wrong for each replica.
    let mut seen = BTreeSet::new();
    differences.retain(|difference| seen.insert(difference.clone()));
    differences
}

/// `rename` of a store must name columns that a run reads: any other has no effect.
fn compare_rename(section: &str, mapping: &Mapping, known: &[&str]) -> Vec<ContractDifference> {
    let unknown = mapping
        .renamed()
        .filter(|name| !known.contains(&name.as_str()));
    unknown
        .map(|name| {
            let near = did_you_mean(name, known);
            ContractDifference::new(
                format!("{section}.rename"),
                format!("it names column {name:?}, which no run reads{near}"),
                format!("name one of {} there", known.join(", ")),
            )
            .in_column(name)
        })
        .collect()
}

#[cfg(test)]
mod tests;
