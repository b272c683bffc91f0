//! Keys: where they come from, how long they are good, and that those of one
//! scope never open another (A1, A2 of the design).

use std::sync::atomic::Ordering;

use futures::future::join;
use serde_json::{Value, json};

use super::super::{IssuerEntry, Jwks, Reason, check};
use super::provider::{NOW, OTHER, RSA, Token, URL, World, b64, entry, issuers, run, thumbprint, verify};

const OTHER_URL: &str = "https://idp.example/realms/partner";

fn partner() -> IssuerEntry {
    let (name, tenant) = ("partner".parse().expect("a name"), "partner".parse().expect("a tenant"));
    IssuerEntry { name, tenant, realm: "guests".parse().expect("a realm"), url: OTHER_URL.to_owned(), ..entry() }
}

fn reason<T>(result: Result<T, super::super::Refused>) -> Result<(), Reason> {
    result.map(|_| ()).map_err(|refused| refused.reason)
}

#[test]
fn keys_are_fetched_once_and_again_when_they_are_old() {
    let world = World::serving(URL, &[RSA.jwk("k1")]);
    let issuers = issuers(vec![entry()], &world);
    let token = |now: u64| Token::good().claim("iat", json!(now)).claim("exp", json!(now + 60)).signed(&RSA);
    for _ in 0..3 {
        assert_eq!(reason(verify(&issuers, &token(NOW), NOW)), Ok(()));
    }
    assert_eq!(world.fetches(), 2, "discovery and keys");
    assert_eq!(reason(verify(&issuers, &token(NOW + 899), NOW + 899)), Ok(()));
    assert_eq!(world.fetches(), 2);
    assert_eq!(reason(verify(&issuers, &token(NOW + 900), NOW + 900)), Ok(()));
    assert_eq!(world.fetches(), 4);
    assert_eq!(world.changes().len(), 1, "the same keys again are no change");
}

#[test]
fn a_provider_that_is_down_stops_nobody_for_four_hours_and_everybody_after() {
    let world = World::serving(URL, &[RSA.jwk("k1")]);
    let issuers = issuers(vec![entry()], &world);
    let at = |now: u64| {
        let token = Token::good().claim("iat", json!(now)).claim("nbf", None).claim("exp", json!(now + 60));
        reason(verify(&issuers, &token.signed(&RSA), now))
    };
    assert_eq!(at(NOW), Ok(()));
    world.goes_down();
    assert_eq!(at(NOW + 4 * 3600 - 1), Ok(()));
    assert_eq!(at(NOW + 4 * 3600), Err(Reason::Unreachable));
    assert!(world.failures.load(Ordering::Relaxed) >= 1);
    world.serve(URL, &[RSA.jwk("k1")]);
    assert_eq!(at(NOW + 4 * 3600 + 301), Ok(()));
}

#[test]
fn a_provider_that_is_down_from_the_start_is_asked_with_growing_pauses() {
    let world = World::serving("https://elsewhere.example", &[]);
    let issuers = issuers(vec![entry()], &world);
    let mut asked = vec![];
    for second in 0..700 {
        let before = world.fetches();
        let token = Token::good().claim("iat", json!(NOW)).claim("exp", json!(NOW + 3600)).signed(&RSA);
        assert_eq!(reason(verify(&issuers, &token, NOW + second)), Err(Reason::Unreachable));
        if world.fetches() > before {
            asked.push(second);
        }
    }
    assert_eq!(asked, [0, 10, 30, 70, 150, 310, 610]);
}

#[test]
fn an_unknown_kid_fetches_at_once_and_made_up_ones_with_growing_pauses() {
    let world = World::serving(URL, &[RSA.jwk("k1")]);
    let issuers = issuers(vec![entry()], &world);
    let with = |kid: &str, now| reason(verify(&issuers, &Token::good().header("kid", json!(kid)).signed(&OTHER), now));
    assert_eq!(reason(verify(&issuers, &Token::good().signed(&RSA), NOW)), Ok(()));
    // The provider rotates; its next token is known within the shortest pause.
    world.serve(URL, &[RSA.jwk("k1"), OTHER.jwk("k2")]);
    assert_eq!(with("k2", NOW + 4), Err(Reason::UnknownKey));
    assert_eq!(with("k2", NOW + 5), Ok(()));
    let before = world.fetches();
    for second in 6..186 {
        assert_eq!(with(&format!("made-up-{second}"), NOW + second), Err(Reason::UnknownKey));
    }
    assert_eq!((world.fetches() - before) / 2, 5, "180 made-up names in 180 seconds");
    assert_eq!(with("k2", NOW + 186), Ok(()));
}

