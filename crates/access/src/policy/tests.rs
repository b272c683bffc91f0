//! Policies under attack: what loads, what is refused, what no text can widen.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

use proptest::prelude::*;
use ringfence_format::limits::PERMIT_MS_MAX;
use ringfence_format::names::{
    BucketId, BucketName, KeyId, Label, ObjectKey, ObjectVersion, Principal, Realm, SiteId, Tenant, VersionUid,
};
use ringfence_format::record::{ActorKind, Decision, Record};
use ringfence_format::redo::Bucket;
use ringfence_log::Entry;

use super::*;
use crate::ask::Ask;
use crate::caller::{AuthnReason, Caller, Origin, PeerCredential, VerifiedSignature, authenticate, operator, system};
use crate::keys::{KeyEntry, KeyState, Keys};
use crate::labels::Labels;
use crate::permit::{Administer, Delete, List, LowerLabel, Permit, Read, Write};
use crate::placement::Unavailable;
use crate::setting::{PlacementRule, Setting, SiteFacts, SiteKind};

fn label(text: &str) -> Label {
    Label::parse(text).expect("a label")
}
fn tenant(text: &str) -> Tenant {
    Tenant::parse(text).expect("a tenant")
}
fn site(text: &str) -> SiteId {
    SiteId::parse(text).expect("a site")
}
fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).expect("a key")
}

fn facts(id: &str, kind: SiteKind, jurisdiction: &str) -> SiteFacts {
    SiteFacts {
        id: site(id),
        kind,
        jurisdiction: jurisdiction.to_owned(),
        provider: id.to_owned(),
        dedicated: kind == SiteKind::Private,
        tags: vec![],
    }
}

fn setting_with(tables: &[(&str, &[&str], usize)]) -> Arc<Setting> {
    let sites = vec![
        facts("home", SiteKind::Private, "DE"),
        facts("branch", SiteKind::Private, "US"),
        facts("cloud", SiteKind::Public, "DE"),
        facts("overseas", SiteKind::Public, "US"),
        facts("unknown", SiteKind::Public, "ZZ"),
    ];
    let table = |prefer: &[&str], copies| PlacementRule { prefer: prefer.iter().map(|s| site(s)).collect(), copies };
    let mut placement: BTreeMap<_, _> = Labels::default().iter().map(|l| (l.clone(), table(&["home"], 1))).collect();
    placement.extend(tables.iter().map(|(l, prefer, copies)| (label(l), table(prefer, *copies))));
    Arc::new(Setting::new(Labels::default(), sites, placement).expect("it fits"))
}

fn setting() -> Arc<Setting> {
    setting_with(&[("public", &["cloud", "home"], 1)])
}

fn text(text: &str) -> PolicyText {
    PolicyText { name: "policy.cedar".to_owned(), text: text.to_owned() }
}

fn load(provider: &str, tenants: &[(&str, &str)]) -> Result<PolicySet, PolicyErrors> {
    let tenants: Vec<_> = tenants.iter().map(|(t, policies)| (tenant(t), text(policies))).collect();
    PolicySet::load(setting(), &text(provider), &tenants)
}

fn default_engine() -> Engine {
    static SET: LazyLock<Arc<PolicySet>> = LazyLock::new(|| Arc::new(load(DEFAULT_POLICIES, &[]).expect("valid")));
    Engine::new(SET.clone(), 1)
}

fn bucket(owner: &str, pin: Option<&str>) -> Bucket {
    Bucket {
        id: BucketId([7; 16]),
        name: BucketName::parse("data").expect("a bucket"),
        tenant: tenant(owner),
        created_ms: 0,
        pin: pin.map(site),
        tags: vec![],
    }
}

fn version(owner: &str) -> ObjectVersion {
    ObjectVersion {
        realm: Realm::parse("main").expect("a realm"),
        tenant: tenant(owner),
        bucket: BucketId([7; 16]),
        version: VersionUid([9; 16]),
    }
}

const KEY: &str = "AKIATEST00000001";

fn keys_of(owner: &str) -> Keys {
    Keys::new([KeyEntry {
        id: KeyId::parse(KEY).expect("an id"),
        tenant: tenant(owner),
        realm: Realm::parse("main").expect("a realm"),
        principal: Principal::parse("alice").expect("a principal"),
        state: KeyState::Active,
        issued: Some(3),
    }])
}

fn signature(owner: &str, realm: &str) -> VerifiedSignature {
    let (id, realm) = (KeyId::parse(KEY).expect("an id"), Realm::parse(realm).expect("a realm"));
    VerifiedSignature::sigv4_was_checked_by_the_wire_layer(id, tenant(owner), realm)
}

fn caller(owner: &str) -> Caller {
    caller_from(owner, None)
}

fn caller_from(owner: &str, ip: Option<&str>) -> Caller {
    let ip = ip.map(|ip| ip.parse().expect("an address"));
    authenticate(signature(owner, "main"), &keys_of(owner), Origin { ip, user_agent: None }).expect("it holds")
}

fn object(bucket: &Bucket, of: &str) -> Ask {
    Ask::on_object("s3:GetObject", bucket, &key("a"), &label(of))
}

fn record_of(entry: &impl Entry) -> Record {
    entry.to_record(17)
}

// ---- The schema and the shipped policies --------------------------------

#[test]
fn the_default_policies_are_valid() {
    let set = load(DEFAULT_POLICIES, &[]).unwrap_or_else(|errors| panic!("{errors}"));
    assert!(set.policy("restricted-stays-home").is_some_and(|p| p.effect == "forbid" && p.line > 1));
    assert_eq!(
        set.policy("own-data").expect("shipped").annotations[0].1,
        "a tenant's principals work with that tenant's own buckets"
    );
}

