//! Signature Version 4 of STS requests: signed again by the library that AWS's
//! own SDK for Rust signs with, and compared in constant time.
//!
//! Only header signatures are taken (a presigned `GetCallerIdentity` is made
//! to be handed to others), only for the service `sts`, over the body as it
//! came, and over every header that could change what is asked. The scope is
//! part of the signing key, so that a signature for `s3` is worth nothing here
//! and the other way round.

use std::time::{Duration, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use http::request::Parts;
use ringfence_format::limits;
use ringfence_format::names::KeyId;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};
use zeroize::Zeroizing;

use super::error::{StsCode, StsError};

/// The service that requests must be signed for.
const SERVICE: &str = "sts";

/// A signature that a request claims to have: its shape, its time and its
/// body's digest are right, and no secret has been asked yet.
#[must_use]
#[derive(Debug)]
pub struct Claimed {
    key: KeyId,
    token: Option<Zeroizing<String>>,
    scope: Scope,
    request: ToSign,
    signature: String,
}

/// A signature for `sts` by the secret of one key was verified.
///
/// Not `Clone`: one check is one request.
#[must_use]
#[derive(Debug)]
pub struct Signed {
    key: KeyId,
}

impl Signed {
    /// The key whose secret it was.
    pub fn key(&self) -> &KeyId {
        &self.key
    }
}

#[derive(Debug)]
struct Scope {
    at_s: u64,
    region: String,
    service: String,
}

#[derive(Debug)]
struct ToSign {
    method: String,
    uri: String,
    headers: Vec<(String, String)>,
    body_sha256: String,
}

/// What is wrong with a request, and the key it claims.
type Wrong = (StsError, Option<KeyId>);

impl Claimed {
    /// Reads what a request claims. `now_s` is seconds since 1970.
    ///
    /// # Errors
    /// What STS says of it, and the key it names if it names one.
    pub(super) fn of(head: &Parts, body: &[u8], now_s: u64) -> Result<Self, Wrong> {
        Self::for_service(head, body, now_s, SERVICE)
    }

    fn for_service(head: &Parts, body: &[u8], now_s: u64, service: &str) -> Result<Self, Wrong> {
        let parsed = Authorization::of(head).map_err(|error| (error, None))?;
        let Authorization { key, scope, signed, signature } = parsed;
        let check = || -> Result<(), StsError> {
            covers(head, &signed)?;
            if scope.service != service {
                let message = format!("Credential should be scoped to correct service: '{service}'. ");
                return Err(StsError::new(StsCode::SignatureDoesNotMatch, message));
            }
            in_time(scope.at_s, now_s)?;
            digest_fits(head, body)
        };
        check().map_err(|error| (error, Some(key.clone())))?;
        let token = header(head, "x-amz-security-token").map_err(|error| (error, Some(key.clone())))?;
        let token = token.map(|token| Zeroizing::new(token.to_owned()));
        let request = ToSign::of(head, &signed, body).map_err(|error| (error, Some(key.clone())))?;
        Ok(Self { key, token, scope, request, signature })
    }

    /// The key it claims to be signed by.
    pub fn key(&self) -> &KeyId {
        &self.key
    }

    /// The session token beside the signature; it is covered by it.
    pub fn security_token(&self) -> Option<&str> {
        self.token.as_ref().map(|token| token.as_str())
    }

    /// Checks the signature with the secret of [`key`](Self::key).
    ///
    /// # Errors
    /// `SignatureDoesNotMatch`.
    pub fn check(self, secret: &str) -> Result<Signed, StsError> {
        let expected = self.signed_again(secret).ok_or_else(does_not_match)?;
        let (expected, given) = (expected.as_bytes(), self.signature.as_bytes());
        match aws_lc_rs::constant_time::verify_slices_are_equal(expected, given) {
            Ok(()) => Ok(Signed { key: self.key }),
            Err(_) => Err(does_not_match()),
        }
    }

