//! An index, and each of its followers.

use serde_json::{Map, Value};

use super::{ContractDifference, HubDescription, compare_rename};
use crate::clickhouse::DataType;
use crate::did_you_mean;
use crate::elasticsearch::{
    ElasticsearchSettings, ExistingIndex, FieldFit, IndexField, IndexSettings, field_names,
    fields_of_index, find_field, fit,
};

const CONFIGURE: &str = "fleet elasticsearch configure";

/// The indices of an Elasticsearch.
#[derive(Clone, Debug, PartialEq)]
pub struct IndexTarget {
    pub settings: ElasticsearchSettings,
    /// Columns that documents are named by.
    pub key_columns: Vec<String>,
}

pub(super) fn compare(
    hub: &HubDescription,
    target: &IndexTarget,
    number: usize,
    name: &str,
    found: Option<&ExistingIndex>,
) -> Vec<ContractDifference> {
    let IndexTarget {
        settings,
        key_columns,
    } = target;
    let index = &settings.indices[number];
    let mapping = settings.mapping();
    let mut differences = compare_rename("elasticsearch", &mapping, &hub.names());
    differences.extend(compare_names(hub, key_columns));
    let fields = match fields_of_index(index, &hub.key, &hub.columns, &mapping) {
        Ok(fields) => fields,
        Err(error) => {
            let remedy = "change [elasticsearch], or what is read of the source";
            differences.push(ContractDifference::new(
                "elasticsearch.indices",
                error.to_string(),
                remedy,
            ));
            return differences;
        }
    };
    differences.extend(compare_minimum(hub, settings, index));
    let place = format!("index {name}");
    match found {
        None => {
            let create = ContractDifference::new(place, "it does not exist", CONFIGURE);
            differences.push(create.mended_by_configure());
        }
        Some(found) => {
            let own = &settings.own_fields;
            differences.extend(compare_fields(&place, &fields, found.properties(), own));
        }
    }
    differences
}

/// Documents have to be named by the hub's key, all of it and nothing else: by fewer columns rows would share a
/// document, by more a row that changes would leave its old document behind.
fn compare_names(hub: &HubDescription, key_columns: &[String]) -> Vec<ContractDifference> {
    let place = "es_writer.key_columns";
    let key: Vec<&str> = hub.key.iter().map(|column| column.name.as_str()).collect();
    let quoted: Vec<String> = key.iter().map(|name| format!("{name:?}")).collect();
    let remedy = format!(
        "set it to [{}], and give an index with documents of other names a new name, or order the hub otherwise",
        quoted.join(", ")
    );
    let differs =
        |what: String, name: &str| ContractDifference::new(place, what, &remedy).in_column(name);
    let named = |name: &str| key_columns.iter().any(|column| column == name);
    let missing = key.iter().filter(|name| !named(name)).map(|name| {
        let what = format!(
            "column {name:?} of the hub's key ({}) does not name documents, which have the names ({}): rows would share a document",
            key.join(", "),
            key_columns.join(", ")
        );
        differs(what, name)
    });
    let others = key_columns
        .iter()
        .filter(|name| !key.contains(&name.as_str()));
    let others = others.map(|name| {
        let near = did_you_mean(name, &key);
        let what = format!(
            "column {name:?} names documents and is not in the hub's key ({}){near}: a row that changes would become another document",
            key.join(", ")
        );
        differs(what, name)
    });
    let types = hub.key.iter().filter(|column| named(&column.name));
    let types = types.filter_map(|column| {
        let data_type: Option<DataType> = column.r#type.parse().ok();
        let names = data_type.is_some_and(|data_type| data_type.names_documents());
        let what = format!(
            "column {:?} is {}, which cannot name documents: text and whole numbers can",
            column.name, column.r#type
        );
        let remedy =
            "order the hub by columns that can, or leave Elasticsearch out of the pipeline";
        let difference = ContractDifference::new(place, what, remedy).in_column(&column.name);
        (!names).then_some(difference)
    });
    missing.chain(others).chain(types).collect()
}

fn compare_minimum(
    hub: &HubDescription,
    settings: &ElasticsearchSettings,
    index: &IndexSettings,
) -> Option<ContractDifference> {
    let minimum = index.minimum.as_ref()?;
    let (field, mapping) = (&minimum.field, settings.mapping());
    let place = format!("minimum of index {}", index.name);
    let names: Vec<String> = hub.all().map(|c| mapping.target_name(&c.name)).collect();
    let Some(column) = hub.all().zip(&names).find(|(_, name)| *name == field) else {
        let near = did_you_mean(field, &names);
        let what = format!("no column gives field {field:?}{near}");
        let remedy = format!("name one of {}", names.join(", "));
        return Some(ContractDifference::new(place, what, remedy).in_column(field));
    };
    let found = &column.0.r#type;
    let data_type: Option<DataType> = found.parse().ok();
    if data_type.is_some_and(|data_type| data_type.has_minimum()) {
        return None;
    }
    let what = format!("field {field:?} is {found} in the hub, and no number to compare with it");
    Some(ContractDifference::new(place, what, "name a field that is a number").in_column(field))
}

/// Compares the fields that have to be with those that are there.
pub(crate) fn compare_fields(
    place: &str,
    wanted: &[IndexField],
    there: &Map<String, Value>,
    own_fields: &[String],
) -> Vec<ContractDifference> {
    let fields = wanted.iter().filter_map(|IndexField { name, mapping }| {
        let Some(found) = find_field(there, name) else {
            let what = format!("field {name:?} is missing, which has to be {mapping}");
            let missing = ContractDifference::new(place, what, CONFIGURE).in_column(name);
            return Some(missing.mended_by_configure());
        };
        match fit(found, mapping) {
            FieldFit::Good => None,
            FieldFit::Change(mapping) => {
                let what = format!("field {name:?} is {found}, and has to be {mapping}");
                let change = ContractDifference::new(place, what, CONFIGURE).in_column(name);
                Some(change.mended_by_configure())
            }
            FieldFit::Conflict => {
                let what = format!("field {name:?} is {found}, which cannot become {mapping}");
                let remedy = "make a new index, or give the field another name in `rename`";
                Some(ContractDifference::new(place, what, remedy).in_column(name))
            }
        }
    });
    let is_wanted = |name: &String| wanted.iter().any(|field| field.name == *name);
    let strangers = field_names(there).into_iter();
    let strangers = strangers.filter(|name| !is_wanted(name) && !own_fields.contains(name));
    let strangers = strangers.map(|name| {
        let what = format!(
            "field {name:?} is not among those that the source gives it, so that documents keep its value until they are written again and lose it then"
        );
        let remedy = "make a new index, or name it in elasticsearch.own_fields";
        ContractDifference::new(place, what, remedy).in_column(&name)
    });
    fields.chain(strangers).collect()
}
