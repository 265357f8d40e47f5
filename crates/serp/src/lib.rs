//! The SERP service: which of its nodes serve which shard, when they may be restarted, and the client of their ports.

mod client;
mod node;
mod pause;
mod settings;
mod window;

pub use client::{ClientError, PortClient, PortFailure, ProcessConnection, ServedVersion};
pub use node::SerpNode;
pub use pause::{Pause, PauseSwitch, SERP_PAUSED};
pub use settings::SerpSettings;
pub use window::RestartWindow;
