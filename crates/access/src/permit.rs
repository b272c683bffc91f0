//! `Permit<A>`: policy said yes to one action by one caller on one resource.

use std::marker::PhantomData;
use std::sync::Arc;

use ringfence_format::limits;
use ringfence_format::names::{ObjectVersion, Principal, Realm, Tenant};
use ringfence_format::record::{Core, Decision, Op, Phase, Record, Resource, TimeUs};
use ringfence_log::{Class, Entry};

use crate::ask::Ask;
use crate::caller::Who;
use crate::policy::Act;

/// A kind of act; the type parameter of a [`Permit`]. Sealed: the schema knows
/// each of them.
pub trait Action: sealed::Sealed + Send + Sync + 'static {
    /// Its name in policies.
    const NAME: &'static str;
    /// Which log space its records may use.
    const CLASS: Class;
}

mod sealed {
    pub trait Sealed {
        const ACT: crate::policy::Act;
    }
}

/// The row of the policy slices an action reads.
pub(crate) const fn act_of<A: Action>() -> Act {
    <A as sealed::Sealed>::ACT
}

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident $class:ident;)*) => { $(
        $(#[$doc])*
        #[derive(Debug)]
        pub enum $name {}
        impl sealed::Sealed for $name {
            const ACT: Act = Act::$name;
        }
        impl Action for $name {
            const NAME: &'static str = stringify!($name);
            const CLASS: Class = Class::$class;
        }
    )* };
}

actions! {
    /// Release bytes or metadata of an object or a bucket.
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
    /// Give out a session in a role.
    Issue Ordinary;
}

/// Policy said yes to `A`. Only [`crate::policy`] makes one.
///
/// Not `Clone`, and good for [`limits::PERMIT_MS_MAX`] only: the log refuses
/// to record it later.
///
/// ```compile_fail,E0451
/// use std::marker::PhantomData;
/// use ringfence_access::{Ask, Permit, permit::Read};
/// fn forge(ask: Ask) -> Permit<Read> {
///     Permit { ask, decided_us: 0, policy_epoch: 0, _action: PhantomData, ..todo!() }
/// }
/// ```
///
/// ```compile_fail,E0599
/// use ringfence_access::{Permit, permit::Read};
/// fn twice(permit: Permit<Read>) -> (Permit<Read>, Permit<Read>) {
///     (permit.clone(), permit)
/// }
/// ```
///
/// ```compile_fail,E0308
/// use ringfence_access::{Permit, permit::{Read, Write}};
/// fn write_with_a_read(permit: Permit<Read>) -> Permit<Write> {
///     permit
/// }
/// ```
#[must_use]
#[derive(Debug)]
pub struct Permit<A> {
    pub(crate) who: Arc<Who>,
    pub(crate) ask: Ask,
    pub(crate) policy_ids: Arc<[String]>,
    pub(crate) policy_epoch: u64,
    pub(crate) decided_us: TimeUs,
    pub(crate) _action: PhantomData<fn() -> A>,
}

impl<A: Action> Permit<A> {
    /// The sealed thing it is about, where it is about one.
    pub fn object(&self) -> Option<&ObjectVersion> {
        self.ask.object.as_ref()
    }
    /// What will stand in the record.
    pub fn resource(&self) -> &Resource {
        &self.ask.resource
    }
    /// Says more for the record, such as the size that is known only now. The
    /// permit stays one for the same object: the names in it do not change.
    pub fn record(mut self, say: impl FnOnce(&mut Resource)) -> Self {
        let Resource { bucket, key, version, label, .. } = self.ask.resource.clone();
        say(&mut self.ask.resource);
        self.ask.resource = Resource { bucket, key, version, label, ..self.ask.resource };
        self
    }
    /// Whose data.
    pub fn tenant(&self) -> &Tenant {
        self.ask.owner().unwrap_or(&self.who.tenant)
    }
    /// In which realm.
    pub fn realm(&self) -> &Realm {
        self.ask.object.as_ref().map_or(&self.who.realm, |object| &object.realm)
    }
    /// Who acts.
    pub fn principal(&self) -> &Principal {
        &self.who.principal
    }
    /// The role it is about, where it is about one.
    pub fn role(&self) -> Option<&Principal> {
        self.ask.role()
    }
    /// The operation, such as `s3:GetObject`.
    pub fn op(&self) -> &'static str {
        self.ask.op
    }
    /// The policies that allowed it.
    pub fn policy_ids(&self) -> &[String] {
        &self.policy_ids
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
                op: Op(self.ask.op.to_owned()),
                phase: Phase::Intent,
                decision: Decision::Allow,
                policy_ids: self.policy_ids.to_vec(),
                policy_epoch: self.policy_epoch,
                ..Core::default()
            },
            subject: self.who.subject(self.ask.owner()),
            resource: self.ask.resource.clone(),
            redo: None,
            public: None,
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
    pub(crate) owner: Option<Tenant>,
    pub(crate) op: &'static str,
    pub(crate) resource: Box<Resource>,
    pub(crate) status: u16,
    pub(crate) error_code: &'static str,
    pub(crate) reason: Box<str>,
    pub(crate) policy_ids: Arc<[String]>,
    pub(crate) policy_epoch: u64,
}

impl Denial {
    /// Why, for the record and the operator; never for the client.
    pub fn reason(&self) -> &str {
        &self.reason
    }
    /// The policies that decided; empty where none permitted.
    pub fn policy_ids(&self) -> &[String] {
        &self.policy_ids
    }
    /// The HTTP status to answer.
    pub fn status(&self) -> u16 {
        self.status
    }
    /// The S3 error code to answer, such as `AccessDenied`.
    pub fn error_code(&self) -> &'static str {
        self.error_code
    }
    /// The operation that was refused.
    pub fn op(&self) -> &'static str {
        self.op
    }
    /// What will stand in the record.
    pub fn resource(&self) -> &Resource {
        &self.resource
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
                reason: Some(self.reason.to_string()),
                policy_ids: self.policy_ids.to_vec(),
                policy_epoch: self.policy_epoch,
                ..Core::default()
            },
            subject: self.who.subject(self.owner.as_ref()),
            resource: (*self.resource).clone(),
            redo: None,
            public: None,
        }
    }
}
