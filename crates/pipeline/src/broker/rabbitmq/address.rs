use lapin::uri::AMQPUri;
use url::{Host, Url};

/// Reads `amqp[s]://user:password@host:port/vhost`; the host of the answer is a name or a bare address. The error repeats
/// nothing of the text, which may hold a password.
///
/// lapin's own parser knows names alone: it would take localhost for an IPv6 address, and for a host that is missing.
pub fn parse_amqp_url(text: &str) -> Result<AMQPUri, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    if !matches!(url.scheme(), "amqp" | "amqps") || url.cannot_be_a_base() {
        return Err("it must begin with amqp:// or amqps://".to_owned());
    }
    let mut uri: AMQPUri = text.parse()?;
    match url.host() {
        None => return Err("it names no host".to_owned()),
        Some(Host::Domain("")) => return Err("it names no host".to_owned()),
        // Decoded by lapin.
        Some(Host::Domain(_)) => {}
        Some(Host::Ipv4(address)) => uri.authority.host = address.to_string(),
        Some(Host::Ipv6(address)) => uri.authority.host = address.to_string(),
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_host_is_itself() {
        for (text, host, port) in [
            ("amqp://u:p@[2001:db8::5]:5673/v", "2001:db8::5", 5673),
            ("amqps://u:p@[::1]/v", "::1", 5671),
            ("amqp://u:p@[::ffff:10.0.0.1]/v", "::ffff:10.0.0.1", 5672),
            ("amqp://127.0.0.1/%2f", "127.0.0.1", 5672),
            ("amqp://rabbit.example/%2f", "rabbit.example", 5672),
        ] {
            let found = parse_amqp_url(text).unwrap().authority;
            assert_eq!((found.host.as_str(), found.port), (host, port));
        }
    }

    #[test]
    fn what_would_become_another_host_or_show_a_password_is_refused() {
        for text in [
            "amqp:///v",
            "amqp://u:secret@/v",
            "amqp://u:secret@[2001:db8::5/v",
            "amqp://u:secret@2001:db8::5/v",
            "amqp:u:secret@host/v",
            "http://u:secret@host/",
        ] {
            let error = parse_amqp_url(text).unwrap_err();
            assert!(!error.contains("secret"), "{text}: {error}");
        }
    }
}
