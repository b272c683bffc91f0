//! Sweep: erasing what attempts left behind that came to nothing.
//!
//! It erases only chunks that carry this installation's id and that the log
//! shows as given up (ruling 13); "not in the catalogue" is never enough. So it
//! first finds attempts that cannot have succeeded, puts that on record
//! (`AbortWrites`), and only then erases them. An attempt that may have
//! succeeded is left alone:
//!
//! - made by a process whose start this log does not know: the log or the
//!   catalogue is older than the sites (`unknown`);
//! - made by this process: it may be under way (`in_use`);
//! - with a head that was written after the last record of its process: the
//!   log that knew it may be lost, and `recover` would find it (`recoverable`);
//! - younger than the grace.
//!
//! It refuses while the catalogue is behind the log, after a recovery until a
//! dry run was looked at, and erases no new orphans while a site is
//! unreachable: a head there might claim them.

use std::collections::{BTreeMap, HashMap, HashSet};

use ringfence_format::envelope::Fetched;
use ringfence_format::head::Manifest;
use ringfence_format::names::{Realm, SiteId, UploadId};

use crate::act::Act;
use crate::apply::{KIND_CHUNKS, KIND_HEAD};
use crate::authority::Held;
use crate::catalog::Catalog;
use crate::commit::CommitError;
use crate::copies::Detached;
use crate::inventory::{self, Found, Inventory};
use crate::rows::{self, Rows, meta};
use crate::site::Site;
use crate::store::Store;

/// Ids in one `AbortWrites` record.
const ABORTED_AT_ONCE: usize = 1000;

/// Opens heads; the vault implements it, since the store cannot name a key.
pub trait OpenHead: Send + Sync {
    /// What a head says, authenticated, or why it cannot be opened.
    fn open_head(&self, head: &Fetched) -> Result<OpenedHead, String>;
}

/// A head that was opened.
#[derive(Clone, Debug)]
pub struct OpenedHead {
    /// The realm whose key opened it.
    pub realm: Realm,
    /// What it says.
    pub manifest: Manifest,
}

/// What a sweep may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SweepMode {
    /// Report only.
    DryRun,
    /// Erase; refused after a recovery.
    Erase,
    /// Erase after a recovery, once a dry run of it was looked at.
    EraseRecovered,
}

/// Why a sweep did not begin.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The catalogue was rebuilt: look first.
    #[error(
        "the catalogue was recovered: run `ringfence sweep --dry-run`, look at its report, then `ringfence sweep --confirm-recovered`"
    )]
    NotConfirmed,
    /// The catalogue or the log failed, or the catalogue is behind the log.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The scratch file failed.
    #[error("the scratch tables of the sweep failed: {0}")]
    Scratch(ringfence_db::rusqlite::Error),
}

/// What a sweep found at one site.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct SweepSite {
    /// Things of this installation.
    pub listed: u64,
    /// Referred to by the catalogue.
    pub live: u64,
    /// Detached by a delete or overwrite; the eraser takes them.
    pub detached: u64,
    /// Of attempts that the log shows as given up, before or by this sweep.
    pub orphans: u64,
    /// Bytes of those.
    pub orphan_bytes: u64,
    /// Of this process, perhaps under way.
    pub in_use: u64,
    /// Too young to judge.
    pub young: u64,
    /// Of processes this log does not know: never erased.
    pub unknown: u64,
    /// Claimed by a head that the catalogue does not know: never erased.
    pub recoverable: u64,
    /// Names that are not ours.
    pub foreign: u64,
    /// Things erased.
    pub erased: u64,
    /// Why the site could not be listed or erased from.
    pub failed: Option<String>,
}

/// What a sweep found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct SweepReport {
    /// By site.
    pub sites: BTreeMap<String, SweepSite>,
    /// Attempts that this sweep put on record as given up.
    pub given_up: u64,
    /// Why orphans that were found were left, if they were.
    pub held_back: Option<String>,
}