#[test]
fn static_keys_reach_everything_but_what_is_restricted() {
    let engine = Engine::new(load(DEFAULT_POLICIES, &[]).expect("valid"), 1);
    let (acme, bucket) = (caller("acme"), bucket("acme", None));
    let denial = engine.decide::<Read>(&acme, object(&bucket, "restricted"), 0).expect_err("a static key");
    assert_eq!(denial.policy_ids(), ["no-static-keys-for-restricted"]);
    assert!(engine.decide::<Read>(&acme, object(&bucket, "confidential"), 0).is_ok());
}

// ---- What does not load -------------------------------------------------

#[test]
fn what_is_wrong_with_a_policy_is_said_with_line_and_column() {
    let cases = [
        ("permit (principal, action, resource)", "1:", "unexpected end"),
        ("\n  permit (principal, action == Action::\"Read\", resource);", "2:3", "a policy has no id"),
        ("@id(\"A b\")\npermit (principal, action, resource);", "1:1", "`A b` is not a policy id"),
        (
            "@id(\"x\")\npermit (principal, action == Action::\"Reed\", resource);",
            "2:",
            "unrecognized action `Action::\"Reed\"`",
        ),
        (
            "@id(\"x\")\npermit (principal, action == Action::\"Place\", resource)\nwhen { resource.kin == \"private\" };",
            "3:8",
            "attribute `kin`",
        ),
        (
            "@id(\"x\")\nforbid (principal, action == Action::\"Place\", resource)\nwhen { resource.kind == \"publik\" };",
            "1:1",
            "no site is of kind `publik`: use `private` or `public`",
        ),
        (
            "@id(\"x\")\nforbid (principal, action == Action::\"Place\", resource)\nwhen { [\"publik\"].contains(resource.kind) };",
            "1:1",
            "no site is of kind `publik`",
        ),
        (
            "@id(\"x\")\nforbid (principal, action == Action::\"Place\", resource)\nwhen { context.label in Label::\"secret\" };",
            "1:1",
            "no label is called `secret`: use one of `public`, `internal`",
        ),
        (
            "@id(\"x\")\npermit (principal, action == Action::\"Place\", resource == Site::\"hme\");",
            "1:1",
            "no site is called `hme`: use one of `home`",
        ),
        (
            "@id(\"x\")\nforbid (principal, action == Action::\"Read\", resource)\nwhen { context.op == \"s3:GetObjekt\" };",
            "1:1",
            "no operation is called `s3:GetObjekt`",
        ),
        (
            "@id(\"x\")\nforbid (principal, action == Action::\"Read\", resource)\nwhen { \"user\" == principal.actor };",
            "1:1",
            "no actor is a `user`",
        ),
        (
            "@id(\"x\")\nforbid (principal, action == Action::\"Place\", resource)\nwhen { resource.jurisdiction != \"Germany\" };",
            "1:1",
            "`Germany` is not a jurisdiction",
        ),
        (
            "@id(\"x\")\npermit (principal, action == Action::\"Read\", resource) when { 1 == 2 };",
            "1:1",
            "policy is impossible",
        ),
        (
            "@id(\"x\")\npermit (principal is Tenant, action == Action::\"Read\", resource);",
            "",
            "unable to find an applicable action",
        ),
        ("@id(\"x\")\npermit (principal == ?principal, action, resource);", "1:1", "templates are not used"),
        (
            "@id(\"x\")\npermit (principal, action == Action::\"Read\", resource);\n@id(\"x\")\nforbid (principal, action == Action::\"Read\", resource);",
            "3:1",
            "two policies are called `x`: the other is in policy.cedar:1",
        ),
    ];
    for (policies, at, expect) in cases {
        let errors = load(policies, &[]).expect_err(policies);
        let first = errors.iter().find(|e| e.to_string().contains(expect));
        let first = first.unwrap_or_else(|| {
            panic!("{policies}\nsays: {:#?}", errors.iter().map(ToString::to_string).collect::<Vec<_>>())
        });
        assert!(first.to_string().starts_with(&format!("policy.cedar:{at}")), "{first} should be at {at}");
        assert!(!first.to_string().contains('\n'), "one line: {first}");
    }
}

#[test]
fn all_errors_of_all_texts_are_said_at_once() {
    let tenants = [("acme", "permit (principal, action, resource) when { nonsense };")];
    let errors = load("@id(\"x\") permit (principal, action == Action::\"Nope\", resource);", &tenants);
    assert!(errors.expect_err("two faults").iter().len() >= 2);
}

#[test]
fn a_tenant_may_only_forbid() {
    let errors = load(DEFAULT_POLICIES, &[("acme", "@id(\"mine\")\npermit (principal, action, resource);")]);
    let errors = errors.expect_err("it permits");
    assert!(errors.to_string().contains("tenant policy `acme/mine` permits"), "{errors}");
    assert_eq!(
        errors.iter().next().and_then(PolicyError::help),
        Some("a tenant's policies narrow the provider's: write a `forbid`")
    );
}

// ---- Who may do what ----------------------------------------------------

