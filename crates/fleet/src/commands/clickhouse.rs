//! `fleet clickhouse …`: the tables that ch-writer writes to.

use settings::InvalidSettings;
use stores::clickhouse::Cluster;
use stores::clickhouse::ddl::{TargetTable, configure_target, diff_target};

use crate::config::Config;
use crate::context::Context;
use crate::exit::Exit;

#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Create the target tables, or bring them up to date with the columns of the source
    ///
    /// On every replica of every shard: the database and the table are created, missing columns added, the
    /// deduplication window set. Done again it changes nothing. A table of another engine or key, or a column
    /// of another type, is an error that names it.
    Configure {
        /// Only say what would change; exit code 6 if anything
        #[arg(long)]
        dry_run: bool,
    },
}

pub fn run(action: Action, context: &Context) -> anyhow::Result<Exit> {
    let config = context.config()?;
    super::block_on(async {
        match action {
            Action::Configure { dry_run } => configure(&config, dry_run, context).await,
        }
    })
}

async fn configure(config: &Config, dry_run: bool, context: &Context) -> anyhow::Result<Exit> {
    let source = Cluster::new(&config.source.connection())?;
    let target = Cluster::new(&config.clickhouse.connection())?;
    same_shards(&source, &target)?;
    let carried = queuer::source_columns(&source, &config.source).await?;
    let table = TargetTable::new(&config.clickhouse, &carried.key, &carried.columns)?;
    let changes = match dry_run {
        true => diff_target(&target, &table).await?,
        false => configure_target(&target, &table).await?,
    };
    super::report_changes("The tables are as configured.", &changes, dry_run, context)
}

/// Rows of a shard of the source go to the target's shard of the same number: there must be one.
fn same_shards(source: &Cluster, target: &Cluster) -> Result<(), InvalidSettings> {
    let (source, target) = (source.shard_count(), target.shard_count());
    if source == target {
        return Ok(());
    }
    Err(InvalidSettings::one(
        "clickhouse.cluster",
        format!(
            "the number of its shards is {target}, that of source.cluster {source}: they must be the same"
        ),
    ))
}
