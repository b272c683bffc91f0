//! Reading single rows of the catalogue through any connection: a reader's
//! snapshot, or the commit thread's open transaction.

use std::sync::Arc;

use ringfence_db::rusqlite::{self, Connection, OptionalExtension, Row, types::Type};
use ringfence_format::names::{BucketId, ObjectKey, Realm, UploadId, VersionUid};
use ringfence_format::record::Seq;
use ringfence_format::redo::{Bucket, Redo, TimeMs, Upload, UploadPart, Version};
use ringfence_format::session::{Revocation, SignedManifest};

/// Which version of a key is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VersionRef {
    /// The one S3 calls `null`: made while versioning was off.
    Null,
    /// This one.
    Uid(VersionUid),
}

/// A multipart upload that became an object; kept for a while so that a
/// client which missed the answer may complete again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completed {
    /// The bucket it is in.
    pub bucket: BucketId,
    /// The key it was made for.
    pub key: ObjectKey,
    /// The version it became.
    pub uid: VersionUid,
    /// That version's ETag without quotes: by the parts' ETags a retry shows
    /// that it means the same parts.
    pub etag: String,
    /// When.
    pub at_ms: TimeMs,
}

pub(crate) const FLAG_MARKER: i64 = 1;
pub(crate) const FLAG_NULL: i64 = 2;

/// Names of rows in `meta`.
pub(crate) mod meta {
    /// The next record to apply: everything before it is in the tables.
    pub(crate) const NEXT_SEQ: &str = "next_seq";
    /// Which log the rows come from.
    pub(crate) const ORIGIN: &str = "origin";
    /// The policy epoch in force.
    pub(crate) const POLICY_EPOCH: &str = "policy_epoch";
    /// The SHA-256 of that policy.
    pub(crate) const POLICY_SHA256: &str = "policy_sha256";
    /// Set while a recovery waits for a confirmed dry run of sweep.
    pub(crate) const RECOVERED: &str = "recovered";
}

pub(crate) type Rows<T> = rusqlite::Result<T>;

pub(crate) fn bucket(db: &Connection, id: &BucketId) -> Rows<Option<Bucket>> {
    db.prepare_cached("SELECT body FROM bucket WHERE id = ?1")?
        .query_row([id.as_bytes()], |row| cbor(row, 0))
        .optional()
}

/// The current version of a key, a delete marker too.
pub(crate) fn current(db: &Connection, bucket: &BucketId, key: &ObjectKey) -> Rows<Option<Version>> {
    db.prepare_cached(CURRENT)?.query_row((bucket.as_bytes(), key.as_str().as_bytes()), |row| cbor(row, 0)).optional()
}

const CURRENT: &str = "SELECT b.body FROM version v JOIN body b ON b.row = v.body
     WHERE v.bucket = ?1 AND v.key = ?2 ORDER BY v.ord LIMIT 1";

/// One version of a key.
pub(crate) fn version(db: &Connection, bucket: &BucketId, key: &ObjectKey, which: VersionRef) -> Rows<Option<Version>> {
    let key = key.as_str().as_bytes();
    let bucket = bucket.as_bytes();
    match which {
        VersionRef::Null => db
            .prepare_cached(
                "SELECT b.body FROM version v JOIN body b ON b.row = v.body
                 WHERE v.bucket = ?1 AND v.key = ?2 AND v.flags & ?3 != 0 ORDER BY v.ord LIMIT 1",
            )?
            .query_row((bucket, key, FLAG_NULL), |row| cbor(row, 0)),
        VersionRef::Uid(uid) => db
            .prepare_cached(
                "SELECT b.body FROM version v JOIN body b ON b.row = v.body
                 WHERE v.bucket = ?1 AND v.key = ?2 AND v.uid = ?3",
            )?
            .query_row((bucket, key, uid.as_bytes()), |row| cbor(row, 0)),
    }
    .optional()
}

/// A version by its identity alone, with the row it lies in.
pub(crate) fn by_uid(db: &Connection, uid: &VersionUid) -> Rows<Option<(i64, Version)>> {
    db.prepare_cached("SELECT row, body FROM body WHERE uid = ?1")?
        .query_row([uid.as_bytes()], |row| Ok((row.get(0)?, cbor(row, 1)?)))
        .optional()
}

pub(crate) fn upload(db: &Connection, id: &UploadId) -> Rows<Option<Upload>> {
    db.prepare_cached("SELECT body FROM upload WHERE id = ?1")?
        .query_row([id.as_bytes()], |row| cbor(row, 0))
        .optional()
}

/// Parts of an upload with numbers above `after`, ascending.
pub(crate) fn parts(db: &Connection, id: &UploadId, after: u32, max: usize) -> Rows<Vec<UploadPart>> {
    let max = i64::try_from(max).unwrap_or(i64::MAX);
    db.prepare_cached("SELECT body FROM upload_part WHERE upload = ?1 AND number > ?2 ORDER BY number LIMIT ?3")?
        .query_map((id.as_bytes(), after, max), |row| cbor(row, 0))?
        .collect()
}

pub(crate) fn part(db: &Connection, id: &UploadId, number: u32) -> Rows<Option<UploadPart>> {
    db.prepare_cached("SELECT body FROM upload_part WHERE upload = ?1 AND number = ?2")?
        .query_row((id.as_bytes(), number), |row| cbor(row, 0))
        .optional()
}

