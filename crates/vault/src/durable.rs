//! Files that are either as before or as after, whatever happens in between.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::VaultError;

/// What may happen to a file that is there already.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing {
    Replace,
    Refuse,
}

/// Writes a file with mode 0600: to a temporary file, synced, renamed over the
/// old one (or linked, where that must not exist), the folder synced. A crash
/// leaves the old file or the new one, and perhaps a temporary file that the
/// next write of the same name replaces.
pub(crate) fn write(path: &Path, bytes: &[u8], existing: Existing) -> Result<(), VaultError> {
    let temp = temp_name(path);
    remove_if_there(&temp)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temp)
        .map_err(VaultError::io("create", &temp))?;
    file.write_all(bytes).map_err(VaultError::io("write", &temp))?;
    file.sync_all().map_err(VaultError::io("sync", &temp))?;
    drop(file);
    match existing {
        Existing::Replace => fs::rename(&temp, path).map_err(VaultError::io("replace", path))?,
        Existing::Refuse => {
            // A link, unlike a rename, fails where something is.
            fs::hard_link(&temp, path).map_err(|source| match source.kind() {
                std::io::ErrorKind::AlreadyExists => VaultError::KeyringExists { path: path.into() },
                _ => VaultError::Io { what: "create", path: path.into(), source },
            })?;
            remove_if_there(&temp)?;
        }
    }
    sync_parent(path)
}

/// Makes a folder with mode 0700, durable in its parent.
pub(crate) fn make_dir(path: &Path) -> Result<(), VaultError> {
    use std::os::unix::fs::DirBuilderExt;
    if path.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(VaultError::io("create", path))?;
    sync_parent(path)
}

fn sync_parent(path: &Path) -> Result<(), VaultError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(VaultError::io("sync", parent))
}

fn remove_if_there(path: &Path) -> Result<(), VaultError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(VaultError::Io { what: "remove", path: path.into(), source })
        }
        _ => Ok(()),
    }
}

fn temp_name(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}
