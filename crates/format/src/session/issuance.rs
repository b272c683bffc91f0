//! The leaf of an issuance: public, never erasable.

use super::paseto::{Kid, PublicKey, pre_authentication_encoding};
use super::refusal::BadSession;
use super::scope::Purpose;
use crate::leaf::Hash;
use crate::names::Realm;
use crate::record::Seq;

/// First byte of an issuance entry.
pub const ISSUANCE: u8 = 2;
/// A public entry begins with its kind and the hash over its commitments.
pub(super) const PUBLIC_PREFIX: usize = 33;

/// What is issued, before it is admitted. It names nobody: other tenants and
/// witnesses learn counts and times.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct IssuanceDraft {
    /// Of this structure: 0.
    #[n(0)]
    pub version: u8,
    /// Under which trust root.
    #[n(1)]
    pub realm: Realm,
    /// Stands for the tenant; only who knows the tenant's key can tell which.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub tenant: [u8; 16],
    /// The key that signed the token.
    #[n(3)]
    pub kid: Kid,
    /// What it is for.
    #[n(4)]
    pub purpose: Purpose,
    /// From when it counts, in Unix seconds.
    #[n(5)]
    pub from_s: u64,
    /// From when it does not, in Unix seconds.
    #[n(6)]
    pub until_s: u64,
    /// SHA-256 of the PASETO.
    #[cbor(n(7), with = "minicbor::bytes")]
    pub token_sha256: Hash,
    /// The leaf of the session it was narrowed from.
    #[n(8)]
    pub parent: Option<Seq>,
}

impl IssuanceDraft {
    /// What the admission key signs.
    pub fn to_be_signed(&self) -> Vec<u8> {
        let draft = minicbor::to_vec(self).expect("encoding into memory cannot fail");
        pre_authentication_encoding(&[b"ringfence issuance v0", &draft])
    }

    /// With the admission key's signature.
    pub fn admitted(self, key: &PublicKey, signature: [u8; 64]) -> Issuance {
        Issuance { draft: self, admitted_by: key.kid(), admission: signature }
    }
}

/// An issuance that was admitted: somebody with another key than the issuer's
/// looked at the evidence again.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct Issuance {
    /// What was issued.
    #[n(0)]
    pub draft: IssuanceDraft,
    /// The admission key.
    #[n(1)]
    pub admitted_by: Kid,
    /// Its signature (Ed25519).
    #[cbor(n(2), with = "minicbor::bytes")]
    pub admission: [u8; 64],
}

impl Issuance {
    /// The bytes of the public entry.
    pub fn to_bytes(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("encoding into memory cannot fail")
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote; nothing may follow.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadSession> {
        decode_all(bytes)
    }

    /// The issuance that an entry of the log is about.
    pub fn from_entry(entry: &[u8]) -> Result<Self, BadSession> {
        match entry.split_at_checked(PUBLIC_PREFIX) {
            Some((head, bytes)) if head[0] == ISSUANCE => Self::from_bytes(bytes),
            _ => Err(BadSession::Leaf("not the entry of an issuance".into())),
        }
    }
}

/// Decodes all of `bytes`, and refuses bytes that we would have written
/// otherwise: there is one form of everything.
pub(super) fn decode_all<T>(bytes: &[u8]) -> Result<T, BadSession>
where
    T: for<'b> minicbor::Decode<'b, ()> + minicbor::Encode<()>,
{
    let value: T = minicbor::decode(bytes).map_err(|e| BadSession::Leaf(e.to_string()))?;
    let again = minicbor::to_vec(&value).expect("encoding into memory cannot fail");
    if again == bytes { Ok(value) } else { Err(BadSession::Leaf("not in the one form it is written in".into())) }
}
