//! Every change a caller may ask for, and the conditions it is committed under.
//!
//! `evaluate` runs inside the transaction of the commit thread: what it reads
//! is what the change before it left, so two requests can never both find a
//! name free.

use ringfence_access::Placement;
use ringfence_access::permit::{Administer, Delete, Write};
use ringfence_db::rusqlite::Connection;
use ringfence_format::chunk::Layout;
use ringfence_format::limits;
use ringfence_format::names::{BucketId, Label, ObjectKey, ObjectVersion, SiteId, UploadId, VersionUid};
use ringfence_format::record::TimeUs;
use ringfence_format::redo::{
    Bucket, HeadInfo, LabelSource, Pairs, Part, Redo, Rehead, StaticKeyRow, TenantRow, Upload, UploadPart, Version,
};
use ringfence_format::session::{Revocation, SignedManifest, Target};
use ringfence_log::Class;

use crate::authority::{Announced, Decided, Held, PlaceAgain, Standing};
use crate::commit::{Commit, Refusal};
use crate::copies::{Copies, Misplaced, NewHeads, StoredPart};
use crate::outcome::{Conflict, Deleted, Outcome};
use crate::rows::{self, Rows, VersionRef, meta};

/// `If-None-Match: *` and `If-Match`, decided when the change is committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// There must be no current version.
    pub if_none_match: Option<Anything>,
    /// The current version must have this ETag (without quotes), or any for `*`.
    pub if_match: Option<String>,
}

/// The `*` of `If-None-Match: *`, the only value S3 takes on writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anything;

impl Conditions {
    fn check(&self, current: Option<&Version>) -> Result<(), Conflict> {
        let current = current.filter(|version| !version.delete_marker);
        if self.if_none_match.is_some() && current.is_some() {
            return Err(Conflict::Precondition);
        }
        match (&self.if_match, current) {
            (None, _) => Ok(()),
            (Some(_), None) => Err(Conflict::NoSuchKey),
            (Some(etag), Some(version)) if etag == "*" || *etag == version.etag => Ok(()),
            (Some(_), Some(_)) => Err(Conflict::Precondition),
        }
    }
}

/// A version that was read to make another: it must still be what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Which version.
    pub uid: VersionUid,
    /// The sequence number of its head: a change of label or tags raises it.
    pub head_seq: u64,
}

/// See [`Store::put_version`](crate::Store::put_version).
pub struct PutVersion {
    /// The version, complete but for `copies`, `placed_by` and `policy_epoch`,
    /// which come from `copies`.
    pub version: Version,
    /// Where it lies.
    pub copies: Copies,
    /// What must hold of the current version.
    pub conditions: Conditions,
    /// What it was copied from.
    pub source: Option<Source>,
    /// How to place it again if the policy changed since; without it that is
    /// [`Conflict::PolicyChanged`].
    pub place_again: Option<PlaceAgain>,
}

/// See [`Store::delete_versions`](crate::Store::delete_versions).
#[derive(Clone, Debug)]
pub struct DeleteTarget {
    /// Its key.
    pub key: ObjectKey,
    /// Which version; the current one where none is named.
    pub version: Option<VersionRef>,
    /// `If-Match`, without quotes.
    pub if_match: Option<String>,
    /// The label it was decided by: a version that has another one when it is
    /// committed is left, [`Conflict::Changed`]. `None` where the authority
    /// itself decides by what it finds.
    pub label: Option<Label>,
}

/// See [`Store::put_part`](crate::Store::put_part).
pub struct PutPart {
    /// Of which upload.
    pub upload: UploadId,
    /// The part; its id, lengths and upload are those that were stored.
    pub part: Part,
    /// Where it lies.
    pub stored: StoredPart,
    /// What it was copied from (UploadPartCopy).
    pub source: Option<Source>,
    /// How to place it again if the policy changed since; without it that is
    /// [`Conflict::PolicyChanged`].
    pub place_again: Option<PlaceAgain>,
}

