use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// A TCP proxy between a program and a service that fails on demand.
pub struct Proxy {
    address: SocketAddr,
    faults: Arc<ProxyFaults>,
}

#[derive(Default)]
struct ProxyFaults {
    refuse: AtomicBool,
    /// Bytes of an answer after which the connection is cut; 0 means never.
    cut_after: AtomicU64,
    cut: Notify,
}

impl Proxy {
    /// Listens on a free port of the loopback interface and forwards to `target` (`host:port`).
    pub async fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let faults = Arc::new(ProxyFaults::default());
        let (shared, target) = (faults.clone(), target.to_owned());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if shared.refuse.load(Ordering::SeqCst) {
                    continue;
                }
                tokio::spawn(forward(client, target.clone(), shared.clone()));
            }
        });
        Self { address, faults }
    }

    /// `host:port` of the proxy.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on closes new connections at once; existing ones stay.
    pub fn refuse(&self, refuse: bool) {
        self.faults.refuse.store(refuse, Ordering::SeqCst);
    }

    /// Cuts every connection that exists now.
    pub fn cut(&self) {
        self.faults.cut.notify_waiters();
    }

    /// Cuts every connection once it has passed on `bytes` of its service's answer; 0 to stop that.
    pub fn cut_after(&self, bytes: u64) {
        self.faults.cut_after.store(bytes, Ordering::SeqCst);
    }
}

async fn forward(client: TcpStream, target: String, faults: Arc<ProxyFaults>) {
    let Ok(service) = TcpStream::connect(&target).await else {
        return;
    };
    let cut = faults.cut.notified();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_service, mut to_service) = service.into_split();
    let up = tokio::io::copy(&mut from_client, &mut to_service);
    let down = async {
        let mut buffer = vec![0; 16 << 10];
        let mut passed = 0u64;
        loop {
            let read = match from_service.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(read) => read,
            };
            let limit = faults.cut_after.load(Ordering::SeqCst);
            let allowed = match limit {
                0 => read,
                limit => read.min(limit.saturating_sub(passed) as usize),
            };
            if to_client.write_all(&buffer[..allowed]).await.is_err() || allowed < read {
                return;
            }
            passed += read as u64;
        }
    };
    tokio::select! {
        () = cut => {}
        () = down => {}
        _ = up => {}
    }
}
