//! S3 on the wire: bytes ↔ typed operations, and nothing else.
//!
//! [`service`] is what the listener calls. Around the library that parses S3
//! and checks SigV4 stands one outer layer with one duty: no answer leaves
//! without its record (INVARIANTS 1 and 8). A flow that succeeds says where it
//! is on record; whatever else is answered, a failed signature included, is
//! put on record here, or counted where it names no key of ours.

mod access;
mod body;
mod convert;
mod ops;
mod rest;
mod scope;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use ringfence_access::caller::{AuthnReason, Origin, Unauthenticated};
use ringfence_format::leaf::request_id;
use ringfence_format::limits;
use ringfence_format::names::KeyId;
use ringfence_format::record::Seq;
use ringfence_format::session::Purpose;
use s3s::Body;
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::service::{S3Service, S3ServiceBuilder};

use crate::flows::Unrecorded;
use crate::installation::Installation;
use crate::serve::Peer;
use crate::sessions::Live;
use crate::sts;
use scope::Scope;

/// The request id of what was counted with others and has no record of its own.
const AGGREGATED: &str = "aggregated";
/// What ids of sessions' keys begin with, as AWS's do.
const SESSION_KEY: &str = "ASIA";
const REQUEST_ID: HeaderName = HeaderName::from_static("x-amz-request-id");

/// Answers S3 requests to one installation.
#[derive(Clone)]
pub struct Wire {
    at: Arc<Installation>,
    s3: S3Service,
}

/// The S3 endpoint of an installation.
pub fn service(at: Arc<Installation>) -> Wire {
    let mut config = S3Config::default();
    config.xml_max_body_size = limits::XML_BODY_BYTES_MAX;
    config.put_object_max_size = Some(limits::PART_BYTES_MAX);
    config.aws_chunked_stream_max_chunk_size = limits::SIGNED_CHUNK_BYTES_MAX;
    config.presigned_url_max_skew_time_secs = limits::CLOCK_SKEW_S_MAX;
    config.presigned_url_max_expires_secs = limits::PRESIGNED_S_MAX;
    config.sig_v4_allowed_services = vec!["s3".to_owned()];
    config.enable_sig_v2 = false;
    config.allow_post_signature = false;
    let mut builder = S3ServiceBuilder::new(ops::Ops { at: at.clone() });
    builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
    builder.set_auth(access::Secrets { at: at.clone() });
    builder.set_access(access::Authenticate { at: at.clone() });
    builder.set_host(access::Hosts { domains: at.config.s3.domains.clone() });
    Wire { s3: builder.build(), at }
}

impl hyper::service::Service<Request<Incoming>> for Wire {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let wire = self.clone();
        Box::pin(async move { Ok(wire.answer(request).await) })
    }
}

