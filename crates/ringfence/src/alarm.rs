//! Alarms: what a person must see, recorded first and then told.
//!
//! An alarm is a record of the log like any other, so it cannot be taken back,
//! and the log is the queue of the webhook: whoever raises one only records it,
//! and [`deliver`] follows the log from a position that is durable. What was
//! raised is therefore told at least once, whatever is killed when.
//!
//! Raising never fails, and hardly delays, the request that raised it. A flood
//! of one kind about one subject cannot fill the log: the first is recorded by
//! itself and at once, those that follow are counted and recorded together.

mod book;
mod deliver;
mod flood;
mod raise;
#[cfg(test)]
mod tests;
mod webhook;

use ringfence_format::limits::ALARM_DETAIL_BYTES_MAX;
use ringfence_format::names::{Realm, Tenant};
use ringfence_format::record::{ActorKind, Core, Decision, Op, Phase, Record, Resource, Seq, Subject, TimeUs};
use ringfence_log::{Class, Entry};

pub use self::book::Delivery;
pub use self::deliver::deliver;
pub use self::raise::{Alarms, Listed};
pub use self::webhook::Webhook;

/// What the operation of an alarm's record begins with; its kind is the rest.
const OP_PREFIX: &str = "alarm:";

/// What happened (design 03; rulings 23 to 25).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(dead_code)] // the log and the keys raise theirs with the parts that see them
pub enum AlarmKind {
    /// A valid signature of an issuer key over a session that was never issued:
    /// the key is in other hands, or its holder acts beside the log.
    SigValidNotIssued,
    /// A key was used outside its realm, tenant or purpose.
    KeyOutsideScope,
    /// A key that was retired or has expired was used.
    RetiredKey,
    /// The same evidence was exchanged more often, or from more networks, than
    /// its rule allows.
    EvidenceReuse,
    /// Fewer witnesses cosign than the quorum in force.
    QuorumLost,
    /// The newest checkpoint with a quorum is older than sessions may rely on.
    StaleCheckpoint,
    /// An older manifest was presented than one already known.
    ManifestRollback,
    /// A key is past the time at which it had to be replaced.
    KeyOverdue,
    /// The quorum of witnesses was lowered.
    QuorumLowered,
    /// The published keys of an identity provider changed.
    JwksChanged,
    /// Two histories of one log, both signed.
    LogFork,
}

impl AlarmKind {
    /// Every kind.
    pub const ALL: [Self; 11] = [
        Self::SigValidNotIssued,
        Self::KeyOutsideScope,
        Self::RetiredKey,
        Self::EvidenceReuse,
        Self::QuorumLost,
        Self::StaleCheckpoint,
        Self::ManifestRollback,
        Self::KeyOverdue,
        Self::QuorumLowered,
        Self::JwksChanged,
        Self::LogFork,
    ];

    /// Its name in records, metrics and webhooks: `SIG_VALID_NOT_ISSUED`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SigValidNotIssued => "SIG_VALID_NOT_ISSUED",
            Self::KeyOutsideScope => "KEY_OUTSIDE_SCOPE",
            Self::RetiredKey => "RETIRED_KEY",
            Self::EvidenceReuse => "EVIDENCE_REUSE",
            Self::QuorumLost => "QUORUM_LOST",
            Self::StaleCheckpoint => "STALE_CHECKPOINT",
            Self::ManifestRollback => "MANIFEST_ROLLBACK",
            Self::KeyOverdue => "KEY_OVERDUE",
            Self::QuorumLowered => "QUORUM_LOWERED",
            Self::JwksChanged => "JWKS_CHANGED",
            Self::LogFork => "LOG_FORK",
        }
    }

    /// The kind of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// `critical`: somebody must act now; `warning`: somebody must look.
    pub fn severity(self) -> &'static str {
        match self {
            Self::JwksChanged => "warning",
            _ => "critical",
        }
    }
}

/// One alarm, not raised yet.
#[must_use = "an alarm that is not raised is not heard"]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// What happened.
    pub kind: AlarmKind,
    /// In which realm, where it concerns one.
    pub realm: Option<Realm>,
    /// To which tenant, where it concerns one: its evidence key seals the record.
    pub tenant: Option<Tenant>,
    /// What exactly, for the person who is called: ids, never a secret or a
    /// token. Longer than [`ALARM_DETAIL_BYTES_MAX`] it is cut.
    pub detail: String,
    /// The record of the request that raised it, where there is one.
    pub of: Option<Seq>,
}

impl Entry for Alarm {
    fn to_record(&self, now_us: TimeUs) -> Record {
        record_of(self, 0, now_us)
    }

    /// An alarm is the last thing to give way when space runs out.
    fn class(&self) -> Class {
        Class::Reserved
    }
}

/// The record of one alarm, or of `count` that followed one on record.
fn record_of(alarm: &Alarm, count: u64, now_us: TimeUs) -> Record {
    Record {
        core: Core {
            time_us: now_us,
            op: Op(format!("{OP_PREFIX}{}", alarm.kind.as_str())),
            phase: if alarm.of.is_some() { Phase::Outcome } else { Phase::Intent },
            // Neither a grant nor a refusal: that is on record by itself.
            decision: Decision::Error,
            of: alarm.of,
            aggregated: count,
            ..Core::default()
        },
        subject: Subject {
            realm: alarm.realm.clone(),
            tenant: alarm.tenant.clone(),
            actor: ActorKind::System,
            ..Subject::default()
        },
        resource: Resource { detail: Some(cut(&alarm.detail).to_owned()), ..Resource::default() },
        redo: None,
        public: None,
    }
}

/// As much of a detail as a record takes, up to a character's border.
fn cut(detail: &str) -> &str {
    let end = (0..=ALARM_DETAIL_BYTES_MAX.min(detail.len())).rev().find(|end| detail.is_char_boundary(*end));
    &detail[..end.unwrap_or(0)]
}

/// The kind of alarm that a record is, if it is one.
pub fn kind_of(record: &Record) -> Option<&str> {
    record.core.op.0.strip_prefix(OP_PREFIX)
}
