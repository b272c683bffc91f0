//! From the configuration to open sites.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use ringfence_access::{Setting, SiteFacts, SiteKind as Kind};
use ringfence_db::disk::{Disk, Durable, RealDisk};
use ringfence_format::names::{InstallationId, SiteId};
use ringfence_store::site::{
    FirstUse, Patience, RemoteConfig, SecretRef, Service, Site, SiteCredential, SiteError, SiteInfo, SiteKind, Tenancy,
};

use super::cannot;
use crate::cli::{self, Failure};
use crate::config::{self, Config, SiteType};

/// The ids of sites that were opened once, one a line. A directory site that
/// is here and has lost its marker is a disk that is not mounted, not a new site.
const USED: &str = "sites.used";

/// A site that could not be opened, and why. It is left out until it can be:
/// what lies only there answers 503, everything else goes on.
pub type LeftOut = (SiteId, String);

/// Opens the sites that can be opened.
///
/// # Errors
/// A site is misconfigured, or none of the private ones can be opened.
pub(super) fn open_those_there(
    dir: &Path,
    config: &Config,
    id: InstallationId,
) -> Result<(Vec<Site>, Vec<LeftOut>), Failure> {
    let used = read_used(dir)?;
    let (mut open, mut left_out) = (Vec::new(), Vec::new());
    for site in &config.site {
        match open_one(dir, site, id, used.contains(&site.id)) {
            Ok(site) => open.push(site),
            Err(failure) if failure.kind == cli::Kind::Unavailable => {
                tracing::error!(site = %site.id, "the site is left out until it can be opened: {failure}");
                left_out.push((site.id.clone(), failure.message));
            }
            Err(failure) => return Err(failure),
        }
    }
    if open.iter().any(|site| site.info().kind == SiteKind::Private) {
        return Ok((open, left_out));
    }
    let why = left_out.first().map_or("there is none", |(_, why)| why);
    Err(Failure::new(cli::Kind::Unavailable, format!("no private site can be opened: {why}")))
}

/// Opens one configured site that was left out at the start.
pub(super) fn open_left_out(
    dir: &Path,
    config: &Config,
    installation: InstallationId,
    id: &SiteId,
) -> Result<Site, Failure> {
    let used = read_used(dir)?;
    let site = config.site.iter().find(|site| site.id == *id);
    let site = site.ok_or_else(|| Failure::internal(format!("site `{id}` is not configured")))?;
    open_one(dir, site, installation, used.contains(id))
}

/// Opens every configured site.
pub(super) fn open(dir: &Path, config: &Config, id: InstallationId) -> Result<Vec<Site>, Failure> {
    let used = read_used(dir)?;
    config.site.iter().map(|site| open_one(dir, site, id, used.contains(&site.id))).collect()
}

/// Remembers that these sites were opened; after the catalogue is there.
pub(super) fn remember(dir: &Path, opened: impl Iterator<Item = SiteId>) -> Result<(), Failure> {
    let used = read_used(dir)?;
    let all: BTreeSet<SiteId> = used.iter().cloned().chain(opened).collect();
    if all.len() == used.len() {
        return Ok(());
    }
    let text: String = all.iter().map(|id| format!("{id}\n")).collect();
    RealDisk.replace(&dir.join(USED), text.as_bytes(), Durable::Yes).map_err(|e| cannot(&format!("write `{USED}`"), e))
}

/// Whether sites were ever used: then there may be data at them.
pub(super) fn were_used(dir: &Path) -> bool {
    dir.join(USED).exists()
}

