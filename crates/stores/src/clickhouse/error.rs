use std::time::Duration;

use batch::Reason;

use super::codes;
use crate::Class;
use crate::answer::excerpt;

/// What went wrong with a request to a replica.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{replica}: {kind}")]
pub struct Error {
    /// Address of the replica.
    pub replica: String,
    pub kind: ErrorKind,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum ErrorKind {
    /// The server answered with an exception.
    #[error("{message} ({name}, code {code}){}", codes::advice(*code, message))]
    Exception {
        /// Number in ClickHouse's `ErrorCodes.cpp`.
        code: i32,
        /// The name of the code, such as `TOO_MANY_PARTS`; empty where the server does not give it.
        name: String,
        /// The server's text, without the code, the stack and the version.
        message: String,
    },
    /// No connection, or it broke.
    #[error("{}: {detail}", if *sent { "the connection broke" } else { "no connection" })]
    Connection {
        /// Whether the server may have got something of the request.
        sent: bool,
        detail: String,
    },
    /// The request or a wait within it exceeded its timeout.
    #[error("{what} took longer than {} s", after.as_secs_f64())]
    Timeout { what: &'static str, after: Duration },
    /// The answer is not ClickHouse's, but a proxy's page for example.
    #[error(
        "the answer (status {status}) is not ClickHouse's: {excerpt:?}; check the address, and any proxy before it"
    )]
    UnexpectedAnswer {
        /// HTTP status; 0 where it is not known.
        status: u16,
        excerpt: String,
    },
    /// A proxy takes no body of this size.
    #[error(
        "a proxy before ClickHouse answered {TOO_LARGE} (too large): {excerpt:?}; raise its limit of a request's body"
    )]
    TooLarge { excerpt: String },
    /// The answer is incomplete.
    #[error("the answer was cut off: {0}")]
    Truncated(String),
    /// A row of the answer is not of the type that was asked for.
    #[error("a row of the answer cannot be read: {0}")]
    UnreadableRow(String),
    /// The request cannot be built: a parameter's name is no identifier, for example.
    #[error("the request cannot be built: {0}")]
    Unsendable(String),
    /// The password's file cannot be read.
    #[error("{0}")]
    NoPassword(String),
}

impl Error {
    /// ClickHouse's own code, if the server answered with one.
    pub fn code(&self) -> Option<i32> {
        match self.kind {
            ErrorKind::Exception { code, .. } => Some(code),
            _ => None,
        }
    }

    /// Whether the fault may be the replica's alone, so that another one is tried at once.
    pub fn allows_failover(&self) -> bool {
        matches!(self.kind, ErrorKind::UnexpectedAnswer { .. })
            // Read-only and full are states of one replica until all of them say so.
            || matches!(classify(self), Class::RetryNow | Class::Pause)
    }

    /// Whether the server certainly got nothing of the request.
    pub(super) fn nothing_was_sent(&self) -> bool {
        matches!(self.kind, ErrorKind::Connection { sent: false, .. })
    }
}

impl ErrorKind {
    /// Reads the text of an answer that is an error: an exception, or the page of a proxy.
    /// `header_code` comes from the header `X-ClickHouse-Exception-Code`.
    pub(super) fn from_answer(status: Option<u16>, header_code: Option<i32>, text: &str) -> Self {
        let text = text.trim();
        let Some(code) = header_code.or_else(|| codes::code_in(text)) else {
            let excerpt = excerpt(text.as_bytes());
            return match status.unwrap_or_else(|| gateway_status(text)) {
                TOO_LARGE => Self::TooLarge { excerpt },
                status => Self::UnexpectedAnswer { status, excerpt },
            };
        };
        let codes::ExceptionText { name, message } = codes::exception_text(text);
        Self::Exception {
            code,
            name: codes::name(code).map_or(name, str::to_owned),
            message,
        }
    }
}

/// HTTP status of a body above a limit.
const TOO_LARGE: u16 = 413;

/// The status that a gateway's page names, where the transport loses it
/// (docs/decisions/0018-two-transports-to-clickhouse.md); 0 when it names none.
fn gateway_status(page: &str) -> u16 {
    const PHRASES: [(&str, u16); 11] = [
        ("unauthorized", 401),
        ("forbidden", 403),
        ("entity too large", TOO_LARGE),
        ("content too large", TOO_LARGE),
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
    use ErrorKind as Kind;
    match &error.kind {
        Kind::Exception { code, .. } => codes::classify(*code),
        Kind::Connection { .. } | Kind::Timeout { .. } | Kind::Truncated(_) => Class::RetryNow,
        Kind::UnexpectedAnswer { status, .. } => Class::for_unexpected_answer(*status),
        Kind::TooLarge { .. } => Class::TooLarge,
        Kind::UnreadableRow(_) => Class::Quarantine(Reason::WrongSchema),
        // A fault of the program or its settings: the data waits until that is fixed.
        Kind::Unsendable(_) => Class::RetryLater,
        Kind::NoPassword(_) => Class::Pause,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(kind: ErrorKind) -> Error {
        let replica = "http://a:8123".to_owned();
        Error { replica, kind }
    }

    /// A `status` of 0 is unknown.
    fn answer(status: u16, header_code: Option<i32>, text: &str) -> Error {
        let status = Some(status).filter(|status| *status > 0);
        error(ErrorKind::from_answer(status, header_code, text))
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
        for (status, text) in [
            (413, ""),
            (413, "<html>"),
            (0, "<h1>413 Request Entity Too Large</h1>"),
        ] {
            let error = answer(status, None, text);
            assert_eq!(classify(&error), Class::TooLarge, "{error}");
            assert!(
                !error.allows_failover(),
                "each replica's would answer alike"
            );
        }
    }

    #[test]
    fn a_long_page_is_not_repeated_whole() {
        let error = answer(200, None, &"<p>".repeat(100_000));
        assert!(error.to_string().len() < 600);
    }

    #[test]
    fn connections_and_silences_ask_for_another_replica() {
        for kind in [
            ErrorKind::Connection {
                sent: false,
                detail: String::new(),
            },
            ErrorKind::Timeout {
                what: "an insert",
                after: Duration::from_secs(1),
            },
            ErrorKind::Truncated(String::new()),
        ] {
            let error = error(kind);
            assert_eq!(classify(&error), Class::RetryNow);
            assert!(error.allows_failover());
        }
    }
}
