//! Other services' question: is this request's session good?
//!
//! `/auth` answers the proxy in front of a service (nginx `auth_request`,
//! Traefik and Caddy forward-auth, Envoy `ext_authz` over HTTP) for a session of
//! purpose `api`, shown as a bearer (RFC 6750) or with a DPoP proof (RFC 9449).
//! `/token` exchanges an identity provider's token for such a session (RFC
//! 8693). Who it is says [`authenticate`]; a service gets no rights over data by
//! asking, so that no policy is: they speak of labels, sites and buckets. Every
//! answer stands in the log before it is given.

mod asked;
mod exchange;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::Response;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use ringfence_access::Caller;
use ringfence_access::caller::{AuthnReason, Credential, Origin, Unauthenticated, authenticate};
use ringfence_access::dpop::{self, Proofs};
use ringfence_format::leaf::request_id;
use ringfence_format::record::{Core, Decision, Op, Record, Resource, Seq, Subject, TimeUs};
use ringfence_format::session::Purpose;
use ringfence_log::{Entry, LogError};
use tokio::net::TcpListener;

use self::asked::{Asked, one, origin};
use crate::installation::Installation;
use crate::serve::Stopping;

const AUTHORIZE: &str = "api:Authorize";
const UNKNOWN: &str = "api:Unknown";
/// Proofs that may be within their two minutes at a time: 8,000 requests a
/// second, and about 40 MB.
const PROOFS_MAX: usize = 1024 * 1024;
/// The same for `/token`, where anybody may show one: kept apart, so that they
/// use up nothing of the others.
const EXCHANGES_MAX: usize = 64 * 1024;

/// Answers for one installation.
struct Gate {
    at: Arc<Installation>,
    proofs: Proofs,
    exchanges: Proofs,
}

/// Serves until told to stop; nothing where there is no listener.
pub async fn serve(listener: Option<TcpListener>, at: Arc<Installation>, mut stopping: Stopping) {
    let Some(listener) = listener else { return };
    let start_s = at.clock.now_us() / 1_000_000;
    let (proofs, exchanges) = (Proofs::new(PROOFS_MAX, start_s), Proofs::new(EXCHANGES_MAX, start_s));
    // One handler: what Envoy asks about may have any path.
    let router = Router::new().fallback(answer).with_state(Arc::new(Gate { at, proofs, exchanges }));
    let stop = async move {
        let () = stopping.stopped().await;
    };
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    if let Err(error) = axum::serve(listener, service).with_graceful_shutdown(stop).await {
        tracing::error!("the port for other services ended: {error}");
    }
}

async fn answer(
    State(gate): State<Arc<Gate>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let (head, body) = request.into_parts();
    let proxy = gate.at.config.auth.proxy;
    let (op, response) = match Asked::of(&head, proxy) {
        Some(asked) => (AUTHORIZE, gate.authorize(&head, &asked, peer.ip()).await),
        None if head.uri.path() == "/token" => (exchange::OP, gate.exchange(&head, body, peer.ip()).await),
        None => {
            let refused = Unauthenticated::new(AuthnReason::Malformed, None, origin(&head.headers, proxy, peer.ip()));
            let refused = refused.during(UNKNOWN).answered(404, "not_found");
            (UNKNOWN, gate.refuse(refused, None).await)
        }
    };
    let status = response.status().as_u16().to_string();
    metrics::counter!("ringfence_api_requests", "op" => op, "status" => status).increment(1);
    response
}

