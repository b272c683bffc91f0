//! `DIR/admin.sock`: administration for those who own the data directory.
//!
//! The socket has mode 0600, and the kernel says who is at the other end
//! (SO_PEERCRED): anybody but this process's own user and root is refused, and
//! the refusal is recorded. One
//! route, `POST /v1/call`, takes a [`Call`] and answers with lines of
//! [`Event`]s.

use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ringfence_access::caller::PeerCredential;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::sync::mpsc;

use super::call::{Call, Event};
use super::handle;
use crate::cli::{Failure, Kind};
use crate::installation::Installation;
use crate::serve::Stopping;

/// The socket's name inside the data directory.
pub const NAME: &str = "admin.sock";

/// A policy file is the largest thing that is sent.
const CALL_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Makes the socket, replacing one that a killed process left: the data
/// directory's lock says that nobody listens there.
pub fn bind(dir: &Path) -> Result<UnixListener, Failure> {
    let path = dir.join(NAME);
    let failed = |e: std::io::Error| {
        Failure::new(Kind::Unavailable, format!("administration socket `{}` cannot be made: {e}", path.display()))
            .next("a socket's path may have 107 bytes: choose a shorter `--data DIR`")
    };
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(failed)?;
    // The directory has mode 0700, so nobody came before this.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Answers until told to stop.
pub async fn serve(listener: UnixListener, installation: Arc<Installation>, mut stopping: Stopping) {
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!("an administrative connection could not be accepted: {error}");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = stopping.stopped() => return,
        };
        // A peer the kernel does not vouch for gets no answer, not even a refusal.
        let Ok(credential) = stream.peer_cred() else { continue };
        let peer = PeerCredential::from_so_peercred(credential.uid());
        tokio::spawn(connection(stream, peer, installation.clone()));
    }
}

/// Serves one connection of a peer that the kernel vouches for.
pub async fn connection<I>(stream: I, peer: PeerCredential, installation: Arc<Installation>)
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let answer = service_fn(move |request| answer(installation.clone(), peer, request));
    if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await {
        tracing::debug!("administrative connection ended: {error}");
    }
}

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

async fn answer(
    installation: Arc<Installation>,
    peer: PeerCredential,
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    if request.method() != Method::POST || request.uri().path() != "/v1/call" {
        return Ok(plain(StatusCode::NOT_FOUND, "only `POST /v1/call` is served here\n"));
    }
    let body = match Limited::new(request.into_body(), CALL_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return Ok(plain(StatusCode::PAYLOAD_TOO_LARGE, "the call is too long or broke off\n")),
    };
    let call: Call = match serde_json::from_slice(&body) {
        Ok(call) => call,
        Err(error) => return Ok(plain(StatusCode::BAD_REQUEST, &format!("not a call: {error}\n"))),
    };
    let (lines, receiver) = mpsc::unbounded_channel();
    tokio::spawn(run(installation, peer, call, lines));
    let frames = futures::stream::unfold(receiver, |mut receiver| async move {
        let line = receiver.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(line)), receiver))
    });
    let mut response = Response::new(BodyExt::boxed_unsync(StreamBody::new(frames)));
    let json = http::HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
    Ok(response)
}

/// The call runs to its end even if the asker leaves: what was recorded as
/// begun is finished.
async fn run(installation: Arc<Installation>, peer: PeerCredential, call: Call, lines: mpsc::UnboundedSender<Bytes>) {
    let send = |event: &Event| {
        let mut line = serde_json::to_vec(event).expect("an event is JSON");
        line.push(b'\n');
        let _ = lines.send(Bytes::from(line));
    };
    let progress = |what: &str, done: u64, total: u64| send(&Event::Progress { what: what.to_owned(), done, total });
    let event = match handle::handle(&installation, peer, call, &progress).await {
        Ok(value) => Event::Done(value),
        Err(failure) => Event::from(failure),
    };
    send(&event);
}

fn plain(status: StatusCode, text: &str) -> Answer {
    let mut response = Response::new(BodyExt::boxed_unsync(Full::new(Bytes::copy_from_slice(text.as_bytes()))));
    *response.status_mut() = status;
    response
}
