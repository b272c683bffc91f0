//! The chain of a realm's key manifests: which one may follow which.
//!
//! INVARIANT 2 — a key acts in the scope that its realm's root gave it, and in
//! no other: [`check`] is the only way to a [`CheckedManifest`], and only such
//! a one comes into force ([`Authority`](crate::Authority)).

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use ringfence_format::leaf::Hash;
use ringfence_format::names::{Realm, Tenant};
use ringfence_format::session::{KeyRow, Kid, Manifest, PublicKey, SignedManifest};

/// The longest life of a key, in seconds: 14 days, what NIST IR 8587 (draft)
/// allows for keys that sign for several tenants.
pub const KEY_LIFE_S_MAX: u64 = 14 * 24 * 3600;
/// A manifest travels within one record, with its redo.
pub const MANIFEST_BYTES_MAX: usize = 3 * 1024 * 1024;

/// A root that is trusted, and from which manifest on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinnedRoot {
    /// It signs with Ed25519 (FROST makes the same signatures).
    pub public: PublicKey,
    /// Manifests from this sequence number on are under it.
    pub since_seq: u64,
}

/// The roots of one realm, the one in force last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roots(Vec<PinnedRoot>);

impl Roots {
    /// Roots in the order in which each took over from the one before.
    pub fn new(roots: Vec<PinnedRoot>) -> Self {
        Self(roots)
    }

    /// Under which root a manifest of this number must be.
    pub fn of_seq(&self, seq: u64) -> Option<&PublicKey> {
        self.0.iter().rev().find(|root| root.since_seq <= seq).map(|root| &root.public)
    }

    /// The root that signs what comes next.
    pub fn in_force(&self) -> Option<&PinnedRoot> {
        self.0.last()
    }

    /// Every one, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &PinnedRoot> {
        self.0.iter()
    }
}

/// The newest manifest that a keyring knows to have been in force, and how many
/// revocations there were: what lies elsewhere may be newer, never older.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Sequence number of that manifest; 0 where there was none.
    pub manifest_seq: u64,
    /// SHA-256 of it.
    pub manifest_sha256: Hash,
    /// So many revocations were on record.
    pub revocations: u64,
    /// The chain over them ([`revocation_chain`](crate::authority::revocation_chain)).
    pub revocations_sha256: Hash,
}

/// Why a manifest does not come into force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // each says what it is
pub enum BadManifest {
    #[error(
        "manifest #{seq} of realm `{realm}` is not newer than #{in_force}, which is in force: it is refused, and whoever brings it is suspect"
    )]
    Rollback { realm: Realm, seq: u64, in_force: u64 },
    #[error("manifest #{seq} does not follow #{in_force}: bring those between first")]
    Gap { seq: u64, in_force: u64 },
    #[error("manifest #{0} names another predecessor than the one in force: there are two histories")]
    Fork(u64),
    #[error("manifest #{0} has a version this release does not know: use a newer release")]
    Version(u64),
    #[error("the manifest is of realm `{found}`, not of `{expected}`")]
    OtherRealm { found: Realm, expected: Realm },
    #[error("realm `{0}` has no root here")]
    NoRoot(Realm),
    #[error("manifest #{0} is not signed by the root of its realm")]
    Signature(u64),
    #[error("key `{0}` would live longer than 14 days, or ends before it begins")]
    KeyLife(Kid),
    #[error("key `{0}` stands in it twice, or is a key of another realm")]
    KeyTwice(Kid),
    #[error("key `{0}` was given another scope or a longer life than it had")]
    KeyChanged(Kid),
    #[error("key `{0}` is the realm's root: a root signs nothing but manifests")]
    KeyIsRoot(Kid),
    #[error("tenant `{0}` belongs to another realm")]
    ForeignTenant(Tenant),
    #[error("the manifest has more keys than one record holds: ask for fewer days")]
    TooLarge,
}

impl BadManifest {
    /// Whether somebody tried to bring back what was in force before, or to
    /// split the history: an alarm.
    pub fn is_rollback(&self) -> bool {
        matches!(self, Self::Rollback { .. } | Self::Fork(_))
    }
}

/// A manifest that the realm's root signed and that follows the one in force.
///
/// ```compile_fail,E0451
/// use ringfence_access::manifests::CheckedManifest;
/// use ringfence_format::session::SignedManifest;
/// fn forge(signed: SignedManifest) -> CheckedManifest { CheckedManifest { signed } }
/// ```
#[must_use]
#[derive(Clone, Debug)]
pub struct CheckedManifest {
    signed: SignedManifest,
}

impl CheckedManifest {
    /// The manifest with its signature.
    pub fn signed(&self) -> &SignedManifest {
        &self.signed
    }
}

/// Whether a manifest may follow `last`. `others` are those in force in other
/// realms: no key and no tenant is in two.
///
/// # Errors
/// The first rule it breaks.
pub fn check<'a>(
    realm: &Realm,
    signed: SignedManifest,
    roots: &Roots,
    last: Option<&Manifest>,
    others: impl IntoIterator<Item = &'a Manifest>,
) -> Result<CheckedManifest, BadManifest> {
    let manifest = &signed.manifest;
    follows(realm, manifest, last)?;
    check_alone(realm, &signed, roots)?;
    if let Some(last) = last {
        keeps_keys(manifest, last)?;
    }
    for other in others {
        apart(manifest, other)?;
    }
    Ok(CheckedManifest { signed })
}

