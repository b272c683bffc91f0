//! What stands in the tree for each record, so that a group of its fields can
//! be erased while the log still verifies.
//!
//! The bytes that are hashed into the tree (a C2SP tlog-tiles *entry*) begin
//! with a type. An access entry is that byte and SHA-256 over three HMAC
//! commitments: `core`, `subject`, `resource`. A commitment is keyed with a
//! salt derived from a key of the tenant, so that nobody without the salt can
//! guess what was committed to; once the key is destroyed, nobody can.
//! Whoever is given a salt and the group's bytes (an [`Opening`]) can check
//! them with no key at all. The entry of a record that also says something to
//! everybody ends with that ([`PublicEntry`]). Format: docs/formats/log.md.

mod entry;

use aws_lc_rs::{digest, hmac};

use crate::record::{Core, Record, Resource, Seq, Subject};

pub use entry::{
    ACCESS, ACCESS_ENTRY_BYTES, BadPublic, ISSUANCE, LeafEntry, MANIFEST, PublicEntry, REVOCATION, WITNESS_SET,
    access_entry,
};

/// A SHA-256 value.
pub type Hash = [u8; 32];

/// A group of a record's fields, committed to on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Group {
    /// What happened.
    Core = 0,
    /// Who.
    Subject = 1,
    /// On what.
    Resource = 2,
}

impl Group {
    /// All groups, in the order of their commitments.
    pub const ALL: [Group; 3] = [Group::Core, Group::Subject, Group::Resource];
}

/// The three commitments of an access record, in the order of [`Group::ALL`].
pub type Commitments = [Hash; 3];

/// The salt of one group of one record, from a key that the record's tenant
/// can destroy: HMAC-SHA256(key, len(origin) as u16 ‖ origin ‖ seq as u64 ‖
/// group), numbers big-endian.
pub fn salt(key: &[u8; 32], origin: &str, seq: Seq, group: Group) -> Hash {
    let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    // An origin is a key name, far below 64 KiB; a longer one is cut in its
    // length only and stays unambiguous, for everything behind it has a fixed size.
    mac.update(&(origin.len() as u16).to_be_bytes());
    mac.update(origin.as_bytes());
    mac.update(&seq.to_be_bytes());
    mac.update(&[group as u8]);
    to_hash(mac.sign().as_ref())
}

/// The commitment to a group: HMAC-SHA256(salt, canonical CBOR of the group).
pub fn commit(salt: &Hash, group_bytes: &[u8]) -> Hash {
    let key = hmac::Key::new(hmac::HMAC_SHA256, salt);
    to_hash(hmac::sign(&key, group_bytes).as_ref())
}

/// The bytes of a record's groups that are committed to: canonical CBOR (maps
/// by index in ascending order, shortest lengths), in the order of
/// [`Group::ALL`].
pub fn group_bytes(record: &Record) -> [Vec<u8>; 3] {
    const IN_MEMORY: &str = "encoding into memory cannot fail";
    [
        minicbor::to_vec(&record.core).expect(IN_MEMORY),
        minicbor::to_vec(&record.subject).expect(IN_MEMORY),
        minicbor::to_vec(&record.resource).expect(IN_MEMORY),
    ]
}

/// SHA-256 of an encoded redo; stands in [`Core::redo_sha256`], so that the
/// leaf commits to the redo too.
pub fn redo_digest(redo_bytes: &[u8]) -> Hash {
    sha256(redo_bytes)
}

/// A record as it lies on disk: commitments in clear, fields sealed.
///
/// Taking a record's fields away (retention, erasure) means emptying them here
/// and destroying their key; the commitments stay, and the tree with them.
#[derive(Clone, Debug, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct SealedRecord {
    /// One per group, in the order of [`Group::ALL`].
    #[cbor(n(0), with = "commitments_cbor")]
    pub commitments: Commitments,
    /// Which key sealed it, in the sealer's own terms. Opaque: tenants' names
    /// do not lie open on the disk.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub key_id: [u8; 8],
    /// The sealed core.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub core: Vec<u8>,
    /// The sealed subject.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub subject: Vec<u8>,
    /// The sealed resource.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub resource: Vec<u8>,
    /// The sealed redo; empty where the record changes nothing.
    #[cbor(n(5), with = "minicbor::bytes")]
    pub redo: Vec<u8>,
    /// The record under which its subject and resource were erased, if they were.
    #[n(6)]
    pub erased_by: Option<Seq>,
    /// The record under which its fields were trimmed by retention, if they were.
    #[n(7)]
    pub trimmed_by: Option<Seq>,
    /// Which key sealed the redo, where that is another than `key_id`: what the
    /// catalogue may still need outlives the key of who did it.
    #[cbor(n(8), with = "minicbor::bytes")]
    pub redo_key: Option<[u8; 8]>,
    /// The salts of the commitments, sealed, where they do not follow from the
    /// key that `key_id` names: the record was sealed anew under it.
    #[cbor(n(9), with = "minicbor::bytes")]
    pub salts: Option<Vec<u8>>,
    /// Set where it had a redo that is gone, because nothing of it was left.
    #[n(10)]
    pub redo_gone: Option<bool>,
    /// Where fields are gone: a MAC by who took them over what is left, so that
    /// nobody without a key can take fields in the name of a record.
    #[cbor(n(11), with = "minicbor::bytes")]
    pub mark: Option<[u8; 32]>,
    /// What it says to everybody; in clear, and never taken away.
    #[n(12)]
    pub public: Option<PublicEntry>,
}

