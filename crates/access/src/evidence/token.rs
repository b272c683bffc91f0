//! One token's way: `Untrusted` → `IssuerChosen` → [`VerifiedEvidence`].
//!
//! Each step takes the one before it by value, so that none can be left out;
//! there is no function that looks at a signature only. The rules are RFC 7515,
//! RFC 7519 and RFC 8725 with every option that an identity provider does not
//! need left out.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ringfence_format::names::{Principal, Realm, Tenant};

use super::algorithm::Algorithm;
use super::issuer::IssuerEntry;
use super::jwks::{Jwk, KID_BYTES_MAX};
use super::reason::Reason;
use crate::strict::Json;

/// Bytes of a token, checked before anything of it is read: the tokens of real
/// providers with a few hundred groups have less.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Seconds that an issuer's clock may be ahead of ours.
pub const CLOCK_AHEAD_S_MAX: u64 = 30;
/// Bytes of `sub` (OpenID Connect Core 1.0, section 2).
pub const SUBJECT_BYTES_MAX: usize = 255;
/// Seconds since 1970 that a claim may say: until the year 9999.
const TIME_S_MAX: i64 = 253_402_300_799;
/// Parameters by which a token would bring its own key, encoding or meaning.
const FORBIDDEN: [&str; 7] = ["jku", "jwk", "x5u", "x5c", "b64", "zip", "cty"];

/// A claim that roles may look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimValue {
    /// One word; numbers and truth values as their text.
    One(String),
    /// A list of words.
    Many(Vec<String>),
}

/// An identity provider's token that obeys every evidence rule. Only
/// [`Issuers::verify`](super::Issuers::verify) makes one.
///
/// Not `Clone`: one check of one token is one exchange.
///
/// ```compile_fail,E0451
/// use ringfence_access::VerifiedEvidence;
/// fn forge(other: VerifiedEvidence) -> VerifiedEvidence {
///     VerifiedEvidence { subject: "admin".to_owned(), ..other }
/// }
/// ```
///
/// ```compile_fail,E0599
/// use ringfence_access::VerifiedEvidence;
/// fn twice(evidence: VerifiedEvidence) -> (VerifiedEvidence, VerifiedEvidence) {
///     (evidence.clone(), evidence)
/// }
/// ```
///
/// ```compile_fail,E0616
/// use ringfence_access::VerifiedEvidence;
/// fn widen(evidence: &mut VerifiedEvidence) {
///     evidence.expires_s += 3600;
/// }
/// ```
#[must_use]
#[derive(Debug)]
pub struct VerifiedEvidence {
    issuer: Arc<IssuerEntry>,
    subject: String,
    claims: BTreeMap<String, ClaimValue>,
    issued_at_s: u64,
    expires_s: u64,
    token_sha256: [u8; 32],
    id_sha256: Option<[u8; 32]>,
    key_thumbprint: String,
}

impl VerifiedEvidence {
    /// The issuer entry's name.
    pub fn issuer(&self) -> &Principal {
        &self.issuer.name
    }
    /// `iss`.
    pub fn issuer_url(&self) -> &str {
        &self.issuer.url
    }
    /// The realm its subject acts in.
    pub fn realm(&self) -> &Realm {
        &self.issuer.realm
    }
    /// The tenant its subject acts for.
    pub fn tenant(&self) -> &Tenant {
        &self.issuer.tenant
    }
    /// `sub`: 1 to 255 bytes without control characters.
    pub fn subject(&self) -> &str {
        &self.subject
    }
    /// `aud`: us.
    pub fn audience(&self) -> &str {
        &self.issuer.audience
    }
    /// A claim that the issuer entry exposes.
    pub fn claim(&self, name: &str) -> Option<&ClaimValue> {
        self.claims.get(name)
    }
    /// `iat`, in seconds since 1970.
    pub fn issued_at_s(&self) -> u64 {
        self.issued_at_s
    }
    /// `exp`, in seconds since 1970. What is issued for it ends no later.
    pub fn expires_s(&self) -> u64 {
        self.expires_s
    }
    /// SHA-256 of the token as it was sent.
    pub fn token_sha256(&self) -> &[u8; 32] {
        &self.token_sha256
    }
    /// SHA-256 of `jti`, where there is one.
    pub fn id_sha256(&self) -> Option<&[u8; 32]> {
        self.id_sha256.as_ref()
    }
    /// RFC 7638 thumbprint of the key that signed it.
    pub fn key_thumbprint(&self) -> &str {
        &self.key_thumbprint
    }
}

/// A token of which nothing is true yet but its shape.
pub(super) struct Untrusted<'t> {
    token: &'t str,
    header: Json,
    claims: Json,
    signature: Vec<u8>,
}

