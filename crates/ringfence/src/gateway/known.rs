//! What the log told a gateway, up to the checkpoint it pinned, and how that is
//! kept.
//!
//! The checkpoint is pinned on the disk before anything is judged by it, so a
//! kill at any moment leaves an earlier one or this one, and whatever comes
//! later must extend it. What sessions were issued is read anew at a start:
//! from a [`Mark`] before which every session has ended by now.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use ringfence_db::disk::{Disk, Durable, LockGuard};
use ringfence_format::checkpoint::Checkpoint;
use ringfence_format::leaf::{Hash, ISSUANCE, LeafEntry, MANIFEST, REVOCATION};
use ringfence_format::names::Realm;
use ringfence_format::record::Seq;
use ringfence_format::session::{Issuance, ManifestLeaf, Revocation, Revocations, SignedManifest};
use ringfence_format::tile::{Edge, leaf_hash};
use serde::{Deserialize, Serialize};

use super::trust::Trust;

/// A mark is set at most once in this time, in seconds.
const MARK_EVERY_S: u64 = 600;

/// What is known from the log.
#[derive(Clone, Debug)]
pub struct Known {
    /// The pinned checkpoint and its note; nothing before the first.
    pub pinned: Option<(Checkpoint, String)>,
    /// The tree of the entries that were read.
    pub edge: Edge,
    /// Every revocation with its index.
    pub revocations: Vec<(Seq, Revocation)>,
    /// The newest manifest of each realm.
    pub leaves: BTreeMap<Realm, (Seq, ManifestLeaf)>,
    /// Sessions that have not ended: leaf hash, and when it ends.
    pub issued: BTreeMap<Seq, (Hash, u64)>,
    /// Earlier trees, the oldest first; there is always one.
    marks: VecDeque<Mark>,
}

/// A tree, and when the last session in it ends.
#[derive(Clone, Debug)]
struct Mark {
    edge: Edge,
    until_s: u64,
    set_s: u64,
}

/// What entries behind the tree of a [`Known`] add to it.
#[derive(Debug)]
pub struct News {
    /// The tree with them.
    pub edge: Edge,
    revocations: Vec<(Seq, Revocation)>,
    leaves: Vec<(Seq, ManifestLeaf)>,
    issued: Vec<(Seq, Hash, u64)>,
}

impl Known {
    /// Nothing yet.
    pub fn nothing() -> Self {
        Self::from_marks(VecDeque::from([Mark { edge: Edge::new(), until_s: 0, set_s: 0 }]))
    }

    /// Reading begins at the first of them.
    fn from_marks(marks: VecDeque<Mark>) -> Self {
        let edge = marks[0].edge.clone();
        Self { pinned: None, edge, revocations: vec![], leaves: BTreeMap::new(), issued: BTreeMap::new(), marks }
    }

    /// Whether every entry of the pinned tree was read.
    pub fn is_complete(&self) -> bool {
        self.pinned.as_ref().is_some_and(|(pinned, _)| pinned.size == self.edge.size())
    }

    /// The revocations in force.
    pub fn revoked(&self) -> Revocations {
        let mut all = Revocations::default();
        for (by, revocation) in &self.revocations {
            all.add(*by, revocation.clone());
        }
        all
    }

    /// What follows the entries that were read.
    pub fn news(&self) -> News {
        News { edge: self.edge.clone(), revocations: vec![], leaves: vec![], issued: vec![] }
    }

    /// Takes up what was read, under the checkpoint it was proved to be in.
    /// Manifests that are not newer than one before them are given back.
    #[must_use]
    pub fn take(&mut self, news: News, checkpoint: Checkpoint, note: String, now_s: u64) -> Vec<(Seq, ManifestLeaf)> {
        let newer = self.revocations.last().map_or(0, |(by, _)| by + 1);
        self.revocations.extend(news.revocations.into_iter().filter(|(by, _)| *by >= newer));
        let rolled_back = self.take_leaves(news.leaves);
        for (index, hash, until_s) in news.issued {
            let mark = self.marks.iter_mut().rev().find(|mark| mark.edge.size() <= index);
            mark.expect("the first is where reading begins").lasts(until_s);
            self.issued.insert(index, (hash, until_s));
        }
        self.issued.retain(|_, (_, until_s)| *until_s > now_s);
        (self.edge, self.pinned) = (news.edge, Some((checkpoint, note)));
        self.mark(now_s);
        rolled_back
    }

