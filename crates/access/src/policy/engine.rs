//! The policy set in force, and the questions asked of it.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use quick_cache::sync::Cache;
use ringfence_format::names::{Label, ObjectVersion, Principal, Realm, SiteId, Tenant};
use ringfence_format::record::{ActorKind, TimeUs};
use ringfence_format::redo::Bucket;
use ringfence_log::Recorded;

use super::Act;
use super::change::{Announces, PolicyChange, Superseded};
use super::explain::{AccessExplanation, PlaceExplanation, PolicyInfo, SiteVerdict};
use super::memo::{AccessKey, AccessRef, PlaceKey, PlaceRef};
use super::set::{PolicySet, Verdict};
use super::world::Asker;
use crate::ask::{Ask, InBucket};
use crate::caller::{Caller, Who};
use crate::keys::Keys;
use crate::permit::{Action, Administer, Denial, Permit, act_of};
use crate::placement::Placement;

/// Decisions remembered per epoch: enough for every principal, bucket, label
/// and operation that is busy at a time.
const DECISIONS_MAX: usize = 16 * 1024;
/// Placements remembered per epoch.
const PLACES_MAX: usize = 4 * 1024;

/// The policy set in force. Share it by `Arc`.
///
/// Asking never waits for a change: a change puts a new state in place, with an
/// empty memory of decisions and the next epoch.
#[derive(Debug)]
pub struct Engine {
    state: ArcSwap<State>,
    /// Held while a change takes effect, so that epochs go up one by one.
    changing: Mutex<()>,
}

struct State {
    set: Arc<PolicySet>,
    epoch: u64,
    decisions: Cache<AccessKey, Arc<Verdict>>,
    places: Cache<PlaceKey, Arc<[(SiteId, Verdict)]>>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("epoch", &self.epoch).field("set", &self.set).finish_non_exhaustive()
    }
}

impl Engine {
    /// Starts with a set that is on record as the one of this epoch.
    pub fn new(set: impl Into<Arc<PolicySet>>, epoch: u64) -> Self {
        Self { state: ArcSwap::from_pointee(State::new(set.into(), epoch)), changing: Mutex::new(()) }
    }

    /// The epoch in force; it only goes up. A commit under another epoch than
    /// its permit's decides again ([`renew`](Self::renew)).
    pub fn epoch(&self) -> u64 {
        self.state.load().epoch
    }

    /// The set in force.
    pub fn set(&self) -> Arc<PolicySet> {
        self.state.load().set.clone()
    }

    /// Prepares a change: record it, then [`adopt`](Self::adopt) it.
    pub fn propose(&self, permit: Permit<Administer>, set: PolicySet) -> PolicyChange {
        let state = self.state.load();
        PolicyChange { permit, diff: set.diff(&state.set), set: Arc::new(set), epoch: state.epoch + 1 }
    }

    /// Puts a recorded change into force and returns its epoch.
    pub fn adopt(&self, change: &Recorded<PolicyChange>) -> Result<u64, Superseded> {
        self.put_in_force(change.set.clone(), change.epoch)
    }

    /// Puts a set into force that some other entry put on record, such as the
    /// catalogue's commit of its epoch. An entry about another set is refused.
    pub fn adopt_recorded<T: Announces>(&self, set: PolicySet, recorded: &Recorded<T>) -> Result<u64, Superseded> {
        match recorded.entry().policy() {
            Some((epoch, sha256)) if sha256 == set.sha256() => self.put_in_force(Arc::new(set), epoch),
            other => Err(Superseded { proposed: other.map_or(0, |(epoch, _)| epoch), in_force: self.epoch() }),
        }
    }

