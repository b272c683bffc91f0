//! What the threads of one open log share, and who owns which part of it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};

use ringfence_db::clock::Clock;
use ringfence_db::disk::Disk;
use ringfence_format::checkpoint::VerifierKey;
use ringfence_format::leaf::{Hash, LeafEntry};
use ringfence_format::record::Seq;

use crate::keep::Retired;
use crate::log::Options;
use crate::publish::{Published, Tree};
use crate::reader::Catalogued;
use crate::seal::SealRecord;
use crate::sequencer::{Front, Writer};
use crate::witnessed::Witnesses;

pub(crate) struct Inner {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) sealer: Arc<dyn SealRecord>,
    pub(crate) dir: PathBuf,
    pub(crate) records: PathBuf,
    pub(crate) key: VerifierKey,
    /// SHA-256 of the origin; stands in every segment's header.
    pub(crate) origin: Hash,
    pub(crate) options: Options,

    /// What waits to be written; every caller's first and only lock.
    pub(crate) front: Mutex<Front>,
    /// The front has work for the sequencer, or is closing.
    pub(crate) work: Condvar,
    /// A segment was prepared, or cannot be; waited for with `front`.
    pub(crate) supplied: Condvar,
    /// Owned by whoever sequences: the sequencer's thread, or a step.
    pub(crate) writer: Mutex<Writer>,
    /// Every record before this one is durable; written by the sequencer only.
    pub(crate) durable: AtomicU64,
    /// Entries that are durable and not yet in the tree.
    pub(crate) fresh: Mutex<Fresh>,
    /// `fresh` has entries, or somebody waits for a checkpoint.
    pub(crate) published_wake: Condvar,
    /// Owned by whoever publishes: the publisher's thread, or a step.
    pub(crate) tree: Mutex<Tree>,
    /// What was last published.
    pub(crate) published: RwLock<Arc<Published>>,
    /// Every segment with records in it, oldest first.
    pub(crate) segments: RwLock<Vec<Arc<Catalogued>>>,
    /// Segments that are full and wait to be sealed.
    pub(crate) retired: Mutex<Vec<Retired>>,
    /// Held while segments are written anew: one cut at a time.
    pub(crate) cutting: Mutex<()>,
    /// What witnesses said of the published checkpoints.
    pub(crate) witnesses: Witnesses,
    /// Whether there is housekeeping to do, or it is to end.
    pub(crate) chores: Mutex<Chores>,
    pub(crate) chores_wake: Condvar,
}

#[derive(Default)]
pub(crate) struct Fresh {
    pub(crate) entries: Vec<LeafEntry>,
    /// How many times publishing was asked for, and done, and how it went.
    pub(crate) asked: u64,
    pub(crate) done: u64,
    pub(crate) error: Option<crate::LogError>,
    pub(crate) ending: Ending,
}

#[derive(Default)]
pub(crate) struct Chores {
    pub(crate) kicked: u64,
    /// Up to which kick each of the two has done what was due.
    pub(crate) supplied: u64,
    pub(crate) sealed: u64,
    pub(crate) ending: Ending,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Ending {
    #[default]
    NotYet,
    Now,
}

impl Inner {
    pub(crate) fn durable(&self) -> Seq {
        self.durable.load(Ordering::Acquire)
    }

    pub(crate) fn published(&self) -> Arc<Published> {
        self.published.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives the supplier and the sealer something to do.
    pub(crate) fn kick(&self) {
        held(&self.chores).kicked += 1;
        self.chores_wake.notify_all();
    }
}

/// Locks. A panic elsewhere leaves nothing half-done under these locks: what a
/// caller's code makes (records, seals) is made before the state is touched.
pub(crate) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