    fn take_leaves(&mut self, leaves: Vec<(Seq, ManifestLeaf)>) -> Vec<(Seq, ManifestLeaf)> {
        let mut rolled_back = vec![];
        for (index, leaf) in leaves {
            match self.leaves.get(&leaf.realm) {
                // Read again after a start.
                Some((at, _)) if index <= *at => {}
                Some((_, before)) if leaf.seq <= before.seq => rolled_back.push((index, leaf)),
                _ => drop(self.leaves.insert(leaf.realm.clone(), (index, leaf))),
            }
        }
        rolled_back
    }

    /// `until_s` of a mark is of the sessions between it and the next one, so
    /// the first can go once those have ended.
    fn mark(&mut self, now_s: u64) {
        let last = self.marks.back().expect("there is always one");
        if now_s.saturating_sub(last.set_s) >= MARK_EVERY_S && last.edge.size() < self.edge.size() {
            self.marks.push_back(Mark { edge: self.edge.clone(), until_s: 0, set_s: now_s });
        }
        while self.marks.len() > 1 && self.marks[0].until_s <= now_s {
            self.marks.pop_front();
        }
    }
}

impl Mark {
    fn lasts(&mut self, until_s: u64) {
        self.until_s = self.until_s.max(until_s);
    }
}

impl News {
    /// Takes up the next entry.
    ///
    /// # Errors
    /// A revocation or a manifest that cannot be read: what it takes away is
    /// not known, so nothing behind it is judged by.
    pub fn push(&mut self, entry: &[u8]) -> Result<(), String> {
        let index = self.edge.size();
        let hash = leaf_hash(entry);
        self.edge.push(hash, &mut vec![]);
        let unknown = |what: &str, why: &dyn std::fmt::Display| format!("{what} at {index} cannot be read: {why}");
        let parsed = LeafEntry::from_bytes(entry).ok_or_else(|| unknown("the entry", &"unknown kind"))?;
        let Some(public) = parsed.public() else { return Ok(()) };
        match public.kind {
            ISSUANCE => {
                // One that cannot be read issues nothing.
                let issuance = Issuance::from_bytes(&public.bytes).ok();
                self.issued.extend(issuance.map(|issuance| (index, hash, issuance.draft.until_s)));
            }
            MANIFEST => {
                let leaf = ManifestLeaf::from_bytes(&public.bytes).map_err(|e| unknown("the manifest", &e))?;
                self.leaves.push((index, leaf));
            }
            REVOCATION => {
                let it = Revocation::from_bytes(&public.bytes).map_err(|e| unknown("the revocation", &e))?;
                self.revocations.push((index, it));
            }
            _ => {}
        }
        Ok(())
    }
}

/// The directory of a gateway.
pub struct Store {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    _held: Box<dyn LockGuard>,
}

/// What `pinned.json` holds. The note is checked again when it is read; the
/// tree of the first mark by what follows it leading to the note's root.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    version: u32,
    note: String,
    marks: Vec<(String, u64, u64)>,
    revocations: Vec<(Seq, String)>,
    manifest_leaves: Vec<(Seq, String)>,
    manifests: Vec<String>,
}

