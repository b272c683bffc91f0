//! An open log.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use ringfence_db::clock::Clock;
use ringfence_db::disk::Disk;
use ringfence_format::checkpoint::VerifierKey;
use ringfence_format::leaf::{Hash, LeafEntry, SealedRecord};
use ringfence_format::proof::{self, Proof};
use ringfence_format::record::{Core, Record, Seq};

use crate::cut::{Cut, Fate, Mode, Place};
use crate::error::LogError;
use crate::inner::{Ending, Inner, held};
use crate::public::PublicEntries;
use crate::publish::{TileReader, Tiles};
use crate::reader::{Change, Records, Replay};
use crate::recorded::{Entry, Recorded};
use crate::seal::{SealRecord, SignCheckpoint};
use crate::sequencer::{Changes, State, Submitted};

/// How often an early roll waits for a segment to be prepared.
const ROLL_TRIES: u32 = 20;

/// What an operator or a test may choose.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of one segment file; at least 64 KiB. Larger than the largest
    /// record, or that record is refused.
    pub segment_bytes: u64,
    /// At most one checkpoint per this time while records arrive.
    pub publish_every: Duration,
    /// Bytes that the log may take in all, tiles and the reserve included;
    /// nothing limits it to the disk.
    pub budget_bytes: Option<u64>,
    /// Bytes of records that may wait for the sync before them.
    pub pool_bytes_max: usize,
    /// Who does the work.
    pub run: Run,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 32 * 1024 * 1024,
            publish_every: Duration::from_millis(200),
            budget_bytes: None,
            pool_bytes_max: 8 * 1024 * 1024,
            run: Run::Threads,
        }
    }
}

/// Who does the log's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// Threads of its own: sequencer, publisher, supplier, sealer.
    Threads,
    /// The caller, step by step and in one order, for the simulator: a record
    /// is synced by the call that records it, checkpoints and housekeeping
    /// happen in [`Log::publish`].
    Stepped,
}

/// The log of one installation, open for recording.
///
/// Closing it ([`Log::close`], or dropping the last handle) writes what is
/// waiting and publishes a last checkpoint.
pub struct Log {
    pub(crate) inner: Arc<Inner>,
    threads: Mutex<Threads>,
}

#[derive(Default)]
struct Threads {
    sequencer: Option<JoinHandle<()>>,
    others: Vec<JoinHandle<()>>,
}

impl Log {
    /// Opens the log in `dir` (made if it is not there), checks that what is
    /// on the disk has the root that was last signed, and publishes it.
    ///
    /// # Errors
    /// [`LogError::Broken`] names the first record that is missing or differs;
    /// [`LogError::InUse`] if another process has the log.
    pub fn open(
        dir: &Path,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        sealer: Arc<dyn SealRecord>,
        signer: Arc<dyn SignCheckpoint>,
        options: Options,
    ) -> Result<Self, LogError> {
        let inner = Arc::new(crate::recover::open(dir, disk, clock, sealer, signer, options)?);
        let log = Self { inner, threads: Mutex::default() };
        if log.inner.options.run == Run::Threads {
            log.start();
        }
        Ok(log)
    }

