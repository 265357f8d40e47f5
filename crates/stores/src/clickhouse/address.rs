//! Cluster strings, written as the arguments of ClickHouse's `remote()`:
//! <https://clickhouse.com/docs/sql-reference/table-functions/remote>.

use std::collections::BTreeMap;

use url::Url;

/// Most addresses of one cluster, as ClickHouse's `table_function_remote_max_addresses`:
/// more is a typing error in a range.
const MAX_ADDRESSES: usize = 1000;

/// The addresses of a cluster's replicas, by shard.
pub(super) fn parse_cluster(text: &str) -> Result<Vec<Vec<Url>>, String> {
    let mut shards = Vec::new();
    let mut addresses = 0;
    let mut taken = BTreeMap::new();
    for shard in expand(text, ',')? {
        let mut replicas = Vec::new();
        for address in expand(&shard, '|')? {
            addresses += 1;
            if addresses > MAX_ADDRESSES {
                return Err(format!("it has more than {MAX_ADDRESSES} addresses"));
            }
            let url = parse_address(&address)?;
            if let Some(first) = taken.insert(url.to_string(), shards.len()) {
                return Err(format!(
                    "{address:?} is in it twice, in shards {first} and {}; replicas of counted shards \
                     are named as in http://hub{{001..200}}-{{a|b}}:8123",
                    shards.len()
                ));
            }
            replicas.push(url);
        }
        shards.push(replicas);
    }
    Ok(shards)
}

/// Splits `text` at `separator` outside of braces, then multiplies out the braces that hold a range
/// or alternatives with `separator`. Other braces stay for the next level.
fn expand(text: &str, separator: char) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    for part in split_outside_braces(text, separator)? {
        let part = part.trim();
        if part.is_empty() {
            return Err(format!("an address is missing next to a {separator:?}"));
        }
        all.extend(multiply(part, separator)?);
    }
    Ok(all)
}

fn split_outside_braces(text: &str, separator: char) -> Result<Vec<&str>, String> {
    let (mut parts, mut start, mut inside) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            '{' if inside => return Err("braces cannot be nested".to_owned()),
            '{' => inside = true,
            '}' if !inside => return Err("a '}' has no '{'".to_owned()),
            '}' => inside = false,
            c if c == separator && !inside => {
                parts.push(&text[start..at]);
                start = at + c.len_utf8();
            }
            _ => {}
        }
    }
    if inside {
        return Err("a '{' has no '}'".to_owned());
    }
    parts.push(&text[start..]);
    Ok(parts)
}

fn multiply(text: &str, separator: char) -> Result<Vec<String>, String> {
    let mut results = vec![String::new()];
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        let close = open + rest[open..].find('}').expect("braces were checked");
        let inner = &rest[open + 1..close];
        let choices = if let Some((from, to)) = inner.split_once("..") {
            range(from, to)?
        } else if inner.contains(separator) {
            inner.split(separator).map(str::to_owned).collect()
        } else {
            vec![rest[open..=close].to_owned()]
        };
        if results.len() * choices.len() > MAX_ADDRESSES {
            return Err(format!("it has more than {MAX_ADDRESSES} addresses"));
        }
        let before = &rest[..open];
        results = results
            .iter()
            .flat_map(|done| choices.iter().map(move |c| format!("{done}{before}{c}")))
            .collect();
        rest = &rest[close + 1..];
    }
    for result in &mut results {
        result.push_str(rest);
    }
    Ok(results)
}

/// The numbers from `from` to `to`, as wide as `from` is written.
fn range(from: &str, to: &str) -> Result<Vec<String>, String> {
    let number = |text: &str| {
        Some(text)
            .filter(|t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|t| t.parse::<u32>().ok())
            .ok_or_else(|| format!("{{{from}..{to}}} is not a range of numbers"))
    };
    let (first, last) = (number(from)?, number(to)?);
    if first > last {
        return Err(format!("{{{from}..{to}}} counts down"));
    }
    if (last - first) as usize >= MAX_ADDRESSES {
        return Err(format!("it has more than {MAX_ADDRESSES} addresses"));
    }
    let width = from.len();
    Ok((first..=last).map(|n| format!("{n:0width$}")).collect())
}

