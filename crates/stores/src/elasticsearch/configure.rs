use std::collections::BTreeMap;

use ::elasticsearch::http::Method;
use batch::Column;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::fields::{self, Field, Fit};
use super::{Client, Error, IndexSettings, Settings};
use crate::{Change, ConfigureError};

/// An index as Elasticsearch describes it.
#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    aliases: Map<String, Value>,
    mappings: Mappings,
    settings: Value,
}

#[derive(Deserialize)]
struct Mappings {
    /// `strict`, or `true` or `false` as a text.
    dynamic: Option<Value>,
    #[serde(default)]
    properties: Map<String, Value>,
}

/// What is done, or only found out.
struct Work {
    apply: bool,
    changes: Vec<Change>,
}

impl Work {
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
    /// Makes the configured indices what they have to be for documents of these columns: creates
    /// those that are missing, adds missing fields (to followers too), sets the alias and the
    /// settings that can be changed, and forbids Elasticsearch to make one of its own accord. Says what it
    /// changed; nothing, when all was well.
    ///
    /// Refuses, before it changes anything in that index, a field that has another type there.
    pub async fn configure(
        &self,
        settings: &Settings,
        key: &[Column],
        columns: &[Column],
    ) -> Result<Vec<Change>, ConfigureError> {
        self.work_through(Work::new(true), settings, key, columns)
            .await
    }

    /// What [`Client::configure`] would change, or refuse, now. Changes nothing.
    pub async fn diff(
        &self,
        settings: &Settings,
        key: &[Column],
        columns: &[Column],
    ) -> Result<Vec<Change>, ConfigureError> {
        self.work_through(Work::new(false), settings, key, columns)
            .await
    }

    async fn work_through(
        &self,
        mut work: Work,
        settings: &Settings,
        key: &[Column],
        columns: &[Column],
    ) -> Result<Vec<Change>, ConfigureError> {
        check_names(&settings.indices)?;
        let mapping = settings.mapping();
        let wanted = settings.indices.iter().map(|index| {
            let fields = fields::of_index(index, key, columns, &mapping)?;
            Ok((index, fields))
        });
        // All of them, before anything is changed.
        let wanted = wanted.collect::<Result<Vec<_>, ConfigureError>>()?;
        for (index, fields) in wanted {
            self.configure_index(index, &fields, &mut work).await?;
        }
        Ok(work.changes)
    }

    async fn configure_index(
        &self,
        wanted: &IndexSettings,
        fields: &[Field],
        work: &mut Work,
    ) -> Result<(), ConfigureError> {
        let name = &wanted.name;
        self.check_alias(wanted).await?;
        let unguarded = !self.is_guarded(name).await?;
        self.configure_existing_or_new(wanted, fields, work).await?;
        if unguarded {
            self.put(work, guard_path(name), guard(name)).await?;
            work.note(
                name,
                format!("only made on request now, by template {}", guard_name(name)),
            );
        }
        Ok(())
    }

    async fn configure_existing_or_new(
        &self,
        wanted: &IndexSettings,
        fields: &[Field],
        work: &mut Work,
    ) -> Result<(), ConfigureError> {
        let name = &wanted.name;
        let Some(existing) = self.index(name).await? else {
            self.put(work, path(name, ""), creation(wanted, fields))
                .await?;
            work.note(name, format!("created with {} fields", fields.len()));
            return Ok(());
        };
        check_shards(wanted, &existing)?;
        self.add_fields(name, &existing, fields, work).await?;
        self.update_settings(wanted, &existing, work).await?;
        if !wanted.alias.is_empty() && !existing.aliases.contains_key(&wanted.alias) {
            let alias = path(name, &format!("/_alias/{}", wanted.alias));
            self.put(work, alias, json!({})).await?;
            work.note(name, format!("has alias {} now", wanted.alias));
        }
        for follower in self.followers(name).await? {
            if let Some(existing) = self.index(&follower).await? {
                self.add_fields(&follower, &existing, fields, work).await?;
            }
        }
        Ok(())
    }