pub(crate) fn completed(db: &Connection, id: &UploadId) -> Rows<Option<Completed>> {
    db.prepare_cached("SELECT bucket, key, uid, etag, at_ms FROM completed WHERE upload = ?1")?
        .query_row([id.as_bytes()], |row| {
            Ok(Completed {
                bucket: BucketId(row.get(0)?),
                key: object_key(row, 1)?,
                uid: VersionUid(row.get(2)?),
                etag: row.get(3)?,
                at_ms: row.get(4)?,
            })
        })
        .optional()
}

/// Whether anything keeps a bucket from being deleted.
pub(crate) fn holds_versions(db: &Connection, bucket: &BucketId) -> Rows<bool> {
    db.prepare_cached("SELECT EXISTS(SELECT 1 FROM version WHERE bucket = ?1)")?
        .query_row([bucket.as_bytes()], |row| row.get(0))
}

pub(crate) fn meta_u64(db: &Connection, name: &str) -> Rows<Option<u64>> {
    db.prepare_cached("SELECT value FROM meta WHERE name = ?1")?.query_row([name], |row| row.get(0)).optional()
}

pub(crate) fn meta_text(db: &Connection, name: &str) -> Rows<Option<String>> {
    db.prepare_cached("SELECT value FROM meta WHERE name = ?1")?.query_row([name], |row| row.get(0)).optional()
}

pub(crate) fn set_meta(db: &Connection, name: &str, value: impl rusqlite::ToSql) -> Rows<()> {
    db.prepare_cached("INSERT INTO meta VALUES(?1, ?2) ON CONFLICT(name) DO UPDATE SET value = excluded.value")?
        .execute((name, value))
        .map(drop)
}

/// Notes what is named by its record: which one issued a key, the first time it
/// is seen, for without one the key is refused (ruling 20); and revocations.
pub(crate) fn note_recorded(db: &Connection, redo: &Redo, seq: Seq) -> Rows<()> {
    match redo {
        Redo::PutStaticKey(key) => db
            .prepare_cached("UPDATE static_key SET issued_seq = ?2 WHERE id = ?1 AND issued_seq IS NULL")?
            .execute((key.id.as_str(), seq))
            .map(drop),
        Redo::PutRevocation(revocation) => db
            .prepare_cached("INSERT OR IGNORE INTO revocation VALUES(?1, ?2, ?3)")?
            .execute((seq, revocation.realm.as_str(), to_cbor(revocation)))
            .map(drop),
        _ => Ok(()),
    }
}

/// The manifest in force in a realm.
pub(crate) fn manifest(db: &Connection, realm: &Realm) -> Rows<Option<SignedManifest>> {
    db.prepare_cached("SELECT body FROM manifest WHERE realm = ?1")?
        .query_row([realm.as_str()], |row| cbor(row, 0))
        .optional()
}

/// The revocations of a realm, as they were recorded.
pub(crate) fn revocations(db: &Connection, realm: &Realm) -> Rows<Vec<(Seq, Revocation)>> {
    db.prepare_cached("SELECT seq, body FROM revocation WHERE realm = ?1 ORDER BY seq")?
        .query_map([realm.as_str()], |row| Ok((row.get(0)?, cbor(row, 1)?)))?
        .collect()
}

/// Decodes a CBOR column.
pub(crate) fn cbor<T: for<'b> minicbor::Decode<'b, ()>>(row: &Row<'_>, column: usize) -> Rows<T> {
    let bytes = row.get_ref(column)?.as_blob()?;
    minicbor::decode(bytes).map_err(|error| damaged(column, Type::Blob, error))
}

/// Encodes for a CBOR column.
pub(crate) fn to_cbor<T: minicbor::Encode<()>>(value: &T) -> Vec<u8> {
    minicbor::to_vec(value).expect("encoding into memory cannot fail")
}

/// A key column, parsed again.
pub(crate) fn object_key(row: &Row<'_>, column: usize) -> Rows<ObjectKey> {
    let bytes = row.get_ref(column)?.as_blob()?;
    let text = std::str::from_utf8(bytes).map_err(|error| damaged(column, Type::Blob, error))?;
    ObjectKey::parse(text).map_err(|error| damaged(column, Type::Blob, error))
}

pub(crate) fn damaged(
    column: usize,
    kind: Type,
    error: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, kind, Box::new(error))
}

/// Decodes every row of a query with one CBOR column.
pub(crate) fn all<T>(db: &Connection, sql: &str) -> Rows<Vec<Arc<T>>>
where
    T: for<'b> minicbor::Decode<'b, ()>,
{
    db.prepare_cached(sql)?.query_map([], |row| cbor(row, 0).map(Arc::new))?.collect()
}

#[cfg(test)]
mod tests {
    use ringfence_db::Sqlite;
    use ringfence_db::rusqlite::StatementStatus;

    use super::*;

    #[test]
    fn the_statement_of_every_read_is_prepared_once_whatever_is_bound() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (db, writer) = Sqlite::open(&dir.path().join("a.db"), crate::schema::MIGRATIONS).expect("open");
        let reader = db.reader().expect("reader");
        for n in 0..20_u8 {
            let mut statement = reader.prepare_cached(CURRENT).expect("prepare");
            let found: Option<Vec<u8>> =
                statement.query_row(([n; 16], [n; 3]), |row| row.get(0)).optional().expect("nothing");
            assert_eq!((found, statement.get_status(StatementStatus::RePrepare)), (None, 0), "execution {n}");
        }
        drop(writer);
    }
}
