//! One token per rule that breaks this rule and no other: a check that is taken
//! out makes its row fail.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::{Algorithm, ClaimValue, IssuerEntry, Reason, TOKEN_BYTES_MAX};
use super::provider::{NOW, OTHER, RSA, Secret, Token, URL, World, b64, entry, issuers, signed_text, verify};

/// What becomes of a token at an issuer that serves the key `k1`.
fn came(entry: IssuerEntry, token: &str) -> Result<String, Reason> {
    let world = World::serving(URL, &[RSA.jwk("k1")]);
    let verified = verify(&issuers(vec![entry], &world), token, NOW);
    verified.map(|evidence| evidence.subject().to_owned()).map_err(|refused| refused.reason)
}

fn refused(token: &Token, reason: Reason) {
    assert_eq!(came(entry(), &token.signed(&RSA)), Err(reason), "{} {}", token.header, token.claims);
}

#[test]
fn a_token_that_obeys_every_rule_is_evidence_of_what_it_says() {
    let world = World::serving(URL, &[RSA.jwk("k1")]);
    let token = Token::good().signed(&RSA);
    let evidence = verify(&issuers(vec![entry()], &world), &token, NOW).expect("evidence");
    assert_eq!(evidence.subject(), "alice");
    assert_eq!((evidence.issuer().as_str(), evidence.issuer_url()), ("corp", URL));
    assert_eq!((evidence.realm().as_str(), evidence.tenant().as_str()), ("home", "acme"));
    assert_eq!((evidence.issued_at_s(), evidence.expires_s()), (NOW - 10, NOW + 290));
    assert_eq!(evidence.claim("groups"), Some(&ClaimValue::Many(vec!["staff".into(), "readers".into()])));
    assert_eq!(evidence.claim("jti"), None, "not exposed");
    assert_eq!(evidence.audience(), "ringfence");
    let sha256 = |text: &str| aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    assert_eq!(evidence.token_sha256()[..], *sha256(&token).as_ref());
    assert_eq!(evidence.id_sha256().map(|id| &id[..]), Some(sha256("t-1").as_ref()));
    assert_eq!(evidence.key_thumbprint(), super::provider::thumbprint(&RSA.jwk("k1")));
}

#[test]
fn every_algorithm_verifies_by_its_own_name_only() {
    for algorithm in Algorithm::ALL {
        let secret = Secret::of(algorithm);
        let world = World::serving(URL, &[secret.jwk("k1")]);
        let only = IssuerEntry { algorithms: vec![algorithm], ..entry() };
        let token = Token::good().header("alg", json!(algorithm.as_str())).signed(&secret);
        assert!(verify(&issuers(vec![only.clone()], &world), &token, NOW).is_ok(), "{algorithm:?}");
        let all = IssuerEntry { algorithms: Algorithm::ALL.to_vec(), ..entry() };
        for other in Algorithm::ALL.into_iter().filter(|other| *other != algorithm) {
            // The same signature under another name, at an issuer that may use both.
            let (_, rest) = token.split_once('.').expect("three parts");
            let header = Token::good().header("alg", json!(other.as_str())).header.to_string();
            let renamed = format!("{}.{rest}", b64(header.as_bytes()));
            let got = verify(&issuers(vec![all.clone()], &world), &renamed, NOW).map(|_| ()).map_err(|r| r.reason);
            assert!(matches!(got, Err(Reason::Signature | Reason::KeyUnfit)), "{algorithm:?} as {other:?}: {got:?}");
            let got = verify(&issuers(vec![only.clone()], &world), &renamed, NOW).map(|_| ()).map_err(|r| r.reason);
            assert_eq!(got, Err(Reason::Algorithm), "{algorithm:?} as {other:?}");
        }
    }
}

