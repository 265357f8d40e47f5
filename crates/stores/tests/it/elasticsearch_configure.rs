use batch::{Column, Reason, VERSION_COLUMN};
use serde_json::json;
use stores::ConfigureError;
use stores::elasticsearch::{Client, ElasticsearchSettings, IndexSettings, ItemResult};
use testkit::IndexPrefix;

fn column(name: &str, r#type: &str) -> Column {
    Column {
        name: name.to_owned(),
        r#type: r#type.to_owned(),
    }
}

fn columns() -> Vec<Column> {
    vec![
        column("processed_volume", "UInt64"),
        column("processed_clicks", "Nullable(Float64)"),
        column(VERSION_COLUMN, "Int64"),
    ]
}

fn settings(prefix: &IndexPrefix) -> ElasticsearchSettings {
    let index = |name: &str, fields: &[&str]| IndexSettings {
        name: prefix.index(name),
        alias: prefix.index(&format!("{name}-alias")),
        fields: fields.iter().map(|field| (*field).to_owned()).collect(),
        shards: Some(2),
        replicas: Some(0),
        refresh_interval: Some("30s".to_owned()),
        ..IndexSettings::default()
    };
    ElasticsearchSettings {
        urls: vec![prefix.url().to_owned()],
        indices: vec![index("all", &["*"]), index("lite", &["volume"])],
        ..ElasticsearchSettings::default()
    }
}

async fn configure(
    settings: &ElasticsearchSettings,
    columns: &[Column],
) -> Result<Vec<String>, ConfigureError> {
    let key = [
        column("country", "LowCardinality(String)"),
        column("keyword", "String"),
    ];
    let client = Client::new(settings).unwrap();
    let changes = client.configure(settings, &key, columns, false).await?;
    Ok(changes.iter().map(ToString::to_string).collect())
}

fn guarded(index: &str) -> String {
    format!("index {index}: only made on request now, by template fleet-{index}")
}

#[tokio::test]
async fn a_deleted_index_or_follower_is_not_created_by_a_bulk_and_a_new_one_can_be_created_by_hand()
{
    let prefix = IndexPrefix::create();
    let settings = settings(&prefix);
    configure(&settings, &columns()).await.unwrap();
    let client = Client::new(&settings).unwrap();
    let (all, follower) = (prefix.index("all"), prefix.index("all-follower-1"));
    prefix.api("DELETE", &all, "");
    let body = || "{\"index\":{\"_id\":\"a\"}}\n{\"volume\":1}\n".into();
    for index in [&all, &follower] {
        let results = client.bulk(index, body()).await.unwrap();
        assert_eq!(results[0].quarantine(), Some(Reason::MissingTarget));
    }
    prefix.api("PUT", &follower, "");
    let results = client.bulk(&follower, body()).await.unwrap();
    assert_eq!(results, [ItemResult::Stored]);
}

