//! The forward-auth question on the wire: who shows this token, and may this
//! gateway serve them?
//!
//! A proxy asks with the client's `Authorization` (and `DPoP`) headers before
//! it lets a request through: nginx `auth_request`, Caddy and Traefik
//! `forward_auth`, Envoy `ext_authz` over HTTP. Precise reasons go into our own
//! lines, never to who asked.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use metrics_exporter_prometheus::PrometheusHandle;
use ringfence_format::session::{SESSION_TOKEN_BYTES_MAX, Verified};
use tokio::net::TcpListener;

use super::dpop::{Proofs, Shown};
use super::fresh::Standing;
use super::judge::{Denied, Judge};
use crate::serve::Stopping;

/// What the handlers share.
#[derive(Clone)]
pub struct Gate {
    /// Who judges.
    pub judge: Arc<Judge>,
    /// Proofs of possession that were shown.
    pub proofs: Arc<Proofs>,
    /// What `/metrics` renders.
    pub metrics: PrometheusHandle,
}

/// Answers until told to stop.
pub async fn serve(listener: TcpListener, gate: Gate, mut stopping: Stopping) {
    let router = Router::new()
        .route("/auth", any(auth))
        .route("/auth/{*path}", any(auth))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(async |State(gate): State<Gate>| gate.metrics.render()))
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

async fn auth(State(gate): State<Gate>, headers: HeaderMap) -> Response {
    let answer = gate.ask(&headers).await;
    let outcome = match &answer {
        Ok(_) => "allowed",
        Err(No::Token(denied)) if denied.is_temporary() => "unavailable",
        Err(_) => "refused",
    };
    metrics::counter!("ringfence_gateway_answers_total", "outcome" => outcome).increment(1);
    match answer {
        Ok(verified) => allowed(&verified),
        Err(No::Token(denied)) if denied.is_temporary() => {
            tracing::debug!("not answered: {denied}");
            (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")]).into_response()
        }
        Err(no) => {
            tracing::info!("refused: {no}");
            let challenge = r#"DPoP algs="EdDSA ES256", error="invalid_token""#;
            (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)]).into_response()
        }
    }
}

/// Why the answer is no.
#[derive(Debug, thiserror::Error)]
enum No {
    #[error(transparent)]
    Token(#[from] Denied),
    #[error("{0}")]
    Request(&'static str),
}

impl Gate {
    async fn ask(&self, headers: &HeaderMap) -> Result<Verified, No> {
        let one = |name: &str| -> Result<Option<&str>, No> {
            let mut values = headers.get_all(name).iter();
            let text = values.next().map(|value| value.to_str().map_err(|_| No::Request("a header is not text")));
            if values.next().is_some() { Err(No::Request("a header is there twice")) } else { text.transpose() }
        };
        let shown = one("authorization")?.ok_or(No::Request("no token"))?;
        let (scheme, token) = shown.split_once(' ').ok_or(No::Request("no token"))?;
        let bound = scheme.eq_ignore_ascii_case("dpop");
        if !bound && !scheme.eq_ignore_ascii_case("bearer") || token.len() > SESSION_TOKEN_BYTES_MAX {
            return Err(No::Request("neither a bearer nor a DPoP token, or too long"));
        }
        let verified = self.judge.judge(token).await?;
        let thumbprint = &verified.claims().confirmation;
        if thumbprint.is_empty() {
            // Issued as a bearer token: whoever has it may use it.
            return if bound { Err(No::Request("a bearer token shown as a bound one")) } else { Ok(verified) };
        }
        if !bound {
            return Err(No::Request("a bound token without its proof"));
        }
        let proof = one("dpop")?.ok_or(No::Request("a bound token without its proof"))?;
        let asked =
            [one("x-forwarded-method")?, one("x-forwarded-proto")?, one("x-forwarded-host")?, one("x-forwarded-uri")?];
        let [Some(method), Some(scheme), Some(host), Some(path)] = asked else {
            return Err(No::Request("the proxy does not say which request it asks about"));
        };
        let url = format!("{scheme}://{host}{path}");
        let now_s = self.judge.follower.now_s();
        let shown = Shown { token, thumbprint, method, url: &url, now_s };
        self.proofs.check(proof, shown).map_err(No::Request)?;
        Ok(verified)
    }
}

/// 200, and who it is, for the service behind the proxy.
fn allowed(verified: &Verified) -> Response {
    let claims = verified.claims();
    let headers = [
        ("x-ringfence-realm", claims.realm.to_string()),
        ("x-ringfence-tenant", claims.tenant.to_string()),
        ("x-ringfence-principal", claims.principal.to_string()),
        ("x-ringfence-role", claims.role.to_string()),
        ("x-ringfence-session", hex::encode(claims.session)),
        ("x-ringfence-issued", verified.index().to_string()),
        ("x-ringfence-until", claims.until_s.to_string()),
        ("cache-control", "no-store".to_owned()),
    ];
    (StatusCode::OK, axum::response::AppendHeaders(headers)).into_response()
}
