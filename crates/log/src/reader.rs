//! Reading the log: one record, all from one on, proofs, tiles.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ringfence_format::leaf::{Opening, Openings, SealedRecord, group_bytes};
use ringfence_format::proof::{self, Proof};
use ringfence_format::record::{Record, Seq, TimeUs};
use ringfence_format::redo::Redo;
use ringfence_format::tile::{self, TILE_WIDTH, TileKind, TilePath, leaf_hash};

use crate::error::{During, LogError};
use crate::inner::{Inner, held};
use crate::publish::{Published, TileReader, Tiles};
use crate::seal::OpenError;
use crate::segment::{Scan, Segment};

/// A segment as readers know it, with the places of some of its records.
pub(crate) struct Catalogued {
    pub(crate) segment: Segment,
    len: AtomicU64,
    marks: Mutex<Marks>,
}

/// Places of every [`MARK_EVERY`]th record up to `next`.
struct Marks {
    next: Seq,
    places: Vec<(Seq, u64)>,
}

const MARK_EVERY: u64 = 64;

impl Catalogued {
    pub(crate) fn new(segment: Segment) -> Self {
        let marks = Mutex::new(Marks { next: segment.first, places: Vec::new() });
        Self { len: AtomicU64::new(segment.len), segment, marks }
    }

    pub(crate) fn len(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }

    pub(crate) fn sealed(&self, len: u64) {
        self.len.store(len, Ordering::Relaxed);
    }

    /// The segment with the length it has now.
    pub(crate) fn as_it_is(&self) -> Segment {
        Segment { len: self.len(), ..self.segment.clone() }
    }

    /// The first record that was not noted yet: of the segment in use, the
    /// next one that will be written.
    pub(crate) fn next(&self) -> Seq {
        held(&self.marks).next
    }

    /// Remembers where a record lies, if it is one of those remembered.
    pub(crate) fn note(&self, seq: Seq, offset: u64) {
        let marks = &mut *held(&self.marks);
        if seq == marks.next {
            marks.next = seq + 1;
            if (seq - self.segment.first).is_multiple_of(MARK_EVERY) {
                marks.places.push((seq, offset));
            }
        }
    }

    /// The nearest remembered record at or before `seq`.
    fn near(&self, seq: Seq) -> Option<(Seq, u64)> {
        let marks = held(&self.marks);
        let after = marks.places.partition_point(|(at, _)| *at <= seq);
        after.checked_sub(1).map(|i| marks.places[i])
    }
}

