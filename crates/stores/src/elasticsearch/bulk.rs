//! The answer of a bulk request.

use std::collections::HashMap;

use serde::Deserialize;

use super::ItemResult;
use super::error::classify_item;

/// The parts of a bulk answer that classify each item: the whole is ten times as long. The last two
/// are an error of the whole request, which the filter would hide as well.
pub(super) const FILTER: &str = "items.*.status,items.*.error.type,items.*.error.reason,\
                           items.*.error.caused_by.reason,error,status";

#[derive(Deserialize)]
pub(super) struct BulkAnswer {
    /// Each item under the name of its action.
    items: Vec<HashMap<String, ItemAnswer>>,
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
    caused_by: Option<Box<ItemError>>,
}

impl BulkAnswer {
    /// One for each action of the request, in their order.
    pub fn results(self) -> Vec<ItemResult> {
        let items = self.items.into_iter().flat_map(HashMap::into_values);
        items.map(ItemAnswer::result).collect()
    }
}

impl ItemAnswer {
    fn result(self) -> ItemResult {
        let Some(mut error) = self.error else {
            return classify_item(self.status, "", "");
        };
        if let Some(cause) = error.caused_by.filter(|cause| !cause.reason.is_empty()) {
            error.reason = format!("{}: {}", error.reason, cause.reason);
        }
        classify_item(self.status, &error.r#type, &error.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_its_cause_with_it() {
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
            answer.results(),
            [
                ItemResult::Stored,
                ItemResult::Refused {
                    status: 400,
                    kind: "document_parsing_exception".to_owned(),
                    reason: "failed to parse field [n]: For input string: \"x\"".to_owned(),
                },
                ItemResult::Again {
                    status: 429,
                    reason: "full".to_owned(),
                },
            ]
        );
    }
}
