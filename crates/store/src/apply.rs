//! The only code that changes what the catalogue says: one [`Redo`] in, rows
//! changed. The commit thread, the replay at start and `recover` all run it.
//!
//! Applying the same change again changes nothing. What a change takes out of
//! the catalogue goes to `garbage`, from where [`crate::erase`] takes it.

use ringfence_db::rusqlite::Connection;
use ringfence_format::chunk::Layout;
use ringfence_format::names::{BucketId, SiteId, UploadId, VersionUid};
use ringfence_format::redo::{Copy, PackAddr, Part, Redo, Rehead, TimeMs, Upload, UploadPart, Version};

use crate::rows::{self, FLAG_MARKER, FLAG_NULL, Rows, meta, to_cbor};

/// A chunk series is erased as `kind` 0, a head as `kind` 1.
pub(crate) const KIND_CHUNKS: i64 = 0;
/// See [`KIND_CHUNKS`].
pub(crate) const KIND_HEAD: i64 = 1;

/// Applies one change. `now_ms` dates what becomes garbage.
pub(crate) fn apply(db: &Connection, redo: &Redo, now_ms: TimeMs) -> Rows<()> {
    let tx = Tx { db, now_ms };
    match redo {
        Redo::PutVersion(version, replaced) => tx.put_version(version, replaced),
        Redo::DeleteVersions(_, gone, markers) => tx.delete_versions(gone, markers),
        Redo::Rehead(reheads) => reheads.iter().try_for_each(|rehead| tx.rehead(rehead)),
        Redo::PutBucket(bucket) => tx.run(
            "INSERT INTO bucket VALUES(?1, ?2, ?3)
             ON CONFLICT(id) DO UPDATE SET name = excluded.name, body = excluded.body",
            (bucket.id.as_bytes(), bucket.name.as_str(), to_cbor(bucket)),
        ),
        Redo::DeleteBucket(bucket) => tx.delete_bucket(bucket),
        Redo::CreateUpload(upload) => tx.create_upload(upload),
        Redo::PutPart(part) => tx.put_part(part),
        Redo::CompleteUpload(upload, version, replaced) => tx.complete_upload(upload, version, replaced),
        Redo::AbortUpload(upload) => tx.end_upload(upload, &[]),
        Redo::PutTenant(tenant) => tx.run(
            "INSERT INTO tenant VALUES(?1, ?2) ON CONFLICT(name) DO UPDATE SET body = excluded.body",
            (tenant.name.as_str(), to_cbor(tenant)),
        ),
        Redo::PutStaticKey(key) => tx.run(
            "INSERT INTO static_key VALUES(?1, ?2, NULL) ON CONFLICT(id) DO UPDATE SET body = excluded.body",
            (key.id.as_str(), to_cbor(key)),
        ),
        Redo::BeginWrite(upload, sites) => tx.begin_write(upload, sites),
        Redo::AbortWrites(uploads) => uploads.iter().try_for_each(|upload| tx.abort_write(upload)),
        Redo::Start(incarnation) => tx.run("INSERT OR IGNORE INTO incarnation VALUES(?1, NULL)", [incarnation]),
        Redo::Policy(epoch, sha256) => {
            rows::set_meta(db, meta::POLICY_EPOCH, epoch)?;
            rows::set_meta(db, meta::POLICY_SHA256, sha256)
        }
    }
}

/// Notes when the processes before this one put their last record on the log:
/// what they wrote later is not known to have failed.
pub(crate) fn close_incarnations(db: &Connection, last_record_ms: TimeMs) -> Rows<()> {
    db.prepare_cached("UPDATE incarnation SET until_ms = ?1 WHERE until_ms IS NULL")?
        .execute([last_record_ms])
        .map(drop)
}

struct Tx<'a> {
    db: &'a Connection,
    now_ms: TimeMs,
}

