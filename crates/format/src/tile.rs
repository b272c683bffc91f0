//! The tree's hashes and entries as files: C2SP tlog-tiles (v0.1), tile
//! height 8, SHA-256, RFC 6962 hashing.
//!
//! A hash tile holds 256 hashes of one level, an entry bundle 256 entries;
//! those at the right edge hold fewer and carry their width in their path.
//! Both are immutable, so any static web server can serve them.

use std::fmt;
use std::str::FromStr;

use crate::leaf::Hash;
use aws_lc_rs::digest;

/// Hashes of a full tile, entries of a full bundle.
pub const TILE_WIDTH: u64 = 256;
/// log2 of [`TILE_WIDTH`]: how many levels of the tree one tile spans.
pub const TILE_HEIGHT: u32 = 8;
/// Tile levels that 2^64 leaves can have.
pub const LEVELS_MAX: u32 = 8;

/// The hash of a leaf: SHA-256(0x00 ‖ entry) (RFC 6962, section 2.1).
pub fn leaf_hash(entry: &[u8]) -> Hash {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(&[0]);
    hash.update(entry);
    hash.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// The hash of an inner node: SHA-256(0x01 ‖ left ‖ right).
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut bytes = [1; 65];
    bytes[1..33].copy_from_slice(left);
    bytes[33..].copy_from_slice(right);
    crate::leaf::sha256(&bytes)
}

/// The root of a tree without leaves: SHA-256 of nothing.
pub fn empty_root() -> Hash {
    crate::leaf::sha256(&[])
}

/// The root over subtrees that stand side by side: all perfect and of one
/// size, only the last may be smaller.
pub fn root_over(subtrees: &[Hash]) -> Hash {
    match subtrees {
        [] => empty_root(),
        [one] => *one,
        many => {
            let split = many.len().next_power_of_two() / 2;
            node_hash(&root_over(&many[..split]), &root_over(&many[split..]))
        }
    }
}

/// What a path under `tile/` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TilePath {
    /// Hashes of a level, or entries.
    pub kind: TileKind,
    /// Which tile of its level, from 0.
    pub index: u64,
    /// How many hashes or entries it holds, 1 to 256.
    pub width: u64,
}

/// See [`TilePath::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TileKind {
    /// `tile/entries/…`
    Entries,
    /// `tile/<L>/…`; level 0 holds leaf hashes, each hash of level `L + 1` is
    /// the root of a full tile of level `L`.
    Hashes(u32),
}

impl TilePath {
    /// A full tile or bundle.
    pub fn full(kind: TileKind, index: u64) -> Self {
        Self { kind, index, width: TILE_WIDTH }
    }

    /// How many hashes or entries this tile has in a tree of `size` leaves:
    /// 0 if it does not exist, 256 if it is full.
    pub fn width_in(kind: TileKind, index: u64, size: u64) -> u64 {
        let level = match kind {
            TileKind::Entries => 0,
            TileKind::Hashes(level) => level,
        };
        let at_level = size.checked_shr(level * TILE_HEIGHT).unwrap_or(0);
        at_level.saturating_sub(index.saturating_mul(TILE_WIDTH)).min(TILE_WIDTH)
    }

    /// Every partial tile of a tree of `size` leaves: its right edge.
    pub fn edge(size: u64) -> Vec<TilePath> {
        let kinds = std::iter::once(TileKind::Entries).chain((0..LEVELS_MAX).map(TileKind::Hashes));
        let partial = kinds.map(|kind| {
            let level = if let TileKind::Hashes(level) = kind { level } else { 0 };
            let at_level = size >> (level * TILE_HEIGHT);
            TilePath { kind, index: at_level / TILE_WIDTH, width: at_level % TILE_WIDTH }
        });
        partial.filter(|p| p.width > 0).collect()
    }
}

impl fmt::Display for TilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            TileKind::Entries => f.write_str("tile/entries")?,
            TileKind::Hashes(level) => write!(f, "tile/{level}")?,
        }
        let digits = self.index.to_string();
        let padded = format!("{:0>width$}", digits, width = digits.len().div_ceil(3) * 3);
        for (i, three) in padded.as_bytes().chunks(3).enumerate() {
            let more = (i + 1) * 3 < padded.len();
            write!(f, "/{}{}", if more { "x" } else { "" }, String::from_utf8_lossy(three))?;
        }
        if self.width < TILE_WIDTH { write!(f, ".p/{}", self.width) } else { Ok(()) }
    }
}