#[test]
fn many_tokens_at_once_are_one_flight() {
    let world = World::serving(URL, &[RSA.jwk("k1")]);
    world.slow.store(true, Ordering::Relaxed);
    let issuers = issuers(vec![entry()], &world);
    let token = Token::good().signed(&RSA);
    let (a, b) = run(join(issuers.verify(&token, NOW), issuers.verify(&token, NOW)));
    assert!(a.is_ok() && b.is_ok());
    assert_eq!(world.fetches(), 2, "discovery and keys");
}

#[test]
fn a_change_of_keys_takes_effect_after_it_is_on_record() {
    let world = World::serving(URL, &[RSA.jwk("k1")]);
    let issuers = issuers(vec![entry()], &world);
    let mut later = NOW;
    let mut by = |secret, kid: &str| {
        later += 10;
        let token = Token::good().header("kid", json!(kid)).signed(secret);
        reason(verify(&issuers, &token, later))
    };
    world.log_is_full.store(true, Ordering::Relaxed);
    assert_eq!(by(&RSA, "k1"), Err(Reason::NotRecorded));
    world.log_is_full.store(false, Ordering::Relaxed);
    assert_eq!(by(&RSA, "k1"), Ok(()));
    world.serve(URL, &[OTHER.jwk("k2")]);
    world.log_is_full.store(true, Ordering::Relaxed);
    assert_eq!(by(&OTHER, "k2"), Err(Reason::UnknownKey));
    assert_eq!(by(&RSA, "k1"), Ok(()), "the change is not in force");
    world.log_is_full.store(false, Ordering::Relaxed);
    assert_eq!(by(&OTHER, "k2"), Ok(()));
    assert_eq!(by(&RSA, "k1"), Err(Reason::UnknownKey), "withdrawn");
    let [first, second] = &world.changes()[..] else { panic!("two changes: {:?}", world.changes()) };
    let (k1, k2) = (thumbprint(&RSA.jwk("k1")), thumbprint(&OTHER.jwk("k2")));
    assert!(first.first && first.added == [k1.clone()] && first.removed.is_empty());
    assert!(!second.first && second.added == [k2] && second.removed == [k1]);
}

#[test]
fn only_the_issuers_own_documents_count() {
    let good = json!({"issuer": URL, "jwks_uri": format!("{URL}/keys")});
    let with = |name: &str, value: Value| {
        let mut document = good.clone();
        document[name] = value;
        document
    };
    let rows = [
        (good.clone(), Ok(())),
        (with("issuer", json!(format!("{URL}/"))), Err(Reason::BadDocuments)),
        (with("issuer", json!([URL])), Err(Reason::BadDocuments)),
        (with("issuer", json!("https://idp.example")), Err(Reason::BadDocuments)),
        (with("jwks_uri", json!("https://evil.example/keys")), Err(Reason::BadDocuments)),
        (with("jwks_uri", json!("https://idp.example:444/keys")), Err(Reason::BadDocuments)),
        (with("jwks_uri", json!("http://idp.example/keys")), Err(Reason::BadDocuments)),
        (with("jwks_uri", json!("https://idp.example@evil.example/keys")), Err(Reason::BadDocuments)),
        (with("jwks_uri", json!("https://user@idp.example/keys")), Err(Reason::BadDocuments)),
        (with("jwks_uri", json!("file:///etc/keys")), Err(Reason::BadDocuments)),
        (with("jwks_uri", json!(1)), Err(Reason::BadDocuments)),
        (json!([]), Err(Reason::BadDocuments)),
    ];
    for (document, expect) in rows {
        let world = World::serving(URL, &[RSA.jwk("k1")]);
        for place in ["https://evil.example/keys", "https://idp.example:444/keys", "http://idp.example/keys"] {
            world.put(place, json!({"keys": [RSA.jwk("k1")]}));
        }
        world.put(&format!("{URL}/.well-known/openid-configuration"), document.clone());
        let got = reason(verify(&issuers(vec![entry()], &world), &Token::good().signed(&RSA), NOW));
        assert_eq!(got, expect, "{document}");
    }
}

#[test]
fn a_pinned_place_is_used_without_discovery() {
    let world = World::serving("https://elsewhere.example", &[RSA.jwk("k1")]);
    let entry = IssuerEntry { jwks_uri: Some("https://elsewhere.example/keys".to_owned()), ..entry() };
    assert_eq!(reason(verify(&issuers(vec![entry], &world), &Token::good().signed(&RSA), NOW)), Ok(()));
    assert_eq!(*world.fetched.lock().expect("unharmed"), ["https://elsewhere.example/keys"]);
}

