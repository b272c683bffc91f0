//! Verifying a whole log, offline, on a copy, with only its public key.
//!
//! Everything is recomputed: each tile from the entries, the root from the
//! tiles, each entry from the commitments that lie in clear beside a record's
//! sealed fields. A history that was rewritten and signed again with the
//! log's own key passes all of that; it fails only against a checkpoint that
//! somebody kept from before.

use std::collections::BTreeSet;
use std::path::Path;
use std::vec::IntoIter;

use ringfence_db::disk::Disk;
use ringfence_format::checkpoint::{BadCheckpoint, Checkpoint, VerifierKey, verify as verify_note};
use ringfence_format::leaf::{Hash, LeafEntry, SealedRecord};
use ringfence_format::record::Seq;
use ringfence_format::tile::{self, Edge, FullTile, TILE_WIDTH, TileKind, TilePath, leaf_hash};

use crate::error::LogError;
use crate::recover::origin_of;
use crate::segment::{self, Scan, Segment};

/// What was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The checkpoint that everything was verified against.
    pub checkpoint: Checkpoint,
    /// Entries that are in its tree.
    pub entries: u64,
    /// Of these, how many have a public part.
    pub public: u64,
    /// Records on the disk whose commitments are those of their entries.
    pub records: u64,
    /// Of these, how many have had their fields erased.
    pub erased: u64,
    /// The records under which that was done.
    pub erased_by: BTreeSet<Seq>,
    /// Of these, how many have had their fields trimmed by retention.
    pub trimmed: u64,
    /// The records under which that was done.
    pub trimmed_by: BTreeSet<Seq>,
    /// Entries whose records are not in this copy, which has the tree alone.
    pub without_records: u64,
    /// Records that are on the disk and not yet under the checkpoint.
    pub beyond: u64,
    /// Size of the earlier checkpoint whose tree this one extends, if one was given.
    pub extends: Option<Seq>,
}

/// Why a log does not verify: the first thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotVerified {
    /// The checkpoint, or the earlier one, is not believed.
    #[error("{which} checkpoint: {why}")]
    Checkpoint {
        /// `the` or `the earlier`.
        which: &'static str,
        /// Why.
        why: BadCheckpoint,
    },
    /// The first index at which something differs.
    #[error("record {index}: {what}")]
    Diverges {
        /// Where.
        index: Seq,
        /// What differs from what.
        what: String,
    },
    /// Every tile is consistent in itself, but not with what was signed.
    #[error("the {size} entries of the log do not have the root that was signed")]
    Root {
        /// How many.
        size: Seq,
    },
    /// The history before an earlier checkpoint was changed and signed again.
    #[error(
        "the first {size} entries are not those of the earlier checkpoint: the history was rewritten and signed \
         again; the log's signing key must be considered stolen"
    )]
    Rewritten {
        /// Size of the earlier checkpoint.
        size: Seq,
    },
    /// The log is shorter than the earlier checkpoint.
    #[error("the log has {now} entries, the earlier checkpoint {earlier}: its end was cut off")]
    Shorter {
        /// Entries now.
        now: Seq,
        /// Entries then.
        earlier: Seq,
    },
    /// A file cannot be read.
    #[error("{0}")]
    Unreadable(String),
}

/// Verifies the log in `dir`. `earlier` is a checkpoint that was kept from
/// before, as a signed note. `progress` is told how many entries are done, of
/// how many.
pub fn verify(
    disk: &dyn Disk,
    dir: &Path,
    key: &VerifierKey,
    earlier: Option<&str>,
    mut progress: impl FnMut(u64, u64),
) -> Result<Verified, NotVerified> {
    let checkpoint = read_checkpoint(disk, dir, key)?;
    let earlier = earlier.map(|note| believed(note, key, "the earlier")).transpose()?;
    if let Some(earlier) = earlier.as_ref().filter(|e| e.size > checkpoint.size) {
        return Err(NotVerified::Shorter { now: checkpoint.size, earlier: earlier.size });
    }
    let size = checkpoint.size;
    let mut tree = Tree { disk, dir, size, edge: Edge::new(), full: Vec::new() };
    let mut on_disk = OnDisk::begin(disk, &dir.join("records"), &origin_of(key))?;
    let has_records = on_disk.next != Seq::MAX;
    if has_records && on_disk.next > 0 {
        return diverges(0, "the record is missing");
    }
    let mut done = Verified {
        checkpoint,
        entries: 0,
        public: 0,
        records: 0,
        erased: 0,
        erased_by: BTreeSet::new(),
        trimmed: 0,
        trimmed_by: BTreeSet::new(),
        without_records: if has_records { 0 } else { size },
        beyond: 0,
        extends: None,
    };
    let mut public = 0;
    for index in 0..size.div_ceil(TILE_WIDTH) {
        tree.check_bundle(
            index,
            |seq, entry| {
                public += u64::from(matches!(entry, LeafEntry::Public(_)));
                if has_records { on_disk.check(seq, entry, &mut done) } else { Ok(()) }
            },
            earlier.as_ref(),
        )?;
        done.entries = tree.edge.size();
        progress(done.entries, size);
    }
    if tree.edge.root() != done.checkpoint.root {
        return Err(NotVerified::Root { size });
    }
    if let Some(earlier) = &earlier {
        tree.check_earlier(earlier)?;
    }
    done.public = public;
    done.extends = earlier.map(|e| e.size);
    while on_disk.frame()?.is_some() {
        done.beyond += 1;
    }
    let there = size + done.beyond;
    match done.erased_by.union(&done.trimmed_by).find(|by| **by >= there) {
        Some(by) => diverges(*by, "fields were taken in the name of this record, which is not there"),
        None => Ok(done),
    }
}

