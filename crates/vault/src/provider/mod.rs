//! Where a root key-encryption key lives. It wraps and unwraps the keys of one
//! keyring. A keyring holds the trait, so that a PKCS#11 token, a TPM or
//! Vault/OpenBao transit can stand in the place of [`file`]: each is a variant
//! of [`Slot`], which the keyring stores, and of [`Unlock`], which the operator
//! configures; the compiler then names what else must know it.

pub(crate) mod file;

use std::path::Path;

use ringfence_format::wrap::Place;

use self::file::FileProvider;
pub(crate) use self::file::Slot;
pub use self::file::Unlock;
use crate::error::VaultError;
use crate::secret::{Key32, random_key};

/// Holds one root key-encryption key.
pub(crate) trait Provider: Send + Sync {
    /// Wraps a key for its place. The result is opaque to the keyring.
    fn wrap(&self, place: Place<'_>, key: &Key32) -> Result<Vec<u8>, VaultError>;

    /// Unwraps a key; fails with [`VaultError::Wrapped`] where the bytes
    /// belong to another place or key. May be slow, and may fail because the
    /// operator withdrew the key.
    fn unwrap(&self, place: Place<'_>, wrapped: &[u8]) -> Result<Key32, VaultError>;

    /// The root key itself, for a backup. A provider whose root key cannot
    /// leave it refuses, and says how that one is backed up instead.
    fn export_root(&self) -> Result<Key32, VaultError>;
}

/// A provider with what the keyring must store to find its root key again.
pub(crate) struct Opened {
    pub(crate) provider: Box<dyn Provider>,
    pub(crate) slot: Slot,
    /// The root key as the slot's kind keeps it: wrapped, or a reference.
    pub(crate) root: Vec<u8>,
}

/// Makes a new root key. `owner` is bound to it; `path` is for messages.
pub(crate) fn create(unlock: &Unlock, owner: &str, path: &Path) -> Result<Opened, VaultError> {
    adopt(unlock, owner, path, random_key()?)
}

/// Takes in a root key that exists already, under a new unlock.
pub(crate) fn adopt(unlock: &Unlock, owner: &str, path: &Path, root: Key32) -> Result<Opened, VaultError> {
    match unlock {
        Unlock::KeyFile(_) | Unlock::Passphrase(_) => {
            let (provider, slot, root) = FileProvider::adopt(unlock, owner, path, root)?;
            Ok(Opened { provider: Box::new(provider), slot, root })
        }
    }
}

/// Opens the root key of an existing keyring, by what its slot says it is.
pub(crate) fn open(
    unlock: &Unlock,
    slot: &Slot,
    root: &[u8],
    owner: &str,
    path: &Path,
) -> Result<Box<dyn Provider>, VaultError> {
    match slot {
        Slot::KeyFile { .. } | Slot::Passphrase { .. } => {
            Ok(Box::new(FileProvider::open(unlock, slot, root, owner, path)?))
        }
    }
}