#[test]
fn http_is_for_loopback_and_only_where_it_is_switched_on() {
    let with = |url: &str, on: bool| check(&[IssuerEntry { url: url.to_owned(), allow_loopback_http: on, ..entry() }]);
    for url in ["http://127.0.0.1:8080/a", "http://[::1]/a", "http://localhost:1/a", "http://127.9.9.9"] {
        assert!(with(url, true).is_ok(), "{url}");
        assert!(with(url, false).is_err(), "{url}");
    }
    for url in ["http://idp.example", "http://127.0.0.1.evil.example", "http://10.0.0.1", "ftp://127.0.0.1", "corp", ""]
    {
        assert!(with(url, true).is_err(), "{url}");
    }
    for url in ["https://idp.example/a?b", "https://idp.example/a#b", "https://u:p@idp.example/"] {
        assert!(with(url, false).is_err(), "{url}");
    }
}

/// A2: a configuration with one place of keys under two realms fails to load.
#[test]
fn a2_one_jwks_uri_under_two_realms_needs_pins() {
    let uri = || Some("https://keys.example/common".to_owned());
    let pair = |a: &[&Value], b: &[&Value]| {
        let pins = |keys: &[&Value]| keys.iter().map(|key| thumbprint(key)).collect();
        let a = IssuerEntry { jwks_uri: uri(), pins: pins(a), ..entry() };
        let b = IssuerEntry { jwks_uri: uri(), pins: pins(b), ..partner() };
        check(&[a, b]).map_err(|bad| bad.field)
    };
    let (k1, k2) = (RSA.jwk("k1"), OTHER.jwk("k2"));
    assert_eq!(pair(&[], &[]), Err("jwks_uri"));
    assert_eq!(pair(&[&k1], &[]), Err("jwks_uri"));
    assert_eq!(pair(&[], &[&k2]), Err("jwks_uri"));
    assert_eq!(pair(&[&k1], &[&k2]), Ok(()));
    assert_eq!(pair(&[&k1], &[&k1]), Err("pin"), "one key, two realms");
    let twice = IssuerEntry { url: URL.to_owned(), ..partner() };
    assert_eq!(check(&[entry(), twice]).map_err(|bad| bad.field), Err("url"));
    let torn = IssuerEntry { tenant: entry().tenant, ..partner() };
    assert_eq!(check(&[entry(), torn]).map_err(|bad| bad.field), Err("realm"), "one tenant, two realms");
}

/// A1 and A2: also with both keys published by both issuers, a key of one never
/// verifies for the other, in whichever order they were seen.
#[test]
fn a1_a_key_of_one_scope_never_opens_another() {
    let (k1, k2) = (RSA.jwk("k1"), OTHER.jwk("k2"));
    let token = |iss: &str, kid: &str| Token::good().claim("iss", json!(iss)).header("kid", json!(kid));
    let keys = [("k1", &*RSA), ("k2", &*OTHER)];
    let scopes = [(URL, "k1"), (OTHER_URL, "k2")];
    // Each serves its own: the other's key is unknown.
    let world = World::serving(URL, std::slice::from_ref(&k1));
    world.serve(OTHER_URL, std::slice::from_ref(&k2));
    let apart = issuers(vec![entry(), partner()], &world);
    for (iss, own) in scopes {
        for (kid, secret) in keys {
            let expect = if kid == own { Ok(()) } else { Err(Reason::UnknownKey) };
            assert_eq!(reason(verify(&apart, &token(iss, kid).signed(secret), NOW)), expect, "{iss} {kid}");
        }
    }
    // Both serve both: nobody's key is good any more, until each is pinned.
    let world = World::serving(URL, &[k1.clone(), k2.clone()]);
    world.serve(OTHER_URL, &[k1.clone(), k2.clone()]);
    let merged = issuers(vec![entry(), partner()], &world);
    run(merged.refresh(NOW));
    for (iss, _) in scopes {
        for (kid, secret) in keys {
            assert_eq!(reason(verify(&merged, &token(iss, kid).signed(secret), NOW)), Err(Reason::KeyShared));
        }
    }
    assert_eq!(world.changes()[1].shared.len(), 2, "the second that came is reported");
    let a = IssuerEntry { pins: vec![thumbprint(&k1)], ..entry() };
    let b = IssuerEntry { pins: vec![thumbprint(&k2)], ..partner() };
    let pinned = issuers(vec![a.clone(), b], &world);
    for (iss, own) in scopes {
        for (kid, secret) in keys {
            let expect = if kid == own { Ok(()) } else { Err(Reason::UnknownKey) };
            assert_eq!(reason(verify(&pinned, &token(iss, kid).signed(secret), NOW)), expect, "{iss} {kid}");
        }
    }
    // One pins, the other does not: the pinned key is not the other's.
    let half = issuers(vec![a, partner()], &world);
    assert_eq!(reason(verify(&half, &token(OTHER_URL, "k1").signed(&RSA), NOW)), Err(Reason::KeyShared));
    assert_eq!(reason(verify(&half, &token(URL, "k1").signed(&RSA), NOW)), Ok(()));
}

