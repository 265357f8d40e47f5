use pipeline::LoopOptions;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serp::SerpSettings;

/// How orders to restart the SERP service are processed; `[serp]` describes the service itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SerpRestarterSettings {
    /// `prefetch` and `concurrency` are at least `serp.max_unavailable_nodes`, and may not be more.
    #[serde(flatten)]
    pub options: LoopOptions,
    /// Only log what would be restarted. The orders are discarded, and their nodes are given up on the ledger: the SERP
    /// stage of the run is rejected.
    pub dry_run: bool,
}

impl Default for SerpRestarterSettings {
    fn default() -> Self {
        Self {
            // An order in flight that waits is one that no other process can take.
            options: LoopOptions::sized(1, 1),
            dry_run: false,
        }
    }
}

impl SerpRestarterSettings {
    /// Refuses what cannot work; `section` names the settings in the error.
    pub fn check(&self, section: &str, serp: &SerpSettings) -> Result<(), String> {
        self.options.check(section)?;
        let (max, options) = (serp.max_unavailable_nodes.max(1), &self.options);
        if options.concurrency > max || usize::from(options.prefetch) > max {
            return Err(format!(
                "{section}.prefetch and {section}.concurrency must not be more than \
                 serp.max_unavailable_nodes, which is {max}"
            ));
        }
        Ok(())
    }

    /// The options of the loop: as many orders at once as nodes may be restarted.
    pub fn loop_options(&self, serp: &SerpSettings) -> LoopOptions {
        let nodes = serp.max_unavailable_nodes;
        LoopOptions {
            prefetch: u16::try_from(nodes).unwrap_or(u16::MAX).max(1),
            concurrency: nodes.max(1),
            ..self.options.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_orders_are_in_flight_as_nodes_may_be_restarted_at_once() {
        let mut settings = SerpRestarterSettings::default();
        let mut serp = SerpSettings::default();
        settings.check("serp_restarter", &serp).unwrap();
        serp.max_unavailable_nodes = 3;
        settings.check("serp_restarter", &serp).unwrap();
        let options = settings.loop_options(&serp);
        assert_eq!((options.prefetch, options.concurrency), (3, 3));
        settings.options.concurrency = 4;
        let refused = settings.check("serp_restarter", &serp).unwrap_err();
        assert!(refused.contains("serp.max_unavailable_nodes"), "{refused}");
    }
}
