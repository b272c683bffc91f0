//! Key manifests: which keys act in which scope, said by a realm's root.

use std::collections::HashMap;

use super::issuance::decode_all;
use super::paseto::{Kid, PublicKey, pre_authentication_encoding};
use super::refusal::{BadManifest, BadSession};
use super::scope::{Purpose, Scope, Sites};
use crate::leaf::{Hash, sha256};
use crate::names::{Realm, Tenant};

/// First byte of a manifest entry.
pub const MANIFEST: u8 = 3;

/// One key and all it may do.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct KeyRow {
    /// The key; its version follows from it.
    #[n(0)]
    pub public: PublicKey,
    /// For whom.
    #[n(1)]
    pub tenant: Tenant,
    /// For what.
    #[n(2)]
    pub purpose: Purpose,
    /// It may sign for these gateways.
    #[n(3)]
    pub sites: Sites,
    /// From when, in Unix seconds.
    #[n(4)]
    pub from_s: u64,
    /// What it signed counts until then, in Unix seconds.
    #[n(5)]
    pub until_s: u64,
}

/// All keys of a realm, in one sequence of manifests.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct Manifest {
    /// Of this structure: 0.
    #[n(0)]
    pub version: u8,
    /// Whose.
    #[n(1)]
    pub realm: Realm,
    /// From 1, by one.
    #[n(2)]
    pub seq: u64,
    /// SHA-256 of the manifest before it.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub previous: Option<Hash>,
    /// When it was made, in Unix seconds.
    #[n(4)]
    pub made_s: u64,
    /// The keys.
    #[n(5)]
    pub keys: Vec<KeyRow>,
}

impl Manifest {
    /// The bytes that are hashed and signed.
    pub fn to_bytes(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("encoding into memory cannot fail")
    }

    /// What the next one names as its previous.
    pub fn sha256(&self) -> Hash {
        sha256(&self.to_bytes())
    }

    /// What the realm's root signs.
    pub fn to_be_signed(&self) -> Vec<u8> {
        pre_authentication_encoding(&[b"ringfence manifest v0", &self.to_bytes()])
    }
}

/// A manifest with the signature of the realm's root (Ed25519; FROST makes the
/// same signatures, RFC 9591).
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct SignedManifest {
    /// The manifest.
    #[n(0)]
    pub manifest: Manifest,
    /// The signature.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub signature: [u8; 64],
}

impl SignedManifest {
    /// Canonical CBOR.
    pub fn to_bytes(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("encoding into memory cannot fail")
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote; nothing may follow.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadSession> {
        decode_all(bytes)
    }

    /// Whether the realm's root signed it.
    #[must_use]
    pub fn is_signed_by(&self, root: &PublicKey) -> bool {
        root.signed(&self.manifest.to_be_signed(), &self.signature)
    }

    /// Whether it is the one that follows `previous` (`None`: the first of all)
    /// in the sequence of `realm`, whose root is `root`.
    ///
    /// # Errors
    /// The first rule it breaks; an older manifest is never taken back.
    pub fn check(&self, realm: &Realm, root: &PublicKey, previous: Option<&Manifest>) -> Result<(), BadManifest> {
        let manifest = &self.manifest;
        if manifest.version != 0 {
            return Err(BadManifest::Version(manifest.version));
        }
        if manifest.realm != *realm {
            return Err(BadManifest::Realm(manifest.realm.clone()));
        }
        if !self.is_signed_by(root) {
            return Err(BadManifest::Signature(realm.clone()));
        }
        let expected = previous.map_or(1, |previous| previous.seq.saturating_add(1));
        if manifest.seq != expected {
            return Err(BadManifest::Sequence { found: manifest.seq, expected });
        }
        if manifest.previous != previous.map(Manifest::sha256) {
            return Err(BadManifest::Previous);
        }
        KeySet::new([manifest]).map(drop)
    }

    /// What of it stands in the log.
    pub fn leaf(&self) -> ManifestLeaf {
        ManifestLeaf {
            version: 0,
            realm: self.manifest.realm.clone(),
            seq: self.manifest.seq,
            previous: self.manifest.previous,
            sha256: self.manifest.sha256(),
            signature: self.signature,
        }
    }
}

/// The public leaf of a manifest: that there is one, and which. The manifest
/// itself names tenants and goes to those who need it.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
#[allow(missing_docs)] // as in `Manifest`
pub struct ManifestLeaf {
    #[n(0)]
    pub version: u8,
    #[n(1)]
    pub realm: Realm,
    #[n(2)]
    pub seq: u64,
    #[cbor(n(3), with = "minicbor::bytes")]
    pub previous: Option<Hash>,
    #[cbor(n(4), with = "minicbor::bytes")]
    pub sha256: Hash,
    #[cbor(n(5), with = "minicbor::bytes")]
    pub signature: [u8; 64],
}

impl ManifestLeaf {
    /// The bytes of the public entry.
    pub fn to_bytes(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("encoding into memory cannot fail")
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote; nothing may follow.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadSession> {
        decode_all(bytes)
    }
}

/// The keys of every realm, found by scope first and by id only within it.
///
/// INVARIANT 2 — a key has one scope: none is listed twice.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    keys: HashMap<Scope, Vec<(Kid, KeyRow)>>,
    /// Where each key belongs; to say what went wrong, never to accept by.
    owners: HashMap<Kid, Scope>,
    /// Keys of earlier manifests that no manifest in force lists. They open
    /// nothing; who still signs with them is noticed.
    retired: HashMap<Kid, (Scope, KeyRow)>,
}

impl KeySet {
    /// The keys of manifests that were checked, one of each realm.
    ///
    /// # Errors
    /// A key that is listed twice, in one scope or two, in one realm or two, and
    /// a key whose time ends before it begins.
    pub fn new<'a>(manifests: impl IntoIterator<Item = &'a Manifest>) -> Result<Self, BadManifest> {
        let mut set = Self::default();
        for manifest in manifests {
            set.add(manifest)?;
        }
        Ok(set)
    }

