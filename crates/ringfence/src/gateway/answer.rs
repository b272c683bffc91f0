//! The forward-auth question on the wire: who shows this token, and may this
//! gateway serve them?
//!
//! A proxy asks with the client's `Authorization` (and `DPoP`) headers before
//! it lets a request through: nginx `auth_request`, Caddy and Traefik
//! `forward_auth`, Envoy `ext_authz` over HTTP. Precise reasons go into our own
//! lines, never to who asked.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use ringfence_access::dpop::{self, Proofs};
use ringfence_format::session::Verified;
use tokio::net::TcpListener;

use super::fresh::Standing;
use super::judge::{Denied, Judge};
use crate::config::Proxy;
use crate::forward_auth::asked::Asked;
use crate::forward_auth::{Shown, challenge, plain};
use crate::serve::Stopping;

/// What the handlers share.
#[derive(Clone)]
pub struct Gate {
    /// Who judges.
    pub judge: Arc<Judge>,
    /// Proofs of possession that were shown.
    pub proofs: Arc<Proofs>,
    /// How the proxy says what it was asked for.
    pub proxy: Proxy,
    /// What `/metrics` renders.
    pub metrics: PrometheusHandle,
}

/// Answers until told to stop.
pub async fn serve(listener: TcpListener, gate: Gate, mut stopping: Stopping) {
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(async |State(gate): State<Gate>| gate.metrics.render()))
        // One handler: what Envoy asks about may have any path.
        .fallback(auth)
        .with_state(gate);
    let stop = async move {
        let () = stopping.stopped().await;
    };
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop).await {
        tracing::error!("the gateway's listener ended: {error}");
    }
}

async fn readyz(State(gate): State<Gate>) -> Response {
    match gate.judge.follower.standing() {
        Standing::Fresh => "ready\n".into_response(),
        Standing::Ageing => "ready, but home was not heard of lately\n".into_response(),
        Standing::Stale => (StatusCode::SERVICE_UNAVAILABLE, "home was not heard of for too long\n").into_response(),
    }
}

async fn auth(State(gate): State<Gate>, request: Request) -> Response {
    let (head, _) = request.into_parts();
    let Some(asked) = Asked::of(&head, gate.proxy) else { return plain(StatusCode::NOT_FOUND) };
    let shown = Shown::of(&head.headers);
    let answer = gate.ask(&shown, &asked).await;
    let outcome = match &answer {
        Ok(_) => "allowed",
        Err(no) if no.is_temporary() => "unavailable",
        Err(_) => "refused",
    };
    metrics::counter!("ringfence_gateway_answers_total", "outcome" => outcome).increment(1);
    let no = match answer {
        Ok(verified) => return allowed(&verified),
        Err(no) => no,
    };
    tracing::debug!("{outcome}: {no}");
    match no {
        no if no.is_temporary() => {
            let mut response = plain(StatusCode::SERVICE_UNAVAILABLE);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            response
        }
        No::Role => challenge(StatusCode::FORBIDDEN, &shown, Some("insufficient_scope")),
        No::Proof(_) => challenge(StatusCode::UNAUTHORIZED, &shown, Some("invalid_dpop_proof")),
        No::Token(_) | No::Bound => challenge(StatusCode::UNAUTHORIZED, &shown, Some("invalid_token")),
        No::Nothing => challenge(StatusCode::UNAUTHORIZED, &shown, None),
    }
}

/// Why the answer is no.
#[derive(Debug, thiserror::Error)]
enum No {
    #[error("no token, or more than one")]
    Nothing,
    #[error(transparent)]
    Token(#[from] Denied),
    #[error("a bound token shown as a bearer's, or the other way round")]
    Bound,
    #[error("the proof: {0}")]
    Proof(dpop::Reason),
    #[error("its role is none that the service asks for")]
    Role,
}

impl No {
    /// Whether the gateway cannot tell now.
    fn is_temporary(&self) -> bool {
        matches!(self, Self::Proof(dpop::Reason::Full)) || matches!(self, Self::Token(denied) if denied.is_temporary())
    }
}

impl Gate {
    /// The token is judged before its proof is looked at: what it shows is
    /// noticed whatever the proof is worth (ruling 23).
    async fn ask(&self, shown: &Shown<'_>, asked: &Asked) -> Result<Verified, No> {
        let (token, proof) = match shown {
            Shown::Nothing | Shown::Unclear => return Err(No::Nothing),
            Shown::Bearer(token) => (*token, None),
            Shown::Dpop(token, proof) => (*token, Some(*proof)),
        };
        let verified = self.judge.judge(token).await?;
        let bound_to = &verified.claims().confirmation;
        match proof {
            // Issued as a bearer's: whoever has it may use it.
            None if bound_to.is_empty() => {}
            Some(proof) if !bound_to.is_empty() => self.prove(proof, token, bound_to, asked).map_err(No::Proof)?,
            _ => return Err(No::Bound),
        }
        let role = verified.claims().role.as_str();
        match asked.roles.is_empty() || asked.roles.iter().any(|asked| asked == role) {
            true => Ok(verified),
            false => Err(No::Role),
        }
    }

    fn prove(&self, proof: Option<&str>, token: &str, bound_to: &str, asked: &Asked) -> Result<(), dpop::Reason> {
        let proof = proof.ok_or(dpop::Reason::Malformed)?;
        let method = asked.method.as_deref().ok_or(dpop::Reason::Method)?;
        let url = asked.url.as_deref().ok_or(dpop::Reason::Url)?;
        let request = dpop::Request { method, url, token: Some(token), bound_to: Some(bound_to) };
        let proved = self.proofs.prove(proof, &request, self.judge.follower.now_s())?;
        if proved.thumbprint() == bound_to { Ok(()) } else { Err(dpop::Reason::OtherKey) }
    }
}

/// 200, and who it is, for the service behind the proxy.
fn allowed(verified: &Verified) -> Response {
    let claims = verified.claims();
    let mut response = plain(StatusCode::OK);
    for (name, value) in [
        ("x-ringfence-realm", claims.realm.to_string()),
        ("x-ringfence-tenant", claims.tenant.to_string()),
        ("x-ringfence-principal", claims.principal.to_string()),
        ("x-ringfence-role", claims.role.to_string()),
        ("x-ringfence-session", hex::encode(claims.session)),
        ("x-ringfence-issued", verified.index().to_string()),
    ] {
        let Ok(value) = HeaderValue::from_str(&value) else { return plain(StatusCode::INTERNAL_SERVER_ERROR) };
        response.headers_mut().insert(name, value);
    }
    response
}
