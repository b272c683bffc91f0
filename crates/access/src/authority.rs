//! What gives keys their power, as the request path sees it: the manifests in
//! force and the revocations, in memory, read without a lock.
//!
//! Both are copies of what the log and the catalogue say. A manifest comes into
//! force after its record. A revocation comes before its record, as with
//! [static keys](crate::keys): sessions it hits are refused from the moment it
//! was decided. Refusing gives nothing away; if the record cannot be made they
//! stay refused while this process runs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, Guard};
use aws_lc_rs::digest;
use ringfence_format::leaf::Hash;
use ringfence_format::names::Realm;
use ringfence_format::record::Seq;
use ringfence_format::session::{KeySet, Kid, Manifest, Revocation, Revocations, SignedManifest, Target};

use ringfence_log::Recorded;

use crate::manifests::{self, BadManifest, CheckedManifest, PinnedRoot, Roots, Seen};

/// The keys in force and what is revoked. Share it by `Arc`.
#[derive(Debug, Default)]
pub struct Authority {
    keys: ArcSwap<KeySet>,
    revoked: ArcSwap<Revocations>,
    /// Held while something changes.
    realms: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    realms: BTreeMap<Realm, RealmState>,
    revocations: Vec<(Standing, Revocation)>,
    tickets: u64,
}

#[derive(Debug, Default)]
struct RealmState {
    roots: Roots,
    manifest: Option<SignedManifest>,
}

/// Whether a revocation is on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Recorded(Seq),
    Pending(u64),
}

/// An entry of the log that puts a manifest in force.
pub trait Enacts {
    /// The manifest, if it does.
    fn manifest(&self) -> Option<&SignedManifest>;
}

/// A revocation that is in force and not on record yet.
#[must_use = "settle it or withdraw it"]
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket(u64);

/// What stands in place of the record of a revocation that has none yet.
pub const UNRECORDED: Seq = Seq::MAX;

impl Authority {
    /// No keys yet: only roots that are pinned.
    pub fn new(roots: impl IntoIterator<Item = (Realm, Roots)>) -> Self {
        let realms = roots.into_iter().map(|(realm, roots)| (realm, RealmState { roots, manifest: None })).collect();
        let state = State { realms, ..State::default() };
        Self { keys: ArcSwap::default(), revoked: ArcSwap::default(), realms: Mutex::new(state) }
    }

    /// The keys in force, found by scope first.
    pub fn keys(&self) -> Guard<Arc<KeySet>> {
        self.keys.load()
    }

    /// What is revoked. One that is not on record yet stands as [`UNRECORDED`].
    pub fn revocations(&self) -> Guard<Arc<Revocations>> {
        self.revoked.load()
    }

    /// The manifest in force.
    pub fn manifest(&self, realm: &Realm) -> Option<SignedManifest> {
        self.state().realms.get(realm)?.manifest.clone()
    }

    /// The roots that are trusted.
    pub fn roots(&self, realm: &Realm) -> Roots {
        self.state().realms.get(realm).map(|realm| realm.roots.clone()).unwrap_or_default()
    }

    /// Every realm that has a root.
    pub fn realms(&self) -> Vec<Realm> {
        self.state().realms.keys().cloned().collect()
    }

    /// Pins the roots of a realm: a new realm, or a root that took over.
    pub fn pin(&self, realm: &Realm, roots: Roots) {
        self.state().realms.entry(realm.clone()).or_default().roots = roots;
    }

    /// Whether a manifest may come into force next. Record it, then
    /// [`adopt`](Self::adopt) it.
    ///
    /// # Errors
    /// [`BadManifest::is_rollback`] is an alarm.
    pub fn check(&self, realm: &Realm, signed: SignedManifest) -> Result<CheckedManifest, BadManifest> {
        let state = self.state();
        let own = state.realms.get(realm).ok_or_else(|| BadManifest::NoRoot(realm.clone()))?;
        let last = own.manifest.as_ref().map(|signed| &signed.manifest);
        manifests::check(realm, signed, &own.roots, last, state.others(realm))
    }

    /// Puts a manifest in force that is on record. One that another change has
    /// overtaken is left: it is not newer than what is in force. Says whether
    /// the record is of this manifest.
    pub fn adopt<T: Enacts>(&self, manifest: &CheckedManifest, recorded: &Recorded<T>) -> bool {
        let signed = manifest.signed();
        if recorded.entry().manifest() != Some(signed) {
            return false;
        }
        let mut state = self.state();
        let own = state.realms.entry(signed.manifest.realm.clone()).or_default();
        if own.manifest.as_ref().is_none_or(|last| last.manifest.seq < signed.manifest.seq) {
            own.manifest = Some(signed.clone());
            self.show_keys(&state);
        }
        true
    }

