//! Asks the stores for their descriptions, and compares.

use std::collections::BTreeMap;

use futures_util::{StreamExt, stream};
use serde::Deserialize;

use super::{
    ContractDifference, DictionaryDescription, DictionaryTarget, HubDescription, IndexTarget,
    LiveDictionary, TargetDescription, compare,
};
use crate::clickhouse::{Cluster, Error, Query, Replica, TargetSettings};
use crate::elasticsearch::{Client, ExistingIndex};
use crate::{ConfigError, ConfigureError};

/// Replicas that are asked at once: the answers are small, so this bounds connections, not memory.
const REPLICAS_AT_ONCE: usize = 16;

/// What the rows of a run go to, by its settings.
#[derive(Clone, Debug, PartialEq)]
pub enum StoreTarget {
    Tables(Box<TargetSettings>),
    Indices(Box<IndexTarget>),
    Dictionary(Box<DictionaryTarget>),
}

/// What a comparison of the hub and its targets found.
#[derive(Debug, Default)]
pub struct Comparison {
    pub differences: Vec<ContractDifference>,
    pub unreachable: Vec<Unreachable>,
}

/// A target that could not be asked.
#[derive(Debug)]
pub struct Unreachable {
    pub error: ConfigureError,
    /// Whether another replica of its shard answered.
    pub has_substitute: bool,
}

/// Compares the hub with each target: the tables and dictionaries of the replicas of these shards (of all of them, if
/// none is named), the indices and their followers.
pub async fn survey(
    hub: &HubDescription,
    targets: &[StoreTarget],
    shards: &[u32],
) -> Result<Comparison, ConfigError> {
    let mut differences = compare(hub, &[]);
    let mut unreachable = Vec::new();
    for target in targets {
        let found = match target {
            StoreTarget::Tables(settings) => survey_tables(hub, settings, shards).await?,
            StoreTarget::Indices(target) => survey_indices(hub, target).await?,
            StoreTarget::Dictionary(target) => survey_dictionaries(hub, target, shards).await?,
        };
        unreachable.extend(found.unreachable);
        let new = found.differences.into_iter();
        let new: Vec<_> = new.filter(|new| !differences.contains(new)).collect();
        differences.extend(new);
    }
    Ok(Comparison {
        differences,
        unreachable,
    })
}

async fn survey_tables(
    hub: &HubDescription,
    settings: &TargetSettings,
    shards: &[u32],
) -> Result<Comparison, ConfigError> {
    let cluster = Cluster::new(&settings.connection())?;
    let ask = async |replica: &Replica| {
        let found = replica
            .describe(&settings.database, &settings.table)
            .await?;
        let replica = replica.address();
        let table = TargetDescription::Table {
            settings,
            replica,
            found: found.as_ref(),
        };
        Ok(compare(hub, &[table]))
    };
    Ok(ask_replicas(&cluster, shards, ask).await)
}

async fn survey_dictionaries(
    hub: &HubDescription,
    target: &DictionaryTarget,
    shards: &[u32],
) -> Result<Comparison, ConfigError> {
    let settings = &target.table;
    let cluster = Cluster::new(&settings.connection())?;
    let ask = async |replica: &Replica| {
        let table = replica
            .describe(&settings.database, &settings.table)
            .await?;
        let found = describe_dictionary(replica, target).await?;
        let dictionary = TargetDescription::Dictionary {
            target,
            replica: replica.address(),
            table: table.as_ref(),
            found: &found,
        };
        Ok(compare(hub, &[dictionary]))
    };
    Ok(ask_replicas(&cluster, shards, ask).await)
}

