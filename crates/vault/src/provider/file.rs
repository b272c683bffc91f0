//! The root key-encryption key in the keyring file itself, wrapped under a key
//! derived from a key file (HKDF-SHA512) or a passphrase (Argon2id).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::hkdf;
use ringfence_format::wrap::{self, Place, WrapError};
use zeroize::Zeroizing;

use super::Provider;
use crate::error::VaultError;
use crate::secret::{Key32, Passphrase, random};

/// What unlocks a keyring.
pub enum Unlock {
    /// A file of at least 32 unpredictable bytes, readable by us only. It is
    /// read again whenever a lease runs out: take it away, and reading stops
    /// within the lease.
    KeyFile(PathBuf),
    /// A passphrase.
    Passphrase(Passphrase),
}

/// How the root key of a keyring is wrapped: written in the keyring.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub(crate) enum Slot {
    #[n(0)]
    KeyFile {
        #[cbor(n(0), with = "minicbor::bytes")]
        salt: [u8; 16],
    },
    #[n(1)]
    Passphrase {
        #[cbor(n(0), with = "minicbor::bytes")]
        salt: [u8; 16],
        /// Argon2id memory in KiB, passes and lanes.
        #[n(1)]
        memory_kib: u32,
        #[n(2)]
        passes: u32,
        #[n(3)]
        lanes: u32,
    },
}

/// RFC 9106's second recommended choice: 64 MiB, 3 passes, 4 lanes.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
const LANES: u32 = 4;
/// What a damaged or hostile file may make us spend at most.
const MEMORY_KIB_MAX: u32 = 1024 * 1024;
const PASSES_MAX: u32 = 64;
const KEY_FILE_BYTES_MAX: u64 = 64 * 1024;

/// A root key that lies, wrapped, in the keyring file.
pub(crate) struct FileProvider {
    root: Root,
}

enum Root {
    /// Unwrapped anew for each use, so that a key file taken away is missed.
    Reread { key_file: PathBuf, slot: Slot, wrapped: Vec<u8>, owner: String, path: PathBuf },
    /// Held while the process runs; the passphrase itself is not.
    Kept(Key32),
}

impl FileProvider {
    /// Wraps a root key that exists already under a new unlock.
    pub(crate) fn adopt(
        unlock: &Unlock,
        owner: &str,
        path: &Path,
        root: Key32,
    ) -> Result<(Self, Slot, Vec<u8>), VaultError> {
        let salt = random()?;
        let slot = match unlock {
            Unlock::KeyFile(_) => Slot::KeyFile { salt },
            Unlock::Passphrase(passphrase) => {
                passphrase.check_strength()?;
                Slot::new_passphrase(salt)
            }
        };
        let key = slot.derive(unlock, path)?;
        let wrapped = wrap::wrap_key(&key, Place { label: ROOT, context: &[owner.as_bytes()] }, random()?, &root);
        let provider = Self::hold(unlock, &slot, &wrapped, owner, path, root);
        Ok((provider, slot, wrapped.to_vec()))
    }

    /// Opens the root key of an existing keyring.
    pub(crate) fn open(
        unlock: &Unlock,
        slot: &Slot,
        wrapped: &[u8],
        owner: &str,
        path: &Path,
    ) -> Result<Self, VaultError> {
        let root = unwrap_root(unlock, slot, wrapped, owner, path)?;
        Ok(Self::hold(unlock, slot, wrapped, owner, path, root))
    }

    fn root(&self) -> Result<Key32, VaultError> {
        match &self.root {
            Root::Kept(root) => Ok(Zeroizing::new(**root)),
            Root::Reread { key_file, slot, wrapped, owner, path } => {
                unwrap_root(&Unlock::KeyFile(key_file.clone()), slot, wrapped, owner, path)
            }
        }
    }

    fn hold(unlock: &Unlock, slot: &Slot, wrapped: &[u8], owner: &str, path: &Path, root: Key32) -> Self {
        let root = match unlock {
            Unlock::Passphrase(_) => Root::Kept(root),
            Unlock::KeyFile(key_file) => Root::Reread {
                key_file: key_file.clone(),
                slot: slot.clone(),
                wrapped: wrapped.to_vec(),
                owner: owner.to_owned(),
                path: path.to_owned(),
            },
        };
        Self { root }
    }
}

