//! Our own vectors, made by a second implementation; what a head hides; what
//! is refused.

use proptest::prelude::*;

use super::*;
use crate::envelope::tests::{bytes, key, object, row};
use crate::names::{BucketId, BucketName, Label, ObjectKey, PartId};
use crate::redo::LabelSource;

fn version() -> Version {
    Version {
        bucket: object().bucket,
        key: ObjectKey::parse("a/secret name.txt").unwrap(),
        uid: object().version,
        null_version: true,
        delete_marker: false,
        created_ms: 1_700_000_000_000,
        size: 5,
        etag: "5d41402abc4b2a76b9719d911017c592".into(),
        label: Label::parse("internal").unwrap(),
        label_source: LabelSource::Tenant,
        tags: vec![("team".into(), "blue".into())],
        headers: vec![("content-type".into(), "text/plain".into())],
        metadata: vec![("author".into(), "ann".into())],
        checksums: Vec::new(),
        parts: vec![row(PartId(bytes(40)), 5, 65_536)],
        head: None,
        copies: Vec::new(),
        placed_by: vec!["policy0".into()],
        policy_epoch: 4,
        retention: None,
        legal_hold: false,
    }
}

fn bucket() -> Bucket {
    Bucket {
        id: object().bucket,
        name: BucketName::parse("payroll").unwrap(),
        tenant: object().tenant.clone(),
        created_ms: 1_600_000_000_000,
        pin: None,
        tags: Vec::new(),
    }
}

fn info() -> HeadInfo {
    let wrapped_dek = with_dek_place(&object().realm, &object().tenant, 3, &object().version, |place| {
        wrap::wrap_key(&bytes(50), place, bytes(60), &bytes(30))
    });
    HeadInfo { seq: 7, kek: 3, wrapped_dek }
}

fn sealed() -> Bytes {
    seal(&key(), KekId(bytes(70)), &info(), &version(), &bucket(), bytes(80)).bytes().clone()
}

fn open_bytes(head: Vec<u8>) -> Result<Manifest, HeadError> {
    open(&key(), 3, &Fetched::new(Bytes::from(head)))
}

fn vector(name: &str) -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/head.txt");
    let text = std::fs::read_to_string(path).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    hex::decode(line.unwrap()).unwrap()
}

#[test]
fn the_encoding_of_a_manifest_does_not_change() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/manifest.hex");
    let manifest = Manifest { version: version(), bucket: bucket() };
    let encoded = minicbor::to_vec(&manifest).unwrap();
    let written = std::fs::read_to_string(path).unwrap();
    let next = "a new optional field? put this into manifest.hex and run second_implementation.py";
    assert_eq!(hex::encode(&encoded), written.trim(), "{next}");
}

#[test]
fn a_second_implementation_makes_the_same_head() {
    assert_eq!(info().wrapped_dek.to_vec(), vector("wrapped_dek"));
    assert_eq!(sealed(), vector("head"));
    let head = Fetched::new(vector("head").into());
    let clear = parse(&head).unwrap();
    let kek: [u8; 32] = vector("kek").try_into().unwrap();
    let key = unwrap_dek(&kek, 3, &object(), &clear.wrapped_dek).unwrap();
    let opened = open(&key, 3, &head).unwrap();
    assert_eq!(opened.version, Version { head: Some(info()), ..version() });
    assert_eq!(opened.bucket, bucket());
}

#[test]
fn a_head_tells_a_site_nothing() {
    let head = sealed();
    for secret in ["secret name", "payroll", "acme", "main", "internal", "blue", "ann", "5d41402a"] {
        assert!(!head.windows(secret.len()).any(|w| w == secret.as_bytes()), "{secret}");
    }
    assert!(!head.windows(16).any(|w| w == object().bucket.as_bytes()), "the bucket's id");
    assert_eq!((head.len() - CLEAR_BYTES - wrap::OVERHEAD_BYTES) % PADDING_BYTES, 0);
}

#[test]
fn every_bit_of_a_head_matters() {
    let good = sealed().to_vec();
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(open_bytes(bad).is_err(), "bit {bit}");
    }
    for len in 0..good.len() {
        assert!(open_bytes(good[..len].to_vec()).is_err(), "cut at {len}");
    }
    assert!(open_bytes([&good[..], &[0]].concat()).is_err());
    assert!(open_bytes(good).is_ok());
}

#[test]
fn a_newer_format_is_named() {
    let mut head = sealed().to_vec();
    head[8] = 1;
    assert_eq!(open_bytes(head), Err(HeadError::Format(1)));
}

#[test]
fn what_no_writer_says_is_refused_even_when_authentic() {
    let check = |version: Version, bucket: Bucket| {
        let head = seal(&key(), KekId([0; 16]), &info(), &version, &bucket, [0; 24]);
        let opened = open(&key(), 3, &Fetched::new(head.bytes().clone()));
        assert!(matches!(opened, Err(HeadError::Contradiction(_))), "{opened:?}");
    };
    check(Version { uid: VersionUid([0; 16]), ..version() }, bucket());
    check(Version { bucket: BucketId([0; 16]), ..version() }, bucket());
    check(Version { size: 6, ..version() }, bucket());
    check(version(), Bucket { tenant: Tenant::parse("other").unwrap(), ..bucket() });
}

#[test]
fn the_head_of_another_tenant_or_version_does_not_open() {
    let head = Fetched::new(sealed());
    for change in 0..3 {
        let mut other = (*object()).clone();
        match change {
            0 => other.realm = Realm::parse("other").unwrap(),
            1 => other.tenant = Tenant::parse("other").unwrap(),
            _ => other.version = VersionUid([0; 16]),
        }
        let kek: [u8; 32] = bytes(50);
        assert!(unwrap_dek(&kek, 3, &Arc::new(other), &info().wrapped_dek).is_err());
    }
    assert!(unwrap_dek(&bytes(50), 4, &object(), &info().wrapped_dek).is_err(), "another KEK version");
    let other_realm = ObjectVersion { realm: Realm::parse("other").unwrap(), ..(*object()).clone() };
    let same_bytes = DataKey::new(Arc::new(other_realm), zeroize::Zeroizing::new(bytes(30)));
    assert!(open(&same_bytes, 3, &head).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_refused_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(open_bytes(bytes.clone()).is_err());
        let framed = [&MAGIC[..], &[0], &bytes].concat();
        prop_assert!(open_bytes(framed).is_err());
    }
}
