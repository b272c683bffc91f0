//! Pool → write → sync → index: the one commit point of the log.
//!
//! Callers give each record its place and seal it, in the pool, while the
//! sequencer's thread syncs the batch before: the next batch is what arrived
//! meanwhile, with no timer. A record is acknowledged after the sync of its
//! batch, never before. A write or sync that fails stops the log for good:
//! what lies on the disk is then unknown, and only a restart looks.

use std::sync::atomic::Ordering;
use std::time::Instant;

use ringfence_db::disk::Disk;
use ringfence_format::leaf::{LeafEntry, PublicEntry, redo_digest};
use ringfence_format::record::{Record, Seq, TimeUs};
use tokio::sync::oneshot;

use crate::error::{During, LogError};
use crate::frame;
use crate::inner::{Ending, Inner, held};
use crate::keep::Retired;
use crate::log::Run;
use crate::reader::Catalogued;
use crate::recorded::{Class, Entry};
use crate::segment::{Active, RESERVE, SPARE, Segment};
use crate::space::{Refusal, Space, Taken};

/// The pool, and the plan of what goes where.
pub(crate) struct Front {
    pub(crate) state: State,
    /// The next record's place.
    pub(crate) next: Seq,
    /// The time of the last record; time in the log does not run backwards.
    pub(crate) last_us: TimeUs,
    pub(crate) pool: Batch,
    pub(crate) space: Space,
    pub(crate) ending: Ending,
}

#[derive(Clone, Debug)]
pub(crate) enum State {
    Open,
    Failed(String),
    Closed,
}

/// Records that are written and synced together.
#[derive(Default)]
pub(crate) struct Batch {
    first: Seq,
    /// Their payloads, one behind the other, and where each ends.
    payloads: Vec<u8>,
    ends: Vec<usize>,
    entries: Vec<LeafEntry>,
    waiters: Vec<oneshot::Sender<Result<(), LogError>>>,
}

impl Batch {
    fn clear(&mut self) {
        self.payloads.clear();
        self.ends.clear();
        self.entries.clear();
        self.waiters.clear();
    }
}

/// Records that have a place and wait for it to be durable.
pub(crate) struct Submitted {
    pub(crate) first: Seq,
    pub(crate) done: oneshot::Receiver<Result<(), LogError>>,
    pub(crate) changes: Changes,
}

/// Whether any of the records changes state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Changes {
    Nothing,
    State,
}

struct Draft {
    class: Class,
    payload: Vec<u8>,
    entry: LeafEntry,
}

impl Inner {
    /// Gives the entries consecutive places, all or none.
    pub(crate) fn submit<T: Entry>(&self, entries: &[T]) -> Result<Submitted, LogError> {
        let mut front = held(&self.front);
        match &front.state {
            State::Open => {}
            State::Failed(why) => return Err(LogError::Failed(why.clone())),
            State::Closed => return Err(LogError::Closed),
        }
        let clock_us = self.clock.now_us();
        let now_us = clock_us.max(front.last_us);
        let mut changes = Changes::Nothing;
        let mut drafts = Vec::with_capacity(entries.len());
        for (seq, entry) in (front.next..).zip(entries) {
            if entry.deadline_us().is_some_and(|deadline| clock_us > deadline) {
                return Err(LogError::Stale);
            }
            let record = with_digests(entry.to_record(now_us));
            record.public.as_ref().map_or(Ok(()), PublicEntry::check)?;
            if record.redo.is_some() {
                changes = Changes::State;
            }
            let sealed = self.sealer.seal(seq, &record)?;
            drafts.push(Draft { class: entry.class(), payload: sealed.to_bytes(), entry: sealed.entry() });
        }
        self.plan(&mut front, &drafts)?;
        front.last_us = now_us;
        let submitted = front.pool(drafts, changes);
        drop(front);
        self.work.notify_one();
        Ok(submitted)
    }

    /// Plans space for all of the drafts, or for none.
    fn plan(&self, front: &mut Front, drafts: &[Draft]) -> Result<(), LogError> {
        let bytes: usize = drafts.iter().map(|d| d.payload.len()).sum();
        let waiting = front.pool.payloads.len();
        if waiting > 0 && waiting + bytes > self.options.pool_bytes_max {
            return Err(LogError::Busy(self.options.pool_bytes_max));
        }
        let before = front.space.clone();
        for draft in drafts {
            let frame = frame::frame_bytes(draft.payload.len());
            if draft.payload.len() > ringfence_format::limits::RECORD_BYTES_MAX {
                front.space = before;
                return Err(LogError::TooLarge(draft.payload.len()));
            }
            let Err(refusal) = front.space.admit(draft.class, frame as u64) else { continue };
            front.space = before;
            metrics::counter!("ringfence_log_refused_total").increment(1);
            return Err(match refusal {
                Refusal::Full => LogError::Full(draft.class),
                Refusal::Busy => LogError::Busy(self.options.pool_bytes_max),
                Refusal::TooLarge => LogError::TooLarge(frame),
            });
        }
        Ok(())
    }