impl Gate {
    /// Whether the request that a proxy holds has a session that is good here.
    async fn authorize(&self, head: &Parts, asked: &Asked, peer: IpAddr) -> Response {
        let origin = origin(&head.headers, self.at.config.auth.proxy, peer);
        let shown = Shown::of(&head.headers);
        let caller = match self.caller(&shown, asked, &origin).await {
            Ok(caller) => caller,
            Err(refused) => {
                let (status, code) = told(refused.reason());
                return self.refuse(refused.during(AUTHORIZE).answered(status, code), Some(&shown)).await;
            }
        };
        let session = caller.session().cloned();
        let Some(session) = session else { return plain(StatusCode::INTERNAL_SERVER_ERROR) };
        let allowed = asked.roles.is_empty() || asked.roles.iter().any(|role| role == session.role().as_str());
        let entry = Authorized {
            subject: caller.subject(Some(caller.tenant())),
            detail: asked.detail(),
            missing: (!allowed).then(|| format!("its role is none of: {}", asked.roles.join(", "))),
        };
        let Ok(recorded) = self.at.log.record(entry).await.map_err(withheld) else {
            return plain(StatusCode::SERVICE_UNAVAILABLE);
        };
        let recorded = Some(recorded.index());
        if !allowed {
            return named(challenge(StatusCode::FORBIDDEN, &shown, Some("insufficient_scope")), recorded);
        }
        let claims = session.claims();
        let mut response = plain(StatusCode::OK);
        for (name, value) in [
            ("x-ringfence-realm", claims.realm.to_string()),
            ("x-ringfence-tenant", claims.tenant.to_string()),
            ("x-ringfence-principal", claims.principal.to_string()),
            ("x-ringfence-role", claims.role.to_string()),
            ("x-ringfence-session", hex::encode(claims.session)),
            ("x-ringfence-issued", session.verified().index().to_string()),
        ] {
            let Ok(value) = HeaderValue::from_str(&value) else { return plain(StatusCode::INTERNAL_SERVER_ERROR) };
            response.headers_mut().insert(name, value);
        }
        named(response, recorded)
    }

    /// Who shows a session. The token is judged before anything else is looked
    /// at: what it shows is noticed whatever the proof is worth (ruling 23).
    async fn caller(&self, shown: &Shown<'_>, asked: &Asked, origin: &Origin) -> Result<Caller, Unauthenticated> {
        let refuse = |reason| Unauthenticated::new(reason, None, origin.clone());
        let (token, proof) = match shown {
            Shown::Nothing => return Err(refuse(AuthnReason::Missing)),
            Shown::Unclear => return Err(refuse(AuthnReason::Malformed)),
            Shown::Bearer(token) => (*token, None),
            Shown::Dpop(token, proof) => (*token, Some(proof)),
        };
        let session = self.at.judge(token, Purpose::Api, origin).await?.session.clone();
        let credential = match proof {
            None => Credential::Bearer(session),
            Some(proof) => {
                let proved = self.prove(*proof, token, &session.claims().confirmation, asked);
                let of_session = |reason| {
                    let reason = AuthnReason::Proof(reason);
                    Unauthenticated::of_session(reason, session.claims(), None, origin.clone())
                };
                Credential::Dpop(session.clone(), proved.map_err(of_session)?)
            }
        };
        authenticate(credential, &self.at.keys, origin.clone())
    }

    fn prove(
        &self,
        proof: Option<&str>,
        token: &str,
        bound_to: &str,
        asked: &Asked,
    ) -> Result<dpop::ProvedKey, dpop::Reason> {
        let proof = proof.ok_or(dpop::Reason::Malformed)?;
        let method = asked.method.as_deref().ok_or(dpop::Reason::Method)?;
        let url = asked.url.as_deref().ok_or(dpop::Reason::Url)?;
        let request = dpop::Request { method, url, token: Some(token), bound_to: Some(bound_to) };
        self.proofs.prove(proof, &request, self.now_s())
    }

    fn now_s(&self) -> u64 {
        self.at.clock.now_us() / 1_000_000
    }