impl Store {
    /// Looks through every site; see the rules at the head of this module.
    /// `grace_ms` is longer than any write may last.
    ///
    /// # Errors
    /// [`SweepError::NotConfirmed`] after a recovery; nothing was erased then.
    pub async fn sweep(&self, mode: SweepMode, grace_ms: u64, heads: &dyn OpenHead) -> Result<SweepReport, SweepError> {
        self.settle().await?;
        self.check_confirmed(mode)?;
        let began_ms = self.now_ms();
        let mut sweep = Sweep::new(self.catalog(), self.incarnation, grace_ms, began_ms, self.started_ms)?;
        // What lies there first, what is referred to afterwards: nothing
        // written meanwhile can look like an orphan.
        // One set of sites throughout: one that comes back meanwhile is the
        // next sweep's.
        let sites = self.sites();
        for site in &sites {
            sweep.list(site, &self.installation).await?;
        }
        sweep.note_live(self.catalog())?;
        for site in &sites {
            sweep.judge(site.id())?;
        }
        sweep.ask_heads(self, heads).await;
        let orphans = sweep.orphans();
        if mode == SweepMode::DryRun {
            self.note_dry_run().await?;
            return Ok(sweep.report);
        }
        if sweep.report.held_back.is_none() {
            let ids: Vec<UploadId> = orphans.iter().filter(|id| !sweep.given_up.contains(id)).copied().collect();
            sweep.report.given_up = ids.len() as u64;
            self.give_up_on(&ids, &mut sweep).await?;
        }
        for site in &sites {
            self.erase_orphans(site, &mut sweep).await;
        }
        let complete = sweep.report.sites.values().all(|site| site.failed.is_none());
        self.end_sweep(mode, complete, began_ms).await?;
        Ok(sweep.report)
    }

    fn check_confirmed(&self, mode: SweepMode) -> Result<(), SweepError> {
        let recovered = self.catalog().read(|db| rows::meta_text(db, meta::RECOVERED)).map_err(CommitError::from)?;
        let fine = match recovered.as_deref() {
            None => true,
            Some("dry-run") => mode != SweepMode::Erase,
            Some(_) => mode == SweepMode::DryRun,
        };
        if fine { Ok(()) } else { Err(SweepError::NotConfirmed) }
    }

    async fn note_dry_run(&self) -> Result<(), CommitError> {
        self.chore(|db| db.execute("UPDATE meta SET value = 'dry-run' WHERE name = ?1", [meta::RECOVERED]).map(drop))
            .await
    }

    async fn give_up_on(&self, ids: &[UploadId], sweep: &mut Sweep) -> Result<(), CommitError> {
        for ids in ids.chunks(ABORTED_AT_ONCE) {
            let held = Held::system("system:Sweep", Some(format!("{} attempts came to nothing", ids.len())));
            let _on_record = self.submit(Act::AbortWrites(held, ids.to_vec())).await?;
            sweep.given_up.extend(ids);
        }
        Ok(())
    }

    /// Erases what the log shows as given up.
    async fn erase_orphans(&self, site: &Site, sweep: &mut Sweep) {
        let found = sweep.verdicts.get(site.id()).map(Vec::as_slice).unwrap_or_default();
        let due: Vec<_> = found.iter().filter(|found| sweep.given_up.contains(&found.id)).cloned().collect();
        let Some(report) = sweep.report.sites.get_mut(site.id().as_str()) else { return };
        for found in due.chunks(256) {
            let names = found.iter().map(|found| (found.name.clone(), found.at)).collect();
            // upholds INVARIANT 3: `Detached` of what an AbortWrites names.
            let evidence: Vec<_> = found.iter().map(|f| Detached::aborted(f.id, f.kind, 0, f.at)).collect();
            match site.delete_many(names).await {
                Ok(()) => report.erased += evidence.len() as u64,
                Err(error) => {
                    report.failed = Some(error.to_string());
                    return;
                }
            }
        }
    }

