//! INVARIANT 6 — from a text to a session, one type per step:
//! [`SessionToken`] → [`Signed`] → [`Verified`].
//!
//! No function says "the signature is good": a [`Signed`] cannot be asked who
//! somebody is, only be confronted with the log.

use super::claims::{Claims, LIFETIME_S_MAX};
use super::issuance::Issuance;
use super::manifest::{KeyRow, KeySet};
use super::paseto::{self, Kid};
use super::refusal::Refusal;
use super::revocation::Revocations;
use super::scope::{Purpose, Scope};
use super::token::{Receipt, SessionToken};
use crate::leaf::{Hash, sha256};
use crate::names::SiteId;
use crate::proof::verify_inclusion;
use crate::record::Seq;
use crate::tile::leaf_hash;

/// A token that a key of its own scope signed, within that key's time and its
/// own. Whoever stole the key makes these; it is evidence of nothing but that.
///
/// ```compile_fail,E0451
/// use ringfence_format::session::{KeyRow, SessionToken, Signed};
/// fn forge(token: SessionToken, key: KeyRow) -> Signed { Signed { token, key } }
/// ```
///
/// ```compile_fail,E0599
/// use ringfence_format::session::Signed;
/// fn who(signed: &Signed) -> &str { signed.claims().principal.as_str() }
/// ```
#[must_use]
#[derive(Debug)]
pub struct Signed {
    token: SessionToken,
    key: KeyRow,
}

