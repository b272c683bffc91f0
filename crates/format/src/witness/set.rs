//! Who the witnesses of a log are, and how many must sign: said in the log
//! itself, signed by a realm's root, so that nobody lowers it unseen.

use super::{Quorum, WitnessKey};
use crate::checkpoint::VerifierKey;
use crate::leaf::{Hash, sha256};
use crate::limits::WITNESSES_MAX;
use crate::names::Realm;
use crate::session::pre_authentication_encoding;

/// The witnesses of a log from one moment on.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct WitnessSet {
    /// Of this structure: 0.
    #[n(0)]
    pub version: u8,
    /// Whose root signs it.
    #[n(1)]
    pub realm: Realm,
    /// From 1, by one.
    #[n(2)]
    pub seq: u64,
    /// SHA-256 of the set before it; none for the first.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub previous: Option<Hash>,
    /// How many must cosign; 0 with no witnesses: none has to.
    #[n(4)]
    pub k: u32,
    /// Their verifier keys, of type 0x04.
    #[n(5)]
    pub witnesses: Vec<String>,
    /// When it was made, in Unix seconds.
    #[n(6)]
    pub made_s: u64,
}

impl WitnessSet {
    /// The bytes that are hashed and signed.
    pub fn to_bytes(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("encoding into memory cannot fail")
    }

    /// What the next one names as its previous.
    pub fn sha256(&self) -> Hash {
        sha256(&self.to_bytes())
    }

    /// What the realm's root signs (Ed25519).
    pub fn to_be_signed(&self) -> Vec<u8> {
        pre_authentication_encoding(&[b"ringfence witness set v0", &self.to_bytes()])
    }

    /// The quorum it asks for; none where none has to sign.
    pub fn quorum(&self) -> Result<Option<Quorum>, BadWitnessSet> {
        if self.version != 0 {
            return Err(BadWitnessSet::Version(self.version));
        }
        if self.k == 0 && self.witnesses.is_empty() {
            return Ok(None);
        }
        if self.witnesses.len() > WITNESSES_MAX {
            return Err(BadWitnessSet::Threshold { k: self.k as usize, n: self.witnesses.len() });
        }
        let key = |text: &String| text.parse().map_err(|_| BadWitnessSet::Key(text.chars().take(200).collect()));
        let witnesses = self.witnesses.iter().map(key).collect::<Result<Vec<WitnessKey>, _>>()?;
        Quorum::new(witnesses, self.k as usize).map(Some)
    }

    /// Whether it may take the place of `last`: of the same realm, the next
    /// in sequence, naming it.
    pub fn follows(&self, last: Option<&Self>) -> Result<(), BadWitnessSet> {
        let (seq, previous) = last.map_or((1, None), |last| (last.seq + 1, Some(last.sha256())));
        let same_realm = last.is_none_or(|last| last.realm == self.realm);
        match self.seq == seq && self.previous == previous && same_realm {
            true => Ok(()),
            false => Err(BadWitnessSet::Sequence { seq: self.seq, expected: seq }),
        }
    }

    /// Whether fewer must sign than before, or as many of more: what somebody
    /// would change who wants to show two histories. It is an alarm.
    pub fn lowers(&self, last: &Self) -> bool {
        let share = |set: &Self| (u64::from(set.k), set.witnesses.len() as u64);
        let ((k, n), (last_k, last_n)) = (share(self), share(last));
        k < last_k || (last_k > 0 && k * last_n < last_k * n)
    }
}

/// A witness set with the signature of the realm's root: the bytes of the
/// public entry.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct SignedWitnessSet {
    /// The set.
    #[n(0)]
    pub set: WitnessSet,
    /// The signature (Ed25519).
    #[cbor(n(1), with = "minicbor::bytes")]
    pub signature: [u8; 64],
}

impl SignedWitnessSet {
    /// The bytes of the public entry.
    pub fn to_bytes(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("encoding into memory cannot fail")
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote, in that one form.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadWitnessSet> {
        let read: Self = minicbor::decode(bytes).map_err(|e| BadWitnessSet::Form(e.to_string()))?;
        match read.to_bytes() == bytes {
            true => Ok(read),
            false => Err(BadWitnessSet::Form("not in the one form it is written in".into())),
        }
    }

    /// Whether the realm's root (Ed25519) signed it.
    #[must_use]
    pub fn is_signed_by(&self, root: &[u8; 32]) -> bool {
        // The name plays no part in a plain Ed25519 check.
        VerifierKey::new("root", *root).is_ok_and(|root| root.signed(&self.set.to_be_signed(), &self.signature))
    }
}

/// Why something is no set of witnesses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadWitnessSet {
    /// Of a version that is not known.
    #[error("a witness set of version {0}, which is not known here")]
    Version(u8),
    /// It cannot be read.
    #[error("the witness set cannot be read: {0}")]
    Form(String),
    /// Not a key of a witness.
    #[error("`{0}` is not a witness's verifier key: expected `name+hash+key` as `ringfence witness` prints it")]
    Key(String),
    /// One witness, or one key, is there twice.
    #[error("the witness or key of `{0}` is there twice")]
    Twice(String),
    /// More must sign than there are, or none of some.
    #[error("{k} of {n} witnesses is no quorum: at least 1, at most all of them, and no more than {WITNESSES_MAX}")]
    Threshold {
        /// How many must sign.
        k: usize,
        /// How many there are.
        n: usize,
    },
    /// It does not come next.
    #[error("witness set {seq} does not follow the one in force: expected number {expected} naming it")]
    Sequence {
        /// Its number.
        seq: u64,
        /// The number that comes next.
        expected: u64,
    },
}