    /// Forgets attempts that left nothing anywhere, if every site was seen.
    async fn end_sweep(&self, mode: SweepMode, complete: bool, began_ms: u64) -> Result<(), CommitError> {
        self.chore(move |db| {
            if complete {
                db.execute("DELETE FROM aborted WHERE since_ms < ?1", [began_ms])?;
            }
            if complete && mode == SweepMode::EraseRecovered {
                db.execute("DELETE FROM meta WHERE name = ?1", [meta::RECOVERED])?;
            }
            Ok(())
        })
        .await
    }
}

struct Sweep {
    inventory: Inventory,
    /// When each process that the log knows made its last record.
    processes: HashMap<u32, Option<u64>>,
    /// Attempts that the log shows as given up.
    given_up: HashSet<UploadId>,
    /// Announced attempts of former processes.
    announced: Vec<UploadId>,
    incarnation: u32,
    young_from_ms: u64,
    /// Orphans by site, heads among them.
    verdicts: BTreeMap<SiteId, Vec<Found>>,
    /// Heads the catalogue does not know, to be opened.
    heads: Vec<(SiteId, Found)>,
    /// Attempts that such a head claims.
    claimed: HashSet<UploadId>,
    report: SweepReport,
}

impl Sweep {
    fn new(
        catalog: &Catalog,
        incarnation: u32,
        grace_ms: u64,
        now_ms: u64,
        started_ms: u64,
    ) -> Result<Self, SweepError> {
        let (processes, announced) = catalog.read(known).map_err(CommitError::from)?;
        Ok(Self {
            inventory: Inventory::new().map_err(SweepError::Scratch)?,
            processes,
            given_up: HashSet::new(),
            announced,
            incarnation,
            young_from_ms: now_ms.saturating_sub(grace_ms).min(started_ms),
            verdicts: BTreeMap::new(),
            heads: Vec::new(),
            claimed: HashSet::new(),
            report: SweepReport::default(),
        })
    }

    async fn list(
        &mut self,
        site: &Site,
        installation: &ringfence_format::names::InstallationId,
    ) -> Result<(), SweepError> {
        let mut report = SweepSite::default();
        match inventory::list(site, installation, &mut self.inventory).await {
            Ok(foreign) => report.foreign = foreign.map_err(SweepError::Scratch)?,
            Err(error) => {
                let why = format!("{error}");
                self.report.held_back = Some(format!("not every site could be listed: {why}"));
                report.failed = Some(why);
            }
        }
        report.listed = self.inventory.count(site.id()).map_err(SweepError::Scratch)?;
        self.report.sites.insert(site.id().to_string(), report);
        Ok(())
    }

    fn note_live(&mut self, catalog: &Catalog) -> Result<(), SweepError> {
        let given_up = catalog
            .read(|db| {
                // One snapshot for all tables.
                db.execute_batch("BEGIN")?;
                let noted = self.inventory.note_live(db).and_then(|()| self.inventory.note_detached(db));
                let noted = noted.and_then(|()| aborted(db));
                db.execute_batch("COMMIT")?;
                noted
            })
            .map_err(CommitError::from)?;
        self.given_up.extend(given_up);
        // An announced attempt that left nothing is over too.
        for id in std::mem::take(&mut self.announced) {
            if !self.inventory.is_live(&id).map_err(SweepError::Scratch)? && !self.is_ours(&id) {
                self.announced.push(id);
            }
        }
        Ok(())
    }

    fn is_ours(&self, id: &UploadId) -> bool {
        process(id) == self.incarnation
    }

    /// Sorts what lies at a site.
    fn judge(&mut self, site: &SiteId) -> Result<(), SweepError> {
        let mut report = self.report.sites.remove(site.as_str()).unwrap_or_default();
        let mut orphans = Vec::new();
        let mut heads = Vec::new();
        let judged = self.inventory.each_found(site, |found| {
            if self.inventory.is_live(&found.id)? {
                report.live += 1;
            } else if self.inventory.is_detached(site, &found)? {
                report.detached += 1;
            } else if self.given_up.contains(&found.id) {
                orphans.push(found);
            } else if self.is_ours(&found.id) {
                report.in_use += 1;
            } else if !self.processes.contains_key(&process(&found.id)) {
                report.unknown += 1;
            } else if found.modified_ms.is_some_and(|modified| modified >= self.young_from_ms) {
                report.young += 1;
            } else if found.kind == KIND_HEAD {
                heads.push((site.clone(), found));
            } else {
                orphans.push(found);
            }
            Ok(())
        });
        judged.map_err(SweepError::Scratch)?;
        self.report.sites.insert(site.to_string(), report);
        self.verdicts.insert(site.clone(), orphans);
        self.heads.extend(heads);
        Ok(())
    }

