use pipeline::ProducerError;
use pipeline::broker::BrokerError;
use queuer::QueuerError;
use settings::{InvalidSettings, SecretError};
use stores::{ConfigError, ConfigureError, clickhouse, elasticsearch};
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
    /// Called in a wrong way; clap itself exits with it.
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
    /// [`Exit::Differs`] if something differs, else [`Exit::Ok`].
    pub fn differs_if(differs: bool) -> Self {
        if differs { Self::Differs } else { Self::Ok }
    }

    /// The code for an error, by the most telling of its causes.
    pub fn from_error(error: &anyhow::Error) -> Self {
        let code = error.chain().find_map(Self::from_cause);
        code.unwrap_or(Self::Failed)
    }

    fn from_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Self> {
        if cause.is::<InvalidSettings>()
            || cause.is::<SecretError>()
            || cause.is::<TopologyError>()
            || cause.is::<ConfigError>()
        {
            return Some(Self::Configuration);
        }
        if let Some(error) = cause.downcast_ref() {
            return Self::from_queuer(error);
        }
        if let Some(ProducerError::Broker(error)) = cause.downcast_ref() {
            return Self::from_broker(error);
        }
        if let Some(error) = cause.downcast_ref() {
            return Self::from_broker(error);
        }
        if let Some(error) = cause.downcast_ref() {
            return Self::from_management(error);
        }
        match cause.downcast_ref::<ConfigureError>() {
            Some(ConfigureError::ClickHouse(error)) => Self::from_clickhouse(error),
            Some(ConfigureError::Elasticsearch(error)) => Self::from_elasticsearch(error),
            Some(ConfigureError::Invalid(_)) => Some(Self::Configuration),
            Some(ConfigureError::Conflict { .. }) => Some(Self::Differs),
            None => cause
                .downcast_ref()
                .and_then(Self::from_clickhouse)
                .or_else(|| cause.downcast_ref().and_then(Self::from_elasticsearch)),
        }
    }

    fn from_queuer(error: &QueuerError) -> Option<Self> {
        match error {
            QueuerError::Producer(ProducerError::Broker(error)) => Self::from_broker(error),
            QueuerError::Config(_) => Some(Self::Configuration),
            QueuerError::Differs(_) => Some(Self::Differs),
            QueuerError::Unknown(_) => Some(Self::Store),
            _ => None,
        }
    }

    fn from_broker(error: &BrokerError) -> Option<Self> {
        use BrokerError as Error;
        matches!(error, Error::Refused { .. } | Error::Unreachable { .. }).then_some(Self::Broker)
    }

    fn from_management(error: &ManagementError) -> Option<Self> {
        use ManagementError as Error;
        match error {
            Error::Address { .. } | Error::Secret(_) => Some(Self::Configuration),
            Error::Unreachable { .. }
            | Error::PluginOff { .. }
            | Error::NotManagement { .. }
            | Error::Refused { .. }
            | Error::NoVirtualHost { .. } => Some(Self::Broker),
            Error::ArgumentsChanged { .. } | Error::NotCounted { .. } => Some(Self::Differs),
            Error::Failed { .. }
            | Error::NamesTaken { .. }
            | Error::DiscardCount { .. }
            | Error::DiscardNotRemoved { .. }
            | Error::OtherPipeline { .. } => None,
        }
    }

    fn from_clickhouse(error: &clickhouse::Error) -> Option<Self> {
        use clickhouse::ErrorKind as Kind;
        let store = matches!(
            error.kind,
            Kind::Connection { .. }
                | Kind::Timeout { .. }
                | Kind::UnexpectedAnswer { .. }
                | Kind::TooLarge { .. }
                | Kind::Truncated(_)
        );
        store.then_some(Self::Store)
    }

    fn from_elasticsearch(error: &elasticsearch::Error) -> Option<Self> {
        use elasticsearch::Error;
        let store = matches!(
            error,
            Error::Connection { .. }
                | Error::Timeout { .. }
                | Error::UnexpectedAnswer { .. }
                | Error::TooLarge { .. }
        );
        store.then_some(Self::Store)
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
        assert_eq!(Exit::from_error(&error), Exit::Broker);
        let error = anyhow::Error::from(ProducerError::Broker(unreachable()));
        assert_eq!(Exit::from_error(&error), Exit::Broker);
        let error =
            anyhow::Error::from(InvalidSettings::one("a.b", "is wrong")).context("cannot start");
        assert_eq!(Exit::from_error(&error), Exit::Configuration);
        assert_eq!(Exit::from_error(&anyhow::anyhow!("whatever")), Exit::Failed);
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
