//! `serp-demo PORT SOURCE [ADDRESS]`: one process of the demo's SERP service, which docker/compose.serp.yml, systemd or
//! a shell loop keeps running. It listens on the loopback interface, or on ADDRESS. SOURCE is
//! `http://host:8123/DATABASE.DICTIONARY`, or a file; see `testkit::serp::serve`.

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (port, source, address) = match arguments.as_slice() {
        [port, source] => (port, source, "127.0.0.1"),
        [port, source, address] => (port, source, address.as_str()),
        _ => {
            eprintln!("usage: serp-demo PORT SOURCE [ADDRESS]");
            std::process::exit(2);
        }
    };
    let port = port.parse().unwrap_or_else(|_| {
        eprintln!("{port:?} is no port");
        std::process::exit(2);
    });
    testkit::serp::serve(address, port, source, None);
}
