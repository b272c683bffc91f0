//! Pack files: many small sealed things in few files, made durable together.
//!
//! One thread per site appends. Whatever arrives while a sync runs goes into
//! the next batch, so the batch size follows the load by itself, and a batch
//! costs one write and one `fdatasync` into a file whose blocks were zeroed
//! and synced beforehand (a sync that need not grow the file is about half as
//! dear; measured in docs/performance.md).
//!
//! A pack describes itself: each entry carries its name, length and checksum,
//! so `list` and `recover` need no index. A pack is written by one process
//! only; after a restart a new one begins, so a torn tail is never followed by
//! good entries. The format is in docs/formats/site.md.
//!
//! ```text
//! file    = header entry* [trailer]           (zeros or nothing behind)
//! header  = "RFPACK\0" format=0 | installation 16 | pack u32 | crc32c u32
//! entry   = "RFPE" | name_len u16 | 0 u16 | payload_len u32 | crc32c u32 | name | payload
//! erased  = the same with "RFPX" and the payload zeroed
//! trailer = "RFPT" | 0 u32 | entries u32 | crc32c u32
//! ```
//! Integers are little-endian. An entry's checksum covers the pack's number,
//! both lengths, the name and the payload. It finds damage, not malice: only
//! the envelope's authentication is trusted.

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard},
    thread::JoinHandle,
};

use bytes::Bytes;
use ringfence_db::disk::{Disk, DiskFile};
use ringfence_format::{
    limits,
    names::{InstallationId, SiteId},
    redo::PackAddr,
};
use tokio::sync::{Semaphore, oneshot};

use super::dir::unless_read_only;
use super::{SiteError, blocking};

/// A pack is rolled when the next entry would pass this size.
pub const PACK_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The first pack of a process: small, so that a new site costs little.
const PACK_BYTES_FIRST: u64 = 4 * 1024 * 1024;
/// One write and sync carries at most this much.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes that may wait for the appender; beyond, callers wait.
const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Longest name of an entry.
pub(in crate::site) const NAME_BYTES_MAX: usize = 200;

const HEADER_BYTES: usize = 32;
const ENTRY_BYTES: usize = 16;
const FILE_MAGIC: &[u8; 8] = b"RFPACK\0\0";
const LIVE: &[u8; 4] = b"RFPE";
const ERASED: &[u8; 4] = b"RFPX";
const TRAILER: &[u8; 4] = b"RFPT";

const _: () = assert!(QUEUE_BYTES_MAX <= u32::MAX as usize);
const _: () = assert!((ENTRY_BYTES + NAME_BYTES_MAX + limits::PACKED_CHUNK_BYTES_MAX) as u64 * 8 < PACK_BYTES_FIRST);

/// Something to append: a name and its bytes in pieces.
pub(in crate::site) struct Item {
    pub name: String,
    pub parts: Vec<Bytes>,
}

impl Item {
    pub fn len(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }
    fn entry_len(&self) -> usize {
        ENTRY_BYTES + self.name.len() + self.len()
    }
}

/// A live entry found by scanning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackEntry {
    /// Its name.
    pub name: String,
    /// Where it lies.
    pub at: PackAddr,
}

/// How full of live entries a pack is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackUse {
    /// Number of the pack.
    pub pack: u32,
    /// Bytes of all entries, erased ones too.
    pub bytes: u64,
    /// Bytes of live entries.
    pub live_bytes: u64,
}

/// An entry that compaction copied; the catalogue must learn the new address
/// before the old pack is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Its name.
    pub name: String,
    /// Where it lay, and still lies until the pack is removed.
    pub from: PackAddr,
    /// Where it lies now, durably.
    pub to: PackAddr,
}

/// A pack whose live entries lie elsewhere now. Spent by
/// [`Site::remove_pack`](super::Site::remove_pack) after the catalogue has
/// recorded every move; dropped, nothing is lost: the copies are orphans.
#[must_use = "record the moves, then remove the pack"]
#[derive(Debug)]
pub struct Compacted {
    pub(in crate::site) pack: u32,
    pub(in crate::site) moved: Vec<Moved>,
}

impl Compacted {
    /// Which pack.
    pub fn pack(&self) -> u32 {
        self.pack
    }
    /// What moved where.
    pub fn moved(&self) -> &[Moved] {
        &self.moved
    }
}

/// The packs of one directory site.
pub(in crate::site) struct Packs {
    shared: Arc<Shared>,
    room: Arc<Semaphore>,
    appender: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    site: SiteId,
    installation: InstallationId,
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Open packs by number. An absent one is opened on demand.
    open: RwLock<BTreeMap<u32, Arc<dyn DiskFile>>>,
    /// Bytes and live bytes of packs that were counted or written here.
    used: Mutex<BTreeMap<u32, PackUse>>,
}

#[derive(Default)]
struct Queue {
    jobs: Vec<Job>,
    closed: bool,
    /// The pack being appended to; never compacted.
    current: Option<u32>,
}

struct Job {
    items: Vec<Item>,
    reply: oneshot::Sender<Result<Vec<PackAddr>, SiteError>>,
}

impl Packs {
    /// Opens the packs below `dir` (which exists), closing those a crash left open.
    pub fn open(
        site: SiteId,
        installation: InstallationId,
        dir: PathBuf,
        disk: Arc<dyn Disk>,
    ) -> Result<Self, SiteError> {
        let shared = Arc::new(Shared {
            site,
            installation,
            dir,
            disk,
            queue: Mutex::default(),
            wake: Condvar::new(),
            open: RwLock::default(),
            used: Mutex::default(),
        });
        let next = shared.close_leftovers().map_err(|e| shared.io(&e))?;
        let worker = shared.clone();
        let thread = std::thread::Builder::new()
            .name(format!("pack-{}", worker.site))
            .spawn(move || Appender::new(worker, next).run())
            .map_err(|e| shared.io(&e))?;
        Ok(Self { shared, room: Arc::new(Semaphore::new(QUEUE_BYTES_MAX)), appender: Mutex::new(Some(thread)) })
    }

