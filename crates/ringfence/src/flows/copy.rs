//! Copies: read what is there with a receipt of its own, write it anew. The
//! target is decided and placed like any write, and its label may not be
//! lower than the source's without permission.

use std::ops::Range;
use std::sync::Arc;

use futures::stream;
use ringfence_format::redo::{Pairs, Version};
use ringfence_store::{Conditions, Source};

use super::begin::About;
use super::put::From;
use super::{Act, Algorithm, NewObject, Plain, Preconditions, Put, Reading, Refused, Span, Wanted};

/// What is copied.
#[derive(Clone, Debug)]
pub struct SourceRef {
    /// Which object.
    pub wanted: Wanted,
    /// What must hold of it.
    pub conditions: Preconditions,
}

/// Whether something is taken from the source or given anew.
#[derive(Clone, Debug)]
pub enum Directive<T> {
    /// As at the source.
    Copy,
    /// This instead.
    Replace(T),
}

/// Where to, and as what.
#[derive(Clone, Debug)]
pub struct CopyTo {
    /// Target bucket.
    pub bucket: String,
    /// Target key.
    pub key: String,
    /// Content headers and user metadata.
    pub metadata: Directive<(Pairs, Pairs)>,
    /// Tags.
    pub tags: Directive<Pairs>,
    /// A checksum to compute; the source's algorithm where none is named.
    pub algorithm: Option<Algorithm>,
    /// What must hold of the version it replaces.
    pub conditions: Conditions,
}

/// A range of an object that becomes a part.
#[derive(Clone, Debug)]
pub struct PartFrom {
    /// Which object.
    pub source: SourceRef,
    /// Which bytes; all where `None`.
    pub range: Option<(u64, u64)>,
}

/// Times a change is tried whose ground moved while it was made.
pub(super) const TRIES: usize = 4;

impl Act {
    /// Copies an object; says what the source was. A source whose head is
    /// renewed meanwhile (key rotation, tags) is read again.
    pub async fn copy(&self, from: SourceRef, to: CopyTo) -> Result<(Put, Arc<Version>), Refused> {
        for _ in 1..TRIES {
            match self.copy_once(from.clone(), to.clone()).await {
                Err(refused) if refused.is_race() => {}
                done => return done,
            }
        }
        self.copy_once(from, to).await
    }

    async fn copy_once(&self, from: SourceRef, to: CopyTo) -> Result<(Put, Arc<Version>), Refused> {
        let itself = from.wanted.bucket == to.bucket && from.wanted.key == to.key && from.wanted.version.is_none();
        if itself && matches!((&to.metadata, &to.tags), (Directive::Copy, Directive::Copy)) {
            return Err(Refused::new(
                "InvalidRequest",
                "this copy request is illegal because it is trying to copy an object to itself without changing the object's metadata or tags",
            ));
        }
        let reading = self.read_source("s3:CopyObject", &from, None).await?;
        let source = reading.version.clone();
        let (headers, metadata) = match to.metadata {
            Directive::Copy => (source.headers.clone(), source.metadata.clone()),
            Directive::Replace(given) => given,
        };
        let tags = match to.tags {
            Directive::Copy => source.tags.clone(),
            Directive::Replace(tags) => tags,
        };
        let kept = source.checksums.first().and_then(|checksum| Algorithm::of(&checksum.algorithm));
        let algorithm = to.algorithm.or(kept).unwrap_or(Algorithm::Crc64Nvme);
        let about = About { bucket: to.bucket, key: to.key, tags, headers, metadata };
        let new = NewObject { about, conditions: to.conditions };
        let from = From { label: &source.label, source: seen(&source) };
        let put = self.put_from("s3:CopyObject", new, plain_of(reading, algorithm), Some(from)).await?;
        Ok((put, source))
    }

    /// Opens the source of a copy, on record as what it is.
    pub(super) async fn read_source(
        &self,
        op: &'static str,
        from: &SourceRef,
        range: Option<(u64, u64)>,
    ) -> Result<Reading, Refused> {
        let conditions = &from.conditions;
        self.read(op, &from.wanted, |version| {
            conditions.check(version, "PreconditionFailed")?;
            Ok(Span { range: within(version, range)?, partial: range.is_some() })
        })
        .await
    }
}

fn within(version: &Version, range: Option<(u64, u64)>) -> Result<Range<u64>, Refused> {
    match range {
        None => Ok(0..version.size),
        Some((first, last)) if first <= last && last < version.size => Ok(first..last + 1),
        Some(_) => Err(Refused::new("InvalidRange", "the range is not within the source object")),
    }
}

/// What the commit compares the source with.
pub(super) fn seen(source: &Version) -> Source {
    Source { uid: source.uid, head_seq: source.head.as_ref().map_or(0, |head| head.seq) }
}

/// The authenticated bytes of one object as the plaintext of another.
pub(super) fn plain_of(reading: Reading, algorithm: Algorithm) -> Plain<'static> {
    let len = reading.span.range.end - reading.span.range.start;
    let bytes = stream::unfold((reading, true), |(mut reading, first)| async move {
        if first {
            let bytes = std::mem::take(&mut reading.first);
            return Some((Ok(bytes), (reading, false)));
        }
        let next = reading.next().await?;
        Some((next, (reading, false)))
    });
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        let mut bytes = std::pin::pin!(bytes);
        while let Some(next) = futures::StreamExt::next(&mut bytes).await {
            if sender.send(next).await.is_err() {
                break;
            }
        }
    });
    let bytes =
        stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|next| (next, receiver)) });
    Plain { bytes: Box::new(Box::pin(bytes)), len: Some(len), algorithms: vec![algorithm], check: Box::new(|_| Ok(())) }
}
