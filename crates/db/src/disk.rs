//! The file operations that durability rests on, behind one trait, so that a
//! disk that fails, fills up, tears writes or forgets them can stand in.
//!
//! The contract is POSIX, no more: a write is durable after
//! [`DiskFile::sync_data`] of that file; a name (created, renamed, linked,
//! unlinked) is durable after [`Disk::sync_dir`] of its directory. After a
//! failed sync nothing is known of the writes before it, and a later
//! successful sync proves nothing about them: callers stop, they do not retry.

pub mod sim;

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation};

/// A disk, or what stands in for one.
pub trait Disk: Send + Sync + 'static {
    /// Makes a directory and those above it; already being there is fine.
    /// The new names are durable when this returns.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// As [`Self::create_dir_all`], but the new names are durable only after
    /// [`Self::sync_dir`]: for what can be made anew.
    fn create_dirs(&self, path: &Path) -> io::Result<()>;

    /// Makes a new, empty file (mode 0600), open for reading and writing.
    /// [`ErrorKind::AlreadyExists`] if the name is taken.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens an existing file for reading only.
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Moves a file, replacing what had the new name, atomically.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives a file a second name, create-only:
    /// [`ErrorKind::AlreadyExists`] if the name is taken.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Takes a name away.
    fn unlink(&self, path: &Path) -> io::Result<()>;

    /// Takes an empty directory away.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// What is in a directory, sorted by name.
    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>>;

    /// Makes every change of names in this directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Total and free bytes of the file system that holds `path`.
    fn space(&self, path: &Path) -> io::Result<Space>;

    /// Takes an exclusive lock on an existing file, held until the guard is
    /// dropped or the process ends; [`ErrorKind::WouldBlock`] if another
    /// process or guard holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>>;

    /// Reads a whole file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open_read(path)?;
        let len = usize::try_from(file.len()?).map_err(|_| ErrorKind::OutOfMemory)?;
        let mut bytes = vec![0; len];
        let got = file.read_at(0, &mut bytes)?;
        bytes.truncate(got);
        Ok(bytes)
    }

    /// Replaces a file whole: after a crash there is the old content or the
    /// new, never a mixture. `Durable::Yes` also waits until it is the new.
    fn replace(&self, path: &Path, bytes: &[u8], durable: Durable) -> io::Result<()> {
        let mut temp = path.as_os_str().to_owned();
        temp.push(".tmp");
        let temp = Path::new(&temp);
        match self.unlink(temp) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let file = self.create(temp)?;
        file.write_at(0, bytes)?;
        if durable == Durable::Yes {
            file.sync_data()?;
        }
        self.rename(temp, path)?;
        match (durable, path.parent()) {
            (Durable::Yes, Some(dir)) => self.sync_dir(dir),
            _ => Ok(()),
        }
    }
}

/// Whether to wait until a change survives a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durable {
    /// Wait for it.
    Yes,
    /// The caller can make it anew.
    No,
}

/// An open file.
pub trait DiskFile: Send + Sync {
    /// Reads at `offset` until the buffer is full or the file ends; returns
    /// how many bytes were read.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Fills the buffer from `offset` if that needs no waiting for the disk,
    /// because the bytes are in memory; `false` if it would, or if the file
    /// system cannot tell. For callers that may not block.
    fn read_cached(&self, offset: u64, buffer: &mut [u8]) -> io::Result<bool> {
        let _ = (offset, buffer);
        Ok(false)
    }

    /// Writes all of `bytes` at `offset`, growing the file if needed.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts the file, or extends it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// How long it is.
    fn len(&self) -> io::Result<u64>;

    /// Whether it is empty.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Makes content and length durable (fdatasync).
    fn sync_data(&self) -> io::Result<()>;

    /// Makes content, length and times durable (fsync).
    fn sync_all(&self) -> io::Result<()>;

    /// Gives the bytes in the range back to the file system; they read as
    /// zeros and the length stays. [`ErrorKind::Unsupported`] where the file
    /// system cannot.
    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()>;
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// Its name in the directory. Names that are not UTF-8 are not ours and
    /// are not listed.
    pub name: String,
    /// Whether it is itself a directory.
    pub kind: EntryKind,
    /// Length in bytes; 0 for directories.
    pub len: u64,
    /// When it was last changed, microseconds since the epoch; 0 if unknown.
    pub modified_us: u64,
}

/// What a directory entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// Anything else; never followed.
    Other,
}

/// Bytes of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total: u64,
    /// What an unprivileged process may still use.
    pub free: u64,
}

/// Holds a lock; see [`Disk::lock`].
pub trait LockGuard: Send + Sync {}

/// The machine's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl RealDisk {
    /// As what most callers take.
    pub fn shared() -> Arc<dyn Disk> {
        Arc::new(Self)
    }
}

struct RealFile(fs::File);
struct RealLock(#[allow(dead_code, reason = "the lock lives as long as the descriptor")] fs::File);
impl LockGuard for RealLock {}

impl Disk for RealDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
        if let Some(parent) = parent {
            self.create_dir_all(parent)?;
        }
        match fs::create_dir(path) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
            other => other?,
        }
        self.sync_dir(parent.unwrap_or(Path::new(".")))
    }

    fn create_dirs(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Box::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile(OpenOptions::new().read(true).write(true).open(path)?)))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile(fs::File::open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            // A file that vanished between the two calls is not there.
            let (Ok(name), Ok(meta)) = (entry.file_name().into_string(), entry.metadata()) else { continue };
            let kind = match meta.file_type() {
                t if t.is_file() => EntryKind::File,
                t if t.is_dir() => EntryKind::Dir,
                _ => EntryKind::Other,
            };
            let len = if kind == EntryKind::File { meta.len() } else { 0 };
            entries.push(DirEntry { name, kind, len, modified_us: modified_us(&meta) });
        }
        entries.sort();
        Ok(entries)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let s = rustix::fs::statvfs(path)?;
        Ok(Space { total: s.f_blocks.saturating_mul(s.f_frsize), free: s.f_bavail.saturating_mul(s.f_frsize) })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            // A lock is held on a name, not on a right to write.
            Err(e) if e.kind() == ErrorKind::ReadOnlyFilesystem => OpenOptions::new().read(true).open(path)?,
            opened => opened?,
        };
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(RealLock(file)))
    }
}

fn modified_us(meta: &fs::Metadata) -> u64 {
    let since = meta.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
    since.map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
}

impl DiskFile for RealFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.0.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    #[cfg(target_os = "linux")]
    fn read_cached(&self, offset: u64, buffer: &mut [u8]) -> io::Result<bool> {
        let wanted = buffer.len();
        let buffers = &mut [io::IoSliceMut::new(buffer)];
        // A short read and every error alike mean: ask again where blocking is
        // allowed, and take the answer, good or bad, from there.
        let got = rustix::io::preadv2(&self.0, buffers, offset, rustix::io::ReadWriteFlags::NOWAIT);
        Ok(got.is_ok_and(|got| got == wanted))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(&self.0, flags, offset, len)?)
    }
}