/// A token whose unverified `iss` named one entry, and whose header obeys that
/// entry's rules.
pub(super) struct IssuerChosen<'t> {
    token: Untrusted<'t>,
    issuer: Arc<IssuerEntry>,
    algorithm: Algorithm,
}

impl<'t> Untrusted<'t> {
    /// Takes a token apart.
    pub(super) fn parse(token: &'t str) -> Result<Self, Reason> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Reason::TooLong);
        }
        if is_own_session(token) {
            return Err(Reason::OwnSession);
        }
        let (header, claims, signature) = apart(token)?;
        let claims = object(&claims)?;
        Ok(Self { token, header, claims, signature })
    }

    /// Finds the entry of its `iss` by exact comparison and holds the header
    /// against it.
    pub(super) fn issued_by(
        self,
        find: impl FnOnce(&str) -> Option<Arc<IssuerEntry>>,
    ) -> Result<IssuerChosen<'t>, (Reason, Option<Arc<IssuerEntry>>)> {
        let iss = self.claims.get("iss").and_then(Json::text);
        let issuer = iss.and_then(find).ok_or((Reason::UnknownIssuer, None))?;
        match self.header_obeys(&issuer) {
            Ok(algorithm) => Ok(IssuerChosen { token: self, issuer, algorithm }),
            Err(reason) => Err((reason, Some(issuer))),
        }
    }

    fn header_obeys(&self, issuer: &IssuerEntry) -> Result<Algorithm, Reason> {
        if self.header.get("crit").is_some() {
            return Err(Reason::Critical);
        }
        if FORBIDDEN.iter().any(|name| self.header.get(name).is_some()) {
            return Err(Reason::ForbiddenHeader);
        }
        let algorithm = self.header.get("alg").and_then(Json::text).and_then(Algorithm::find);
        let algorithm = algorithm.filter(|a| issuer.algorithms.contains(a)).ok_or(Reason::Algorithm)?;
        let typ = match self.header.get("typ") {
            None => None,
            Some(typ) => Some(typ.text().ok_or(Reason::Type)?),
        };
        if !issuer.types.iter().any(|allowed| allowed.as_deref() == typ) {
            return Err(Reason::Type);
        }
        match self.header.get("kid") {
            None => Ok(algorithm),
            Some(kid) => match kid.text() {
                Some(kid) if (1..=KID_BYTES_MAX).contains(&kid.len()) => Ok(algorithm),
                _ => Err(Reason::KeyIdMalformed),
            },
        }
    }
}

/// Header, bytes of the claims, and signature. Strict: three parts, base64url
/// without padding and without bits left over, so that one token has one
/// spelling.
fn apart(token: &str) -> Result<(Json, Vec<u8>, Vec<u8>), Reason> {
    let mut parts = token.split('.');
    let (Some(header), Some(claims), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Reason::Malformed);
    };
    let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| Reason::Malformed);
    Ok((object(&decoded(header)?)?, decoded(claims)?, decoded(signature)?))
}

fn object(bytes: &[u8]) -> Result<Json, Reason> {
    let json = Json::parse(bytes).ok_or(Reason::Malformed)?;
    json.object().is_some().then_some(json).ok_or(Reason::Malformed)
}

/// For published vectors, whose payloads are no claims: everything but those.
#[cfg(test)]
pub(super) fn all_but_claims(jws: &str, issuer: &IssuerEntry, keys: &super::Jwks) -> Result<(), Reason> {
    let (header, _, signature) = apart(jws)?;
    let untrusted = Untrusted { token: jws, header, claims: Json::Null, signature };
    let algorithm = untrusted.header_obeys(issuer)?;
    let key = keys.choose(untrusted.header.get("kid").and_then(Json::text), algorithm)?;
    let signed = &jws[..jws.rfind('.').ok_or(Reason::Malformed)?];
    key.signed(algorithm, signed.as_bytes(), &untrusted.signature).then_some(()).ok_or(Reason::Signature)
}

/// Whether it is, or begins like, a session token of ours: PASETO with a
/// receipt behind it.
fn is_own_session(token: &str) -> bool {
    ["v3.", "v4."].iter().any(|version| token.starts_with(version)) || token.contains('~')
}

