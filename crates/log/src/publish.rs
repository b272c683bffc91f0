//! Integrate → prove → sign → publish: what was made durable becomes part of
//! the tree, and the tree becomes visible under a signed checkpoint.
//!
//! Only durable records get here, so a published checkpoint is never ahead of
//! the records. Files are written in an order that static web servers can
//! serve at any moment: tiles first, then the checkpoint that covers them.
//! Tiles are not synced here: until their segment is sealed they are made
//! anew from the records at each start.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::Instant;

use ringfence_db::disk::Durable;
use ringfence_format::checkpoint::Checkpoint;
use ringfence_format::leaf::{Hash, LeafEntry};
use ringfence_format::proof::{self, Nodes};
use ringfence_format::record::Seq;
use ringfence_format::tile::{self, Edge, TILE_HEIGHT, TILE_WIDTH, TileKind, TilePath, leaf_hash};

use crate::error::{During, LogError};
use crate::inner::{Ending, Inner, held};
use crate::keep::Settled;
use crate::lock::{CheckpointLock, Locked, NotLocked};

/// The tree, with what of it is not yet on the disk.
pub(crate) struct Tree {
    pub(crate) edge: Edge,
    /// Entries since the last full bundle.
    pub(crate) tail: Vec<LeafEntry>,
    /// Full tiles and bundles still to be written; kept when the disk is full.
    todo: Tiles,
    pub(crate) lock: CheckpointLock,
    /// The partial tiles of the last few checkpoints, oldest first.
    partials: VecDeque<Vec<TilePath>>,
    made_dirs: std::collections::HashSet<PathBuf>,
}

/// Partial tiles of this many checkpoints stay, so that a client that read one
/// a moment ago finds what belongs to it.
const PARTIALS_KEPT: usize = 8;

/// What the world sees.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) note: String,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) edge: Edge,
    pub(crate) tail: Vec<LeafEntry>,
}

impl Tree {
    pub(crate) fn new(edge: Edge, tail: Vec<LeafEntry>, lock: CheckpointLock) -> Self {
        Self {
            edge,
            tail,
            todo: VecDeque::new(),
            lock,
            partials: VecDeque::new(),
            made_dirs: std::collections::HashSet::new(),
        }
    }

    /// Begins again from an earlier edge; what was signed stays signed.
    pub(crate) fn restart(&mut self, from: Settled) {
        (self.edge, self.tail) = (from.edge, from.tail);
        self.todo.clear();
    }

    fn append(&mut self, entry: LeafEntry) {
        let mut full = Vec::new();
        self.edge.push(leaf_hash(&entry), &mut full);
        self.tail.push(entry);
        if self.tail.len() as u64 == TILE_WIDTH {
            let index = self.edge.size() / TILE_WIDTH - 1;
            self.todo.push_back((TilePath::full(TileKind::Entries, index), tile::bundle(&self.tail)));
            self.tail.clear();
        }
        for done in full {
            let path = TilePath::full(TileKind::Hashes(done.level), done.index);
            self.todo.push_back((path, done.hashes.concat()));
        }
    }

    /// What a partial tile of the tree's right edge holds.
    fn partial_bytes(&self, path: &TilePath) -> Vec<u8> {
        match path.kind {
            TileKind::Entries => tile::bundle(&self.tail),
            TileKind::Hashes(level) => self.edge.partial(level).concat(),
        }
    }
}

impl Inner {
    /// The publisher's thread: soon after the first new record, then at most
    /// once per interval.
    pub(crate) fn publish_loop(&self) {
        let mut last = None::<Instant>;
        let mut failed = false;
        loop {
            let mut fresh = held(&self.fresh);
            let (asked, ending) = loop {
                if fresh.asked > fresh.done || fresh.ending == Ending::Now {
                    break (fresh.asked, fresh.ending);
                }
                let since = last.map_or(self.options.publish_every, |at| at.elapsed());
                let wait = self.options.publish_every.saturating_sub(since);
                let idle = fresh.entries.is_empty() && !failed;
                if !idle && wait.is_zero() {
                    break (fresh.asked, fresh.ending);
                }
                fresh = if idle {
                    self.published_wake.wait(fresh).unwrap_or_else(PoisonError::into_inner)
                } else {
                    self.published_wake.wait_timeout(fresh, wait).unwrap_or_else(PoisonError::into_inner).0
                };
            };
            drop(fresh);
            let result = self.publish_once();
            failed = result.is_err();
            last = Some(Instant::now());
            if let Err(error) = &result {
                metrics::counter!("ringfence_log_publish_errors_total").increment(1);
                tracing::warn!(%error, "the log's checkpoint could not be published; records go on, trying again");
            }
            let mut fresh = held(&self.fresh);
            (fresh.done, fresh.error) = (asked, result.err());
            drop(fresh);
            self.published_wake.notify_all();
            self.kick();
            if ending == Ending::Now {
                return;
            }
        }
    }

