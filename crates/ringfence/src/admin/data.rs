//! `status`, `where`, `scrub` and `sweep`: what is there, and upkeep of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use ringfence_access::permit::Administer;
use ringfence_access::{Ask, Permit};
use ringfence_format::names::{BucketName, ObjectKey};
use ringfence_format::redo::{Bucket, LabelSource, Version};
use ringfence_log::Recorded;
use ringfence_store::site::Breaker;
use ringfence_store::{BadCopy, ScrubOptions, SweepError, SweepMode};
use serde_json::{Value, json};

use super::call::Progress;
use crate::cli::{Failure, Kind};
use crate::config::SiteType;
use crate::installation::{Installation, SWEEP_GRACE_MS};
use crate::upkeep::{Scrubber, Upkeep};

/// What runs, and what needs attention.
pub(super) fn status(installation: &Installation) -> Result<Value, Failure> {
    let catalog = installation.catalog();
    let totals = catalog.totals().map_err(|e| Failure::new(Kind::Unavailable, e))?;
    let log = installation.log();
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "data": installation.dir().display().to_string(),
        "s3": installation.config().s3.addr,
        "admin": installation.config().admin.addr,
        "obstacle": installation.obstacle(),
        "log": {
            "origin": log.verifier_key().name(),
            "size": log.durable_size(),
            "published": log.published_size(),
        },
        "policy_epoch": installation.engine().epoch(),
        "tenants": catalog.tenants().len(),
        "buckets": catalog.buckets().len(),
        "catalogue": {
            "versions": totals.versions,
            "bytes": totals.bytes,
            "uploads": totals.uploads,
            "garbage": totals.garbage,
        },
        "witnesses": super::witnesses::summary(installation),
        "warnings": warnings(installation),
    }))
}

fn warnings(installation: &Installation) -> Vec<String> {
    let mut warnings = Vec::new();
    if installation.vault().is_development() {
        warnings.push("the keyring is unlocked by the development key file inside the data directory".to_owned());
    }
    warnings.extend(installation.session_key_warnings());
    warnings.extend(installation.key_warnings());
    for (site, why) in installation.left_out() {
        warnings.push(format!("site `{site}` is left out until it can be opened: {why}"));
    }
    for site in installation.sites() {
        let health = site.health();
        match (health.breaker, health.passed_over) {
            (Breaker::Closed, None) => {}
            (Breaker::Closed, Some(why)) => {
                warnings.push(format!("site `{}` gets no new objects for now: {why}", site.id()));
            }
            _ => warnings.push(format!("site `{}` rests: {}", site.id(), health.why.unwrap_or_default())),
        }
    }
    match installation.alarms().waiting() {
        0 => {}
        n => warnings.push(format!("{n} alarms wait for the webhook to acknowledge them: `ringfence alarm list`")),
    }
    for site in &installation.config().site {
        let remote = site.type_ != SiteType::Directory;
        if site.kind == crate::config::SiteKind::Public && !remote {
            warnings.push(format!("site `{}` is public by configuration, but a directory of this machine", site.id));
        }
    }
    warnings
}

/// The object an operator asks about, and under which label policy sees it.
pub(super) fn ask_where(installation: &Installation, bucket: &str, key: &str) -> Result<Ask, Failure> {
    let (bucket, version) = find(installation, bucket, key)?;
    Ok(Ask::on_object("admin:Where", &bucket, &version.key, &version.label))
}

/// Where an object lies, and why there.
pub(super) fn whereabouts(installation: &Installation, bucket: &str, key: &str) -> Result<Value, Failure> {
    let (bucket, version) = find(installation, bucket, key)?;
    let allowed = installation.engine().allowed_sites(&bucket, &version.label);
    let drift: Vec<_> = version.copies.iter().map(|c| &c.site).filter(|s| !allowed.contains(s)).collect();
    let copies = version.copies.iter().map(|copy| {
        let site = installation.store().site(&copy.site).map(|site| site.info().kind);
        json!({
            "site": copy.site,
            "kind": site,
            "chunks": version.parts.iter().map(chunks).sum::<u64>(),
            "packed": copy.packed.len(),
        })
    });
    Ok(json!({
        "url": format!("s3://{}/{}", bucket.name, version.key),
        "version": version.uid,
        "label": version.label,
        "label_source": source(version.label_source),
        "pin": bucket.pin,
        "size": version.size,
        "sealed_bytes": version.parts.iter().map(|p| p.sealed_len).sum::<u64>(),
        "etag": version.etag,
        "created_ms": version.created_ms,
        "placed_by": version.placed_by,
        "policy_epoch": version.policy_epoch,
        "key_version": version.head.as_ref().map(|head| head.kek),
        "copies": copies.collect::<Vec<_>>(),
        "drift": drift,
    }))
}

fn chunks(part: &ringfence_format::redo::Part) -> u64 {
    part.sealed_len.div_ceil(u64::from(part.chunk_len.max(1))).max(1)
}

fn source(source: LabelSource) -> &'static str {
    match source {
        LabelSource::Tag => "object's tag",
        LabelSource::Bucket => "bucket's tag",
        LabelSource::Prefix => "prefix rule",
        LabelSource::Tenant => "tenant's default",
        LabelSource::Strictest => "strictest: nothing was said",
    }
}