#[test]
fn nothing_is_allowed_that_no_policy_permits() {
    let engine = Engine::new(load("", &[]).expect("an empty set is valid"), 1);
    let denial = engine.decide::<Read>(&caller("acme"), object(&bucket("acme", None), "public"), 0).expect_err("empty");
    assert_eq!((denial.reason(), denial.policy_ids()), ("no policy permits it", &[][..]));
    let place = engine.place(&caller("acme"), object(&bucket("acme", None), "public"), version("acme"));
    assert!(place.expect_err("empty").reason().contains("site `cloud`: no policy permits it"));
}

#[test]
fn a_permit_and_a_denial_record_who_what_and_by_which_policy() {
    let engine = default_engine();
    let caller = caller_from("acme", Some("192.0.2.7"));
    let ask = object(&bucket("acme", None), "internal").version(version("acme")).record(|r| r.range = Some((0, 9)));
    let permit = engine.decide::<Read>(&caller, ask, 5).expect("its own");
    assert_eq!(permit.object(), Some(&version("acme")));
    assert_eq!((permit.tenant().as_str(), permit.realm().as_str()), ("acme", "main"));
    assert_eq!(permit.deadline_us(), Some(5 + PERMIT_MS_MAX * 1000));
    let permit = permit.record(|r| (r.bytes, r.key, r.label) = (Some(10), Some(key("other")), None));
    let record = record_of(&permit);
    assert_eq!((record.core.policy_ids, record.core.policy_epoch), (vec!["own-data".to_owned()], 1));
    assert_eq!((record.core.op.0.as_str(), record.core.decision), ("s3:GetObject", Decision::Allow));
    let subject = record.subject;
    assert_eq!(subject.tenant.as_ref().map(Tenant::as_str), Some("acme"));
    assert_eq!((subject.key_id.as_ref().map(KeyId::as_str), subject.source.as_deref()), (Some(KEY), Some("192.0.2.7")));
    let resource = record.resource;
    assert_eq!((resource.range, resource.bytes), (Some((0, 9)), Some(10)));
    assert_eq!((resource.key, resource.label), (Some(key("a")), Some(label("internal"))), "names stay as decided");

    let lower = object(&bucket("acme", None), "public").lowering_from(&label("restricted"));
    let denial = engine.decide::<LowerLabel>(&caller, lower, 5).expect_err("too strict to lower");
    let record = record_of(&denial);
    assert_eq!((record.core.status, record.core.error_code.as_deref()), (403, Some("AccessDenied")));
    assert_eq!(record.core.policy_ids, ["strict-labels-are-not-lowered"]);
    assert_eq!(record.core.reason.as_deref(), Some("forbidden by `strict-labels-are-not-lowered`"));
}

#[test]
fn every_kind_of_act_is_refused_across_tenants_and_realms() {
    // Even a provider who permits everything to everybody does not move it.
    let everything = "@id(\"all\") permit (principal, action, resource);";
    for policies in [DEFAULT_POLICIES, everything] {
        let engine = Engine::new(load(policies, &[]).expect("valid"), 1);
        let (mallory, theirs) = (caller("mallory"), bucket("acme", None));
        let ask = || object(&theirs, "public").lowering_from(&label("internal"));
        let in_bucket = || Ask::on_bucket("s3:ListObjectsV2", &theirs, &label("public"));
        let refusals = [
            engine.decide::<Read>(&mallory, ask(), 0).expect_err("foreign"),
            engine.decide::<Write>(&mallory, ask(), 0).expect_err("foreign"),
            engine.decide::<Delete>(&mallory, ask(), 0).expect_err("foreign"),
            engine.decide::<LowerLabel>(&mallory, ask(), 0).expect_err("foreign"),
            engine.decide::<List>(&mallory, in_bucket(), 0).expect_err("foreign"),
            engine.decide::<List>(&mallory, Ask::on_tenant("s3:ListBuckets", &tenant("acme")), 0).expect_err("foreign"),
            engine.decide::<Administer>(&mallory, Ask::on_installation("admin:Anything"), 0).expect_err("foreign"),
            engine.place(&mallory, ask(), version("acme")).expect_err("foreign"),
            engine.place_at(&mallory, ask(), version("acme"), &[site("home")]).expect_err("foreign"),
        ];
        for refusal in refusals {
            assert_eq!(refusal.policy_ids(), ["builtin:tenant-boundary"]);
            assert_eq!((refusal.status(), refusal.error_code()), (403, "AccessDenied"));
            let subject = record_of(&refusal).subject;
            assert_eq!(subject.tenant, Some(tenant("mallory")), "who tried stands in the record");
        }

        let other_realm = ObjectVersion { realm: Realm::parse("other").expect("a realm"), ..version("acme") };
        let ask = object(&theirs, "public").version(other_realm);
        let denial = engine.decide::<Read>(&caller("acme"), ask, 0).expect_err("another realm");
        assert_eq!(denial.policy_ids(), ["builtin:realm-boundary"]);
    }
}

#[test]
fn a_version_that_is_not_the_buckets_own_is_refused() {
    let engine = default_engine();
    let stray = ObjectVersion { bucket: BucketId([8; 16]), ..version("acme") };
    let ask = object(&bucket("acme", None), "public").version(stray);
    let denial = engine.decide::<Read>(&caller("acme"), ask, 0).expect_err("another bucket's");
    assert_eq!(denial.policy_ids(), ["builtin:object-of-bucket"]);
    let theirs = object(&bucket("acme", None), "public").version(version("mallory"));
    assert!(engine.decide::<Read>(&system("scrub"), theirs, 0).is_err(), "whoever asks");
}

