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

    /// Destroys an old version of a tenant's key. `heads` is how many heads
    /// the catalogue counts under it, those of uploads under way included;
    /// with any left, or with a sealer of it alive, it is refused, for those
    /// objects would be lost.
    pub fn retire_kek(
        &self,
        _because: &Recorded<Permit<Administer>>,
        realm: &Realm,
        tenant: &Tenant,
        version: u32,
        heads: u64,
    ) -> Result<(), VaultError> {
        self.retire(realm, tenant, version, heads)
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

    pub(crate) fn retire(&self, realm: &Realm, tenant: &Tenant, version: u32, heads: u64) -> Result<(), VaultError> {
        let mut rings = self.rings_mut();
        let ring = rings.realm_mut(realm)?;
        let current = ring.current(Purpose::TenantKek, Some(tenant));
        let current = current.ok_or_else(|| VaultError::UnknownTenant(tenant.clone(), realm.clone()))?;
        let tenant_name = || tenant.clone();
        if current.version == version {
            return Err(VaultError::CurrentKek { tenant: tenant_name(), version });
        }
        if !ring.rows(Purpose::TenantKek, Some(tenant)).any(|row| row.version == version) {
            return Err(VaultError::UnknownKek { tenant: tenant_name(), version });
        }
        let heads = heads + self.sealers(tenant, version);
        if heads > 0 {
            return Err(VaultError::KekInUse { tenant: tenant_name(), version, heads });
        }
        let this = |purpose, of: &Option<Tenant>, v| {
            purpose == Purpose::TenantKek && of.as_ref() == Some(tenant) && v == version
        };
        ring.change(|rows| rows.retain(|row| !this(row.purpose, &row.tenant, row.version)))?;
        drop(rings);
        self.end_lease(tenant);
        Ok(())
    }
}
