//! What a state-changing record tells the catalogue: enough to apply the
//! change again after a crash, or to rebuild everything from the log.
//!
//! Applying is idempotent: each variant says what is true afterwards, never
//! "one more" or "one less".

use crate::names::{
    BucketId, BucketName, KeyId, Label, ObjectKey, PartId, Principal, Realm, SiteId, Tenant, UploadId, VersionUid,
};

use crate::leaf::PublicEntry;
use crate::session::{MANIFEST, REVOCATION, Revocation, SignedManifest};

/// Milliseconds since the Unix epoch, UTC.
pub type TimeMs = u64;

/// Name and value, in order.
pub type Pairs = Vec<(String, String)>;

/// Where in a directory site's pack files a small chunk or head lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct PackAddr {
    /// Number of the pack file.
    #[n(0)]
    pub pack: u32,
    /// Byte offset of the entry's first payload byte.
    #[n(1)]
    pub offset: u64,
    /// Payload bytes.
    #[n(2)]
    pub len: u32,
}

/// A checksum over plaintext, as S3 names it (`CRC32`, `CRC32C`, `CRC64NVME`,
/// `SHA1`, `SHA256`), value in base64.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct Checksum {
    /// Algorithm, upper case.
    #[n(0)]
    pub algorithm: String,
    /// Base64 value; for composite checksums with `-N` behind it.
    #[n(1)]
    pub value: String,
    /// `FULL_OBJECT` (false) or `COMPOSITE` (true).
    #[n(2)]
    pub composite: bool,
}

/// One part: one FLOE message, cut into chunks named after its upload id.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct Part {
    /// Associated data and key derivation bind it.
    #[n(0)]
    pub id: PartId,
    /// S3 part number; 1 for an object put whole.
    #[n(1)]
    pub number: u32,
    /// Plaintext bytes.
    #[n(2)]
    pub plain_len: u64,
    /// The attempt that wrote it: chunk `i` is named `(upload, i)`.
    #[n(3)]
    pub upload: UploadId,
    /// Bytes of segments in every chunk but the last: a multiple of the
    /// segment. Chunk 0 carries the header besides; see [`crate::chunk`].
    #[n(4)]
    pub chunk_len: u32,
    /// Ciphertext bytes in all.
    #[n(5)]
    pub sealed_len: u64,
    /// MD5 of the plaintext.
    #[cbor(n(6), with = "minicbor::bytes")]
    pub md5: [u8; 16],
    /// Checksum of this part's plaintext, if the client sent or asked for one.
    #[n(7)]
    pub checksum: Option<Checksum>,
    /// When it was written.
    #[n(8)]
    pub created_ms: TimeMs,
}

/// Where the single chunk of a small part lies at one directory site. Parts
/// that are not packed are found by name and need no entry.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct PackedPart {
    /// Which part.
    #[n(0)]
    pub part: PartId,
    /// Where it lies.
    #[n(1)]
    pub at: PackAddr,
}

/// One complete copy of a version at one site.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct Copy {
    /// Where.
    #[n(0)]
    pub site: SiteId,
    /// Random name of the head object beside the chunks; never reused.
    #[n(1)]
    pub head: UploadId,
    /// Where the head is packed, if it is.
    #[n(2)]
    pub head_at: Option<PackAddr>,
    /// Parts that are packed at this site.
    #[n(3)]
    pub packed: Vec<PackedPart>,
}

/// The head: what is needed to open the version, rewritten when its label,
/// tags or key version change.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct HeadInfo {
    /// Rises by one with each rewrite; a read uses the highest.
    #[n(0)]
    pub seq: u64,
    /// Version of the tenant's KEK that wraps the DEK.
    #[n(1)]
    pub kek: u32,
    /// The DEK under that KEK: salt 24 ‖ commitment 32 ‖ ciphertext 32 ‖ tag 16.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub wrapped_dek: [u8; 104],
}

/// Why an object has the label it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
pub enum LabelSource {
    /// Its own tag.
    #[n(0)]
    Tag,
    /// The bucket's tag.
    #[n(1)]
    Bucket,
    /// A prefix rule.
    #[n(2)]
    Prefix,
    /// The tenant's default.
    #[n(3)]
    Tenant,
    /// Nothing was said: the strictest.
    #[n(4)]
    Strictest,
}

