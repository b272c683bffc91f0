//! Sealing of records: fields, salts, months, what follows a destroyed key.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use ringfence_format::record::Op;

use std::collections::BTreeSet;

use super::*;
use crate::{Unlock, Vault};

fn evidence() -> (tempfile::TempDir, Vault, Arc<Evidence>) {
    let dir = tempfile::tempdir().unwrap();
    let unlock = Unlock::KeyFile(Vault::development_key_file(dir.path()));
    let vault = Vault::create(dir.path(), &unlock, &realm(), "ringfence.example/log").unwrap();
    let evidence = vault.evidence();
    for tenant in ["acme", "umbrella"] {
        vault.add_tenant(&realm(), &Tenant::parse(tenant).unwrap()).unwrap();
    }
    (dir, vault, evidence)
}

fn realm() -> Realm {
    Realm::parse("main").unwrap()
}

fn record(tenant: Option<&str>) -> Record {
    Record {
        core: Core { time_us: 7, op: Op("s3:PutObject".into()), ..Core::default() },
        subject: Subject {
            realm: tenant.map(|_| realm()),
            tenant: tenant.map(|tenant| Tenant::parse(tenant).unwrap()),
            ..Subject::default()
        },
        resource: Resource { detail: Some("a detail".into()), ..Resource::default() },
        redo: Some(Redo::Start(5)),
        public: None,
    }
}

#[test]
fn a_record_reads_back_with_the_digest_of_its_redo() {
    let (_dir, _vault, evidence) = evidence();
    for tenant in [None, Some("acme"), Some("umbrella"), Some("stranger")] {
        let sealed = evidence.seal(4, &record(tenant)).unwrap();
        let opened = evidence.open(4, &sealed).unwrap();
        let digest = leaf::redo_digest(&minicbor::to_vec(Redo::Start(5)).unwrap());
        assert_eq!(opened.core.redo_sha256, Some(digest));
        assert_eq!((opened.subject, opened.resource, opened.redo), {
            let record = record(tenant);
            (record.subject, record.resource, record.redo)
        });
    }
    let read = Record { redo: None, ..record(Some("acme")) };
    let sealed = evidence.seal(5, &read).unwrap();
    assert!(sealed.redo.is_empty());
    assert_eq!(evidence.open(5, &sealed).unwrap(), read);
}

#[test]
fn nothing_of_a_record_lies_open_and_each_tenant_has_its_own_key() {
    let (_dir, _vault, evidence) = evidence();
    let sealed = evidence.seal(4, &record(Some("acme"))).unwrap();
    let bytes = sealed.to_bytes();
    for secret in ["acme", "main", "PutObject", "a detail"] {
        assert!(!bytes.windows(secret.len()).any(|w| w == secret.as_bytes()), "{secret}");
    }
    let ids = [None, Some("acme"), Some("umbrella")].map(|t| evidence.seal(4, &record(t)).unwrap().key_id);
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2]);
    assert_eq!(evidence.seal(4, &record(Some("stranger"))).unwrap().key_id, ids[0]);
}

#[test]
fn a_record_that_was_changed_or_moved_is_corrupt() {
    let (_dir, _vault, evidence) = evidence();
    let good = evidence.seal(4, &record(Some("acme"))).unwrap();
    let other = evidence.seal(4, &record(Some("umbrella"))).unwrap();
    type Change<'a> = &'a dyn Fn(&mut SealedRecord);
    let changes: [Change<'_>; 13] = [
        &|r| r.core[0] ^= 1,
        &|r| r.subject[0] ^= 1,
        &|r| r.resource[0] ^= 1,
        &|r| r.redo[0] ^= 1,
        &|r| *r.redo.last_mut().unwrap() ^= 1,
        &|r| r.redo.clear(),
        &|r| r.commitments[1][0] ^= 1,
        &|r| r.commitments[1][31] ^= 1,
        &|r| r.commitments.swap(0, 1),
        &|r| std::mem::swap(&mut r.core, &mut r.subject),
        &|r| r.key_id = other.key_id,
        &|r| r.redo_key = other.redo_key,
        &|r| r.salts = Some(vec![0; 124]),
    ];
    for (n, change) in changes.iter().enumerate() {
        let mut bad = good.clone();
        change(&mut bad);
        assert!(matches!(evidence.open(4, &bad), Err(OpenError::Corrupt(_))), "change {n}");
    }
    assert!(matches!(evidence.open(5, &good), Err(OpenError::Corrupt(_))), "another position");
    assert_eq!(evidence.open(4, &SealedRecord { key_id: [0; 8], ..good.clone() }), Err(OpenError::NoKey));
    let trimmed = good.trimmed(9, leaf::RedoFate::Stays);
    assert_eq!(evidence.open(4, &trimmed), Err(OpenError::Trimmed { by: 9 }));
    assert_eq!(evidence.open_redo(4, &trimmed).unwrap(), Some(Redo::Start(5)), "what it changed stays");
}