impl Wire {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let started_us = self.at.clock.now_us();
        let waits = request.headers().contains_key(http::header::EXPECT);
        let mut rest = None;
        let mut request = request.map(|incoming| {
            if http_body::Body::is_end_stream(&incoming) {
                return Body::empty();
            }
            let (lent, back) = rest::Lent::of(incoming);
            rest = Some(back);
            Body::http_body(lent)
        });
        let (origin, key) = (origin(&request), claimed_key(&request));
        // Before anything else is looked up (ruling 23): what a token shows is
        // noticed whatever the rest of the request is worth.
        let session = self.session(&request, &origin).await;
        let scope = Arc::new(Scope::of(origin, key, session.as_ref().ok().cloned().flatten()));
        request.extensions_mut().insert(scope.clone());
        let (head, body) = request.into_parts();
        let mut response = if sts::is_asked(&head, &self.at.config.s3.domains) {
            self.sts(&scope, &head, body).await
        } else {
            let response = match session {
                Ok(live) => access::LIVE.scope(live, self.s3(Request::from_parts(head, body))).await,
                Err(refused) => {
                    let (status, code) = refused.answer();
                    scope.is_refused(refused);
                    error(StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN), code, told(code))
                }
            };
            self.on_record(&scope, response).await
        };
        let clean = match rest {
            Some(rest) => rest.discard(waits).await,
            // Nobody tells a client to go on that announced an empty body, and
            // some (botocore) cannot use a connection again on which the final
            // answer came where they waited for `100 Continue`.
            None => !waits,
        };
        if !clean {
            response.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("close"));
        }
        let op = scope.op();
        let status = response.status().as_u16().to_string();
        metrics::counter!("ringfence_s3_requests", "op" => op, "status" => status).increment(1);
        let seconds = self.at.clock.now_us().saturating_sub(started_us) as f64 / 1e6;
        metrics::histogram!("ringfence_s3_request_seconds", "op" => op).record(seconds);
        response
    }

    /// A request of S3, by the library.
    async fn s3(&self, request: Request<Body>) -> Response<Body> {
        let called = match before(request).await {
            Ok(request) => self.s3.call(request).await,
            Err(refused) => Ok(error(refused.0, refused.1, refused.2)),
        };
        let mut response = match called {
            Ok(response) => response,
            Err(error) => {
                tracing::error!("a request could not be answered: {error}");
                plain(StatusCode::INTERNAL_SERVER_ERROR)
            }
        };
        if response.status() == StatusCode::OK && response.headers().contains_key(http::header::CONTENT_RANGE) {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        response
    }

    /// A request of STS, which the library does not know. Its answer has the
    /// id of its record inside, so it is put on record before it is written.
    async fn sts(&self, scope: &Scope, head: &Parts, body: Body) -> Response<Body> {
        let limited = http_body_util::Limited::new(body, sts::BODY_BYTES_MAX);
        let body = http_body_util::BodyExt::collect(limited).await.ok().map(|body| body.to_bytes());
        let answered = sts::answer(&self.at, head, body.as_deref(), scope.origin()).await;
        scope.asks(answered.op(), None, None);
        let recorded = match answered.recorded() {
            Some(seq) => Ok(Some(seq)),
            None => {
                let nobody = || Unauthenticated::new(AuthnReason::Malformed, None, scope.origin().clone());
                let refused = answered.refused_as().cloned().unwrap_or_else(nobody);
                self.record_refused(refused.during(answered.op())).await
            }
        };
        let id = match recorded {
            Ok(seq) => seq.map_or_else(|| AGGREGATED.to_owned(), request_id),
            Err(error) => {
                tracing::error!("an answer was withheld because it could not be recorded: {error}");
                return plain(StatusCode::SERVICE_UNAVAILABLE);
            }
        };
        let mut response = Response::new(Body::from(answered.document(&id).to_string()));
        *response.status_mut() = StatusCode::from_u16(answered.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/xml"));
        headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let id = HeaderValue::from_str(&id).expect("base32 is a header value");
        headers.insert(HeaderName::from_static("x-amzn-requestid"), id.clone());
        headers.insert(REQUEST_ID, id);
        response
    }

    /// The session whose token a request carries, judged; nothing where it
    /// carries none.
    async fn session(&self, request: &Request<Body>, origin: &Origin) -> Result<Option<Arc<Live>>, Unauthenticated> {
        match token_of(request) {
            Shown::None => Ok(None),
            Shown::One(text) => self.at.judge(&text, Purpose::StsSession, origin).await.map(Some),
            Shown::Unclear => Err(Unauthenticated::new(AuthnReason::Malformed, None, origin.clone())),
        }
    }

    /// INVARIANT 8 — an answer that no flow has recorded is recorded now; if
    /// that fails, nothing of it is told.
    async fn on_record(&self, scope: &Scope, mut response: Response<Body>) -> Response<Body> {
        let recorded = match scope.recorded() {
            Some(seq) => Ok(Some(seq)),
            None => self.record_answer(scope, &mut response).await,
        };
        let id = match recorded {
            Ok(Some(seq)) => request_id(seq),
            // Counted with others of its minute: it has no record of its own.
            Ok(None) => AGGREGATED.to_owned(),
            Err(error) => {
                tracing::error!("an answer was withheld because it could not be recorded: {error}");
                return plain(StatusCode::SERVICE_UNAVAILABLE);
            }
        };
        name_request(&mut response, &id);
        let id = HeaderValue::from_str(&id).expect("base32 is a header value");
        response.headers_mut().insert(REQUEST_ID, id);
        response
    }

    async fn record_answer(
        &self,
        scope: &Scope,
        response: &mut Response<Body>,
    ) -> Result<Option<Seq>, ringfence_log::LogError> {
        let status = response.status().as_u16();
        let code = error_code(response).unwrap_or_default();
        if let Some(caller) = scope.caller() {
            let entry = Unrecorded {
                subject: caller.subject(Some(caller.tenant())),
                op: scope.op(),
                resource: scope.resource(),
                status,
                reason: format!("the request was not understood or not supported: {code}"),
                code,
                of: None,
            };
            return Ok(Some(self.at.log.record(entry).await?.index()));
        }
        self.record_refused(self.unauthenticated(scope, &code)).await
    }

    /// Alone if it names a key that exists, else with others of its minute.
    async fn record_refused(&self, refused: Unauthenticated) -> Result<Option<Seq>, ringfence_log::LogError> {
        self.at.record_refused(refused).await
    }

    /// Why there is no caller, as precisely as can be told from the answer.
    fn unauthenticated(&self, scope: &Scope, code: &str) -> Unauthenticated {
        if let Some(refused) = scope.refused() {
            return refused;
        }
        let reason = match (code, scope.claimed_key()) {
            ("SignatureDoesNotMatch", _) => AuthnReason::BadSignature,
            ("RequestTimeTooSkewed", _) => AuthnReason::Skewed,
            ("InvalidAccessKeyId", Some(_)) if scope.live().is_some() => AuthnReason::OtherKey,
            ("InvalidAccessKeyId", Some(key)) if key.as_str().starts_with(SESSION_KEY) => AuthnReason::NoToken,
            ("InvalidAccessKeyId", Some(key)) if self.at.keys.find(key).is_some() => AuthnReason::Disabled,
            ("InvalidAccessKeyId", _) => AuthnReason::UnknownKey,
            ("AccessDenied", Some(_)) => AuthnReason::Expired,
            (_, None) => AuthnReason::Missing,
            _ => AuthnReason::Malformed,
        };
        match scope.claimed_key() {
            key if scope.live().is_some() => {
                let claims = scope.live().map(|live| live.session.claims().clone()).expect("it was just seen");
                Unauthenticated::of_session(reason, &claims, key.cloned(), scope.origin().clone())
            }
            Some(key) => Unauthenticated::of_known_key(reason, key, &self.at.keys, scope.origin().clone()),
            None => Unauthenticated::new(reason, None, scope.origin().clone()),
        }
    }
}

/// What a client is told of a session token that is refused: what S3 says, and
/// nothing of the reason.
fn told(code: &str) -> &'static str {
    match code {
        "ExpiredToken" => "The provided token has expired.",
        "AccessDenied" => "Access Denied",
        _ => "The provided token is malformed or otherwise invalid.",
    }
}