    /// Takes up, at a start, the manifest that the catalogue has.
    ///
    /// # Errors
    /// It is not one that was in force; nothing of it counts.
    pub fn load(&self, realm: &Realm, found: Option<SignedManifest>, seen: &Seen) -> Result<(), BadManifest> {
        let mut state = self.state();
        let own = state.realms.get(realm).ok_or_else(|| BadManifest::NoRoot(realm.clone()))?;
        let Some(signed) = found else {
            let in_force = seen.manifest_seq;
            let rollback = BadManifest::Rollback { realm: realm.clone(), seq: 0, in_force };
            return if in_force == 0 { Ok(()) } else { Err(rollback) };
        };
        let checked = manifests::check_found(realm, signed, &own.roots, seen, state.others(realm))?;
        state.realms.entry(realm.clone()).or_default().manifest = Some(checked.signed().clone());
        self.show_keys(&state);
        Ok(())
    }

    /// Takes up, at a start, the revocations on record, in their order.
    pub fn load_revocations(&self, found: impl IntoIterator<Item = (Seq, Revocation)>) {
        let mut state = self.state();
        state.revocations = found.into_iter().map(|(by, it)| (Standing::Recorded(by), it)).collect();
        self.show_revocations(&state);
    }

    /// From here on what it hits is refused; whether for ever, its record
    /// decides. Taking one back ([`Target::Lift`]) has no effect before.
    pub fn suspend(&self, revocation: Revocation) -> Ticket {
        let mut state = self.state();
        state.tickets += 1;
        let ticket = state.tickets;
        state.revocations.push((Standing::Pending(ticket), revocation));
        self.show_revocations(&state);
        Ticket(ticket)
    }

    /// It is on record.
    pub fn settle(&self, ticket: Ticket, by: Seq) {
        let mut state = self.state();
        let at = state.revocations.iter().position(|(standing, _)| *standing == Standing::Pending(ticket.0));
        if let Some(at) = at {
            let (_, revocation) = state.revocations.remove(at);
            state.revocations.push((Standing::Recorded(by), revocation));
        }
        self.show_revocations(&state);
    }

    /// It was refused, and is not on record: what it hit works as before.
    pub fn withdraw(&self, ticket: Ticket) {
        let mut state = self.state();
        state.revocations.retain(|(standing, _)| *standing != Standing::Pending(ticket.0));
        self.show_revocations(&state);
    }

    /// Whether a key was revoked, from whatever index on: it signs no more.
    pub fn key_is_revoked(&self, realm: &Realm, kid: Kid) -> bool {
        let hit = |it: &Revocation| it.realm == *realm && matches!(it.target, Target::Key(key) if key == kid);
        self.revoked.load().iter().any(|(_, it)| hit(it))
    }

    fn show_keys(&self, state: &State) {
        let manifests = state.realms.values().filter_map(|own| Some(&own.manifest.as_ref()?.manifest));
        let keys = KeySet::new(manifests);
        self.keys.store(Arc::new(keys));
    }

    fn show_revocations(&self, state: &State) {
        let mut all = Revocations::default();
        for (standing, revocation) in &state.revocations {
            match standing {
                Standing::Recorded(by) => all.add(*by, revocation.clone()),
                Standing::Pending(_) if matches!(revocation.target, Target::Lift(_)) => {}
                Standing::Pending(_) => all.add(UNRECORDED, revocation.clone()),
            }
        }
        self.revoked.store(Arc::new(all));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.realms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn others<'a>(&'a self, realm: &'a Realm) -> impl Iterator<Item = &'a Manifest> {
        let others = self.realms.iter().filter(move |(other, _)| *other != realm);
        others.filter_map(|(_, own)| Some(&own.manifest.as_ref()?.manifest))
    }
}

/// The next link of the chain over revocations: SHA-256 of the link before it,
/// the record's position and the revocation.
pub fn revocation_chain(before: &Hash, by: Seq, revocation: &Revocation) -> Hash {
    let link = [before.as_slice(), &by.to_be_bytes(), &revocation.to_bytes()].concat();
    digest::digest(&digest::SHA256, &link).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Pinned roots, for a realm that has one.
impl From<PinnedRoot> for Roots {
    fn from(root: PinnedRoot) -> Self {
        Self::new(vec![root])
    }
}