    /// Publishes everything that is durable.
    pub(crate) fn publish_once(&self) -> Result<(), LogError> {
        let tree = &mut *held(&self.tree);
        // 1. Integrate. From here on the tree, not `fresh`, holds these entries.
        let entries = std::mem::take(&mut held(&self.fresh).entries);
        entries.into_iter().for_each(|entry| tree.append(entry));
        let size = tree.edge.size();
        if tree.todo.is_empty() && tree.lock.last().is_some_and(|(last, _)| last.size == size) && self.shows(size) {
            return Ok(());
        }
        // 2. Prove that it extends what was signed, before a tile is touched: on
        // a disk that was tampered with, they are the evidence.
        let next = Checkpoint { origin: self.key.name().to_owned(), size, root: tree.edge.root() };
        let path = self.extension(tree, &next)?;
        // 3. Full tiles, then the partial ones of the right edge.
        while let Some((path, bytes)) = tree.todo.front() {
            self.write_tile(&mut tree.made_dirs, path, bytes)?;
            tree.todo.pop_front();
        }
        let partials = TilePath::edge(size);
        for path in &partials {
            if !tree.partials.back().is_some_and(|last| last.contains(path)) {
                let bytes = tree.partial_bytes(path);
                self.write_tile(&mut tree.made_dirs, path, &bytes)?;
            }
        }
        // 4. Sign, and show it.
        let locked = self.sign(tree, next, &path)?;
        let path = self.dir.join("checkpoint");
        self.disk.replace(&path, locked.note().as_bytes(), Durable::No).during("replace", &path)?;
        let published = Published {
            note: locked.note().to_owned(),
            checkpoint: locked.checkpoint().clone(),
            edge: tree.edge.clone(),
            tail: tree.tail.clone(),
        };
        *self.published.write().unwrap_or_else(PoisonError::into_inner) = std::sync::Arc::new(published);
        self.witnesses.tell();
        metrics::gauge!("ringfence_log_published_records").set(size as f64);
        tree.partials.push_back(partials);
        self.prune(tree);
        Ok(())
    }

    fn shows(&self, size: Seq) -> bool {
        let published = self.published();
        published.checkpoint.size == size && !published.note.is_empty()
    }

    /// The proof that `next` extends the last signed checkpoint.
    fn extension(&self, tree: &Tree, next: &Checkpoint) -> Result<Vec<Hash>, LogError> {
        let Some((last, _)) = tree.lock.last() else { return Ok(Vec::new()) };
        let path = if 0 < last.size && last.size < next.size {
            let mut nodes = TileReader { inner: self, edge: &tree.edge, unwritten: &tree.todo };
            proof::consistency(&mut nodes, last.size, next.size)?
        } else {
            Vec::new()
        };
        if tree.lock.extends(next, &path) { Ok(path) } else { Err(self.stop_before_fork(last, next)) }
    }

    fn sign(&self, tree: &mut Tree, next: Checkpoint, path: &[Hash]) -> Result<Locked<Checkpoint>, LogError> {
        if let Some(current) = tree.lock.current().filter(|current| *current.checkpoint() == next) {
            return Ok(current);
        }
        tree.lock.replace(next, path).map_err(|why| match why {
            NotLocked::Io(error) => error,
            NotLocked::Fork { last, next } => self.stop_before_fork(&last, &next),
        })
    }