/// `host`, `host:port` or a URL; http and ClickHouse's own ports where the text names none.
fn parse_address(text: &str) -> Result<Url, String> {
    let full = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let invalid = |why: &str| format!("{text:?} is no address of a replica: {why}");
    let mut url = Url::parse(&full).map_err(|e| invalid(&e.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(invalid(
            "it must begin with http:// or https:// (the HTTP interface, not the native one)",
        ));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("an address holds a user name or a password; they belong into `user` and `password_file`".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(invalid("it has a query"));
    }
    // The Url drops a port that is the scheme's own, so that 80 and 443 have to be looked for in the text.
    let names_port = full
        .split("://")
        .nth(1)
        .and_then(|rest| rest.split('/').next())
        .is_some_and(|host| host.rsplit(']').next().unwrap_or(host).contains(':'));
    if !names_port {
        let port = if url.scheme() == "https" { 8443 } else { 8123 };
        url.set_port(Some(port)).map_err(|()| invalid("no host"))?;
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<Vec<String>> {
        let shards = parse_cluster(text).unwrap();
        let names = |replicas: &Vec<Url>| replicas.iter().map(Url::to_string).collect();
        shards.iter().map(names).collect()
    }

    #[test]
    fn commas_separate_shards_and_bars_replicas() {
        assert_eq!(
            parsed("http://a:8123|http://b:8123,http://c:8123"),
            [
                vec!["http://a:8123/", "http://b:8123/"],
                vec!["http://c:8123/"]
            ]
        );
    }

    #[test]
    fn a_range_counts_shards_with_leading_zeros() {
        let shards = parsed("http://hub{008..011}:8123");
        let first: Vec<_> = shards.iter().map(|replicas| replicas[0].as_str()).collect();
        assert_eq!(
            first,
            [
                "http://hub008:8123/",
                "http://hub009:8123/",
                "http://hub010:8123/",
                "http://hub011:8123/"
            ]
        );
        assert_eq!(parsed("h{1..200}").len(), 200);
    }

    #[test]
    fn ranges_and_alternatives_multiply_as_in_remote() {
        assert_eq!(
            parsed("hub{1..2}-{a|b}"),
            [
                vec!["http://hub1-a:8123/", "http://hub1-b:8123/"],
                vec!["http://hub2-a:8123/", "http://hub2-b:8123/"]
            ]
        );
        assert_eq!(
            parsed("{a,b}:1"),
            [vec!["http://a:1/"], vec!["http://b:1/"]]
        );
    }

    #[test]
    fn the_port_is_clickhouses_own_unless_it_is_named() {
        assert_eq!(parsed("a")[0], ["http://a:8123/"]);
        assert_eq!(parsed("https://a/")[0], ["https://a:8443/"]);
        assert_eq!(parsed("http://a:80")[0], ["http://a/"]);
        assert_eq!(
            parsed("http://[::1]|http://[::1]:99/ch")[0],
            ["http://[::1]:8123/", "http://[::1]:99/ch"]
        );
    }

    #[test]
    fn what_cannot_be_a_cluster_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "missing"),
            ("a,,b", "missing"),
            ("a|", "missing"),
            ("a{1..2", "no '}'"),
            ("a}", "no '{'"),
            ("a{{1..2}}", "nested"),
            ("a{1..x}", "not a range"),
            ("a{2..1}", "counts down"),
            ("a{0001..5000}", "more than 1000"),
            ("a{1..40}b{1..40}", "more than 1000"),
            ("tcp://a:9000", "http://"),
            ("http://u:p@a", "password_file"),
            ("a:99999", "port"),
            ("a?x=1", "query"),
            ("a,b|a", "twice"),
            ("a{1..2}-x|a{1..2}-y", "{a|b}"),
        ] {
            let error = parse_cluster(text).unwrap_err();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_password_in_an_address_is_not_repeated_in_the_error() {
        let error = parse_cluster("http://u:hunter2@a").unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }
}
