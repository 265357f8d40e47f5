use std::time::Duration;

use batch::Reason;
use bytes::Bytes;
use serde_json::json;
use stores::Class;
use stores::elasticsearch::{
    Client, ElasticsearchSettings, Error, Followers, ItemResult, classify,
};
use testkit::IndexPrefix;

use crate::fakes;

fn client(urls: &[&str]) -> Client {
    let settings = ElasticsearchSettings {
        urls: urls.iter().map(|url| (*url).to_owned()).collect(),
        request_timeout_seconds: 30,
        ..ElasticsearchSettings::default()
    };
    Client::new(&settings).unwrap()
}

/// An action of a bulk request: `version` is external.
fn action(id: &str, version: i64, document: serde_json::Value) -> Bytes {
    let action = json!({ "index": {
        "_id": id, "version": version, "version_type": "external",
    }});
    Bytes::from(format!("{action}\n{document}\n"))
}

fn create_strict(prefix: &IndexPrefix, name: &str) -> String {
    let index = prefix.index(name);
    let body = json!({
        "settings": { "number_of_replicas": 0 },
        "mappings": { "dynamic": "strict", "properties": { "n": { "type": "long" } } },
    });
    prefix.api("PUT", &index, &body.to_string());
    index
}

#[tokio::test]
async fn each_document_of_a_bulk_gets_its_own_result_in_order() {
    let prefix = IndexPrefix::create();
    let index = create_strict(&prefix, "a");
    let client = client(&[prefix.url()]);
    let stored = client
        .bulk(&index, action("1", 10, json!({ "n": 1 })))
        .await;
    assert_eq!(stored.unwrap(), [ItemResult::Stored]);

    let results = client
        .bulk(
            &index,
            [
                action("1", 11, json!({ "n": 2 })),
                action("1", 10, json!({ "n": 3 })),
                action("2", 10, json!({ "n": "many" })),
                action("3", 10, json!({ "other": 1 })),
                action("4", 10, json!({ "n": 4 })),
            ]
            .concat()
            .into(),
        )
        .await
        .unwrap();
    assert_eq!(results[0], ItemResult::Stored);
    assert_eq!(results[1], ItemResult::Unchanged);
    let ItemResult::Refused {
        status,
        kind,
        reason,
    } = &results[2]
    else {
        panic!("{:?}", results[2]);
    };
    assert_eq!(
        (*status, kind.as_str()),
        (400, "document_parsing_exception")
    );
    assert!(reason.contains("many"), "the value is named: {reason}");
    assert_eq!(results[3].quarantine(), Some(Reason::RefusedRows));
    assert_eq!(results[4], ItemResult::Stored);

    prefix.api("POST", &format!("{index}/_refresh"), "");
    assert_eq!(
        prefix.api("GET", &format!("{index}/_count"), "")["count"],
        2
    );
}

#[tokio::test]
async fn an_index_that_takes_no_writes_blocks_each_document_and_is_reported_with_its_block() {
    let prefix = IndexPrefix::create();
    let index = create_strict(&prefix, "a");
    let client = client(&[prefix.url()]);
    assert_eq!(client.write_block(&index).await.unwrap(), None);
    for block in ["write", "read_only", "read_only_allow_delete"] {
        let settings = |value: serde_json::Value| {
            json!({ "index": { "blocks": { (block): value } } }).to_string()
        };
        let path = format!("{index}/_settings");
        prefix.api("PUT", &path, &settings(json!(true)));
        assert_eq!(client.write_block(&index).await.unwrap(), Some(block));
        let results = client.bulk(&index, action("1", 1, json!({ "n": 1 }))).await;
        let results = results.unwrap();
        assert!(
            matches!(results[0], ItemResult::Blocked { .. }),
            "{block}: {results:?}"
        );
        prefix.api("PUT", &path, &settings(json!(null)));
    }
    assert_eq!(client.write_block(&index).await.unwrap(), None);
}

#[tokio::test]
async fn a_closed_index_takes_no_writes_and_its_documents_are_not_refused() {
    let prefix = IndexPrefix::create();
    let index = create_strict(&prefix, "a");
    prefix.api("POST", &format!("{index}/_close"), "");
    let client = client(&[prefix.url()]);
    let results = client
        .bulk(&index, action("1", 1, json!({ "n": 1 })))
        .await
        .unwrap();
    assert!(
        matches!(results[0], ItemResult::Blocked { .. }),
        "{results:?}"
    );
    assert_eq!(client.followers(&index).await.unwrap(), [""; 0]);
    let block = client.write_block(&index).await.unwrap();
    assert_eq!(block, Some("closed"));
    prefix.api("POST", &format!("{index}/_open"), "");
    assert_eq!(client.write_block(&index).await.unwrap(), None);
}