/// See [`Store::complete_upload`](crate::Store::complete_upload).
pub struct CompleteUpload {
    /// Which upload.
    pub upload: UploadId,
    /// The version it becomes, as in [`PutVersion`]; its parts are parts of the
    /// upload, in ascending order of number.
    pub version: Version,
    /// Where it lies.
    pub copies: Copies,
    /// What must hold of the current version.
    pub conditions: Conditions,
    /// How to place it again if the policy changed since; without it that is
    /// [`Conflict::PolicyChanged`].
    pub place_again: Option<PlaceAgain>,
}

/// A version's new label, tags and head; see [`Store::rehead`](crate::Store::rehead).
#[derive(Debug)]
pub struct NewHead {
    /// The heads that were written, one beside each copy.
    pub heads: NewHeads,
    /// What they say; `seq` is one above that of the head they replace.
    pub head: HeadInfo,
    /// Its new label.
    pub label: Label,
    /// Where that came from.
    pub label_source: LabelSource,
    /// Its new tags.
    pub tags: Pairs,
}

/// A change that waits to be committed.
pub(crate) enum Act {
    PutVersion(Held<Write>, Box<PutVersion>),
    Delete(Held<Delete>, BucketId, Vec<DeleteTarget>),
    CreateBucket(Held<Write>, Bucket),
    UpdateBucket(Held<Write>, Box<(Bucket, Bucket)>),
    DeleteBucket(Held<Delete>, BucketId),
    CreateUpload(Held<Write>, Box<Upload>),
    PutPart(Held<Write>, Box<PutPart>),
    Complete(Held<Write>, Box<CompleteUpload>),
    AbortUpload(Held<Delete>, UploadId),
    Rehead(Held<Write>, Vec<NewHead>),
    RewrapHeads(Held<Administer>, Vec<NewHead>),
    Moved(Held<Administer>, Vec<Rehead>),
    PutTenant(Held<Administer>, TenantRow),
    PutStaticKey(Held<Administer>, StaticKeyRow),
    Policy(Held<Administer>, u64, [u8; 32]),
    PutManifest(Held<Administer>, Box<SignedManifest>),
    PutRevocation(Held<Administer>, Revocation),
    BeginWrite(std::sync::Arc<Announced>, UploadId, Vec<SiteId>),
    AbortWrites(Held<Administer>, Vec<UploadId>),
    Start(Held<Administer>, u32),
}

impl Act {
    /// Which space of the log it needs.
    pub(crate) fn class(&self) -> Class {
        match self {
            Self::Delete(..)
            | Self::DeleteBucket(..)
            | Self::AbortUpload(..)
            | Self::RewrapHeads(..)
            | Self::Moved(..)
            | Self::PutTenant(..)
            | Self::PutStaticKey(..)
            | Self::Policy(..)
            | Self::PutManifest(..)
            | Self::PutRevocation(..)
            | Self::AbortWrites(..)
            | Self::Start(..) => Class::Reserved,
            Self::PutVersion(..)
            | Self::CreateBucket(..)
            | Self::UpdateBucket(..)
            | Self::CreateUpload(..)
            | Self::PutPart(..)
            | Self::Complete(..)
            | Self::Rehead(..)
            | Self::BeginWrite(..) => Class::Write,
        }
    }

    /// What was written for it is in the catalogue now, or may be after the
    /// next start: it is no longer given up when this is dropped.
    pub(crate) fn claim(&mut self) {
        match self {
            Self::PutVersion(_, put) => put.copies.guard.claim(),
            Self::Complete(_, complete) => complete.copies.guard.claim(),
            Self::PutPart(_, put) => put.stored.guard.claim(),
            Self::Rehead(_, heads) | Self::RewrapHeads(_, heads) => {
                heads.iter_mut().for_each(|new| new.heads.guard.claim());
            }
            _ => {}
        }
    }

