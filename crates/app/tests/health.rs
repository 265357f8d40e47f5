//! What the health page answers, over a real socket.

use std::net::SocketAddr;
use std::time::Duration;

use app::{Health, Shutdown};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

struct Page {
    address: SocketAddr,
    health: Health,
    shutdown: Shutdown,
}

impl Page {
    fn serve() -> Self {
        let (health, shutdown) = (Health::new(), Shutdown::new());
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let address = health.serve(&any, &"es-writer".into(), &shutdown).unwrap();
        Self {
            address,
            health,
            shutdown,
        }
    }

    /// Status and body.
    async fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }
}

#[tokio::test]
async fn a_program_without_parts_is_alive_and_ready() {
    let page = Page::serve();
    let well = r#"{"status":"ok","process":"es-writer","reasons":{}}"#;
    assert_eq!(page.get("/health").await, (200, well.to_owned()));
    assert_eq!(page.get("/ready").await, (200, well.to_owned()));
    assert_eq!(page.get("/other").await.0, 404);
}

#[tokio::test]
async fn a_failing_part_is_named_with_the_reason_and_for_how_long() {
    let page = Page::serve();
    page.health.set("broker", Err("disconnected".to_owned()));
    page.health.set("clickhouse", Ok(()));
    let expected = r#"{"status":"failing","process":"es-writer","reasons":{"broker":"disconnected (for 0 s)"}}"#;
    assert_eq!(page.get("/health").await, (503, expected.to_owned()));
    assert_eq!(page.get("/ready").await, (503, expected.to_owned()));
    page.health.set("broker", Ok(()));
    assert_eq!(page.get("/health").await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn a_part_that_fails_for_another_reason_is_failing_since_it_failed_first() {
    let health = Health::new();
    health.set("broker", Err("disconnected".to_owned()));
    tokio::time::advance(Duration::from_secs(7)).await;
    health.set("broker", Err("refused".to_owned()));
    assert_eq!(health.failures()["broker"], "refused (for 7 s)");
    health.set("broker", Ok(()));
    health.set("broker", Err("refused".to_owned()));
    assert_eq!(health.failures()["broker"], "refused (for 0 s)");
}

#[tokio::test]
async fn an_announced_part_that_has_not_reported_is_alive_but_not_ready() {
    let page = Page::serve();
    page.health.expect("broker");
    assert_eq!(page.get("/health").await.0, 200);
    let expected = r#"{"status":"starting","process":"es-writer","reasons":{"broker":"has not reported yet"}}"#;
    assert_eq!(page.get("/ready").await, (503, expected.to_owned()));
    page.health.set("broker", Ok(()));
    page.health.expect("broker");
    assert_eq!(page.get("/ready").await.0, 200);
}

#[tokio::test]
async fn an_ending_program_is_alive_but_not_ready() {
    let page = Page::serve();
    page.shutdown.trigger();
    assert_eq!(page.get("/health").await.0, 200);
    let expected = r#"{"status":"ending","process":"es-writer","reasons":{}}"#;
    assert_eq!(page.get("/ready").await, (503, expected.to_owned()));
}
