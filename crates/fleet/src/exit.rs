use pipeline::ProducerError;
use pipeline::broker::BrokerError;
use queuer::QueuerError;
use settings::{InvalidSettings, SecretError};
use stores::{ConfigureError, clickhouse, elasticsearch};
use topology::TopologyError;
use topology::management::ManagementError;

/// How a command ended, for the shell. A running program that a second signal ends at once exits with
/// 128 and the signal's number: 130 or 143.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Failed for a reason that none of the others names.
    Failed = 1,
    /// Called in a wrong way; clap says so itself.
    Usage = 2,
    /// A setting, a secret's file or a pipeline file is wrong.
    Configuration = 3,
    /// The broker cannot be reached, or refuses the connection.
    Broker = 4,
    /// A store cannot be reached, or does not answer as itself.
    Store = 5,
    /// Nothing failed, but not all is as asked for: something differs, or is not complete in time.
    Differs = 6,
}

/// The list for `--help`.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  called in a wrong way
  3  a setting, a secret's file or a pipeline file is wrong
  4  the broker cannot be reached, or refuses the connection
  5  a store cannot be reached, or does not answer as itself
  6  something differs, or is not complete in time
  130, 143  ended at once by a second SIGINT or SIGTERM";

impl Exit {
    /// The code for an error, by the most telling of its causes.
    pub fn of(error: &anyhow::Error) -> Self {
        error
            .chain()
            .find_map(Self::of_cause)
            .unwrap_or(Self::Failed)
    }

    fn of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Self> {
        if cause.is::<InvalidSettings>()
            || cause.is::<SecretError>()
            || cause.is::<TopologyError>()
            || cause.is::<clickhouse::ConfigError>()
            || cause.is::<elasticsearch::ElasticsearchConfigError>()
        {
            return Some(Self::Configuration);
        }
        if let Some(ProducerError::Broker(error)) = cause.downcast_ref() {
            return Self::of_broker(error);
        }
        if let Some(error) = cause.downcast_ref::<BrokerError>() {
            return Self::of_broker(error);
        }
        if let Some(error) = cause.downcast_ref::<ManagementError>() {
            return Self::of_management(error);
        }
        match cause.downcast_ref::<QueuerError>() {
            Some(QueuerError::Producer(ProducerError::Broker(e))) => {
                return Self::of_broker(e);
            }
            Some(QueuerError::Config(_)) => return Some(Self::Configuration),
            _ => {}
        }
        match cause.downcast_ref::<ConfigureError>() {
            Some(ConfigureError::ClickHouse(error)) => return Self::of_clickhouse(error),
            Some(ConfigureError::Elasticsearch(error)) => return Self::of_elasticsearch(error),
            Some(ConfigureError::Invalid(_)) => return Some(Self::Configuration),
            Some(ConfigureError::Conflict { .. }) => return Some(Self::Differs),
            None => {}
        }
        cause
            .downcast_ref()
            .and_then(Self::of_clickhouse)
            .or_else(|| cause.downcast_ref().and_then(Self::of_elasticsearch))
    }

    fn of_broker(error: &BrokerError) -> Option<Self> {
        match error {
            BrokerError::Refused { .. } | BrokerError::Unreachable { .. } => Some(Self::Broker),
            BrokerError::NotFound { .. } | BrokerError::Object { .. } => None,
        }
    }

    fn of_management(error: &ManagementError) -> Option<Self> {
        use ManagementError as Error;
        match error {
            Error::Address { .. } | Error::Secret(_) => Some(Self::Configuration),
            Error::Unreachable { .. }
            | Error::PluginOff { .. }
            | Error::NotManagement { .. }
            | Error::Refused { .. }
            | Error::NoVirtualHost { .. } => Some(Self::Broker),
            Error::ArgumentsChanged { .. } => Some(Self::Differs),
            Error::Failed { .. }
            | Error::NamesTaken { .. }
            | Error::DiscardCount { .. }
            | Error::DiscardNotRemoved { .. }
            | Error::OtherPipeline { .. } => None,
        }
    }

    fn of_clickhouse(error: &clickhouse::Error) -> Option<Self> {
        use clickhouse::Error;
        match error {
            Error::Connection { .. }
            | Error::Timeout { .. }
            | Error::UnexpectedAnswer { .. }
            | Error::Truncated { .. } => Some(Self::Store),
            _ => None,
        }
    }

    fn of_elasticsearch(error: &elasticsearch::Error) -> Option<Self> {
        use elasticsearch::Error;
        match error {
            Error::Connection { .. } | Error::Timeout { .. } | Error::UnexpectedAnswer { .. } => {
                Some(Self::Store)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn the_cause_decides_however_deep_it_is() {
        let unreachable = || BrokerError::Unreachable {
            address: "localhost:5672".to_owned(),
            detail: "connection refused".to_owned(),
        };
        let error = Err::<(), _>(unreachable())
            .context("cannot configure")
            .unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Broker);
        let error = anyhow::Error::from(ProducerError::Broker(unreachable()));
        assert_eq!(Exit::of(&error), Exit::Broker);
        let error =
            anyhow::Error::from(InvalidSettings::one("a.b", "is wrong")).context("cannot start");
        assert_eq!(Exit::of(&error), Exit::Configuration);
        assert_eq!(Exit::of(&anyhow::anyhow!("whatever")), Exit::Failed);
    }

    #[test]
    fn help_lists_every_code() {
        for exit in [
            Exit::Ok,
            Exit::Failed,
            Exit::Usage,
            Exit::Configuration,
            Exit::Broker,
            Exit::Store,
            Exit::Differs,
        ] {
            let line = format!("\n  {}  ", exit as u8);
            assert!(EXIT_CODES.contains(&line), "{exit:?}");
        }
    }
}
