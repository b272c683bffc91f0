//! `keys backup` and `keys rotate`.

use std::path::Path;

use ringfence_access::permit::Administer;
use ringfence_access::{Ask, Permit};
use ringfence_format::names::{ObjectVersion, Tenant};
use ringfence_format::redo::{Bucket, Version};
use ringfence_log::Recorded;
use ringfence_store::NewHead;
use ringfence_vault::{Passphrase, VaultError};
use serde_json::{Value, json};

use super::call::{Progress, Secret};
use super::handle::known_tenant;
use crate::cli::{Failure, Kind};
use crate::installation::Installation;

/// Versions re-wrapped under one record.
const AT_ONCE: usize = 128;
/// A version that was written under the old key while the walk was beyond it
/// is met by the next walk.
const WALKS_MAX: usize = 3;

/// Seals the whole keyring into one file, under a passphrase of its own.
pub(super) fn backup(
    installation: &Installation,
    _because: &Recorded<Permit<Administer>>,
    file: &Path,
    passphrase: Secret,
) -> Result<Value, Failure> {
    let written = installation.vault().backup(file, Passphrase::new(passphrase.0));
    written.map_err(|e| Failure::new(Kind::Usage, e))?;
    Ok(json!({ "file": file.display().to_string() }))
}

/// New key versions, and every object under them. What is cut off is finished
/// by running it again: objects stay readable under either version.
pub(super) async fn rotate(
    installation: &Installation,
    because: &Recorded<Permit<Administer>>,
    of: Option<&str>,
    progress: &dyn Progress,
) -> Result<Value, Failure> {
    let tenants = match of {
        Some(name) => vec![known_tenant(installation, name)?],
        None => installation.catalog().tenants().iter().map(|row| row.name.clone()).collect(),
    };
    let mut rows = Vec::new();
    let mut failed = 0;
    for tenant in tenants {
        let rotation = Rotation { installation, because, tenant: &tenant, progress };
        let (row, not_done) = rotation.run().await?;
        rows.push(row);
        failed += not_done;
    }
    Ok(json!({ "tenants": rows, "failed": failed }))
}

struct Rotation<'a> {
    installation: &'a Installation,
    because: &'a Recorded<Permit<Administer>>,
    tenant: &'a Tenant,
    progress: &'a dyn Progress,
}