/// Rows: a claim, what it is set to (`None`: left out), what must come of it.
fn claims() -> Vec<(&'static str, Option<Value>, Reason)> {
    let list = |texts: &[&str]| Some(json!(texts));
    vec![
        ("iss", None, Reason::UnknownIssuer),
        ("iss", list(&[URL]), Reason::UnknownIssuer),
        ("iss", list(&["https://evil.example", URL]), Reason::UnknownIssuer),
        ("iss", Some(json!(format!("{URL}/"))), Reason::UnknownIssuer),
        ("iss", Some(json!(URL.to_uppercase())), Reason::UnknownIssuer),
        ("iss", Some(json!(format!(" {URL}"))), Reason::UnknownIssuer),
        ("iss", Some(json!({"url": URL})), Reason::UnknownIssuer),
        ("iss", Some(Value::Null), Reason::UnknownIssuer),
        ("aud", None, Reason::Audience),
        ("aud", Some(Value::Null), Reason::Audience),
        ("aud", Some(json!("Ringfence")), Reason::Audience),
        ("aud", Some(json!("ringfence ")), Reason::Audience),
        ("aud", Some(json!("")), Reason::Audience),
        ("aud", list(&[]), Reason::Audience),
        ("aud", list(&["other"]), Reason::Audience),
        ("aud", list(&["ringfence", "other"]), Reason::Audience),
        ("aud", list(&["ringfence", "ringfence"]), Reason::Audience),
        ("aud", Some(json!([["ringfence"]])), Reason::Audience),
        ("sub", None, Reason::Subject),
        ("sub", Some(json!("")), Reason::Subject),
        ("sub", Some(json!("a".repeat(256))), Reason::Subject),
        ("sub", Some(json!("é".repeat(128))), Reason::Subject),
        ("sub", Some(json!(7)), Reason::Subject),
        ("sub", Some(json!("a\nb")), Reason::Subject),
        ("sub", Some(json!("a\0")), Reason::Subject),
        ("sub", list(&["alice"]), Reason::Subject),
        ("exp", None, Reason::ExpiryMalformed),
        ("exp", Some(Value::Null), Reason::ExpiryMalformed),
        ("exp", Some(json!(NOW as f64 + 290.5)), Reason::ExpiryMalformed),
        ("exp", Some(json!((NOW + 290).to_string())), Reason::ExpiryMalformed),
        ("exp", Some(json!(u64::MAX)), Reason::ExpiryMalformed),
        ("exp", Some(json!(253_402_300_800_i64)), Reason::ExpiryMalformed),
        ("exp", Some(json!(-1)), Reason::ExpiryMalformed),
        ("exp", Some(json!(NOW)), Reason::Expired),
        ("exp", Some(json!(NOW - 1)), Reason::Expired),
        ("exp", Some(json!(NOW - 10 + 3601)), Reason::TooLongLived),
        ("iat", None, Reason::IssuedAtMalformed),
        ("iat", Some(json!((NOW - 10).to_string())), Reason::IssuedAtMalformed),
        ("iat", Some(json!(NOW as f64 - 10.5)), Reason::IssuedAtMalformed),
        ("iat", Some(json!(-10)), Reason::IssuedAtMalformed),
        ("iat", Some(json!(NOW + 31)), Reason::FromTheFuture),
        ("iat", Some(json!(0)), Reason::TooLongLived),
        ("nbf", Some(json!(NOW + 31)), Reason::NotYet),
        ("nbf", Some(json!("soon")), Reason::NotBeforeMalformed),
        ("nbf", Some(Value::Null), Reason::NotBeforeMalformed),
        ("nbf", Some(json!(NOW as f64 - 0.5)), Reason::NotBeforeMalformed),
        ("jti", Some(json!(1)), Reason::IdMalformed),
        ("jti", Some(json!("")), Reason::IdMalformed),
        ("jti", Some(json!("j".repeat(256))), Reason::IdMalformed),
    ]
}

