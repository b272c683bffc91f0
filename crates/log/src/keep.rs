//! Housekeeping beside the sequencer: prepares the next segment and the
//! reserve, and seals segments that are full.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::PoisonError;
use std::time::Duration;

use ringfence_db::disk::{Disk, DiskFile, Durable};
use ringfence_format::leaf::LeafEntry;
use ringfence_format::record::Seq;
use ringfence_format::tile::{self, Edge, LEVELS_MAX, TILE_HEIGHT, TILE_WIDTH, TileKind, TilePath, leaf_hash};

use crate::error::{During, LogError};
use crate::inner::{Chores, Ending, Inner, held};
use crate::publish::Published;
use crate::segment::{self, RESERVE, SPARE, Segment};
use crate::space::{Growth, Spare};

/// A full segment that is not sealed yet.
pub(crate) struct Retired {
    pub(crate) segment: Segment,
    pub(crate) file: Box<dyn DiskFile>,
    /// Where its frames end.
    pub(crate) end: u64,
    /// The first record of the next segment.
    pub(crate) next: Seq,
}

/// How often a full disk is looked at again.
const RETRY: Duration = Duration::from_secs(2);

impl Inner {
    /// The supplier's thread: the sequencer may wait for it.
    pub(crate) fn supply_loop(&self) {
        self.chore_loop(Inner::supply, |chores| &mut chores.supplied);
    }

    /// The sealer's thread, apart from the supplier's: syncing the tiles of a
    /// segment may take longer than the next segment lasts.
    pub(crate) fn seal_loop(&self) {
        let seal = |inner: &Inner| {
            if let Err(error) = inner.seal_retired() {
                tracing::warn!(%error, "a full segment of the log could not be sealed yet");
            }
        };
        self.chore_loop(seal, |chores| &mut chores.sealed);
    }

