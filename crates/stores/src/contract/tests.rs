use batch::{Column, VERSION_COLUMN};
use serde_json::json;

use super::*;
use crate::clickhouse::{ColumnComputation, ColumnDescription, DataType, KeyExpression};
use crate::elasticsearch::{ElasticsearchSettings, IndexSettings, Minimum};

fn column(name: &str, r#type: &str) -> Column {
    Column {
        name: name.to_owned(),
        r#type: r#type.to_owned(),
    }
}

fn hub() -> HubDescription {
    HubDescription {
        table: "keywords.hub".to_owned(),
        engines: vec![engine("MergeTree", &[])],
        key: vec![
            column("country", "LowCardinality(String)"),
            column("keyword", "String"),
        ],
        columns: vec![column("processed_volume", "UInt64")],
        changed: column("changed_at", "DateTime64(3)"),
    }
}

fn engine(name: &str, arguments: &[&str]) -> HubEngine {
    HubEngine {
        name: name.to_owned(),
        arguments: arguments
            .iter()
            .map(|argument| (*argument).to_owned())
            .collect(),
    }
}

fn texts(differences: Vec<ContractDifference>) -> Vec<String> {
    differences.iter().map(ToString::to_string).collect()
}

/// The table that the hub asks for.
fn table() -> TableDescription {
    let described = |name: &str, r#type: &str| ColumnDescription {
        name: name.to_owned(),
        r#type: r#type.to_owned(),
        computed: ColumnComputation::Stored,
        in_sorting_key: false,
    };
    TableDescription {
        engine: "ReplacingMergeTree".to_owned(),
        engine_full: "ReplacingMergeTree(version) ORDER BY (country, keyword)".to_owned(),
        sorting_key: KeyExpression::new("country, keyword"),
        primary_key: KeyExpression::new("country, keyword"),
        columns: vec![
            described("country", "String"),
            described("keyword", "String"),
            described("volume", "UInt64"),
            described("version", "Int64"),
        ],
    }
}

fn compare_with(
    change: impl FnOnce(&mut TableDescription, &mut TargetSettings),
) -> Vec<ContractDifference> {
    let (mut table, mut settings) = (table(), TargetSettings::default());
    change(&mut table, &mut settings);
    let target = TargetDescription::Table {
        settings: &settings,
        replica: "http://a:8123",
        found: Some(&table),
    };
    compare(&hub(), &[target])
}

fn one(differences: Vec<ContractDifference>) -> ContractDifference {
    assert_eq!(differences.len(), 1, "{differences:?}");
    differences.into_iter().next().unwrap()
}

