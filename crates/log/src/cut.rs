//! Retention and erasure: a segment is written anew with less in it.
//!
//! Of a record that is cut its commitments stay, so its entry, its leaf and
//! every tile are what they were: the log verifies, and earlier checkpoints
//! still fit. What was cut names the record that says so.
//!
//! Only sealed segments are cut, one after the other: the new one is written
//! beside the old, synced, and takes its name. A crash leaves each segment
//! whole, as before or as after; cutting again does what is left.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use ringfence_db::disk::DiskFile;
use ringfence_format::leaf::{RedoFate, SealedRecord};
use ringfence_format::record::{Core, Record, Seq};

use crate::error::{During, LogError};
use crate::frame::{self, FOOTER, SEGMENT_HEADER};
use crate::inner::{Inner, held};
use crate::reader::{Catalogued, Change};
use crate::seal::{Keep, OpenError};
use crate::segment::{self, Scan, Segment};

/// What becomes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It stays as it is.
    Stay,
    /// This one and every later one stay: they need not be looked at.
    StayFromHere,
    /// Retention takes its fields. Of one whose fields are gone already, only
    /// the redo may go.
    Trim(RedoFate),
    /// Subject and resource are erased; the core is sealed under the key that
    /// follows, so that the record's own can be destroyed.
    Erase(RedoFate),
    /// It is sealed under the key that follows its own, whole.
    Reseal,
}

/// What was cut, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Cut {
    /// Records that were looked at.
    pub looked_at: u64,
    /// Records whose fields retention took.
    pub trimmed: u64,
    /// Records whose subject and resource were erased.
    pub erased: u64,
    /// Records that were sealed under another key.
    pub resealed: u64,
    /// Redos that went.
    pub redos: u64,
    /// Segments that were written anew.
    pub segments: u64,
    /// Bytes that they became smaller.
    pub bytes: u64,
    /// The first record that was not looked at.
    pub until: Seq,
}

impl Cut {
    /// Whether there was nothing to do.
    pub fn is_empty(&self) -> bool {
        self.trimmed + self.erased + self.resealed + self.redos == 0
    }

    /// Adds what another walk did.
    pub fn join(&mut self, other: &Self) {
        self.looked_at = self.looked_at.max(other.looked_at);
        self.trimmed += other.trimmed;
        self.erased += other.erased;
        self.resealed += other.resealed;
        self.redos += other.redos;
        self.segments += other.segments;
        self.bytes += other.bytes;
        self.until = self.until.max(other.until);
    }
}

/// A record that is being judged.
pub struct Place<'a> {
    inner: &'a Inner,
    /// Where it stands.
    pub seq: Seq,
    /// As it lies on the disk.
    pub sealed: &'a SealedRecord,
}

impl Place<'_> {
    /// Opened.
    pub fn record(&self) -> Result<Record, OpenError> {
        self.inner.open_sealed(self.seq, self.sealed)
    }

    /// What happened, where that alone is left of it.
    pub fn core(&self) -> Result<Core, LogError> {
        self.inner.sealer.open_core(self.seq, self.sealed).map_err(|why| LogError::Unreadable { seq: self.seq, why })
    }

    /// What it changed.
    pub fn change(&self) -> Result<Change, LogError> {
        self.inner.change(self.seq, self.sealed)
    }
}

/// Whether a cut is made or only counted.
#[derive(Clone, Copy)]
pub(crate) enum Mode {
    Count,
    Make { by: Seq },
}

impl Mode {
    /// What takes fields from a record was on record after it.
    fn is_too_early_for(self, seq: Seq, fate: Fate) -> bool {
        let takes = matches!(fate, Fate::Trim(_) | Fate::Erase(_));
        takes && matches!(self, Mode::Make { by } if seq >= by)
    }
}

