//! The point of visibility: one thread turns requests into records and rows.
//!
//! It takes all requests that wait, and in one transaction of the catalogue
//!
//! 1. decides each anew and evaluates its conditions against what those before
//!    it left; a request that fails here answers its caller and leaves no trace;
//! 2. applies each one's [`Redo`]: nobody sees it yet;
//! 3. makes the records, redo inside, durable with one sync of the log;
//! 4. commits the transaction (no sync of its own) and answers.
//!
//! What a crash leaves: before 3 nothing happened. After 3 the records are
//! there and the rows are not: the next start replays them with the same code.
//! If the log refuses, the transaction is rolled back and nothing was visible.
//! If COMMIT itself fails, the rows are replayed before anything else is
//! committed; until then every commit answers [`CommitError::Unsettled`].

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use ringfence_access::authority::Enacts;
use ringfence_access::permit::Denial;
use ringfence_access::policy::Announces;
use ringfence_db::DbError;
use ringfence_db::clock::Clock;
use ringfence_db::rusqlite::{Connection, TransactionBehavior};
use ringfence_format::names::ObjectVersion;
use ringfence_format::record::{Record, Seq, TimeUs};
use ringfence_format::redo::Redo;
use ringfence_format::session::SignedManifest;
use ringfence_log::{Changed, Class, Entry, Log, LogError, Recorded};
use tokio::sync::oneshot;

use crate::act::Act;
use crate::apply::{apply, close_incarnations};
use crate::catalog::Catalog;
use crate::checkpoint::Checkpointer;
use crate::outcome::{Conflict, Outcome};
use crate::rows::{self, Rows, meta};

/// Requests that may wait; one more answers [`CommitError::Busy`].
pub const QUEUE_MAX: usize = 4096;
/// Requests in one transaction and one sync.
pub const BATCH_MAX: usize = 256;
/// How often a batch waits for the log's housekeeping before it is refused.
const BUSY_ROUNDS_MAX: u32 = 20;
/// How long the thread waits before it looks whether it should note how far
/// the log has come.
const IDLE: Duration = Duration::from_secs(1);
/// Records without a change (reads) after which that is noted, so that a start
/// need not read them all again.
const NOTE_AFTER: u64 = 4096;

/// Why a change was not committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Too much waits: answer 503, retry later. Nothing happened.
    #[error("too many changes wait to be recorded: retry")]
    Busy,
    /// A condition does not hold. Nothing happened.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// Policy says no, now. Nothing happened; record the denial.
    #[error("policy refuses it")]
    Denied(Box<Denial>),
    /// The log did not take the record. Nothing happened.
    #[error(transparent)]
    Log(LogError),
    /// The catalogue's file failed before anything was recorded.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The catalogue's file failed for all that waited. Nothing happened.
    #[error("the catalogue cannot be changed: {0}")]
    NotApplied(String),
    /// It is on record and will be applied, but the catalogue's file failed:
    /// the client must not be told that it succeeded, nor that it did not.
    #[error("the change is on record #{0} and not yet applied: the catalogue's disk failed")]
    Unsettled(Seq),
    /// The store is shutting down. Nothing happened.
    #[error("the store is shutting down")]
    Closed,
}

/// A change, allowed, recorded and applied: what [`Recorded`] is evidence of.
#[derive(Clone)]
pub struct Commit {
    by: By,
    object: Option<ObjectVersion>,
    redo: Option<Arc<Redo>>,
    outcome: Outcome,
}

impl Commit {
    pub(crate) fn new(by: By, redo: Option<Redo>, outcome: Outcome) -> Self {
        Self { by, object: None, redo: redo.map(Arc::new), outcome }
    }

    pub(crate) fn of(mut self, object: &ObjectVersion) -> Self {
        self.object = Some(object.clone());
        self
    }

    /// What came of it.
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// The version it is about, where it is about one.
    pub fn object(&self) -> Option<&ObjectVersion> {
        self.object.as_ref()
    }

    /// What it changed; `None` where nothing needed to change.
    pub fn redo(&self) -> Option<&Redo> {
        self.redo.as_deref()
    }
}

impl std::fmt::Debug for Commit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Commit").field("object", &self.object).field("outcome", &self.outcome).finish()
    }
}

