//! Which manifest may follow which: one table of attempts.

use std::sync::Arc;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use ringfence_format::names::SiteId;
use ringfence_format::session::{Purpose, Revocation, Scope, Sites, Target};

use super::*;
use crate::Authority;
use crate::authority::UNRECORDED;

const DAY: u64 = 86_400;

fn pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("any 32 bytes are a seed")
}

fn public(seed: u8) -> PublicKey {
    PublicKey::Ed25519(pair(seed).public_key().as_ref().try_into().expect("32 bytes"))
}

fn realm(name: &str) -> Realm {
    Realm::parse(name).expect("a realm")
}

fn row(seed: u8, tenant: &str) -> KeyRow {
    KeyRow {
        public: public(seed),
        tenant: Tenant::parse(tenant).expect("a tenant"),
        purpose: Purpose::StsSession,
        sites: Sites::one(SiteId::parse("home").expect("a site")),
        from_s: 100 * DAY,
        until_s: 102 * DAY,
    }
}

fn signed(by: u8, manifest: Manifest) -> SignedManifest {
    let signature = pair(by).sign(&manifest.to_be_signed()).as_ref().try_into().expect("64 bytes");
    SignedManifest { manifest, signature }
}

fn first() -> Manifest {
    next(&realm("main"), None, vec![row(1, "acme"), row(2, "umbrella")], 100 * DAY)
}

fn roots() -> Roots {
    Roots::from(PinnedRoot { public: public(200), since_seq: 1 })
}

fn name(bad: &BadManifest) -> String {
    format!("{bad:?}").chars().take_while(char::is_ascii_alphanumeric).collect()
}

#[test]
fn a_manifest_follows_by_number_hash_root_and_keys_or_is_refused() {
    let last = first();
    let good = next(&realm("main"), Some(&last), vec![row(3, "acme")], 100 * DAY);
    let with = |change: fn(&mut Manifest)| {
        let mut manifest = good.clone();
        change(&mut manifest);
        signed(200, manifest)
    };
    let cases: Vec<(&str, SignedManifest)> = vec![
        ("", signed(200, good.clone())),
        ("Signature", signed(201, good.clone())),
        ("Signature", SignedManifest { manifest: good.clone(), signature: signed(200, first()).signature }),
        ("Rollback", signed(200, last.clone())),
        ("Rollback", with(|m| m.seq = 0)),
        ("Gap", with(|m| m.seq = 3)),
        ("Fork", with(|m| m.previous = None)),
        ("Fork", with(|m| m.previous = Some([0; 32]))),
        ("Version", with(|m| m.version = 1)),
        ("OtherRealm", with(|m| m.realm = Realm::parse("other").expect("a realm"))),
        ("KeyLife", with(|m| m.keys[0].until_s = m.keys[0].from_s)),
        ("KeyLife", with(|m| m.keys[0].until_s = m.keys[0].from_s + KEY_LIFE_S_MAX + 1)),
        ("KeyTwice", with(|m| m.keys.push(row(3, "umbrella")))),
        ("KeyTwice", with(|m| m.keys.push(KeyRow { purpose: Purpose::Admission, ..row(3, "acme") }))),
        ("KeyIsRoot", with(|m| m.keys.push(row(200, "acme")))),
        ("KeyTwice", with(|m| m.keys.push(row(50, "acme")))), // a key of the other realm
        ("ForeignTenant", with(|m| m.keys.push(row(4, "globex")))),
        ("KeyChanged", with(|m| m.keys.iter_mut().filter(|k| k.public == public(1)).for_each(|k| k.until_s += 1))),
        ("KeyChanged", with(|m| m.keys.iter_mut().filter(|k| k.public == public(1)).for_each(|k| k.from_s -= 1))),
        ("KeyChanged", with(|m| m.keys.iter_mut().for_each(|k| k.purpose = Purpose::Api))),
        (
            "KeyChanged",
            with(|m| {
                let tenant = m.keys[0].tenant.clone();
                m.keys.iter_mut().for_each(|k| k.tenant = tenant.clone());
            }),
        ),
        ("", with(|m| m.keys.clear())),
        ("", with(|m| m.keys.iter_mut().for_each(|k| k.until_s -= 1))),
    ];
    let other = next(&realm("east"), None, vec![row(50, "globex")], 100 * DAY);
    for (n, (expected, signed)) in cases.into_iter().enumerate() {
        let got = check(&realm("main"), signed, &roots(), Some(&last), [&other]);
        assert_eq!(got.err().map(|bad| name(&bad)).unwrap_or_default(), expected, "case {n}");
    }
    let none = check(&realm("main"), signed(200, first()), &Roots::default(), None, []);
    assert_eq!(name(&none.expect_err("no root")), "NoRoot");
}