#[tokio::test]
async fn indices_are_created_once_with_their_fields_settings_and_aliases() {
    let prefix = IndexPrefix::create();
    let settings = settings(&prefix);
    let (all, lite) = (prefix.index("all"), prefix.index("lite"));
    let changes = configure(&settings, &columns()).await.unwrap();
    assert_eq!(
        changes,
        [
            format!("index {all}: created with 4 fields"),
            guarded(&all),
            format!("index {lite}: created with 3 fields"),
            guarded(&lite),
        ]
    );
    let made = prefix.api("GET", &lite, "");
    let mappings = &made[&lite]["mappings"];
    assert_eq!(mappings["dynamic"], "strict");
    let fields: Vec<_> = mappings["properties"].as_object().unwrap().keys().collect();
    assert_eq!(fields, ["country", "keyword", "volume"]);
    assert_eq!(made[&lite]["settings"]["index"]["number_of_shards"], "2");
    assert_eq!(
        made[&lite]["aliases"],
        json!({ (prefix.index("lite-alias")): {} })
    );

    assert_eq!(configure(&settings, &columns()).await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn a_dry_run_lists_the_same_changes_and_makes_none() {
    let prefix = IndexPrefix::create();
    let mut settings = settings(&prefix);
    let client = Client::new(&settings).unwrap();
    let key = [column("country", "String"), column("keyword", "String")];
    let looked = client
        .configure(&settings, &key, &columns(), true)
        .await
        .unwrap();
    let again = client
        .configure(&settings, &key, &columns(), true)
        .await
        .unwrap();
    assert_eq!(looked, again);
    let made = client
        .configure(&settings, &key, &columns(), false)
        .await
        .unwrap();
    assert_eq!(looked, made);

    settings.indices[0].refresh_interval = Some("5s".to_owned());
    let more = [columns(), vec![column("processed_cpc", "Float64")]].concat();
    let looked = client
        .configure(&settings, &key, &more, true)
        .await
        .unwrap();
    assert_eq!(looked.len(), 2, "{looked:?}");
    let made = client
        .configure(&settings, &key, &more, false)
        .await
        .unwrap();
    assert_eq!(looked, made);
}

#[tokio::test]
async fn a_keyword_of_600_bytes_can_be_found() {
    let prefix = IndexPrefix::create();
    let settings = settings(&prefix);
    configure(&settings, &columns()).await.unwrap();
    let keyword = "ключ ".repeat(67);
    let document = json!({ "country": "us", "keyword": keyword, "volume": 1 });
    let all = prefix.index("all");
    prefix.api(
        "PUT",
        &format!("{all}/_doc/1?refresh=true"),
        &document.to_string(),
    );
    let query = json!({ "query": { "term": { "keyword": keyword } } });
    let found = prefix.api("GET", &format!("{all}/_count"), &query.to_string());
    assert_eq!(found["count"], 1);
}

#[tokio::test]
async fn what_is_missing_is_added_to_the_leader_and_its_followers() {
    let prefix = IndexPrefix::create();
    let mut settings = settings(&prefix);
    settings.indices.truncate(1);
    let (all, follower) = (prefix.index("all"), prefix.index("all-follower-1"));
    let old = json!({
        "settings": { "number_of_shards": 2, "number_of_replicas": 0 },
        "mappings": { "properties": {
            "country": { "type": "keyword" },
            "keyword": { "type": "keyword", "ignore_above": 256 },
            "volume": { "type": "integer" },
        }},
    });
    prefix.api("PUT", &all, &old.to_string());
    prefix.api("PUT", &follower, &old.to_string());
    let changes = configure(&settings, &columns()).await.unwrap();
    let fields = |index: &str| {
        vec![
            format!(
                "index {index}: field keyword is {} now; it was {}",
                json!({ "type": "keyword", "ignore_above": 8191 }),
                json!({ "type": "keyword", "ignore_above": 256 }),
            ),
            format!("index {index}: field clicks is new"),
            format!("index {index}: unknown fields are refused now"),
        ]
    };
    let mut expected = fields(&all);
    expected.push(format!(
        "index {all}: index.refresh_interval is 30s now; it was unset"
    ));
    expected.push(format!(
        "index {all}: has alias {} now",
        prefix.index("all-alias")
    ));
    expected.extend(fields(&follower));
    expected.push(guarded(&all));
    assert_eq!(changes, expected);
    assert_eq!(configure(&settings, &columns()).await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn a_field_of_another_type_is_refused_by_name_and_nothing_is_changed() {
    let prefix = IndexPrefix::create();
    let settings = settings(&prefix);
    let all = prefix.index("all");
    let old = json!({ "mappings": { "properties": { "clicks": { "type": "keyword" } } } });
    prefix.api(
        "PUT",
        &all,
        &json!({
            "settings": { "number_of_shards": 2, "number_of_replicas": 0 },
            "mappings": old["mappings"],
        })
        .to_string(),
    );
    let refused = configure(&settings, &columns()).await.unwrap_err();
    assert!(matches!(refused, ConfigureError::Conflict { .. }));
    let text = refused.to_string();
    assert!(
        text.starts_with(&format!("index {all}: field \"clicks\" is ")),
        "{text}"
    );
    let made = prefix.api("GET", &all, "");
    assert_eq!(made[&all]["mappings"], old["mappings"]);
}

#[tokio::test]
async fn what_cannot_be_configured_is_refused_with_what_to_do() {
    let prefix = IndexPrefix::create();
    let good = settings(&prefix);
    configure(&good, &columns()).await.unwrap();
    let changed = |change: &dyn Fn(&mut IndexSettings)| {
        let mut settings = good.clone();
        change(&mut settings.indices[0]);
        settings
    };
    let lite = prefix.index("lite");
    for (settings, complaint) in [
        (
            changed(&|index| index.shards = Some(5)),
            "it has 2 shards, and 5 are configured",
        ),
        (
            changed(&|index| index.alias = prefix.index("lite-alias")),
            "belongs to",
        ),
        (
            changed(&|index| index.name = prefix.index("all-alias")),
            "alias",
        ),
        (
            changed(&|index| index.name = lite.clone()),
            "configured twice",
        ),
        (
            changed(&|index| index.name = "*".to_owned()),
            "cannot be the name",
        ),
        (changed(&|index| index.name = String::new()), "has no name"),
        (
            changed(&|index| index.fields = vec!["x".to_owned()]),
            "no column gives field \"x\"",
        ),
    ] {
        let refused = configure(&settings, &columns())
            .await
            .unwrap_err()
            .to_string();
        assert!(refused.contains(complaint), "{refused}");
    }
}