    pub(crate) fn evaluate(&mut self, db: &Connection, now_us: TimeUs) -> Result<Commit, Refusal> {
        let now_ms = now_us / 1000;
        match self {
            Self::PutVersion(held, put) => put_version(held, put, db, now_ms),
            Self::Delete(held, bucket, targets) => delete(held, bucket, targets, db, now_ms),
            Self::CreateBucket(held, bucket) => create_bucket(held, bucket, db),
            Self::UpdateBucket(held, change) => update_bucket(held, &change.0, &change.1, db),
            Self::DeleteBucket(held, bucket) => delete_bucket(held, bucket, db),
            Self::CreateUpload(held, upload) => create_upload(held, upload, db),
            Self::PutPart(held, put) => put_part(held, put, db),
            Self::Complete(held, complete) => complete_upload(held, complete, db, now_ms),
            Self::AbortUpload(held, upload) => abort_upload(held, upload, db),
            Self::Rehead(held, heads) => rehead(held.decide(&standing_of(db, heads)?.borrow())?, heads, db),
            Self::RewrapHeads(held, heads) => rehead(held.decide(&NOWHERE)?, heads, db),
            Self::Moved(held, moved) => done(held, Redo::Rehead(still_there(db, moved)?)),
            Self::PutTenant(held, tenant) => put_tenant(held, tenant, db),
            Self::PutStaticKey(held, key) => put_static_key(held, key, db),
            Self::PutManifest(held, signed) => put_manifest(held, signed, db),
            Self::PutRevocation(held, revocation) => put_revocation(held, revocation, db),
            Self::Policy(held, epoch, sha256) => done(held, Redo::Policy(*epoch, *sha256)),
            Self::BeginWrite(announced, upload, sites) => {
                Ok(Commit::new(announced.clone(), Some(Redo::BeginWrite(*upload, sites.clone())), Outcome::Done))
            }
            Self::AbortWrites(held, uploads) => done(held, Redo::AbortWrites(uploads.clone())),
            Self::Start(held, incarnation) => done(held, Redo::Start(*incarnation)),
        }
    }
}

const NOWHERE: Standing<'static> = Standing { bucket: None, current: None };

fn put_version(held: &mut Held<Write>, put: &mut PutVersion, db: &Connection, now_ms: u64) -> Result<Commit, Refusal> {
    let PutVersion { version, copies, conditions, source, place_again } = put;
    let bucket = existing_bucket(db, &version.bucket)?;
    let current = rows::current(db, &version.bucket, &version.key)?;
    let decided = held.decide(&Standing { bucket: Some(&bucket), current: current.as_ref() })?;
    renew(&decided, copies.policy_epoch(), place_again, |placement| copies.renew(placement))?;
    check_evidence(db, &decided, version, copies)?;
    conditions.check(current.as_ref())?;
    check_source(db, source.as_ref())?;
    let replaced = replaced_by(db, version, now_ms)?;
    let redo = Redo::PutVersion(Box::new(placed(version, copies)), replaced.clone());
    Ok(Commit::new(decided.by, Some(redo), Outcome::Put { replaced }).of(copies.object()))
}

fn complete_upload(
    held: &mut Held<Write>,
    complete: &mut CompleteUpload,
    db: &Connection,
    now_ms: u64,
) -> Result<Commit, Refusal> {
    let CompleteUpload { upload, version, copies, conditions, place_again } = complete;
    let bucket = existing_bucket(db, &version.bucket)?;
    let Some(begun) = rows::upload(db, upload)? else {
        return Err(match rows::completed(db, upload)? {
            Some(completed) => Conflict::AlreadyComplete(Box::new(completed)).into(),
            None => Conflict::NoSuchUpload.into(),
        });
    };
    let current = rows::current(db, &version.bucket, &version.key)?;
    let decided = held.decide(&Standing { bucket: Some(&bucket), current: current.as_ref() })?;
    renew(&decided, copies.policy_epoch(), place_again, |placement| copies.renew(placement))?;
    check_evidence(db, &decided, version, copies)?;
    if begun.version.uid != version.uid || begun.version.key != version.key {
        return Err(Conflict::NotTheSameObject.into());
    }
    check_parts(db, upload, version)?;
    conditions.check(current.as_ref())?;
    let replaced = replaced_by(db, version, now_ms)?;
    let redo = Redo::CompleteUpload(*upload, Box::new(placed(version, copies)), replaced.clone());
    Ok(Commit::new(decided.by, Some(redo), Outcome::Put { replaced }).of(copies.object()))
}