    fn signed_again(&self, secret: &str) -> Option<String> {
        // The token is one of the signed headers already, where there is one.
        let identity = Credentials::new(self.key.as_str(), secret, None, None, "ringfence").into();
        let mut settings = SigningSettings::default();
        // What the client signed is signed again, and nothing else.
        settings.excluded_headers = Some(vec![]);
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.scope.region)
            .name(&self.scope.service)
            .time(UNIX_EPOCH.checked_add(Duration::from_secs(self.scope.at_s))?)
            .settings(settings)
            .build()
            .ok()?;
        let request = &self.request;
        let headers = request.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let body = SignableBody::Precomputed(request.body_sha256.clone());
        let signable = SignableRequest::new(&request.method, &request.uri, headers, body).ok()?;
        Some(sign(signable, &params.into()).ok()?.into_parts().1)
    }
}

impl ToSign {
    fn of(head: &Parts, signed: &[String], body: &[u8]) -> Result<Self, StsError> {
        let mut headers = vec![];
        for (name, value) in &head.headers {
            if signed.iter().any(|s| s == name.as_str()) {
                let value = value.to_str().map_err(|_| incomplete("a signed header is not ASCII"))?;
                headers.push((name.as_str().to_owned(), value.to_owned()));
            }
        }
        let host = header(head, "host")?.unwrap_or_default();
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let uri = format!("http://{host}{path}");
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body);
        let (method, body_sha256) = (head.method.as_str().to_owned(), hex::encode(digest));
        Ok(Self { method, uri, headers, body_sha256 })
    }
}

struct Authorization {
    key: KeyId,
    scope: Scope,
    signed: Vec<String>,
    signature: String,
}

impl Authorization {
    /// `AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…`, each once.
    fn of(head: &Parts) -> Result<Self, StsError> {
        let missing = || StsError::new(StsCode::MissingAuthenticationToken, "Request is missing Authentication Token");
        let text = header(head, "authorization")?.ok_or_else(missing)?;
        let fields = text.strip_prefix("AWS4-HMAC-SHA256").filter(|rest| rest.starts_with(' '));
        let fields = fields.ok_or_else(|| incomplete("the algorithm must be AWS4-HMAC-SHA256"))?;
        let (mut credential, mut signed, mut signature) = (None, None, None);
        for field in fields.split(',').map(str::trim) {
            let (name, value) = field.split_once('=').ok_or_else(|| incomplete("a field has no value"))?;
            let slot = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut signed,
                "Signature" => &mut signature,
                _ => return Err(incomplete("a field is not known")),
            };
            if slot.replace(value).is_some() {
                return Err(incomplete("a field stands twice"));
            }
        }
        let (Some(credential), Some(signed), Some(signature)) = (credential, signed, signature) else {
            return Err(incomplete("Credential, SignedHeaders and Signature must be given"));
        };
        let signature = signature.to_owned();
        let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        if signature.len() != 64 || !signature.bytes().all(hex) {
            return Err(incomplete("a signature is 64 lower-case hexadecimal digits"));
        }
        let date = header(head, "x-amz-date")?.ok_or_else(|| incomplete("X-Amz-Date must be given"))?;
        let (key, scope) = Self::scope(credential, date)?;
        Ok(Self { key, scope, signed: signed.split(';').map(str::to_owned).collect(), signature })
    }

    /// `KEY/YYYYMMDD/REGION/SERVICE/aws4_request`, of the day of `X-Amz-Date`.
    fn scope(credential: &str, date: &str) -> Result<(KeyId, Scope), StsError> {
        let parts: Vec<&str> = credential.split('/').collect();
        let &[key, day, region, service, "aws4_request"] = parts.as_slice() else {
            return Err(incomplete("Credential must be KEY/DATE/REGION/SERVICE/aws4_request"));
        };
        let invalid =
            || StsError::new(StsCode::InvalidClientTokenId, "The security token included in the request is invalid.");
        let key = KeyId::parse(key).map_err(|_| invalid())?;
        let format = format_description!("[year][month][day]T[hour][minute][second]Z");
        let at = PrimitiveDateTime::parse(date, format).map_err(|_| incomplete("X-Amz-Date is not a date"))?;
        if date.len() != 16 || !date.starts_with(day) || day.len() != 8 {
            return Err(StsError::new(
                StsCode::SignatureDoesNotMatch,
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP",
            ));
        }
        let at_s =
            u64::try_from(at.assume_utc().unix_timestamp()).map_err(|_| incomplete("X-Amz-Date is before 1970"))?;
        let name = |text: &str| {
            !text.is_empty()
                && text.len() <= 64
                && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_')
        };
        if !name(region) || !name(service) {
            return Err(incomplete("Credential must name a region and a service"));
        }
        Ok((key, Scope { at_s, region: region.to_owned(), service: service.to_owned() }))
    }
}

