//! INVARIANT 1 — `Recorded<T>`: evidence that an entry is durable in the log.
//!
//! Only this file makes one, and only [`Recorded::durable`] does, which the
//! sequencer calls after the sync that made the entry durable.

use std::ops::Deref;

use ringfence_format::record::{Record, Seq, TimeUs};

/// Something that can be put on record.
pub trait Entry {
    /// The record of it. `now_us` is the sequencer's time.
    fn to_record(&self, now_us: TimeUs) -> Record;

    /// Which space of the log it may use.
    fn class(&self) -> Class {
        Class::Ordinary
    }

    /// The latest time, in microseconds since the epoch, at which it may still
    /// be recorded; a permit that is older is refused, so that a revocation
    /// cannot be outrun.
    fn deadline_us(&self) -> Option<TimeUs> {
        None
    }
}

/// Which space of the log an entry may use when that space runs out: writes
/// stop first, then reads; deletes, revocations and administration have a
/// reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Puts, parts, copies: stop first.
    Write,
    /// Reads, listings and refusals.
    Ordinary,
    /// Deletes, revocations, administration: may use the reserve.
    Reserved,
}

/// `T` is durable in the log at [`index`](Self::index).
///
/// ```compile_fail,E0451
/// use ringfence_log::Recorded;
/// fn forge<T>(entry: T) -> Recorded<T> { Recorded { entry, index: 0 } }
/// ```
#[must_use = "a record that nobody asks for evidence of was written for nothing"]
#[derive(Debug)]
pub struct Recorded<T> {
    entry: T,
    index: Seq,
}

impl<T> Recorded<T> {
    /// upholds INVARIANT 1: called by the sequencer, after the sync.
    pub(crate) fn durable(entry: T, index: Seq) -> Self {
        Self { entry, index }
    }

    /// Position in the log.
    pub fn index(&self) -> Seq {
        self.index
    }

    /// Narrows the evidence to a part of what was recorded, as a reference.
    pub fn entry(&self) -> &T {
        &self.entry
    }
}

impl<T> Deref for Recorded<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.entry
    }
}
