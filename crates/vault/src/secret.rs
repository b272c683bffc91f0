//! Secrets in memory: neither `Debug` nor `Clone`, zeroed when dropped.

use aws_lc_rs::rand;
use zeroize::Zeroizing;

use crate::error::VaultError;

/// 32 secret bytes.
pub(crate) type Key32 = Zeroizing<[u8; 32]>;

/// A passphrase as a person typed it.
///
/// ```compile_fail,E0277
/// fn show(secret: &ringfence_vault::Passphrase) { println!("{secret:?}"); }
/// ```
/// ```compile_fail,E0599
/// fn copy(secret: ringfence_vault::Passphrase) -> ringfence_vault::Passphrase { secret.clone() }
/// ```
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// Fewer characters than this protect nothing once the file is stolen.
    pub const CHARS_MIN: usize = 12;

    /// Whatever was typed.
    pub fn new(text: Zeroizing<String>) -> Self {
        Self(text)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// To be called where a passphrase is chosen, not where one is given again.
    pub(crate) fn check_strength(&self) -> Result<(), VaultError> {
        if self.0.chars().count() < Self::CHARS_MIN {
            return Err(VaultError::WeakPassphrase { min: Self::CHARS_MIN });
        }
        Ok(())
    }
}

/// A secret the vault gave out: of a static access key, or of a site.
///
/// ```compile_fail,E0277
/// fn show(secret: &ringfence_vault::SecretText) { println!("{secret}"); }
/// ```
/// ```compile_fail,E0277
/// fn show(secret: &ringfence_vault::SecretText) { println!("{secret:?}"); }
/// ```
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    pub(crate) fn new(text: Zeroizing<String>) -> Self {
        Self(text)
    }

    /// The secret itself. The name is long so that a review finds each use.
    pub fn expose_secret(&self) -> &str {
        &self.0
    }
}

/// Unpredictable bytes from the operating system's generator.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], VaultError> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| VaultError::NoRandomness)?;
    Ok(bytes)
}

/// A fresh secret key.
pub(crate) fn random_key() -> Result<Key32, VaultError> {
    let mut key = Zeroizing::new([0; 32]);
    rand::fill(&mut *key).map_err(|_| VaultError::NoRandomness)?;
    Ok(key)
}
