//! What can be asked, and how answers arrive: JSON both ways.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cli::{Failure, Kind};

/// One administrative call. Those without fields are written `{}`: serde lets
/// unknown fields pass beside a bare name.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "snake_case", deny_unknown_fields)]
pub enum Call {
    /// What runs and what needs attention.
    Status {},
    /// Every tenant.
    TenantList {},
    /// A tenant with a first key.
    TenantAdd { name: String, realm: Option<String>, default_label: Option<String> },
    /// Access keys.
    KeyList { tenant: Option<String> },
    /// A new access key.
    KeyAdd { tenant: String, name: String },
    /// No more requests with this key.
    KeyDisable { id: String },
    /// A sealed copy of the keyring.
    KeysBackup { file: std::path::PathBuf, passphrase: Secret },
    /// New key versions, all objects re-wrapped.
    KeysRotate { tenant: Option<String> },
    /// Every session key.
    KeysList { realm: Option<String> },
    /// Fresh session keys, now.
    KeysRotateIssuer { realm: Option<String>, tenant: Option<String>, purpose: Option<String> },
    /// What the offline root is to sign next.
    ManifestRequest { realm: Option<String>, days: u64, fresh: bool },
    /// A manifest that the root signed.
    ManifestApply { text: String },
    /// The manifest in force, and its root.
    ManifestShow { realm: Option<String> },
    /// Another root takes over.
    RootAdopt { text: String },
    /// Sessions end.
    Revoke(Revoke),
    /// A revocation is taken back.
    RevokeLift { index: u64, reason: Option<String> },
    /// Every revocation.
    RevokeList {},
    /// The public trust file: what judges sessions offline.
    TrustExport {},
    /// The configured sites.
    SiteList {},
    /// What a site can really do.
    SiteCheck { site: Option<String> },
    /// The policies in force.
    PolicyShow {},
    /// Whether a policy text is valid.
    PolicyCheck { text: String },
    /// The truth table of a policy text, or of those in force; with cases,
    /// whether each comes out as expected.
    PolicyTest { text: Option<String>, cases: Option<String> },
    /// New policies.
    PolicyApply { text: String },
    /// The record of a request.
    PolicyExplain { request: String },
    /// Where an object lies.
    Where { bucket: String, key: String },
    /// A bucket's objects and bytes by label and site.
    Usage { bucket: String },
    /// The proof that a request is on record, for anybody to check.
    LogProve { request: String },
    /// Records.
    LogShow { request: Option<String>, from: Option<u64>, limit: u64 },
    /// Take the fields of old records.
    LogTrim { before: Option<String>, dry_run: bool },
    /// Erase who and on what from records.
    LogErase(Erase),
    /// Who must cosign.
    LogWitnesses {},
    /// The set of witnesses that would come next, for the root to sign.
    LogWitnessesNext { require: u32, witnesses: Vec<String> },
    /// Another set of witnesses: signed (hexadecimal), or for the development root.
    LogWitnessesSet { require: u32, witnesses: Vec<String>, signed: Option<String> },
    /// Alarms.
    AlarmList { since: Option<u64> },
    /// Realms, issuers and keys for a drill.
    DrillBegin(DrillBegin),
    /// The drill's issuers and roles go.
    DrillEnd {},
    /// Check every copy.
    Scrub {},
    /// Erase what is gone.
    Sweep { dry_run: bool, confirm_recovered: bool },
}

/// What is revoked, and from which leaf on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoke {
    /// What kind of thing.
    pub what: What,
    /// Which, as the operator typed it.
    pub which: String,
    /// Sessions whose leaf stands before it live on; none do without it.
    pub from_index: Option<u64>,
    /// Why; stands in the record.
    pub reason: Option<String>,
    /// In which realm, where the name does not say it.
    pub realm: Option<String>,
}

/// See [`Revoke`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // each is what it says
pub enum What {
    Session,
    Subject,
    Role,
    Key,
    Site,
}

impl What {
    /// As the command line calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Subject => "subject",
            Self::Role => "role",
            Self::Key => "key",
            Self::Site => "site",
        }
    }
}

/// Which records, and why; times as the operator typed them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Erase {
    /// A request id.
    pub request: Option<String>,
    /// A tenant.
    pub tenant: Option<String>,
    /// One of its principals.
    pub principal: Option<String>,
    /// From when.
    pub from: Option<String>,
    /// Until when.
    pub until: Option<String>,
    /// Why; stands in the record of the erasure.
    pub reason: String,
    /// Whether it is done or only counted.
    pub confirm: bool,
}

/// A passphrase on its way over the socket; zeroed when it is dropped and
/// never printed.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub zeroize::Zeroizing<String>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// One line of an answer: any number of `progress`, then `done` or `failed`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// How far a long call is.
    Progress {
        /// Of what.
        what: String,
        /// So many are done.
        done: u64,
        /// Of so many.
        total: u64,
    },
    /// The answer.
    Done(Value),
    /// Why there is none.
    Failed {
        /// Whose turn it is.
        kind: Kind,
        /// One line.
        message: String,
        /// What to do next.
        next: Option<String>,
    },
}

impl From<Failure> for Event {
    fn from(failure: Failure) -> Self {
        Self::Failed { kind: failure.kind, message: failure.message, next: failure.next }
    }
}

/// Hears how far a long call is.
pub trait Progress: Send + Sync {
    /// `done` of `total` are done.
    fn at(&self, what: &str, done: u64, total: u64);
}

impl<F: Fn(&str, u64, u64) + Send + Sync> Progress for F {
    fn at(&self, what: &str, done: u64, total: u64) {
        self(what, done, total);
    }
}

/// What a drill brings: issuers on loopback, and keys that are stolen from the
/// start, each listed in its scope like one of ours.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrillBegin {
    /// The consumers' issuer.
    pub consumer: String,
    /// The enterprise's issuer.
    pub enterprise: String,
    /// A session key of the enterprise, in force.
    pub stolen: String,
    /// One of the consumers, in force.
    pub stolen_of_consumers: String,
    /// One of the enterprise, whose time is over.
    pub retired: String,
}
