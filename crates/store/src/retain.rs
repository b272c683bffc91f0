//! Which changes on the log are still needed, when retention or an erasure
//! takes the records they stand in.
//!
//! Replaying what stays, from the first record on, must give the catalogue
//! there is: that is what `recover` does. So a change stays while something of
//! what it made is left: a version, its chunks waiting to be erased, an upload,
//! a bucket, a key. What takes something away again stays while the record
//! that made it does: without it, replay would bring it back.
//!
//! The changes are to be told in the order of the log, each with whether it
//! stays, for the second rule is about those before it.

use std::collections::HashSet;

use ringfence_db::DbError;
use ringfence_db::rusqlite::Connection;
use ringfence_format::names::{BucketId, UploadId, VersionUid};
use ringfence_format::record::Seq;
use ringfence_format::redo::{Redo, Version};

use crate::apply::{KIND_CHUNKS, KIND_HEAD};
use crate::catalog::Catalog;
use crate::commit::CommitError;
use crate::rows::{self, Rows};
use crate::store::Store;

/// Judges changes in the order of the log.
pub struct Retain<'a> {
    catalog: &'a Catalog,
    policy_epoch: Option<u64>,
    standing: Standing,
}

/// What changes that stay would make on replay although it is gone: only the
/// changes that took it away again keep it gone.
#[derive(Default)]
struct Standing {
    versions: HashSet<VersionUid>,
    uploads: HashSet<UploadId>,
    buckets: HashSet<BucketId>,
    /// A change stays that could not be read: whatever takes something away stays.
    unknown: bool,
}

impl<'a> Retain<'a> {
    /// For one walk over the log, from its first record on.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn new(catalog: &'a Catalog) -> Result<Self, DbError> {
        Ok(Self { catalog, policy_epoch: catalog.policy_epoch()?, standing: Standing::default() })
    }

    /// Whether this change must stay; it then counts as staying.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn must_stay(&mut self, redo: &Redo) -> Result<bool, DbError> {
        let catalog = self.catalog;
        let needed = catalog.read(|db| self.is_needed(db, redo))?;
        if needed {
            self.stays(redo)?;
        }
        Ok(needed)
    }

    /// A change that stays for another reason: its record is young.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn stays(&mut self, redo: &Redo) -> Result<(), DbError> {
        let (catalog, standing) = (self.catalog, &mut self.standing);
        catalog.read(|db| standing.note(db, redo))
    }

    /// A change stays that cannot be read.
    pub fn stays_unread(&mut self) {
        self.standing.unknown = true;
    }

    fn is_needed(&self, db: &Connection, redo: &Redo) -> Rows<bool> {
        let standing = &self.standing;
        let takes = |uids: &[VersionUid]| standing.unknown || uids.iter().any(|uid| standing.versions.contains(uid));
        Ok(match redo {
            Redo::PutVersion(version, replaced) => takes(replaced) || is_left(db, version)?,
            Redo::CompleteUpload(upload, version, replaced) => {
                takes(replaced) || standing.uploads.contains(upload) || is_left(db, version)?
            }
            Redo::DeleteVersions(_, gone, markers) => takes(gone) || any(markers, |marker| is_live(db, &marker.uid))?,
            Redo::Rehead(reheads) => {
                let mut uids = reheads.iter().map(|rehead| rehead.uid);
                standing.unknown
                    || uids.clone().any(|uid| standing.versions.contains(&uid))
                    || any_of(&mut uids, |uid| is_live(db, &uid))?
            }
            Redo::PutBucket(bucket) => is_bucket(db, &bucket.id)?,
            // Uploads under way go with their bucket.
            Redo::DeleteBucket(bucket) => {
                standing.unknown || standing.buckets.contains(bucket) || !standing.uploads.is_empty()
            }
            Redo::CreateUpload(upload) => is_upload(db, &upload.id)?,
            // Its upload may be over and the part wait to be erased.
            Redo::PutPart(part) => is_upload(db, &part.upload)? || is_garbage(db, KIND_CHUNKS, &part.part.upload)?,
            Redo::AbortUpload(upload) => standing.unknown || standing.uploads.contains(upload),
            Redo::BeginWrite(upload, _) => is_row(db, "SELECT 1 FROM attempt WHERE upload = ?1", upload.as_bytes())?,
            Redo::AbortWrites(uploads) => {
                any(uploads, |upload| is_row(db, "SELECT 1 FROM aborted WHERE upload = ?1", upload.as_bytes()))?
            }
            // Few, and each needed for as long as there is an installation: a
            // key without the record of its issuance is refused, and a process
            // that the log does not know is never swept after.
            Redo::PutTenant(_) | Redo::PutStaticKey(_) | Redo::Start(_) | Redo::PutRevocation(_) => true,
            Redo::PutManifest(signed) => rows::manifest(db, &signed.manifest.realm)?
                .is_none_or(|in_force| signed.manifest.seq >= in_force.manifest.seq),
            Redo::Policy(epoch, _) => self.policy_epoch.is_none_or(|current| *epoch >= current),
        })
    }
}

