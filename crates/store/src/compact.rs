//! Compaction: packs that are mostly erased entries give their space back.
//!
//! Order: copy the live entries, put their new places on record, remove the
//! old pack. A crash in between leaves copies nobody refers to, never a loss.
//! A pack that holds anything this pass cannot name (a put that is not
//! committed yet, a part of an upload under way) is left for a later one.

use std::collections::{BTreeMap, HashMap};

use ringfence_format::chunk::{SiteName, parse_name};
use ringfence_format::names::{PartId, SiteId, UploadId, VersionUid};
use ringfence_format::redo::{PackAddr, Rehead};

use crate::commit::CommitError;
use crate::inventory;
use crate::rows::Rows;
use crate::site::{Compacted, PackEntry, Site, SiteError};
use crate::store::Store;

/// A pack is compacted when less than this many percent of it are live.
const LIVE_PERCENT_MIN: u64 = 50;
/// Packs smaller than this are not worth it.
const PACK_BYTES_MIN: u64 = 1024 * 1024;

/// What a compaction did.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct CompactReport {
    /// Packs removed.
    pub packs: u64,
    /// Bytes their entries took.
    pub bytes: u64,
    /// Entries that live elsewhere now.
    pub moved: u64,
    /// Packs left for later.
    pub left: u64,
    /// Sites that failed, and what they said.
    pub failed: Vec<(SiteId, String)>,
}

/// What a packed thing belongs to.
#[derive(Clone, Copy)]
enum Owner {
    Part(VersionUid, PartId, PackAddr),
    Head(VersionUid, PackAddr),
    /// Of an upload under way: not moved.
    Upload,
    /// The eraser will take it: not copied.
    Detached,
}

type Owners = HashMap<UploadId, Owner>;

impl Store {
    /// Compacts every pack of every directory site that is mostly erased.
    ///
    /// # Errors
    /// Whatever the catalogue or the log says; sites that fail are reported.
    pub async fn compact(&self) -> Result<CompactReport, CommitError> {
        self.compact_below(LIVE_PERCENT_MIN, PACK_BYTES_MIN).await
    }

    /// Compacts every pack of at least `bytes_min` bytes of which less than
    /// `percent` percent are live.
    ///
    /// # Errors
    /// As for [`compact`](Self::compact).
    pub async fn compact_below(&self, percent: u64, bytes_min: u64) -> Result<CompactReport, CommitError> {
        let mut report = CompactReport::default();
        for site in self.sites() {
            if let Err(error) = self.compact_site(&site, percent, bytes_min, &mut report).await? {
                report.failed.push((site.id().clone(), error.to_string()));
            }
        }
        Ok(report)
    }