    /// INVARIANT 8 — records a refusal, or counts it where it is nobody's, and
    /// then gives it.
    async fn refuse(&self, refused: Unauthenticated, shown: Option<&Shown<'_>>) -> Response {
        let (status, code) = refused.answer();
        let Ok(recorded) = self.at.record_refused(refused).await.map_err(withheld) else {
            return plain(StatusCode::SERVICE_UNAVAILABLE);
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::UNAUTHORIZED);
        let response = match shown {
            Some(shown) if status == StatusCode::UNAUTHORIZED => challenge(status, shown, Some(code)),
            _ => plain(status),
        };
        named(response, recorded)
    }
}

/// What a request shows of who it is from.
enum Shown<'a> {
    Nothing,
    /// More than one credential, or one that cannot be read.
    Unclear,
    Bearer(&'a str),
    /// The token, and the one proof where there is one.
    Dpop(&'a str, Option<&'a str>),
}

impl<'a> Shown<'a> {
    fn of(headers: &'a HeaderMap) -> Self {
        if !headers.contains_key(header::AUTHORIZATION) {
            return Self::Nothing;
        }
        let Some((scheme, token)) = one(headers, "authorization").and_then(|value| value.split_once(' ')) else {
            return Self::Unclear;
        };
        match scheme.to_ascii_lowercase().as_str() {
            "bearer" => Self::Bearer(token.trim()),
            "dpop" => Self::Dpop(token.trim(), one(headers, "dpop")),
            _ => Self::Unclear,
        }
    }
}

/// Status and error code for the client: that it is refused, and nothing of why.
fn told(reason: &AuthnReason) -> (u16, &'static str) {
    match reason {
        AuthnReason::Proof(dpop::Reason::Full) => (503, "temporarily_unavailable"),
        AuthnReason::Proof(_) => (401, "invalid_dpop_proof"),
        _ => (401, "invalid_token"),
    }
}

/// RFC 6750, section 3; RFC 9449, section 7.1.
fn challenge(status: StatusCode, shown: &Shown<'_>, error: Option<&str>) -> Response {
    let algorithms = dpop::ALGORITHMS.map(|algorithm| algorithm.as_str()).join(" ");
    let error = error.map_or_else(String::new, |error| format!("error=\"{error}\""));
    let challenges = match shown {
        Shown::Nothing | Shown::Unclear => vec![format!("DPoP algs=\"{algorithms}\""), "Bearer".to_owned()],
        Shown::Bearer(_) => vec![format!("Bearer {error}")],
        Shown::Dpop(..) => vec![format!("DPoP {error}, algs=\"{algorithms}\"")],
    };
    let mut response = plain(status);
    for challenge in challenges {
        if let Ok(value) = HeaderValue::from_str(&challenge) {
            response.headers_mut().append(header::WWW_AUTHENTICATE, value);
        }
    }
    response
}

/// Names the record, by which `log show` finds why.
fn named(mut response: Response, recorded: Option<Seq>) -> Response {
    let id = recorded.map_or_else(|| "aggregated".to_owned(), request_id);
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-ringfence-request-id", id);
    }
    response
}

fn plain(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn withheld(error: LogError) -> LogError {
    tracing::error!("an answer was withheld because it could not be recorded: {error}");
    error
}

/// What was answered to a session that is good.
struct Authorized {
    subject: Subject,
    detail: String,
    /// Why it is not enough.
    missing: Option<String>,
}

impl Entry for Authorized {
    fn to_record(&self, now_us: TimeUs) -> Record {
        let (decision, status, code) = match self.missing {
            None => (Decision::Allow, 200, None),
            Some(_) => (Decision::Deny, 403, Some("insufficient_scope".to_owned())),
        };
        Record {
            core: Core {
                time_us: now_us,
                op: Op(AUTHORIZE.to_owned()),
                decision,
                status,
                error_code: code,
                reason: self.missing.clone(),
                ..Core::default()
            },
            subject: self.subject.clone(),
            resource: Resource { detail: Some(self.detail.clone()), ..Resource::default() },
            redo: None,
            public: None,
        }
    }
}
