//! `serp-demo PORT SOURCE`: one process of the demo's SERP service, for whoever keeps it running (compose, systemd, a shell
//! loop). SOURCE is `http://host:8123/DATABASE.DICTIONARY`, or a file; see `testkit::serp::serve`.

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [port, source] = arguments.as_slice() else {
        eprintln!("usage: serp-demo PORT SOURCE");
        std::process::exit(2);
    };
    let port = port.parse().unwrap_or_else(|_| {
        eprintln!("{port:?} is no port");
        std::process::exit(2);
    });
    testkit::serp::serve(port, source, None);
}