    /// Appends all items and returns when they are durable. They share one
    /// sync with each other and with whatever else arrived meanwhile.
    pub async fn append(&self, items: Vec<Item>) -> Result<Vec<PackAddr>, SiteError> {
        let bytes: usize = items.iter().map(Item::entry_len).sum();
        let room = self.room.clone().acquire_many_owned(bytes.min(QUEUE_BYTES_MAX) as u32);
        let _room = room.await.map_err(|_| self.shared.closed())?;
        let (reply, answer) = oneshot::channel();
        {
            let mut queue = self.shared.queue();
            if queue.closed {
                return Err(self.shared.closed());
            }
            queue.jobs.push(Job { items, reply });
        }
        self.shared.wake.notify_one();
        answer.await.map_err(|_| self.shared.closed())?
    }

    /// Payload bytes `range` of the entry at `at`, which must be `name`.
    /// Blocks on the disk.
    pub fn read(&self, name: &str, at: PackAddr, range: Range<u64>) -> Result<Bytes, SiteError> {
        self.shared.read(name, at, range)
    }

    /// The same if that needs no waiting for the disk.
    pub fn read_cached(&self, name: &str, at: PackAddr, range: Range<u64>) -> Option<Result<Bytes, SiteError>> {
        self.shared.read_cached(name, at, range)
    }

    /// Whether `name` lies at `at`. Blocks on the disk.
    pub fn check(&self, name: &str, at: PackAddr) -> Result<(), SiteError> {
        self.shared.read(name, at, 0..0).map(drop)
    }

    /// Erases entries: payload zeroed, mark set, synced. Those that are gone
    /// already are skipped. Blocks on the disk.
    pub fn erase(&self, entries: &[(String, PackAddr)]) -> Result<(), SiteError> {
        self.shared.erase(entries)
    }

    /// Numbers of all packs, ascending. Blocks on the disk.
    pub fn numbers(&self) -> Result<Vec<u32>, SiteError> {
        self.shared.numbers().map_err(|e| self.shared.io(&e))
    }

    /// Live entries of one pack in order; a pack that is gone has none.
    /// Blocks on the disk.
    pub fn entries(&self, pack: u32) -> Result<Vec<PackEntry>, SiteError> {
        Ok(self.shared.scan(pack)?.live)
    }

    /// How full the packs are, counting those not counted yet. Blocks on the disk.
    pub fn usage(&self) -> Result<Vec<PackUse>, SiteError> {
        self.shared.usage()
    }

    /// Copies the entries of `pack` for which `is_live` holds into the current
    /// pack. The pack being appended to is left alone (`None`).
    pub async fn compact(
        &self,
        pack: u32,
        mut is_live: impl FnMut(&PackEntry) -> bool + Send,
    ) -> Result<Option<Compacted>, SiteError> {
        if self.shared.queue().current == Some(pack) {
            return Ok(None);
        }
        let mut moved = Vec::new();
        let shared = self.shared.clone();
        let scan = blocking(move || shared.scan(pack)).await?;
        let live: Vec<PackEntry> = scan.live.into_iter().filter(|e| is_live(e)).collect();
        for group in live.chunks(256) {
            let (shared, entries) = (self.shared.clone(), group.to_vec());
            let items = blocking(move || shared.load(entries)).await?;
            let to = self.append(items).await?;
            let pairs = group.iter().zip(to);
            moved.extend(pairs.map(|(e, to)| Moved { name: e.name.clone(), from: e.at, to }));
        }
        Ok(Some(Compacted { pack, moved }))
    }

    /// Removes a compacted pack. Blocks on the disk.
    pub fn remove(&self, done: Compacted) -> Result<(), SiteError> {
        self.shared.remove(done.pack)
    }

    /// Lets the queue run empty, closes the current pack and stops. Blocks.
    pub fn close(&self) {
        self.shared.queue().closed = true;
        self.shared.wake.notify_all();
        let thread = self.appender.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panicking appender has failed its callers already.
            let _ = thread.join();
        }
    }
}

impl Drop for Packs {
    fn drop(&mut self) {
        self.close();
    }
}

/// State owned by the appender thread alone.
struct Appender {
    shared: Arc<Shared>,
    current: Option<Current>,
    /// Number of the next pack.
    next: u32,
    /// Size of the next pack.
    size: u64,
    /// The next pack, being prepared beside the work.
    spare: Option<JoinHandle<io::Result<Current>>>,
}

struct Current {
    pack: u32,
    file: Arc<dyn DiskFile>,
    end: u64,
    size: u64,
    entries: u32,
}

impl Appender {
    fn new(shared: Arc<Shared>, next: u32) -> Self {
        Self { shared, current: None, next, size: PACK_BYTES_FIRST, spare: None }
    }

    fn run(mut self) {
        while let Some(jobs) = self.next_batch() {
            self.append(jobs);
        }
        if let Some(current) = self.current.take() {
            self.retire(current);
        }
        if let Some(Ok(spare)) = self.spare.take().and_then(|s| s.join().ok()) {
            // Nothing is in it; a failure leaves an empty pack, removed at the next start.
            let _ = self.shared.remove(spare.pack);
        }
    }

