//! The bytes that are hashed into the tree, and the public part that a record
//! may have: what outsiders must be able to read without a key.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use aws_lc_rs::digest;
use minicbor::decode::Error;
use minicbor::encode::{self as write, Write};
use minicbor::{Decode, Decoder, Encode, Encoder};

use super::{Commitments, Hash, sha256};
use crate::limits::PUBLIC_ENTRY_BYTES_MAX;

/// First byte of the entry of a record that has no public part.
pub const ACCESS: u8 = 1;
/// Kind of a public part: a session was issued.
pub const ISSUANCE: u8 = 2;
/// Kind of a public part: a realm's manifest of its keys.
pub const MANIFEST: u8 = 3;
/// Kind of a public part: something is revoked.
pub const REVOCATION: u8 = 4;
/// Kind of a public part: the witnesses of this log, and how many must sign.
pub const WITNESS_SET: u8 = 5;

/// Bytes of an access entry: the type and one hash.
pub const ACCESS_ENTRY_BYTES: usize = 33;

/// The public part of a record. It stands in the tree in clear, is never
/// sealed, trimmed or erased, and says what it says to anybody who has the
/// log's entries. The record beside it stays committed to and sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicEntry {
    /// [`ISSUANCE`], [`MANIFEST`], [`REVOCATION`] or [`WITNESS_SET`].
    pub kind: u8,
    /// What it says; how it is written follows from the kind.
    pub bytes: Vec<u8>,
}

impl PublicEntry {
    /// Whether it may stand in the log: a kind that we know, 1 to
    /// [`PUBLIC_ENTRY_BYTES_MAX`] bytes.
    pub fn check(&self) -> Result<(), BadPublic> {
        match (self.kind_name(), self.bytes.len()) {
            (None, _) => Err(BadPublic::Kind(self.kind)),
            (_, 0) => Err(BadPublic::Empty),
            (_, n) if n > PUBLIC_ENTRY_BYTES_MAX => Err(BadPublic::TooLong(n)),
            _ => Ok(()),
        }
    }

    /// The kind in words, or nothing where it is none of ours.
    pub fn kind_name(&self) -> Option<&'static str> {
        Some(match self.kind {
            ISSUANCE => "issuance",
            MANIFEST => "manifest",
            REVOCATION => "revocation",
            WITNESS_SET => "witness-set",
            _ => return None,
        })
    }

    /// SHA-256(kind ‖ bytes); stands in [`Core::public_sha256`], so that who
    /// opens a record knows that its public part is the one it was made with.
    ///
    /// [`Core::public_sha256`]: crate::record::Core::public_sha256
    pub fn digest(&self) -> Hash {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(&[self.kind]);
        hash.update(&self.bytes);
        super::to_hash(hash.finish().as_ref())
    }
}

/// Why something is no public part of a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPublic {
    /// No kind that may be written.
    #[error("{0} is no kind of public entry")]
    Kind(u8),
    /// It says nothing.
    #[error("a public entry without bytes")]
    Empty,
    /// It is too long.
    #[error("a public entry of {0} bytes is longer than {PUBLIC_ENTRY_BYTES_MAX}")]
    TooLong(usize),
}

impl<C> Encode<C> for PublicEntry {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), write::Error<W::Error>> {
        e.array(2)?.u8(self.kind)?.bytes(&self.bytes)?.ok()
    }
}

/// Refuses what [`PublicEntry::check`] refuses, so that no two sealed records
/// have the same entry: a public part of kind 1 without bytes would.
impl<'b, C> Decode<'b, C> for PublicEntry {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, Error> {
        if d.array()? != Some(2) {
            return Err(Error::message("not a kind and bytes"));
        }
        let entry = Self { kind: d.u8()?, bytes: d.bytes()?.to_vec() };
        entry.check().map(|()| entry).map_err(Error::custom)
    }
}

/// An entry: what is hashed into the tree and stands in the entry bundles.
/// Cheap to clone; one without a public part lives where it stands.
#[derive(Clone, PartialEq, Eq)]
pub enum LeafEntry {
    /// Type and hash of the commitments.
    Access([u8; ACCESS_ENTRY_BYTES]),
    /// Kind, hash of the commitments, and the public bytes.
    Public(Arc<[u8]>),
}