/// Asks each replica of the shards for its differences.
async fn ask_replicas(
    cluster: &Cluster,
    shards: &[u32],
    ask: impl AsyncFn(&Replica) -> Result<Vec<ContractDifference>, Error>,
) -> Comparison {
    let replicas = cluster.shards();
    let replicas = replicas.filter(|shard| shards.is_empty() || shards.contains(&shard.number()));
    let replicas = replicas.flat_map(|shard| {
        let mut replicas = shard.replicas();
        replicas.sort_by_key(|replica| replica.address());
        replicas
            .into_iter()
            .map(|replica| (shard.number(), replica))
    });
    let replicas: Vec<(u32, &Replica)> = replicas.collect();
    let ask = &ask;
    let answers =
        stream::iter(replicas).map(|(shard, replica)| async move { (shard, ask(replica).await) });
    let answers: Vec<_> = answers.buffered(REPLICAS_AT_ONCE).collect().await;
    let mut answered = BTreeMap::new();
    for (shard, answer) in &answers {
        *answered.entry(*shard).or_insert(false) |= answer.is_ok();
    }
    let mut comparison = Comparison::default();
    for (shard, answer) in answers {
        match answer {
            Ok(differences) => comparison.differences.extend(differences),
            Err(error) => comparison.unreachable.push(Unreachable {
                error: error.into(),
                has_substitute: answered[&shard],
            }),
        }
    }
    comparison
}

#[derive(Deserialize)]
struct PlaceRow {
    database_engine: Vec<String>,
    engine: Vec<String>,
}

async fn describe_dictionary(
    replica: &Replica,
    target: &DictionaryTarget,
) -> Result<DictionaryDescription, Error> {
    let bound = |sql: &str| {
        Query::new(sql)
            .param("database", &target.database)
            .param("name", &target.name)
    };
    let place = bound(
        "SELECT (SELECT groupArray(engine) FROM system.databases WHERE name = {database:String}) AS database_engine, \
         (SELECT groupArray(engine) FROM system.tables WHERE database = {database:String} AND name = {name:String}) AS engine",
    );
    let live = bound(
        "SELECT key.names AS key, attribute.names AS attributes FROM system.dictionaries \
         WHERE database = {database:String} AND name = {name:String}",
    );
    let place: Option<PlaceRow> = replica.rows(&place).await?.pop();
    let mut place = place.unwrap_or(PlaceRow {
        database_engine: Vec::new(),
        engine: Vec::new(),
    });
    Ok(DictionaryDescription {
        database_engine: place.database_engine.pop(),
        engine: place.engine.pop(),
        live: replica.rows::<LiveDictionary>(&live).await?.pop(),
    })
}

async fn survey_indices(
    hub: &HubDescription,
    target: &IndexTarget,
) -> Result<Comparison, ConfigError> {
    let settings = &target.settings;
    settings.check()?;
    let client = Client::new(settings)?;
    let mut comparison = Comparison::default();
    for (number, index) in settings.indices.iter().enumerate() {
        match describe_index(&client, &index.name).await {
            Ok(described) => {
                let described = described.iter().map(|index| TargetDescription::Index {
                    target,
                    number,
                    name: &index.name,
                    found: index.found.as_ref(),
                });
                let described: Vec<_> = described.collect();
                comparison.differences.extend(compare(hub, &described));
            }
            Err(ConfigureError::Conflict(conflicts)) => comparison.differences.extend(conflicts),
            Err(error) => comparison.unreachable.push(Unreachable {
                error,
                has_substitute: false,
            }),
        }
    }
    Ok(comparison)
}

struct DescribedIndex {
    name: String,
    found: Option<ExistingIndex>,
}

/// The index and its followers.
async fn describe_index(
    client: &Client,
    name: &str,
) -> Result<Vec<DescribedIndex>, ConfigureError> {
    let found = client.index(name).await?;
    let followers = match &found {
        Some(_) => client.followers(name).await?,
        None => Vec::new(),
    };
    let mut described = vec![DescribedIndex {
        name: name.to_owned(),
        found,
    }];
    for name in followers {
        // A follower that goes between the two questions is none.
        if let found @ Some(_) = client.index(&name).await? {
            described.push(DescribedIndex { name, found });
        }
    }
    Ok(described)
}