#[test]
fn a_public_part_lies_open_and_is_the_one_that_the_core_names() {
    let (_dir, vault, evidence) = evidence();
    let public = |bytes: &[u8]| Some(PublicEntry { kind: leaf::REVOCATION, bytes: bytes.to_vec() });
    let said = Record { public: public(b"in clear"), ..record(Some("acme")) };
    let sealed = evidence.seal(4, &said).unwrap();
    assert!(sealed.to_bytes().windows(8).any(|w| w == b"in clear"));
    let opened = evidence.open(4, &sealed).unwrap();
    assert_eq!((&opened.public, opened.core.public_sha256), (&said.public, said.public.as_ref().map(|p| p.digest())));
    vault.prepare_evidence(NOVEMBER_US).unwrap();
    let kept = evidence.reseal(4, &sealed, Keep::Core).unwrap();
    assert_eq!((&kept.public, kept.entry()), (&sealed.public, sealed.entry()));
    assert_eq!(sealed.trimmed(9, leaf::RedoFate::Goes).public, sealed.public);
    let other_kind = sealed.public.clone().map(|p| PublicEntry { kind: leaf::MANIFEST, ..p });
    for other in [None, public(b"changed!"), other_kind] {
        let bad = SealedRecord { public: other.clone(), ..sealed.clone() };
        assert!(matches!(evidence.open(4, &bad), Err(OpenError::Corrupt(_))));
        assert!(matches!(evidence.open_core(4, &bad), Err(OpenError::Corrupt(_))));
        let cut = sealed.trimmed(9, leaf::RedoFate::Goes);
        let forged = SealedRecord { public: other, ..cut.clone() };
        assert_ne!(evidence.mark(4, &cut).unwrap(), evidence.mark(4, &forged).unwrap());
    }
    let mut added = evidence.seal(4, &record(Some("acme"))).unwrap();
    added.public = public(b"added");
    assert!(matches!(evidence.open(4, &added), Err(OpenError::Corrupt(_))));
}

#[test]
fn commitments_open_with_the_salts_alone() {
    let (_dir, _vault, evidence) = evidence();
    let sealed = evidence.seal(4, &record(Some("acme"))).unwrap();
    let salts = evidence.salts(4, &sealed).unwrap();
    let groups = leaf::group_bytes(&evidence.open(4, &sealed).unwrap());
    for i in 0..3 {
        assert_eq!(leaf::commit(&salts[i], &groups[i]), sealed.commitments[i]);
    }
}

#[test]
fn the_same_bytes_at_another_position_seal_to_other_bytes() {
    let (_dir, _vault, evidence) = evidence();
    let one = evidence.seal(1, &record(None)).unwrap();
    assert_eq!(one, evidence.seal(1, &record(None)).unwrap(), "replay after a crash");
    let two = evidence.seal(2, &record(None)).unwrap();
    for (a, b) in [(one.core, two.core), (one.subject, two.subject), (one.resource, two.resource), (one.redo, two.redo)]
    {
        assert_ne!(a, b);
    }
    assert!(one.commitments.iter().zip(two.commitments).all(|(a, b)| *a != b));
}

#[test]
fn checkpoints_are_signed_by_one_key_for_the_life_of_the_installation() {
    let (dir, vault, evidence) = evidence();
    let signature = evidence.sign(b"note");
    let public = evidence.public_key();
    assert!(UnparsedPublicKey::new(&ED25519, public).verify(b"note", &signature).is_ok());
    assert!(UnparsedPublicKey::new(&ED25519, public).verify(b"noted", &signature).is_err());
    drop((vault, evidence));
    let unlock = Unlock::KeyFile(Vault::development_key_file(dir.path()));
    let again = Vault::open(dir.path(), &unlock).unwrap().evidence();
    assert_eq!((again.public_key(), again.name()), (public, "ringfence.example/log"));
}

