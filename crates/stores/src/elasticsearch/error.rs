use std::time::Duration;

use batch::Reason;

use crate::Class;

/// What went wrong with a request as a whole.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Elasticsearch answered with an error.
    #[error("{node}: {reason} ({kind}, status {status})")]
    Exception {
        node: String,
        /// HTTP status.
        status: u16,
        /// Elasticsearch's word for it, such as `cluster_block_exception`.
        kind: String,
        reason: String,
    },
    /// No connection, or it broke.
    #[error("{node}: no connection, or it broke: {detail}")]
    Connection { node: String, detail: String },
    /// No answer within the timeout.
    #[error("{node}: no answer within {} s", after.as_secs_f64())]
    Timeout { node: String, after: Duration },
    /// The answer is not Elasticsearch's, but a proxy's page for example.
    #[error(
        "{node}: the answer (status {status}) is not Elasticsearch's: {excerpt:?}; check the address, and any proxy before it"
    )]
    UnexpectedAnswer {
        node: String,
        status: u16,
        excerpt: String,
    },
    /// Elasticsearch, or a proxy before it, takes no body of this size.
    #[error(
        "{node}: it answered {TOO_LARGE} (too large) to a request of {bytes} bytes: {excerpt:?}; raise \
         http.max_content_length, or the limit of the proxy before it"
    )]
    TooLarge {
        node: String,
        bytes: usize,
        excerpt: String,
    },
    /// The index does not exist, or is only an alias of another.
    #[error("{0}; `fleet elasticsearch configure` creates it")]
    MissingIndex(String),
}

impl Error {
    /// Whether another node is tried at once. Not after a timeout: the request may still be running, and
    /// twice the load makes a slow cluster slower.
    pub(super) fn allows_failover(&self) -> bool {
        matches!(
            self,
            Self::Connection { .. } | Self::UnexpectedAnswer { .. }
        )
    }
}

/// What became of one document of a bulk request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ItemResult {
    /// The index has it.
    Stored,
    /// The index already had it in this version or a newer one.
    Unchanged,
    /// Not accepted because of load or a transient fault: send it again, after a pause.
    Again { status: u16, reason: String },
    /// The index takes no writes at all: a full disk, an operator's block, a user without the right.
    Blocked { reason: String },
    /// Elasticsearch refuses this document, and will again.
    Refused {
        status: u16,
        kind: String,
        reason: String,
    },
}

impl ItemResult {
    /// The reason of quarantine, if the document goes there.
    pub fn quarantine(&self) -> Option<Reason> {
        match self {
            Self::Refused { kind, .. } if kind == INDEX_NOT_FOUND => Some(Reason::MissingTarget),
            Self::Refused { .. } => Some(Reason::RefusedRows),
            _ => None,
        }
    }
}

/// HTTP status of a body above a limit, of Elasticsearch, which sends an empty answer, or of a proxy, which sends a page.
pub(super) const TOO_LARGE: u16 = 413;
const INDEX_NOT_FOUND: &str = "index_not_found_exception";
const CLUSTER_BLOCK: &str = "cluster_block_exception";
/// As an operator does before maintenance.
const INDEX_CLOSED: &str = "index_closed_exception";
/// The user may not write to this index, or is not known any more.
const SECURITY: &str = "security_exception";

/// Classifies one item of a bulk answer: `kind` and `reason` are empty where there is no error.
pub(super) fn classify_item(status: u16, kind: &str, reason: &str) -> ItemResult {
    let (kind, reason) = (kind.to_owned(), reason.to_owned());
    match (status, kind.as_str()) {
        (200..=299, _) => ItemResult::Stored,
        // With an external version: the index has this version or a newer one.
        (409, "version_conflict_engine_exception") => ItemResult::Unchanged,
        // 403 when an operator blocked it, 429 when the disk's flood stage did; 503 is a cluster without a
        // master, which elects one.
        (400..=499, CLUSTER_BLOCK | INDEX_CLOSED) | (401 | 403, SECURITY) => {
            ItemResult::Blocked { reason }
        }
        (408 | 429 | 500..=599, _) => ItemResult::Again { status, reason },
        _ => ItemResult::Refused {
            status,
            kind,
            reason,
        },
    }
}

