//! Scrub: reads every copy of every version again and has the vault
//! authenticate it, at a bounded rate.
//!
//! It finds what a read would find too late: a copy that was lost, cut or
//! changed at its site. A bad copy is marked, so that reads try the others
//! first, and repaired from a good one ([`crate::repair`]); where there is none,
//! it is reported. A copy that is good again loses its mark.

use std::time::Duration;

use ringfence_access::Placement;
use ringfence_format::chunk::{Layout, chunk_name};
use ringfence_format::envelope::{Fetched, Sealed};
use ringfence_format::names::{ObjectKey, SiteId, VersionUid};
use ringfence_format::redo::{Copy, Part, Version};

use crate::commit::CommitError;
use crate::site::{Site, SiteError};
use crate::store::Store;

/// Bytes asked of a site at once.
const PIECE: u64 = 4 * 1024 * 1024;
/// Versions taken from the catalogue at once.
const VERSIONS_AT_ONCE: usize = 64;

/// Authenticates what sites give back; the vault implements it.
pub trait Authenticate: Send + Sync {
    /// Begins to check one part of a version.
    ///
    /// # Errors
    /// Why it cannot be checked, such as a missing key; that is not the copy's
    /// fault and is reported apart.
    fn part(&self, version: &Version, part: &Part) -> Result<Box<dyn PartCheck>, String>;

    /// Checks a head: authentic, and of this version.
    ///
    /// # Errors
    /// Why it is not.
    fn head(&self, version: &Version, head: &Fetched) -> Result<(), String>;

    /// Checks a head and vouches for its bytes.
    ///
    /// # Errors
    /// Why it is not authentic, or not of this version.
    fn sealed_head(&self, version: &Version, head: Fetched) -> Result<Sealed, String>;

    /// Asks policy whether a copy may be written again where it lies already:
    /// what may no longer be there is not repaired there.
    ///
    /// # Errors
    /// What policy says against it.
    fn place(&self, version: &Version, site: &SiteId) -> Result<Placement, String>;
}

/// The check of one part under way.
pub trait PartCheck: Send {
    /// Takes the next ciphertext, in order from the first byte of the part.
    ///
    /// # Errors
    /// Why it is not authentic.
    fn push(&mut self, bytes: &Fetched) -> Result<(), String>;
    /// Takes the whole next chunk and vouches for it.
    ///
    /// # Errors
    /// Why it is not authentic.
    fn verify(&mut self, chunk: Fetched) -> Result<Sealed, String>;
    /// Says whether all of it came.
    ///
    /// # Errors
    /// What is missing.
    fn finish(self: Box<Self>) -> Result<(), String>;
}

/// How a scrub runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScrubOptions {
    /// Ciphertext bytes per second; 0 for no limit.
    pub bytes_per_s: u64,
    /// Where to go on: [`ScrubReport::next`] of the run before; 0 begins.
    pub from: i64,
    /// Versions to check at most; 0 for all.
    pub versions_max: u64,
}

/// A copy that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct BadCopy {
    /// Of which version.
    pub version: VersionUid,
    /// Its key.
    pub key: ObjectKey,
    /// Where it lies.
    pub site: SiteId,
    /// What is wrong.
    pub why: String,
}

/// What a scrub found.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ScrubReport {
    /// Versions checked.
    pub versions: u64,
    /// Copies checked.
    pub copies: u64,
    /// Ciphertext bytes read.
    pub bytes: u64,
    /// Copies that were damaged or gone and are good again: written anew from
    /// another copy, then read and authenticated.
    pub repaired: Vec<BadCopy>,
    /// Copies that are damaged or gone, and stay so: no other copy is good, or
    /// the repair failed.
    pub bad: Vec<BadCopy>,
    /// Copies that could not be checked: the site did not answer, or the key
    /// is not there.
    pub unchecked: Vec<BadCopy>,
    /// Where the next run goes on; `None` where this one came to the end.
    pub next: Option<i64>,
}

impl Store {
    /// Checks versions in the order they were written. `progress` is called
    /// after each with what was found so far.
    ///
    /// # Errors
    /// Whatever the catalogue says.
    pub async fn scrub(
        &self,
        options: ScrubOptions,
        vault: &dyn Authenticate,
        mut progress: impl FnMut(&ScrubReport) + Send,
    ) -> Result<ScrubReport, CommitError> {
        let mut report = ScrubReport::default();
        let mut at = options.from;
        loop {
            let versions = self.catalog().walk(at, VERSIONS_AT_ONCE)?;
            let last = versions.len() < VERSIONS_AT_ONCE;
            for (row, version) in versions {
                at = row;
                self.scrub_version(&version, options, vault, &mut report).await?;
                report.versions += 1;
                progress(&report);
                if report.versions == options.versions_max {
                    report.next = Some(at);
                    return Ok(report);
                }
            }
            if last {
                return Ok(report);
            }
        }
    }