    /// Adds the manifest of one more realm, whole or not at all: what a realm's
    /// root signs cannot take a key away from another realm.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn add(&mut self, manifest: &Manifest) -> Result<(), BadManifest> {
        let mut owners = self.owners.clone();
        for (scope, row) in rows(manifest) {
            let kid = row.public.kid();
            if row.until_s <= row.from_s {
                return Err(BadManifest::Row(kid, "ends before it begins"));
            }
            if let Some(first) = owners.insert(kid, scope.clone()) {
                return Err(BadManifest::TwoScopes { kid, first: Box::new(first), second: Box::new(scope) });
            }
        }
        for (scope, row) in rows(manifest) {
            let kid = row.public.kid();
            self.retired.remove(&kid);
            self.keys.entry(scope).or_default().push((kid, row.clone()));
        }
        self.owners = owners;
        Ok(())
    }

    /// Remembers the keys of an earlier manifest that are listed no more, so
    /// that a token they sign raises [`RetiredKey`](super::Refusal::RetiredKey).
    pub fn remember(&mut self, earlier: &Manifest) {
        for (scope, row) in rows(earlier) {
            let kid = row.public.kid();
            if !self.owners.contains_key(&kid) {
                self.retired.insert(kid, (scope, row.clone()));
            }
        }
    }

    /// The key of this scope with this id.
    pub fn find(&self, scope: &Scope, kid: Kid) -> Option<&KeyRow> {
        self.keys.get(scope)?.iter().find(|(known, _)| *known == kid).map(|(_, row)| row)
    }

    /// All keys of a scope.
    pub fn of(&self, scope: &Scope) -> impl Iterator<Item = &KeyRow> {
        self.keys.get(scope).into_iter().flatten().map(|(_, row)| row)
    }

    /// Whose key an id is, to say what went wrong; never to accept by.
    pub(super) fn anywhere(&self, kid: Kid) -> Option<(&Scope, &KeyRow)> {
        let owner = self.owners.get(&kid)?;
        Some((owner, self.find(owner, kid)?))
    }

    /// A key that was in force once.
    pub(super) fn retired(&self, kid: Kid) -> Option<(&Scope, &KeyRow)> {
        self.retired.get(&kid).map(|(scope, row)| (scope, row))
    }

    /// Everything in force, for showing.
    pub fn iter(&self) -> impl Iterator<Item = (&Scope, &KeyRow)> {
        self.keys.iter().flat_map(|(scope, rows)| rows.iter().map(move |(_, row)| (scope, row)))
    }
}

fn rows(manifest: &Manifest) -> impl Iterator<Item = (Scope, &KeyRow)> {
    manifest
        .keys
        .iter()
        .map(|row| (Scope { realm: manifest.realm.clone(), tenant: row.tenant.clone(), purpose: row.purpose }, row))
}
