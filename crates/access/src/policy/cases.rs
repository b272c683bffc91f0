//! `policy test`: a file of expectations, held against a policy set.
//!
//! ```toml
//! [[case]]
//! name   = "no restricted data in the cloud"
//! action = "Place"              # Read, Write, Delete, List, LowerLabel, Administer, Issue, Place
//! tenant = "acme"               # whose data
//! label  = "restricted"
//! site   = "cloud"              # Place only
//! expect = "deny"
//! policy = "restricted-stays-home"   # optional: must be among those that decided
//! ```
//!
//! Of access, not of placement: `principal` (default `someone`), `actor`
//! (`static-key`, `session`, `web-identity`, `operator` or `system`), `by` (the
//! tenant that acts, if it is not the owner), `op`, `key`, `source` (an
//! address), `from` (LowerLabel), `role` (of a session; for Issue the one asked
//! for) and `issuer` (Issue: whose token is shown).
//! `bucket` names the bucket; without it, the act is about the tenant. `pin`
//! is the site it is pinned to.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use ringfence_format::names::{BucketId, BucketName, Label, ObjectKey, Principal, Realm, SiteId, Tenant};
use ringfence_format::record::ActorKind;
use ringfence_format::redo::Bucket;
use serde::{Deserialize, Serialize};

use super::Act;
use super::set::{PolicySet, Verdict};
use super::vocabulary::unknown_word;
use super::world::{self, Asker};
use crate::ask::{Ask, InBucket};
use crate::caller::PROVIDER;

/// What became of each case.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In the order of the file.
    pub cases: Vec<Outcome>,
}

impl Report {
    /// Cases that did not come out as expected.
    pub fn failed(&self) -> usize {
        self.cases.iter().filter(|case| case.verdict == CaseVerdict::Failed).count()
    }
}

/// What became of one case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Its name, or what it asks.
    pub name: String,
    /// Whether it came out as expected.
    pub verdict: CaseVerdict,
    /// What the file expects.
    pub expected: Expect,
    /// What the policies say.
    pub got: Expect,
    /// Why, in words.
    pub reason: String,
    /// The policies that decided.
    pub policies: Vec<String>,
}

/// Whether a case came out as expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CaseVerdict {
    /// It did.
    Passed,
    /// It did not.
    Failed,
}

/// What is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expect {
    /// Policy allows it.
    Allow,
    /// Policy does not.
    Deny,
}

/// A file of cases that cannot be run: fix the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum CasesError {
    #[error("{0}")]
    Toml(String),
    #[error("there is no case in it: write at least one `[[case]]`")]
    Empty,
    #[error("case {case}: {message}")]
    Case { case: usize, message: String },
}

