use std::borrow::Cow;
use std::collections::BTreeMap;

use ::elasticsearch::indices::{
    IndicesCreateParts, IndicesGetAliasParts, IndicesGetIndexTemplateParts, IndicesGetParts,
    IndicesPutAliasParts, IndicesPutIndexTemplateParts, IndicesPutMappingParts,
    IndicesPutSettingsParts,
};
use batch::Column;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::fields::{self, FieldFit, IndexField};
use super::{Client, ElasticsearchSettings, Error, IndexSettings};
use crate::contract::{ContractDifference, compare_fields};
use crate::{Change, ConfigureError};

/// An index as Elasticsearch describes it.
#[derive(Debug, Deserialize)]
pub struct ExistingIndex {
    #[serde(default)]
    aliases: Map<String, Value>,
    mappings: ExistingMappings,
    settings: Value,
}

impl ExistingIndex {
    /// The mappings of its fields, those of objects inside of them.
    pub(crate) fn properties(&self) -> &Map<String, Value> {
        &self.mappings.properties
    }
}

#[derive(Debug, Deserialize)]
struct ExistingMappings {
    /// `strict`, or `true` or `false` as a text.
    dynamic: Option<Value>,
    #[serde(default)]
    properties: Map<String, Value>,
}

/// A PUT request, and what it changes.
struct PutStep {
    path: Cow<'static, str>,
    body: Value,
    changes: Vec<Change>,
}

impl PutStep {
    fn new(path: Cow<'static, str>, body: Value, index: &str, changes: Vec<String>) -> Self {
        let change = |what| Change {
            target: target(index),
            what,
        };
        Self {
            path,
            body,
            changes: changes.into_iter().map(change).collect(),
        }
    }
}

impl Client {
    /// Brings the configured indices into the state that documents of these columns need: creates
    /// those that are missing, adds missing fields (to followers too), sets the alias and the
    /// settings that can be changed, and keeps Elasticsearch from creating one automatically. Returns what it
    /// changed: nothing, when all was in place. A dry run changes nothing, and returns what would change.
    ///
    /// Refuses, before it changes anything in that index, a field that has another type there, and one that no column
    /// gives.
    pub async fn configure(
        &self,
        settings: &ElasticsearchSettings,
        key: &[Column],
        columns: &[Column],
        dry_run: bool,
    ) -> Result<Vec<Change>, ConfigureError> {
        let checked = settings.check();
        checked.map_err(|e| ConfigureError::Invalid(e.to_string()))?;
        let mapping = settings.mapping();
        let wanted = settings.indices.iter().map(|index| {
            let fields = fields::fields_of_index(index, key, columns, &mapping)?;
            Ok((index, fields))
        });
        // All of them, before anything is changed.
        let wanted = wanted.collect::<Result<Vec<_>, ConfigureError>>()?;
        let mut changes = Vec::new();
        for (index, fields) in wanted {
            for step in self.steps(index, &fields, &settings.own_fields).await? {
                if !dry_run {
                    self.put(&step.path, &step.body).await?;
                }
                changes.extend(step.changes);
            }
        }
        Ok(changes)
    }

    async fn steps(
        &self,
        wanted: &IndexSettings,
        fields: &[IndexField],
        own_fields: &[String],
    ) -> Result<Vec<PutStep>, ConfigureError> {
        self.check_alias(wanted).await?;
        let name = &wanted.name;
        let mut steps = match self.index(name).await? {
            Some(existing) => {
                let steps = self.steps_for_existing(wanted, &existing, fields, own_fields);
                steps.await?
            }
            None => {
                let path = IndicesCreateParts::Index(name).url();
                let what = format!("created with {} fields", fields.len());
                vec![PutStep::new(
                    path,
                    creation(wanted, fields),
                    name,
                    vec![what],
                )]
            }
        };
        if !self.is_guarded(name).await? {
            let template = guard_name(name);
            let path = IndicesPutIndexTemplateParts::Name(&template).url();
            let what = format!("only made on request now, by template {template}");
            steps.push(PutStep::new(path, guard(name), name, vec![what]));
        }
        Ok(steps)
    }

