//! Writing: sealed segments of one part stream to all sites of its placement
//! at once, cut into chunks; a small part waits for its head and shares one
//! sync with it.
//!
//! Nothing is held whole: a directory takes each segment as it comes, a remote
//! site takes one chunk at a time, and chunks that wait for a remote site share
//! that site's budget of memory.

use std::sync::Arc;

use futures::future::join_all;
use ringfence_access::Placement;
use ringfence_access::permit::{Permit, Write};
use ringfence_format::chunk::{CHUNK_LEN_MAX, chunk_name, head_name, sealed_len};
use ringfence_format::envelope::Sealed;
use ringfence_format::floe::HEADER_BYTES;
use ringfence_format::limits::{PACKED_CHUNK_BYTES_MAX, SEGMENT_BYTES};
use ringfence_format::names::{ObjectVersion, SiteId, UploadId};
use ringfence_format::redo::{PackAddr, UploadPart, Version};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;

use crate::act::Act;
use crate::apply::{KIND_CHUNKS, KIND_HEAD};
use crate::authority::Announced;
use crate::commit::CommitError;
use crate::copies::{Copies, HeadAt, NewHeads, PartAt, Placed, StoredPart};
use crate::site::{Put, Site, SiteError, SiteKind, Stored};
use crate::store::Store;
use crate::unclaimed::Unclaimed;

/// Bytes of chunks that wait in memory for one remote site, all writes together.
pub const BUFFERED_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Chunks of parts that begin while the budget is more than half used.
const CHUNK_LEN_WHEN_BUSY: u32 = 4 * 1024 * 1024;
/// Segments on their way to one site before the writer waits.
const PIECES_QUEUED: usize = 4;

const _: () = assert!((CHUNK_LEN_WHEN_BUSY as usize).is_multiple_of(SEGMENT_BYTES));
const _: () = assert!(CHUNK_LEN_MAX as usize + HEADER_BYTES <= BUFFERED_BYTES_MAX);

/// Why something could not be stored. What was written of it is given up.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// A site of the placement did not take it.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// The announcement of the write was refused.
    #[error(transparent)]
    Announce(#[from] CommitError),
    /// The placement names a site that this process has not opened.
    #[error("site `{0}` is not open: run `ringfence config check`")]
    NoSuchSite(SiteId),
    /// Permit, placement and ciphertext do not speak of one version: a mistake
    /// in this program, and nothing was stored.
    #[error("permit, placement and ciphertext do not name the same object")]
    NotTheSameObject,
    /// The version describes another part than was written: a mistake in this
    /// program.
    #[error("the version does not describe the part that was written")]
    NotThatPart,
}

impl Store {
    /// Begins to write one part of the object that the placement is for.
    ///
    /// If a site outside home is among its sites, the announcement (ruling 1)
    /// is durable when this returns. `plain_len` is the part's plaintext
    /// length, if the client said it; it saves memory.
    ///
    /// # Errors
    /// [`PutError::Announce`] where the log refuses it; nothing has left then.
    pub async fn part_writer(
        self: &Arc<Self>,
        permit: &Permit<Write>,
        placement: &Placement,
        plain_len: Option<u64>,
    ) -> Result<PartWriter, PutError> {
        if permit.object() != Some(placement.object()) {
            return Err(PutError::NotTheSameObject);
        }
        let placed = Placed::by(placement);
        let sites = self.open_sites(&placed.sites)?;
        let upload = self.new_id();
        let outside = |site: &Arc<Site>| site.info().kind == SiteKind::Public;
        if sites.iter().any(outside) {
            let announced = Arc::new(Announced::by(permit));
            let _announced = self.submit(Act::BeginWrite(announced, upload, placed.sites.clone())).await?;
        }
        let rooms = self.rooms(&sites);
        let busy = rooms.iter().any(|room| room.available_permits() * 1024 < BUFFERED_BYTES_MAX / 2);
        Ok(PartWriter {
            guard: Unclaimed::new(&self.attic),
            store: self.clone(),
            placed,
            sites,
            upload,
            chunk_len: if busy { CHUNK_LEN_WHEN_BUSY } else { CHUNK_LEN_MAX },
            expected: plain_len.map(sealed_len),
            rooms,
            sealed_len: 0,
            small: Vec::new(),
            next_index: 0,
            open: None,
            flying: None,
        })
    }