/// Whether a manifest found at a start is one that was in force: as
/// [`check`], with what the keyring has seen in the place of the predecessor.
///
/// # Errors
/// The first rule it breaks.
pub fn check_found<'a>(
    realm: &Realm,
    signed: SignedManifest,
    roots: &Roots,
    seen: &Seen,
    others: impl IntoIterator<Item = &'a Manifest>,
) -> Result<CheckedManifest, BadManifest> {
    let manifest = &signed.manifest;
    let (seq, in_force) = (manifest.seq, seen.manifest_seq);
    if seq < in_force {
        return Err(BadManifest::Rollback { realm: realm.clone(), seq, in_force });
    }
    if seq == in_force && manifest.sha256() != seen.manifest_sha256 {
        return Err(BadManifest::Fork(seq));
    }
    check_alone(realm, &signed, roots)?;
    for other in others {
        apart(manifest, other)?;
    }
    Ok(CheckedManifest { signed })
}

/// Keys whose time is over stay listed for so long, in seconds: what is signed
/// with one then is known for a retired key, not taken for noise.
pub const RETIRED_KEPT_S: u64 = 90 * 24 * 3600;

/// What must follow a manifest: everything of it that counts or is to be
/// recognised, and new keys. A key that stands in both keeps its life; its sites are the new ones.
pub fn next(realm: &Realm, last: Option<&Manifest>, keys: Vec<KeyRow>, now_s: u64) -> Manifest {
    let mut all: HashMap<Kid, KeyRow> = HashMap::new();
    for row in last.iter().flat_map(|last| &last.keys).filter(|row| row.until_s.saturating_add(RETIRED_KEPT_S) > now_s)
    {
        all.insert(row.public.kid(), row.clone());
    }
    for row in keys {
        all.insert(row.public.kid(), row);
    }
    let mut keys: Vec<KeyRow> = all.into_values().collect();
    keys.sort_by(|a, b| (&a.tenant, a.purpose, a.from_s, a.public).cmp(&(&b.tenant, b.purpose, b.from_s, b.public)));
    let seq = last.map_or(1, |last| last.seq + 1);
    Manifest { version: 0, realm: realm.clone(), seq, previous: last.map(Manifest::sha256), made_s: now_s, keys }
}

fn follows(realm: &Realm, manifest: &Manifest, last: Option<&Manifest>) -> Result<(), BadManifest> {
    let (seq, in_force) = (manifest.seq, last.map_or(0, |last| last.seq));
    if manifest.realm != *realm {
        return Err(BadManifest::OtherRealm { found: manifest.realm.clone(), expected: realm.clone() });
    }
    match seq {
        _ if seq <= in_force => Err(BadManifest::Rollback { realm: realm.clone(), seq, in_force }),
        _ if seq > in_force + 1 => Err(BadManifest::Gap { seq, in_force }),
        _ if manifest.previous != last.map(Manifest::sha256) => Err(BadManifest::Fork(seq)),
        _ => Ok(()),
    }
}

/// What holds of a manifest whatever was before it.
fn check_alone(realm: &Realm, signed: &SignedManifest, roots: &Roots) -> Result<(), BadManifest> {
    let manifest = &signed.manifest;
    if manifest.version != 0 {
        return Err(BadManifest::Version(manifest.seq));
    }
    if manifest.realm != *realm {
        return Err(BadManifest::OtherRealm { found: manifest.realm.clone(), expected: realm.clone() });
    }
    let root = roots.of_seq(manifest.seq).ok_or_else(|| BadManifest::NoRoot(realm.clone()))?;
    if !matches!(root, PublicKey::Ed25519(_)) || !signed.is_signed_by(root) {
        return Err(BadManifest::Signature(manifest.seq));
    }
    if signed.to_bytes().len() > MANIFEST_BYTES_MAX {
        return Err(BadManifest::TooLarge);
    }
    let mut kids = HashSet::new();
    for row in &manifest.keys {
        let kid = row.public.kid();
        if row.until_s <= row.from_s || row.until_s - row.from_s > KEY_LIFE_S_MAX {
            return Err(BadManifest::KeyLife(kid));
        }
        if roots.iter().any(|root| root.public.kid() == kid) {
            return Err(BadManifest::KeyIsRoot(kid));
        }
        if !kids.insert(kid) {
            return Err(BadManifest::KeyTwice(kid));
        }
    }
    Ok(())
}

/// A key that was there before does not change its scope or live longer.
fn keeps_keys(manifest: &Manifest, last: &Manifest) -> Result<(), BadManifest> {
    let before: HashMap<Kid, &KeyRow> = last.keys.iter().map(|row| (row.public.kid(), row)).collect();
    for row in &manifest.keys {
        let Some(old) = before.get(&row.public.kid()) else { continue };
        let same = row.public == old.public && row.tenant == old.tenant && row.purpose == old.purpose;
        if !same || row.from_s != old.from_s || row.until_s > old.until_s {
            return Err(BadManifest::KeyChanged(row.public.kid()));
        }
    }
    Ok(())
}

/// Two realms share neither keys nor tenants.
fn apart(manifest: &Manifest, other: &Manifest) -> Result<(), BadManifest> {
    let kids: HashSet<Kid> = other.keys.iter().map(|row| row.public.kid()).collect();
    let tenants: HashSet<&Tenant> = other.keys.iter().map(|row| &row.tenant).collect();
    for row in &manifest.keys {
        if kids.contains(&row.public.kid()) {
            return Err(BadManifest::KeyTwice(row.public.kid()));
        }
        if tenants.contains(&row.tenant) {
            return Err(BadManifest::ForeignTenant(row.tenant.clone()));
        }
    }
    Ok(())
}
