use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

/// A ClickHouse server as a user with other rights and settings finds it: it stands before the real one, and looks at
/// the settings in the address of each request.
pub struct ProfileServer {
    address: SocketAddr,
}

/// What becomes of a request.
pub enum ProfileAnswer {
    /// It goes on to the server with these settings instead.
    Forward(String),
    /// The server refuses it, with this code and text.
    Exception(i32, String),
}

type Decide = dyn FnMut(&str) -> ProfileAnswer + Send;

impl ProfileServer {
    /// Before `server` (`host:port`), with a profile of these settings (`a=1&b=2`). Those of a request count more.
    pub async fn with_settings(server: &str, settings: &str) -> Self {
        let settings = settings.to_owned();
        Self::new(server, move |request| {
            ProfileAnswer::Forward(format!("{settings}&{request}"))
        })
        .await
    }

    /// Before `server` (`host:port`). `decide` gets the settings of each request, before it has gone on.
    pub async fn new(
        server: &str,
        decide: impl FnMut(&str) -> ProfileAnswer + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (server, decide) = (server.to_owned(), Mutex::new(decide));
        let decide: Arc<Mutex<Decide>> = Arc::new(decide);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(answer(client, server.clone(), decide.clone()));
            }
        });
        Self { address }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// One request, after which the connection is closed: the next one has a head of its own.
async fn answer(mut client: TcpStream, server: String, decide: Arc<Mutex<Decide>>) {
    let mut request = Vec::new();
    let end = loop {
        if let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        if client.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    };
    let head = String::from_utf8_lossy(&request[..end]).into_owned();
    let (line, headers) = head.split_once("\r\n").expect("a request has headers");
    let (path, version) = line.rsplit_once(' ').expect("a request has a version");
    let (path, settings) = path.split_once('?').unwrap_or((path, ""));
    let decided = (decide.lock().expect("no decision panics"))(settings);
    match decided {
        ProfileAnswer::Forward(settings) => {
            let Ok(mut server) = TcpStream::connect(&server).await else {
                return;
            };
            let head = format!("{path}?{settings} {version}\r\nConnection: close\r\n{headers}");
            let _ = server.write_all(head.as_bytes()).await;
            let _ = server.write_all(&request[end..]).await;
            let _ = copy_bidirectional(&mut client, &mut server).await;
        }
        ProfileAnswer::Exception(code, text) => {
            let body = format!("Code: {code}. DB::Exception: {text} (version 26.9.2.1)");
            let answer = format!(
                "HTTP/1.1 500 Internal Server Error\r\nConnection: close\r\nContent-Length: {}\r\n\
                 X-ClickHouse-Exception-Code: {code}\r\n\r\n{body}",
                body.len()
            );
            let _ = client.write_all(answer.as_bytes()).await;
            let _ = client.shutdown().await;
            // Closed with data unread, a connection is reset, and the answer with it.
            while client.read(&mut request).await.is_ok_and(|n| n > 0) {}
        }
    }
}
