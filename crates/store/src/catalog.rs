//! What the catalogue knows, for readers on any thread.
//!
//! Buckets, tenants and keys are few and asked for by every request: they are
//! held in memory, changed only by the commit thread after its COMMIT.
//! Everything else is read from SQLite on the caller's thread: about 20 µs,
//! less than handing it to another thread would cost.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use ringfence_db::rusqlite::{self, Connection};
use ringfence_db::{DbError, Sqlite};
use ringfence_format::names::{BucketId, BucketName, KeyId, ObjectKey, Realm, SiteId, Tenant, UploadId, VersionUid};
use ringfence_format::record::Seq;
use ringfence_format::redo::{Bucket, Redo, StaticKeyRow, TenantRow, Upload, UploadPart, Version};
use ringfence_format::session::{Revocation, SignedManifest};

use crate::list::{self, Page, Query};
use crate::rows::{self, Completed, Rows, VersionRef, meta};
use crate::schema::MIGRATIONS;

/// The catalogue, for reading. Shared by all threads.
#[derive(Debug)]
pub struct Catalog {
    db: Sqlite,
    roster: RwLock<Roster>,
}

/// The few rows that are held in memory.
#[derive(Debug, Default)]
struct Roster {
    buckets: BTreeMap<BucketName, Arc<Bucket>>,
    names: BTreeMap<BucketId, BucketName>,
    tenants: BTreeMap<Tenant, Arc<TenantRow>>,
    keys: BTreeMap<KeyId, IssuedKey>,
}

/// A static key and the record that issued it.
#[derive(Clone, Debug)]
pub struct IssuedKey {
    /// The key.
    pub row: Arc<StaticKeyRow>,
    /// Its issuance record; without one it is refused.
    pub issued: Option<Seq>,
}

/// How much the catalogue holds; counting reads every row of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Versions and delete markers.
    pub versions: u64,
    /// Plaintext bytes of all versions.
    pub bytes: u64,
    /// Uploads under way.
    pub uploads: u64,
    /// Chunk series and heads that wait to be erased.
    pub garbage: u64,
}

impl Catalog {
    /// Opens or creates the file; the connection is its only writer.
    pub(crate) fn open(path: &Path) -> Result<(Self, Connection), DbError> {
        let (db, writer) = Sqlite::open(path, MIGRATIONS)?;
        let roster = Roster::load(&writer).map_err(|error| db.sort(error))?;
        Ok((Self { db, roster: RwLock::new(roster) }, writer))
    }

    /// The bucket of that name. Costs no I/O.
    pub fn bucket_by_name(&self, name: &BucketName) -> Option<Arc<Bucket>> {
        self.roster().buckets.get(name).cloned()
    }

    /// The bucket of that identity. Costs no I/O.
    pub fn bucket(&self, id: &BucketId) -> Option<Arc<Bucket>> {
        let roster = self.roster();
        roster.buckets.get(roster.names.get(id)?).cloned()
    }

    /// A tenant's buckets by name. Costs no I/O.
    pub fn buckets_of(&self, tenant: &Tenant) -> Vec<Arc<Bucket>> {
        self.roster().buckets.values().filter(|bucket| bucket.tenant == *tenant).cloned().collect()
    }

    /// Every bucket by name. Costs no I/O.
    pub fn buckets(&self) -> Vec<Arc<Bucket>> {
        self.roster().buckets.values().cloned().collect()
    }

    /// A tenant. Costs no I/O.
    pub fn tenant(&self, name: &Tenant) -> Option<Arc<TenantRow>> {
        self.roster().tenants.get(name).cloned()
    }

    /// All tenants by name. Costs no I/O.
    pub fn tenants(&self) -> Vec<Arc<TenantRow>> {
        self.roster().tenants.values().cloned().collect()
    }

    /// A static key, disabled ones too. Costs no I/O.
    pub fn static_key(&self, id: &KeyId) -> Option<IssuedKey> {
        self.roster().keys.get(id).cloned()
    }

    /// All static keys by id, disabled ones too. Costs no I/O.
    pub fn static_keys(&self) -> Vec<IssuedKey> {
        self.roster().keys.values().cloned().collect()
    }

