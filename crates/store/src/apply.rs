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
        Redo::PutManifest(signed) => tx.run(
            "INSERT INTO manifest VALUES(?1, ?2, ?3) ON CONFLICT(realm) DO UPDATE
             SET seq = excluded.seq, body = excluded.body WHERE seq < excluded.seq",
            (signed.manifest.realm.as_str(), signed.manifest.seq, to_cbor(&**signed)),
        ),
        // Its row is named by the record: `rows::note_recorded` writes it.
        Redo::PutRevocation(_) => Ok(()),
    }
}

/// Notes when the processes before this one put their last record on the log:
/// what they wrote later is not known to have failed.
pub(crate) fn close_incarnations(db: &Connection, last_record_ms: TimeMs) -> Rows<()> {
    db.prepare_cached("UPDATE incarnation SET until_ms = ?1 WHERE until_ms IS NULL")?
        .execute([last_record_ms])
        .map(drop)
}

/// Parts whose upload is not there any more, and no record ended them by name.
pub(crate) fn end_parts_without_upload(db: &Connection, now_ms: TimeMs) -> Rows<()> {
    let tx = Tx { db, now_ms };
    let orphans: Vec<UploadId> = db
        .prepare_cached("SELECT DISTINCT upload FROM upload_part WHERE upload NOT IN (SELECT id FROM upload)")?
        .query_map([], |row| row.get(0).map(UploadId))?
        .collect::<Rows<_>>()?;
    orphans.iter().try_for_each(|upload| tx.end_upload(upload, &[]))
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ringfence_format::names::{BucketName, Label, ObjectKey, PartId, Realm, Tenant};
    use ringfence_format::redo::{Bucket, HeadInfo, LabelSource, PackedPart, TenantRow};

    use super::*;
    use crate::catalog::Catalog;

    const BUCKET: BucketId = BucketId([1; 16]);

    fn id(n: u8) -> [u8; 16] {
        [n; 16]
    }

    fn part(n: u8, number: u32) -> Part {
        Part {
            id: PartId(id(n)),
            number,
            plain_len: 10,
            upload: UploadId(id(n)),
            chunk_len: ringfence_format::chunk::CHUNK_LEN_MAX,
            sealed_len: ringfence_format::chunk::sealed_len(10),
            md5: [n; 16],
            checksum: None,
            created_ms: 1,
        }
    }

    fn version(key: u8, n: u8) -> Version {
        let site = SiteId::parse("home").unwrap();
        let at = PackAddr { pack: 1, offset: u64::from(n), len: 3 };
        Version {
            bucket: BUCKET,
            key: ObjectKey::parse(&format!("k{key}")).unwrap(),
            uid: VersionUid(id(n)),
            null_version: true,
            delete_marker: false,
            created_ms: n.into(),
            size: 10,
            etag: format!("{n}"),
            label: Label::parse("internal").unwrap(),
            label_source: LabelSource::Tag,
            tags: Vec::new(),
            headers: Vec::new(),
            metadata: Vec::new(),
            checksums: Vec::new(),
            parts: vec![part(n, 1)],
            head: Some(HeadInfo { seq: 0, kek: 1, wrapped_dek: [0; 104] }),
            copies: vec![Copy {
                site,
                head: UploadId(id(n)),
                head_at: Some(at),
                packed: vec![PackedPart { part: PartId(id(n)), at }],
            }],
            placed_by: Vec::new(),
            policy_epoch: 1,
            retention: None,
            legal_hold: false,
        }
    }

    /// Every table, row by row.
    fn tables(db: &Connection) -> Vec<String> {
        let names = [
            "bucket",
            "tenant",
            "version",
            "body",
            "upload",
            "upload_part",
            "completed",
            "attempt",
            "aborted",
            "garbage",
            "incarnation",
            "meta",
        ];
        let mut all = Vec::new();
        for name in names {
            let mut rows = db.prepare(&format!("SELECT * FROM {name}")).unwrap();
            let columns = rows.column_count();
            let mut rows = rows.query([]).unwrap();
            let mut lines = Vec::new();
            while let Some(row) = rows.next().unwrap() {
                let line: Vec<_> = (0..columns).map(|i| format!("{:?}", row.get_ref(i).unwrap())).collect();
                lines.push(format!("{name}: {}", line.join(" | ")));
            }
            lines.sort();
            all.extend(lines);
        }
        all
    }

    /// What the commit thread could put on record next, whatever was before.
    fn next(db: &Connection, choice: (u8, u8), n: u8) -> Redo {
        let (kind, key) = choice;
        let uid_of = |key: u8| {
            let key = ObjectKey::parse(&format!("k{}", key % 4)).unwrap();
            rows::current(db, &BUCKET, &key).unwrap().map(|version| version.uid)
        };
        let upload = |n: u8| Upload {
            id: UploadId(id(200 + n % 3)),
            version: Version { parts: Vec::new(), copies: Vec::new(), ..version(key % 4, 100 + n % 3) },
            sites: Vec::new(),
            checksum_algorithm: None,
            checksum_composite: false,
            initiator: None,
        };
        match kind % 9 {
            0 | 1 => Redo::PutVersion(Box::new(version(key % 4, n)), uid_of(key).into_iter().collect()),
            2 => Redo::DeleteVersions(BUCKET, uid_of(key).into_iter().collect(), Vec::new()),
            3 => Redo::CreateUpload(Box::new(upload(key))),
            4 => Redo::PutPart(UploadPart {
                upload: UploadId(id(200 + key % 3)),
                part: part(n, u32::from(key % 2) + 1),
                copies: vec![(SiteId::parse("home").unwrap(), None)],
            }),
            5 => Redo::AbortUpload(UploadId(id(200 + key % 3))),
            6 => {
                let begun = UploadId(id(200 + key % 3));
                let parts = rows::parts(db, &begun, 0, 10).unwrap();
                let whole = Version { parts: parts.into_iter().map(|row| row.part).collect(), ..version(key % 4, n) };
                Redo::CompleteUpload(begun, Box::new(whole), uid_of(key).into_iter().collect())
            }
            7 => Redo::BeginWrite(UploadId(id(n)), vec![SiteId::parse("cloud").unwrap()]),
            _ => Redo::AbortWrites(vec![UploadId(id(n.wrapping_sub(1)))]),
        }
    }

    fn fresh() -> (tempfile::TempDir, Connection) {
        let dir = tempfile::tempdir().unwrap();
        let (_catalog, writer) = Catalog::open(&dir.path().join("c.db")).unwrap();
        let tenant = Tenant::parse("acme").unwrap();
        let bucket = Bucket {
            id: BUCKET,
            name: BucketName::parse("first").unwrap(),
            tenant: tenant.clone(),
            created_ms: 1,
            pin: None,
            tags: Vec::new(),
        };
        let row = TenantRow { name: tenant, realm: Realm::parse("main").unwrap(), created_ms: 1, default_label: None };
        apply(&writer, &Redo::PutTenant(row), 1).unwrap();
        apply(&writer, &Redo::PutBucket(bucket), 1).unwrap();
        (dir, writer)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

        #[test]
        fn applying_twice_is_applying_once(choices in prop::collection::vec(any::<(u8, u8)>(), 1..60)) {
            let (_dir, once) = fresh();
            let (_dir2, twice) = fresh();
            for (n, choice) in (1_u8..).zip(choices) {
                let redo = next(&once, choice, n);
                apply(&once, &redo, 7).unwrap();
                apply(&twice, &redo, 7).unwrap();
                apply(&twice, &redo, 9).unwrap();
                // Rowids and the order of versions are the same too; only the
                // time of a second attempt may differ where nothing was changed.
                let (a, b) = (tables(&once), tables(&twice));
                prop_assert_eq!(strip(a), strip(b), "after {:?}", redo);
            }
        }

        #[test]
        fn what_is_live_is_never_garbage(choices in prop::collection::vec(any::<(u8, u8)>(), 1..80)) {
            let (_dir, db) = fresh();
            for (n, choice) in (1_u8..).zip(choices) {
                apply(&db, &next(&db, choice, n), 7).unwrap();
                let garbage: Vec<[u8; 16]> = db
                    .prepare("SELECT id FROM garbage WHERE kind = 0").unwrap()
                    .query_map([], |row| row.get(0)).unwrap()
                    .collect::<Rows<_>>().unwrap();
                let mut live = Vec::new();
                crate::inventory::each_version(&db, |version| {
                    live.extend(version.parts.iter().map(|part| part.upload.0));
                    Ok(())
                }).unwrap();
                crate::inventory::each_upload_part(&db, |part| {
                    live.push(part.part.upload.0);
                    Ok(())
                }).unwrap();
                prop_assert!(live.iter().all(|id| !garbage.contains(id)));
            }
        }
    }

    /// The times of `completed` and `attempt` follow the clock.
    fn strip(tables: Vec<String>) -> Vec<String> {
        let dated = ["completed", "attempt"];
        let strip = |line: String| match dated.iter().any(|table| line.starts_with(table)) {
            true => line.rsplit_once(" | ").map_or(line.clone(), |(rest, _)| rest.to_owned()),
            false => line,
        };
        tables.into_iter().map(strip).collect()
    }
}