/// Permit, copies and version speak of one object under one epoch, and that
/// epoch is the one on record: upholds INVARIANTS 3 and 5.
fn check_evidence(db: &Connection, decided: &Decided, version: &Version, copies: &Copies) -> Result<(), Refusal> {
    let permitted = decided.object.as_ref() == Some(copies.object());
    let adds_up = version.parts.iter().map(|part| part.plain_len).sum::<u64>() == version.size;
    let readable = adds_up && version.parts.iter().all(|part| Layout::of(part).is_ok()) && version.head.is_some();
    if !permitted || !copies.are_of(version) || version.delete_marker || !readable {
        return Err(Conflict::NotTheSameObject.into());
    }
    check_epoch(db, decided, copies.policy_epoch())
}

/// Places again what was placed under another epoch than the permit's.
fn renew(
    decided: &Decided,
    placed: u64,
    place_again: &mut Option<PlaceAgain>,
    adopt: impl FnOnce(&Placement) -> Result<(), Misplaced>,
) -> Result<(), Refusal> {
    if decided.epoch == Some(placed) {
        return Ok(());
    }
    let Some(place_again) = place_again.take() else { return Ok(()) };
    let placement = place_again().map_err(Refusal::Denied)?;
    adopt(&placement).map_err(|Misplaced| Conflict::PolicyChanged.into())
}

fn check_epoch(db: &Connection, decided: &Decided, placed: u64) -> Result<(), Refusal> {
    let on_record = rows::meta_u64(db, meta::POLICY_EPOCH)?;
    let current = decided.epoch == Some(placed) && on_record.is_none_or(|epoch| epoch == placed);
    if current { Ok(()) } else { Err(Conflict::PolicyChanged.into()) }
}

fn check_source(db: &Connection, source: Option<&Source>) -> Result<(), Refusal> {
    let Some(source) = source else { return Ok(()) };
    let found = rows::by_uid(db, &source.uid)?;
    let same = found.and_then(|(_, version)| version.head).is_some_and(|head| head.seq == source.head_seq);
    if same { Ok(()) } else { Err(Conflict::SourceChanged.into()) }
}

/// Every part of the version is the upload's part of that number, in order.
fn check_parts(db: &Connection, upload: &UploadId, version: &Version) -> Result<(), Refusal> {
    let there = rows::parts(db, upload, 0, usize::MAX)?;
    let mut there = there.iter();
    for part in &version.parts {
        let same = there.by_ref().find(|row| row.part.number >= part.number).is_some_and(|row| row.part == *part);
        if !same {
            return Err(Conflict::InvalidPart(part.number).into());
        }
    }
    Ok(())
}

fn placed(version: &Version, copies: &Copies) -> Version {
    Version {
        copies: copies.copies.clone(),
        placed_by: copies.placed.policy_ids.clone(),
        policy_epoch: copies.placed.policy_epoch,
        ..version.clone()
    }
}

/// The version that a new one takes the place of: the `null` version, if the
/// new one is `null` too (S3: an unversioned bucket has no other).
fn replaced_by(db: &Connection, version: &Version, now_ms: u64) -> Result<Vec<VersionUid>, Refusal> {
    if !version.null_version {
        return Ok(Vec::new());
    }
    match rows::version(db, &version.bucket, &version.key, VersionRef::Null)? {
        None => Ok(Vec::new()),
        Some(old) if is_locked(&old, now_ms) => Err(Conflict::Locked.into()),
        Some(old) => Ok(vec![old.uid]),
    }
}

fn is_locked(version: &Version, now_ms: u64) -> bool {
    version.legal_hold || version.retention.as_ref().is_some_and(|retention| retention.until_ms > now_ms)
}

fn delete(
    held: &mut Held<Delete>,
    bucket: &BucketId,
    targets: &[DeleteTarget],
    db: &Connection,
    now_ms: u64,
) -> Result<Commit, Refusal> {
    let row = existing_bucket(db, bucket)?;
    let found = targets.iter().map(|target| target_version(db, bucket, target)).collect::<Rows<Vec<_>>>()?;
    let current = if let [only] = found.as_slice() { only.as_ref() } else { None };
    let decided = held.decide(&Standing { bucket: Some(&row), current })?;
    let mut gone = Vec::new();
    let mut deleted = Vec::new();
    for (target, version) in targets.iter().zip(&found) {
        let outcome = delete_one(target, version.as_ref(), now_ms);
        if let (Deleted::Kept { why, .. }, 1) = (&outcome, targets.len()) {
            return Err(why.clone().into());
        }
        if let Deleted::Gone { uid, .. } = &outcome {
            gone.push(*uid);
        }
        deleted.push(outcome);
    }
    let redo = (!gone.is_empty()).then(|| Redo::DeleteVersions(*bucket, gone, Vec::new()));
    Ok(Commit::new(decided.by, redo, Outcome::Deleted(deleted)))
}

