//! A realm's root as its keyring knows it: which public key is pinned, and
//! what was in force last. The root itself is offline, but for the development
//! root, which lies beside the keys it vouches for and so adds nothing: every
//! start says so.

use ringfence_access::authority::revocation_chain;
use ringfence_access::manifests::{Roots, Seen};
use ringfence_format::names::Realm;
use ringfence_format::record::Seq;
use ringfence_format::session::{Manifest, PublicKey, Revocation, SignedManifest};
use ringfence_format::wrap::Place;

use crate::error::VaultError;
use crate::issuer::{pair, public_of, roots_of};
use crate::keyring::Root;
use crate::secret::random_key;
use crate::vault::Vault;

impl Vault {
    /// Makes the development root of a realm that has no root. Says whether
    /// there was none.
    ///
    /// # Errors
    /// The keyring cannot be written.
    pub fn prepare_root(&self, realm: &Realm) -> Result<bool, VaultError> {
        let mut rings = self.rings_mut();
        let ring = rings.realm_mut(realm)?;
        if ring.trust().is_some_and(|trust| !trust.roots.is_empty()) {
            return Ok(false);
        }
        let seed = random_key()?;
        let public = public_of(&seed);
        let wrapped = with_place(realm, &public, |place| ring.wrap(place, &seed))?;
        ring.change_trust(|trust| {
            trust.roots = vec![Root { public, since_seq: 1 }];
            trust.development = Some(wrapped);
        })?;
        let roots = roots_of(ring);
        self.authority.pin(realm, roots);
        Ok(true)
    }

    /// Whether the root of a realm lies beside the keys it vouches for.
    pub fn root_is_development(&self, realm: &Realm) -> bool {
        let rings = self.rings();
        rings.realm(realm).is_ok_and(|ring| ring.trust().is_some_and(|trust| trust.development.is_some()))
    }

    /// Signs a manifest with the development root.
    ///
    /// # Errors
    /// [`VaultError::OfflineRoot`] where the root is not here.
    pub fn sign_manifest(&self, manifest: Manifest) -> Result<SignedManifest, VaultError> {
        let rings = self.rings();
        let ring = rings.realm(&manifest.realm)?;
        let offline = || VaultError::OfflineRoot(manifest.realm.clone());
        let trust = ring.trust().ok_or_else(offline)?;
        let (root, wrapped) = trust.roots.last().zip(trust.development.as_ref()).ok_or_else(offline)?;
        let seed = with_place(&manifest.realm, &root.public, |place| ring.open_wrapped(place, wrapped))?;
        let signature = pair(&seed).sign(&manifest.to_be_signed());
        let signature = signature.as_ref().try_into().expect("an Ed25519 signature has 64 bytes");
        Ok(SignedManifest { manifest, signature })
    }

    /// Signs, with the development root, that another root takes over.
    ///
    /// # Errors
    /// [`VaultError::OfflineRoot`] where the root is not here.
    pub fn sign_root_change(&self, realm: &Realm, message: &[u8]) -> Result<[u8; 64], VaultError> {
        let rings = self.rings();
        let ring = rings.realm(realm)?;
        let offline = || VaultError::OfflineRoot(realm.clone());
        let trust = ring.trust().ok_or_else(offline)?;
        let (root, wrapped) = trust.roots.last().zip(trust.development.as_ref()).ok_or_else(offline)?;
        let seed = with_place(realm, &root.public, |place| ring.open_wrapped(place, wrapped))?;
        Ok(pair(&seed).sign(message).as_ref().try_into().expect("an Ed25519 signature has 64 bytes"))
    }

    /// Pins the root that takes over from the one in force, from the next
    /// manifest on, and destroys the development root.
    ///
    /// # Errors
    /// The keyring cannot be written.
    pub fn pin_root(&self, realm: &Realm, public: PublicKey, since_seq: u64) -> Result<Roots, VaultError> {
        let mut rings = self.rings_mut();
        let ring = rings.realm_mut(realm)?;
        ring.change_trust(|trust| {
            trust.roots.push(Root { public, since_seq });
            trust.development = None;
        })?;
        let roots = roots_of(ring);
        self.authority.pin(realm, roots.clone());
        Ok(roots)
    }

    /// What the keyring saw in force last.
    pub fn seen(&self, realm: &Realm) -> Seen {
        let rings = self.rings();
        let trust = rings.realm(realm).ok().and_then(|ring| ring.trust().cloned()).unwrap_or_default();
        Seen {
            manifest_seq: trust.manifest_seq,
            manifest_sha256: trust.manifest_sha256,
            revocations: trust.revocations,
            revocations_sha256: trust.revocations_sha256,
        }
    }

    /// Notes the manifest in force, so that an older one is known for what it is.
    ///
    /// # Errors
    /// The keyring cannot be written.
    pub fn note_manifest(&self, manifest: &Manifest) -> Result<(), VaultError> {
        let mut rings = self.rings_mut();
        let ring = rings.realm_mut(&manifest.realm)?;
        if ring.trust().is_some_and(|trust| trust.manifest_seq >= manifest.seq) {
            return Ok(());
        }
        ring.change_trust(|trust| {
            trust.manifest_seq = manifest.seq;
            trust.manifest_sha256 = manifest.sha256();
        })
    }

    /// Notes the revocations of a realm, all of them in their order, so that
    /// one that is missing is missed. Refuses any that do not begin with those
    /// that were noted before.
    ///
    /// # Errors
    /// [`VaultError::RevocationsLost`], or the keyring cannot be written.
    pub fn note_revocations(&self, realm: &Realm, all: &[(Seq, Revocation)]) -> Result<(), VaultError> {
        let mut rings = self.rings_mut();
        let ring = rings.realm_mut(realm)?;
        let trust = ring.trust().cloned().unwrap_or_default();
        let (mut chain, mut count) = ([0; 32], 0);
        let mut known = trust.revocations == 0;
        for (by, revocation) in all {
            chain = revocation_chain(&chain, *by, revocation);
            count += 1;
            known |= count == trust.revocations && chain == trust.revocations_sha256;
        }
        if !known {
            return Err(VaultError::RevocationsLost(realm.clone()));
        }
        if count == trust.revocations {
            return Ok(());
        }
        ring.change_trust(|trust| {
            trust.revocations = count;
            trust.revocations_sha256 = chain;
        })
    }
}

fn with_place<T>(realm: &Realm, public: &PublicKey, f: impl FnOnce(Place<'_>) -> T) -> T {
    f(Place { label: "development root", context: &[realm.as_str().as_bytes(), public.as_bytes()] })
}
