//! Session keys without permits (those are tested through the real policy and
//! log, in `tests/`): scope, time, manifests, ninety days of rotation.

use std::path::Path;

use ringfence_format::names::{KeyId, Principal, SiteId};
use ringfence_format::record::Seq;
use ringfence_format::session::{Manifest, Refusal, Revocation, SignedManifest, Target};
use tempfile::TempDir;

use super::*;
use crate::{Passphrase, Unlock};
use ringfence_access::manifests;

const DAY: u64 = SIGNS_S;
/// A midnight, UTC.
const START: u64 = 19_700 * DAY;
const DAYS: u64 = 14;

fn realm() -> Realm {
    Realm::parse("main").unwrap()
}

fn tenant(name: &str) -> Tenant {
    Tenant::parse(name).unwrap()
}

fn sites() -> Sites {
    Sites::one(SiteId::parse("home").unwrap())
}

fn development(dir: &Path) -> Unlock {
    Unlock::KeyFile(Vault::development_key_file(dir))
}

fn vault() -> (TempDir, Vault) {
    let dir = tempfile::tempdir().unwrap();
    let vault = Vault::create(dir.path(), &development(dir.path()), &realm(), "ringfence.example/log").unwrap();
    for name in ["acme", "umbrella"] {
        vault.add_tenant(&realm(), &tenant(name)).unwrap();
    }
    assert!(vault.prepare_root(&realm()).unwrap());
    (dir, vault)
}

fn scopes() -> Vec<(Tenant, Act)> {
    ["acme", "umbrella"].into_iter().flat_map(|name| PLANNED.map(|purpose| (tenant(name), purpose))).collect()
}

/// What the rotator does.
fn rotate(vault: &Vault, now_s: u64, days: u64) {
    let rows = vault.plan_keys(&realm(), &scopes(), &sites(), now_s, days).unwrap();
    enact(vault, rows, now_s);
}

fn enact(vault: &Vault, rows: Vec<KeyRow>, now_s: u64) -> Manifest {
    let last = vault.authority().manifest(&realm());
    let manifest = manifests::next(&realm(), last.as_ref().map(|last| &last.manifest), rows, now_s);
    let signed = vault.sign_manifest(manifest.clone()).unwrap();
    let checked = vault.authority().check(&realm(), signed).unwrap();
    vault.authority().load(&realm(), Some(checked.signed().clone()), &vault.seen(&realm())).unwrap();
    vault.note_manifest(&manifest).unwrap();
    manifest
}

fn claims(owner: &str, now_s: u64) -> Claims {
    let name = |text: &str| Principal::parse(text).unwrap();
    Claims {
        session: [7; 16],
        realm: realm(),
        tenant: tenant(owner),
        purpose: Act::StsSession,
        principal: name("idp--ann"),
        role: name("reader"),
        policies: [1; 16],
        session_policy: [0; 32],
        issued_s: now_s,
        from_s: now_s,
        until_s: now_s + 900,
        sites: sites(),
        evidence: [2; 32],
        issuer: name("idp"),
        evidence_id: [0; 16],
        confirmation: "ASIAAAAAAAAAAAAAAAAA".into(),
        parent: None,
    }
}

fn draft(vault: &Vault, claims: &Claims, paseto: &str, key: &PublicKey) -> IssuanceDraft {
    IssuanceDraft {
        version: 0,
        realm: claims.realm.clone(),
        tenant: vault.tenant_pseudonym(&claims.realm, &claims.tenant).unwrap(),
        kid: key.kid(),
        purpose: claims.purpose,
        from_s: claims.from_s,
        until_s: claims.until_s,
        token_sha256: SessionToken::parse(paseto).unwrap().sha256(),
        parent: None,
    }
}

fn revoke(target: Target, now_s: u64) -> Revocation {
    Revocation { version: 0, realm: realm(), target, from_index: 0, at_s: now_s }
}

