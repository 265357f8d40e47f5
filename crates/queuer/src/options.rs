use batch::RunId;
use chrono::{DateTime, NaiveDate, NaiveTime};

/// What one start of the queuer is asked to do.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Options {
    /// Read every row, not only what changed since the last complete run
    #[arg(long, conflicts_with = "since")]
    pub full: bool,
    /// Read what changed at or after TIME: 2026-01-02T03:04:05Z, 2026-01-02, milliseconds since the
    /// epoch, or a time span before now such as 90s, 15m, 2h or 7d
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    pub since: Option<Since>,
    /// Read one row in N, chosen by a hash of its key. Such a run orders no dictionary and no restart, and no later
    /// run begins where it ends
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub sample: u32,
    /// Read rows of these shards only, such as 0,2; with the same consequences as --sample
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    pub shards: Vec<u32>,
    /// Plan, print the plan, and publish nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Start a run at every multiple of SECONDS by the clock, until stopped
    #[arg(long = "loop", value_name = "SECONDS", conflicts_with = "dry_run", value_parser = clap::value_parser!(u64).range(1..))]
    pub every_seconds: Option<u64>,
    /// Abandon the unfinished run RUN before starting
    #[arg(long, value_name = "RUN", conflicts_with = "dry_run")]
    pub abandon: Option<RunId>,
    /// Publish the run although a store would lose or change values of it, as fleet check says, or could not be asked.
    /// The run tells it for ever, and no later run begins where it ends
    #[arg(long, conflicts_with = "dry_run")]
    pub force: bool,
    /// Evaluate this run by another rule than the configured one, such as max_failed_task_ratio=0.2, or for one stage alone
    /// ch-writer.max_rejected_row_ratio=0.05; may be given again. It is on the ledger with the run
    #[arg(long = "gate", value_name = "RULE=NUMBER", value_parser = parse_rule)]
    pub gates: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            full: false,
            since: None,
            sample: 1,
            shards: Vec::new(),
            dry_run: false,
            every_seconds: None,
            abandon: None,
            force: false,
            gates: Vec::new(),
        }
    }
}

/// Where the changes to read begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// Milliseconds since the epoch.
    At(i64),
    /// Milliseconds before the end of the run.
    Before(i64),
}

fn parse_rule(text: &str) -> Result<(String, String), String> {
    let (rule, number) = text
        .split_once('=')
        .ok_or("give a rule and a number, such as max_failed_task_ratio=0.2")?;
    let name = rule.rsplit_once('.').map_or(rule, |(_, name)| name);
    ledger::check_rule(name, number)?;
    Ok((rule.to_owned(), number.to_owned()))
}

/// 10¹¹ milliseconds are in 1973, 10¹¹ seconds in the year 5138: a smaller number means seconds.
const MIN_MILLISECONDS: i64 = 100_000_000_000;

fn parse_since(text: &str) -> Result<Since, String> {
    if let Ok(number) = text.parse::<i64>() {
        if number < MIN_MILLISECONDS {
            return Err(format!(
                "{number} is too small for milliseconds since the epoch; seconds are given as {number}000"
            ));
        }
        return Ok(Since::At(number));
    }
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(Since::At(time.timestamp_millis()));
    }
    if let Ok(date) = text.parse::<NaiveDate>() {
        let midnight = date.and_time(NaiveTime::MIN).and_utc();
        return Ok(Since::At(midnight.timestamp_millis()));
    }
    let unit = |unit: char| match unit {
        's' => Some(1_000),
        'm' => Some(60_000),
        'h' => Some(3_600_000),
        'd' => Some(86_400_000),
        _ => None,
    };
    let span = text.chars().last().and_then(unit).and_then(|unit| {
        let number: u32 = text[..text.len() - 1].parse().ok()?;
        i64::from(number).checked_mul(unit)
    });
    span.map(Since::Before).ok_or_else(|| {
        "give a time such as 2026-01-02T03:04:05Z or 2026-01-02, milliseconds since the epoch, or a span such as 90s, 15m, 2h or 7d".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_time_a_date_milliseconds_or_a_span() {
        let at = Since::At(1_767_323_045_000);
        assert_eq!(parse_since("2026-01-02T03:04:05Z"), Ok(at));
        assert_eq!(parse_since("2026-01-02T05:04:05+02:00"), Ok(at));
        assert_eq!(parse_since("1767323045000"), Ok(at));
        assert_eq!(parse_since("2026-01-02"), Ok(Since::At(1_767_312_000_000)));
        assert_eq!(parse_since("90s"), Ok(Since::Before(90_000)));
        assert_eq!(parse_since("2h"), Ok(Since::Before(7_200_000)));
        assert_eq!(parse_since("7d"), Ok(Since::Before(604_800_000)));
    }

    #[test]
    fn seconds_and_nonsense_are_refused() {
        assert!(
            parse_since("1767323045")
                .unwrap_err()
                .contains("1767323045000")
        );
        for bad in [
            "",
            "h",
            "2w",
            "-2h",
            "yesterday",
            "99999999999d",
            "2h\u{e9}",
        ] {
            assert!(parse_since(bad).is_err(), "{bad:?}");
        }
    }
}
