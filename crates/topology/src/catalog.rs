use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use super::error::did_you_mean;
use super::{QueueSettings, Topology, TopologyError, resolve};
use pipeline::Role;

/// The types that are built in.
const BUILT_IN: &str = include_str!("../../../deploy/pipelines.toml");

/// The pipeline types of a file, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    types: Vec<TypeEntry>,
}

/// A type as its file has it: well-formed TOML, not checked in any other way yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeEntry {
    pub name: String,
    pub(super) about: String,
    /// The file, and the line in it, where the type begins.
    pub(super) file: String,
    pub(super) line: usize,
    pub(super) flow: Vec<FlowLine>,
    pub(super) programs: Vec<Named<String>>,
    pub(super) queues: Vec<Named<QueueSettings>>,
}

/// One edge of a flow, as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FlowLine {
    pub text: String,
    pub line: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named<T> {
    pub name: String,
    pub line: usize,
    pub value: T,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawType {
    about: String,
    flow: Vec<Spanned<String>>,
    #[serde(default)]
    programs: BTreeMap<Spanned<String>, String>,
    #[serde(default)]
    queues: BTreeMap<Spanned<String>, QueueSettings>,
}

impl Catalog {
    /// The types built in.
    pub fn built_in() -> Self {
        Self::parse("deploy/pipelines.toml (built in)", BUILT_IN)
            .expect("the built-in pipeline file is tested")
    }

    /// The types built in and, on top of them, those of `file`.
    pub fn load(file: Option<&Path>) -> Result<Self, TopologyError> {
        let mut catalog = Self::built_in();
        if let Some(path) = file {
            let text =
                std::fs::read_to_string(path).map_err(|source| TopologyError::Unreadable {
                    path: path.to_owned(),
                    source,
                })?;
            for entry in Self::parse(&path.display().to_string(), &text)?.types {
                match catalog.types.iter_mut().find(|own| own.name == entry.name) {
                    Some(own) => *own = entry,
                    None => catalog.types.push(entry),
                }
            }
        }
        Ok(catalog)
    }

    /// Reads the text of a pipeline file; `file` is what errors call it.
    pub fn parse(file: &str, text: &str) -> Result<Self, TopologyError> {
        let raw: BTreeMap<Spanned<String>, RawType> =
            toml::from_str(text).map_err(|error| TopologyError::Syntax {
                file: file.to_owned(),
                detail: error.to_string().trim_end().to_owned(),
            })?;
        let line_of = |offset: usize| text[..offset].matches('\n').count() + 1;
        let flow_line = |edge: Spanned<String>| FlowLine {
            line: line_of(edge.span().start),
            text: edge.into_inner(),
        };
        let mut types: Vec<TypeEntry> = raw
            .into_iter()
            .map(|(name, raw)| TypeEntry {
                line: line_of(name.span().start),
                name: name.into_inner(),
                about: raw.about,
                file: file.to_owned(),
                flow: raw.flow.into_iter().map(flow_line).collect(),
                programs: in_file_order(raw.programs, line_of),
                queues: in_file_order(raw.queues, line_of),
            })
            .collect();
        types.sort_by_key(|entry| entry.line);
        Ok(Self { types })
    }

    pub fn types(&self) -> &[TypeEntry] {
        &self.types
    }

    /// The type called `name`, resolved against the roles that there are. The error holds all its
    /// problems; whether the type is complete is answered by [`Topology::check`].
    pub fn topology(&self, name: &str, roles: &[Role]) -> Result<Topology, TopologyError> {
        match self.types.iter().find(|entry| entry.name == name) {
            Some(entry) => resolve::resolve(entry, roles).map_err(TopologyError::Invalid),
            None => {
                let known: Vec<&str> = self.types.iter().map(|entry| &*entry.name).collect();
                Err(TopologyError::UnknownType {
                    name: name.to_owned(),
                    hint: did_you_mean(name, known.iter().copied()),
                    known: known.join(", "),
                })
            }
        }
    }
}

fn in_file_order<T>(
    entries: BTreeMap<Spanned<String>, T>,
    line_of: impl Fn(usize) -> usize,
) -> Vec<Named<T>> {
    let mut entries: Vec<Named<T>> = entries
        .into_iter()
        .map(|(name, value)| Named {
            line: line_of(name.span().start),
            name: name.into_inner(),
            value,
        })
        .collect();
    entries.sort_by_key(|entry| entry.line);
    entries
}