impl Enacts for Commit {
    fn manifest(&self) -> Option<&SignedManifest> {
        match self.redo() {
            Some(Redo::PutManifest(signed)) => Some(signed),
            _ => None,
        }
    }
}

impl Announces for Commit {
    fn policy(&self) -> Option<(u64, [u8; 32])> {
        match self.redo() {
            Some(Redo::Policy(epoch, sha256)) => Some((*epoch, *sha256)),
            _ => None,
        }
    }
}

impl Entry for Commit {
    fn to_record(&self, now_us: TimeUs) -> Record {
        let mut record = self.by.to_record(now_us);
        if let Some(redo) = &self.redo {
            // The log commits to the redo by its digest, which it computes.
            describe(redo, &mut record);
            record.public = redo.public();
            record.redo = Some(Redo::clone(redo));
        }
        record
    }
    fn class(&self) -> Class {
        self.by.class()
    }
    fn deadline_us(&self) -> Option<TimeUs> {
        self.by.deadline_us()
    }
}

/// What only the commit knows and a reader of the record wants to see.
fn describe(redo: &Redo, record: &mut Record) {
    let resource = &mut record.resource;
    match redo {
        Redo::PutVersion(version, _) | Redo::CompleteUpload(_, version, _) => {
            resource.version = Some(version.uid);
            resource.key.get_or_insert_with(|| version.key.clone());
            resource.label = Some(version.label.clone());
            resource.bytes = Some(version.size);
            resource.sites = version.copies.iter().map(|copy| copy.site.clone()).collect();
        }
        Redo::PutPart(part) => {
            resource.bytes = Some(part.part.plain_len);
            resource.sites = part.copies.iter().map(|(site, _)| site.clone()).collect();
        }
        Redo::DeleteVersions(_, gone, _) => resource.count = Some(gone.len() as u64),
        Redo::Rehead(reheads) => {
            resource.count = Some(reheads.len() as u64);
            if let [one] = reheads.as_slice() {
                resource.version = Some(one.uid);
                resource.label = Some(one.label.clone());
            }
        }
        Redo::BeginWrite(_, sites) => resource.sites.clone_from(sites),
        _ => {}
    }
}

/// What says who allowed it.
pub(crate) type By = Arc<dyn Entry + Send + Sync>;

type Reply = oneshot::Sender<Result<Recorded<Commit>, CommitError>>;

struct Request {
    act: Act,
    reply: Reply,
}

/// Housekeeping that changes no meaning of the catalogue and so needs no
/// record: rows of what was erased, marks, notes of progress.
type Chore = Box<dyn FnOnce(&Connection) -> Rows<()> + Send>;

enum Job {
    Change(Request),
    Chore(Chore, oneshot::Sender<Result<(), CommitError>>),
    /// Somebody else's entry that carries a change.
    Entry(Box<dyn FnOnce(&mut Thread) + Send>),
    /// Notes that everything durable is applied; answers the next record.
    Settle(oneshot::Sender<Result<Seq, CommitError>>),
}

/// The way in to the commit thread.
pub(crate) struct Committer {
    queue: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
    _checkpointer: Checkpointer,
}

impl Committer {
    /// Brings the catalogue up to the log and starts the thread.
    pub(crate) fn start(
        catalog: Arc<Catalog>,
        mut writer: Connection,
        log: Arc<Log>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        // The checkpointer keeps the WAL small; this is for when it cannot.
        writer.pragma_update(None, "wal_autocheckpoint", 16_000).map_err(|error| catalog.sort(error))?;
        let checkpointer = Checkpointer::start(catalog.path()).map_err(StartError::Thread)?;
        let applied = catch_up(&catalog, &mut writer, &log, &*clock)?;
        let (queue, requests) = sync_channel(QUEUE_MAX);
        let thread = Thread { catalog, writer, log, clock, noted: applied, behind: false };
        let thread = std::thread::Builder::new()
            .name("commit".to_owned())
            .spawn(move || thread.run(&requests))
            .map_err(StartError::Thread)?;
        Ok(Self { queue: Some(queue), thread: Some(thread), _checkpointer: checkpointer })
    }