    fn chore_loop(&self, work: impl Fn(&Inner), done: fn(&mut Chores) -> &mut u64) {
        loop {
            let seen = held(&self.chores).kicked;
            work(self);
            let mut chores = held(&self.chores);
            *done(&mut chores) = seen;
            self.chores_wake.notify_all();
            if chores.ending == Ending::Now {
                return;
            }
            // Not a plain wait: the other thread's "done" is no reason to work.
            let idle = |chores: &mut Chores| chores.kicked == seen && chores.ending == Ending::NotYet;
            drop(self.chores_wake.wait_timeout_while(chores, RETRY, idle).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Prepares what is missing, the spare first: the next roll needs it.
    pub(crate) fn supply(&self) {
        while let Some(missing) = self.missing() {
            let made = self.within_budget().and_then(|()| {
                segment::prepare(self.disk.as_ref(), &self.records, missing, self.options.segment_bytes)
            });
            let mut front = held(&self.front);
            match (&made, missing) {
                (Ok(()), RESERVE) => front.space.reserve_made(),
                (Ok(()), _) => front.space.spare_made(),
                (Err(_), _) => front.space.growth_stopped(),
            }
            let stopped = front.space.growth == Growth::Stopped;
            drop(front);
            self.supplied.notify_all();
            metrics::gauge!("ringfence_log_state").set(if stopped { 1.0 } else { 0.0 });
            if let Err(error) = made {
                tracing::warn!(%error, "no further segment of the log can be prepared: writes stop soon, then reads");
                return;
            }
        }
    }

    fn missing(&self) -> Option<&'static str> {
        let front = held(&self.front);
        if matches!(front.state, crate::sequencer::State::Failed(_)) {
            return None;
        }
        let space = &front.space;
        // After a stop the reserve is made good before anybody may write again.
        if space.growth == Growth::Stopped && !space.reserve {
            Some(RESERVE)
        } else if space.spare == Spare::Absent {
            Some(SPARE)
        } else if !space.reserve {
            Some(RESERVE)
        } else {
            None
        }
    }

    fn within_budget(&self) -> Result<(), LogError> {
        let space = self.disk.space(&self.dir).during("measure", &self.dir)?;
        let used = self.used_bytes();
        // What the log may grow to: its budget, or what the disk still has.
        let budget = self.options.budget_bytes.unwrap_or(u64::MAX);
        let capacity = budget.min(used.saturating_add(space.free));
        let scarce = space.free < 4 * self.options.segment_bytes;
        let ratio = used as f64 / capacity.max(1) as f64;
        self.report(if scarce { ratio.max(0.9) } else { ratio })?;
        if used + self.options.segment_bytes <= budget {
            return Ok(());
        }
        let why = format!("{used} of {budget} bytes of the log's budget are used");
        let kind = std::io::ErrorKind::QuotaExceeded;
        Err(LogError::Io { what: "extend", path: self.records.clone(), why, kind })
    }

    fn report(&self, used: f64) -> Result<(), LogError> {
        metrics::gauge!("ringfence_log_space_used_ratio").set(used);
        if used >= 0.8 {
            tracing::warn!(percent = (used * 100.0) as u64, "the log's space is running out");
        }
        Ok(())
    }

    /// Bytes of all segments, and of the tiles as they grow with the records.
    fn used_bytes(&self) -> u64 {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let records: u64 = segments.iter().map(|s| s.len()).sum();
        let space = &held(&self.front).space;
        let prepared = u64::from(space.spare != Spare::Absent) + u64::from(space.reserve);
        records + prepared * self.options.segment_bytes + self.durable() * TREE_BYTES_PER_RECORD
    }

    /// Seals full segments whose records are published, oldest first. The
    /// tiles go to the disk before, so that a start need not look into sealed
    /// segments any more.
    pub(crate) fn seal_retired(&self) -> Result<(), LogError> {
        loop {
            let published = self.published();
            let due = {
                let mut retired = held(&self.retired);
                let due = retired.first().is_some_and(|r| r.next <= published.checkpoint.size);
                due.then(|| retired.remove(0))
            };
            let Some(done) = due else { return Ok(()) };
            let sealed = self.settle(&published).and_then(|()| {
                let Segment { path, epoch, .. } = &done.segment;
                segment::seal(done.file.as_ref(), path, *epoch, done.next, done.end)
            });
            if sealed.is_err() {
                held(&self.retired).insert(0, done);
                return sealed;
            }
            let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(listed) = segments.iter().find(|s| s.segment.epoch == done.segment.epoch) {
                listed.sealed(done.end + crate::frame::FOOTER as u64);
            }
        }
    }

    /// Syncs the full tiles of the tree and remembers its edge: where the next
    /// start begins.
    fn settle(&self, published: &Published) -> Result<(), LogError> {
        let from = Settled::read(self.disk.as_ref(), &self.dir).map_or(0, |s| s.edge.size());
        if from >= published.edge.size() {
            return Ok(());
        }
        let mut dirs = BTreeSet::new();
        for tile in full_tiles(from, published.edge.size()) {
            let file = self.tile_file(&tile);
            self.disk.open(&file).and_then(|f| f.sync_data()).during("sync", &file)?;
            dirs.extend(file.ancestors().skip(1).take_while(|dir| *dir != self.dir).map(ToOwned::to_owned));
        }
        for dir in dirs {
            self.disk.sync_dir(&dir).during("sync", &dir)?;
        }
        let settled = Settled { edge: published.edge.clone(), tail: published.tail.clone() };
        settled.write(self.disk.as_ref(), &self.dir)
    }
}

/// The tree's right edge at a moment when everything to its left was durable,
/// in `DIR/log/edge`. Only a shortcut: a start believes it if the tree that
/// grows from it has the signed root.
pub(crate) struct Settled {
    pub(crate) edge: Edge,
    /// The entries since the last full bundle.
    pub(crate) tail: Vec<LeafEntry>,
}

impl Settled {
    pub(crate) fn read(disk: &dyn Disk, dir: &Path) -> Option<Self> {
        let bytes = disk.read(&dir.join("edge")).ok()?;
        let (len, rest) = bytes.split_first_chunk::<4>()?;
        let (edge, bundle) = rest.split_at_checked(u32::from_be_bytes(*len) as usize)?;
        let edge = Edge::from_bytes(edge)?;
        let tail: Option<Vec<LeafEntry>> = tile::entries(bundle)?.into_iter().map(LeafEntry::from_bytes).collect();
        // The root says nothing of the entries themselves, and they are shown.
        let hashes = |tail: &[LeafEntry]| tail.iter().map(|entry| leaf_hash(entry)).collect::<Vec<_>>();
        let tail = tail.filter(|tail| hashes(tail) == edge.partial(0))?;
        Some(Self { edge, tail })
    }

    fn write(&self, disk: &dyn Disk, dir: &Path) -> Result<(), LogError> {
        let edge = self.edge.to_bytes();
        let mut bytes = (edge.len() as u32).to_be_bytes().to_vec();
        bytes.extend_from_slice(&edge);
        bytes.extend_from_slice(&tile::bundle(&self.tail));
        let path = dir.join("edge");
        disk.replace(&path, &bytes, Durable::Yes).during("replace", &path)
    }
}

/// 35 bytes of entry, 32 of hash, and a 256th of it above. Public parts are
/// few beside them, and are counted once, in their segments.
const TREE_BYTES_PER_RECORD: u64 = 68;

/// The tiles that became full while the tree grew.
fn full_tiles(from: Seq, to: Seq) -> impl Iterator<Item = TilePath> {
    let kinds = std::iter::once((TileKind::Entries, 0)).chain((0..LEVELS_MAX).map(|l| (TileKind::Hashes(l), l)));
    kinds.flat_map(move |(kind, level)| {
        let full = |size: Seq| (size >> (level * TILE_HEIGHT)) / TILE_WIDTH;
        (full(from)..full(to)).map(move |index| TilePath::full(kind, index))
    })
}
