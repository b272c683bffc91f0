//! Places that store sealed chunks: the only code of this project that talks
//! to a disk or a cloud about objects.
//!
//! INVARIANT 4 — a site is given [`Sealed`] and nothing else, which this crate
//! cannot make, and what comes back is [`Fetched`], which nothing believes:
//!
//! ```compile_fail,E0308
//! # async fn leak(site: &ringfence_store::site::Site, plain: bytes::Bytes) {
//! let _ = site.put("name", vec![plain]).await;
//! # }
//! ```
//!
//! [`Site`] is one closed enum: a new kind of site is a variant here, and the
//! compiler then names every place that must know it. Each kind passes the one
//! contract in [`contract`]; what a provider does differently stands in
//! [`quirks`]; [`probe`] finds out what a given site really does.
//!
//! What is asked of a site is little: store a few bytes to 16 MiB under a name
//! that is never used twice, give a range back, forget it, say what is there.
//! No conditional write is needed (ruling 11): a write that failed but
//! happened is repeated with the same bytes under the same name.

#[doc(hidden)]
pub mod contract;
#[cfg(test)]
mod crashes;
mod dir;
mod error;
mod health;
mod pack;
pub mod probe;
pub mod quirks;
mod remote;
mod secret;

use std::{collections::BTreeMap, fmt, ops::Range, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use ringfence_db::{clock::Clock, disk::Disk};
use ringfence_format::{
    envelope::{Fetched, Sealed},
    limits,
    names::{InstallationId, SiteId},
    redo::PackAddr,
};

pub use self::{
    dir::{DirSite, FirstUse, MARKER},
    error::SiteError,
    health::{Breaker, HealthReport},
    pack::{Compacted, Moved, PACK_BYTES_MAX, PackEntry, PackUse},
    remote::{RemoteConfig, RemoteSite, Service},
    secret::{SecretRef, SiteCredential},
};

/// Whether a site is inside the fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SiteKind {
    /// Ours: a directory, a store in our own rooms.
    Private,
    /// Somebody else's: a cloud.
    Public,
}

/// Whether others share its hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tenancy {
    /// Hardware that serves one customer.
    Dedicated,
    /// Hardware that others share.
    Shared,
}

/// What policy and operators know of a site, and how patient we are with it.
#[derive(Clone, Debug)]
pub struct SiteInfo {
    /// Its name in the configuration.
    pub id: SiteId,
    /// Inside or outside the fence.
    pub kind: SiteKind,
    /// ISO 3166-1 alpha-2, upper case.
    pub jurisdiction: String,
    /// Who runs it: a word such as `aws`, `minio`, `local`; see [`quirks`].
    pub provider: String,
    /// Whose hardware.
    pub tenancy: Tenancy,
    /// Free tags for policy.
    pub tags: BTreeMap<String, String>,
    /// How patient we are.
    pub patience: Patience,
}

impl SiteInfo {
    /// A site with usual patience, no tags and shared hardware.
    pub fn new(id: SiteId, kind: SiteKind, jurisdiction: &str, provider: &str) -> Self {
        Self {
            id,
            kind,
            jurisdiction: jurisdiction.to_owned(),
            provider: provider.to_owned(),
            tenancy: Tenancy::Shared,
            tags: BTreeMap::new(),
            patience: Patience::default(),
        }
    }
}

/// Timeouts, retries and concurrency of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// One attempt at one operation.
    pub attempt_timeout: Duration,
    /// Attempts at one operation, the first included.
    pub attempts_max: u32,
    /// First pause between attempts; doubles each time, with jitter.
    pub backoff_min: Duration,
    /// Longest pause between attempts.
    pub backoff_max: Duration,
    /// Retries that may be saved up for all operations together. A success
    /// gives a tenth of a retry back, so that a site that is down is not
    /// answered with a storm.
    pub retry_budget: u32,
    /// Operations under way at once; more wait.
    pub concurrency_max: u32,
    /// Failures in a row after which the site is given a rest.
    pub failures_max: u32,
    /// First rest; doubles with each failed trial.
    pub rest_min: Duration,
    /// Longest rest.
    pub rest_max: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempt_timeout: Duration::from_secs(30),
            attempts_max: 4,
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(5),
            retry_budget: 100,
            concurrency_max: 64,
            failures_max: 5,
            rest_min: Duration::from_secs(5),
            rest_max: Duration::from_secs(60),
        }
    }
}

