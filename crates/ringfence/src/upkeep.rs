//! What upkeep needs of the keys, handed to the store, which cannot name one:
//! opening heads that only a site knows, and authenticating copies. Each carries
//! the record that says why it is done.

use std::sync::Arc;

use ringfence_access::permit::Administer;
use ringfence_access::policy::Engine;
use ringfence_access::{Ask, Permit, Placement, caller};
use ringfence_format::envelope::{Fetched, PartVerifier, Sealed};
use ringfence_format::head::Manifest;
use ringfence_format::names::{ObjectVersion, SiteId};
use ringfence_format::redo::{Part, Version};
use ringfence_log::Recorded;
use ringfence_store::{Authenticate, Catalog, OpenHead, OpenedHead, PartCheck, Store};
use ringfence_vault::{Vault, Verifier};

/// Keys for one task that is on record.
pub struct Upkeep {
    /// Every key.
    pub vault: Arc<Vault>,
    /// The record of the task.
    pub because: Recorded<Permit<Administer>>,
}

impl OpenHead for Upkeep {
    fn open_head(&self, head: &Fetched) -> Result<OpenedHead, String> {
        let opened = self.vault.open_head(&self.because, head).map_err(|e| e.to_string())?;
        Ok(OpenedHead { realm: opened.object.realm, manifest: opened.manifest })
    }
}

/// [`Upkeep`] of versions the catalogue knows.
pub struct Scrubber {
    /// The keys.
    pub upkeep: Upkeep,
    /// Whose buckets.
    pub store: Arc<Store>,
    /// The policies in force: what may be repaired where.
    pub engine: Arc<Engine>,
}

impl Authenticate for Scrubber {
    fn part(&self, version: &Version, part: &Part) -> Result<Box<dyn PartCheck>, String> {
        let check = self.verifier(version)?.part(part).map_err(|e| e.to_string())?;
        Ok(Box::new(Check(check)))
    }

    fn head(&self, version: &Version, head: &Fetched) -> Result<(), String> {
        let kek = version.head.as_ref().ok_or("the version has no head")?.kek;
        let manifest = self.verifier(version)?.head(kek, head).map_err(|e| e.to_string())?;
        same_version(version, &manifest)
    }

    fn sealed_head(&self, version: &Version, head: Fetched) -> Result<Sealed, String> {
        let kek = version.head.as_ref().ok_or("the version has no head")?.kek;
        let (manifest, sealed) = self.verifier(version)?.sealed_head(kek, head).map_err(|e| e.to_string())?;
        same_version(version, &manifest).map(|()| sealed)
    }

    fn place(&self, version: &Version, site: &SiteId) -> Result<Placement, String> {
        let bucket = self.store.catalog().bucket(&version.bucket).ok_or("its bucket is gone")?;
        let object = object(self.store.catalog(), version)?;
        let ask = Ask::on_object("system:Repair", &bucket, &version.key, &version.label);
        let placed = self.engine.place_at(&caller::system("repair"), ask, object, std::slice::from_ref(site));
        placed.map_err(|denial| denial.reason().to_owned())
    }
}

fn same_version(version: &Version, manifest: &Manifest) -> Result<(), String> {
    if manifest.version.uid == version.uid { Ok(()) } else { Err("it is the head of another version".to_owned()) }
}

impl Scrubber {
    fn verifier(&self, version: &Version) -> Result<Verifier, String> {
        let head = version.head.as_ref().ok_or("the version has no head")?;
        let object = object(self.store.catalog(), version)?;
        self.upkeep.vault.verifier(&self.upkeep.because, &object, head).map_err(|e| e.to_string())
    }
}

fn object(catalog: &Catalog, version: &Version) -> Result<ObjectVersion, String> {
    let bucket = catalog.bucket(&version.bucket).ok_or("its bucket is gone")?;
    let tenant = catalog.tenant(&bucket.tenant).ok_or("its tenant is gone")?;
    Ok(ObjectVersion {
        realm: tenant.realm.clone(),
        tenant: bucket.tenant.clone(),
        bucket: bucket.id,
        version: version.uid,
    })
}

struct Check(PartVerifier);

impl PartCheck for Check {
    fn push(&mut self, bytes: &Fetched) -> Result<(), String> {
        self.0.push(bytes).map_err(|e| e.to_string())
    }
    fn verify(&mut self, chunk: Fetched) -> Result<Sealed, String> {
        self.0.verify(chunk).map_err(|e| e.to_string())
    }
    fn finish(self: Box<Self>) -> Result<(), String> {
        self.0.finish().map_err(|e| e.to_string())
    }
}
