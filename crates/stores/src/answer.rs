//! Texts of foreign answers, as the error types of both stores repeat them.

/// How much of an answer is repeated in an error: enough to know a proxy's page by.
const EXCERPT: usize = 300;

/// The beginning of an answer.
pub(crate) fn excerpt(bytes: &[u8]) -> String {
    let end = bytes.len().min(EXCERPT);
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
