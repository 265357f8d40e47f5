//! The text of an error together with its causes, for logs, receipts and operators.

use std::error::Error;

/// The error and its causes in one text. A cause is left out where the text before it has it already.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let part = cause.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        next = cause.source();
    }
    text
}

/// The text of the innermost cause: what happened ("Connection refused"), where the outer ones repeat the URL.
pub fn root_cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error() -> anyhow::Error {
        anyhow::anyhow!("refused")
            .context("no connection: refused")
            .context("cannot start")
    }

    #[test]
    fn a_cause_is_named_once() {
        assert_eq!(
            with_causes(error().as_ref()),
            "cannot start: no connection: refused"
        );
    }

    #[test]
    fn the_root_cause_is_the_innermost() {
        assert_eq!(root_cause(error().as_ref()), "refused");
        assert_eq!(root_cause(anyhow::anyhow!("alone").as_ref()), "alone");
    }
}
