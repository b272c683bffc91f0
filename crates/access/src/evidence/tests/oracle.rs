//! openidconnect as judge: what we accept as evidence, it accepts as a token of
//! that issuer for us. The other way round need not hold: it knows neither our
//! limits nor `iat` and `nbf` in the future.

use std::str::FromStr;
use std::time::{Duration, UNIX_EPOCH};

use openidconnect::core::{CoreIdToken, CoreIdTokenVerifier, CoreJsonWebKeySet, CoreJwsSigningAlgorithm};
use openidconnect::{ClientId, IssuerUrl, Nonce};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use serde_json::{Value, json};

use super::super::{Algorithm, IssuerEntry};
use super::provider::{NOW, OTHER, RSA, Secret, Token, URL, World, entry, issuers, signed_text, verify};

fn oracle(token: &str, keys: &[Value]) -> bool {
    let Ok(token) = CoreIdToken::from_str(token) else { return false };
    let keys: CoreJsonWebKeySet = serde_json::from_value(json!({ "keys": keys })).expect("a key set");
    let issuer = IssuerUrl::new(URL.to_owned()).expect("a URL");
    let verifier = CoreIdTokenVerifier::new_public_client(ClientId::new("ringfence".to_owned()), issuer, keys)
        .set_allowed_algs([
            CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
            CoreJwsSigningAlgorithm::RsaSsaPssSha384,
            CoreJwsSigningAlgorithm::EcdsaP256Sha256,
            CoreJwsSigningAlgorithm::EcdsaP384Sha384,
            CoreJwsSigningAlgorithm::EdDsa,
        ])
        .set_time_fn(|| (UNIX_EPOCH + Duration::from_secs(NOW)).into())
        .set_other_audience_verifier_fn(|_| true);
    token.claims(&verifier, |_: Option<&Nonce>| Ok(())).is_ok()
}

const ALGORITHMS: [Algorithm; 5] =
    [Algorithm::Rs256, Algorithm::Ps384, Algorithm::Es256, Algorithm::Es384, Algorithm::EdDsa];

/// Mostly what is right, else one of these.
fn or(right: Value, others: Vec<Value>) -> impl Strategy<Value = Option<Value>> {
    let others = others.into_iter().map(Some).chain([None]).collect::<Vec<_>>();
    prop_oneof![6 => Just(Some(right)), 1 => prop::sample::select(others)]
}

fn at(offset: i64) -> Value {
    json!(NOW as i64 + offset)
}

fn tokens() -> impl Strategy<Value = (Token, usize, bool)> {
    let header = (
        or(json!("JWT"), vec![json!("jwt"), json!("at+jwt"), json!(1)]),
        or(json!("k1"), vec![json!("k2"), json!(1)]),
        or(Value::Null, vec![json!(["exp"])]),
    );
    let claims = (
        or(json!(URL), vec![json!([URL]), json!(format!("{URL}/")), json!("https://evil.example")]),
        or(json!("ringfence"), vec![json!(["ringfence"]), json!(["ringfence", "b"]), json!("b"), json!([])]),
        or(json!("alice"), vec![json!(""), json!(7)]),
        or(at(290), vec![at(0), at(-1), at(4000), json!("soon"), json!(NOW as f64 + 5.5)]),
        or(at(-10), vec![at(29), at(31), at(-9000), json!("then")]),
        or(at(-10), vec![at(29), at(31), json!("then")]),
        or(Value::Null, vec![json!("ringfence"), json!("other")]),
    );
    (header, claims, 0..ALGORITHMS.len(), prop::bool::weighted(0.1)).prop_map(|(header, claims, algorithm, stolen)| {
        let mut token = Token::good().header("alg", json!(ALGORITHMS[algorithm].as_str()));
        token = token.header("typ", header.0).header("kid", header.1);
        if let Some(crit) = header.2.filter(|crit| !crit.is_null()) {
            token = token.header("crit", crit);
        }
        token = token.claim("iss", claims.0).claim("aud", claims.1).claim("sub", claims.2);
        token = token.claim("exp", claims.3).claim("iat", claims.4).claim("nbf", claims.5);
        if let Some(azp) = claims.6.filter(|azp| !azp.is_null()) {
            token = token.claim("azp", azp);
        }
        (token, algorithm, stolen)
    })
}

#[test]
fn what_we_accept_the_oracle_accepts() {
    let secrets = ALGORITHMS.map(Secret::of);
    let (mut both, mut only_oracle, mut neither) = (0, 0, 0);
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for _ in 0..3000 {
        let (token, algorithm, stolen) = tokens().new_tree(&mut runner).expect("a token").current();
        let keys = [secrets[algorithm].jwk("k1")];
        let stranger = Secret::of(Algorithm::EdDsa);
        let by = match (stolen, &secrets[algorithm]) {
            (false, own) => own,
            (true, Secret::Rsa(_)) => &*OTHER,
            (true, Secret::Ed25519(_)) => &stranger,
            (true, own) => own,
        };
        let text = token.signed(by);
        let by_party = IssuerEntry { by_authorized_party: true, algorithms: ALGORITHMS.to_vec(), ..entry() };
        let ours = verify(&issuers(vec![by_party], &World::serving(URL, &keys)), &text, NOW).is_ok();
        match (ours, oracle(&text, &keys)) {
            (true, false) => panic!("we alone accept {} {}", token.header, token.claims),
            (true, true) => both += 1,
            (false, true) => only_oracle += 1,
            (false, false) => neither += 1,
        }
    }
    // Else nothing was compared.
    assert!(both > 300 && only_oracle > 30 && neither > 300, "{both} {only_oracle} {neither}");
}

#[test]
fn the_oracle_shows_why_it_alone_would_not_do() {
    let keys = [RSA.jwk("k1")];
    let ours = |text: &str| verify(&issuers(vec![entry()], &World::serving(URL, &keys)), text, NOW).is_ok();
    let future = Token::good().claim("nbf", at(100)).claim("iat", at(100)).claim("exp", at(200)).signed(&RSA);
    assert!(oracle(&future, &keys) && !ours(&future), "`iat` and `nbf` in the future");
    let good = Token::good();
    let plain = signed_text(&good.header.to_string(), &good.claims.to_string(), &RSA);
    assert!(oracle(&plain, &keys) && ours(&plain));
}
