//! Credentials of remote sites: references in the configuration, bytes only here.

use std::{env, fmt, fs, path::PathBuf};

use ringfence_format::names::SiteId;

use super::SiteError;

/// Longest secret that a file or variable may hold: a Google service account
/// key in JSON has about 2.4 KB.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Where a secret is to be found. A configuration never holds the secret
/// itself, so it can be shown, backed up and put under version control.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRef {
    /// `env:NAME`: an environment variable.
    Env(String),
    /// `file:PATH`: the content of a file, one line break at the end removed.
    File(PathBuf),
}

impl SecretRef {
    /// Parses a reference. A text without a known scheme is refused without
    /// being repeated, since it may well be the secret.
    pub fn parse(text: &str) -> Result<Self, BadSecretRef> {
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() => Ok(Self::Env(name.to_owned())),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            _ => Err(BadSecretRef),
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

/// A text is no reference to a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a secret is given as `env:NAME` or `file:PATH`, never as itself")]
pub struct BadSecretRef;

/// What a remote site asks for before it serves us. Opaque: only the driver of
/// remote sites can read it, and nothing can print it.
///
/// ```compile_fail,E0277
/// fn show(c: &ringfence_store::site::SiteCredential) { println!("{c:?}"); }
/// ```
pub struct SiteCredential(pub(in crate::site) Kind);

pub(in crate::site) enum Kind {
    Anonymous,
    S3 { access_key: String, secret_key: zeroize::Zeroizing<String> },
    Azure { account: String, key: zeroize::Zeroizing<String> },
    Gcs { service_account: zeroize::Zeroizing<String> },
}

impl SiteCredential {
    /// No credential: public buckets and emulators.
    pub fn anonymous() -> Self {
        Self(Kind::Anonymous)
    }

    /// An S3 access key. Its id is no secret but may be a reference as well.
    pub fn s3(site: &SiteId, access_key: &SecretRef, secret_key: &SecretRef) -> Result<Self, SiteError> {
        let access_key = read(site, access_key)?.to_string();
        Ok(Self(Kind::S3 { access_key, secret_key: read(site, secret_key)? }))
    }

    /// An Azure storage account and its key (base64, as the portal shows it).
    pub fn azure(site: &SiteId, account: &str, key: &SecretRef) -> Result<Self, SiteError> {
        Ok(Self(Kind::Azure { account: account.to_owned(), key: read(site, key)? }))
    }

    /// A Google service account key (the JSON file).
    pub fn gcs(site: &SiteId, service_account: &SecretRef) -> Result<Self, SiteError> {
        Ok(Self(Kind::Gcs { service_account: read(site, service_account)? }))
    }
}

fn read(site: &SiteId, from: &SecretRef) -> Result<zeroize::Zeroizing<String>, SiteError> {
    let text = match from {
        SecretRef::Env(name) => {
            env::var(name).map_err(|_| SiteError::config(site, format!("environment variable `{name}` is not set")))?
        }
        SecretRef::File(path) => {
            let fail = |e| SiteError::config(site, format!("`{}` cannot be read: {e}", path.display()));
            if fs::metadata(path).map_err(fail)?.len() > SECRET_BYTES_MAX {
                return Err(SiteError::config(site, format!("`{}` is too long for a secret", path.display())));
            }
            fs::read_to_string(path).map_err(fail)?
        }
    };
    let text = zeroize::Zeroizing::new(text);
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(SiteError::config(site, format!("the secret at `{from}` is empty"))),
        secret => Ok(zeroize::Zeroizing::new(secret.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_secret_is_refused_and_not_repeated() {
        for literal in ["wJalrXUtnFEMI", "env:", "file:", "", "vault:x"] {
            let error = SecretRef::parse(literal).expect_err(literal);
            assert!(literal.is_empty() || !error.to_string().contains("wJalr"), "{error}");
        }
        assert_eq!(SecretRef::parse("env:A"), Ok(SecretRef::Env("A".into())));
        assert_eq!(SecretRef::parse("file:/a b").map(|r| r.to_string()), Ok("file:/a b".into()));
    }

    #[test]
    fn a_secret_is_read_from_its_file_without_the_line_break() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("key");
        fs::write(&path, "s3cret\n").expect("written");
        let site = SiteId::parse("x").expect("a name");
        assert_eq!(*read(&site, &SecretRef::File(path.clone())).expect("read"), "s3cret");
        fs::write(&path, "\n").expect("written");
        assert!(matches!(read(&site, &SecretRef::File(path)), Err(SiteError::Config { .. })));
    }
}
