//! Identity providers' tokens and keys, and session policies.

use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ringfence_access::Narrowing;
use ringfence_access::evidence::{
    Algorithm, IssuerEntry, Issuers, Jwks, KeyChange, NotFetched, NotRecorded, Pending, Surroundings,
};
use ringfence_access::narrowing::{POLICY_CHARS_MAX, Side};
use ringfence_access::policy::S3_OPS;
use serde_json::{Value, json};

use super::Came;

/// The time, in seconds since 1970.
const NOW: u64 = 1_790_000_000;
const URL: &str = "https://idp.example";
/// What begins an input that is a token as it stands, signed by who knows whom.
const RAW: &str = "raw ";

static KEY: LazyLock<Ed25519KeyPair> =
    LazyLock::new(|| Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("32 bytes"));

/// A provider with one key, and a log with room.
struct World;

impl Surroundings for World {
    fn get<'a>(&'a self, url: &'a str, _: usize) -> Pending<'a, Result<Vec<u8>, NotFetched>> {
        let document = match url.strip_prefix(URL) {
            Some("/.well-known/openid-configuration") => json!({"issuer": URL, "jwks_uri": format!("{URL}/keys")}),
            _ => {
                let x = URL_SAFE_NO_PAD.encode(KEY.public_key().as_ref());
                json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k1", "use": "sig", "x": x}]})
            }
        };
        Box::pin(std::future::ready(Ok(document.to_string().into_bytes())))
    }
    fn keys_changed<'a>(&'a self, _: &'a KeyChange) -> Pending<'a, Result<(), NotRecorded>> {
        Box::pin(std::future::ready(Ok(())))
    }
    fn failed(&self, _: &IssuerEntry, why: &str) {
        panic!("the documents are good: {why}");
    }
}

static ISSUERS: LazyLock<Issuers> = LazyLock::new(|| {
    let entry = IssuerEntry {
        name: "corp".parse().expect("a name"),
        url: URL.to_owned(),
        realm: "home".parse().expect("a realm"),
        tenant: "acme".parse().expect("a tenant"),
        audience: "ringfence".to_owned(),
        by_authorized_party: false,
        algorithms: vec![Algorithm::EdDsa, Algorithm::Rs256],
        types: vec![Some("JWT".to_owned())],
        max_token_age_s: 3600,
        jwks_uri: None,
        pins: vec![],
        allow_loopback_http: false,
        claims: vec!["groups".to_owned()],
    };
    Issuers::new(vec![entry], Arc::new(World)).expect("one issuer")
});

/// A header and claims, each on its line, signed by the provider; or a token
/// as it stands. What is accepted says what every rule asks for, as another
/// reader understands it; what the provider did not sign never is.
pub fn tokens(bytes: &[u8]) -> Came {
    let Ok(input) = std::str::from_utf8(bytes) else { return 0 };
    if let Some(token) = input.strip_prefix(RAW) {
        // The provider's key signed what the function below makes, nothing else.
        assert!(accepted(token).is_none(), "nobody signed {token:?}");
        return 0;
    }
    let Some((header, claims)) = input.split_once('\n') else { return 0 };
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(KEY.sign(signed.as_bytes())));
    let Some((subject, expires_s)) = accepted(&token) else { return 0 };
    let header: Value = serde_json::from_str(header).expect("JSON");
    let claims: Value = serde_json::from_str(claims).expect("JSON");
    assert_eq!((&header["alg"], &header["typ"]), (&json!("EdDSA"), &json!("JWT")));
    for forbidden in ["crit", "jku", "jwk", "x5u", "x5c", "b64", "zip", "cty"] {
        assert!(header.get(forbidden).is_none(), "{header}");
    }
    assert!(header.get("kid").is_none_or(|kid| kid == "k1"), "{header}");
    assert_eq!(claims["iss"], URL);
    assert!(claims["aud"] == "ringfence" || claims["aud"] == json!(["ringfence"]), "{claims}");
    assert_eq!((&claims["sub"], &claims["exp"]), (&json!(subject), &json!(expires_s)));
    let iat = claims["iat"].as_u64().expect("whole seconds");
    assert!(expires_s > NOW && iat <= NOW + 30 && iat < expires_s && expires_s - iat <= 3600, "{claims}");
    assert!(claims.get("nbf").is_none_or(|nbf| nbf.as_u64().is_some_and(|nbf| nbf <= NOW + 30)), "{claims}");
    assert!(accepted(&format!("{token}=")).is_none() && accepted(&format!(" {token}")).is_none());
    1
}

