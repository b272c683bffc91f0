use aws_lc_rs::rsa::KeySize;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::evidence::tests::provider::{RSA, Secret, b64};

const NOW: u64 = 1_790_000_000;
const URL: &str = "https://files.example/reports/1";
const TOKEN: &str = "v4.public.a~b~";

/// A proof that is good unless it is made wrong.
struct Proof {
    header: Value,
    claims: Value,
}

impl Proof {
    fn good(key: &Secret, algorithm: &str) -> Self {
        let mut jwk = key.jwk("k");
        jwk.as_object_mut().expect("an object").remove("kid");
        let ath = b64(digest(&SHA256, TOKEN.as_bytes()).as_ref());
        Self {
            header: json!({"typ": "dpop+jwt", "alg": algorithm, "jwk": jwk}),
            claims: json!({"jti": "an-id", "htm": "GET", "htu": URL, "iat": NOW, "ath": ath}),
        }
    }

    fn header(mut self, name: &str, value: Value) -> Self {
        self.header[name] = value;
        self
    }

    fn claim(mut self, name: &str, value: Value) -> Self {
        self.claims[name] = value;
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.header.as_object_mut().expect("an object").remove(name);
        self.claims.as_object_mut().expect("an object").remove(name);
        self
    }

    fn signed(&self, key: &Secret) -> String {
        let algorithm = self.header["alg"].as_str().unwrap_or_default();
        signed(&self.header.to_string(), &self.claims.to_string(), key, algorithm)
    }
}

fn signed(header: &str, claims: &str, key: &Secret, algorithm: &str) -> String {
    let message = format!("{}.{}", b64(header.as_bytes()), b64(claims.as_bytes()));
    format!("{message}.{}", b64(&key.sign(algorithm, message.as_bytes())))
}

fn asked() -> Request<'static> {
    Request { method: "GET", url: URL, token: Some(TOKEN), bound_to: None }
}

fn fresh() -> Proofs {
    Proofs::new(1000, 0)
}

fn prove(proof: &str) -> Result<String, Reason> {
    fresh().prove(proof, &asked(), NOW).map(|key| key.thumbprint().to_owned())
}

fn p256() -> Secret {
    Secret::of(Algorithm::Es256)
}

/// RFC 9449, figures 2 and 13, with the thumbprint of section 6.1.
#[test]
fn the_examples_of_the_rfc_hold() {
    const HEADER: &str = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0Vj\
        NoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSI\
        sImNydiI6IlAtMjU2In19";
    const THUMBPRINT: &str = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";
    let at_token = format!(
        "{HEADER}.eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rv\
         a2VuIiwiaWF0IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV3\
         7xRZT3Lg"
    );
    let request = Request { method: "POST", url: "https://server.example.com/token", token: None, bound_to: None };
    let key = fresh().prove(&at_token, &request, 1_562_262_616).expect("holds");
    assert_eq!(key.thumbprint(), THUMBPRINT);

    let at_resource = format!(
        "{HEADER}.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9w\
         cm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzb\
         VFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA"
    );
    let token = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU";
    let url = "https://resource.example.org/protectedresource";
    let request = Request { method: "GET", url, token: Some(token), bound_to: Some(THUMBPRINT) };
    assert_eq!(fresh().prove(&at_resource, &request, 1_562_262_618).expect("holds").thumbprint(), THUMBPRINT);
}

#[test]
fn every_announced_algorithm_is_taken_and_no_other() {
    for algorithm in Algorithm::ALL {
        let key = Secret::of(algorithm);
        let came = prove(&Proof::good(&key, algorithm.as_str()).signed(&key));
        let expected = if ALGORITHMS.contains(&algorithm) { Ok(()) } else { Err(Reason::Algorithm) };
        assert_eq!(came.map(|_| ()), expected, "{algorithm:?}");
    }
    let key = p256();
    for none in ["none", "HS256", "es256", ""] {
        let proof = Proof::good(&key, none).signed(&key);
        assert_eq!(prove(&proof), Err(Reason::Algorithm), "{none}");
    }
}

