//! Erasing what the catalogue no longer counts, after a grace for readers.
//!
//! A delete or overwrite puts chunks and heads aside in `garbage`, in the
//! transaction that takes them out of sight. This worker takes them from there,
//! waits for readers that still hold them, erases them at their sites and then
//! forgets the rows. A crash in between erases twice, which is harmless: names
//! are never used again.

use std::sync::PoisonError;

use ringfence_format::chunk::{chunk_name, head_name};
use ringfence_format::names::{InstallationId, SiteId, UploadId, VersionUid};
use ringfence_format::redo::PackAddr;

use crate::act::Act;
use crate::apply::{KIND_CHUNKS, KIND_HEAD};
use crate::authority::Held;
use crate::commit::CommitError;
use crate::copies::Detached;
use crate::site::{Site, SiteError};
use crate::store::Store;
use crate::unclaimed::Abandoned;

/// Rows taken at once; each may name many chunks.
const ROWS_AT_ONCE: usize = 256;
/// Names in one request to a site.
const NAMES_AT_ONCE: usize = 256;
/// Longer than any write to a site may still be under way after its attempt
/// was given up, so that it is not written behind the eraser's back.
const ABANDONED_GRACE_MS: u64 = 5 * 60 * 1000;

/// What one round of erasing did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Erased {
    /// Chunk series and heads erased.
    pub erased: u64,
    /// Left because somebody still reads them.
    pub in_use: u64,
    /// Write attempts of this process given up on record.
    pub given_up: u64,
    /// Sites that could not be reached, and what they said.
    pub failed: Vec<(SiteId, String)>,
}

/// Why something was not erased at once.
#[derive(Debug, thiserror::Error)]
pub enum EraseNowError {
    /// Its site is not open.
    #[error("site `{0}` is not open: it is erased there once it is")]
    NotOpen(SiteId),
    /// What the site said.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// The catalogue's file failed.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl Store {
    /// Erases, at every open site, what was detached more than `grace_ms` ago
    /// and is not being read, and gives up failed writes of this process. Call
    /// it every few seconds.
    ///
    /// # Errors
    /// Whatever the catalogue or the log says. A site that fails is reported,
    /// not an error: its rows stay and are tried again.
    pub async fn erase_due(&self, grace_ms: u64) -> Result<Erased, CommitError> {
        let mut report = Erased { given_up: self.give_up().await?, ..Erased::default() };
        let before = self.now_ms().saturating_sub(grace_ms);
        for site in self.sites() {
            if let Err(error) = self.erase_at(&site, before, &mut report).await? {
                report.failed.push((site.id().clone(), error.to_string()));
            }
        }
        metrics::counter!("ringfence_erased").increment(report.erased);
        Ok(report)
    }

    /// Erases now what was detached of these attempts and heads, at these
    /// sites only, and waits for no reader: for what may no longer lie there.
    /// Everything else keeps its grace.
    ///
    /// # Errors
    /// [`EraseNowError`]: what is left stays detached, and
    /// [`erase_due`](Self::erase_due) goes on trying.
    pub async fn erase_now(&self, ids: &[UploadId], sites: &[SiteId]) -> Result<u64, EraseNowError> {
        let mut erased = 0;
        for id in sites {
            let mut due = Vec::new();
            for attempt in ids {
                due.extend(self.detached_of(id, attempt)?);
            }
            if due.is_empty() {
                continue;
            }
            let site = self.site(id).ok_or_else(|| EraseNowError::NotOpen(id.clone()))?;
            let done: Vec<_> = due.iter().map(|row| (row.kind, row.id)).collect();
            erased += done.len() as u64;
            self.erase(&site, due).await?;
            self.forget(id.clone(), done).await?;
        }
        metrics::counter!("ringfence_erased").increment(erased);
        Ok(erased)
    }

