use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use statsd::client::{Client, Pipeline};

use super::Shared;
use super::gathered::Gathered;
use super::name::Series;
use crate::{StatsSettings, StatsStyle};

/// A request to send now; answered when it is done.
pub(super) type Flush = mpsc::Sender<()>;

/// How often gathered stats are sent: statsd itself sums over ten seconds, so this loses little
/// when a program is killed and keeps gauges fresh.
const INTERVAL: Duration = Duration::from_secs(1);

/// How often the host is looked up: its container may have been replaced by one with another address.
const LOOK_UP_EVERY: Duration = Duration::from_secs(60);

/// How soon a failed look-up is tried again.
const LOOK_UP_AGAIN: Duration = Duration::from_secs(10);

/// Largest datagram, in bytes: what fits an Ethernet frame of 1500 with the headers of IPv6 and a tunnel.
const MAX_DATAGRAM: usize = 1432;

/// Counter of the calls that were left out.
const DROPPED: &str = "stats-dropped";

/// The thread that looks up the host and sends.
pub(super) struct Sender {
    host: String,
    port: u16,
    style: StatsStyle,
    prefix: String,
    gathered: Arc<Shared>,
    wire: Option<(SocketAddr, Wire)>,
    look_up_at: Instant,
}

impl Sender {
    pub(super) fn new(
        host: &str,
        settings: &StatsSettings,
        prefix: String,
        gathered: Arc<Shared>,
    ) -> Self {
        Self {
            host: host.to_owned(),
            port: settings.port,
            style: settings.style,
            prefix,
            gathered,
            wire: None,
            look_up_at: Instant::now(),
        }
    }

    /// Sends every second and when asked to, and once more when the last handle of the stats is gone.
    pub(super) fn run(mut self, requests: &mpsc::Receiver<Flush>) {
        loop {
            let request = requests.recv_timeout(INTERVAL);
            self.send();
            match request {
                // The call that asked may have stopped waiting.
                Ok(done) => drop(done.send(())),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// While the host is unknown nothing is taken: counters keep counting.
    fn send(&mut self) {
        if Instant::now() >= self.look_up_at {
            self.look_up();
        }
        let Some((_, wire)) = &self.wire else { return };
        let gathered = std::mem::take(&mut *self.gathered.lock());
        if !gathered.is_empty() {
            wire.send(&self.prefix, gathered);
        }
    }

    fn look_up(&mut self) {
        let found = address_of(&self.host, self.port).and_then(|address| match &self.wire {
            Some((known, _)) if *known == address => Ok(None),
            _ => Wire::open(self.style, address, &self.prefix).map(|w| Some((address, w))),
        });
        match found {
            Ok(changed) => {
                self.wire = changed.or(self.wire.take());
                self.look_up_at = Instant::now() + LOOK_UP_EVERY;
            }
            Err(error) => {
                tracing::warn!(host = %self.host, port = self.port, %error, "no way to the statsd server; trying again in {} s", LOOK_UP_AGAIN.as_secs());
                self.look_up_at = Instant::now() + LOOK_UP_AGAIN;
            }
        }
    }
}

/// The host's first IPv4 address, else its first: statsd servers listen on IPv4 alone by default.
fn address_of(host: &str, port: u16) -> Result<SocketAddr, String> {
    // In brackets as in a URL, an IPv6 address is no name that could be looked up.
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let addresses: Vec<_> = (bare.unwrap_or(host), port)
        .to_socket_addrs()
        .map_err(|error| error.to_string())?
        .collect();
    let version_4 = addresses.iter().find(|address| address.is_ipv4());
    version_4
        .or(addresses.first())
        .copied()
        .ok_or_else(|| "the name has no address".to_owned())
}

/// How lines leave: packed by the statsd crate, which knows no tags after the type, or here for the
/// one style that has them.
enum Wire {
    Statsd(Client),
    Dogstatsd(UdpSocket),
}

impl Wire {
    fn open(style: StatsStyle, address: SocketAddr, prefix: &str) -> Result<Self, String> {
        if style != StatsStyle::Dogstatsd {
            return Client::new(address, prefix)
                .map(Self::Statsd)
                .map_err(|error| error.to_string());
        }
        let any = if address.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        UdpSocket::bind(any)
            .and_then(|socket| socket.connect(address).map(|()| Self::Dogstatsd(socket)))
            .map_err(|error| error.to_string())
    }

    fn send(&self, prefix: &str, mut gathered: Gathered) {
        if gathered.dropped > 0 {
            let series = Series::new(StatsStyle::Equals, DROPPED, &[]);
            gathered.counters.insert(series, gathered.dropped);
        }
        match self {
            Self::Statsd(client) => pipeline(&gathered).send(client),
            Self::Dogstatsd(socket) => {
                for datagram in pack(lines(prefix, &gathered), MAX_DATAGRAM) {
                    // As statsd means it: a datagram that does not arrive is a gap in a graph.
                    let _lost = socket.send(datagram.as_bytes());
                }
            }
        }
    }
}

fn pipeline(gathered: &Gathered) -> Pipeline {
    let mut pipeline = Pipeline::new();
    pipeline.set_max_udp_size(MAX_DATAGRAM);
    for (series, total) in &gathered.counters {
        pipeline.count(&series.name, *total as f64);
    }
    for (series, value) in &gathered.gauges {
        if *value < 0.0 {
            // statsd takes a signed value for a change of the gauge: from zero it is the value.
            pipeline.gauge(&series.name, 0.0);
        }
        pipeline.gauge(&series.name, *value);
    }
    for (series, observations) in &gathered.timers {
        for took in &observations.kept {
            pipeline.timer(&series.name, milliseconds(*took));
        }
    }
    pipeline
}

fn lines(prefix: &str, gathered: &Gathered) -> Vec<String> {
    let mut lines = Vec::new();
    let mut add = |series: &Series, value: f64, kind: &str| {
        let Series { name, suffix } = series;
        lines.push(format!("{prefix}.{name}:{value}|{kind}{suffix}"));
    };
    for (series, total) in &gathered.counters {
        add(series, *total as f64, "c");
    }
    for (series, value) in &gathered.gauges {
        add(series, *value, "g");
    }
    for (series, observations) in &gathered.timers {
        for took in &observations.kept {
            add(series, milliseconds(*took), "ms");
        }
    }
    lines
}

/// Joins lines into datagrams of at most `limit` bytes; a longer line goes alone.
fn pack(lines: Vec<String>, limit: usize) -> Vec<String> {
    let mut datagrams: Vec<String> = Vec::new();
    for line in lines {
        match datagrams.last_mut() {
            Some(last) if last.len() + 1 + line.len() <= limit => {
                last.push('\n');
                last.push_str(&line);
            }
            _ => datagrams.push(line),
        }
    }
    datagrams
}

/// To the microsecond: the digits after it are noise, and bytes.
fn milliseconds(took: Duration) -> f64 {
    took.as_micros() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_packed_up_to_the_limit() {
        let lines = ["aaaa", "bbbb", "cccccccccccc", "d"].map(String::from);
        assert_eq!(pack(lines.to_vec(), 9), ["aaaa\nbbbb", "cccccccccccc", "d"]);
    }
}
