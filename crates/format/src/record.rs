//! Everything the log can say: one flat, versioned schema.
//!
//! A record has three groups, committed to separately so that one can be
//! erased while the log still verifies: `core` (what happened), `subject`
//! (who) and `resource` (on what). A record that changes state also carries
//! its [`Redo`](crate::redo::Redo): what the catalogue needs to apply it. One
//! that must be readable without a key has a [`PublicEntry`] beside them.
//!
//! Fields are numbered (CBOR maps by index, RFC 8949 through `minicbor`): a
//! number is never reused, a new field is optional, an unknown one is skipped.

use serde::Serialize;

use crate::leaf::PublicEntry;
use crate::names::{BucketName, KeyId, Label, ObjectKey, Principal, Realm, SiteId, Tenant, VersionUid};
use crate::redo::Redo;

/// Microseconds since the Unix epoch, UTC.
pub type TimeUs = u64;

/// Position in the log, from 0 without gaps.
pub type Seq = u64;

/// What a record is about, in the field's words: `s3:GetObject`,
/// `admin:KeyDisable`, `system:Sweep`.
#[derive(Clone, Debug, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode, Serialize)]
#[cbor(transparent)]
#[serde(transparent)]
pub struct Op(#[n(0)] pub String);

/// Whether the record grants, or reports what became of a grant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode, Serialize)]
#[cbor(index_only)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Recorded before the effect: what is granted.
    #[default]
    #[n(0)]
    Intent,
    /// Recorded after it, only where it differs from what was granted.
    #[n(1)]
    Outcome,
}

/// What was decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode, Serialize)]
#[cbor(index_only)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// Policy allowed it.
    #[default]
    #[n(0)]
    Allow,
    /// Policy, or the lack of a valid credential, refused it.
    #[n(1)]
    Deny,
    /// Neither: the request was malformed, named nothing, or a precondition failed.
    #[n(2)]
    Error,
}

/// Who acts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode, Serialize)]
#[cbor(index_only)]
#[serde(rename_all = "lowercase")]
pub enum ActorKind {
    /// Ringfence itself: sweep, scrub, recovery.
    #[default]
    #[n(0)]
    System,
    /// A holder of a static access key.
    #[n(1)]
    StaticKey,
    /// The operator, over the administration socket.
    #[n(2)]
    Operator,
    /// Nobody we know: no valid credential.
    #[n(3)]
    Anonymous,
    /// A holder of a session.
    #[n(4)]
    Session,
    /// A holder of an identity provider's token, who may exchange it for a
    /// session and do nothing else.
    #[n(5)]
    WebIdentity,
}

/// What happened, and what was decided.
#[derive(Clone, Debug, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode, Serialize)]
#[cbor(map)]
#[allow(missing_docs)] // named as in the event schema of docs/formats/record.md
pub struct Core {
    #[n(0)]
    pub time_us: TimeUs,
    #[n(1)]
    pub op: Op,
    #[n(2)]
    pub phase: Phase,
    #[n(3)]
    pub decision: Decision,
    /// HTTP status that was or will be answered, 0 where there is none.
    #[n(4)]
    pub status: u16,
    /// S3 error code of a refusal.
    #[n(5)]
    pub error_code: Option<String>,
    /// Precise reason, never sent to the client.
    #[n(6)]
    pub reason: Option<String>,
    /// Ids of the policies that decided.
    #[n(7)]
    pub policy_ids: Vec<String>,
    /// Policy epoch under which it was decided.
    #[n(8)]
    pub policy_epoch: u64,
    /// For an outcome: the record it belongs to.
    #[n(9)]
    pub of: Option<Seq>,
    /// SHA-256 of the encoded redo, so that the leaf commits to it too.
    #[cbor(n(10), with = "minicbor::bytes")]
    pub redo_sha256: Option<[u8; 32]>,
    /// How many requests an aggregated record stands for (0: exactly one).
    #[n(11)]
    pub aggregated: u64,
    /// SHA-256 of the kind and bytes of the record's public part.
    #[cbor(n(12), with = "minicbor::bytes")]
    pub public_sha256: Option<[u8; 32]>,
}

/// Who.
#[derive(Clone, Debug, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode, Serialize)]
#[cbor(map)]
#[allow(missing_docs)]
pub struct Subject {
    #[n(0)]
    pub realm: Option<Realm>,
    #[n(1)]
    pub tenant: Option<Tenant>,
    #[n(2)]
    pub principal: Option<Principal>,
    #[n(3)]
    pub actor: ActorKind,
    #[n(4)]
    pub key_id: Option<KeyId>,
    /// Source address, or network for aggregated records.
    #[n(5)]
    pub source: Option<String>,
    #[n(6)]
    pub user_agent: Option<String>,
    /// The session's id.
    #[n(7)]
    pub session: Option<String>,
    /// Its role.
    #[n(8)]
    pub role: Option<Principal>,
    /// The record of its issuance.
    #[n(9)]
    pub issued: Option<Seq>,
    /// The key that signed it.
    #[n(10)]
    pub signed_by: Option<String>,
    /// The issuer whose token was exchanged for it, as the configuration names it.
    #[n(11)]
    pub issuer: Option<String>,
    /// Who that token says it is, verbatim.
    #[n(12)]
    pub issuer_subject: Option<String>,
}

/// On what.
#[derive(Clone, Debug, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode, Serialize)]
#[cbor(map)]
#[allow(missing_docs)]
pub struct Resource {
    #[n(0)]
    pub bucket: Option<BucketName>,
    #[n(1)]
    pub key: Option<ObjectKey>,
    #[n(2)]
    pub version: Option<VersionUid>,
    #[n(3)]
    pub label: Option<Label>,
    #[n(4)]
    pub sites: Vec<SiteId>,
    /// Granted plaintext byte range, first and last inclusive.
    #[n(5)]
    pub range: Option<(u64, u64)>,
    /// Plaintext size in bytes.
    #[n(6)]
    pub bytes: Option<u64>,
    /// Where an object was copied from: bucket and key.
    #[n(7)]
    pub source: Option<(BucketName, ObjectKey)>,
    /// Listings: prefix asked for.
    #[n(8)]
    pub prefix: Option<String>,
    /// Listings and bulk deletes: how many names.
    #[n(9)]
    pub count: Option<u64>,
    /// Listings: SHA-256 over the names answered, each followed by a zero byte.
    #[cbor(n(10), with = "minicbor::bytes")]
    pub names_sha256: Option<[u8; 32]>,
    /// Bulk deletes: the names themselves.
    #[n(11)]
    pub names: Vec<String>,
    /// What an administrative act was about, in words or as a diff.
    #[n(12)]
    pub detail: Option<String>,
}

/// One entry of the log.
#[derive(Clone, Debug, Default, PartialEq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct Record {
    /// What happened.
    #[n(0)]
    pub core: Core,
    /// Who.
    #[n(1)]
    pub subject: Subject,
    /// On what.
    #[n(2)]
    pub resource: Resource,
    /// What the catalogue needs to apply it; `None` for reads and refusals.
    #[n(3)]
    pub redo: Option<Redo>,
    /// What it says to everybody, in clear in the tree; `None` for most.
    #[n(4)]
    pub public: Option<PublicEntry>,
}
