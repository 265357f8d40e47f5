use std::collections::BTreeMap;

use app::{AppSettings, DeploymentSettings, HealthSettings, LogSettings, StatsSettings};
use ch_writer::ChWriterSettings;
use dict_refresher::{DictRefresherSettings, DictionarySettings};
use es_writer::EsWriterSettings;
use fetcher::FetcherSettings;
use persister::{GateSettings, PersisterSettings};
use pipeline::BrokerSettings;
use pipeline::broker::{Broker, RabbitMq};
use queuer::QueuerSettings;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serp::SerpSettings;
use serp_restarter::SerpRestarterSettings;
use settings::{InvalidSettings, ProcessSettings, Secret};
use stores::clickhouse::{Cluster, SourceSettings, TargetSettings};
use stores::elasticsearch::{self, ElasticsearchSettings};
use topology::management::Management;
use topology::{Catalog, PipelineSettings};

/// Every setting that there is, by the crates that they belong to.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub deployment: DeploymentSettings,
    pub log: LogSettings,
    pub stats: StatsSettings,
    pub health: HealthSettings,
    pub broker: BrokerSettings,
    pub pipeline: PipelineSettings,
    pub source: SourceSettings,
    pub clickhouse: TargetSettings,
    pub elasticsearch: ElasticsearchSettings,
    pub queuer: QueuerSettings,
    pub fetcher: FetcherSettings,
    pub gates: GateSettings,
    pub persister: PersisterSettings,
    pub ch_writer: ChWriterSettings,
    pub es_writer: EsWriterSettings,
    pub dictionary: DictionarySettings,
    pub dict_refresher: DictRefresherSettings,
    pub serp: SerpSettings,
    pub serp_restarter: SerpRestarterSettings,
    /// Processes that run a role under another name, or with settings of their own.
    pub processes: BTreeMap<String, ProcessSettings>,
}

impl Config {
    /// What the runtime of a program needs.
    pub fn app(&self) -> AppSettings {
        AppSettings {
            deployment: self.deployment.clone(),
            log: self.log.clone(),
            stats: self.stats.clone(),
            health: self.health.clone(),
        }
    }

    /// Refuses what each value alone allows but what cannot work. Reads no file and connects to nothing.
    pub fn check(&self) -> Result<(), InvalidSettings> {
        let others = all([
            self.broker.retry_schedule().map(drop),
            self.pipeline.check(),
            self.check_indices(),
            self.queuer.check(),
            self.fetcher.check("fetcher"),
            self.gates.check(),
            self.persister.check("persister"),
            self.ch_writer.check("ch_writer"),
            self.es_writer.check("es_writer"),
            self.dictionary.check("dictionary"),
            self.dict_refresher.check("dict_refresher"),
            self.serp.check(),
            self.serp_restarter.check("serp_restarter", &self.serp),
        ]);
        InvalidSettings::join([self.log.check(), others])
    }

    /// A deployment without Elasticsearch may name no index.
    fn check_indices(&self) -> Result<(), String> {
        if self.elasticsearch.indices.is_empty() {
            return Ok(());
        }
        self.elasticsearch.check().map_err(message)
    }

    /// The broker of the settings, not connected yet. Reads the address, which may be in a file.
    pub fn try_broker(&self) -> Result<Broker, InvalidSettings> {
        let invalid = |message: String| InvalidSettings::one("", message);
        let url = self.broker.url.reveal().map_err(|e| invalid(message(e)))?;
        let broker = RabbitMq::new(&url)
            .map_err(|e| invalid(format!("broker.url is not an AMQP address: {e}")))?;
        Ok(Broker::RabbitMq(broker))
    }

    /// Reads the files that the settings name, those of secrets and the pipelines', and builds the
    /// clients of broker and stores, connecting to nothing: what a program of any role would fail at.
    pub fn try_out(&self) -> Result<(), InvalidSettings> {
        let broker = self.try_broker().map(drop);
        let others = all([
            readable(self.broker.management_url.as_ref())
                .and_then(|()| self.check_management(broker.is_ok())),
            readable(self.source.password.as_ref()),
            readable(self.clickhouse.password.as_ref()),
            readable(self.dictionary.source_password.as_ref()),
            Catalog::load(self.pipeline.file.as_deref())
                .map_err(message)
                .and_then(|catalog| self.check_gate_pipelines(&catalog)),
            Cluster::new(&self.source.connection())
                .map(drop)
                .map_err(message),
            Cluster::new(&self.clickhouse.connection())
                .map_err(message)
                .and_then(|cluster| crate::commands::serp::check_template(self, &cluster)),
            elasticsearch::Client::new(&self.elasticsearch)
                .map(drop)
                .map_err(message),
        ]);
        InvalidSettings::join([broker, others])
    }

    /// Refuses an address that is none. What it leaves out comes from `broker.url`, which has to be usable for that.
    fn check_management(&self, broker_is_usable: bool) -> Result<(), String> {
        if self.broker.management_url.is_none() || !broker_is_usable {
            return Ok(());
        }
        let management = Management::from_settings(&self.broker);
        management.map(drop).map_err(message)
    }

    /// Refuses gate rules for a pipeline type that there is not: no run would be evaluated by them.
    fn check_gate_pipelines(&self, catalog: &Catalog) -> Result<(), String> {
        let types = catalog.types().iter();
        let known: Vec<&str> = types.map(|entry| entry.name.as_str()).collect();
        let mut named = self.gates.pipelines.keys();
        match named.find(|name| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) => Err(format!(
                "gates.pipelines.{name}: there is no pipeline type {name:?}; there are {}",
                known.join(", ")
            )),
        }
    }
}

fn readable(secret: Option<&Secret>) -> Result<(), String> {
    secret.map_or(Ok(()), |secret| secret.reveal().map(drop).map_err(message))
}

fn message(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn all<const N: usize>(checks: [Result<(), String>; N]) -> Result<(), InvalidSettings> {
    InvalidSettings::join(
        checks.map(|check| check.map_err(|message| InvalidSettings::one("", message))),
    )
}
