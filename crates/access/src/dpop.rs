//! DPoP proofs (RFC 9449): who shows a token also holds the private key it is
//! bound to.
//!
//! [`Proofs::prove`] holds a proof against every rule of section 4.3 and against
//! the proofs it has seen; its result, [`ProvedKey`], is what
//! [`authenticate`](crate::caller::authenticate) compares with the session.
//! No nonces are given out (section 8): a proof is fresh by its time and its id.

mod seen;
mod target;

use std::fmt;
use std::sync::Mutex;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use self::seen::Seen;
use crate::evidence::{Algorithm, Jwk};
use crate::strict::Json;

/// Bytes of a proof, checked before anything of it is read: one with an RSA key
/// of 8,192 bits has less.
pub const PROOF_BYTES_MAX: usize = 8 * 1024;
/// Seconds that `iat` may differ from our clock, either way.
pub const SKEW_S_MAX: u64 = 60;
/// Bytes of `jti`.
pub const ID_BYTES_MAX: usize = 255;
/// What a proof may be signed with (RFC 9449, section 5.1), as it is announced.
pub const ALGORITHMS: [Algorithm; 5] =
    [Algorithm::Es256, Algorithm::EdDsa, Algorithm::Es384, Algorithm::Ps256, Algorithm::Rs256];
/// Parameters by which a proof would bring another key, encoding or meaning.
const FORBIDDEN: [&str; 6] = ["jku", "x5u", "x5c", "b64", "zip", "cty"];

/// A private key was just used for one request. Only [`Proofs::prove`] makes
/// one.
///
/// Not `Clone`: one proof is one request.
///
/// ```compile_fail,E0451
/// use ringfence_access::dpop::ProvedKey;
/// fn forge() -> ProvedKey { ProvedKey { thumbprint: String::new() } }
/// ```
///
/// ```compile_fail,E0599
/// use ringfence_access::dpop::ProvedKey;
/// fn twice(key: ProvedKey) -> (ProvedKey, ProvedKey) { (key.clone(), key) }
/// ```
#[must_use]
#[derive(Debug)]
pub struct ProvedKey {
    thumbprint: String,
}

impl ProvedKey {
    /// RFC 7638, SHA-256, base64url: 43 characters.
    pub fn thumbprint(&self) -> &str {
        &self.thumbprint
    }
}

/// The request that a proof must be about.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Its method, such as `GET`.
    pub method: &'a str,
    /// Its URL as the client sees it.
    pub url: &'a str,
    /// The access token it carries; `None` where there is none yet.
    pub token: Option<&'a str>,
    /// The thumbprint of the key that the token is bound to, where it is.
    pub bound_to: Option<&'a str>,
}

/// Why a proof is refused. For the record; the client learns that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Longer than [`PROOF_BYTES_MAX`].
    TooLong,
    /// Not three parts, not base64url without padding, not strict JSON.
    Malformed,
    /// `typ` is not `dpop+jwt`.
    Type,
    /// `alg` is not one of [`ALGORITHMS`].
    Algorithm,
    /// `crit` is there: something that must be understood and is not.
    Critical,
    /// `jku`, `x5u`, `x5c`, `b64`, `zip` or `cty` is there.
    ForbiddenHeader,
    /// `jwk` is missing, malformed, or not a public key of a known kind.
    Key,
    /// The key is not for this algorithm or this use, or too weak.
    KeyUnfit,
    /// The signature does not match.
    Signature,
    /// `jti` is no string of 1 to 255 bytes.
    Id,
    /// `htm` is another method.
    Method,
    /// `htu` is another URL.
    Url,
    /// `iat` is no integer of seconds, or too far from our clock; or `nbf` or
    /// `exp` says that it is not good now.
    Time,
    /// `ath` is not the hash of the token.
    Token,
    /// The token is bound to another key.
    OtherKey,
    /// It was shown before.
    Replayed,
    /// From before this process began: it may have been shown to the last one.
    BeforeStart,
    /// More proofs within their time than can be remembered.
    Full,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "it is too long",
            Self::Malformed => "it is malformed",
            Self::Type => "its type is not `dpop+jwt`",
            Self::Algorithm => "its algorithm is not allowed",
            Self::Critical => "it has a critical extension",
            Self::ForbiddenHeader => "it has a forbidden header",
            Self::Key => "it has no public key",
            Self::KeyUnfit => "its key does not fit",
            Self::Signature => "its signature does not match",
            Self::Id => "it has no id",
            Self::Method => "it is for another method",
            Self::Url => "it is for another URL",
            Self::Time => "it is not of now",
            Self::Token => "it is for another token",
            Self::OtherKey => "the token is bound to another key",
            Self::Replayed => "it was shown before",
            Self::BeforeStart => "it is from before this process began",
            Self::Full => "too many proofs at a time",
        })
    }
}

/// Checks proofs, and remembers those it has seen for as long as they would be
/// good.
#[derive(Debug)]
pub struct Proofs {
    seen: Mutex<Seen>,
}