fn read_checkpoint(disk: &dyn Disk, dir: &Path, key: &VerifierKey) -> Result<Checkpoint, NotVerified> {
    let path = dir.join("checkpoint");
    let bytes = disk.read(&path).map_err(|e| unreadable(&path, &e))?;
    believed(&String::from_utf8_lossy(&bytes), key, "the")
}

fn believed(note: &str, key: &VerifierKey, which: &'static str) -> Result<Checkpoint, NotVerified> {
    verify_note(note, key).map_err(|why| NotVerified::Checkpoint { which, why })
}

fn unreadable(path: &Path, why: &dyn std::fmt::Display) -> NotVerified {
    NotVerified::Unreadable(format!("cannot read `{}`: {why}", path.display()))
}

fn diverges<T>(index: Seq, what: impl Into<String>) -> Result<T, NotVerified> {
    Err(NotVerified::Diverges { index, what: what.into() })
}

/// The tree as it is recomputed from the entries.
struct Tree<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    size: Seq,
    edge: Edge,
    full: Vec<FullTile>,
}

impl Tree<'_> {
    /// Recomputes one bundle and every tile that it completes.
    fn check_bundle(
        &mut self,
        index: u64,
        mut each: impl FnMut(Seq, &LeafEntry) -> Result<(), NotVerified>,
        earlier: Option<&Checkpoint>,
    ) -> Result<(), NotVerified> {
        let first = index * TILE_WIDTH;
        let bundle = self.tile(TileKind::Entries, index)?;
        let hashes = self.hashes(0, index)?;
        let width = TilePath::width_in(TileKind::Entries, index, self.size);
        let Some(entries) = tile::entries(&bundle).filter(|e| e.len() as u64 >= width) else {
            return diverges(first, "its entry bundle is malformed or too short");
        };
        for ((seq, entry), hash) in (first..self.size).zip(entries).zip(&hashes) {
            let Some(read) = LeafEntry::from_bytes(entry) else {
                return diverges(seq, "its entry is malformed, or of a type that is not known");
            };
            if leaf_hash(entry) != *hash {
                return diverges(seq, "its entry is not the one in the tree");
            }
            each(seq, &read)?;
            self.edge.push(*hash, &mut self.full);
            if let Some(earlier) = earlier {
                self.check_earlier(earlier)?;
            }
        }
        self.check_full()?;
        if self.edge.size() == self.size { self.check_partial() } else { Ok(()) }
    }

    /// The tiles that became full, against those on the disk.
    fn check_full(&mut self) -> Result<(), NotVerified> {
        for full in std::mem::take(&mut self.full) {
            let span = 1 << (full.level * tile::TILE_HEIGHT);
            self.same(full.level, full.index, span, &full.hashes)?;
        }
        Ok(())
    }

    fn check_partial(&self) -> Result<(), NotVerified> {
        for path in TilePath::edge(self.size) {
            if let TileKind::Hashes(level) = path.kind {
                let span = 1 << (level * tile::TILE_HEIGHT);
                self.same(level, path.index, span, self.edge.partial(level))?;
            }
        }
        Ok(())
    }

    fn same(&self, level: u32, index: u64, span: u64, computed: &[Hash]) -> Result<(), NotVerified> {
        let found = self.hashes(level, index)?;
        match computed.iter().zip(&found).position(|(a, b)| a != b) {
            Some(at) => diverges((index * TILE_WIDTH + at as u64) * span, format!("the tile of level {level} differs")),
            None => Ok(()),
        }
    }

    fn check_earlier(&self, earlier: &Checkpoint) -> Result<(), NotVerified> {
        let rewritten = self.edge.size() == earlier.size && self.edge.root() != earlier.root;
        if rewritten { Err(NotVerified::Rewritten { size: earlier.size }) } else { Ok(()) }
    }

    fn hashes(&self, level: u32, index: u64) -> Result<Vec<Hash>, NotVerified> {
        let span = 1 << (level * tile::TILE_HEIGHT);
        let width = TilePath::width_in(TileKind::Hashes(level), index, self.size) as usize;
        match tile::hashes(&self.tile(TileKind::Hashes(level), index)?) {
            Some(hashes) if hashes.len() >= width => Ok(hashes[..width].to_vec()),
            _ => diverges(index * TILE_WIDTH * span, format!("its tile of level {level} is malformed or too short")),
        }
    }

    /// A tile at the width it has under the checkpoint; a full one, which a
    /// log still running may have put in its place, begins with the same.
    fn tile(&self, kind: TileKind, index: u64) -> Result<Vec<u8>, NotVerified> {
        let path = TilePath { kind, index, width: TilePath::width_in(kind, index, self.size) };
        let file = self.dir.join(path.to_string());
        let full = self.dir.join(TilePath::full(kind, index).to_string());
        self.disk.read(&file).or_else(|_| self.disk.read(&full)).map_err(|e| unreadable(&file, &e))
    }
}

