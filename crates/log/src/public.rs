//! Reading what records say to everybody, without a key and without opening
//! one: from the entry bundles, each checked against the signed tree.
//!
//! A bundle is believed if its entries have the hash that the tree holds for
//! them, and that hash is believed if its tile has the hash above it, up to
//! the tree's right edge, which is in memory and has the signed root. So who
//! owns the disk can neither add, change nor take away what is read here.

use std::collections::VecDeque;
use std::sync::Arc;

use ringfence_format::leaf::{Hash, LeafEntry, PublicEntry};
use ringfence_format::record::Seq;
use ringfence_format::tile::{self, LEVELS_MAX, TILE_HEIGHT, TILE_WIDTH, TileKind, TilePath, leaf_hash, root_over};

use crate::error::{During, LogError};
use crate::inner::Inner;
use crate::publish::Published;

/// The public parts of the durable records from one on, in order; see
/// [`Log::read_public`](crate::Log::read_public).
pub struct PublicEntries {
    inner: Arc<Inner>,
    /// The next record to be looked at.
    next: Seq,
    /// What was found and not yet given out.
    found: VecDeque<(Seq, PublicEntry)>,
    believed: Believed,
    /// Set by an error: what lies behind it may not be what follows.
    ended: bool,
}

impl PublicEntries {
    pub(crate) fn new(inner: Arc<Inner>, from: Seq) -> Self {
        let believed = Believed { published: inner.published(), tiles: Default::default() };
        Self { inner, next: from, found: VecDeque::new(), believed, ended: false }
    }

    /// Looks at the next bundle, or at the next record that is in none yet;
    /// whether there was one.
    fn look(&mut self) -> Result<bool, LogError> {
        if self.next >= self.believed.size() {
            self.believed.published = self.inner.published();
        }
        if self.next >= self.believed.size() {
            return self.look_at_record();
        }
        let index = self.next / TILE_WIDTH;
        let first = index * TILE_WIDTH;
        let entries = self.believed.entries(&self.inner, index)?;
        let skipped = (self.next - first) as usize;
        let public = (first..).zip(&entries).skip(skipped).filter_map(|(seq, entry)| Some((seq, entry.public()?)));
        self.found.extend(public);
        self.next = first + entries.len() as u64;
        Ok(true)
    }

    /// What this process recorded a moment ago, or read at its start.
    fn look_at_record(&mut self) -> Result<bool, LogError> {
        let seq = self.next;
        if seq >= self.inner.durable() {
            return Ok(false);
        }
        self.found.extend(self.inner.sealed(seq)?.public.map(|public| (seq, public)));
        self.next = seq + 1;
        Ok(true)
    }
}

impl Iterator for PublicEntries {
    type Item = Result<(Seq, PublicEntry), LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(found) = self.found.pop_front() {
                return Some(Ok(found));
            }
            if self.ended {
                return None;
            }
            match self.look() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
    }
}

/// A published tree, with the last tile of each level that was found to be in it.
struct Believed {
    published: Arc<Published>,
    tiles: [Option<(u64, Vec<Hash>)>; LEVELS_MAX as usize],
}

impl Believed {
    fn size(&self) -> Seq {
        self.published.checkpoint.size
    }

    /// The entries of one bundle, as many as the tree has.
    fn entries(&mut self, inner: &Inner, index: u64) -> Result<Vec<LeafEntry>, LogError> {
        if TilePath::width_in(TileKind::Entries, index, self.size()) < TILE_WIDTH {
            return Ok(self.published.tail.clone());
        }
        let path = inner.tile_file(&TilePath::full(TileKind::Entries, index));
        let bytes = inner.disk.read(&path).during("read", &path)?;
        let entries = tile::entries(&bytes).filter(|e| e.len() as u64 == TILE_WIDTH);
        let hashes: Vec<Hash> = entries.iter().flatten().map(|entry| leaf_hash(entry)).collect();
        let known = entries.map(|e| e.into_iter().map(LeafEntry::from_bytes).collect::<Option<Vec<_>>>());
        match known.flatten() {
            Some(known) if root_over(&hashes) == self.hash(inner, 1, index)? => Ok(known),
            _ => Err(not_in_tree(index * TILE_WIDTH)),
        }
    }

    /// The hash at a place of a tile level above 0.
    fn hash(&mut self, inner: &Inner, level: u32, index: u64) -> Result<Hash, LogError> {
        let (tile, at) = (index / TILE_WIDTH, (index % TILE_WIDTH) as usize);
        if self.size() >> ((level + 1) * TILE_HEIGHT) == tile {
            let edge = self.published.edge.partial(level);
            return edge.get(at).copied().ok_or_else(|| not_in_tree(index << (level * TILE_HEIGHT)));
        }
        let held = &self.tiles[level as usize];
        if let Some((_, hashes)) = held.as_ref().filter(|(held, _)| *held == tile) {
            return Ok(hashes[at]);
        }
        let path = inner.tile_file(&TilePath::full(TileKind::Hashes(level), tile));
        let hashes = tile::hashes(&inner.disk.read(&path).during("read", &path)?);
        let hashes = hashes.filter(|hashes| hashes.len() as u64 == TILE_WIDTH).unwrap_or_default();
        if root_over(&hashes) != self.hash(inner, level + 1, tile)? {
            return Err(not_in_tree(index << (level * TILE_HEIGHT)));
        }
        let hash = hashes[at];
        self.tiles[level as usize] = Some((tile, hashes));
        Ok(hash)
    }
}

fn not_in_tree(index: Seq) -> LogError {
    LogError::Broken { index, what: "or a later one, in the tree's files, not what was signed".into() }
}
