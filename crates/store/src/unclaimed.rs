//! What was written to sites and is not yet in the catalogue.
//!
//! Each write attempt carries a guard. A commit claims it; dropped unclaimed,
//! its names go to a list from where maintenance gives the attempts up on
//! record and erases them. A crash loses the list: sweep then finds the same
//! names at the sites.

use std::sync::{Arc, Mutex, PoisonError};

use ringfence_db::clock::Clock;
use ringfence_format::names::{SiteId, UploadId};
use ringfence_format::redo::PackAddr;

/// An attempt that came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Abandoned {
    /// The attempt, or the head.
    pub(crate) id: UploadId,
    /// `apply::KIND_CHUNKS` or `apply::KIND_HEAD`.
    pub(crate) kind: i64,
    /// Where something of it may lie.
    pub(crate) sites: Vec<SiteId>,
    /// Chunks that may have been written.
    pub(crate) chunks: u32,
    /// Where it was packed: packed things are not found by name.
    pub(crate) packed: Vec<(SiteId, PackAddr)>,
    /// When it was given up, milliseconds since the epoch.
    pub(crate) since_ms: u64,
}

/// The list of a process's abandoned attempts.
pub(crate) struct Attic {
    clock: Arc<dyn Clock>,
    list: Mutex<Vec<Abandoned>>,
}

impl Attic {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { clock, list: Mutex::default() })
    }

    /// Takes out what was abandoned before `before_ms`.
    pub(crate) fn take(&self, before_ms: u64) -> Vec<Abandoned> {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let (due, later) = std::mem::take(&mut *list).into_iter().partition(|a| a.since_ms <= before_ms);
        *list = later;
        due
    }

    /// Puts back what could not be dealt with.
    pub(crate) fn put_back(&self, abandoned: Vec<Abandoned>) {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).extend(abandoned);
    }
}

/// The guard of what one attempt has written.
pub(crate) struct Unclaimed {
    attic: Arc<Attic>,
    left: Vec<Abandoned>,
}

impl std::fmt::Debug for Unclaimed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Unclaimed({})", self.left.len())
    }
}

impl Unclaimed {
    pub(crate) fn new(attic: &Arc<Attic>) -> Self {
        Self { attic: attic.clone(), left: Vec::new() }
    }

    /// Notes a name before anything is written under it.
    pub(crate) fn note(&mut self, id: UploadId, kind: i64, sites: &[SiteId], chunks: u32) {
        if let Some(noted) = self.left.iter_mut().find(|a| a.id == id) {
            noted.chunks = noted.chunks.max(chunks);
            return;
        }
        self.left.push(Abandoned { id, kind, sites: sites.to_vec(), chunks, packed: Vec::new(), since_ms: 0 });
    }

    /// Notes where a site says it has put it.
    pub(crate) fn stored(&mut self, id: UploadId, site: &SiteId, at: Option<PackAddr>) {
        if let (Some(at), Some(noted)) = (at, self.left.iter_mut().find(|a| a.id == id)) {
            noted.packed.push((site.clone(), at));
        }
    }

    /// Both guards in one.
    pub(crate) fn join(&mut self, mut other: Self) {
        self.left.append(&mut other.left);
    }

    /// The catalogue refers to it now, or may after the next start.
    pub(crate) fn claim(&mut self) {
        self.left.clear();
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if self.left.is_empty() {
            return;
        }
        let now = self.attic.clock.now_us() / 1000;
        self.left.iter_mut().for_each(|abandoned| abandoned.since_ms = now);
        self.attic.put_back(std::mem::take(&mut self.left));
    }
}