fn target_version(db: &Connection, bucket: &BucketId, target: &DeleteTarget) -> Rows<Option<Version>> {
    match target.version {
        None => rows::current(db, bucket, &target.key),
        Some(which) => rows::version(db, bucket, &target.key, which),
    }
}

fn delete_one(target: &DeleteTarget, version: Option<&Version>, now_ms: u64) -> Deleted {
    let key = target.key.clone();
    let conditions = Conditions { if_none_match: None, if_match: target.if_match.clone() };
    if let Err(why) = conditions.check(version) {
        return Deleted::Kept { key, why };
    }
    let decided = |version: &Version| target.label.as_ref().is_none_or(|label| *label == version.label);
    match version {
        Some(version) if !decided(version) => Deleted::Kept { key, why: Conflict::Changed },
        None => Deleted::Absent { key },
        Some(version) if is_locked(version, now_ms) => Deleted::Kept { key, why: Conflict::Locked },
        Some(version) => Deleted::Gone { key, uid: version.uid },
    }
}

fn create_bucket(held: &mut Held<Write>, bucket: &Bucket, db: &Connection) -> Result<Commit, Refusal> {
    let decided = held.decide(&NOWHERE)?;
    let mut named = db.prepare_cached("SELECT body FROM bucket WHERE name = ?1")?;
    let mut taken = named.query_map([bucket.name.as_str()], |row| rows::cbor::<Bucket>(row, 0))?;
    if let Some(other) = taken.next().transpose()? {
        return Err(Conflict::BucketExists { owner: other.tenant }.into());
    }
    let all = rows::all::<Bucket>(db, "SELECT body FROM bucket")?;
    if all.iter().filter(|other| other.tenant == bucket.tenant).count() >= limits::BUCKETS_PER_TENANT_MAX {
        return Err(Conflict::TooManyBuckets.into());
    }
    Ok(Commit::new(decided.by, Some(Redo::PutBucket(bucket.clone())), Outcome::Done))
}

fn update_bucket(held: &mut Held<Write>, was: &Bucket, now: &Bucket, db: &Connection) -> Result<Commit, Refusal> {
    let found = existing_bucket(db, &was.id)?;
    let decided = held.decide(&Standing { bucket: Some(&found), current: None })?;
    // Only tags and pin may change: the rest is what the bucket is.
    let same = now.id == was.id && now.name == was.name && now.tenant == was.tenant && now.created_ms == was.created_ms;
    if found != *was || !same {
        return Err(Conflict::Changed.into());
    }
    Ok(Commit::new(decided.by, Some(Redo::PutBucket(now.clone())), Outcome::Done))
}

fn delete_bucket(held: &mut Held<Delete>, bucket: &BucketId, db: &Connection) -> Result<Commit, Refusal> {
    let found = existing_bucket(db, bucket)?;
    let decided = held.decide(&Standing { bucket: Some(&found), current: None })?;
    if rows::holds_versions(db, bucket)? {
        return Err(Conflict::BucketNotEmpty.into());
    }
    Ok(Commit::new(decided.by, Some(Redo::DeleteBucket(*bucket)), Outcome::Done))
}

fn create_upload(held: &mut Held<Write>, upload: &Upload, db: &Connection) -> Result<Commit, Refusal> {
    let bucket = existing_bucket(db, &upload.version.bucket)?;
    let current = rows::current(db, &upload.version.bucket, &upload.version.key)?;
    let decided = held.decide(&Standing { bucket: Some(&bucket), current: current.as_ref() })?;
    let Some(object) = decided.object.clone().filter(|object| is_object(object, &upload.version)) else {
        return Err(Conflict::NotTheSameObject.into());
    };
    check_epoch(db, &decided, upload.version.policy_epoch)?;
    Ok(Commit::new(decided.by, Some(Redo::CreateUpload(Box::new(upload.clone()))), Outcome::Done).of(&object))
}

