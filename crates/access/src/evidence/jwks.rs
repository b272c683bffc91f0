//! The keys an issuer publishes: a JWK set (RFC 7517), read strictly.
//!
//! One malformed or private key refuses the whole set: a provider that
//! publishes such a thing has lost track of its keys. Keys for other uses and
//! of other kinds are passed over; they are never chosen.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::algorithm::{Algorithm, Kind, Material};
use super::reason::Reason;
use crate::strict::Json;

/// Bytes of a key set.
pub const JWKS_BYTES_MAX: usize = 64 * 1024;
/// Keys of a key set.
pub const JWKS_KEYS_MAX: usize = 32;
/// Bits of the shortest and the longest RSA modulus (NIST SP 800-131A).
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// Bytes of a `kid`.
pub(super) const KID_BYTES_MAX: usize = 256;

/// An issuer's public keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwks {
    keys: Vec<Jwk>,
}

/// One public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Jwk {
    kid: Option<String>,
    /// What it is for, if it says so.
    alg: Option<String>,
    /// Whether `use` and `key_ops` let it verify.
    verifies: bool,
    /// RFC 7638.
    thumbprint: String,
    weak: bool,
    material: Material,
}

/// A key set that is not acceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key set is refused: {0}")]
pub struct BadJwks(&'static str);

impl Jwks {
    /// Reads a key set.
    ///
    /// # Errors
    /// Too long, too many keys, not strict JSON, a malformed or private key,
    /// one `kid` twice.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadJwks> {
        if bytes.len() > JWKS_BYTES_MAX {
            return Err(BadJwks("longer than 64 KiB"));
        }
        let json = Json::parse(bytes).ok_or(BadJwks("not JSON, or a member stands twice"))?;
        let list = json.get("keys").and_then(Json::list).ok_or(BadJwks("no list of keys"))?;
        if list.len() > JWKS_KEYS_MAX {
            return Err(BadJwks("more than 32 keys"));
        }
        let mut kids = std::collections::BTreeSet::new();
        let mut keys = vec![];
        for json in list {
            let kid = kid(json)?;
            if kid.is_some_and(|kid| !kids.insert(kid)) {
                return Err(BadJwks("one `kid` stands twice"));
            }
            keys.extend(Jwk::parse(json)?);
        }
        let mut seen = std::collections::BTreeSet::new();
        if !keys.iter().all(|key: &Jwk| seen.insert(key.thumbprint.as_str())) {
            return Err(BadJwks("one key stands twice"));
        }
        Ok(Self { keys })
    }

    /// RFC 7638 thumbprints of the keys that can be used, sorted.
    pub fn thumbprints(&self) -> Vec<&str> {
        let mut all: Vec<&str> = self.keys.iter().map(|key| key.thumbprint.as_str()).collect();
        all.sort_unstable();
        all
    }

    /// Without pins all keys; with pins those whose thumbprint is one.
    pub(super) fn pinned(mut self, pins: &[String]) -> Self {
        if !pins.is_empty() {
            self.keys.retain(|key| pins.contains(&key.thumbprint));
        }
        self
    }

    /// The key a token was signed by: that of its `kid`, or without one the
    /// only one that fits its algorithm.
    pub(super) fn choose(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<&Jwk, Reason> {
        match kid {
            Some(kid) => {
                let key = self.keys.iter().find(|key| key.kid.as_deref() == Some(kid)).ok_or(Reason::UnknownKey)?;
                if !key.fits(algorithm) { Err(Reason::KeyUnfit) } else { key.strong() }
            }
            None => {
                let mut fitting = self.keys.iter().filter(|key| key.fits(algorithm));
                match (fitting.next(), fitting.next()) {
                    (Some(key), None) => key.strong(),
                    _ => Err(Reason::AmbiguousKey),
                }
            }
        }
    }
}

impl Jwk {
    pub(crate) fn thumbprint(&self) -> &str {
        &self.thumbprint
    }

    pub(crate) fn signed(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        self.material.signed(algorithm, message, signature)
    }

    /// What the key says of itself and what it is made of fit the algorithm.
    pub(crate) fn fits(&self, algorithm: Algorithm) -> bool {
        let named = match self.alg.as_deref() {
            None => true,
            // RFC 9864 renames the only kind of EdDSA there is here.
            Some("Ed25519") => algorithm == Algorithm::EdDsa,
            Some(name) => name == algorithm.as_str(),
        };
        named && self.verifies && self.material.kind() == algorithm.kind()
    }

    pub(crate) fn strong(&self) -> Result<&Self, Reason> {
        if self.weak { Err(Reason::KeyWeak) } else { Ok(self) }
    }

    /// `None` for a kind of key that nothing here uses.
    pub(crate) fn parse(json: &Json) -> Result<Option<Self>, BadJwks> {
        const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];
        if PRIVATE.iter().any(|member| json.get(member).is_some()) {
            return Err(BadJwks("a private or secret key"));
        }
        let Some(kty) = json.get("kty").and_then(Json::text) else { return Err(BadJwks("a key without `kty`")) };
        let Some((canonical, material)) = material(json, kty)? else { return Ok(None) };
        let weak = match &material {
            Material::Rsa { n, e } => !RSA_BITS.contains(&bits(n)) || bits(e) < 17 || bits(e) > 33,
            Material::Point { .. } => false,
        };
        Ok(Some(Self {
            kid: kid(json)?.map(str::to_owned),
            alg: text(json, "alg")?.map(str::to_owned),
            verifies: verifies(json)?,
            thumbprint: URL_SAFE_NO_PAD.encode(digest(&SHA256, canonical.as_bytes())),
            weak,
            material,
        }))
    }
}

