use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A list, written as a list or as one text with commas, as an environment variable has to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(from = "Written", into = "Vec<String>")]
#[schemars(with = "Written")]
pub struct OneOrMany(Vec<String>);

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum Written {
    /// Separated by commas.
    Text(String),
    List(Vec<String>),
}

impl OneOrMany {
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Written> for OneOrMany {
    fn from(written: Written) -> Self {
        match written {
            Written::Text(text) => text
                .split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
                .collect(),
            Written::List(list) => Self(list),
        }
    }
}

impl From<OneOrMany> for Vec<String> {
    fn from(list: OneOrMany) -> Self {
        list.0
    }
}

impl<T: Into<String>> FromIterator<T> for OneOrMany {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self(items.into_iter().map(Into::into).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_may_be_written_as_text_with_commas() {
        let list: OneOrMany = ["a", "b"].into_iter().collect();
        for written in [r#""a, b,""#, r#"["a","b"]"#] {
            assert_eq!(serde_json::from_str::<OneOrMany>(written).unwrap(), list);
        }
        assert_eq!(serde_json::to_string(&list).unwrap(), r#"["a","b"]"#);
    }
}
