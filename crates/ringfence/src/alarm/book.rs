//! Which records are alarms, and which of them were told: what makes following
//! a log of millions cheap. A file keeps it; what the file lacks is found again
//! by reading the log from where the file ends.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ringfence_db::disk::{Disk, Durable, RealDisk};
use ringfence_format::limits::{ALARMS_LISTED_MAX, ALARMS_WAITING_MAX};
use ringfence_format::record::Seq;
use serde::{Deserialize, Serialize};

/// The file in the data directory.
const FILE: &str = "alarms.position";

/// What became of an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The webhook acknowledged it.
    Delivered,
    /// It will be told until it is acknowledged.
    Waiting,
    /// There was no webhook when it was raised.
    NoWebhook,
}

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    /// Every alarm before this record is in one of the lists, but for those
    /// that the lists are too short for.
    looked: Seq,
    waiting: BTreeSet<Seq>,
    delivered: BTreeSet<Seq>,
    untold: BTreeSet<Seq>,
}

/// Alarms by what became of them.
pub(super) struct Book {
    file: PathBuf,
    now: Saved,
    on_disk: Saved,
    /// Whether there is a webhook.
    told: bool,
    /// Alarms handed to the log that did not come back yet: they may be durable.
    under_way: usize,
    /// Whether there may be alarms from `looked` on that are not in the lists.
    behind: bool,
}

impl Book {
    /// What the file says; from the beginning of the log where there is none,
    /// or none that can be read. `size` is that of the log.
    pub(super) fn open(dir: &Path, size: Seq, told: bool) -> Self {
        let file = dir.join(FILE);
        let mut now = read(&file);
        // An older log was brought back: what it has not is not known.
        now.looked = now.looked.min(size);
        for list in [&mut now.waiting, &mut now.delivered, &mut now.untold] {
            list.split_off(&size);
        }
        Self { file, on_disk: now.clone(), behind: now.looked < size, now, told, under_way: 0 }
    }

    /// An alarm is handed to the log.
    pub(super) fn begins(&mut self) {
        self.under_way += 1;
    }

    /// It is durable there.
    pub(super) fn recorded(&mut self, seq: Seq) {
        self.under_way -= 1;
        // Where there is no room the log is the queue: it is found there again.
        self.behind |= !self.found(seq);
    }

    /// It was not taken, or nobody knows.
    pub(super) fn failed(&mut self) {
        self.under_way -= 1;
        self.behind = true;
    }

    /// A record is an alarm; whether there was room to remember it.
    pub(super) fn found(&mut self, seq: Seq) -> bool {
        let Saved { waiting, delivered, untold, .. } = &mut self.now;
        if waiting.contains(&seq) || delivered.contains(&seq) || untold.contains(&seq) {
            return true;
        }
        if !self.told {
            untold.insert(seq);
            self.forget();
            return true;
        }
        let room = waiting.len() < ALARMS_WAITING_MAX;
        if room {
            waiting.insert(seq);
        }
        room
    }

    /// Keeps the lists short. What may be found in the log again stays: it
    /// would be told again.
    fn forget(&mut self) {
        let looked = self.now.looked;
        for list in [&mut self.now.delivered, &mut self.now.untold] {
            while list.len() > ALARMS_LISTED_MAX && list.first().is_some_and(|seq| *seq < looked) {
                list.pop_first();
            }
        }
    }

    /// Where reading the log must go on, if there may be alarms unknown.
    pub(super) fn behind(&self) -> Option<Seq> {
        self.behind.then_some(self.now.looked)
    }

    /// The log was read from [`behind`](Self::behind) up to `end`; up to its
    /// size, or as far as there was room.
    pub(super) fn caught_up(&mut self, end: Seq, whole: bool) {
        self.now.looked = self.now.looked.max(end);
        self.behind = !whole;
        self.forget();
    }

    /// Every alarm before record `size`, the log's size when nothing was
    /// known to be under way any more, is in the lists.
    pub(super) fn advance(&mut self, size: Seq) {
        if self.under_way == 0 && !self.behind {
            self.now.looked = self.now.looked.max(size);
            self.forget();
        }
    }

    /// The next one to be told.
    pub(super) fn next(&self) -> Option<Seq> {
        self.now.waiting.first().copied()
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.now.waiting.len()
    }

    /// It was acknowledged.
    pub(super) fn delivered(&mut self, seq: Seq) {
        if self.now.waiting.remove(&seq) {
            self.now.delivered.insert(seq);
            self.forget();
        }
    }

    /// What became of a record that is an alarm; unknown of one long ago.
    pub(super) fn delivery(&self, seq: Seq) -> Option<Delivery> {
        let lists = [
            (&self.now.waiting, Delivery::Waiting),
            (&self.now.delivered, Delivery::Delivered),
            (&self.now.untold, Delivery::NoWebhook),
        ];
        lists.into_iter().find_map(|(list, delivery)| list.contains(&seq).then_some(delivery))
    }