#[test]
fn the_operator_administers_but_reads_no_data() {
    let engine = default_engine();
    let operator = operator(PeerCredential::from_so_peercred(1000), 1000).expect("runs the server");
    let acme = bucket("acme", None);
    let permit = engine.decide::<Administer>(&operator, Ask::on_tenant("admin:KeyDisable", &tenant("acme")), 0);
    let record = record_of(&permit.expect("it administers"));
    assert_eq!(record.subject.tenant, Some(tenant("acme")), "it is that tenant's record");
    assert_eq!(
        (record.subject.actor, record.subject.principal.as_ref().map(Principal::as_str)),
        (ActorKind::Operator, Some("uid-1000"))
    );
    assert!(engine.decide::<Read>(&operator, object(&acme, "public"), 0).is_err());
    assert!(engine.decide::<List>(&operator, Ask::on_tenant("s3:ListBuckets", &tenant("acme")), 0).is_err());
    assert!(engine.decide::<Administer>(&system("sweep"), Ask::on_installation("system:Sweep"), 0).is_ok());
    assert!(engine.decide::<Delete>(&system("sweep"), object(&acme, "public"), 0).is_err());
}

#[test]
fn a_tenants_policy_narrows_its_own_data_only() {
    let own = "@id(\"office-only\")\nforbid (principal, action, resource)\n\
               unless { context has source && context.source.isInRange(ip(\"192.0.2.0/24\")) };";
    let typed = "@id(\"office-only\")\nforbid (principal, action in [Action::\"Read\", Action::\"List\"], resource)\n\
               unless { context has source && context.source.isInRange(ip(\"192.0.2.0/24\")) };";
    let all = Engine::new(load(DEFAULT_POLICIES, &[("acme", own)]).expect("valid"), 1);
    let place = all.place(&caller("acme"), object(&bucket("acme", None), "public"), version("acme"));
    assert_eq!(
        place.expect_err("a placement has no source").policy_ids(),
        ["acme/office-only"],
        "too much, not too little"
    );
    let engine = Engine::new(load(DEFAULT_POLICIES, &[("acme", typed)]).expect("valid"), 1);
    let read = |owner: &str, ip| {
        engine.decide::<Read>(&caller_from(owner, Some(ip)), object(&bucket(owner, None), "public"), 0)
    };
    assert!(read("acme", "192.0.2.1").is_ok());
    let denial = read("acme", "198.51.100.1").expect_err("not in the office");
    assert_eq!(denial.policy_ids(), ["acme/office-only"]);
    assert!(read("acme", "::ffff:192.0.2.1").is_ok(), "an address has one form");
    assert!(read("other", "198.51.100.1").is_ok(), "another tenant's data");
}

#[test]
fn a_policy_that_cannot_be_evaluated_refuses() {
    let overflow = "@id(\"odd\")\nforbid (principal, action == Action::\"Place\", resource)\n\
                    when { context.label.rank + 9223372036854775807 < 0 };";
    let engine = Engine::new(load(&format!("{DEFAULT_POLICIES}\n{overflow}"), &[]).expect("valid"), 1);
    let bucket = bucket("acme", None);
    assert!(engine.place(&caller("acme"), object(&bucket, "public"), version("acme")).is_ok(), "rank 0 fits");
    let denial = engine.place(&caller("acme"), object(&bucket, "internal"), version("acme")).expect_err("it overflows");
    assert!(denial.reason().contains("policy `odd` could not be evaluated"), "{}", denial.reason());
}

// ---- Where data may lie -------------------------------------------------

#[test]
fn policy_filters_and_the_table_chooses() {
    let tables = [
        ("public", &["overseas", "cloud", "home"][..], 2),
        ("internal", &["cloud", "branch", "home"][..], 2),
        ("restricted", &["home", "cloud"][..], 2),
    ];
    let setting = setting_with(&tables);
    let set = PolicySet::load(setting, &text(DEFAULT_POLICIES), &[]).expect("valid");
    let engine = Engine::new(set, 1);
    let (acme, bucket) = (caller("acme"), bucket("acme", None));
    let place = |of| engine.place(&acme, object(&bucket, of), version("acme"));

    let public = place("public").expect("anywhere");
    assert_eq!(public.sites(), [site("overseas"), site("cloud")]);
    assert_eq!(public.policy_ids(), ["public-may-lie-anywhere"]);
    assert_eq!(place("internal").expect("at home").sites(), [site("branch"), site("home")]);
    let denial = place("restricted").expect_err("two copies, one site");
    assert_eq!(denial.policy_ids(), ["restricted-stays-home"]);
    assert_eq!(
        denial.reason(),
        "label `restricted` needs 2 sites and may lie at 1; \
         label `restricted` at site `cloud`: forbidden by `restricted-stays-home`"
    );

    let public = public.without(&[site("overseas")]).expect("one is left over");
    assert_eq!(public.sites(), [site("cloud"), site("home")]);
    assert_eq!(public.without(&[site("cloud"), site("home")]).map(|_| ()), Err(Unavailable { wanted: 2, usable: 1 }));
}

#[test]
fn a_pinned_bucket_refuses_what_may_not_lie_at_its_pin() {
    let engine = default_engine();
    let acme = caller("acme");
    let place = |pin, of| engine.place(&acme, object(&bucket("acme", Some(pin)), of), version("acme"));
    assert_eq!(place("cloud", "public").expect("public").sites(), [site("cloud")]);
    assert_eq!(place("branch", "restricted").expect("private, though not preferred").sites(), [site("branch")]);
    let denial = place("cloud", "restricted").expect_err("restricted");
    assert_eq!(denial.policy_ids(), ["restricted-stays-home"]);
    assert_eq!(
        denial.reason(),
        "bucket `data` is pinned to site `cloud`; \
         label `restricted` at site `cloud`: forbidden by `restricted-stays-home`"
    );
    let denial = place("gone", "public").expect_err("no such site");
    assert!(denial.reason().contains("site `gone`: not configured"), "{}", denial.reason());
    assert!(place("cloud", "public").expect("public").without(&[site("cloud")]).is_err(), "down is 503, not elsewhere");
}