    /// Writes the head of a version whose parts lie at the sites already (a
    /// multipart upload): with it, the copies are complete.
    ///
    /// # Errors
    /// [`PutError::NotThatPart`] where `parts` are not the version's parts, or
    /// one does not lie at every site of the placement.
    pub async fn put_heads(
        self: &Arc<Self>,
        placement: &Placement,
        version: &Version,
        parts: &[UploadPart],
        head: Sealed,
    ) -> Result<Copies, PutError> {
        let placed = Placed::by(placement);
        check_head(&placed.object, version, &head)?;
        if !version.parts.iter().eq(parts.iter().map(|row| &row.part)) {
            return Err(PutError::NotThatPart);
        }
        let mut guard = Unclaimed::new(&self.attic);
        let heads = self.write_heads(&placed.sites, &head, &mut guard).await?;
        let parts: Vec<_> = parts.iter().map(|row| PartAt { part: &row.part, at: &row.copies }).collect();
        Copies::complete(placed, &parts, &heads, guard).ok_or(PutError::NotThatPart)
    }

    /// Writes the head of a version whose parts were all stored by this request
    /// under one placement: with it, the copies are complete.
    ///
    /// # Errors
    /// [`PutError::NotThatPart`] where what was stored is not the version's
    /// parts in order; all of it is given up then.
    pub async fn put_object(
        self: &Arc<Self>,
        placement: &Placement,
        version: &Version,
        stored: Vec<StoredPart>,
        head: Sealed,
    ) -> Result<Copies, PutError> {
        let placed = Placed::by(placement);
        check_head(&placed.object, version, &head)?;
        let same = version.parts.len() == stored.len()
            && version.parts.iter().zip(&stored).all(|(part, stored)| {
                stored.is(part) && *stored.object() == placed.object && stored.policy_epoch() == placed.policy_epoch
            });
        if !same {
            return Err(PutError::NotThatPart);
        }
        let mut guard = Unclaimed::new(&self.attic);
        let heads = self.write_heads(&placed.sites, &head, &mut guard).await?;
        let mut at = Vec::with_capacity(stored.len());
        for part in stored {
            at.push(part.at);
            guard.join(part.guard);
        }
        let parts: Vec<_> = version.parts.iter().zip(&at).map(|(part, at)| PartAt { part, at }).collect();
        Copies::complete(placed, &parts, &heads, guard).ok_or(PutError::NotThatPart)
    }

    /// Writes a new head beside every copy of a version.
    ///
    /// # Errors
    /// Whatever a site says; the heads written so far are given up.
    pub async fn put_new_heads(self: &Arc<Self>, version: &Version, head: Sealed) -> Result<NewHeads, PutError> {
        if head.object().version != version.uid || head.object().bucket != version.bucket {
            return Err(PutError::NotTheSameObject);
        }
        let sites: Vec<_> = version.copies.iter().map(|copy| copy.site.clone()).collect();
        let mut guard = Unclaimed::new(&self.attic);
        let heads = self.write_heads(&sites, &head, &mut guard).await?;
        NewHeads::complete(version, &heads, guard).ok_or(PutError::NotThatPart)
    }

    async fn write_heads(
        &self,
        sites: &[SiteId],
        head: &Sealed,
        guard: &mut Unclaimed,
    ) -> Result<Vec<HeadAt>, PutError> {
        let sites = self.open_sites(sites)?;
        let writes = sites.iter().map(|site| {
            let id = self.new_id();
            guard.note(id, KIND_HEAD, &[site.id().clone()], 1);
            self.write_head(site, id, head.clone())
        });
        let heads = join_all(writes).await;
        for head in heads.iter().flatten() {
            guard.stored(head.head, &head.site, head.at);
        }
        Ok(heads.into_iter().collect::<Result<_, SiteError>>()?)
    }

