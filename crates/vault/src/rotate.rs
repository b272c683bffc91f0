//! Rotation of a tenant's key-encryption key: a new version, every data key
//! wrapped again, the old version retired. No object is rewritten.

use std::sync::Arc;

use ringfence_access::Permit;
use ringfence_access::permit::Administer;
use ringfence_format::envelope::Sealed;
use ringfence_format::names::{ObjectVersion, Realm, Tenant};
use ringfence_format::redo::{Bucket, HeadInfo, Version};
use ringfence_log::Recorded;

use crate::error::VaultError;
use crate::keyring::Purpose;
use crate::secret::random_key;
use crate::vault::{Vault, unwrap_dek, wrap_dek};

impl Vault {
    /// Makes a new version of a tenant's key, which seals from now on, and
    /// returns its number. The old versions stay until they are retired.
    pub fn rotate_kek(
        &self,
        _because: &Recorded<Permit<Administer>>,
        realm: &Realm,
        tenant: &Tenant,
    ) -> Result<u32, VaultError> {
        self.rotate(realm, tenant)
    }

    /// Wraps the data key of one version under the current key of its tenant.
    /// The head that comes out is one sequence number on, or the given one
    /// where nothing is left to do.
    pub fn rewrap(
        &self,
        _because: &Recorded<Permit<Administer>>,
        object: &ObjectVersion,
        head: &HeadInfo,
    ) -> Result<HeadInfo, VaultError> {
        self.rewrap_head(object, head)
    }

    /// The head object for a [rewrapped](Self::rewrap) version.
    pub fn reseal_head(
        &self,
        _because: &Recorded<Permit<Administer>>,
        object: &ObjectVersion,
        head: &HeadInfo,
        version: &Version,
        bucket: &Bucket,
    ) -> Result<Sealed, VaultError> {
        self.old_sealer(object.clone(), head)?.seal_head(version, bucket)
    }

    /// Begins to retire an old version of a tenant's key: from now on nothing
    /// new is sealed under it. Refused while a sealer of it lives.
    ///
    /// Count what is left under it *after* this, then
    /// [`finish`](Retiring::finish): so no upload slips in between.
    pub fn retire_kek(
        &self,
        _because: &Recorded<Permit<Administer>>,
        realm: &Realm,
        tenant: &Tenant,
        version: u32,
    ) -> Result<Retiring<'_>, VaultError> {
        self.begin_retiring(realm, tenant, version)
    }

    pub(crate) fn rotate(&self, realm: &Realm, tenant: &Tenant) -> Result<u32, VaultError> {
        let mut rings = self.rings_mut();
        let ring = rings.realm_mut(realm)?;
        let current = ring.current(Purpose::TenantKek, Some(tenant));
        let current = current.ok_or_else(|| VaultError::UnknownTenant(tenant.clone(), realm.clone()))?;
        let version = current.version + 1;
        let row = ring.new_row(Purpose::TenantKek, Some(tenant), version, None, &random_key()?)?;
        ring.change(|rows| rows.push(row))?;
        drop(rings);
        self.end_lease(tenant);
        Ok(version)
    }

    pub(crate) fn rewrap_head(&self, object: &ObjectVersion, head: &HeadInfo) -> Result<HeadInfo, VaultError> {
        let current = self.current_kek(&object.realm, &object.tenant)?;
        if current.version == head.kek {
            return Ok(head.clone());
        }
        let old = self.kek(&object.realm, &object.tenant, head.kek)?;
        let key = unwrap_dek(&old, &Arc::new(object.clone()), head)?;
        Ok(HeadInfo { seq: head.seq + 1, kek: current.version, wrapped_dek: wrap_dek(&current, &key)? })
    }

    pub(crate) fn begin_retiring(
        &self,
        realm: &Realm,
        tenant: &Tenant,
        version: u32,
    ) -> Result<Retiring<'_>, VaultError> {
        let versions = self.kek_versions(realm, tenant)?;
        if versions.current == version {
            return Err(VaultError::CurrentKek { tenant: tenant.clone(), version });
        }
        if !versions.all.contains(&version) {
            return Err(VaultError::UnknownKek { tenant: tenant.clone(), version });
        }
        self.close_sealing(tenant, version)?;
        Ok(Retiring { vault: self, realm: realm.clone(), tenant: tenant.clone(), version, done: false })
    }
}

/// A key version under which nothing new is sealed. Dropped unfinished, it
/// seals again.
#[must_use = "a version that is not finished stays"]
pub struct Retiring<'a> {
    vault: &'a Vault,
    realm: Realm,
    tenant: Tenant,
    version: u32,
    done: bool,
}

impl Retiring<'_> {
    /// Destroys the key. `heads` is how many versions and uploads the
    /// catalogue counts under it now; with any left it is refused, for those
    /// objects would be lost.
    pub fn finish(mut self, heads: u64) -> Result<(), VaultError> {
        let (tenant, version) = (self.tenant.clone(), self.version);
        if heads > 0 {
            return Err(VaultError::KekInUse { tenant, version, heads });
        }
        let mut rings = self.vault.rings_mut();
        rings.realm_mut(&self.realm)?.change(|rows| {
            rows.retain(|row| {
                let this = row.purpose == Purpose::TenantKek && row.tenant.as_ref() == Some(&tenant);
                !(this && row.version == version)
            });
        })?;
        drop(rings);
        self.vault.end_lease(&tenant);
        self.done = true; // and stays closed: a version number is never used again
        Ok(())
    }
}

impl Drop for Retiring<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.vault.reopen_sealing(&self.tenant, self.version);
        }
    }
}
