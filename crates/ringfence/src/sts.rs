//! STS on the wire: AWS Security Token Service, API version 2011-06-15, as far
//! as SDKs need it to get a session and to ask who they are.
//!
//! Bytes ↔ typed asks and nothing else: [`query`] reads strictly, [`sigv4`]
//! checks signatures for the service `sts`, [`answer`] writes the documents.
//! What is issued and to whom is decided in [`crate::flows::issue`].

mod answer;
mod error;
pub mod fetch;
mod query;
mod sigv4;
mod world;

use std::sync::Arc;

use http::request::Parts;
use ringfence_access::caller::{AuthnReason, Origin, Unauthenticated};
use ringfence_format::names::{Principal, Tenant};
use ringfence_format::record::Seq;
use zeroize::Zeroizing;

use crate::flows::issue;
use crate::installation::Installation;

pub use answer::{Answered, assumed_role_arn, assumed_role_id};
pub use error::{StsCode, StsError};
pub use query::Given;
pub(crate) use query::{Parameters, role_of};
pub use sigv4::Claimed;
pub use world::World;

/// The role a client asks for, as its ARN says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleRef {
    /// Whose; `None` where the ARN holds an AWS account number: the tenant of
    /// the evidence, or of the caller, is meant.
    pub tenant: Option<Tenant>,
    /// Its name.
    pub name: Principal,
    /// The ARN as it was given.
    pub arn: String,
}

/// `AssumeRoleWithWebIdentity`, well-formed; nothing of it is verified.
#[derive(Debug)]
pub struct WithWebIdentity {
    /// Which role.
    pub role: RoleRef,
    /// What the client calls the session: 2–64 of `[\w+=,.@-]`.
    pub session_name: String,
    /// The identity provider's token, unverified.
    pub evidence: Zeroizing<String>,
    /// Seconds it is to last, 900 to 43,200; `None`: the default.
    pub duration_s: Option<u32>,
    /// The session policy's text, at most 2,048 characters, not read yet.
    pub policy: Option<String>,
}

/// `AssumeRole`, well-formed; nothing of it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssumeRole {
    /// Which role.
    pub role: RoleRef,
    /// What the client calls the session: 2–64 of `[\w+=,.@-]`.
    pub session_name: String,
    /// Seconds it is to last, 900 to 43,200; `None`: the default.
    pub duration_s: Option<u32>,
    /// The session policy's text, at most 2,048 characters, not read yet.
    pub policy: Option<String>,
}

/// A session that was issued and is on record.
#[derive(Debug)]
pub struct Issued {
    /// `ASIA…`.
    pub access_key_id: String,
    /// The secret of that key.
    pub secret: Zeroizing<String>,
    /// The session token on the wire.
    pub session_token: Zeroizing<String>,
    /// When it ends, in seconds since 1970.
    pub expires_s: u64,
    /// Whose.
    pub tenant: Tenant,
    /// The role's name.
    pub role: Principal,
    /// What the client called the session.
    pub session_name: String,
    /// `sub` and `aud` of the evidence, and the issuer's URL, where there was
    /// evidence: `AssumeRole` has none.
    pub evidence: Option<EvidenceSeen>,
    /// Length of the session policy in per cent of what is allowed.
    pub packed_policy_percent: Option<u32>,
    /// The record it stands on.
    pub recorded: Seq,
}

/// What the answer repeats of the evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvidenceSeen {
    /// `sub`.
    pub subject: String,
    /// `aud`.
    pub audience: String,
    /// `iss`.
    pub provider: String,
}

/// Who a signed request comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `arn:ringfence:…`.
    pub arn: String,
    /// The key id, or `AROA…:session-name`.
    pub user_id: String,
    /// The tenant.
    pub account: Tenant,
    /// The record it stands on.
    pub recorded: Seq,
}

/// A flow's "no" to an STS request.
#[derive(Debug)]
pub struct Refusal {
    /// For the client.
    pub error: StsError,
    /// Where it is on record, if a flow has recorded it.
    pub recorded: Option<Seq>,
    /// Why there is no caller, where that is why; the wire records or counts
    /// it if `recorded` is `None`.
    pub refused: Option<Unauthenticated>,
}

impl Refusal {
    /// Recorded by the wire: as `refused`, or as malformed where that is `None`.
    pub fn new(error: StsError, refused: Option<Unauthenticated>) -> Self {
        Self { error, recorded: None, refused }
    }

