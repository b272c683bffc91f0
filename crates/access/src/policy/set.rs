//! `PolicySet`: policies that were parsed, validated and found consistent with
//! the configuration.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

use cedar_policy::{Authorizer, Effect, Entities, Policy, PolicyId, Schema, ValidationMode, Validator};
use ringfence_format::names::{Label, SiteId, Tenant};
use ringfence_format::record::ActorKind;

use super::error::{self, Faults, PolicyErrors};
use super::explain::PolicyInfo;
use super::vocabulary::{Uses, unknown_words};
use super::world::{self, Asker};
use super::{Act, SCHEMA};
use crate::ask::{Ask, InBucket};
use crate::setting::Setting;

/// Ids of refusals that no policy can lift.
const TENANT_BOUNDARY: &str = "builtin:tenant-boundary";
const REALM_BOUNDARY: &str = "builtin:realm-boundary";
const EVIDENCE_ONLY: &str = "builtin:evidence-is-no-session";

pub(super) static VALIDATOR: LazyLock<Validator> = LazyLock::new(|| {
    let (schema, warnings) = Schema::from_cedarschema_str(SCHEMA).expect("the schema is tested");
    assert_eq!(warnings.count(), 0, "the schema is tested");
    Validator::new(schema)
});

/// One text of policies.
#[derive(Clone, Debug)]
pub struct PolicyText {
    /// Where it comes from, for errors: a file name.
    pub name: String,
    /// The policies, in Cedar.
    pub text: String,
}

/// Policies by action: a decision evaluates only those that can apply.
type Slices = [cedar_policy::PolicySet; Act::ALL.len()];

/// A valid policy set with the labels and sites it talks about.
pub struct PolicySet {
    setting: Arc<Setting>,
    provider: Slices,
    /// The provider's policies and the tenant's own, per tenant that has some.
    tenants: HashMap<Tenant, Slices>,
    policies: BTreeMap<String, PolicyInfo>,
    uses: Uses,
    /// Labels and sites; each request adds who and what it is about.
    base: Entities,
    authorizer: Authorizer,
    sha256: [u8; 32],
}

impl std::fmt::Debug for PolicySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.policies.keys()).finish()
    }
}

/// What a policy set says to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) answer: Answer,
    /// The policies that decided, sorted; empty where none permits.
    pub(crate) ids: Arc<[String]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Allow,
    /// With the reason.
    Deny(String),
}

impl Verdict {
    pub(crate) fn deny(reason: String, ids: Vec<String>) -> Self {
        Self { answer: Answer::Deny(reason), ids: ids.into() }
    }
    pub(crate) fn allows(&self) -> bool {
        self.answer == Answer::Allow
    }
    /// Why not, or by which policies.
    pub(crate) fn reason(&self) -> String {
        match &self.answer {
            Answer::Allow => format!("permitted by {}", quoted(&self.ids)),
            Answer::Deny(reason) => reason.clone(),
        }
    }
}

impl PolicySet {
    /// Parses and validates the provider's policies and each tenant's own.
    ///
    /// A tenant's text can only narrow: it may hold only `forbid`, and it is
    /// asked only about that tenant's data. Refused are, beside what Cedar's
    /// strict validation refuses: a policy without `@id`, an id given twice,
    /// templates, policies that can never apply, and words the configuration
    /// does not know.
    pub fn load(
        setting: Arc<Setting>,
        provider: &PolicyText,
        tenants: &[(Tenant, PolicyText)],
    ) -> Result<Self, PolicyErrors> {
        let mut errors = vec![];
        let mut named = Named::default();
        named.read(&setting, None, provider, &mut errors);
        for (tenant, text) in tenants {
            named.read(&setting, Some(tenant), text, &mut errors);
        }
        error::none_of(errors)?;

        let own = tenants.iter().map(|(tenant, _)| (tenant.clone(), slices(named.asked_about(Some(tenant)))));
        Ok(Self {
            provider: slices(named.asked_about(None)),
            tenants: own.collect(),
            base: world::labels_and_sites(&setting),
            authorizer: Authorizer::new(),
            sha256: digest(&setting, &named.policies),
            policies: named.policies,
            uses: named.uses,
            setting,
        })
    }

