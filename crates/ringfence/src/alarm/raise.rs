//! Raising alarms, and reading those that were raised.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use ringfence_format::record::{Record, Seq, TimeUs};
use ringfence_log::{Class, Entry, Log, LogError};
use tokio::sync::Notify;

use super::book::{Book, Delivery};
use super::flood::{About, Admitted, Flood, Pace, Repeats};
use super::{Alarm, kind_of, record_of};

/// How long what raised an alarm waits for its record.
const RECORD_WAIT: Duration = Duration::from_secs(2);
/// Between two attempts to record while the log is busy.
const BUSY_PAUSE: Duration = Duration::from_millis(100);
/// Attempts to record while the log is busy.
const BUSY_TRIES: u32 = 100;

impl Entry for Repeats {
    fn to_record(&self, now_us: TimeUs) -> Record {
        record_of(&self.last, self.count, now_us)
    }

    fn class(&self) -> Class {
        Class::Reserved
    }
}

/// Where alarms are raised. A handle: its clones are the same.
#[derive(Clone)]
pub struct Alarms(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) log: Arc<Log>,
    pub(super) wake: Notify,
    book: Mutex<Book>,
    flood: Flood,
}

/// An alarm on record.
pub struct Listed {
    /// Where.
    pub seq: Seq,
    /// What it says, or why that cannot be read any more.
    pub record: Result<Box<Record>, String>,
    /// What became of it; not known of one that was told long ago.
    pub delivery: Option<Delivery>,
}

impl Alarms {
    /// Those of the installation in `dir`, recorded in `log`. `told` says
    /// whether there is a webhook.
    pub fn open(dir: &Path, log: Arc<Log>, told: bool) -> Self {
        Self::paced(dir, log, told, Pace::default())
    }

    pub(super) fn paced(dir: &Path, log: Arc<Log>, told: bool, pace: Pace) -> Self {
        let book = Mutex::new(Book::open(dir, log.durable_size(), told));
        Self(Arc::new(Inner { log, wake: Notify::new(), book, flood: Flood::new(pace) }))
    }

    /// Records an alarm, counts it, and wakes who tells it.
    ///
    /// Returns when it is durable, at the latest after two seconds; it is
    /// recorded even if the future is dropped. It cannot fail what raised it:
    /// an alarm that cannot be recorded is an error line and counted in
    /// `ringfence_alarms_unrecorded_total`. Within a second of one about the
    /// same subject it is counted, and recorded with that count afterwards.
    #[allow(dead_code)] // what raises alarms comes with sessions, witnesses and key manifests
    pub async fn raise(&self, alarm: Alarm) {
        let kind = alarm.kind.as_str();
        metrics::counter!("ringfence_alarms_total", "kind" => kind).increment(1);
        if let Admitted::First(alarm, about) = self.0.flood.admit(alarm) {
            tracing::error!(kind, severity = alarm.kind.severity(), "ALARM: see `ringfence alarm list`");
            tokio::spawn(repeats(Arc::downgrade(&self.0), self.0.flood.pace, about));
            let recorded = tokio::spawn(record(self.0.clone(), kind, alarm));
            let _ = tokio::time::timeout(RECORD_WAIT, recorded).await;
        }
    }

    /// Records what was counted and is not on record yet, for a shutdown.
    pub async fn flush(&self) {
        for repeats in self.0.flood.all() {
            record(self.0.clone(), repeats.last.kind.as_str(), repeats).await;
        }
    }

    /// How many wait to be told.
    pub fn waiting(&self) -> usize {
        self.0.book().waiting()
    }

    /// The alarms from record `since` on, for which every record from there is
    /// read, or the latest that are known. In order. Blocks.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn list(&self, since: Option<Seq>) -> Result<Vec<Listed>, LogError> {
        self.0.catch_up()?;
        if let Some(since) = since {
            let found = self.0.log.read(since).filter_map(Result::ok);
            let alarms = found.filter(|(_, record)| kind_of(record).is_some());
            return Ok(alarms.map(|(seq, record)| self.0.listed(seq, Ok(Box::new(record)))).collect());
        }
        let latest = self.0.book().latest();
        latest.into_iter().map(|seq| Ok(self.0.listed(seq, self.0.lookup(seq)?))).collect()
    }
}

impl Inner {
    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what was written to the log since the last look. Blocks.
    pub(super) fn catch_up(&self) -> Result<(), LogError> {
        let Some(from) = self.book().behind() else { return Ok(()) };
        let size = self.log.durable_size();
        let mut end = size;
        for read in self.log.read(from).take_while(|read| !matches!(read, Ok((seq, _)) if *seq >= size)) {
            match read {
                Ok((seq, record)) if kind_of(&record).is_some() && !self.book().found(seq) => {
                    end = seq;
                    break;
                }
                // Its fields are gone: what it said was said long ago.
                Ok(_) | Err(LogError::Unreadable { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.book().caught_up(end, end == size);
        Ok(())
    }

    /// The record of an alarm, or why it cannot be read any more.
    pub(super) fn lookup(&self, seq: Seq) -> Result<Result<Box<Record>, String>, LogError> {
        match self.log.lookup(seq) {
            Ok(record) => Ok(Ok(Box::new(record))),
            Err(LogError::Unreadable { why, .. }) => Ok(Err(why.to_string())),
            Err(error) => Err(error),
        }
    }

    fn listed(&self, seq: Seq, record: Result<Box<Record>, String>) -> Listed {
        Listed { seq, record, delivery: self.book().delivery(seq) }
    }
}

/// Makes one durable. Runs in a task of its own, so that a client that goes
/// away takes no alarm with it.
async fn record<T: Entry + Clone + Send + 'static>(inner: Arc<Inner>, kind: &'static str, entry: T) {
    inner.book().begins();
    let mut recorded = inner.log.record(entry.clone()).await;
    for _ in 0..BUSY_TRIES {
        if !matches!(recorded, Err(LogError::Busy(_))) {
            break;
        }
        tokio::time::sleep(BUSY_PAUSE).await;
        recorded = inner.log.record(entry.clone()).await;
    }
    match recorded {
        Ok(recorded) => {
            inner.book().recorded(recorded.index());
            tracing::info!(kind, record = recorded.index(), "the alarm is on record");
            inner.wake.notify_one();
        }
        Err(error) => {
            inner.book().failed();
            metrics::counter!("ringfence_alarms_unrecorded_total", "kind" => kind).increment(1);
            tracing::error!(kind, "an alarm could not be recorded: {error}");
        }
    }
}

/// Records what follows an alarm about the same subject, until nothing does.
/// Waiting for that keeps no log open.
async fn repeats(inner: Weak<Inner>, pace: Pace, about: About) {
    let mut time = pace.first;
    loop {
        tokio::time::sleep(time).await;
        let Some(inner) = inner.upgrade() else { return };
        let Some(repeats) = inner.flood.over(&about) else { return };
        tracing::error!(kind = repeats.last.kind.as_str(), "ALARM, and {} more like it", repeats.count);
        record(inner.clone(), repeats.last.kind.as_str(), repeats).await;
        time = (time * 2).min(pace.longest);
    }
}
