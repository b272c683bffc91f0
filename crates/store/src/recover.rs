//! Rebuilding a catalogue that is gone.
//!
//! From the log, if it is whole: every change is in it, and replaying them is
//! what every start does anyway. Retention leaves every change of which
//! something is left (see [`crate::retain`]), so a log that was trimmed is whole. Without it, from the heads at the sites: each
//! says whose it is and what it consists of. Versions restored so are marked
//! `unconfirmed`: a delete or overwrite that only the lost log knew may be
//! undone. What remains of a log is applied on top, so its deletes win.
//!
//! Nothing is erased, and sweep erases nothing either before somebody has
//! looked at a dry run (ruling 13).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use ringfence_db::DbError;
use ringfence_db::clock::Clock;
use ringfence_db::rusqlite::Connection;
use ringfence_format::names::{BucketId, BucketName, InstallationId, SiteId, UploadId, VersionUid};
use ringfence_format::redo::{Bucket, Copy, PackedPart, Redo, Rehead, TenantRow, Version};
use ringfence_log::{Changed, Log, LogError};

use crate::apply::{KIND_CHUNKS, apply};
use crate::catalog::Catalog;
use crate::inventory::{self, Found, Inventory};
use crate::rows::{self, Rows, VersionRef, meta};
use crate::site::{Site, SiteError};
use crate::sweep::{OpenHead, OpenedHead};

/// Heads taken from the scratch table at once.
const HEADS_AT_ONCE: usize = 1000;
/// Records applied in one transaction.
const RECORDS_AT_ONCE: u64 = 10_000;
/// Problems listed; more are only counted.
const PROBLEMS_MAX: usize = 1000;

/// What a recovery works with.
pub struct RecoverFrom<'a> {
    /// Whose heads count.
    pub installation: InstallationId,
    /// The log, if there is one.
    pub log: Option<&'a Log>,
    /// Every site.
    pub sites: &'a [Arc<Site>],
    /// What opens heads.
    pub heads: &'a dyn OpenHead,
    /// The time.
    pub clock: &'a dyn Clock,
}

/// What a recovery restored.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct RecoverReport {
    /// Whether the log was whole, so that the result is exact.
    pub from_log: bool,
    /// Records read.
    pub records: u64,
    /// Records whose change was trimmed or erased with them: nothing of it was
    /// left when it was.
    pub trimmed_changes: u64,
    /// Heads opened.
    pub heads: u64,
    /// Versions the catalogue has now.
    pub versions: u64,
    /// Versions that were restored from heads alone.
    pub unconfirmed: u64,
    /// Older versions of a key whose newer one was found: not restored.
    pub superseded: u64,
    /// Copies without all their chunks: not restored.
    pub incomplete: u64,
    /// What could not be read or opened.
    pub problems: Vec<String>,
}

impl RecoverReport {
    fn problem(&mut self, problem: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        }
    }
}

/// Why a recovery came to nothing; the file it had begun is of no use.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// There is a catalogue: it would be overwritten.
    #[error("`{0}` exists: move it away first")]
    Exists(String),
    /// The log cannot be read where it must be.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The new file failed.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The scratch tables failed.
    #[error("the scratch tables of the recovery failed: {0}")]
    Scratch(ringfence_db::rusqlite::Error),
    /// A site cannot be listed: what lies only there would be missing.
    #[error("site `{0}` cannot be listed ({1}): bring it back, then run `ringfence recover` again")]
    Site(SiteId, SiteError),
}

/// Rebuilds the catalogue at `path`, where none may be. Then open the
/// [`Store`](crate::Store) on it as always. `progress` is called now and then.
///
/// # Errors
/// [`RecoverError::Exists`] before anything is done.
pub async fn recover(
    path: &Path,
    from: RecoverFrom<'_>,
    mut progress: impl FnMut(&RecoverReport) + Send,
) -> Result<RecoverReport, RecoverError> {
    if path.exists() {
        return Err(RecoverError::Exists(path.display().to_string()));
    }
    let (catalog, writer) = Catalog::open(path)?;
    let mut recovery = Recovery {
        catalog,
        writer,
        installation: from.installation,
        now_ms: from.clock.now_us() / 1000,
        inventory: Inventory::new().map_err(RecoverError::Scratch)?,
        buckets: BTreeMap::new(),
        report: RecoverReport::default(),
    };
    let whole = from.log.is_some_and(is_whole);
    recovery.report.from_log = whole;
    if !whole {
        recovery.read_heads(from.sites, from.heads, &mut progress).await?;
    }
    if let Some(log) = from.log {
        recovery.read_log(log, &mut progress)?;
    }
    recovery.finish()
}

