//! A directory as a site.
//!
//! ```text
//! ROOT/ringfence-site.json        whose site this is; without it nothing is written or read
//! ROOT/<installation>/c/<xx>/…    chunks, sharded by the last byte of the upload id
//! ROOT/<installation>/h/<xx>/…    heads, likewise
//! ROOT/packs/<number>.pack        small things together (see `pack.rs`)
//! ROOT/tmp/                       files being written; emptied at start
//! ```
//!
//! A file is written under a temporary name, linked to its own name
//! (create-only, never replacing anything), synced, and its directory synced;
//! only then is it acknowledged. It is linked before it is synced so that one
//! journal commit covers data and name. A crash in between can leave a named
//! file with missing bytes, which nobody was told of: an orphan like any
//! other, since names are never used twice.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use ringfence_db::disk::{Disk, DiskFile, Durable, EntryKind, LockGuard};
use ringfence_format::{
    limits,
    names::{InstallationId, SiteId},
    redo::PackAddr,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::{
    Listed, SiteError, SiteInfo, Stat, Stored, blocking, checked_name,
    health::Health,
    pack::{Compacted, Item, PackUse, Packs},
    probe,
};

/// The file that says whose site a directory is.
pub const MARKER: &str = "ringfence-site.json";
/// Bytes gathered before a large chunk's next piece goes to its file.
const WRITE_BYTES: usize = 1024 * 1024;

/// Threads that may wait for one directory: a disk that hangs keeps its own
/// share of the process's blocking threads (512) and leaves the others theirs.
const THREADS_MAX: usize = 128;

/// Whether a directory without a marker may become a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstUse {
    /// An absent or empty directory is made a site: the site is new in the
    /// configuration.
    Create,
    /// The site has been used before: a directory without its marker is
    /// refused, because the disk that held it is not mounted.
    Refuse,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    format: u8,
    installation: String,
    site: SiteId,
}

/// A directory that stores sealed chunks.
pub struct DirSite {
    pub(in crate::site) info: SiteInfo,
    pub(in crate::site) health: Arc<Health>,
    inner: Arc<Inner>,
}

struct Inner {
    site: SiteId,
    root: PathBuf,
    disk: Arc<dyn Disk>,
    packs: Packs,
    dirs: DirSync,
    /// Shards whose names are durable.
    shards: Mutex<BTreeSet<PathBuf>>,
    temp: AtomicU64,
    /// Threads of the process that may wait for this disk.
    threads: Arc<Semaphore>,
    /// The bytes of [`MARKER`] when it was opened.
    marker: Vec<u8>,
    _lock: Box<dyn LockGuard>,
}