    /// The labels, sites and placement tables it was validated with.
    pub fn setting(&self) -> &Arc<Setting> {
        &self.setting
    }

    /// SHA-256 over the policies and the setting they talk about.
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256
    }

    /// Every policy, by its id; a tenant's own are called `tenant/id`.
    pub fn policies(&self) -> impl ExactSizeIterator<Item = &PolicyInfo> {
        self.policies.values()
    }

    /// One policy, as a record or a refusal names it.
    pub fn policy(&self, id: &str) -> Option<&PolicyInfo> {
        self.policies.get(id)
    }

    /// What becomes different if this set replaces the other, one policy a
    /// line: `+ id`, `- id`, `~ id` (changed), each with its new or old text.
    pub fn diff(&self, before: &Self) -> String {
        let mut lines = String::new();
        let mut line = |mark, info: &PolicyInfo| {
            let text = info.text.split_whitespace().collect::<Vec<_>>().join(" ");
            let _ = writeln!(lines, "{mark} {}: {text}", info.id);
        };
        for (id, old) in &before.policies {
            match self.policies.get(id) {
                None => line('-', old),
                Some(new) if new.text != old.text => line('~', new),
                Some(_) => {}
            }
        }
        self.policies.values().filter(|new| !before.policies.contains_key(&new.id)).for_each(|new| line('+', new));
        if self.setting_text() != before.setting_text() {
            lines.push_str("~ labels, sites or placement tables\n");
        }
        lines
    }

    /// May somebody do something? Boundaries first, which no policy can move.
    pub(super) fn access(&self, act: Act, asker: Asker<'_>, ask: &Ask) -> Verdict {
        if let Err(refusal) = self.boundary(asker, ask).and_then(|()| self.evidence_only_buys_a_session(act, asker)) {
            return refusal;
        }
        let owner = ask.owner().filter(|_| act != Act::Administer);
        match world::of_access(self, act, asker, ask, self.label(ask)) {
            Ok((request, entities)) => self.evaluate(act, owner, &request, &entities),
            Err(why) => Verdict::deny(format!("the policies have no room for this request: {why}"), vec![]),
        }
    }

    /// May data of this bucket with this label lie at this site?
    pub(super) fn place(&self, bucket: &InBucket, label: &Label, site: &SiteId) -> Verdict {
        match world::of_place(self, bucket, label, site) {
            Ok((request, entities)) => self.evaluate(Act::Place, Some(&bucket.tenant), &request, &entities),
            Err(why) => Verdict::deny(format!("the policies have no room for this request: {why}"), vec![]),
        }
    }

    /// INVARIANT: who shows an identity provider's token may ask for a session,
    /// and nothing else: the token itself opens nothing.
    pub(super) fn evidence_only_buys_a_session(&self, act: Act, asker: Asker<'_>) -> Result<(), Verdict> {
        match asker.actor == ActorKind::WebIdentity && act != Act::Issue {
            true => Err(Verdict::deny("an identity token is not a session".into(), vec![EVIDENCE_ONLY.into()])),
            false => Ok(()),
        }
    }

    /// INVARIANT: nothing crosses a realm, and nobody with a tenant acts on
    /// another tenant's data or on the installation. A sealed version that is
    /// not the bucket's own is refused whoever asks.
    pub(super) fn boundary(&self, asker: Asker<'_>, ask: &Ask) -> Result<(), Verdict> {
        let refuse = |id: &str, why: String| Err(Verdict::deny(why, vec![id.to_owned()]));
        if let (Some(object), Some(bucket)) = (&ask.object, ask.bucket())
            && (object.bucket != bucket.id || object.tenant != bucket.tenant)
        {
            return refuse("builtin:object-of-bucket", "the version named is not one of this bucket".to_owned());
        }
        if matches!(asker.actor, ActorKind::Operator | ActorKind::System) {
            return Ok(());
        }
        match ask.owner() {
            Some(owner) if owner == asker.tenant => {}
            Some(owner) => {
                return refuse(TENANT_BOUNDARY, format!("tenant `{}` may not act on tenant `{owner}`", asker.tenant));
            }
            None => return refuse(TENANT_BOUNDARY, format!("tenant `{}` may not administer", asker.tenant)),
        }
        match &ask.object {
            Some(object) if object.realm != *asker.realm => {
                refuse(REALM_BOUNDARY, format!("realm `{}` may not act on realm `{}`", asker.realm, object.realm))
            }
            _ => Ok(()),
        }
    }

    /// The label an act is about; the strictest where nothing is said.
    pub(super) fn label<'a>(&'a self, ask: &'a Ask) -> &'a Label {
        ask.label.as_ref().unwrap_or_else(|| self.setting.labels().strictest())
    }

    fn setting_text(&self) -> String {
        serde_json::to_string(&*self.setting).expect("names and numbers")
    }

    pub(super) fn uses(&self) -> Uses {
        self.uses
    }

    pub(super) fn base(&self) -> &Entities {
        &self.base
    }

    /// Evaluates. `owner` is whose data it is: that tenant's own policies are
    /// asked too. An error in any policy is a refusal: Cedar would skip the
    /// policy, and skipping a `forbid` would open what it closes.
    fn evaluate(
        &self,
        act: Act,
        owner: Option<&Tenant>,
        request: &cedar_policy::Request,
        entities: &Entities,
    ) -> Verdict {
        let slices = owner.and_then(|tenant| self.tenants.get(tenant)).unwrap_or(&self.provider);
        let response = self.authorizer.is_authorized(request, &slices[act as usize], entities);
        let diagnostics = response.diagnostics();
        if let Some(error) = diagnostics.errors().next() {
            let cedar_policy::AuthorizationError::PolicyEvaluationError(failed) = error;
            let id = failed.policy_id().to_string();
            return Verdict::deny(format!("policy `{id}` could not be evaluated: {}", failed.inner()), vec![id]);
        }
        let mut ids: Vec<String> = diagnostics.reason().map(ToString::to_string).collect();
        ids.sort();
        match response.decision() {
            cedar_policy::Decision::Allow => Verdict { answer: Answer::Allow, ids: ids.into() },
            cedar_policy::Decision::Deny if ids.is_empty() => Verdict::deny("no policy permits it".to_owned(), ids),
            cedar_policy::Decision::Deny => Verdict::deny(format!("forbidden by {}", quoted(&ids)), ids),
        }
    }
}

