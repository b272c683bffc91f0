//! What a file of SQLite does, in safe Rust; `table.rs` is its C face.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use ringfence_db::disk::{Disk, DiskFile};

use super::locks::{FileLock, Level, Shm, ShmHeld};
use super::{Mount, held, mount_of};

/// An open file.
pub(super) struct Open {
    data: Data,
    level: Level,
    shm: Option<(Arc<Mutex<Shm>>, ShmHeld)>,
}

enum Data {
    /// Without a name: gone when closed.
    Memory(Vec<u8>),
    Disk {
        mount: Arc<Mount>,
        path: PathBuf,
        file: Box<dyn DiskFile>,
        lock: Arc<Mutex<FileLock>>,
        /// A journal or WAL that was just made: its first sync also makes its
        /// name durable, as the unix VFS does.
        new_journal: bool,
    },
}

/// How to open.
#[derive(Clone, Copy)]
pub(super) struct How {
    pub(super) create: bool,
    pub(super) exclusive: bool,
    pub(super) journal: bool,
}

impl Open {
    pub(super) fn temporary() -> Self {
        Self { data: Data::Memory(Vec::new()), level: Level::None, shm: None }
    }

    pub(super) fn named(path: &Path, how: How) -> io::Result<Self> {
        let (mount, path) = mount_of(path).ok_or(ErrorKind::NotFound)?;
        let opened = if how.exclusive { Err(ErrorKind::NotFound.into()) } else { mount.disk.open(&path) };
        let (file, created) = match opened {
            Err(e) if e.kind() == ErrorKind::NotFound && how.create => (mount.disk.create(&path)?, true),
            other => (other?, false),
        };
        let lock = mount.lock_of(&path);
        let data = Data::Disk { mount, path, file, lock, new_journal: created && how.journal };
        Ok(Self { data, level: Level::None, shm: None })
    }

    /// Fills what there is; answers how many bytes that were.
    pub(super) fn read(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.data {
            Data::Memory(bytes) => {
                let rest = bytes.get(at as usize..).unwrap_or_default();
                let n = rest.len().min(buffer.len());
                buffer[..n].copy_from_slice(&rest[..n]);
                Ok(n)
            }
            Data::Disk { file, .. } => file.read_at(at, buffer),
        }
    }

    pub(super) fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        match &mut self.data {
            Data::Memory(all) => {
                let at = at as usize;
                let missing = (at + bytes.len()).saturating_sub(all.len());
                all.extend_from_slice(&vec![0; missing]);
                all[at..at + bytes.len()].copy_from_slice(bytes);
                Ok(())
            }
            Data::Disk { file, .. } => file.write_at(at, bytes),
        }
    }

    pub(super) fn truncate(&mut self, len: u64) -> io::Result<()> {
        match &mut self.data {
            Data::Memory(all) => {
                all.resize(len as usize, 0);
                Ok(())
            }
            Data::Disk { file, .. } => file.set_len(len),
        }
    }

    pub(super) fn sync(&mut self) -> io::Result<()> {
        let Data::Disk { file, mount, path, new_journal, .. } = &mut self.data else { return Ok(()) };
        file.sync_data()?;
        if std::mem::take(new_journal) {
            mount.disk.sync_dir(path.parent().unwrap_or(Path::new("/")))?;
        }
        Ok(())
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        match &self.data {
            Data::Memory(all) => Ok(all.len() as u64),
            Data::Disk { file, .. } => file.len(),
        }
    }

    pub(super) fn raise(&mut self, wanted: Level) -> bool {
        match &self.data {
            Data::Memory(_) => true,
            Data::Disk { lock, .. } => held(lock).raise(&mut self.level, wanted),
        }
    }

    pub(super) fn lower(&mut self, wanted: Level) {
        if let Data::Disk { lock, .. } = &self.data {
            held(lock).lower(&mut self.level, wanted);
        }
    }

    pub(super) fn is_reserved(&self) -> bool {
        matches!(&self.data, Data::Disk { lock, .. } if held(lock).is_reserved())
    }

    pub(super) fn shm_region(&mut self, index: usize, bytes: usize, extend: bool) -> Option<*mut u64> {
        if self.shm.is_none() {
            let Data::Disk { mount, path, .. } = &self.data else { return None };
            let shm = mount.shm_of(path);
            held(&shm).join();
            self.shm = Some((shm, ShmHeld::default()));
        }
        let (shm, _) = self.shm.as_ref()?;
        held(shm).region(index, bytes, extend)
    }

    pub(super) fn shm_lock(&mut self, slots: std::ops::Range<usize>, exclusive: bool) -> bool {
        match &mut self.shm {
            Some((shm, mine)) => held(shm).lock(mine, slots, exclusive),
            None => false,
        }
    }

    pub(super) fn shm_unlock(&mut self, slots: std::ops::Range<usize>) {
        if let Some((shm, mine)) = &mut self.shm {
            held(shm).unlock(mine, slots);
        }
    }

    /// Makes what this thread wrote to the index visible to the others.
    pub(super) fn shm_barrier(&self) {
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        if let Some((shm, _)) = &self.shm {
            drop(held(shm));
        }
    }

    pub(super) fn shm_leave(&mut self) {
        let Some((shm, mut mine)) = self.shm.take() else { return };
        let last = held(&shm).leave(&mut mine);
        if let (true, Data::Disk { mount, path, .. }) = (last, &self.data) {
            mount.forget_shm(path);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shm_leave();
        self.lower(Level::None);
    }
}

/// Takes a file away, durably if asked.
pub(super) fn delete(path: &Path, durable: bool) -> io::Result<()> {
    let (mount, path) = mount_of(path).ok_or(ErrorKind::NotFound)?;
    mount.disk.unlink(&path)?;
    if durable { mount.disk.sync_dir(path.parent().unwrap_or(Path::new("/"))) } else { Ok(()) }
}

/// Whether a file is there and not empty: an empty one counts as absent, as
/// with the unix VFS.
pub(super) fn exists(path: &Path) -> bool {
    let file = mount_of(path).and_then(|(mount, path)| mount.disk.open_read(&path).ok());
    file.is_some_and(|file| file.len().is_ok_and(|len| len > 0))
}
