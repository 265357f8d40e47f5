//! Names of nodes and their ports.

use std::net::Ipv6Addr;

/// Most ports of one node: more is a mistake in a range.
const MAX_PORTS: usize = 1000;

/// A node of the SERP service: a host and the ports of its processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SerpNode {
    /// Its name in settings, orders and receipts.
    pub name: String,
    /// Host name or address; an IPv6 address in brackets.
    pub host: String,
    /// In the order of the settings, each once.
    pub ports: Vec<u16>,
    /// The ports are part of its name.
    pub(crate) has_own_ports: bool,
}

impl SerpNode {
    /// `host` with the ports that every node has, or `host:PORTS` with its own.
    pub(crate) fn parse(name: &str, default_ports: &[u16]) -> Result<Self, String> {
        let after_host = if name.starts_with('[') {
            name.find(']').map_or(name.len(), |end| end + 1)
        } else {
            name.find(':').unwrap_or(name.len())
        };
        let (host, rest) = name.split_at(after_host);
        if !is_host(host) {
            return Err(format!("{name:?} does not begin with the name of a host"));
        }
        let own = match rest.strip_prefix(':') {
            Some(ports) => Some(parse_ports(ports).map_err(|e| format!("{name:?}: {e}"))?),
            None if rest.is_empty() => None,
            None => return Err(format!("{name:?} is not a host, or a host and its ports")),
        };
        Ok(Self {
            name: name.to_owned(),
            host: host.to_owned(),
            has_own_ports: own.is_some(),
            ports: own.unwrap_or_else(|| default_ports.to_vec()),
        })
    }

    /// `host:port`.
    pub fn address(&self, port: u16) -> String {
        format!("{}:{port}", self.host)
    }
}

/// Whether `text` can be the host of a URL without meaning anything else there.
fn is_host(text: &str) -> bool {
    if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        return inner.parse::<Ipv6Addr>().is_ok();
    }
    let is_part = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    !text.is_empty() && text.bytes().all(is_part)
}

/// `8093-8100`, or several of such separated by commas.
pub(crate) fn parse_ports(text: &str) -> Result<Vec<u16>, String> {
    let mut ports = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| {
            let port = text.trim().parse::<u16>().ok().filter(|port| *port > 0);
            port.ok_or_else(|| format!("{part:?} is neither a port nor a range as in 8093-8100"))
        };
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(format!("{part:?} counts down"));
        }
        for port in first..=last {
            if !ports.contains(&port) {
                ports.push(port);
            }
            if ports.len() > MAX_PORTS {
                return Err(format!("{text:?} is more than {MAX_PORTS} ports"));
            }
        }
    }
    Ok(ports)
}

/// A name of a host with a placeholder for a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeTemplate {
    before: String,
    width: usize,
    after: String,
}

impl NodeTemplate {
    /// `None` when there is none.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        if text.is_empty() {
            return Ok(None);
        }
        let no_placeholder =
            || format!("{text:?} has no single {{NNN}}, which the replica's number would stand in");
        let (before, rest) = text.split_once('{').ok_or_else(no_placeholder)?;
        let (placeholder, after) = rest.split_once('}').ok_or_else(no_placeholder)?;
        let is_placeholder = !placeholder.is_empty() && placeholder.bytes().all(|b| b == b'N');
        if !is_placeholder || after.contains('{') {
            return Err(no_placeholder());
        }
        let template = Self {
            before: before.to_owned(),
            width: placeholder.len(),
            after: after.to_owned(),
        };
        if is_host(&template.with("0")) {
            Ok(Some(template))
        } else {
            Err(format!("{text:?} does not make the name of a host"))
        }
    }

    /// The name with the first number in `host`; `None` for one without a number, and for a bare address.
    pub fn fill(&self, host: &str) -> Option<String> {
        if host.parse::<std::net::IpAddr>().is_ok() {
            return None;
        }
        let start = host.find(|c: char| c.is_ascii_digit())?;
        let rest = &host[start..];
        let end = rest.find(|c: char| !c.is_ascii_digit());
        Some(self.with(&rest[..end.unwrap_or(rest.len())]))
    }

    /// Whether it gives `host` for some number.
    pub fn matches(&self, host: &str) -> bool {
        let number = host
            .strip_prefix(&self.before)
            .and_then(|rest| rest.strip_suffix(&self.after));
        number
            .is_some_and(|n| n.len() >= self.width.max(1) && n.bytes().all(|b| b.is_ascii_digit()))
    }

    fn with(&self, digits: &str) -> String {
        let Self {
            before,
            width,
            after,
        } = self;
        format!("{before}{digits:0>width$}{after}")
    }
}

/// The host of a replica's address, which may be the host alone.
pub(crate) fn host_of(address: &str) -> &str {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let rest = rest.split('/').next().unwrap_or(rest);
    match rest.strip_prefix('[') {
        Some(inner) => inner.split(']').next().unwrap_or(inner),
        None => rest.split(':').next().unwrap_or(rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_numbers_and_ranges() {
        assert_eq!(parse_ports("8093-8095").unwrap(), [8093, 8094, 8095]);
        assert_eq!(parse_ports("1, 5-6,5").unwrap(), [1, 5, 6]);
        for wrong in ["", "0", "a", "1-", "5-4", "70000", "1,,2", "1-2000"] {
            assert!(parse_ports(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_node_is_a_host_that_may_have_ports() {
        let node = |name| SerpNode::parse(name, &[1]);
        assert_eq!(node("a.b").unwrap().ports, [1]);
        assert_eq!(node("a:7-8").unwrap().ports, [7, 8]);
        assert_eq!(node("[::1]:7").unwrap().address(7), "[::1]:7");
        for wrong in ["", "a/b", "a b", ":7", "a:", "u@a", "[::1]x", "a#", "a?b"] {
            assert!(node(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_template_has_one_placeholder_for_the_number() {
        assert_eq!(NodeTemplate::parse("").unwrap(), None);
        for wrong in ["a", "a{}", "a{N", "a{NX}", "a{N}{N}", "a/{N}"] {
            assert!(NodeTemplate::parse(wrong).is_err(), "{wrong:?}");
        }
        let template = NodeTemplate::parse("h{NN}").unwrap().unwrap();
        assert_eq!(template.fill("laksa0123-b4").as_deref(), Some("h0123"));
        assert!(template.matches("h0123") && !template.matches("h1"));
    }
}