#[test]
fn parts_that_lie_where_they_may_not_any_more_are_refused() {
    let engine = default_engine();
    let (acme, free, pinned) = (caller("acme"), bucket("acme", None), bucket("acme", Some("home")));
    let at = |bucket: &Bucket, of, sites: &[SiteId]| engine.place_at(&acme, object(bucket, of), version("acme"), sites);
    assert_eq!(
        at(&free, "public", &[site("overseas")]).expect("allowed, if not preferred").sites(),
        [site("overseas")]
    );
    let denial = at(&free, "confidential", &[site("home"), site("cloud")]).expect_err("one of them");
    assert_eq!(denial.policy_ids(), ["confidential-stays-home"]);
    assert!(at(&pinned, "public", &[site("cloud")]).expect_err("pinned").reason().contains("pinned elsewhere"));
    assert!(at(&free, "public", &[]).is_err(), "nowhere is no place");
    assert!(at(&free, "public", &[site("gone")]).is_err());
}

#[test]
fn a_commit_under_a_new_epoch_decides_and_places_again() {
    let engine = default_engine();
    let (acme, bucket, keys) = (caller("acme"), bucket("acme", None), keys_of("acme"));
    let write = engine.decide::<Write>(&acme, object(&bucket, "public").version(version("acme")), 5).expect("its own");
    let place = engine.place(&acme, object(&bucket, "public"), version("acme")).expect("anywhere");

    let write = engine.renew(write, &keys, 50_000_000).expect("nothing changed");
    assert_eq!(write.deadline_us(), Some(50_000_000 + PERMIT_MS_MAX * 1000), "an hour-long upload succeeds");
    let place = engine.renew_placement(place).expect("nothing changed");

    let stricter = format!(
        "{DEFAULT_POLICIES}\n@id(\"no-cloud\") forbid (principal, action == Action::\"Place\", resource == Site::\"cloud\");\n@id(\"frozen\") forbid (principal, action == Action::\"Write\", resource);"
    );
    engine.put_in_force(Arc::new(load(&stricter, &[]).expect("valid")), 2).expect("the next epoch");
    assert_eq!(engine.renew_placement(place).expect_err("cloud was withdrawn").policy_ids(), ["no-cloud"]);
    assert_eq!(engine.renew(write, &keys, 60_000_000).expect_err("writes were frozen").policy_ids(), ["frozen"]);

    let read = engine.decide::<Read>(&acme, object(&bucket, "public"), 0).expect("its own");
    assert_eq!(read.policy_epoch(), 2);
    keys.disable(&KeyId::parse(KEY).expect("an id"));
    let denial = engine.renew(read, &keys, 0).expect_err("disabled");
    assert_eq!((denial.status(), denial.error_code()), (403, "InvalidAccessKeyId"));
}

#[test]
fn an_explanation_names_each_sites_policies_with_their_text() {
    let engine = default_engine();
    let told = engine.explain_place(&bucket("acme", Some("cloud")), &label("restricted"));
    assert!(told.refused.as_ref().is_some_and(|why| why.contains("restricted-stays-home")));
    let cloud = told.sites.iter().find(|s| s.site == site("cloud")).expect("configured");
    assert!(!cloud.allowed && !cloud.chosen);
    assert_eq!(cloud.policies[0].id, "restricted-stays-home");
    assert!(cloud.policies[0].text.contains("forbid") && cloud.policies[0].line > 1);
    assert_eq!(engine.allowed_sites(&bucket("acme", None), &label("restricted")), [site("home"), site("branch")]);
    assert!(engine.allowed_sites(&bucket("acme", Some("cloud")), &label("restricted")).is_empty());

    let told = engine.explain_place(&bucket("acme", None), &label("public"));
    let chosen: Vec<_> = told.sites.iter().filter(|s| s.chosen).map(|s| s.site.as_str()).collect();
    assert_eq!(chosen, ["cloud"]);
    let alice = Principal::parse("alice").expect("a principal");
    let realm = Realm::parse("main").expect("a realm");
    let ask = object(&bucket("acme", None), "public");
    let told = engine.explain(Act::Delete, &tenant("acme"), &realm, &alice, ActorKind::StaticKey, &ask);
    assert_eq!((told.allowed, told.policies[0].id.as_str()), (true, "own-data"));
}

// ---- Epochs and memory --------------------------------------------------

#[test]
fn a_change_takes_effect_once_and_in_order() {
    let engine = default_engine();
    let operator = system("policy-watch");
    let permit = engine.decide::<Administer>(&operator, Ask::on_installation("admin:PolicyApply"), 0).expect("system");
    let change = engine.propose(
        permit,
        load("@id(\"own-data\") forbid (principal, action == Action::\"Read\", resource);", &[]).expect("valid"),
    );
    assert_eq!(change.epoch(), 2);
    assert!(change.diff().starts_with("- confidential-stays-home"), "{}", change.diff());
    assert!(change.diff().contains("~ own-data: @id(\"own-data\") forbid"), "{}", change.diff());
    let record = record_of(&change);
    assert_eq!(record.redo, Some(ringfence_format::redo::Redo::Policy(2, change.sha256())));
    assert_eq!(record.resource.detail.as_deref(), Some(change.diff()));

    assert_eq!(engine.put_in_force(change.set.clone(), 2), Ok(2));
    assert_eq!(engine.put_in_force(change.set.clone(), 2), Err(Superseded { proposed: 2, in_force: 2 }));
    assert_eq!(engine.put_in_force(change.set, 7), Err(Superseded { proposed: 7, in_force: 2 }));
    assert_eq!(engine.epoch(), 2);
}

