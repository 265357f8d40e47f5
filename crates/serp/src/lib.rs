//! The SERP service: which of its nodes serve which shard, how they may be restarted, and what their ports are asked
//! and told.

mod node;
mod port;
mod settings;
mod window;

pub use node::Node;
pub use port::{ClientError, Held, Ports, Serving, Trouble};
pub use settings::SerpSettings;
pub use window::Window;