/// Whether the log can be read from its first record on, and that is the first
/// of the installation: a log that was begun anew by a recovery without one
/// begins with that recovery, and does not know what was there before.
fn is_whole(log: &Log) -> bool {
    let first = log.change(0).map(|change| change.redo);
    matches!(first, Ok(Changed::By(redo)) if matches!(*redo, Redo::Start(_)))
}

struct Recovery {
    catalog: Catalog,
    writer: Connection,
    installation: InstallationId,
    now_ms: u64,
    inventory: Inventory,
    /// How new the version is whose head described the bucket last.
    buckets: BTreeMap<BucketId, u64>,
    report: RecoverReport,
}

impl Recovery {
    fn read_log(&mut self, log: &Log, progress: &mut (impl FnMut(&RecoverReport) + Send)) -> Result<(), RecoverError> {
        let exact = self.report.from_log;
        self.begin()?;
        let mut last_ms = 0;
        for read in log.replay(0) {
            let (seq, change) = match read {
                Ok(read) => read,
                // A log that is whole must be read whole; of one that is not,
                // what can be read is better than nothing.
                Err(error) if exact => return Err(error.into()),
                Err(error) => {
                    self.report.problem(error.to_string());
                    continue;
                }
            };
            match &change.redo {
                Changed::By(redo) => {
                    if !exact {
                        self.make_way(redo)?;
                    }
                    self.apply(redo, last_ms, seq)?;
                }
                Changed::Gone { .. } => self.report.trimmed_changes += 1,
                Changed::Nothing => {}
            }
            last_ms = change.time_us.map_or(last_ms, |time_us| time_us / 1000);
            self.report.records += 1;
            if self.report.records.is_multiple_of(RECORDS_AT_ONCE) {
                self.commit()?;
                progress(&self.report);
                self.begin()?;
            }
        }
        if !exact {
            // Parts of uploads that began in what was trimmed: nobody can
            // complete those any more, and nothing else refers to them.
            self.sql(|db| {
                db.execute("DELETE FROM upload_part WHERE upload NOT IN (SELECT id FROM upload)", []).map(drop)
            })?;
        }
        self.sql(|db| {
            rows::set_meta(db, meta::NEXT_SEQ, log.durable_size())?;
            rows::set_meta(db, meta::ORIGIN, log.verifier_key().name())
        })?;
        self.commit()
    }

