use std::collections::BTreeMap;

use ledger::{GateRules, check_rule};
use pipeline::LoopOptions;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The rules of the gates that a run has to pass. A run may have rules of its own (`fleet run queuer --gate`), which
/// are on the ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GateSettings {
    /// Ratio of a run's planned tasks from which on failed ones reject its fetching: at 0.1 one of ten rejects.
    pub max_failed_task_ratio: f64,
    /// Ratio of the rows read from which on rows in quarantine reject the stage of a store.
    pub max_rejected_row_ratio: f64,
    /// Seconds from the beginning of a run after which fetching and stores that have not passed are rejected.
    pub deadline_seconds: u64,
    /// Seconds from the order for the dictionaries after which syncing and refreshing are rejected. The orders
    /// themselves end a little before: none is begun over rows of the next run. More than
    /// `dict_refresher.sync_deadline_seconds` and a sync (`sync_timeout_seconds`) together.
    pub orders_deadline_seconds: u64,
    /// Seconds from the same moment after which the restart of the SERP service is rejected. It does not keep the next
    /// run from beginning. More than a day where `serp.window` opens once a day.
    pub serp_deadline_seconds: u64,
    /// An incremental run in which nothing changed passes, with nothing ordered. By default it is rejected like any
    /// empty run: in a hub that changes all the time it is a sign of trouble upstream.
    pub pass_without_changes: bool,
    /// Rules of one pipeline type alone, by its name: `[gates.pipelines.direct]` with `max_failed_task_ratio = 0.2`, or
    /// for one stage of it `"ch-writer.max_rejected_row_ratio" = 0.05`.
    pub pipelines: BTreeMap<String, BTreeMap<String, f64>>,
}

impl Default for GateSettings {
    fn default() -> Self {
        Self {
            // As the batch persistence of scraped regions had it for its failed tasks.
            max_failed_task_ratio: 0.1,
            // A store refuses a handful of malformed keywords in a million; one in a hundred is a broken column.
            max_rejected_row_ratio: 0.01,
            // Cycles are hourly; one that takes four is stuck.
            deadline_seconds: 4 * 3600,
            // A replica has 3,600 s to sync, in each of a few tries over four hours, and a dictionary two to load.
            orders_deadline_seconds: 6 * 3600,
            // 200 nodes of 8 ports at 90 s a port, four nodes at once, take 15 hours; a window comes once a day.
            serp_deadline_seconds: 30 * 3600,
            pass_without_changes: false,
            pipelines: BTreeMap::new(),
        }
    }
}

impl GateSettings {
    /// Refuses what cannot work.
    pub fn check(&self) -> Result<(), String> {
        let ratios = [
            ("max_failed_task_ratio", self.max_failed_task_ratio),
            ("max_rejected_row_ratio", self.max_rejected_row_ratio),
        ];
        for (name, ratio) in ratios {
            check_rule(name, &ratio.to_string()).map_err(|error| format!("gates.{error}"))?;
        }
        for (pipeline, rules) in &self.pipelines {
            for (rule, number) in rules {
                let name = rule
                    .rsplit_once('.')
                    .map_or(rule.as_str(), |(_, name)| name);
                check_rule(name, &number.to_string())
                    .map_err(|error| format!("gates.pipelines.{pipeline}: {error}"))?;
            }
        }
        Ok(())
    }

    /// The rules of a pipeline type.
    pub(crate) fn for_pipeline(&self, pipeline: &str) -> GateRules {
        let own = self.pipelines.get(pipeline).into_iter().flatten();
        let ms = |seconds: u64| i64::try_from(seconds.saturating_mul(1000)).unwrap_or(i64::MAX);
        GateRules {
            max_failed_task_ratio: self.max_failed_task_ratio,
            max_rejected_row_ratio: self.max_rejected_row_ratio,
            deadline_ms: ms(self.deadline_seconds),
            orders_deadline_ms: ms(self.orders_deadline_seconds),
            serp_deadline_ms: ms(self.serp_deadline_seconds),
            pass_without_changes: self.pass_without_changes,
            overrides: own.map(|(rule, n)| (rule.clone(), n.to_string())).collect(),
        }
    }
}

/// How the persister works.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PersisterSettings {
    /// Of the pullers of held batches; `concurrency` is their number.
    #[serde(flatten)]
    pub options: LoopOptions,
    /// Messages in a queue that released batches go to, above which no more of them are released for the time being.
    pub max_queue_len: u64,
}

impl Default for PersisterSettings {
    fn default() -> Self {
        Self {
            // Five pullers, as the batch persistence has always had. Batches of 66 KB: 100 in flight are 7 MB.
            options: LoopOptions::sized(100, 5),
            // As queuer.max_queue_len.
            max_queue_len: 100_000,
        }
    }
}

impl PersisterSettings {
    /// Refuses what cannot work; `section` names the settings in the error.
    pub fn check(&self, section: &str) -> Result<(), String> {
        self.options.check(section)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_work_and_what_cannot_is_named() {
        GateSettings::default().check().unwrap();
        PersisterSettings::default().check("persister").unwrap();
        let negative = GateSettings {
            max_failed_task_ratio: -0.1,
            ..GateSettings::default()
        };
        assert!(
            negative
                .check()
                .unwrap_err()
                .contains("gates.max_failed_task_ratio")
        );
        let mut unknown = GateSettings::default();
        let rule = BTreeMap::from([("max_faild_tasks".to_owned(), 0.2)]);
        unknown.pipelines.insert("direct".to_owned(), rule);
        let error = unknown.check().unwrap_err();
        assert!(error.contains("gates.pipelines.direct"), "{error}");
    }
}
