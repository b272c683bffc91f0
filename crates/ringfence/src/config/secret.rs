//! A reference to a secret, never the secret: configuration files are copied
//! into tickets and repositories.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

/// Where a secret is to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRef {
    /// `env:NAME`: an environment variable.
    Env(String),
    /// `file:PATH`: the content of a file without its last line break,
    /// relative to the data directory.
    File(PathBuf),
}

impl SecretRef {
    /// Fetches the secret; relative paths start at `dir`.
    ///
    /// # Errors
    /// One line that says which reference failed and how.
    pub fn fetch(&self, dir: &Path) -> Result<Zeroizing<String>, String> {
        match self {
            Self::Env(name) => std::env::var(name)
                .map(Zeroizing::new)
                .map_err(|_| format!("environment variable `{name}` is not set or not text: set it before the start")),
            Self::File(path) => {
                let path = dir.join(path);
                let text = std::fs::read_to_string(&path)
                    .map(Zeroizing::new)
                    .map_err(|e| format!("secret file `{}` cannot be read: {e}", path.display()))?;
                Ok(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))
            }
        }
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(d)?);
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() => Ok(Self::Env(name.to_owned())),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(PathBuf::from(path))),
            // The text is not repeated: it may be the secret itself.
            _ => Err(serde::de::Error::custom(
                "a secret may not stand in the configuration: write `env:NAME` or `file:PATH` instead",
            )),
        }
    }
}

impl Serialize for SecretRef {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl JsonSchema for SecretRef {
    fn schema_name() -> Cow<'static, str> {
        "SecretRef".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(env|file):.+$" })
    }
}
