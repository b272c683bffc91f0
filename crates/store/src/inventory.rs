//! What the catalogue refers to, and what lies at the sites: both in a scratch
//! table that spills to disk, so that sweep, check and recover need little
//! memory however many objects there are.

use ringfence_db::rusqlite::{self, Connection, OptionalExtension};
use ringfence_format::chunk::{Layout, SiteName, parse_name};
use ringfence_format::names::{InstallationId, SiteId, UploadId};
use ringfence_format::redo::{PackAddr, UploadPart, Version};

use crate::apply::{KIND_CHUNKS, KIND_HEAD};
use crate::rows::{self, Rows};
use crate::site::{Listed, Site, SiteError};

/// Scratch tables; gone when dropped.
pub(crate) struct Inventory {
    db: Connection,
}

/// One thing at a site that is named as ours are.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) name: String,
    pub(crate) kind: i64,
    pub(crate) id: UploadId,
    pub(crate) index: u32,
    pub(crate) len: u64,
    pub(crate) modified_ms: Option<u64>,
    pub(crate) at: Option<PackAddr>,
}

impl Inventory {
    /// An empty one. The tables lie in a temporary file that SQLite unlinks.
    pub(crate) fn new() -> Rows<Self> {
        let db = Connection::open("")?;
        db.pragma_update(None, "cache_size", -16_384)?;
        db.pragma_update(None, "journal_mode", "OFF")?;
        db.pragma_update(None, "synchronous", "OFF")?;
        db.execute_batch(
            "CREATE TABLE live(id BLOB PRIMARY KEY) WITHOUT ROWID;
             CREATE TABLE detached(site TEXT, kind INTEGER, id BLOB, PRIMARY KEY(site, kind, id)) WITHOUT ROWID;
             CREATE TABLE found(site TEXT, kind INTEGER, id BLOB, idx INTEGER, len INTEGER, name TEXT,
                modified INTEGER, pack INTEGER, pack_offset INTEGER, pack_len INTEGER,
                PRIMARY KEY(site, kind, id, idx, pack, pack_offset));
             BEGIN",
        )?;
        Ok(Self { db })
    }

    /// Notes every chunk series and head the catalogue refers to. `catalog`
    /// must be one snapshot: parts move from uploads to versions meanwhile.
    pub(crate) fn note_live(&self, catalog: &Connection) -> Rows<()> {
        each_upload_part(catalog, |part| self.live(&part.part.upload))?;
        each_version(catalog, |version| {
            version.parts.iter().try_for_each(|part| self.live(&part.upload))?;
            version.copies.iter().try_for_each(|copy| self.live(&copy.head))
        })
    }

    /// Notes what the eraser has still to take.
    pub(crate) fn note_detached(&self, catalog: &Connection) -> Rows<()> {
        let mut all = catalog.prepare("SELECT site, kind, id FROM garbage")?;
        let mut rows = all.query([])?;
        let mut note = self.db.prepare_cached("INSERT OR IGNORE INTO detached VALUES(?1, ?2, ?3)")?;
        while let Some(row) = rows.next()? {
            let (site, kind, id): (String, i64, [u8; 16]) = row.try_into()?;
            note.execute((site, kind, id))?;
        }
        Ok(())
    }

    pub(crate) fn is_detached(&self, site: &SiteId, found: &Found) -> Rows<bool> {
        self.db
            .prepare_cached("SELECT EXISTS(SELECT 1 FROM detached WHERE site = ?1 AND kind = ?2 AND id = ?3)")?
            .query_row((site.as_str(), found.kind, found.id.as_bytes()), |row| row.get(0))
    }

    pub(crate) fn live(&self, id: &UploadId) -> Rows<()> {
        self.db.prepare_cached("INSERT OR IGNORE INTO live VALUES(?1)")?.execute([id.as_bytes()]).map(drop)
    }

    pub(crate) fn is_live(&self, id: &UploadId) -> Rows<bool> {
        self.db
            .prepare_cached("SELECT EXISTS(SELECT 1 FROM live WHERE id = ?1)")?
            .query_row([id.as_bytes()], |row| row.get(0))
    }

    /// Notes something that lies at a site.
    pub(crate) fn note_found(&self, site: &SiteId, found: &Found) -> Rows<()> {
        self.db
            .prepare_cached("INSERT OR REPLACE INTO found VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")?
            .execute((
                site.as_str(),
                found.kind,
                found.id.as_bytes(),
                found.index,
                found.len,
                &found.name,
                found.modified_ms,
                found.at.map(|at| at.pack),
                found.at.map(|at| at.offset),
                found.at.map(|at| at.len),
            ))
            .map(drop)
    }

    /// What was found of one id at a site, chunks in order.
    pub(crate) fn found(&self, site: &SiteId, kind: i64, id: &UploadId) -> Rows<Vec<Found>> {
        self.db
            .prepare_cached(
                "SELECT name, kind, id, idx, len, modified, pack, pack_offset, pack_len FROM found
                 WHERE site = ?1 AND kind = ?2 AND id = ?3 ORDER BY idx, pack, pack_offset",
            )?
            .query_map((site.as_str(), kind, id.as_bytes()), read_found)?
            .collect()
    }

    /// Heads found at a site with ids above `after`, ascending.
    pub(crate) fn heads(&self, site: &SiteId, after: Option<&UploadId>, max: usize) -> Rows<Vec<Found>> {
        let after = after.map_or(&[][..], |id| id.as_bytes());
        self.db
            .prepare_cached(
                "SELECT name, kind, id, idx, len, modified, pack, pack_offset, pack_len FROM found
                 WHERE site = ?1 AND kind = ?2 AND id > ?3 ORDER BY id LIMIT ?4",
            )?
            .query_map((site.as_str(), KIND_HEAD, after, max), read_found)?
            .collect()
    }

