//! Key manifests: which keys act in which scope, said by a realm's root.

use std::collections::HashMap;

use super::issuance::decode_all;
use super::paseto::{Kid, PublicKey, pre_authentication_encoding};
use super::refusal::BadSession;
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
/// INVARIANT 2 — a key has one scope. One that is listed twice, in one scope or
/// in two, in one realm or in two, is left out: it opens nothing anywhere.
/// (Manifests that would do this do not come into force in the first place;
/// this is for those who build a set from what they were given.)
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    keys: HashMap<Scope, Keys>,
    /// Keys of earlier manifests that no manifest in force lists. They open
    /// nothing; who still signs with them is noticed.
    retired: HashMap<Kid, (Scope, KeyRow)>,
}

/// The keys of one scope, each with its id at the same place.
#[derive(Clone, Debug, Default)]
struct Keys {
    rows: Vec<KeyRow>,
    kids: Vec<Kid>,
}

impl KeySet {
    /// The keys of manifests that were checked, one of each realm.
    pub fn new<'a>(manifests: impl IntoIterator<Item = &'a Manifest>) -> Self {
        let all: Vec<_> = manifests.into_iter().flat_map(rows).collect();
        let mut times: HashMap<Kid, usize> = HashMap::new();
        for (kid, ..) in &all {
            *times.entry(*kid).or_default() += 1;
        }
        let mut set = Self::default();
        for (kid, scope, row) in all {
            if times[&kid] == 1 {
                let keys = set.keys.entry(scope).or_default();
                keys.rows.push(row.clone());
                keys.kids.push(kid);
            }
        }
        set
    }

    /// Remembers the keys of an earlier manifest that are listed no more, so
    /// that a token they sign raises [`RetiredKey`](super::Refusal::RetiredKey).
    pub fn remember(&mut self, earlier: &Manifest) {
        for (kid, scope, row) in rows(earlier) {
            self.retired.insert(kid, (scope, row.clone()));
        }
    }

    /// The key of this scope with this id.
    pub fn find(&self, scope: &Scope, kid: Kid) -> Option<&KeyRow> {
        let keys = self.keys.get(scope)?;
        let at = keys.kids.iter().position(|known| *known == kid)?;
        keys.rows.get(at)
    }

    /// All keys of a scope.
    pub fn of(&self, scope: &Scope) -> &[KeyRow] {
        self.keys.get(scope).map_or(&[], |keys| &keys.rows)
    }

    /// Whose key an id is, to say what went wrong; never to accept by.
    pub(super) fn anywhere(&self, kid: Kid) -> Option<(&Scope, &KeyRow)> {
        self.keys.keys().find_map(|scope| Some((scope, self.find(scope, kid)?)))
    }

    /// A key that was in force once; to say what went wrong, as above.
    pub(super) fn retired(&self, kid: Kid) -> Option<(&Scope, &KeyRow)> {
        self.retired.get(&kid).map(|(scope, row)| (scope, row))
    }

    /// Everything in force, for showing.
    pub fn iter(&self) -> impl Iterator<Item = (&Scope, &KeyRow)> {
        self.keys.iter().flat_map(|(scope, keys)| keys.rows.iter().map(move |row| (scope, row)))
    }
}

fn rows(manifest: &Manifest) -> impl Iterator<Item = (Kid, Scope, &KeyRow)> {
    manifest.keys.iter().map(|row| {
        let scope = Scope { realm: manifest.realm.clone(), tenant: row.tenant.clone(), purpose: row.purpose };
        (row.public.kid(), scope, row)
    })
}