    fn start(&self) {
        let spawn = |name: &str, work: fn(&Inner)| {
            let inner = self.inner.clone();
            let named = std::thread::Builder::new().name(format!("log-{name}"));
            let job = move || {
                let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&inner)));
                done.unwrap_or_else(|_| inner.give_up());
            };
            named.spawn(job).expect("a thread can be started while the process starts")
        };
        let mut threads = held(&self.threads);
        threads.sequencer = Some(spawn("sequencer", Inner::sequence));
        threads.others = vec![
            spawn("publisher", Inner::publish_loop),
            spawn("supplier", Inner::supply_loop),
            spawn("sealer", Inner::seal_loop),
        ];
    }

    /// Makes an entry durable, and gives back the evidence of it.
    ///
    /// If the future is dropped the record may still be made; nobody then has
    /// the evidence to act on it.
    pub async fn record<T: Entry + Send + 'static>(&self, entry: T) -> Result<Recorded<T>, LogError> {
        let submitted = self.submit(std::slice::from_ref(&entry))?;
        let Submitted { first, done, changes } = submitted;
        done.await.unwrap_or_else(|_| Err(gone()))?;
        self.still_fresh(&entry, changes)?;
        Ok(Recorded::durable(entry, first))
    }

    /// Makes entries durable together, with consecutive indices, in order;
    /// all of them or none. Blocks, so it is not for async code.
    ///
    /// A crash may leave the first few of them: they were then not
    /// acknowledged, and are found by the next start.
    pub fn record_batch<T: Entry>(&self, entries: Vec<T>) -> Result<Vec<Recorded<T>>, LogError> {
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let Submitted { first, done, changes } = self.submit(&entries)?;
        done.blocking_recv().unwrap_or_else(|_| Err(gone()))?;
        entries.iter().try_for_each(|entry| self.still_fresh(entry, changes))?;
        Ok((first..).zip(entries).map(|(index, entry)| Recorded::durable(entry, index)).collect())
    }

    fn submit<T: Entry>(&self, entries: &[T]) -> Result<Submitted, LogError> {
        let submitted = self.inner.submit(entries)?;
        if self.inner.options.run == Run::Stepped {
            self.inner.step();
        }
        Ok(submitted)
    }

    /// A sync that took longer than the permit lives must not let it act. A
    /// record that changes state stands nevertheless: the next start would
    /// apply it, so refusing it here would be untrue.
    fn still_fresh<T: Entry>(&self, entry: &T, changes: Changes) -> Result<(), LogError> {
        let late = entry.deadline_us().is_some_and(|deadline| self.inner.clock.now_us() > deadline);
        if late && changes == Changes::Nothing { Err(LogError::Stale) } else { Ok(()) }
    }

    /// Every record before this one is durable.
    pub fn durable_size(&self) -> Seq {
        self.inner.durable()
    }

    /// The durable records from `from` on, in order, opened. One that cannot
    /// be opened is an error at its place; those behind it follow.
    pub fn read(&self, from: Seq) -> Records {
        Records::new(self.inner.clone(), from)
    }

    /// One record, opened.
    pub fn lookup(&self, seq: Seq) -> Result<Record, LogError> {
        let sealed = self.inner.sealed(seq)?;
        self.inner.open_record(seq, &sealed)
    }

    /// One record as it lies on the disk.
    pub fn sealed(&self, seq: Seq) -> Result<SealedRecord, LogError> {
        self.inner.sealed(seq)
    }

    /// The entry of one record: what is hashed into the tree.
    pub fn entry(&self, seq: Seq) -> Result<LeafEntry, LogError> {
        self.inner.sealed(seq).map(|sealed| sealed.entry())
    }

    /// What the durable records from `from` on say to everybody, in order,
    /// checked against the tree; no key is used, no record opened. Once it
    /// has ended, asking again finds what was recorded meanwhile.
    ///
    /// An error is the last thing it gives: what follows is then not known.
    ///
    /// # Errors
    /// [`LogError::Broken`] where the tree's files are not what was signed.
    pub fn read_public(&self, from: Seq) -> PublicEntries {
        PublicEntries::new(self.inner.clone(), from)
    }

    /// Proves a record under the published checkpoint, with its openings, so
    /// that anybody can check it with the log's public key alone.
    pub fn prove(&self, seq: Seq) -> Result<Proof, LogError> {
        self.inner.prove(seq)
    }

    /// Proves that the published tree extends the tree of its first `earlier`
    /// records.
    pub fn consistency(&self, earlier: Seq) -> Result<Vec<Hash>, LogError> {
        let published = self.inner.published();
        let size = published.checkpoint.size;
        match earlier {
            0 => Ok(Vec::new()),
            n if n > size => Err(LogError::NoRecord { seq: n, size }),
            n => proof::consistency(
                &mut TileReader { inner: &self.inner, edge: &published.edge, unwritten: &Tiles::new() },
                n,
                size,
            ),
        }
    }

    /// The published checkpoint, as a signed note.
    pub fn checkpoint(&self) -> String {
        self.inner.published().note.clone()
    }

    /// How many records the published checkpoint covers.
    pub fn published_size(&self) -> Seq {
        self.inner.published().checkpoint.size
    }

    /// The public key that checks the log's checkpoints.
    pub fn verifier_key(&self) -> &VerifierKey {
        &self.inner.key
    }

    /// A tile or entry bundle of the published tree by its C2SP path
    /// (`tile/0/x001/234.p/5`), at any width it has.
    pub fn tile(&self, path: &str) -> Result<Vec<u8>, LogError> {
        self.inner.tile(path)
    }

    /// Publishes a checkpoint over everything that is durable now. Blocks.
    pub fn publish(&self) -> Result<(), LogError> {
        if self.inner.options.run == Run::Threads {
            return self.inner.publish_and_wait();
        }
        let published = self.inner.publish_once();
        self.inner.supply();
        published.and(self.inner.seal_retired())
    }

    /// The durable records from `from` on by what they changed: for replay,
    /// which needs neither who nor why.
    pub fn replay(&self, from: Seq) -> Replay {
        Replay::new(self.inner.clone(), from)
    }

    /// What one record changed.
    pub fn change(&self, seq: Seq) -> Result<Change, LogError> {
        self.inner.change(seq, &self.inner.sealed(seq)?)
    }

    /// What of a record may be left when its subject and resource were erased.
    pub fn core(&self, seq: Seq) -> Result<Core, LogError> {
        let sealed = self.inner.sealed(seq)?;
        self.inner.sealer.open_core(seq, &sealed).map_err(|why| LogError::Unreadable { seq, why })
    }

    /// Counts what [`cut`](Self::cut) would do, in segments not yet sealed too.
    pub fn look<E: From<LogError>>(
        &self,
        before: Seq,
        mut judge: impl FnMut(&Place<'_>) -> Result<Fate, E>,
    ) -> Result<Cut, E> {
        self.inner.cut(Mode::Count, before, &mut judge)
    }

    /// Takes away what `judge` says, of the records before `before` in sealed
    /// segments; commitments stay, so the log still verifies. What was taken
    /// names the record that `evidence` stands for. Blocks. A crash leaves
    /// segments that were cut and segments that were not: cut again.
    pub fn cut<T, E: From<LogError>>(
        &self,
        evidence: &Recorded<T>,
        before: Seq,
        judge: impl FnMut(&Place<'_>) -> Result<Fate, E>,
    ) -> Result<Cut, E> {
        self.cut_again(evidence.index(), before, judge)
    }

    /// Goes on with a [`cut`](Self::cut) that a crash ended; `by` is the
    /// record that said it would be made.
    ///
    /// # Errors
    /// [`LogError::NoRecord`] where there is no such record.
    pub fn cut_again<E: From<LogError>>(
        &self,
        by: Seq,
        before: Seq,
        mut judge: impl FnMut(&Place<'_>) -> Result<Fate, E>,
    ) -> Result<Cut, E> {
        let size = self.durable_size();
        if by >= size {
            return Err(LogError::NoRecord { seq: by, size }.into());
        }
        self.inner.cut(Mode::Make { by }, before, &mut judge)
    }

    /// Ends the segment in use and seals it, so that what it holds can be cut.
    /// Blocks.
    ///
    /// # Errors
    /// [`LogError::Busy`] while there is no room for the next one.
    pub fn seal_segment(&self) -> Result<(), LogError> {
        let mut rolled = self.inner.roll_early();
        for _ in 0..ROLL_TRIES {
            if !matches!(rolled, Err(LogError::Busy(_))) {
                break;
            }
            if self.inner.options.run == Run::Stepped {
                self.inner.supply();
            } else {
                self.settle();
            }
            rolled = self.inner.roll_early();
        }
        rolled?;
        self.publish()?;
        self.settle();
        Ok(())
    }

    /// The ids of the keys that any record's fields or redo are under.
    pub fn keys_in_use(&self) -> Result<BTreeSet<[u8; 8]>, LogError> {
        let mut used = BTreeSet::new();
        let _looked_at_all: Cut = self.inner.cut::<LogError>(Mode::Count, Seq::MAX, &mut |place| {
            let sealed = place.sealed;
            if sealed.trimmed_by.is_none() {
                used.insert(sealed.key_id);
            }
            if !sealed.redo.is_empty() {
                used.insert(sealed.key_of_redo());
            }
            Ok(Fate::Stay)
        })?;
        Ok(used)
    }

    /// Whether the log takes records: `Ok`, or why it does not.
    pub fn health(&self) -> Result<(), LogError> {
        match &held(&self.inner.front).state {
            State::Open => Ok(()),
            State::Failed(why) => Err(LogError::Failed(why.clone())),
            State::Closed => Err(LogError::Closed),
        }
    }

    /// Waits until housekeeping that is due has been done: segments prepared,
    /// full ones sealed. For tests and orderly shutdown.
    pub fn settle(&self) {
        if self.inner.options.run == Run::Stepped {
            return;
        }
        self.inner.kick();
        let mut chores = held(&self.inner.chores);
        let mine = chores.kicked;
        while chores.supplied.min(chores.sealed) < mine && chores.ending == Ending::NotYet {
            chores = self.inner.chores_wake.wait(chores).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    /// Takes no more records, writes what is waiting, and publishes it.
    pub fn close(&self) -> Result<(), LogError> {
        {
            let mut front = held(&self.inner.front);
            if matches!(front.state, State::Open) {
                front.state = State::Closed;
            }
            front.ending = Ending::Now;
        }
        self.inner.work.notify_all();
        let mut threads = std::mem::take(&mut *held(&self.threads));
        let result = match threads.sequencer.take() {
            Some(sequencer) => {
                // Order matters: the sequencer may wait for the supplier, and the
                // publisher publishes what the sequencer wrote last.
                let ended = sequencer.join();
                let published = self.inner.publish_and_wait();
                ended.map_err(|_| LogError::Failed("its sequencer panicked".into())).and(published)
            }
            None => return Ok(()),
        };
        held(&self.inner.fresh).ending = Ending::Now;
        self.inner.published_wake.notify_all();
        held(&self.inner.chores).ending = Ending::Now;
        self.inner.chores_wake.notify_all();
        threads.others.into_iter().for_each(|thread| drop(thread.join()));
        result
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!(%error, "the log was closed without a last checkpoint; the next start publishes one");
        }
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("dir", &self.inner.dir).field("durable", &self.durable_size()).finish()
    }
}

fn gone() -> LogError {
    LogError::Failed("its sequencer ended".into())
}
