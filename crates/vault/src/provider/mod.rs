//! Where a root key-encryption key lives. It wraps and unwraps the keys of one
//! keyring and never leaves its provider, so that a PKCS#11 token, a TPM or
//! Vault/OpenBao transit can stand in the place of [`file`].

pub(crate) mod file;

use ringfence_format::wrap::Place;

use crate::error::VaultError;
use crate::secret::Key32;

/// Holds one root key-encryption key.
pub(crate) trait Provider: Send + Sync {
    /// Wraps a key for its place. The result is opaque to the keyring.
    fn wrap(&self, place: Place<'_>, key: &Key32) -> Result<Vec<u8>, VaultError>;

    /// Unwraps a key; fails with [`VaultError::Wrapped`] where the bytes
    /// belong to another place or key. May be slow, and may fail because the
    /// operator withdrew the key.
    fn unwrap(&self, place: Place<'_>, wrapped: &[u8]) -> Result<Key32, VaultError>;
}