/// A place that stores sealed chunks.
pub enum Site {
    /// A directory of a local or mounted file system.
    Dir(DirSite),
    /// An object store behind a network.
    Remote(RemoteSite),
}

/// Where something was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its place in a pack, if it was packed: keep it, a packed thing is not
    /// found by name.
    pub at: Option<PackAddr>,
}

/// What [`Site::stat`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Bytes stored.
    pub len: u64,
}

/// One thing at a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its full name.
    pub name: String,
    /// Bytes stored.
    pub len: u64,
    /// When it was stored, milliseconds since the epoch, where the site knows;
    /// packed things do not.
    pub modified_ms: Option<u64>,
    /// Its place in a pack, if it is packed.
    pub at: Option<PackAddr>,
}

/// Something to store: its name and its bytes in pieces.
pub struct Put {
    /// Its name, never used before (see [`ringfence_format::chunk`]).
    pub name: String,
    /// Its bytes, at most 16 MiB together.
    pub parts: Vec<Sealed>,
}

impl Site {
    /// Opens a directory site. Blocks on the disk.
    pub fn open_dir(
        info: SiteInfo,
        root: &Path,
        installation: InstallationId,
        first_use: FirstUse,
        disk: Arc<dyn Disk>,
    ) -> Result<Self, SiteError> {
        DirSite::open(info, root, installation, first_use, disk).map(Self::Dir)
    }

    /// Prepares a remote site; nothing is sent yet.
    pub fn open_remote(info: SiteInfo, config: &RemoteConfig, credential: SiteCredential) -> Result<Self, SiteError> {
        RemoteSite::open(info, config, credential).map(Self::Remote)
    }

    /// What policy and operators know of it.
    pub fn info(&self) -> &SiteInfo {
        match self {
            Self::Dir(dir) => &dir.info,
            Self::Remote(remote) => &remote.info,
        }
    }

    /// Its name.
    pub fn id(&self) -> &SiteId {
        &self.info().id
    }

    /// How it has done lately.
    pub fn health(&self) -> HealthReport {
        self.breaker().report()
    }

    /// Whether it is asked at all; see [`Breaker`].
    pub fn is_asked(&self) -> bool {
        self.breaker().is_asked()
    }

    /// Whether a new write may be placed here: it neither rests nor is full.
    pub fn takes_writes(&self) -> bool {
        self.breaker().takes_writes()
    }

    /// The clock that rests go by; the machine's where none is given. The
    /// store hands its own over.
    pub fn keep_time(&self, clock: Arc<dyn Clock>) {
        self.breaker().keep_time(clock);
    }

    /// Asks it again although it rests, because an operator wants to know.
    pub fn ask_again(&self) {
        self.breaker().close();
    }

    /// Tries the site out if its rest is over; call it every second or so.
    /// Returns when the trial has ended: at a file system that hangs, that may
    /// be never, and there is no other trial meanwhile.
    pub async fn try_again(&self, installation: InstallationId) {
        if !self.breaker().begin_trial() {
            return;
        }
        let tried = match self {
            Self::Dir(dir) => dir.touch().await,
            Self::Remote(remote) => remote.touch(&format!("{installation}/p/")).await,
        };
        self.breaker().end_trial(tried.as_ref().err());
    }

    /// Notes that a reader did not wait for it any longer than `after`.
    pub(crate) fn too_slow(&self, after: Duration) -> SiteError {
        let error = SiteError::timeout(self.id(), after);
        self.breaker().note(Some(&error));
        error
    }

