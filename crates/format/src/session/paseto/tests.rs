use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::Value;

use super::*;

/// One vector of testdata/paseto, checked as its specification asks: whether
/// the token verifies and says `payload`.
fn verifies(test: &Value) -> bool {
    let text = |field: &str| test[field].as_str().unwrap_or_default().to_owned();
    let mut token = text("token");
    if token.split('.').count() == 3 {
        token.push('.'); // our tokens always have a footer
    }
    let Ok(parts) = parse(&token) else { return false };
    let Ok(bytes) = hex::decode(text("public-key")) else { return false };
    let key = match bytes.len() {
        32 => PublicKey::Ed25519(bytes.try_into().expect("32 bytes")),
        49 => PublicKey::P384(bytes.try_into().expect("49 bytes")),
        _ => return false,
    };
    let message = to_be_signed(&key, &parts.payload, &parts.footer, text("implicit-assertion").as_bytes());
    let right = parts.version == key.version() && parts.footer == text("footer").as_bytes();
    right && key.signed(&message, &parts.signature) && parts.payload == text("payload").as_bytes()
}

#[test]
fn the_official_vectors_verify_and_what_must_fail_fails() {
    let (mut good, mut bad) = (0, 0);
    for file in [include_str!("../../../testdata/paseto/v3.json"), include_str!("../../../testdata/paseto/v4.json")] {
        let file: Value = serde_json::from_str(file).expect("JSON");
        for test in file["tests"].as_array().expect("tests") {
            let name = test["name"].as_str().expect("a name");
            let expected = name.contains("-S-");
            assert_eq!(verifies(test), expected, "{name}");
            *(if expected { &mut good } else { &mut bad }) += 1;
        }
    }
    assert_eq!((good, bad), (6, 28), "3 of each version are signed; the others are encrypted or broken");
}

#[test]
fn an_official_vector_with_any_one_bit_changed_fails() {
    let file: Value = serde_json::from_str(include_str!("../../../testdata/paseto/v4.json")).expect("JSON");
    let tests = file["tests"].as_array().expect("tests");
    let test = tests.iter().find(|test| test["name"] == "4-S-3").expect("the vector");
    for field in ["token", "footer", "implicit-assertion", "public-key"] {
        let text = test[field].as_str().expect("text");
        for at in 0..text.len() {
            let mut changed = test.clone();
            let flip = if text.as_bytes()[at] == b'0' { "1" } else { "0" };
            changed[field] = format!("{}{flip}{}", &text[..at], &text[at + 1..]).into();
            assert!(!verifies(&changed), "{field}, character {at}");
        }
    }
}

#[test]
fn of_the_two_forms_of_an_ecdsa_signature_one_is_taken_and_made() {
    let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).expect("a key");
    let mut seen = [0, 0];
    for round in 0..64u8 {
        let signature = pair.sign(&SystemRandom::new(), &[round]).expect("signed");
        let high = !is_canonical(Version::V3, signature.as_ref());
        seen[usize::from(high)] += 1;
        let one = canonical(Version::V3, signature.as_ref());
        assert!(is_canonical(Version::V3, &one));
        assert_eq!(one == signature.as_ref(), !high);
        let verify = |s: &[u8]| {
            let key = UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, pair.public_key().as_ref());
            key.verify(&[round], s).is_ok()
        };
        assert!(verify(&one), "the other form is a signature too");
    }
    assert!(seen[0] > 0 && seen[1] > 0, "both forms came up: {seen:?}");
    assert!(!is_canonical(Version::V3, &[0; 40]), "too short for an s");
}

#[test]
fn public_keys_and_ids_have_one_form() {
    let key = PublicKey::Ed25519([7; 32]);
    assert_eq!(key.to_string().parse(), Ok(key));
    assert_eq!(key.kid().to_string().parse(), Ok(key.kid()));
    let id = key.kid().to_string();
    for bad in ["", "00", &id.to_uppercase(), &format!("{id}00"), &format!(" {id}")] {
        assert!(bad.parse::<Kid>().is_err(), "{bad:?}");
    }
    let text = key.to_string();
    let other = text.replace("ed25519", "p384");
    for bad in ["", "ed25519", "ed25519:", "rsa:AAAA", &format!("{text}="), &format!("{text}A"), &other] {
        assert!(bad.parse::<PublicKey>().is_err(), "{bad:?}");
    }
}