impl Rotation<'_> {
    async fn run(&self) -> Result<(Value, u64), Failure> {
        let (vault, realm) = (self.installation.vault(), &self.installation.realm_of(self.tenant));
        let version = vault.rotate_kek(self.because, realm, self.tenant).map_err(unavailable)?;
        let (mut rewrapped, mut failed) = (0, 0);
        for _ in 0..WALKS_MAX {
            let (done, not_done) = self.walk(version).await?;
            rewrapped += done;
            failed = not_done;
            if done == 0 && not_done == 0 {
                break;
            }
        }
        let remaining = self.remaining(version)?;
        let retired = if remaining == 0 { self.retire(version)? } else { vec![] };
        let row = json!({
            "tenant": self.tenant,
            "version": version,
            "rewrapped": rewrapped,
            "remaining": remaining,
            "retired": retired,
        });
        Ok((row, failed))
    }

    /// Re-wraps everything that is under another key: how many, and how many not.
    async fn walk(&self, current: u32) -> Result<(u64, u64), Failure> {
        let catalog = self.installation.catalog();
        let total = catalog.totals().map_err(unavailable)?.versions;
        let (mut after, mut seen, mut done, mut failed) = (0, 0, 0, 0);
        loop {
            let versions = catalog.walk(after, AT_ONCE).map_err(unavailable)?;
            let Some((last, _)) = versions.last() else { return Ok((done, failed)) };
            after = *last;
            seen += versions.len() as u64;
            let mut heads = Vec::new();
            for (_, version) in versions {
                let Some(bucket) = self.bucket_of(&version, current) else { continue };
                match self.rewrap(&version, &bucket).await {
                    Ok(head) => heads.push(head),
                    Err(error) => {
                        tracing::warn!("a version could not be re-wrapped, it stays readable: {error}");
                        failed += 1;
                    }
                }
            }
            done += self.commit(heads).await?;
            self.progress.at("re-wrapping", seen.min(total), total);
        }
    }

    /// The bucket of a version that is this tenant's and under an older key.
    fn bucket_of(&self, version: &Version, current: u32) -> Option<std::sync::Arc<Bucket>> {
        let older = version.head.as_ref().is_some_and(|head| head.kek != current);
        let bucket = if older { self.installation.catalog().bucket(&version.bucket)? } else { return None };
        (bucket.tenant == *self.tenant).then_some(bucket)
    }

    async fn rewrap(&self, version: &Version, bucket: &Bucket) -> Result<NewHead, String> {
        let (vault, store) = (self.installation.vault(), self.installation.store());
        let object = ObjectVersion {
            realm: self.installation.realm_of(self.tenant),
            tenant: self.tenant.clone(),
            bucket: version.bucket,
            version: version.uid,
        };
        let old = version.head.as_ref().ok_or("it has no head")?;
        let head = vault.rewrap(self.because, &object, old).map_err(|e| e.to_string())?;
        let renewed = Version { head: Some(head.clone()), ..version.clone() };
        let sealed = vault.reseal_head(self.because, &object, &head, &renewed, bucket).map_err(|e| e.to_string())?;
        let heads = store.put_new_heads(version, sealed).await.map_err(|e| e.to_string())?;
        let Version { label, label_source, tags, .. } = renewed;
        Ok(NewHead { heads, head, label, label_source, tags })
    }

    /// One record for a batch of new heads. Versions that changed meanwhile are
    /// left out and met by the next walk.
    async fn commit(&self, heads: Vec<NewHead>) -> Result<u64, Failure> {
        if heads.is_empty() {
            return Ok(0);
        }
        let ask = Ask::on_tenant("system:Rewrap", self.tenant);
        let permit = self.installation.system_permit("rotate", ask).await?;
        match self.installation.store().rewrap(permit, heads).await {
            Ok(committed) => match committed.outcome() {
                ringfence_store::Outcome::Reheaded(which) => Ok(which.len() as u64),
                _ => Ok(0),
            },
            Err(ringfence_store::CommitError::Conflict(_)) => Ok(0),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// Versions and uploads still under an older key.
    fn remaining(&self, current: u32) -> Result<u64, Failure> {
        let catalog = self.installation.catalog();
        let (mut after, mut count) = (0, 0);
        loop {
            let versions = catalog.walk(after, 4096).map_err(unavailable)?;
            let Some((last, _)) = versions.last() else { break };
            after = *last;
            count += versions.iter().filter(|(_, v)| self.bucket_of(v, current).is_some()).count() as u64;
        }
        let mut after = None;
        loop {
            let uploads = catalog.walk_uploads(after.as_ref(), 4096).map_err(unavailable)?;
            let Some(last) = uploads.last() else { return Ok(count) };
            after = Some(last.id);
            count += uploads.iter().filter(|u| self.bucket_of(&u.version, current).is_some()).count() as u64;
        }
    }

    /// Destroys the older versions, if nothing is left under them. Counted
    /// again once nothing new can be sealed under them; one that a put still
    /// seals under stays until the next rotation.
    fn retire(&self, current: u32) -> Result<Vec<u32>, Failure> {
        let (vault, realm) = (self.installation.vault(), &self.installation.realm_of(self.tenant));
        let all = vault.kek_versions(realm, self.tenant).map_err(unavailable)?.all;
        let mut retired = Vec::new();
        for version in all.into_iter().filter(|version| *version < current) {
            let retiring = match vault.retire_kek(self.because, realm, self.tenant, version) {
                Err(VaultError::KekInUse { .. }) => continue,
                retiring => retiring.map_err(unavailable)?,
            };
            if self.remaining(current)? == 0 {
                retiring.finish(0).map_err(unavailable)?;
                retired.push(version);
            }
        }
        Ok(retired)
    }
}

fn unavailable(error: impl std::fmt::Display) -> Failure {
    Failure::new(Kind::Unavailable, error.to_string())
}