fn headers() -> Vec<(&'static str, Option<Value>, Reason)> {
    vec![
        ("alg", None, Reason::Algorithm),
        ("alg", Some(json!("none")), Reason::Algorithm),
        ("alg", Some(json!("None")), Reason::Algorithm),
        ("alg", Some(json!("HS256")), Reason::Algorithm),
        ("alg", Some(json!("rs256")), Reason::Algorithm),
        ("alg", Some(json!("RS384")), Reason::Algorithm),
        ("alg", Some(json!("PS256")), Reason::Algorithm),
        ("alg", Some(json!(["RS256"])), Reason::Algorithm),
        ("typ", None, Reason::Type),
        ("typ", Some(json!("jwt")), Reason::Type),
        ("typ", Some(json!("at+jwt")), Reason::Type),
        ("typ", Some(json!("logout+jwt")), Reason::Type),
        ("typ", Some(json!(["JWT"])), Reason::Type),
        ("typ", Some(Value::Null), Reason::Type),
        ("crit", Some(json!(["exp"])), Reason::Critical),
        ("crit", Some(json!([])), Reason::Critical),
        ("crit", Some(Value::Null), Reason::Critical),
        ("jku", Some(json!("https://evil.example/keys")), Reason::ForbiddenHeader),
        ("jwk", Some(OTHER.jwk("k1")), Reason::ForbiddenHeader),
        ("x5u", Some(json!("https://evil.example/cert")), Reason::ForbiddenHeader),
        ("x5c", Some(json!(["MIIB"])), Reason::ForbiddenHeader),
        ("b64", Some(json!(true)), Reason::ForbiddenHeader),
        ("zip", Some(json!("DEF")), Reason::ForbiddenHeader),
        ("cty", Some(json!("JWT")), Reason::ForbiddenHeader),
        ("kid", Some(json!("k2")), Reason::UnknownKey),
        ("kid", Some(json!("K1")), Reason::UnknownKey),
        ("kid", Some(json!("")), Reason::KeyIdMalformed),
        ("kid", Some(json!("k".repeat(257))), Reason::KeyIdMalformed),
        ("kid", Some(json!(1)), Reason::KeyIdMalformed),
        ("kid", Some(Value::Null), Reason::KeyIdMalformed),
    ]
}

#[test]
fn every_claim_that_breaks_one_rule_is_refused_for_that_rule() {
    for (name, value, reason) in claims() {
        refused(&Token::good().claim(name, value), reason);
    }
}

#[test]
fn every_header_that_breaks_one_rule_is_refused_for_that_rule() {
    for (name, value, reason) in headers() {
        refused(&Token::good().header(name, value), reason);
    }
}

#[test]
fn what_the_rules_leave_open_is_accepted() {
    let good = [
        Token::good().claim("aud", json!(["ringfence"])),
        Token::good().claim("nbf", None),
        Token::good().claim("nbf", json!(NOW + 30)),
        Token::good().claim("iat", json!(NOW + 30)),
        Token::good().claim("exp", json!(NOW + 1)),
        Token::good().claim("exp", json!(NOW - 10 + 3600)),
        Token::good().claim("sub", json!("a".repeat(255))),
        Token::good().claim("jti", None),
        Token::good().claim("azp", json!("another client")),
        Token::good().header("kid", None),
        Token::good().header("x5t", json!("abc")),
    ];
    for token in good {
        assert!(came(entry(), &token.signed(&RSA)).is_ok(), "{} {}", token.header, token.claims);
    }
}

#[test]
fn several_audiences_pass_only_by_configuration_and_azp() {
    let by_party = IssuerEntry { by_authorized_party: true, ..entry() };
    let both = Token::good().claim("aud", json!(["ringfence", "other"]));
    let check = |token: Token, expect: Result<&str, Reason>| {
        assert_eq!(came(by_party.clone(), &token.signed(&RSA)), expect.map(str::to_owned), "{}", token.claims);
    };
    check(both.clone().claim("azp", json!("ringfence")), Ok("alice"));
    check(both.clone(), Err(Reason::AuthorizedParty));
    check(both.clone().claim("azp", json!("other")), Err(Reason::AuthorizedParty));
    check(both.clone().claim("azp", json!(["ringfence"])), Err(Reason::AuthorizedParty));
    let without_us = Token::good().claim("aud", json!(["a", "b"])).claim("azp", json!("ringfence"));
    check(without_us, Err(Reason::Audience));
    let no_text = Token::good().claim("aud", json!(["ringfence", 1])).claim("azp", json!("ringfence"));
    check(no_text, Err(Reason::Audience));
    check(Token::good(), Ok("alice"));
}

#[test]
fn a_type_may_be_absent_only_if_the_entry_says_so() {
    let lenient = IssuerEntry { types: vec![Some("at+jwt".to_owned()), None], ..entry() };
    for (typ, expect) in [(None, Ok("alice")), (Some("at+jwt"), Ok("alice")), (Some("JWT"), Err(Reason::Type))] {
        let token = Token::good().header("typ", typ.map(|typ| json!(typ))).signed(&RSA);
        assert_eq!(came(lenient.clone(), &token), expect.map(str::to_owned), "{typ:?}");
    }
}