    /// Everything that waits, up to the batch limit; `None` when closed and empty.
    fn next_batch(&self) -> Option<Vec<Job>> {
        let mut queue = self.shared.queue();
        while queue.jobs.is_empty() {
            if queue.closed {
                return None;
            }
            queue = self.shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        let mut bytes = 0;
        let fits = queue.jobs.iter().take_while(|job| {
            let first = bytes == 0;
            bytes += job.items.iter().map(Item::entry_len).sum::<usize>();
            first || bytes <= BATCH_BYTES_MAX
        });
        let count = fits.count();
        Some(queue.jobs.drain(..count).collect())
    }

    /// Writes a batch. It may span packs: each pack's share is one write and
    /// one sync, and a job is answered when its last share is durable.
    fn append(&mut self, jobs: Vec<Job>) {
        let mut done: Vec<Vec<PackAddr>> = jobs.iter().map(|j| Vec::with_capacity(j.items.len())).collect();
        let items: Vec<(usize, &Item)> =
            jobs.iter().enumerate().flat_map(|(i, job)| job.items.iter().map(move |item| (i, item))).collect();
        let mut failed = None;
        let mut rest = &items[..];
        while !rest.is_empty() {
            match self.append_share(rest) {
                Ok(addresses) => {
                    for ((job, _), at) in rest.iter().zip(&addresses) {
                        done[*job].push(*at);
                    }
                    rest = &rest[addresses.len()..];
                }
                Err(e) => {
                    failed = Some(self.shared.io(&e));
                    break;
                }
            }
        }
        let wanted: Vec<usize> = jobs.iter().map(|j| j.items.len()).collect();
        for ((job, addresses), wanted) in jobs.into_iter().zip(done).zip(wanted) {
            let answer = match &failed {
                Some(e) if addresses.len() < wanted => Err(e.clone()),
                _ => Ok(addresses),
            };
            // A caller that went away leaves an orphan, which sweep finds.
            let _ = job.reply.send(answer);
        }
    }

    /// Appends as many of `items` as the current pack takes, at least one.
    fn append_share(&mut self, items: &[(usize, &Item)]) -> io::Result<Vec<PackAddr>> {
        let first = items[0].1.entry_len() as u64;
        if self.current.as_ref().is_none_or(|c| c.end + first + ENTRY_BYTES as u64 > c.size) {
            self.roll()?;
        }
        let current = self.current.as_mut().expect("roll made one");
        let mut buffer = Vec::new();
        let mut addresses = Vec::new();
        for (_, item) in items {
            let start = current.end + buffer.len() as u64;
            if start + (item.entry_len() + ENTRY_BYTES) as u64 > current.size {
                break;
            }
            put_entry(&mut buffer, current.pack, item);
            let offset = start + (ENTRY_BYTES + item.name.len()) as u64;
            addresses.push(PackAddr { pack: current.pack, offset, len: item.len() as u32 });
        }
        let written = current.file.write_at(current.end, &buffer).and_then(|()| current.file.sync_data());
        if let Err(e) = written {
            // What the page cache holds after a failed sync is unknown, so the
            // pack is not appended to again; what was synced before stays good.
            let broken = self.current.take().expect("it is the current one");
            self.shared.queue().current = None;
            tracing::warn!(site = %self.shared.site, pack = broken.pack, error = %e, "pack abandoned after a failed write");
            return Err(e);
        }
        current.end += buffer.len() as u64;
        current.entries += addresses.len() as u32;
        self.shared.count(current.pack, buffer.len() as i64, buffer.len() as i64);
        self.prepare_spare();
        Ok(addresses)
    }

    /// Begins the next pack, which was usually prepared beside the work.
    fn roll(&mut self) -> io::Result<()> {
        if let Some(full) = self.current.take() {
            self.retire(full);
        }
        let spare = self.spare.take().and_then(|s| s.join().ok()).and_then(Result::ok);
        let fresh = match spare {
            Some(spare) => spare,
            None => self.make_smaller_until_it_fits()?,
        };
        self.shared.files().insert(fresh.pack, fresh.file.clone());
        self.shared.queue().current = Some(fresh.pack);
        self.current = Some(fresh);
        Ok(())
    }

    /// On a nearly full disk a smaller pack may still fit.
    fn make_smaller_until_it_fits(&mut self) -> io::Result<Current> {
        let mut size = self.size;
        loop {
            let pack = self.take_number();
            match self.shared.make(pack, size) {
                Err(e) if size > PACK_BYTES_FIRST && e.kind() == io::ErrorKind::StorageFull => size /= 4,
                made => return made,
            }
        }
    }

    fn take_number(&mut self) -> u32 {
        let pack = self.next;
        self.next += 1;
        pack
    }

    /// Once half of the current pack is used, zeroes the next one beside the work.
    fn prepare_spare(&mut self) {
        let half_used = self.current.as_ref().is_some_and(|c| c.end * 2 > c.size);
        if !half_used || self.spare.is_some() {
            return;
        }
        self.size = (self.size * 4).min(PACK_BYTES_MAX);
        let (shared, pack, size) = (self.shared.clone(), self.take_number(), self.size);
        self.spare = std::thread::Builder::new()
            .name(format!("spare-{}", self.shared.site))
            .spawn(move || shared.make(pack, size))
            .ok();
    }

    /// Cuts the unused tail off and ends the pack with its trailer. A failure
    /// costs only a scan at the next start.
    fn retire(&self, full: Current) {
        let ended = end_pack(&*full.file, full.pack, full.end, full.entries);
        if let Err(e) = ended {
            tracing::warn!(site = %self.shared.site, pack = full.pack, error = %e, "pack not closed cleanly");
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn files(&self) -> RwLockWriteGuard<'_, BTreeMap<u32, Arc<dyn DiskFile>>> {
        self.open.write().unwrap_or_else(PoisonError::into_inner)
    }
    fn io(&self, error: &io::Error) -> SiteError {
        SiteError::from_io(&self.site, "pack", error)
    }
    fn closed(&self) -> SiteError {
        SiteError::retryable(&self.site, "the site is closing")
    }
    fn path(&self, pack: u32) -> PathBuf {
        self.dir.join(format!("{pack:08x}.pack"))
    }

    fn numbers(&self) -> io::Result<Vec<u32>> {
        let mut numbers = Vec::new();
        for entry in self.disk.list(&self.dir)? {
            let number = entry.name.strip_suffix(".pack");
            numbers.extend(number.and_then(|n| u32::from_str_radix(n, 16).ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn file(&self, pack: u32) -> io::Result<Arc<dyn DiskFile>> {
        if let Some(file) = self.open.read().unwrap_or_else(PoisonError::into_inner).get(&pack) {
            return Ok(file.clone());
        }
        let path = self.path(pack);
        let file: Arc<dyn DiskFile> = match self.disk.open(&path) {
            Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => self.disk.open_read(&path)?.into(),
            opened => opened?.into(),
        };
        Ok(self.files().entry(pack).or_insert(file).clone())
    }

    fn count(&self, pack: u32, bytes: i64, live: i64) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = used.entry(pack).or_insert(PackUse { pack, bytes: 0, live_bytes: 0 });
        entry.bytes = entry.bytes.saturating_add_signed(bytes);
        entry.live_bytes = entry.live_bytes.saturating_add_signed(live);
    }

    /// Makes pack `pack`, zeroed to `size` and durable, name and all.
    fn make(&self, pack: u32, size: u64) -> io::Result<Current> {
        let path = self.path(pack);
        let made = self.fill(&path, pack, size);
        if made.is_err() {
            // A half-made pack holds nothing; the disk may need its space.
            let _ = self.disk.unlink(&path);
        }
        Ok(Current { pack, file: made?, end: HEADER_BYTES as u64, size, entries: 0 })
    }

    fn fill(&self, path: &Path, pack: u32, size: u64) -> io::Result<Arc<dyn DiskFile>> {
        let file: Arc<dyn DiskFile> = self.disk.create(path)?.into();
        let zeros = vec![0; 1024 * 1024];
        let mut at = 0;
        while at < size {
            let step = zeros.len().min((size - at) as usize);
            file.write_at(at, &zeros[..step])?;
            at += step as u64;
            // In steps, so that another sync on this disk never waits for all of it.
            file.sync_data()?;
        }
        file.write_at(0, &header(self.installation, pack))?;
        file.sync_all()?;
        self.disk.sync_dir(&self.dir)?;
        Ok(file)
    }

    /// Ends every pack that a crash left open, removes those that hold
    /// nothing, and returns the first free number.
    fn close_leftovers(&self) -> io::Result<u32> {
        let numbers = self.numbers()?;
        for pack in &numbers {
            match self.disk.open(&self.path(*pack)) {
                // It is ended on the day it can be written again.
                Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => continue,
                opened => drop(opened?),
            }
            let file = self.file(*pack)?;
            if has_trailer(&*file, *pack)? {
                continue;
            }
            let scan = scan_file(&*file, *pack)?;
            if scan.entries == 0 {
                self.files().remove(pack);
                self.disk.unlink(&self.path(*pack))?;
            } else {
                end_pack(&*file, *pack, scan.end, scan.entries)?;
            }
        }
        unless_read_only(self.disk.sync_dir(&self.dir))?;
        Ok(numbers.last().map_or(0, |last| last + 1))
    }

    fn scan(&self, pack: u32) -> Result<Scan, SiteError> {
        let file = match self.file(pack) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Scan::default()),
            Err(e) => return Err(self.io(&e)),
        };
        scan_file(&*file, pack).map_err(|e| self.io(&e))
    }

    fn usage(&self) -> Result<Vec<PackUse>, SiteError> {
        let numbers = self.numbers().map_err(|e| self.io(&e))?;
        let mut all = Vec::new();
        for pack in numbers {
            let known = self.used.lock().unwrap_or_else(PoisonError::into_inner).get(&pack).copied();
            all.push(match known {
                Some(known) => known,
                None => {
                    let scan = self.scan(pack)?;
                    let counted = PackUse { pack, bytes: scan.bytes, live_bytes: scan.live_bytes };
                    let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
                    *used.entry(pack).or_insert(counted)
                }
            });
        }
        Ok(all)
    }

    fn read(&self, name: &str, at: PackAddr, range: Range<u64>) -> Result<Bytes, SiteError> {
        let wanted = Wanted::new(self, name, at, range)?;
        let file = self.file(at.pack).map_err(|e| SiteError::from_io(&self.site, name, &e))?;
        let mut buffer = vec![0; wanted.bytes];
        let got = file.read_at(wanted.start, &mut buffer).map_err(|e| SiteError::from_io(&self.site, name, &e))?;
        buffer.truncate(got);
        wanted.take(buffer)
    }

    fn read_cached(&self, name: &str, at: PackAddr, range: Range<u64>) -> Option<Result<Bytes, SiteError>> {
        let wanted = match Wanted::new(self, name, at, range) {
            Ok(wanted) => wanted,
            Err(e) => return Some(Err(e)),
        };
        let file = self.open.read().unwrap_or_else(PoisonError::into_inner).get(&at.pack)?.clone();
        let mut buffer = vec![0; wanted.bytes];
        let cached = file.read_cached(wanted.start, &mut buffer).is_ok_and(|cached| cached);
        cached.then(|| wanted.take(buffer))
    }

    /// Reads whole entries for compaction. A damaged one is moved as it is:
    /// scrub reports it, and its bytes may still help somebody.
    fn load(&self, entries: Vec<PackEntry>) -> Result<Vec<Item>, SiteError> {
        let load = |e: PackEntry| {
            let file = self.file(e.at.pack).map_err(|x| self.io(&x))?;
            let mut payload = vec![0; e.at.len as usize];
            read_exact(&*file, e.at.offset, &mut payload).map_err(|x| self.io(&x))?;
            Ok(Item { name: e.name, parts: vec![payload.into()] })
        };
        entries.into_iter().map(load).collect()
    }

    /// An entry that is erased already is erased again: the call that did it
    /// may have failed before its sync.
    fn erase(&self, entries: &[(String, PackAddr)]) -> Result<(), SiteError> {
        let mut touched: BTreeMap<u32, Arc<dyn DiskFile>> = BTreeMap::new();
        for (name, at) in entries {
            let Some(Place { file, start, live }) = self.find(name, *at)? else { continue };
            // The mark first: a crash between the two leaves an entry that is
            // gone, never one that is live with zeros for bytes.
            file.write_at(start, ERASED).map_err(|e| self.io(&e))?;
            file.write_at(at.offset, &vec![0; at.len as usize]).map_err(|e| self.io(&e))?;
            if live {
                self.count_if_known(at.pack, (ENTRY_BYTES + name.len()) as i64 + i64::from(at.len));
            }
            touched.insert(at.pack, file);
        }
        touched.values().try_for_each(|file| file.sync_data().map_err(|e| self.io(&e)))
    }

    /// Where the entry begins and whether it lives; `None` if `name` never lay
    /// there, or its pack is gone.
    fn find(&self, name: &str, at: PackAddr) -> Result<Option<Place>, SiteError> {
        let file = match self.file(at.pack) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(|e| self.io(&e))?,
        };
        let before = ENTRY_BYTES + name.len();
        let Some(start) = at.offset.checked_sub(before as u64) else { return Ok(None) };
        let mut head = vec![0; before];
        let got = file.read_at(start, &mut head).map_err(|e| self.io(&e))?;
        let entry = Entry::parse(&head[..got]).filter(|e| e.payload_len == at.len);
        let ours = got == before && &head[ENTRY_BYTES..] == name.as_bytes();
        Ok(entry.filter(|_| ours).map(|entry| Place { file, start, live: entry.live }))
    }

    /// A pack that was not counted yet will be counted by scanning.
    fn count_if_known(&self, pack: u32, erased: i64) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = used.get_mut(&pack) {
            entry.live_bytes = entry.live_bytes.saturating_add_signed(-erased);
        }
    }

    fn remove(&self, pack: u32) -> Result<(), SiteError> {
        self.files().remove(&pack);
        self.used.lock().unwrap_or_else(PoisonError::into_inner).remove(&pack);
        match self.disk.unlink(&self.path(pack)) {
            Ok(()) => self.disk.sync_dir(&self.dir).map_err(|e| self.io(&e)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(self.io(&e)),
        }
    }
}

/// Where an entry begins, and whether it lives.
struct Place {
    file: Arc<dyn DiskFile>,
    start: u64,
    live: bool,
}

/// What one read of an entry needs, and what must be true of it.
struct Wanted<'a> {
    shared: &'a Shared,
    name: &'a str,
    at: PackAddr,
    range: Range<u64>,
    /// Where in the file to read, and how much: the entry from its beginning
    /// to the end of the range, at most 64 KiB more than asked for.
    start: u64,
    bytes: usize,
}

impl<'a> Wanted<'a> {
    fn new(shared: &'a Shared, name: &'a str, at: PackAddr, range: Range<u64>) -> Result<Self, SiteError> {
        if range.start > range.end || range.end > u64::from(at.len) {
            return Err(SiteError::corrupt(&shared.site, name, "shorter than what was stored"));
        }
        let before = (ENTRY_BYTES + name.len()) as u64;
        let start = at.offset.checked_sub(before).ok_or_else(|| SiteError::not_found(&shared.site, name))?;
        let bytes = (before + range.end) as usize;
        Ok(Self { shared, name, at, range, start, bytes })
    }