/// What becomes of a record's redo when its fields go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedoFate {
    /// The catalogue may need it: it stays as it is, if there is one.
    Stays,
    /// Nothing of what it made is left: it goes too.
    Goes,
}

impl SealedRecord {
    /// What of it is hashed into the tree.
    pub fn entry(&self) -> LeafEntry {
        LeafEntry::of(&self.commitments, self.public.as_ref())
    }

    /// Canonical CBOR.
    pub fn to_bytes(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("encoding into memory cannot fail")
    }

    /// Reads what [`Self::to_bytes`] wrote; nothing may follow.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadLeaf> {
        decode_all(bytes)
    }

    /// Whether fields of it are gone: the record under which they went.
    pub fn cut_by(&self) -> Option<Seq> {
        self.trimmed_by.or(self.erased_by)
    }

    /// What is left of it once retention took its fields under record `by`.
    #[must_use]
    pub fn trimmed(&self, by: Seq, redo: RedoFate) -> Self {
        let bare = Self { core: Vec::new(), subject: Vec::new(), resource: Vec::new(), salts: None, ..self.clone() };
        Self { trimmed_by: self.trimmed_by.or(Some(by)), ..bare }.with_redo(redo)
    }

    /// The same with its redo, or without.
    #[must_use]
    pub fn with_redo(mut self, fate: RedoFate) -> Self {
        if fate == RedoFate::Goes && !self.redo.is_empty() {
            self.redo = Vec::new();
            self.redo_key = None;
            self.redo_gone = Some(true);
        }
        self
    }

    /// Which key opens its redo.
    pub fn key_of_redo(&self) -> [u8; 8] {
        self.redo_key.unwrap_or(self.key_id)
    }
}

/// What a verifier needs to check one group without a key. A group that was
/// erased, or that the holder may not see, shows its commitment alone.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub enum Opening {
    /// The salt, and the bytes committed to.
    #[n(0)]
    Open(#[cbor(n(0), with = "minicbor::bytes")] Hash, #[cbor(n(1), with = "minicbor::bytes")] Vec<u8>),
    /// The commitment alone.
    #[n(1)]
    Closed(#[cbor(n(0), with = "minicbor::bytes")] Hash),
}

impl Opening {
    /// The commitment that this opens, or that stands for it.
    pub fn commitment(&self) -> Hash {
        match self {
            Opening::Open(salt, bytes) => commit(salt, bytes),
            Opening::Closed(commitment) => *commitment,
        }
    }
}

/// The openings of an access record: what an access proof carries beside the
/// tree's path.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct Openings {
    /// What happened.
    #[n(0)]
    pub core: Opening,
    /// Who.
    #[n(1)]
    pub subject: Opening,
    /// On what.
    #[n(2)]
    pub resource: Opening,
    /// What it says to everybody, if it does.
    #[n(3)]
    pub public: Option<PublicEntry>,
}

impl Openings {
    /// The entry these open; compare it with the one proved to be in the tree.
    pub fn entry(&self) -> LeafEntry {
        let commitments = [self.core.commitment(), self.subject.commitment(), self.resource.commitment()];
        LeafEntry::of(&commitments, self.public.as_ref())
    }

    /// The fields that are shown, and nothing in place of the others.
    pub fn fields(&self) -> Result<Fields, BadLeaf> {
        Ok(Fields { core: shown(&self.core)?, subject: shown(&self.subject)?, resource: shown(&self.resource)? })
    }

    /// Canonical CBOR.
    pub fn to_bytes(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("encoding into memory cannot fail")
    }

    /// Reads what [`Self::to_bytes`] wrote; nothing may follow.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadLeaf> {
        decode_all(bytes)
    }
}