/// Texts that are no token, whoever signed them.
fn texts() -> Vec<(String, Reason)> {
    let token = Token::good().signed(&RSA);
    let parts: Vec<&str> = token.split('.').collect();
    let (header, claims) = (Token::good().header.to_string(), Token::good().claims.to_string());
    let twice = |text: &str, member: &str| format!("{{{member},{}", &text[1..]);
    let nested = claims.replacen('{', "{\"act\":{\"a\":1,\"a\":2},", 1);
    let long = Token::good().claim("pad", json!("x".repeat(TOKEN_BYTES_MAX))).signed(&RSA);
    vec![
        (long, Reason::TooLong),
        (String::new(), Reason::Malformed),
        (format!("{token}."), Reason::Malformed),
        (format!(".{token}"), Reason::Malformed),
        (format!("{}.{}", parts[0], parts[1]), Reason::Malformed),
        (format!("{}.{}.", parts[0], parts[1]), Reason::Signature),
        (format!("{} .{}.{}", parts[0], parts[1], parts[2]), Reason::Malformed),
        (format!("{token}="), Reason::Malformed),
        (format!("{token}\n"), Reason::Malformed),
        (format!("{}.{}.{}", parts[0], parts[1], parts[2].replace(['-', '_'], "+")), Reason::Malformed),
        (signed_text(&twice(&header, "\"alg\":\"RS256\""), &claims, &RSA), Reason::Malformed),
        (signed_text(&header, &twice(&claims, "\"sub\":\"mallory\""), &RSA), Reason::Malformed),
        (signed_text(&header, &twice(&claims, "\"s\\u0075b\":\"mallory\""), &RSA), Reason::Malformed),
        (signed_text(&header, &nested, &RSA), Reason::Malformed),
        (signed_text(&header, "[]", &RSA), Reason::Malformed),
        (signed_text("\"RS256\"", &claims, &RSA), Reason::Malformed),
        (signed_text(&header, &format!("{claims}{{}}"), &RSA), Reason::Malformed),
        (signed_text(&header, &format!("\u{feff}{claims}"), &RSA), Reason::Malformed),
        (Token::good().signed(&OTHER), Reason::Signature),
        (format!("v4.public.{}.{}", parts[1], parts[2]), Reason::OwnSession),
        (format!("v3.public.{}", parts[1]), Reason::OwnSession),
        (format!("{token}~receipt~"), Reason::OwnSession),
    ]
}

#[test]
fn texts_that_are_no_token_are_refused_for_what_they_are() {
    for (text, reason) in texts() {
        assert_eq!(came(entry(), &text), Err(reason), "{text}");
    }
}

#[test]
fn one_token_has_one_spelling() {
    let token = Token::good().signed(&RSA);
    let (rest, last) = token.split_at(token.len() - 1);
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    // 256 bytes leave two bits of the last character unused.
    for other in alphabet.chars().filter(|c| !last.contains(*c)) {
        assert!(came(entry(), &format!("{rest}{other}")).is_err(), "{other}");
    }
}