    /// The sequencer's thread: until the log is closed and the pool is empty.
    pub(crate) fn sequence(&self) {
        let mut batch = Batch::default();
        while self.next_batch(&mut batch) {
            self.commit(&mut batch);
        }
    }

    /// Swaps the pool for an empty batch; waits while there is nothing in it.
    fn next_batch(&self, batch: &mut Batch) -> bool {
        let mut front = held(&self.front);
        while front.pool.ends.is_empty() {
            if front.ending == Ending::Now {
                return false;
            }
            front = self.work.wait(front).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        front.take(batch);
        true
    }

    /// Sequences what is in the pool on the caller's thread ([`Run::Stepped`]).
    pub(crate) fn step(&self) {
        let mut batch = Batch::default();
        held(&self.front).take(&mut batch);
        if !batch.ends.is_empty() {
            self.commit(&mut batch);
        }
    }

    /// The commit point: after this every record of the batch is durable and
    /// has been acknowledged, or the log has failed.
    fn commit(&self, batch: &mut Batch) {
        let begun = Instant::now();
        let written = self.write(batch);
        metrics::histogram!("ringfence_log_commit_seconds").record(begun.elapsed().as_secs_f64());
        if let Err(error) = written {
            self.fail(&error.to_string(), batch);
            return;
        }
        let records = batch.entries.len() as u64;
        metrics::counter!("ringfence_log_records_total").increment(records);
        metrics::counter!("ringfence_log_bytes_total").increment(batch.payloads.len() as u64);
        metrics::histogram!("ringfence_log_batch_records").record(records as f64);
        let was_idle = {
            let mut fresh = held(&self.fresh);
            fresh.entries.append(&mut batch.entries);
            fresh.entries.len() as u64 == records
        };
        self.durable.store(batch.first + records, Ordering::Release);
        for waiter in batch.waiters.drain(..) {
            // A caller that has gone away leaves a record that nobody acted on.
            let _ = waiter.send(Ok(()));
        }
        if was_idle {
            self.published_wake.notify_all();
        }
        batch.clear();
    }

    /// A thread of the log panicked: nobody may wait for it.
    pub(crate) fn give_up(&self) {
        held(&self.fresh).ending = Ending::Now;
        held(&self.chores).ending = Ending::Now;
        self.fail("one of its threads panicked", &mut Batch::default());
        self.published_wake.notify_all();
        self.chores_wake.notify_all();
        self.supplied.notify_all();
    }

    fn fail(&self, why: &str, batch: &mut Batch) {
        tracing::error!(why, "the log has stopped: nothing is released until it is restarted");
        metrics::gauge!("ringfence_log_state").set(2.0);
        let mut front = held(&self.front);
        front.state = State::Failed(why.to_owned());
        front.space.growth_stopped();
        let waiting = front.pool.waiters.drain(..).chain(batch.waiters.drain(..));
        waiting.for_each(|waiter| drop(waiter.send(Err(LogError::Failed(why.to_owned())))));
        front.pool.clear();
        batch.clear();
        drop(front);
        self.witnesses.tell();
    }

    fn write(&self, batch: &Batch) -> Result<(), LogError> {
        let writer = &mut *held(&self.writer);
        let durable = self.durable();
        let mut begin = 0;
        for (seq, end) in (batch.first..).zip(&batch.ends) {
            let payload = &batch.payloads[begin..*end];
            begin = *end;
            let bytes = frame::frame_bytes(payload.len()) as u64;
            if bytes + writer.buffer.len() as u64 > writer.active.left() {
                self.roll(writer, seq)?;
            }
            writer.note(seq);
            frame::append(&mut writer.buffer, seq, durable, writer.active.segment.epoch, payload);
        }
        writer.flush()
    }

    /// Ends the active segment before record `next` and begins another. What
    /// was in it is durable first, so that a crash leaves no gap.
    fn roll(&self, writer: &mut Writer, next: Seq) -> Result<(), LogError> {
        writer.flush()?;
        let epoch = writer.active.segment.epoch + 1;
        let path = Segment::path_of(&self.records, epoch, next);
        let prepared = self.records.join(match self.take_prepared()? {
            Taken::Spare => SPARE,
            Taken::Reserve => RESERVE,
        });
        let (active, listed) = begin_segment(self.disk.as_ref(), self, &prepared, path, epoch, next)?;
        let old = std::mem::replace(&mut writer.active, active);
        writer.buffer.extend_from_slice(&frame::segment_header(epoch, next, &self.origin));
        writer.listed = listed.clone();
        self.segments.write().unwrap_or_else(std::sync::PoisonError::into_inner).push(listed);
        held(&self.retired).push(Retired { segment: old.segment, file: old.file, end: old.at, next });
        self.kick();
        Ok(())
    }

    /// Ends the segment in use although it is not full, so that its records
    /// can be cut. What was planned into it and is not written yet goes to the
    /// next one.
    ///
    /// # Errors
    /// [`LogError::Busy`] while no segment is prepared: wait and try again.
    pub(crate) fn roll_early(&self) -> Result<(), LogError> {
        let writer = &mut *held(&self.writer);
        let next = writer.listed.next();
        if next == writer.active.segment.first {
            return Ok(());
        }
        {
            let mut front = held(&self.front);
            match &front.state {
                State::Failed(why) => return Err(LogError::Failed(why.clone())),
                State::Open | State::Closed => {}
            }
            if front.space.rolls_soon() {
                return Err(LogError::Busy(self.options.pool_bytes_max));
            }
            let free = writer.active.left().saturating_sub(writer.buffer.len() as u64);
            let waiting = free.saturating_sub(front.space.left);
            if !front.space.roll_early(waiting) {
                return Err(LogError::Busy(self.options.pool_bytes_max));
            }
        }
        let rolled = self.roll(writer, next);
        if let Err(error) = &rolled {
            // The plan is ahead of the files: nothing may be written by it.
            self.fail(&error.to_string(), &mut Batch::default());
        }
        rolled
    }

    /// Waits until a segment is there; the supplier makes one, or says it cannot.
    fn take_prepared(&self) -> Result<Taken, LogError> {
        let mut front = held(&self.front);
        loop {
            if let Some(taken) = front.space.take() {
                return Ok(taken);
            }
            if front.space.growth == crate::space::Growth::Stopped {
                return Err(LogError::Full(Class::Reserved));
            }
            if self.options.run == Run::Stepped {
                drop(front);
                self.supply();
                front = held(&self.front);
            } else {
                front = self.supplied.wait(front).unwrap_or_else(std::sync::PoisonError::into_inner);
            }
        }
    }
}

fn begin_segment(
    disk: &dyn Disk,
    inner: &Inner,
    prepared: &std::path::Path,
    path: std::path::PathBuf,
    epoch: u32,
    first: Seq,
) -> Result<(Active, std::sync::Arc<Catalogued>), LogError> {
    disk.rename(prepared, &path).during("rename", prepared)?;
    disk.sync_dir(&inner.records).during("sync", &inner.records)?;
    let file = disk.open(&path).during("open", &path)?;
    let len = file.len().during("measure", &path)?;
    let segment = Segment { epoch, first, path, len };
    let listed = std::sync::Arc::new(Catalogued::new(segment.clone()));
    Ok((Active { segment, file, at: 0 }, listed))
}

/// So that the commitments cover what stands beside the groups too.
fn with_digests(mut record: Record) -> Record {
    record.core.public_sha256 = record.public.as_ref().map(PublicEntry::digest);
    record.core.redo_sha256 = record
        .redo
        .as_ref()
        .map(|redo| redo_digest(&minicbor::to_vec(redo).expect("encoding into memory cannot fail")));
    record
}

impl Front {
    fn pool(&mut self, drafts: Vec<Draft>, changes: Changes) -> Submitted {
        let (waiter, done) = oneshot::channel();
        let first = self.next;
        if self.pool.ends.is_empty() {
            self.pool.first = first;
        }
        for draft in drafts {
            self.next += 1;
            self.pool.payloads.extend_from_slice(&draft.payload);
            self.pool.ends.push(self.pool.payloads.len());
            self.pool.entries.push(draft.entry);
        }
        self.pool.waiters.push(waiter);
        Submitted { first, done, changes }
    }

    fn take(&mut self, batch: &mut Batch) {
        debug_assert!(batch.ends.is_empty(), "a batch is committed before the next is taken");
        std::mem::swap(&mut self.pool, batch);
    }
}

/// The end of the log on the disk.
pub(crate) struct Writer {
    pub(crate) active: Active,
    /// Frames that are not yet written.
    pub(crate) buffer: Vec<u8>,
    /// The active segment as readers know it.
    pub(crate) listed: std::sync::Arc<Catalogued>,
}

impl Writer {
    /// Remembers where every 64th record lies, for look-ups.
    fn note(&mut self, seq: Seq) {
        self.listed.note(seq, self.active.at + self.buffer.len() as u64);
    }

    /// Writes and syncs what is in the buffer.
    fn flush(&mut self) -> Result<(), LogError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let Active { segment, file, at } = &mut self.active;
        file.write_at(*at, &self.buffer).during("write", &segment.path)?;
        let begun = Instant::now();
        file.sync_data().during("sync", &segment.path)?;
        metrics::histogram!("ringfence_log_sync_seconds").record(begun.elapsed().as_secs_f64());
        *at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}