impl DirSite {
    /// Opens the site below `root`. Blocks on the disk.
    pub fn open(
        info: SiteInfo,
        root: &Path,
        installation: InstallationId,
        first_use: FirstUse,
        disk: Arc<dyn Disk>,
    ) -> Result<Self, SiteError> {
        let site = info.id.clone();
        let fail = |e: io::Error| SiteError::from_io(&site, &root.display().to_string(), &e);
        claim(&site, root, installation, first_use, &*disk)?;
        let marker = disk.read(&root.join(MARKER)).map_err(fail)?;
        let lock = disk.lock(&root.join(MARKER)).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => SiteError::refused(&site, "another process uses this directory"),
            _ => fail(e),
        })?;
        let (packs, temp) = (root.join("packs"), root.join("tmp"));
        disk.create_dir_all(&packs).map_err(fail)?;
        disk.create_dir_all(&temp).map_err(fail)?;
        for left in disk.list(&temp).map_err(fail)? {
            unless_read_only(disk.unlink(&temp.join(left.name))).map_err(fail)?;
        }
        let packs = Packs::open(site.clone(), installation, packs, disk.clone())?;
        let inner = Inner {
            site: site.clone(),
            root: root.to_owned(),
            disk,
            packs,
            dirs: DirSync::default(),
            shards: Mutex::default(),
            temp: AtomicU64::new(0),
            threads: Arc::new(Semaphore::new(THREADS_MAX)),
            marker,
            _lock: lock,
        };
        let health = Health::new(&info.id, &info.patience, true);
        Ok(Self { info, health, inner: Arc::new(inner) })
    }

    /// Where it lies.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    pub(in crate::site) fn packs(&self) -> &Packs {
        &self.inner.packs
    }

    pub(in crate::site) async fn usage(&self) -> Result<Vec<PackUse>, SiteError> {
        let inner = self.inner.clone();
        self.inner.work(move || inner.packs.usage()).await
    }

    pub(in crate::site) async fn remove_pack(&self, compacted: Compacted) -> Result<(), SiteError> {
        let inner = self.inner.clone();
        self.inner.work(move || inner.packs.remove(compacted)).await
    }

    /// Small items go to the packs together, large ones to files of their own.
    pub(in crate::site) async fn put_many(&self, items: Vec<Item>) -> Result<Vec<Stored>, SiteError> {
        let mut stored = vec![Stored { at: None }; items.len()];
        let mut small = Vec::new();
        let mut places = Vec::new();
        for (i, item) in items.into_iter().enumerate() {
            if item.len() <= limits::PACKED_CHUNK_BYTES_MAX {
                small.push(item);
                places.push(i);
                continue;
            }
            let mut writer = self.begin(item.name).await?;
            for part in item.parts {
                writer.write(part).await?;
            }
            stored[i] = writer.finish().await?;
        }
        if !small.is_empty() {
            let addresses = self.inner.packs.append(small).await?;
            for (i, at) in places.into_iter().zip(addresses) {
                stored[i].at = Some(at);
            }
        }
        Ok(stored)
    }

    /// What any healthy directory does.
    pub(in crate::site) async fn touch(&self) -> Result<(), SiteError> {
        let inner = self.inner.clone();
        self.inner.work(move || inner.is_here()).await
    }

    pub(in crate::site) async fn begin(&self, name: String) -> Result<DirWriter, SiteError> {
        let inner = self.inner.clone();
        let number = inner.temp.fetch_add(1, Ordering::Relaxed);
        let temp = inner.root.join("tmp").join(number.to_string());
        let (i, t) = (inner.clone(), temp.clone());
        let file = self.inner.work(move || i.disk.create(&t)).await.map_err(|e| inner.io(&name, &e));
        let file = inner.unless_gone(file)?;
        Ok(DirWriter {
            temp: Temp { inner, path: temp },
            name,
            file: file.into(),
            gathered: Vec::new(),
            gathered_len: 0,
            len: 0,
            writing: None,
        })
    }

    pub(in crate::site) async fn get(
        &self,
        name: &str,
        at: Option<PackAddr>,
        range: Option<Range<u64>>,
    ) -> Result<Bytes, SiteError> {
        if let Some(at) = at {
            // Mostly the bytes are in memory, and a change of threads would
            // cost more than the read.
            let range = range.clone().unwrap_or(0..u64::from(at.len));
            if let Some(answer) = self.inner.packs.read_cached(name, at, range) {
                return answer;
            }
        }
        let (inner, name) = (self.inner.clone(), name.to_owned());
        let read = move || match at {
            Some(at) => inner.packs.read(&name, at, range.unwrap_or(0..u64::from(at.len))),
            None => inner.read(&name, range),
        };
        let inner = self.inner.clone();
        self.inner.work(move || inner.unless_gone(read())).await
    }

    pub(in crate::site) async fn delete_many(&self, items: Vec<(String, Option<PackAddr>)>) -> Result<(), SiteError> {
        let inner = self.inner.clone();
        let erase = move || {
            // What is not there counts as erased: only of a disk that is.
            inner.is_here()?;
            let (packed, files): (Vec<_>, Vec<_>) = items.into_iter().partition(|(_, at)| at.is_some());
            let packed: Vec<_> = packed.into_iter().filter_map(|(name, at)| Some((name, at?))).collect();
            inner.packs.erase(&packed)?;
            inner.unlink_all(files.into_iter().map(|(name, _)| name))?;
            inner.is_here()
        };
        self.inner.work(erase).await
    }

    pub(in crate::site) async fn stat(&self, name: &str, at: Option<PackAddr>) -> Result<Stat, SiteError> {
        let (inner, name) = (self.inner.clone(), name.to_owned());
        let stat = move || match at {
            Some(at) => inner.packs.check(&name, at).map(|()| Stat { len: u64::from(at.len) }),
            None => {
                let file = inner.disk.open_read(&inner.path(&name)).map_err(|e| inner.io(&name, &e))?;
                Ok(Stat { len: file.len().map_err(|e| inner.io(&name, &e))? })
            }
        };
        let inner = self.inner.clone();
        self.inner.work(move || inner.unless_gone(stat())).await
    }

    pub(in crate::site) fn lister(&self, prefix: String) -> DirLister {
        DirLister { inner: self.inner.clone(), prefix, todo: vec![Todo::Root] }
    }

    pub(in crate::site) async fn close(&self) {
        let inner = self.inner.clone();
        blocking(move || inner.packs.close()).await;
    }
}