/// What the log says at the position that a token names.
#[derive(Clone, Copy, Debug)]
pub enum Issued<'a> {
    /// The entry, looked up in a log that this process holds itself.
    Entry(&'a [u8]),
    /// The root of a tree of this size, from a checkpoint that was verified,
    /// witnesses included; the receipt's path leads there.
    Root(u64, &'a Hash),
}

/// A session: signed in its scope, issued, for this gateway, not revoked.
///
/// ```compile_fail,E0451
/// use ringfence_format::session::{Claims, Kid, Verified};
/// fn forge(claims: Claims, kid: Kid) -> Verified { Verified { claims, kid, index: 0, policy: None } }
/// ```
///
/// ```compile_fail,E0599
/// use ringfence_format::session::Verified;
/// fn twice(session: Verified) -> (Verified, Verified) { (session.clone(), session) }
/// ```
#[must_use]
#[derive(Debug)]
pub struct Verified {
    claims: Claims,
    kid: Kid,
    index: Seq,
    policy: Option<String>,
}

impl SessionToken {
    /// First step: a key of the scope it claims signed it, for this purpose,
    /// this gateway and this time. Keys are looked for by realm, tenant and
    /// purpose, then by id among those: never by id alone.
    ///
    /// # Errors
    /// The first rule it breaks. What shows a key in other hands is told only
    /// where the signature holds ([`Refusal::is_critical`]).
    pub fn check_signature(
        self,
        keys: &KeySet,
        purpose: Purpose,
        gateway: &SiteId,
        now_s: u64,
    ) -> Result<Signed, Refusal> {
        let claims = &self.claimed;
        if claims.purpose != purpose || purpose == Purpose::Admission {
            return Err(Refusal::Purpose { found: claims.purpose.as_str(), expected: purpose.as_str() });
        }
        let scope = claims.scope();
        let Some(key) = keys.find(&scope, self.kid) else { return Err(self.no_key(keys, scope, now_s)) };
        if self.version != key.public.version() {
            return Err(Refusal::Version(self.kid));
        }
        if !self.is_signed_by(key, &scope) {
            return Err(Refusal::Signature(Box::new(scope)));
        }
        self.check_key_time(key, now_s)?;
        if !claims.sites.within(&key.sites) {
            return Err(Refusal::KeySites(self.kid));
        }
        check_time(claims, now_s)?;
        if !claims.sites.has(gateway) {
            return Err(Refusal::Site(gateway.clone()));
        }
        if self.policy_sha256() != claims.session_policy {
            return Err(Refusal::Policy);
        }
        let key = key.clone();
        Ok(Signed { token: self, key })
    }

    /// A key signs within its time, and what it signed counts within it. A
    /// token that expired as it should is stale and no more: that its key ended
    /// too, while its holder slept, shows nothing.
    fn check_key_time(&self, key: &KeyRow, now_s: u64) -> Result<(), Refusal> {
        let Claims { issued_s, until_s, .. } = self.claimed;
        let signed_outside = !(key.from_s..key.until_s).contains(&issued_s);
        let counts_outside = now_s >= key.until_s && now_s < until_s;
        if signed_outside || counts_outside { Err(retired(self.kid, key)) } else { Ok(()) }
    }

    fn is_signed_by(&self, key: &KeyRow, scope: &Scope) -> bool {
        if !paseto::is_canonical(self.version, &self.signature) {
            return false;
        }
        let implicit = scope.assertion(&self.claimed.sites);
        let message = paseto::to_be_signed(&key.public, &self.payload, self.kid.to_string().as_bytes(), &implicit);
        key.public.signed(&message, &self.signature)
    }

    /// Whether an unknown key is one of ours, used elsewhere or too late.
    fn no_key(&self, keys: &KeySet, claimed: Scope, now_s: u64) -> Refusal {
        let kid = self.kid;
        let signed =
            |(owner, key): &(&Scope, &KeyRow)| self.is_signed_by(key, &claimed) || self.is_signed_by(key, owner);
        if let Some((owner, _)) = keys.anywhere(kid).filter(signed) {
            return Refusal::KeyOutsideScope { kid, owner: Box::new(owner.clone()), claimed: Box::new(claimed) };
        }
        match keys.retired(kid).filter(signed) {
            // As in `check_key_time`: an old token is only stale.
            Some((_, key)) if now_s < self.claimed.until_s => retired(kid, key),
            _ => Refusal::UnknownKey { kid, scope: Box::new(claimed) },
        }
    }

    fn policy_sha256(&self) -> Hash {
        self.policy.as_ref().map_or([0; 32], |policy| sha256(policy.as_bytes()))
    }
}

fn retired(kid: Kid, key: &KeyRow) -> Refusal {
    Refusal::RetiredKey { kid, from_s: key.from_s, until_s: key.until_s }
}

fn check_time(claims: &Claims, now_s: u64) -> Result<(), Refusal> {
    let Claims { issued_s, from_s, until_s, .. } = *claims;
    if until_s <= from_s || from_s < issued_s || until_s - issued_s > LIFETIME_S_MAX {
        return Err(Refusal::Lifetime);
    }
    if now_s < from_s {
        return Err(Refusal::NotYet(from_s));
    }
    if now_s >= until_s { Err(Refusal::Expired(until_s)) } else { Ok(()) }
}

impl Signed {
    /// The receipt stapled to it: where to look in the log.
    pub fn receipt(&self) -> Option<&Receipt> {
        self.token.receipt()
    }

    /// The token, for a record or an alarm.
    pub fn token(&self) -> &SessionToken {
        &self.token
    }

    /// Second step: its leaf is in the log, admitted, and nothing revoked it.
    ///
    /// # Errors
    /// [`Refusal::NotIssued`] is critical: a key of ours signed what the log
    /// does not have.
    pub fn check_issued(
        self,
        issued: Issued<'_>,
        keys: &KeySet,
        revocations: &Revocations,
    ) -> Result<Verified, Refusal> {
        let not = |why: &str| Refusal::NotIssued(why.to_owned());
        let receipt = self.token.receipt().ok_or_else(|| not("no receipt is stapled to it"))?;
        let index = receipt.index;
        let entry = match issued {
            Issued::Entry(entry) => entry,
            Issued::Root(size, root) => {
                let leaf = leaf_hash(&receipt.entry);
                if !verify_inclusion(&leaf, index, size, root, &receipt.hashes()) {
                    return Err(not("its receipt does not lead to the root of the log"));
                }
                &receipt.entry
            }
        };
        let issuance = Issuance::from_entry(entry).map_err(|_| not("the log has something else at its index"))?;
        self.is_of(&issuance)?;
        self.is_admitted(&issuance, keys)?;
        let claims = self.token.claimed;
        if let Some(by) = revocations.of(&claims, self.token.kid, index) {
            return Err(Refusal::Revoked { by });
        }
        Ok(Verified { claims, kid: self.token.kid, index, policy: self.token.policy })
    }

    /// Whether the leaf is the one of this token, in every field.
    fn is_of(&self, issuance: &Issuance) -> Result<(), Refusal> {
        let claims = &self.token.claimed;
        let draft = &issuance.draft;
        let same = draft.version == 0
            && draft.token_sha256 == self.token.sha256()
            && draft.realm == claims.realm
            && draft.kid == self.token.kid
            && draft.purpose == claims.purpose
            && (draft.from_s, draft.until_s) == (claims.from_s, claims.until_s)
            && draft.parent == claims.parent.as_ref().map(|parent| parent.index);
        if same { Ok(()) } else { Err(Refusal::NotIssued("the leaf at its index is of another token".into())) }
    }

    /// Whether the admission key of the same realm and tenant let it in.
    fn is_admitted(&self, issuance: &Issuance, keys: &KeySet) -> Result<(), Refusal> {
        let scope = Scope { purpose: Purpose::Admission, ..self.token.claimed.scope() };
        let issued_s = self.token.claimed.issued_s;
        let key = keys.find(&scope, issuance.admitted_by);
        let key = key.filter(|key| (key.from_s..key.until_s).contains(&issued_s));
        let message = issuance.draft.to_be_signed();
        match key.is_some_and(|key| key.public.signed(&message, &issuance.admission)) {
            true => Ok(()),
            false => Err(Refusal::NotIssued("its leaf was not admitted".into())),
        }
    }

    /// The key that signed it.
    pub fn key(&self) -> &KeyRow {
        &self.key
    }
}

impl Verified {
    /// Who, and what else the token says.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }
    /// The key that signed it.
    pub fn kid(&self) -> Kid {
        self.kid
    }
    /// Where its issuance stands in the log.
    pub fn index(&self) -> Seq {
        self.index
    }
    /// The session policy that narrows it.
    pub fn policy(&self) -> Option<&str> {
        self.policy.as_deref()
    }
}
