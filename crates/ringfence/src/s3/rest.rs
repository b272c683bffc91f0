//! What is left of a request's body when its answer is ready.
//!
//! A refusal is often decided before the body is read. Answering and closing
//! then resets the connection under a client that is still sending, and the
//! answer may be lost with it. So the rest is read, within bounds, and thrown
//! away; a client that waits for `100 Continue` has not begun to send.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;

/// Bytes read and thrown away at most; beyond that the connection is closed.
const BYTES_MAX: usize = 32 * 1024 * 1024;
/// And for how long.
const PATIENCE: Duration = Duration::from_secs(3);

type Slot = Arc<Mutex<Option<Incoming>>>;

/// A body that comes back when it is dropped before its end.
pub(super) struct Lent {
    body: Option<Incoming>,
    slot: Slot,
}

/// Where what is left of it comes back to.
pub(super) struct Rest(Slot);

impl Lent {
    pub(super) fn of(body: Incoming) -> (Self, Rest) {
        let slot = Slot::default();
        (Self { body: Some(body), slot: slot.clone() }, Rest(slot))
    }
}

impl Rest {
    /// Reads what is left, within bounds; says whether nothing is. If not, the
    /// connection must end with the answer: what the client may still send
    /// would be taken for the beginning of its next request.
    pub(super) async fn discard(self, waits_for_continue: bool) -> bool {
        let left = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut left) = left else { return true };
        if waits_for_continue {
            return false;
        }
        let read = async {
            let mut bytes = 0;
            while let Some(frame) = left.frame().await {
                let Ok(frame) = frame else { return false };
                bytes += frame.data_ref().map_or(0, Bytes::len);
                if bytes > BYTES_MAX {
                    return false;
                }
            }
            true
        };
        tokio::time::timeout(PATIENCE, read).await.unwrap_or(false)
    }
}

impl Body for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }
    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }
    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) {
            *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
        }
    }
}