/// Each is good but for one thing.
#[test]
fn each_rule_refuses_what_breaks_it_alone() {
    let key = p256();
    let good = || Proof::good(&key, "ES256");
    let refused = |proof: Proof, reason| assert_eq!(prove(&proof.signed(&key)), Err(reason), "{}", proof.claims);
    assert!(prove(&good().signed(&key)).is_ok());

    for typ in [json!("JWT"), json!("DPOP+JWT"), json!("application/dpop+jwt"), json!(["dpop+jwt"]), Value::Null] {
        refused(good().header("typ", typ), Reason::Type);
    }
    refused(good().without("typ"), Reason::Type);
    refused(good().header("crit", json!([])), Reason::Critical);
    for name in FORBIDDEN {
        refused(good().header(name, json!("https://elsewhere.example")), Reason::ForbiddenHeader);
    }
    refused(good().without("jwk"), Reason::Key);
    for jwk in [Value::Null, json!("x"), json!({}), json!({"kty": "oct", "k": "AAAA"})] {
        refused(good().header("jwk", jwk), Reason::Key);
    }
    for member in ["d", "p", "k"] {
        let mut jwk = good().header["jwk"].clone();
        jwk[member] = json!("AAAA");
        refused(good().header("jwk", jwk), Reason::Key);
    }
    for (member, value) in [("alg", json!("ES384")), ("use", json!("enc")), ("key_ops", json!(["sign"]))] {
        let mut jwk = good().header["jwk"].clone();
        jwk[member] = value;
        refused(good().header("jwk", jwk), Reason::KeyUnfit);
    }
    refused(good().header("jwk", RSA.jwk("k")), Reason::KeyUnfit);
    refused(good().header("jwk", p256().jwk("k")), Reason::Signature);

    for id in [json!(""), json!("x".repeat(256)), json!(7), Value::Null] {
        refused(good().claim("jti", id), Reason::Id);
    }
    refused(good().without("jti"), Reason::Id);
    for method in ["POST", "get", "GET ", ""] {
        refused(good().claim("htm", json!(method)), Reason::Method);
    }
    refused(good().without("htm"), Reason::Method);
    refused(good().claim("ath", json!(b64(digest(&SHA256, b"another").as_ref()))), Reason::Token);
    refused(good().without("ath"), Reason::Token);
    for time in
        [json!(NOW - 61), json!(NOW + 61), json!(-1), json!(NOW as f64 + 0.5), json!(NOW.to_string()), Value::Null]
    {
        refused(good().claim("iat", time), Reason::Time);
    }
    refused(good().without("iat"), Reason::Time);
    refused(good().claim("exp", json!(NOW)), Reason::Time);
    refused(good().claim("nbf", json!(NOW + 61)), Reason::Time);
    for ok in [json!(NOW - 60), json!(NOW + 60)] {
        assert!(prove(&good().claim("iat", ok).signed(&key)).is_ok());
    }
    assert!(prove(&good().claim("exp", json!(NOW + 1)).claim("nbf", json!(NOW)).signed(&key)).is_ok());
    let bound = Request { bound_to: Some("another"), ..asked() };
    let proof = good().signed(&key);
    assert_eq!(fresh().prove(&proof, &bound, NOW).map(|_| ()), Err(Reason::OtherKey));
}

#[test]
fn a_short_rsa_key_proves_nothing() {
    let key = Secret::Rsa(aws_lc_rs::signature::RsaKeyPair::generate(KeySize::Rsa2048).expect("a key"));
    let mut jwk = key.jwk("k");
    jwk["n"] = json!(b64(&[0xc1; 128]));
    assert_eq!(prove(&Proof::good(&key, "RS256").header("jwk", jwk).signed(&key)), Err(Reason::KeyUnfit));
}

#[test]
fn a_url_is_compared_by_scheme_host_port_and_path() {
    let key = p256();
    let said = |htu: &str| prove(&Proof::good(&key, "ES256").claim("htu", json!(htu)).signed(&key)).map(|_| ());
    for same in [
        "https://files.example/reports/1",
        "HTTPS://FILES.example:443/reports/1",
        "https://files.example/reports/1?q=1#x",
        "https://files.example/a/../reports/./1",
        "https://files.example/%72eports/%31",
    ] {
        assert_eq!(said(same), Ok(()), "{same}");
    }
    for other in [
        "http://files.example/reports/1",
        "https://files.example:8443/reports/1",
        "https://files.example.org/reports/1",
        "https://files.example/reports/1/",
        "https://files.example/Reports/1",
        "https://files.example/reports%2F1",
        "https://files.example//reports/1",
        "https://files.example/reports/%1",
        "https://user@files.example/reports/1",
        "https:\\\\files.example\\reports\\1",
        "https://files.example/repo\trts/1",
        " https://files.example/reports/1",
        "//files.example/reports/1",
        "/reports/1",
        "ftp://files.example/reports/1",
        "",
    ] {
        assert_eq!(said(other), Err(Reason::Url), "{other}");
    }
    let asked = Request { url: "not a url", ..asked() };
    let proof = Proof::good(&key, "ES256").claim("htu", json!("not a url")).signed(&key);
    assert_eq!(fresh().prove(&proof, &asked, NOW).map(|_| ()), Err(Reason::Url));
}