    /// On record already.
    pub fn recorded(error: StsError, seq: Seq) -> Self {
        Self { error, recorded: Some(seq), refused: None }
    }
}

impl From<StsError> for Refusal {
    fn from(error: StsError) -> Self {
        Self::new(error, None)
    }
}

/// Whether a request is one for STS: the root path, of no bucket's host name
/// under one of `domains`, and either a form, or a query with `Action`.
/// Everything else is S3's.
pub fn is_asked(head: &Parts, domains: &[String]) -> bool {
    let host = head.headers.get(http::header::HOST).and_then(|value| value.to_str().ok());
    let name = host.map(|host| host.rsplit_once(':').map_or(host, |(name, _)| name)).unwrap_or_default();
    let of_bucket = |domain: &String| name.strip_suffix(domain.as_str()).is_some_and(|rest| rest.ends_with('.'));
    if domains.iter().any(of_bucket) {
        return false;
    }
    let form = head.headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let form = form.and_then(|kind| kind.split(';').next()).map(str::trim);
    let form = form.is_some_and(|kind| kind.eq_ignore_ascii_case("application/x-www-form-urlencoded"));
    let post = head.method == http::Method::POST;
    let get = head.method == http::Method::GET;
    let named = head.uri.query().unwrap_or_default().split('&').any(|pair| pair.split('=').next() == Some("Action"));
    head.uri.path() == "/" && ((post && (form || named)) || (get && named))
}

/// The longest body of an STS request, in bytes: a token of 16 KiB, a policy of
/// 2,048 characters at three bytes each, and names.
pub const BODY_BYTES_MAX: usize = 32 * 1024;

/// Answers one request. `None` for a body that was too long or broke off.
pub async fn answer(at: &Arc<Installation>, head: &Parts, body: Option<&[u8]>, origin: &Origin) -> Answered {
    let op = |given: Option<&Given>| given.map_or("sts:Unknown", Given::op);
    let body = match body {
        Some(body) => body,
        None => return Answered::refused(op(None), StsError::too_large().into()),
    };
    let given = match query::read(head, body) {
        Ok(given) => given,
        Err(wrong) => return Answered::refused(op(None), wrong.into()),
    };
    let op = op(Some(&given));
    let outcome = match given {
        Given::WithWebIdentity(ask) => issue::with_web_identity(at, ask, origin).await.map(answer::Said::WebIdentity),
        Given::AssumeRole(ask) => match claimed(at, head, body, origin) {
            Ok(claimed) => issue::assume_role(at, ask, claimed, origin).await.map(answer::Said::Role),
            Err(refusal) => Err(refusal),
        },
        Given::CallerIdentity => match claimed(at, head, body, origin) {
            Ok(claimed) => issue::caller_identity(at, claimed, origin).await.map(answer::Said::Identity),
            Err(refusal) => Err(refusal),
        },
    };
    match outcome {
        Ok(said) => Answered::said(op, said),
        Err(refusal) => Answered::refused(op, refusal),
    }
}

/// The signature that a request claims, its shape, time and body checked. A
/// refusal names the key it claims, so that a key that exists stands alone in
/// the log.
fn claimed(at: &Arc<Installation>, head: &Parts, body: &[u8], origin: &Origin) -> Result<Claimed, Refusal> {
    Claimed::of(head, body, at.clock.now_us() / 1_000_000).map_err(|(error, key)| {
        let reason = error.authn_reason();
        let refused = match key {
            Some(key) => Unauthenticated::of_known_key(reason, &key, &at.keys, origin.clone()),
            None => Unauthenticated::new(reason, None, origin.clone()),
        };
        Refusal::new(error, Some(refused))
    })
}

impl StsError {
    /// How a record says what the wire itself found wrong.
    fn authn_reason(&self) -> AuthnReason {
        match self.code {
            StsCode::MissingAuthenticationToken => AuthnReason::Missing,
            StsCode::SignatureDoesNotMatch if self.skewed => AuthnReason::Skewed,
            StsCode::SignatureDoesNotMatch => AuthnReason::BadSignature,
            StsCode::InvalidClientTokenId => AuthnReason::UnknownKey,
            _ => AuthnReason::Malformed,
        }
    }
}
