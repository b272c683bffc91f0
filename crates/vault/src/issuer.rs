//! INVARIANT 2 — no key acts outside its scope: the keys that sign sessions and
//! admit them into the log.
//!
//! A key signs on one day, and what it signed counts for another; then it is
//! destroyed. It signs only what is of its own realm, tenant, purpose and
//! sites, only within its day by the time the caller gives, and only while the
//! manifest in force lists it exactly so. Where no key may, issuing stops.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use ringfence_access::admission::Admits;
use ringfence_access::manifests::{PinnedRoot, Roots};
use ringfence_access::permit::Issue;
use ringfence_access::{Authority, Permit};
use ringfence_format::names::{Realm, Tenant};
use ringfence_format::session::{
    Claims, Issuance, IssuanceDraft, KeyRow, Kid, LIFETIME_S_MAX, PublicKey, Purpose as Act, Scope, SessionToken, Sites,
};

use crate::error::VaultError;
use crate::keyring::{Keyring, Purpose, Row, Signs};
use crate::secret::{Key32, random_key};
use crate::vault::Vault;

/// A key signs for so long, in seconds.
pub const SIGNS_S: u64 = 24 * 3600;
/// What it signed counts so long from the key's first second, in seconds: one
/// day of overlap with the next key.
pub const COUNTS_S: u64 = 2 * SIGNS_S;
/// Claims may have been made so long before they are signed, in seconds.
const ISSUED_AGO_S_MAX: u64 = 60;
/// What each tenant gets keys for.
pub const PLANNED: [Act; 3] = [Act::StsSession, Act::Api, Act::Admission];

/// A signing key as `keys list` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerKey {
    /// In what it acts.
    pub scope: Scope,
    /// Its public half.
    pub public: PublicKey,
    /// From when, in Unix seconds.
    pub from_s: u64,
    /// What it signed counts until then, in Unix seconds.
    pub until_s: u64,
}

impl Vault {
    /// The manifests in force and what is revoked. Its roots are those that the
    /// keyrings pin.
    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// Signs a session: a PASETO, and the key that signed it. It is worth
    /// nothing until its issuance is in the log.
    ///
    /// # Errors
    /// [`VaultError::KeyOverdue`] is an alarm; [`VaultError::OutsideScope`] is
    /// a flaw of the caller.
    ///
    /// ```compile_fail,E0308
    /// use ringfence_access::{Permit, permit::Read};
    /// use ringfence_format::session::Claims;
    /// fn forge(vault: &ringfence_vault::Vault, permit: Permit<Read>, claims: &Claims) {
    ///     let _ = vault.sign_session(&permit, claims, 0);
    /// }
    /// ```
    pub fn sign_session(
        &self,
        permit: &Permit<Issue>,
        claims: &Claims,
        now_s: u64,
    ) -> Result<(String, PublicKey), VaultError> {
        let wrong = |why| Err(VaultError::OutsideScope(why));
        match () {
            () if permit.realm() != &claims.realm => wrong("the permit is for another realm"),
            () if permit.tenant() != &claims.tenant => wrong("the permit is for another tenant"),
            () if permit.principal() != &claims.principal => wrong("the permit is for another principal"),
            () if permit.role() != Some(&claims.role) => wrong("the permit is for another role"),
            () => self.sign_claims(claims, now_s),
        }
    }

    pub(crate) fn sign_claims(&self, claims: &Claims, now_s: u64) -> Result<(String, PublicKey), VaultError> {
        let Claims { purpose, issued_s, from_s, until_s, .. } = *claims;
        let wrong = |why| Err(VaultError::OutsideScope(why));
        if purpose == Act::Admission {
            return wrong("admission keys sign no sessions");
        }
        if issued_s > now_s || now_s - issued_s > ISSUED_AGO_S_MAX {
            return wrong("it was not made now");
        }
        if from_s < issued_s || until_s <= from_s || until_s - issued_s > LIFETIME_S_MAX {
            return wrong("its lifetime is not one that sessions have");
        }
        let signer = self.signer(&claims.scope(), now_s, |row| row.from_s <= issued_s)?;
        if !claims.sites.within(&signer.sites) {
            return wrong("the key may not sign for these sites");
        }
        let message = SessionToken::to_be_signed(claims, &signer.public)?;
        let signature = signer.key.sign(&message);
        let paseto = SessionToken::paseto(claims, &signer.public, signature.as_ref())?;
        Ok((paseto, signer.public))
    }

    /// Signs the leaf of an issuance that was admitted, with the admission key
    /// of its realm and tenant.
    ///
    /// # Errors
    /// As [`sign_session`](Self::sign_session).
    pub fn admit(&self, admitted: &impl Admits, now_s: u64) -> Result<Issuance, VaultError> {
        self.sign_draft(admitted.draft().clone(), admitted.tenant(), now_s)
    }