    /// Hands a change over and waits until it is committed or refused.
    pub(crate) async fn submit(&self, act: Act) -> Result<Recorded<Commit>, CommitError> {
        self.ask(|reply| Job::Change(Request { act, reply })).await
    }

    /// Records an entry whose evidence its maker wants back, and applies what
    /// it changes.
    pub(crate) async fn record<T: Entry + Send + 'static>(&self, entry: T) -> Result<Recorded<T>, CommitError> {
        self.ask(|reply| {
            Job::Entry(Box::new(move |thread| {
                let _caller_gone = reply.send(thread.record_entry(entry));
            }))
        })
        .await
    }

    /// Runs housekeeping in a transaction of its own.
    pub(crate) async fn chore(
        &self,
        chore: impl FnOnce(&Connection) -> Rows<()> + Send + 'static,
    ) -> Result<(), CommitError> {
        self.ask(|reply| Job::Chore(Box::new(chore), reply)).await
    }

    /// Every change that was durable when this was called is applied when it
    /// returns; the answer is the record the catalogue waits for.
    pub(crate) async fn settle(&self) -> Result<Seq, CommitError> {
        self.ask(Job::Settle).await
    }

    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<Result<T, CommitError>>) -> Job) -> Result<T, CommitError> {
        let (reply, answer) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or(CommitError::Closed)?;
        queue.try_send(job(reply)).map_err(|error| match error {
            TrySendError::Full(_) => CommitError::Busy,
            TrySendError::Disconnected(_) => CommitError::Closed,
        })?;
        answer.await.unwrap_or(Err(CommitError::Closed))
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        // What waits is still committed; then the thread ends by itself.
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            let _panicked_already_reported = thread.join();
        }
    }
}

/// Why the catalogue cannot be used with this log.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The catalogue has applied records that this log does not have.
    #[error(
        "catalogue `{catalog}` has applied records up to #{applied} but the log ends at #{size}: the log is older than the catalogue; bring back the newer log, or move the catalogue away and run `ringfence recover`"
    )]
    LogOlder {
        /// The catalogue's file.
        catalog: String,
        /// Records it has applied.
        applied: Seq,
        /// Records the log has.
        size: Seq,
    },
    /// The rows were made from another log.
    #[error(
        "catalogue `{catalog}` belongs to log `{theirs}`, not to `{ours}`: bring back the files that belong together"
    )]
    OtherLog {
        /// The catalogue's file.
        catalog: String,
        /// The log its rows come from.
        theirs: String,
        /// The log that was opened.
        ours: String,
    },
    /// A record that must be replayed cannot be read.
    #[error("record #{seq} cannot be replayed: {why}; restore the log and the keyring that belong to it")]
    Replay {
        /// Which record.
        seq: Seq,
        /// Why.
        why: String,
    },
    /// The catalogue is older than what was trimmed from the log.
    #[error(
        "the catalogue is older than what record #{by} trimmed from the log, and record #{seq} is among it: move the catalogue and its `-wal` and `-shm` files away and run `ringfence recover`"
    )]
    Trimmed {
        /// The record that must be replayed.
        seq: Seq,
        /// The record that says it was trimmed.
        by: Seq,
    },
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The catalogue's file failed.
    #[error(transparent)]
    Db(#[from] DbError),
    /// No thread could be started.
    #[error("the commit thread cannot start: {0}")]
    Thread(std::io::Error),
    /// The first record of this process was refused.
    #[error("the start cannot be recorded: {0}")]
    Record(CommitError),
}

/// Replays every record the catalogue has not seen; returns how far it is now.
pub(crate) fn catch_up(
    catalog: &Catalog,
    writer: &mut Connection,
    log: &Log,
    clock: &dyn Clock,
) -> Result<Seq, StartError> {
    let sort = |error| StartError::Db(catalog.sort(error));
    same_log(catalog, writer, log.verifier_key().name())?;
    let mut next = rows::meta_u64(writer, meta::NEXT_SEQ).map_err(sort)?.unwrap_or(0);
    let size = log.durable_size();
    if next > size {
        let catalog = catalog.path().display().to_string();
        return Err(StartError::LogOlder { catalog, applied: next - 1, size });
    }
    while next < size {
        next = replay_batch(catalog, writer, log, clock, next)?;
    }
    Ok(next)
}

/// Records replayed in one transaction.
const REPLAY_BATCH: usize = 4096;