impl Inner {
    /// Runs `f` on a thread that may wait for this disk.
    async fn work<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> T {
        let held = self.threads.clone().acquire_owned().await.expect("never closed");
        blocking(move || {
            // Until the work really ends, however long ago its caller left.
            let _held = held;
            f()
        })
        .await
    }

    /// Whether the directory is still the one that was opened: a disk that was
    /// taken away leaves an empty mount point behind.
    fn is_here(&self) -> Result<(), SiteError> {
        let gone = |why: &dyn std::fmt::Display| {
            SiteError::refused(&self.site, format!("its {MARKER} cannot be read: is its disk mounted? ({why})"))
        };
        let found = self.disk.read(&self.root.join(MARKER)).map_err(|e| gone(&e))?;
        if found == self.marker { Ok(()) } else { Err(gone(&"it changed")) }
    }

    /// That something is not there is believed of a disk that is.
    fn unless_gone<T>(&self, result: Result<T, SiteError>) -> Result<T, SiteError> {
        match result {
            Err(error) if error.is_not_found() => self.is_here().and(Err(error)),
            other => other,
        }
    }

    fn io(&self, name: &str, error: &io::Error) -> SiteError {
        SiteError::from_io(&self.site, name, error)
    }

    /// `<installation>/c/<name>` lies in the shard named by the last byte of
    /// the id before the dash: the first bytes are the same for a whole
    /// process, and all chunks of one upload share a directory sync.
    fn path(&self, name: &str) -> PathBuf {
        let (dir, file) = name.rsplit_once('/').unwrap_or(("", name));
        let id = file.split('-').next().unwrap_or(file);
        let shard = id.get(id.len().saturating_sub(2)..).unwrap_or("00");
        self.root.join(dir).join(format!("{shard:0>2}")).join(file)
    }

    fn read(&self, name: &str, range: Option<Range<u64>>) -> Result<Bytes, SiteError> {
        let io = |e: io::Error| self.io(name, &e);
        let file = self.disk.open_read(&self.path(name)).map_err(io)?;
        let range = match range {
            Some(range) => range,
            None => 0..file.len().map_err(io)?,
        };
        let wanted = range.end.saturating_sub(range.start);
        if wanted > limits::CHUNK_BYTES_MAX as u64 {
            return Err(SiteError::corrupt(&self.site, name, "longer than any chunk"));
        }
        let mut buffer = vec![0; wanted as usize];
        let got = file.read_at(range.start, &mut buffer).map_err(io)?;
        if got < buffer.len() {
            return Err(SiteError::corrupt(&self.site, name, "shorter than what was stored"));
        }
        Ok(buffer.into())
    }