#[test]
fn a_key_set_is_read_strictly() {
    let parse = |value: Value| Jwks::parse(value.to_string().as_bytes()).map(|set| set.thumbprints().len());
    let with = |name: &str, value: Value| {
        let mut jwk = RSA.jwk("k1");
        jwk[name] = value;
        json!({ "keys": [jwk] })
    };
    let (k1, k2) = (RSA.jwk("k1"), OTHER.jwk("k2"));
    assert_eq!(parse(json!({"keys": [k1, k2], "issuer": "ignored"})), Ok(2));
    assert_eq!(parse(json!({"keys": []})), Ok(0));
    let ec = json!({"kty": "EC", "crv": "secp256k1", "kid": "e", "x": "AA", "y": "AA"});
    assert_eq!(parse(json!({"keys": [k1, ec]})), Ok(1), "a kind that nothing uses");
    let bad = [
        json!({}),
        json!([]),
        json!({"keys": {}}),
        json!({"keys": ["k1"]}),
        json!({"keys": [k1, OTHER.jwk("k1")]}),
        json!({"keys": [k1, RSA.jwk("k3")]}),
        json!({"keys": [{"kty": "oct", "k": "AAAA", "kid": "s"}]}),
        json!({"keys": [{"kid": "no kind"}]}),
        with("d", json!("AQAB")),
        with("p", json!("AQAB")),
        with("kid", json!("")),
        with("kid", json!(1)),
        with("use", json!(["sig"])),
        with("key_ops", json!("verify")),
        with("alg", json!(1)),
        with("n", json!("AQAB=")),
        with("n", json!("")),
        with("n", json!(b64(&[0, 1, 2, 3]))),
        with("e", Value::Null),
        json!({"keys": [{"kty": "EC", "crv": "P-256", "x": b64(&[1; 31]), "y": b64(&[1; 32])}]}),
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": b64(&[1; 33])}]}),
        json!({"keys": (0..33).map(|i| json!({"kty": "other", "kid": i.to_string()})).collect::<Vec<_>>()}),
        json!({"keys": [], "pad": "x".repeat(64 * 1024)}),
    ];
    for value in bad {
        assert!(parse(value.clone()).is_err(), "{}", value.to_string().chars().take(200).collect::<String>());
    }
    assert!(Jwks::parse(br#"{"keys":[],"keys":[]}"#).is_err());
}

/// RFC 7638, section 3.1, and RFC 8037, appendix A.3.
#[test]
fn thumbprints_are_those_of_the_standards() {
    let rsa = json!({"kty": "RSA", "e": "AQAB", "alg": "RS256", "kid": "2011-04-29", "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"});
    assert_eq!(thumbprint(&rsa), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    let ed = json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
    assert_eq!(thumbprint(&ed), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
}

#[test]
fn an_entry_that_cannot_be_one_is_refused_by_its_field() {
    let wrong = |change: &dyn Fn(&mut IssuerEntry)| {
        let mut entry = entry();
        change(&mut entry);
        check(&[entry]).map_err(|bad| bad.field)
    };
    assert_eq!(wrong(&|_| {}), Ok(()));
    assert_eq!(wrong(&|e| e.name = "a--b".parse().expect("a name")), Err("name"));
    assert_eq!(wrong(&|e| e.audience.clear()), Err("audience"));
    assert_eq!(wrong(&|e| e.algorithms.clear()), Err("algorithms"));
    assert_eq!(wrong(&|e| e.types = vec![Some(String::new())]), Err("typ"));
    assert_eq!(wrong(&|e| e.types.clear()), Err("typ"));
    assert_eq!(wrong(&|e| e.max_token_age_s = 0), Err("max_token_age_s"));
    assert_eq!(wrong(&|e| e.max_token_age_s = 86_401), Err("max_token_age_s"));
    assert_eq!(wrong(&|e| e.pins = vec!["abc".to_owned()]), Err("pin"));
    assert_eq!(wrong(&|e| e.jwks_uri = Some("http://127.0.0.1/".to_owned())), Err("jwks_uri"));
    assert_eq!(wrong(&|e| e.claims = vec![String::new()]), Err("claims"));
    let same = IssuerEntry { url: OTHER_URL.to_owned(), ..entry() };
    assert_eq!(check(&[entry(), same]).map_err(|bad| bad.field), Err("name"));
}