fn overdue<T>(result: Result<T, VaultError>) -> &'static str {
    match result {
        Err(VaultError::KeyOverdue { why, .. }) => why,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was signed"),
    }
}

#[test]
fn a_session_is_signed_in_its_scope_and_admitted_under_another_key() {
    let (_dir, vault) = vault();
    let now_s = START + 3600;
    rotate(&vault, now_s, DAYS);
    let claims = claims("acme", now_s);
    let (paseto, key) = vault.sign_claims(&claims, now_s).unwrap();
    let token = SessionToken::parse(&paseto).unwrap();
    let signed =
        token.check_signature(&vault.authority().keys(), Act::StsSession, claims.sites.iter().next().unwrap(), now_s);
    assert_eq!(signed.unwrap().key().public, key);
    let leaf = vault.sign_draft(draft(&vault, &claims, &paseto, &key), &claims.tenant, now_s).unwrap();
    let scope = Scope { purpose: Act::Admission, ..claims.scope() };
    let admission = vault.authority().keys().find(&scope, leaf.admitted_by).unwrap().public;
    assert_ne!(admission, key);
    assert!(admission.signed(&leaf.draft.to_be_signed(), &leaf.admission));
}

#[test]
fn invariant_2_a_key_signs_only_what_is_of_its_scope_and_its_day() {
    let (_dir, vault) = vault();
    let now_s = START + 3600;
    assert_eq!(overdue(vault.sign_claims(&claims("acme", now_s), now_s)), "no manifest lists one");
    vault.plan_keys(&realm(), &scopes(), &sites(), now_s, DAYS).unwrap();
    assert_eq!(overdue(vault.sign_claims(&claims("acme", now_s), now_s)), "no manifest lists one");
    rotate(&vault, now_s, DAYS);
    let good = claims("acme", now_s);
    let elsewhere = Sites::one(SiteId::parse("cloud").unwrap());
    let wrong: [(Claims, &str); 8] = [
        (Claims { purpose: Act::Admission, ..good.clone() }, "admission keys sign no sessions"),
        (Claims { issued_s: now_s + 1, ..good.clone() }, "it was not made now"),
        (Claims { issued_s: now_s - 61, ..good.clone() }, "it was not made now"),
        (Claims { until_s: now_s + 3601, ..good.clone() }, "its lifetime is not one that sessions have"),
        (Claims { until_s: now_s, ..good.clone() }, "its lifetime is not one that sessions have"),
        (Claims { from_s: now_s - 1, ..good.clone() }, "its lifetime is not one that sessions have"),
        (Claims { sites: elsewhere, ..good.clone() }, "the key may not sign for these sites"),
        (Claims { purpose: Act::Console, ..good.clone() }, "no manifest lists one"),
    ];
    for (claims, why) in wrong {
        match vault.sign_claims(&claims, now_s) {
            Err(VaultError::OutsideScope(got) | VaultError::KeyOverdue { why: got, .. }) => assert_eq!(got, why),
            other => panic!("{why}: {:?}", other.map(|(_, key)| key)),
        }
    }
    for scope in [
        Claims { realm: Realm::parse("other").unwrap(), ..good.clone() },
        Claims { tenant: tenant("nobody"), ..good.clone() },
    ] {
        assert_eq!(overdue(vault.sign_claims(&scope, now_s)), "no manifest lists one");
    }
    // Every tenant and purpose signs under a key of its own.
    let mut kids = std::collections::HashSet::new();
    for owner in ["acme", "umbrella"] {
        for purpose in [Act::StsSession, Act::Api] {
            let claims = Claims { purpose, ..claims(owner, now_s) };
            assert!(kids.insert(vault.sign_claims(&claims, now_s).unwrap().1.kid()));
        }
    }
}