fn replay_batch(
    catalog: &Catalog,
    writer: &mut Connection,
    log: &Log,
    clock: &dyn Clock,
    from: Seq,
) -> Result<Seq, StartError> {
    let sort = |error| StartError::Db(catalog.sort(error));
    let tx = writer.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sort)?;
    let mut next = from;
    let mut redone = Vec::new();
    let mut last_ms = last_record_ms(log, from)?;
    for read in log.replay(from).take(REPLAY_BATCH) {
        let (seq, change) = read?;
        if seq != next {
            let why = format!("the log goes on with #{seq}");
            return Err(StartError::Replay { seq: next, why });
        }
        match change.redo {
            Changed::Nothing => {}
            Changed::By(redo) => {
                if matches!(*redo, Redo::Start(_)) {
                    close_incarnations(&tx, last_ms).map_err(sort)?;
                }
                apply(&tx, &redo, clock.now_us() / 1000).map_err(sort)?;
                rows::note_recorded(&tx, &redo, seq).map_err(sort)?;
                redone.push((seq, redo));
            }
            // These rows may still have what that change took away.
            Changed::Gone { by } => return Err(StartError::Trimmed { seq, by }),
        }
        next = seq + 1;
        last_ms = change.time_us.map_or(last_ms, |time_us| time_us / 1000);
    }
    if next == from {
        return Err(StartError::Replay { seq: from, why: "the log does not give it out".to_owned() });
    }
    rows::set_meta(&tx, meta::NEXT_SEQ, next).map_err(sort)?;
    tx.commit().map_err(sort)?;
    redone.iter().for_each(|(seq, redo)| catalog.follow(redo, *seq));
    Ok(next)
}

/// When the record before `seq` was made; 0 where there is none to be read.
pub(crate) fn last_record_ms(log: &Log, seq: Seq) -> Result<u64, LogError> {
    let Some(before) = seq.checked_sub(1) else { return Ok(0) };
    let last = log.replay(before).next().transpose()?;
    Ok(last.and_then(|(_, change)| change.time_us).map_or(0, |time_us| time_us / 1000))
}

/// The rows of one log are worth nothing under another.
fn same_log(catalog: &Catalog, writer: &Connection, origin: &str) -> Result<(), StartError> {
    let sort = |error| StartError::Db(catalog.sort(error));
    match rows::meta_text(writer, meta::ORIGIN).map_err(sort)? {
        None => rows::set_meta(writer, meta::ORIGIN, origin).map_err(sort),
        Some(theirs) if theirs == origin => Ok(()),
        Some(theirs) => {
            Err(StartError::OtherLog { catalog: catalog.path().display().to_string(), theirs, ours: origin.to_owned() })
        }
    }
}

struct Thread {
    catalog: Arc<Catalog>,
    /// The only connection that writes; owned by this thread.
    writer: Connection,
    log: Arc<Log>,
    clock: Arc<dyn Clock>,
    /// Every record before this one is applied, and `meta` says so.
    noted: Seq,
    /// A COMMIT failed after its records were durable: replay first.
    behind: bool,
}

impl Thread {
    fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            match jobs.recv_timeout(IDLE) {
                Ok(first) => {
                    let mut changes = Vec::new();
                    let mut others = Vec::new();
                    for job in std::iter::once(first).chain(jobs.try_iter().take(BATCH_MAX - 1)) {
                        match job {
                            Job::Change(request) => changes.push(request),
                            other => others.push(other),
                        }
                    }
                    self.settle(changes);
                    others.into_iter().for_each(|job| self.housekeep(job));
                }
                Err(RecvTimeoutError::Timeout) => self.note_progress(NOTE_AFTER),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.note_progress(1);
    }

    fn housekeep(&mut self, job: Job) {
        match job {
            Job::Change(request) => self.settle(vec![request]),
            Job::Entry(record) => record(self),
            Job::Chore(chore, reply) => {
                let done = self.run_chore(chore).map_err(|error| CommitError::Db(self.catalog.sort(error)));
                let _caller_gone = reply.send(done);
            }
            Job::Settle(reply) => {
                let caught_up = self.catch_up_if_behind().map_err(Failure::into_error);
                self.note_progress(1);
                let _caller_gone = reply.send(caught_up.map(|()| self.noted));
            }
        }
    }

