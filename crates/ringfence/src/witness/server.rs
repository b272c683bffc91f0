//! `ringfence witness`: a small process that cosigns checkpoints of the logs it
//! watches, over C2SP tlog-witness. It opens no installation.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use ringfence_db::clock::{Clock, SystemClock};
use ringfence_db::disk::RealDisk;
use ringfence_format::checkpoint::VerifierKey;
use rustix::process::DumpableBehavior;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::request::{AddCheckpoint, REQUEST_BYTES_MAX};
use super::state::{BadState, Refused, State};
use crate::cli::{Failure, Kind, Output};
use crate::{serve, telemetry};

/// How long a request's body may take.
const BODY: Duration = Duration::from_secs(10);
/// How long requests under way may take to end after a signal.
const DRAIN: Duration = Duration::from_secs(5);

/// `ringfence witness`
#[derive(clap::Args, Clone, Debug)]
pub struct WitnessArgs {
    /// Its key and what it has cosigned; made at the first start. Never set
    /// back, copied or shared: one directory, one witness.
    #[arg(long, value_name = "DIR", default_value = "./ringfence-witness")]
    pub state: PathBuf,
    /// The name of its key, a URL without the scheme; for the first start.
    #[arg(long)]
    pub name: Option<String>,
    /// Where it listens; loopback only.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9310")]
    pub listen: SocketAddr,
    /// The verifier key of a log that it watches (`DIR/log/log.vkey`); may be repeated.
    #[arg(long = "log", value_name = "VKEY")]
    pub logs: Vec<String>,
    /// A file with such keys, one per line; `#` begins a comment.
    #[arg(long, value_name = "FILE")]
    pub logs_file: Option<PathBuf>,
}

/// Runs until SIGINT or SIGTERM.
pub fn run(arguments: &WitnessArgs, output: &Output) -> Result<(), Failure> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|e| Failure::internal(format!("core dumps cannot be turned off: {e}")))?;
    telemetry::trace();
    if !arguments.listen.ip().is_loopback() {
        let message = format!("`{}` can be reached from outside and has no TLS", arguments.listen);
        return Err(Failure::new(Kind::Usage, message)
            .next("listen on 127.0.0.1 and let a TLS-terminating proxy on this machine listen outside"));
    }
    let logs = watched(arguments)?;
    let count = logs.len();
    let state = State::open(RealDisk::shared(), &arguments.state, arguments.name.as_deref(), logs);
    let state = Arc::new(state.map_err(|e| failure(&e))?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Failure::internal(format!("no threads to work with: {e}")))?;
    runtime.block_on(answer_all(arguments.listen, state, count, output))
}

fn failure(error: &BadState) -> Failure {
    let kind = match error {
        BadState::Io { .. } | BadState::InUse(_) => Kind::Unavailable,
        BadState::Damaged { .. } => Kind::Wrong,
        BadState::Name(_) => Kind::Usage,
    };
    let failure = Failure::new(kind, error);
    match error {
        BadState::Damaged { .. } => failure.next(
            "find out what happened to the directory; if its state is lost, make a new witness with a new \
             key in another directory and have the realm's root put it into the set",
        ),
        BadState::InUse(_) => failure.next("one witness has one directory: give this one another `--state DIR`"),
        _ => failure,
    }
}

/// The keys of the logs to watch; at least one.
fn watched(arguments: &WitnessArgs) -> Result<Vec<VerifierKey>, Failure> {
    let wrong = |e: &dyn std::fmt::Display| Failure::new(Kind::Usage, e);
    let mut lines = arguments.logs.clone();
    if let Some(file) = &arguments.logs_file {
        let text =
            std::fs::read_to_string(file).map_err(|e| wrong(&format!("cannot read `{}`: {e}", file.display())))?;
        let keys = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.extend(keys.map(ToOwned::to_owned));
    }
    let keys = lines.iter().map(|line| line.parse::<VerifierKey>().map_err(|e| wrong(&e)));
    let keys = keys.collect::<Result<Vec<_>, _>>()?;
    if keys.is_empty() {
        return Err(Failure::new(Kind::Usage, "no log to watch")
            .next("give its verifier key: `--log \"$(cat ringfence-data/log/log.vkey)\"`"));
    }
    Ok(keys)
}

