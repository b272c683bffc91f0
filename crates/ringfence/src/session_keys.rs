//! Keys of sessions as time goes by: what is in force at a start, manifests
//! that follow each other, keys that follow each other day by day.
//!
//! With the development root the server signs a manifest itself whenever fewer
//! than a week of keys is left, a tenant or site is new, or the key that signs
//! was revoked. With an offline root it can only say that time runs out; when
//! it has, issuing stops and everything else goes on.

use std::collections::HashSet;

use ringfence_access::manifests::{self, CheckedManifest};
use ringfence_access::permit::Administer;
use ringfence_access::{Ask, Permit};
use ringfence_format::names::{Realm, SiteId, Tenant};
use ringfence_format::record::Seq;
use ringfence_format::session::{KeyRow, Kid, Manifest, Purpose, Scope, SignedManifest, Sites};
use ringfence_store::CommitError;
use ringfence_vault::{PLANNED, SIGNS_S, signs_at};

use crate::alarm::{Alarm, AlarmKind};
use crate::cli::{Failure, Kind};
use crate::installation::Installation;

/// Days of keys that a manifest of the development root lists.
const PLANNED_DAYS: u64 = 14;
/// With fewer days left the next manifest is due.
pub const LEFT_DAYS_MIN: u64 = 7;
/// A key may name so many sites.
const SITES_MAX: usize = 16;

impl Installation {
    /// Now, in Unix seconds.
    pub fn now_s(&self) -> u64 {
        self.clock.now_us() / 1_000_000
    }

    /// Puts in force, at a start, what the catalogue has and the keyrings
    /// believe: manifests and revocations.
    ///
    /// # Errors
    /// Revocations on record are not in the catalogue, or a keyring cannot be
    /// written. A manifest that is not believed is an alarm, and its realm has
    /// no session keys until one comes that is.
    pub async fn take_up_authority(&self) -> Result<(), Failure> {
        let failed = |e: &dyn std::fmt::Display| Failure::new(Kind::Unavailable, e);
        let mut revocations = vec![];
        for realm in self.vault.realms() {
            self.vault.prepare_root(&realm).map_err(|e| failed(&e))?;
            let found = self.catalog().manifest(&realm).map_err(|e| failed(&e))?;
            match self.authority().load(&realm, found, &self.vault.seen(&realm)) {
                Ok(()) => self.note_manifest(&realm)?,
                Err(bad) => {
                    tracing::error!("realm `{realm}` has no session keys: {bad}");
                    let detail = format!("at the start: {bad}");
                    let (kind, realm) = (AlarmKind::ManifestRollback, Some(realm.clone()));
                    self.alarms.raise(Alarm { kind, realm, tenant: None, detail, of: None }).await;
                }
            }
            let own = self.catalog().revocations(&realm).map_err(|e| failed(&e))?;
            self.vault.note_revocations(&realm, &own).map_err(|e| failed(&e))?;
            revocations.extend(own);
        }
        revocations.sort_by_key(|(by, _)| *by);
        self.authority().load_revocations(revocations);
        Ok(())
    }

    /// Every scope that has session keys, in a realm.
    pub fn session_scopes(&self, realm: &Realm) -> Vec<(Tenant, Purpose)> {
        let tenants = self.catalog().tenants();
        let own = tenants.iter().filter(|row| row.realm == *realm);
        own.flat_map(|row| PLANNED.map(|purpose| (row.name.clone(), purpose))).collect()
    }

    /// The sites that session keys may sign for: all that are configured.
    pub fn session_sites(&self) -> Sites {
        let gateway = self.sessions.gateway().clone();
        let others = self.config.site.iter().map(|site| site.id.clone()).filter(|id| *id != gateway);
        let mut all: Vec<SiteId> = std::iter::once(gateway.clone()).chain(others).take(SITES_MAX).collect();
        all.sort();
        all.dedup();
        Sites::new(all).expect("1 to 16 sites in ascending order, each once")
    }

    /// A round of the rotation: manifests that are due are made, signed and put
    /// in force where the root is here; where it is not, and where a scope is
    /// left without a key all the same, that is said aloud.
    ///
    /// # Errors
    /// Something could not be recorded or written; it is tried again.
    pub async fn rotate_session_keys(&self) -> Result<(), Failure> {
        let mut result = Ok(());
        for realm in self.authority().realms() {
            if self.vault.root_is_development(&realm) {
                result = result.and(self.renew_manifest(&realm).await);
            }
            self.tell_overdue(&realm).await;
        }
        result
    }