    pub(super) fn put_in_force(&self, set: Arc<PolicySet>, epoch: u64) -> Result<u64, Superseded> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let in_force = self.epoch();
        if epoch != in_force + 1 {
            return Err(Superseded { proposed: epoch, in_force });
        }
        self.state.store(Arc::new(State::new(set, epoch)));
        Ok(epoch)
    }

    /// May this caller do `A`? `now_us` is when the decision is made: the
    /// permit must be recorded within [`PERMIT_MS_MAX`](ringfence_format::limits::PERMIT_MS_MAX).
    pub fn decide<A: Action>(&self, caller: &Caller, ask: Ask, now_us: TimeUs) -> Result<Permit<A>, Denial> {
        self.decide_for(&caller.0, ask, now_us)
    }

    /// Decides again, for the commit writer: the key may have been disabled
    /// and the policies may have changed since. The new permit's time counts
    /// from `now_us`.
    pub fn renew<A: Action>(&self, permit: Permit<A>, keys: &Keys, now_us: TimeUs) -> Result<Permit<A>, Denial> {
        if !keys.still_valid(&permit) {
            return Err(revoked(permit, self.epoch()));
        }
        if permit.policy_epoch == self.epoch() {
            return Ok(Permit { decided_us: now_us, ..permit });
        }
        self.decide_for(&permit.who, permit.ask, now_us)
    }

    /// Where may this version lie? Policy filters the sites, then the label's
    /// placement table chooses; a pinned bucket has one copy, at its pin.
    pub fn place(&self, caller: &Caller, ask: Ask, object: ObjectVersion) -> Result<Placement, Denial> {
        let state = self.state.load();
        let ask = ask.version(object.clone());
        let bucket = state.bucket_to_place(&caller.0, &ask)?;
        let label = state.set.label(&ask).clone();
        let choice = state.choose(bucket, &label);
        match choice.refusal {
            Some(refusal) => Err(state.denial(&caller.0, &ask, &refusal)),
            None => {
                let sites = choice.candidates[..choice.copies].to_vec();
                Ok(state.placement(&caller.0, ask, object, label, choice.candidates, sites))
            }
        }
    }

    /// May this version lie at exactly these sites, where its parts lie
    /// already? For the parts and the completion of a multipart upload, whose
    /// sites were chosen at its creation.
    pub fn place_at(
        &self,
        caller: &Caller,
        ask: Ask,
        object: ObjectVersion,
        sites: &[SiteId],
    ) -> Result<Placement, Denial> {
        self.place_at_for(&caller.0, ask, object, sites)
    }

    /// Checks a placement again, for the commit writer: the same sites, under
    /// the policies in force now. Costs nothing while the epoch is the same.
    pub fn renew_placement(&self, placement: Placement) -> Result<Placement, Denial> {
        if placement.policy_epoch == self.epoch() {
            return Ok(placement);
        }
        let Placement { who, ask, object, sites, .. } = placement;
        self.place_at_for(&who, ask, object, &sites)
    }

    /// The sites where data of this bucket with this label may lie, whatever
    /// the placement table prefers: a copy elsewhere is drift.
    pub fn allowed_sites(&self, bucket: &Bucket, label: &Label) -> Vec<SiteId> {
        let state = self.state.load();
        let bucket = InBucket::from(bucket);
        let verdicts = state.site_verdicts(&bucket, label);
        let allowed = verdicts.iter().filter(|(site, v)| v.allows() && bucket.pin.as_ref().is_none_or(|p| p == site));
        allowed.map(|(site, _)| site.clone()).collect()
    }

    /// Where a new version with this label would lie, and why.
    pub fn explain_place(&self, bucket: &Bucket, label: &Label) -> PlaceExplanation {
        let state = self.state.load();
        let bucket = InBucket::from(bucket);
        let choice = state.choose(&bucket, label);
        let chosen = &choice.candidates[..choice.copies.min(choice.candidates.len())];
        let sites = state.site_verdicts(&bucket, label);
        let sites = sites.iter().map(|(site, verdict)| SiteVerdict {
            site: site.clone(),
            kind: state.set.setting().site(site).map(|facts| facts.kind),
            jurisdiction: state.set.setting().site(site).map(|facts| facts.jurisdiction.clone()),
            allowed: verdict.allows(),
            chosen: choice.refusal.is_none() && chosen.contains(site),
            reason: verdict.reason(),
            policies: state.infos(verdict),
        });
        PlaceExplanation {
            policy_epoch: state.epoch,
            label: label.clone(),
            pin: bucket.pin.clone(),
            copies: choice.copies,
            sites: sites.collect(),
            refused: choice.refusal.map(|refusal| refusal.reason()),
        }
    }

    /// Whether somebody might do something, and why; makes no evidence.
    pub fn explain(
        &self,
        act: Act,
        tenant: &Tenant,
        realm: &Realm,
        principal: &Principal,
        actor: ActorKind,
        ask: &Ask,
    ) -> AccessExplanation {
        let state = self.state.load();
        let verdict = state.set.access(act, Asker { tenant, realm, principal, actor, ip: None, role: None }, ask);
        AccessExplanation {
            policy_epoch: state.epoch,
            action: act.as_str(),
            allowed: verdict.allows(),
            reason: verdict.reason(),
            policies: state.infos(&verdict),
        }
    }

    fn decide_for<A: Action>(&self, who: &Arc<Who>, ask: Ask, now_us: TimeUs) -> Result<Permit<A>, Denial> {
        let state = self.state.load();
        let verdict = state.access(act_of::<A>(), who, &ask);
        if let Some(refusal) = state.beyond_rights(act_of::<A>(), who, &ask) {
            return Err(state.denial(who, &ask, &refusal));
        }
        if !verdict.allows() {
            return Err(state.denial(who, &ask, &verdict));
        }
        Ok(Permit {
            who: who.clone(),
            ask,
            policy_ids: verdict.ids.clone(),
            policy_epoch: state.epoch,
            decided_us: now_us,
            _action: PhantomData,
        })
    }

    fn place_at_for(
        &self,
        who: &Arc<Who>,
        ask: Ask,
        object: ObjectVersion,
        sites: &[SiteId],
    ) -> Result<Placement, Denial> {
        let state = self.state.load();
        let ask = ask.version(object.clone());
        let bucket = state.bucket_to_place(who, &ask)?;
        let label = state.set.label(&ask).clone();
        if let Some(refusal) = state.refuse_any(bucket, &label, sites) {
            return Err(state.denial(who, &ask, &refusal));
        }
        Ok(state.placement(who, ask, object, label, sites.to_vec(), sites.to_vec()))
    }
}

