//! INVARIANT 5 — `Placement`: the sites policy chose for one version.

use ringfence_format::names::{Label, ObjectVersion, SiteId};

/// The sites policy allows and the placement table chose for one version.
/// Only [`crate::policy`] makes one.
///
/// ```compile_fail,E0451
/// use ringfence_access::Placement;
/// use ringfence_format::names::*;
/// fn anywhere(object: ObjectVersion, label: Label, site: SiteId) -> Placement {
///     Placement { object, label, sites: vec![site], policy_ids: vec![], policy_epoch: 0 }
/// }
/// ```
#[must_use]
#[derive(Debug)]
pub struct Placement {
    pub(crate) object: ObjectVersion,
    pub(crate) label: Label,
    pub(crate) sites: Vec<SiteId>,
    pub(crate) policy_ids: Vec<String>,
    pub(crate) policy_epoch: u64,
}

impl Placement {
    /// What is placed.
    pub fn object(&self) -> &ObjectVersion {
        &self.object
    }
    /// The effective label it was placed by.
    pub fn label(&self) -> &Label {
        &self.label
    }
    /// Every site that must hold a complete copy.
    pub fn sites(&self) -> &[SiteId] {
        &self.sites
    }
    /// The policies that allowed these sites.
    pub fn policy_ids(&self) -> &[String] {
        &self.policy_ids
    }
    /// The policy epoch; a commit under another epoch is placed again.
    pub fn policy_epoch(&self) -> u64 {
        self.policy_epoch
    }
}