#[test]
fn a_leaf_is_admitted_only_for_the_tenant_and_the_key_it_names() {
    let (_dir, vault) = vault();
    let now_s = START + 3600;
    rotate(&vault, now_s, DAYS);
    let claims = claims("acme", now_s);
    let (paseto, key) = vault.sign_claims(&claims, now_s).unwrap();
    let good = draft(&vault, &claims, &paseto, &key);
    let foreign = vault.tenant_pseudonym(&realm(), &tenant("umbrella")).unwrap();
    let wrong: [IssuanceDraft; 4] = [
        IssuanceDraft { tenant: foreign, ..good.clone() },
        IssuanceDraft { kid: Kid([9; 8]), ..good.clone() },
        IssuanceDraft { purpose: Act::Api, ..good.clone() },
        IssuanceDraft { purpose: Act::Admission, ..good.clone() },
    ];
    for draft in wrong {
        let refused = vault.sign_draft(draft, &claims.tenant, now_s);
        assert!(matches!(refused, Err(VaultError::OutsideScope(_))));
    }
    assert!(matches!(vault.sign_draft(good, &tenant("umbrella"), now_s), Err(VaultError::OutsideScope(_))));
}

#[test]
fn a_revoked_key_signs_no_more_and_a_fresh_one_takes_over() {
    let (_dir, vault) = vault();
    let now_s = START + 3600;
    rotate(&vault, now_s, DAYS);
    let (_, first) = vault.sign_claims(&claims("acme", now_s), now_s).unwrap();
    let ticket = vault.authority().suspend(revoke(Target::Key(first.kid()), now_s));
    assert_eq!(overdue(vault.sign_claims(&claims("acme", now_s), now_s)), "each was revoked");
    assert!(vault.sign_claims(&claims("umbrella", now_s), now_s).is_ok());
    vault.authority().settle(ticket, 5);
    let scope = claims("acme", now_s).scope();
    let fresh = vault.plan_fresh_key(&scope, &sites(), now_s).unwrap();
    enact(&vault, vec![fresh.clone()], now_s);
    assert_eq!(vault.sign_claims(&claims("acme", now_s), now_s).unwrap().1, fresh.public);
    assert_eq!(vault.destroy_older_keys(&scope, fresh.public.kid()).unwrap(), 1);
    // The fresh key has its day, and the next midnight brings the next one.
    let later = START + DAY;
    assert_ne!(vault.sign_claims(&claims("acme", later), later).unwrap().1, fresh.public);
}

/// A5: ninety simulated days, clock-driven.
#[test]
fn a5_no_key_signs_beyond_its_day_and_a_rotator_that_stops_stops_issuing() {
    let (_dir, vault) = vault();
    let mut seed = 0x5eed_u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let mut now_s = START + 100;
    rotate(&vault, now_s, DAYS);
    let mut seen = std::collections::BTreeMap::new();
    let stops = START + 90 * DAY;
    let mut last_planned = 0;
    while now_s < stops {
        // The server looks every few hours, and signs whenever somebody asks.
        now_s += 600 + random(5 * 3600);
        let newest = vault.authority().manifest(&realm()).unwrap().manifest.keys.iter().map(|row| row.from_s).max();
        if newest.unwrap() < now_s + 7 * DAY {
            rotate(&vault, now_s, DAYS);
            last_planned = now_s / DAY + DAYS;
        }
        let owner = if random(2) == 0 { "acme" } else { "umbrella" };
        let (paseto, key) = vault.sign_claims(&claims(owner, now_s), now_s).unwrap();
        let keys = vault.authority().keys();
        let row = keys.find(&claims(owner, now_s).scope(), key.kid()).unwrap();
        assert!((row.from_s..row.from_s + DAY).contains(&now_s), "it signs on its own day alone");
        seen.insert((owner, now_s / DAY), key);
        // What it signed is refused from the end of its overlap on, whatever it says.
        let token = SessionToken::parse(&paseto).unwrap();
        let home = SiteId::parse("home").unwrap();
        let late = token.check_signature(&keys, Act::StsSession, &home, row.until_s);
        assert!(matches!(late, Err(Refusal::RetiredKey { .. } | Refusal::Expired(_))));
        // No seed of a key whose time is over lies in the keyring after a rotation.
        let oldest = vault.issuer_keys(&realm()).unwrap().iter().map(|key| key.until_s).min().unwrap();
        assert!(oldest + 15 * DAY > now_s);
    }
    assert!(seen.len() > 90, "both tenants signed on most days: {}", seen.len());
    let distinct: std::collections::BTreeSet<_> = seen.values().collect();
    assert_eq!(distinct.len(), seen.len(), "a key a day and tenant");
    // The rotator stops: what is planned is used up, then nobody signs.
    let last_day = last_planned - 1;
    let end = last_day * DAY + DAY - 1;
    assert!(vault.sign_claims(&claims("acme", end), end).is_ok());
    for days in [0, 1, 13, 400] {
        let late = end + 1 + days * DAY;
        assert_eq!(
            overdue(vault.sign_claims(&claims("acme", late), late)),
            "each has had its day, or its day has not come"
        );
    }
    // And goes on: issuing does.
    let back = end + 3 * DAY;
    rotate(&vault, back, DAYS);
    assert!(vault.sign_claims(&claims("acme", back), back).is_ok());
    assert!(vault.issuer_keys(&realm()).unwrap().iter().all(|key| key.until_s > back), "the old are destroyed");
}