/// The sites for a label, in order, or why they do not suffice.
struct Choice {
    candidates: Vec<SiteId>,
    copies: usize,
    refusal: Option<Verdict>,
}

impl State {
    fn new(set: Arc<PolicySet>, epoch: u64) -> Self {
        Self { set, epoch, decisions: Cache::new(DECISIONS_MAX), places: Cache::new(PLACES_MAX) }
    }

    fn access(&self, act: Act, who: &Who, ask: &Ask) -> Arc<Verdict> {
        let asker = Asker::from(who);
        if let Err(refusal) = self.set.boundary(asker, ask) {
            return Arc::new(refusal);
        }
        let key = AccessRef::new(act, asker, ask, self.set.label(ask), self.set.uses());
        if let Some(verdict) = self.decisions.get(&key) {
            return verdict;
        }
        let verdict = Arc::new(self.set.access(act, asker, ask));
        self.decisions.insert(key.to_owned(), verdict.clone());
        verdict
    }

    /// INVARIANT: a session reaches what its role and its session policy leave,
    /// whatever policies permit; not remembered, for it is the session's own.
    fn beyond_rights(&self, act: Act, who: &Who, ask: &Ask) -> Option<Verdict> {
        let rights = who.session.as_ref()?.rights();
        let (id, why) = rights.refuse(act, ask, self.set.label(ask), self.set.setting().labels())?;
        Some(Verdict::deny(why, vec![id.to_owned()]))
    }

    /// What policy says of every configured site, in the order of the configuration.
    fn site_verdicts(&self, bucket: &InBucket, label: &Label) -> Arc<[(SiteId, Verdict)]> {
        let key = PlaceRef { tenant: &bucket.tenant, bucket: &bucket.name, pin: bucket.pin.as_ref(), label };
        if let Some(verdicts) = self.places.get(&key) {
            return verdicts;
        }
        let sites = self.set.setting().sites().iter();
        let verdicts: Arc<[_]> = sites.map(|site| (site.id.clone(), self.set.place(bucket, label, &site.id))).collect();
        self.places.insert(key.to_owned(), verdicts.clone());
        verdicts
    }

    fn choose(&self, bucket: &InBucket, label: &Label) -> Choice {
        let rule = self.set.setting().placement(label);
        let (considered, copies) = match &bucket.pin {
            Some(pin) => (std::slice::from_ref(pin), 1),
            None => (rule.prefer.as_slice(), rule.copies),
        };
        let verdicts = self.site_verdicts(bucket, label);
        let allowed = |site: &&SiteId| verdicts.iter().any(|(id, verdict)| id == *site && verdict.allows());
        let candidates: Vec<_> = considered.iter().filter(allowed).cloned().collect();
        let refusal = (candidates.len() < copies).then(|| {
            let wanted = match &bucket.pin {
                Some(pin) => format!("bucket `{}` is pinned to site `{pin}`", bucket.name),
                None => format!("label `{label}` needs {copies} sites and may lie at {}", candidates.len()),
            };
            self.refusal(&wanted, bucket, label, considered)
        });
        Choice { candidates, copies, refusal }
    }