    /// A name that is gone already has its directory synced all the same: the
    /// call that took it may have failed after.
    fn unlink_all(&self, names: impl Iterator<Item = String>) -> Result<(), SiteError> {
        let ticket = self.dirs.ticket();
        let mut dirs = BTreeSet::new();
        for name in names {
            let path = self.path(&name);
            dirs.extend(path.parent().map(Path::to_owned));
            match self.disk.unlink(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(self.io(&name, &e)),
                _ => {}
            }
        }
        for dir in dirs {
            match self.dirs.sync(&*self.disk, &dir, ticket) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(self.io("directory", &e)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Gives a whole temporary file its name and makes both durable.
    fn publish(&self, temp: &Path, file: &dyn DiskFile, name: &str) -> io::Result<()> {
        let path = self.path(name);
        let dir = path.parent().expect("a name lies in a shard");
        let ticket = self.dirs.ticket();
        self.make_shard(dir)?;
        match self.disk.link(temp, &path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => self.same_bytes(file, &path)?,
            other => other?,
        }
        if let Err(e) = file.sync_data() {
            // Nobody was told of it; what is left after a crash is an orphan.
            let _ = self.disk.unlink(&path);
            return Err(e);
        }
        self.dirs.sync(&*self.disk, dir, ticket)
    }

    /// Makes a shard, or trusts one that this process has made durable. That
    /// it is there says nothing: another process may have made it and been
    /// killed before its name was synced.
    fn make_shard(&self, dir: &Path) -> io::Result<()> {
        let shards = || self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        if shards().contains(dir) {
            return Ok(());
        }
        self.disk.create_dir_all(dir)?;
        for above in dir.ancestors().skip(1).take_while(|above| above.starts_with(&self.root)) {
            self.disk.sync_dir(above)?;
        }
        shards().insert(dir.to_owned());
        Ok(())
    }

    /// A name is taken only by an earlier attempt at the same write, whose
    /// bytes are the same; anything else is refused.
    fn same_bytes(&self, file: &dyn DiskFile, there: &Path) -> io::Result<()> {
        let there = self.disk.open_read(there)?;
        let (mut a, mut b) = (vec![0; WRITE_BYTES], vec![0; WRITE_BYTES]);
        let mut at = 0;
        loop {
            let (n, m) = (file.read_at(at, &mut a)?, there.read_at(at, &mut b)?);
            if a[..n] != b[..m] {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, probe::NAME_TAKEN));
            }
            if n == 0 {
                return there.sync_data();
            }
            at += n as u64;
        }
    }
}

/// Writes one large chunk straight to its file. Dropped unfinished, the
/// temporary file goes away.
pub(in crate::site) struct DirWriter {
    name: String,
    file: Arc<dyn DiskFile>,
    gathered: Vec<Bytes>,
    gathered_len: usize,
    /// Bytes handed to the file so far.
    len: u64,
    /// The write under way, so that sealing goes on beside it.
    writing: Option<tokio::task::JoinHandle<io::Result<()>>>,
    temp: Temp,
}

struct Temp {
    inner: Arc<Inner>,
    path: PathBuf,
}

impl Drop for Temp {
    fn drop(&mut self) {
        // Gone already when it was published by rename elsewhere; `tmp` is
        // emptied at the next start in any case.
        let _ = self.inner.disk.unlink(&self.path);
    }
}

impl DirWriter {
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), SiteError> {
        self.gathered_len += bytes.len();
        if self.len + self.gathered_len as u64 > limits::CHUNK_BYTES_MAX as u64 {
            return Err(SiteError::refused(&self.temp.inner.site, "a chunk may not exceed 16 MiB"));
        }
        self.gathered.push(bytes);
        if self.gathered_len >= WRITE_BYTES { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), SiteError> {
        self.settle().await?;
        let (file, at) = (self.file.clone(), self.len);
        let pieces = std::mem::take(&mut self.gathered);
        self.len += std::mem::take(&mut self.gathered_len) as u64;
        let held = self.temp.inner.threads.clone().acquire_owned().await.expect("never closed");
        self.writing = Some(tokio::task::spawn_blocking(move || {
            let _held = held;
            let whole = match &pieces[..] {
                [one] => one.clone(),
                many => many.concat().into(),
            };
            file.write_at(at, &whole)
        }));
        Ok(())
    }

    /// Waits for the write under way.
    async fn settle(&mut self) -> Result<(), SiteError> {
        let Some(task) = self.writing.take() else { return Ok(()) };
        let done = task.await.unwrap_or_else(|e| Err(io::Error::other(e)));
        done.map_err(|e| self.temp.inner.io(&self.name, &e))
    }

    pub async fn finish(mut self) -> Result<Stored, SiteError> {
        if self.gathered_len > 0 {
            self.flush().await?;
        }
        self.settle().await?;
        let Self { name, file, temp, .. } = self;
        let inner = temp.inner.clone();
        let publish = move || {
            let done = temp.inner.publish(&temp.path, &*file, &name);
            temp.inner.unless_gone(done.map_err(|e| temp.inner.io(&name, &e)))
        };
        inner.work(publish).await?;
        Ok(Stored { at: None })
    }
}

/// Lets many writers into one directory share its sync.
///
/// After a failed sync nothing is known of the names changed before it, and a
/// later success proves nothing about them. So whoever changes a name takes a
/// [`Ticket`] first, and fails if any sync of this site failed since.
#[derive(Default)]
struct DirSync {
    state: Mutex<HashMap<PathBuf, Rounds>>,
    done: Condvar,
    failures: AtomicU64,
}

/// How many syncs had failed before a name was changed.
#[derive(Clone, Copy)]
struct Ticket(u64);

#[derive(Default)]
struct Rounds {
    begun: u64,
    /// The last round that succeeded.
    ended: u64,
    running: bool,
    users: usize,
}

impl DirSync {
    /// To be taken before a name is changed.
    fn ticket(&self) -> Ticket {
        Ticket(self.failures.load(Ordering::SeqCst))
    }

