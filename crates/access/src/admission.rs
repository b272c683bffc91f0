//! Admission: what is about to be issued is looked at a second time, from the
//! evidence up, before its leaf may stand in the log.
//!
//! The vault signs a leaf with an admission key for an [`Admitted`] only, and a
//! gateway refuses a leaf without that signature. So a stolen issuer key alone
//! cannot even get a session logged: there is no evidence to show here.

use std::sync::Arc;

use ringfence_format::names::{Principal, Tenant};
use ringfence_format::session::{Claims, IssuanceDraft, Kid, LIFETIME_S_MAX};

use crate::caller::Caller;
use crate::evidence::VerifiedEvidence;
use crate::session::Session;

/// An issuance that was admitted: its leaf may be signed with the admission key.
///
/// ```compile_fail,E0451
/// use ringfence_access::admission::Admitted;
/// use ringfence_format::{names::Tenant, session::IssuanceDraft};
/// fn forge(draft: IssuanceDraft, tenant: Tenant) -> Admitted { Admitted { draft, tenant } }
/// ```
#[must_use]
#[derive(Debug)]
pub struct Admitted {
    draft: IssuanceDraft,
    tenant: Tenant,
}

/// Evidence that an issuance was admitted: the vault signs nothing else with
/// an admission key.
pub trait Admits {
    /// What was admitted.
    fn draft(&self) -> &IssuanceDraft;
    /// For whom; the draft names a pseudonym only.
    fn tenant(&self) -> &Tenant;
}

impl Admits for Admitted {
    fn draft(&self) -> &IssuanceDraft {
        &self.draft
    }
    fn tenant(&self) -> &Tenant {
        &self.tenant
    }
}

/// Why something may not be issued, although it was about to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not admitted: {0}")]
pub struct NotAdmitted(&'static str);

/// What is to be issued: the token's claims, and the rest of its leaf.
#[derive(Debug)]
pub struct Proposal<'a> {
    /// What the token says.
    pub claims: &'a Claims,
    /// The key that signed it.
    pub kid: Kid,
    /// SHA-256 of the PASETO.
    pub token_sha256: [u8; 32],
    /// Stands for the tenant in the leaf.
    pub pseudonym: [u8; 16],
}

/// Admits what an identity provider's token is exchanged for. `evidence` is
/// that token, verified again for this alone.
///
/// # Errors
/// The session would be more than the evidence says.
pub fn with_evidence(evidence: &VerifiedEvidence, proposal: &Proposal<'_>) -> Result<Admitted, NotAdmitted> {
    let claims = proposal.claims;
    let id = evidence.id_sha256().map_or([0; 16], first_half);
    let own = *evidence.realm() == claims.realm && *evidence.tenant() == claims.tenant;
    holds(own, "another realm or tenant than the evidence's")?;
    holds(principal_of(evidence.issuer(), evidence.subject()) == claims.principal, "another subject")?;
    holds(*evidence.issuer() == claims.issuer, "another issuer")?;
    holds(*evidence.token_sha256() == claims.evidence && id == claims.evidence_id, "other evidence")?;
    holds(claims.parent.is_none(), "a parent beside evidence")?;
    holds(claims.until_s <= evidence.expires_s(), "longer than its evidence")?;
    proposal.admitted()
}

/// Admits what a session is narrowed to (chain depth 1).
///
/// # Errors
/// It would be more than the session it comes from.
pub fn with_session(parent: &Session, proposal: &Proposal<'_>) -> Result<Admitted, NotAdmitted> {
    let (claims, verified) = (proposal.claims, parent.verified());
    let from = parent.claims();
    holds(from.parent.is_none(), "a session that was narrowed is not narrowed again")?;
    holds((&from.realm, &from.tenant) == (&claims.realm, &claims.tenant), "another realm or tenant")?;
    holds(from.principal == claims.principal && from.purpose == claims.purpose, "another subject or purpose")?;
    holds(from.issuer == claims.issuer && from.evidence == claims.evidence, "other evidence")?;
    holds(claims.until_s <= from.until_s, "longer than the session it comes from")?;
    holds(claims.sites.within(&from.sites), "more sites")?;
    let named = claims.parent.as_ref().is_some_and(|parent| {
        parent.index == verified.index() && parent.kid == verified.kid() && parent.role == from.role
    });
    holds(named, "it does not name the session it comes from")?;
    proposal.admitted()
}

/// Admits what a static key is exchanged for.
///
/// # Errors
/// It is no static key's, or it claims evidence.
pub fn with_static_key(caller: &Arc<Caller>, proposal: &Proposal<'_>) -> Result<Admitted, NotAdmitted> {
    let claims = proposal.claims;
    let own = caller.session().is_none() && caller.key_id().is_some();
    holds(own && *caller.realm() == claims.realm && *caller.tenant() == claims.tenant, "another caller's")?;
    holds(*caller.principal() == claims.principal, "another subject")?;
    holds(claims.parent.is_none() && claims.evidence == [0; 32], "it claims evidence")?;
    holds(claims.issuer.as_str() == STATIC_KEY, "it claims an issuer")?;
    proposal.admitted()
}

/// What stands in place of an issuer's name where a static key was exchanged.
pub const STATIC_KEY: &str = "static-key";

impl Proposal<'_> {
    fn admitted(&self) -> Result<Admitted, NotAdmitted> {
        let claims = self.claims;
        let lifetime = claims.until_s.checked_sub(claims.issued_s);
        holds(lifetime.is_some_and(|s| (1..=LIFETIME_S_MAX).contains(&s)), "not a lifetime that sessions have")?;
        let draft = IssuanceDraft {
            version: 0,
            realm: claims.realm.clone(),
            tenant: self.pseudonym,
            kid: self.kid,
            purpose: claims.purpose,
            from_s: claims.from_s,
            until_s: claims.until_s,
            token_sha256: self.token_sha256,
            parent: claims.parent.as_ref().map(|parent| parent.index),
        };
        Ok(Admitted { draft, tenant: claims.tenant.clone() })
    }
}

fn holds(is: bool, why: &'static str) -> Result<(), NotAdmitted> {
    if is { Ok(()) } else { Err(NotAdmitted(why)) }
}

/// The first half of a SHA-256 value, where a token carries no more.
pub fn first_half(hash: &[u8; 32]) -> [u8; 16] {
    hash[..16].try_into().expect("half of 32 bytes")
}

/// Longest subject that stands in a principal as it is.
const READABLE_BYTES_MAX: usize = 40;

/// What a subject of an issuer is called here: `issuer--sub` where `sub` obeys
/// the rule of principals and is short, else `issuer---` and the first half of
/// its SHA-256. No issuer's name and no static principal holds `--`, so no two
/// subjects share a name, nor a subject and a static principal.
pub fn principal_of(issuer: &Principal, subject: &str) -> Principal {
    let readable = subject.len() <= READABLE_BYTES_MAX && Principal::parse(subject).is_ok();
    let name = if readable {
        format!("{issuer}--{subject}")
    } else {
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, subject.as_bytes());
        format!("{issuer}---{}", hex::encode(&hash.as_ref()[..16]))
    };
    // A long issuer name with a subject behind it would be cut off the limit.
    Principal::parse(&name).unwrap_or_else(|_| {
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, name.as_bytes());
        Principal::parse(&format!("x---{}", hex::encode(&hash.as_ref()[..16]))).expect("36 characters of the rule")
    })
}
