//! INVARIANT 5 — `Placement`: the sites policy chose for one version.

use std::sync::Arc;

use ringfence_format::names::{Label, ObjectVersion, SiteId};

use crate::ask::Ask;
use crate::caller::Who;

/// The sites policy allows and the placement table chose for one version.
/// Only [`crate::policy`] makes one.
///
/// ```compile_fail,E0451
/// use ringfence_access::Placement;
/// use ringfence_format::names::*;
/// fn anywhere(object: ObjectVersion, label: Label, site: SiteId) -> Placement {
///     Placement { object, label, sites: vec![site], policy_epoch: 0, ..todo!() }
/// }
/// ```
#[must_use]
#[derive(Debug)]
pub struct Placement {
    pub(crate) object: ObjectVersion,
    pub(crate) label: Label,
    /// Allowed sites in order of preference, `sites` among them.
    pub(crate) candidates: Vec<SiteId>,
    /// The first `copies` candidates that were not skipped.
    pub(crate) sites: Vec<SiteId>,
    pub(crate) policy_ids: Vec<String>,
    pub(crate) policy_epoch: u64,
    /// Who asked and for what, so that it can be checked again at commit.
    pub(crate) who: Arc<Who>,
    pub(crate) ask: Ask,
}

/// Policy allows enough sites, but not enough of them can be reached or have
/// room: answer 503 and let the client come again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} copies are asked for and {usable} of the allowed sites can take one: see `ringfence site list`")]
pub struct Unavailable {
    /// Copies the placement table asks for.
    pub wanted: usize,
    /// Allowed sites that are left.
    pub usable: usize,
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
    /// Every site that may, in order of preference; [`sites`](Self::sites) among them.
    pub fn candidates(&self) -> &[SiteId] {
        &self.candidates
    }
    /// The policies that allowed these sites.
    pub fn policy_ids(&self) -> &[String] {
        &self.policy_ids
    }
    /// The policy epoch; a commit under another epoch is placed again.
    pub fn policy_epoch(&self) -> u64 {
        self.policy_epoch
    }

    /// The same number of copies, without these sites (down or full): the next
    /// candidates take their place, which policy allows just the same.
    pub fn without(mut self, skip: &[SiteId]) -> Result<Self, Unavailable> {
        let wanted = self.sites.len();
        let usable: Vec<_> = self.candidates.iter().filter(|site| !skip.contains(site)).cloned().collect();
        if usable.len() < wanted {
            return Err(Unavailable { wanted, usable: usable.len() });
        }
        self.sites = usable.into_iter().take(wanted).collect();
        Ok(self)
    }
}
