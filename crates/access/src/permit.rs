//! `Permit<A>`: policy said yes to one action by one caller on one resource.

use std::marker::PhantomData;
use std::sync::Arc;

use ringfence_format::limits;
use ringfence_format::names::{ObjectVersion, Realm, Tenant};
use ringfence_format::record::{Core, Decision, Op, Phase, Record, Resource, TimeUs};
use ringfence_log::{Class, Entry};

use crate::caller::Who;

/// A kind of act; the type parameter of a [`Permit`].
pub trait Action: Send + Sync + 'static {
    /// Its name in policies.
    const NAME: &'static str;
    /// Which log space its records may use.
    const CLASS: Class;
}

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident $class:ident;)*) => { $(
        $(#[$doc])*
        #[derive(Debug)]
        pub enum $name {}
        impl Action for $name {
            const NAME: &'static str = stringify!($name);
            const CLASS: Class = Class::$class;
        }
    )* };
}

actions! {
    /// Release bytes or metadata of an object.
    Read Ordinary;
    /// Make a new version, a part, tags, or a bucket.
    Write Write;
    /// Take a version or a bucket away.
    Delete Reserved;
    /// Release names.
    List Ordinary;
    /// Give an object a less strict label than it has or inherits.
    LowerLabel Write;
    /// Change tenants, keys, policies; run maintenance.
    Administer Reserved;
}

/// Policy said yes to `A`. Only [`crate::policy`] makes one.
///
/// Not `Clone`, and good for [`limits::PERMIT_MS_MAX`] only: the log refuses
/// to record it later.
#[must_use]
#[derive(Debug)]
pub struct Permit<A> {
    pub(crate) who: Arc<Who>,
    pub(crate) op: &'static str,
    pub(crate) object: Option<ObjectVersion>,
    pub(crate) resource: Resource,
    pub(crate) policy_ids: Vec<String>,
    pub(crate) policy_epoch: u64,
    pub(crate) decided_us: TimeUs,
    pub(crate) _action: PhantomData<fn() -> A>,
}

impl<A: Action> Permit<A> {
    /// The sealed thing it is about, where it is about one.
    pub fn object(&self) -> Option<&ObjectVersion> {
        self.object.as_ref()
    }
    /// What will stand in the record.
    pub fn resource(&self) -> &Resource {
        &self.resource
    }
    /// Whose data.
    pub fn tenant(&self) -> &Tenant {
        &self.who.tenant
    }
    /// In which realm.
    pub fn realm(&self) -> &Realm {
        &self.who.realm
    }
    /// The operation, such as `s3:GetObject`.
    pub fn op(&self) -> &'static str {
        self.op
    }
    /// The policy epoch it was decided under.
    pub fn policy_epoch(&self) -> u64 {
        self.policy_epoch
    }
}

impl<A: Action> Entry for Permit<A> {
    fn to_record(&self, now_us: TimeUs) -> Record {
        Record {
            core: Core {
                time_us: now_us,
                op: Op(self.op.to_owned()),
                phase: Phase::Intent,
                decision: Decision::Allow,
                policy_ids: self.policy_ids.clone(),
                policy_epoch: self.policy_epoch,
                ..Core::default()
            },
            subject: self.who.subject(),
            resource: self.resource.clone(),
            redo: None,
        }
    }
    fn class(&self) -> Class {
        A::CLASS
    }
    fn deadline_us(&self) -> Option<TimeUs> {
        Some(self.decided_us + limits::PERMIT_MS_MAX * 1000)
    }
}

/// INVARIANT 8 — a refusal is an answer too, and is recorded before it is given.
#[must_use]
#[derive(Debug)]
pub struct Denial {
    pub(crate) who: Arc<Who>,
    pub(crate) op: &'static str,
    pub(crate) resource: Resource,
    pub(crate) status: u16,
    pub(crate) error_code: &'static str,
    pub(crate) reason: String,
    pub(crate) policy_ids: Vec<String>,
    pub(crate) policy_epoch: u64,
}

impl Denial {
    /// Why, for the record and the operator; never for the client.
    pub fn reason(&self) -> &str {
        &self.reason
    }
    /// The policies that decided.
    pub fn policy_ids(&self) -> &[String] {
        &self.policy_ids
    }
}

impl Entry for Denial {
    fn to_record(&self, now_us: TimeUs) -> Record {
        Record {
            core: Core {
                time_us: now_us,
                op: Op(self.op.to_owned()),
                phase: Phase::Intent,
                decision: Decision::Deny,
                status: self.status,
                error_code: Some(self.error_code.to_owned()),
                reason: Some(self.reason.clone()),
                policy_ids: self.policy_ids.clone(),
                policy_epoch: self.policy_epoch,
                ..Core::default()
            },
            subject: self.who.subject(),
            resource: self.resource.clone(),
            redo: None,
        }
    }
}
