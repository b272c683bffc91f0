//! Proofs that an entry is in a tree, and that a tree extends an earlier one
//! (RFC 6962 and RFC 9162, section 2.1), and their export as C2SP tlog-proof.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

use crate::checkpoint::{BadCheckpoint, Checkpoint, VerifierKey, verify};
use crate::leaf::{BadLeaf, Hash, Openings};
use crate::record::Seq;
use crate::tile::{TILE_HEIGHT, empty_root, leaf_hash, node_hash};

/// A proof is at most as long as the tree is high, twice that for consistency.
const HASHES_MAX: usize = 128;

/// Where the hashes of a tree come from.
pub trait Nodes {
    /// Why one could not be had.
    type Error;

    /// Hashes `[first, first + count)` of tile level `level`. `first` is a
    /// multiple of `count`, and `count` a power of two up to 128: they lie in
    /// one tile.
    fn hashes(&mut self, level: u32, first: u64, count: u64) -> Result<Vec<Hash>, Self::Error>;
}

/// The path from leaf `index` to the root of the tree of the first `size`
/// leaves, from below. `index` must be less than `size`.
pub fn inclusion<N: Nodes>(nodes: &mut N, index: u64, size: u64) -> Result<Vec<Hash>, N::Error> {
    assert!(index < size, "a proof is asked for an entry of the tree");
    let (mut lo, mut hi) = (0, size);
    let mut path = Vec::new();
    while hi - lo > 1 {
        let middle = lo + split(hi - lo);
        if index < middle {
            path.push(subtree(nodes, middle, hi)?);
            hi = middle;
        } else {
            path.push(subtree(nodes, lo, middle)?);
            lo = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// That the tree of `size` leaves extends the tree of its first `earlier`
/// leaves, which must be at least 1 and at most `size`.
pub fn consistency<N: Nodes>(nodes: &mut N, earlier: u64, size: u64) -> Result<Vec<Hash>, N::Error> {
    assert!(0 < earlier && earlier <= size, "a proof is asked for two sizes of one tree");
    let (mut lo, mut hi) = (0, size);
    let mut path = Vec::new();
    while hi != earlier {
        let middle = lo + split(hi - lo);
        if earlier <= middle {
            path.push(subtree(nodes, middle, hi)?);
            hi = middle;
        } else {
            path.push(subtree(nodes, lo, middle)?);
            lo = middle;
        }
    }
    if lo > 0 {
        path.push(subtree(nodes, lo, hi)?);
    }
    path.reverse();
    Ok(path)
}

/// The root of the tree of the first `size` leaves.
pub fn root<N: Nodes>(nodes: &mut N, size: u64) -> Result<Hash, N::Error> {
    if size == 0 { Ok(empty_root()) } else { subtree(nodes, 0, size) }
}

/// The largest power of two below `n`, for `n` of at least 2.
fn split(n: u64) -> u64 {
    1 << (63 - (n - 1).leading_zeros())
}

/// The hash over leaves `[lo, hi)`, where `lo` is a multiple of the smallest
/// power of two that holds them.
fn subtree<N: Nodes>(nodes: &mut N, lo: u64, hi: u64) -> Result<Hash, N::Error> {
    let n = hi - lo;
    if n.is_power_of_two() {
        let height = n.trailing_zeros();
        let (level, count) = (height / TILE_HEIGHT, 1 << (height % TILE_HEIGHT));
        let hashes = nodes.hashes(level, lo >> (level * TILE_HEIGHT), count)?;
        return Ok(crate::tile::root_over(&hashes));
    }
    let middle = lo + split(n);
    Ok(node_hash(&subtree(nodes, lo, middle)?, &subtree(nodes, middle, hi)?))
}

/// Whether `path` proves the leaf at `index` in the tree of `size` leaves with
/// this root (RFC 9162, section 2.1.3.2).
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, root: &Hash, path: &[Hash]) -> bool {
    if index >= size {
        return false;
    }
    let (mut at, mut last, mut hash) = (index, size - 1, *leaf);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            hash = node_hash(sibling, &hash);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// Whether `path` proves that the tree of `size` leaves with `root` extends
/// the one of `earlier` leaves with `earlier_root` (RFC 9162, section
/// 2.1.4.2). Every tree extends the empty one.
pub fn verify_consistency(earlier: u64, earlier_root: &Hash, size: u64, root: &Hash, path: &[Hash]) -> bool {
    if earlier > size {
        return false;
    }
    if earlier == 0 {
        return path.is_empty() && *earlier_root == empty_root();
    }
    if earlier == size {
        return path.is_empty() && earlier_root == root;
    }
    let mut path = path.iter();
    let start = if earlier.is_power_of_two() { Some(earlier_root) } else { path.next() };
    let Some(start) = start else { return false };
    let (mut at, mut last) = (earlier - 1, size - 1);
    while at & 1 == 1 {
        at >>= 1;
        last >>= 1;
    }
    let (mut old, mut new) = (*start, *start);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            old = node_hash(sibling, &old);
            new = node_hash(sibling, &new);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            new = node_hash(&new, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && old == *earlier_root && new == *root
}

/// A receipt that anybody can check offline with the log's public key: C2SP
/// tlog-proof, whose `extra` line carries the [`Openings`] of the entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Position of the entry.
    pub index: Seq,
    /// What opens the entry, so that no key is needed to check it.
    pub openings: Openings,
    /// From the leaf up.
    pub path: Vec<Hash>,
    /// The signed checkpoint, verbatim.
    pub checkpoint: String,
}

const HEADER: &str = "c2sp.org/tlog-proof@v1";

impl Proof {
    /// As text; by convention in a file named `*.tlog-proof`.
    pub fn to_text(&self) -> String {
        let extra = BASE64.encode(self.openings.to_bytes());
        let mut text = format!("{HEADER}\nextra {extra}\nindex {}\n", self.index);
        for hash in &self.path {
            text.push_str(&BASE64.encode(hash));
            text.push('\n');
        }
        text.push('\n');
        text.push_str(&self.checkpoint);
        text
    }

    /// Reads what [`Self::to_text`] wrote; proves nothing yet.
    pub fn from_text(text: &str) -> Result<Self, BadProof> {
        let bad = BadProof::Syntax;
        let (head, checkpoint) = text.split_once("\n\n").ok_or(bad("no empty line before its checkpoint"))?;
        let mut lines = head.split('\n');
        if lines.next() != Some(HEADER) {
            return Err(bad("its first line is not `c2sp.org/tlog-proof@v1`"));
        }
        let extra = lines.next().and_then(|l| l.strip_prefix("extra ")).ok_or(bad("no `extra` line"))?;
        let extra = BASE64.decode(extra).map_err(|_| bad("its `extra` line is not base64"))?;
        let digits = lines.next().and_then(|l| l.strip_prefix("index ")).ok_or(bad("no `index` line"))?;
        let index: Seq = digits.parse().map_err(|_| bad("its index is not a number"))?;
        let hash = |line| BASE64.decode(line).ok()?.try_into().ok();
        let path: Option<Vec<Hash>> = lines.map(hash).collect();
        let path = path.filter(|p| p.len() <= HASHES_MAX).ok_or(bad("its hashes are malformed"))?;
        Ok(Self { index, openings: Openings::from_bytes(&extra)?, path, checkpoint: checkpoint.to_owned() })
    }

    /// Checks signature, path and openings; what is shown by the openings is
    /// then what the log recorded at this index.
    pub fn verify(&self, key: &VerifierKey) -> Result<Checkpoint, BadProof> {
        let checkpoint = verify(&self.checkpoint, key)?;
        let entry = self.openings.entry();
        if verify_inclusion(&leaf_hash(&entry), self.index, checkpoint.size, &checkpoint.root, &self.path) {
            Ok(checkpoint)
        } else {
            Err(BadProof::NotIncluded { index: self.index, size: checkpoint.size })
        }
    }
}

/// Why a proof does not convince.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadProof {
    /// It is not in the form of a proof.
    #[error("the proof cannot be read: {0}")]
    Syntax(&'static str),
    /// What it shows is not what the log's tree holds at that index.
    #[error("record {index} as shown is not in the log of {size} records: something in it was changed")]
    NotIncluded {
        /// The index it claims.
        index: Seq,
        /// The tree it was checked against.
        size: u64,
    },
    /// The checkpoint in it is not believed.
    #[error(transparent)]
    Checkpoint(#[from] BadCheckpoint),
    /// Its openings cannot be read.
    #[error(transparent)]
    Openings(#[from] BadLeaf),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::{Edge, root_over};
    use std::convert::Infallible;

    struct Leaves(Vec<Hash>);
    impl Nodes for Leaves {
        type Error = Infallible;
        fn hashes(&mut self, level: u32, first: u64, count: u64) -> Result<Vec<Hash>, Infallible> {
            let span = 1u64 << (level * TILE_HEIGHT);
            let one = |i| root_over(&self.0[(i * span) as usize..((i + 1) * span) as usize]);
            Ok((first..first + count).map(one).collect())
        }
    }

    fn tree(size: u64) -> Leaves {
        Leaves((0..size).map(|i| leaf_hash(&i.to_be_bytes())).collect())
    }

    #[test]
    fn every_entry_of_every_small_tree_is_proved_and_nothing_else() {
        let mut nodes = tree(70);
        for size in 1..=70u64 {
            let root = root_over(&nodes.0[..size as usize]);
            assert_eq!(super::root(&mut nodes, size), Ok(root));
            for index in 0..size {
                let Ok(path) = inclusion(&mut nodes, index, size);
                let leaf = nodes.0[index as usize];
                assert!(verify_inclusion(&leaf, index, size, &root, &path));
                assert!(!verify_inclusion(&leaf, (index + 1) % size, size, &root, &path) || size == 1);
                assert!(!verify_inclusion(&[0; 32], index, size, &root, &path));
                assert!(!verify_inclusion(&leaf, index, size, &[0; 32], &path));
                let longer: Vec<Hash> = path.iter().copied().chain([leaf]).collect();
                assert!(!verify_inclusion(&leaf, index, size, &root, &longer));
                assert!(path.is_empty() || !verify_inclusion(&leaf, index, size, &root, &path[1..]));
            }
        }
    }

    #[test]
    fn every_pair_of_small_trees_is_proved_consistent_and_no_other() {
        let mut nodes = tree(70);
        for size in 1..=70u64 {
            let root = root_over(&nodes.0[..size as usize]);
            for earlier in 1..=size {
                let old = root_over(&nodes.0[..earlier as usize]);
                let Ok(path) = consistency(&mut nodes, earlier, size);
                assert!(verify_consistency(earlier, &old, size, &root, &path), "{earlier} {size}");
                assert!(!verify_consistency(earlier, &[0; 32], size, &root, &path));
                assert!(!verify_consistency(earlier, &old, size, &[0; 32], &path));
                assert!(path.is_empty() || !verify_consistency(earlier, &old, size, &root, &path[1..]));
            }
            assert!(verify_consistency(0, &empty_root(), size, &root, &[]));
        }
    }

    #[test]
    fn proofs_span_tiles() {
        let mut nodes = tree(70_000);
        let root = root_over(&nodes.0);
        let mut edge = Edge::new();
        nodes.0.iter().for_each(|hash| edge.push(*hash, &mut Vec::new()));
        assert_eq!(edge.root(), root);
        for index in [0, 255, 256, 65_535, 65_536, 69_999] {
            let Ok(path) = inclusion(&mut nodes, index, 70_000);
            assert!(verify_inclusion(&nodes.0[index as usize].clone(), index, 70_000, &root, &path));
        }
        for earlier in [1, 256, 257, 65_536, 69_999] {
            let old = root_over(&nodes.0[..earlier as usize]);
            let Ok(path) = consistency(&mut nodes, earlier, 70_000);
            assert!(verify_consistency(earlier, &old, 70_000, &root, &path));
        }
    }
}
