//! Proof of possession for sessions of purpose `api`: DPoP (RFC 9449).
//!
//! A stolen token is worth nothing: who shows it must sign each request with
//! the key whose thumbprint (RFC 7638) stands in the token.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ED25519, UnparsedPublicKey};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use serde::Deserialize;

/// A proof is not read longer.
const PROOF_BYTES_MAX: usize = 4096;
/// How far a proof's time may be from ours, in seconds.
const SKEW_S: u64 = 30;
/// Proofs remembered at a time; no more are accepted within their time.
const REMEMBERED_MAX: usize = 256 * 1024;

/// The request that a proof must be for.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// The session token, as it was sent.
    pub token: &'a str,
    /// The thumbprint in it.
    pub thumbprint: &'a str,
    /// Method of the client's request.
    pub method: &'a str,
    /// Its address: scheme, host and path.
    pub url: &'a str,
    /// Now, in Unix seconds.
    pub now_s: u64,
}

/// Proofs that were shown; none counts twice.
#[derive(Debug, Default)]
pub struct Proofs {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    ids: HashSet<[u8; 32]>,
    order: VecDeque<(u64, [u8; 32])>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    typ: String,
    alg: String,
    jwk: Jwk,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: String,
    x: String,
    y: Option<String>,
    /// Its private part has no business here.
    d: Option<String>,
}

#[derive(Deserialize)]
struct Claims {
    jti: String,
    htm: String,
    htu: String,
    iat: u64,
    ath: String,
}

impl Proofs {
    /// RFC 9449, section 4.3, each step.
    ///
    /// # Errors
    /// The first rule that is broken, for the log.
    pub fn check(&self, proof: &str, shown: Shown<'_>) -> Result<(), &'static str> {
        if proof.len() > PROOF_BYTES_MAX {
            return Err("the proof is too long");
        }
        let (signed, signature) = proof.rsplit_once('.').ok_or("the proof is no JWT")?;
        let (header, claims) = signed.split_once('.').ok_or("the proof is no JWT")?;
        let header: Header = part(header).ok_or("the proof's header is malformed")?;
        let claims: Claims = part(claims).ok_or("the proof's claims are malformed")?;
        let signature = BASE64.decode(signature).map_err(|_| "the proof is no JWT")?;
        if header.typ != "dpop+jwt" {
            return Err("the proof's typ is not `dpop+jwt`");
        }
        let thumbprint = header.jwk.checked(&header.alg, signed, &signature)?;
        if thumbprint != shown.thumbprint {
            return Err("the proof is by another key than the session is bound to");
        }
        let address = |url: &str| url.split(['?', '#']).next().map(str::to_owned);
        if claims.htm != shown.method || address(&claims.htu) != address(shown.url) {
            return Err("the proof is for another request");
        }
        if claims.ath != BASE64.encode(digest(&SHA256, shown.token.as_bytes())) {
            return Err("the proof is for another token");
        }
        if claims.iat.abs_diff(shown.now_s) > SKEW_S {
            return Err("the proof is not of now");
        }
        self.once(&thumbprint, &claims, shown.now_s)
    }

    fn once(&self, thumbprint: &str, claims: &Claims, now_s: u64) -> Result<(), &'static str> {
        let id = digest(&SHA256, format!("{thumbprint}\n{}", claims.jti).as_bytes());
        let id: [u8; 32] = id.as_ref().try_into().expect("SHA-256 has 32 bytes");
        let seen = &mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((until_s, old)) = seen.order.front().filter(|(until_s, _)| *until_s < now_s) {
            let _ = until_s;
            seen.ids.remove(old);
            seen.order.pop_front();
        }
        if seen.ids.len() >= REMEMBERED_MAX {
            return Err("too many proofs at this time");
        }
        if !seen.ids.insert(id) {
            return Err("the proof was shown before");
        }
        // In the order of arrival, so each stays at least as long as it counts.
        seen.order.push_back((now_s + 2 * SKEW_S, id));
        Ok(())
    }
}

impl Jwk {
    /// The thumbprint of the key, if it made this signature.
    fn checked(&self, alg: &str, signed: &str, signature: &[u8]) -> Result<String, &'static str> {
        let bytes = |text: &str| BASE64.decode(text).ok().filter(|bytes| bytes.len() == 32);
        let bad = "the proof's key is none that is accepted";
        let x = bytes(&self.x).filter(|_| self.d.is_none()).ok_or(bad)?;
        let (good, thumbprint) = match (alg, &*self.kty, &*self.crv, &self.y) {
            ("EdDSA" | "Ed25519", "OKP", "Ed25519", None) => {
                let good = UnparsedPublicKey::new(&ED25519, &x).verify(signed.as_bytes(), signature).is_ok();
                (good, format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, self.x))
            }
            ("ES256", "EC", "P-256", Some(y)) => {
                let y_bytes = bytes(y).ok_or(bad)?;
                let point = [&[4][..], &x, &y_bytes].concat();
                let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
                let good = key.verify(signed.as_bytes(), signature).is_ok();
                (good, format!(r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{y}"}}"#, self.x))
            }
            _ => return Err(bad),
        };
        match good {
            true => Ok(BASE64.encode(digest(&SHA256, thumbprint.as_bytes()))),
            false => Err("the proof's signature does not verify"),
        }
    }
}

fn part<T: for<'de> Deserialize<'de>>(base64: &str) -> Option<T> {
    serde_json::from_slice(&BASE64.decode(base64).ok()?).ok()
}
