//! Retention: old segments go, their entries and hashes stay, and what was
//! trimmed names the record that says so.

use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use ringfence_db::disk::{Disk, Durable};
use ringfence_format::record::Seq;
use ringfence_format::tile::{self, Edge, LEVELS_MAX, TILE_HEIGHT, TILE_WIDTH, TileKind, TilePath};

use crate::error::{During, LogError};
use crate::inner::Inner;
use crate::keep::Settled;
use crate::reader::Catalogued;
use crate::segment;

/// Which records were trimmed, in `DIR/log/trimmed`: two decimal lines. It is
/// durable before the first segment goes, so that a segment that is gone
/// without it was not trimmed but taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trimmed {
    /// Records before this one may be gone.
    pub(crate) before: Seq,
    /// The record that says so; nothing if none were trimmed.
    pub(crate) by: Option<Seq>,
}

impl Trimmed {
    fn path(dir: &Path) -> PathBuf {
        dir.join("trimmed")
    }

    /// Nothing was trimmed where the file is absent or is not ours.
    pub(crate) fn read(disk: &dyn Disk, dir: &Path) -> Self {
        let parse = || {
            let text = String::from_utf8(disk.read(&Self::path(dir)).ok()?).ok()?;
            let (before, by) = text.trim_end().split_once('\n')?;
            Some(Self { before: before.parse().ok()?, by: Some(by.parse().ok()?) })
        };
        parse().unwrap_or_default()
    }
}

impl Inner {
    /// Takes away the segments that hold only records before `before`.
    pub(crate) fn trim(&self, before: Seq, by: Seq) -> Result<Seq, LogError> {
        let due = self.sealed_before(before)?;
        let Some((_, end)) = due.last() else { return Ok(Trimmed::read(self.disk.as_ref(), &self.dir).before) };
        let (path, text) = (Trimmed::path(&self.dir), format!("{end}\n{by}\n"));
        self.disk.replace(&path, text.as_bytes(), Durable::Yes).during("write", &path)?;
        for (segment, _) in &due {
            let path = &segment.segment.path;
            // Readers let go first: one that is under way keeps its open file.
            let mut listed = self.segments.write().unwrap_or_else(PoisonError::into_inner);
            listed.retain(|s| s.segment.epoch != segment.segment.epoch);
            drop(listed);
            self.disk.unlink(path).during("remove", path)?;
        }
        self.disk.sync_dir(&self.records).during("sync", &self.records)?;
        Ok(*end)
    }

    /// The oldest segments that are sealed and end at or before this record,
    /// each with its end.
    fn sealed_before(&self, before: Seq) -> Result<Vec<(std::sync::Arc<Catalogued>, Seq)>, LogError> {
        let listed = self.segments.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut due = Vec::new();
        for segment in listed {
            let now = segment::Segment { len: segment.len(), ..segment.segment.clone() };
            match segment::sealed_next(self.disk.as_ref(), &now)? {
                Some(next) if next <= before => due.push((segment, next)),
                _ => break,
            }
        }
        Ok(due)
    }
}

/// The right edge of the first `size` records, from tiles: where the records
/// themselves are gone, or the kept edge is. Whether it is right shows in the
/// root that grows from it.
pub(crate) fn edge_from_tiles(disk: &dyn Disk, dir: &Path, size: Seq, published: Seq) -> Option<Settled> {
    let tile = |kind, index| {
        let width = TilePath::width_in(kind, index, published);
        let read = |width| disk.read(&dir.join(TilePath { kind, index, width }.to_string()));
        read(width).or_else(|_| read(TILE_WIDTH)).ok()
    };
    let mut bytes = size.to_be_bytes().to_vec();
    for level in 0..LEVELS_MAX {
        let at_level = size >> (level * TILE_HEIGHT);
        let width = (at_level % TILE_WIDTH) as usize;
        if width > 0 {
            bytes.extend_from_slice(tile(TileKind::Hashes(level), at_level / TILE_WIDTH)?.get(..width * 32)?);
        }
    }
    let edge = Edge::from_bytes(&bytes)?;
    let in_bundle = (size % TILE_WIDTH) as usize;
    let bundle = if in_bundle > 0 { tile(TileKind::Entries, size / TILE_WIDTH)? } else { Vec::new() };
    let tail = tile::entries(&bundle)?.get(..in_bundle)?.iter().map(|e| (*e).try_into().ok()).collect::<Option<_>>()?;
    Some(Settled { edge, tail })
}