    /// The tree in memory or the tiles on the disk no longer extend what was
    /// signed: nothing may be recorded on top of that.
    fn stop_before_fork(&self, last: &Checkpoint, next: &Checkpoint) -> LogError {
        let why = format!(
            "the tree of {} records does not extend the signed tree of {} records: run `ringfence log verify`",
            next.size, last.size
        );
        held(&self.front).state = crate::sequencer::State::Failed(why.clone());
        LogError::Failed(why)
    }

    pub(crate) fn tile_file(&self, path: &TilePath) -> PathBuf {
        self.dir.join(path.to_string())
    }

    /// Writes a tile unless it is there already, as it is after most restarts.
    fn write_tile(
        &self,
        made_dirs: &mut std::collections::HashSet<PathBuf>,
        path: &TilePath,
        bytes: &[u8],
    ) -> Result<(), LogError> {
        let file = self.tile_file(path);
        let dir = file.parent().expect("a tile lies in a directory").to_owned();
        if !made_dirs.contains(&dir) {
            self.disk.create_dirs(&dir).during("create", &dir)?;
            // A directory of a partial tile serves one tile and goes with it.
            if path.width == TILE_WIDTH {
                made_dirs.insert(dir);
            }
        }
        match self.disk.create(&file) {
            Ok(new) => new.write_at(0, bytes).during("write", &file),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                let same = self.disk.read(&file).is_ok_and(|old| old == bytes);
                if same { Ok(()) } else { self.disk.replace(&file, bytes, Durable::No).during("replace", &file) }
            }
            Err(e) => Err(e).during("create", &file),
        }
    }

    /// Takes away partial tiles that belong to none of the last checkpoints.
    fn prune(&self, tree: &mut Tree) {
        while tree.partials.len() > PARTIALS_KEPT {
            let Some(old) = tree.partials.pop_front() else { return };
            for path in old.iter().filter(|path| !tree.partials.iter().any(|kept| kept.contains(path))) {
                let file = self.tile_file(path);
                // What cannot be taken away now is in nobody's way.
                let _ = self.disk.unlink(&file);
                let _ = file.parent().map(|dir| self.disk.remove_dir(dir));
            }
        }
    }

    /// Asks the publisher for a checkpoint over everything that is durable
    /// now, and waits for it.
    pub(crate) fn publish_and_wait(&self) -> Result<(), LogError> {
        let mut fresh = held(&self.fresh);
        fresh.asked += 1;
        let mine = fresh.asked;
        self.published_wake.notify_all();
        while fresh.done < mine && fresh.ending == Ending::NotYet {
            fresh = self.published_wake.wait(fresh).unwrap_or_else(PoisonError::into_inner);
        }
        fresh.error.clone().map_or(Ok(()), Err)
    }
}

/// Tiles and what they hold.
pub(crate) type Tiles = VecDeque<(TilePath, Vec<u8>)>;

/// The hashes of a tree: the right edge and what is not written yet from
/// memory, other full tiles from the disk.
pub(crate) struct TileReader<'a> {
    pub(crate) inner: &'a Inner,
    pub(crate) edge: &'a Edge,
    pub(crate) unwritten: &'a Tiles,
}

impl TileReader<'_> {
    fn full(&self, path: &TilePath) -> Result<Vec<Hash>, LogError> {
        let bytes = match self.unwritten.iter().find(|(unwritten, _)| unwritten == path) {
            Some((_, bytes)) => tile::hashes(bytes),
            None => {
                let file = self.inner.tile_file(path);
                tile::hashes(&self.inner.disk.read(&file).during("read", &file)?)
            }
        };
        Ok(bytes.unwrap_or_default())
    }
}

impl Nodes for TileReader<'_> {
    type Error = LogError;

    fn hashes(&mut self, level: u32, first: u64, count: u64) -> Result<Vec<Hash>, LogError> {
        let index = first / TILE_WIDTH;
        let from = (first % TILE_WIDTH) as usize;
        let in_edge = self.edge.size() >> ((level + 1) * TILE_HEIGHT) == index;
        let hashes = if in_edge {
            self.edge.partial(level).to_vec()
        } else {
            self.full(&TilePath::full(TileKind::Hashes(level), index))?
        };
        let part = hashes.get(from..from + count as usize).map(<[Hash]>::to_vec);
        part.ok_or_else(|| LogError::NoTile(TilePath::full(TileKind::Hashes(level), index).to_string()))
    }
}
