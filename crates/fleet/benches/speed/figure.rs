use serde::Serialize;

/// One measured number.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    pub name: String,
    pub value: f64,
    pub unit: &'static str,
    /// The same, of whatever the fleet is measured against in this run; absent for absolute figures.
    pub limit: Option<f64>,
    /// `value / limit`.
    pub ratio: Option<f64>,
    /// What `ratio`, or without a limit `value`, is to reach: `>=0.9`, `<=100`.
    pub goal: Option<String>,
}

impl Figure {
    pub fn against(
        name: impl Into<String>,
        unit: &'static str,
        value: f64,
        limit: f64,
        goal: &str,
    ) -> Self {
        Self {
            name: name.into(),
            value,
            unit,
            limit: Some(limit),
            ratio: Some(value / limit),
            goal: Some(goal.to_owned()),
        }
    }

    pub fn absolute(
        name: impl Into<String>,
        unit: &'static str,
        value: f64,
        goal: Option<&str>,
    ) -> Self {
        Self {
            name: name.into(),
            value,
            unit,
            limit: None,
            ratio: None,
            goal: goal.map(str::to_owned),
        }
    }

    /// Whether the goal is met; `None` without one.
    fn met(&self) -> Option<bool> {
        let goal = self.goal.as_deref()?;
        let measured = self.ratio.unwrap_or(self.value);
        let bound = |prefix| {
            goal.strip_prefix(prefix)
                .and_then(|n| n.parse::<f64>().ok())
        };
        match (bound(">="), bound("<=")) {
            (Some(least), _) => Some(measured >= least),
            (_, Some(most)) => Some(measured <= most),
            _ => panic!("{goal} is not a goal"),
        }
    }
}

/// The middle one of some measurements.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Prints the table and writes the results file.
pub fn report(figures: &[Figure]) {
    const FILE: &str = "target/bench/results.json";
    let file = testkit::repository().join(FILE);
    let folder = file.parent().expect("it is in a folder");
    std::fs::create_dir_all(folder).expect("target/bench can be made");
    let json = serde_json::to_string_pretty(figures).expect("figures are plain data");
    std::fs::write(&file, json + "\n").expect("the results can be written");

    let number = |n: f64| match n {
        n if n >= 1000.0 => fleet::output::number(n.round() as u64),
        n if n >= 10.0 => format!("{n:.1}"),
        n => format!("{n:.3}"),
    };
    let rows = figures.iter().map(|figure| {
        [
            figure.name.clone(),
            number(figure.value),
            figure.unit.to_owned(),
            figure.limit.map(number).unwrap_or_default(),
            figure.ratio.map(|r| format!("{r:.2}")).unwrap_or_default(),
            figure.goal.clone().unwrap_or_default(),
            figure
                .met()
                .map_or("", |met| if met { "yes" } else { "NO" })
                .to_owned(),
        ]
    });
    let columns = "figure | >value | unit | >limit | >ratio | goal | met";
    println!("{}", fleet::output::table(columns, rows));
    println!("written to {FILE}");
}