    /// Whether the index template that forbids to make this index unasked is there, as it has to be.
    async fn is_guarded(&self, index: &str) -> Result<bool, Error> {
        let found: Result<Value, Error> = self.get(&guard_path(index), &[]).await;
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

    async fn put(&self, work: &Work, path: String, body: Value) -> Result<(), Error> {
        match work.apply {
            true => self.send_json(Method::Put, &path, &body).await,
            false => Ok(()),
        }
    }

    /// The index of this name; `None` when there is none.
    async fn index(&self, name: &str) -> Result<Option<Index>, ConfigureError> {
        let found: Result<BTreeMap<String, Index>, Error> = self
            .get(&path(name, ""), &[("flat_settings", "true")])
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
        let found: Result<BTreeMap<String, Value>, Error> =
            self.get(&format!("/_alias/{}", wanted.alias), &[]).await;
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
        existing: &Index,
        fields: &[Field],
        work: &mut Work,
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
                Fit::Good => {}
                Fit::Change(mapping) => {
                    said.push(format!("field {name} is {mapping} now; it was {there}"));
                    properties.insert(name.clone(), mapping);
                }
                Fit::Conflict => {
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
        self.put(work, path(index, "/_mapping"), body).await?;
        said.into_iter().for_each(|what| work.note(index, what));
        Ok(())
    }

    async fn update_settings(
        &self,
        wanted: &IndexSettings,
        existing: &Index,
        work: &mut Work,
    ) -> Result<(), ConfigureError> {
        let mut different = Map::new();
        for (name, value) in changeable(wanted) {
            let there = existing.settings[&name].as_str().unwrap_or("unset");
            if there != value {
                let what = format!("{name} is {value} now; it was {there}");
                work.note(&wanted.name, what);
                different.insert(name, Value::String(value));
            }
        }
        if !different.is_empty() {
            let settings = path(&wanted.name, "/_settings");
            self.put(work, settings, Value::Object(different)).await?;
        }
        Ok(())
    }
}

/// Below what an operator's own templates have: only the one of the highest priority counts, and an index that an
/// operator creates is to get what the operator's template says.
const GUARD_PRIORITY: u64 = 1;

fn guard_name(index: &str) -> String {
    format!("fleet-{index}")
}

fn guard_path(index: &str) -> String {
    format!("/_index_template/{}", guard_name(index))
}

/// An index template that is there for one thing: a bulk request to a deleted index, or to a deleted follower, fails
/// instead of making it anew with guessed types. An index that somebody creates gets nothing from it.
fn guard(index: &str) -> Value {
    json!({
        "index_patterns": [index, format!("{index}-follower-*")],
        "priority": GUARD_PRIORITY,
        "allow_auto_create": false,
    })
}

/// Names go into paths as they are, so what would be read as a pattern or a list is refused here.
fn check_names(indices: &[IndexSettings]) -> Result<(), ConfigureError> {
    let invalid = |what: String| Err(ConfigureError::Invalid(what));
    let good = |name: &str| {
        let allowed = |c: char| !c.is_uppercase() && !" \"*\\<|,>/?#:%".contains(c);
        name.len() <= 255 && name.chars().all(allowed)
    };
    for (n, index) in indices.iter().enumerate() {
        for name in [&index.name, &index.alias] {
            if !name.is_empty() && !good(name) {
                return invalid(format!(
                    "elasticsearch.indices[{n}]: {name:?} cannot be the name of an index or an alias"
                ));
            }
        }
        if index.name.is_empty() {
            return invalid(format!("elasticsearch.indices[{n}] has no name"));
        }
        if indices[..n].iter().any(|other| other.name == index.name) {
            return invalid(format!("index {:?} is configured twice", index.name));
        }
    }
    Ok(())
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

fn creation(index: &IndexSettings, fields: &[Field]) -> Value {
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

fn check_shards(wanted: &IndexSettings, existing: &Index) -> Result<(), ConfigureError> {
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

fn path(index: &str, rest: &str) -> String {
    format!("/{index}{rest}")
}

fn conflict(index: &str, what: String) -> ConfigureError {
    ConfigureError::Conflict {
        place: format!("index {index}"),
        what,
    }
}