/// Runs every case of a file against a policy set.
pub fn run_cases(text: &str, set: &PolicySet) -> Result<Report, CasesError> {
    let file: CaseFile = toml::from_str(text).map_err(|e| CasesError::Toml(e.to_string()))?;
    if file.case.is_empty() {
        return Err(CasesError::Empty);
    }
    let numbered = file.case.iter().enumerate();
    let cases = numbered.map(|(i, case)| {
        case.check(set).and_then(|()| case.run(set)).map_err(|message| CasesError::Case { case: i + 1, message })
    });
    Ok(Report { cases: cases.collect::<Result<_, _>>()? })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseFile {
    #[serde(default)]
    case: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: Option<String>,
    action: String,
    tenant: Option<Tenant>,
    by: Option<Tenant>,
    principal: Option<Principal>,
    actor: Option<String>,
    op: Option<String>,
    bucket: Option<BucketName>,
    pin: Option<SiteId>,
    key: Option<ObjectKey>,
    label: Option<Label>,
    from: Option<Label>,
    site: Option<SiteId>,
    source: Option<IpAddr>,
    role: Option<Principal>,
    issuer: Option<Principal>,
    expect: Expect,
    policy: Option<String>,
}

impl Case {
    /// Names that do not exist would make a case that proves nothing.
    fn check(&self, set: &PolicySet) -> Result<(), String> {
        let setting = set.setting();
        for label in self.label.iter().chain(&self.from) {
            setting.labels().find(label.as_str()).map_err(|e| e.to_string())?;
        }
        for site in self.site.iter().chain(&self.pin) {
            setting.site(site).ok_or_else(|| format!("no site is called `{site}`"))?;
        }
        match &self.policy {
            Some(id) if set.policy(id).is_none() && !id.starts_with("builtin:") => {
                Err(format!("no policy is called `{id}`"))
            }
            _ => Ok(()),
        }
    }

    fn run(&self, set: &PolicySet) -> Result<Outcome, String> {
        let act = Act::from_name(&self.action).ok_or_else(|| {
            let known = Act::ALL.map(|act| format!("`{}`", act.as_str())).join(", ");
            format!("no action is called `{}`: use one of {known}", self.action)
        })?;
        let verdict = if act == Act::Place { self.place(set)? } else { self.access(act, set)? };
        let got = if verdict.allows() { Expect::Allow } else { Expect::Deny };
        let named = self.policy.as_ref().is_none_or(|id| verdict.ids.contains(id));
        Ok(Outcome {
            name: self.name.clone().unwrap_or_else(|| self.question()),
            verdict: if got == self.expect && named { CaseVerdict::Passed } else { CaseVerdict::Failed },
            expected: self.expect,
            got,
            reason: verdict.reason(),
            policies: verdict.ids.to_vec(),
        })
    }

    fn place(&self, set: &PolicySet) -> Result<Verdict, String> {
        let label = self.label.as_ref().ok_or("`Place` needs a `label`")?;
        let site = self.site.as_ref().ok_or("`Place` needs a `site`")?;
        Ok(set.place(&InBucket::from(&self.bucket()), label, site))
    }

    fn access(&self, act: Act, set: &PolicySet) -> Result<Verdict, String> {
        if self.site.is_some() {
            return Err(format!("`site` is for `Place`, not for `{}`", act.as_str()));
        }
        let strictest = set.setting().labels().strictest();
        let label = self.label.as_ref().unwrap_or(strictest);
        let bucket = self.bucket();
        let op = self.op(act)?;
        let mut ask = match (&self.tenant, &self.bucket, &self.key) {
            _ if act == Act::Issue => {
                let role = self.role.as_ref().ok_or("`Issue` needs a `role`")?;
                Ask::on_role(op, &self.owner(), role, self.issuer.as_ref())
            }
            (_, Some(_), Some(key)) => Ask::on_object(op, &bucket, key, label),
            (_, Some(_), None) => Ask::on_bucket(op, &bucket, label),
            (_, None, Some(_)) => return Err("a `key` needs a `bucket`".to_owned()),
            (Some(tenant), None, None) => Ask::on_tenant(op, tenant),
            (None, None, None) => Ask::on_installation(op),
        };
        if self.from.is_some() != (act == Act::LowerLabel) {
            return Err("`LowerLabel` needs `from`, and nothing else has it".to_owned());
        }
        if let Some(from) = &self.from {
            ask = ask.lowering_from(from);
        }
        let (actor, by) = self.actor()?;
        let someone = Principal::parse("someone").expect("a valid name");
        let principal = self.principal.as_ref().unwrap_or(&someone);
        let realm = Realm::parse("test").expect("a valid name");
        let role = self.role.as_ref().filter(|_| actor == ActorKind::Session);
        let asker = Asker { tenant: &by, realm: &realm, principal, actor, ip: self.source, role };
        // What the schema has no room for is refused for that reason alone.
        world::of_access(set, act, asker, &ask, label).map_err(|why| format!("nobody can ask this: {why}"))?;
        Ok(set.access(act, asker, &ask))
    }

    fn actor(&self) -> Result<(ActorKind, Tenant), String> {
        let provider = || Tenant::parse(PROVIDER).expect("a valid name");
        let tenant = || self.by.clone().unwrap_or_else(|| self.owner());
        match self.actor.as_deref() {
            None | Some("static-key") => Ok((ActorKind::StaticKey, tenant())),
            Some("session") => Ok((ActorKind::Session, tenant())),
            Some("web-identity") => Ok((ActorKind::WebIdentity, tenant())),
            Some("operator" | "system") if self.by.is_some() => Err("operator and system act for no tenant".to_owned()),
            Some("operator") => Ok((ActorKind::Operator, provider())),
            Some("system") => Ok((ActorKind::System, provider())),
            Some(other) => Err(unknown_word("actor", other).unwrap_or_default()),
        }
    }

    fn op(&self, act: Act) -> Result<&'static str, String> {
        let Some(op) = &self.op else { return Ok(act.as_str()) };
        match unknown_word("op", op) {
            Some(message) => Err(message),
            None => static_name(op),
        }
    }

    fn owner(&self) -> Tenant {
        self.tenant.clone().unwrap_or_else(|| Tenant::parse("default").expect("a valid name"))
    }

    fn bucket(&self) -> Bucket {
        Bucket {
            id: BucketId([0; 16]),
            name: self.bucket.clone().unwrap_or_else(|| BucketName::parse("a-bucket").expect("a valid name")),
            tenant: self.owner(),
            created_ms: 0,
            pin: self.pin.clone(),
            tags: vec![],
        }
    }

    fn question(&self) -> String {
        let mut words = vec![self.action.clone()];
        words.extend(self.label.iter().map(|label| format!("label {label}")));
        words.extend(self.bucket.iter().map(|bucket| format!("bucket {bucket}")));
        words.extend(self.site.iter().map(|site| format!("at site {site}")));
        words.join(", ")
    }
}

/// What one process remembers of operations that cases name.
const NAMES_MAX: usize = 1_000;
const NAME_BYTES_MAX: usize = 100;

/// An operation's name for as long as the process lives, which is how long
/// requests know theirs. A server runs cases too, so each name is kept once
/// and there is an end to them.
fn static_name(op: &str) -> Result<&'static str, String> {
    static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.get(op) {
        return Ok(known);
    }
    if names.len() >= NAMES_MAX || op.len() > NAME_BYTES_MAX {
        return Err(format!("more operations are named than there are: at most {NAMES_MAX} of {NAME_BYTES_MAX} bytes"));
    }
    let name: &'static str = String::leak(op.to_owned());
    names.insert(name);
    Ok(name)
}