    async fn steps_for_existing(
        &self,
        wanted: &IndexSettings,
        existing: &ExistingIndex,
        fields: &[IndexField],
        own_fields: &[String],
    ) -> Result<Vec<PutStep>, ConfigureError> {
        let name = &wanted.name;
        check_shards(wanted, existing)?;
        let mut steps = Vec::new();
        steps.extend(add_fields(name, existing, fields, own_fields)?);
        steps.extend(update_settings(wanted, existing));
        if !wanted.alias.is_empty() && !existing.aliases.contains_key(&wanted.alias) {
            let path = IndicesPutAliasParts::IndexName(&[name], &wanted.alias).url();
            let what = format!("has alias {} now", wanted.alias);
            steps.push(PutStep::new(path, json!({}), name, vec![what]));
        }
        for follower in self.followers(name).await? {
            if let Some(existing) = self.index(&follower).await? {
                steps.extend(add_fields(&follower, &existing, fields, own_fields)?);
            }
        }
        Ok(steps)
    }

    /// Whether the index template is in place that keeps Elasticsearch from creating this index automatically.
    async fn is_guarded(&self, index: &str) -> Result<bool, Error> {
        let path = IndicesGetIndexTemplateParts::Name(&guard_name(index)).url();
        let found: Option<Value> = self.get(&path, &[]).await?;
        let there = &found.unwrap_or_default()["index_templates"][0]["index_template"];
        let wanted = guard(index);
        let mut wanted = wanted.as_object().into_iter().flatten();
        Ok(wanted.all(|(name, value)| there[name] == *value))
    }

    /// The index of this name; `None` when there is none.
    pub(crate) async fn index(&self, name: &str) -> Result<Option<ExistingIndex>, ConfigureError> {
        let path = IndicesGetParts::Index(&[name]).url();
        let found = self.get(&path, &[("flat_settings", "true")]).await?;
        let Some::<BTreeMap<String, ExistingIndex>>(mut found) = found else {
            return Ok(None);
        };
        if let Some(index) = found.remove(name) {
            return Ok(Some(index));
        }
        let indices: Vec<String> = found.into_keys().collect();
        let indices = indices.join(", ");
        conflict(
            name,
            format!("it is an alias of {indices}"),
            "name the index itself",
        )
    }

    /// Refuses an alias that readers know as another index: they would find every row twice.
    async fn check_alias(&self, wanted: &IndexSettings) -> Result<(), ConfigureError> {
        let alias = &wanted.alias;
        if alias.is_empty() {
            return Ok(());
        }
        let path = IndicesGetAliasParts::Name(&[alias]).url();
        let found: Option<BTreeMap<String, Value>> = self.get(&path, &[]).await?;
        let mut holders = found.unwrap_or_default().into_keys();
        let Some(other) = holders.find(|holder| *holder != wanted.name) else {
            return Ok(());
        };
        let what = format!("its alias {alias:?} belongs to {other:?}");
        let remedy = "take it off there first, or leave `alias` empty";
        conflict(&wanted.name, what, remedy)
    }
}

