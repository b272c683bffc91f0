//! Who allows a change, while it waits and when it is committed.

use std::sync::Arc;

use ringfence_access::Placement;
use ringfence_access::permit::{Action, Denial, Permit};
use ringfence_format::names::{ObjectVersion, SiteId};
use ringfence_format::record::{ActorKind, Core, Op, Record, Resource, Subject, TimeUs};
use ringfence_format::redo::{Bucket, Version};
use ringfence_log::{Class, Entry};

use crate::commit::{By, Refusal};

/// What a commit finds when it decides anew.
#[derive(Debug)]
pub struct Standing<'a> {
    /// The bucket, as it is now.
    pub bucket: Option<&'a Bucket>,
    /// What the change would replace: the current version, or the one named.
    pub current: Option<&'a Version>,
}

/// Who allows a change: a permit, or what decides anew when it is committed.
#[allow(clippy::large_enum_variant, reason = "one is made per request and moved once")]
pub enum Authority<A> {
    /// Decided already; refused if its deadline passes first.
    Given(Permit<A>),
    /// Decided by the commit thread, as late as possible (ruling 2): the permit
    /// it returns is the one on record.
    Anew(Decide<A>),
}

/// See [`Authority::Anew`]. Called on the commit thread: microseconds, no I/O.
pub type Decide<A> = Box<dyn FnOnce(&Standing<'_>) -> Result<Permit<A>, Box<Denial>> + Send>;

/// Places again what was placed under an older epoch, at the same sites, or
/// says that policy no longer allows it. Called on the commit thread, only
/// where the epoch has changed.
pub type PlaceAgain = Box<dyn FnOnce() -> Result<Placement, Box<Denial>> + Send>;

impl<A> From<Permit<A>> for Authority<A> {
    fn from(permit: Permit<A>) -> Self {
        Self::Given(permit)
    }
}

impl<A> Authority<A> {
    /// Decides when the change is committed.
    pub fn anew(decide: impl FnOnce(&Standing<'_>) -> Result<Permit<A>, Box<Denial>> + Send + 'static) -> Self {
        Self::Anew(Box::new(decide))
    }
}

/// An [`Authority`] while it waits: a batch may have to be tried twice.
pub(crate) enum Held<A> {
    Given(Arc<Permit<A>>),
    Anew(Option<Decide<A>>),
    /// Ringfence itself: maintenance and the first start.
    System(Arc<SystemAct>),
}

/// What was decided, ready for the record.
pub(crate) struct Decided {
    pub(crate) by: By,
    /// `None` for Ringfence itself, which places nothing.
    pub(crate) epoch: Option<u64>,
    pub(crate) object: Option<ObjectVersion>,
}

impl<A: Action> Held<A> {
    pub(crate) fn system(op: &'static str, detail: Option<String>) -> Self {
        Self::System(Arc::new(SystemAct { op, resource: Resource { detail, ..Resource::default() } }))
    }

    pub(crate) fn is_system(&self) -> bool {
        matches!(self, Self::System(_))
    }

    pub(crate) fn decide(&mut self, standing: &Standing<'_>) -> Result<Decided, Refusal> {
        let permit = match self {
            Self::System(act) => return Ok(Decided { by: act.clone(), epoch: None, object: None }),
            Self::Given(permit) => permit.clone(),
            Self::Anew(decide) => {
                let decide = decide.take().expect("a request is decided once; then it is held as given");
                let permit = Arc::new(decide(standing).map_err(Refusal::Denied)?);
                *self = Self::Given(permit.clone());
                permit
            }
        };
        Ok(Decided { epoch: Some(permit.policy_epoch()), object: permit.object().cloned(), by: permit })
    }
}

impl<A> From<Authority<A>> for Held<A> {
    fn from(authority: Authority<A>) -> Self {
        match authority {
            Authority::Given(permit) => Self::Given(Arc::new(permit)),
            Authority::Anew(decide) => Self::Anew(Some(decide)),
        }
    }
}

/// Something Ringfence does on its own account. Made in this crate only, for
/// acts that give nothing away: a start, the end of attempts that failed, the
/// first tenant of an installation that has none.
pub(crate) struct SystemAct {
    op: &'static str,
    resource: Resource,
}

impl SystemAct {
    /// About one version at one site, and why. The object's name is the
    /// tenant's and stays out of the provider's records.
    pub(crate) fn on_version(op: &'static str, version: &Version, site: &SiteId, why: &str) -> Self {
        let resource = Resource {
            version: Some(version.uid),
            label: Some(version.label.clone()),
            sites: vec![site.clone()],
            detail: Some(why.to_owned()),
            ..Resource::default()
        };
        Self { op, resource }
    }
}

impl Entry for SystemAct {
    fn to_record(&self, now_us: TimeUs) -> Record {
        Record {
            core: Core { time_us: now_us, op: Op(self.op.to_owned()), ..Core::default() },
            subject: Subject { actor: ActorKind::System, ..Subject::default() },
            resource: self.resource.clone(),
            redo: None,
            public: None,
        }
    }
    fn class(&self) -> Class {
        Class::Reserved
    }
}

/// Says before the first byte leaves home that bytes may reach these sites
/// (ruling 1): the permit that allows the write, in the words of its record.
pub(crate) struct Announced {
    record: Record,
    class: Class,
    deadline_us: Option<TimeUs>,
}

impl Announced {
    pub(crate) fn by<A: Action>(permit: &Permit<A>) -> Self {
        let mut record = permit.to_record(0);
        record.resource.detail = Some("bytes may reach these sites from now on".to_owned());
        Self { record, class: permit.class(), deadline_us: permit.deadline_us() }
    }
}

impl Entry for Announced {
    fn to_record(&self, now_us: TimeUs) -> Record {
        let mut record = self.record.clone();
        record.core.time_us = now_us;
        record
    }
    fn class(&self) -> Class {
        self.class
    }
    fn deadline_us(&self) -> Option<TimeUs> {
        self.deadline_us
    }
}
