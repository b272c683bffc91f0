//! `/token`: an identity provider's token for a session of purpose `api` (RFC
//! 8693), bound to the key of a DPoP proof where one is shown (RFC 9449, section
//! 5).

use std::net::IpAddr;

use axum::body::Body;
use axum::response::Response;
use http::request::Parts;
use http::{HeaderValue, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use ringfence_access::caller::{AuthnReason, Origin, Unauthenticated};
use ringfence_access::dpop;
use ringfence_format::record::Seq;
use serde_json::json;
use zeroize::Zeroizing;

use super::asked::{one, origin, own_url};
use super::{Gate, named, plain, withheld};
use crate::flows::issue;
use crate::sts::{BODY_BYTES_MAX, Issued, Parameters, Refusal, StsCode, WithWebIdentity, role_of};

pub(super) const OP: &str = "api:TokenExchange";

const GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
/// What a token of an identity provider may be called. It is held against the
/// same rules whatever it is called.
const SUBJECT_TYPES: [&str; 3] =
    ["urn:ietf:params:oauth:token-type:jwt", "urn:ietf:params:oauth:token-type:id_token", ACCESS_TOKEN];
/// Parameters that would narrow or bind what is issued, in ways that are not
/// built: never passed over, as others that nobody knows are (RFC 6749, section
/// 3.2).
const NOT_BUILT: [&str; 5] = ["actor_token", "actor_token_type", "audience", "authorization_details", "scope"];

/// A "no" as OAuth says it (RFC 6749, section 5.2; RFC 8693, section 2.2.2).
#[derive(Debug)]
struct Wrong {
    code: &'static str,
    about: String,
    /// Where a flow has not recorded it: as what it is to be recorded.
    refused: Option<Unauthenticated>,
    /// Where it is on record already.
    recorded: Option<Seq>,
}

impl Gate {
    pub(super) async fn exchange(&self, head: &Parts, body: Body, peer: IpAddr) -> Response {
        let origin = origin(&head.headers, self.at.config.auth.proxy, peer);
        match self.exchanged(head, body, &origin).await {
            Ok((issued, bound)) => {
                let kind = if bound { "DPoP" } else { "Bearer" };
                let recorded = Some(issued.recorded);
                let said = answer(
                    StatusCode::OK,
                    &json!({
                        "access_token": issued.session_token.as_str(),
                        "issued_token_type": ACCESS_TOKEN,
                        "token_type": kind,
                        "expires_in": issued.expires_s.saturating_sub(self.now_s()),
                    }),
                );
                named(said, recorded)
            }
            Err(wrong) => self.say(wrong).await,
        }
    }

    async fn exchanged(&self, head: &Parts, body: Body, origin: &Origin) -> Result<(Issued, bool), Wrong> {
        let malformed = |about: &str| Wrong::request(about, AuthnReason::Malformed, origin);
        if head.method != http::Method::POST || head.uri.query().is_some() || !is_form(head) {
            return Err(malformed("this is a POST of application/x-www-form-urlencoded"));
        }
        let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
        let body =
            Zeroizing::new(body.map_err(|_| malformed("the body is too long or broke off"))?.to_bytes().to_vec());
        let form = Parameters::of(head, &body).map_err(|error| malformed(&error.message))?;
        let ask = ask(form).map_err(|(code, about)| Wrong { code, ..malformed(about) })?;
        let thumbprint = self.proved(head, origin)?;
        let bound = thumbprint.is_some();
        let issued = issue::for_api(&self.at, ask, thumbprint, origin).await;
        issued.map(|issued| (issued, bound)).map_err(|refusal| Wrong::of(refusal, origin))
    }

    /// The key that the session is to be bound to.
    fn proved(&self, head: &Parts, origin: &Origin) -> Result<Option<String>, Wrong> {
        if !head.headers.contains_key("dpop") {
            return Ok(None);
        }
        let config = &self.at.config.auth;
        let url = config.addr.map(|addr| own_url(head, config.proxy, addr)).unwrap_or_default();
        let request = dpop::Request { method: "POST", url: &url, token: None, bound_to: None };
        let proof = one(&head.headers, "dpop").ok_or(dpop::Reason::Malformed);
        let proved = proof.and_then(|proof| self.exchanges.prove(proof, &request, self.now_s()));
        proved.map(|key| Some(key.thumbprint().to_owned())).map_err(|reason| {
            let code = if reason == dpop::Reason::Full { "temporarily_unavailable" } else { "invalid_dpop_proof" };
            let about = "the DPoP proof is not acceptable".to_owned();
            let refused = Unauthenticated::new(AuthnReason::Proof(reason), None, origin.clone());
            Wrong { code, about, refused: Some(refused), recorded: None }
        })
    }

    /// INVARIANT 8 — records a "no" that no flow has recorded, and then says it.
    async fn say(&self, wrong: Wrong) -> Response {
        let Wrong { code, about, refused, mut recorded } = wrong;
        let status = status_of(code);
        if let Some(refused) = refused {
            let refused = refused.during(OP).answered(status.as_u16(), code);
            let Ok(index) = self.at.record_refused(refused).await.map_err(withheld) else {
                return plain(StatusCode::SERVICE_UNAVAILABLE);
            };
            recorded = index;
        }
        named(answer(status, &json!({ "error": code, "error_description": about })), recorded)
    }
}

impl Wrong {
    fn request(about: &str, reason: AuthnReason, origin: &Origin) -> Self {
        let refused = Some(Unauthenticated::new(reason, None, origin.clone()));
        Self { code: "invalid_request", about: about.to_owned(), refused, recorded: None }
    }

    /// Of a flow's "no". A subject token that is not acceptable is an invalid
    /// request (RFC 8693, section 2.2.2).
    fn of(refusal: Refusal, origin: &Origin) -> Self {
        let (code, about) = match refusal.error.code {
            StsCode::AccessDenied => ("invalid_target", "there is no such role for this subject"),
            StsCode::ServiceUnavailable | StsCode::IdpCommunicationError => {
                ("temporarily_unavailable", "sessions cannot be issued now: retry")
            }
            StsCode::ExpiredTokenException => ("invalid_request", "the subject token has expired"),
            _ => ("invalid_request", "the subject token is not acceptable"),
        };
        let unrecorded = || Unauthenticated::new(AuthnReason::Malformed, None, origin.clone());
        let refused = match refusal.recorded {
            Some(_) => None,
            None => Some(refusal.refused.unwrap_or_else(unrecorded)),
        };
        Self { code, about: about.to_owned(), refused, recorded: refusal.recorded }
    }
}

fn status_of(code: &str) -> StatusCode {
    match code {
        "temporarily_unavailable" => StatusCode::SERVICE_UNAVAILABLE,
        "server_error" => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    }
}

fn is_form(head: &Parts) -> bool {
    let kind = one(&head.headers, "content-type").and_then(|kind| kind.split(';').next());
    kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded"))
}

/// RFC 8693, section 2.1. Empty parameters are as if they were not there (RFC
/// 6749, section 3.2).
fn ask(mut form: Parameters) -> Result<WithWebIdentity, (&'static str, &'static str)> {
    let mut given = |name: &str| form.take(name).filter(|value| !value.is_empty());
    match given("grant_type").as_deref().map(String::as_str) {
        Some(GRANT) => {}
        None => return Err(("invalid_request", "`grant_type` is missing")),
        Some(_) => return Err(("unsupported_grant_type", "only token exchange (RFC 8693) is built")),
    }
    if NOT_BUILT.iter().any(|name| given(name).is_some()) {
        return Err(("invalid_request", "an actor, an audience or a scope cannot be asked for: name a role"));
    }
    if given("requested_token_type").is_some_and(|kind| kind.as_str() != ACCESS_TOKEN) {
        return Err(("invalid_request", "only access tokens are issued"));
    }
    let kind = given("subject_token_type").ok_or(("invalid_request", "`subject_token_type` is missing"))?;
    if !SUBJECT_TYPES.contains(&kind.as_str()) {
        return Err(("invalid_request", "the type of the subject token is not supported"));
    }
    let evidence = given("subject_token").ok_or(("invalid_request", "`subject_token` is missing"))?;
    let resource = given("resource").ok_or(("invalid_target", "`resource` is missing: the ARN of a role"))?;
    let role = role_of(&resource).filter(|role| role.tenant.is_some());
    let role = role.ok_or(("invalid_target", "`resource` is no arn:ringfence:iam::TENANT:role/NAME"))?;
    Ok(WithWebIdentity { role, session_name: "token-exchange".to_owned(), evidence, duration_s: None, policy: None })
}

fn answer(status: StatusCode, document: &serde_json::Value) -> Response {
    let mut response = plain(status);
    *response.body_mut() = Body::from(document.to_string());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    response
}
