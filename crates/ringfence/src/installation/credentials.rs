//! `DIR/credentials`: an AWS shared-credentials file for clients. The server
//! appends to it and never believes it (ruling 20): what counts is the sealed
//! secret in the catalogue and the record of its issuance.
//!
//! A new key is staged in `credentials.new`, then recorded, then the file takes
//! its place. A crash before the record leaves a staged key that was never
//! issued and is thrown away; one after it leaves an issued key, whose file is
//! put in place by the next start. So a secret is never shown before it is
//! recorded, and never recorded and lost.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::rand;
use ringfence_format::names::KeyId;
use zeroize::Zeroizing;

use crate::cli::{Failure, Kind};

const FILE: &str = "credentials";
const STAGED: &str = "credentials.new";

/// A key that was just made and is not issued yet.
pub struct NewKey {
    /// Its public id.
    pub id: KeyId,
    /// Its secret: given to the client once, and sealed.
    pub secret: Zeroizing<String>,
}

impl NewKey {
    /// An unpredictable key: `RF` and 18 letters or digits, and a secret of 40
    /// that hold 200 bits and no character that a shell or a header minds.
    pub fn random() -> Result<Self, Failure> {
        let id = format!("RF{}", *letters::<18>(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")?);
        let secret = letters::<40>(b"abcdefghijkmnpqrstuvwxyz23456789")?;
        Ok(Self { id: KeyId::parse(&id).expect("letters and digits, 20 of them"), secret })
    }
}

/// `N` letters of an alphabet whose length divides 256, so that none is likelier.
fn letters<const N: usize>(alphabet: &[u8]) -> Result<Zeroizing<String>, Failure> {
    assert!(256 % alphabet.len() == 0, "an alphabet without bias");
    let mut bytes = Zeroizing::new([0_u8; N]);
    rand::fill(&mut *bytes).map_err(|_| Failure::internal("the operating system gives no random numbers"))?;
    Ok(Zeroizing::new(bytes.iter().map(|b| char::from(alphabet[usize::from(*b) % alphabet.len()])).collect()))
}

/// The credentials file of a data directory.
pub struct CredentialsFile {
    dir: PathBuf,
}

impl CredentialsFile {
    /// The one of this directory.
    pub fn of(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Where it lies.
    pub fn path(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    /// Writes the file as it will be, under its staging name; durable.
    pub fn stage(&self, profile: &str, key: &NewKey) -> Result<(), Failure> {
        let mut text = Zeroizing::new(match fs::read_to_string(self.path()) {
            Ok(text) => without_profile(&text, profile),
            Err(e) if e.kind() == ErrorKind::NotFound => String::new(),
            Err(e) => return Err(self.failed(&e)),
        });
        if !text.is_empty() && !text.ends_with("\n\n") {
            text.push('\n');
        }
        let (id, secret) = (&key.id, &*key.secret);
        let _ = write!(*text, "[{profile}]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n");
        let staged = self.dir.join(STAGED);
        let write = || -> std::io::Result<()> {
            match fs::remove_file(&staged) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|e| self.failed(&e))
    }

    /// Puts the staged file in place, after its key is on record; durable.
    pub fn publish(&self) -> Result<(), Failure> {
        let moved = || -> std::io::Result<()> {
            fs::rename(self.dir.join(STAGED), self.path())?;
            File::open(&self.dir)?.sync_all()
        };
        moved().map_err(|e| self.failed(&e))
    }

    /// Throws the staged file away: its key was not recorded.
    pub fn withdraw(&self) {
        let _ = fs::remove_file(self.dir.join(STAGED));
    }

    /// After a crash: publishes a staged key that is on record, throws away
    /// one that is not.
    pub fn finish(&self, is_issued: impl Fn(&KeyId) -> bool) -> Result<(), Failure> {
        let text = match fs::read_to_string(self.dir.join(STAGED)) {
            Ok(text) => Zeroizing::new(text),
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(self.failed(&e)),
        };
        // The staged key is the last one. A torn file has none, and was never recorded.
        let last = text.lines().rev().find_map(|line| line.strip_prefix("aws_access_key_id = "));
        match last.and_then(|id| KeyId::parse(id.trim()).ok()) {
            Some(id) if is_issued(&id) => self.publish(),
            _ => {
                self.withdraw();
                Ok(())
            }
        }
    }

    fn failed(&self, error: &std::io::Error) -> Failure {
        Failure::new(
            Kind::Unavailable,
            format!("credentials file `{}` cannot be written: {error}", self.path().display()),
        )
        .next("mend its permissions or free some space, then try again")
    }
}

/// The file without one profile, whose key is replaced.
fn without_profile(text: &str, profile: &str) -> String {
    let heading = format!("[{profile}]");
    let mut keep = true;
    let mut kept = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with('[') {
            keep = line.trim() != heading;
        }
        if keep {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(dir: &Path) -> Vec<String> {
        let text = fs::read_to_string(dir.join(FILE)).unwrap_or_default();
        text.lines().filter_map(|l| l.strip_prefix("aws_access_key_id = ")).map(str::to_owned).collect()
    }

    #[test]
    fn a_crash_before_or_after_the_record_leaves_what_the_record_says() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = CredentialsFile::of(dir.path());
        let (first, second) = (NewKey::random().expect("random"), NewKey::random().expect("random"));
        file.stage("default", &first).expect("staged");
        file.finish(|_| false).expect("withdrawn");
        assert!(ids(dir.path()).is_empty(), "not recorded, not shown");
        file.stage("default", &first).expect("staged");
        file.finish(|id| *id == first.id).expect("published");
        file.stage("other", &second).expect("staged");
        file.finish(|id| *id == first.id).expect("withdrawn");
        assert_eq!(ids(dir.path()), [first.id.to_string()]);
        file.stage("other", &second).expect("staged");
        file.publish().expect("published");
        assert_eq!(ids(dir.path()), [first.id.to_string(), second.id.to_string()]);
    }

    #[test]
    fn a_profile_that_gets_a_new_key_stands_once_and_the_file_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        let file = CredentialsFile::of(dir.path());
        let keys = [NewKey::random().expect("random"), NewKey::random().expect("random")];
        for key in &keys {
            file.stage("default", key).expect("staged");
            file.publish().expect("published");
        }
        assert_eq!(ids(dir.path()), [keys[1].id.to_string()]);
        assert_eq!(file.path().metadata().expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(keys[0].id.as_str().len(), 20);
        assert_ne!(*keys[0].secret, *keys[1].secret);
    }
}
