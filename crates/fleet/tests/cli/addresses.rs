//! Every service is reached at the address of its setting: an IPv6 address as well, and whatever proxy the environment
//! names for the internet.

use std::io::{Read, Write, copy};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread::spawn;

use testkit::{Database, Hub, IndexPrefix, Services, VirtualHost, repository};

use crate::golden::Folder;

/// Nothing listens there.
const DEAD_PROXY: &str = "http://127.0.0.1:9";
const PROXY_VARIABLES: [&str; 6] = [
    "http_proxy",
    "HTTP_PROXY",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
];

/// Passes connections on from `[::1]` to a service (`host:port`); its address.
fn on_ipv6(target: &str) -> SocketAddr {
    let listener = TcpListener::bind("[::1]:0").expect("this machine has IPv6");
    let (address, target) = (listener.local_addr().unwrap(), target.to_owned());
    spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let service = TcpStream::connect(&target).unwrap();
            for (mut from, mut to) in [
                (client.try_clone().unwrap(), service.try_clone().unwrap()),
                (service, client),
            ] {
                spawn(move || {
                    let _ = copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    address
}

/// A port of a SERP process that is up and serves version 1; the address.
fn serp_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let _ = client.read(&mut [0; 4096]);
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 14\r\nconnection: close\r\n\r\n{\"version\": 1}";
            let _ = client.write_all(answer.as_bytes());
        }
    });
    address
}

/// Replaces the `127.0.0.1:PORT` of an address by that of a listener on IPv6.
fn moved(address: &str) -> String {
    let start = address.find("127.0.0.1:").expect("services are local");
    let end = address[start..].find(['/', ',']).map(|n| start + n);
    let old = &address[start..end.unwrap_or(address.len())];
    address.replace(old, &on_ipv6(old).to_string())
}

/// Asks each service something; each address goes through `moved` first.
fn every_service_answers(moved: fn(&str) -> String, environment: &[(&str, &str)]) {
    let (host, database, indices) = (
        VirtualHost::create(),
        Database::create(),
        IndexPrefix::create(),
    );
    let hub = Hub {
        shards: database.shards().to_vec(),
        database: database.name().to_owned(),
        table: "hub".to_owned(),
        rows: 10,
    };
    hub.create();
    let shards: Vec<String> = database.shards().iter().map(|url| moved(url)).collect();
    let (cluster, name) = (shards.join(","), database.name());
    let serp = moved(&serp_port().to_string());
    let folder = Folder::new();
    folder.write(
        "fleet.toml",
        &format!(
            "[broker]\nurl = \"{}\"\nmanagement_url = \"{}\"\n\
             [source]\ncluster = \"{cluster}\"\ndatabase = \"{name}\"\ntable = \"hub\"\n\
             [clickhouse]\ncluster = \"{cluster}\"\ndatabase = \"{name}\"\ntable = \"metrics\"\n\
             [elasticsearch]\nurls = [\"{}\"]\n[[elasticsearch.indices]]\nname = \"{}\"\n\
             [serp]\nnodes = [[\"{serp}\"]]\n",
            moved(host.url()),
            moved(host.management_url()),
            moved(indices.url()),
            indices.index("all"),
        ),
    );
    for command in [
        "config check",
        "pipeline configure --type direct",
        "pipeline qlen",
        "quarantine list --program ch-writer",
        "runs list",
        "clickhouse configure",
        "elasticsearch configure",
        "serp status",
    ] {
        let arguments: Vec<&str> = command.split(' ').collect();
        let answer = folder.fleet(&arguments, environment);
        assert_eq!(answer.code, Some(0), "fleet {command}: {}", answer.stderr);
    }
}

#[test]
fn an_ipv6_address_reaches_every_service() {
    every_service_answers(moved, &[]);
}

#[test]
fn a_proxy_of_the_environment_is_for_none_of_the_fleets_own_connections() {
    let environment = PROXY_VARIABLES.map(|name| (name, DEAD_PROXY));
    every_service_answers(str::to_owned, &environment);
}

#[test]
fn a_proxy_of_the_environment_is_not_for_the_local_services() {
    Services::start(&["rabbitmq", "clickhouse", "elasticsearch"]);
    let status = Command::new(repository().join("deploy/local/services"))
        .arg("status")
        .envs(PROXY_VARIABLES.map(|name| (name, DEAD_PROXY)))
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&status.stdout);
    assert!(status.status.success(), "{printed}");
}

#[test]
fn an_address_that_would_be_taken_for_another_is_refused() {
    let check = |setting: &str| Folder::new().fleet(&["config", "check", "--set", setting], &[]);
    for setting in [
        "broker.url=amqp://u:secret@2001:db8::5/v",
        "broker.url=amqp:///v",
        "broker.management_url=http://u:secret@2001:db8::5:15672",
        "source.cluster=2001:db8::5",
        "clickhouse.cluster=http://[2001:db8::5:8123",
        "elasticsearch.urls=[\"http://2001:db8::5:9200\"]",
        "serp.nodes=[[\"[2001:db8::zz]:80\"]]",
        "serp.nodes=[[\"2001:db8::5\"]]",
        "health.address=::1:8080",
    ] {
        let answer = check(setting);
        assert_eq!(answer.code, Some(3), "{setting}: {}", answer.stdout);
        assert!(!answer.stderr.contains("secret"), "{}", answer.stderr);
    }
}
