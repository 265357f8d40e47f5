use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use settings::Secret;

use crate::{ConfigError, Mapping};

/// The customer-facing Elasticsearch: where documents are written.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ElasticsearchSettings {
    /// Addresses of nodes, such as `https://es1:9200`: requests take turns over them.
    pub urls: Vec<String>,
    /// User of basic authentication; none without one. `fleet elasticsearch configure` needs the cluster privilege
    /// `manage_index_templates` in addition to the right to create and change the indices. The queuer and `fleet check`
    /// compare the indices with the hub: that needs the index privilege `view_index_metadata`.
    pub user: Option<String>,
    /// Password of the user.
    pub password: Option<Secret>,
    /// API key, in its encoded form; it takes precedence over the user.
    pub api_key: Option<Secret>,
    /// Prefix that the names of source columns lose in documents.
    pub strip_prefix: String,
    /// Names of fields in documents, by the names of the columns in the source.
    pub rename: BTreeMap<String, String>,
    /// Fields that indices may have although no column gives them to documents, such as those of a column that the
    /// source has no longer: documents lose them when they are written again.
    pub own_fields: Vec<String>,
    /// The indices that every row goes to.
    pub indices: Vec<IndexSettings>,
    /// Longest time for one request, in seconds.
    pub request_timeout_seconds: u64,
    /// Cooldown of a node that failed, in seconds: it is tried after the others until then.
    pub node_cooldown_seconds: u64,
    /// How often the followers of the indices are looked up, in seconds.
    pub followers_seconds: u64,
}

impl Default for ElasticsearchSettings {
    fn default() -> Self {
        Self {
            urls: vec!["http://localhost:9200".to_owned()],
            user: None,
            password: None,
            api_key: None,
            strip_prefix: "processed_".to_owned(),
            rename: BTreeMap::new(),
            own_fields: Vec::new(),
            indices: vec![IndexSettings::all(), IndexSettings::lite()],
            // Elasticsearch itself waits a minute for a missing shard (`timeout` of _bulk):
            // its own answer says more than a timeout here would.
            request_timeout_seconds: 90,
            node_cooldown_seconds: 30,
            followers_seconds: 60,
        }
    }
}

impl ElasticsearchSettings {
    /// How columns are named in documents.
    pub fn mapping(&self) -> Mapping {
        Mapping::new(self.strip_prefix.clone(), self.rename.clone())
    }

    /// Refuses indices that cannot be written to: none at all, one without a name, two of one name, or a name that
    /// Elasticsearch would read as a pattern or a list.
    pub fn check(&self) -> Result<(), ConfigError> {
        let invalid = |what: String| Err(ConfigError(format!("elasticsearch.indices{what}")));
        if self.indices.is_empty() {
            return invalid(" names no index to write to".to_owned());
        }
        for (n, index) in self.indices.iter().enumerate() {
            let mut names = [&index.name, &index.alias].into_iter();
            if let Some(name) = names.find(|name| !is_plain(name)) {
                return invalid(format!(
                    "[{n}]: {name:?} cannot be the name of an index or an alias"
                ));
            }
            let name = &index.name;
            if name.is_empty() {
                return invalid(format!("[{n}] has no name"));
            }
            if self.indices[..n].iter().any(|other| other.name == *name) {
                return invalid(format!(": index {name:?} is configured twice"));
            }
        }
        Ok(())
    }
}

/// Whether Elasticsearch takes it as the name of one index: <https://www.elastic.co/docs/api/doc/elasticsearch/operation/operation-indices-create>.
fn is_plain(name: &str) -> bool {
    let is_allowed = |c: char| !c.is_uppercase() && !" \"*\\<|,>/?#:%".contains(c);
    name.len() <= 255 && name.chars().all(is_allowed)
}

/// One index, with its followers: open indices named `NAME-follower-*` get the same documents.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct IndexSettings {
    /// Name of the index.
    pub name: String,
    /// Alias that readers use; none when empty.
    pub alias: String,
    /// Fields of a document in addition to those of the key, by their names in documents; `*` is all.
    pub fields: Vec<String>,
    /// Rows below this are left out of the index.
    pub minimum: Option<Minimum>,
    /// Number of shards at creation; Elasticsearch's default (1) without it. It cannot be changed later.
    pub shards: Option<u32>,
    /// Number of copies of each shard; without it, Elasticsearch's default (1) at creation, and
    /// whatever it is later.
    pub replicas: Option<u32>,
    /// How soon documents can be searched, such as `1s` or `-1`; without it, Elasticsearch's default
    /// at creation, and whatever it is later.
    pub refresh_interval: Option<String>,
}

/// The least that a field must be for a row to be in the index.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Minimum {
    /// Name of a numeric field as it is in documents; the index need not have it.
    pub field: String,
    /// Rows with a smaller value, or none, are left out.
    pub value: f64,
}

impl Default for IndexSettings {
    fn default() -> Self {
        Self {
            name: String::new(),
            alias: String::new(),
            fields: vec!["*".to_owned()],
            minimum: None,
            shards: None,
            replicas: None,
            refresh_interval: None,
        }
    }
}

impl IndexSettings {
    fn all() -> Self {
        Self {
            name: "keywords-all-20220613".to_owned(),
            alias: "keywords-all".to_owned(),
            ..Self::default()
        }
    }

    fn lite() -> Self {
        Self {
            name: "keywords-lite-20241025".to_owned(),
            alias: "keywords-lite".to_owned(),
            fields: vec!["volume".to_owned()],
            // A keyword searched less than ten times a month is left to the full index.
            minimum: Some(Minimum {
                field: "volume".to_owned(),
                value: 10.0,
            }),
            ..Self::default()
        }
    }

    /// Whether documents have the field; those of the key they have anyway.
    pub fn selects(&self, field: &str) -> bool {
        self.fields.iter().any(|name| name == "*" || name == field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_has_all_fields_or_those_it_names() {
        let defaults = ElasticsearchSettings::default();
        assert!(defaults.indices[0].selects("anything"));
        assert!(defaults.indices[1].selects("volume"));
        assert!(!defaults.indices[1].selects("clicks"));
    }

    #[test]
    fn unknown_keys_are_refused() {
        let index = r#"{"name": "i", "feilds": "*"}"#;
        let error = serde_json::from_str::<IndexSettings>(index).unwrap_err();
        assert!(error.to_string().contains("feilds"), "{error}");
    }
}
