//! Sessions: what a client holds after it exchanged its own identity
//! provider's token, and everything an outsider needs to judge it.
//!
//! A session token is a PASETO that names one scope, signed by a key of that
//! scope, with the receipt of its issuance stapled to it. Each step of judging
//! it is a type of its own: [`SessionToken`] was parsed and nothing more,
//! [`Signed`] bears the signature of a key of its scope, [`Verified`] was also
//! issued: its leaf is in the log. Nothing but a [`Verified`] says who somebody
//! is. Format: docs/formats/session.md.

mod claims;
mod issuance;
mod manifest;
mod paseto;
mod refusal;
mod revocation;
mod scope;
mod token;
mod trust;
mod verify;

pub use claims::{Claims, LIFETIME_S_MAX, PAYLOAD_BYTES_MAX, Parent};
pub use issuance::{ISSUANCE, Issuance, IssuanceDraft};
pub use manifest::{KeyRow, KeySet, MANIFEST, Manifest, ManifestLeaf, SignedManifest};
pub use paseto::{Kid, PublicKey, Version, pre_authentication_encoding};
pub use refusal::{BadSession, Refusal};
pub use revocation::{REVOCATION, Revocation, Revocations, Target};
pub use scope::{Purpose, Scope, Sites};
pub use token::{PathHash, Receipt, SESSION_TOKEN_BYTES_MAX, SessionToken};
pub use trust::{Report, Step, Trust};
pub use verify::{Issued, Signed, Verified};
