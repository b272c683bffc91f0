//! The administration port: health, metrics without tenants' names, and the
//! public part of the log. Read-only, loopback, no credential: nothing here
//! tells more than that the server lives and how long its log is.

use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;

use crate::installation::Installation;
use crate::serve::Stopping;

/// Whether requests can be answered; shared with `/readyz`.
#[derive(Clone, Default)]
pub struct Readiness {
    installation: Arc<OnceLock<Arc<Installation>>>,
    stopping: Arc<std::sync::atomic::AtomicBool>,
}

impl Readiness {
    /// Open, and serving.
    pub fn now(&self, installation: Arc<Installation>) {
        let _ = self.installation.set(installation);
    }

    /// Draining.
    pub fn not_any_more(&self) {
        self.stopping.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// Why requests cannot be answered now.
    fn obstacle(&self) -> Option<String> {
        if self.stopping.load(std::sync::atomic::Ordering::Relaxed) {
            return Some("stopping".to_owned());
        }
        match self.installation.get() {
            None => Some("starting".to_owned()),
            Some(installation) => installation.obstacle(),
        }
    }
}

impl Readiness {
    /// What is answered while ready: a site that rests does not stop the rest.
    fn degraded(&self) -> String {
        match self.installation.get().map(|installation| installation.resting()) {
            Some((resting, sites)) if resting > 0 => format!("ready, but {resting} of {sites} sites cannot be used\n"),
            _ => "ready\n".to_owned(),
        }
    }
}

#[derive(Clone)]
struct Public {
    metrics: PrometheusHandle,
    ready: Readiness,
}

/// Serves until told to stop.
pub async fn serve(listener: TcpListener, metrics: PrometheusHandle, ready: Readiness, mut stopping: Stopping) {
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render))
        .route("/log/{*path}", get(log))
        .with_state(Public { metrics, ready });
    let stop = async move {
        let () = stopping.stopped().await;
    };
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop).await {
        tracing::error!("the administration port ended: {error}");
    }
}

async fn readyz(State(public): State<Public>) -> Response {
    match public.ready.obstacle() {
        None => public.ready.degraded().into_response(),
        Some(obstacle) => (StatusCode::SERVICE_UNAVAILABLE, format!("{obstacle}\n")).into_response(),
    }
}

async fn render(State(public): State<Public>) -> Response {
    if let Some(installation) = public.ready.installation.get() {
        installation.measure();
    }
    let kind = (header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8");
    ([kind], public.metrics.render()).into_response()
}

/// The files of the log that anybody may check: C2SP tlog-tiles.
async fn log(State(public): State<Public>, uri: Uri) -> Response {
    let Some(installation) = public.ready.installation.get() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response();
    };
    let Some(file) = public_file(uri.path()) else { return StatusCode::NOT_FOUND.into_response() };
    let is_tile = file.starts_with("tile");
    let path = installation.dir().join("log").join(&file);
    match tokio::fs::read(path).await {
        Ok(bytes) => {
            // Tiles never change; the checkpoint does with every batch.
            let (kind, cache) = match is_tile {
                true => ("application/octet-stream", "public, max-age=31536000, immutable"),
                false => ("text/plain; charset=utf-8", "no-cache"),
            };
            ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, cache)], bytes).into_response()
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => StatusCode::NOT_FOUND.into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// The path below `DIR/log` if it is one of the public files: `checkpoint`,
/// the one with cosignatures, `log.vkey` or `tile/…` as C2SP tlog-tiles names them. Sealed records and the
/// write-ahead log are never served.
fn public_file(path: &str) -> Option<PathBuf> {
    let path = path.strip_prefix("/log/")?;
    if matches!(path, "checkpoint" | "checkpoint.cosigned" | "log.vkey") {
        return Some(PathBuf::from(path));
    }
    let tile = path.strip_prefix("tile/")?;
    let tile = tile.strip_prefix("entries/").unwrap_or(tile);
    let known = |c: char| c.is_ascii_digit() || matches!(c, 'x' | 'p' | '.' | '/');
    let plain = Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
    (plain && tile.chars().all(known) && !tile.contains("..")).then(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::public_file;

    #[test]
    fn only_public_files_of_the_log_are_served() {
        for good in [
            "/log/checkpoint",
            "/log/checkpoint.cosigned",
            "/log/log.vkey",
            "/log/tile/0/000",
            "/log/tile/1/x001/234.p/7",
            "/log/tile/entries/000",
        ] {
            assert!(public_file(good).is_some(), "{good}");
        }
        for bad in [
            "/log/records/0",
            "/log/wal/000",
            "/log/tile/../records/0",
            "/log/tile//etc/passwd",
            "/log/tile/entries/../../records/0",
            "/log/tile/%2e%2e/x",
            "/log/",
            "/log/tile/..",
            "/healthz",
        ] {
            assert!(public_file(bad).is_none(), "{bad}");
        }
    }
}
