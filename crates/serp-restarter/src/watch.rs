use std::future::Future;
use std::time::Duration;

use serp::{Serving, Trouble};

/// What happens in a roll, told to its [`Watch`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Nothing is done because this port is down already.
    Waiting { port: u16, trouble: Trouble },
    /// About to be told to exit.
    Exiting { port: u16, serving: Serving },
    /// Told; whether its process has ended is yet to be seen.
    Exited { port: u16 },
    /// Its process has ended.
    Gone { port: u16 },
    /// Up again with what it should serve.
    Back {
        port: u16,
        serving: Serving,
        took: Duration,
    },
}

/// Why no port is restarted for now, although some should be. Those in work are waited for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Halt {
    #[error("the SERP service is paused: fleet serp resume")]
    Paused,
    #[error("it is outside of serp.window, which opens in {} min", .opens_in.as_secs().div_ceil(60))]
    Window { opens_in: Duration },
    #[error("whether the SERP service is paused is not known: {0}")]
    Unknown(String),
    #[error("the program is told to stop")]
    Stopping,
    #[error("the order was in hand for as long as the broker allows")]
    TimeUp,
}

/// Whoever has a roll done.
pub trait Watch: Sync {
    /// Asked before each port is told to exit, and while ports that are down are waited for.
    fn may_restart(&self) -> impl Future<Output = Result<(), Halt>> + Send;

    fn tell(&self, event: Event) -> impl Future<Output = ()> + Send;
}