    pub(crate) fn sign_draft(&self, draft: IssuanceDraft, tenant: &Tenant, now_s: u64) -> Result<Issuance, VaultError> {
        let wrong = |why| Err(VaultError::OutsideScope(why));
        if draft.tenant != self.tenant_pseudonym(&draft.realm, tenant)? {
            return wrong("the leaf is of another tenant");
        }
        let issuer = Scope { realm: draft.realm.clone(), tenant: tenant.clone(), purpose: draft.purpose };
        if draft.purpose == Act::Admission || self.authority.keys().find(&issuer, draft.kid).is_none() {
            return wrong("the leaf names a key that is none of its scope");
        }
        if self.authority.key_is_revoked(&draft.realm, draft.kid) {
            return wrong("the leaf names a key that was revoked");
        }
        let signer = self.signer(&Scope { purpose: Act::Admission, ..issuer }, now_s, |_| true)?;
        let signature = signer.key.sign(&draft.to_be_signed());
        let signature = signature.as_ref().try_into().expect("an Ed25519 signature has 64 bytes");
        Ok(draft.admitted(&signer.public, signature))
    }

    /// Makes the keys of some days ahead, one a day and scope, from today on,
    /// and returns all of these scopes that may sign now or later: what the
    /// next manifest must list. Days that have a key keep it. Keys whose time
    /// is over are destroyed.
    ///
    /// # Errors
    /// The keyring cannot be written.
    pub fn plan_keys(
        &self,
        realm: &Realm,
        scopes: &[(Tenant, Act)],
        sites: &Sites,
        now_s: u64,
        days: u64,
    ) -> Result<Vec<KeyRow>, VaultError> {
        let mut rings = self.rings_mut();
        let ring = rings.realm_mut(realm)?;
        let first = now_s / SIGNS_S;
        let there: HashSet<(Tenant, Act, u64)> = signing_rows(ring)
            .filter_map(|(row, signs)| Some((row.tenant.clone()?, signs.purpose, signs.from_s)))
            .collect();
        let mut made = Vec::new();
        for (tenant, purpose) in scopes {
            for from_s in (first..first + days).map(|day| day * SIGNS_S) {
                if !there.contains(&(tenant.clone(), *purpose, from_s)) {
                    made.push(new_signer(ring, tenant, *purpose, from_s)?);
                }
            }
        }
        let over = signing_rows(ring).any(|(_, signs)| signs.until_s <= now_s);
        if over || !made.is_empty() {
            ring.change(|rows| {
                rows.retain(|row| row.signs.as_ref().is_none_or(|signs| signs.until_s > now_s));
                rows.extend(made);
            })?;
        }
        let wanted: HashSet<_> = scopes.iter().map(|(tenant, purpose)| (tenant, *purpose)).collect();
        let still = |signs: &Signs| signs.from_s + SIGNS_S > now_s;
        let rows = signing_rows(ring).filter_map(|(row, signs)| {
            let tenant = row.tenant.as_ref().filter(|tenant| wanted.contains(&(*tenant, signs.purpose)))?;
            still(signs).then(|| key_row(tenant, signs, sites))
        });
        Ok(rows.collect())
    }

    /// Makes one more key of a scope, which signs from this second on: for a
    /// rotation before its time.
    ///
    /// # Errors
    /// The keyring cannot be written.
    pub fn plan_fresh_key(&self, scope: &Scope, sites: &Sites, now_s: u64) -> Result<KeyRow, VaultError> {
        let mut rings = self.rings_mut();
        let ring = rings.realm_mut(&scope.realm)?;
        let row = new_signer(ring, &scope.tenant, scope.purpose, now_s)?;
        let signs = row.signs.clone().expect("it was made to sign");
        ring.change(|rows| rows.push(row))?;
        Ok(key_row(&scope.tenant, &signs, sites))
    }

    /// Destroys the keys of a scope that began before the one of this id: they
    /// sign no more, whoever reads the keyring. Says how many.
    ///
    /// # Errors
    /// No such key, or the keyring cannot be written.
    pub fn destroy_older_keys(&self, scope: &Scope, than: Kid) -> Result<usize, VaultError> {
        let mut rings = self.rings_mut();
        let ring = rings.realm_mut(&scope.realm)?;
        let newest = signing_rows(ring).find(|(_, signs)| signs.public.kid() == than).map(|(_, signs)| signs.from_s);
        let newest = newest.ok_or(VaultError::OutsideScope("there is no such key"))?;
        let before = ring.all().len();
        ring.change(|rows| {
            rows.retain(|row| match &row.signs {
                Some(signs) if row.tenant.as_ref() == Some(&scope.tenant) && signs.purpose == scope.purpose => {
                    signs.from_s >= newest
                }
                _ => true,
            });
        })?;
        Ok(before - ring.all().len())
    }