    /// The latest that are known, in order.
    pub(super) fn latest(&self) -> Vec<Seq> {
        let all: BTreeSet<Seq> =
            [&self.now.waiting, &self.now.delivered, &self.now.untold].into_iter().flatten().copied().collect();
        let beyond = all.len().saturating_sub(ALARMS_LISTED_MAX);
        all.into_iter().skip(beyond).collect()
    }

    /// What the file does not say yet: more than that records were looked at,
    /// or that many more than `records` were.
    pub(super) fn unsaved(&self, records: u64) -> Option<Unsaved> {
        let same = Saved { looked: 0, ..self.now.clone() } == Saved { looked: 0, ..self.on_disk.clone() };
        let looked = self.now.looked.saturating_sub(self.on_disk.looked);
        (!same || looked > records).then(|| Unsaved { file: self.file.clone(), text: self.now.clone() })
    }

    /// It was written.
    pub(super) fn saved(&mut self, written: Unsaved) {
        self.on_disk = written.text;
    }
}

/// What is to be written, without holding the book.
pub(super) struct Unsaved {
    file: PathBuf,
    text: Saved,
}

impl Unsaved {
    /// Replaces the file; a crash leaves the old one or this. Blocks.
    pub(super) fn write(&self) -> std::io::Result<()> {
        let text = serde_json::to_vec(&self.text).expect("numbers are JSON");
        RealDisk.replace(&self.file, &text, Durable::Yes)
    }
}

fn read(file: &Path) -> Saved {
    match std::fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::warn!("`{FILE}` is not readable, so every alarm in the log is told again: {error}");
            Saved::default()
        }),
        Err(error) => {
            if error.kind() != std::io::ErrorKind::NotFound {
                tracing::warn!("`{FILE}` cannot be read, so every alarm in the log is told again: {error}");
            }
            Saved::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book(dir: &Path, size: Seq) -> Book {
        Book::open(dir, size, true)
    }

    fn save(book: &mut Book) {
        let unsaved = book.unsaved(0).expect("something changed");
        unsaved.write().expect("written");
        book.saved(unsaved);
    }

    #[test]
    fn what_was_acknowledged_stays_so_and_the_rest_waits_over_a_crash() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut before = book(dir.path(), 0);
        for seq in [3, 7] {
            before.begins();
            before.recorded(seq);
        }
        before.delivered(3);
        before.advance(10);
        save(&mut before);
        let after = book(dir.path(), 12);
        assert_eq!((after.next(), after.delivery(3), after.behind()), (Some(7), Some(Delivery::Delivered), Some(10)));
    }

    #[test]
    fn the_position_never_passes_an_alarm_that_may_be_durable() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut book = book(dir.path(), 0);
        book.begins();
        book.advance(10);
        assert!(book.unsaved(0).is_none(), "one is under way");
        book.failed();
        book.advance(10);
        assert_eq!(book.behind(), Some(0), "nobody knows whether it is there");
        book.caught_up(10, true);
        assert_eq!((book.behind(), book.unsaved(9).is_some(), book.unsaved(10).is_some()), (None, true, false));
    }

    #[test]
    fn more_than_can_wait_in_memory_wait_in_the_log_and_are_told_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut book = book(dir.path(), 0);
        let all = 2 * ALARMS_WAITING_MAX as u64 + 5;
        for seq in 0..all {
            book.begins();
            book.recorded(seq);
        }
        let mut told = 0;
        for _ in 0..5 {
            while let Some(seq) = book.next() {
                book.delivered(seq);
                told += 1;
            }
            let Some(from) = book.behind() else { break };
            let end = (from..all).find(|seq| !book.found(*seq)).unwrap_or(all);
            book.caught_up(end, end == all);
        }
        assert_eq!((told, book.behind(), book.waiting()), (all, None, 0));
        assert_eq!(book.now.delivered.len(), ALARMS_LISTED_MAX, "and only the latest are remembered");
    }

    #[test]
    fn an_older_log_or_a_damaged_file_tells_too_much_rather_than_too_little() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut before = book(dir.path(), 0);
        assert!(before.found(3) && before.found(50));
        before.advance(100);
        save(&mut before);
        let older = book(dir.path(), 20);
        assert_eq!((older.latest(), older.behind()), (vec![3], None));
        std::fs::write(dir.path().join(FILE), b"{\"looked\": 9").expect("written");
        let damaged = book(dir.path(), 100);
        assert_eq!((damaged.latest(), damaged.behind()), (vec![], Some(0)));
    }
}