#[test]
fn a_table_that_holds_what_the_hub_has_does_not_differ() {
    assert_eq!(compare_with(|_, _| {}), []);
    assert_eq!(
        compare_with(|table, _| table.columns[2].r#type = "Nullable(UInt64)".into()),
        []
    );
}

#[test]
fn a_missing_table_and_a_missing_column_are_mended_by_configure() {
    let settings = TargetSettings::default();
    let target = TargetDescription::Table {
        settings: &settings,
        replica: "http://a:8123",
        found: None,
    };
    let missing = one(compare(&hub(), &[target]));
    assert!(missing.configure_mends);
    assert_eq!(
        missing.to_string(),
        "http://a:8123: table keywords.keywords_metrics_local: it does not exist; fleet clickhouse configure"
    );
    let missing = one(compare_with(|table, _| drop(table.columns.remove(2))));
    assert!(missing.configure_mends);
    assert_eq!(missing.column.as_deref(), Some("volume"));
    assert!(!one(compare_with(|table, _| drop(table.columns.remove(0)))).configure_mends);
}

#[test]
fn a_narrower_or_computed_column_and_one_that_no_run_fills_are_not() {
    let narrow = one(compare_with(|table, _| {
        table.columns[2].r#type = "UInt32".into()
    }));
    assert!(!narrow.configure_mends);
    let told = "column \"volume\" is UInt32, and UInt64 in the source; \
                ALTER TABLE `keywords`.`keywords_metrics_local` MODIFY COLUMN `volume` UInt64, or give";
    assert!(narrow.to_string().contains(told), "{narrow}");
    for computed in [
        ColumnComputation::Materialized,
        ColumnComputation::Alias,
        ColumnComputation::Ephemeral,
    ] {
        let difference = one(compare_with(|table, _| {
            table.columns[2].computed = computed
        }));
        assert!(
            !difference.configure_mends && difference.what.contains("is not stored"),
            "{difference}"
        );
    }
    let stranger = |computed| {
        move |table: &mut TableDescription, settings: &mut TargetSettings| {
            let mut stranger = table.columns[2].clone();
            stranger.name = "trend".to_owned();
            stranger.computed = computed;
            table.columns.push(stranger);
            settings.own_columns = vec!["other".to_owned()];
        }
    };
    let difference = one(compare_with(stranger(ColumnComputation::Stored)));
    assert!(
        difference
            .remedy
            .contains("DROP COLUMN `trend`, or name it in clickhouse.own_columns"),
        "{difference}"
    );
    assert_eq!(compare_with(stranger(ColumnComputation::Materialized)), []);
    assert_eq!(compare_with(stranger(ColumnComputation::Alias)), []);
    let own = compare_with(|table, settings| {
        stranger(ColumnComputation::Stored)(table, settings);
        settings.own_columns = vec!["trend".to_owned()];
    });
    assert_eq!(own, []);
}

#[test]
fn another_engine_order_or_version_of_a_table_is_named() {
    for (change, told) in [
        (
            (|table| table.engine = "MergeTree".into()) as fn(&mut TableDescription),
            "its engine is MergeTree",
        ),
        (
            |table| table.sorting_key = KeyExpression::new("keyword"),
            "ordered by (keyword), not by (country, keyword)",
        ),
        (
            |table| table.engine_full = "ReplacingMergeTree ORDER BY x".into(),
            "version column \"\", not \"version\"",
        ),
    ] {
        let difference = one(compare_with(|table, _| change(table)));
        assert!(difference.what.contains(told), "{difference}");
    }
}

#[test]
fn a_rename_that_names_no_column_is_named_once_with_the_nearest() {
    let difference = one(compare_with(|_, settings| {
        settings.rename = [("processed_volum".to_owned(), "v".to_owned())].into();
    }));
    assert!(
        difference
            .what
            .contains("did you mean \"processed_volume\"?"),
        "{difference}"
    );
    let version = compare_with(|table, settings| {
        settings.rename = [(VERSION_COLUMN.to_owned(), "version".to_owned())].into();
        table.columns[3].r#type = "Int64".into();
    });
    assert_eq!(version, []);
}

#[test]
fn hubs_that_mean_something_else_by_rows_of_one_key_are_refused() {
    let differs = |name: &str, arguments: &[&str]| {
        let mut hub = hub();
        hub.engines = vec![engine(name, arguments)];
        !compare(&hub, &[]).is_empty()
    };
    let path = ["'/path'", "'{replica}'"];
    assert!(!differs("MergeTree", &[]));
    assert!(!differs("ReplicatedMergeTree", &path));
    assert!(!differs("SharedMergeTree", &path));
    assert!(!differs("ReplacingMergeTree", &["changed_at"]));
    assert!(!differs("ReplacingMergeTree", &["`changed_at`"]));
    assert!(!differs(
        "ReplicatedReplacingMergeTree",
        &[path[0], path[1], "changed_at"]
    ));
    assert!(differs("ReplacingMergeTree", &[]));
    assert!(differs("ReplicatedReplacingMergeTree", &path));
    assert!(differs("ReplacingMergeTree", &["ver"]));
    assert!(differs("ReplacingMergeTree", &["changed_at", "deleted"]));
    for prefix in ["", "Replicated", "Shared"] {
        for family in [
            "Summing",
            "Aggregating",
            "Coalescing",
            "Collapsing",
            "VersionedCollapsing",
            "Graphite",
            "Later",
        ] {
            assert!(
                differs(&format!("{prefix}{family}MergeTree"), &[]),
                "{prefix}{family}"
            );
        }
    }
}

#[test]
fn types_that_do_not_travel_are_refused_wherever_they_are() {
    for text in [
        "AggregateFunction(sum, UInt64)",
        "Variant(String, UInt8)",
        "Dynamic",
        "JSON(max_dynamic_paths=8)",
        "Object('json')",
        "Nothing",
        "Time",
        "Time64(3)",
        "BFloat16",
        "QBit(Float32, 8)",
        "SomethingNew(3)",
        "Array(JSON)",
        "Map(String, Tuple(a Variant(String, UInt8)))",
        "Nullable(Time)",
        "SimpleAggregateFunction(anyLast, Array(Dynamic))",
    ] {
        let mut hub = hub();
        hub.columns.push(column("processed_odd", text));
        let difference = one(compare(&hub, &[]));
        assert!(difference.what.contains(text), "{difference}");
    }
    for text in [
        "Enum8('Variant' = 1)",
        "SimpleAggregateFunction(sum, UInt64)",
        "Map(LowCardinality(String), Array(Nullable(Decimal(76, 3))))",
        "Tuple(a UInt8, b Nested(c String))",
        "Point",
        "IntervalSecond",
    ] {
        let data_type: DataType = text.parse().unwrap();
        assert_eq!(data_type.refusal(), None, "{text}");
    }
}

fn index_target(change: impl FnOnce(&mut IndexTarget)) -> IndexTarget {
    let mut target = IndexTarget {
        settings: ElasticsearchSettings {
            indices: vec![IndexSettings {
                name: "all".to_owned(),
                ..IndexSettings::default()
            }],
            ..ElasticsearchSettings::default()
        },
        key_columns: vec!["country".to_owned(), "keyword".to_owned()],
    };
    change(&mut target);
    target
}

/// With an index that has a field of the hub's, and `more` ones.
fn compare_index(
    target: &IndexTarget,
    hub: &HubDescription,
    more: serde_json::Value,
) -> Vec<ContractDifference> {
    let mut found = json!({
        "mappings": { "properties": {
            "country": { "type": "keyword", "ignore_above": 8191 },
            "keyword": { "type": "keyword", "ignore_above": 8191 },
            "volume": { "type": "long" },
        }},
        "settings": {},
    });
    for (name, field) in more.as_object().unwrap() {
        found["mappings"]["properties"][name] = field.clone();
    }
    let found: ExistingIndex = serde_json::from_value(found).unwrap();
    let target = TargetDescription::Index {
        target,
        number: 0,
        name: "all-follower-1",
        found: Some(&found),
    };
    compare(hub, &[target])
}

#[test]
fn an_index_must_have_the_fields_and_no_others() {
    let target = index_target(|_| {});
    assert_eq!(compare_index(&target, &hub(), json!({})), []);
    let conflict = one(compare_index(
        &target,
        &hub(),
        json!({ "volume": { "type": "keyword" } }),
    ));
    assert!(
        !conflict.configure_mends && conflict.place == "index all-follower-1",
        "{conflict}"
    );
    let more = json!({ "trend": { "type": "long" }, "stats": { "properties": { "clicks": { "type": "long" } } } });
    let strangers = texts(compare_index(&target, &hub(), more.clone()));
    assert_eq!(strangers.len(), 2, "{strangers:?}");
    assert!(
        strangers[0].contains("\"stats.clicks\"") && strangers[1].contains("\"trend\""),
        "{strangers:?}"
    );
    let own = index_target(|target| {
        target.settings.own_fields = vec!["trend".into(), "stats.clicks".into()]
    });
    assert_eq!(compare_index(&own, &hub(), more), []);
    let mut nested = hub();
    nested
        .columns
        .push(column("processed_stats.clicks", "Array(UInt32)"));
    let missing = one(compare_index(&target, &nested, json!({})));
    assert!(
        missing.configure_mends && missing.what.contains("stats.clicks"),
        "{missing}"
    );
    let there = json!({ "stats": { "properties": { "clicks": { "type": "long" } } } });
    assert_eq!(compare_index(&target, &nested, there), []);
    nested.columns.push(column("processed_stats", "UInt8"));
    let both = one(compare_index(&target, &nested, json!({})));
    assert!(
        both.what.contains("would stand inside of \"stats\""),
        "{both}"
    );
}

#[test]
fn documents_are_named_by_the_whole_key_and_nothing_else() {
    let named = |names: &[&str], hub: &HubDescription| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        compare_index(
            &index_target(|target| target.key_columns = names),
            hub,
            json!({}),
        )
    };
    assert_eq!(named(&["keyword", "country"], &hub()), []);
    let fewer = one(named(&["keyword"], &hub()));
    assert!(
        fewer.what.contains("\"country\" of the hub's key")
            && fewer.remedy.contains(r#"["country", "keyword"]"#),
        "{fewer}"
    );
    let more = one(named(&["country", "keyword", "processed_volume"], &hub()));
    assert!(
        more.what.contains("would become another document"),
        "{more}"
    );
    for odd in ["Date", "DateTime64(3)", "Bool", "Float64", "Decimal(9, 2)"] {
        let mut hub = hub();
        hub.key[0].r#type = odd.to_owned();
        let differences = texts(named(&["country", "keyword"], &hub));
        assert!(
            differences[0].contains("cannot name documents"),
            "{differences:?}"
        );
    }
}

#[test]
fn a_minimum_is_of_a_number_that_some_column_gives() {
    let with = |field: &str| {
        let minimum = Minimum {
            field: field.to_owned(),
            value: 10.0,
        };
        let target = index_target(|target| target.settings.indices[0].minimum = Some(minimum));
        texts(compare_index(&target, &hub(), json!({})))
    };
    assert_eq!(with("volume"), [""; 0]);
    assert!(with("volum")[0].contains("did you mean \"volume\"?"));
    assert!(with("keyword")[0].contains("no number"));
}

fn compare_dictionary(
    attributes: &[&str],
    hub: &HubDescription,
    change: impl FnOnce(&mut DictionaryDescription),
) -> Vec<String> {
    let target = DictionaryTarget {
        table: TargetSettings::default(),
        database: "keywords".to_owned(),
        name: "dict".to_owned(),
        attributes: attributes.iter().map(|name| (*name).to_owned()).collect(),
    };
    let mut found = DictionaryDescription {
        database_engine: Some("Atomic".to_owned()),
        engine: None,
        live: None,
    };
    change(&mut found);
    let target = TargetDescription::Dictionary {
        target: &target,
        replica: "http://a:8123",
        table: None,
        found: &found,
    };
    texts(compare(hub, &[target]))
}

#[test]
fn a_dictionary_is_checked_before_it_is_made() {
    assert_eq!(compare_dictionary(&[], &hub(), |_| {}), [""; 0]);
    let mut odd = hub();
    odd.columns
        .push(column("processed_state", "Enum8('a' = 1)"));
    odd.columns.push(column("processed_code", "FixedString(4)"));
    let told = compare_dictionary(&[], &odd, |_| {});
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told[0].contains("column \"state\" is Enum8('a' = 1), which a dictionary cannot hold"),
        "{told:?}"
    );
    assert_eq!(compare_dictionary(&["volume"], &odd, |_| {}), [""; 0]);
    odd.key[0].r#type = "Enum8('us' = 1)".to_owned();
    assert!(compare_dictionary(&["volume"], &odd, |_| {})[0].contains("\"country\""));
    assert!(compare_dictionary(&["volum"], &hub(), |_| {})[0].contains("did you mean \"volume\"?"));
    let mut one_column = hub();
    one_column.key.remove(0);
    assert_eq!(compare_dictionary(&[], &one_column, |_| {}), [""; 0]);
}

