//! Configurations in files, and what is found in them.

use std::path::{Path, PathBuf};

use settings::{InvalidSettings, LoadedSettings, Loader};
use tempfile::TempDir;

use crate::example::Root;

pub struct Files(TempDir);

impl Files {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

pub fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    owned.collect()
}

pub fn load(loader: &Loader) -> LoadedSettings<Root> {
    loader
        .load()
        .unwrap_or_else(|problems| panic!("{problems}"))
}

/// The problems, with the names of files in place of their paths.
pub fn problems(loader: &Loader, files: &Files) -> Vec<String> {
    let InvalidSettings(problems) = loader.load::<Root>().expect_err("no problem was found");
    let folder = format!("{}/", files.path().display());
    let lines = problems.iter().map(|p| p.to_string().replace(&folder, ""));
    lines.collect()
}
