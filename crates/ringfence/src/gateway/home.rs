//! The public log of home, read over HTTP, and proofs made of its tiles.
//!
//! Nothing that comes in is believed by itself: each caller says what root it
//! must lead to.

use std::collections::HashMap;

use async_trait::async_trait;
use ringfence_format::checkpoint::Checkpoint;
use ringfence_format::leaf::Hash;
use ringfence_format::limits::PUBLIC_ENTRY_BYTES_MAX;
use ringfence_format::proof::{self, Nodes, verify_consistency};
use ringfence_format::tile::{self, TILE_WIDTH, TileKind, TilePath, empty_root};

use crate::sts::fetch::Fetcher;

/// A signed note, cosignatures included.
const NOTE_BYTES_MAX: usize = 64 * 1024;
/// Entries of a bundle: length, kind, hash, public bytes.
const BUNDLE_BYTES_MAX: usize = TILE_WIDTH as usize * (2 + 33 + PUBLIC_ENTRY_BYTES_MAX);

/// Where the files of a log are read.
#[async_trait]
pub trait Home: Send + Sync {
    /// The file at this path below the log, at most so long.
    ///
    /// # Errors
    /// Why it cannot be had, in words.
    async fn get(&self, path: &str, bytes_max: usize) -> Result<Vec<u8>, String>;
}

/// A home that is reached over HTTP.
pub struct HttpHome {
    fetcher: Fetcher,
    base: String,
}

impl HttpHome {
    /// `URL/log/` is read.
    pub fn new(url: &str) -> Self {
        Self { fetcher: Fetcher::default(), base: format!("{}/log/", url.trim_end_matches('/')) }
    }
}

#[async_trait]
impl Home for HttpHome {
    async fn get(&self, path: &str, bytes_max: usize) -> Result<Vec<u8>, String> {
        self.fetcher.get(&format!("{}{path}", self.base), bytes_max).await.map_err(|e| e.0)
    }
}

/// A note, as text.
///
/// # Errors
/// Why it cannot be had.
pub async fn note(home: &dyn Home, path: &str) -> Result<String, String> {
    let bytes = home.get(path, NOTE_BYTES_MAX).await?;
    String::from_utf8(bytes).map_err(|_| format!("`{path}` is not text"))
}

/// The entries of one bundle that a tree of `size` has, from the tree of
/// `served` entries that home publishes now.
///
/// # Errors
/// Home does not have them, or has fewer.
pub async fn bundle(home: &dyn Home, index: u64, size: u64, served: u64) -> Result<Vec<Vec<u8>>, String> {
    let wanted = TilePath::width_in(TileKind::Entries, index, size);
    let bytes = file(home, TileKind::Entries, index, served, BUNDLE_BYTES_MAX).await?;
    let entries = tile::entries(&bytes).ok_or("an entry bundle cannot be read")?;
    let mut entries: Vec<Vec<u8>> = entries.into_iter().map(<[u8]>::to_vec).collect();
    if (entries.len() as u64) < wanted {
        return Err(format!("entry bundle {index} is cut off: {} entries of {wanted}", entries.len()));
    }
    entries.truncate(wanted as usize);
    Ok(entries)
}

/// A tile at the width it has in a tree of `served` entries; where it grew
/// since, the full one (tlog-tiles, "Partial Tiles").
async fn file(home: &dyn Home, kind: TileKind, index: u64, served: u64, max: usize) -> Result<Vec<u8>, String> {
    let width = TilePath::width_in(kind, index, served);
    let path = TilePath { kind, index, width };
    match home.get(&path.to_string(), max).await {
        Err(_) if (1..TILE_WIDTH).contains(&width) => home.get(&TilePath::full(kind, index).to_string(), max).await,
        got => got,
    }
}

/// How two trees that the log signed relate, as its tiles show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// The larger one extends the smaller.
    Extends,
    /// The larger one provably has another beginning: two histories.
    Fork,
}

/// How two checkpoints relate, in either order. Of their tiles nothing is
/// believed that does not lead to the larger one's signed root.
///
/// # Errors
/// The tiles that home serves prove neither.
pub async fn relate(home: &dyn Home, one: &Checkpoint, other: &Checkpoint, served: u64) -> Result<Relation, String> {
    let (old, new) = if one.size <= other.size { (one, other) } else { (other, one) };
    if old.size == new.size {
        return Ok(if old.root == new.root { Relation::Extends } else { Relation::Fork });
    }
    if old.size == 0 {
        return Ok(if old.root == empty_root() { Relation::Extends } else { Relation::Fork });
    }
    let mut tiles = Tiles { hashes: HashMap::new(), served: served.max(new.size) };
    let (begins, path) = loop {
        let proved = proof::root(&mut tiles, old.size)
            .and_then(|root| Ok((root, proof::consistency(&mut tiles, old.size, new.size)?)));
        match proved {
            Ok(proved) => break proved,
            Err(missing) => tiles.load(home, missing).await?,
        }
    };
    if !verify_consistency(old.size, &begins, new.size, &new.root, &path) {
        return Err("the tiles that home serves do not lead to the root it signed".to_owned());
    }
    Ok(if begins == old.root { Relation::Extends } else { Relation::Fork })
}

/// Hash tiles that were fetched so far; one that was not is asked for by error.
struct Tiles {
    hashes: HashMap<(u32, u64), Vec<Hash>>,
    served: u64,
}

/// Level and index of a tile that is needed.
#[derive(Clone, Copy, Debug)]
struct Missing(u32, u64);

impl Tiles {
    async fn load(&mut self, home: &dyn Home, Missing(level, index): Missing) -> Result<(), String> {
        if self.hashes.contains_key(&(level, index)) {
            return Err(format!("tile {level}/{index} is cut off"));
        }
        let max = TILE_WIDTH as usize * 32;
        let bytes = file(home, TileKind::Hashes(level), index, self.served, max).await?;
        let hashes = tile::hashes(&bytes).ok_or_else(|| format!("tile {level}/{index} cannot be read"))?;
        self.hashes.insert((level, index), hashes);
        Ok(())
    }
}

impl Nodes for Tiles {
    type Error = Missing;

    fn hashes(&mut self, level: u32, first: u64, count: u64) -> Result<Vec<Hash>, Missing> {
        let (index, from) = (first / TILE_WIDTH, (first % TILE_WIDTH) as usize);
        let tile = self.hashes.get(&(level, index));
        let part = tile.and_then(|hashes| hashes.get(from..from + count as usize));
        part.map(<[Hash]>::to_vec).ok_or(Missing(level, index))
    }
}
