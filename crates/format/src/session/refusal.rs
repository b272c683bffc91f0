//! Why a session token convinces nobody.

use crate::checkpoint::BadCheckpoint;
use crate::names::SiteId;
use crate::record::Seq;

use super::paseto::Kid;
use super::scope::Scope;

/// Bytes that are not a session token, a leaf or a manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSession {
    /// Longer than any we make.
    #[error("longer than allowed")]
    TooLong,
    /// Not in the form of a token.
    #[error("not in the form of a session token: {0}")]
    Form(&'static str),
    /// The payload is not the strict structure.
    #[error("the payload is malformed: {0}")]
    Payload(&'static str),
    /// A leaf or manifest that cannot be read.
    #[error("malformed: {0}")]
    Leaf(String),
}

/// Why a token, well-formed or not, is refused. Precise: it goes into the
/// record, never to who showed the token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It cannot be read.
    #[error("malformed session token: {0}")]
    Malformed(#[from] BadSession),
    /// It is for something else than is asked here.
    #[error("the token is for `{found}`, here only `{expected}` counts")]
    Purpose {
        /// What it says.
        found: &'static str,
        /// What is asked for.
        expected: &'static str,
    },
    /// No key of its scope has this id.
    #[error("no key `{kid}` in scope {scope}")]
    UnknownKey {
        /// The id it names.
        kid: Kid,
        /// The scope it claims.
        scope: Box<Scope>,
    },
    /// The key is known, but it belongs to another scope, and it did sign this.
    #[error("key `{kid}` of scope {owner} signed for scope {claimed}")]
    KeyOutsideScope {
        /// Which key.
        kid: Kid,
        /// Where it belongs.
        owner: Box<Scope>,
        /// What it was used for.
        claimed: Box<Scope>,
    },
    /// It has the form of another version than its key, which alone decides.
    #[error("key `{0}` does not sign tokens of this version")]
    Version(Kid),
    /// The signature does not verify in the scope it claims.
    #[error("the signature does not verify in scope {0}")]
    Signature(Box<Scope>),
    /// The key's time is over, or has not begun; it did sign this.
    #[error("key `{kid}` signed at a time that is not its own (valid {from_s} to {until_s})")]
    RetiredKey {
        /// Which key.
        kid: Kid,
        /// Unix seconds.
        from_s: u64,
        /// Unix seconds.
        until_s: u64,
    },
    /// The key may not sign for these sites.
    #[error("key `{0}` may not sign for the sites the token names")]
    KeySites(Kid),
    /// Its time is over.
    #[error("expired at {0}")]
    Expired(u64),
    /// Its time has not come.
    #[error("not valid before {0}")]
    NotYet(u64),
    /// It would live longer than any session may, or ends before it begins.
    #[error("its lifetime is not one that sessions have")]
    Lifetime,
    /// This gateway is none of its sites.
    #[error("not for the gateway at site `{0}`")]
    Site(SiteId),
    /// INVARIANT 6 — a key of its scope signed it, and the log does not have it.
    #[error("validly signed, but not issued: {0}")]
    NotIssued(String),
    /// The stapled checkpoint is not believed.
    #[error("the receipt is not believed: {0}")]
    Checkpoint(#[from] BadCheckpoint),
    /// Too few witnesses cosigned the checkpoint.
    #[error("the receipt's checkpoint lacks witnesses: {0}")]
    Quorum(String),
    /// It was revoked.
    #[error("revoked by record #{by}")]
    Revoked {
        /// The record of the revocation.
        by: Seq,
    },
    /// The session policy beside it is not the one that was signed.
    #[error("the session policy was exchanged")]
    Policy,
}

impl Refusal {
    /// Whether it shows that a key of ours is in other hands: a valid signature
    /// that should not exist.
    pub fn is_critical(&self) -> bool {
        matches!(self, Self::NotIssued(_) | Self::KeyOutsideScope { .. } | Self::RetiredKey { .. } | Self::KeySites(_))
    }
}