#[test]
fn the_hash_changes_with_policies_and_with_what_they_talk_about() {
    let a = load(DEFAULT_POLICIES, &[]).expect("valid").sha256();
    assert_eq!(a, load(DEFAULT_POLICIES, &[]).expect("valid").sha256());
    assert_ne!(a, load(&DEFAULT_POLICIES.replace("internal-stays-home", "x"), &[]).expect("valid").sha256());
    let other = PolicySet::load(setting_with(&[]), &text(DEFAULT_POLICIES), &[]).expect("valid").sha256();
    assert_ne!(a, other);
}

#[test]
fn requests_that_a_policy_can_tell_apart_do_not_share_a_memory() {
    let by_key = format!(
        "{DEFAULT_POLICIES}\n@id(\"secret\") forbid (principal, action == Action::\"Read\", resource is Object) when {{ resource.key like \"secret/*\" }};"
    );
    let by_name = format!(
        "{DEFAULT_POLICIES}\n@id(\"secret\") forbid (principal, action == Action::\"Read\", resource == Object::\"data/secret/a\");"
    );
    for policies in [by_key, by_name] {
        let engine = Engine::new(load(&policies, &[]).expect("valid"), 1);
        let read = |k: &str| {
            let ask = Ask::on_object("s3:GetObject", &bucket("acme", None), &key(k), &label("public"));
            engine.decide::<Read>(&caller("acme"), ask, 0).is_ok()
        };
        assert_eq!([read("open"), read("secret/a"), read("open"), read("secret/a")], [true, false, true, false]);
    }
    let engine = default_engine();
    let (acme, bucket) = (caller("acme"), bucket("acme", None));
    let lower = |from: &str| {
        engine.decide::<LowerLabel>(&acme, object(&bucket, "public").lowering_from(&label(from)), 0).is_ok()
    };
    assert_eq!(
        [lower("internal"), lower("confidential"), lower("internal"), lower("restricted")],
        [true, false, true, false]
    );
    assert!(engine.decide::<LowerLabel>(&acme, object(&bucket, "public"), 0).is_err(), "from what is not said");
}

// ---- Callers ------------------------------------------------------------

#[test]
fn a_key_is_refused_for_each_thing_that_is_wrong_with_it() {
    let id = KeyId::parse(KEY).expect("an id");
    let entry = KeyEntry::clone(&keys_of("acme").find(&id).expect("added"));
    let cases = [
        (Keys::default(), signature("acme", "main"), AuthnReason::UnknownKey),
        (Keys::new([KeyEntry { issued: None, ..entry.clone() }]), signature("acme", "main"), AuthnReason::NotIssued),
        (
            Keys::new([KeyEntry { state: KeyState::Disabled, ..entry.clone() }]),
            signature("acme", "main"),
            AuthnReason::Disabled,
        ),
        (Keys::new([entry.clone()]), signature("mallory", "main"), AuthnReason::OtherTenant),
        (Keys::new([entry.clone()]), signature("acme", "other"), AuthnReason::OtherRealm),
        (
            Keys::new([KeyEntry { tenant: tenant("provider"), ..entry.clone() }]),
            signature("provider", "main"),
            AuthnReason::Reserved,
        ),
    ];
    for (keys, signature, expect) in cases {
        let refused = authenticate(signature, &keys, Origin::default()).expect_err("it does not hold");
        assert_eq!(refused.reason(), &expect);
        assert_eq!(refused.answer(), (403, "InvalidAccessKeyId"), "the client learns no more than that");
        assert_eq!(refused.identified(), expect != AuthnReason::UnknownKey);
        let record = record_of(&refused);
        assert_eq!(record.core.reason, Some(expect.to_string()));
        assert_eq!(record.core.decision, Decision::Deny);
        assert_eq!(record.subject.key_id.as_ref(), Some(&id));
    }
}

#[test]
fn only_the_servers_user_and_root_administer() {
    let at = |uid, server| operator(PeerCredential::from_so_peercred(uid), server).is_ok();
    assert_eq!([at(1000, 1000), at(0, 1000), at(1001, 1000), at(1000, 0)], [true, true, false, false]);
}

#[test]
fn a_disabled_key_stops_what_is_under_way_at_once() {
    let (keys, acme) = (keys_of("acme"), caller("acme"));
    let id = KeyId::parse(KEY).expect("an id");
    let permit = default_engine().decide::<Read>(&acme, object(&bucket("acme", None), "public"), 0).expect("its own");
    assert!(keys.still_valid(&acme) && keys.still_valid(&permit) && keys.still_valid(&system("sweep")));
    assert!(keys.disable(&id));
    assert!(!keys.still_valid(&acme) && !keys.still_valid(&permit));
    keys.add(KeyEntry::clone(&keys_of("acme").find(&id).expect("added")));
    assert!(!keys.still_valid(&acme), "an id is issued once");
    assert!(!Keys::default().still_valid(&acme), "a key that is gone");
    assert!(!keys_of("other").still_valid(&acme), "a key that changed hands");
}