    /// Returns after a sync of `dir` that began after this call.
    fn sync(&self, disk: &dyn Disk, dir: &Path, ticket: Ticket) -> io::Result<()> {
        let mut state = self.state();
        let rounds = state.entry(dir.to_owned()).or_default();
        rounds.users += 1;
        let mine = rounds.begun + 1;
        let outcome = loop {
            let rounds = state.get_mut(dir).expect("users hold it");
            if self.failures.load(Ordering::SeqCst) != ticket.0 {
                break Err(io::Error::other("a sync of this site failed meanwhile"));
            }
            if rounds.ended >= mine {
                break Ok(());
            }
            if rounds.running {
                state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            rounds.running = true;
            rounds.begun += 1;
            let round = rounds.begun;
            drop(state);
            let result = disk.sync_dir(dir);
            state = self.state();
            let rounds = state.get_mut(dir).expect("users hold it");
            rounds.running = false;
            self.done.notify_all();
            match result {
                Ok(()) => rounds.ended = rounds.ended.max(round),
                Err(e) => {
                    self.failures.fetch_add(1, Ordering::SeqCst);
                    break Err(e);
                }
            }
        };
        let rounds = state.get_mut(dir).expect("users hold it");
        rounds.users -= 1;
        if rounds.users == 0 {
            state.remove(dir);
        }
        outcome
    }

    fn state(&self) -> MutexGuard<'_, HashMap<PathBuf, Rounds>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Walks the files shard by shard, then the packs one by one.
pub(in crate::site) struct DirLister {
    inner: Arc<Inner>,
    prefix: String,
    /// What is left, the next one last.
    todo: Vec<Todo>,
}

enum Todo {
    Root,
    /// A directory below the root, and how its files' names begin.
    Dir(PathBuf, String),
    Pack(u32),
}

impl DirLister {
    pub async fn next_page(mut self) -> Result<Option<(Self, Vec<Listed>)>, SiteError> {
        let inner = self.inner.clone();
        let next = move || {
            while let Some(todo) = self.todo.pop() {
                let page = self.visit(todo)?;
                if !page.is_empty() {
                    return Ok(Some((self, page)));
                }
            }
            self.inner.is_here()?;
            Ok(None)
        };
        inner.work(next).await
    }

    fn visit(&mut self, todo: Todo) -> Result<Vec<Listed>, SiteError> {
        let page = match todo {
            Todo::Root => {
                let packs = self.inner.packs.numbers()?;
                self.todo.extend(packs.into_iter().rev().map(Todo::Pack));
                self.branches()?;
                Vec::new()
            }
            Todo::Dir(path, begins) => self.files(&path, &begins)?,
            Todo::Pack(pack) => {
                let live = self.inner.packs.entries(pack)?;
                live.into_iter()
                    .map(|e| Listed { name: e.name, len: u64::from(e.at.len), modified_ms: None, at: Some(e.at) })
                    .collect()
            }
        };
        Ok(page.into_iter().filter(|e| e.name.starts_with(&self.prefix)).collect())
    }

    /// Every `<installation>/<c|h>/<shard>` there is.
    fn branches(&mut self) -> Result<(), SiteError> {
        let inner = self.inner.clone();
        let dirs = |path: &Path| -> Result<Vec<String>, SiteError> {
            let all = inner.disk.list(path).map_err(|e| inner.io("directory", &e))?;
            Ok(all.into_iter().filter(|e| e.kind == EntryKind::Dir).map(|e| e.name).collect())
        };
        for installation in dirs(&inner.root)?.into_iter().filter(|n| InstallationId::from_hex(n).is_some()) {
            for kind in dirs(&inner.root.join(&installation))? {
                let below = inner.root.join(&installation).join(&kind);
                for shard in dirs(&below)? {
                    self.todo.push(Todo::Dir(below.join(shard), format!("{installation}/{kind}/")));
                }
            }
        }
        Ok(())
    }

    fn files(&self, path: &Path, begins: &str) -> Result<Vec<Listed>, SiteError> {
        let all = self.inner.disk.list(path).map_err(|e| self.inner.io("directory", &e))?;
        let files = all.into_iter().filter(|e| e.kind == EntryKind::File);
        let named = files.map(|e| Listed {
            name: format!("{begins}{}", e.name),
            len: e.len,
            modified_ms: Some(e.modified_us / 1000),
            at: None,
        });
        // A file that is not ours is not listed: `checked_name` is what `put` asks for.
        Ok(named.filter(|e| checked_name(&self.inner.site, &e.name).is_ok()).collect())
    }
}

/// A site on a disk that was remounted read-only still gives out what it has:
/// what only tidies up is left for the day it can be written again.
pub(super) fn unless_read_only(tidied: io::Result<()>) -> io::Result<()> {
    match tidied {
        Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => Ok(()),
        other => other,
    }
}

/// Checks, or on first use writes, whose site this directory is.
fn claim(
    site: &SiteId,
    root: &Path,
    installation: InstallationId,
    first_use: FirstUse,
    disk: &dyn Disk,
) -> Result<(), SiteError> {
    let wanted = Marker { format: 0, installation: installation.to_string(), site: site.clone() };
    let path = root.join(MARKER);
    let fail = |e: io::Error| SiteError::from_io(site, MARKER, &e);
    match disk.read(&path) {
        Ok(bytes) => {
            let found: Marker = serde_json::from_slice(&bytes)
                .map_err(|e| SiteError::refused(site, format!("{MARKER} in its directory is not readable: {e}")))?;
            if found == wanted {
                // Whoever wrote it may have been killed before its name was synced.
                return unless_read_only(disk.sync_dir(root)).map_err(fail);
            }
            let why = format!("its directory belongs to site `{}` of installation {}", found.site, found.installation);
            Err(SiteError::refused(site, why))
        }
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(fail(e)),
        Err(_) if first_use == FirstUse::Refuse => {
            let why = format!("{} has no {MARKER}: is its disk mounted?", root.display());
            Err(SiteError::refused(site, why))
        }
        Err(_) => {
            disk.create_dir_all(root).map_err(fail)?;
            let foreign = disk
                .list(root)
                .map_err(fail)?
                .into_iter()
                .find(|e| !e.name.starts_with(MARKER) && e.name != "lost+found");
            if let Some(foreign) = foreign {
                let why = format!("{} is not empty (it holds `{}`) and is no site", root.display(), foreign.name);
                return Err(SiteError::refused(site, why));
            }
            let text = serde_json::to_vec_pretty(&wanted).expect("a marker is plain text");
            disk.replace(&path, &text, Durable::Yes).map_err(fail)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use ringfence_db::disk::RealDisk;

    use super::*;
    use crate::site::{Site, SiteKind};

    const INSTALLATION: InstallationId = InstallationId([7; 16]);

    fn open(root: &Path, id: &str, installation: InstallationId, first_use: FirstUse) -> Result<Site, SiteError> {
        let info = SiteInfo::new(SiteId::parse(id).expect("a name"), SiteKind::Private, "DE", "local");
        Site::open_dir(info, root, installation, first_use, RealDisk::shared())
    }

    fn name(upload: u8, index: u32) -> String {
        ringfence_format::chunk::chunk_name(&INSTALLATION, &ringfence_format::names::UploadId([upload; 16]), index)
    }

    fn large(byte: u8) -> Bytes {
        vec![byte; limits::PACKED_CHUNK_BYTES_MAX + 1].into()
    }

    async fn put(site: &Site, name: &str, bytes: Bytes) -> Result<Stored, SiteError> {
        let item = Item { name: name.to_owned(), parts: vec![bytes] };
        site.put_bytes(vec![item]).await.map(|s| s[0])
    }

    fn refused(result: Result<Site, SiteError>, because: &str) {
        match result {
            Err(SiteError::Refused { why, .. }) => assert!(why.contains(because), "{why}"),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("not refused"),
        }
    }

    #[tokio::test]
    async fn a_wrong_foreign_or_unmounted_directory_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("home");
        refused(open(&root, "home", INSTALLATION, FirstUse::Refuse), "mounted");
        assert!(!root.exists(), "a refusal leaves nothing behind");
        let first = open(&root, "home", INSTALLATION, FirstUse::Create).expect("created");
        refused(open(&root, "home", INSTALLATION, FirstUse::Refuse), "another process");
        drop(first);
        refused(open(&root, "cloud", INSTALLATION, FirstUse::Create), "belongs to site `home`");
        refused(open(&root, "home", InstallationId([8; 16]), FirstUse::Create), "installation 0707");
        open(&root, "home", INSTALLATION, FirstUse::Refuse).expect("it is ours");
        let other = dir.path().join("documents");
        fs::create_dir(&other).expect("made");
        fs::write(other.join("thesis.txt"), "mine").expect("written");
        refused(open(&other, "home", INSTALLATION, FirstUse::Create), "thesis.txt");
        fs::write(root.join(MARKER), "{").expect("written");
        refused(open(&root, "home", INSTALLATION, FirstUse::Refuse), "not readable");
    }

    #[tokio::test]
    async fn a_name_taken_by_the_same_bytes_is_success_and_by_others_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let site = open(dir.path(), "home", INSTALLATION, FirstUse::Create).expect("created");
        put(&site, &name(1, 0), large(1)).await.expect("stored");
        put(&site, &name(1, 0), large(1)).await.expect("stored again");
        let other = put(&site, &name(1, 0), large(2)).await;
        assert!(matches!(other, Err(SiteError::Refused { .. })), "{other:?}");
        assert_eq!(site.get_bytes(&name(1, 0), None, None).await.expect("read"), large(1));
        assert_eq!(fs::read_dir(dir.path().join("tmp")).expect("there").count(), 0, "nothing temporary is left");
    }

    #[tokio::test]
    async fn all_chunks_of_an_upload_lie_in_one_shard() {
        let dir = tempfile::tempdir().expect("a directory");
        let site = open(dir.path(), "home", INSTALLATION, FirstUse::Create).expect("created");
        for index in 0..3 {
            put(&site, &name(0xab, index), large(1)).await.expect("stored");
        }
        let shard = dir.path().join(INSTALLATION.to_string()).join("c/ab");
        assert_eq!(fs::read_dir(shard).expect("there").count(), 3);
        assert_eq!(site.list(&format!("{INSTALLATION}/c/")).all().await.expect("listed").len(), 3);
        assert!(site.list(&format!("{INSTALLATION}/h/")).all().await.expect("listed").is_empty());
    }

    #[tokio::test]
    async fn what_a_crash_left_in_tmp_is_gone_at_the_next_start() {
        let dir = tempfile::tempdir().expect("a directory");
        drop(open(dir.path(), "home", INSTALLATION, FirstUse::Create).expect("created"));
        fs::write(dir.path().join("tmp/17"), "half").expect("written");
        let site = open(dir.path(), "home", INSTALLATION, FirstUse::Refuse).expect("opened");
        assert!(!dir.path().join("tmp/17").exists());
        assert!(site.list("").all().await.expect("listed").is_empty());
    }

    #[test]
    fn waiters_share_directory_syncs_and_each_sees_one_that_began_after_it_came() {
        let dir = tempfile::tempdir().expect("a directory");
        let dirs = DirSync::default();
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| (0..20).for_each(|_| dirs.sync(&RealDisk, dir.path(), dirs.ticket()).expect("synced")));
            }
        });
        assert!(dirs.state.lock().expect("not poisoned").is_empty(), "nothing is kept of idle directories");
        let before = dirs.ticket();
        assert!(dirs.sync(&RealDisk, &dir.path().join("absent"), before).is_err());
        let late = dirs.sync(&RealDisk, dir.path(), before);
        assert!(late.is_err(), "a success after a failure proves nothing about what came before");
        dirs.sync(&RealDisk, dir.path(), dirs.ticket()).expect("what comes after is another matter");
    }
}
