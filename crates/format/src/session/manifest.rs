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
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    keys: HashMap<Scope, Vec<KeyRow>>,
}

impl KeySet {
    /// The keys of manifests that were checked.
    pub fn new<'a>(manifests: impl IntoIterator<Item = &'a Manifest>) -> Self {
        let mut keys: HashMap<Scope, Vec<KeyRow>> = HashMap::new();
        for manifest in manifests {
            for row in &manifest.keys {
                let scope = Scope { realm: manifest.realm.clone(), tenant: row.tenant.clone(), purpose: row.purpose };
                keys.entry(scope).or_default().push(row.clone());
            }
        }
        Self { keys }
    }

    /// The key of this scope with this id.
    pub fn find(&self, scope: &Scope, kid: Kid) -> Option<&KeyRow> {
        self.keys.get(scope)?.iter().find(|row| row.public.kid() == kid)
    }

    /// All keys of a scope.
    pub fn of(&self, scope: &Scope) -> &[KeyRow] {
        self.keys.get(scope).map_or(&[], Vec::as_slice)
    }

    /// Whose key an id is, to say what went wrong; never to accept by.
    pub(super) fn anywhere(&self, kid: Kid) -> impl Iterator<Item = (&Scope, &KeyRow)> {
        let rows = self.keys.iter().flat_map(|(scope, rows)| rows.iter().map(move |row| (scope, row)));
        rows.filter(move |(_, row)| row.public.kid() == kid)
    }

    /// Everything, for showing.
    pub fn iter(&self) -> impl Iterator<Item = (&Scope, &KeyRow)> {
        self.keys.iter().flat_map(|(scope, rows)| rows.iter().map(move |row| (scope, row)))
    }
}