    fn breaker(&self) -> &health::Health {
        match self {
            Self::Dir(dir) => &dir.health,
            Self::Remote(remote) => &remote.health,
        }
    }

    /// Stores one thing; durable when this returns.
    ///
    /// After `Retryable` or `Timeout` it may be there all the same: call again
    /// with the same bytes, or have the name swept.
    pub async fn put(&self, name: &str, parts: Vec<Sealed>) -> Result<Stored, SiteError> {
        let put = Put { name: name.to_owned(), parts };
        let stored = self.put_many(vec![put]).await?;
        Ok(stored[0])
    }

    /// Stores several things, in the order given; all are durable when this
    /// returns. At a directory the small ones share one sync.
    pub async fn put_many(&self, puts: Vec<Put>) -> Result<Vec<Stored>, SiteError> {
        let unseal = |put: Put| pack::Item {
            name: put.name,
            parts: put.parts.into_iter().map(|sealed| sealed.bytes().clone()).collect(),
        };
        self.put_bytes(puts.into_iter().map(unseal).collect()).await
    }

    /// INVARIANT 4: only this module and its probe may name bytes that are not
    /// `Sealed`; the probe writes its own test pattern.
    async fn put_bytes(&self, items: Vec<pack::Item>) -> Result<Vec<Stored>, SiteError> {
        for item in &items {
            checked_name(self.id(), &item.name)?;
            if item.parts.iter().map(Bytes::len).sum::<usize>() > limits::CHUNK_BYTES_MAX {
                return Err(SiteError::refused(self.id(), "a chunk may not exceed 16 MiB"));
            }
        }
        match self {
            Self::Dir(dir) => self.in_time(dir.put_many(items)).await,
            Self::Remote(remote) => remote.put_many(items).await,
        }
    }

    /// Begins to store a large chunk piece by piece. At a directory the pieces
    /// go straight to a file; a remote site gets them in one request at the end.
    pub async fn begin(&self, name: &str) -> Result<ChunkWriter, SiteError> {
        checked_name(self.id(), name)?;
        let to = match self {
            Self::Dir(dir) => WriteTo::Dir {
                writer: self.in_time(dir.begin(name.to_owned())).await?,
                site: self.id().clone(),
                wait: self.info().patience.attempt_timeout,
                health: dir.health.clone(),
            },
            Self::Remote(remote) => {
                remote.health.admit()?;
                WriteTo::Remote { remote: remote.clone(), name: name.to_owned(), parts: Vec::new(), len: 0 }
            }
        };
        Ok(ChunkWriter { to })
    }

    /// Bytes `range` of what is stored under `name`, or all of it: exactly as
    /// many as asked for, else [`SiteError::Corrupt`]. `at` is what
    /// [`Stored`] said.
    pub async fn get(&self, name: &str, at: Option<PackAddr>, range: Option<Range<u64>>) -> Result<Fetched, SiteError> {
        self.get_bytes(name, at, range).await.map(Fetched::new)
    }

    async fn get_bytes(&self, name: &str, at: Option<PackAddr>, range: Option<Range<u64>>) -> Result<Bytes, SiteError> {
        checked_name(self.id(), name)?;
        let bounded = range.as_ref().is_none_or(|r| r.start <= r.end && r.end <= limits::CHUNK_BYTES_MAX as u64);
        if !bounded {
            return Err(SiteError::refused(self.id(), "a range must lie within 16 MiB"));
        }
        match self {
            Self::Dir(dir) => self.in_time(dir.get(name, at, range)).await,
            Self::Remote(remote) => remote.get(name, range).await,
        }
    }

    /// Erases one thing. That it is gone already is success.
    pub async fn delete(&self, name: &str, at: Option<PackAddr>) -> Result<(), SiteError> {
        self.delete_many(vec![(name.to_owned(), at)]).await
    }