impl Store {
    /// Opens the directory, made if it is not there, for this process alone.
    ///
    /// # Errors
    /// Another gateway has it, or it cannot be written.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path) -> Result<Self, String> {
        let failed = |e: std::io::Error| format!("`{}`: {e}", dir.display());
        disk.create_dir_all(dir).map_err(failed)?;
        let lock = dir.join("lock");
        match disk.create(&lock) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed(e)),
            _ => {}
        }
        let held = disk.lock(&lock).map_err(|e| match e.kind() {
            std::io::ErrorKind::WouldBlock => format!("another gateway runs in `{}`", dir.display()),
            _ => failed(e),
        })?;
        Ok(Self { disk, dir: dir.to_owned(), _held: held })
    }

    fn file(&self) -> PathBuf {
        self.dir.join("pinned.json")
    }

    /// What was pinned, with the manifests that were in force.
    ///
    /// # Errors
    /// It is damaged, or of another log: a gateway that forgets what it pinned
    /// could be shown another history.
    pub fn load(&self, trust: &Trust) -> Result<(Known, Vec<SignedManifest>), String> {
        let file = self.file();
        let bad = |why: &dyn std::fmt::Display| format!("`{}` cannot be used: {why}", file.display());
        let bytes = match self.disk.read(&file) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok((Known::nothing(), vec![])),
            read => read.map_err(|e| bad(&e))?,
        };
        let kept: Kept = serde_json::from_slice(&bytes).map_err(|e| bad(&e))?;
        if kept.version != 0 {
            return Err(bad(&"written by a newer release"));
        }
        let from = |text: &str| BASE64.decode(text).map_err(|e| bad(&e));
        let checkpoint = trust.signed(&kept.note).map_err(|e| bad(&e))?;
        let mut marks = VecDeque::new();
        for (edge, until_s, set_s) in &kept.marks {
            let edge = Edge::from_bytes(&from(edge)?).filter(|edge| edge.size() <= checkpoint.size);
            let edge = edge.ok_or_else(|| bad(&"its tree is malformed"))?;
            marks.push_back(Mark { edge, until_s: *until_s, set_s: *set_s });
        }
        if marks.is_empty() {
            return Err(bad(&"it has no tree"));
        }
        let mut known = Known::from_marks(marks);
        for (by, text) in &kept.revocations {
            let it = Revocation::from_bytes(&from(text)?).map_err(|e| bad(&e))?;
            known.revocations.push((*by, it));
        }
        for (index, text) in &kept.manifest_leaves {
            let leaf = ManifestLeaf::from_bytes(&from(text)?).map_err(|e| bad(&e))?;
            known.leaves.insert(leaf.realm.clone(), (*index, leaf));
        }
        let manifests = kept.manifests.iter().map(|text| SignedManifest::from_bytes(&from(text)?).map_err(|e| bad(&e)));
        let manifests = manifests.collect::<Result<_, _>>()?;
        known.pinned = Some((checkpoint, kept.note));
        Ok((known, manifests))
    }

    /// Makes it durable; nothing before the first checkpoint.
    ///
    /// # Errors
    /// The disk does not take it.
    pub fn keep(&self, known: &Known, manifests: &[SignedManifest]) -> Result<(), String> {
        let Some((_, note)) = &known.pinned else { return Ok(()) };
        let kept = Kept {
            version: 0,
            note: note.clone(),
            marks: known.marks.iter().map(|it| (BASE64.encode(it.edge.to_bytes()), it.until_s, it.set_s)).collect(),
            revocations: known.revocations.iter().map(|(by, it)| (*by, BASE64.encode(it.to_bytes()))).collect(),
            manifest_leaves: known.leaves.values().map(|(at, it)| (*at, BASE64.encode(it.to_bytes()))).collect(),
            manifests: manifests.iter().map(|it| BASE64.encode(it.to_bytes())).collect(),
        };
        let bytes = serde_json::to_vec(&kept).map_err(|e| e.to_string())?;
        let file = self.file();
        self.disk.replace(&file, &bytes, Durable::Yes).map_err(|e| format!("`{}`: {e}", file.display()))
    }

    /// Keeps two notes that cannot both be true, each in a file; whether they
    /// were not kept before.
    ///
    /// # Errors
    /// The disk does not take it.
    pub fn keep_fork(&self, pinned: &str, other: &Checkpoint, note: &str) -> Result<bool, String> {
        let name = format!("fork-{}-{}", other.size, hex::encode(&other.root[..8]));
        let file = self.dir.join(format!("{name}.note"));
        if self.disk.open_read(&file).is_ok() {
            return Ok(false);
        }
        let failed = |e: std::io::Error| format!("`{}`: {e}", file.display());
        let before = self.dir.join(format!("{name}.pinned.note"));
        self.disk.replace(&before, pinned.as_bytes(), Durable::Yes).map_err(failed)?;
        self.disk.replace(&file, note.as_bytes(), Durable::Yes).map_err(failed)?;
        Ok(true)
    }
}
