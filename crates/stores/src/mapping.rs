use std::collections::BTreeMap;

use batch::VERSION_COLUMN;

/// Name that [`VERSION_COLUMN`] has in a target table unless renamed: a leading underscore would
/// look like one of ClickHouse's virtual columns.
const VERSION_TARGET: &str = "version";

/// The names that the source's columns have in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    strip_prefix: String,
    rename: BTreeMap<String, String>,
}

/// Two columns would have one name in the store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "columns {first:?} and {second:?} would both be named {target:?}; give one of them another name in `rename`"
)]
pub struct MappingError {
    pub first: String,
    pub second: String,
    pub target: String,
}

impl Mapping {
    /// `rename` (source name to target name) takes precedence over `strip_prefix`.
    pub fn new(strip_prefix: impl Into<String>, rename: BTreeMap<String, String>) -> Self {
        Self {
            strip_prefix: strip_prefix.into(),
            rename,
        }
    }

    /// Name of a source column in the store.
    pub fn target_name(&self, source_column: &str) -> String {
        if let Some(name) = self.rename.get(source_column) {
            return name.clone();
        }
        if source_column == VERSION_COLUMN {
            return VERSION_TARGET.to_owned();
        }
        source_column
            .strip_prefix(self.strip_prefix.as_str())
            .filter(|rest| !rest.is_empty())
            .unwrap_or(source_column)
            .to_owned()
    }

    /// The source columns that `rename` names.
    pub(crate) fn renamed(&self) -> impl Iterator<Item = &String> {
        self.rename.keys()
    }

    /// Names of several source columns, in their order; refuses when two would be the same.
    pub fn target_names<'a>(
        &self,
        source_columns: impl IntoIterator<Item = &'a str>,
    ) -> Result<Vec<String>, MappingError> {
        let mut taken = BTreeMap::new();
        source_columns
            .into_iter()
            .map(|source| {
                let target = self.target_name(source);
                match taken.insert(target.clone(), source) {
                    None => Ok(target),
                    Some(first) => Err(MappingError {
                        first: first.to_owned(),
                        second: source.to_owned(),
                        target,
                    }),
                }
            })
            .collect()
    }
}

impl Default for Mapping {
    fn default() -> Self {
        Self::new("processed_", BTreeMap::new())
    }
}

/// ` (did you mean NAME?)`, if one of the names is much like it.
pub(crate) fn did_you_mean(name: &str, names: &[impl AsRef<str>]) -> String {
    let near = settings::nearest(name, names.iter().map(AsRef::as_ref));
    near.map(|near| format!(" (did you mean {near:?}?)"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_goes_the_version_is_named_and_everything_else_stays() {
        let mapping = Mapping::default();
        let names = ["country", "processed_volume", VERSION_COLUMN, "processed_"];
        assert_eq!(
            mapping.target_names(names).unwrap(),
            ["country", "volume", "version", "processed_"]
        );
    }

    #[test]
    fn a_rename_wins() {
        let rename = [("processed_volume", "searches"), (VERSION_COLUMN, "ver")];
        let rename = rename.map(|(from, to)| (from.to_owned(), to.to_owned()));
        let mapping = Mapping::new("processed_", rename.into());
        assert_eq!(mapping.target_name("processed_volume"), "searches");
        assert_eq!(mapping.target_name(VERSION_COLUMN), "ver");
        assert_eq!(mapping.target_name("processed_clicks"), "clicks");
    }

    #[test]
    fn two_columns_with_one_target_name_are_refused_by_name() {
        let refused = Mapping::default().target_names(["volume", "processed_volume"]);
        assert_eq!(
            refused.unwrap_err().to_string(),
            "columns \"volume\" and \"processed_volume\" would both be named \"volume\"; \
             give one of them another name in `rename`"
        );
    }
}