async fn answer_all(addr: SocketAddr, state: Arc<State>, logs: usize, output: &Output) -> Result<(), Failure> {
    let mut interrupted = signal(SignalKind::interrupt()).map_err(Failure::internal)?;
    let mut terminated = signal(SignalKind::terminate()).map_err(Failure::internal)?;
    let listener = serve::bind(addr, "--listen").await?;
    let addr = listener.local_addr().map_err(Failure::internal)?;
    let key = state.verifier_key().to_string();
    let url = format!("http://{addr}");
    if output.is_json() {
        output.line(&json!({ "url": url, "vkey": key, "logs": logs }).to_string());
    }
    output.heading("The witness is ready");
    output.field("url", &url);
    output.field("vkey", &key);
    output.field("logs", &logs.to_string());
    let (stop, stopping) = serve::stop_channel();
    let service = service_fn(move |request| answer(state.clone(), request));
    let served = tokio::spawn(serve::listen(listener, service, stopping, DRAIN));
    tokio::select! {
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
    }
    stop.now();
    let _ = served.await;
    Ok(())
}

type Answer = Response<Full<Bytes>>;

/// Answers one request.
pub async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    if request.uri().path() != "/add-checkpoint" {
        return Ok(text(StatusCode::NOT_FOUND, "only `POST /add-checkpoint` is served here\n"));
    }
    if request.method() != Method::POST {
        return Ok(text(StatusCode::METHOD_NOT_ALLOWED, "only `POST /add-checkpoint` is served here\n"));
    }
    let body = Limited::new(request.into_body(), REQUEST_BYTES_MAX).collect();
    let body = match tokio::time::timeout(BODY, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => return Ok(text(StatusCode::PAYLOAD_TOO_LARGE, "the request is too long or broke off\n")),
        Err(_) => return Ok(text(StatusCode::REQUEST_TIMEOUT, "the request did not come in time\n")),
    };
    // The state is written and synced on the way.
    let added = tokio::task::spawn_blocking(move || add(&state, &body)).await;
    Ok(added.unwrap_or_else(|_| text(StatusCode::INTERNAL_SERVER_ERROR, "a fault of the witness\n")))
}

/// What is answered to a body of `add-checkpoint`.
pub fn add(state: &State, body: &[u8]) -> Answer {
    let added = AddCheckpoint::from_body(body).map_err(|why| Refused::Malformed(why.to_owned()));
    match added.and_then(|asked| state.add(&asked, || SystemClock.now_us() / 1_000_000)) {
        Ok(line) => text(StatusCode::OK, &line),
        Err(Refused::Malformed(why)) => text(StatusCode::BAD_REQUEST, &format!("{why}\n")),
        Err(Refused::UnknownOrigin) => text(StatusCode::NOT_FOUND, "this log is not watched here\n"),
        Err(Refused::Unsigned(why)) => text(StatusCode::FORBIDDEN, &format!("{why}\n")),
        Err(Refused::OldSize(size)) => typed(StatusCode::CONFLICT, SIZE_TYPE, format!("{size}\n")),
        Err(Refused::Fork) => text(StatusCode::CONFLICT, "another root was cosigned for this size\n"),
        Err(Refused::BadProof) => {
            text(StatusCode::UNPROCESSABLE_ENTITY, "the proof does not show that it extends the last checkpoint\n")
        }
        Err(Refused::Broken) => text(StatusCode::SERVICE_UNAVAILABLE, "the witness's state cannot be written\n"),
    }
}

/// The content type of a 409 that tells the size that was seen.
pub const SIZE_TYPE: &str = "text/x.tlog.size";

fn text(status: StatusCode, body: &str) -> Answer {
    typed(status, "text/plain; charset=utf-8", body.to_owned())
}

fn typed(status: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    answer
}