    /// What a log that was begun anew says of a bucket wins over what heads at
    /// sites made believe: those of deleted objects lie there until they are
    /// erased. They are forgotten, not erased.
    fn make_way(&mut self, redo: &Redo) -> Result<(), RecoverError> {
        match redo {
            // A bucket that is deleted is empty.
            Redo::DeleteBucket(id) => self.forget_bucket(id),
            Redo::PutBucket(bucket) => {
                let other = self.bucket_named(&bucket.name)?;
                match other.filter(|other| other.id != bucket.id) {
                    Some(other) => self.forget_bucket(&other.id),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn apply(&self, redo: &Redo, last_ms: u64, seq: u64) -> Result<(), RecoverError> {
        self.sql(|db| {
            if matches!(redo, Redo::Start(_)) {
                crate::apply::close_incarnations(db, last_ms)?;
            }
            apply(db, redo, self.now_ms)?;
            if let Redo::PutVersion(version, _) | Redo::CompleteUpload(_, version, _) = redo {
                db.prepare_cached("DELETE FROM unconfirmed WHERE uid = ?1")?.execute([version.uid.as_bytes()])?;
            }
            rows::note_recorded(db, redo, seq)
        })
    }

    async fn read_heads(
        &mut self,
        sites: &[Arc<Site>],
        opener: &dyn OpenHead,
        progress: &mut (impl FnMut(&RecoverReport) + Send),
    ) -> Result<(), RecoverError> {
        for site in sites {
            let noted = inventory::list(site, &self.installation, &mut self.inventory).await;
            let noted = noted.map_err(|error| RecoverError::Site(site.id().clone(), error))?;
            let _foreign = noted.map_err(RecoverError::Scratch)?;
        }
        for site in sites {
            let mut after: Option<UploadId> = None;
            loop {
                let heads = self.inventory.heads(site.id(), after.as_ref(), HEADS_AT_ONCE);
                let heads = heads.map_err(RecoverError::Scratch)?;
                let Some(last) = heads.last() else { break };
                after = Some(last.id);
                let mut opened = Vec::with_capacity(heads.len());
                for found in heads {
                    match site.get(&found.name, found.at, None).await {
                        Ok(head) => opened.push((opener.open_head(&head), found)),
                        Err(error) => self.report.problem(error.to_string()),
                    }
                }
                self.take_heads(site.id(), opened)?;
                progress(&self.report);
            }
        }
        Ok(())
    }

    fn take_heads(
        &mut self,
        site: &SiteId,
        heads: Vec<(Result<OpenedHead, String>, Found)>,
    ) -> Result<(), RecoverError> {
        self.begin()?;
        for (opened, found) in heads {
            match opened {
                Ok(opened) => self.take_head(site, opened, &found)?,
                Err(why) => self.report.problem(format!("head `{}` at site `{site}`: {why}", found.name)),
            }
        }
        self.commit()
    }

    fn take_head(&mut self, site: &SiteId, opened: OpenedHead, found: &Found) -> Result<(), RecoverError> {
        self.report.heads += 1;
        let OpenedHead { realm, manifest } = opened;
        let Some(copy) = self.complete_copy(site, &manifest.version, found)? else {
            self.report.incomplete += 1;
            return Ok(());
        };
        if !self.take_bucket(&manifest.bucket, &manifest.version)? {
            self.report.superseded += 1;
            return Ok(());
        }
        let created_ms = manifest.bucket.created_ms;
        let tenant = TenantRow { name: manifest.bucket.tenant.clone(), realm, created_ms, default_label: None };
        self.sql(|db| apply(db, &Redo::PutTenant(tenant), self.now_ms))?;
        self.take_version(manifest.version, copy)
    }

    /// The copy a head completes, if all its chunks lie there.
    fn complete_copy(&self, site: &SiteId, version: &Version, found: &Found) -> Result<Option<Copy>, RecoverError> {
        let scratch = RecoverError::Scratch;
        let mut packed = Vec::new();
        for part in &version.parts {
            let chunks = self.inventory.found(site, KIND_CHUNKS, &part.upload).map_err(scratch)?;
            let at = chunks.first().and_then(|chunk| chunk.at);
            if self.inventory.part_is_missing(site, part, at).map_err(scratch)?.is_some() {
                return Ok(None);
            }
            packed.extend(at.map(|at| PackedPart { part: part.id, at }));
        }
        Ok(Some(Copy { site: site.clone(), head: found.id, head_at: found.at, packed }))
    }

    /// Restores a bucket as its newest version saw it. `false` where a newer
    /// bucket has its name: what was in the old one is gone with it.
    fn take_bucket(&mut self, bucket: &Bucket, version: &Version) -> Result<bool, RecoverError> {
        let named = self.bucket_named(&bucket.name)?;
        if let Some(other) = named.filter(|other| other.id != bucket.id) {
            if other.created_ms >= bucket.created_ms {
                return Ok(false);
            }
            self.forget_bucket(&other.id)?;
        }
        let newest = self.buckets.entry(bucket.id).or_default();
        if version.created_ms >= *newest {
            *newest = version.created_ms;
            self.sql(|db| apply(db, &Redo::PutBucket(bucket.clone()), self.now_ms))?;
        }
        Ok(true)
    }

    fn bucket_named(&self, name: &BucketName) -> Result<Option<Bucket>, RecoverError> {
        self.sql(|db| {
            let mut named = db.prepare_cached("SELECT body FROM bucket WHERE name = ?1")?;
            let mut rows = named.query_map([name.as_str()], |row| rows::cbor(row, 0))?;
            rows.next().transpose()
        })
    }

    fn forget_bucket(&mut self, id: &BucketId) -> Result<(), RecoverError> {
        self.buckets.remove(id);
        let gone = self.sql(|db| {
            db.execute(
                "DELETE FROM unconfirmed WHERE uid IN (SELECT uid FROM version WHERE bucket = ?1)",
                [id.as_bytes()],
            )?;
            db.execute("DELETE FROM body WHERE row IN (SELECT body FROM version WHERE bucket = ?1)", [id.as_bytes()])?;
            let gone = db.execute("DELETE FROM version WHERE bucket = ?1", [id.as_bytes()])?;
            db.execute("DELETE FROM bucket WHERE id = ?1", [id.as_bytes()])?;
            Ok(gone)
        })?;
        self.report.superseded += gone as u64;
        Ok(())
    }

    fn take_version(&mut self, mut version: Version, copy: Copy) -> Result<(), RecoverError> {
        if let Some((_, known)) = self.sql(|db| rows::by_uid(db, &version.uid))? {
            return self.merge(known, version, copy);
        }
        if version.null_version {
            let rival = self.sql(|db| rows::version(db, &version.bucket, &version.key, VersionRef::Null))?;
            if let Some(rival) = rival {
                self.report.superseded += 1;
                if (rival.created_ms, rival.uid) >= (version.created_ms, version.uid) {
                    return Ok(());
                }
                self.forget_version(&rival)?;
            }
        }
        version.copies = vec![copy];
        let uid = version.uid;
        self.sql(|db| {
            apply(db, &Redo::PutVersion(Box::new(version), Vec::new()), self.now_ms)?;
            db.execute("INSERT OR IGNORE INTO unconfirmed VALUES(?1)", [uid.as_bytes()]).map(drop)
        })
    }

    /// One more head of a version: another copy, or a newer head of one.
    fn merge(&mut self, known: Version, found: Version, copy: Copy) -> Result<(), RecoverError> {
        let seq = |version: &Version| version.head.as_ref().map_or(0, |head| head.seq);
        let newer = seq(&found) > seq(&known);
        let said = if newer { &found } else { &known };
        let mut copies = known.copies.clone();
        match copies.iter_mut().find(|other| other.site == copy.site) {
            Some(other) if newer => *other = copy,
            Some(_) => {}
            None => copies.push(copy),
        }
        let Some(head) = said.head.clone() else { return Ok(()) };
        let rehead = Rehead {
            uid: known.uid,
            label: said.label.clone(),
            label_source: said.label_source,
            tags: said.tags.clone(),
            head,
            copies,
        };
        self.sql(|db| apply(db, &Redo::Rehead(vec![rehead]), self.now_ms))
    }

    /// Takes a version out without putting anything aside to be erased.
    fn forget_version(&self, version: &Version) -> Result<(), RecoverError> {
        self.sql(|db| {
            let uid: &VersionUid = &version.uid;
            db.execute("DELETE FROM body WHERE uid = ?1", [uid.as_bytes()])?;
            db.execute("DELETE FROM unconfirmed WHERE uid = ?1", [uid.as_bytes()])?;
            db.execute(
                "DELETE FROM version WHERE bucket = ?1 AND key = ?2 AND uid = ?3",
                (version.bucket.as_bytes(), version.key.as_str().as_bytes(), uid.as_bytes()),
            )
            .map(drop)
        })
    }

    fn finish(mut self) -> Result<RecoverReport, RecoverError> {
        self.begin()?;
        let now_ms = self.now_ms;
        let (versions, unconfirmed) = self.sql(|db| {
            // The begin of an upload may be trimmed and a part of it not; the
            // bucket it went with did not find it.
            crate::apply::end_parts_without_upload(db, now_ms)?;
            rows::set_meta(db, meta::RECOVERED, "recovered")?;
            Ok((
                db.query_row("SELECT count(*) FROM version", [], |row| row.get(0))?,
                db.query_row("SELECT count(*) FROM unconfirmed", [], |row| row.get(0))?,
            ))
        })?;
        self.commit()?;
        self.report.versions = versions;
        self.report.unconfirmed = unconfirmed;
        Ok(self.report)
    }

    fn begin(&self) -> Result<(), RecoverError> {
        self.sql(|db| db.execute_batch("BEGIN IMMEDIATE"))
    }

    fn commit(&self) -> Result<(), RecoverError> {
        self.sql(|db| db.execute_batch("COMMIT"))
    }

    fn sql<T>(&self, query: impl FnOnce(&Connection) -> Rows<T>) -> Result<T, RecoverError> {
        query(&self.writer).map_err(|error| RecoverError::Db(self.catalog.sort(error)))
    }
}
