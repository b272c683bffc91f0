//! Read: locate → decide → (fetch ‖ record) → open → body.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use ringfence_access::permit::Read;
use ringfence_access::{Ask, Permit};
use ringfence_format::names::SiteId;
use ringfence_format::record::Seq;
use ringfence_format::redo::{Bucket, Version};
use ringfence_log::Recorded;
use ringfence_store::{Fetch, VersionRef};
use ringfence_vault::{Opener, PartOpener};

use super::{Act, Refused, Unrecorded};

/// A body is cut when its key is disabled; asked again at least this often.
const RECHECK_US: u64 = 5_000_000;

/// Which object.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its bucket.
    pub bucket: String,
    /// Its key.
    pub key: String,
    /// Which version; the current one where none is named.
    pub version: Option<VersionRef>,
}

/// The conditional headers of RFC 9110, section 13.1.
#[derive(Clone, Debug, Default)]
pub struct Preconditions {
    /// ETag without quotes, or `*`.
    pub if_match: Option<String>,
    /// ETag without quotes, or `*`.
    pub if_none_match: Option<String>,
    /// Milliseconds since the epoch.
    pub if_modified_since: Option<u64>,
    /// Milliseconds since the epoch.
    pub if_unmodified_since: Option<u64>,
}

impl Preconditions {
    /// RFC 9110, section 13.2.2; dates have seconds. `fresh` is the code for
    /// "you have it already": `NotModified` on reads.
    pub fn check(&self, version: &Version, fresh: &'static str) -> Result<(), Refused> {
        let same = |etag: &String| etag == "*" || *etag == version.etag;
        let changed_s = version.created_ms / 1000;
        let failed = || Refused::new("PreconditionFailed", "at least one of the preconditions did not hold");
        match (&self.if_match, self.if_unmodified_since) {
            (Some(etag), _) if !same(etag) => return Err(failed()),
            (None, Some(at_ms)) if changed_s > at_ms / 1000 => return Err(failed()),
            _ => {}
        }
        let fresh = || Refused {
            // An error with a body describes itself; a 304 has only this.
            headers: Vec::from_iter((fresh == "NotModified").then(|| ("etag", format!("\"{}\"", version.etag)))),
            ..Refused::new(fresh, "at least one of the preconditions did not hold")
        };
        match (&self.if_none_match, self.if_modified_since) {
            (Some(etag), _) if same(etag) => Err(fresh()),
            (None, Some(at_ms)) if changed_s <= at_ms / 1000 => Err(fresh()),
            _ => Ok(()),
        }
    }
}

/// An object that may be read, and the permit to.
pub(super) type Readable = (Arc<Bucket>, Arc<Version>, Permit<Read>);

/// Which bytes of the object.
#[derive(Clone, Debug)]
pub struct Span {
    /// Plaintext bytes.
    pub range: Range<u64>,
    /// Whether the client asked for less than the whole.
    pub partial: bool,
}

/// An object that is being read; its release is on record.
pub struct Reading {
    /// What is read.
    pub version: Arc<Version>,
    /// Which bytes.
    pub span: Span,
    /// The record of it.
    pub seq: Seq,
    /// The first authenticated bytes; the rest follows by [`next`](Self::next).
    pub first: Bytes,
    act: Act,
    receipt: Recorded<Permit<Read>>,
    opener: Opener,
    fetch: Fetch,
    part: Option<(usize, PartOpener)>,
    left: u64,
    checked_us: u64,
}

impl Act {
    /// The version a read means, and the permit to read it.
    pub(super) fn find(&self, op: &'static str, wanted: &Wanted) -> Result<Readable, Refused> {
        let bucket = self.bucket(&wanted.bucket)?;
        let key = Self::key(&wanted.key)?;
        let located = self.at.catalog().locate(&bucket.id, &key, wanted.version)?;
        let Some(version) = located.filter(|version| !version.delete_marker) else {
            // Whether it exists is told only to those who might read it.
            let label = self.labelled(&bucket, &key, &Vec::new())?.label;
            let _may: Permit<Read> = self.may(Ask::on_object(op, &bucket, &key, &label))?;
            let code = if wanted.version.is_some() { "NoSuchVersion" } else { "NoSuchKey" };
            return Err(Refused::new(code, "the object does not exist"));
        };
        let ask = Ask::on_object(op, &bucket, &key, &version.label).version(self.identity(&bucket, version.uid));
        let permit = self.may(ask)?;
        Ok((bucket, version, permit))
    }

    /// Metadata only: names are data too, so it is recorded.
    pub async fn head(
        &self,
        op: &'static str,
        wanted: &Wanted,
        check: impl FnOnce(&Version) -> Result<Span, Refused>,
    ) -> Result<(Arc<Version>, Span, Seq), Refused> {
        let (_, version, permit) = self.find(op, wanted)?;
        let span = check(&version)?;
        let recorded = self.record(permit).await?;
        Ok((version, span, recorded.index()))
    }