    /// A round whose failure is in nobody's way: there are no sessions without
    /// keys, and everything else goes on.
    pub async fn try_session_keys(&self) {
        if let Err(failure) = self.rotate_session_keys().await {
            tracing::error!("session keys could not be made, it is tried again: {failure}");
        }
    }

    /// Makes and signs the next manifest if one is due.
    async fn renew_manifest(&self, realm: &Realm) -> Result<(), Failure> {
        let _one_at_a_time = self.changing_keys().await;
        let (scopes, sites, now_s) = (self.session_scopes(realm), self.session_sites(), self.now_s());
        if scopes.iter().all(|scope| self.is_provided(realm, scope, &sites, now_s)) {
            return Ok(());
        }
        let failed = |e: &dyn std::fmt::Display| Failure::new(Kind::Unavailable, e);
        let mut rows = self.vault.plan_keys(realm, &scopes, &sites, now_s, PLANNED_DAYS).map_err(|e| failed(&e))?;
        for (tenant, purpose) in scopes {
            let scope = Scope { realm: realm.clone(), tenant, purpose };
            if self.only_revoked_keys(&scope, now_s) {
                rows.push(self.vault.plan_fresh_key(&scope, &sites, now_s).map_err(|e| failed(&e))?);
            }
        }
        let permit = self.system_permit("rotate-session-keys", Ask::on_installation("system:KeysManifest")).await?;
        self.enact_rows(realm, rows, permit).await.map(drop)
    }

    /// Signs a manifest that lists these keys beside those that still count,
    /// with the development root, and puts it in force.
    ///
    /// # Errors
    /// The root is offline, or it could not be recorded.
    pub async fn enact_rows(
        &self,
        realm: &Realm,
        rows: Vec<KeyRow>,
        permit: Permit<Administer>,
    ) -> Result<Seq, Failure> {
        let manifest = self.next_manifest(realm, rows);
        let signed = self.vault.sign_manifest(manifest).map_err(|e| Failure::new(Kind::Unavailable, e))?;
        let checked = self.authority().check(realm, signed).map_err(Failure::internal)?;
        self.enact(checked, permit).await
    }

    /// What would follow the manifest in force.
    pub fn next_manifest(&self, realm: &Realm, rows: Vec<KeyRow>) -> Manifest {
        let last = self.authority().manifest(realm);
        manifests::next(realm, last.as_ref().map(|last| &last.manifest), rows, self.now_s())
    }

    /// Puts a manifest on record, then in force, then notes it in the keyring.
    /// A crash behind the record leaves what the next start puts in force.
    ///
    /// # Errors
    /// It could not be recorded, or another one overtook it.
    pub async fn enact(&self, manifest: CheckedManifest, permit: Permit<Administer>) -> Result<Seq, Failure> {
        let signed = manifest.signed();
        let (seq, keys) = (signed.manifest.seq, signed.manifest.keys.len());
        let realm = signed.manifest.realm.clone();
        let permit = permit.record(|resource| {
            resource.detail = Some(format!("manifest #{seq} of realm {realm}: {keys} keys"));
        });
        let recorded = match self.store.put_manifest(permit, &manifest).await {
            Ok(recorded) => recorded,
            Err(error @ CommitError::Conflict(_)) => {
                return Err(Failure::new(
                    Kind::Usage,
                    format!("manifest #{seq} does not follow the one in force: {error}"),
                )
                .next("make a new request with `ringfence keys manifest request`"));
            }
            Err(error) => return Err(Failure::new(Kind::Unavailable, error)),
        };
        self.authority().adopt(&manifest, &recorded);
        self.note_manifest(&realm)?;
        Ok(recorded.index())
    }

    fn note_manifest(&self, realm: &Realm) -> Result<(), Failure> {
        let Some(SignedManifest { manifest, .. }) = self.authority().manifest(realm) else { return Ok(()) };
        self.vault.note_manifest(&manifest).map_err(|e| Failure::new(Kind::Unavailable, e))
    }

    /// Whether a scope has a key now, which is not revoked, and one for each
    /// day of the week to come, all of them for the configured sites.
    fn is_provided(&self, realm: &Realm, (tenant, purpose): &(Tenant, Purpose), sites: &Sites, now_s: u64) -> bool {
        let scope = Scope { realm: realm.clone(), tenant: tenant.clone(), purpose: *purpose };
        let (keys, own) = (self.authority().keys(), self.own_kids(realm));
        let rows = keys.of(&scope);
        let signs = |at_s| {
            rows.iter().any(|row| {
                signs_at(row, at_s)
                    && own.contains(&row.public.kid())
                    && sites.within(&row.sites)
                    && !self.authority().key_is_revoked(realm, row.public.kid())
            })
        };
        (0..=LEFT_DAYS_MIN).all(|days| signs(now_s + days * SIGNS_S))
    }