/// The one place that decides how an error of a whole request is handled.
pub fn classify(error: &Error) -> Class {
    match error {
        Error::Connection { .. } | Error::Timeout { .. } => Class::RetryNow,
        Error::UnexpectedAnswer { status, .. } => Class::for_unexpected_answer(*status),
        Error::TooLarge { .. } => Class::TooLarge,
        Error::MissingIndex(_) => Class::Quarantine(Reason::MissingTarget),
        Error::Exception { status, kind, .. } => match (*status, kind.as_str()) {
            (400..=499, CLUSTER_BLOCK | INDEX_CLOSED) => Class::Pause,
            (401 | 403, _) => Class::Pause,
            (404, INDEX_NOT_FOUND) => Class::Quarantine(Reason::MissingTarget),
            // Malformed.
            (400, _) => Class::Refused,
            _ => Class::RetryLater,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_gets_the_result_that_its_error_asks_for() {
        let again = |status| ItemResult::Again {
            status,
            reason: "why".to_owned(),
        };
        let blocked = ItemResult::Blocked {
            reason: "why".to_owned(),
        };
        let refused = |status, kind: &str| ItemResult::Refused {
            status,
            kind: kind.to_owned(),
            reason: "why".to_owned(),
        };
        for (status, kind, result) in [
            (200, "", ItemResult::Stored),
            (201, "", ItemResult::Stored),
            (
                409,
                "version_conflict_engine_exception",
                ItemResult::Unchanged,
            ),
            (403, "cluster_block_exception", blocked.clone()),
            (429, "cluster_block_exception", blocked.clone()),
            (400, "index_closed_exception", blocked.clone()),
            (401, "security_exception", blocked.clone()),
            (403, "security_exception", blocked),
            (503, "cluster_block_exception", again(503)),
            (429, "es_rejected_execution_exception", again(429)),
            (429, "circuit_breaking_exception", again(429)),
            (503, "unavailable_shards_exception", again(503)),
            (500, "some_exception", again(500)),
            (
                400,
                "document_parsing_exception",
                refused(400, "document_parsing_exception"),
            ),
            (
                400,
                "strict_dynamic_mapping_exception",
                refused(400, "strict_dynamic_mapping_exception"),
            ),
            (
                404,
                "index_not_found_exception",
                refused(404, "index_not_found_exception"),
            ),
        ] {
            assert_eq!(
                classify_item(status, kind, "why"),
                result,
                "{status} {kind}"
            );
        }
    }

    #[test]
    fn refused_documents_go_to_quarantine_and_no_others() {
        let reason = |status, kind| classify_item(status, kind, "").quarantine();
        assert_eq!(
            reason(404, "index_not_found_exception"),
            Some(Reason::MissingTarget)
        );
        assert_eq!(
            reason(400, "document_parsing_exception"),
            Some(Reason::RefusedRows)
        );
        assert_eq!(reason(429, "es_rejected_execution_exception"), None);
        assert_eq!(reason(403, "cluster_block_exception"), None);
    }

    #[test]
    fn each_error_of_a_request_gets_its_class() {
        let exception = |status, kind: &str| Error::Exception {
            node: String::new(),
            status,
            kind: kind.to_owned(),
            reason: String::new(),
        };
        let page = |status| Error::UnexpectedAnswer {
            node: String::new(),
            status,
            excerpt: String::new(),
        };
        let too_large = Error::TooLarge {
            node: "http://a:9200".to_owned(),
            bytes: 200_000,
            excerpt: String::new(),
        };
        for (error, class) in [
            (exception(401, "security_exception"), Class::Pause),
            (exception(403, "security_exception"), Class::Pause),
            (exception(403, "cluster_block_exception"), Class::Pause),
            (exception(429, "cluster_block_exception"), Class::Pause),
            (exception(400, "index_closed_exception"), Class::Pause),
            (exception(503, "cluster_block_exception"), Class::RetryLater),
            (
                exception(429, "circuit_breaking_exception"),
                Class::RetryLater,
            ),
            (exception(500, "anything"), Class::RetryLater),
            (exception(400, "illegal_argument_exception"), Class::Refused),
            (too_large, Class::TooLarge),
            (
                exception(404, "index_not_found_exception"),
                Class::Quarantine(Reason::MissingTarget),
            ),
            (page(200), Class::Quarantine(Reason::UnexpectedAnswer)),
            (page(403), Class::Pause),
            (page(502), Class::RetryNow),
        ] {
            assert_eq!(classify(&error), class, "{error}");
        }
    }
}