fn put_part(held: &mut Held<Write>, put: &mut PutPart, db: &Connection) -> Result<Commit, Refusal> {
    let PutPart { upload, part, stored, source, place_again } = put;
    let begun = rows::upload(db, upload)?.ok_or(Conflict::NoSuchUpload)?;
    let bucket = existing_bucket(db, &begun.version.bucket)?;
    let decided = held.decide(&Standing { bucket: Some(&bucket), current: None })?;
    let one_object = decided.object.as_ref() == Some(stored.object()) && is_object(stored.object(), &begun.version);
    if !one_object || !stored.is(part) || Layout::of(part).is_err() {
        return Err(Conflict::NotTheSameObject.into());
    }
    renew(&decided, stored.policy_epoch(), place_again, |placement| stored.renew(placement))?;
    check_epoch(db, &decided, stored.policy_epoch())?;
    check_source(db, source.as_ref())?;
    let row = UploadPart { upload: *upload, part: part.clone(), copies: stored.at.clone() };
    Ok(Commit::new(decided.by, Some(Redo::PutPart(row)), Outcome::Done).of(stored.object()))
}

fn is_object(object: &ObjectVersion, version: &Version) -> bool {
    object.version == version.uid && object.bucket == version.bucket
}

fn abort_upload(held: &mut Held<Delete>, upload: &UploadId, db: &Connection) -> Result<Commit, Refusal> {
    let begun = rows::upload(db, upload)?;
    let bucket = match &begun {
        Some(begun) => rows::bucket(db, &begun.version.bucket)?,
        None => None,
    };
    let decided = held.decide(&Standing { bucket: bucket.as_ref(), current: None })?;
    if begun.is_none() {
        return Err(Conflict::NoSuchUpload.into());
    }
    Ok(Commit::new(decided.by, Some(Redo::AbortUpload(*upload)), Outcome::Done))
}

/// What a change of one version's head stands on; of many, nothing in particular.
struct OwnedStanding(Option<Bucket>, Option<Version>);

impl OwnedStanding {
    fn borrow(&self) -> Standing<'_> {
        Standing { bucket: self.0.as_ref(), current: self.1.as_ref() }
    }
}

fn standing_of(db: &Connection, heads: &[NewHead]) -> Rows<OwnedStanding> {
    let [only] = heads else { return Ok(OwnedStanding(None, None)) };
    let version = rows::by_uid(db, &only.heads.uid)?.map(|(_, version)| version);
    let bucket = match &version {
        Some(version) => rows::bucket(db, &version.bucket)?,
        None => None,
    };
    Ok(OwnedStanding(bucket, version))
}

/// New heads for versions whose head is still the one before. One that changed
/// meanwhile is left out; if none is left, that is a conflict.
fn rehead(decided: Decided, heads: &[NewHead], db: &Connection) -> Result<Commit, Refusal> {
    let mut reheads = Vec::new();
    for new in heads {
        let found = rows::by_uid(db, &new.heads.uid)?.map(|(_, version)| version);
        let follows = |version: &Version| {
            let before = version.head.as_ref().is_some_and(|head| head.seq + 1 == new.head.seq);
            before && same_places(version, &new.heads)
        };
        if found.as_ref().is_some_and(follows) {
            reheads.push(Rehead {
                uid: new.heads.uid,
                label: new.label.clone(),
                label_source: new.label_source,
                tags: new.tags.clone(),
                head: new.head.clone(),
                copies: new.heads.copies.clone(),
            });
        }
    }
    if reheads.is_empty() {
        return Err(Conflict::Changed.into());
    }
    let outcome = Outcome::Reheaded(reheads.iter().map(|rehead| rehead.uid).collect());
    Ok(Commit::new(decided.by, Some(Redo::Rehead(reheads)), outcome))
}

/// The heads were written beside the copies the version still has.
fn same_places(version: &Version, heads: &NewHeads) -> bool {
    version.copies.len() == heads.copies.len()
        && version.copies.iter().zip(&heads.copies).all(|(old, new)| old.site == new.site && old.packed == new.packed)
}