fn find(installation: &Installation, bucket: &str, key: &str) -> Result<(Arc<Bucket>, Arc<Version>), Failure> {
    let missing = || {
        let shown: String = format!("s3://{bucket}/{key}").chars().take(200).collect();
        Failure::new(Kind::Usage, format!("there is no object `{shown}`")).next("names are exact, capitals included")
    };
    let name = BucketName::parse(bucket).map_err(|e| Failure::new(Kind::Usage, e))?;
    let key = ObjectKey::parse(key).map_err(|e| Failure::new(Kind::Usage, e))?;
    let bucket = installation.catalog().bucket_by_name(&name).ok_or_else(missing)?;
    let found = installation.catalog().locate(&bucket.id, &key, None);
    let version = found.map_err(|e| Failure::new(Kind::Unavailable, e))?;
    let version = version.filter(|v| !v.delete_marker).ok_or_else(missing)?;
    Ok((bucket, version))
}

/// The bucket an operator asks about.
pub(super) fn ask_usage(installation: &Installation, bucket: &str) -> Result<Ask, Failure> {
    let bucket = find_bucket(installation, bucket)?;
    let label = installation.labels.of_bucket(&bucket.tenant, &bucket.name, &bucket.tags);
    Ok(Ask::on_bucket("admin:Usage", &bucket, &label))
}

/// A bucket's objects and bytes by label and site, one row for each.
pub(super) fn usage(installation: &Installation, bucket: &str) -> Result<Value, Failure> {
    let bucket = find_bucket(installation, bucket)?;
    let mut sums: BTreeMap<(usize, String, String), (u64, u64, u64)> = BTreeMap::new();
    let mut after = 0;
    loop {
        let page = installation.catalog().walk(after, 1024).map_err(|e| Failure::new(Kind::Unavailable, e))?;
        let Some((last, _)) = page.last() else { break };
        after = *last;
        for (_, version) in page.iter().filter(|(_, v)| v.bucket == bucket.id && !v.delete_marker) {
            let rank = installation.labels.labels().rank(&version.label).unwrap_or(usize::MAX);
            let sealed: u64 = version.parts.iter().map(|p| p.sealed_len).sum();
            for copy in &version.copies {
                let row = sums.entry((rank, version.label.to_string(), copy.site.to_string())).or_default();
                *row = (row.0 + 1, row.1 + version.size, row.2 + sealed);
            }
        }
    }
    let rows = sums.into_iter().map(|((_, label, site), (objects, bytes, sealed))| {
        json!({ "label": label, "site": site, "objects": objects, "bytes": bytes, "sealed_bytes": sealed })
    });
    Ok(json!({ "bucket": bucket.name, "usage": rows.collect::<Vec<_>>() }))
}

fn find_bucket(installation: &Installation, bucket: &str) -> Result<Arc<Bucket>, Failure> {
    let name = BucketName::parse(bucket).map_err(|e| Failure::new(Kind::Usage, e))?;
    let found = installation.catalog().bucket_by_name(&name);
    found.ok_or_else(|| Failure::new(Kind::Usage, format!("there is no bucket `{name}`")))
}

/// Erases what deletes, overwrites and failed writes left behind.
pub(super) async fn sweep(
    installation: &Installation,
    receipt: Recorded<Permit<Administer>>,
    mode: SweepMode,
) -> Result<Value, Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::new(Kind::Unavailable, e);
    installation.sees_every_site()?;
    let erased = match mode {
        SweepMode::DryRun => None,
        _ => Some(installation.store().erase_due(0).await.map_err(|e| failed(&e))?),
    };
    let heads = Upkeep { vault: installation.vault().clone(), because: receipt };
    let report = installation.store().sweep(mode, SWEEP_GRACE_MS, &heads).await.map_err(|e| match e {
        SweepError::NotConfirmed => Failure::new(Kind::Refused, e),
        other => failed(&other),
    })?;
    let sites = report.sites.iter().map(|(name, site)| {
        let mut row = json!(site);
        row["site"] = json!(name);
        row
    });
    Ok(json!({
        "dry_run": mode == SweepMode::DryRun,
        "detached_erased": erased.as_ref().map_or(0, |e| e.erased),
        "given_up": report.given_up,
        "held_back": report.held_back,
        "sites": sites.collect::<Vec<_>>(),
    }))
}

/// Reads and authenticates every copy, and repairs bad ones from good ones.
pub(super) async fn scrub(
    installation: &Installation,
    because: Recorded<Permit<Administer>>,
    progress: &dyn Progress,
) -> Result<Value, Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::new(Kind::Unavailable, e);
    let total = installation.catalog().totals().map_err(|e| failed(&e))?.versions;
    let upkeep = Upkeep { vault: installation.vault().clone(), because };
    let scrubber = Scrubber { upkeep, store: installation.store().clone(), engine: installation.engine().clone() };
    let report = installation
        .store()
        .scrub(ScrubOptions::default(), &scrubber, |so_far| progress.at("versions", so_far.versions, total))
        .await
        .map_err(|e| failed(&e))?;
    Ok(json!({
        "versions": report.versions,
        "copies": report.copies,
        "bytes": report.bytes,
        "repaired": findings(installation, &report.repaired),
        "bad": findings(installation, &report.bad),
        "unchecked": findings(installation, &report.unchecked),
    }))
}

fn findings(installation: &Installation, copies: &[BadCopy]) -> Vec<Value> {
    let bucket = |copy: &BadCopy| {
        let version = installation.catalog().version(&copy.version).ok().flatten()?;
        Some(installation.catalog().bucket(&version.bucket)?.name.clone())
    };
    let found = copies.iter().map(|copy| {
        json!({ "site": copy.site, "bucket": bucket(copy), "key": copy.key, "version": copy.version, "why": copy.why })
    });
    found.collect()
}
