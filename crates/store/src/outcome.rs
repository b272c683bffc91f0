//! What comes of a change: its result, or the condition that does not hold.

use ringfence_format::names::{ObjectKey, SiteId, Tenant, UploadId, VersionUid};

use crate::rows::Completed;

/// What a committed change did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing more to say than that it is done.
    Done,
    /// A version is current; these are gone.
    Put {
        /// Versions it replaced.
        replaced: Vec<VersionUid>,
    },
    /// Per target, in the order they were named.
    Deleted(Vec<Deleted>),
    /// These versions have their new heads; others had changed meanwhile.
    Reheaded(Vec<VersionUid>),
}

/// What became of one target of a delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// It is gone.
    Gone {
        /// Its key.
        key: ObjectKey,
        /// Which version it was.
        uid: VersionUid,
    },
    /// There was nothing; S3 calls that success.
    Absent {
        /// The key named.
        key: ObjectKey,
    },
    /// It is still there.
    Kept {
        /// The key named.
        key: ObjectKey,
        /// Why.
        why: Conflict,
    },
}

/// A condition that does not hold. Nothing was recorded or changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// The bucket is gone (404 `NoSuchBucket`).
    #[error("the bucket does not exist")]
    NoSuchBucket,
    /// The name is taken (409; whether by the caller decides which code).
    #[error("the bucket name is taken")]
    BucketExists {
        /// Its owner.
        owner: Tenant,
    },
    /// It holds versions (409 `BucketNotEmpty`).
    #[error("the bucket is not empty")]
    BucketNotEmpty,
    /// The tenant has as many buckets as it may have (400 `TooManyBuckets`).
    #[error("the tenant has as many buckets as it may have")]
    TooManyBuckets,
    /// `If-Match` on a key that has no version (404 `NoSuchKey`).
    #[error("there is no such object")]
    NoSuchKey,
    /// `If-Match` or `If-None-Match` does not hold (412 `PreconditionFailed`).
    #[error("a precondition does not hold")]
    Precondition,
    /// The upload was completed with other parts, aborted or never was (404
    /// `NoSuchUpload`).
    #[error("there is no such upload")]
    NoSuchUpload,
    /// The upload has become an object already: if the same parts are meant,
    /// answer with this.
    #[error("the upload is complete already")]
    AlreadyComplete(Box<Completed>),
    /// A part was uploaded again meanwhile, or never was (400 `InvalidPart`).
    #[error("part {0} is not what the upload has")]
    InvalidPart(u32),
    /// The policy changed since the copies were placed: place again, then
    /// [`Copies::under`](crate::Copies::under) or store again.
    #[error("the policy changed since the object was placed")]
    PolicyChanged,
    /// The copy's source is gone or has another label (412 or retry).
    #[error("the source changed meanwhile")]
    SourceChanged,
    /// What the change builds on is no longer so: read again, then retry (409).
    #[error("it was changed meanwhile")]
    Changed,
    /// Retention or a legal hold protects it (403 `AccessDenied`).
    #[error("it is locked by retention or a legal hold")]
    Locked,
    /// The permit's time ran out before it could be recorded (503, retry).
    #[error("the permit is too old")]
    Stale,
    /// The permit, the copies and the change do not speak of the same version:
    /// a mistake in this program, and nothing was done.
    #[error("permit, copies and change do not name the same object")]
    NotTheSameObject,
    /// The tenant exists or does not, against what was meant.
    #[error("the tenant {0}")]
    Tenant(&'static str),
    /// What is to be taken back is no revocation of a subject, role or site, or
    /// was taken back already; keys and sessions stay revoked.
    #[error("record #{0} is no revocation of a subject, role or site that is in force")]
    NotRevoked(u64),
    /// The installation has tenants or keys already, so the first cannot be made.
    #[error("this installation has been set up already")]
    NotFirst,
    /// The attempt was announced for other sites than it wants to write to.
    #[error("site `{0}` was not announced for this write")]
    NotAnnounced(SiteId),
    /// The attempt ended meanwhile; it was given up by the sweep.
    #[error("the write {0} was given up meanwhile")]
    GivenUp(UploadId),
}