    /// The payload, if the bytes are those of the entry that was asked for.
    fn take(self, buffer: Vec<u8>) -> Result<Bytes, SiteError> {
        let before = ENTRY_BYTES + self.name.len();
        let head = Entry::parse(&buffer).filter(|e| e.live && e.payload_len == self.at.len);
        let ours = buffer.get(ENTRY_BYTES..before) == Some(self.name.as_bytes());
        let Some(head) = head.filter(|_| ours) else {
            return Err(SiteError::not_found(&self.shared.site, self.name));
        };
        if buffer.len() < self.bytes {
            return Err(SiteError::corrupt(&self.shared.site, self.name, "shorter than what was stored"));
        }
        let whole = self.range.end > 0 && self.range.end == u64::from(self.at.len);
        if whole && head.crc != crc(self.at.pack, &buffer) {
            return Err(SiteError::corrupt(&self.shared.site, self.name, "its checksum differs"));
        }
        Ok(Bytes::from(buffer).slice(before + self.range.start as usize..))
    }
}

/// The fixed part of an entry.
struct Entry {
    live: bool,
    name_len: u16,
    payload_len: u32,
    crc: u32,
}

impl Entry {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; ENTRY_BYTES] = bytes.first_chunk()?;
        let u32_at = |i: usize| u32::from_le_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        let live = match &bytes[..4] {
            m if m == LIVE => true,
            m if m == ERASED => false,
            _ => return None,
        };
        let name_len = u16::from_le_bytes([bytes[4], bytes[5]]);
        let entry = Self { live, name_len, payload_len: u32_at(8), crc: u32_at(12) };
        let sane = (1..=NAME_BYTES_MAX).contains(&(name_len as usize))
            && entry.payload_len as usize <= limits::PACKED_CHUNK_BYTES_MAX;
        sane.then_some(entry)
    }
}

