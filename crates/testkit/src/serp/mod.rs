//! A SERP service: processes that load a dictionary when they start, one for each port, kept running by a supervisor,
//! and a prober that reads from them as a load balancer would.

mod fault;
mod prober;
mod process;
mod supervisor;

pub use fault::Fault;
pub use prober::{Probed, Prober};
pub use process::{is_process, main, serve};
pub use supervisor::{Supervisor, free_ports};