fn open_one(dir: &Path, site: &config::Site, id: InstallationId, used: bool) -> Result<Site, Failure> {
    let failed = |e: SiteError| {
        let kind = match &e {
            SiteError::Config { .. } => cli::Kind::Configuration,
            _ => cli::Kind::Unavailable,
        };
        Failure::new(kind, e).next(format!("see `[[site]]` `{}` in ringfence.toml", site.id))
    };
    let service = match site.type_ {
        SiteType::Directory => {
            let path = dir.join(site.path.as_deref().unwrap_or_else(|| Path::new("")));
            let first_use = if used { FirstUse::Refuse } else { FirstUse::Create };
            return Site::open_dir(info(site), &path, id, first_use, RealDisk::shared()).map_err(failed);
        }
        SiteType::S3 => Service::S3,
        SiteType::Azure => Service::Azure,
        SiteType::Gcs => Service::Gcs,
    };
    let remote = RemoteConfig {
        service,
        endpoint: site.endpoint.clone(),
        bucket: site.bucket.clone().unwrap_or_default(),
        prefix: site.prefix.clone().unwrap_or_default(),
        region: site.region.clone(),
    };
    let credential = credential(dir, site).map_err(failed)?;
    Site::open_remote(info(site), &remote, credential).map_err(failed)
}

/// References only: the bytes are read inside `store::site` (ruling 19).
fn credential(dir: &Path, site: &config::Site) -> Result<SiteCredential, SiteError> {
    let reference = |secret: &config::SecretRef| match secret {
        config::SecretRef::Env(name) => SecretRef::Env(name.clone()),
        config::SecretRef::File(path) => SecretRef::File(dir.join(path)),
    };
    match (site.type_, &site.access_key_id, &site.secret_access_key, &site.account_key, &site.credential) {
        (SiteType::S3, Some(id), Some(secret), _, _) => {
            SiteCredential::s3(&site.id, &reference(id), &reference(secret))
        }
        (SiteType::Azure, _, _, Some(key), _) => {
            SiteCredential::azure(&site.id, site.account.as_deref().unwrap_or_default(), &reference(key))
        }
        (SiteType::Gcs, _, _, _, Some(json)) => SiteCredential::gcs(&site.id, &reference(json)),
        _ => Ok(SiteCredential::anonymous()),
    }
}

fn info(site: &config::Site) -> SiteInfo {
    let kind = match site.kind {
        config::SiteKind::Private => SiteKind::Private,
        config::SiteKind::Public => SiteKind::Public,
    };
    SiteInfo {
        tenancy: if site.dedicated { Tenancy::Dedicated } else { Tenancy::Shared },
        tags: site.tags.iter().map(|tag| (tag.clone(), String::new())).collect(),
        patience: Patience {
            attempt_timeout: Duration::from_secs(site.timeout_s),
            attempts_max: site.retries.saturating_add(1),
            retry_budget: site.retry_budget,
            failures_max: site.failures_max,
            rest_min: Duration::from_secs(site.rest_s),
            rest_max: Duration::from_secs(site.rest_max_s),
            ..Patience::default()
        },
        ..SiteInfo::new(site.id.clone(), kind, &site.jurisdiction, &site.provider)
    }
}

/// Labels, sites and placement tables, as policies see them.
pub(super) fn setting(config: &Config) -> Result<Setting, Failure> {
    let wrong = |e: &dyn std::fmt::Display| Failure::new(cli::Kind::Configuration, e);
    let labels = ringfence_access::Labels::new(config.labels.order.clone()).map_err(|e| wrong(&e))?;
    let facts = config.site.iter().map(|site| SiteFacts {
        id: site.id.clone(),
        kind: match site.kind {
            config::SiteKind::Private => Kind::Private,
            config::SiteKind::Public => Kind::Public,
        },
        jurisdiction: site.jurisdiction.clone(),
        provider: site.provider.clone(),
        dedicated: site.dedicated,
        tags: site.tags.clone(),
    });
    let placement = config.placement.iter().map(|(label, rule)| {
        (label.clone(), ringfence_access::PlacementRule { prefer: rule.prefer.clone(), copies: rule.copies })
    });
    Setting::new(labels, facts.collect(), placement.collect()).map_err(|e| wrong(&e))
}

fn read_used(dir: &Path) -> Result<BTreeSet<SiteId>, Failure> {
    match std::fs::read_to_string(dir.join(USED)) {
        Ok(text) => Ok(text.lines().filter_map(|line| SiteId::parse(line).ok()).collect()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(e) => Err(cannot(&format!("read `{USED}`"), e)),
    }
}
