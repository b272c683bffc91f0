//! INVARIANT 6 — `Caller`: somebody whose credential was checked.

use std::sync::Arc;

use ringfence_format::names::{KeyId, Principal, Realm, Tenant};
use ringfence_format::record::{ActorKind, Subject};

/// Somebody whose credential was checked. Only [`crate::caller`] makes one.
///
/// Not `Clone`: one authentication is one caller of one request.
#[must_use]
#[derive(Debug)]
pub struct Caller(pub(crate) Arc<Who>);

/// What is known of a caller; permits and denials carry it into the record.
#[derive(Debug)]
pub(crate) struct Who {
    pub(crate) realm: Realm,
    pub(crate) tenant: Tenant,
    pub(crate) principal: Principal,
    pub(crate) actor: ActorKind,
    pub(crate) key_id: Option<KeyId>,
    pub(crate) source: Option<String>,
    pub(crate) user_agent: Option<String>,
}

impl Caller {
    /// The tenant it acts for.
    pub fn tenant(&self) -> &Tenant {
        &self.0.tenant
    }
    /// The realm that tenant belongs to.
    pub fn realm(&self) -> &Realm {
        &self.0.realm
    }
    /// The principal that acts.
    pub fn principal(&self) -> &Principal {
        &self.0.principal
    }
    /// The access key it proved to hold.
    pub fn key_id(&self) -> Option<&KeyId> {
        self.0.key_id.as_ref()
    }
}

impl Who {
    pub(crate) fn subject(&self) -> Subject {
        Subject {
            realm: Some(self.realm.clone()),
            tenant: Some(self.tenant.clone()),
            principal: Some(self.principal.clone()),
            actor: self.actor,
            key_id: self.key_id.clone(),
            source: self.source.clone(),
            user_agent: self.user_agent.clone(),
        }
    }
}