/// What [`Openings`] show; `None` for a closed group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    /// What happened.
    pub core: Option<Core>,
    /// Who.
    pub subject: Option<Subject>,
    /// On what.
    pub resource: Option<Resource>,
}

fn shown<T: for<'b> minicbor::Decode<'b, ()>>(opening: &Opening) -> Result<Option<T>, BadLeaf> {
    match opening {
        Opening::Open(_, bytes) => decode_all(bytes).map(Some),
        Opening::Closed(_) => Ok(None),
    }
}

/// Bytes that are not what they were meant to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a record of the log cannot be read: {0}")]
pub struct BadLeaf(String);

fn decode_all<T: for<'b> minicbor::Decode<'b, ()>>(bytes: &[u8]) -> Result<T, BadLeaf> {
    let mut decoder = minicbor::Decoder::new(bytes);
    let value = decoder.decode().map_err(|e| BadLeaf(e.to_string()))?;
    if decoder.position() != bytes.len() {
        return Err(BadLeaf(format!("{} bytes follow it", bytes.len() - decoder.position())));
    }
    Ok(value)
}

/// The request id of a record: its position in base32, 13 characters. A
/// support ticket's request id is the index of its proof.
pub fn request_id(seq: Seq) -> String {
    (0..REQUEST_ID_CHARS).rev().map(|i| char::from(BASE32[(seq >> (5 * i)) as usize & 31])).collect()
}

/// The position that a request id names, or nothing if it is not one of ours.
/// Lower case is accepted, since people retype these.
pub fn parse_request_id(text: &str) -> Option<Seq> {
    if text.len() != REQUEST_ID_CHARS as usize {
        return None;
    }
    text.bytes().try_fold(0u64, |seq, c| {
        let digit = BASE32.iter().position(|b| *b == c.to_ascii_uppercase())?;
        // 13 characters carry 65 bits: the first may only be A or B.
        seq.checked_mul(32)?.checked_add(digit as u64)
    })
}