#[tokio::test]
async fn followers_are_the_open_indices_named_after_their_leader() {
    let prefix = IndexPrefix::create();
    let client = client(&[prefix.url()]);
    let leader = create_strict(&prefix, "all");
    assert_eq!(client.followers(&leader).await.unwrap(), [""; 0]);
    for name in [
        "all-follower-b",
        "all-follower-a",
        "all-follower",
        "all-other",
        "all-follower-closed",
    ] {
        create_strict(&prefix, name);
    }
    prefix.api(
        "POST",
        &format!("{}/_close", prefix.index("all-follower-closed")),
        "",
    );
    // An alias that is named like a follower is none: its index would get every row twice.
    let alias = json!({ "actions": [{ "add": {
        "index": leader, "alias": prefix.index("all-follower-alias"),
    }}]});
    prefix.api("POST", "_aliases", &alias.to_string());
    let expected = [
        prefix.index("all-follower-a"),
        prefix.index("all-follower-b"),
    ];
    assert_eq!(client.followers(&leader).await.unwrap(), expected);

    let followers = Followers::new(client, Duration::from_secs(3600));
    assert_eq!(*followers.get(&leader).await.unwrap(), expected);
    create_strict(&prefix, "all-follower-c");
    assert_eq!(*followers.get(&leader).await.unwrap(), expected);
}

#[tokio::test]
async fn a_leader_that_is_missing_or_an_alias_is_a_missing_target() {
    let prefix = IndexPrefix::create();
    let client = client(&[prefix.url()]);
    let index = create_strict(&prefix, "real");
    let (missing, alias) = (prefix.index("missing"), prefix.index("alias"));
    prefix.api("PUT", &format!("{index}/_alias/{alias}"), "");
    for (name, complaint) in [(&missing, "there is no index"), (&alias, "is an alias of")] {
        let error = client.followers(name).await.unwrap_err();
        assert_eq!(classify(&error), Class::Quarantine(Reason::MissingTarget));
        assert!(error.to_string().contains(complaint), "{error}");
    }
}

#[tokio::test]
async fn a_request_that_elasticsearch_refuses_whole_says_why() {
    let prefix = IndexPrefix::create();
    let client = client(&[prefix.url()]);
    let error = client
        .bulk("i", Bytes::from_static(b"no json\n"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::Exception { status: 400, .. }),
        "{error:?}"
    );
    assert_eq!(classify(&error), Class::Refused);
    let error = client
        .write_block(&prefix.index("missing"))
        .await
        .unwrap_err();
    assert_eq!(classify(&error), Class::Quarantine(Reason::MissingTarget));
}

#[tokio::test]
async fn a_foreign_page_is_an_unexpected_answer() {
    for (status, class) in [
        ("200 OK", Class::Quarantine(Reason::UnexpectedAnswer)),
        ("404 Not Found", Class::Quarantine(Reason::UnexpectedAnswer)),
        ("403 Forbidden", Class::Pause),
        ("503 Service Unavailable", Class::RetryNow),
    ] {
        let fake = fakes::answering(&fakes::page(status)).await;
        let client = client(&[&format!("http://{fake}")]);
        let error = client
            .bulk("i", Bytes::from_static(b"{}\n"))
            .await
            .unwrap_err();
        assert!(matches!(error, Error::UnexpectedAnswer { .. }), "{error:?}");
        assert!(error.to_string().contains("<html>"), "{error}");
        assert_eq!(classify(&error), class);
    }
}

#[tokio::test]
async fn the_next_node_stands_in_for_a_dead_one_and_for_one_that_answers_html() {
    let prefix = IndexPrefix::create();
    let index = create_strict(&prefix, "a");
    let dead = format!("http://{}", fakes::dead().await);
    let fake = format!("http://{}", fakes::answering(&fakes::page("200 OK")).await);
    let client = client(&[&dead, &fake, prefix.url()]);
    for id in ["1", "2", "3"] {
        let results = client.bulk(&index, action(id, 1, json!({ "n": 1 }))).await;
        assert_eq!(results.unwrap(), [ItemResult::Stored]);
    }
}

#[tokio::test]
async fn a_silent_node_is_a_timeout() {
    let silent = format!("http://{}", fakes::silent().await);
    let settings = ElasticsearchSettings {
        urls: vec![silent],
        request_timeout_seconds: 1,
        ..ElasticsearchSettings::default()
    };
    let client = Client::new(&settings).unwrap();
    let error = client.write_block("i").await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
    assert_eq!(classify(&error), Class::RetryNow);
}