/// The signature covers the host, the time, and every header that changes what
/// is asked or for whom; names are sorted, in lower case, each once and there.
fn covers(head: &Parts, signed: &[String]) -> Result<(), StsError> {
    let lower = |name: &String| !name.is_empty() && !name.bytes().any(|c| c.is_ascii_uppercase());
    if !signed.iter().all(lower) || !signed.windows(2).all(|two| two[0] < two[1]) {
        return Err(incomplete("SignedHeaders must be sorted, in lower case, each once"));
    }
    let must = |name: &str| ["host", "x-amz-date"].contains(&name) || name.starts_with("x-amz-");
    let uncovered = head.headers.keys().map(|name| name.as_str()).find(|n| must(n) && !signed.iter().any(|s| s == n));
    if let Some(name) = uncovered {
        return Err(incomplete(&format!("header `{name}` must be signed")));
    }
    match signed.iter().find(|name| !head.headers.contains_key(name.as_str())) {
        Some(_) => Err(incomplete("a signed header is missing")),
        None if signed.iter().any(|name| name == "host") => Ok(()),
        None => Err(incomplete("header `host` must be signed")),
    }
}

fn in_time(at_s: u64, now_s: u64) -> Result<(), StsError> {
    let skew = u64::from(limits::CLOCK_SKEW_S_MAX);
    if now_s.saturating_sub(at_s) > skew {
        return Err(StsError::skewed(format!(
            "Signature expired: {} is now earlier than {} ({} - 15 min.)",
            text(at_s),
            text(now_s - skew),
            text(now_s)
        )));
    }
    if at_s.saturating_sub(now_s) > skew {
        return Err(StsError::skewed(format!(
            "Signature not yet current: {} is still later than {} ({} + 15 min.)",
            text(at_s),
            text(now_s + skew),
            text(now_s)
        )));
    }
    Ok(())
}

fn text(at_s: u64) -> String {
    let at: OffsetDateTime = (UNIX_EPOCH + Duration::from_secs(at_s)).into();
    at.format(format_description!("[year][month][day]T[hour][minute][second]Z")).unwrap_or_default()
}

/// A digest that is announced must be the body's; `UNSIGNED-PAYLOAD` is no digest.
fn digest_fits(head: &Parts, body: &[u8]) -> Result<(), StsError> {
    let Some(announced) = header(head, "x-amz-content-sha256")? else { return Ok(()) };
    let digest = hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body));
    if announced == digest { Ok(()) } else { Err(does_not_match()) }
}

/// A header that may stand once at most.
fn header<'a>(head: &'a Parts, name: &str) -> Result<Option<&'a str>, StsError> {
    let mut values = head.headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(incomplete(&format!("header `{name}` stands twice")));
    }
    value.to_str().map(Some).map_err(|_| incomplete(&format!("header `{name}` is not ASCII")))
}

fn incomplete(why: &str) -> StsError {
    StsError::new(StsCode::IncompleteSignature, format!("the signature does not conform to AWS standards: {why}"))
}

fn does_not_match() -> StsError {
    StsError::new(
        StsCode::SignatureDoesNotMatch,
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details.",
    )
}

#[cfg(test)]
mod tests;
