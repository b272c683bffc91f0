//! The only code that holds keys. It cannot name a cloud.
//!
//! A root key per keyring wraps the keys of tenants; a tenant's key wraps the
//! data key of each object version; everything an object is made of is sealed
//! under that. Sealing takes a permit, opening a receipt: see [`Vault`].
//! What lies on disk is described in docs/formats/keyring.md and
//! docs/formats/sealed-object.md.

mod backup;
pub mod ceremony;
mod durable;
mod error;
mod evidence;
mod issuer;
mod keyring;
mod open;
mod provider;
mod reseal;
mod root;
mod rotate;
mod seal;
mod secret;
mod session;
#[cfg(test)]
mod tests;
mod vault;

pub use error::VaultError;
pub use evidence::{Evidence, EvidenceMonth, Month};
pub use issuer::{COUNTS_S, IssuerKey, PLANNED, SIGNS_S, signs_at};
pub use open::{Opener, PartOpener, Plaintext, Verifier};
pub use provider::Unlock;
pub use reseal::{PartResealer, Resealer};
pub use rotate::Retiring;
pub use seal::{PartSealer, Sealer};
pub use secret::{Passphrase, SecretText};
pub use vault::{DEVELOPMENT_KEY_FILE, KEYS_DIR, KekVersions, LEASE, OpenedHead, Vault};
