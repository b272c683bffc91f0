//! Static access keys as the request path sees them: a table in memory, read
//! without a lock, in which a key that is disabled is dead at once.
//!
//! The table is a copy of what the log and the catalogue say. A change is
//! recorded first and put here right after, so a restart does not bring a
//! disabled key back. One thing comes before its record: a key that is about
//! to be disabled is refused from the moment that was decided, so that no
//! access stands on the log behind the record that disables it. Refusing gives
//! nothing away; if the record cannot be made the key stays refused.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use ringfence_format::names::{KeyId, Principal, Realm, Tenant};
use ringfence_format::record::{ActorKind, Seq};
use ringfence_format::redo::StaticKeyRow;

use crate::authority::Authority;
use crate::caller::{Caller, Who};
use crate::permit::{Denial, Permit};
use crate::placement::Placement;
use crate::session::Session;

/// What is known of one static access key; never its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyEntry {
    /// Public id.
    pub id: KeyId,
    /// Whose.
    pub tenant: Tenant,
    /// The realm that tenant belongs to.
    pub realm: Realm,
    /// Who acts with it.
    pub principal: Principal,
    /// Whether it was disabled.
    pub state: KeyState,
    /// The record of its issuance; a key without one is refused.
    pub issued: Option<Seq>,
}

/// Whether a key may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// It may.
    Active,
    /// Its disabling is under way, or could not be recorded: refused by this
    /// process, and by the next one only if it came to be on record.
    Suspended,
    /// It was disabled, for ever.
    Disabled,
}

impl KeyEntry {
    /// From the catalogue's row, the realm of its tenant, and the log position
    /// of the record that issued it.
    pub fn new(row: &StaticKeyRow, realm: Realm, issued: Option<Seq>) -> Self {
        let state = if row.disabled_ms.is_some() { KeyState::Disabled } else { KeyState::Active };
        let (id, tenant, principal) = (row.id.clone(), row.tenant.clone(), row.principal.clone());
        Self { id, tenant, realm, principal, state, issued }
    }
}

/// All static keys, and what was revoked of sessions: whoever acts is asked for
/// here. Share it by `Arc`.
#[derive(Debug, Default)]
pub struct Keys {
    table: ArcSwap<HashMap<KeyId, Arc<KeyEntry>>>,
    authority: Arc<Authority>,
}

impl Keys {
    /// The keys the catalogue knows at start.
    pub fn new(entries: impl IntoIterator<Item = KeyEntry>) -> Self {
        let table = entries.into_iter().map(|entry| (entry.id.clone(), Arc::new(entry))).collect();
        Self { table: ArcSwap::from_pointee(table), authority: Arc::default() }
    }

    /// What is known of a key.
    pub fn find(&self, id: &KeyId) -> Option<Arc<KeyEntry>> {
        self.table.load().get(id).cloned()
    }

    /// Adds a key whose issuance is on record. A key that is here already
    /// stays as it is: an id is issued once, and disabled for ever.
    pub fn add(&self, entry: KeyEntry) {
        let entry = Arc::new(entry);
        self.table.rcu(|table| {
            let mut table = HashMap::clone(table);
            table.entry(entry.id.clone()).or_insert_with(|| entry.clone());
            table
        });
    }

    /// From here on every check of this key fails; whether for ever, its
    /// record decides. Says whether the key exists.
    pub fn suspend(&self, id: &KeyId) -> bool {
        self.turn(id, |state| if state == KeyState::Active { KeyState::Suspended } else { state })
    }

    /// Its disabling was refused, and is not on record: it works as before.
    pub fn resume(&self, id: &KeyId) -> bool {
        self.turn(id, |state| if state == KeyState::Suspended { KeyState::Active } else { state })
    }

    /// Its disabling is on record. Says whether the key exists.
    pub fn disable(&self, id: &KeyId) -> bool {
        self.turn(id, |_| KeyState::Disabled)
    }

    fn turn(&self, id: &KeyId, to: impl Fn(KeyState) -> KeyState) -> bool {
        let before = self.table.rcu(|table| {
            let mut table = HashMap::clone(table);
            if let Some(entry) = table.get_mut(id) {
                *entry = Arc::new(KeyEntry { state: to(entry.state), ..KeyEntry::clone(entry) });
            }
            table
        });
        before.contains_key(id)
    }

    /// The same under an authority: sessions that it revokes are refused.
    #[must_use]
    pub fn under(self, authority: Arc<Authority>) -> Self {
        Self { authority, ..self }
    }

    /// The record that revoked a session, if one did.
    pub fn revoked(&self, session: &Session) -> Option<Seq> {
        let verified = session.verified();
        self.authority.revocations().of(verified.claims(), verified.kid(), verified.index())
    }

    /// Whether who acts may still act. Asked again by the commit writer and,
    /// at least every five seconds, by a body that is still being sent.
    pub fn still_valid(&self, acting: &impl Acting) -> bool {
        let who = acting.who();
        if let Some(session) = &who.session {
            return self.revoked(session).is_none();
        }
        let Some(id) = &who.key_id else {
            return who.actor != ActorKind::StaticKey;
        };
        self.table.load().get(id).is_some_and(|entry| {
            entry.state == KeyState::Active
                && entry.issued.is_some()
                && entry.tenant == who.tenant
                && entry.realm == who.realm
                && entry.principal == who.principal
        })
    }
}

/// Evidence that carries who acts: [`Caller`], [`Permit`], [`Placement`], [`Denial`].
pub trait Acting: sealed::Sealed {}

mod sealed {
    pub trait Sealed {
        #[allow(private_interfaces)]
        fn who(&self) -> &super::Who;
    }
}
impl sealed::Sealed for Caller {
    #[allow(private_interfaces)]
    fn who(&self) -> &Who {
        &self.0
    }
}
impl<A> sealed::Sealed for Permit<A> {
    #[allow(private_interfaces)]
    fn who(&self) -> &Who {
        &self.who
    }
}
impl sealed::Sealed for Placement {
    #[allow(private_interfaces)]
    fn who(&self) -> &Who {
        &self.who
    }
}
impl sealed::Sealed for Denial {
    #[allow(private_interfaces)]
    fn who(&self) -> &Who {
        &self.who
    }
}
impl<T: sealed::Sealed> Acting for T {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_refused_while_it_is_being_disabled_and_never_comes_back_after() {
        let row = StaticKeyRow {
            id: KeyId::parse("AKIATESTTESTTEST").expect("a key id"),
            tenant: Tenant::parse("acme").expect("a tenant"),
            principal: Principal::parse("alice").expect("a principal"),
            sealed_secret: vec![],
            created_ms: 1,
            disabled_ms: None,
        };
        let keys = Keys::new([KeyEntry::new(&row, Realm::parse("main").expect("a realm"), Some(3))]);
        let state = || keys.find(&row.id).expect("it is there").state;
        assert!(keys.suspend(&row.id) && state() == KeyState::Suspended);
        keys.resume(&row.id);
        assert_eq!(state(), KeyState::Active, "policy refused it: as before");
        keys.suspend(&row.id);
        keys.disable(&row.id);
        for turn in [Keys::suspend, Keys::resume] {
            turn(&keys, &row.id);
            assert_eq!(state(), KeyState::Disabled);
        }
        assert!(!keys.suspend(&KeyId::parse("AKIAOTHEROTHEROTHER").expect("a key id")));
    }
}