/// A path that names no tile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the path of a tile: expected `tile/<level>/<index>` or `tile/entries/<index>`")]
pub struct BadPath(String);

impl FromStr for TilePath {
    type Err = BadPath;

    /// Accepts the one spelling that [`TilePath`] prints, and no other.
    fn from_str(text: &str) -> Result<Self, BadPath> {
        let path = parse_path(text).filter(|path| path.to_string() == text);
        path.ok_or_else(|| BadPath(text.chars().take(80).collect()))
    }
}

fn parse_path(text: &str) -> Option<TilePath> {
    let (kind, rest) = text.strip_prefix("tile/")?.split_once('/')?;
    let kind = match kind {
        "entries" => TileKind::Entries,
        level => TileKind::Hashes(level.parse().ok().filter(|l| *l < LEVELS_MAX)?),
    };
    let (index, width) = match rest.split_once(".p/") {
        Some((index, width)) => (index, width.parse().ok().filter(|w| (1..TILE_WIDTH).contains(w))?),
        None => (rest, TILE_WIDTH),
    };
    let digits: String = index.split('/').map(|three| three.strip_prefix('x').unwrap_or(three)).collect();
    Some(TilePath { kind, index: digits.parse().ok()?, width })
}

/// An entry bundle: each entry behind its length (u16, big-endian).
pub fn bundle(entries: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.iter().map(|e| e.as_ref().len() + 2).sum());
    for entry in entries {
        let entry = entry.as_ref();
        let len = u16::try_from(entry.len()).expect("every leaf type is far below 64 KiB");
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes.extend_from_slice(entry);
    }
    bytes
}

/// The entries of a bundle, or nothing if it does not parse to its end.
pub fn entries(mut bundle: &[u8]) -> Option<Vec<&[u8]>> {
    let mut entries = Vec::new();
    while !bundle.is_empty() {
        let (len, rest) = bundle.split_first_chunk::<2>()?;
        let (entry, rest) = rest.split_at_checked(u16::from_be_bytes(*len).into())?;
        entries.push(entry);
        bundle = rest;
    }
    Some(entries)
}

/// The hashes of a hash tile, or nothing if its length is no multiple of 32.
pub fn hashes(tile: &[u8]) -> Option<Vec<Hash>> {
    let (hashes, rest) = tile.as_chunks::<32>();
    rest.is_empty().then(|| hashes.to_vec())
}

/// The right edge of a growing tree: the hashes of its partial tiles. From it
/// follow the root and everything that is appended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edge {
    size: u64,
    /// Per tile level the hashes of the partial tile, fewer than 256 each.
    levels: Vec<Vec<Hash>>,
}

/// A tile that appending made full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FullTile {
    /// Its level.
    pub level: u32,
    /// Its index in that level.
    pub index: u64,
    /// Its 256 hashes.
    pub hashes: Vec<Hash>,
}

impl Edge {
    /// The tree without leaves.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many leaves the tree has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The partial tile of a level; empty if there is none.
    pub fn partial(&self, level: u32) -> &[Hash] {
        self.levels.get(level as usize).map_or(&[], Vec::as_slice)
    }

    /// Appends a leaf; tiles that became full are pushed to `full`, lowest first.
    pub fn push(&mut self, leaf_hash: Hash, full: &mut Vec<FullTile>) {
        self.size += 1;
        let mut hash = leaf_hash;
        for level in 0.. {
            if self.levels.len() == level {
                self.levels.push(Vec::with_capacity(TILE_WIDTH as usize));
            }
            let tile = &mut self.levels[level];
            tile.push(hash);
            if tile.len() < TILE_WIDTH as usize {
                return;
            }
            hash = root_over(tile);
            let hashes = std::mem::take(tile);
            let level = level as u32;
            let index = (self.size >> ((level + 1) * TILE_HEIGHT)) - 1;
            full.push(FullTile { level, index, hashes });
        }
    }

    /// The root of the tree (RFC 6962, section 2.1).
    pub fn root(&self) -> Hash {
        let mut below: Option<Hash> = None;
        for tile in &self.levels {
            let mut subtrees = tile.clone();
            subtrees.extend(below);
            if !subtrees.is_empty() {
                below = Some(root_over(&subtrees));
            }
        }
        below.unwrap_or_else(empty_root)
    }

