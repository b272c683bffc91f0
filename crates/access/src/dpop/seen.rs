//! The proofs that were shown, for as long as they would be good.

use std::collections::{BTreeMap, HashSet};

use super::{Reason, SKEW_S_MAX};

/// Seconds of `iat` that are kept, and let go, together.
const BUCKET_S: u64 = 30;

/// Names of proofs by when they were made. What it cannot remember it refuses:
/// to forget one would let it be shown again.
#[derive(Debug)]
pub(super) struct Seen {
    buckets: BTreeMap<u64, HashSet<[u8; 16]>>,
    count: usize,
    max: usize,
    /// Proofs up to this second are refused: they may have been shown to the
    /// process before this one.
    start_s: u64,
    /// Buckets below this were let go. Nothing of them is taken any more, even
    /// if the clock is set back.
    gone_below: u64,
}

impl Seen {
    pub(super) fn new(max: usize, start_s: u64) -> Self {
        Self { buckets: BTreeMap::new(), count: 0, max, start_s, gone_below: 0 }
    }

    /// Remembers a proof that was made at `issued_at_s`.
    pub(super) fn remember(&mut self, name: &[u8; 16], issued_at_s: u64, now_s: u64) -> Result<(), Reason> {
        self.let_go(now_s);
        let bucket = issued_at_s / BUCKET_S;
        if issued_at_s <= self.start_s {
            return Err(Reason::BeforeStart);
        }
        if bucket < self.gone_below {
            return Err(Reason::Time);
        }
        if self.buckets.values().any(|names| names.contains(name)) {
            return Err(Reason::Replayed);
        }
        if self.count >= self.max {
            return Err(Reason::Full);
        }
        self.buckets.entry(bucket).or_default().insert(*name);
        self.count += 1;
        Ok(())
    }

    /// Lets go of what is too old to be good whoever shows it.
    fn let_go(&mut self, now_s: u64) {
        let oldest_good = now_s.saturating_sub(SKEW_S_MAX) / BUCKET_S;
        self.gone_below = self.gone_below.max(oldest_good);
        while let Some(first) = self.buckets.first_entry().filter(|first| *first.key() < self.gone_below) {
            self.count -= first.remove().len();
        }
    }
}