    async fn write_head(&self, site: &Site, id: UploadId, head: Sealed) -> Result<HeadAt, SiteError> {
        let stored = site.put(&head_name(&self.installation, &id), vec![head]).await?;
        Ok(HeadAt { site: site.id().clone(), head: id, at: stored.at })
    }

    pub(crate) fn open_sites(&self, ids: &[SiteId]) -> Result<Vec<Arc<Site>>, PutError> {
        let open = |id: &SiteId| self.site(id).ok_or_else(|| PutError::NoSuchSite(id.clone()));
        ids.iter().map(open).collect()
    }

    /// The memory of the remote ones among `sites`, always in the same order:
    /// two writers never hold half of what each other waits for.
    fn rooms(&self, sites: &[Arc<Site>]) -> Vec<Arc<Semaphore>> {
        let mut remote: Vec<_> = sites.iter().filter(|site| matches!(***site, Site::Remote(_))).collect();
        remote.sort_by_key(|site| site.id());
        remote.into_iter().filter_map(|site| self.open_site(site.id())).map(|open| open.budget).collect()
    }
}

/// Takes the sealed segments of one part, in order. Dropped before it is
/// finished, what it wrote is given up and erased later.
#[must_use = "a part that is not finished is erased again"]
pub struct PartWriter {
    store: Arc<Store>,
    guard: Unclaimed,
    placed: Placed,
    sites: Vec<Arc<Site>>,
    upload: UploadId,
    chunk_len: u32,
    /// Ciphertext bytes that are to come, if known.
    expected: Option<u64>,
    /// The memory of each site that must be given whole chunks from memory.
    rooms: Vec<Arc<Semaphore>>,
    sealed_len: u64,
    /// The beginning of the part, while it may still fit into a pack.
    small: Vec<Sealed>,
    next_index: u32,
    /// The chunk that takes what comes next.
    open: Option<OpenChunk>,
    /// The chunk before it, on its way to durability.
    flying: Option<Flying>,
}

struct OpenChunk {
    left: u64,
    pieces: Vec<mpsc::Sender<Sealed>>,
    flying: Flying,
}

type Flying = Vec<JoinHandle<Result<Stored, SiteError>>>;

impl PartWriter {
    /// The object it writes a part of.
    pub fn object(&self) -> &ObjectVersion {
        &self.placed.object
    }

    /// For [`Part::upload`](ringfence_format::redo::Part::upload).
    pub fn upload(&self) -> UploadId {
        self.upload
    }

    /// For [`Part::chunk_len`](ringfence_format::redo::Part::chunk_len).
    pub fn chunk_len(&self) -> u32 {
        self.chunk_len
    }

    /// Ciphertext bytes taken so far: for
    /// [`Part::sealed_len`](ringfence_format::redo::Part::sealed_len) once all
    /// are in.
    pub fn sealed_len(&self) -> u64 {
        self.sealed_len
    }

    /// Takes the next sealed bytes: the header and segments as the sealer
    /// makes them.
    ///
    /// # Errors
    /// What a site said; the part is lost then, and the writer of no use.
    pub async fn write(&mut self, piece: Sealed) -> Result<(), PutError> {
        if piece.object() != &self.placed.object {
            return Err(PutError::NotTheSameObject);
        }
        self.sealed_len += piece.len() as u64;
        if self.next_index > 0 {
            return self.stream(piece).await;
        }
        self.small.push(piece);
        if self.sealed_len > PACKED_CHUNK_BYTES_MAX as u64 {
            for piece in std::mem::take(&mut self.small) {
                self.stream(piece).await?;
            }
        }
        Ok(())
    }

