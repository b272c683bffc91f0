//! Bodies: what a client sends, with what it says of it, and what it gets.

use std::pin::Pin;
use std::task::{Context, Poll};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use s3s::dto::StreamingBlob;
use s3s::stream::aws_chunked_stream::AwsChunkedStreamError;
use s3s::stream::upload_stream::UploadStreamError;
use s3s::{BodySizeLimitExceeded, TrailingHeaders};

use crate::flows::{ALGORITHMS, Algorithm, Digests, Plain, Reading, Refused, Sums};

/// What a client said of a body before it sent it.
#[derive(Default)]
pub(super) struct Said {
    pub(super) len: Option<i64>,
    pub(super) md5: Option<String>,
    pub(super) algorithm: Option<String>,
    pub(super) sums: Vec<(Algorithm, String)>,
    pub(super) trailers: Option<TrailingHeaders>,
    /// `x-amz-trailer`: which checksum comes behind the body.
    pub(super) trailer_names: Vec<String>,
}

impl Said {
    /// The body as the flows take it: every digest that was said is compared
    /// at its end.
    pub(super) fn of(self, body: Option<StreamingBlob>) -> Result<Plain<'static>, Refused> {
        let md5 = self.md5.as_deref().map(digest_of).transpose()?;
        if self.sums.len() > 1 {
            return Err(Refused::new("InvalidRequest", "expecting a single x-amz-checksum- header"));
        }
        for (algorithm, value) in &self.sums {
            if STANDARD.decode(value).map_or(true, |bytes| bytes.len() != algorithm.len()) {
                let why = format!("value for x-amz-checksum-{} header is invalid", algorithm.name().to_lowercase());
                return Err(Refused::new("InvalidRequest", why));
            }
        }
        let announced = self.trailer_names.iter().filter_map(|name| trailer_algorithm(name));
        let asked = self.algorithm.as_deref().map(|name| {
            Algorithm::of(name)
                .ok_or_else(|| Refused::new("InvalidRequest", "checksum algorithm provided is unsupported"))
        });
        let asked = asked.transpose()?;
        let mut algorithms: Vec<_> = self.sums.iter().map(|(a, _)| *a).chain(announced).collect();
        algorithms.dedup();
        if asked.zip(algorithms.first()).is_some_and(|(asked, said)| asked != *said) {
            let why = "value for x-amz-sdk-checksum-algorithm header does not match the checksum that was sent";
            return Err(Refused::new("InvalidRequest", why));
        }
        if algorithms.is_empty() {
            algorithms.push(asked.unwrap_or(Algorithm::Crc64Nvme));
        }
        let promised: Vec<_> = self.trailer_names.iter().filter_map(|name| trailer_algorithm(name)).collect();
        let (sums, trailers) = (self.sums, self.trailers);
        let check = move |computed: &Sums| {
            if md5.is_some_and(|md5| md5 != computed.md5) {
                return Err(Refused::new("BadDigest", "the Content-MD5 you specified did not match what we received"));
            }
            let behind = trailers.as_ref().and_then(TrailingHeaders::take);
            let behind = behind.iter().flat_map(|headers| headers.iter()).filter_map(|(name, value)| {
                Some((trailer_algorithm(name.as_str())?, value.to_str().ok()?.trim().to_owned()))
            });
            let behind: Vec<_> = behind.collect();
            if promised.iter().any(|promised| !behind.iter().any(|(algorithm, _)| algorithm == promised)) {
                return Err(Refused::new("MalformedTrailerError", "the trailer that was announced did not come"));
            }
            for (algorithm, value) in sums.into_iter().chain(behind) {
                if computed.base64(algorithm).is_some_and(|ours| ours != value) || computed.base64(algorithm).is_none()
                {
                    let why = format!("the {} you specified did not match the calculated checksum", algorithm.name());
                    return Err(Refused::new("BadDigest", why));
                }
            }
            Ok(())
        };
        let len = self.len.and_then(|len| u64::try_from(len).ok());
        let bytes = body.map(|body| body.map(|next| next.map_err(broken)));
        let bytes: Box<dyn Stream<Item = Result<Bytes, Refused>> + Send + Sync + Unpin> = match bytes {
            Some(bytes) => Box::new(bytes),
            None => Box::new(futures::stream::empty()),
        };
        Ok(Plain { bytes, len, algorithms, check: Box::new(check) })
    }
}

