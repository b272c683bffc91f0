//! Answers to "why?": who decided, with the text of the policy.

use ringfence_format::names::{Label, SiteId, Tenant};
use serde::Serialize;

use super::set::PolicyText;
use crate::setting::SiteKind;

/// One policy, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyInfo {
    /// Its `@id`; a tenant's own is called `tenant/id`.
    pub id: String,
    /// `permit` or `forbid`.
    pub effect: &'static str,
    /// The tenant whose own policy it is; `None` for the provider's.
    pub tenant: Option<Tenant>,
    /// The other annotations, such as `@why("…")`, sorted.
    pub annotations: Vec<(String, String)>,
    /// Its text.
    pub text: String,
    /// The file it stands in.
    pub file: String,
    /// The line it begins at, from 1.
    pub line: usize,
}

impl PolicyInfo {
    pub(super) fn new(
        id: String,
        tenant: Option<&Tenant>,
        text: &PolicyText,
        at: usize,
        policy: &cedar_policy::Policy,
    ) -> Self {
        let mut annotations: Vec<_> =
            policy.annotations().filter(|(k, _)| *k != "id").map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        annotations.sort();
        Self {
            id,
            effect: match policy.effect() {
                cedar_policy::Effect::Permit => "permit",
                cedar_policy::Effect::Forbid => "forbid",
            },
            tenant: tenant.cloned(),
            annotations,
            text: policy.to_string(),
            file: text.name.clone(),
            line: text.text[..at.min(text.text.len())].matches('\n').count() + 1,
        }
    }
}

/// What one site's evaluation said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SiteVerdict {
    /// Which site.
    pub site: SiteId,
    /// Whether it is ours.
    pub kind: Option<SiteKind>,
    /// Its jurisdiction, where the site is configured.
    pub jurisdiction: Option<String>,
    /// Whether policy allows the label there.
    pub allowed: bool,
    /// Whether a new version would lie there.
    pub chosen: bool,
    /// Why, in words.
    pub reason: String,
    /// The policies that decided.
    pub policies: Vec<PolicyInfo>,
}

/// Where a new version would lie, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlaceExplanation {
    /// The policy epoch it was evaluated under.
    pub policy_epoch: u64,
    /// The label.
    pub label: Label,
    /// The site the bucket is pinned to.
    pub pin: Option<SiteId>,
    /// Copies that are asked for.
    pub copies: usize,
    /// Whether a write would be refused, and why.
    pub refused: Option<String>,
    /// Every configured site.
    pub sites: Vec<SiteVerdict>,
}

/// Whether somebody may do something, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AccessExplanation {
    /// The policy epoch it was evaluated under.
    pub policy_epoch: u64,
    /// The action, as policies name it.
    pub action: &'static str,
    /// Whether policy allows it.
    pub allowed: bool,
    /// Why, in words.
    pub reason: String,
    /// The policies that decided.
    pub policies: Vec<PolicyInfo>,
}
