//! INVARIANT 7 — the log never forks: `Locked<Checkpoint>`.
//!
//! The last signed checkpoint lies in `DIR/log/lock`, in one of two slots
//! written in turn, and the file is locked against a second process. A new
//! checkpoint is signed only here, and only with a proof that its tree
//! extends the tree of the last one; it is durable here before anybody sees it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ringfence_db::disk::{Disk, DiskFile, LockGuard};
use ringfence_format::checkpoint::{Checkpoint, VerifierKey, verify};
use ringfence_format::leaf::Hash;
use ringfence_format::proof::verify_consistency;

use crate::error::{During, LogError};
use crate::seal::SignCheckpoint;

/// A checkpoint that was signed as the successor of the last one, and is
/// durable in the lock. Only this file makes one.
///
/// ```compile_fail,E0451
/// use ringfence_log::Locked;
/// fn forge<T>(checkpoint: T) -> Locked<T> { Locked { checkpoint, note: String::new() } }
/// ```
#[must_use]
#[derive(Debug)]
pub struct Locked<T> {
    checkpoint: T,
    note: String,
}

impl<T> Locked<T> {
    /// The checkpoint.
    pub fn checkpoint(&self) -> &T {
        &self.checkpoint
    }
    /// Its signed note.
    pub fn note(&self) -> &str {
        &self.note
    }
}

/// The lock file, held.
pub(crate) struct CheckpointLock {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    signer: Arc<dyn SignCheckpoint>,
    key: VerifierKey,
    last: Option<(Checkpoint, String)>,
    /// Rises by one with each checkpoint; its parity names the slot.
    turn: u64,
    _held: Box<dyn LockGuard>,
}

const SLOT: u64 = 4096;

/// Why no checkpoint was signed.
#[derive(Debug, Clone)]
pub(crate) enum NotLocked {
    /// The tree does not extend the last signed one.
    Fork { last: Box<Checkpoint>, next: Box<Checkpoint> },
    /// The lock could not be written; nobody saw the new checkpoint.
    Io(LogError),
}

impl CheckpointLock {
    /// Takes the lock, or says who has it.
    pub(crate) fn open(
        disk: &dyn Disk,
        dir: &Path,
        signer: Arc<dyn SignCheckpoint>,
        key: VerifierKey,
    ) -> Result<Self, LogError> {
        let path = dir.join("lock");
        create_once(disk, dir, &path)?;
        let held = disk.lock(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::WouldBlock => LogError::InUse(dir.to_owned()),
            kind => LogError::Io { what: "lock", path: path.clone(), why: e.to_string(), kind },
        })?;
        let file = disk.open(&path).during("open", &path)?;
        let mut lock = Self { file, path, signer, key, last: None, turn: 0, _held: held };
        lock.read_slots()?;
        // A process that was killed may have written the last slot and not
        // synced it; it is shown from now on.
        lock.file.sync_data().during("sync", &lock.path)?;
        Ok(lock)
    }

    fn read_slots(&mut self) -> Result<(), LogError> {
        for slot in 0..2 {
            let mut bytes = vec![0; SLOT as usize];
            self.file.read_at(slot * SLOT, &mut bytes).during("read", &self.path)?;
            // A slot that was torn while it was written was not yet shown to
            // anybody: the other one stands.
            let Some((turn, note)) = parse_slot(&bytes) else { continue };
            if turn < self.turn {
                continue;
            }
            let checkpoint =
                verify(note, &self.key).map_err(|why| LogError::Checkpoint { path: self.path.clone(), why })?;
            (self.turn, self.last) = (turn, Some((checkpoint, note.to_owned())));
        }
        Ok(())
    }

    /// The last signed checkpoint.
    pub(crate) fn last(&self) -> Option<&(Checkpoint, String)> {
        self.last.as_ref()
    }

    /// Takes a checkpoint that was shown as the last one, if it is ahead of what
    /// stands here. `Err` with the size where two of the same size differ.
    pub(crate) fn adopt(&mut self, shown: Checkpoint, note: String) -> Result<(), u64> {
        match &self.last {
            Some((last, _)) if last.size > shown.size => Ok(()),
            Some((last, _)) if last.size == shown.size && last.root != shown.root => Err(last.size),
            _ => {
                self.last = Some((shown, note));
                Ok(())
            }
        }
    }

    /// Whether `next` extends the last signed checkpoint, by `path`.
    pub(crate) fn extends(&self, next: &Checkpoint, path: &[Hash]) -> bool {
        let Some((last, _)) = &self.last else { return true };
        verify_consistency(last.size, &last.root, next.size, &next.root, path)
    }

    /// upholds INVARIANT 7: signs `next` if `path` proves that it extends the
    /// last one, and makes it durable as the new last one.
    pub(crate) fn replace(&mut self, next: Checkpoint, path: &[Hash]) -> Result<Locked<Checkpoint>, NotLocked> {
        if !self.extends(&next, path) {
            let last = self.last.as_ref().map_or_else(|| next.clone(), |(last, _)| last.clone());
            return Err(NotLocked::Fork { last: Box::new(last), next: Box::new(next) });
        }
        let note = next.to_note(&self.key, &self.signer.sign(next.to_text().as_bytes()));
        let turn = self.turn + 1;
        let slot = slot_bytes(turn, &note);
        let write = || {
            self.file.write_at(turn % 2 * SLOT, &slot)?;
            self.file.sync_data()
        };
        write().during("write", &self.path).map_err(NotLocked::Io)?;
        (self.turn, self.last) = (turn, Some((next.clone(), note.clone())));
        Ok(Locked { checkpoint: next, note })
    }

    /// The last signed checkpoint as what it is.
    pub(crate) fn current(&self) -> Option<Locked<Checkpoint>> {
        let (checkpoint, note) = self.last.clone()?;
        Some(Locked { checkpoint, note })
    }
}