impl Inner {
    fn segment_of(&self, seq: Seq) -> Option<Arc<Catalogued>> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let after = segments.partition_point(|s| s.segment.first <= seq);
        after.checked_sub(1).map(|i| segments[i].clone())
    }

    /// A scan that stands before record `seq`.
    fn scan_at(&self, seq: Seq) -> Result<(Arc<Catalogued>, Scan), LogError> {
        let missing = || LogError::NoRecord { seq, size: self.durable() };
        let listed = self.segment_of(seq).ok_or_else(missing)?;
        let mut scan = match listed.near(seq) {
            Some((near, offset)) => Scan::resume(self.disk.as_ref(), &listed.segment, near, offset)?,
            None => Scan::begin(self.disk.as_ref(), &listed.segment, &self.origin)?,
        };
        while scan.next < seq {
            let next = scan.next;
            let frame = scan.frame()?.ok_or(LogError::Broken { index: next, what: "damaged".into() })?;
            listed.note(frame.seq, frame.offset);
        }
        Ok((listed, scan))
    }

    pub(crate) fn sealed(&self, seq: Seq) -> Result<SealedRecord, LogError> {
        let size = self.durable();
        if seq >= size {
            return Err(LogError::NoRecord { seq, size });
        }
        let (_, mut scan) = self.scan_at(seq)?;
        let frame = scan.frame()?.ok_or(LogError::Broken { index: seq, what: "damaged".into() })?;
        SealedRecord::from_bytes(frame.payload).map_err(|e| LogError::Unreadable { seq, why: e.into() })
    }

    pub(crate) fn open_record(&self, seq: Seq, sealed: &SealedRecord) -> Result<Record, LogError> {
        self.open_sealed(seq, sealed).map_err(|why| LogError::Unreadable { seq, why })
    }

    pub(crate) fn open_sealed(&self, seq: Seq, sealed: &SealedRecord) -> Result<Record, OpenError> {
        match self.gone(seq, sealed)? {
            Some(gone) => Err(gone),
            None => self.sealer.open(seq, sealed),
        }
    }

    /// Whether fields of a record are gone; they are only if who took them had
    /// the key for it.
    fn gone(&self, seq: Seq, sealed: &SealedRecord) -> Result<Option<OpenError>, OpenError> {
        let Some(gone) = OpenError::of_cut(sealed) else {
            let forged = sealed.redo_gone.is_some() || sealed.mark.is_some();
            let why = || OpenError::Corrupt("what it changed was taken in the name of no record".into());
            return if forged { Err(why()) } else { Ok(None) };
        };
        let bare = SealedRecord { mark: None, ..sealed.clone() };
        match sealed.mark == Some(self.sealer.mark(seq, &bare)?) {
            true => Ok(Some(gone)),
            false => Err(OpenError::Corrupt("its fields were taken by somebody without the log's keys".into())),
        }
    }

    /// What a record changed, also where its fields are gone, or where only
    /// their key is.
    pub(crate) fn change(&self, seq: Seq, sealed: &SealedRecord) -> Result<Change, LogError> {
        let unreadable = |why| LogError::Unreadable { seq, why };
        if let Some(OpenError::Erased { by } | OpenError::Trimmed { by }) =
            self.gone(seq, sealed).map_err(unreadable)?
            && sealed.redo_gone == Some(true)
        {
            return Ok(Change { time_us: None, redo: Changed::Gone { by } });
        }
        let (time_us, redo) = match self.open_record(seq, sealed) {
            Ok(record) => (Some(record.core.time_us), record.redo),
            Err(LogError::Unreadable { why, .. }) if !matches!(why, OpenError::Corrupt(_)) => {
                (None, self.sealer.open_redo(seq, sealed).map_err(unreadable)?)
            }
            Err(error) => return Err(error),
        };
        Ok(Change { time_us, redo: redo.map_or(Changed::Nothing, |redo| Changed::By(Box::new(redo))) })
    }

    /// Proves record `seq` under the published checkpoint.
    pub(crate) fn prove(&self, seq: Seq) -> Result<Proof, LogError> {
        let published = self.published();
        let size = published.checkpoint.size;
        if seq >= size {
            return Err(LogError::NoRecord { seq, size });
        }
        let openings = self.openings(seq)?;
        let mut nodes = TileReader { inner: self, edge: &published.edge, unwritten: &Tiles::new() };
        let path = proof::inclusion(&mut nodes, seq, size)?;
        let root = &published.checkpoint.root;
        if !proof::verify_inclusion(&leaf_hash(&openings.entry()), seq, size, root, &path) {
            return Err(LogError::Broken { index: seq, what: "different from what was signed".into() });
        }
        Ok(Proof { index: seq, openings, path, checkpoint: published.note.clone() })
    }

    fn openings(&self, seq: Seq) -> Result<Openings, LogError> {
        let sealed = self.sealed(seq)?;
        if self.gone(seq, &sealed).map_err(|why| LogError::Unreadable { seq, why })?.is_some() {
            return self.openings_left(seq, &sealed);
        }
        let record = self.open_record(seq, &sealed)?;
        let salts = self.sealer.salts(seq, &sealed).map_err(|why| LogError::Unreadable { seq, why })?;
        let mut open = salts.into_iter().zip(group_bytes(&record)).map(|(salt, bytes)| Opening::Open(salt, bytes));
        let mut next = || open.next().expect("there are three groups");
        Ok(Openings { core: next(), subject: next(), resource: next(), public: sealed.public })
    }

    /// Of an erased record the core may be left; of a trimmed one nothing.
    fn openings_left(&self, seq: Seq, sealed: &SealedRecord) -> Result<Openings, LogError> {
        let unreadable = |why| LogError::Unreadable { seq, why };
        let [mut core, subject, resource] = sealed.commitments.map(Opening::Closed);
        if !sealed.core.is_empty() {
            let [salt, ..] = self.sealer.salts(seq, sealed).map_err(unreadable)?;
            let open = self.sealer.open_core(seq, sealed).map_err(unreadable)?;
            core = Opening::Open(salt, minicbor::to_vec(&open).expect("encoding into memory cannot fail"));
        }
        Ok(Openings { core, subject, resource, public: sealed.public.clone() })
    }

    /// The bytes of a tile or bundle of the published tree, at any width it has.
    pub(crate) fn tile(&self, text: &str) -> Result<Vec<u8>, LogError> {
        let absent = || LogError::NoTile(text.chars().take(80).collect());
        let path: TilePath = text.parse().map_err(|_| absent())?;
        let published = self.published();
        let has = TilePath::width_in(path.kind, path.index, published.checkpoint.size);
        if has < path.width {
            return Err(absent());
        }
        if has < TILE_WIDTH {
            return Ok(from_edge(&published, &path));
        }
        let file = self.tile_file(&TilePath::full(path.kind, path.index));
        let full = self.disk.read(&file).during("read", &file)?;
        cut(&full, &path).ok_or_else(absent)
    }
}

