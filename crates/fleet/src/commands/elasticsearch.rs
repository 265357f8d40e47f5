//! `fleet elasticsearch …`: the indices that es-writer writes to.

use stores::clickhouse::Cluster;
use stores::elasticsearch::Client;

use crate::config::Config;
use crate::context::Context;
use crate::exit::Exit;

#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Create the indices, or bring them up to date with the columns of the source
    ///
    /// Missing fields are added, to followers too; fields that are not known are refused from then on;
    /// the alias, the number of replicas and the refresh interval are set. Done again it changes
    /// nothing. A field that has another type in the index is an error: only a new index can change it.
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
    let client = Client::new(&config.elasticsearch)?;
    let carried = queuer::source_columns(&source, &config.source).await?;
    let (key, columns) = (&carried.key, &carried.columns);
    let changes = match dry_run {
        true => client.diff(&config.elasticsearch, key, columns).await?,
        false => {
            client
                .configure(&config.elasticsearch, key, columns)
                .await?
        }
    };
    super::report_changes("The indices are as configured.", &changes, dry_run, context)
}