    /// The version of a key that a read means: the current one where none is
    /// named. A delete marker is returned as what it is.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn locate(
        &self,
        bucket: &BucketId,
        key: &ObjectKey,
        version: Option<VersionRef>,
    ) -> Result<Option<Arc<Version>>, DbError> {
        let found = self.read(|db| match version {
            None => rows::current(db, bucket, key),
            Some(which) => rows::version(db, bucket, key, which),
        })?;
        Ok(found.map(Arc::new))
    }

    /// A version by its identity alone.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn version(&self, uid: &VersionUid) -> Result<Option<Arc<Version>>, DbError> {
        Ok(self.read(|db| rows::by_uid(db, uid))?.map(|(_, version)| Arc::new(version)))
    }

    /// A page of current objects, as ListObjects shows them.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn list_page(&self, bucket: &BucketId, query: &Query<'_>) -> Result<Page, DbError> {
        self.read(|db| list::objects(db, bucket, query))
    }

    /// A page of versions and delete markers, newest of a key first.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn list_versions(&self, bucket: &BucketId, query: &Query<'_>) -> Result<Page, DbError> {
        self.read(|db| list::versions(db, bucket, query))
    }

    /// A page of uploads under way, oldest of a key first.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn list_uploads(&self, bucket: &BucketId, query: &Query<'_>) -> Result<Page<Upload>, DbError> {
        self.read(|db| list::uploads(db, bucket, query))
    }

    /// Parts of an upload with numbers above `after`, ascending, at most `max`.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn list_parts(&self, upload: &UploadId, after: u32, max: usize) -> Result<Vec<UploadPart>, DbError> {
        self.read(|db| rows::parts(db, upload, after, max))
    }

    /// An upload under way.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn upload(&self, id: &UploadId) -> Result<Option<Upload>, DbError> {
        self.read(|db| rows::upload(db, id))
    }

    /// What an upload became, so that completing again answers the same.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn completed(&self, id: &UploadId) -> Result<Option<Completed>, DbError> {
        self.read(|db| rows::completed(db, id))
    }

    /// Uploads that began before `before_ms`, oldest first, at most `max`.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn stale_uploads(&self, before_ms: u64, max: usize) -> Result<Vec<Upload>, DbError> {
        let max = i64::try_from(max).unwrap_or(i64::MAX);
        self.read(|db| {
            db.prepare_cached("SELECT body FROM upload WHERE created_ms < ?1 ORDER BY created_ms LIMIT ?2")?
                .query_map((before_ms, max), |row| rows::cbor(row, 0))?
                .collect()
        })
    }

    /// Versions in the order they were written, from behind `after_row` (0 for
    /// the first): the row number to go on from, and the version. For scrub,
    /// rotation, reports: everything that walks over all objects in steps.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn walk(&self, after_row: i64, max: usize) -> Result<Vec<(i64, Version)>, DbError> {
        let max = i64::try_from(max).unwrap_or(i64::MAX);
        self.read(|db| {
            db.prepare_cached("SELECT row, body FROM body WHERE row > ?1 ORDER BY row LIMIT ?2")?
                .query_map((after_row, max), |row| Ok((row.get(0)?, rows::cbor(row, 1)?)))?
                .collect()
        })
    }

    /// Uploads in order of their ids, from behind `after`.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn walk_uploads(&self, after: Option<&UploadId>, max: usize) -> Result<Vec<Upload>, DbError> {
        let after = after.map_or(&[][..], |id| id.as_bytes());
        let max = i64::try_from(max).unwrap_or(i64::MAX);
        self.read(|db| {
            db.prepare_cached("SELECT body FROM upload WHERE id > ?1 ORDER BY id LIMIT ?2")?
                .query_map((after, max), |row| rows::cbor(row, 0))?
                .collect()
        })
    }

    /// The next record the catalogue waits for: all before it are applied.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn next_seq(&self) -> Result<Seq, DbError> {
        self.read(|db| Ok(rows::meta_u64(db, meta::NEXT_SEQ)?.unwrap_or(0)))
    }

    /// The policy epoch that was last put on record, if one was.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn policy_epoch(&self) -> Result<Option<u64>, DbError> {
        self.read(|db| rows::meta_u64(db, meta::POLICY_EPOCH))
    }

    /// The SHA-256 of the policy set that was last put on record.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn policy_sha256(&self) -> Result<Option<[u8; 32]>, DbError> {
        use rusqlite::OptionalExtension;
        self.read(|db| {
            db.prepare_cached("SELECT value FROM meta WHERE name = ?1")?
                .query_row([meta::POLICY_SHA256], |row| row.get(0))
                .optional()
        })
    }

    /// Whether a version was restored from the sites alone, so that a delete or
    /// overwrite that only the lost log knew may have been undone.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn is_unconfirmed(&self, uid: &VersionUid) -> Result<bool, DbError> {
        self.read(|db| {
            db.prepare_cached("SELECT EXISTS(SELECT 1 FROM unconfirmed WHERE uid = ?1)")?
                .query_row([uid.as_bytes()], |row| row.get(0))
        })
    }

    /// Whether scrub found this copy damaged or gone.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn is_bad(&self, uid: &VersionUid, site: &SiteId) -> Result<bool, DbError> {
        self.read(|db| {
            db.prepare_cached("SELECT EXISTS(SELECT 1 FROM bad_copy WHERE uid = ?1 AND site = ?2)")?
                .query_row((uid.as_bytes(), site.as_str()), |row| row.get(0))
        })
    }

    /// The manifest of session keys that is in force in a realm.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn manifest(&self, realm: &Realm) -> Result<Option<SignedManifest>, DbError> {
        self.read(|db| rows::manifest(db, realm))
    }

    /// Every revocation of a realm with its record, in their order; those that
    /// were taken back too.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn revocations(&self, realm: &Realm) -> Result<Vec<(Seq, Revocation)>, DbError> {
        self.read(|db| rows::revocations(db, realm))
    }

    /// How many things wait to be erased at a site.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn garbage_at(&self, site: &SiteId) -> Result<u64, DbError> {
        self.read(|db| {
            db.prepare_cached("SELECT count(*) FROM garbage WHERE site = ?1")?
                .query_row([site.as_str()], |row| row.get(0))
        })
    }

    /// Counts everything. Reads whole tables: for reports and metrics, not
    /// for the way of a request.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn totals(&self) -> Result<Totals, DbError> {
        self.read(|db| {
            let one = |sql| db.prepare_cached(sql)?.query_row([], |row| row.get(0));
            Ok(Totals {
                versions: one("SELECT count(*) FROM version")?,
                bytes: one("SELECT coalesce(sum(size), 0) FROM version")?,
                uploads: one("SELECT count(*) FROM upload")?,
                garbage: one("SELECT count(*) FROM garbage")?,
            })
        })
    }

    /// Writes a consistent copy of the catalogue while it is in use.
    ///
    /// # Errors
    /// Whatever SQLite or the target's disk says.
    pub fn back_up(&self, target: &Path) -> Result<(), DbError> {
        self.db.back_up(target)
    }

    /// SQLite's own check of the file.
    ///
    /// # Errors
    /// [`DbError::Damaged`] with the first finding.
    pub fn check_file(&self) -> Result<(), DbError> {
        self.db.check()
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        self.db.path()
    }

    /// Runs `query` on a lent connection.
    pub(crate) fn read<T>(&self, query: impl FnOnce(&Connection) -> Rows<T>) -> Result<T, DbError> {
        let reader = self.db.reader()?;
        query(&reader).map_err(|error| self.db.sort(error))
    }

    /// Sorts an error of SQLite on this file.
    pub(crate) fn sort(&self, error: rusqlite::Error) -> DbError {
        self.db.sort(error)
    }

    /// Follows a committed change. Only the commit thread calls it, after COMMIT.
    pub(crate) fn follow(&self, redo: &Redo, seq: Seq) {
        self.roster.write().unwrap_or_else(PoisonError::into_inner).follow(redo, seq);
    }

    fn roster(&self) -> RwLockReadGuard<'_, Roster> {
        self.roster.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Roster {
    fn load(db: &Connection) -> Rows<Self> {
        let mut roster = Self::default();
        for bucket in rows::all::<Bucket>(db, "SELECT body FROM bucket")? {
            roster.put_bucket(bucket);
        }
        for tenant in rows::all::<TenantRow>(db, "SELECT body FROM tenant")? {
            roster.tenants.insert(tenant.name.clone(), tenant);
        }
        let mut keys = db.prepare_cached("SELECT body, issued_seq FROM static_key")?;
        let mut rows = keys.query([])?;
        while let Some(row) = rows.next()? {
            let key: StaticKeyRow = rows::cbor(row, 0)?;
            roster.keys.insert(key.id.clone(), IssuedKey { issued: row.get(1)?, row: Arc::new(key) });
        }
        Ok(roster)
    }

    fn follow(&mut self, redo: &Redo, seq: Seq) {
        match redo {
            Redo::PutBucket(bucket) => self.put_bucket(Arc::new(bucket.clone())),
            Redo::DeleteBucket(id) => {
                if let Some(name) = self.names.remove(id) {
                    self.buckets.remove(&name);
                }
            }
            Redo::PutTenant(tenant) => {
                self.tenants.insert(tenant.name.clone(), Arc::new(tenant.clone()));
            }
            Redo::PutStaticKey(key) => {
                let issued = self.keys.get(&key.id).map_or(Some(seq), |known| known.issued.or(Some(seq)));
                self.keys.insert(key.id.clone(), IssuedKey { row: Arc::new(key.clone()), issued });
            }
            _ => {}
        }
    }

    fn put_bucket(&mut self, bucket: Arc<Bucket>) {
        self.names.insert(bucket.id, bucket.name.clone());
        self.buckets.insert(bucket.name.clone(), bucket);
    }
}
