use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, Serializer};

/// What is shown in place of a secret.
const HIDDEN: &str = "***";

/// A value that is never shown: a password, a key, a URL with a password in it.
///
/// A settings struct declares `password: Option<Secret>` (or `url: Secret`); the configuration then
/// takes `password` with the value itself or `password_file` with the path of a file that holds it,
/// with no field for the second. The file is read by [`Secret::reveal`], each time, so that a
/// program needs only the files of the sections it uses and a rotated secret counts on the next
/// connection.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(SecretSource);

#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum SecretSource {
    Value(String),
    /// How the loader hands over `NAME_file`.
    File {
        #[serde(rename = "file")]
        path: PathBuf,
        /// The configuration key that named the file, for errors.
        key: String,
    },
}

/// A secret's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("{key}: cannot read the file {}: {error}; it must hold the secret alone", path.display())]
    Unreadable {
        key: String,
        path: PathBuf,
        error: std::io::Error,
    },
    #[error("{key}: the file {} is empty; it must hold the secret", path.display())]
    Empty { key: String, path: PathBuf },
}

impl Secret {
    pub fn new(value: impl Into<String>) -> Self {
        Self(SecretSource::Value(value.into()))
    }

    /// The secret itself, without the white space around it if it is in a file. Reads a small file.
    pub fn reveal(&self) -> Result<Cow<'_, str>, SecretError> {
        let (path, key) = match &self.0 {
            SecretSource::Value(value) => return Ok(Cow::Borrowed(value)),
            SecretSource::File { path, key } => (path.clone(), key.clone()),
        };
        match std::fs::read_to_string(&path) {
            Err(error) => Err(SecretError::Unreadable { key, path, error }),
            Ok(content) if content.trim().is_empty() => Err(SecretError::Empty { key, path }),
            Ok(content) => Ok(Cow::Owned(content.trim().to_owned())),
        }
    }
}

impl From<&str> for Secret {
    fn from(value: &str) -> Self {
        Self::new(value)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(HIDDEN)
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn inline_schema() -> bool {
        true
    }

    /// `writeOnly` is how the loader and the reference page know a secret.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "writeOnly": true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_file(path: &std::path::Path) -> Secret {
        Secret(SecretSource::File {
            path: path.to_owned(),
            key: "broker.password_file".to_owned(),
        })
    }

    #[test]
    fn it_is_never_shown() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?}"), "*** ***");
        assert_eq!(serde_json::to_string(&secret).unwrap(), r#""***""#);
    }

    #[test]
    fn a_file_is_read_without_the_white_space_around() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        std::fs::write(&path, " hunter 2\n").unwrap();
        let secret = in_file(&path);
        assert_eq!(secret.reveal().unwrap(), "hunter 2");
        std::fs::write(&path, "rotated\n").unwrap();
        assert_eq!(secret.reveal().unwrap(), "rotated");
    }

    #[test]
    fn a_missing_or_empty_file_is_named_with_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        let secret = in_file(&path);
        let missing = secret.reveal().unwrap_err().to_string();
        assert!(missing.starts_with(&format!(
            "broker.password_file: cannot read the file {}",
            path.display()
        )));
        std::fs::write(&path, "\n").unwrap();
        assert_eq!(
            secret.reveal().unwrap_err().to_string(),
            format!(
                "broker.password_file: the file {} is empty; it must hold the secret",
                path.display()
            )
        );
    }
}