    /// Every signing key in a realm's keyring, whether or not a manifest lists it.
    ///
    /// # Errors
    /// No such realm.
    pub fn issuer_keys(&self, realm: &Realm) -> Result<Vec<IssuerKey>, VaultError> {
        let rings = self.rings();
        let rows = signing_rows(rings.realm(realm)?).filter_map(|(row, signs)| {
            let scope = Scope { realm: realm.clone(), tenant: row.tenant.clone()?, purpose: signs.purpose };
            Some(IssuerKey { scope, public: signs.public, from_s: signs.from_s, until_s: signs.until_s })
        });
        Ok(rows.collect())
    }

    /// The key of a scope that signs at `now_s`: of those that the manifest in
    /// force lists, that are not revoked and whose day it is, the one that
    /// began last.
    fn signer(&self, scope: &Scope, now_s: u64, also: impl Fn(&KeyRow) -> bool) -> Result<Signer, VaultError> {
        let overdue = |why| VaultError::KeyOverdue { scope: Box::new(scope.clone()), why };
        let keys = self.authority.keys();
        let listed = keys.of(scope);
        if listed.is_empty() {
            return Err(overdue("no manifest lists one"));
        }
        let mut current: Vec<&KeyRow> = listed.iter().filter(|row| signs_at(row, now_s) && also(row)).collect();
        if current.is_empty() {
            return Err(overdue("each has had its day, or its day has not come"));
        }
        current.retain(|row| !self.authority.key_is_revoked(&scope.realm, row.public.kid()));
        if current.is_empty() {
            return Err(overdue("each was revoked"));
        }
        current.sort_by_key(|row| std::cmp::Reverse(row.from_s));
        let rings = self.rings();
        let ring = rings.realm(&scope.realm)?;
        for listed in current {
            let own = signing_rows(ring).find(|(row, signs)| {
                row.tenant.as_ref() == Some(&scope.tenant)
                    && row.purpose == kept_as(scope.purpose)
                    && (signs.purpose, signs.public) == (scope.purpose, listed.public)
                    && (signs.from_s, signs.until_s) == (listed.from_s, listed.until_s)
            });
            let Some((row, signs)) = own else { continue };
            let key = pair(&ring.unwrap(row)?);
            if key.public_key().as_ref() == signs.public.as_bytes() {
                return Ok(Signer { key, public: signs.public, sites: listed.sites.clone() });
            }
        }
        Err(overdue("the keyring has none of those that the manifest lists"))
    }
}

/// An unwrapped key of one scope.
struct Signer {
    key: Ed25519KeyPair,
    public: PublicKey,
    sites: Sites,
}

/// Whether it is a key's day.
pub fn signs_at(row: &KeyRow, now_s: u64) -> bool {
    (row.from_s..row.until_s.min(row.from_s.saturating_add(SIGNS_S))).contains(&now_s)
}

/// The roots that a keyring pins.
pub(crate) fn roots_of(ring: &Keyring) -> Roots {
    let roots = ring.trust().into_iter().flat_map(|trust| &trust.roots);
    Roots::new(roots.map(|root| PinnedRoot { public: root.public, since_seq: root.since_seq }).collect())
}

pub(crate) fn pair(seed: &Key32) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&**seed).expect("an Ed25519 seed is any 32 bytes")
}

pub(crate) fn public_of(seed: &Key32) -> PublicKey {
    PublicKey::Ed25519(pair(seed).public_key().as_ref().try_into().expect("an Ed25519 key has 32 bytes"))
}

/// An admission key is another kind of key, not another use of the same.
fn kept_as(purpose: Act) -> Purpose {
    if purpose == Act::Admission { Purpose::Admission } else { Purpose::SessionIssuer }
}

fn signing_rows(ring: &Keyring) -> impl Iterator<Item = (&Row, &Signs)> {
    ring.all().iter().filter_map(|row| Some((row, row.signs.as_ref()?)))
}

fn new_signer(ring: &Keyring, tenant: &Tenant, purpose: Act, from_s: u64) -> Result<Row, VaultError> {
    let seed = random_key()?;
    let signs = Signs { purpose, from_s, until_s: from_s + COUNTS_S, public: public_of(&seed) };
    ring.new_signing_row(kept_as(purpose), Some(tenant), 1, None, Some(signs), &seed)
}

fn key_row(tenant: &Tenant, signs: &Signs, sites: &Sites) -> KeyRow {
    KeyRow {
        public: signs.public,
        tenant: tenant.clone(),
        purpose: signs.purpose,
        sites: sites.clone(),
        from_s: signs.from_s,
        until_s: signs.until_s,
    }
}