/// 15 November 2026 and a month later.
const NOVEMBER_US: u64 = 1_794_700_800_000_000;
const DECEMBER_US: u64 = NOVEMBER_US + 30 * 24 * 3600 * 1_000_000;

fn at(tenant: &str, time_us: u64) -> Record {
    let mut record = record(Some(tenant));
    record.core.time_us = time_us;
    record
}

#[test]
fn a_time_is_of_the_month_that_the_calendar_says() {
    let cases = [
        (0, "1970-01", "1970-02"),
        (951_782_399, "2000-02", "2000-03"), // the 28th, and a 29th follows
        (951_868_800, "2000-03", "2000-04"),
        (1_798_761_599, "2026-12", "2027-01"),
        (1_798_761_600, "2027-01", "2027-02"),
        (4_107_542_399, "2100-02", "2100-03"), // no leap year
        (4_107_542_400, "2100-03", "2100-04"),
    ];
    for (seconds, month, next) in cases {
        let found = Month::of(seconds * 1_000_000);
        assert_eq!((found.to_string(), found.next().to_string()), (month.to_owned(), next.to_owned()), "{seconds}");
    }
    assert_eq!(Month::of(u64::MAX), Month::NONE, "a clock far off gets no month's key");
}

#[test]
fn each_month_has_its_key_and_the_redo_outlives_it() {
    let (_dir, vault, evidence) = evidence();
    assert_eq!(vault.prepare_evidence(NOVEMBER_US).unwrap(), 3 * 13, "a year ahead, for two tenants and ourselves");
    assert_eq!(vault.prepare_evidence(NOVEMBER_US).unwrap(), 0);
    let sealed = [NOVEMBER_US, DECEMBER_US].map(|time| evidence.seal(4, &at("acme", time)).unwrap());
    assert_ne!(sealed[0].key_id, sealed[1].key_id);
    assert_eq!(sealed[0].redo_key, sealed[1].redo_key);
    assert_eq!(evidence.open(4, &sealed[0]).unwrap().core.time_us, NOVEMBER_US);
    // Before the first month's key, and long after the last: never without one.
    let early = evidence.seal(4, &at("acme", 7)).unwrap();
    assert_eq!(Some(early.key_id), early.redo_key, "the tenant's own");
    let late = evidence.seal(4, &at("acme", NOVEMBER_US * 2)).unwrap();
    assert!(evidence.open(4, &late).is_ok());

    let november = BTreeSet::from([sealed[0].key_id]);
    assert_eq!(vault.destroy(&november).unwrap(), 1);
    assert_eq!(evidence.open(4, &sealed[0]), Err(OpenError::NoKey));
    assert_eq!(evidence.salts(4, &sealed[0]), Err(OpenError::NoKey));
    assert_eq!(evidence.open_redo(4, &sealed[0]).unwrap(), Some(Redo::Start(5)), "the catalogue can be rebuilt");
    assert!(evidence.open(4, &sealed[1]).is_ok());
    let own = BTreeSet::from([sealed[1].redo_key.unwrap()]);
    assert_eq!(vault.destroy(&own).unwrap(), 0, "a tenant's own key is not a month's");
    assert!(evidence.open_redo(4, &sealed[1]).is_ok());
}

