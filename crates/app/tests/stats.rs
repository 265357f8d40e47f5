//! What arrives at a statsd server, over a real UDP socket.

use std::net::UdpSocket;
use std::time::Duration;

use app::{Stats, StatsSettings, StatsStyle};

/// Longer than any datagram takes on the loopback; only a failing test waits for it.
const TIMEOUT: Duration = Duration::from_secs(10);

struct Server(UdpSocket);

impl Server {
    fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        Self(socket)
    }

    fn stats(&self, style: StatsStyle) -> Stats {
        let settings = StatsSettings {
            host: Some("localhost".to_owned()),
            port: self.0.local_addr().unwrap().port(),
            style,
        };
        Stats::start(&settings, "test", "es-writer")
    }

    fn datagram(&self) -> String {
        let mut buffer = [0; 65_536];
        let length = self.0.recv(&mut buffer).expect("no datagram came");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }
}

fn some_of_each(stats: &Stats) {
    stats.count("rows", &[("status", "stored"), ("index", "all")], 2);
    stats.count("rows", &[("index", "all"), ("status", "stored")], 3);
    stats.count("batches", &[], 1);
    stats.gauge("skew", &[], 1.5);
    stats.gauge("skew", &[], -2.5);
    stats.time(
        "main_loop",
        &[("at", "a b.c:1")],
        Duration::from_micros(12_345),
    );
    assert!(stats.flush(TIMEOUT));
}

#[test]
fn counters_are_summed_and_everything_is_packed_into_one_datagram() {
    let server = Server::start();
    some_of_each(&server.stats(StatsStyle::Equals));
    assert_eq!(
        server.datagram(),
        "test.keyword-fleet.es-writer.batches:1|c\n\
         test.keyword-fleet.es-writer.rows.index=all.status=stored:5|c\n\
         test.keyword-fleet.es-writer.skew:0|g\n\
         test.keyword-fleet.es-writer.skew:-2.5|g\n\
         test.keyword-fleet.es-writer.main_loop.at=a_b_c_1:12.345|ms"
    );
}

#[test]
fn labels_may_be_joined_by_underscores() {
    let server = Server::start();
    some_of_each(&server.stats(StatsStyle::Underscore));
    assert_eq!(
        server.datagram(),
        "test.keyword-fleet.es-writer.batches:1|c\n\
         test.keyword-fleet.es-writer.rows.index_all.status_stored:5|c\n\
         test.keyword-fleet.es-writer.skew:0|g\n\
         test.keyword-fleet.es-writer.skew:-2.5|g\n\
         test.keyword-fleet.es-writer.main_loop.at_a_b_c_1:12.345|ms"
    );
}

#[test]
fn labels_may_be_tags_of_graphite() {
    let server = Server::start();
    some_of_each(&server.stats(StatsStyle::GraphiteTags));
    assert_eq!(
        server.datagram(),
        "test.keyword-fleet.es-writer.batches:1|c\n\
         test.keyword-fleet.es-writer.rows;index=all;status=stored:5|c\n\
         test.keyword-fleet.es-writer.skew:0|g\n\
         test.keyword-fleet.es-writer.skew:-2.5|g\n\
         test.keyword-fleet.es-writer.main_loop;at=a_b_c_1:12.345|ms"
    );
}

#[test]
fn labels_may_be_tags_of_dogstatsd_where_a_negative_gauge_is_no_change() {
    let server = Server::start();
    some_of_each(&server.stats(StatsStyle::Dogstatsd));
    assert_eq!(
        server.datagram(),
        "test.keyword-fleet.es-writer.batches:1|c\n\
         test.keyword-fleet.es-writer.rows:5|c|#index:all,status:stored\n\
         test.keyword-fleet.es-writer.skew:-2.5|g\n\
         test.keyword-fleet.es-writer.main_loop:12.345|ms|#at:a_b_c_1"
    );
}

#[test]
fn no_datagram_is_larger_than_a_frame_of_ethernet_takes() {
    for style in [StatsStyle::Equals, StatsStyle::Dogstatsd] {
        let server = Server::start();
        let stats = server.stats(style);
        for n in 0..100 {
            stats.count(&format!("counter{n}"), &[], 1);
        }
        assert!(stats.flush(TIMEOUT));
        let mut lines = 0;
        while lines < 100 {
            let datagram = server.datagram();
            assert!(datagram.len() <= 1432, "{} bytes", datagram.len());
            lines += datagram.lines().count();
        }
        assert_eq!(lines, 100);
    }
}

#[test]
fn what_is_left_out_is_counted() {
    let server = Server::start();
    let stats = server.stats(StatsStyle::Equals);
    stats.gauge("skew", &[], f64::NAN);
    assert!(stats.flush(TIMEOUT));
    assert_eq!(
        server.datagram(),
        "test.keyword-fleet.es-writer.stats-dropped:1|c"
    );
}

#[test]
fn a_second_later_it_is_sent_without_being_asked_for() {
    let server = Server::start();
    let stats = server.stats(StatsStyle::Equals);
    stats.count("rows", &[], 1);
    assert_eq!(server.datagram(), "test.keyword-fleet.es-writer.rows:1|c");
}

#[test]
fn what_is_left_when_the_last_handle_goes_is_sent() {
    let server = Server::start();
    let stats = server.stats(StatsStyle::Equals);
    stats.count("rows", &[], 1);
    drop(stats);
    assert_eq!(server.datagram(), "test.keyword-fleet.es-writer.rows:1|c");
}

#[test]
fn while_the_host_is_unknown_counters_keep_counting() {
    let settings = StatsSettings {
        host: Some("no-such-host.invalid".to_owned()),
        ..StatsSettings::default()
    };
    let stats = Stats::start(&settings, "test", "es-writer");
    stats.count("rows", &[], 1);
    stats.flush(TIMEOUT);
    stats.count("rows", &[], 1);
    assert_eq!(stats.counter("rows", &[]), 2);
}