#[test]
fn the_key_must_fit_what_it_is_used_for() {
    let weak = |n: usize, e: &[u8]| {
        let mut n = vec![0xff; n];
        n[0] = 0xc1;
        json!({"kty": "RSA", "kid": "k1", "n": b64(&n), "e": b64(e)})
    };
    let with = |name: &str, value: Value| {
        let mut jwk = RSA.jwk("k1");
        jwk[name] = value;
        jwk
    };
    let without_kid = |mut jwk: Value| {
        jwk.as_object_mut().expect("an object").remove("kid");
        jwk
    };
    type Row = (Vec<Value>, Option<&'static str>, Result<(), Reason>);
    let rows: Vec<Row> = vec![
        (vec![with("alg", json!("RS256"))], Some("k1"), Ok(())),
        (vec![with("alg", json!("PS256"))], Some("k1"), Err(Reason::KeyUnfit)),
        (vec![with("alg", json!("RSA-OAEP"))], Some("k1"), Err(Reason::KeyUnfit)),
        (vec![with("use", json!("enc"))], Some("k1"), Err(Reason::KeyUnfit)),
        (vec![with("key_ops", json!(["verify"]))], Some("k1"), Ok(())),
        (vec![with("key_ops", json!(["encrypt"]))], Some("k1"), Err(Reason::KeyUnfit)),
        (vec![Secret::of(Algorithm::Es256).jwk("k1")], Some("k1"), Err(Reason::KeyUnfit)),
        (vec![weak(128, &[1, 0, 1])], Some("k1"), Err(Reason::KeyWeak)),
        (vec![weak(255, &[1, 0, 1])], Some("k1"), Err(Reason::KeyWeak)),
        (vec![weak(1025, &[1, 0, 1])], Some("k1"), Err(Reason::KeyWeak)),
        (vec![weak(256, &[3])], Some("k1"), Err(Reason::KeyWeak)),
        (vec![without_kid(weak(128, &[1, 0, 1]))], None, Err(Reason::KeyWeak)),
        (vec![without_kid(RSA.jwk(""))], None, Ok(())),
        (vec![without_kid(RSA.jwk(""))], Some("k1"), Err(Reason::UnknownKey)),
        (vec![RSA.jwk("k1"), OTHER.jwk("k2")], None, Err(Reason::AmbiguousKey)),
        (vec![RSA.jwk("k1"), Secret::of(Algorithm::Es256).jwk("k2")], None, Ok(())),
        (vec![], None, Err(Reason::AmbiguousKey)),
        (vec![RSA.jwk("k2"), OTHER.jwk("k1")], Some("k1"), Err(Reason::Signature)),
    ];
    for (keys, kid, expect) in rows {
        let world = World::serving(URL, &keys);
        let token = Token::good().header("kid", kid.map(|kid| json!(kid))).signed(&RSA);
        let got = verify(&issuers(vec![entry()], &world), &token, NOW).map(|_| ()).map_err(|r| r.reason);
        assert_eq!(got, expect, "{kid:?} {keys:?}");
    }
}

#[test]
fn every_reason_has_a_row_that_comes_to_it() {
    let mut seen: BTreeSet<Reason> = claims().into_iter().chain(headers()).map(|(_, _, reason)| reason).collect();
    seen.extend(texts().into_iter().map(|(_, reason)| reason));
    // These have tests of their own: azp, keys, and the world around.
    seen.extend([Reason::AuthorizedParty, Reason::KeyUnfit, Reason::KeyWeak, Reason::AmbiguousKey]);
    seen.extend([Reason::KeyShared, Reason::Unreachable, Reason::BadDocuments, Reason::NotRecorded]);
    assert_eq!(seen, Reason::ALL.into_iter().collect());
}

#[test]
fn claims_are_found_by_name_and_by_pointer_and_only_words_are_shown() {
    let token = Token::good()
        .claim("realm_access", json!({"roles": ["admin"], "a/b": {"~": true}}))
        .claim("odd", json!({"x": 1}))
        .claim("mixed", json!(["a", {"b": 1}]))
        .claim("level", json!(3));
    let names = ["/realm_access/roles", "/realm_access/a~1b/~0", "odd", "mixed", "level", "/nowhere/x", "none"];
    let exposing = IssuerEntry { claims: names.map(str::to_owned).to_vec(), ..entry() };
    let world = World::serving(URL, &[RSA.jwk("k1")]);
    let evidence = verify(&issuers(vec![exposing], &world), &token.signed(&RSA), NOW).expect("evidence");
    assert_eq!(evidence.claim("/realm_access/roles"), Some(&ClaimValue::Many(vec!["admin".into()])));
    assert_eq!(evidence.claim("/realm_access/a~1b/~0"), Some(&ClaimValue::One("true".into())));
    assert_eq!(evidence.claim("level"), Some(&ClaimValue::One("3".into())));
    for absent in ["odd", "mixed", "/nowhere/x", "none", "groups"] {
        assert_eq!(evidence.claim(absent), None, "{absent}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_changed_byte_anywhere_makes_it_no_evidence(at in 0_usize..2000, to in any::<u8>()) {
        let token = Token::good().signed(&RSA);
        let mut bytes = token.clone().into_bytes();
        let at = at % bytes.len();
        prop_assume!(bytes[at] != to);
        bytes[at] = to;
        let Ok(changed) = String::from_utf8(bytes) else { return Ok(()) };
        prop_assert!(came(entry(), &changed).is_err());
    }

    #[test]
    fn accepted_times_are_within_the_limits(iat in -90_i64..90, nbf in -90_i64..90, exp in -90_i64..4000) {
        let at = |offset: i64| json!(NOW as i64 + offset);
        let token = Token::good().claim("iat", at(iat)).claim("nbf", at(nbf)).claim("exp", at(exp));
        let within = exp > 0 && iat <= 30 && nbf <= 30 && exp > iat && exp - iat <= 3600;
        prop_assert_eq!(came(entry(), &token.signed(&RSA)).is_ok(), within, "{} {} {}", iat, nbf, exp);
    }
}
