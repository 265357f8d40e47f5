//! What `docs/GLOSSARY.md` asks of the whole tree: one meaning for each name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use testkit::repository;

/// Names that every crate may have, by convention.
const CONVENTIONAL: [&str; 2] = ["Error", "Config"];
/// Words that were replaced by one of the glossary.
const RETIRED: [&str; 26] = [
    "anew",
    "barren",
    "beside",
    "blueprint",
    "farewell",
    "fruitful",
    "judge",
    "judged",
    "judgement",
    "judges",
    "ladder",
    "lest",
    "patience",
    "patiently",
    "pronounce",
    "pronounced",
    "ruling",
    "rulings",
    "rung",
    "rungs",
    "somebody",
    "suspicion",
    "unanswered",
    "verdict",
    "verdicts",
    "whoever",
];

#[test]
fn type_names_are_unique_across_crates() {
    let mut crates_by_name: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in files(&repository().join("crates"), &["rs"]) {
        let relative = file.strip_prefix(repository().join("crates")).unwrap();
        let parts: Vec<&str> = relative.iter().map(|part| part.to_str().unwrap()).collect();
        let is_test = parts
            .iter()
            .any(|part| ["tests", "tests.rs"].contains(part));
        if parts[1] != "src" || is_test {
            continue;
        }
        for name in types(&fs::read_to_string(&file).unwrap()) {
            let crates = crates_by_name.entry(name).or_default();
            crates.insert(parts[0].to_owned());
        }
    }
    assert!(crates_by_name.len() > 100, "types are found");
    crates_by_name
        .retain(|name, crates| crates.len() > 1 && !CONVENTIONAL.contains(&name.as_str()));
    assert!(
        crates_by_name.is_empty(),
        "in several crates: {crates_by_name:#?}"
    );
}

#[test]
fn words_that_the_glossary_replaced_are_gone() {
    let mut found = Vec::new();
    for folder in [
        "crates",
        "docs",
        "deploy",
        "docker",
        "README.md",
        "CHANGELOG.md",
        "Makefile",
    ] {
        let endings = [
            "rs", "md", "toml", "txt", "json", "dot", "mermaid", "yml", "xml", "sh", "py", "",
        ];
        for file in files(&repository().join(folder), &endings) {
            if file.ends_with("vocabulary.rs") {
                continue;
            }
            let text = fs::read_to_string(&file).unwrap();
            for (n, line) in (1..).zip(text.lines()) {
                let lower = line.to_lowercase();
                let mut words = lower.split(|c: char| !c.is_ascii_alphabetic());
                if words.any(|word| RETIRED.contains(&word)) {
                    let file = file.strip_prefix(repository()).unwrap_or(&file);
                    found.push(format!("{}:{n}: {}", file.display(), line.trim()));
                }
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Names of the types that a file defines outside of functions and of its tests.
fn types(source: &str) -> Vec<String> {
    let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let defined = source.lines().filter_map(|line| {
        let mut words = line.split_whitespace().peekable();
        // A type within a function, or an associated one, is indented.
        if line.starts_with(' ') {
            return None;
        }
        words.next_if(|word| word.starts_with("pub"));
        words.next_if(|word| ["struct", "enum", "trait", "type"].contains(word))?;
        let name: String = words
            .next()?
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect();
        Some(name)
    });
    defined.collect()
}

/// The files below a folder, or the file itself, with one of these endings.
fn files(path: &Path, endings: &[&str]) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        let ending = path.extension().map_or(Some(""), |ending| ending.to_str());
        if path.is_dir() {
            found.extend(files(&path, endings));
        } else if ending.is_some_and(|ending| endings.contains(&ending)) {
            found.push(path);
        }
    }
    found
}
