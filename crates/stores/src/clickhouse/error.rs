use std::time::Duration;

use batch::Reason;

use super::codes;
use crate::Class;
use crate::answer::excerpt;

/// A cluster that cannot be used as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{section}.cluster: {detail}")]
    Cluster {
        section: &'static str,
        detail: String,
    },
    #[error("{section}: the HTTP client cannot be built: {detail}")]
    Client {
        section: &'static str,
        detail: String,
    },
}

/// What went wrong with a request to a replica, which every variant names by its address.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The server answered with an exception.
    #[error("{replica}: {message} ({name}, code {code})")]
    Exception {
        replica: String,
        /// Number in ClickHouse's `ErrorCodes.cpp`.
        code: i32,
        /// The name of the code, such as `TOO_MANY_PARTS`; empty where the server does not give it.
        name: String,
        /// The server's text, without the code, the stack and the version.
        message: String,
    },
    /// No connection, or it broke.
    #[error("{replica}: {}: {detail}", if *sent { "the connection broke" } else { "no connection" })]
    Connection {
        replica: String,
        /// Whether the server may have got something of the request.
        sent: bool,
        detail: String,
    },
    /// The request or a wait within it exceeded its timeout.
    #[error("{replica}: {what} took longer than {} s", after.as_secs_f64())]
    Timeout {
        replica: String,
        what: &'static str,
        after: Duration,
    },
    /// The answer is not ClickHouse's, but a proxy's page for example.
    #[error(
        "{replica}: the answer (status {status}) is not ClickHouse's: {excerpt:?}; check the address, and any proxy before it"
    )]
    UnexpectedAnswer {
        replica: String,
        /// HTTP status; 0 where it is not known.
        status: u16,
        excerpt: String,
    },
    /// The answer is incomplete.
    #[error("{replica}: the answer was cut off: {detail}")]
    Truncated { replica: String, detail: String },
    /// A row of the answer is not of the type that was asked for.
    #[error("{replica}: a row of the answer cannot be read: {detail}")]
    UnreadableRow { replica: String, detail: String },
    /// The request cannot be built: a parameter's name is no identifier, for example.
    #[error("{replica}: the request cannot be built: {detail}")]
    Unsendable { replica: String, detail: String },
    /// The password's file cannot be read.
    #[error("{replica}: {detail}")]
    NoPassword { replica: String, detail: String },
}

impl Error {
    /// Address of the replica that it was about.
    pub fn replica(&self) -> &str {
        match self {
            Self::Exception { replica, .. }
            | Self::Connection { replica, .. }
            | Self::Timeout { replica, .. }
            | Self::UnexpectedAnswer { replica, .. }
            | Self::Truncated { replica, .. }
            | Self::UnreadableRow { replica, .. }
            | Self::Unsendable { replica, .. }
            | Self::NoPassword { replica, .. } => replica,
        }
    }