    /// For keeping beside the tree: size (u64, big-endian), then the hashes of
    /// each level's partial tile, lowest first; how many follows from the size.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.size.to_be_bytes().to_vec();
        bytes.extend(self.levels.iter().flatten().flatten());
        bytes
    }

    /// Reads what [`Self::to_bytes`] wrote. Nothing says yet that the hashes
    /// are right: compare [`Self::root`] with a checkpoint.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (size, rest) = bytes.split_first_chunk::<8>()?;
        let size = u64::from_be_bytes(*size);
        let mut hashes = hashes(rest)?.into_iter();
        let mut levels = Vec::new();
        for level in 0..LEVELS_MAX {
            let width = (size >> (level * TILE_HEIGHT)) % TILE_WIDTH;
            let tile: Vec<Hash> = hashes.by_ref().take(width as usize).collect();
            if (tile.len() as u64) < width {
                return None;
            }
            levels.push(tile);
        }
        while levels.last().is_some_and(Vec::is_empty) {
            levels.pop();
        }
        hashes.next().is_none().then_some(Self { size, levels })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_specification_and_only_their_own_spelling_parses() {
        let path = |kind, index, width| TilePath { kind, index, width };
        for (given, text) in [
            (path(TileKind::Hashes(0), 0, 256), "tile/0/000"),
            (path(TileKind::Hashes(1), 1_234_067, 256), "tile/1/x001/x234/067"),
            (path(TileKind::Hashes(0), 1000, 5), "tile/0/x001/000.p/5"),
            (path(TileKind::Entries, 999, 255), "tile/entries/999.p/255"),
        ] {
            assert_eq!(given.to_string(), text);
            assert_eq!(text.parse(), Ok(given));
        }
        for bad in [
            "tile/0/0",
            "tile/0/x000/001",
            "tile/00/000",
            "tile/8/000",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/0/000.p/01",
            "tile/0/001/000",
            "tile/entries/../000",
            "tile/0/+01",
            "tile/0/",
            "checkpoint",
        ] {
            assert!(bad.parse::<TilePath>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_edge_has_the_root_of_the_whole_tree_and_survives_storage() {
        let mut edge = Edge::new();
        let mut leaves = Vec::new();
        let mut full = Vec::new();
        assert_eq!(edge.root(), empty_root());
        for i in 0..70_000u32 {
            let hash = leaf_hash(&i.to_be_bytes());
            leaves.push(hash);
            edge.push(hash, &mut full);
            let size = i + 1;
            if size < 600 || size % 4093 == 0 || (65_530..65_540).contains(&size) {
                assert_eq!(edge.root(), root_over(&leaves), "at {size}");
                assert_eq!(Edge::from_bytes(&edge.to_bytes()).unwrap().root(), edge.root());
            }
        }
        assert_eq!(full.iter().filter(|t| t.level == 0).count(), 70_000 / 256);
        assert_eq!(full.iter().find(|t| t.level == 1).unwrap().index, 0);
        assert_eq!(full[0].hashes, leaves[..256]);
    }

    #[test]
    fn bundles_read_back_and_a_cut_one_does_not() {
        let bytes = bundle(&[b"a".as_slice(), b"", b"ccc"]);
        assert_eq!(entries(&bytes).unwrap(), [b"a".as_slice(), b"", b"ccc"]);
        assert!(entries(&bytes[..bytes.len() - 1]).is_none());
        assert!(entries(&bytes[..bytes.len() - 4]).is_none());
    }

    #[test]
    fn widths_follow_from_the_size() {
        assert_eq!(TilePath::width_in(TileKind::Hashes(0), 1, 300), 44);
        assert_eq!(TilePath::width_in(TileKind::Hashes(0), 0, 300), 256);
        assert_eq!(TilePath::width_in(TileKind::Hashes(1), 0, 300), 1);
        assert_eq!(TilePath::width_in(TileKind::Hashes(0), 2, 300), 0);
        assert_eq!(TilePath::width_in(TileKind::Hashes(7), u64::MAX, u64::MAX), 0);
        let edge: Vec<String> = TilePath::edge(300).iter().map(TilePath::to_string).collect();
        assert_eq!(edge, ["tile/entries/001.p/44", "tile/0/001.p/44", "tile/1/000.p/1"]);
    }
}