#[test]
fn a_manifest_that_is_older_than_what_the_keyring_saw_is_refused_after_a_restart() {
    let (dir, vault) = vault();
    let now_s = START + 100;
    rotate(&vault, now_s, 2);
    let old = vault.authority().manifest(&realm()).unwrap();
    rotate(&vault, now_s + DAY, 2);
    let new = vault.authority().manifest(&realm()).unwrap();
    drop(vault);
    let vault = Vault::open(dir.path(), &development(dir.path())).unwrap();
    let seen = vault.seen(&realm());
    for found in [None, Some(old.clone())] {
        let refused = vault.authority().load(&realm(), found, &seen).unwrap_err();
        assert!(refused.is_rollback(), "{refused}");
        assert!(overdue(vault.sign_claims(&claims("acme", now_s), now_s)).contains("no manifest"));
    }
    let mut other = new.manifest.clone();
    other.made_s += 1;
    let fork = vault.sign_manifest(other).unwrap();
    assert!(vault.authority().load(&realm(), Some(fork), &seen).unwrap_err().is_rollback());
    vault.authority().load(&realm(), Some(new), &seen).unwrap();
    assert!(vault.sign_claims(&claims("acme", now_s + DAY), now_s + DAY).is_ok());
    assert!(vault.authority().check(&realm(), old).unwrap_err().is_rollback());
}

#[test]
fn revocations_that_were_on_record_are_missed_when_they_are_gone() {
    let (dir, vault) = vault();
    let all: Vec<(Seq, Revocation)> =
        (1..=3_u8).map(|n| (u64::from(n) * 10, revoke(Target::Key(Kid([n; 8])), START))).collect();
    vault.note_revocations(&realm(), &all[..2]).unwrap();
    drop(vault);
    let vault = Vault::open(dir.path(), &development(dir.path())).unwrap();
    for lost in [&all[..0], &all[..1], &all[1..], &[all[1].clone(), all[0].clone()]] {
        assert!(matches!(vault.note_revocations(&realm(), lost), Err(VaultError::RevocationsLost(_))));
    }
    vault.note_revocations(&realm(), &all).unwrap();
    assert!(matches!(vault.note_revocations(&realm(), &all[..2]), Err(VaultError::RevocationsLost(_))));
}

