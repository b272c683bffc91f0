//! Project Wycheproof's vectors, for the primitives our formats stand on, called
//! as we call them: AES-256-GCM, HKDF, HMAC-SHA256, Ed25519. They are made of
//! inputs that implementations have got wrong.
//!
//! Signatures go through [`VerifierKey`]. Wraps, FLOE segments and salts fix
//! nonces, labels and lengths of their own, so that no vector fits through
//! them; `oracle.rs` and `testdata/` hold those against second implementations.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{hkdf, hmac};
use ringfence_format::checkpoint::VerifierKey;
use wycheproof::{aead, eddsa, mac};

#[test]
fn gcm_opens_and_seals_what_it_must_and_nothing_else() {
    let set = aead::TestSet::load(aead::TestName::AesGcm).expect("vectors");
    let (mut opened, mut refused) = (0, 0);
    let groups = set.test_groups.into_iter().filter(|g| g.key_size == 256 && g.nonce_size == 96 && g.tag_size == 128);
    for test in groups.flat_map(|group| group.tests) {
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &test.key).expect("256 bits"));
        let nonce = || Nonce::try_assume_unique_for_key(&test.nonce).expect("96 bits");
        let mut plain = vec![0; test.ct.len()];
        let open = key.open_separate_gather(nonce(), Aad::from(&test.aad[..]), &test.ct, &test.tag, &mut plain);
        assert_eq!(open.is_ok(), !test.result.must_fail(), "{}: {}", test.tc_id, test.comment);
        if open.is_err() {
            refused += 1;
            continue;
        }
        opened += 1;
        assert_eq!(plain, test.pt[..], "{}", test.tc_id);
        let tag = key.seal_in_place_separate_tag(nonce(), Aad::from(&test.aad[..]), &mut plain).expect("sealed");
        assert_eq!((&plain[..], tag.as_ref()), (&test.ct[..], &test.tag[..]), "{}", test.tc_id);
    }
    assert!(opened >= 30 && refused >= 15, "{opened} opened, {refused} refused");
}

/// An output length of the caller's.
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

#[test]
fn hkdf_derives_what_it_must_and_no_more_than_its_limit() {
    use wycheproof::hkdf::{TestName, TestSet};
    for (name, algorithm) in [
        (TestName::HkdfSha256, hkdf::HKDF_SHA256),
        (TestName::HkdfSha384, hkdf::HKDF_SHA384),
        (TestName::HkdfSha512, hkdf::HKDF_SHA512),
    ] {
        let set = TestSet::load(name).expect("vectors");
        let (mut derived, mut refused) = (0, 0);
        for test in set.test_groups.into_iter().flat_map(|group| group.tests) {
            let mut okm = vec![0; test.size];
            let key = hkdf::Salt::new(algorithm, &test.salt).extract(&test.ikm);
            let filled = key.expand(&[&test.info], Length(test.size)).and_then(|out| out.fill(&mut okm));
            assert_eq!(filled.is_ok(), !test.result.must_fail(), "{name:?} {}: {}", test.tc_id, test.comment);
            match filled {
                Ok(()) => assert_eq!(okm, test.okm[..], "{name:?} {}", test.tc_id),
                Err(_) => refused += 1,
            }
            derived += usize::from(filled.is_ok());
        }
        assert!(derived >= 50 && refused >= 1, "{name:?}: {derived} derived, {refused} refused");
    }
}

#[test]
fn hmac_accepts_its_own_tags_only() {
    let set = mac::TestSet::load(mac::TestName::HmacSha256).expect("vectors");
    let (mut accepted, mut refused) = (0, 0);
    for test in set.test_groups.into_iter().filter(|group| group.tag_size == 256).flat_map(|group| group.tests) {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &test.key);
        let verified = hmac::verify(&key, &test.msg, &test.tag).is_ok();
        assert_eq!(verified, !test.result.must_fail(), "{}: {}", test.tc_id, test.comment);
        // How the log's salts and keyrings use it: the tag is made and compared.
        assert_eq!(hmac::sign(&key, &test.msg).as_ref() == &test.tag[..], verified, "{}", test.tc_id);
        if verified { accepted += 1 } else { refused += 1 }
    }
    assert!(accepted >= 30 && refused >= 30, "{accepted} accepted, {refused} refused");
}

#[test]
fn a_log_key_accepts_its_own_signatures_only() {
    let set = eddsa::TestSet::load(eddsa::TestName::Ed25519).expect("vectors");
    let (mut accepted, mut refused) = (0, 0);
    for group in set.test_groups {
        let public = group.key.pk[..].try_into().expect("32 bytes");
        let key = VerifierKey::new("wycheproof.example/log", public).expect("a name and 32 bytes");
        for test in group.tests {
            let signed = key.signed(&test.msg, &test.sig);
            assert_eq!(signed, !test.result.must_fail(), "{}: {}", test.tc_id, test.comment);
            if signed { accepted += 1 } else { refused += 1 }
        }
    }
    assert!(accepted >= 60 && refused >= 40, "{accepted} accepted, {refused} refused");
}
