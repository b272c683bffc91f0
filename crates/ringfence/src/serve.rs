//! The life of a server: lock, bind, open, announce, serve, drain.
//!
//! 1. The data directory is locked, so that a second instance says so before
//!    anything else can fail.
//! 2. Both addresses are bound, so that a taken port leaves no half start.
//! 3. The installation is opened; `/readyz` answers 503 until it is.
//! 4. On SIGINT or SIGTERM nothing new is accepted, requests under way have
//!    [`DRAIN`] to end, then the log and the catalogue are closed.
//!
//! A kill at any moment loses nothing that was acknowledged: closing in order
//! only makes the next start faster.

mod announce;
mod listen;
mod stop;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::admin::{public, socket};
use crate::alarm::Webhook;
use crate::cli::{Common, Failure, Kind, Output, ServeArgs};
use crate::config::Config;
use crate::installation::{DataDir, Installation, Options};
use crate::{alarm, background, forward_auth, telemetry};

pub use listen::{Peer, connection, serve as listen};
pub use stop::{Stop, Stopping, channel as stop_channel};

/// How long requests under way may take to end after a signal.
const DRAIN: Duration = Duration::from_secs(15);

/// `ringfence serve`
pub fn run(common: &Common, arguments: &ServeArgs, output: &Output) -> Result<(), Failure> {
    telemetry::trace();
    let metrics = telemetry::count()?;
    crate::hygiene::lock_memory_and_tell();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::internal(format!("no threads to work with: {e}")))?;
    let done = runtime.block_on(serve(common, arguments, metrics, output));
    // Blocking reads of a dead site must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(2));
    done
}

async fn serve(
    common: &Common,
    arguments: &ServeArgs,
    metrics: metrics_exporter_prometheus::PrometheusHandle,
    output: &Output,
) -> Result<(), Failure> {
    let mut interrupted = signal(SignalKind::interrupt()).map_err(Failure::internal)?;
    let mut terminated = signal(SignalKind::terminate()).map_err(Failure::internal)?;
    let dir = DataDir::take(&common.data)?;
    let first_start = !dir.path().join(crate::config::FILE).exists();
    let mut config = Installation::configure(&dir)?;
    config.listen(arguments.s3, arguments.admin)?;

    let s3 = bind(config.s3.addr, "`--s3 ADDR:PORT`").await?;
    let admin = bind(config.admin.addr, "`--admin ADDR:PORT`").await?;
    let auth = match config.auth.addr {
        Some(addr) => Some(bind(addr, "`addr` of `[auth]`").await?),
        None => None,
    };
    let (stop, stopping) = stop::channel();
    let ready = public::Readiness::default();
    let admin = tokio::spawn(public::serve(admin, metrics.clone(), ready.clone(), stopping.clone()));
    let upkeep = tokio::spawn(telemetry::upkeep(metrics));

    let options = Options { create: true };
    let webhook = Webhook::of(&config.alarm, dir.path())?;
    let installation = Arc::new(Installation::open_in(dir, config, options).await?);
    if let Err(failure) = crate::erasure::resume(&installation).await {
        tracing::error!("an erasure that was cut off is not done yet: {failure}");
    }
    let control = socket::bind(installation.dir())?;
    let control = tokio::spawn(socket::serve(control, installation.clone(), stopping.clone()));
    let clock = installation.clock.clone();
    let telling = tokio::spawn(alarm::deliver(installation.alarms().clone(), webhook, clock, stopping.clone()));
    let work = tokio::spawn(background::run(installation.clone(), stopping.clone()));
    let service = crate::s3::service(installation.clone());
    let asked = forward_auth::serve(auth, installation.clone(), stopping.clone());
    let asked = tokio::spawn(asked);
    let data = tokio::spawn(listen::serve(s3, service, stopping, DRAIN));
    ready.now(installation.clone());
    announce::announce(&installation, first_start, output);

    tokio::select! {
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
    }
    tracing::info!("stopping: nothing new is accepted, requests under way end");
    ready.not_any_more();
    stop.now();
    for (name, task) in [
        ("s3", data),
        ("auth", asked),
        ("administration", control),
        ("background", work),
        ("alarms", telling),
        ("admin", admin),
    ] {
        if tokio::time::timeout(DRAIN + Duration::from_secs(2), task).await.is_err() {
            tracing::warn!("{name} did not end in time and was cut");
        }
    }
    upkeep.abort();
    installation.close().await;
    let _ = std::fs::remove_file(installation.dir().join(socket::NAME));
    tracing::info!("stopped");
    Ok(())
}

/// Binds an address that a flag names.
pub async fn bind(addr: std::net::SocketAddr, flag: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(addr).await.map_err(|e| {
        Failure::new(Kind::Unavailable, format!("cannot listen on `{addr}`: {e}"))
            .next(format!("choose another address with {flag}"))
    })
}

impl Config {
    /// Addresses given on the command line win; the rules stay.
    fn listen(&mut self, s3: Option<std::net::SocketAddr>, admin: Option<std::net::SocketAddr>) -> Result<(), Failure> {
        for (given, configured) in [(s3, &mut self.s3.addr), (admin, &mut self.admin.addr)] {
            let Some(given) = given else { continue };
            if !given.ip().is_loopback() {
                return Err(Failure::new(
                    Kind::Configuration,
                    format!("`{given}` can be reached from outside and has no TLS"),
                )
                .next("bind 127.0.0.1 and let a TLS-terminating proxy on this machine listen outside"));
            }
            *configured = given;
        }
        Ok(())
    }
}
