//! The identity providers of the drill: two issuers on loopback, one for
//! consumers and one for an enterprise, as in 2023.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::cli::{Failure, Kind};

/// What both call us.
pub const AUDIENCE: &str = "ringfence-drill";

/// One signing key of an issuer.
pub struct IdpKey {
    pub kid: String,
    pair: Ed25519KeyPair,
}

impl IdpKey {
    pub fn new(kid: &str) -> Result<Arc<Self>, Failure> {
        let pair = Ed25519KeyPair::generate().map_err(|_| Failure::internal("no randomness for a key"))?;
        Ok(Arc::new(Self { kid: kid.to_owned(), pair }))
    }

    fn jwk(&self) -> Value {
        let x = BASE64.encode(self.pair.public_key().as_ref());
        json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": self.kid, "x": x })
    }

    /// A JWT with these claims.
    pub fn sign(&self, claims: &Value) -> String {
        let header = json!({ "alg": "EdDSA", "typ": "JWT", "kid": self.kid });
        let signed = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
        let signature = self.pair.sign(signed.as_bytes());
        format!("{signed}.{}", BASE64.encode(signature.as_ref()))
    }
}

type Published = Arc<Mutex<BTreeMap<String, Vec<Arc<IdpKey>>>>>;

/// Serves discovery documents and key sets for as long as it lives.
pub struct Idp {
    base: String,
    published: Published,
}

impl Idp {
    pub async fn start() -> Result<Self, Failure> {
        let cannot = |e| Failure::new(Kind::Unavailable, format!("no port for the drill's identity providers: {e}"));
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(cannot)?;
        let base = format!("http://{}", listener.local_addr().map_err(cannot)?);
        let published = Published::default();
        let router = Router::new()
            .route("/{issuer}/.well-known/openid-configuration", get(discovery))
            .route("/{issuer}/jwks", get(jwks))
            .with_state((base.clone(), published.clone()));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { base, published })
    }

    /// The `iss` of an issuer.
    pub fn url(&self, issuer: &str) -> String {
        format!("{}/{issuer}", self.base)
    }

    /// From here on the issuer serves exactly these keys.
    pub fn publish(&self, issuer: &str, keys: &[&Arc<IdpKey>]) {
        held(&self.published).insert(issuer.to_owned(), keys.iter().map(|key| (*key).clone()).collect());
    }

    /// What an honest issuer says of a user for the next minutes.
    pub fn claims(&self, issuer: &str, user: &str) -> Value {
        let now = now_s();
        let id = hex::encode(random_bytes());
        json!({ "iss": self.url(issuer), "sub": user, "aud": AUDIENCE, "iat": now, "exp": now + 900, "jti": id })
    }
}

async fn discovery(State((base, published)): State<(String, Published)>, Path(issuer): Path<String>) -> Response {
    if !held(&published).contains_key(&issuer) {
        return StatusCode::NOT_FOUND.into_response();
    }
    let url = format!("{base}/{issuer}");
    axum::Json(json!({
        "issuer": url,
        "jwks_uri": format!("{url}/jwks"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["EdDSA"],
    }))
    .into_response()
}

async fn jwks(State((_, published)): State<(String, Published)>, Path(issuer): Path<String>) -> Response {
    match held(&published).get(&issuer) {
        Some(keys) => {
            axum::Json(json!({ "keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>() })).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The time, as everybody in the drill sees it.
#[allow(clippy::disallowed_methods)] // a drill runs in real time
pub fn now_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// 16 random bytes.
pub fn random_bytes() -> [u8; 16] {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system gives random numbers");
    bytes
}
