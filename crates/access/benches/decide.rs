//! One question: what does a decision cost a request, remembered and not?
//!
//! `cargo bench -p ringfence-access`. Aim: a remembered decision, which is all
//! but the first of its kind, in about 1 µs.

#![allow(missing_docs)] // `criterion_group!` makes a function without

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use ringfence_access::caller::{Caller, Origin, VerifiedSignature, authenticate};
use ringfence_access::keys::{KeyEntry, KeyState, Keys};
use ringfence_access::permit::Read;
use ringfence_access::policy::{DEFAULT_POLICIES, PolicyText};
use ringfence_access::{Ask, Engine, Labels, PlacementRule, PolicySet, Setting, SiteFacts, SiteKind};
use ringfence_format::names::*;
use ringfence_format::redo::Bucket;

fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a valid name")
}

fn set() -> PolicySet {
    let site = |id, kind| SiteFacts {
        id: name(id),
        kind,
        jurisdiction: "DE".to_owned(),
        provider: String::new(),
        dedicated: false,
        tags: vec![],
    };
    let home = PlacementRule { prefer: vec![name("home")], copies: 1 };
    let placement: BTreeMap<_, _> = Labels::default().iter().map(|l| (l.clone(), home.clone())).collect();
    let sites = vec![site("home", SiteKind::Private), site("cloud", SiteKind::Public)];
    let setting = Setting::new(Labels::default(), sites, placement).expect("it fits");
    let text = PolicyText { name: "default.cedar".to_owned(), text: DEFAULT_POLICIES.to_owned() };
    PolicySet::load(Arc::new(setting), &text, &[]).expect("valid")
}

fn caller() -> (Caller, Keys) {
    let (id, tenant, realm): (KeyId, Tenant, Realm) = (name("AKIATEST00000001"), name("acme"), name("main"));
    let keys = Keys::new([KeyEntry {
        id: id.clone(),
        tenant: tenant.clone(),
        realm: realm.clone(),
        principal: name("alice"),
        state: KeyState::Active,
        issued: Some(1),
    }]);
    let signature = VerifiedSignature::sigv4_was_checked_by_the_wire_layer(id, tenant, realm);
    (authenticate(signature, &keys, Origin::default()).expect("it holds"), keys)
}

fn decisions(c: &mut Criterion) {
    let engine = Engine::new(set(), 1);
    let (caller, keys) = caller();
    let bucket = Bucket {
        id: BucketId([1; 16]),
        name: name("data"),
        tenant: name("acme"),
        created_ms: 0,
        pin: None,
        tags: vec![],
    };
    let version =
        ObjectVersion { realm: name("main"), tenant: name("acme"), bucket: bucket.id, version: VersionUid([2; 16]) };
    let (key, label): (ObjectKey, Label) = (name("a/key/of/usual/length.bin"), name("internal"));
    let ask = Ask::on_object("s3:GetObject", &bucket, &key, &label).version(version.clone());

    c.bench_function("build the question", |b| {
        b.iter(|| Ask::on_object("s3:GetObject", black_box(&bucket), &key, &label).version(version.clone()));
    });
    c.bench_function("decide, remembered", |b| {
        let ready = || ask.clone();
        let decide = |ask| engine.decide::<Read>(&caller, ask, 0);
        b.iter_batched(ready, decide, criterion::BatchSize::SmallInput);
    });
    c.bench_function("place, remembered", |b| {
        let ready = || (ask.clone(), version.clone());
        b.iter_batched(ready, |(ask, v)| engine.place(&caller, ask, v), criterion::BatchSize::SmallInput);
    });
    c.bench_function("evaluate with Cedar", |b| {
        let actor = caller.actor();
        let act = ringfence_access::policy::Act::Read;
        b.iter(|| engine.explain(act, caller.tenant(), caller.realm(), caller.principal(), actor, black_box(&ask)));
    });
    c.bench_function("is the key still valid", |b| b.iter(|| keys.still_valid(black_box(&caller))));
}

criterion_group!(benches, decisions);
criterion_main!(benches);