    /// The keys that this keyring holds: a manifest may list others.
    fn own_kids(&self, realm: &Realm) -> HashSet<Kid> {
        let own = self.vault.issuer_keys(realm).unwrap_or_default();
        own.into_iter().map(|key| key.public.kid()).collect()
    }

    /// Whether a scope has keys whose day it is, and each of them was revoked.
    fn only_revoked_keys(&self, scope: &Scope, now_s: u64) -> bool {
        let (keys, own) = (self.authority().keys(), self.own_kids(&scope.realm));
        let mine = |row: &&KeyRow| signs_at(row, now_s) && own.contains(&row.public.kid());
        let mut today = keys.of(scope).iter().filter(mine).peekable();
        today.peek().is_some() && today.all(|row| self.authority().key_is_revoked(&scope.realm, row.public.kid()))
    }

    /// Until when a scope has keys that sign, without a gap, in Unix seconds.
    pub fn signs_until(&self, scope: &Scope, now_s: u64) -> u64 {
        let keys = self.authority().keys();
        let mut until_s = now_s;
        while let Some(row) = keys
            .of(scope)
            .iter()
            .find(|row| signs_at(row, until_s) && !self.authority().key_is_revoked(&scope.realm, row.public.kid()))
        {
            until_s = row.until_s.min(row.from_s + SIGNS_S);
        }
        until_s
    }

    async fn tell_overdue(&self, realm: &Realm) {
        let now_s = self.now_s();
        for (tenant, purpose) in self.session_scopes(realm) {
            let scope = Scope { realm: realm.clone(), tenant: tenant.clone(), purpose };
            if self.signs_until(&scope, now_s) == now_s {
                let detail = format!("no key of scope {scope} may sign: nothing is issued in it");
                let (kind, realm, tenant) = (AlarmKind::KeyOverdue, Some(realm.clone()), Some(tenant));
                self.alarms.raise(Alarm { kind, realm, tenant, detail, of: None }).await;
            }
        }
    }

    /// Gauges of what is left: the fewest days until a scope has no key, and
    /// the greatest age of a key that signs.
    pub fn measure_session_keys(&self) {
        let now_s = self.now_s();
        let (mut left_s, mut age_s) = (None::<u64>, 0);
        for realm in self.authority().realms() {
            for (tenant, purpose) in self.session_scopes(&realm) {
                let scope = Scope { realm: realm.clone(), tenant, purpose };
                let left = self.signs_until(&scope, now_s) - now_s;
                left_s = Some(left_s.map_or(left, |least| least.min(left)));
                let keys = self.authority().keys();
                let signing = keys.of(&scope).iter().filter(|row| signs_at(row, now_s)).map(|row| row.from_s).max();
                age_s = age_s.max(signing.map_or(0, |from_s| now_s - from_s));
            }
        }
        metrics::gauge!("ringfence_session_keys_days_left").set(left_s.unwrap_or(0) as f64 / SIGNS_S as f64);
        metrics::gauge!("ringfence_session_key_age_seconds").set(age_s as f64);
    }

    /// What an operator should know of session keys.
    pub fn session_key_warnings(&self) -> Vec<String> {
        let now_s = self.now_s();
        let mut warnings = vec![];
        for realm in self.authority().realms() {
            if self.vault.root_is_development(&realm) {
                warnings.push(format!(
                    "realm `{realm}` has a development root inside the data directory: who can read it can sign any \
                     manifest. See `ringfence keys root new`"
                ));
            }
            let left = self.session_scopes(&realm).into_iter().map(|(tenant, purpose)| {
                self.signs_until(&Scope { realm: realm.clone(), tenant, purpose }, now_s).saturating_sub(now_s)
            });
            match left.min() {
                Some(0) => warnings.push(format!(
                    "realm `{realm}` has a scope without a key that may sign: nothing is issued in it. See `ringfence keys list`"
                )),
                Some(left) if left < LEFT_DAYS_MIN * SIGNS_S => warnings.push(format!(
                    "session keys of realm `{realm}` are used up in {} days: `ringfence keys manifest request`",
                    left / SIGNS_S
                )),
                _ => {}
            }
        }
        warnings
    }
}