#[test]
fn what_survives_an_erasure_opens_under_the_key_that_follows_and_the_rest_under_none() {
    let (dir, vault, evidence) = evidence();
    vault.prepare_evidence(NOVEMBER_US).unwrap();
    let erased = evidence.seal(4, &at("acme", NOVEMBER_US)).unwrap();
    let survivor = evidence.seal(5, &at("acme", NOVEMBER_US)).unwrap();
    let other = evidence.seal(6, &at("umbrella", NOVEMBER_US)).unwrap();
    let said = evidence.open(5, &survivor).unwrap();
    assert!(matches!(evidence.reseal(4, &erased, Keep::Core), Err(OpenError::NoKey)), "nothing follows yet");

    let old = BTreeSet::from([erased.key_id]);
    assert_eq!(vault.follow(&old).unwrap(), 1);
    assert_eq!(vault.follow(&old).unwrap(), 0, "followed once is enough");
    let mut cut = evidence.reseal(4, &erased, Keep::Core).unwrap();
    cut.erased_by = Some(9);
    let moved = evidence.reseal(5, &survivor, Keep::Fields).unwrap();
    assert_eq!((cut.entry(), moved.entry()), (erased.entry(), survivor.entry()), "the tree does not change");
    assert_ne!(moved.key_id, survivor.key_id);
    let new = evidence.seal(7, &at("acme", NOVEMBER_US)).unwrap();
    assert_eq!(new.key_id, moved.key_id, "the month goes on under it");
    vault.destroy(&old).unwrap();

    // As it was, in any copy of the log: nobody opens either.
    for (seq, sealed) in [(4, &erased), (5, &survivor)] {
        assert_eq!(evidence.open(seq, sealed), Err(OpenError::NoKey));
        assert_eq!(evidence.salts(seq, sealed), Err(OpenError::NoKey));
    }
    assert_eq!(evidence.open(5, &moved).unwrap(), said);
    assert!(evidence.open(6, &other).is_ok(), "another tenant's month is untouched");
    assert_eq!(evidence.open_core(4, &cut).unwrap().op.0, "s3:PutObject");
    assert_eq!(evidence.open(4, &cut), Err(OpenError::Erased { by: 9 }));
    assert_eq!(evidence.open_redo(4, &cut).unwrap(), Some(Redo::Start(5)));
    let salts = evidence.salts(4, &cut).unwrap();
    assert_eq!(salts[1..], [[0; 32]; 2], "what was erased has no salt any more");
    assert!(cut.subject.is_empty() && cut.resource.is_empty());
    let groups = leaf::group_bytes(&said);
    for (i, salt) in evidence.salts(5, &moved).unwrap().iter().enumerate() {
        assert_eq!(leaf::commit(salt, &groups[i]), moved.commitments[i], "it is proved as before");
    }

    // A second erasure moves the survivor on, and so do restarts.
    let again = BTreeSet::from([moved.key_id]);
    vault.follow(&again).unwrap();
    let moved_again = evidence.reseal(5, &moved, Keep::Fields).unwrap();
    vault.destroy(&again).unwrap();
    drop((vault, evidence));
    let unlock = Unlock::KeyFile(Vault::development_key_file(dir.path()));
    let evidence = Vault::open(dir.path(), &unlock).unwrap().evidence();
    assert_eq!(evidence.open(5, &moved), Err(OpenError::NoKey));
    assert_eq!(evidence.open(5, &moved_again).unwrap(), said);
}

#[test]
fn kept_salts_cannot_be_changed_or_moved() {
    let (_dir, vault, evidence) = evidence();
    vault.prepare_evidence(NOVEMBER_US).unwrap();
    let sealed = evidence.seal(5, &at("acme", NOVEMBER_US)).unwrap();
    vault.follow(&BTreeSet::from([sealed.key_id])).unwrap();
    let moved = evidence.reseal(5, &sealed, Keep::Fields).unwrap();
    for byte in [0, 11, 12, 50, 107, 123] {
        let mut bad = moved.clone();
        bad.salts.as_mut().unwrap()[byte] ^= 1;
        assert!(matches!(evidence.open(5, &bad), Err(OpenError::Corrupt(_))), "byte {byte}");
    }
    let bare = SealedRecord { salts: None, ..moved.clone() };
    assert!(matches!(evidence.open(5, &bare), Err(OpenError::Corrupt(_))));
    let short = SealedRecord { salts: Some(vec![1; 5]), ..moved };
    assert!(matches!(evidence.open(5, &short), Err(OpenError::Corrupt(_))));
}

#[test]
fn a_mark_is_of_one_record_at_one_place_and_outlives_every_month() {
    let (_dir, vault, evidence) = evidence();
    vault.prepare_evidence(NOVEMBER_US).unwrap();
    let cut = evidence.seal(5, &at("acme", NOVEMBER_US)).unwrap().trimmed(9, leaf::RedoFate::Stays);
    let mark = evidence.mark(5, &cut).unwrap();
    assert_ne!(mark, evidence.mark(6, &cut).unwrap());
    assert_ne!(mark, evidence.mark(5, &cut.trimmed(9, leaf::RedoFate::Goes)).unwrap());
    let other = SealedRecord { trimmed_by: Some(10), ..cut.clone() };
    assert_ne!(mark, evidence.mark(5, &other).unwrap());
    vault.destroy(&vault.evidence_months().iter().map(|key| key.id).collect()).unwrap();
    assert_eq!(mark, evidence.mark(5, &cut).unwrap());
}