#[test]
fn what_two_readers_could_read_differently_is_malformed() {
    let key = p256();
    let good = Proof::good(&key, "ES256");
    let proof = good.signed(&key);
    let claims = good.claims.to_string();
    let twice = claims.replacen('{', r#"{"htm":"POST","#, 1);
    assert_eq!(prove(&signed(&good.header.to_string(), &twice, &key, "ES256")), Err(Reason::Malformed));
    for bad in [
        String::new(),
        "a.b".to_owned(),
        format!("{proof}="),
        format!("{proof}.x"),
        format!(" {proof}"),
        format!("x.{proof}"),
        proof.replacen('.', "=.", 1),
    ] {
        assert_eq!(prove(&bad), Err(Reason::Malformed), "{bad}");
    }
    let long = good.claim("more", json!("x".repeat(PROOF_BYTES_MAX))).signed(&key);
    assert_eq!(prove(&long), Err(Reason::TooLong));
}

#[test]
fn a_proof_is_shown_once_and_ids_of_other_keys_are_their_own() {
    let (key, other) = (p256(), p256());
    let proofs = fresh();
    let show = |proof: Proof, key: &Secret, now_s| proofs.prove(&proof.signed(key), &asked(), now_s).map(|_| ());
    assert_eq!(show(Proof::good(&key, "ES256"), &key, NOW), Ok(()));
    for now_s in [NOW, NOW + 1, NOW + 60, NOW - 60] {
        assert_eq!(show(Proof::good(&key, "ES256"), &key, now_s), Err(Reason::Replayed));
    }
    let later = Proof::good(&key, "ES256").claim("iat", json!(NOW + 50));
    assert_eq!(show(later, &key, NOW + 50), Err(Reason::Replayed), "an id of a key is used once");
    assert_eq!(show(Proof::good(&other, "ES256"), &other, NOW), Ok(()));
}

/// A clock that is set back, and a process that begins again, open no gap.
#[test]
fn what_was_let_go_or_shown_to_the_last_process_is_refused() {
    let key = p256();
    let proofs = fresh();
    let show = |id: &str, iat: u64, now_s| {
        let proof = Proof::good(&key, "ES256").claim("jti", json!(id)).claim("iat", json!(iat));
        proofs.prove(&proof.signed(&key), &asked(), now_s).map(|_| ())
    };
    assert_eq!(show("a", NOW, NOW), Ok(()));
    assert_eq!(show("b", NOW + 300, NOW + 300), Ok(()));
    assert_eq!(show("a", NOW, NOW), Err(Reason::Time), "the clock was set back");

    let begun = Proofs::new(10, NOW);
    let at = |iat: u64| {
        let proof = Proof::good(&key, "ES256").claim("iat", json!(iat)).signed(&key);
        begun.prove(&proof, &asked(), NOW + 1).map(|_| ())
    };
    assert_eq!(at(NOW), Err(Reason::BeforeStart));
    assert_eq!(at(NOW + 1), Ok(()));
}

#[test]
fn a_full_memory_refuses_and_has_room_again_later() {
    let mut seen = Seen::new(3, 0);
    let name = |n: u8| [n; 16];
    for n in 0..3 {
        assert_eq!(seen.remember(&name(n), NOW, NOW), Ok(()));
    }
    assert_eq!(seen.remember(&name(3), NOW, NOW), Err(Reason::Full));
    assert_eq!(seen.remember(&name(0), NOW, NOW), Err(Reason::Replayed), "nothing was forgotten for it");
    assert_eq!(seen.remember(&name(3), NOW + 100, NOW + 100), Ok(()));
}

proptest! {
    /// Whatever the order of requests and the moves of a clock that goes on, no
    /// name is taken twice.
    #[test]
    fn nothing_is_taken_twice(
        shows in prop::collection::vec((0_u8..6, 0_u64..200, 0_u64..15), 1..200),
    ) {
        let (mut seen, mut now_s) = (Seen::new(1000, 0), NOW);
        let mut taken = std::collections::BTreeSet::new();
        for (name, back, passed) in shows {
            now_s += passed;
            let iat = now_s + 60 - back.min(120);
            // As a signature would, the name stands for its time as well.
            let mut whole = [name; 16];
            whole[..8].copy_from_slice(&iat.to_be_bytes());
            if seen.remember(&whole, iat, now_s).is_ok() {
                prop_assert!(taken.insert(whole), "twice");
            }
        }
    }

    /// No byte of a proof can be changed.
    #[test]
    fn a_changed_proof_is_refused(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let key = p256();
        let proof = Proof::good(&key, "ES256").signed(&key);
        let mut bytes = proof.clone().into_bytes();
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != to);
        bytes[at] = to;
        if let Ok(changed) = String::from_utf8(bytes) {
            prop_assert!(prove(&changed).is_err());
        }
    }

    #[test]
    fn anything_is_answered(text in ".{0,200}") {
        prop_assert!(prove(&text).is_err());
        if let Some(normal) = target::normal(&text) {
            prop_assert_eq!(target::normal(&normal), Some(normal.clone()), "normal once is normal");
        }
    }

    #[test]
    fn a_normal_url_is_its_own(path in "[a-zA-Z0-9%./~!:;@&=+$,-]{0,60}", host in "[a-z]{1,10}") {
        if let Some(normal) = target::normal(&format!("https://{host}/{path}")) {
            prop_assert_eq!(target::normal(&normal), Some(normal.clone()));
        }
    }
}