    fn record_entry<T: Entry>(&mut self, entry: T) -> Result<Recorded<T>, CommitError> {
        self.catch_up_if_behind().map_err(Failure::into_error)?;
        let sort = |error| CommitError::Db(self.catalog.sort(error));
        let now_us = self.clock.now_us();
        let redo = entry.to_record(now_us).redo;
        let tx = self.writer.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sort)?;
        if let Some(redo) = &redo {
            apply(&tx, redo, now_us / 1000).map_err(sort)?;
        }
        let recorded = self.log.record_batch(vec![entry]).map_err(CommitError::Log)?;
        let recorded = recorded.into_iter().next().expect("one entry in, one out");
        let next = recorded.index() + 1;
        if let Err(error) = rows::set_meta(&tx, meta::NEXT_SEQ, next).and_then(|()| tx.commit()) {
            tracing::error!("the catalogue does not commit what is on record: {}", self.catalog.sort(error));
            self.behind = true;
            return Err(CommitError::Unsettled(recorded.index()));
        }
        self.noted = next;
        redo.into_iter().for_each(|redo| self.catalog.follow(&redo, recorded.index()));
        Ok(recorded)
    }

    fn run_chore(&mut self, chore: Chore) -> Rows<()> {
        let tx = self.writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
        chore(&tx)?;
        tx.commit()
    }

    /// Commits a batch. If the log is full for writes, what may use its
    /// reserve (deletes, revocations) is tried again without them.
    fn settle(&mut self, mut batch: Vec<Request>) {
        if batch.is_empty() {
            return;
        }
        metrics::histogram!("ringfence_commit_batch").record(batch.len() as f64);
        let mut waited = 0;
        loop {
            let Err(failure) = self.attempt(&mut batch) else { return };
            match &failure {
                // Segments are used up faster than they are prepared: the
                // callers wait for that here, where they would wait anyway.
                Failure::Log(LogError::Busy(_)) if waited < BUSY_ROUNDS_MAX => {
                    waited += 1;
                    self.log.settle();
                }
                Failure::Log(LogError::Full(_)) => {
                    let (rest, refused): (Vec<_>, Vec<_>) =
                        batch.into_iter().partition(|request| request.act.class() == Class::Reserved);
                    if refused.is_empty() {
                        return refuse_all(rest, &failure);
                    }
                    refuse_all(refused, &failure);
                    batch = rest;
                }
                // One record that cannot be made must not refuse its neighbours.
                Failure::Log(LogError::TooLarge(_) | LogError::Seal(_)) if batch.len() > 1 => {
                    return batch.into_iter().for_each(|request| self.settle(vec![request]));
                }
                _ => return refuse_all(batch, &failure),
            }
        }
    }

    /// One try. Requests it could answer are taken out of `batch`; those left
    /// on an error are as if they had never been tried.
    fn attempt(&mut self, batch: &mut Vec<Request>) -> Result<(), Failure> {
        if batch.is_empty() {
            return Ok(());
        }
        self.catch_up_if_behind()?;
        let tx = self
            .writer
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|error| Failure::Db(self.catalog.sort(error).to_string()))?;
        // Steps 1 and 2: decide, evaluate, apply.
        let now_us = self.clock.now_us();
        let mut commits = Vec::with_capacity(batch.len());
        let mut waiting = Vec::with_capacity(batch.len());
        let mut lost = false;
        for mut request in batch.drain(..) {
            if lost {
                waiting.push(request);
                continue;
            }
            match evaluate(&tx, &mut request.act, now_us) {
                Ok(commit) => {
                    commits.push(commit);
                    waiting.push(request);
                }
                // A full or failing disk makes SQLite roll the whole
                // transaction back: nothing of the batch is left to commit.
                Err(_) if tx.is_autocommit() => {
                    waiting.push(request);
                    lost = true;
                }
                Err(refusal) => {
                    // What was stored for it is given up before its caller
                    // hears of it.
                    drop(request.act);
                    let _caller_gone = request.reply.send(Err(refusal.into_error(&self.catalog)));
                }
            }
        }
        if lost {
            drop(tx);
            *batch = waiting;
            return Err(Failure::Db("its disk is full or failing".to_owned()));
        }
        if commits.is_empty() {
            return Ok(());
        }
        // Step 3: durable.
        let recorded = match self.log.record_batch(commits) {
            Ok(recorded) => recorded,
            Err(error) => {
                drop(tx);
                *batch = waiting;
                return Err(Failure::Log(error));
            }
        };
        // Step 4: visible. What fails here is replayed, never lost.
        let next = recorded.last().map_or(self.noted, |last| last.index() + 1);
        let committed = note_recorded(&tx, &recorded)
            .and_then(|()| rows::set_meta(&tx, meta::NEXT_SEQ, next))
            .and_then(|()| tx.commit());
        if let Err(error) = committed {
            tracing::error!("the catalogue does not commit what is on record: {}", self.catalog.sort(error));
            self.behind = true;
            for (mut request, recorded) in waiting.into_iter().zip(recorded) {
                request.act.claim();
                let _caller_gone = request.reply.send(Err(CommitError::Unsettled(recorded.index())));
            }
            return Ok(());
        }
        self.noted = next;
        for recorded in &recorded {
            recorded.redo().into_iter().for_each(|redo| self.catalog.follow(redo, recorded.index()));
        }
        for (mut request, recorded) in waiting.into_iter().zip(recorded) {
            request.act.claim();
            let _caller_gone = request.reply.send(Ok(recorded));
        }
        Ok(())
    }

    fn catch_up_if_behind(&mut self) -> Result<(), Failure> {
        if !self.behind {
            return Ok(());
        }
        match catch_up(&self.catalog, &mut self.writer, &self.log, &*self.clock) {
            Ok(next) => {
                self.noted = next;
                self.behind = false;
                Ok(())
            }
            Err(error) => Err(Failure::Db(error.to_string())),
        }
    }

    /// All changes pass through this thread, so between two batches everything
    /// durable is applied: noting it saves the next start from reading it.
    fn note_progress(&mut self, at_least: u64) {
        let size = self.log.durable_size();
        if self.behind || size < self.noted + at_least {
            return;
        }
        match rows::set_meta(&self.writer, meta::NEXT_SEQ, size) {
            Ok(()) => self.noted = size,
            Err(error) => tracing::warn!("{}", self.catalog.sort(error)),
        }
    }
}