fn from_edge(published: &Published, path: &TilePath) -> Vec<u8> {
    let width = path.width as usize;
    match path.kind {
        TileKind::Entries => tile::bundle(&published.tail[..width]),
        TileKind::Hashes(level) => published.edge.partial(level)[..width].concat(),
    }
}

/// The first `width` hashes or entries of a full tile.
fn cut(full: &[u8], path: &TilePath) -> Option<Vec<u8>> {
    let width = path.width as usize;
    match path.kind {
        TileKind::Entries => tile::entries(full)?.get(..width).map(tile::bundle),
        TileKind::Hashes(_) => full.get(..width * 32).map(<[u8]>::to_vec),
    }
}

/// The records from one on, opened; see [`Log::read`](crate::Log::read).
pub struct Records {
    pub(crate) inner: Arc<Inner>,
    next: Seq,
    scan: Option<(Arc<Catalogued>, Scan)>,
}

impl Records {
    pub(crate) fn new(inner: Arc<Inner>, from: Seq) -> Self {
        Self { inner, next: from, scan: None }
    }

    fn sealed(&mut self) -> Result<SealedRecord, LogError> {
        let seq = self.next;
        // What was read ahead may be older than the record, or end with its
        // segment: look again once, where the record must be.
        for _ in 0..2 {
            let (listed, scan) = match &mut self.scan {
                Some(at) => at,
                none => none.insert(self.inner.scan_at(seq)?),
            };
            if let Some(frame) = scan.frame()? {
                listed.note(frame.seq, frame.offset);
                return SealedRecord::from_bytes(frame.payload)
                    .map_err(|e| LogError::Unreadable { seq, why: e.into() });
            }
            self.scan = None;
        }
        Err(LogError::Broken { index: seq, what: "damaged".into() })
    }
}

/// What a record did to the catalogue.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// When; unknown where the fields are gone, or their key is.
    pub time_us: Option<TimeUs>,
    /// What.
    pub redo: Changed,
}

/// See [`Change`].
#[derive(Clone, Debug, PartialEq)]
pub enum Changed {
    /// It changed nothing: a read, a refusal.
    Nothing,
    /// This.
    By(Box<Redo>),
    /// It changed something, and nothing of that was left when this record
    /// said that it may go.
    Gone {
        /// The record.
        by: Seq,
    },
}

/// The durable records from one on, by what they changed.
pub struct Replay(Records);

impl Replay {
    pub(crate) fn new(inner: Arc<Inner>, from: Seq) -> Self {
        Self(Records::new(inner, from))
    }
}

impl Iterator for Replay {
    type Item = Result<(Seq, Change), LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (seq, sealed) = self.0.step()?;
        Some(sealed.and_then(|sealed| self.0.inner.change(seq, &sealed)).map(|change| (seq, change)))
    }
}

impl Records {
    /// The next place and what lies there.
    fn step(&mut self) -> Option<(Seq, Result<SealedRecord, LogError>)> {
        let seq = self.next;
        if seq >= self.inner.durable() {
            return None;
        }
        let sealed = self.sealed();
        self.next = seq + 1;
        if sealed.is_err() {
            self.scan = None;
        }
        Some((seq, sealed))
    }
}

impl Iterator for Records {
    type Item = Result<(Seq, Record), LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (seq, sealed) = self.step()?;
        Some(sealed.and_then(|sealed| self.inner.open_record(seq, &sealed)).map(|record| (seq, record)))
    }
}
