use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MINUTE: u64 = 60;
const DAY: u64 = 24 * 60 * MINUTE;

/// A span of every day, in UTC, in which restarts may begin; it may cross midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartWindow {
    /// Seconds since midnight.
    from: u64,
    /// Seconds since midnight; the first moment that is outside.
    until: u64,
}

impl RestartWindow {
    /// `02:00-05:00`; `None` when `text` is empty.
    pub(crate) fn parse(text: &str) -> Result<Option<Self>, String> {
        if text.is_empty() {
            return Ok(None);
        }
        let wrong = || format!("must be as 02:00-05:00, not {text:?}");
        let (from, until) = text.split_once('-').ok_or_else(wrong)?;
        let window = Self {
            from: time(from).ok_or_else(wrong)?,
            until: time(until).ok_or_else(wrong)? % DAY,
        };
        if window.from == window.until {
            return Err(format!("{text:?} has no length; empty is always"));
        }
        Ok(Some(window))
    }

    /// How long until it opens; `None` when it is open.
    pub fn opens_in(&self, now: SystemTime) -> Option<Duration> {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = since.as_secs() % DAY;
        let since_opened = (now + DAY - self.from) % DAY;
        let length = (self.until + DAY - self.from) % DAY;
        (since_opened >= length).then(|| Duration::from_secs(DAY - since_opened))
    }
}

/// Seconds since midnight of `HH:MM`, up to `24:00`.
fn time(text: &str) -> Option<u64> {
    let (hours, minutes) = text.trim().split_once(':')?;
    let number = |digits: &str| {
        let two = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
        two.then(|| digits.parse::<u64>().ok()).flatten()
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let seconds = (hours * 60 + minutes) * MINUTE;
    (minutes < 60 && seconds <= DAY).then_some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opens_in(window: &str, hours: u64, minutes: u64) -> Option<u64> {
        let window = RestartWindow::parse(window).unwrap().unwrap();
        let now = UNIX_EPOCH + Duration::from_secs(7 * DAY + (hours * 60 + minutes) * MINUTE);
        window.opens_in(now).map(|wait| wait.as_secs() / MINUTE)
    }

    #[test]
    fn a_window_is_open_from_its_beginning_to_just_before_its_end() {
        assert_eq!(opens_in("02:00-05:00", 1, 59), Some(1));
        assert_eq!(opens_in("02:00-05:00", 2, 0), None);
        assert_eq!(opens_in("02:00-05:00", 4, 59), None);
        assert_eq!(opens_in("02:00-05:00", 5, 0), Some(21 * 60));
    }

    #[test]
    fn a_window_may_cross_midnight() {
        assert_eq!(opens_in("22:30-01:00", 23, 59), None);
        assert_eq!(opens_in("22:30-01:00", 0, 30), None);
        assert_eq!(opens_in("22:30-01:00", 1, 0), Some(21 * 60 + 30));
        assert_eq!(opens_in("20:00-24:00", 23, 59), None);
        assert_eq!(opens_in("20:00-24:00", 0, 0), Some(20 * 60));
    }

    #[test]
    fn what_is_no_window_is_refused() {
        assert_eq!(RestartWindow::parse(""), Ok(None));
        for wrong in [
            "2:00-5:00",
            "02:00",
            "02:60-03:00",
            "25:00-26:00",
            "02:00-02:00",
            "x",
        ] {
            assert!(RestartWindow::parse(wrong).is_err(), "{wrong}");
        }
    }
}