impl Tx<'_> {
    fn put_version(&self, version: &Version, replaced: &[VersionUid]) -> Rows<()> {
        for uid in replaced.iter().filter(|uid| **uid != version.uid) {
            self.remove_version(uid)?;
        }
        for part in &version.parts {
            self.end_attempt(&part.upload)?;
        }
        self.insert_version(version)
    }

    fn delete_versions(&self, gone: &[VersionUid], markers: &[Version]) -> Rows<()> {
        gone.iter().try_for_each(|uid| self.remove_version(uid))?;
        markers.iter().try_for_each(|marker| self.insert_version(marker))
    }

    /// Writes the rows of a version; one that is there already is written over.
    fn insert_version(&self, version: &Version) -> Rows<()> {
        let key = version.key.as_str().as_bytes();
        if let Some((row, _)) = rows::by_uid(self.db, &version.uid)? {
            return self.run("UPDATE body SET body = ?2 WHERE row = ?1", (row, to_cbor(version)));
        }
        self.run("INSERT INTO body(uid, body) VALUES(?1, ?2)", (version.uid.as_bytes(), to_cbor(version)))?;
        let row = self.db.last_insert_rowid();
        let flags =
            if version.delete_marker { FLAG_MARKER } else { 0 } | if version.null_version { FLAG_NULL } else { 0 };
        // The newest version of a key comes first: one below the lowest there is.
        self.db
            .prepare_cached(
                "INSERT INTO version VALUES(?1, ?2,
                   coalesce((SELECT min(ord) FROM version WHERE bucket = ?1 AND key = ?2), 0) - 1,
                   ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?
            .execute((
                version.bucket.as_bytes(),
                key,
                version.uid.as_bytes(),
                row,
                flags,
                version.created_ms,
                version.size,
                &version.etag,
                checksum_column(version),
                version.label.as_str(),
            ))
            .map(drop)
    }

    fn remove_version(&self, uid: &VersionUid) -> Rows<()> {
        let Some((row, version)) = rows::by_uid(self.db, uid)? else { return Ok(()) };
        for copy in &version.copies {
            for part in &version.parts {
                let at = copy.packed.iter().find(|packed| packed.part == part.id).map(|packed| packed.at);
                self.garbage_part(&copy.site, part, at)?;
            }
            self.garbage(&copy.site, KIND_HEAD, &copy.head, 1, copy.head_at)?;
        }
        self.run("DELETE FROM body WHERE row = ?1", [row])?;
        self.run("DELETE FROM unconfirmed WHERE uid = ?1", [uid.as_bytes()])?;
        self.run("DELETE FROM bad_copy WHERE uid = ?1", [uid.as_bytes()])?;
        self.run(
            "DELETE FROM version WHERE bucket = ?1 AND key = ?2 AND uid = ?3",
            (version.bucket.as_bytes(), version.key.as_str().as_bytes(), uid.as_bytes()),
        )
    }

    fn rehead(&self, rehead: &Rehead) -> Rows<()> {
        let Some((row, mut version)) = rows::by_uid(self.db, &rehead.uid)? else { return Ok(()) };
        for old in &version.copies {
            self.garbage_old_head(old, &rehead.copies)?;
        }
        version.label = rehead.label.clone();
        version.label_source = rehead.label_source;
        version.tags = rehead.tags.clone();
        version.head = Some(rehead.head.clone());
        version.copies = rehead.copies.clone();
        self.run("UPDATE body SET body = ?2 WHERE row = ?1", (row, to_cbor(&version)))?;
        self.run(
            "UPDATE version SET label = ?4 WHERE bucket = ?1 AND key = ?2 AND uid = ?3",
            (
                version.bucket.as_bytes(),
                version.key.as_str().as_bytes(),
                version.uid.as_bytes(),
                version.label.as_str(),
            ),
        )
    }

    /// A head that has a new name may go. One that only moved within its site
    /// (compaction) keeps its name, and the pack it left is removed whole.
    fn garbage_old_head(&self, old: &Copy, new: &[Copy]) -> Rows<()> {
        let kept = new.iter().any(|copy| copy.site == old.site && copy.head == old.head);
        if kept { Ok(()) } else { self.garbage(&old.site, KIND_HEAD, &old.head, 1, old.head_at) }
    }

    /// Uploads under way go with their bucket, as in S3: only objects keep a
    /// bucket from being deleted.
    fn delete_bucket(&self, bucket: &BucketId) -> Rows<()> {
        let uploads: Vec<UploadId> = self
            .db
            .prepare_cached("SELECT id FROM upload WHERE bucket = ?1")?
            .query_map([bucket.as_bytes()], |row| row.get(0).map(UploadId))?
            .collect::<Rows<_>>()?;
        uploads.iter().try_for_each(|upload| self.end_upload(upload, &[]))?;
        self.run("DELETE FROM bucket WHERE id = ?1", [bucket.as_bytes()])
    }

    fn create_upload(&self, upload: &Upload) -> Rows<()> {
        self.run(
            "INSERT OR REPLACE INTO upload VALUES(?1, ?2, ?3, ?4, ?5)",
            (
                upload.version.bucket.as_bytes(),
                upload.version.key.as_str().as_bytes(),
                upload.version.created_ms,
                upload.id.as_bytes(),
                to_cbor(upload),
            ),
        )
    }

    fn put_part(&self, part: &UploadPart) -> Rows<()> {
        if let Some(old) = rows::part(self.db, &part.upload, part.part.number)?
            && old.part.id != part.part.id
        {
            self.garbage_upload_part(&old)?;
        }
        self.end_attempt(&part.part.upload)?;
        self.run(
            "INSERT INTO upload_part VALUES(?1, ?2, ?3)
             ON CONFLICT(upload, number) DO UPDATE SET body = excluded.body",
            (part.upload.as_bytes(), part.part.number, to_cbor(part)),
        )
    }

    fn complete_upload(&self, upload: &UploadId, version: &Version, replaced: &[VersionUid]) -> Rows<()> {
        self.end_upload(upload, &version.parts)?;
        self.put_version(version, replaced)?;
        self.run(
            "INSERT OR REPLACE INTO completed VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
            (
                upload.as_bytes(),
                version.bucket.as_bytes(),
                version.key.as_str().as_bytes(),
                version.uid.as_bytes(),
                &version.etag,
                self.now_ms,
            ),
        )
    }

    /// Takes an upload away; its parts but for `kept` become garbage.
    fn end_upload(&self, upload: &UploadId, kept: &[Part]) -> Rows<()> {
        for part in rows::parts(self.db, upload, 0, usize::MAX)? {
            if !kept.iter().any(|kept| kept.id == part.part.id) {
                self.garbage_upload_part(&part)?;
            }
        }
        self.run("DELETE FROM upload_part WHERE upload = ?1", [upload.as_bytes()])?;
        self.run("DELETE FROM upload WHERE id = ?1", [upload.as_bytes()])
    }

    fn begin_write(&self, upload: &UploadId, sites: &[SiteId]) -> Rows<()> {
        let sites: Vec<&str> = sites.iter().map(SiteId::as_str).collect();
        self.run("INSERT OR REPLACE INTO attempt VALUES(?1, ?2, ?3)", (upload.as_bytes(), sites.join(" "), self.now_ms))
    }

    fn abort_write(&self, upload: &UploadId) -> Rows<()> {
        self.end_attempt(upload)?;
        self.run("INSERT OR IGNORE INTO aborted VALUES(?1, ?2)", (upload.as_bytes(), self.now_ms))
    }

    fn end_attempt(&self, upload: &UploadId) -> Rows<()> {
        self.run("DELETE FROM attempt WHERE upload = ?1", [upload.as_bytes()])
    }

    fn garbage_upload_part(&self, part: &UploadPart) -> Rows<()> {
        part.copies.iter().try_for_each(|(site, at)| self.garbage_part(site, &part.part, *at))
    }

    fn garbage_part(&self, site: &SiteId, part: &Part, at: Option<PackAddr>) -> Rows<()> {
        // A layout that no writer makes was refused at commit; one chunk is
        // then the least that can be erased by name, and sweep finds the rest.
        let chunks = Layout::of(part).map_or(1, |layout| layout.chunks());
        self.garbage(site, KIND_CHUNKS, &part.upload, chunks, at)
    }

    fn garbage(&self, site: &SiteId, kind: i64, id: &UploadId, chunks: u32, at: Option<PackAddr>) -> Rows<()> {
        self.run(
            "INSERT OR IGNORE INTO garbage VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            (
                site.as_str(),
                kind,
                id.as_bytes(),
                chunks,
                at.map(|at| at.pack),
                at.map(|at| at.offset),
                at.map(|at| at.len),
                self.now_ms,
            ),
        )
    }

    fn run(&self, sql: &str, values: impl ringfence_db::rusqlite::Params) -> Rows<()> {
        self.db.prepare_cached(sql)?.execute(values).map(drop)
    }
}

/// What a listing says about checksums: algorithm, and `+` where composite.
fn checksum_column(version: &Version) -> Option<String> {
    let first = version.checksums.first()?;
    Some(format!("{}{}", first.algorithm, if first.composite { "+" } else { "" }))
}