    /// Ends a part of a multipart upload: it is durable at every site.
    ///
    /// # Errors
    /// What a site said; the part is given up then.
    pub async fn finish_part(mut self) -> Result<StoredPart, PutError> {
        let at = if self.next_index == 0 {
            let chunk = std::mem::take(&mut self.small);
            self.guard.note(self.upload, KIND_CHUNKS, &self.placed.sites, 1);
            let name = chunk_name(&self.store.installation, &self.upload, 0);
            let writes = self.sites.iter().map(|site| site.put(&name, chunk.clone()));
            let stored = join_all(writes).await;
            for (site, stored) in self.sites.iter().zip(&stored) {
                self.guard.stored(self.upload, site.id(), stored.as_ref().ok().and_then(|stored| stored.at));
            }
            acknowledged(&self.sites, stored)?
        } else {
            self.land().await?;
            self.sites.iter().map(|site| (site.id().clone(), None)).collect()
        };
        StoredPart::durable(&self.placed, self.upload, self.chunk_len, self.sealed_len, at, self.guard)
            .ok_or(PutError::NotThatPart)
    }

    /// Ends an object put whole: its one part and its head are durable at
    /// every site. `version` describes the part (`upload`, `chunk_len`,
    /// `sealed_len` as this writer says them) and `head` was sealed from it.
    ///
    /// # Errors
    /// What a site said; the object is given up then.
    pub async fn finish_object(mut self, version: &Version, head: Sealed) -> Result<Copies, PutError> {
        check_head(&self.placed.object, version, &head)?;
        let [part] = version.parts.as_slice() else { return Err(PutError::NotThatPart) };
        let same = part.upload == self.upload && part.chunk_len == self.chunk_len && part.sealed_len == self.sealed_len;
        if !same {
            return Err(PutError::NotThatPart);
        }
        let (at, heads) = if self.next_index == 0 { self.put_small(head).await? } else { self.put_large(head).await? };
        let parts = [PartAt { part, at: &at }];
        Copies::complete(self.placed, &parts, &heads, self.guard).ok_or(PutError::NotThatPart)
    }

    /// Chunk and head go to each site in one call, so that they share a sync.
    async fn put_small(&mut self, head: Sealed) -> Result<(At, Vec<HeadAt>), PutError> {
        self.guard.note(self.upload, KIND_CHUNKS, &self.placed.sites, 1);
        let chunk = std::mem::take(&mut self.small);
        let ids: Vec<UploadId> = self.sites.iter().map(|_| self.store.new_id()).collect();
        for (site, id) in self.sites.iter().zip(&ids) {
            self.guard.note(*id, KIND_HEAD, &[site.id().clone()], 1);
        }
        let installation = &self.store.installation;
        let writes = self.sites.iter().zip(&ids).map(|(site, id)| {
            site.put_many(vec![
                Put { name: chunk_name(installation, &self.upload, 0), parts: chunk.clone() },
                Put { name: head_name(installation, id), parts: vec![head.clone()] },
            ])
        });
        let mut at = Vec::new();
        let mut heads = Vec::new();
        let stored = join_all(writes).await;
        for ((site, id), stored) in self.sites.iter().zip(&ids).zip(&stored) {
            if let Ok([chunk, head]) = stored.as_deref() {
                self.guard.stored(self.upload, site.id(), chunk.at);
                self.guard.stored(*id, site.id(), head.at);
            }
        }
        for ((site, id), stored) in self.sites.iter().zip(&ids).zip(stored) {
            let stored = stored?;
            let [chunk, head] = stored.as_slice() else { return Err(PutError::NotThatPart) };
            at.push((site.id().clone(), chunk.at));
            heads.push(HeadAt { site: site.id().clone(), head: *id, at: head.at });
        }
        Ok((at, heads))
    }

    async fn put_large(&mut self, head: Sealed) -> Result<(At, Vec<HeadAt>), PutError> {
        let store = self.store.clone();
        let sites = self.placed.sites.clone();
        let mut guard = Unclaimed::new(&store.attic);
        let (landed, heads) = tokio::join!(self.land(), store.write_heads(&sites, &head, &mut guard));
        self.guard.join(guard);
        landed?;
        Ok((self.sites.iter().map(|site| (site.id().clone(), None)).collect(), heads?))
    }