    /// ClickHouse's own code, if the server answered with one.
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Exception { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether the fault may be the replica's alone, so that another one is tried at once.
    pub fn allows_failover(&self) -> bool {
        match self {
            Self::UnexpectedAnswer { .. } => true,
            // Read-only and full are states of one replica until all of them say so.
            other => matches!(classify(other), Class::RetryNow | Class::Pause),
        }
    }

    /// Whether the server certainly got nothing of the request.
    pub(super) fn nothing_was_sent(&self) -> bool {
        matches!(self, Self::Connection { sent: false, .. })
    }

    /// Reads the text of an answer that is an error: an exception, or the page of a proxy.
    /// `header_code` comes from the header `X-ClickHouse-Exception-Code`; a `status` of 0 is unknown.
    pub(super) fn from_answer(
        replica: &str,
        status: u16,
        header_code: Option<i32>,
        text: &str,
    ) -> Self {
        let text = text.trim();
        let Some(code) = header_code.or_else(|| codes::code_in(text)) else {
            return Self::UnexpectedAnswer {
                replica: replica.to_owned(),
                status: if status == 0 {
                    gateway_status(text)
                } else {
                    status
                },
                excerpt: excerpt(text.as_bytes()),
            };
        };
        let codes::ExceptionText { name, message } = codes::exception_text(text);
        Self::Exception {
            replica: replica.to_owned(),
            code,
            name: codes::name(code).map_or(name, str::to_owned),
            message,
        }
    }
}

/// The status that a gateway's page names, where the transport loses it
/// (docs/decisions/0018-two-transports-to-clickhouse.md); 0 when it names none.
fn gateway_status(page: &str) -> u16 {
    const PHRASES: [(&str, u16); 9] = [
        ("unauthorized", 401),
        ("forbidden", 403),
        ("bad gateway", 502),
        ("service unavailable", 503),
        ("upstream connect error", 503),
        ("no available server", 503),
        ("gateway time", 504),
        ("too many requests", 429),
        ("request time", 408),
    ];
    let page = excerpt(page.as_bytes()).to_lowercase();
    let found = PHRASES.iter().find(|(phrase, _)| page.contains(phrase));
    found.map_or(0, |(_, status)| *status)
}

/// The one place that decides how an error of ClickHouse is handled.
pub fn classify(error: &Error) -> Class {
    match error {
        Error::Exception { code, .. } => codes::classify(*code),
        Error::Connection { .. } | Error::Timeout { .. } | Error::Truncated { .. } => {
            Class::RetryNow
        }
        Error::UnexpectedAnswer { status, .. } => Class::for_unexpected_answer(*status),
        Error::UnreadableRow { .. } => Class::Quarantine(Reason::WrongSchema),
        // A fault of the program or its settings: the data waits until that is fixed.
        Error::Unsendable { .. } => Class::RetryLater,
        Error::NoPassword { .. } => Class::Pause,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, header_code: Option<i32>, text: &str) -> Error {
        Error::from_answer("http://a:8123", status, header_code, text)
    }

    #[test]
    fn an_exception_names_the_replica_the_text_the_name_and_the_code() {
        let text = "Code: 252. DB::Exception: Too many parts (301). Merges are slower. (TOO_MANY_PARTS) (version 26.9)";
        let error = answer(500, Some(252), text);
        assert_eq!(
            error.to_string(),
            "http://a:8123: Too many parts (301). Merges are slower. (TOO_MANY_PARTS, code 252)"
        );
        assert_eq!(classify(&error), Class::RetryLater);
        assert!(!error.allows_failover());
    }

    #[test]
    fn the_header_wins_over_the_text_and_is_enough_without_one() {
        assert_eq!(answer(500, Some(242), "").code(), Some(242));
        assert_eq!(
            answer(500, Some(242), "Code: 1. DB::Exception: x").code(),
            Some(242)
        );
    }

    #[test]
    fn a_page_of_a_proxy_is_an_unexpected_answer_and_a_gateways_complaint_passes() {
        let page = answer(200, None, "<html>Welcome</html>");
        assert_eq!(classify(&page), Class::Quarantine(Reason::UnexpectedAnswer));
        assert!(page.allows_failover());
        for (status, text) in [
            (503, ""),
            (0, "<html><head><title>502 Bad Gateway</title>"),
            (0, "504 Gateway Timeout"),
        ] {
            let error = answer(status, None, text);
            assert_eq!(classify(&error), Class::RetryNow, "{error}");
        }
        assert_eq!(classify(&answer(0, None, "403 Forbidden")), Class::Pause);
    }

    #[test]
    fn a_long_page_is_not_repeated_whole() {
        let error = answer(200, None, &"<p>".repeat(100_000));
        assert!(error.to_string().len() < 600);
    }

    #[test]
    fn connections_and_silences_ask_for_another_replica() {
        let replica = || "a".to_owned();
        for error in [
            Error::Connection {
                replica: replica(),
                sent: false,
                detail: String::new(),
            },
            Error::Timeout {
                replica: replica(),
                what: "an insert",
                after: Duration::from_secs(1),
            },
            Error::Truncated {
                replica: replica(),
                detail: String::new(),
            },
        ] {
            assert_eq!(classify(&error), Class::RetryNow);
            assert!(error.allows_failover());
        }
    }
}