impl Inner {
    /// Asks `judge` about the records before `before`, in order, and does what
    /// it says. Counting looks at every record; making, at sealed segments.
    pub(crate) fn cut<E: From<LogError>>(
        &self,
        mode: Mode,
        before: Seq,
        judge: &mut dyn FnMut(&Place<'_>) -> Result<Fate, E>,
    ) -> Result<Cut, E> {
        let _one_at_a_time = held(&self.cutting);
        let mut done = Cut::default();
        let listed = self.segments.read().unwrap_or_else(PoisonError::into_inner).clone();
        for listed in listed {
            let segment = listed.as_it_is();
            let is_sealed = segment::sealed_next(self.disk.as_ref(), &segment)?.is_some();
            if segment.first >= before || (matches!(mode, Mode::Make { .. }) && !is_sealed) {
                break;
            }
            let (fates, goes_on) = self.judge(mode, &segment, before.min(self.durable()), judge, &mut done)?;
            if let Mode::Make { by } = mode
                && fates.iter().any(|fate| *fate != Fate::Stay)
            {
                let new = self.write_anew(&segment, &fates, by)?;
                done.segments += 1;
                done.bytes += segment.len.saturating_sub(new.len);
                self.put_in_place(&new)?;
            }
            if !goes_on {
                break;
            }
        }
        Ok(done)
    }

    /// The fates of a segment's records, and whether to look at the next one.
    fn judge<E: From<LogError>>(
        &self,
        mode: Mode,
        segment: &Segment,
        before: Seq,
        judge: &mut dyn FnMut(&Place<'_>) -> Result<Fate, E>,
        done: &mut Cut,
    ) -> Result<(Vec<Fate>, bool), E> {
        let mut scan = Scan::begin(self.disk.as_ref(), segment, &self.origin)?;
        let mut fates = Vec::new();
        while scan.next < before {
            let seq = scan.next;
            let Some(frame) = scan.frame()? else { break };
            let sealed = decode(seq, frame.payload)?;
            let fate = possible(judge(&Place { inner: self, seq, sealed: &sealed })?, &sealed);
            let fate = if mode.is_too_early_for(seq, fate) { Fate::Stay } else { fate };
            if fate == Fate::StayFromHere {
                return Ok((fates, false));
            }
            done.count(fate, &sealed);
            done.looked_at += 1;
            done.until = seq + 1;
            fates.push(fate);
        }
        Ok((fates, scan.next < before))
    }

    /// Writes what is left of a segment under a temporary name, durably. What
    /// has no fate in the list stays.
    fn write_anew(&self, segment: &Segment, fates: &[Fate], by: Seq) -> Result<Segment, LogError> {
        let path = self.records.join(TEMPORARY);
        let _ = self.disk.unlink(&path);
        let mut new =
            NewSegment { file: self.disk.create(&path).during("create", &path)?, path, at: 0, buffer: vec![] };
        new.buffer.extend_from_slice(&frame::segment_header(segment.epoch, segment.first, &self.origin));
        let mut scan = Scan::begin(self.disk.as_ref(), segment, &self.origin)?;
        while let Some(frame) = scan.frame()? {
            let (seq, durable) = (frame.seq, frame.durable);
            let fate = fates.get((seq - segment.first) as usize).copied().unwrap_or(Fate::Stay);
            let payload = match fate {
                Fate::Stay | Fate::StayFromHere => frame.payload.to_vec(),
                fate => self.apply(fate, seq, &decode(seq, frame.payload)?, by)?.to_bytes(),
            };
            frame::append(&mut new.buffer, seq, durable, segment.epoch, &payload);
            new.flush(WRITE_BYTES)?;
        }
        // Nothing may be lost on the way: the old one ended with its footer.
        let next = match scan.end {
            Some(segment::End::Sealed(next)) => next,
            _ => return Err(LogError::Broken { index: scan.next, what: "damaged".into() }),
        };
        let end = new.at + new.buffer.len() as u64;
        new.buffer.extend_from_slice(&frame::footer(segment.epoch, next, end));
        new.flush(0)?;
        new.file.sync_data().during("sync", &new.path)?;
        Ok(Segment { len: end + FOOTER as u64, ..segment.clone() })
    }

    fn apply(&self, fate: Fate, seq: Seq, sealed: &SealedRecord, by: Seq) -> Result<SealedRecord, LogError> {
        let unreadable = |why| LogError::Unreadable { seq, why };
        let new = match fate {
            Fate::Stay | Fate::StayFromHere => sealed.clone(),
            Fate::Trim(redo) => sealed.trimmed(by, redo),
            Fate::Reseal => self.sealer.reseal(seq, sealed, Keep::Fields).map_err(unreadable)?,
            Fate::Erase(redo) => {
                let core_only = self.sealer.reseal(seq, sealed, Keep::Core).map_err(unreadable)?;
                SealedRecord { erased_by: Some(by), ..core_only }.with_redo(redo)
            }
        };
        if new.entry() != sealed.entry() {
            return Err(LogError::Broken { index: seq, what: "other than its commitments".into() });
        }
        let bare = SealedRecord { mark: None, ..new };
        let mark = bare.cut_by().map(|_| self.sealer.mark(seq, &bare)).transpose().map_err(unreadable)?;
        Ok(SealedRecord { mark, ..bare })
    }

    /// The commit point of one segment. Who reads the old one keeps its file open.
    fn put_in_place(&self, new: &Segment) -> Result<(), LogError> {
        let temporary = self.records.join(TEMPORARY);
        let mut listed = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        self.disk.rename(&temporary, &new.path).during("rename", &temporary)?;
        if let Some(old) = listed.iter_mut().find(|s| s.segment.epoch == new.epoch) {
            *old = Arc::new(Catalogued::new(new.clone()));
        }
        drop(listed);
        self.disk.sync_dir(&self.records).during("sync", &self.records)
    }
}

/// A segment that is being written anew; a leftover is no segment by its name.
const TEMPORARY: &str = "cut.tmp";
const WRITE_BYTES: usize = 1024 * 1024;

struct NewSegment {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    at: u64,
    buffer: Vec<u8>,
}

impl NewSegment {
    /// Writes the buffer if it holds more than this.
    fn flush(&mut self, above: usize) -> Result<(), LogError> {
        if self.buffer.len() > above {
            self.file.write_at(self.at, &self.buffer).during("write", &self.path)?;
            self.at += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }
}

impl Cut {
    fn count(&mut self, fate: Fate, sealed: &SealedRecord) {
        let redo = match fate {
            Fate::Stay | Fate::StayFromHere => return,
            Fate::Reseal => {
                self.resealed += 1;
                return;
            }
            Fate::Trim(redo) => {
                self.trimmed += u64::from(sealed.trimmed_by.is_none());
                redo
            }
            Fate::Erase(redo) => {
                self.erased += 1;
                redo
            }
        };
        self.redos += u64::from(redo == RedoFate::Goes && !sealed.redo.is_empty());
    }
}

/// What a judge asks for, unless there is nothing left to take.
fn possible(fate: Fate, sealed: &SealedRecord) -> Fate {
    let has_redo = !sealed.redo.is_empty();
    match fate {
        Fate::Trim(redo) if sealed.trimmed_by.is_some() && (redo == RedoFate::Stays || !has_redo) => Fate::Stay,
        Fate::Erase(_) if sealed.cut_by().is_some() => Fate::Stay,
        Fate::Reseal if sealed.trimmed_by.is_some() => Fate::Stay,
        fate => fate,
    }
}

fn decode(seq: Seq, payload: &[u8]) -> Result<SealedRecord, LogError> {
    SealedRecord::from_bytes(payload).map_err(|e| LogError::Unreadable { seq, why: e.into() })
}

const _: () = assert!(SEGMENT_HEADER.is_multiple_of(8), "frames begin at multiples of 8");