    async fn stream(&mut self, mut piece: Sealed) -> Result<(), PutError> {
        while !piece.is_empty() {
            let open = match &mut self.open {
                Some(open) => open,
                None => {
                    let chunk = self.open_chunk().await;
                    self.open.insert(chunk)
                }
            };
            let now = piece.split_to(usize::try_from(open.left).unwrap_or(usize::MAX));
            open.left -= now.len() as u64;
            for sender in &open.pieces {
                // A task that ended early says why when it is awaited.
                let _ended = sender.send(now.clone()).await;
            }
            if open.left == 0 || open.pieces.iter().any(|sender| sender.is_closed()) {
                self.close_chunk().await?;
            }
        }
        Ok(())
    }

    /// Starts one task per site that takes the next chunk.
    async fn open_chunk(&mut self) -> OpenChunk {
        let index = self.next_index;
        self.next_index += 1;
        self.guard.note(self.upload, KIND_CHUNKS, &self.placed.sites, self.next_index);
        let left = u64::from(self.chunk_len) + if index == 0 { HEADER_BYTES as u64 } else { 0 };
        let room = Arc::new(self.room(index, left).await);
        let name = chunk_name(&self.store.installation, &self.upload, index);
        let (pieces, flying) = self.sites.iter().map(|site| send(site.clone(), name.clone(), room.clone())).unzip();
        OpenChunk { left, pieces, flying }
    }

    /// Waits for memory for one chunk, taken whole.
    async fn room(&self, index: u32, capacity: u64) -> Vec<OwnedSemaphorePermit> {
        let before = if index == 0 { 0 } else { HEADER_BYTES as u64 + u64::from(index) * u64::from(self.chunk_len) };
        let wanted = self.expected.map_or(capacity, |total| total.saturating_sub(before).clamp(1, capacity));
        let kib = u32::try_from(wanted.div_ceil(1024)).expect("a chunk is at most 16 MiB");
        let mut held = Vec::with_capacity(self.rooms.len());
        for room in &self.rooms {
            held.push(room.clone().acquire_many_owned(kib).await.expect("a budget is never closed"));
        }
        held
    }

    /// Ends the open chunk and waits for the one before it.
    async fn close_chunk(&mut self) -> Result<(), PutError> {
        let Some(open) = self.open.take() else { return Ok(()) };
        drop(open.pieces);
        let before = self.flying.replace(open.flying);
        wait(before).await
    }

    /// Waits until every chunk is durable.
    async fn land(&mut self) -> Result<(), PutError> {
        self.close_chunk().await?;
        wait(self.flying.take()).await
    }
}

type At = Vec<(SiteId, Option<PackAddr>)>;

/// Starts the task that writes one chunk to one site.
fn send(
    site: Arc<Site>,
    name: String,
    room: Arc<Vec<OwnedSemaphorePermit>>,
) -> (mpsc::Sender<Sealed>, JoinHandle<Result<Stored, SiteError>>) {
    let (sender, mut pieces) = mpsc::channel::<Sealed>(PIECES_QUEUED);
    let task = tokio::spawn(async move {
        let _held_until_stored = room;
        let mut chunk = site.begin(&name).await?;
        while let Some(piece) = pieces.recv().await {
            chunk.write(piece).await?;
        }
        chunk.finish().await
    });
    (sender, task)
}

async fn wait(flying: Option<Flying>) -> Result<(), PutError> {
    let mut result = Ok(());
    // All are awaited even if one failed: what still runs would outlive us.
    for task in flying.into_iter().flatten() {
        let stored = task.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        result = result.and(stored.map(drop).map_err(PutError::Site));
    }
    result
}

fn acknowledged(sites: &[Arc<Site>], stored: Vec<Result<Stored, SiteError>>) -> Result<At, PutError> {
    sites.iter().zip(stored).map(|(site, stored)| Ok((site.id().clone(), stored?.at))).collect()
}

fn check_head(object: &ObjectVersion, version: &Version, head: &Sealed) -> Result<(), PutError> {
    let same = head.object() == object && version.uid == object.version && version.bucket == object.bucket;
    if same { Ok(()) } else { Err(PutError::NotTheSameObject) }
}