fn create_once(disk: &dyn Disk, dir: &Path, path: &Path) -> Result<(), LogError> {
    if disk.open_read(path).is_ok() {
        return Ok(());
    }
    // Complete under another name first: a lock file is whole or absent.
    disk.replace(path, &[0; 2 * SLOT as usize], ringfence_db::disk::Durable::Yes).during("create", path)?;
    disk.sync_dir(dir).during("sync", dir)
}

/// Turn u64, length u32, CRC32C u32 over the rest, note.
fn slot_bytes(turn: u64, note: &str) -> Vec<u8> {
    let mut bytes = turn.to_be_bytes().to_vec();
    bytes.extend_from_slice(&(note.len() as u32).to_be_bytes());
    bytes.extend_from_slice(&slot_crc(turn, note.as_bytes()).to_be_bytes());
    bytes.extend_from_slice(note.as_bytes());
    assert!(bytes.len() <= SLOT as usize, "a checkpoint with one signature has a few hundred bytes");
    bytes
}

fn parse_slot(bytes: &[u8]) -> Option<(u64, &str)> {
    let turn = u64::from_be_bytes(bytes[..8].try_into().ok()?);
    let len = u32::from_be_bytes(bytes[8..12].try_into().ok()?) as usize;
    let note = bytes.get(16..16 + len).filter(|_| len > 0)?;
    let crc = u32::from_be_bytes(bytes[12..16].try_into().ok()?);
    (crc == slot_crc(turn, note)).then(|| std::str::from_utf8(note).ok().map(|n| (turn, n)))?
}

fn slot_crc(turn: u64, note: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(&turn.to_be_bytes());
    digest.update(note);
    digest.finalize() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
    use ringfence_db::disk::sim::{Effect, Fault, SimDisk};
    use ringfence_format::tile::{leaf_hash, node_hash};

    struct Signer(Ed25519KeyPair);

    impl SignCheckpoint for Signer {
        fn name(&self) -> &str {
            "example.org/log"
        }
        fn public_key(&self) -> [u8; 32] {
            self.0.public_key().as_ref().try_into().unwrap()
        }
        fn sign(&self, note_text: &[u8]) -> [u8; 64] {
            self.0.sign(note_text).as_ref().try_into().unwrap()
        }
    }

    fn open(disk: &SimDisk) -> Result<CheckpointLock, LogError> {
        let signer = Signer(Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap());
        let key = VerifierKey::new(signer.name(), signer.public_key()).unwrap();
        disk.create_dir_all(Path::new("/log")).unwrap();
        CheckpointLock::open(disk, Path::new("/log"), Arc::new(signer), key)
    }

    fn tree(size: u64, root: Hash) -> Checkpoint {
        Checkpoint { origin: "example.org/log".into(), size, root }
    }

    #[test]
    fn invariant_7_only_an_extension_of_the_last_checkpoint_is_signed() {
        let disk = SimDisk::new();
        let mut lock = open(&disk).unwrap();
        let [a, b, c] = [b"a", b"b", b"c"].map(|entry| leaf_hash(entry));
        let _ = lock.replace(tree(1, a), &[]).unwrap();
        let fork = lock.replace(tree(2, node_hash(&c, &b)), &[b]);
        assert!(matches!(fork, Err(NotLocked::Fork { .. })));
        assert!(matches!(lock.replace(tree(1, c), &[]), Err(NotLocked::Fork { .. })));
        assert!(matches!(lock.replace(tree(0, a), &[]), Err(NotLocked::Fork { .. })));
        let locked = lock.replace(tree(2, node_hash(&a, &b)), &[b]).unwrap();
        assert_eq!(locked.checkpoint().size, 2);
        assert!(matches!(open(&disk), Err(LogError::InUse(_))));
        drop(lock);
        assert_eq!(open(&disk).unwrap().last().unwrap().0.size, 2);
    }

    #[test]
    fn a_torn_checkpoint_leaves_the_one_before() {
        let disk = SimDisk::new();
        let mut lock = open(&disk).unwrap();
        let [a, b] = [b"a", b"b"].map(|entry| leaf_hash(entry));
        let _ = lock.replace(tree(1, a), &[]).unwrap();
        disk.script(|step| (step.effect == Effect::Sync).then_some(Fault::Stops));
        assert!(matches!(lock.replace(tree(2, node_hash(&a, &b)), &[b]), Err(NotLocked::Io(_))));
        for seed in 0..50 {
            let size = open(&disk.crash(seed)).unwrap().last().unwrap().0.size;
            assert!(size == 1 || size == 2);
        }
    }
}