fn add_fields(
    index: &str,
    existing: &ExistingIndex,
    fields: &[IndexField],
    own_fields: &[String],
) -> Result<Option<PutStep>, ConfigureError> {
    let there = existing.properties();
    ConfigureError::refuse_what_stays(compare_fields(&target(index), fields, there, own_fields))?;
    let (mut properties, mut changes) = (Map::new(), Vec::new());
    for IndexField { name, mapping } in fields {
        let Some(there) = fields::find_field(there, name) else {
            properties.insert(name.clone(), mapping.clone());
            changes.push(format!("field {name} is new"));
            continue;
        };
        match fields::fit(there, mapping) {
            FieldFit::Change(mapping) => {
                changes.push(format!("field {name} is {mapping} now; it was {there}"));
                properties.insert(name.clone(), mapping);
            }
            // What cannot be changed was refused.
            FieldFit::Good | FieldFit::Conflict => {}
        }
    }
    if existing.mappings.dynamic != Some("strict".into()) {
        changes.push("unknown fields are refused now".to_owned());
    }
    let path = IndicesPutMappingParts::Index(&[index]).url();
    let body = json!({ "dynamic": "strict", "properties": properties });
    let needed = !changes.is_empty();
    Ok(needed.then(|| PutStep::new(path, body, index, changes)))
}

fn update_settings(wanted: &IndexSettings, existing: &ExistingIndex) -> Option<PutStep> {
    let (mut different, mut changes) = (Map::new(), Vec::new());
    for (name, value) in changeable(wanted) {
        let there = existing.settings[&name].as_str().unwrap_or("unset");
        if there != value {
            changes.push(format!("{name} is {value} now; it was {there}"));
            different.insert(name, Value::String(value));
        }
    }
    let path = IndicesPutSettingsParts::Index(&[&wanted.name]).url();
    let needed = !changes.is_empty();
    needed.then(|| PutStep::new(path, different.into(), &wanted.name, changes))
}

/// Below the priority of an operator's own templates: only the template of the highest priority applies, and an index
/// that an operator creates gets the operator's.
const GUARD_PRIORITY: u64 = 1;

fn guard_name(index: &str) -> String {
    format!("fleet-{index}")
}

/// An index template with one purpose: a bulk request to a deleted index, or to a deleted follower, fails instead of
/// creating it again with guessed types. An index that an operator creates gets nothing from it.
fn guard(index: &str) -> Value {
    json!({
        "index_patterns": [index, format!("{index}-follower-*")],
        "priority": GUARD_PRIORITY,
        "allow_auto_create": false,
    })
}

/// The settings that are configured and can be changed at any time, by their full names.
fn changeable(index: &IndexSettings) -> BTreeMap<String, String> {
    let replicas = index.replicas.map(|n| n.to_string());
    let set = [
        ("index.number_of_replicas", replicas),
        ("index.refresh_interval", index.refresh_interval.clone()),
    ];
    let set = set.into_iter();
    set.filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect()
}

fn creation(index: &IndexSettings, fields: &[IndexField]) -> Value {
    let mut settings = changeable(index);
    if let Some(shards) = index.shards {
        settings.insert("index.number_of_shards".to_owned(), shards.to_string());
    }
    let fields = fields.iter();
    let properties: Map<String, Value> = fields
        .map(|field| (field.name.clone(), field.mapping.clone()))
        .collect();
    let mut aliases = Map::new();
    if !index.alias.is_empty() {
        aliases.insert(index.alias.clone(), json!({}));
    }
    json!({
        "settings": settings,
        "mappings": { "dynamic": "strict", "properties": properties },
        "aliases": aliases,
    })
}

fn check_shards(wanted: &IndexSettings, existing: &ExistingIndex) -> Result<(), ConfigureError> {
    let there = existing.settings["index.number_of_shards"].as_str();
    let there = there.unwrap_or("?");
    match wanted.shards {
        Some(shards) if shards.to_string() != there => conflict(
            &wanted.name,
            format!("it has {there} shards, and {shards} are configured, which cannot be changed"),
            &format!("set `shards` to {there}, or make a new index"),
        ),
        _ => Ok(()),
    }
}

fn target(index: &str) -> String {
    format!("index {index}")
}

fn conflict<T>(index: &str, what: String, remedy: &str) -> Result<T, ConfigureError> {
    let difference = ContractDifference::new(target(index), what, remedy);
    Err(ConfigureError::Conflict(vec![difference]))
}
