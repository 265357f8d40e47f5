use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::management::{Management, ManagementError};

/// A server that gives every request this answer; its address.
async fn answering(status: &'static str, body: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    format!("http://127.0.0.1:{}", address.port())
}

/// A port that nothing listens on.
async fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

async fn error_of(amqp: &str, management: &str) -> ManagementError {
    let management = Management::new(amqp, Some(management)).unwrap();
    management.configured().await.unwrap_err()
}

#[tokio::test]
async fn a_refused_user_is_told_which_rights_are_needed() {
    let url = answering(
        "401 Unauthorized",
        r#"{"error":"not_authorised","reason":"Login failed"}"#,
    )
    .await;
    let error = error_of("amqp://joe:secret@127.0.0.1/%2f", &url).await;
    assert!(!error.may_pass());
    let text = error.to_string();
    for part in [
        "\"joe\"",
        "Login failed",
        "policymaker",
        "virtual host \"/\"",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!text.contains("secret"), "{text}");
}

#[tokio::test]
async fn a_missing_virtual_host_is_named() {
    let url = answering(
        "404 Not Found",
        r#"{"error":"Object Not Found","reason":"Not Found"}"#,
    )
    .await;
    let error = error_of("amqp://127.0.0.1/fleet", &url).await;
    assert!(
        error.to_string().contains("no virtual host \"fleet\""),
        "{error}"
    );
}

#[tokio::test]
async fn another_server_is_told_from_the_management_api() {
    let url = answering("502 Bad Gateway", "<html>proxy</html>").await;
    let error = error_of("amqp://127.0.0.1", &url).await;
    assert!(error.to_string().contains("<html>proxy</html>"), "{error}");
    let url = answering("200 OK", "<html>hello</html>").await;
    let error = error_of("amqp://127.0.0.1", &url).await;
    assert!(
        matches!(error, ManagementError::NotManagement { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_broker_without_the_plugin_is_told_from_no_broker() {
    let broker = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let amqp = format!(
        "amqp://127.0.0.1:{}/%2f",
        broker.local_addr().unwrap().port()
    );
    let management = format!("http://127.0.0.1:{}", closed_port().await);
    let error = error_of(&amqp, &management).await;
    assert!(
        error
            .to_string()
            .contains("rabbitmq-plugins enable rabbitmq_management"),
        "{error}"
    );
    assert!(error.may_pass());

    drop(broker);
    let error = error_of(&amqp, &management).await;
    assert!(
        matches!(error, ManagementError::Unreachable { .. }),
        "{error}"
    );
    assert!(error.may_pass());
}

#[test]
fn what_the_management_address_leaves_out_is_taken_from_the_broker_address() {
    let shown = |amqp: &str, management: Option<&str>| {
        format!("{:?}", Management::new(amqp, management).unwrap())
    };
    assert_eq!(
        shown("amqp://joe:pass@rabbit:5672/my%2fhost", None),
        "Management(http://rabbit:15672/ as joe, virtual host \"my/host\")"
    );
    assert_eq!(
        shown("amqps://joe:pass@rabbit/fleet", None),
        "Management(https://rabbit:15672/ as joe, virtual host \"fleet\")"
    );
    assert_eq!(
        shown("amqp://joe:pass@[2001:db8::5]:5672/fleet", None),
        "Management(http://[2001:db8::5]:15672/ as joe, virtual host \"fleet\")"
    );
    assert_eq!(
        shown(
            "amqp://joe:pass@rabbit",
            Some("http://ann%40home:s%2F&=@proxy/rabbit/")
        ),
        "Management(http://proxy/rabbit/ as ann@home, virtual host \"/\")"
    );
}

#[test]
fn an_address_that_cannot_be_used_is_refused_by_its_key() {
    let refused = |amqp: &str, management: Option<&str>| {
        Management::new(amqp, management).unwrap_err().to_string()
    };
    assert!(refused("rabbit", None).starts_with("broker.url is not usable"));
    assert!(refused("amqp://rabbit/", None).contains("the default one is written /%2f"));
    let error = refused("amqp://rabbit", Some("rabbit:15672"));
    assert!(
        error.starts_with("broker.management_url is not usable"),
        "{error}"
    );
}