#[test]
fn the_next_manifest_carries_what_still_counts_and_drops_what_does_not() {
    let old = KeyRow { from_s: 90 * DAY, until_s: 92 * DAY, ..row(9, "acme") };
    let last = next(&realm("main"), None, vec![old, row(1, "acme")], 91 * DAY);
    assert_eq!(last.keys.len(), 2);
    let recognised = next(&realm("main"), Some(&last), vec![], 92 * DAY);
    assert_eq!(recognised.keys.len(), 2, "a retired key is known for what it is");
    let following = next(&realm("main"), Some(&last), vec![row(3, "acme")], 92 * DAY + RETIRED_KEPT_S);
    assert_eq!(following.keys.iter().map(|key| key.public).collect::<std::collections::BTreeSet<_>>().len(), 2);
    assert!(following.keys.iter().all(|key| key.public != public(9)));
    assert_eq!((following.seq, following.previous), (2, Some(last.sha256())));
}

fn revocation(target: Target) -> Revocation {
    Revocation { version: 0, realm: realm("main"), target, from_index: 0, at_s: 0 }
}

#[test]
fn a_revocation_counts_before_its_record_and_one_that_is_refused_does_not() {
    let authority = Authority::new([(realm("main"), roots())]);
    let kid = public(1).kid();
    let ticket = authority.suspend(revocation(Target::Key(kid)));
    assert!(authority.key_is_revoked(&realm("main"), kid));
    assert!(authority.revocations().iter().all(|(by, _)| *by == UNRECORDED));
    authority.withdraw(ticket);
    assert!(!authority.key_is_revoked(&realm("main"), kid));
    let ticket = authority.suspend(revocation(Target::Key(kid)));
    authority.settle(ticket, 7);
    assert!(authority.revocations().iter().all(|(by, _)| *by == 7));
    assert!(!authority.key_is_revoked(&realm("other"), kid), "another realm's key of that id");
}

#[test]
fn what_is_taken_back_counts_until_that_is_on_record() {
    let authority = Authority::new([(realm("main"), roots())]);
    let site = Target::Site(SiteId::parse("cloud").expect("a site"));
    let ticket = authority.suspend(revocation(site));
    authority.settle(ticket, 7);
    let lift = authority.suspend(revocation(Target::Lift(7)));
    assert_eq!(authority.revocations().iter().count(), 1);
    authority.settle(lift, 8);
    assert_eq!(authority.revocations().iter().count(), 0);
    let ticket = authority.suspend(revocation(Target::Key(public(1).kid())));
    authority.settle(ticket, 9);
    let lift = authority.suspend(revocation(Target::Lift(9)));
    authority.settle(lift, 10);
    assert!(authority.key_is_revoked(&realm("main"), public(1).kid()), "keys stay dead");
}

#[test]
fn a_manifest_of_a_start_is_believed_only_if_it_is_not_older_than_what_was_seen() {
    let (one, two) = (first(), next(&realm("main"), Some(&first()), vec![row(3, "acme")], 100 * DAY));
    let seen = Seen { manifest_seq: 2, manifest_sha256: two.sha256(), ..Seen::default() };
    let scope = Scope { realm: realm("main"), tenant: row(1, "acme").tenant, purpose: Purpose::StsSession };
    let load = |found: Option<SignedManifest>, seen: &Seen| {
        let authority = Authority::new([(realm("main"), roots())]);
        let result = authority.load(&realm("main"), found, seen);
        let keys = Arc::clone(&authority.keys());
        (result.err().map(|bad| name(&bad)).unwrap_or_default(), keys.of(&scope).len())
    };
    let fork = Manifest { made_s: 1, ..two.clone() };
    for (expected, keys, found) in [
        ("", 2, Some(signed(200, two.clone()))),
        ("Rollback", 0, Some(signed(200, one.clone()))),
        ("Rollback", 0, None),
        ("Fork", 0, Some(signed(200, fork))),
        ("Signature", 0, Some(signed(201, two.clone()))),
    ] {
        assert_eq!(load(found, &seen), (expected.to_owned(), keys));
    }
    let before = Seen { manifest_seq: 1, manifest_sha256: one.sha256(), ..Seen::default() };
    assert_eq!(load(Some(signed(200, two)), &before), (String::new(), 2), "a crash before it was noted");
    assert_eq!(load(None, &Seen::default()), (String::new(), 0), "a first start");
}
