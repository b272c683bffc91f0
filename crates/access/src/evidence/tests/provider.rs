//! An identity provider in memory: keys of every kind, its documents, and
//! tokens that can be made wrong in any one way.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::task::{Context, Poll, Waker};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::super::{
    Algorithm, IssuerEntry, Issuers, KeyChange, NotFetched, NotRecorded, Pending, Refused, Surroundings,
    VerifiedEvidence,
};

/// The time of every test, in seconds since 1970.
pub const NOW: u64 = 1_790_000_000;
pub const URL: &str = "https://idp.example/realms/corp";

/// A secret key of one kind.
pub enum Secret {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Secret {
    pub fn rsa() -> Self {
        Self::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).expect("a key"))
    }
    pub fn of(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Es256 => Self::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key")),
            Algorithm::Es384 => Self::P384(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).expect("a key")),
            Algorithm::EdDsa => Self::Ed25519(Ed25519KeyPair::generate().expect("a key")),
            _ => Self::rsa(),
        }
    }

    pub fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(key) => {
                let padding: &dyn aws_lc_rs::signature::RsaEncoding = match algorithm {
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    "PS256" => &RSA_PSS_SHA256,
                    "PS384" => &RSA_PSS_SHA384,
                    "PS512" => &RSA_PSS_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(padding, &random, message, &mut signature).expect("signed");
                signature
            }
            Self::P256(key) | Self::P384(key) => key.sign(&random, message).expect("signed").as_ref().to_vec(),
            Self::Ed25519(key) => key.sign(message).as_ref().to_vec(),
        }
    }

    /// The public key as a JWK.
    pub fn jwk(&self, kid: &str) -> Value {
        let point = |crv: &str, bytes: &[u8]| {
            let (x, y) = bytes[1..].split_at((bytes.len() - 1) / 2);
            json!({"kty": "EC", "crv": crv, "kid": kid, "use": "sig", "x": b64(x), "y": b64(y)})
        };
        match self {
            Self::Rsa(key) => {
                // RFC 8017, A.1.1: a sequence of two integers, of lengths that
                // are fixed for 2,048 bits and the exponent 65,537.
                let der = key.public_key().as_ref();
                let (n, e) = (&der[9..265], &der[267..270]);
                json!({"kty": "RSA", "kid": kid, "use": "sig", "n": b64(n), "e": b64(e)})
            }
            Self::P256(key) => point("P-256", key.public_key().as_ref()),
            Self::P384(key) => point("P-384", key.public_key().as_ref()),
            Self::Ed25519(key) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "use": "sig", "x": b64(key.public_key().as_ref())})
            }
        }
    }
}

/// One RSA key for all tests: making one takes a moment.
pub static RSA: LazyLock<Secret> = LazyLock::new(Secret::rsa);
/// Another one.
pub static OTHER: LazyLock<Secret> = LazyLock::new(Secret::rsa);

pub fn b64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub fn thumbprint(jwk: &Value) -> String {
    let set = serde_json::to_vec(&json!({ "keys": [jwk] })).expect("JSON");
    super::super::Jwks::parse(&set).expect("a key set").thumbprints()[0].to_owned()
}

/// Header and claims of a token that obeys every rule.
#[derive(Clone, Debug)]
pub struct Token {
    pub header: Value,
    pub claims: Value,
}

impl Token {
    pub fn good() -> Self {
        Self {
            header: json!({"alg": "RS256", "typ": "JWT", "kid": "k1"}),
            claims: json!({
                "iss": URL, "aud": "ringfence", "sub": "alice", "jti": "t-1",
                "iat": NOW - 10, "nbf": NOW - 10, "exp": NOW + 290, "groups": ["staff", "readers"],
            }),
        }
    }
    pub fn header(mut self, name: &str, value: impl Into<Option<Value>>) -> Self {
        set(&mut self.header, name, value.into());
        self
    }
    pub fn claim(mut self, name: &str, value: impl Into<Option<Value>>) -> Self {
        set(&mut self.claims, name, value.into());
        self
    }
    pub fn signed(&self, by: &Secret) -> String {
        signed_text(&self.header.to_string(), &self.claims.to_string(), by)
    }
}

