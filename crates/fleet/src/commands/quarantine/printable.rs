//! Text from outside on a terminal: shown to the last byte, and never interpreted.

use std::fmt::Write;

use serde::Serialize;

/// Characters that steer a terminal or turn the direction of what follows are written as escapes, as are
/// bytes that are not UTF-8, and the backslash, so that every escape is one.
pub fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                c if steers(c) => text.extend(c.escape_default()),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            // Writing to a string does not fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// The first `most` characters of a text.
pub fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Text of more than one line: line ends stay, everything else as in [`printable`] but for the backslash, which
/// has a meaning of its own in such texts.
pub fn lines(text: &str) -> String {
    escape_lines(text, |c| c.escape_default().to_string())
}

/// `value` as JSON for a terminal as well as for programs: what serde leaves in strings that could steer a
/// terminal is written as JSON's own escapes.
pub fn json(value: &impl Serialize) -> serde_json::Result<String> {
    let text = serde_json::to_string_pretty(value)?;
    // What steers is below U+10000, so that one escape is enough.
    Ok(escape_lines(&text, |c| format!("\\u{:04x}", u32::from(c))) + "\n")
}

fn escape_lines(text: &str, escape: impl Fn(char) -> String) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c != '\n' && steers(c) {
            shown += &escape(c);
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Control characters (C0, DEL, C1), line and paragraph separators, marks and overrides of direction.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_comes_through() {
        assert_eq!(printable(b"\x1b[31mred\x07"), "\\u{1b}[31mred\\u{7}");
        assert_eq!(
            printable("tab\tnew\nline\r".as_bytes()),
            "tab\\tnew\\nline\\r"
        );
        assert_eq!(
            printable("\u{9b}31m\u{202e}abc".as_bytes()),
            "\\u{9b}31m\\u{202e}abc"
        );
        assert_eq!(printable(b"caf\xe9 \xff"), "caf\\xe9 \\xff");
        assert_eq!(printable(b"C:\\x1b"), "C:\\\\x1b");
    }

    #[test]
    fn letters_of_every_script_stay() {
        for text in ["naïve café", "مرحبا", "日本語", "👩‍🚀", "quo\"te"] {
            assert_eq!(printable(text.as_bytes()), text);
        }
    }

    #[test]
    fn json_stays_the_same_for_programs() {
        let text = "\u{9b}31m \u{1b}[0m \u{202e} \u{7f} \\";
        let shown = json(&[text]).unwrap();
        assert!(shown.chars().all(|c| c == '\n' || !steers(c)), "{shown}");
        assert_eq!(serde_json::from_str::<[String; 1]>(&shown).unwrap(), [text]);
    }

    #[test]
    fn long_values_are_cut_between_characters() {
        assert_eq!(cut("ééééé", 3), "ééé…");
        assert_eq!(cut("ééé", 3), "ééé");
    }
}