    /// Whether any of these sites may not hold the label.
    fn refuse_any(&self, bucket: &InBucket, label: &Label, sites: &[SiteId]) -> Option<Verdict> {
        let verdicts = self.site_verdicts(bucket, label);
        let may = |site: &SiteId| {
            let pinned_elsewhere = bucket.pin.as_ref().is_some_and(|pin| pin != site);
            !pinned_elsewhere && verdicts.iter().any(|(id, verdict)| id == site && verdict.allows())
        };
        if !sites.is_empty() && sites.iter().all(may) {
            return None;
        }
        let wanted = format!("a part lies where label `{label}` may not");
        Some(self.refusal(&wanted, bucket, label, sites))
    }

    /// Names for each site that is not allowed the policies that decided.
    fn refusal(&self, wanted: &str, bucket: &InBucket, label: &Label, considered: &[SiteId]) -> Verdict {
        let verdicts = self.site_verdicts(bucket, label);
        let mut ids = vec![];
        let mut reason = wanted.to_owned();
        for site in considered {
            match verdicts.iter().find(|(id, _)| id == site) {
                None => reason.push_str(&format!("; site `{site}`: not configured")),
                Some((_, verdict)) if !verdict.allows() => {
                    reason.push_str(&format!("; label `{label}` at site `{site}`: {}", verdict.reason()));
                    ids.extend(verdict.ids.iter().cloned());
                }
                Some(_) if bucket.pin.as_ref().is_some_and(|pin| pin != site) => {
                    reason.push_str(&format!("; site `{site}`: the bucket is pinned elsewhere"));
                }
                Some(_) => {}
            }
        }
        ids.sort();
        ids.dedup();
        Verdict::deny(reason, ids)
    }

    /// The bucket a placement is for, if it is the caller's to place in.
    fn bucket_to_place<'a>(&self, who: &Arc<Who>, ask: &'a Ask) -> Result<&'a InBucket, Denial> {
        self.set.boundary(Asker::from(&**who), ask).map_err(|refusal| self.denial(who, ask, &refusal))?;
        let nowhere = || Verdict::deny("only what lies in a bucket has a place".to_owned(), vec![]);
        ask.bucket().ok_or_else(|| self.denial(who, ask, &nowhere()))
    }

    fn placement(
        &self,
        who: &Arc<Who>,
        ask: Ask,
        object: ObjectVersion,
        label: Label,
        candidates: Vec<SiteId>,
        sites: Vec<SiteId>,
    ) -> Placement {
        let verdicts = ask.bucket().map(|bucket| self.site_verdicts(bucket, &label));
        let verdicts = verdicts.iter().flat_map(|v| v.iter());
        let mut policy_ids: Vec<_> =
            verdicts.filter(|(site, _)| sites.contains(site)).flat_map(|(_, v)| v.ids.iter().cloned()).collect();
        policy_ids.sort();
        policy_ids.dedup();
        Placement { object, label, candidates, sites, policy_ids, policy_epoch: self.epoch, who: who.clone(), ask }
    }

    fn denial(&self, who: &Arc<Who>, ask: &Ask, verdict: &Verdict) -> Denial {
        Denial {
            who: who.clone(),
            owner: ask.owner().cloned(),
            op: ask.op,
            resource: Box::new(ask.resource.clone()),
            status: 403,
            error_code: "AccessDenied",
            reason: verdict.reason().into(),
            policy_ids: verdict.ids.clone(),
            policy_epoch: self.epoch,
        }
    }

    fn infos(&self, verdict: &Verdict) -> Vec<PolicyInfo> {
        verdict.ids.iter().filter_map(|id| self.set.policy(id)).cloned().collect()
    }
}

/// The key was disabled between decision and commit, or while a body was sent.
fn revoked<A: Action>(permit: Permit<A>, policy_epoch: u64) -> Denial {
    Denial {
        owner: permit.ask.owner().cloned(),
        who: permit.who,
        op: permit.ask.op,
        resource: Box::new(permit.ask.resource),
        status: 403,
        error_code: "InvalidAccessKeyId",
        reason: "the key was disabled while the request was under way".into(),
        policy_ids: Arc::from([]),
        policy_epoch,
    }
}