/// A token of exactly these texts.
pub fn signed_text(header: &str, claims: &str, by: &Secret) -> String {
    let message = format!("{}.{}", b64(header.as_bytes()), b64(claims.as_bytes()));
    let algorithm = serde_json::from_str::<Value>(header).ok();
    let algorithm = algorithm.as_ref().and_then(|header| header["alg"].as_str()).unwrap_or("RS256");
    format!("{message}.{}", b64(&by.sign(algorithm, message.as_bytes())))
}

fn set(object: &mut Value, name: &str, value: Option<Value>) {
    let object = object.as_object_mut().expect("an object");
    match value {
        Some(value) => drop(object.insert(name.to_owned(), value)),
        None => drop(object.remove(name)),
    }
}

pub fn entry() -> IssuerEntry {
    IssuerEntry {
        name: "corp".parse().expect("a name"),
        url: URL.to_owned(),
        realm: "home".parse().expect("a realm"),
        tenant: "acme".parse().expect("a tenant"),
        audience: "ringfence".to_owned(),
        by_authorized_party: false,
        algorithms: vec![Algorithm::Rs256],
        types: vec![Some("JWT".to_owned())],
        max_token_age_s: 3600,
        jwks_uri: None,
        pins: vec![],
        allow_loopback_http: false,
        claims: vec!["groups".to_owned()],
    }
}

/// What the world answers, and what it was asked and told.
#[derive(Default)]
pub struct World {
    pub documents: Mutex<BTreeMap<String, Vec<u8>>>,
    pub fetched: Mutex<Vec<String>>,
    pub changes: Mutex<Vec<KeyChange>>,
    pub failures: AtomicUsize,
    pub log_is_full: AtomicBool,
    /// Each fetch is answered at the second look only.
    pub slow: AtomicBool,
}

impl World {
    /// One provider that serves these keys.
    pub fn serving(url: &str, keys: &[Value]) -> Arc<Self> {
        let world = Arc::new(Self::default());
        world.serve(url, keys);
        world
    }
    pub fn serve(&self, url: &str, keys: &[Value]) {
        let jwks_uri = format!("{url}/keys");
        self.put(&format!("{url}/.well-known/openid-configuration"), json!({"issuer": url, "jwks_uri": jwks_uri}));
        self.put(&jwks_uri, json!({ "keys": keys }));
    }
    pub fn put(&self, url: &str, document: Value) {
        self.documents.lock().expect("unharmed").insert(url.to_owned(), document.to_string().into_bytes());
    }
    pub fn goes_down(&self) {
        self.documents.lock().expect("unharmed").clear();
    }
    pub fn fetches(&self) -> usize {
        self.fetched.lock().expect("unharmed").len()
    }
    pub fn changes(&self) -> Vec<KeyChange> {
        self.changes.lock().expect("unharmed").clone()
    }
}

impl Surroundings for World {
    fn get<'a>(&'a self, url: &'a str, max: usize) -> Pending<'a, Result<Vec<u8>, NotFetched>> {
        let mut waited = !self.slow.load(Ordering::Relaxed);
        Box::pin(std::future::poll_fn(move |_| {
            if !std::mem::replace(&mut waited, true) {
                return Poll::Pending;
            }
            self.fetched.lock().expect("unharmed").push(url.to_owned());
            let found = self.documents.lock().expect("unharmed").get(url).cloned();
            Poll::Ready(found.filter(|bytes| bytes.len() <= max).ok_or_else(|| NotFetched("nobody there".to_owned())))
        }))
    }
    fn keys_changed<'a>(&'a self, change: &'a KeyChange) -> Pending<'a, Result<(), NotRecorded>> {
        Box::pin(async move {
            if self.log_is_full.load(Ordering::Relaxed) {
                return Err(NotRecorded);
            }
            self.changes.lock().expect("unharmed").push(change.clone());
            Ok(())
        })
    }
    fn failed(&self, _: &IssuerEntry, _: &str) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }
}

pub fn issuers(entries: Vec<IssuerEntry>, world: &Arc<World>) -> Issuers {
    Issuers::new(entries, world.clone()).expect("entries that go together")
}

/// Runs to the end what waits for nothing outside.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..1000 {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
    panic!("it waits for something that never comes");
}

pub fn verify(issuers: &Issuers, token: &str, now_s: u64) -> Result<VerifiedEvidence, Refused> {
    run(issuers.verify(token, now_s))
}
