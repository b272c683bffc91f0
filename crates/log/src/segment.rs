//! Segment files: `DIR/log/records/<epoch>-<first record>`, and reading them.
//!
//! A segment is filled with zeros before it is used, so that writing a record
//! changes neither the file's length nor its blocks, and a sync costs one
//! flush. It is the record store too: once the next one is in use it gets a
//! footer, is cut to its length, and never changes again.

use std::path::{Path, PathBuf};

use ringfence_db::disk::{Disk, DiskFile, EntryKind};
use ringfence_format::leaf::Hash;
use ringfence_format::record::Seq;

use crate::error::{During, LogError};
use crate::frame::{self, At, FOOTER, SEGMENT_HEADER};

/// A spare segment waiting for its turn, and the one held in reserve.
pub(crate) const SPARE: &str = "spare";
pub(crate) const RESERVE: &str = "reserve";

/// One segment file, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Rises by one from segment to segment.
    pub(crate) epoch: u32,
    /// The first record in it.
    pub(crate) first: Seq,
    pub(crate) path: PathBuf,
    /// Length of the file.
    pub(crate) len: u64,
}

impl Segment {
    pub(crate) fn path_of(records: &Path, epoch: u32, first: Seq) -> PathBuf {
        records.join(format!("{epoch:010}-{first:020}"))
    }

    fn parse(name: &str) -> Option<(u32, Seq)> {
        let (epoch, first) = name.split_once('-')?;
        let digits = |s: &str, n| s.len() == n && s.bytes().all(|c| c.is_ascii_digit());
        if !digits(epoch, 10) || !digits(first, 20) {
            return None;
        }
        Some((epoch.parse().ok()?, first.parse().ok()?))
    }
}

/// All segments, oldest first.
pub(crate) fn list(disk: &dyn Disk, records: &Path) -> Result<Vec<Segment>, LogError> {
    let mut segments = Vec::new();
    for entry in disk.list(records).during("list", records)? {
        if entry.kind != EntryKind::File {
            continue;
        }
        let Some((epoch, first)) = Segment::parse(&entry.name) else { continue };
        segments.push(Segment { epoch, first, path: records.join(&entry.name), len: entry.len });
    }
    segments.sort_by_key(|s| s.epoch);
    Ok(segments)
}

/// The record after a sealed segment; nothing if it is not sealed.
pub(crate) fn sealed_next(disk: &dyn Disk, segment: &Segment) -> Result<Option<Seq>, LogError> {
    let Some(at) = segment.len.checked_sub(FOOTER as u64) else { return Ok(None) };
    let mut foot = [0; FOOTER];
    let file = disk.open_read(&segment.path).during("open", &segment.path)?;
    file.read_at(at, &mut foot).during("read", &segment.path)?;
    Ok(frame::footer_at(&foot, segment.epoch))
}

/// What stopped a [`Scan`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Zeros, or the end of the file.
    Nothing,
    /// The footer: the next record is this.
    Sealed(Seq),
    /// Bytes that are no frame of this segment, or not the next one.
    Bad,
}

/// Reads the frames of a segment in order, in pieces, so that a segment is
/// never held in memory whole.
pub(crate) struct Scan {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    epoch: u32,
    /// The frame that must come next.
    pub(crate) next: Seq,
    /// Where it begins in the file.
    pub(crate) offset: u64,
    buffer: Vec<u8>,
    /// Where it begins in the buffer.
    start: usize,
    /// Why the last call of `frame` gave nothing.
    pub(crate) end: Option<End>,
}

const READ_BYTES: usize = 256 * 1024;

/// One frame, borrowed from a [`Scan`].
pub(crate) struct Scanned<'a> {
    pub(crate) seq: Seq,
    pub(crate) offset: u64,
    /// What was durable when it was written.
    pub(crate) durable: Seq,
    pub(crate) payload: &'a [u8],
}

impl Scan {
    /// From the first frame on, after checking the header.
    pub(crate) fn begin(disk: &dyn Disk, segment: &Segment, origin: &Hash) -> Result<Self, LogError> {
        let mut scan = Self::resume(disk, segment, segment.first, SEGMENT_HEADER as u64)?;
        let mut header = [0; SEGMENT_HEADER];
        scan.file.read_at(0, &mut header).during("read", &segment.path)?;
        if header != frame::segment_header(segment.epoch, segment.first, origin) {
            scan.end = Some(if header == [0; SEGMENT_HEADER] { End::Nothing } else { End::Bad });
        }
        Ok(scan)
    }

    /// From a frame whose place is known.
    pub(crate) fn resume(disk: &dyn Disk, segment: &Segment, next: Seq, offset: u64) -> Result<Self, LogError> {
        let file = disk.open_read(&segment.path).during("open", &segment.path)?;
        let (path, epoch) = (segment.path.clone(), segment.epoch);
        Ok(Self { file, path, epoch, next, offset, buffer: Vec::new(), start: 0, end: None })
    }