/// `use` is `sig` if it is there, and `key_ops` has `verify` if it is there.
fn verifies(json: &Json) -> Result<bool, BadJwks> {
    let for_signatures = text(json, "use")?.is_none_or(|of| of == "sig");
    let ops = match json.get("key_ops") {
        None => true,
        Some(Json::List(ops)) => ops.iter().any(|op| op.text() == Some("verify")),
        Some(_) => return Err(BadJwks("`key_ops` is no list")),
    };
    Ok(for_signatures && ops)
}

/// The numbers of a key and its canonical form (RFC 7638, section 3).
fn material(json: &Json, kty: &str) -> Result<Option<(String, Material)>, BadJwks> {
    let crv = text(json, "crv")?;
    Ok(Some(match (kty, crv) {
        ("RSA", _) => {
            let (n, e) = (number(json, "n")?, number(json, "e")?);
            let canonical = format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, encoded(&e), encoded(&n));
            (canonical, Material::Rsa { n, e })
        }
        ("EC", Some(crv @ ("P-256" | "P-384"))) => {
            let (kind, len) = if crv == "P-256" { (Kind::P256, 32) } else { (Kind::P384, 48) };
            let (x, y) = (bytes(json, "x", len)?, bytes(json, "y", len)?);
            let canonical = format!(r#"{{"crv":"{crv}","kty":"EC","x":"{}","y":"{}"}}"#, encoded(&x), encoded(&y));
            (canonical, Material::Point { kind, bytes: [&[4][..], &x, &y].concat() })
        }
        ("OKP", Some("Ed25519")) => {
            let x = bytes(json, "x", 32)?;
            let canonical = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, encoded(&x));
            (canonical, Material::Point { kind: Kind::Ed25519, bytes: x })
        }
        _ => return Ok(None),
    }))
}

fn kid(json: &Json) -> Result<Option<&str>, BadJwks> {
    match text(json, "kid")? {
        Some(kid) if kid.is_empty() || kid.len() > KID_BYTES_MAX => Err(BadJwks("a `kid` is empty or too long")),
        kid => Ok(kid),
    }
}

fn text<'a>(json: &'a Json, name: &str) -> Result<Option<&'a str>, BadJwks> {
    match json.get(name) {
        None => Ok(None),
        Some(value) => value.text().map(Some).ok_or(BadJwks("a member that must be a string is none")),
    }
}

fn decoded(json: &Json, name: &str) -> Result<Vec<u8>, BadJwks> {
    let text = json.get(name).and_then(Json::text).ok_or(BadJwks("a key lacks one of its numbers"))?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| BadJwks("a number is not base64url without padding"))
}

/// An unsigned number without leading zeros (RFC 7518, section 2).
fn number(json: &Json, name: &str) -> Result<Vec<u8>, BadJwks> {
    let bytes = decoded(json, name)?;
    match bytes.first() {
        None | Some(0) => Err(BadJwks("a number is empty or begins with zeros")),
        Some(_) => Ok(bytes),
    }
}

fn bytes(json: &Json, name: &str, len: usize) -> Result<Vec<u8>, BadJwks> {
    let bytes = decoded(json, name)?;
    if bytes.len() == len { Ok(bytes) } else { Err(BadJwks("a coordinate has the wrong length")) }
}

fn bits(number: &[u8]) -> usize {
    number.len() * 8 - number.first().map_or(0, |first| first.leading_zeros() as usize)
}

fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
