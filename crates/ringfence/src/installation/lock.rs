//! One process per data directory: the lock on `DIR/lock`.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::cli::{Failure, Kind};

/// The data directory, held by this process until this is dropped. The kernel
/// lets go of it when the process dies, however it dies.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the directory (mode 0700) if need be and takes its lock.
    ///
    /// # Errors
    /// Another process holds it: its process id is named.
    pub fn take(path: &Path) -> Result<Self, Failure> {
        let at = |what: &str, e: std::io::Error| {
            Failure::new(Kind::Unavailable, format!("data directory `{}` {what}: {e}", path.display()))
                .next("choose another with `--data DIR`, or mend its permissions")
        };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| at("cannot be made", e))?;
        let path = path.canonicalize().map_err(|e| at("cannot be found", e))?;
        private(&path).map_err(|e| at("cannot be made private", e))?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(|e| at("cannot be locked", e))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut holder = String::new();
            let _ = lock.read_to_string(&mut holder);
            let holder = holder.trim();
            let who = if holder.is_empty() { "another process".to_owned() } else { format!("process {holder}") };
            let message = format!("data directory `{}` is in use by {who}", path.display());
            return Err(Failure::new(Kind::Unavailable, message)
                .next("stop that one first, or choose another directory with `--data DIR`"));
        }
        // Only for the message above: the lock is what counts.
        lock.set_len(0)
            .and_then(|()| lock.seek(SeekFrom::Start(0)))
            .and_then(|_| write!(lock, "{}", std::process::id()))
            .map_err(|e| at("cannot be written to", e))?;
        Ok(Self { path, _lock: lock })
    }

    /// The directory, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Nobody else may look in: the directory holds keys and sealed data.
fn private(path: &Path) -> std::io::Result<()> {
    let mode = path.metadata()?.permissions().mode() & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode & 0o7700))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_by_name_and_the_first_can_leave() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("data");
        let first = DataDir::take(&path).expect("free");
        assert_eq!(path.metadata().expect("made").permissions().mode() & 0o777, 0o700);
        let message = DataDir::take(&path).expect_err("taken").message;
        assert!(message.contains(&format!("in use by process {}", std::process::id())), "{message}");
        drop(first);
        DataDir::take(&path).expect("free again");
    }
}