pub(super) fn quoted(ids: &[String]) -> String {
    ids.iter().map(|id| format!("`{id}`")).collect::<Vec<_>>().join(", ")
}

/// Policies under the ids that records will name them by.
#[derive(Default)]
struct Named {
    parsed: Vec<(Option<Tenant>, Policy)>,
    policies: BTreeMap<String, PolicyInfo>,
    uses: Uses,
}

impl Named {
    /// The provider's policies, and those of the tenant.
    fn asked_about(&self, tenant: Option<&Tenant>) -> impl Iterator<Item = &Policy> + Clone {
        let asked = move |of: &Option<Tenant>| of.is_none() || of.as_ref() == tenant;
        self.parsed.iter().filter(move |(of, _)| asked(of)).map(|(_, policy)| policy)
    }

    fn read(
        &mut self,
        setting: &Setting,
        tenant: Option<&Tenant>,
        text: &PolicyText,
        errors: &mut Vec<error::PolicyError>,
    ) {
        let mut faults = Faults::in_text(&text.name, &text.text, errors);
        let parsed = match text.text.parse::<cedar_policy::PolicySet>() {
            Ok(parsed) => parsed,
            Err(parse) => return parse.iter().for_each(|fault| faults.said_by_cedar(fault, 0)),
        };
        for template in parsed.templates() {
            let at = template.as_ref().loc().map_or(0, |loc| loc.start());
            faults.at(at, 1, "templates are not used here".to_owned(), Some("write the policy out".to_owned()));
        }
        let mut policies: Vec<_> = parsed.policies().map(|p| (offset(p), p)).collect();
        policies.sort_by_key(|(at, _)| *at);
        for (at, policy) in policies {
            self.add(setting, tenant, text, at, policy, &mut faults);
        }
    }