/// The records on the disk, one after the other.
struct OnDisk<'a> {
    disk: &'a dyn Disk,
    origin: Hash,
    segments: IntoIter<Segment>,
    scan: Option<Scan>,
    /// The next record.
    next: Seq,
}

impl<'a> OnDisk<'a> {
    fn begin(disk: &'a dyn Disk, records: &Path, origin: &Hash) -> Result<Self, NotVerified> {
        // A copy for an auditor may hold the tree alone.
        let segments = match disk.list(records) {
            Ok(_) => segment::list(disk, records).map_err(|e| NotVerified::Unreadable(e.to_string()))?,
            Err(_) => Vec::new(),
        };
        let next = segments.first().map_or(Seq::MAX, |s| s.first);
        Ok(Self { disk, origin: *origin, segments: segments.into_iter(), scan: None, next })
    }

    fn frame(&mut self) -> Result<Option<(Seq, Vec<u8>)>, NotVerified> {
        let unreadable = |e: LogError| NotVerified::Unreadable(e.to_string());
        loop {
            if let Some(scan) = &mut self.scan {
                if let Some(frame) = scan.frame().map_err(unreadable)? {
                    self.next = frame.seq + 1;
                    return Ok(Some((frame.seq, frame.payload.to_vec())));
                }
                if scan.was_acknowledged().map_err(unreadable)? {
                    return diverges(self.next, "the record is damaged");
                }
            }
            let Some(segment) = self.segments.next() else { return Ok(None) };
            if self.scan.is_some() && segment.first != self.next {
                return diverges(self.next, "the record is missing or damaged");
            }
            self.scan = Some(Scan::begin(self.disk, &segment, &self.origin).map_err(unreadable)?);
        }
    }

    fn check(&mut self, seq: Seq, entry: &LeafEntry, done: &mut Verified) -> Result<(), NotVerified> {
        let Some((found, payload)) = self.frame()? else {
            return diverges(seq, "the record is missing or damaged");
        };
        if found != seq {
            return diverges(seq.min(found), "the record is missing");
        }
        let sealed = match SealedRecord::from_bytes(&payload) {
            Ok(sealed) => sealed,
            Err(e) => return diverges(seq, e.to_string()),
        };
        if sealed.entry() != *entry {
            return diverges(seq, "the commitments or the public part beside the record are not those in the tree");
        }
        done.records += 1;
        // What took fields away was recorded before it did, and after them.
        if let Some(by) = sealed.cut_by().filter(|by| *by <= seq) {
            return diverges(seq, format!("it says that record {by} took its fields, which is older"));
        }
        if let Some(by) = sealed.erased_by.filter(|_| sealed.trimmed_by.is_none()) {
            done.erased += 1;
            done.erased_by.insert(by);
        }
        if let Some(by) = sealed.trimmed_by {
            done.trimmed += 1;
            done.trimmed_by.insert(by);
        }
        Ok(())
    }
}
