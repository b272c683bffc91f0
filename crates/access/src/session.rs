//! A session as the request path sees it: a token that was verified, and what
//! its role and its session policy leave of its rights.

use std::sync::Arc;

use ringfence_format::names::{Label, Principal};
use ringfence_format::session::{Claims, Verified};

use crate::ask::Ask;
use crate::labels::Labels;
use crate::narrowing::{Narrowing, Side};
use crate::policy::Act;

/// A verified session, ready to be authenticated for a request. Made of a
/// [`Verified`] token only.
#[derive(Debug)]
pub struct Session {
    verified: Verified,
    rights: Rights,
}

/// What is left of what policies allow. Every rule takes away; none grants.
#[derive(Clone, Debug)]
pub struct Rights {
    /// Nothing with a stricter label is reached.
    ceiling: Label,
    /// Each must allow what is asked: the role, the session policy, and those
    /// of the session it was narrowed from.
    narrowings: Vec<(Rule, Narrowing)>,
}

/// Whose rule it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The role's list of actions and resources.
    Role,
    /// The policy that came with the session.
    SessionPolicy,
}

/// Ids of refusals that no policy can lift.
const CEILING: &str = "builtin:role-ceiling";
const ROLE: &str = "builtin:role";
const SESSION_POLICY: &str = "builtin:session-policy";

impl Session {
    /// Of a verified token and the rights its role has now.
    pub fn new(verified: Verified, rights: Rights) -> Arc<Self> {
        Arc::new(Self { verified, rights })
    }

    /// The token's claims.
    pub fn claims(&self) -> &Claims {
        self.verified.claims()
    }
    /// The token, as it was verified.
    pub fn verified(&self) -> &Verified {
        &self.verified
    }
    /// Its role.
    pub fn role(&self) -> &Principal {
        &self.claims().role
    }
    /// What it may reach at most.
    pub fn rights(&self) -> &Rights {
        &self.rights
    }
}

impl Rights {
    /// Those of a role that reaches labels up to `ceiling`.
    pub fn up_to(ceiling: Label) -> Self {
        Self { ceiling, narrowings: vec![] }
    }

    /// Less, by one more rule.
    #[must_use]
    pub fn narrowed(mut self, rule: Rule, narrowing: Narrowing) -> Self {
        self.narrowings.push((rule, narrowing));
        self
    }

    /// What both leave: those of a session that was narrowed from another.
    #[must_use]
    pub fn within(mut self, parent: &Rights, labels: &Labels) -> Self {
        if labels.lowers(&self.ceiling, &parent.ceiling) {
            self.ceiling = parent.ceiling.clone();
        }
        self.narrowings.extend(parent.narrowings.iter().cloned());
        self
    }

    /// The strictest label they reach.
    pub fn ceiling(&self) -> &Label {
        &self.ceiling
    }

    /// Why they do not reach what is asked: the rule's id, and in words.
    pub(crate) fn refuse(&self, act: Act, ask: &Ask, label: &Label, labels: &Labels) -> Option<(&'static str, String)> {
        // Acts about no label (listing a tenant's buckets) have no ceiling;
        // what they show is narrowed by the rules below.
        let about = [ask.label.as_ref().map(|_| label), ask.lowered_from.as_ref()];
        if let Some(above) = about.into_iter().flatten().find(|label| labels.lowers(label, &self.ceiling)) {
            return Some((CEILING, format!("the role reaches labels up to `{}`, not `{above}`", self.ceiling)));
        }
        if act == Act::LowerLabel || act == Act::Issue {
            // Asked beside the act itself, or about no object.
            return None;
        }
        let side = if act == Act::Read { Side::Source } else { Side::Target };
        let (bucket, key) = (ask.bucket().map(|bucket| bucket.name.as_str()), ask.key().map(|key| key.as_str()));
        let refusing = self.narrowings.iter().find(|(_, rule)| !rule.allows_side(ask.op, side, bucket, key));
        refusing.map(|(rule, _)| match rule {
            Rule::Role => (ROLE, format!("the role does not allow `{}` here", ask.op)),
            Rule::SessionPolicy => (SESSION_POLICY, format!("the session policy does not allow `{}` here", ask.op)),
        })
    }
}