#[test]
fn a_backup_carries_session_keys_the_root_and_what_was_seen() {
    let (dir, vault) = vault();
    let now_s = START + 100;
    rotate(&vault, now_s, 2);
    let manifest = vault.authority().manifest(&realm());
    let passphrase = || Passphrase::new(zeroize::Zeroizing::new("correct horse battery".to_owned()));
    let backup = dir.path().join("backup");
    vault.backup(&backup, passphrase()).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let restored = Vault::restore(&backup, passphrase(), elsewhere.path(), &development(elsewhere.path())).unwrap();
    assert_eq!(restored.seen(&realm()), vault.seen(&realm()));
    assert_eq!(restored.issuer_keys(&realm()).unwrap(), vault.issuer_keys(&realm()).unwrap());
    restored.authority().load(&realm(), manifest, &restored.seen(&realm())).unwrap();
    let (ours, theirs) = (claims("acme", now_s), claims("acme", now_s));
    assert_eq!(vault.sign_claims(&ours, now_s).unwrap().1, restored.sign_claims(&theirs, now_s).unwrap().1);
    assert!(restored.root_is_development(&realm()));
    rotate(&restored, now_s + DAY, 2);
}

#[test]
fn a_root_that_took_over_ends_the_development_root() {
    let (_dir, vault) = vault();
    rotate(&vault, START, 2);
    let offline = pair(&random_key().unwrap());
    let public = PublicKey::Ed25519(offline.public_key().as_ref().try_into().unwrap());
    vault.pin_root(&realm(), public, 2).unwrap();
    assert!(!vault.root_is_development(&realm()));
    let last = vault.authority().manifest(&realm()).unwrap();
    let rows = vault.plan_keys(&realm(), &scopes(), &sites(), START + DAY, 4).unwrap();
    let next = manifests::next(&realm(), Some(&last.manifest), rows, START + DAY);
    assert!(matches!(vault.sign_manifest(next.clone()), Err(VaultError::OfflineRoot(_))));
    let signature = offline.sign(&next.to_be_signed()).as_ref().try_into().unwrap();
    let signed = SignedManifest { manifest: next, signature };
    assert!(vault.authority().check(&realm(), signed).is_ok());
    // The manifest that the old root signed is believed still.
    vault.authority().load(&realm(), Some(last), &vault.seen(&realm())).unwrap();
}

#[test]
fn secrets_of_sessions_are_their_own_and_the_derived_key_is_sigv4s() {
    let (_dir, vault) = vault();
    let key = |id: &str| KeyId::parse(id).unwrap();
    let secret = |owner: &str, id: &str, session: u8| {
        let text = vault.session_secret(&realm(), &tenant(owner), &key(id), &[session; 16]).unwrap();
        text.expose_secret().to_owned()
    };
    let one = secret("acme", "ASIAAAAAAAAAAAAAAAAA", 1);
    assert_eq!((one.len(), &one), (40, &secret("acme", "ASIAAAAAAAAAAAAAAAAA", 1)));
    let others = [
        secret("umbrella", "ASIAAAAAAAAAAAAAAAAA", 1),
        secret("acme", "ASIABBBBBBBBBBBBBBBB", 1),
        secret("acme", "ASIAAAAAAAAAAAAAAAAA", 2),
    ];
    assert!(!others.contains(&one));
    let derive = |date: &str, region: &str| {
        *vault
            .session_signing_key(&realm(), &tenant("acme"), &key("ASIAAAAAAAAAAAAAAAAA"), &[1; 16], date, region)
            .unwrap()
    };
    let mac = |key: &[u8], data: &str| {
        use aws_lc_rs::hmac;
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data.as_bytes()).as_ref().to_vec()
    };
    let expected = mac(&mac(&mac(&mac(format!("AWS4{one}").as_bytes(), "20231214"), "cloud"), "s3"), "aws4_request");
    assert_eq!(derive("20231214", "cloud").as_slice(), expected);
    assert_ne!(derive("20231215", "cloud"), derive("20231214", "cloud"));
    let pseudonyms = ["acme", "umbrella"].map(|name| vault.tenant_pseudonym(&realm(), &tenant(name)).unwrap());
    assert_ne!(pseudonyms[0], pseudonyms[1]);
}