impl Proofs {
    /// Remembers up to `max` proofs. `start_s`, in seconds since 1970, is when
    /// the process began: what is older may have been seen by the one before.
    pub fn new(max: usize, start_s: u64) -> Self {
        Self { seen: Mutex::new(Seen::new(max, start_s)) }
    }

    /// Holds a proof against the rules and remembers it. `now_s` is seconds
    /// since 1970.
    ///
    /// # Errors
    /// The first rule it breaks.
    pub fn prove(&self, proof: &str, request: &Request<'_>, now_s: u64) -> Result<ProvedKey, Reason> {
        let checked = Checked::of(proof, request, now_s)?;
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        seen.remember(&checked.name, checked.issued_at_s, now_s)?;
        Ok(ProvedKey { thumbprint: checked.thumbprint })
    }
}

/// A proof that obeys every rule that can be checked without memory.
struct Checked {
    thumbprint: String,
    issued_at_s: u64,
    /// Stands for key and `jti`: nobody uses up the ids of another key.
    name: [u8; 16],
}

impl Checked {
    fn of(proof: &str, request: &Request<'_>, now_s: u64) -> Result<Self, Reason> {
        if proof.len() > PROOF_BYTES_MAX {
            return Err(Reason::TooLong);
        }
        let (signed, signature) = proof.rsplit_once('.').ok_or(Reason::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(Reason::Malformed)?;
        // Strict: no padding, no other alphabet, so that one proof has one
        // spelling. A further dot is no letter of it.
        let (header, claims) = (object(header)?, object(claims)?);
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Reason::Malformed)?;
        let (algorithm, key) = header_obeys(&header)?;
        if !key.signed(algorithm, signed.as_bytes(), &signature) {
            return Err(Reason::Signature);
        }
        let id = text(&claims, "jti").filter(|id| (1..=ID_BYTES_MAX).contains(&id.len())).ok_or(Reason::Id)?;
        if text(&claims, "htm") != Some(request.method) {
            return Err(Reason::Method);
        }
        let url = text(&claims, "htu").and_then(target::normal).ok_or(Reason::Url)?;
        if target::normal(request.url).is_none_or(|asked| asked != url) {
            return Err(Reason::Url);
        }
        let issued_at_s = issued_at(&claims, now_s)?;
        if let Some(token) = request.token
            && text(&claims, "ath") != Some(URL_SAFE_NO_PAD.encode(digest(&SHA256, token.as_bytes())).as_str())
        {
            return Err(Reason::Token);
        }
        let thumbprint = key.thumbprint().to_owned();
        if request.bound_to.is_some_and(|bound| bound != thumbprint) {
            return Err(Reason::OtherKey);
        }
        let mut name = [0; 16];
        let whole = digest(&SHA256, [thumbprint.as_bytes(), b".", id.as_bytes()].concat().as_slice());
        name.copy_from_slice(&whole.as_ref()[..16]);
        Ok(Self { thumbprint, issued_at_s, name })
    }
}

fn header_obeys(header: &Json) -> Result<(Algorithm, Jwk), Reason> {
    if text(header, "typ") != Some("dpop+jwt") {
        return Err(Reason::Type);
    }
    if header.get("crit").is_some() {
        return Err(Reason::Critical);
    }
    if FORBIDDEN.iter().any(|name| header.get(name).is_some()) {
        return Err(Reason::ForbiddenHeader);
    }
    let algorithm = text(header, "alg").and_then(Algorithm::find).filter(|a| ALGORITHMS.contains(a));
    let algorithm = algorithm.ok_or(Reason::Algorithm)?;
    let key = header.get("jwk").filter(|jwk| jwk.object().is_some()).ok_or(Reason::Key)?;
    let key = Jwk::parse(key).ok().flatten().ok_or(Reason::Key)?;
    if !key.fits(algorithm) || key.strong().is_err() {
        return Err(Reason::KeyUnfit);
    }
    Ok((algorithm, key))
}

/// `iat` within [`SKEW_S_MAX`] of now; `nbf` and `exp`, which a proof need not
/// have, are honoured where they are there (RFC 7519, sections 4.1.4, 4.1.5).
fn issued_at(claims: &Json, now_s: u64) -> Result<u64, Reason> {
    let seconds = |name: &str| match claims.get(name) {
        None => Ok(None),
        Some(json) => json.integer().and_then(|n| u64::try_from(n).ok()).map(Some).ok_or(Reason::Time),
    };
    let issued_at_s = seconds("iat")?.ok_or(Reason::Time)?;
    let over = seconds("exp")?.is_some_and(|until| now_s >= until);
    let early = seconds("nbf")?.is_some_and(|from| from > now_s.saturating_add(SKEW_S_MAX));
    if over || early || issued_at_s.abs_diff(now_s) > SKEW_S_MAX { Err(Reason::Time) } else { Ok(issued_at_s) }
}

fn object(part: &str) -> Result<Json, Reason> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| Reason::Malformed)?;
    Json::parse(&bytes).filter(|json| json.object().is_some()).ok_or(Reason::Malformed)
}

fn text<'a>(json: &'a Json, name: &str) -> Option<&'a str> {
    json.get(name).and_then(Json::text)
}

#[cfg(test)]
mod tests;