impl Provider for FileProvider {
    fn wrap(&self, place: Place<'_>, key: &Key32) -> Result<Vec<u8>, VaultError> {
        Ok(wrap::wrap_key(&*self.root()?, place, random()?, key).to_vec())
    }

    fn unwrap(&self, place: Place<'_>, wrapped: &[u8]) -> Result<Key32, VaultError> {
        let wrong = |why| VaultError::Wrapped { what: "key", why };
        let wrapped = wrapped.try_into().map_err(|_| wrong(WrapError::Short))?;
        wrap::unwrap_key(&*self.root()?, place, wrapped).map_err(wrong)
    }

    fn export_root(&self) -> Result<Key32, VaultError> {
        self.root()
    }
}

const ROOT: &str = "root kek";

fn unwrap_root(unlock: &Unlock, slot: &Slot, wrapped: &[u8], owner: &str, path: &Path) -> Result<Key32, VaultError> {
    let damaged = |why| VaultError::Damaged { path: path.into(), why };
    let key = slot.derive(unlock, path)?;
    let wrapped = wrapped.try_into().map_err(|_| damaged("the root key is cut short"))?;
    wrap::unwrap_key(&key, Place { label: ROOT, context: &[owner.as_bytes()] }, wrapped).map_err(|why| {
        match (why, unlock) {
            (WrapError::NotThisKey, Unlock::Passphrase(_)) => VaultError::WrongPassphrase { path: path.into() },
            (WrapError::NotThisKey, Unlock::KeyFile(key_file)) => {
                VaultError::WrongKeyFile { path: path.into(), key_file: key_file.clone() }
            }
            _ => damaged("the root key does not authenticate"),
        }
    })
}

impl Slot {
    /// A new slot for a passphrase, at today's cost.
    pub(crate) fn new_passphrase(salt: [u8; 16]) -> Self {
        Self::Passphrase { salt, memory_kib: MEMORY_KIB, passes: PASSES, lanes: LANES }
    }

    /// The key that wraps the root key. `path` is for messages.
    pub(crate) fn derive(&self, unlock: &Unlock, path: &Path) -> Result<Key32, VaultError> {
        match (self, unlock) {
            (Self::KeyFile { salt }, Unlock::KeyFile(key_file)) => derive_from_key_file(key_file, salt),
            (Self::Passphrase { salt, memory_kib, passes, lanes }, Unlock::Passphrase(passphrase)) => {
                let damaged = VaultError::Damaged { path: path.into(), why: "impossible Argon2 parameters" };
                if *memory_kib > MEMORY_KIB_MAX || *passes > PASSES_MAX {
                    return Err(damaged);
                }
                let Ok(params) = Params::new(*memory_kib, *passes, *lanes, Some(32)) else { return Err(damaged) };
                let mut key = Zeroizing::new([0; 32]);
                Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                    .hash_password_into(passphrase.bytes(), salt, &mut *key)
                    .map_err(|_| damaged)?;
                Ok(key)
            }
            (Self::KeyFile { .. }, _) => Err(VaultError::OtherUnlock { path: path.into(), needs: "key file" }),
            (Self::Passphrase { .. }, _) => Err(VaultError::OtherUnlock { path: path.into(), needs: "passphrase" }),
        }
    }
}

fn derive_from_key_file(path: &Path, salt: &[u8; 16]) -> Result<Key32, VaultError> {
    let bytes = read_key_file(path)?;
    let mut key = Zeroizing::new([0; 32]);
    hkdf::Salt::new(hkdf::HKDF_SHA512, salt)
        .extract(&bytes)
        .expand(&[b"ringfence key file 0"], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut *key))
        .expect("32 bytes are within HKDF's limit");
    Ok(key)
}

fn read_key_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    let refuse = |why: &str| VaultError::KeyFile { path: path.into(), why: why.to_owned() };
    let meta = fs::metadata(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => refuse("is not there: put it back, or restore the key backup"),
        _ => VaultError::Io { what: "read", path: path.into(), source },
    })?;
    if meta.permissions().mode() & 0o007 != 0 {
        return Err(refuse("may be read by everybody on this machine: run `chmod 600` on it"));
    }
    if meta.len() < 32 {
        return Err(refuse("has fewer than 32 bytes: a key file needs 32 unpredictable ones"));
    }
    if meta.len() > KEY_FILE_BYTES_MAX {
        return Err(refuse("is larger than 64 KiB: this is not a key file"));
    }
    fs::read(path).map(Zeroizing::new).map_err(VaultError::io("read", path))
}
