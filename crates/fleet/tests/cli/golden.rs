//! Comparing what a command answers with a file.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Set to 1 to write the files from what the commands print now.
const UPDATE: &str = "UPDATE_GOLDEN";

/// A folder of its own to call `fleet` in, without anything from the environment of the tests.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn write(&self, name: &str, text: &str) -> &Self {
        std::fs::write(self.0.path().join(name), text).unwrap();
        self
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn fleet(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Answer {
        self.call(Path::new(env!("CARGO_BIN_EXE_fleet")), arguments, variables)
    }

    /// Calls the program by another path.
    pub fn call(&self, program: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Answer {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(self.path())
            .env_clear()
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Answer {
            called: ["fleet"]
                .iter()
                .chain(arguments)
                .copied()
                .collect::<Vec<_>>()
                .join(" "),
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

pub struct Answer {
    called: String,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Answer {
    /// Changes the call that the file begins with.
    pub fn called_with(&mut self, change: impl FnOnce(&str) -> String) {
        self.called = change(&self.called);
    }

    /// Fails unless exit code and both outputs are those in `tests/golden/NAME`.
    pub fn must_be(&self, name: &str) {
        let code = self
            .code
            .map_or("by a signal".to_owned(), |code| code.to_string());
        let mut text = format!("$ {}\n{}", self.called, self.stdout);
        if !self.stderr.is_empty() {
            text += &format!("--- standard error\n{}", self.stderr);
        }
        text += &format!("--- exit {code}\n");
        let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        same_as(&files.join(name), &text);
    }
}

/// Fails unless the file holds `text`; with `UPDATE_GOLDEN=1` it does afterwards.
pub fn same_as(file: &Path, text: &str) {
    if std::env::var_os(UPDATE).is_some_and(|value| value == "1") {
        std::fs::write(file, text).unwrap();
        return;
    }
    let golden = std::fs::read_to_string(file)
        .unwrap_or_else(|error| panic!("{}: {error}; {}", file.display(), how_to_update()));
    if let Some((n, (is, was))) = first_difference(text, &golden) {
        panic!(
            "{} differs in line {n}:\n  is:  {is}\n  was: {was}\n{}\nAll of it:\n{text}",
            file.display(),
            how_to_update()
        );
    }
}

fn first_difference<'t>(is: &'t str, was: &'t str) -> Option<(usize, (&'t str, &'t str))> {
    if is == was {
        return None;
    }
    let lines = is.split('\n').count().max(was.split('\n').count());
    let line = |text: &'t str, n| text.split('\n').nth(n).unwrap_or("(nothing)");
    (0..lines)
        .map(|n| (n + 1, (line(is, n), line(was, n))))
        .find(|(_, (is, was))| is != was)
}

fn how_to_update() -> String {
    format!("if the change is meant: {UPDATE}=1 cargo test -p fleet, then check the difference")
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}
