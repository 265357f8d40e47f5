/// What to do where the broker's figures are missing.
const COUNT_AGAIN: &str = "a queue declared just now is counted within seconds: try again. If the figure stays away, let the broker count \
     (management_agent.disable_metrics_collector = false and management.disable_stats = false in rabbitmq.conf) and \
     restart it";

/// Why a request to the management API failed, or a change was refused. Each text ends with what to do next.
#[derive(Debug, thiserror::Error)]
pub enum ManagementError {
    #[error("{key} is not usable: {detail}")]
    Address { key: &'static str, detail: String },
    #[error(transparent)]
    Secret(#[from] settings::SecretError),
    #[error(
        "cannot reach RabbitMQ's management API at {url}: {detail}. Is the broker up, and is broker.management_url right?"
    )]
    Unreachable { url: String, detail: String },
    /// The broker answers, its management plugin does not.
    #[error(
        "the broker answers at {amqp}, but its management API does not at {url}: {detail}. Enable the plugin \
         (rabbitmq-plugins enable rabbitmq_management), or set broker.management_url to where it listens"
    )]
    PluginOff {
        amqp: String,
        url: String,
        detail: String,
    },
    #[error(
        "{url} answered, but not as RabbitMQ's management API does: {detail}. Check broker.management_url"
    )]
    NotManagement { url: String, detail: String },
    #[error(
        "RabbitMQ's management API at {url} refuses user {user:?} ({detail}). Check user and password in \
         broker.management_url (or broker.url); the user needs the tag \"policymaker\" or \"administrator\" \
         and all permissions on virtual host {vhost:?}"
    )]
    Refused {
        url: String,
        user: String,
        vhost: String,
        detail: String,
    },
    #[error(
        "the broker has no virtual host {vhost:?}: create it (rabbitmqctl add_vhost {vhost}), or correct the path of broker.url"
    )]
    NoVirtualHost { vhost: String },
    #[error("the broker refused to {what}: {detail} (HTTP {status})")]
    Failed {
        what: String,
        status: u16,
        detail: String,
    },
    /// Names that the pipeline needs, and that objects have which are not the fleet's.
    #[error(
        "the pipeline cannot be declared in virtual host {vhost:?}, where others have its names: {}. Remove or \
         rename them, or give the fleet a virtual host of its own",
        .taken.join("; ")
    )]
    NamesTaken { vhost: String, taken: Vec<String> },
    /// Queues with other arguments than the pipeline's; each with what differs.
    #[error(
        "the broker cannot change the arguments of a queue: {}. Nothing was changed; delete the pipeline (fleet \
         pipeline delete --type {pipeline}), which names the queues that still hold messages, and configure again",
        .queues.join("; ")
    )]
    ArgumentsChanged {
        /// The pipeline type that has them.
        pipeline: String,
        queues: Vec<String>,
    },
    #[error(
        "--discard {queue}={named}: {queue} holds {held} messages now. Nothing was changed; check them again"
    )]
    DiscardCount {
        queue: String,
        named: u64,
        held: u64,
    },
    /// Queues that would be removed, and of which nothing is known.
    #[error(
        "the broker does not count: its management API does not say how many messages are in {}. Nothing was \
         removed; {COUNT_AGAIN}",
        .queues.join(", ")
    )]
    NotCounted { queues: Vec<String> },
    #[error("--discard {queue}: this queue is not to be removed. Nothing was changed; {hint}")]
    DiscardNotRemoved { queue: String, hint: String },
    #[error(
        "virtual host {vhost:?} has the pipeline {configured:?}, not {asked:?}. Nothing was changed; use --type {configured}"
    )]
    OtherPipeline {
        vhost: String,
        configured: String,
        asked: String,
    },
}

impl ManagementError {
    /// Whether waiting may help: the broker is not up yet, for example.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::PluginOff { .. })
    }
}