/// The session token of a request.
enum Shown {
    None,
    One(String),
    /// More than one, or one that is no text.
    Unclear,
}

/// In the header, or in the query of a presigned URL; never both.
fn token_of(request: &Request<Body>) -> Shown {
    let mut headers = request.headers().get_all("x-amz-security-token").iter();
    let query =
        request.uri().query().unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut queries = query.filter(|(name, _)| name.eq_ignore_ascii_case("X-Amz-Security-Token"));
    match (headers.next(), headers.next(), queries.next(), queries.next()) {
        (None, _, None, _) => Shown::None,
        (Some(value), None, None, _) => value.to_str().map_or(Shown::Unclear, |text| Shown::One(text.to_owned())),
        (None, _, Some((_, value)), None) => {
            let decoded = percent_encoding::percent_decode_str(value).decode_utf8();
            decoded.map_or(Shown::Unclear, |text| Shown::One(text.into_owned()))
        }
        _ => Shown::Unclear,
    }
}

fn origin(request: &Request<Body>) -> Origin {
    let ip = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
    let agent = request.headers().get(http::header::USER_AGENT).and_then(|value| value.to_str().ok());
    // Clients send long lists of their features; the beginning says who it is.
    Origin { ip, user_agent: agent.map(|agent| agent.chars().take(160).collect()) }
}

/// The key a request claims to be signed by, before anything is checked.
fn claimed_key(request: &Request<Body>) -> Option<KeyId> {
    let header = request.headers().get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let from_header = header.and_then(|value| value.split_once("Credential=")).map(|(_, rest)| rest);
    let query = request.uri().query().unwrap_or_default();
    let from_query = query.split('&').find_map(|pair| pair.strip_prefix("X-Amz-Credential="));
    let credential = from_header.or(from_query)?;
    let id = credential.split(['/', '%', ',', ' ']).next()?;
    KeyId::parse(id).ok()
}

fn error_code(response: &Response<Body>) -> Option<String> {
    let body = response.body().bytes()?;
    let text = std::str::from_utf8(&body).ok()?;
    let (_, rest) = text.split_once("<Code>")?;
    Some(rest.split_once("</Code>")?.0.chars().take(64).collect())
}

/// Puts the request id into an error document that has none.
fn name_request(response: &mut Response<Body>, id: &str) {
    if response.status().is_success() {
        return;
    }
    let Some(body) = response.body().bytes() else { return };
    let Some(text) = std::str::from_utf8(&body).ok().filter(|text| !text.contains("<RequestId>")) else { return };
    let Some((before, after)) = text.split_once("</Error>") else { return };
    let text = format!("{before}<RequestId>{id}</RequestId></Error>{after}");
    response.headers_mut().remove(http::header::CONTENT_LENGTH);
    *response.body_mut() = Body::from(text);
}