    /// Notes that a version took the place of one that must be erased at these
    /// sites before anybody is told that it did.
    pub fn owe_erasure(&self, version: VersionUid, ids: Vec<UploadId>, sites: Vec<SiteId>) {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner).insert(version, (ids, sites));
    }

    /// Erases now what is owed for this version, if anything is.
    ///
    /// # Errors
    /// As for [`erase_now`](Self::erase_now); it is still owed then. A crash
    /// forgets the debt and not the rows: [`erase_due`](Self::erase_due) pays.
    pub async fn settle_erasure(&self, version: &VersionUid) -> Result<(), EraseNowError> {
        let owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner).get(version).cloned();
        let Some((ids, sites)) = owed else { return Ok(()) };
        let _erased = self.erase_now(&ids, &sites).await?;
        self.owed.lock().unwrap_or_else(PoisonError::into_inner).remove(version);
        Ok(())
    }

    fn detached_of(&self, site: &SiteId, id: &UploadId) -> Result<Vec<Detached>, CommitError> {
        let rows = self.catalog().read(|db| {
            db.prepare_cached(
                "SELECT kind, id, chunks, pack, pack_offset, pack_len FROM garbage
                 WHERE site = ?1 AND kind IN (0, 1) AND id = ?2",
            )?
            .query_map((site.as_str(), id.as_bytes()), Detached::from_row)?
            .collect()
        })?;
        Ok(rows)
    }

    async fn erase_at(
        &self,
        site: &Site,
        before_ms: u64,
        report: &mut Erased,
    ) -> Result<Result<(), SiteError>, CommitError> {
        let mut skip = 0;
        loop {
            let rows = self.detached_at(site.id(), before_ms, skip)?;
            let taken = rows.len();
            let (due, in_use): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| !self.readers.is_read(&row.id));
            report.in_use += in_use.len() as u64;
            skip += in_use.len();
            let ids: Vec<_> = due.iter().map(|row| (row.kind, row.id)).collect();
            if let Err(error) = self.erase(site, due).await {
                return Ok(Err(error));
            }
            report.erased += ids.len() as u64;
            self.forget(site.id().clone(), ids).await?;
            if taken < ROWS_AT_ONCE {
                return Ok(Ok(()));
            }
        }
    }

    /// Erases at one site what the evidence names.
    pub(crate) async fn erase(&self, site: &Site, detached: Vec<Detached>) -> Result<(), SiteError> {
        let mut names = Vec::new();
        for row in &detached {
            names.extend(names_of(&self.installation, row));
            if names.len() >= NAMES_AT_ONCE {
                site.delete_many(std::mem::take(&mut names)).await?;
            }
        }
        if names.is_empty() { Ok(()) } else { site.delete_many(names).await }
    }

    fn detached_at(&self, site: &SiteId, before_ms: u64, skip: usize) -> Result<Vec<Detached>, CommitError> {
        let rows = self.catalog().read(|db| {
            db.prepare_cached(
                "SELECT kind, id, chunks, pack, pack_offset, pack_len FROM garbage
                 WHERE site = ?1 AND since_ms <= ?2 ORDER BY since_ms LIMIT ?3 OFFSET ?4",
            )?
            .query_map((site.as_str(), before_ms, ROWS_AT_ONCE, skip), Detached::from_row)?
            .collect()
        })?;
        Ok(rows)
    }

    async fn forget(&self, site: SiteId, ids: Vec<(i64, UploadId)>) -> Result<(), CommitError> {
        if ids.is_empty() {
            return Ok(());
        }
        self.chore(move |db| {
            let mut forget = db.prepare_cached("DELETE FROM garbage WHERE site = ?1 AND kind = ?2 AND id = ?3")?;
            ids.iter().try_for_each(|(kind, id)| forget.execute((site.as_str(), kind, id.as_bytes())).map(drop))
        })
        .await
    }

    /// Puts on record that failed writes of this process came to nothing, and
    /// erases what they left. What cannot be erased now is found by sweep.
    async fn give_up(&self) -> Result<u64, CommitError> {
        let due = self.attic.take(self.now_ms().saturating_sub(ABANDONED_GRACE_MS));
        if due.is_empty() {
            return Ok(0);
        }
        let ids = due.iter().map(|abandoned| abandoned.id).collect();
        let held = Held::system("system:AbortWrites", Some("writes that failed".to_owned()));
        if let Err(error) = self.submit(Act::AbortWrites(held, ids)).await {
            self.attic.put_back(due);
            return Err(error);
        }
        for abandoned in &due {
            self.erase_abandoned(abandoned).await;
        }
        Ok(due.len() as u64)
    }

    async fn erase_abandoned(&self, abandoned: &Abandoned) {
        for site in abandoned.sites.iter().filter_map(|id| self.site(id)) {
            let at = abandoned.packed.iter().find(|(id, _)| id == site.id()).map(|(_, at)| *at);
            let detached = Detached::aborted(abandoned.id, abandoned.kind, abandoned.chunks, at);
            if let Err(error) = self.erase(&site, vec![detached]).await {
                tracing::warn!("{error}; sweep will try again");
            }
        }
    }
}

fn names_of(installation: &InstallationId, row: &Detached) -> Vec<(String, Option<PackAddr>)> {
    match row.kind {
        KIND_HEAD => vec![(head_name(installation, &row.id), row.at)],
        _ => (0..row.chunks).map(|index| (chunk_name(installation, &row.id, index), row.at)).collect(),
    }
}

const _: () = assert!(KIND_CHUNKS != KIND_HEAD);