    fn add(
        &mut self,
        setting: &Setting,
        tenant: Option<&Tenant>,
        text: &PolicyText,
        at: usize,
        policy: &Policy,
        faults: &mut Faults<'_>,
    ) {
        let id = match policy.annotation("id").map(|id| check_id(id).map(|()| id)) {
            Some(Ok(id)) => tenant.map_or_else(|| id.to_owned(), |tenant| format!("{tenant}/{id}")),
            Some(Err(why)) => return faults.at(at, 1, why, None),
            None => {
                let help = "write `@id(\"what-it-ensures\")` above it: records and refusals name it".to_owned();
                return faults.at(at, 1, "a policy has no id".to_owned(), Some(help));
            }
        };
        if let Some(other) = self.policies.get(&id) {
            let message = format!("two policies are called `{id}`: the other is in {}:{}", other.file, other.line);
            return faults.at(at, 1, message, Some("give each its own @id".to_owned()));
        }
        if tenant.is_some() && policy.effect() == Effect::Permit {
            let help = "a tenant's policies narrow the provider's: write a `forbid`".to_owned();
            return faults.at(at, 1, format!("tenant policy `{id}` permits"), Some(help));
        }
        let policy = policy.new_id(PolicyId::new(&id));
        validate(&policy, at, faults);
        let json = policy.to_json().expect("a parsed policy has a JSON form");
        for message in unknown_words(&policy, &json, setting) {
            faults.at(at, 1, format!("policy `{id}`: {message}"), None);
        }
        self.uses = self.uses.or(Uses::of(&json));
        self.policies.insert(id.clone(), PolicyInfo::new(id, tenant, text, at, &policy));
        self.parsed.push((tenant.cloned(), policy));
    }
}

fn check_id(id: &str) -> Result<(), String> {
    let ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.' || c == '_';
    match !id.is_empty() && id.len() <= 80 && id.chars().all(ok) {
        true => Ok(()),
        false => Err(format!("`{id}` is not a policy id: use 1 to 80 of a-z, 0-9, `-`, `.` and `_`")),
    }
}

fn validate(policy: &Policy, at: usize, faults: &mut Faults<'_>) {
    let alone = cedar_policy::PolicySet::from_policies([policy.clone()]).expect("one policy has one id");
    let result = VALIDATOR.validate(&alone, ValidationMode::Strict);
    result.validation_errors().for_each(|fault| faults.said_by_cedar(fault, at));
    // A policy that can never apply, or whose text misleads the eye.
    result.validation_warnings().for_each(|fault| faults.said_by_cedar(fault, at));
}

fn offset(policy: &Policy) -> usize {
    policy.as_ref().loc().map_or(0, |loc| loc.start())
}

fn slices<'a>(policies: impl Iterator<Item = &'a Policy> + Clone) -> Slices {
    Act::ALL.map(|act| {
        let can_apply = policies.clone().filter(|policy| applies(policy, act)).cloned();
        cedar_policy::PolicySet::from_policies(can_apply).expect("ids are distinct")
    })
}

/// Whether a policy's scope admits an action. There are no groups of actions,
/// so the scope names them all.
fn applies(policy: &Policy, act: Act) -> bool {
    use cedar_policy::ActionConstraint::{Any, Eq, In};
    let is = |uid: &cedar_policy::EntityUid| uid.id().unescaped() == act.as_str();
    match policy.action_constraint() {
        Any => true,
        Eq(uid) => is(&uid),
        In(uids) => uids.iter().any(is),
    }
}

fn digest(setting: &Setting, policies: &BTreeMap<String, PolicyInfo>) -> [u8; 32] {
    let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut field = |text: &str| {
        hash.update(&(text.len() as u64).to_be_bytes());
        hash.update(text.as_bytes());
    };
    field(&serde_json::to_string(setting).expect("names and numbers"));
    for info in policies.values() {
        field(&info.id);
        field(&info.text);
    }
    hash.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}