#[test]
fn a_dictionary_needs_its_place_and_readers_their_key_and_attributes() {
    let told = |attributes: &[&str], change: fn(&mut DictionaryDescription)| {
        compare_dictionary(attributes, &hub(), change).join("\n")
    };
    let live = |key: &[&str], attributes: &[&str]| {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Some(LiveDictionary {
            key: names(key),
            attributes: names(attributes),
        })
    };
    assert!(told(&[], |found| found.database_engine = None).contains("does not exist"));
    assert!(
        told(&[], |found| found.database_engine = Some("Ordinary".into()))
            .contains("engine Ordinary")
    );
    assert!(told(&[], |found| found.engine = Some("MergeTree".into())).contains("is a MergeTree"));
    assert_eq!(
        told(&[], |found| found.engine = Some("Dictionary".into())),
        ""
    );
    let key = ["country", "keyword"];
    let with = |attributes: &[&str], live| {
        compare_dictionary(attributes, &hub(), |found| found.live = live)
    };
    assert_eq!(with(&[], live(&key, &["volume"])), [""; 0]);
    assert!(
        with(&[], live(&["keyword"], &["volume"]))[0].contains("readers ask for it by (keyword)")
    );
    assert!(with(&[], live(&key, &["volume", "trend"]))[0].contains("attribute \"trend\""));
    assert_eq!(with(&["volume"], live(&key, &["volume", "trend"])), [""; 0]);
}