impl Standing {
    fn note(&mut self, db: &Connection, redo: &Redo) -> Rows<()> {
        match redo {
            Redo::PutVersion(version, _) | Redo::CompleteUpload(_, version, _) => self.version(db, version.uid)?,
            Redo::DeleteVersions(_, _, markers) => {
                markers.iter().try_for_each(|marker| self.version(db, marker.uid))?;
            }
            Redo::PutBucket(bucket) if !is_bucket(db, &bucket.id)? => {
                self.buckets.insert(bucket.id);
            }
            Redo::CreateUpload(upload) if !is_upload(db, &upload.id)? => {
                self.uploads.insert(upload.id);
            }
            Redo::PutPart(part) if !is_upload(db, &part.upload)? => {
                self.uploads.insert(part.upload);
            }
            _ => {}
        }
        Ok(())
    }

    fn version(&mut self, db: &Connection, uid: VersionUid) -> Rows<()> {
        if !is_live(db, &uid)? {
            self.versions.insert(uid);
        }
        Ok(())
    }
}

/// Whether a version is there, or something of it still waits to be erased.
fn is_left(db: &Connection, version: &Version) -> Rows<bool> {
    if is_live(db, &version.uid)? {
        return Ok(true);
    }
    let head = any(&version.copies, |copy| is_garbage(db, KIND_HEAD, &copy.head))?;
    Ok(head || any(&version.parts, |part| is_garbage(db, KIND_CHUNKS, &part.upload))?)
}

fn is_live(db: &Connection, uid: &VersionUid) -> Rows<bool> {
    is_row(db, "SELECT 1 FROM body WHERE uid = ?1", uid.as_bytes())
}

fn is_bucket(db: &Connection, id: &BucketId) -> Rows<bool> {
    is_row(db, "SELECT 1 FROM bucket WHERE id = ?1", id.as_bytes())
}

fn is_upload(db: &Connection, id: &UploadId) -> Rows<bool> {
    Ok(rows::upload(db, id)?.is_some())
}

fn is_garbage(db: &Connection, kind: i64, id: &UploadId) -> Rows<bool> {
    let mut query = db.prepare_cached("SELECT 1 FROM garbage WHERE kind = ?1 AND id = ?2 LIMIT 1")?;
    query.exists((kind, id.as_bytes()))
}

fn is_row(db: &Connection, sql: &str, id: &[u8]) -> Rows<bool> {
    db.prepare_cached(sql)?.exists([id])
}

fn any<T>(all: &[T], is: impl Fn(&T) -> Rows<bool>) -> Rows<bool> {
    any_of(&mut all.iter(), is)
}

fn any_of<T>(all: &mut dyn Iterator<Item = T>, is: impl Fn(T) -> Rows<bool>) -> Rows<bool> {
    for one in all {
        if is(one)? {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Store {
    /// Every change before the record that is returned is in the catalogue's
    /// file and survives a power cut: no start will ask the log for it again.
    ///
    /// # Errors
    /// [`CommitError::NotApplied`] while the catalogue's disk fails, or where
    /// its write-ahead file cannot be copied over because somebody reads it.
    pub async fn sync_catalogue(&self) -> Result<Seq, CommitError> {
        let next = self.settle().await?;
        let path = self.catalog().path().to_owned();
        let synced = tokio::task::spawn_blocking(move || checkpoint(&path)).await;
        let failed = |why: String| CommitError::NotApplied(why);
        match synced.map_err(|e| failed(e.to_string()))? {
            Ok(true) => Ok(next),
            Ok(false) => Err(failed("its write-ahead file is in use: trying again later".to_owned())),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

/// FULL waits for the writer, then syncs the write-ahead file, copies all of it
/// into the file and syncs that. Whether all of it was copied.
fn checkpoint(path: &std::path::Path) -> Rows<bool> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.query_row("PRAGMA wal_checkpoint(FULL)", [], |row| {
        let (busy, frames, copied): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(busy == 0 && frames == copied)
    })
}
