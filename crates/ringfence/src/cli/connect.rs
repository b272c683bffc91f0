//! Takes an administrative call to the running server, or, when none runs,
//! opens the installation here and answers it with the same handler.

use std::path::Path;

use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use ringfence_access::caller::PeerCredential;
use serde_json::Value;
use tokio::net::UnixStream;

use super::{Common, Failure, Kind, Output};
use crate::admin::call::{Call, Event};
use crate::admin::handle;
use crate::installation::{Installation, Options};

/// Makes the call, showing progress, and returns its answer.
pub fn call(common: &Common, call: Call, output: &Output) -> Result<Value, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::internal(format!("no threads to work with: {e}")))?;
    runtime.block_on(async {
        let socket = common.data.join("admin.sock");
        match UnixStream::connect(&socket).await {
            Ok(stream) => over_socket(stream, call, output).await,
            // No socket, or one that nobody listens at: no server runs. The
            // lock decides in case one is just starting.
            Err(_) => in_process(&common.data, call, output).await,
        }
    })
}

async fn over_socket(stream: UnixStream, call: Call, output: &Output) -> Result<Value, Failure> {
    let lost = |e: &dyn std::fmt::Display| {
        Failure::new(Kind::Unavailable, format!("the connection to the server broke: {e}"))
            .next("see the server's output, then try again")
    };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| lost(&e))?;
    tokio::spawn(connection);
    let body = serde_json::to_vec(&call).expect("a call is JSON");
    let request = http::Request::post("/v1/call")
        .header(http::header::HOST, "admin")
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::new(bytes::Bytes::from(body)))
        .expect("a well-formed request");
    let response = sender.send_request(request).await.map_err(|e| lost(&e))?;
    let mut body = response.into_body();
    let mut pending = Vec::new();
    let mut bars = Bars::new(output);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|e| lost(&e))?.into_data() else { continue };
        pending.extend_from_slice(&data);
        while let Some(end) = pending.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let event = serde_json::from_slice(&line)
                .map_err(|e| Failure::internal(format!("the server's answer is not understood: {e}")))?;
            match event {
                Event::Progress { what, done, total } => bars.at(&what, done, total),
                Event::Done(value) => return Ok(value),
                Event::Failed { kind, message, next } => {
                    return Err(Failure { kind, message, next, drawn: None });
                }
            }
        }
    }
    Err(lost(&"it ended before the answer was complete"))
}

async fn in_process(data: &Path, call: Call, output: &Output) -> Result<Value, Failure> {
    if !data.join(crate::config::FILE).exists() {
        return Err(Failure::new(Kind::Usage, format!("no installation in `{}`", data.display()))
            .next("start one with `ringfence serve`, or name its directory with `--data DIR`"));
    }
    let installation = Installation::open(data, Options::default()).await?;
    let bars = std::sync::Mutex::new(Bars::new(output));
    let progress = |what: &str, done: u64, total: u64| {
        bars.lock().unwrap_or_else(std::sync::PoisonError::into_inner).at(what, done, total);
    };
    // Who may lock the directory is who the socket would have let in.
    let own = PeerCredential::from_so_peercred(rustix::process::geteuid().as_raw());
    let answer = handle::handle(&installation, own, call, &progress).await;
    installation.close().await;
    answer
}

/// One progress bar after the other, as the call names what it counts.
struct Bars<'a> {
    output: &'a Output,
    now: Option<(String, indicatif::ProgressBar)>,
}

impl<'a> Bars<'a> {
    fn new(output: &'a Output) -> Self {
        Self { output, now: None }
    }

    fn at(&mut self, what: &str, done: u64, total: u64) {
        if self.now.as_ref().is_none_or(|(name, _)| name != what) {
            self.now = Some((what.to_owned(), self.output.progress(what, total)));
        }
        if let Some((_, bar)) = &self.now {
            bar.set_length(total);
            bar.set_position(done);
        }
    }
}

impl Drop for Bars<'_> {
    fn drop(&mut self) {
        if let Some((_, bar)) = &self.now {
            bar.finish_and_clear();
        }
    }
}
