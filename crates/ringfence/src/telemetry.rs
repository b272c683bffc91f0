//! What an operator sees of a running process: lines on standard error and
//! figures at `/metrics`. Neither ever holds a secret, an object key or a
//! tenant's name.

use std::io::IsTerminal;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::cli::Failure;

/// Buckets of every duration, in seconds: from a packed read to a slow site.
const SECONDS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Starts writing lines: `RINGFENCE_TRACE` filters (default `info`),
/// `RINGFENCE_TRACE_FORMAT=json` changes their form.
pub fn trace() {
    let filter = EnvFilter::try_from_env("RINGFENCE_TRACE").unwrap_or_else(|_| EnvFilter::new("info,s3s=off"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // A second call (tests) leaves the first one in place.
    let _ = match std::env::var("RINGFENCE_TRACE_FORMAT").as_deref() {
        Ok("json") => lines.json().try_init(),
        _ => lines.with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()).try_init(),
    };
}

/// Starts counting; the handle renders what `/metrics` answers.
pub fn count() -> Result<PrometheusHandle, Failure> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(|e| Failure::internal(format!("metrics cannot be counted: {e}")))?;
    metrics::gauge!("ringfence_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

/// Keeps histograms small; runs until the runtime ends.
pub async fn upkeep(handle: PrometheusHandle) {
    let mut every = tokio::time::interval(Duration::from_secs(5));
    loop {
        every.tick().await;
        handle.run_upkeep();
    }
}
