//! The answer of a bulk request.

use serde::Deserialize;

use super::{ItemVerdict, classify_item};

/// The parts of a bulk answer that classify each item: the whole is ten times as long. The last two
/// are an error of the whole request, which the filter would hide as well.
pub(super) const FILTER: &str = "items.*.status,items.*.error.type,items.*.error.reason,\
                           items.*.error.caused_by.reason,error,status";

#[derive(Deserialize)]
pub(super) struct BulkAnswer {
    items: Vec<BulkItem>,
}

impl BulkAnswer {
    /// One for each action of the request, in their order.
    pub fn verdicts(self) -> Vec<ItemVerdict> {
        self.items.into_iter().map(BulkItem::verdict).collect()
    }
}

/// An item's outcome stands under the name of its action.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum BulkItem {
    Index(ItemAnswer),
    Create(ItemAnswer),
    Update(ItemAnswer),
    Delete(ItemAnswer),
}

#[derive(Deserialize)]
struct ItemAnswer {
    status: u16,
    error: Option<ItemError>,
}

#[derive(Deserialize)]
struct ItemError {
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    reason: String,
    caused_by: Option<ItemErrorCause>,
}

#[derive(Deserialize)]
struct ItemErrorCause {
    #[serde(default)]
    reason: String,
}

impl BulkItem {
    fn verdict(self) -> ItemVerdict {
        let (Self::Index(outcome)
        | Self::Create(outcome)
        | Self::Update(outcome)
        | Self::Delete(outcome)) = self;
        match outcome.error {
            None => classify_item(outcome.status, "", ""),
            Some(error) => {
                let reason = match error.caused_by {
                    Some(cause) if !cause.reason.is_empty() => {
                        format!("{}: {}", error.reason, cause.reason)
                    }
                    _ => error.reason,
                };
                classify_item(outcome.status, &error.r#type, &reason)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_tells_the_cause_with_the_error() {
        let answer = r#"{"items": [
            {"index": {"status": 201}},
            {"create": {"status": 400, "error": {
                "type": "document_parsing_exception",
                "reason": "failed to parse field [n]",
                "caused_by": {"reason": "For input string: \"x\""}
            }}},
            {"index": {"status": 429, "error": {"type": "es_rejected_execution_exception", "reason": "full"}}}
        ]}"#;
        let answer: BulkAnswer = serde_json::from_str(answer).unwrap();
        assert_eq!(
            answer.verdicts(),
            [
                ItemVerdict::Stored,
                ItemVerdict::Refused {
                    status: 400,
                    kind: "document_parsing_exception".to_owned(),
                    reason: "failed to parse field [n]: For input string: \"x\"".to_owned(),
                },
                ItemVerdict::Again {
                    status: 429,
                    reason: "full".to_owned(),
                },
            ]
        );
    }
}