    /// Erases several things; when this returns, none of them comes back after
    /// a crash. Packed bytes are overwritten with zeros.
    pub async fn delete_many(&self, items: Vec<(String, Option<PackAddr>)>) -> Result<(), SiteError> {
        for (name, _) in &items {
            checked_name(self.id(), name)?;
        }
        match self {
            Self::Dir(dir) => self.in_time(dir.delete_many(items)).await,
            Self::Remote(remote) => remote.delete_many(items).await,
        }
    }

    /// Whether it is there, and how long it is.
    pub async fn stat(&self, name: &str, at: Option<PackAddr>) -> Result<Stat, SiteError> {
        checked_name(self.id(), name)?;
        match self {
            Self::Dir(dir) => self.in_time(dir.stat(name, at)).await,
            Self::Remote(remote) => remote.stat(name).await,
        }
    }

    /// Everything whose name begins with `prefix`, in no order. What is stored
    /// or erased meanwhile may or may not be in it.
    pub fn list(&self, prefix: &str) -> Lister {
        Lister(Some(match self {
            Self::Dir(dir) => ListFrom::Dir(dir.lister(prefix.to_owned())),
            Self::Remote(remote) => ListFrom::Remote(remote.lister(prefix.to_owned())),
        }))
    }

    /// How full the packs are; empty where nothing is packed.
    pub async fn packs(&self) -> Result<Vec<PackUse>, SiteError> {
        match self {
            Self::Dir(dir) => dir.usage().await,
            Self::Remote(_) => Ok(Vec::new()),
        }
    }

    /// Copies the live entries of a pack elsewhere, so that the pack can be
    /// removed. `None` if there is no such pack or it is still written to.
    ///
    /// Order: compact → record the new addresses in the catalogue →
    /// [`remove_pack`](Self::remove_pack). What was erased meanwhile must be
    /// erased at [`Moved::to`] as well. A crash leaves second copies, never a
    /// loss: they are listed at an address that the catalogue does not have.
    pub async fn compact(
        &self,
        pack: u32,
        is_live: impl FnMut(&PackEntry) -> bool + Send,
    ) -> Result<Option<Compacted>, SiteError> {
        match self {
            Self::Dir(dir) => dir.packs().compact(pack, is_live).await,
            Self::Remote(_) => Ok(None),
        }
    }

    /// Removes a pack whose live entries were copied, after the catalogue has
    /// recorded every one of [`Compacted::moved`].
    pub async fn remove_pack(&self, compacted: Compacted) -> Result<(), SiteError> {
        match self {
            Self::Dir(dir) => dir.remove_pack(compacted).await,
            Self::Remote(_) => Ok(()),
        }
    }

    /// A disk behind a network can hang. What hangs may still happen; whoever
    /// asked is told that it did not in time.
    async fn in_time<T>(&self, work: impl Future<Output = Result<T, SiteError>>) -> Result<T, SiteError> {
        let work = in_time(self.id(), self.info().patience.attempt_timeout, work);
        self.breaker().watch(work).await
    }

    /// Stores `bytes` only if the name is free, where the site has a way to
    /// say so. Used by the probe alone: nothing we store relies on it.
    async fn create_only(&self, name: &str, bytes: Bytes) -> Result<(), SiteError> {
        match self {
            Self::Dir(_) => {
                self.put_bytes(vec![pack::Item { name: name.to_owned(), parts: vec![bytes] }]).await.map(drop)
            }
            Self::Remote(remote) => remote.create_only(name, bytes).await,
        }
    }

    /// Ends pending work. What is called afterwards is refused as retryable.
    pub async fn close(&self) {
        match self {
            Self::Dir(dir) => dir.close().await,
            Self::Remote(_) => {}
        }
    }
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Site({})", self.id())
    }
}