/// A document that must come with a digest of itself: `Content-MD5` or one
/// checksum.
pub(super) fn check_document(headers: &http::HeaderMap, bytes: &[u8]) -> Result<(), super::Early> {
    use http::StatusCode;
    let mut digests = Digests::new(&ALGORITHMS);
    digests.update(bytes);
    let computed = digests.finish();
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default().to_owned());
    let mut said = false;
    if let Some(md5) = text("content-md5") {
        said = true;
        let md5 = digest_of(&md5)
            .map_err(|_| (StatusCode::BAD_REQUEST, "InvalidDigest", "the Content-MD5 you specified is not valid"))?;
        if md5 != computed.md5 {
            return Err((
                StatusCode::BAD_REQUEST,
                "BadDigest",
                "the Content-MD5 you specified did not match what we received",
            ));
        }
    }
    for algorithm in ALGORITHMS {
        let Some(value) = text(&format!("x-amz-checksum-{}", algorithm.name().to_lowercase())) else { continue };
        said = true;
        if computed.base64(algorithm) != Some(value) {
            return Err((
                StatusCode::BAD_REQUEST,
                "BadDigest",
                "the checksum you specified did not match what we received",
            ));
        }
    }
    match said {
        true => Ok(()),
        false => Err((
            StatusCode::BAD_REQUEST,
            "InvalidRequest",
            "missing required header for this request: Content-MD5 or x-amz-checksum-*",
        )),
    }
}

fn digest_of(md5: &str) -> Result<[u8; 16], Refused> {
    let decoded = STANDARD.decode(md5).ok().and_then(|bytes| bytes.try_into().ok());
    decoded.ok_or_else(|| Refused::new("InvalidDigest", "the Content-MD5 you specified is not valid"))
}

pub(super) fn trailer_algorithm(name: &str) -> Option<Algorithm> {
    let name = name.trim().to_ascii_lowercase();
    let name = name.strip_prefix("x-amz-checksum-")?;
    ALGORITHMS.into_iter().find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
}

/// A body that cannot be read to its end, as S3 names it.
fn broken(error: s3s::StdError) -> Refused {
    if error.is::<BodySizeLimitExceeded>() {
        return Refused::new("EntityTooLarge", "your proposed upload exceeds the maximum allowed size");
    }
    let code = match (error.downcast_ref::<UploadStreamError>(), error.downcast_ref::<AwsChunkedStreamError>()) {
        (Some(UploadStreamError::Sha256Mismatch), _) => "XAmzContentSHA256Mismatch",
        (_, Some(AwsChunkedStreamError::SignatureMismatch)) => "SignatureDoesNotMatch",
        (_, Some(AwsChunkedStreamError::FormatError)) => "InvalidRequest",
        (_, Some(AwsChunkedStreamError::ChunkDataTooLarge(..))) => "InvalidChunkSizeError",
        (_, Some(AwsChunkedStreamError::ChunkMetaTooLarge(..) | AwsChunkedStreamError::TrailersTooLarge(..))) => {
            "InvalidRequest"
        }
        _ => "IncompleteBody",
    };
    let message = match code {
        "XAmzContentSHA256Mismatch" => "the provided x-amz-content-sha256 header does not match what was computed",
        "SignatureDoesNotMatch" => "the signature of a chunk does not match",
        "IncompleteBody" => "you did not provide the number of bytes specified by the Content-Length header",
        _ => "the body is not well-formed",
    };
    Refused::inside(code, message, error)
}

/// The body of an answer: what is authentic already, then the rest.
pub(super) fn of_reading(mut reading: Reading) -> StreamingBlob {
    let first = std::mem::take(&mut reading.first);
    if reading.is_finished() {
        return StreamingBlob::from_bytes(first);
    }
    // A task of its own reads ahead by one piece, and notes a client that goes.
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, CutShort>>(1);
    tokio::spawn(async move {
        let mut next = Some(Ok(first));
        while let Some(item) = next {
            let item = item.map_err(|refused: Refused| CutShort(refused.reason));
            let failed = item.is_err();
            if sender.send(item).await.is_err() {
                reading.fell_short(Refused::new("ClientGone", "the client closed the connection")).await;
                return;
            }
            if failed {
                return;
            }
            next = reading.next().await;
        }
    });
    StreamingBlob::wrap(Rest(receiver))
}

/// The connection is cut: never a short success.
#[derive(Debug, thiserror::Error)]
#[error("the body was cut short: {0}")]
pub(super) struct CutShort(String);

struct Rest(tokio::sync::mpsc::Receiver<Result<Bytes, CutShort>>);

impl Stream for Rest {
    type Item = Result<Bytes, CutShort>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}