const WRONG_REGION: &str = "the authorization header is malformed; the region is wrong; expecting 'us-east-1'";

type Early = (StatusCode, &'static str, &'static str);

/// What must be refused before the library looks at it.
///
/// - A form upload, which is not built and carries its credential in its body.
/// - A control character in a parameter that names no key: it can stand in no
///   header and no document, so there is no answer that could repeat it.
/// - A decoded length with anything behind its digits: the library would pass
///   over it.
/// - A document longer than any we read.
/// - A bulk delete whose body is not what its digest says: the library reads
///   that body and compares nothing.
async fn before(mut request: Request<Body>) -> Result<Request<Body>, Early> {
    let query = request.uri().query().unwrap_or_default();
    let asks = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
    if control_character(query) {
        return Err((StatusCode::BAD_REQUEST, "InvalidArgument", "a parameter holds a control character"));
    }
    if !region_can_be(&request) {
        // s3cmd signs for `US` until it is told of a region that can be.
        return Err((StatusCode::BAD_REQUEST, "AuthorizationHeaderMalformed", WRONG_REGION));
    }
    let text = |name: http::HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
    let post = request.method() == http::Method::POST;
    if post && text(http::header::CONTENT_TYPE).is_some_and(|kind| kind.starts_with("multipart/form-data")) {
        return Err((StatusCode::NOT_IMPLEMENTED, "NotImplemented", "form uploads are not implemented"));
    }
    let len = text(http::header::CONTENT_LENGTH).and_then(|len| len.parse::<u64>().ok()).unwrap_or(0);
    let document = post || asks("tagging");
    if document && len > limits::XML_BODY_BYTES_MAX as u64 {
        return Err((StatusCode::BAD_REQUEST, "MaxMessageLengthExceeded", "your request was too big"));
    }
    let decoded = text(HeaderName::from_static("x-amz-decoded-content-length"));
    if decoded.is_some_and(|len| len.is_empty() || !len.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err((StatusCode::BAD_REQUEST, "InvalidArgument", "x-amz-decoded-content-length is not a number"));
    }
    let chunked =
        text(HeaderName::from_static("x-amz-content-sha256")).is_some_and(|kind| kind.starts_with("STREAMING-"));
    if post && asks("delete") && !chunked {
        let incomplete = |_| (StatusCode::BAD_REQUEST, "IncompleteBody", "the body could not be read to its end");
        let limited = http_body_util::Limited::new(std::mem::take(request.body_mut()), limits::XML_BODY_BYTES_MAX);
        let bytes = http_body_util::BodyExt::collect(limited).await.map_err(incomplete)?.to_bytes();
        body::check_document(request.headers(), &bytes)?;
        *request.body_mut() = Body::from(bytes);
    }
    Ok(request)
}

/// Whether a query has a control character, but in a parameter that is compared
/// with keys, which may hold any.
fn control_character(query: &str) -> bool {
    const OF_KEYS: [&str; 5] = ["prefix", "delimiter", "marker", "key-marker", "start-after"];
    let encoded = |text: &str| {
        let codes = text.split('%').skip(1).filter_map(|rest| u8::from_str_radix(rest.get(..2)?, 16).ok());
        codes.into_iter().any(|code| code.is_ascii_control())
    };
    query.split('&').any(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        encoded(name) || (encoded(value) && !OF_KEYS.contains(&name))
    })
}

/// Any region is accepted that the library can name: lower case.
fn region_can_be(request: &Request<Body>) -> bool {
    let header = request.headers().get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let scope = header.and_then(|value| value.split_once("Credential=")).map(|(_, rest)| rest);
    let region = scope.and_then(|scope| scope.split(',').next()?.split('/').nth(2));
    region.is_none_or(|region| s3s::region::Region::new(region.into()).is_ok())
}

fn plain(status: StatusCode) -> Response<Body> {
    let code = if status == StatusCode::SERVICE_UNAVAILABLE { "ServiceUnavailable" } else { "InternalError" };
    error(status, code, "the request cannot be served now: retry")
}

fn error(status: StatusCode, code: &str, message: &str) -> Response<Body> {
    let region = if message == WRONG_REGION { "<Region>us-east-1</Region>" } else { "" };
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>{message}</Message>{region}</Error>"
    );
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    response
}
