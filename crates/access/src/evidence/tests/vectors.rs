//! Project Wycheproof's vectors for JWS and JWK (testdata/wycheproof), through
//! the code that takes tokens apart, chooses keys and checks signatures. Their
//! payloads are no claims, so claims are left out.

use serde_json::Value;

use super::super::token::all_but_claims;
use super::super::{Algorithm, IssuerEntry, Jwks, Reason};
use super::provider::entry;

/// Valid vectors that we refuse, and why.
const REFUSED: [(&str, &str); 3] = [
    ("HS", "nothing symmetric is evidence"),
    ("ES512", "P-521 is in no provider's use and not in our list"),
    ("ES521", "the vectors' own misspelling of it"),
];

fn groups(text: &str) -> Vec<Value> {
    let set: Value = serde_json::from_str(text).expect("JSON");
    set["testGroups"].as_array().expect("groups").clone()
}

fn came(jws: &str, keys: &Value) -> Result<(), Reason> {
    let keys = if keys.get("keys").is_some() { keys.clone() } else { serde_json::json!({ "keys": [keys] }) };
    let keys = Jwks::parse(keys.to_string().as_bytes()).map_err(|_| Reason::BadDocuments)?;
    let types = vec![None, Some("JWT".to_owned()), Some("JOSE".to_owned())];
    let lenient = IssuerEntry { algorithms: Algorithm::ALL.to_vec(), types, ..entry() };
    all_but_claims(jws, &lenient, &keys)
}

/// Each vector: what it must come to, and whether the key is one we could use.
fn run(text: &str, exceptions: &[(u64, &str)]) -> (usize, usize) {
    let (mut accepted, mut refused, mut wrong) = (0, 0, vec![]);
    for group in groups(text) {
        let private = group["private"].clone();
        let keys = if group["public"].is_null() { &private } else { &group["public"] };
        assert!(came("a.b.c", &private).is_err(), "a private key is in a set");
        for test in group["tests"].as_array().expect("tests") {
            let id = test["tcId"].as_u64().expect("a number");
            let Some(jws) = test["jws"].as_str() else { panic!("{id}: no text: {test}") };
            let got = came(jws, keys);
            let named = format!("{} {}", keys, header_of(jws));
            let ours = !REFUSED.iter().any(|(word, _)| named.contains(&format!("\"{word}")));
            let excepted = exceptions.iter().any(|(excepted, _)| *excepted == id);
            let expect = (test["result"] == "valid" && ours) != excepted;
            if got.is_ok() != expect {
                wrong.push(format!("{id}: {} {got:?} {named}", test["comment"]));
            }
            match got {
                Ok(()) => accepted += 1,
                Err(_) => refused += 1,
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    (accepted, refused)
}

fn header_of(jws: &str) -> String {
    use base64::Engine as _;
    let header = jws.split('.').next().unwrap_or_default();
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(header).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn wycheproof_signatures_come_to_what_they_must() {
    let text = include_str!("../../../testdata/wycheproof/json_web_signature_test.json");
    // Keys that say they are for PS256, over a token of PS384.
    let (accepted, refused) = run(text, &[(346, "PS256"), (350, "PS256")]);
    assert!(accepted >= 30 && refused >= 300, "{accepted} accepted, {refused} refused");
}

#[test]
fn wycheproof_keys_come_to_what_they_must() {
    let text = include_str!("../../../testdata/wycheproof/json_web_key_test.json");
    // A ROCA key (CVE-2017-15361) is a well-formed one; a provider that has one
    // has lost its signatures, and its change is on record like any other.
    let (accepted, refused) = run(text, &[(7, "ROCA")]);
    assert!(accepted >= 2 && refused >= 20, "{accepted} accepted, {refused} refused");
}