    /// The next frame, or nothing; then [`Self::end`] says why.
    pub(crate) fn frame(&mut self) -> Result<Option<Scanned<'_>>, LogError> {
        if self.end.is_some() {
            return Ok(None);
        }
        let mut more = true;
        while more && frame::at(&self.buffer[self.start..], self.epoch) == At::Cut {
            more = self.fill()?;
        }
        let end = match frame::at(&self.buffer[self.start..], self.epoch) {
            At::Frame(found) if found.seq == self.next => {
                let (seq, durable) = (found.seq, found.durable);
                let scanned = Scanned { seq, offset: self.offset, durable, payload: found.payload };
                self.start += found.bytes;
                self.offset += found.bytes as u64;
                self.next += 1;
                return Ok(Some(scanned));
            }
            At::Footer(next) if next == self.next => End::Sealed(next),
            At::Nothing => End::Nothing,
            At::Cut if self.buffer[self.start..].iter().all(|b| *b == 0) => End::Nothing,
            _ => End::Bad,
        };
        self.end = Some(end);
        Ok(None)
    }

    /// Reads on; whether there was more.
    fn fill(&mut self) -> Result<bool, LogError> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let have = self.buffer.len();
        // Twice as much each time, so that a 4 MiB record is not read byte-wise.
        self.buffer.resize(have + READ_BYTES.max(have), 0);
        let got = self.file.read_at(self.offset + have as u64, &mut self.buffer[have..]).during("read", &self.path)?;
        self.buffer.truncate(have + got);
        Ok(got > 0)
    }

    /// Whether a frame behind this place proves that the record expected here
    /// had been acknowledged: it was written when more than that was durable.
    pub(crate) fn was_acknowledged(&mut self) -> Result<bool, LogError> {
        let rest = self.rest()?;
        let mut at = 0;
        while let Some(tail) = rest.get(at..).filter(|tail| !tail.is_empty()) {
            let page = &tail[..tail.len().min(4096)];
            if page.iter().all(|b| *b == 0) {
                at += page.len();
                continue;
            }
            match frame::at(tail, self.epoch) {
                At::Frame(found) if found.durable > self.next => return Ok(true),
                At::Frame(found) => at += found.bytes,
                At::Footer(next) if next > self.next => return Ok(true),
                _ => at += 8,
            }
        }
        Ok(false)
    }

    /// One past the last byte behind this place that is not zero.
    pub(crate) fn dirty_end(&mut self) -> Result<u64, LogError> {
        let rest = self.rest()?;
        Ok(self.offset + rest.iter().rposition(|b| *b != 0).map_or(0, |i| i as u64 + 1))
    }

    fn rest(&mut self) -> Result<Vec<u8>, LogError> {
        let len = self.file.len().during("measure", &self.path)?.saturating_sub(self.offset);
        let mut rest = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        let got = self.file.read_at(self.offset, &mut rest).during("read", &self.path)?;
        rest.truncate(got);
        Ok(rest)
    }
}

/// The segment that records are written to; owned by the sequencer.
pub(crate) struct Active {
    pub(crate) segment: Segment,
    pub(crate) file: Box<dyn DiskFile>,
    /// Where the next byte goes.
    pub(crate) at: u64,
}

impl Active {
    /// Bytes left for frames.
    pub(crate) fn left(&self) -> u64 {
        (self.segment.len - FOOTER as u64).saturating_sub(self.at)
    }
}

/// Makes a file of zeros that a segment can be written into, under a name of
/// its own until it is durable.
pub(crate) fn prepare(disk: &dyn Disk, records: &Path, name: &str, len: u64) -> Result<(), LogError> {
    let temp = records.join(format!("{name}.tmp"));
    let _ = disk.unlink(&temp);
    let made = fill_zeros(disk, &temp, len);
    if made.is_err() {
        let _ = disk.unlink(&temp);
        return made;
    }
    disk.rename(&temp, &records.join(name)).during("rename", &temp)?;
    disk.sync_dir(records).during("sync", records)
}

/// Synced in pieces, so that the sync of a record beside it never waits for
/// a whole segment.
const ZERO_BYTES: usize = 1024 * 1024;

fn fill_zeros(disk: &dyn Disk, path: &Path, len: u64) -> Result<(), LogError> {
    let file = disk.create(path).during("create", path)?;
    let zeros = vec![0; ZERO_BYTES];
    let mut at = 0;
    while at < len {
        let piece = (len - at).min(ZERO_BYTES as u64);
        file.write_at(at, &zeros[..piece as usize]).during("write", path)?;
        file.sync_data().during("sync", path)?;
        at += piece;
    }
    Ok(())
}

/// Writes the footer behind the last frame and cuts the file to its length.
pub(crate) fn seal(file: &dyn DiskFile, path: &Path, epoch: u32, next: Seq, end: u64) -> Result<(), LogError> {
    file.write_at(end, &frame::footer(epoch, next, end)).during("write", path)?;
    file.set_len(end + FOOTER as u64).during("cut", path)?;
    file.sync_data().during("sync", path)
}