impl LeafEntry {
    /// The entry of a record with these commitments and this public part.
    pub fn of(commitments: &Commitments, public: Option<&PublicEntry>) -> Self {
        let access = access_entry(commitments);
        let Some(public) = public else { return Self::Access(access) };
        let mut bytes = Vec::with_capacity(access.len() + public.bytes.len());
        bytes.push(public.kind);
        bytes.extend_from_slice(&access[1..]);
        bytes.extend_from_slice(&public.bytes);
        Self::Public(bytes.into())
    }

    /// Reads an entry; nothing where it is none that we know.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes.first()? {
            &ACCESS => bytes.try_into().ok().map(Self::Access),
            _ => public_part(bytes).map(|_| Self::Public(bytes.into())),
        }
    }

    /// Its public part, if it has one.
    pub fn public(&self) -> Option<PublicEntry> {
        match self {
            Self::Access(_) => None,
            Self::Public(bytes) => public_part(bytes),
        }
    }
}

fn public_part(entry: &[u8]) -> Option<PublicEntry> {
    let (head, bytes) = entry.split_at_checked(ACCESS_ENTRY_BYTES)?;
    let public = PublicEntry { kind: head[0], bytes: bytes.to_vec() };
    public.check().ok().map(|()| public)
}

impl Deref for LeafEntry {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Access(bytes) => bytes,
            Self::Public(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for LeafEntry {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for LeafEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self))
    }
}

/// The entry of a record without a public part.
pub fn access_entry(commitments: &Commitments) -> [u8; ACCESS_ENTRY_BYTES] {
    let mut entry = [0; ACCESS_ENTRY_BYTES];
    entry[0] = ACCESS;
    entry[1..].copy_from_slice(&sha256(commitments.as_flattened()));
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: u8, bytes: &[u8]) -> PublicEntry {
        PublicEntry { kind, bytes: bytes.to_vec() }
    }

    #[test]
    fn only_known_kinds_with_some_bytes_are_written_and_read() {
        let long = vec![7; PUBLIC_ENTRY_BYTES_MAX];
        for good in [entry(ISSUANCE, b"x"), entry(MANIFEST, &long), entry(REVOCATION, b"x"), entry(WITNESS_SET, b"x")] {
            assert_eq!(good.check(), Ok(()));
            assert_eq!(minicbor::decode::<PublicEntry>(&minicbor::to_vec(&good).unwrap()).unwrap(), good);
            let leaf = LeafEntry::of(&[[1; 32]; 3], Some(&good));
            assert_eq!(LeafEntry::from_bytes(&leaf), Some(leaf.clone()));
            assert_eq!((leaf[0], leaf.public()), (good.kind, Some(good)));
        }
        let too_long = [&long[..], b"x"].concat();
        for bad in [
            entry(0, b"x"),
            entry(ACCESS, b""),
            entry(ACCESS, b"x"),
            entry(6, b"x"),
            entry(ISSUANCE, b""),
            entry(2, &too_long),
        ] {
            assert!(bad.check().is_err());
            assert!(minicbor::decode::<PublicEntry>(&minicbor::to_vec(&bad).unwrap()).is_err());
            let access = bad.kind == ACCESS && bad.bytes.is_empty();
            assert_eq!(LeafEntry::from_bytes(&LeafEntry::of(&[[1; 32]; 3], Some(&bad))).is_some(), access);
        }
        assert_eq!(LeafEntry::from_bytes(&[]), None);
    }

    #[test]
    fn an_entry_changes_with_its_kind_its_bytes_and_its_commitments() {
        let of = |c: u8, kind, bytes: &[u8]| LeafEntry::of(&[[c; 32]; 3], Some(&entry(kind, bytes)));
        let good = of(1, ISSUANCE, b"abc");
        for other in [of(2, ISSUANCE, b"abc"), of(1, MANIFEST, b"abc"), of(1, ISSUANCE, b"abd")] {
            assert_ne!(other, good);
        }
        assert_eq!(good[1..33], access_entry(&[[1; 32]; 3])[1..]);
        assert_ne!(entry(ISSUANCE, b"abc").digest(), entry(MANIFEST, b"abc").digest());
    }
}