// ---- For all policies ---------------------------------------------------

/// Conditions on a placement, with the meaning of each beside it.
fn condition() -> impl Strategy<Value = String> {
    let atom = prop_oneof![
        Just("context.label == Label::\"public\"".to_owned()),
        Just("context.label in Label::\"internal\"".to_owned()),
        Just("context.label in Label::\"confidential\"".to_owned()),
        Just("context.label.rank > 2".to_owned()),
        Just("resource.kind == \"private\"".to_owned()),
        Just("resource.kind == \"public\"".to_owned()),
        Just("resource.jurisdiction == \"DE\"".to_owned()),
        Just("resource.jurisdiction != \"US\"".to_owned()),
        Just("resource.dedicated".to_owned()),
        Just("resource == Site::\"home\"".to_owned()),
        Just("principal == Tenant::\"acme\"".to_owned()),
        Just("context.bucket == Bucket::\"data\"".to_owned()),
        Just("context.bucket has pin && context.bucket.pin == resource".to_owned()),
        Just("context.label.rank + 9223372036854775806 > 0".to_owned()),
    ];
    proptest::collection::vec((any::<bool>(), atom), 1..3).prop_map(|atoms| {
        let atoms = atoms.into_iter().map(|(not, atom)| if not { format!("!({atom})") } else { format!("({atom})") });
        atoms.collect::<Vec<_>>().join(" && ")
    })
}

fn rules(forbid_only: bool) -> impl Strategy<Value = String> {
    proptest::collection::vec((any::<bool>(), condition()), 0..5).prop_map(move |rules| {
        rules.iter().enumerate().fold(String::new(), |mut all, (i, (permit, condition))| {
            let effect = if *permit && !forbid_only { "permit" } else { "forbid" };
            let _ = writeln!(
                all,
                "@id(\"p{i}\") {effect} (principal, action == Action::\"Place\", resource) when {{ {condition} }};"
            );
            all
        })
    })
}

fn any_label() -> impl Strategy<Value = Label> {
    prop::sample::select(Labels::default().iter().cloned().collect::<Vec<_>>())
}

fn any_pin() -> impl Strategy<Value = Option<&'static str>> {
    prop::sample::select(vec![None, Some("home"), Some("cloud"), Some("overseas"), Some("gone")])
}

fn any_table() -> impl Strategy<Value = (Vec<&'static str>, usize)> {
    let sites = vec!["home", "branch", "cloud", "overseas", "unknown"];
    proptest::sample::subsequence(sites, 1..=5).prop_shuffle().prop_flat_map(|prefer| {
        let most = prefer.len();
        (Just(prefer), 1..=most)
    })
}

/// A generated text may hold a policy that can never apply, which is refused.
fn load_any(setting: Arc<Setting>, provider: &str, own: &str) -> Option<PolicySet> {
    PolicySet::load(setting, &text(provider), &[(tenant("acme"), text(own))]).ok()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_placement_names_only_sites_whose_evaluation_is_allow(
        provider in rules(false), own in rules(true), of in any_label(), pin in any_pin(), (prefer, copies) in any_table(),
        down in proptest::sample::subsequence(vec!["home", "cloud", "branch"], 0..=3),
    ) {
        let setting = setting_with(&[(of.as_str(), &prefer, copies)]);
        let Some(set) = load_any(setting, &format!("{provider}@id(\"all\") permit (principal, action == Action::\"Place\", resource);"), &own) else { return Ok(()) };
        let engine = Engine::new(set, 1);
        let bucket = bucket("acme", pin);
        let set = engine.set();
        let allows = |site: &SiteId| set.place(&(&bucket).into(), &of, site).allows();
        let ask = || Ask::on_object("s3:PutObject", &bucket, &key("a"), &of);
        match engine.place(&caller("acme"), ask(), version("acme")) {
            Ok(placement) => {
                prop_assert!(placement.candidates().iter().all(allows));
                prop_assert!(placement.sites().iter().all(|s| placement.candidates().contains(s)));
                prop_assert!(pin.is_none_or(|pin| placement.sites() == [site(pin)]));
                prop_assert_eq!(placement.sites().len(), if pin.is_some() { 1 } else { copies });
                prop_assert_eq!(placement.sites().iter().collect::<BTreeSet<_>>().len(), placement.sites().len());
                let sites = placement.sites().to_vec();
                prop_assert!(engine.place_at(&caller("acme"), ask(), version("acme"), &sites).is_ok());
                let down: Vec<_> = down.iter().map(|s| site(s)).collect();
                if let Ok(placement) = placement.without(&down) {
                    prop_assert!(placement.sites().iter().all(|s| allows(s) && !down.contains(s)));
                }
            }
            Err(denial) => {
                let considered: Vec<_> = pin.map_or(prefer.clone(), |pin| vec![pin]);
                let allowed = considered.iter().filter(|s| **s != "gone" && allows(&site(s))).count();
                prop_assert!(allowed < if pin.is_some() { 1 } else { copies }, "{}", denial.reason());
            }
        }
    }

    #[test]
    fn a_tenants_text_never_widens(provider in rules(false), own in rules(true), of in any_label(), pin in any_pin()) {
        let (Some(without), Some(with)) = (load_any(setting(), &provider, ""), load_any(setting(), &provider, &own)) else { return Ok(()) };
        for owner in ["acme", "other"] {
            let bucket = bucket(owner, pin);
            for site in setting().sites() {
                let before = without.place(&(&bucket).into(), &of, &site.id).allows();
                let after = with.place(&(&bucket).into(), &of, &site.id).allows();
                prop_assert!(before || !after, "{owner} {} widened by {own}", site.id);
                prop_assert!(owner == "acme" || before == after, "acme's text reached {owner}");
            }
        }
    }

    #[test]
    fn the_epoch_only_goes_up(proposals in proptest::collection::vec(0_u64..6, 0..20)) {
        let engine = default_engine();
        let set = engine.set();
        for proposed in proposals {
            let before = engine.epoch();
            let adopted = engine.put_in_force(set.clone(), proposed);
            prop_assert_eq!(adopted.is_ok(), proposed == before + 1);
            prop_assert_eq!(engine.epoch(), before + u64::from(adopted.is_ok()));
        }
    }

    #[test]
    fn what_is_remembered_is_what_would_be_evaluated(
        asks in proptest::collection::vec((prop::sample::select(vec!["acme", "other"]), any_label(), any_label(), any_pin(), any::<bool>()), 1..12),
    ) {
        let engine = default_engine();
        for (owner, of, from, pin, pinned_object) in asks.iter().chain(&asks) {
            let bucket = bucket(owner, *pin);
            let ask = if *pinned_object { object(&bucket, of.as_str()) } else { Ask::on_bucket("s3:PutBucketTagging", &bucket, of) };
            let ask = ask.lowering_from(from);
            let alice = Principal::parse("alice").expect("a principal");
            let realm = Realm::parse("main").expect("a realm");
            let fresh = engine.explain(Act::LowerLabel, &tenant("acme"), &realm, &alice, ActorKind::StaticKey, &ask);
            let remembered: Result<Permit<LowerLabel>, _> = engine.decide(&caller("acme"), ask, 0);
            prop_assert_eq!(fresh.allowed, remembered.is_ok());
        }
    }
}

