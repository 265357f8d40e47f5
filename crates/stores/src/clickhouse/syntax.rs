//! Lists, names and brackets as ClickHouse writes them in `system.tables` and `system.columns`.

/// The characters outside of quotes and backquotes, each with its position and the number of brackets that are open
/// after it. Ends at a quote that is not closed.
fn unquoted(text: &str) -> impl Iterator<Item = (usize, char, i32)> {
    let (mut at, mut depth) = (0, 0);
    std::iter::from_fn(move || {
        let mut c = text[at..].chars().next()?;
        while matches!(c, '\'' | '`') {
            at = end_of_quoted(text, at)?;
            c = text[at..].chars().next()?;
        }
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            _ => {}
        }
        at += c.len_utf8();
        Some((at - c.len_utf8(), c, depth))
    })
}

/// The parts of a list, without the spaces around them. A comma in quotes, backquotes or brackets separates nothing.
pub(super) fn split_list(list: &str) -> Vec<&str> {
    let (mut parts, mut start) = (Vec::new(), 0);
    for (at, ..) in unquoted(list).filter(|(_, c, depth)| (*c, *depth) == (',', 0)) {
        parts.push(list[start..at].trim());
        start = at + 1;
    }
    let last = list[start..].trim();
    if !(parts.is_empty() && last.is_empty()) {
        parts.push(last);
    }
    parts
}

/// What stands in the brackets that `text` begins with; `None` where it begins with none, or they do not end.
pub(super) fn in_brackets(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('(')?;
    let (end, ..) = unquoted(inner).find(|(_, _, depth)| *depth < 0)?;
    Some(&inner[..end])
}

/// The name that `text` is, without its backquotes; `None` for any other expression.
pub(super) fn identifier(text: &str) -> Option<String> {
    if !text.starts_with('`') {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let is_name = !text.is_empty() && text.chars().all(is_word);
        return is_name.then(|| text.to_owned());
    }
    if end_of_quoted(text, 0)? != text.len() {
        return None;
    }
    let mut name = String::with_capacity(text.len());
    let mut chars = text[1..text.len() - 1].chars();
    while let Some(c) = chars.next() {
        name.push(if c == '\\' { chars.next()? } else { c });
    }
    Some(name)
}

/// Where the quoted text ends that begins at `start`: after its closing quote. A backslash escapes the next character.
pub(super) fn end_of_quoted(text: &str, start: usize) -> Option<usize> {
    let mut chars = text[start..].char_indices();
    let (_, quote) = chars.next()?;
    while let Some((at, c)) = chars.next() {
        if c == '\\' {
            chars.next();
        } else if c == quote {
            return Some(start + at + c.len_utf8());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_in_quotes_or_brackets_separates_nothing() {
        for (list, parts) in [
            ("", &[][..]),
            ("a, b_1", &["a", "b_1"]),
            (r"`a, b`, `c\`, d`", &["`a, b`", r"`c\`, d`"]),
            ("f(a, b), 'x, y', c", &["f(a, b)", "'x, y'", "c"]),
            ("a,,b", &["a", "", "b"]),
            ("`a, b", &["`a, b"]),
        ] {
            assert_eq!(split_list(list), parts, "{list}");
        }
    }

    #[test]
    fn brackets_end_where_they_are_closed_outside_of_quotes() {
        assert_eq!(
            in_brackets("('/x)', (a), `b)`) ORDER BY (c)"),
            Some("'/x)', (a), `b)`")
        );
        assert_eq!(in_brackets("() x"), Some(""));
        for text in ["", "a", " (a)", "(a", "(a')"] {
            assert_eq!(in_brackets(text), None, "{text}");
        }
    }

    #[test]
    fn a_name_is_read_out_of_its_backquotes() {
        for (text, name) in [
            ("a_1", Some("a_1")),
            ("`b c`", Some("b c")),
            (r"`d\`e, \\f`", Some(r"d`e, \f")),
            ("", None),
            ("`a", None),
            ("`a` DESC", None),
            ("-a", None),
            ("f(a)", None),
        ] {
            assert_eq!(identifier(text).as_deref(), name, "{text}");
        }
    }
}
