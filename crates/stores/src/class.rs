use batch::Reason;

/// What an error of a store asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// The endpoint failed, not the request: another one may do, at once.
    RetryNow,
    /// The store is busy or not ready: the same request may do after a delay.
    RetryLater,
    /// The store takes nothing from anyone until somebody acts (read-only, disk full, credentials
    /// refused): stop taking work, say so, and try again from time to time.
    Pause,
    /// The store refuses this data: halve it until the refused rows stand alone, and quarantine those.
    Refused,
    /// It can never succeed as it is: quarantine the whole message for this reason.
    Quarantine(Reason),
}
