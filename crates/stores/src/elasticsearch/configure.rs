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
use crate::{Change, ConfigureError};

/// An index as Elasticsearch describes it.
#[derive(Deserialize)]
struct ExistingIndex {
    #[serde(default)]
    aliases: Map<String, Value>,
    mappings: ExistingMappings,
    settings: Value,
}

#[derive(Deserialize)]
struct ExistingMappings {
    /// `strict`, or `true` or `false` as a text.
    dynamic: Option<Value>,
    #[serde(default)]
    properties: Map<String, Value>,
}

/// The changes that are made, or that would be.
struct ChangeRecorder {
    apply: bool,
    changes: Vec<Change>,
}

impl ChangeRecorder {
    fn new(apply: bool) -> Self {
        Self {
            apply,
            changes: Vec::new(),
        }
    }

    fn note(&mut self, index: &str, what: String) {
        let place = format!("index {index}");
        self.changes.push(Change { place, what });
    }
}

impl Client {
    /// Brings the configured indices into the state that documents of these columns need: creates
    /// those that are missing, adds missing fields (to followers too), sets the alias and the
    /// settings that can be changed, and keeps Elasticsearch from creating one automatically. Returns what it
    /// changed: nothing, when all was in place.
    ///
    /// Refuses, before it changes anything in that index, a field that has another type there.
    pub async fn configure(
        &self,
        settings: &ElasticsearchSettings,
        key: &[Column],
        columns: &[Column],
    ) -> Result<Vec<Change>, ConfigureError> {
        self.change_or_record(ChangeRecorder::new(true), settings, key, columns)
            .await
    }

    /// What [`Client::configure`] would change, or refuse, now. Changes nothing.
    pub async fn diff(
        &self,
        settings: &ElasticsearchSettings,
        key: &[Column],
        columns: &[Column],
    ) -> Result<Vec<Change>, ConfigureError> {
        self.change_or_record(ChangeRecorder::new(false), settings, key, columns)
            .await
    }

    async fn change_or_record(
        &self,
        mut recorder: ChangeRecorder,
        settings: &ElasticsearchSettings,
        key: &[Column],
        columns: &[Column],
    ) -> Result<Vec<Change>, ConfigureError> {
        settings.check().map_err(ConfigureError::Invalid)?;
        let mapping = settings.mapping();
        let wanted = settings.indices.iter().map(|index| {
            let fields = fields::fields_of_index(index, key, columns, &mapping)?;
            Ok((index, fields))
        });
        // All of them, before anything is changed.
        let wanted = wanted.collect::<Result<Vec<_>, ConfigureError>>()?;
        for (index, fields) in wanted {
            self.configure_index(index, &fields, &mut recorder).await?;
        }
        Ok(recorder.changes)
    }

    async fn configure_index(
        &self,
        wanted: &IndexSettings,
        fields: &[IndexField],
        recorder: &mut ChangeRecorder,
    ) -> Result<(), ConfigureError> {
        let name = &wanted.name;
        self.check_alias(wanted).await?;
        let unguarded = !self.is_guarded(name).await?;
        self.configure_existing_or_new(wanted, fields, recorder)
            .await?;
        if unguarded {
            let template = guard_name(name);
            let template = IndicesPutIndexTemplateParts::Name(&template).url();
            self.put(recorder, &template, guard(name)).await?;
            recorder.note(
                name,
                format!("only made on request now, by template {}", guard_name(name)),
            );
        }
        Ok(())
    }

    async fn configure_existing_or_new(
        &self,
        wanted: &IndexSettings,
        fields: &[IndexField],
        recorder: &mut ChangeRecorder,
    ) -> Result<(), ConfigureError> {
        let name = &wanted.name;
        let Some(existing) = self.index(name).await? else {
            let path = IndicesCreateParts::Index(name).url();
            self.put(recorder, &path, creation(wanted, fields)).await?;
            recorder.note(name, format!("created with {} fields", fields.len()));
            return Ok(());
        };
        check_shards(wanted, &existing)?;
        self.add_fields(name, &existing, fields, recorder).await?;
        self.update_settings(wanted, &existing, recorder).await?;
        if !wanted.alias.is_empty() && !existing.aliases.contains_key(&wanted.alias) {
            let path = IndicesPutAliasParts::IndexName(&[name], &wanted.alias).url();
            self.put(recorder, &path, json!({})).await?;
            recorder.note(name, format!("has alias {} now", wanted.alias));
        }
        for follower in self.followers(name).await? {
            if let Some(existing) = self.index(&follower).await? {
                self.add_fields(&follower, &existing, fields, recorder)
                    .await?;
            }
        }
        Ok(())
    }

    /// Whether the index template is in place that keeps Elasticsearch from creating this index automatically.
    async fn is_guarded(&self, index: &str) -> Result<bool, Error> {
        let template = guard_name(index);
        let path = IndicesGetIndexTemplateParts::Name(&template).url();
        let found: Result<Value, Error> = self.get(&path, &[]).await;
        let found = match found {
            Err(Error::Exception { status: 404, .. }) => return Ok(false),
            result => result?,
        };
        let (there, wanted) = (&found["index_templates"][0]["index_template"], guard(index));
        let same = |(name, value): (&String, &Value)| there[name] == *value;
        Ok(wanted
            .as_object()
            .is_some_and(|wanted| wanted.iter().all(same)))
    }

