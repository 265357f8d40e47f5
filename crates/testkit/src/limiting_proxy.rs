use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Longest head of a request that is read.
const HEAD_BYTES: usize = 1 << 20;

/// An HTTP proxy before a service that takes no long URLs (status 414) and no large bodies (413), as nginx does and with
/// its pages. Each connection is for one request.
pub struct LimitingProxy {
    address: SocketAddr,
    refused: Arc<AtomicUsize>,
}

#[derive(Clone, Copy)]
pub struct ProxyLimits {
    pub url_bytes: usize,
    pub body_bytes: usize,
}

impl LimitingProxy {
    /// Listens on a free port of the loopback interface and forwards to `target` (`host:port`).
    pub async fn to(target: &str, limits: ProxyLimits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let target = target.to_owned();
        let refused = Arc::new(AtomicUsize::new(0));
        let counter = refused.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (target, counter) = (target.clone(), counter.clone());
                // A connection that breaks is the client's to report.
                tokio::spawn(async move { forward(client, &target, limits, &counter).await });
            }
        });
        Self { address, refused }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Requests that were too large so far.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::SeqCst)
    }
}

async fn forward(
    mut client: TcpStream,
    target: &str,
    limits: ProxyLimits,
    refused: &AtomicUsize,
) -> std::io::Result<()> {
    let mut request = Vec::new();
    let head = loop {
        if let Some(end) = request.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break String::from_utf8_lossy(&request[..end]).into_owned();
        }
        if request.len() > HEAD_BYTES || client.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    };
    let mut lines = head.lines();
    let first_line = lines.next().unwrap_or_default();
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse::<usize>().ok())?
    });
    let url = first_line.split(' ').nth(1).unwrap_or_default();
    let status = if url.len() > limits.url_bytes {
        Some("414 Request-URI Too Large")
    } else if length.is_some_and(|length| length > limits.body_bytes) {
        Some("413 Request Entity Too Large")
    } else {
        None
    };
    if let Some(status) = status {
        refused.fetch_add(1, Ordering::SeqCst);
        return refuse(client, status).await;
    }
    let mut service = TcpStream::connect(target).await?;
    let rest = &request[first_line.len()..];
    let once = format!("{first_line}\r\nConnection: close");
    service.write_all(once.as_bytes()).await?;
    service.write_all(rest).await?;
    tokio::io::copy_bidirectional(&mut client, &mut service).await?;
    Ok(())
}

/// Answers with a page, and reads the rest of the request: closed with data unread, a connection is reset.
async fn refuse(mut client: TcpStream, status: &str) -> std::io::Result<()> {
    let page = format!("<html><head><title>{status}</title></head></html>");
    let length = page.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\nServer: nginx\r\nContent-Type: text/html\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{page}"
    );
    client.write_all(answer.as_bytes()).await?;
    client.shutdown().await?;
    let mut rest = vec![0; 64 << 10];
    while client.read(&mut rest).await? > 0 {}
    Ok(())
}