const REQUEST_ID_CHARS: u32 = 13;
/// RFC 4648, section 6.
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// SHA-256 of some bytes.
pub fn sha256(bytes: &[u8]) -> Hash {
    to_hash(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn to_hash(bytes: &[u8]) -> Hash {
    bytes.try_into().expect("SHA-256 has 32 bytes")
}

/// Three byte strings in an array.
mod commitments_cbor {
    use super::Commitments;
    use minicbor::decode::Error;
    use minicbor::encode::{self as write, Write};
    use minicbor::{Decoder, Encoder};

    pub(super) fn encode<C, W: Write>(
        v: &Commitments,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), write::Error<W::Error>> {
        e.array(3)?.bytes(&v[0])?.bytes(&v[1])?.bytes(&v[2])?;
        Ok(())
    }

    pub(super) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Commitments, Error> {
        if d.array()? != Some(3) {
            return Err(Error::message("not three commitments"));
        }
        let mut one = || d.bytes()?.try_into().map_err(|_| Error::message("a commitment has 32 bytes"));
        Ok([one()?, one()?, one()?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Op;

    fn record() -> Record {
        Record { core: Core { time_us: 7, op: Op("s3:GetObject".into()), ..Core::default() }, ..Record::default() }
    }

    fn openings(record: &Record, key: &[u8; 32]) -> Openings {
        let [core, subject, resource] = group_bytes(record);
        let open = |group, bytes| Opening::Open(salt(key, "example.org/log", 5, group), bytes);
        Openings {
            core: open(Group::Core, core),
            subject: open(Group::Subject, subject),
            resource: open(Group::Resource, resource),
            public: record.public.clone(),
        }
    }

    #[test]
    fn an_opening_is_checked_without_a_key_and_erasing_it_keeps_the_entry() {
        let mut proof = openings(&record(), &[9; 32]);
        let entry = proof.entry();
        assert_eq!(proof.fields().unwrap().core.unwrap().op.0, "s3:GetObject");
        proof.subject = Opening::Closed(proof.subject.commitment());
        assert_eq!(proof.entry(), entry);
        assert_eq!(proof.fields().unwrap().subject, None);
        assert_eq!(Openings::from_bytes(&proof.to_bytes()).unwrap(), proof);
    }

    #[test]
    fn any_changed_field_salt_or_order_changes_the_entry() {
        let good = openings(&record(), &[9; 32]).entry();
        let mut other = record();
        other.core.status = 200;
        assert_ne!(openings(&other, &[9; 32]).entry(), good);
        assert_ne!(openings(&record(), &[8; 32]).entry(), good);
        let mut swapped = openings(&record(), &[9; 32]);
        std::mem::swap(&mut swapped.subject, &mut swapped.resource);
        assert_ne!(swapped.entry(), good);
    }

    #[test]
    fn a_sealed_record_reads_back_and_refuses_what_follows_it() {
        let sealed = SealedRecord {
            commitments: [[1; 32], [2; 32], [3; 32]],
            key_id: *b"key-0001",
            core: vec![1, 2],
            subject: vec![3],
            resource: vec![],
            redo: vec![7],
            ..SealedRecord::default()
        };
        let mut bytes = sealed.to_bytes();
        assert_eq!(SealedRecord::from_bytes(&bytes).unwrap(), sealed);
        let cut = sealed.trimmed(4, RedoFate::Stays);
        assert_eq!((cut.entry(), cut.cut_by(), cut.redo.as_slice()), (sealed.entry(), Some(4), &[7][..]));
        assert!(cut.core.is_empty() && cut.subject.is_empty() && cut.redo_gone.is_none());
        let gone = cut.trimmed(5, RedoFate::Goes);
        assert_eq!((gone.trimmed_by, gone.redo_gone, gone.redo.len()), (Some(4), Some(true), 0));
        assert_eq!(SealedRecord::from_bytes(&gone.to_bytes()).unwrap(), gone);
        bytes.push(0);
        assert!(SealedRecord::from_bytes(&bytes).is_err());
    }

    #[test]
    fn the_leaf_is_the_golden_one() {
        let golden = |name: &str| {
            let lines = include_str!("../testdata/leaf.txt").lines();
            let value = lines.filter_map(|line| line.split_once(' ')).find(|(n, _)| *n == name);
            value.expect("the vector has it").1.to_owned()
        };
        let mut key = [0; 32];
        hex::decode_to_slice(golden("key"), &mut key).unwrap();
        let seq = golden("seq").parse().unwrap();
        let core = Core {
            time_us: 1_795_460_000_000_000,
            op: Op("s3:GetObject".into()),
            status: 200,
            policy_ids: vec!["tenant-reads".into()],
            policy_epoch: 3,
            ..Core::default()
        };
        let subject = Subject {
            tenant: "hospital".parse().ok(),
            principal: "imaging".parse().ok(),
            actor: crate::record::ActorKind::StaticKey,
            ..Subject::default()
        };
        let resource =
            Resource { bucket: "studies".parse().ok(), key: "ct/0421.dcm".parse().ok(), ..Resource::default() };
        let groups = group_bytes(&Record { core, subject, resource, redo: None, public: None });
        let mut commitments = [[0; 32]; 3];
        for (group, name) in Group::ALL.into_iter().zip(["core", "subject", "resource"]) {
            let bytes = &groups[group as usize];
            let salt = salt(&key, &golden("origin"), seq, group);
            commitments[group as usize] = commit(&salt, bytes);
            assert_eq!(hex::encode(bytes), golden(&format!("{name}.bytes")));
            assert_eq!(hex::encode(salt), golden(&format!("{name}.salt")));
            assert_eq!(hex::encode(commitments[group as usize]), golden(&format!("{name}.commitment")));
        }
        let entry = access_entry(&commitments);
        assert_eq!(hex::encode(entry), golden("entry"));
        assert_eq!(hex::encode(crate::tile::leaf_hash(&entry)), golden("leaf"));
        let public = PublicEntry {
            kind: golden("public.kind").parse().unwrap(),
            bytes: hex::decode(golden("public.bytes")).unwrap(),
        };
        assert_eq!(hex::encode(public.digest()), golden("public.sha256"));
        let entry = LeafEntry::of(&commitments, Some(&public));
        assert_eq!(hex::encode(&entry), golden("public.entry"));
        assert_eq!(hex::encode(crate::tile::leaf_hash(&entry)), golden("public.leaf"));
    }

    #[test]
    fn request_ids_name_every_position_and_nothing_else() {
        for seq in [0, 1, 31, 32, 1 << 40, u64::MAX] {
            assert_eq!(parse_request_id(&request_id(seq)), Some(seq));
            assert_eq!(parse_request_id(&request_id(seq).to_lowercase()), Some(seq));
        }
        assert_eq!(request_id(0), "AAAAAAAAAAAAA");
        assert_eq!(request_id(u64::MAX), "P777777777777");
        for bad in ["", "A", "AAAAAAAAAAAAAA", "0AAAAAAAAAAAA", "Q777777777777", "äAAAAAAAAAAA"] {
            assert_eq!(parse_request_id(bad), None, "{bad}");
        }
    }
}
