//! Opening a log: what is on the disk, cut, compared, and published again.
//!
//! 1. Take the lock and the last signed checkpoint in it.
//! 2. Read the segments that are not sealed yet, from the last settled edge
//!    of the tree on; sealed ones are only looked at by their footers.
//! 3. Cut what was never acknowledged from the end. A frame that cannot be
//!    read although a later one proves that it was durable is damage.
//!    What is kept is synced: a process that was killed may not have.
//! 4. Give the entries to the publisher, as if they had just become durable:
//!    it writes their tiles and signs nothing but an extension of step 1.
//!
//! Where step 4 finds another root than was signed, everything is read to say
//! which record is the first that differs; if none does, the tiles were at
//! fault and are made anew from the records.

use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex, RwLock};

use ringfence_db::clock::Clock;
use ringfence_db::disk::{Disk, DiskFile, Durable};
use ringfence_format::checkpoint::{Checkpoint, VerifierKey, verify};
use ringfence_format::leaf::{Hash, LeafEntry, SealedRecord};
use ringfence_format::record::Seq;
use ringfence_format::tile::{self, Edge, TILE_WIDTH, TileKind, TilePath, empty_root, leaf_hash};

use crate::error::{During, LogError};
use crate::frame::{self, FOOTER, SEGMENT_HEADER};
use crate::inner::{Chores, Fresh, Inner, held};
use crate::keep::{Retired, Settled};
use crate::lock::CheckpointLock;
use crate::log::Options;
use crate::publish::{Published, Tree};
use crate::reader::Catalogued;
use crate::seal::{SealRecord, SignCheckpoint};
use crate::segment::{self, Active, End, RESERVE, SPARE, Scan, Segment};
use crate::sequencer::{Batch, Front, State, Writer};
use crate::space::{Growth, Space, Spare};
use crate::witnessed::{self, Witnesses};

/// See [`crate::Log::open`].
pub(crate) fn open(
    dir: &Path,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    sealer: Arc<dyn SealRecord>,
    signer: Arc<dyn SignCheckpoint>,
    options: Options,
) -> Result<Inner, LogError> {
    let records = dir.join("records");
    disk.create_dir_all(&records).during("create", &records)?;
    let bad_key = |why| LogError::Checkpoint { path: dir.join("log.vkey"), why };
    let key = VerifierKey::new(signer.name(), signer.public_key()).map_err(bad_key)?;
    let mut lock = CheckpointLock::open(disk.as_ref(), dir, signer, key.clone())?;
    write_key(disk.as_ref(), dir, &key)?;
    adopt_published(disk.as_ref(), dir, &key, &mut lock)?;

    let origin = origin_of(&key);
    let settled = settled_edge(disk.as_ref(), dir, &records, lock.last().map_or(0, |(last, _)| last.size))?;
    let found = read_segments(disk.as_ref(), &records, &origin, settled.edge.size())?;
    if let Some((last, _)) = lock.last().filter(|(last, _)| last.size > found.next) {
        let what = format!("missing, though a checkpoint of {} records was signed", last.size);
        return Err(LogError::Broken { index: found.next, what });
    }
    let kept = witnessed::read_kept(disk.as_ref(), dir, &key);
    let writer = open_writer(disk.as_ref(), &records, &origin, &options, &found)?;
    let front = Front {
        state: State::Open,
        next: found.next,
        last_us: 0,
        pool: Batch::default(),
        space: plan_space(disk.as_ref(), &records, &options, &writer)?,
        ending: crate::inner::Ending::NotYet,
    };
    let mut segments = found.listed;
    if segments.last().is_none_or(|s| s.segment.epoch != writer.listed.segment.epoch) {
        segments.push(writer.listed.clone());
    }
    let inner = Inner {
        dir: dir.to_owned(),
        records,
        key,
        origin,
        front: Mutex::new(front),
        work: Condvar::new(),
        supplied: Condvar::new(),
        writer: Mutex::new(writer),
        durable: AtomicU64::new(found.next),
        fresh: Mutex::new(Fresh { entries: found.entries, ..Fresh::default() }),
        published_wake: Condvar::new(),
        tree: Mutex::new(Tree::new(settled.edge, settled.tail, lock)),
        published: RwLock::new(Arc::new(nothing_published(dir))),
        segments: RwLock::new(segments),
        retired: Mutex::new(found.retired),
        cutting: Mutex::default(),
        witnesses: Witnesses::new(kept.as_ref().map(|(_, note)| note.clone())),
        chores: Mutex::new(Chores::default()),
        chores_wake: Condvar::new(),
        disk,
        clock,
        sealer,
        options,
    };
    publish_first(&inner)?;
    kept.map_or(Ok(()), |(kept, _)| inner.check_kept(&kept))?;
    Ok(inner)
}