    async fn compact_site(
        &self,
        site: &Site,
        percent: u64,
        bytes_min: u64,
        report: &mut CompactReport,
    ) -> Result<Result<(), SiteError>, CommitError> {
        let packs = match site.packs().await {
            Ok(packs) => packs,
            Err(error) => return Ok(Err(error)),
        };
        let mut worth: Vec<_> = packs
            .into_iter()
            .filter(|pack| pack.bytes >= bytes_min && pack.live_bytes * 100 < pack.bytes * percent)
            .collect();
        worth.sort_by_key(|pack| pack.live_bytes);
        for pack in worth {
            let _alone = self.moving.lock().await;
            match self.compact_pack(site, pack.pack, report).await? {
                Ok(true) => {
                    report.packs += 1;
                    report.bytes += pack.bytes;
                }
                Ok(false) => report.left += 1,
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(()))
    }

    async fn compact_pack(
        &self,
        site: &Site,
        pack: u32,
        report: &mut CompactReport,
    ) -> Result<Result<bool, SiteError>, CommitError> {
        let owners = self.owners_in(site.id(), pack)?;
        let mut nameless = false;
        let compacted = site
            .compact(pack, |entry| match id_of(entry).and_then(|id| owners.get(&id)) {
                Some(Owner::Part(_, _, at) | Owner::Head(_, at)) => *at == entry.at,
                Some(Owner::Detached) => false,
                // In no table: a put under way, or what sweep has to decide.
                Some(Owner::Upload) | None => {
                    nameless = true;
                    true
                }
            })
            .await;
        let compacted = match compacted {
            Ok(Some(compacted)) if !nameless => compacted,
            Ok(_) => return Ok(Ok(false)),
            Err(error) => return Ok(Err(error)),
        };
        if !self.note_moves(site.id(), &compacted, &owners).await? {
            return Ok(Ok(false));
        }
        report.moved += compacted.moved().len() as u64;
        Ok(site.remove_pack(compacted).await.map(|()| true))
    }

    /// Puts the new places on record, all or none.
    async fn note_moves(&self, site: &SiteId, compacted: &Compacted, owners: &Owners) -> Result<bool, CommitError> {
        let mut by_version: BTreeMap<VersionUid, Vec<(Owner, PackAddr)>> = BTreeMap::new();
        for moved in compacted.moved() {
            let entry = PackEntry { name: moved.name.clone(), at: moved.from };
            match id_of(&entry).and_then(|id| owners.get(&id)) {
                Some(owner @ (Owner::Part(uid, ..) | Owner::Head(uid, ..))) => {
                    by_version.entry(*uid).or_default().push((*owner, moved.to));
                }
                _ => return Ok(false),
            }
        }
        let mut reheads = Vec::new();
        for (uid, moves) in by_version {
            let Some(version) = self.catalog().version(&uid)? else { return Ok(false) };
            let Some(head) = version.head.clone() else { return Ok(false) };
            let mut copies = version.copies.clone();
            let Some(copy) = copies.iter_mut().find(|copy| copy.site == *site) else { return Ok(false) };
            for (owner, to) in moves {
                match owner {
                    Owner::Part(_, part, from) => {
                        let packed = copy.packed.iter_mut().find(|packed| packed.part == part && packed.at == from);
                        let Some(packed) = packed else { return Ok(false) };
                        packed.at = to;
                    }
                    Owner::Head(_, from) if copy.head_at == Some(from) => copy.head_at = Some(to),
                    _ => return Ok(false),
                }
            }
            reheads.push(Rehead {
                uid,
                label: version.label.clone(),
                label_source: version.label_source,
                tags: version.tags.clone(),
                head,
                copies,
            });
        }
        if reheads.is_empty() {
            return Ok(true);
        }
        match self.moved("system:Compact", reheads).await {
            Ok(_on_record) => Ok(true),
            // Something changed meanwhile: the old places still hold.
            Err(CommitError::Conflict(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What the catalogue knows of everything in one pack.
    fn owners_in(&self, site: &SiteId, pack: u32) -> Result<Owners, CommitError> {
        let mut owners = Owners::new();
        let in_pack = |at: &Option<PackAddr>| at.is_some_and(|at| at.pack == pack);
        self.catalog().read(|db| {
            db.execute_batch("BEGIN")?;
            inventory::each_upload_part(db, |part| {
                if part.copies.iter().any(|(id, at)| id == site && in_pack(at)) {
                    owners.insert(part.part.upload, Owner::Upload);
                }
                Ok(())
            })?;
            inventory::each_version(db, |version| {
                let Some(copy) = version.copies.iter().find(|copy| copy.site == *site) else { return Ok(()) };
                for packed in copy.packed.iter().filter(|packed| packed.at.pack == pack) {
                    if let Some(part) = version.parts.iter().find(|part| part.id == packed.part) {
                        owners.insert(part.upload, Owner::Part(version.uid, packed.part, packed.at));
                    }
                }
                if let Some(at) = copy.head_at.filter(|at| at.pack == pack) {
                    owners.insert(copy.head, Owner::Head(version.uid, at));
                }
                Ok(())
            })?;
            let mut garbage = db.prepare_cached("SELECT id FROM garbage WHERE site = ?1 AND pack = ?2")?;
            let ids = garbage.query_map((site.as_str(), pack), |row| row.get(0).map(UploadId))?;
            for id in ids.collect::<Rows<Vec<_>>>()? {
                owners.insert(id, Owner::Detached);
            }
            db.execute_batch("COMMIT")
        })?;
        Ok(owners)
    }
}

fn id_of(entry: &PackEntry) -> Option<UploadId> {
    match parse_name(&entry.name)?.1 {
        SiteName::Chunk { upload, .. } => Some(upload),
        SiteName::Head(head) => Some(head),
    }
}
