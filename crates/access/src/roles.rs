//! Roles: who may take one on, by what evidence, and what it may do at most.

use std::collections::BTreeMap;

use ringfence_format::names::{Label, Principal, Tenant};
use ringfence_format::session::Claims;

use crate::evidence::{ClaimValue, VerifiedEvidence};
use crate::narrowing::{Glob, Narrowing};

/// Seconds the longest session lasts.
pub const SESSION_S_MAX: u32 = 3600;
/// Seconds the longest session lasts that may reach the strictest label.
pub const STRICTEST_SESSION_S_MAX: u32 = 900;
/// Seconds the shortest session lasts (AWS STS API reference, `DurationSeconds`).
pub const SESSION_S_MIN: u32 = 900;

/// One role of one tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// Whose.
    pub tenant: Tenant,
    /// Its name.
    pub name: Principal,
    /// Names of the issuers whose subjects may take it on.
    pub issuers: Vec<Principal>,
    /// Patterns of `sub`, one of which must match; never empty.
    pub subjects: Vec<Glob>,
    /// Claims that must hold: of each, one of these words must be its value,
    /// or be in its list.
    pub claims: BTreeMap<String, Vec<String>>,
    /// Seconds a session of it lasts at most.
    pub max_session_s: u32,
    /// The strictest label its sessions may reach.
    pub max_label: Label,
    /// What it may do at most.
    pub narrowing: Narrowing,
    /// Whether a static key of the tenant may take it on.
    pub static_keys: bool,
}

impl Role {
    /// Whether this evidence lets its subject take the role on: tenant, issuer,
    /// subject and every claim.
    pub fn admits(&self, evidence: &VerifiedEvidence) -> bool {
        self.tenant == *evidence.tenant()
            && self.issuers.contains(evidence.issuer())
            && self.subjects.iter().any(|glob| glob.matches(evidence.subject()))
            && self.claims.iter().all(|(name, words)| holds(evidence.claim(name), words))
    }
}

impl Role {
    /// Whether a session may be narrowed to this role: its own always; another
    /// only if what the token says of its evidence is all that role asks for.
    /// A claim, and a subject that the principal does not spell out, cannot be
    /// looked at again without the evidence.
    pub fn admits_session(&self, claims: &Claims) -> bool {
        if self.tenant != claims.tenant {
            return false;
        }
        let static_key = claims.issuer.as_str() == crate::admission::STATIC_KEY;
        let subject = claims.principal.as_str().strip_prefix(claims.issuer.as_str());
        let subject = subject.and_then(|rest| rest.strip_prefix("--")).filter(|sub| !sub.starts_with('-'));
        let said = self.issuers.contains(&claims.issuer)
            && self.claims.is_empty()
            && self.subjects.iter().any(|glob| glob.as_str() == "*" || subject.is_some_and(|sub| glob.matches(sub)));
        self.name == claims.role || if static_key { self.static_keys } else { said }
    }
}

fn holds(claim: Option<&ClaimValue>, words: &[String]) -> bool {
    match claim {
        None => false,
        Some(ClaimValue::One(word)) => words.contains(word),
        Some(ClaimValue::Many(list)) => list.iter().any(|word| words.contains(word)),
    }
}

/// All roles by tenant and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles(BTreeMap<(Tenant, Principal), Role>);

impl Roles {
    /// These roles; of two with one name the last stands, which the
    /// configuration's checks refuse before.
    pub fn new(roles: impl IntoIterator<Item = Role>) -> Self {
        Self(roles.into_iter().map(|role| ((role.tenant.clone(), role.name.clone()), role)).collect())
    }

    /// The role of this name.
    pub fn find(&self, tenant: &Tenant, name: &Principal) -> Option<&Role> {
        self.0.get(&(tenant.clone(), name.clone()))
    }

    /// Every role.
    pub fn iter(&self) -> impl Iterator<Item = &Role> {
        self.0.values()
    }
}
