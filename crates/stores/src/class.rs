use batch::Reason;

/// What an error of a store asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// The endpoint failed, not the request: another endpoint may succeed, at once.
    RetryNow,
    /// The store is busy or not ready: the same request may succeed after a delay.
    RetryLater,
    /// The store takes no writes at all until an operator acts (read-only, disk full, credentials
    /// refused): stop taking work, report it, and probe from time to time.
    Pause,
    /// The store refuses this data: halve it until the refused rows stand alone, and quarantine those.
    Refused,
    /// The request is larger than the store, or a proxy before it, takes (status 413): halve it down to single rows, and
    /// quarantine a row that alone is too large.
    TooLarge,
    /// It can never succeed as it is: quarantine the whole message for this reason.
    Quarantine(Reason),
}

impl Class {
    /// The class of an answer that does not come from the store but from a proxy in front of it, by HTTP status.
    pub(crate) fn for_unexpected_answer(status: u16) -> Self {
        match status {
            // The gateway itself reports that the store behind it is unreachable or busy.
            408 | 425 | 429 | 502..=504 => Self::RetryNow,
            // A proxy that wants credentials: the data is not the cause.
            401 | 403 | 407 => Self::Pause,
            _ => Self::Quarantine(Reason::UnexpectedAnswer),
        }
    }
}