// ---- The golden truth table ---------------------------------------------

#[test]
fn the_truth_table_is_the_golden_one() {
    let table = format!("{}\n{}", access_table(), place_table());
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/default-policies.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &table).expect("the source tree is writable");
    }
    let golden = std::fs::read_to_string(path).expect("the golden file exists");
    assert!(table == golden, "the policies' meaning changed; if it is meant: UPDATE_GOLDEN=1. Now:\n{table}");
}

fn access_table() -> String {
    let mut table = "Who may do what, under policies/default.cedar; `LowerLabel`: from which label.\n\n".to_owned();
    let labels = Labels::default();
    let heads: String = labels.iter().map(|l| format!("{:<13}", l.as_str())).collect();
    let _ = writeln!(table, "{:<11} {:<15} {heads}decided by", "action", "actor");
    let set = load(DEFAULT_POLICIES, &[]).expect("valid");
    let (owner, stranger, provider) = (tenant("acme"), tenant("mallory"), tenant("provider"));
    let actors = [
        ("owner's key", &owner, ActorKind::StaticKey),
        ("stranger's key", &stranger, ActorKind::StaticKey),
        ("owner's session", &owner, ActorKind::Session),
        ("identity token", &owner, ActorKind::WebIdentity),
        ("operator", &provider, ActorKind::Operator),
        ("system", &provider, ActorKind::System),
    ];
    let bucket = bucket("acme", None);
    let (realm, alice) = (Realm::parse("main").expect("a realm"), Principal::parse("alice").expect("a principal"));
    for act in Act::ALL.into_iter().filter(|act| *act != Act::Place) {
        for (who, by, actor) in actors {
            let asker = world::Asker { tenant: by, realm: &realm, principal: &alice, actor, ip: None, role: None };
            let verdicts: Vec<_> = labels
                .iter()
                .map(|of| match act {
                    Act::List => Ask::on_bucket("s3:ListObjectsV2", &bucket, of),
                    Act::LowerLabel => object(&bucket, "public").lowering_from(of),
                    Act::Issue => Ask::on_role("sts:AssumeRoleWithWebIdentity", &bucket.tenant, &alice, None),
                    _ => object(&bucket, of.as_str()),
                })
                .map(|ask| set.access(act, asker, &ask))
                .collect();
            let answers: String =
                verdicts.iter().map(|v| format!("{:<13}", if v.allows() { "yes" } else { "no" })).collect();
            let ids: BTreeSet<_> = verdicts.iter().flat_map(|v| v.ids.iter().map(String::as_str)).collect();
            let ids = if ids.is_empty() { "no policy permits".to_owned() } else { Vec::from_iter(ids).join(", ") };
            let _ = writeln!(table, "{:<11} {who:<15} {answers}{ids}", act.as_str());
        }
    }
    table
}

fn place_table() -> String {
    let mut table = "Where data may lie, under policies/default.cedar.\n\n".to_owned();
    let _ = writeln!(table, "{:<7} {:<13} {:<8} {:<13} answer", "action", "label", "kind", "jurisdiction");
    let set = load(DEFAULT_POLICIES, &[]).expect("valid");
    let bucket = bucket("acme", None);
    for of in Labels::default().iter() {
        for site in setting().sites() {
            let verdict = set.place(&(&bucket).into(), of, &site.id);
            let answer = if verdict.allows() { "yes" } else { "no " };
            let ids = verdict.ids.join(", ");
            let kind = site.kind.as_str();
            let _ = writeln!(
                table,
                "{:<7} {:<13} {kind:<8} {:<13} {answer} {ids}",
                "Place",
                of.as_str(),
                site.jurisdiction
            );
        }
    }
    table
}