    /// Opens the heads that the catalogue does not know: what they claim may
    /// be objects that only a lost log knew.
    async fn ask_heads(&mut self, store: &Store, opener: &dyn OpenHead) {
        for (site, found) in std::mem::take(&mut self.heads) {
            match ask_head(store, &site, &found, opener).await {
                Ok(opened) if self.is_failed(&found, &opened) => {
                    self.verdicts.entry(site).or_default().push(found);
                }
                Ok(opened) => {
                    self.claimed.extend(opened.manifest.version.parts.iter().map(|part| part.upload));
                    self.claimed.insert(found.id);
                    if let Some(report) = self.report.sites.get_mut(site.as_str()) {
                        report.recoverable += 1;
                    }
                }
                Err(why) => {
                    self.report.held_back = Some(format!("head `{}` at site `{site}`: {why}", found.name));
                }
            }
        }
    }

    /// Whether an unknown head was written before the last record of its
    /// process: had it been committed, this log would say so.
    fn is_failed(&self, found: &Found, opened: &OpenedHead) -> bool {
        let until = self.processes.get(&process(&found.id)).copied().flatten();
        // A multipart object is as old as its upload: that says nothing of
        // when it was completed.
        let version = &opened.manifest.version;
        let whole = version.parts.len() == 1 && !version.etag.contains('-');
        let written = found.modified_ms.or(whole.then_some(version.created_ms));
        matches!((written, until), (Some(written), Some(until)) if written < until)
    }

    /// Splits the candidates: what is detached or claimed is left; the ids of
    /// the rest. Those the log shows as given up already are among them.
    fn orphans(&mut self) -> Vec<UploadId> {
        let mut ids: HashSet<UploadId> = self.announced.iter().copied().collect();
        for (site, found) in &mut self.verdicts {
            let Some(report) = self.report.sites.get_mut(site.as_str()) else { continue };
            found.retain(|found| {
                let claimed = self.claimed.contains(&found.id);
                report.recoverable += u64::from(claimed);
                !claimed
            });
            for found in found {
                report.orphans += 1;
                report.orphan_bytes += found.len;
                ids.insert(found.id);
            }
        }
        ids.retain(|id| !self.claimed.contains(id));
        ids.into_iter().collect()
    }
}

async fn ask_head(store: &Store, site: &SiteId, found: &Found, opener: &dyn OpenHead) -> Result<OpenedHead, String> {
    let site = store.site(site).ok_or("its site is closed")?;
    let head = site.get(&found.name, found.at, None).await.map_err(|error| error.to_string())?;
    opener.open_head(&head)
}

/// The process that made an id.
fn process(id: &UploadId) -> u32 {
    u32::from_be_bytes(id.0[..4].try_into().expect("four bytes"))
}

type Known = (HashMap<u32, Option<u64>>, Vec<UploadId>);

fn known(db: &ringfence_db::rusqlite::Connection) -> Rows<Known> {
    let processes = db
        .prepare_cached("SELECT id, until_ms FROM incarnation")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Rows<_>>()?;
    let announced = db
        .prepare_cached("SELECT upload FROM attempt")?
        .query_map([], |row| row.get(0).map(UploadId))?
        .collect::<Rows<_>>()?;
    Ok((processes, announced))
}

fn aborted(db: &ringfence_db::rusqlite::Connection) -> Rows<Vec<UploadId>> {
    db.prepare_cached("SELECT upload FROM aborted")?.query_map([], |row| row.get(0).map(UploadId))?.collect()
}

const _: () = assert!(KIND_CHUNKS == 0 && KIND_HEAD == 1);
