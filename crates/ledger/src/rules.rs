use std::collections::BTreeMap;

use batch::Stage;

/// The rules by which the stages of a run are decided. The default is no set of rules to use: all numbers are 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GateRules {
    /// Ratio of the planned tasks from which on failed ones reject the run's fetching.
    pub max_failed_task_ratio: f64,
    /// Ratio of a store's rows from which on rows in quarantine reject its stage.
    pub max_rejected_row_ratio: f64,
    /// Milliseconds from the run's beginning to the latest moment at which fetching and stores may pass.
    pub deadline_ms: i64,
    /// Milliseconds from the order for the dictionaries to the latest moment at which what it led to may pass.
    pub orders_deadline_ms: i64,
    /// The same for the restart of the SERP service.
    pub serp_deadline_ms: i64,
    /// An incremental run in which nothing changed passes instead of being rejected.
    pub pass_without_changes: bool,
    /// Rules of this pipeline alone, by their names; those of a run stand above them.
    pub overrides: BTreeMap<String, String>,
}

/// Names by which rules are overridden, for a pipeline or a run.
const RULES: [&str; 5] = [
    "max_failed_task_ratio",
    "max_rejected_row_ratio",
    "deadline_seconds",
    "orders_deadline_seconds",
    "serp_deadline_seconds",
];

/// Refuses a rule that does not exist, or a number that it cannot have.
pub fn check_rule(name: &str, value: &str) -> Result<(), String> {
    GateRules::default().set(name, value)
}

impl GateRules {
    /// These rules with some of them replaced by `overrides`: a rule by its name, or for one stage alone by
    /// `STAGE.NAME`.
    pub fn overridden(
        &self,
        overrides: &BTreeMap<String, String>,
        stage: &Stage,
    ) -> Result<Self, String> {
        let mut rules = self.clone();
        for (name, value) in overrides.iter().filter(|(name, _)| !name.contains('.')) {
            rules.set(name, value)?;
        }
        let prefix = format!("{stage}.");
        for (name, value) in overrides {
            if let Some(name) = name.strip_prefix(&prefix) {
                rules.set(name, value)?;
            }
        }
        Ok(rules)
    }

    /// The rules of one stage: those of the run stand above those of the pipeline, which stand above the common ones.
    /// What cannot be read was refused when it was set; should it be another release's, the rule below it stands.
    pub fn for_stage(&self, stage: &Stage, run_overrides: &BTreeMap<String, String>) -> Self {
        let pipeline_rules = self.overridden(&self.overrides, stage);
        let rules = pipeline_rules.unwrap_or_else(|_| self.clone());
        rules.overridden(run_overrides, stage).unwrap_or(rules)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let number = value.parse().ok();
        let number = number.filter(|number: &f64| number.is_finite() && *number >= 0.0);
        let number =
            number.ok_or_else(|| format!("{name} must be a number from 0 on, not {value:?}"))?;
        let is_ratio = matches!(name, "max_failed_task_ratio" | "max_rejected_row_ratio");
        if is_ratio && number > 1.0 {
            return Err(format!(
                "{name} is a ratio, from 0 to 1, not {value:?}: 7 % is 0.07"
            ));
        }
        match name {
            "max_failed_task_ratio" => self.max_failed_task_ratio = number,
            "max_rejected_row_ratio" => self.max_rejected_row_ratio = number,
            "deadline_seconds" => self.deadline_ms = (number * 1000.0) as i64,
            "orders_deadline_seconds" => self.orders_deadline_ms = (number * 1000.0) as i64,
            "serp_deadline_seconds" => self.serp_deadline_ms = (number * 1000.0) as i64,
            other => {
                let known = RULES.join(", ");
                return Err(format!("there is no rule {other:?}; there are {known}"));
            }
        }
        Ok(())
    }
}
