//! The S3 listener: HTTP/1.1 on loopback, one task per connection.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use ringfence_format::limits;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Stopping;

/// The address a request came from; every request carries it as an extension.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// How long a connection may take to send the head of its next request.
const HEAD: Duration = Duration::from_secs(60);

/// Accepts until told to stop, then lets requests under way end within `drain`.
pub async fn serve<S, B>(listener: TcpListener, service: S, mut stopping: Stopping, drain: Duration)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let room = Arc::new(Semaphore::new(limits::CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        // A connection beyond the limit waits in the kernel's backlog.
        let permit = tokio::select! {
            permit = room.clone().acquire_owned() => permit.expect("the semaphore is never closed"),
            () = stopping.stopped() => break,
        };
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors or memory: others must end first.
                    tracing::warn!("a connection could not be accepted: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = stopping.stopped() => break,
        };
        // Small answers are one write; without this they would wait for the
        // acknowledgement of the one before (40 ms).
        let _ = stream.set_nodelay(true);
        let (service, stopping) = (service.clone(), stopping.clone());
        connections.spawn(async move {
            metrics::gauge!("ringfence_s3_connections").increment(1.0);
            connection(stream, peer, service, stopping).await;
            metrics::gauge!("ringfence_s3_connections").decrement(1.0);
            drop(permit);
        });
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(drain, all).await.is_err() {
        tracing::warn!("{} requests that did not end in time are cut", connections.len());
        connections.shutdown().await;
    }
}

/// Serves one connection. When the server stops, a request that has begun is
/// finished; a connection that is idle, or in the middle of a head, is closed.
pub async fn connection<I, S, B>(stream: I, peer: SocketAddr, service: S, mut stopping: Stopping)
where
    I: AsyncRead + AsyncWrite + Unpin,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + Sync + 'static,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let under_way = Arc::new(AtomicUsize::new(0));
    let counted = under_way.clone();
    let answer = service_fn(move |mut request: Request<Incoming>| {
        let busy = UnderWay::new(&counted);
        request.extensions_mut().insert(Peer(peer));
        let answered = service.call(request);
        async move {
            let response = answered.await?;
            // The body keeps the count until its last byte is handed over.
            Ok::<_, Infallible>(response.map(|body| {
                body.map_frame(move |frame| {
                    let _until_dropped = &busy;
                    frame
                })
            }))
        }
    });
    let mut served = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(READ_BYTES)
            .max_headers(HEADERS_MAX)
            .serve_connection(TokioIo::new(stream), answer)
    );
    let mut draining = false;
    loop {
        tokio::select! {
            ended = served.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, "connection ended: {error}");
                }
                return;
            }
            () = stopping.stopped(), if !draining => {
                if under_way.load(Ordering::Relaxed) == 0 {
                    return;
                }
                draining = true;
                served.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Header lines of a request: metadata may come in many small pieces.
const HEADERS_MAX: usize = 512;

/// A head must fit, and a body is read in pieces of this size.
const READ_BYTES: usize = 256 * 1024;
const _: () = assert!(READ_BYTES > limits::HEADER_BYTES_MAX);

/// Counts one request while it lives.
struct UnderWay(Arc<AtomicUsize>);

impl UnderWay {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