/// Object Lock retention; the model carries it before the API comes.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct Retention {
    /// `COMPLIANCE` (true) or `GOVERNANCE` (false).
    #[n(0)]
    pub compliance: bool,
    /// Until when.
    #[n(1)]
    pub until_ms: TimeMs,
}

/// One version of one object: a row of the catalogue, and, without its
/// copies, the sealed manifest beside each copy.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct Version {
    /// The bucket it is in.
    #[n(0)]
    pub bucket: BucketId,
    /// Its name.
    #[n(1)]
    pub key: ObjectKey,
    /// Its identity, also the S3 version id where versioning is on.
    #[n(2)]
    pub uid: VersionUid,
    /// Whether S3 shows it as version `null` (made while versioning was off).
    #[n(3)]
    pub null_version: bool,
    /// A delete marker has no parts, no head and no copies.
    #[n(4)]
    pub delete_marker: bool,
    /// Last-Modified.
    #[n(5)]
    pub created_ms: TimeMs,
    /// Plaintext bytes.
    #[n(6)]
    pub size: u64,
    /// S3 ETag without quotes.
    #[n(7)]
    pub etag: String,
    /// Effective label when it was last decided.
    #[n(8)]
    pub label: Label,
    /// Where the label came from.
    #[n(9)]
    pub label_source: LabelSource,
    /// Object tags.
    #[n(10)]
    pub tags: Pairs,
    /// Content headers kept for the client (`content-type`, `cache-control`, …), lower-case names.
    #[n(11)]
    pub headers: Pairs,
    /// `x-amz-meta-*`, names without the prefix.
    #[n(12)]
    pub metadata: Pairs,
    /// Checksums of the whole object.
    #[n(13)]
    pub checksums: Vec<Checksum>,
    /// Its parts in order.
    #[n(14)]
    pub parts: Vec<Part>,
    /// Its head; `None` for a delete marker.
    #[n(15)]
    pub head: Option<HeadInfo>,
    /// Its complete copies.
    #[n(16)]
    pub copies: Vec<Copy>,
    /// Policies that chose the sites.
    #[n(17)]
    pub placed_by: Vec<String>,
    /// Policy epoch of that choice.
    #[n(18)]
    pub policy_epoch: u64,
    /// Retention, if any.
    #[n(19)]
    pub retention: Option<Retention>,
    /// Legal hold.
    #[n(20)]
    pub legal_hold: bool,
}

/// A bucket.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct Bucket {
    /// Its identity.
    #[n(0)]
    pub id: BucketId,
    /// Its name, unique in the installation.
    #[n(1)]
    pub name: BucketName,
    /// Its owner.
    #[n(2)]
    pub tenant: Tenant,
    /// When it was made.
    #[n(3)]
    pub created_ms: TimeMs,
    /// Everything in it lies at this site, or is refused.
    #[n(4)]
    pub pin: Option<SiteId>,
    /// Bucket tags.
    #[n(5)]
    pub tags: Pairs,
}

/// A multipart upload under way: create fixes version, DEK, label and sites.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct Upload {
    /// The S3 upload id, in hex.
    #[n(0)]
    pub id: UploadId,
    /// Everything of the version that is known already; no parts, no copies.
    #[n(1)]
    pub version: Version,
    /// Sites chosen at create.
    #[n(2)]
    pub sites: Vec<SiteId>,
    /// Checksum algorithm asked for, if any.
    #[n(3)]
    pub checksum_algorithm: Option<String>,
    /// `COMPOSITE` where true.
    #[n(4)]
    pub checksum_composite: bool,
    /// Who began it.
    #[n(5)]
    pub initiator: Option<KeyId>,
}

/// A part of an upload with the places it lies at.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct UploadPart {
    /// Of which upload.
    #[n(0)]
    pub upload: UploadId,
    /// The part.
    #[n(1)]
    pub part: Part,
    /// Where it lies, and where it is packed, if it is.
    #[n(2)]
    pub copies: Vec<(SiteId, Option<PackAddr>)>,
}

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct TenantRow {
    /// Its name.
    #[n(0)]
    pub name: Tenant,
    /// The realm it belongs to.
    #[n(1)]
    pub realm: Realm,
    /// When it was made.
    #[n(2)]
    pub created_ms: TimeMs,
    /// The label of its objects where nothing else says one, as it was made;
    /// the configuration overrides it.
    #[n(3)]
    pub default_label: Option<Label>,
}

