//! `fleet clickhouse configure` and `fleet elasticsearch configure`: what the writers write to.

use queuer::SourceColumns;
use serde_json::json;
use settings::InvalidSettings;
use stores::clickhouse::Cluster;
use stores::clickhouse::ddl::{TargetTable, configure_target};
use stores::contract::{self, StoreTarget};
use stores::elasticsearch::Client;
use stores::{Change, ConfigureError};

use crate::config::Config;
use crate::context::Context;
use crate::exit::Exit;
use crate::targets::{indices, tables};

#[derive(Debug, clap::Subcommand)]
pub enum ClickHouseCommand {
    /// Create the target tables, or bring them up to date with the columns of the source
    ///
    /// On every replica of every shard: the database and the table are created, missing columns added, the
    /// deduplication window set. Done again it changes nothing. What it cannot mend without losing values, such as a table
    /// of another engine or key, or a column that does not hold the source's values, is an error that names it.
    Configure(DryRun),
}

#[derive(Debug, clap::Subcommand)]
pub enum ElasticsearchCommand {
    /// Create the indices, or bring them up to date with the columns of the source
    ///
    /// Missing fields are added, to followers too; fields that are not known are refused from then on;
    /// the alias, the number of replicas and the refresh interval are set. Done again it changes
    /// nothing. A field that has another type in the index, or that no column gives, is an error.
    Configure(DryRun),
}

#[derive(Debug, clap::Args)]
pub struct DryRun {
    /// Only say what would change; exit code 6 if anything
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy)]
pub enum Store {
    ClickHouse,
    Elasticsearch,
}

/// Configures a store for the columns of the source, or finds out what would change.
pub fn run(store: Store, DryRun { dry_run }: &DryRun, context: &Context) -> anyhow::Result<Exit> {
    let (config, dry_run) = (context.config()?, *dry_run);
    let (changes, unchanged) = super::block_on(async {
        Ok(match store {
            Store::ClickHouse => (
                configure_tables(&config, dry_run).await?,
                "The tables are as configured.",
            ),
            Store::Elasticsearch => (
                configure_indices(&config, dry_run).await?,
                "The indices are as configured.",
            ),
        })
    })?;
    let title = match (changes.is_empty(), dry_run) {
        (true, _) => unchanged,
        (false, true) => "To be changed:",
        (false, false) => "Changed:",
    };
    let lines = changes.iter().map(|change| format!("\n  {change}"));
    let text = format!("{title}{}", lines.collect::<String>());
    let changes: Vec<_> = (changes.iter())
        .map(|change| json!({ "target": change.target, "what": change.what }))
        .collect();
    let answer = json!({ "dry_run": dry_run, "changes": changes });
    context.output.answer(&answer, text)?;
    Ok(Exit::differs_if(dry_run && !changes.is_empty()))
}

async fn configure_tables(config: &Config, dry_run: bool) -> anyhow::Result<Vec<Change>> {
    let source = Cluster::new(&config.source.connection())?;
    let target = Cluster::new(&config.clickhouse.connection())?;
    same_shards(&source, &target)?;
    let source = queuer::source_columns(&source, &config.source).await?;
    refuse_what_stays(&source, config, tables(config)).await?;
    let table = TargetTable::new(&config.clickhouse, &source.key, &source.columns)?;
    Ok(configure_target(&target, &table, dry_run).await?)
}

/// Rows of a shard of the source go to the target's shard of the same number: there must be one.
fn same_shards(source: &Cluster, target: &Cluster) -> Result<(), InvalidSettings> {
    let (source, target) = (source.shard_count(), target.shard_count());
    if source == target {
        return Ok(());
    }
    let problem = format!(
        "the number of its shards is {target}, that of source.cluster {source}: they must be the same"
    );
    Err(InvalidSettings::one("clickhouse.cluster", problem))
}

/// Refuses, before anything is changed, what a run would not begin with and configuring does not mend.
async fn refuse_what_stays(
    source: &SourceColumns,
    config: &Config,
    target: StoreTarget,
) -> anyhow::Result<()> {
    let found = contract::survey(&source.hub(&config.source), &[target], &[]).await?;
    ConfigureError::refuse_what_stays(found.differences)?;
    // The first one decides on the exit code.
    match found.unreachable.into_iter().next() {
        Some(target) => Err(target.error.into()),
        None => Ok(()),
    }
}

async fn configure_indices(config: &Config, dry_run: bool) -> anyhow::Result<Vec<Change>> {
    let source = Cluster::new(&config.source.connection())?;
    let client = Client::new(&config.elasticsearch)?;
    let source = queuer::source_columns(&source, &config.source).await?;
    refuse_what_stays(&source, config, indices(config)).await?;
    let (key, columns) = (&source.key, &source.columns);
    let settings = &config.elasticsearch;
    Ok(client.configure(settings, key, columns, dry_run).await?)
}
