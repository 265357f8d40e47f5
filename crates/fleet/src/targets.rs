//! What the rows of a pipeline go to, by the settings of its programs.

use settings::InvalidSettings;
use stores::contract::{IndexTarget, StoreTarget};
use topology::Topology;

use crate::config::Config;
use crate::context::Context;

/// The targets of the pipeline's programs, each with the settings of its own process; without a pipeline, those of the
/// general settings.
pub fn targets(
    context: &Context,
    topology: Option<&Topology>,
) -> Result<Vec<StoreTarget>, InvalidSettings> {
    let Some(topology) = topology else {
        let config = context.config()?;
        return Ok(vec![tables(&config), indices(&config), dictionary(&config)]);
    };
    let mut targets = Vec::new();
    for program in &topology.programs {
        let target = match program.role.name {
            name if name == ch_writer::ROLE.name => tables,
            name if name == es_writer::ROLE.name => indices,
            name if name == dict_refresher::ROLE.name => dictionary,
            _ => continue,
        };
        let target = target(&context.load(Some(&program.name))?.settings);
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    Ok(targets)
}

pub fn tables(config: &Config) -> StoreTarget {
    StoreTarget::Tables(Box::new(config.clickhouse.clone()))
}

pub fn indices(config: &Config) -> StoreTarget {
    StoreTarget::Indices(Box::new(IndexTarget {
        settings: config.elasticsearch.clone(),
        key_columns: config.es_writer.key_columns.clone(),
    }))
}

fn dictionary(config: &Config) -> StoreTarget {
    StoreTarget::Dictionary(Box::new(config.dictionary.target(&config.clickhouse)))
}
