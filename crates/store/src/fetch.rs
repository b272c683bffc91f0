//! Reading: ciphertext of a range of one version, from the first copy that
//! gives it out, one piece ahead of the reader.
//!
//! The bytes are `Fetched`: nobody believes them before the vault has opened
//! them. So the fetch may run beside the record of the read; only the opening
//! waits for it.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ringfence_db::DbError;
use ringfence_format::chunk::{BadLayout, Layout, chunk_name, head_name};
use ringfence_format::envelope::Fetched;
use ringfence_format::floe::HEADER_BYTES;
use ringfence_format::limits::SEGMENT_BYTES;
use ringfence_format::names::{SiteId, UploadId};
use ringfence_format::redo::{Copy, PackAddr, Version};
use tokio::task::JoinHandle;

use crate::site::{Site, SiteError, SiteKind};
use crate::store::Store;

/// Bytes of the first request to a site: small, so that the first byte is early.
const FIRST_PIECE: u64 = 4 * SEGMENT_BYTES as u64;
/// Bytes of each later request; the reader holds one and the fetch one ahead.
const PIECE: u64 = 16 * SEGMENT_BYTES as u64;

/// How long a site may take for one piece where another one has it too. Long
/// for a piece of 1 MiB, short for a reader.
const NEXT_COPY_AFTER: Duration = Duration::from_secs(5);