    /// Everything that was found at a site, heads first.
    pub(crate) fn each_found(&self, site: &SiteId, mut each: impl FnMut(Found) -> Rows<()>) -> Rows<()> {
        let mut all = self.db.prepare_cached(
            "SELECT name, kind, id, idx, len, modified, pack, pack_offset, pack_len FROM found
             WHERE site = ?1 ORDER BY kind DESC, id, idx",
        )?;
        let mut rows = all.query([site.as_str()])?;
        while let Some(row) = rows.next()? {
            each(read_found(row)?)?;
        }
        Ok(())
    }

    /// Whether all chunks of `part` lie at `site`, each as long as it must be;
    /// where a packed part is expected at one place, exactly there. If not, why.
    pub(crate) fn part_is_missing(
        &self,
        site: &SiteId,
        part: &ringfence_format::redo::Part,
        at: Option<PackAddr>,
    ) -> Rows<Option<String>> {
        let Ok(layout) = Layout::of(part) else {
            return Ok(Some("its lengths contradict each other".to_owned()));
        };
        for index in 0..layout.chunks() {
            let range = layout.chunk(index).expect("the index is below the number of chunks");
            let lens = self.lens(site, KIND_CHUNKS, &part.upload, index, at)?;
            if lens.is_empty() {
                return Ok(Some(format!("chunk {index} is not there")));
            }
            if !lens.contains(&(range.end - range.start)) {
                return Ok(Some(format!("chunk {index} has {} bytes instead of {}", lens[0], range.end - range.start)));
            }
        }
        Ok(None)
    }

    /// Whether a head lies where it is expected.
    pub(crate) fn head_is_there(&self, site: &SiteId, id: &UploadId, at: Option<PackAddr>) -> Rows<bool> {
        Ok(!self.lens(site, KIND_HEAD, id, 0, at)?.is_empty())
    }

    fn lens(&self, site: &SiteId, kind: i64, id: &UploadId, index: u32, at: Option<PackAddr>) -> Rows<Vec<u64>> {
        self.db
            .prepare_cached(
                "SELECT len FROM found WHERE site = ?1 AND kind = ?2 AND id = ?3 AND idx = ?4
                 AND pack IS ?5 AND pack_offset IS ?6",
            )?
            .query_map(
                (site.as_str(), kind, id.as_bytes(), index, at.map(|at| at.pack), at.map(|at| at.offset)),
                |row| row.get(0),
            )?
            .collect()
    }

    /// How much was found at a site.
    pub(crate) fn count(&self, site: &SiteId) -> Rows<u64> {
        self.db
            .query_row("SELECT count(*) FROM found WHERE site = ?1", [site.as_str()], |row| row.get(0))
            .optional()
            .map(Option::unwrap_or_default)
    }
}

fn read_found(row: &rusqlite::Row<'_>) -> Rows<Found> {
    let pack: Option<u32> = row.get(6)?;
    let at = match pack {
        Some(pack) => Some(PackAddr { pack, offset: row.get(7)?, len: row.get(8)? }),
        None => None,
    };
    Ok(Found {
        name: row.get(0)?,
        kind: row.get(1)?,
        id: UploadId(row.get(2)?),
        index: row.get(3)?,
        len: row.get(4)?,
        modified_ms: row.get(5)?,
        at,
    })
}

/// Reads a listed name; `None` where it is not one of this installation.
pub(crate) fn ours(installation: &InstallationId, listed: Listed) -> Option<Found> {
    let (whose, name) = parse_name(&listed.name)?;
    if whose != *installation {
        return None;
    }
    let (kind, id, index) = match name {
        SiteName::Chunk { upload, index } => (KIND_CHUNKS, upload, index),
        SiteName::Head(head) => (KIND_HEAD, head, 0),
    };
    let Listed { name, len, modified_ms, at } = listed;
    Some(Found { name, kind, id, index, len, modified_ms, at })
}

/// Notes all that lies at a site; answers how many names there are not ours.
///
/// Takes the inventory for itself: SQLite's connections may not be shared
/// between threads, and this future may move from one to another.
pub(crate) async fn list(
    site: &Site,
    installation: &InstallationId,
    inventory: &mut Inventory,
) -> Result<Rows<u64>, SiteError> {
    let prefix = ringfence_format::chunk::installation_prefix(installation);
    let mut pages = site.list(&prefix);
    let mut foreign = 0;
    while let Some(page) = pages.next_page().await? {
        for listed in page {
            let Some(found) = ours(installation, listed) else {
                foreign += 1;
                continue;
            };
            if let Err(error) = inventory.note_found(site.id(), &found) {
                return Ok(Err(error));
            }
        }
    }
    Ok(Ok(foreign))
}

/// Every part of every upload under way.
pub(crate) fn each_upload_part(catalog: &Connection, mut each: impl FnMut(UploadPart) -> Rows<()>) -> Rows<()> {
    let mut all = catalog.prepare("SELECT body FROM upload_part")?;
    let mut rows = all.query([])?;
    while let Some(row) = rows.next()? {
        each(rows::cbor(row, 0)?)?;
    }
    Ok(())
}

/// Every version.
pub(crate) fn each_version(catalog: &Connection, mut each: impl FnMut(Version) -> Rows<()>) -> Rows<()> {
    let mut all = catalog.prepare("SELECT body FROM body")?;
    let mut rows = all.query([])?;
    while let Some(row) = rows.next()? {
        each(rows::cbor(row, 0)?)?;
    }
    Ok(())
}