/// Why a whole batch was not committed. Nothing of it happened.
#[derive(Clone)]
enum Failure {
    Log(LogError),
    Db(String),
}

impl Failure {
    fn into_error(self) -> CommitError {
        match self {
            Self::Log(error) => CommitError::Log(error),
            Self::Db(why) => CommitError::NotApplied(why),
        }
    }
}

fn refuse_all(batch: Vec<Request>, failure: &Failure) {
    // A log that failed may hold the records all the same, and the next start
    // would apply them: what they refer to must then still be there.
    let nothing_recorded = !matches!(failure, Failure::Log(LogError::Failed(_)));
    for mut request in batch {
        if !nothing_recorded {
            request.act.claim();
        }
        let _caller_gone = request.reply.send(Err(failure.clone().into_error()));
    }
}

/// Which record issued a key is known only once there is one.
fn note_recorded(tx: &Connection, recorded: &[Recorded<Commit>]) -> Rows<()> {
    let with_redo = recorded.iter().filter_map(|recorded| Some((recorded.redo()?, recorded.index())));
    with_redo.into_iter().try_for_each(|(redo, seq)| rows::note_recorded(tx, redo, seq))
}

/// Decides and evaluates one request and applies it, or undoes what it did.
fn evaluate(tx: &Connection, act: &mut Act, now_us: TimeUs) -> Result<Commit, Refusal> {
    let commit = act.evaluate(tx, now_us)?;
    if commit.deadline_us().is_some_and(|deadline| deadline < now_us) {
        return Err(Refusal::Conflict(Conflict::Stale));
    }
    let Some(redo) = commit.redo() else { return Ok(commit) };
    // A statement that fails half way must not leave the other half to a
    // neighbour's commit.
    tx.execute_batch("SAVEPOINT one")?;
    match apply(tx, redo, now_us / 1000) {
        Ok(()) => tx.execute_batch("RELEASE one")?,
        Err(error) => {
            tx.execute_batch("ROLLBACK TO one; RELEASE one")?;
            return Err(error.into());
        }
    }
    Ok(commit)
}