/// Subject and expiry of a token that is evidence.
fn accepted(token: &str) -> Option<(String, u64)> {
    let mut verified = pin!(ISSUERS.verify(token, NOW));
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..100 {
        if let Poll::Ready(verified) = verified.as_mut().poll(&mut context) {
            return verified.ok().map(|evidence| (evidence.subject().to_owned(), evidence.expires_s()));
        }
    }
    panic!("it waits for something that never comes");
}

/// What is accepted is a list of at most 32 different public keys.
pub fn key_sets(bytes: &[u8]) -> Came {
    let Ok(set) = Jwks::parse(bytes) else { return 0 };
    let thumbprints = set.thumbprints();
    assert!(thumbprints.len() <= 32 && thumbprints.windows(2).all(|two| two[0] < two[1]), "{thumbprints:?}");
    assert!(thumbprints.iter().all(|print| URL_SAFE_NO_PAD.decode(print).is_ok_and(|bytes| bytes.len() == 32)));
    let json: Value = serde_json::from_slice(bytes).expect("JSON");
    let keys = json["keys"].as_array().expect("a list");
    for (i, key) in keys.iter().enumerate() {
        assert!(["d", "p", "q", "k"].iter().all(|private| key.get(private).is_none()), "a secret is published");
        let twice = keys[..i].iter().any(|other| other.get("kid").is_some() && other.get("kid") == key.get("kid"));
        assert!(!twice, "one `kid` stands twice");
    }
    1
}

/// Whatever a session policy says: no more than its 2,048 characters, nothing
/// for what is no operation, a copy no more than its sides, and nothing at all
/// with everything denied beside it.
pub fn session_policies(bytes: &[u8]) -> Came {
    const PLACES: [(Option<&str>, Option<&str>); 4] =
        [(None, None), (Some("data"), None), (Some("data"), Some("a/b")), (Some("other"), Some("*"))];
    let Ok(text) = std::str::from_utf8(bytes) else { return 0 };
    let Ok(narrowing) = Narrowing::parse(text) else { return 0 };
    assert!(text.chars().count() <= POLICY_CHARS_MAX);
    let mut json: Value = serde_json::from_str(text).expect("JSON");
    let deny = json!({"Effect": "Deny", "Action": "*", "Resource": "*"});
    let before = match json["Statement"].take() {
        Value::Array(list) => list,
        one => vec![one],
    };
    json["Statement"] = before.into_iter().chain([deny]).collect();
    let nothing = Narrowing::parse(&json.to_string()).ok();
    for (bucket, key) in PLACES {
        assert!(!narrowing.allows("s3:Authenticate", bucket, key) && !narrowing.allows("s3:Other", bucket, key));
        for op in S3_OPS {
            let allowed = narrowing.allows(op, bucket, key);
            assert!(!allowed || narrowing.allows_side(op, Side::Target, bucket, key), "{op}");
            assert!(!nothing.as_ref().is_some_and(|nothing| nothing.allows(op, bucket, key)), "{op} despite a deny");
        }
        let copy = narrowing.allows("s3:CopyObject", bucket, key);
        let both = narrowing.allows("s3:GetObject", bucket, key) && narrowing.allows("s3:PutObject", bucket, key);
        assert_eq!(copy, both);
    }
    1
}