/// Of rows that a compaction moved, those whose head has not changed since.
fn still_there(db: &Connection, moved: &[Rehead]) -> Result<Vec<Rehead>, Refusal> {
    let mut kept = Vec::new();
    for rehead in moved {
        let found = rows::by_uid(db, &rehead.uid)?.map(|(_, version)| version);
        if found.is_some_and(|version| version.head.as_ref() == Some(&rehead.head)) {
            kept.push(rehead.clone());
        }
    }
    if kept.len() < moved.len() { Err(Conflict::Changed.into()) } else { Ok(kept) }
}

fn put_tenant(held: &mut Held<Administer>, tenant: &TenantRow, db: &Connection) -> Result<Commit, Refusal> {
    let tenants = rows::all::<TenantRow>(db, "SELECT body FROM tenant")?;
    if held.is_system() && !tenants.is_empty() {
        return Err(Conflict::NotFirst.into());
    }
    let decided = held.decide(&NOWHERE)?;
    if tenants.iter().any(|other| other.name == tenant.name) {
        return Err(Conflict::Tenant("exists already").into());
    }
    Ok(Commit::new(decided.by, Some(Redo::PutTenant(tenant.clone())), Outcome::Done))
}

fn put_static_key(held: &mut Held<Administer>, key: &StaticKeyRow, db: &Connection) -> Result<Commit, Refusal> {
    let keys = rows::all::<StaticKeyRow>(db, "SELECT body FROM static_key")?;
    if held.is_system() && !keys.is_empty() {
        return Err(Conflict::NotFirst.into());
    }
    let decided = held.decide(&NOWHERE)?;
    let tenants = rows::all::<TenantRow>(db, "SELECT body FROM tenant")?;
    if !tenants.iter().any(|tenant| tenant.name == key.tenant) {
        return Err(Conflict::Tenant("does not exist").into());
    }
    // A key may be disabled or sealed anew; it never changes hands.
    let foreign = |other: &StaticKeyRow| other.tenant != key.tenant || other.principal != key.principal;
    if keys.iter().any(|other| other.id == key.id && foreign(other)) {
        return Err(Conflict::Changed.into());
    }
    Ok(Commit::new(decided.by, Some(Redo::PutStaticKey(key.clone())), Outcome::Done))
}

/// A manifest follows the one in force, whatever was checked when it was read.
fn put_manifest(held: &mut Held<Administer>, signed: &SignedManifest, db: &Connection) -> Result<Commit, Refusal> {
    let manifest = &signed.manifest;
    let last = rows::manifest(db, &manifest.realm)?;
    let follows = manifest.seq == last.as_ref().map_or(1, |last| last.manifest.seq + 1)
        && manifest.previous == last.map(|last| last.manifest.sha256());
    if !follows {
        return Err(Conflict::Changed.into());
    }
    done(held, Redo::PutManifest(Box::new(signed.clone())))
}

/// What is taken back was revoked, and is not a key or a session.
fn put_revocation(held: &mut Held<Administer>, it: &Revocation, db: &Connection) -> Result<Commit, Refusal> {
    if let Target::Lift(index) = it.target {
        let all = rows::revocations(db, &it.realm)?;
        let lifted = all.iter().any(|(_, other)| other.target == it.target);
        let named = all.iter().find(|(by, _)| *by == index).map(|(_, named)| &named.target);
        if lifted || !matches!(named, Some(Target::Subject(..) | Target::Role(..) | Target::Site(_))) {
            return Err(Conflict::NotRevoked(index).into());
        }
    }
    done(held, Redo::PutRevocation(it.clone()))
}

fn done(held: &mut Held<Administer>, redo: Redo) -> Result<Commit, Refusal> {
    let decided = held.decide(&NOWHERE)?;
    Ok(Commit::new(decided.by, Some(redo), Outcome::Done))
}

fn existing_bucket(db: &Connection, id: &BucketId) -> Result<Bucket, Refusal> {
    Ok(rows::bucket(db, id)?.ok_or(Conflict::NoSuchBucket)?)
}