/// A static access key; its secret is sealed by the vault.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct StaticKeyRow {
    /// Public id.
    #[n(0)]
    pub id: KeyId,
    /// Whose.
    #[n(1)]
    pub tenant: Tenant,
    /// Who acts with it.
    #[n(2)]
    pub principal: Principal,
    /// The secret, sealed under the tenant's key for such secrets.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub sealed_secret: Vec<u8>,
    /// When it was issued.
    #[n(4)]
    pub created_ms: TimeMs,
    /// When it was disabled, if it was.
    #[n(5)]
    pub disabled_ms: Option<TimeMs>,
}

/// A change of state.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub enum Redo {
    /// The version is current; those it replaces are gone and may be erased.
    #[n(0)]
    PutVersion(#[n(0)] Box<Version>, #[n(1)] Vec<VersionUid>),
    /// These versions are gone and may be erased; these markers exist.
    #[n(1)]
    DeleteVersions(#[n(0)] BucketId, #[n(1)] Vec<VersionUid>, #[n(2)] Vec<Version>),
    /// The version's label, tags, head and copies are now these (tagging,
    /// key rotation, compaction). Parts stay as they are.
    #[n(2)]
    Rehead(#[n(0)] Vec<Rehead>),
    /// The bucket exists, as given.
    #[n(3)]
    PutBucket(#[n(0)] Bucket),
    /// The bucket is gone.
    #[n(4)]
    DeleteBucket(#[n(0)] BucketId),
    /// The upload exists.
    #[n(5)]
    CreateUpload(#[n(0)] Box<Upload>),
    /// The part is the upload's part of that number; one it replaces may be erased.
    #[n(6)]
    PutPart(#[n(0)] UploadPart),
    /// The upload became this version; parts not in it may be erased.
    #[n(7)]
    CompleteUpload(#[n(0)] UploadId, #[n(1)] Box<Version>, #[n(2)] Vec<VersionUid>),
    /// The upload is gone and its parts may be erased.
    #[n(8)]
    AbortUpload(#[n(0)] UploadId),
    /// The tenant exists, as given.
    #[n(9)]
    PutTenant(#[n(0)] TenantRow),
    /// The static key exists, as given.
    #[n(10)]
    PutStaticKey(#[n(0)] StaticKeyRow),
    /// Bytes may reach these sites, outside home, under this upload id.
    #[n(11)]
    BeginWrite(#[n(0)] UploadId, #[n(1)] Vec<SiteId>),
    /// These write attempts came to nothing: their chunks may be erased.
    #[n(12)]
    AbortWrites(#[n(0)] Vec<UploadId>),
    /// A process began; upload ids it makes begin with these 4 bytes.
    #[n(13)]
    Start(#[n(0)] u32),
    /// The policy set in force, by its SHA-256.
    #[n(14)]
    Policy(#[n(0)] u64, #[cbor(n(1), with = "minicbor::bytes")] [u8; 32]),
    /// The manifest is the one in force in its realm.
    #[n(15)]
    PutManifest(#[n(0)] Box<SignedManifest>),
    /// The revocation is in force, as of this record.
    #[n(16)]
    PutRevocation(#[n(0)] Revocation),
}

impl Redo {
    /// What of the change everybody may read, and must be able to.
    pub fn public(&self) -> Option<PublicEntry> {
        match self {
            Self::PutManifest(signed) => Some(PublicEntry { kind: MANIFEST, bytes: signed.leaf().to_bytes() }),
            Self::PutRevocation(revocation) => Some(PublicEntry { kind: REVOCATION, bytes: revocation.to_bytes() }),
            _ => None,
        }
    }
}

/// See [`Redo::Rehead`].
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct Rehead {
    /// Which version.
    #[n(0)]
    pub uid: VersionUid,
    /// Its new label.
    #[n(1)]
    pub label: Label,
    /// Where that came from.
    #[n(2)]
    pub label_source: LabelSource,
    /// Its new tags.
    #[n(3)]
    pub tags: Pairs,
    /// Its new head.
    #[n(4)]
    pub head: HeadInfo,
    /// Its copies with their new heads.
    #[n(5)]
    pub copies: Vec<Copy>,
}