/// Stores one large chunk piece by piece; see [`Site::begin`]. Dropped before
/// [`finish`](Self::finish), nothing is stored.
#[must_use = "nothing is stored before `finish`"]
pub struct ChunkWriter {
    to: WriteTo,
}

enum WriteTo {
    Dir { writer: dir::DirWriter, site: SiteId, wait: Duration, health: Arc<health::Health> },
    Remote { remote: RemoteSite, name: String, parts: Vec<Bytes>, len: usize },
}

impl ChunkWriter {
    /// Adds the next piece.
    pub async fn write(&mut self, piece: Sealed) -> Result<(), SiteError> {
        self.write_bytes(piece.bytes().clone()).await
    }

    async fn write_bytes(&mut self, piece: Bytes) -> Result<(), SiteError> {
        match &mut self.to {
            WriteTo::Dir { writer, site, wait, health } => {
                health.watch(in_time(site, *wait, writer.write(piece))).await
            }
            WriteTo::Remote { remote, parts, len, .. } => {
                *len += piece.len();
                if *len > limits::CHUNK_BYTES_MAX {
                    return Err(SiteError::refused(&remote.info.id, "a chunk may not exceed 16 MiB"));
                }
                parts.push(piece);
                Ok(())
            }
        }
    }

    /// Stores it; durable when this returns.
    pub async fn finish(self) -> Result<Stored, SiteError> {
        match self.to {
            WriteTo::Dir { writer, site, wait, health } => health.watch(in_time(&site, wait, writer.finish())).await,
            WriteTo::Remote { remote, name, parts, .. } => remote.put(&name, parts).await,
        }
    }
}

/// Pages of what is at a site; see [`Site::list`].
pub struct Lister(Option<ListFrom>);

enum ListFrom {
    Dir(dir::DirLister),
    Remote(remote::RemoteLister),
}

impl Lister {
    /// The next page, never empty; `None` at the end. After an error the
    /// listing is over: begin again.
    pub async fn next_page(&mut self) -> Result<Option<Vec<Listed>>, SiteError> {
        let (next, page) = match self.0.take() {
            None => return Ok(None),
            Some(ListFrom::Dir(lister)) => match lister.next_page().await? {
                Some((lister, page)) => (ListFrom::Dir(lister), page),
                None => return Ok(None),
            },
            Some(ListFrom::Remote(mut lister)) => match lister.next_page().await? {
                Some(page) => (ListFrom::Remote(lister), page),
                None => return Ok(None),
            },
        };
        self.0 = Some(next);
        Ok(Some(page))
    }

    /// All pages together; for tests and small sites.
    pub async fn all(mut self) -> Result<Vec<Listed>, SiteError> {
        let mut all = Vec::new();
        while let Some(page) = self.next_page().await? {
            all.extend(page);
        }
        Ok(all)
    }
}

/// A name that every kind of site can hold: `a-z`, `0-9`, `-`, `_` and `.` in
/// segments that neither are empty nor begin with a dot, at most 200 bytes.
fn checked_name(site: &SiteId, name: &str) -> Result<(), SiteError> {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
    let segment = |s: &str| !s.is_empty() && !s.starts_with('.') && s.bytes().all(ok);
    let good = name.len() <= pack::NAME_BYTES_MAX && name.contains('/') && name.split('/').all(segment);
    match good {
        true => Ok(()),
        false => Err(SiteError::refused(site, format!("`{}` is not a name we store", name.escape_default()))),
    }
}

async fn in_time<T>(
    site: &SiteId,
    wait: Duration,
    work: impl Future<Output = Result<T, SiteError>>,
) -> Result<T, SiteError> {
    tokio::time::timeout(wait, work).await.unwrap_or_else(|_| Err(SiteError::timeout(site, wait)))
}

/// Runs a closure on the blocking pool; a panic there is a panic here.
async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(f).await {
        Ok(value) => value,
        Err(e) => std::panic::resume_unwind(e.try_into_panic().expect("a blocking task is never aborted")),
    }
}
