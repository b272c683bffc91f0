//! Revocations: leaves that end sessions before their time.

use super::claims::Claims;
use super::issuance::decode_all;
use super::paseto::{Kid, pre_authentication_encoding};
use super::refusal::BadSession;
use crate::leaf::{Hash, sha256};
use crate::names::{Principal, Realm, SiteId, Tenant};
use crate::record::Seq;

/// First byte of a revocation entry.
pub const REVOCATION: u8 = 4;

/// What is revoked.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub enum Target {
    /// One session by its id and its leaf, and those narrowed from it.
    #[n(0)]
    Session(#[cbor(n(0), with = "minicbor::bytes")] [u8; 16], #[n(1)] Seq),
    /// Somebody: a salt, and SHA-256 over it with realm, tenant and principal,
    /// so that the public leaf tells nobody who it is.
    #[n(1)]
    Subject(#[cbor(n(0), with = "minicbor::bytes")] [u8; 16], #[cbor(n(1), with = "minicbor::bytes")] Hash),
    /// A role: the same with its name.
    #[n(2)]
    Role(#[cbor(n(0), with = "minicbor::bytes")] [u8; 16], #[cbor(n(1), with = "minicbor::bytes")] Hash),
    /// Everything that a key signed.
    #[n(3)]
    Key(#[n(0)] Kid),
    /// Sessions at a gateway.
    #[n(4)]
    Site(#[n(0)] SiteId),
    /// Takes back the revocation at this index: of a subject, role or site;
    /// keys and sessions stay dead.
    #[n(5)]
    Lift(#[n(0)] Seq),
}

impl Target {
    /// A subject under a fresh salt.
    pub fn subject(salt: [u8; 16], realm: &Realm, tenant: &Tenant, principal: &Principal) -> Self {
        Self::Subject(salt, named(&salt, "subject", realm, tenant, principal))
    }

    /// A role under a fresh salt.
    pub fn role(salt: [u8; 16], realm: &Realm, tenant: &Tenant, role: &Principal) -> Self {
        Self::Role(salt, named(&salt, "role", realm, tenant, role))
    }
}

fn named(salt: &[u8; 16], what: &str, realm: &Realm, tenant: &Tenant, name: &Principal) -> Hash {
    let [realm, tenant, name] = [realm.as_str(), tenant.as_str(), name.as_str()].map(str::as_bytes);
    sha256(&pre_authentication_encoding(&[salt, what.as_bytes(), realm, tenant, name]))
}

/// A revocation: sessions it hits whose leaf stands at `from_index` or later
/// are refused, those of the future too; earlier ones live on.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct Revocation {
    /// Of this structure: 0.
    #[n(0)]
    pub version: u8,
    /// Under which trust root.
    #[n(1)]
    pub realm: Realm,
    /// What.
    #[n(2)]
    pub target: Target,
    /// From which leaf on; 0 for all.
    #[n(3)]
    pub from_index: Seq,
    /// When, in Unix seconds.
    #[n(4)]
    pub at_s: u64,
}

impl Revocation {
    /// The bytes of the public entry.
    pub fn to_bytes(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("encoding into memory cannot fail")
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote; nothing may follow.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadSession> {
        decode_all(bytes)
    }

    /// Whether it hits a session issued at `index` under `kid`, or the one that
    /// session was narrowed from.
    pub fn hits(&self, claims: &Claims, kid: Kid, index: Seq) -> bool {
        let parent = claims.parent.as_ref();
        let itself = index >= self.from_index && self.names(claims, kid, index, &claims.role);
        let its_parent = parent.is_some_and(|parent| {
            parent.index >= self.from_index && self.names(claims, parent.kid, parent.index, &parent.role)
        });
        self.realm == claims.realm && (itself || its_parent)
    }

    fn names(&self, claims: &Claims, kid: Kid, index: Seq, role: &Principal) -> bool {
        let Claims { realm, tenant, principal, .. } = claims;
        match &self.target {
            Target::Session(session, leaf) => *session == claims.session || *leaf == index,
            Target::Subject(salt, hash) => *hash == named(salt, "subject", realm, tenant, principal),
            Target::Role(salt, hash) => *hash == named(salt, "role", realm, tenant, role),
            Target::Key(revoked) => *revoked == kid,
            Target::Site(site) => claims.sites.has(site),
            Target::Lift(_) => false,
        }
    }
}

/// The revocations in force, each with the record that made it.
#[derive(Clone, Debug, Default)]
pub struct Revocations {
    all: Vec<(Seq, Revocation)>,
}

impl Revocations {
    /// Adds one; a lift takes an earlier one of its realm away.
    pub fn add(&mut self, by: Seq, revocation: Revocation) {
        match revocation.target {
            Target::Lift(index) => self.all.retain(|(at, old)| {
                let stays = matches!(old.target, Target::Key(_) | Target::Session(..));
                *at != index || stays || old.realm != revocation.realm
            }),
            _ => self.all.push((by, revocation)),
        }
    }

    /// Every one in force.
    pub fn iter(&self) -> impl Iterator<Item = &(Seq, Revocation)> {
        self.all.iter()
    }

    /// The record that revoked this session, if one did.
    pub fn of(&self, claims: &Claims, kid: Kid, index: Seq) -> Option<Seq> {
        self.all.iter().find(|(_, revocation)| revocation.hits(claims, kid, index)).map(|(by, _)| *by)
    }
}