    /// Opens an object for reading. `choose` checks preconditions and picks
    /// the bytes. When this returns, the read is on record and the first
    /// bytes are authentic; before that, nothing of it can be answered.
    pub async fn read(
        &self,
        op: &'static str,
        wanted: &Wanted,
        choose: impl FnOnce(&Version) -> Result<Span, Refused>,
    ) -> Result<Reading, Refused> {
        let (_, version, permit) = self.find(op, wanted)?;
        let span = choose(&version)?;
        let range = span.range.clone();
        let permit = permit.record(|resource| {
            resource.bytes = Some(range.end - range.start);
            resource.range = (range.end > range.start).then(|| (range.start, range.end - 1));
        });
        // The ciphertext is fetched while the record becomes durable; only
        // the opening waits for it.
        let fetch = self.at.store.fetch(&version, span.range.clone(), &[])?;
        let receipt = self.record(permit).await?;
        let head =
            version.head.as_ref().ok_or_else(|| Refused::inside("InternalError", "internal error", "no head"))?;
        let opener = self.at.vault.opener(&receipt, head)?;
        let left = span.range.end - span.range.start;
        let mut reading = Reading {
            seq: receipt.index(),
            first: Bytes::new(),
            act: self.clone(),
            receipt,
            opener,
            fetch,
            part: None,
            left,
            checked_us: self.now_us(),
            version,
            span,
        };
        reading.first = reading.first_bytes().await?;
        Ok(reading)
    }
}

impl Reading {
    /// A copy that is damaged or gone is passed over while nothing has been
    /// answered yet.
    async fn first_bytes(&mut self) -> Result<Bytes, Refused> {
        let mut bad: Vec<SiteId> = Vec::new();
        loop {
            let refused = match self.advance().await {
                Ok(bytes) => return Ok(bytes.unwrap_or_default()),
                Err(refused) => refused,
            };
            let Some(site) = self.fetch.site().cloned() else { return Err(refused.of(self.seq)) };
            tracing::error!(%site, "a copy of {} is damaged: {}", self.version.uid, refused.reason);
            metrics::counter!("ringfence_damaged_copies", "site" => site.to_string()).increment(1);
            bad.push(site);
            let Ok(fetch) = self.act.at.store.fetch(&self.version, self.span.range.clone(), &bad) else {
                return Err(refused.of(self.seq));
            };
            (self.fetch, self.part) = (fetch, None);
            self.left = self.span.range.end - self.span.range.start;
        }
    }

    /// The next authenticated bytes; `None` at the end. An error means that
    /// the connection must be cut; it is on record when this returns.
    pub async fn next(&mut self) -> Option<Result<Bytes, Refused>> {
        if self.left == 0 {
            return None;
        }
        let now = self.act.now_us();
        if now >= self.checked_us + RECHECK_US {
            self.checked_us = now;
            if !self.act.at.keys.still_valid(&*self.act.caller) {
                let refused = Refused::new("AccessDenied", "the key was disabled while the body was sent");
                return Some(Err(self.fell_short(refused).await));
            }
        }
        match self.advance().await {
            Ok(bytes) => bytes.map(Ok),
            Err(refused) => Some(Err(self.fell_short(refused).await)),
        }
    }

    /// Whether all bytes have been given out.
    pub fn is_finished(&self) -> bool {
        self.left == 0
    }

    /// Puts on record that less was released than granted.
    pub async fn fell_short(&self, refused: Refused) -> Refused {
        let outcome = Unrecorded {
            subject: self.act.caller.subject(Some(self.receipt.tenant())),
            op: self.receipt.op(),
            resource: self.receipt.resource().clone(),
            status: 0,
            code: refused.code.to_owned(),
            reason: format!("{} ({} bytes were not sent)", refused.reason, self.left),
            of: Some(self.seq),
        };
        if let Err(error) = self.act.at.log.record(outcome).await {
            tracing::error!("the outcome of record #{} could not be recorded: {error}", self.seq);
        }
        refused
    }

    async fn advance(&mut self) -> Result<Option<Bytes>, Refused> {
        while let Some(piece) = self.fetch.next().await {
            let piece = piece?;
            if self.part.as_ref().is_none_or(|(index, _)| *index != piece.part) {
                self.end_part()?;
                let opener = self.opener.range(&self.version.parts[piece.part], piece.range.clone());
                self.part = Some((piece.part, opener.map_err(damaged)?));
            }
            let (_, opener) = self.part.as_mut().expect("set right above");
            let plain = opener.push(&piece.bytes).map_err(damaged)?;
            if !plain.is_empty() {
                self.left = self.left.saturating_sub(plain.len() as u64);
                let bytes = plain.into_body();
                if self.left == 0 {
                    self.end_part()?;
                }
                return Ok(Some(bytes));
            }
        }
        self.end_part()?;
        if self.left > 0 {
            return Err(damaged("the ciphertext ended early"));
        }
        Ok(None)
    }

    fn end_part(&mut self) -> Result<(), Refused> {
        self.part.take().map_or(Ok(()), |(_, opener)| opener.finish().map_err(damaged))
    }
}

/// What a site gave out is not what was sealed.
fn damaged(why: impl std::fmt::Display) -> Refused {
    Refused::inside("InternalError", "the stored object cannot be authenticated", format!("a copy is damaged: {why}"))
}

impl Refused {
    fn of(mut self, seq: Seq) -> Self {
        self.reason = format!("{} (granted by record #{seq})", self.reason);
        self
    }
}