/// SHA-256 of the origin, as segment headers carry it.
pub(crate) fn origin_of(key: &VerifierKey) -> Hash {
    ringfence_format::leaf::redo_digest(key.name().as_bytes())
}

fn write_key(disk: &dyn Disk, dir: &Path, key: &VerifierKey) -> Result<(), LogError> {
    let path = dir.join("log.vkey");
    let text = format!("{key}\n");
    if disk.read(&path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    disk.replace(&path, text.as_bytes(), Durable::Yes).during("write", &path)
}

/// The published checkpoint is never ahead of the lock; if it is, the lock was
/// lost or set back, and the checkpoint that was shown counts.
fn adopt_published(disk: &dyn Disk, dir: &Path, key: &VerifierKey, lock: &mut CheckpointLock) -> Result<(), LogError> {
    let path = dir.join("checkpoint");
    let Ok(bytes) = disk.read(&path) else { return Ok(()) };
    let note = String::from_utf8_lossy(&bytes).into_owned();
    match verify(&note, key) {
        Ok(shown) => {
            let forked = lock.adopt(shown, note);
            forked.map_err(|at| LogError::Broken {
                index: at,
                what: "in doubt: two different checkpoints of the same size were signed".into(),
            })
        }
        // It is replaced without a sync: a crash of the machine may tear it.
        Err(_) if lock.last().is_some() => Ok(()),
        Err(why) => Err(LogError::Checkpoint { path, why }),
    }
}

/// Where reading begins: at the kept edge, or at the first record.
fn settled_edge(disk: &dyn Disk, dir: &Path, records: &Path, published: Seq) -> Result<Settled, LogError> {
    if segment::list(disk, records)?.first().is_some_and(|s| s.first > 0) {
        return Err(LogError::Broken { index: 0, what: "missing".into() });
    }
    let kept = Settled::read(disk, dir).filter(|s| s.edge.size() <= published);
    Ok(kept.unwrap_or_else(|| Settled { edge: Edge::new(), tail: Vec::new() }))
}

struct Found {
    /// The next record.
    next: Seq,
    /// Entries from the settled edge on.
    entries: Vec<LeafEntry>,
    listed: Vec<Arc<Catalogued>>,
    retired: Vec<Retired>,
    /// The last segment, if it can be written on, and where.
    last: Option<(Segment, u64, Arc<Catalogued>)>,
    epoch_next: u32,
}

fn read_segments(disk: &dyn Disk, records: &Path, origin: &Hash, settled: Seq) -> Result<Found, LogError> {
    let segments = segment::list(disk, records)?;
    let mut found = Found {
        next: segments.first().map_or(0, |s| s.first),
        entries: Vec::new(),
        listed: Vec::new(),
        retired: Vec::new(),
        last: None,
        epoch_next: segments.first().map_or(0, |s| s.epoch),
    };
    for (i, segment) in segments.iter().enumerate() {
        if segment.epoch != found.epoch_next || segment.first != found.next {
            return Err(LogError::Broken { index: found.next, what: "missing".into() });
        }
        found.epoch_next = segment.epoch.checked_add(1).expect("four thousand million segments");
        let listed = Arc::new(Catalogued::new(segment.clone()));
        found.listed.push(listed.clone());
        match segment::sealed_next(disk, segment)? {
            Some(next) if next <= settled => found.next = next,
            _ => read_segment(disk, origin, settled, &listed, i + 1 == segments.len(), &mut found)?,
        }
    }
    Ok(found)
}

fn read_segment(
    disk: &dyn Disk,
    origin: &Hash,
    settled: Seq,
    listed: &Arc<Catalogued>,
    is_last: bool,
    found: &mut Found,
) -> Result<(), LogError> {
    let segment = &listed.segment;
    let mut scan = Scan::begin(disk, segment, origin)?;
    let headless = scan.end.is_some();
    while let Some(frame) = scan.frame()? {
        listed.note(frame.seq, frame.offset);
        if frame.seq >= settled {
            let sealed = SealedRecord::from_bytes(frame.payload);
            let broken = |e| LogError::Broken { index: frame.seq, what: format!("damaged ({e})") };
            found.entries.push(sealed.map_err(broken)?.entry());
        }
    }
    found.next = scan.next;
    if matches!(scan.end, Some(End::Sealed(_))) && segment.len == scan.offset + FOOTER as u64 {
        return Ok(());
    }
    if !is_last || matches!(scan.end, Some(End::Sealed(_))) {
        // Another segment follows, so everything in this one was durable: the
        // caller compares where it ends with where the next one begins.
        let file = disk.open(&segment.path).during("open", &segment.path)?;
        let (end, next) = (scan.offset, scan.next);
        found.retired.push(Retired { segment: segment.clone(), file, end, next });
        return Ok(());
    }
    if scan.was_acknowledged()? {
        return Err(LogError::Broken { index: scan.next, what: "damaged".into() });
    }
    let at = if headless { 0 } else { scan.offset };
    clear_tail(disk, segment, at, scan.dirty_end()?)?;
    found.last = Some((segment.clone(), at, listed.clone()));
    Ok(())
}

/// Zeros what was never acknowledged: a later record must not end where an
/// old frame happens to begin.
fn clear_tail(disk: &dyn Disk, segment: &Segment, at: u64, dirty_end: u64) -> Result<(), LogError> {
    if dirty_end <= at {
        return Ok(());
    }
    tracing::info!(segment = %segment.path.display(), bytes = dirty_end - at, "cut an unacknowledged end of the log");
    let file = disk.open(&segment.path).during("open", &segment.path)?;
    file.write_at(at, &vec![0; (dirty_end - at) as usize]).during("clear", &segment.path)?;
    file.sync_data().during("sync", &segment.path)
}

/// The first segment is small, so that a first start is quick.
const FIRST_SEGMENT_BYTES: u64 = 8 * 1024 * 1024;

fn open_writer(
    disk: &dyn Disk,
    records: &Path,
    origin: &Hash,
    options: &Options,
    found: &Found,
) -> Result<Writer, LogError> {
    let (segment, at, listed) = match &found.last {
        Some((segment, at, listed)) => (segment.clone(), *at, listed.clone()),
        None => {
            let path = Segment::path_of(records, found.epoch_next, found.next);
            let len = options.segment_bytes.min(FIRST_SEGMENT_BYTES);
            let name = path.file_name().and_then(|n| n.to_str()).expect("made of digits");
            segment::prepare(disk, records, name, len)?;
            let segment = Segment { epoch: found.epoch_next, first: found.next, path, len };
            (segment.clone(), 0, Arc::new(Catalogued::new(segment)))
        }
    };
    let file = disk.open(&segment.path).during("open", &segment.path)?;
    if found.last.is_some() {
        make_durable(disk, records, &*file, &segment)?;
    }
    let buffer = match at {
        0 => frame::segment_header(segment.epoch, segment.first, origin).to_vec(),
        _ => Vec::new(),
    };
    Ok(Writer { active: Active { segment, file, at }, buffer, listed })
}

/// What a process that was killed had written, and perhaps not synced, is read
/// back all the same. From here on it counts as durable: it is signed, and its
/// changes are applied. So it is made durable first, with the segment's name.
fn make_durable(disk: &dyn Disk, records: &Path, file: &dyn DiskFile, segment: &Segment) -> Result<(), LogError> {
    file.sync_data().during("sync", &segment.path)?;
    disk.sync_dir(records).during("sync", records)
}

fn plan_space(disk: &dyn Disk, records: &Path, options: &Options, writer: &Writer) -> Result<Space, LogError> {
    let there = |name: &str| -> Result<bool, LogError> {
        let path = records.join(name);
        let Ok(file) = disk.open_read(&path) else { return Ok(false) };
        let fits = file.len().during("measure", &path)? == options.segment_bytes;
        if !fits {
            disk.unlink(&path).during("remove", &path)?;
        }
        Ok(fits)
    };
    Ok(Space {
        left: writer.active.left().saturating_sub(writer.buffer.len() as u64),
        room: options.segment_bytes - (SEGMENT_HEADER + FOOTER) as u64,
        spare: if there(SPARE)? { Spare::Ready } else { Spare::Absent },
        reserve: there(RESERVE)?,
        owed: false,
        growth: Growth::Free,
        on_reserve: false,
    })
}

fn nothing_published(dir: &Path) -> Published {
    let origin = dir.to_string_lossy().into_owned();
    let checkpoint = Checkpoint { origin, size: 0, root: empty_root() };
    Published { note: String::new(), checkpoint, edge: Edge::new(), tail: Vec::new() }
}

/// Publishes what was found; looks closely if that is not what was signed.
fn publish_first(inner: &Inner) -> Result<(), LogError> {
    let why = match inner.publish_once() {
        Ok(()) => return Ok(()),
        Err(why) => why,
    };
    if matches!(&why, LogError::Io { kind, .. } if *kind != std::io::ErrorKind::NotFound) {
        tracing::warn!(error = %why, "the log's tiles cannot be written now; records are taken, trying again");
        return Ok(());
    }
    tracing::warn!(error = %why, "reading the whole log to see what differs from the last checkpoint");
    let all = reread(inner)?;
    {
        let tree = &mut *held(&inner.tree);
        tree.restart(all.0);
        held(&inner.fresh).entries = all.1;
        held(&inner.front).state = State::Open;
    }
    inner.publish_once()
}

/// Reads every record. If they have the root that was signed, returns their
/// entries: the tiles were wrong. If not, says which is the first to differ.
fn reread(inner: &Inner) -> Result<(Settled, Vec<LeafEntry>), LogError> {
    let disk = inner.disk.as_ref();
    let last = held(&inner.tree).lock.last().map(|(last, _)| last.clone());
    let signed = last.as_ref().map_or(0, |last| last.size);
    let _ = disk.unlink(&inner.dir.join("edge"));
    let begin = settled_edge(disk, &inner.dir, &inner.records, signed)?;
    let (mut entries, mut edge, mut full) = (Vec::new(), begin.edge.clone(), Vec::new());
    let (mut differs, mut same_root) = (None, last.is_none());
    let mut tile_hashes = (u64::MAX, Vec::new());
    for segment in segment::list(disk, &inner.records)? {
        let mut scan = Scan::begin(disk, &segment, &inner.origin)?;
        if scan.next != edge.size() {
            return Err(LogError::Broken { index: edge.size(), what: "missing".into() });
        }
        while let Some(frame) = scan.frame()? {
            let sealed = SealedRecord::from_bytes(frame.payload);
            let broken = |e| LogError::Broken { index: frame.seq, what: format!("damaged ({e})") };
            let entry = sealed.map_err(broken)?.entry();
            let hash = leaf_hash(&entry);
            if differs.is_none() && signed_differently(inner, signed, frame.seq, &hash, &mut tile_hashes) {
                differs = Some(frame.seq);
            }
            edge.push(hash, &mut full);
            full.clear();
            entries.push(entry);
            if let Some(last) = last.as_ref().filter(|last| last.size == edge.size()) {
                same_root = last.root == edge.root();
            }
        }
    }
    let size = edge.size();
    same_root |= last.as_ref().is_some_and(|last| last.size == 0);
    match (last, differs) {
        _ if same_root => Ok((begin, entries)),
        (Some(last), _) if last.size > size => Err(LogError::Broken { index: size, what: "missing".into() }),
        (_, Some(index)) => Err(LogError::Broken { index, what: "not what was signed".into() }),
        (_, None) => Err(LogError::Broken { index: 0, what: "or a later one is not what was signed".into() }),
    }
}

/// Whether the tile on the disk holds another hash for this record. A tile
/// that is not there says nothing.
fn signed_differently(inner: &Inner, signed: Seq, seq: Seq, hash: &Hash, cache: &mut (u64, Vec<Hash>)) -> bool {
    let (kind, index) = (TileKind::Hashes(0), seq / TILE_WIDTH);
    if cache.0 != index {
        let width = TilePath::width_in(kind, index, signed);
        let read = |width| inner.disk.read(&inner.tile_file(&TilePath { kind, index, width }));
        let bytes = read(width).or_else(|_| read(TILE_WIDTH)).unwrap_or_default();
        *cache = (index, tile::hashes(&bytes).unwrap_or_default());
    }
    cache.1.get((seq % TILE_WIDTH) as usize).is_some_and(|signed| signed != hash)
}