    async fn put(&self, recorder: &ChangeRecorder, path: &str, body: Value) -> Result<(), Error> {
        if recorder.apply {
            self.put_json(path, &body).await?;
        }
        Ok(())
    }

    /// The index of this name; `None` when there is none.
    async fn index(&self, name: &str) -> Result<Option<ExistingIndex>, ConfigureError> {
        let found: Result<BTreeMap<String, ExistingIndex>, Error> = self
            .get(
                &IndicesGetParts::Index(&[name]).url(),
                &[("flat_settings", "true")],
            )
            .await;
        match found {
            Err(Error::Exception { status: 404, .. }) => Ok(None),
            Err(error) => Err(error.into()),
            Ok(mut found) => match found.remove(name) {
                Some(index) => Ok(Some(index)),
                None => Err(conflict(
                    name,
                    format!(
                        "it is an alias of {}: name the index itself",
                        found.into_keys().collect::<Vec<_>>().join(", ")
                    ),
                )),
            },
        }
    }

    /// Refuses an alias that readers know as another index: they would find every row twice.
    async fn check_alias(&self, wanted: &IndexSettings) -> Result<(), ConfigureError> {
        if wanted.alias.is_empty() {
            return Ok(());
        }
        let path = IndicesGetAliasParts::Name(&[&wanted.alias]).url();
        let found: Result<BTreeMap<String, Value>, Error> = self.get(&path, &[]).await;
        let holders = match found {
            Err(Error::Exception { status: 404, .. }) => return Ok(()),
            result => result?,
        };
        match holders.keys().find(|holder| **holder != wanted.name) {
            None => Ok(()),
            Some(other) => Err(conflict(
                &wanted.name,
                format!(
                    "its alias {:?} belongs to {other:?}; take it off there first, or leave `alias` empty",
                    wanted.alias
                ),
            )),
        }
    }

    async fn add_fields(
        &self,
        index: &str,
        existing: &ExistingIndex,
        fields: &[IndexField],
        recorder: &mut ChangeRecorder,
    ) -> Result<(), ConfigureError> {
        let (mut properties, mut said) = (Map::new(), Vec::new());
        for field in fields {
            let name = &field.name;
            let Some(there) = existing.mappings.properties.get(name) else {
                properties.insert(name.clone(), field.mapping.clone());
                said.push(format!("field {name} is new"));
                continue;
            };
            match fields::fit(there, &field.mapping) {
                FieldFit::Good => {}
                FieldFit::Change(mapping) => {
                    said.push(format!("field {name} is {mapping} now; it was {there}"));
                    properties.insert(name.clone(), mapping);
                }
                FieldFit::Conflict => {
                    return Err(conflict(
                        index,
                        format!(
                            "field {name:?} is {there}, which cannot become {}; make a new index, \
                             or give the field another name in `rename`",
                            field.mapping
                        ),
                    ));
                }
            }
        }
        if existing
            .mappings
            .dynamic
            .as_ref()
            .is_none_or(|dynamic| dynamic != "strict")
        {
            said.push("unknown fields are refused now".to_owned());
        }
        if said.is_empty() {
            return Ok(());
        }
        let body = json!({ "dynamic": "strict", "properties": properties });
        let path = IndicesPutMappingParts::Index(&[index]).url();
        self.put(recorder, &path, body).await?;
        said.into_iter().for_each(|what| recorder.note(index, what));
        Ok(())
    }

    async fn update_settings(
        &self,
        wanted: &IndexSettings,
        existing: &ExistingIndex,
        recorder: &mut ChangeRecorder,
    ) -> Result<(), ConfigureError> {
        let mut different = Map::new();
        for (name, value) in changeable(wanted) {
            let there = existing.settings[&name].as_str().unwrap_or("unset");
            if there != value {
                let what = format!("{name} is {value} now; it was {there}");
                recorder.note(&wanted.name, what);
                different.insert(name, Value::String(value));
            }
        }
        if !different.is_empty() {
            let path = IndicesPutSettingsParts::Index(&[&wanted.name]).url();
            self.put(recorder, &path, Value::Object(different)).await?;
        }
        Ok(())
    }
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
    let replicas = index
        .replicas
        .map(|n| ("index.number_of_replicas", n.to_string()));
    let refresh = index
        .refresh_interval
        .clone()
        .map(|i| ("index.refresh_interval", i));
    let set = replicas.into_iter().chain(refresh);
    set.map(|(name, value)| (name.to_owned(), value)).collect()
}

fn creation(index: &IndexSettings, fields: &[IndexField]) -> Value {
    let mut settings = changeable(index);
    if let Some(shards) = index.shards {
        settings.insert("index.number_of_shards".to_owned(), shards.to_string());
    }
    let properties: Map<String, Value> = fields
        .iter()
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
    let Some(shards) = wanted.shards else {
        return Ok(());
    };
    let there = existing.settings["index.number_of_shards"]
        .as_str()
        .unwrap_or("?");
    if there == shards.to_string() {
        return Ok(());
    }
    Err(conflict(
        &wanted.name,
        format!(
            "it has {there} shards, and {shards} are configured; that cannot be changed: set `shards` to {there}, or make a new index"
        ),
    ))
}

fn conflict(index: &str, what: String) -> ConfigureError {
    ConfigureError::Conflict {
        place: format!("index {index}"),
        what,
    }
}
