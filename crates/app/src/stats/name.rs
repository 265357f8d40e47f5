use crate::StatsStyle;

/// The PROJECT part of every name.
const PROJECT: &str = "keyword-fleet";

/// What stands for an empty name or value: an empty part would make a level without a name.
const EMPTY: &str = "none";

/// One line of the statistics: a name with its labels, as the configured style writes them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Series {
    /// What stands before the `:` of a datagram's line, without the prefix.
    pub(super) name: String,
    /// What stands after the type, `#` and all; empty in most styles.
    pub(super) suffix: String,
}

impl Series {
    pub(super) fn new(style: StatsStyle, name: &str, labels: &[(&str, &str)]) -> Self {
        let mut sorted = labels.to_vec();
        sorted.sort_unstable();
        let mut series = Self {
            name: escape(name),
            suffix: String::new(),
        };
        for (label, value) in sorted {
            let (label, value) = (escape(label), escape(value));
            match style {
                StatsStyle::Equals => series.name += &format!(".{label}={value}"),
                StatsStyle::Underscore => series.name += &format!(".{label}_{value}"),
                StatsStyle::GraphiteTags => series.name += &format!(";{label}={value}"),
                StatsStyle::Dogstatsd => {
                    let separator = if series.suffix.is_empty() { "|#" } else { "," };
                    series.suffix += &format!("{separator}{label}:{value}");
                }
            }
        }
        series
    }
}

/// `REALM.PROJECT.PROGRAM`, what every name of a program begins with.
pub(super) fn prefix(realm: &str, program: &str) -> String {
    format!("{}.{PROJECT}.{}", escape(realm), escape(program))
}

/// Keeps letters, digits, `-` and `_` of ASCII; the rest becomes `_`. Of it, `.` makes levels, `:`,
/// `|`, `@` and `#` separate the parts of a line, `;`, `=` and `,` those of a tag, and white space
/// ends a line or a name in carbon.
fn escape(part: &str) -> String {
    if part.is_empty() {
        return EMPTY.to_owned();
    }
    part.chars()
        .map(|c| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' => c,
            _ => '_',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(style: StatsStyle, labels: &[(&str, &str)]) -> String {
        let series = Series::new(style, "rows", labels);
        format!("{}:1|c{}", series.name, series.suffix)
    }

    #[test]
    fn every_style_writes_labels_sorted() {
        let labels = [("status", "stored"), ("index", "all")];
        for (style, expected) in [
            (StatsStyle::Equals, "rows.index=all.status=stored:1|c"),
            (StatsStyle::Underscore, "rows.index_all.status_stored:1|c"),
            (StatsStyle::GraphiteTags, "rows;index=all;status=stored:1|c"),
            (StatsStyle::Dogstatsd, "rows:1|c|#index:all,status:stored"),
        ] {
            assert_eq!(line(style, &labels), expected);
        }
    }

    #[test]
    fn what_would_break_a_line_is_replaced() {
        assert_eq!(
            line(StatsStyle::Equals, &[("at", "10.0.0.1:9000|x@y#z a\n=;,é")]),
            "rows.at=10_0_0_1_9000_x_y_z_a_____:1|c"
        );
    }

    #[test]
    fn an_empty_value_has_a_name() {
        assert_eq!(
            line(StatsStyle::Equals, &[("index", "")]),
            "rows.index=none:1|c"
        );
    }

    #[test]
    fn the_prefix_names_realm_project_and_program() {
        assert_eq!(
            prefix("prod.eu", "es-writer"),
            "prod_eu.keyword-fleet.es-writer"
        );
    }
}