fn put_entry(out: &mut Vec<u8>, pack: u32, item: &Item) {
    let start = out.len();
    out.extend_from_slice(LIVE);
    out.extend_from_slice(&(item.name.len() as u16).to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&(item.len() as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(item.name.as_bytes());
    for part in &item.parts {
        out.extend_from_slice(part);
    }
    let crc = crc(pack, &out[start..]);
    out[start + 12..start + 16].copy_from_slice(&crc.to_le_bytes());
}

/// Checksum of a live entry: all but its magic and the checksum itself,
/// begun with the pack's number so that an entry is good in its pack only.
fn crc(pack: u32, entry: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(&pack.to_le_bytes());
    digest.update(&entry[4..12]);
    digest.update(&entry[ENTRY_BYTES..]);
    digest.finalize() as u32
}

fn header(installation: InstallationId, pack: u32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(FILE_MAGIC);
    header[8..24].copy_from_slice(installation.as_bytes());
    header[24..28].copy_from_slice(&pack.to_le_bytes());
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &header[..28]) as u32;
    header[28..].copy_from_slice(&crc.to_le_bytes());
    header
}

fn trailer(pack: u32, entries: u32) -> [u8; ENTRY_BYTES] {
    let mut bytes = [0; ENTRY_BYTES];
    bytes[..4].copy_from_slice(TRAILER);
    bytes[8..12].copy_from_slice(&entries.to_le_bytes());
    let crc = crc(pack, &bytes);
    bytes[12..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn has_trailer(file: &dyn DiskFile, pack: u32) -> io::Result<bool> {
    let len = file.len()?;
    if len < (HEADER_BYTES + ENTRY_BYTES) as u64 {
        return Ok(false);
    }
    let mut bytes = [0; ENTRY_BYTES];
    read_exact(file, len - ENTRY_BYTES as u64, &mut bytes)?;
    let entries = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
    Ok(bytes == trailer(pack, entries))
}

fn end_pack(file: &dyn DiskFile, pack: u32, end: u64, entries: u32) -> io::Result<()> {
    file.write_at(end, &trailer(pack, entries))?;
    file.set_len(end + ENTRY_BYTES as u64)?;
    file.sync_all()
}

#[derive(Default)]
struct Scan {
    live: Vec<PackEntry>,
    /// All entries, erased ones too.
    entries: u32,
    bytes: u64,
    live_bytes: u64,
    /// Where the last good entry ends.
    end: u64,
}

/// Reads a pack front to back, to the trailer, or to the last good entry of a
/// pack that was left open. A torn tail holds only what nobody was told is
/// durable. Damage inside the pack costs the damaged entry alone: where the
/// chain breaks, the scan looks for the next entry whose checksum is right.
/// An entry whose bytes are damaged but whose place is sure is still listed;
/// its reader will be told.
fn scan_file(file: &dyn DiskFile, pack: u32) -> io::Result<Scan> {
    let mut window = Window::new(file)?;
    let mut scan = Scan { end: HEADER_BYTES as u64, ..Scan::default() };
    let mut at = HEADER_BYTES as u64;
    while let Some(found) = next_entry(&mut window, pack, at)? {
        let start = found.at.offset - (ENTRY_BYTES + found.name.len()) as u64;
        at = found.at.offset + u64::from(found.at.len);
        let whole = at - start;
        scan.entries += 1;
        scan.bytes += whole;
        scan.end = at;
        if found.live {
            scan.live_bytes += whole;
            scan.live.push(PackEntry { name: found.name, at: found.at });
        }
    }
    Ok(scan)
}

struct Found {
    name: String,
    at: PackAddr,
    live: bool,
}

/// The entry at `at`, or the next good one behind it.
fn next_entry(window: &mut Window<'_>, pack: u32, mut at: u64) -> io::Result<Option<Found>> {
    let mut searching = false;
    loop {
        let head = window.bytes(at, ENTRY_BYTES)?;
        if head.len() < ENTRY_BYTES || head == trailer(pack, u32::from_le_bytes(head[8..12].try_into().expect("4"))) {
            return Ok(None);
        }
        if let Some((found, good)) = entry_at(window, pack, at)? {
            let next = found.at.offset + u64::from(found.at.len);
            // Without a right checksum only a chain that goes on vouches for the lengths.
            if good || (!searching && goes_on(window, next)?) {
                return Ok(Some(found));
            }
        }
        searching = true;
        let Some(next) = window.find_entry(at + 1)? else { return Ok(None) };
        at = next;
    }
}

/// What lies at `at`, if it has the form of an entry, and whether its checksum
/// is right, or its payload zeroed if it is erased.
fn entry_at(window: &mut Window<'_>, pack: u32, at: u64) -> io::Result<Option<(Found, bool)>> {
    let Some(head) = Entry::parse(window.bytes(at, ENTRY_BYTES)?) else { return Ok(None) };
    let name_end = ENTRY_BYTES + head.name_len as usize;
    let whole = name_end + head.payload_len as usize;
    let bytes = window.bytes(at, whole)?;
    if bytes.len() < whole {
        return Ok(None);
    }
    let Ok(name) = std::str::from_utf8(&bytes[ENTRY_BYTES..name_end]) else { return Ok(None) };
    let addr = PackAddr { pack, offset: at + name_end as u64, len: head.payload_len };
    let good = match head.live {
        true => head.crc == crc(pack, bytes),
        false => bytes[name_end..].iter().all(|b| *b == 0),
    };
    Ok(Some((Found { name: name.to_owned(), at: addr, live: head.live }, good)))
}

/// Whether something of ours begins at `at`.
fn goes_on(window: &mut Window<'_>, at: u64) -> io::Result<bool> {
    let magic = window.bytes(at, 4)?;
    Ok([LIVE, ERASED, TRAILER].iter().any(|m| magic == &m[..]))
}

/// A file seen through a buffer of bounded size.
struct Window<'a> {
    file: &'a dyn DiskFile,
    len: u64,
    start: u64,
    buffer: Vec<u8>,
}

impl<'a> Window<'a> {
    const BYTES: usize = 1024 * 1024;
    const STEP: usize = 16 * 1024;

    fn new(file: &'a dyn DiskFile) -> io::Result<Self> {
        Ok(Self { file, len: file.len()?, start: 0, buffer: Vec::new() })
    }

    /// `count` bytes at `at`, fewer at the end of the file.
    fn bytes(&mut self, at: u64, count: usize) -> io::Result<&[u8]> {
        let count = count.min(self.len.saturating_sub(at) as usize);
        let held = self.start..self.start + self.buffer.len() as u64;
        if at < held.start || at + count as u64 > held.end {
            self.start = at;
            self.buffer.resize(Self::BYTES.max(count).min(self.len.saturating_sub(at) as usize), 0);
            let got = self.file.read_at(at, &mut self.buffer)?;
            self.buffer.truncate(got);
        }
        let from = (at - self.start) as usize;
        Ok(&self.buffer[from.min(self.buffer.len())..(from + count).min(self.buffer.len())])
    }

    /// Where the magic of an entry stands at or behind `at`.
    fn find_entry(&mut self, mut at: u64) -> io::Result<Option<u64>> {
        loop {
            let bytes = self.bytes(at, Self::STEP)?;
            if bytes.len() < ENTRY_BYTES {
                return Ok(None);
            }
            // Mostly this looks at the zeros behind the last entry.
            if bytes != &[0; Self::STEP][..bytes.len()]
                && let Some(i) = bytes.windows(4).position(|w| w == LIVE)
            {
                return Ok(Some(at + i as u64));
            }
            at += (bytes.len() - 3) as u64;
        }
    }
}

fn read_exact(file: &dyn DiskFile, at: u64, buffer: &mut [u8]) -> io::Result<()> {
    match file.read_at(at, buffer)? {
        got if got == buffer.len() => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use ringfence_db::disk::RealDisk;

    use super::*;

    const INSTALLATION: InstallationId = InstallationId([7; 16]);

    fn packs(dir: &Path) -> Packs {
        let site = SiteId::parse("home").expect("a name");
        Packs::open(site, INSTALLATION, dir.to_owned(), RealDisk::shared()).expect("opened")
    }

    fn item(name: &str, bytes: impl Into<Bytes>) -> Item {
        Item { name: format!("i/{name}"), parts: vec![bytes.into()] }
    }

    fn path(dir: &Path, pack: u32) -> PathBuf {
        dir.join(format!("{pack:08x}.pack"))
    }

    fn names(packs: &Packs) -> Vec<String> {
        let numbers = packs.numbers().expect("numbers");
        let entries = numbers.into_iter().flat_map(|n| packs.entries(n).expect("entries"));
        entries.map(|e| e.name).collect()
    }

    #[tokio::test]
    async fn what_was_appended_is_read_back_now_and_after_a_restart() {
        let dir = tempfile::tempdir().expect("a directory");
        let packs = self::packs(dir.path());
        let at = packs.append(vec![item("a", "hello"), item("b", vec![9; 65536])]).await.expect("appended");
        let check = |packs: &Packs| {
            assert_eq!(packs.read("i/a", at[0], 0..5).expect("read"), "hello");
            assert_eq!(packs.read("i/a", at[0], 1..3).expect("read"), "el");
            assert_eq!(packs.read("i/b", at[1], 0..65536).expect("read"), vec![9; 65536]);
            assert!(packs.read("i/c", at[0], 0..5).expect_err("other name").is_not_found());
            assert!(matches!(packs.read("i/a", at[0], 0..6), Err(SiteError::Corrupt { .. })));
            assert_eq!(names(packs), ["i/a", "i/b"]);
        };
        check(&packs);
        packs.close();
        assert!(packs.append(vec![item("late", "x")]).await.expect_err("closed").is_retryable());
        drop(packs);
        // Closed packs are cut to what they hold.
        let len = fs::metadata(path(dir.path(), 0)).expect("there").len();
        assert_eq!(len, 32 + (16 + 3 + 5) + (16 + 3 + 65536) + 16);
        let packs = self::packs(dir.path());
        check(&packs);
        // A new process never appends to an old pack.
        let next = packs.append(vec![item("d", "x")]).await.expect("appended");
        assert_eq!(next[0].pack, 1);
    }

    #[tokio::test]
    async fn many_writers_share_packs_and_packs_roll() {
        let dir = tempfile::tempdir().expect("a directory");
        let packs = Arc::new(self::packs(dir.path()));
        let writers: Vec<_> = (0..16u8)
            .map(|w| {
                let packs = packs.clone();
                tokio::spawn(async move {
                    let mut all = Vec::new();
                    for i in 0..20 {
                        let name = format!("{w}-{i}");
                        let at = packs.append(vec![item(&name, vec![w; 30_000])]).await.expect("appended");
                        all.push((format!("i/{name}"), at[0]));
                    }
                    all
                })
            })
            .collect();
        let mut numbers = std::collections::BTreeSet::new();
        for (w, writer) in writers.into_iter().enumerate() {
            for (name, at) in writer.await.expect("ran") {
                numbers.insert(at.pack);
                assert_eq!(packs.read(&name, at, 0..30_000).expect("read"), vec![w as u8; 30_000]);
            }
        }
        assert!(numbers.len() >= 2, "9.6 MB do not fit the first pack: {numbers:?}");
        assert_eq!(names(&packs).len(), 320);
    }

    #[tokio::test]
    async fn one_call_may_span_packs() {
        let dir = tempfile::tempdir().expect("a directory");
        let packs = self::packs(dir.path());
        let items = (0..100).map(|i| item(&format!("{i}"), vec![i as u8; 60_000])).collect();
        let at = packs.append(items).await.expect("appended");
        assert!(at.iter().any(|a| a.pack != at[0].pack));
        for (i, at) in at.iter().enumerate() {
            assert_eq!(packs.read(&format!("i/{i}"), *at, 0..60_000).expect("read"), vec![i as u8; 60_000]);
        }
    }

    #[tokio::test]
    async fn erased_entries_are_gone_for_good_and_their_bytes_zeroed() {
        let dir = tempfile::tempdir().expect("a directory");
        let packs = self::packs(dir.path());
        let at = packs.append(vec![item("a", "secret-a"), item("b", "secret-b")]).await.expect("appended");
        let entry = [("i/a".to_owned(), at[0])];
        packs.erase(&entry).expect("erased");
        packs.erase(&entry).expect("erased again");
        assert!(packs.read("i/a", at[0], 0..8).expect_err("erased").is_not_found());
        assert!(packs.check("i/a", at[0]).expect_err("erased").is_not_found());
        let used = packs.usage().expect("counted");
        drop(packs);
        let raw = fs::read(path(dir.path(), 0)).expect("there");
        assert!(!raw.windows(8).any(|w| w == b"secret-a") && raw.windows(8).any(|w| w == b"secret-b"));
        let packs = self::packs(dir.path());
        assert_eq!(names(&packs), ["i/b"]);
        assert_eq!(packs.usage().expect("counted"), used, "counting and scanning agree");
        assert_eq!(used[0].bytes, 2 * used[0].live_bytes);
    }

    #[tokio::test]
    async fn a_crash_at_any_byte_of_the_tail_keeps_all_before_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let packs = self::packs(dir.path());
        let at = packs.append(vec![item("kept", "kept")]).await.expect("appended");
        packs.append(vec![item("torn", "torn-off")]).await.expect("appended");
        drop(packs);
        let whole = fs::read(path(dir.path(), 0)).expect("there");
        let (start, end) = (32 + 16 + 6 + 4, whole.len() - 16);
        for cut in start..end {
            // Both what a shorter file and what a zeroed one leaves behind.
            for zeros in [0, 4096] {
                let dir = tempfile::tempdir().expect("a directory");
                let mut torn = whole[..cut].to_vec();
                torn.resize(cut + zeros, 0);
                fs::write(path(dir.path(), 0), torn).expect("written");
                let packs = self::packs(dir.path());
                assert_eq!(names(&packs), ["i/kept"], "cut at {cut}");
                assert_eq!(packs.read("i/kept", at[0], 0..4).expect("read"), "kept");
                assert_eq!(packs.append(vec![item("new", "new")]).await.expect("appended")[0].pack, 1);
            }
        }
    }

    #[tokio::test]
    async fn damage_inside_a_pack_costs_the_damaged_entry_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let packs = self::packs(dir.path());
        let items = (0..3).map(|i| item(&format!("{i}"), format!("payload-{i}"))).collect();
        let at = packs.append(items).await.expect("appended");
        drop(packs);
        let whole = fs::read(path(dir.path(), 0)).expect("there");
        let entry = 16 + 3 + 9;
        for byte in 32 + entry..32 + 2 * entry {
            let mut damaged = whole.clone();
            damaged[byte] ^= 0xff;
            fs::write(path(dir.path(), 0), &damaged).expect("written");
            let packs = self::packs(dir.path());
            let names = names(&packs);
            assert!(names.contains(&"i/0".into()) && names.contains(&"i/2".into()), "byte {byte}: {names:?}");
            assert!(packs.read("i/1", at[1], 0..9).is_err(), "byte {byte} went unseen");
            assert_eq!(packs.read("i/2", at[2], 0..9).expect("read"), "payload-2");
        }
    }

    #[tokio::test]
    async fn compaction_moves_what_lives_and_the_pack_goes_afterwards() {
        let dir = tempfile::tempdir().expect("a directory");
        let packs = self::packs(dir.path());
        let items = (0..700).map(|i| item(&format!("{i}"), vec![i as u8; 100])).collect();
        let at = packs.append(items).await.expect("appended");
        assert!(packs.compact(0, |_| true).await.expect("asked").is_none(), "the current pack is left alone");
        drop(packs);
        let packs = self::packs(dir.path());
        packs.erase(&[("i/0".to_owned(), at[0])]).expect("erased");
        let even = |e: &PackEntry| e.name[2..].parse::<u32>().expect("a number") % 2 == 0;
        let done = packs.compact(0, even).await.expect("compacted").expect("not current");
        assert_eq!(done.moved().len(), 349);
        for moved in done.moved() {
            let i: usize = moved.name[2..].parse().expect("a number");
            assert_eq!(moved.from, at[i]);
            // Both places read until the catalogue knows the new one.
            for at in [moved.from, moved.to] {
                assert_eq!(packs.read(&moved.name, at, 0..100).expect("read"), vec![i as u8; 100]);
            }
        }
        packs.remove(done).expect("removed");
        assert!(packs.read("i/2", at[2], 0..100).expect_err("removed").is_not_found());
        assert_eq!(names(&packs).len(), 349);
        assert!(packs.compact(0, |_| true).await.expect("gone").is_none_or(|c| c.moved().is_empty()));
    }

    #[test]
    fn the_bytes_on_disk_are_those_of_the_format_page() {
        let item = item("n", "xyz");
        let mut entry = Vec::new();
        put_entry(&mut entry, 5, &item);
        assert_eq!(hex(&entry), "52465045030000000300000092bd4d26692f6e78797a");
        assert_eq!(
            hex(&header(INSTALLATION, 5)),
            concat!("52465041434b0000", "07070707070707070707070707070707", "05000000", "664d4d2a",)
        );
        assert_eq!(hex(&trailer(5, 2)), "5246505400000000020000002c12b160");
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }
}