/// Why ciphertext could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No copy gives it out; this is what the last one said.
    #[error("no copy of the object can be read: {0}")]
    NoCopy(SiteError),
    /// The version has no copy at a site that is open (or all were excluded).
    #[error("no copy of the object lies at a site that is open: run `ringfence where`")]
    NoSite,
    /// The range is not within the object, or its row contradicts itself.
    #[error(transparent)]
    Layout(#[from] BadLayout),
    /// The catalogue's file failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// A piece of ciphertext.
pub struct Piece {
    /// Index of its part in the version's `parts`.
    pub part: usize,
    /// The plaintext range of that part which the pieces of this part make up:
    /// what to hand to `RangeOpener::new`.
    pub range: Range<u64>,
    /// The ciphertext, in order, cut at segment borders.
    pub bytes: Fetched,
}

impl Store {
    /// Fetches what holds the plaintext `range` of `version` (`0..0` of an
    /// empty object still fetches the segment that proves it empty). The first
    /// request starts at once.
    ///
    /// `except` names sites whose copy turned out to be damaged.
    ///
    /// # Errors
    /// [`FetchError::NoSite`] where no copy is left to try.
    pub fn fetch(
        self: &Arc<Self>,
        version: &Arc<Version>,
        range: Range<u64>,
        except: &[SiteId],
    ) -> Result<Fetch, FetchError> {
        let requests = plan(version, range)?;
        let sites = self.by_preference(version, except);
        if sites.is_empty() {
            return Err(FetchError::NoSite);
        }
        let uploads = version.parts.iter().map(|part| part.upload).collect();
        let pin = self.readers.pin(uploads);
        let mut fetch =
            Fetch { store: self.clone(), version: version.clone(), sites, requests, ahead: None, _pin: Arc::new(pin) };
        fetch.look_ahead();
        Ok(fetch)
    }

    /// The head beside one copy, as it lies there.
    ///
    /// # Errors
    /// What the site said.
    pub async fn fetch_head(&self, copy: &Copy) -> Result<Fetched, FetchError> {
        let site = self.site(&copy.site).ok_or(FetchError::NoSite)?;
        let name = head_name(&self.installation, &copy.head);
        site.get(&name, copy.head_at, None).await.map_err(FetchError::NoCopy)
    }

    /// Sites with a copy, the nearest first: directories, then what is ours;
    /// one that rests comes last.
    fn by_preference(&self, version: &Version, except: &[SiteId]) -> VecDeque<Arc<Site>> {
        let mut sites: Vec<Arc<Site>> = version
            .copies
            .iter()
            .filter(|copy| !except.contains(&copy.site))
            .filter_map(|copy| self.site(&copy.site))
            .collect();
        // Only with a choice is it worth asking what scrub has found.
        let several = sites.len() > 1;
        let is_bad = |site: &Site| several && self.catalog().is_bad(&version.uid, site.id()).unwrap_or(false);
        sites.sort_by_cached_key(|site| {
            (!site.is_asked(), is_bad(site), !matches!(**site, Site::Dir(_)), site.info().kind != SiteKind::Private)
        });
        sites.into()
    }
}

/// Ciphertext of a range, piece by piece.
pub struct Fetch {
    store: Arc<Store>,
    version: Arc<Version>,
    /// Sites still believed in; the first is in use.
    sites: VecDeque<Arc<Site>>,
    requests: VecDeque<Request>,
    ahead: Option<JoinHandle<Answer>>,
    _pin: Arc<Pin>,
}

type Answer = (Request, VecDeque<Arc<Site>>, Result<Fetched, FetchError>);

#[derive(Clone)]
struct Request {
    part: usize,
    range: Range<u64>,
    index: u32,
    bytes: Range<u64>,
}

impl Fetch {
    /// The next piece; `None` behind the last.
    pub async fn next(&mut self) -> Option<Result<Piece, FetchError>> {
        self.look_ahead();
        let task = self.ahead.take()?;
        let (request, sites, bytes) = task.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        self.sites = sites;
        if bytes.is_ok() {
            self.look_ahead();
        }
        Some(bytes.map(|bytes| Piece { part: request.part, range: request.range, bytes }))
    }

    /// The site it reads from now; after a failed authentication, what to name
    /// in `except`.
    pub fn site(&self) -> Option<&SiteId> {
        self.sites.front().map(|site| site.id())
    }

    fn look_ahead(&mut self) {
        if self.ahead.is_some() {
            return;
        }
        let Some(request) = self.requests.pop_front() else { return };
        let (store, version, sites) = (self.store.clone(), self.version.clone(), self.sites.clone());
        self.ahead = Some(tokio::spawn(async move {
            let mut sites = sites;
            let bytes = get(&store, &version, &mut sites, &request).await;
            (request, sites, bytes)
        }));
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        if let Some(task) = self.ahead.take() {
            task.abort();
        }
    }
}

/// One request at the first site that answers; a site that fails is not asked
/// again by this fetch.
async fn get(
    store: &Store,
    version: &Arc<Version>,
    sites: &mut VecDeque<Arc<Site>>,
    request: &Request,
) -> Result<Fetched, FetchError> {
    let mut last = FetchError::NoSite;
    while let Some(site) = sites.front().cloned() {
        // With another copy at hand, a site that hangs is not waited for.
        let answer = match sites.len() {
            1 => get_at(store, version, &site, request).await,
            _ => tokio::time::timeout(NEXT_COPY_AFTER, get_at(store, version, &site, request))
                .await
                .unwrap_or_else(|_| Err(FetchError::NoCopy(site.too_slow(NEXT_COPY_AFTER)))),
        };
        match answer {
            Ok(bytes) => return Ok(bytes),
            Err(error) => {
                tracing::warn!("{error}");
                metrics::counter!("ringfence_fetch_failed", "site" => site.id().to_string()).increment(1);
                last = error;
                sites.pop_front();
            }
        }
    }
    Err(last)
}

async fn get_at(store: &Store, version: &Version, site: &Site, request: &Request) -> Result<Fetched, FetchError> {
    let name = chunk_name(&store.installation, &version.parts[request.part].upload, request.index);
    let at = packed_at(version, request.part, site.id());
    match site.get(&name, at, Some(request.bytes.clone())).await {
        Err(error) if at.is_some() => {
            // A compaction may have moved it since the version was read.
            let now = store.catalog().version(&version.uid)?;
            let moved = now.and_then(|now| packed_at(&now, request.part, site.id())).filter(|now| Some(*now) != at);
            match moved {
                Some(_) => site.get(&name, moved, Some(request.bytes.clone())).await.map_err(FetchError::NoCopy),
                None => Err(FetchError::NoCopy(error)),
            }
        }
        answer => answer.map_err(FetchError::NoCopy),
    }
}

fn packed_at(version: &Version, part: usize, site: &SiteId) -> Option<PackAddr> {
    let part = version.parts.get(part)?.id;
    let copy = version.copies.iter().find(|copy| copy.site == *site)?;
    copy.packed.iter().find(|packed| packed.part == part).map(|packed| packed.at)
}

/// Cuts a plaintext range of the object into requests, part by part.
fn plan(version: &Version, range: Range<u64>) -> Result<VecDeque<Request>, BadLayout> {
    let whole_and_empty = version.size == 0 && range == (0..0);
    if !whole_and_empty && (range.start >= range.end || range.end > version.size) {
        return Err(BadLayout::Range(range));
    }
    let mut requests = VecDeque::new();
    let mut start = 0;
    for (part, row) in version.parts.iter().enumerate() {
        let end = start + row.plain_len;
        let within = range.start.max(start)..range.end.min(end);
        if within.start < within.end || (whole_and_empty && part == 0) {
            let within = within.start - start..within.end - start;
            for chunk in Layout::of(row)?.locate(within.clone())?.chunks {
                cut(&mut requests, part, &within, chunk.index, chunk.bytes);
            }
        }
        start = end;
    }
    Ok(requests)
}

/// Cuts a range of one chunk at segment borders.
fn cut(requests: &mut VecDeque<Request>, part: usize, range: &Range<u64>, index: u32, bytes: Range<u64>) {
    let header = if index == 0 { HEADER_BYTES as u64 } else { 0 };
    let mut from = bytes.start;
    while from < bytes.end {
        let most = if requests.is_empty() { FIRST_PIECE } else { PIECE };
        let border = from.max(header) + most;
        let to = border.min(bytes.end);
        requests.push_back(Request { part, range: range.clone(), index, bytes: from..to });
        from = to;
    }
}

/// Which write attempts are being read, so that erasing them can wait.
#[derive(Debug, Default)]
pub(crate) struct Readers(Mutex<HashMap<UploadId, usize>>);

/// Holds erasure off for as long as it lives.
pub(crate) struct Pin {
    readers: Arc<Readers>,
    uploads: Vec<UploadId>,
}

impl Readers {
    pub(crate) fn pin(self: &Arc<Self>, uploads: Vec<UploadId>) -> Pin {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for upload in &uploads {
            *counts.entry(*upload).or_default() += 1;
        }
        drop(counts);
        Pin { readers: self.clone(), uploads }
    }

    pub(crate) fn is_read(&self, upload: &UploadId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(upload)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut counts = self.readers.0.lock().unwrap_or_else(PoisonError::into_inner);
        for upload in &self.uploads {
            if let Some(count) = counts.get_mut(upload) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(upload);
                }
            }
        }
    }
}