impl IssuerChosen<'_> {
    pub(super) fn issuer(&self) -> &Arc<IssuerEntry> {
        &self.issuer
    }
    pub(super) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
    pub(super) fn kid(&self) -> Option<&str> {
        self.token.header.get("kid").and_then(Json::text)
    }

    /// Checks the signature by a key of that issuer, then every claim.
    /// `now_s` is seconds since 1970.
    pub(super) fn verify(self, key: &Jwk, now_s: u64) -> Result<VerifiedEvidence, Reason> {
        let Untrusted { token, claims, signature, .. } = &self.token;
        let signed = &token[..token.rfind('.').ok_or(Reason::Malformed)?];
        if !key.signed(self.algorithm, signed.as_bytes(), signature) {
            return Err(Reason::Signature);
        }
        audience_is_us(claims, &self.issuer)?;
        let subject = subject(claims)?;
        let (issued_at_s, expires_s) = lifetime(claims, self.issuer.max_token_age_s, now_s)?;
        let id_sha256 = match claims.get("jti") {
            None => None,
            Some(id) => {
                let id = id.text().filter(|id| (1..=255).contains(&id.len())).ok_or(Reason::IdMalformed)?;
                Some(sha256(id.as_bytes()))
            }
        };
        let exposed = |name: &String| Some((name.clone(), exposed(claims, name)?));
        Ok(VerifiedEvidence {
            claims: self.issuer.claims.iter().filter_map(exposed).collect(),
            subject,
            issued_at_s,
            expires_s,
            token_sha256: sha256(token.as_bytes()),
            id_sha256,
            key_thumbprint: key.thumbprint().to_owned(),
            issuer: self.issuer,
        })
    }
}

/// Exactly one audience, us; or, where the entry says so, several of which we
/// are one and `azp` is us.
fn audience_is_us(claims: &Json, issuer: &IssuerEntry) -> Result<(), Reason> {
    let us = |json: &Json| json.text() == Some(issuer.audience.as_str());
    match claims.get("aud").ok_or(Reason::Audience)? {
        Json::List(list) if list.len() > 1 && issuer.by_authorized_party => {
            if !list.iter().any(us) || !list.iter().all(|one| one.text().is_some()) {
                return Err(Reason::Audience);
            }
            let party = claims.get("azp").ok_or(Reason::AuthorizedParty)?;
            if us(party) { Ok(()) } else { Err(Reason::AuthorizedParty) }
        }
        Json::List(list) if list.len() == 1 && us(&list[0]) => Ok(()),
        one if us(one) => Ok(()),
        _ => Err(Reason::Audience),
    }
}

fn subject(claims: &Json) -> Result<String, Reason> {
    let subject = claims.get("sub").and_then(Json::text).ok_or(Reason::Subject)?;
    let fits = (1..=SUBJECT_BYTES_MAX).contains(&subject.len()) && !subject.chars().any(char::is_control);
    if fits { Ok(subject.to_owned()) } else { Err(Reason::Subject) }
}

/// `iat` and `exp`, both there, in order, and now between them.
fn lifetime(claims: &Json, max_age_s: u64, now_s: u64) -> Result<(u64, u64), Reason> {
    let required = |name: &str, reason: Reason| claims.get(name).and_then(seconds).ok_or(reason);
    let expires_s = required("exp", Reason::ExpiryMalformed)?;
    let issued_at_s = required("iat", Reason::IssuedAtMalformed)?;
    let not_before_s = match claims.get("nbf") {
        None => None,
        Some(json) => Some(seconds(json).ok_or(Reason::NotBeforeMalformed)?),
    };
    if now_s >= expires_s {
        return Err(Reason::Expired);
    }
    let latest = now_s.saturating_add(CLOCK_AHEAD_S_MAX);
    if issued_at_s > latest {
        return Err(Reason::FromTheFuture);
    }
    if not_before_s.is_some_and(|from| from > latest) {
        return Err(Reason::NotYet);
    }
    match expires_s.checked_sub(issued_at_s) {
        Some(1..) if expires_s - issued_at_s <= max_age_s => Ok((issued_at_s, expires_s)),
        _ => Err(Reason::TooLongLived),
    }
}

fn seconds(json: &Json) -> Option<u64> {
    let number = json.integer().filter(|number| *number <= TIME_S_MAX)?;
    u64::try_from(number).ok()
}

/// A claim by name, or by JSON pointer (RFC 6901) if it begins with `/`.
fn exposed(claims: &Json, name: &str) -> Option<ClaimValue> {
    let value = match name.strip_prefix('/') {
        None => claims.get(name)?,
        Some(path) => {
            let unescaped = |step: &str| step.replace("~1", "/").replace("~0", "~");
            path.split('/').try_fold(claims, |at, step| at.get(&unescaped(step)))?
        }
    };
    match value {
        Json::List(items) => items.iter().map(word).collect::<Option<_>>().map(ClaimValue::Many),
        one => word(one).map(ClaimValue::One),
    }
}

fn word(json: &Json) -> Option<String> {
    match json {
        Json::Text(text) => Some(text.clone()),
        Json::Integer(number) => Some(number.to_string()),
        Json::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}