/// Why one request was not committed.
pub(crate) enum Refusal {
    Conflict(Conflict),
    Denied(Box<Denial>),
    Sql(ringfence_db::rusqlite::Error),
}

impl Refusal {
    fn into_error(self, catalog: &Catalog) -> CommitError {
        match self {
            Self::Conflict(conflict) => CommitError::Conflict(conflict),
            Self::Denied(denial) => CommitError::Denied(denial),
            Self::Sql(error) => CommitError::Db(catalog.sort(error)),
        }
    }
}

impl From<Conflict> for Refusal {
    fn from(conflict: Conflict) -> Self {
        Self::Conflict(conflict)
    }
}

impl From<ringfence_db::rusqlite::Error> for Refusal {
    fn from(error: ringfence_db::rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::*;

    /// The catalogue's disk is full: nothing of the batch is on record or
    /// visible, and everything works again once there is space.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_full_catalogue_disk_refuses_before_the_record() {
        let dir = tempfile::tempdir().unwrap();
        let world = World::new(dir.path()).await;
        let bucket = world.bucket("first").await;
        let limit = |pages: &'static str| {
            world.store.chore(move |db| {
                let sql = format!("PRAGMA max_page_count = {pages}");
                db.query_row(&sql, [], |_| Ok(()))
            })
        };
        let _put = world.put(&bucket, "before", b"x").await.unwrap();
        limit("1").await.unwrap();
        let (mut refused, mut size) = (0, world.log.durable_size());
        for i in 0..200 {
            let before = world.log.durable_size();
            match world.put(&bucket, &format!("{i:0>500}"), b"x").await {
                Ok(_) => size = world.log.durable_size(),
                Err(CommitError::Db(_) | CommitError::NotApplied(_)) => {
                    assert_eq!(world.log.durable_size(), before);
                    refused += 1;
                }
                Err(other) => panic!("{other}"),
            }
        }
        assert!(refused > 0, "the limit was never reached");
        assert_eq!(world.log.durable_size(), size);
        limit("1000000").await.unwrap();
        let _put = world.put(&bucket, "after", b"x").await.unwrap();
        assert_eq!(world.get(&bucket, "before").await.unwrap(), b"x");
        assert!(world.store.check().await.unwrap().is_sound());
        let all = dump(&world.store);
        world.close().await;
        for file in ["catalogue.db", "catalogue.db-wal", "catalogue.db-shm"] {
            let _absent = std::fs::remove_file(dir.path().join(file));
        }
        let world = World::open(dir.path(), START_US + HOUR_US, 2).await.unwrap();
        assert_eq!(dump(&world.store), all, "log and catalogue say the same");
    }

    /// A COMMIT that fails after the record: the caller is told so, and the
    /// next change finds the rows replayed.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_on_record_is_applied_before_the_next_commit() {
        let dir = tempfile::tempdir().unwrap();
        let world = World::new(dir.path()).await;
        let bucket = world.bucket("first").await;
        // A trigger that lets everything pass but the last statement before COMMIT.
        world
            .store
            .chore(|db| {
                db.execute_batch(
                    "CREATE TRIGGER stop BEFORE UPDATE ON meta WHEN NEW.name = 'next_seq'
                     BEGIN SELECT RAISE(ABORT, 'the disk failed'); END",
                )
            })
            .await
            .unwrap();
        let unsettled = world.put(&bucket, "a", b"a").await.unwrap_err();
        let CommitError::Unsettled(seq) = unsettled else { panic!("{unsettled}") };
        assert!(world.log.lookup(seq).unwrap().redo.is_some());
        let still = world.put(&bucket, "b", b"b").await.unwrap_err();
        assert!(matches!(still, CommitError::NotApplied(_)), "{still}");
        world.store.chore(|db| db.execute_batch("DROP TRIGGER stop")).await.unwrap();
        let _put = world.put(&bucket, "c", b"c").await.unwrap();
        assert_eq!(world.get(&bucket, "a").await.unwrap(), b"a");
        assert!(world.get(&bucket, "b").await.is_none());
        assert!(world.store.check().await.unwrap().is_sound());
    }
}