    async fn scrub_version(
        &self,
        version: &Version,
        options: ScrubOptions,
        vault: &dyn Authenticate,
        report: &mut ScrubReport,
    ) -> Result<(), CommitError> {
        let _pin = self.readers.pin(version.parts.iter().map(|part| part.upload).collect());
        let mut good = None;
        let mut broken = Vec::new();
        for copy in &version.copies {
            let verdict = self.check_copy(version, copy, options, vault, report).await;
            report.copies += 1;
            let bad = |why| BadCopy { version: version.uid, key: version.key.clone(), site: copy.site.clone(), why };
            match verdict {
                Ok(()) => {
                    good = Some(copy);
                    self.mark(version.uid, &copy.site, None).await?;
                }
                Err(Trouble::Unchecked(why)) => report.unchecked.push(bad(why)),
                Err(Trouble::Bad(_)) if self.has_changed(version)? => {}
                Err(Trouble::Bad(why)) => {
                    tracing::warn!("a copy of version {} at site `{}` is bad: {why}", version.uid, copy.site);
                    metrics::counter!("ringfence_bad_copies", "site" => copy.site.to_string()).increment(1);
                    self.mark(version.uid, &copy.site, Some(why.clone())).await?;
                    broken.push((copy, why));
                }
            }
        }
        for (copy, why) in broken {
            let bad = |why| BadCopy { version: version.uid, key: version.key.clone(), site: copy.site.clone(), why };
            let Some(good) = good else {
                report.bad.push(bad(format!("{why}; no other copy is good")));
                continue;
            };
            match self.repair(version, copy, good, options, vault, report, &why).await? {
                Ok(()) => report.repaired.push(bad(why)),
                Err(still) => report.bad.push(bad(format!("{why}; not repaired: {still}"))),
            }
        }
        Ok(())
    }

    /// Whether it was replaced, deleted or moved while it was read.
    fn has_changed(&self, version: &Version) -> Result<bool, CommitError> {
        let now = self.catalog().version(&version.uid)?;
        Ok(now.is_none_or(|now| now.copies != version.copies))
    }

    pub(crate) async fn check_copy(
        &self,
        version: &Version,
        copy: &Copy,
        options: ScrubOptions,
        vault: &dyn Authenticate,
        report: &mut ScrubReport,
    ) -> Result<(), Trouble> {
        let site = self.site(&copy.site).ok_or_else(|| Trouble::Unchecked("its site is not open".to_owned()))?;
        let name = ringfence_format::chunk::head_name(&self.installation, &copy.head);
        let head = site.get(&name, copy.head_at, None).await?;
        report.bytes += head.len() as u64;
        vault.head(version, &head).map_err(|why| Trouble::Bad(format!("its head: {why}")))?;
        for part in &version.parts {
            let mut check = vault.part(version, part).map_err(Trouble::Unchecked)?;
            self.read_part(&site, copy, part, options, report, &mut *check).await?;
            check.finish().map_err(Trouble::Bad)?;
        }
        Ok(())
    }

    async fn read_part(
        &self,
        site: &Site,
        copy: &Copy,
        part: &Part,
        options: ScrubOptions,
        report: &mut ScrubReport,
        check: &mut dyn PartCheck,
    ) -> Result<(), Trouble> {
        let layout = Layout::of(part).map_err(|why| Trouble::Bad(why.to_string()))?;
        let at = copy.packed.iter().find(|packed| packed.part == part.id).map(|packed| packed.at);
        for index in 0..layout.chunks() {
            let name = chunk_name(&self.installation, &part.upload, index);
            let chunk = layout.chunk(index).expect("the index is below the number of chunks");
            let len = chunk.end - chunk.start;
            let mut from = 0;
            while from < len {
                let to = (from + PIECE).min(len);
                let bytes = site.get(&name, at, Some(from..to)).await?;
                check.push(&bytes).map_err(Trouble::Bad)?;
                report.bytes += to - from;
                pause(options.bytes_per_s, to - from).await;
                from = to;
            }
        }
        Ok(())
    }

    pub(crate) async fn mark(&self, uid: VersionUid, site: &SiteId, bad: Option<String>) -> Result<(), CommitError> {
        let marked = self.catalog().is_bad(&uid, site)?;
        if bad.is_none() && !marked {
            return Ok(());
        }
        let (site, now_ms) = (site.clone(), self.now_ms());
        self.chore(move |db| match bad {
            Some(why) => db
                .execute(
                    "INSERT OR REPLACE INTO bad_copy VALUES(?1, ?2, ?3, ?4)",
                    (uid.as_bytes(), site.as_str(), why, now_ms),
                )
                .map(drop),
            None => db
                .execute("DELETE FROM bad_copy WHERE uid = ?1 AND site = ?2", (uid.as_bytes(), site.as_str()))
                .map(drop),
        })
        .await
    }
}

/// What is wrong, and whose fault it is.
pub(crate) enum Trouble {
    /// The copy's.
    Bad(String),
    /// Nobody knows yet.
    Unchecked(String),
}

impl From<SiteError> for Trouble {
    fn from(error: SiteError) -> Self {
        match error {
            SiteError::NotFound { .. } | SiteError::Corrupt { .. } => Self::Bad(error.to_string()),
            _ => Self::Unchecked(error.to_string()),
        }
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bad(why) | Self::Unchecked(why) => f.write_str(why),
        }
    }
}

/// Spreads the reading out to the rate asked for.
pub(crate) async fn pause(bytes_per_s: u64, bytes: u64) {
    if let Some(micros) = bytes.saturating_mul(1_000_000).checked_div(bytes_per_s) {
        tokio::time::sleep(Duration::from_micros(micros)).await;
    }
}
