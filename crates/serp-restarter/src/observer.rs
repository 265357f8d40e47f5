use std::future::Future;
use std::time::Duration;

use serp::{PortFailure, ServedVersion};

/// What happens in a rolling restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestartEvent {
    /// A port is down that was not restarted: it is waited for.
    WaitingForDownPort { port: u16, failure: PortFailure },
    /// The port is about to be told to exit.
    Exiting { port: u16, served: ServedVersion },
    /// The port was told to exit; its process may still run.
    ExitAccepted { port: u16 },
    /// Its process has ended.
    ProcessEnded { port: u16 },
    /// The port is up again with the version that it should serve.
    Back {
        port: u16,
        served: ServedVersion,
        took: Duration,
    },
}

/// Why no further port is restarted for now, although some should be. Those that were told to exit are waited for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StopReason {
    #[error("the SERP service is paused: fleet serp resume")]
    Paused,
    #[error("it is outside of serp.window, which opens in {} min", .opens_in.as_secs().div_ceil(60))]
    OutsideWindow { opens_in: Duration },
    #[error("whether the SERP service is paused is not known: {0}")]
    PauseUnknown(String),
    #[error("the program is being stopped")]
    ShuttingDown,
    #[error("the order was in flight for as long as the broker allows")]
    TimeUp,
}

/// Follows a rolling restart, and can stop it between two ports.
pub trait Observer: Sync {
    /// Called before each port is told to exit, and while ports that are down are waited for.
    fn may_restart(&self) -> impl Future<Output = Result<(), StopReason>> + Send;

    fn on_event(&self, event: RestartEvent) -> impl Future<Output = ()> + Send;
}
