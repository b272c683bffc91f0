//! When static access keys were last used, to the day: what tells a key that
//! somebody needs from one that was forgotten.
//!
//! Counted in memory and written once a minute if a day changed, so a request
//! writes nothing. Who used a key for what stands in the log; this only saves
//! reading all of it. What a crash takes is at most the last minute's.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use ringfence_db::disk::{Disk, Durable, RealDisk};
use ringfence_format::names::KeyId;
use ringfence_format::record::TimeUs;
use ringfence_format::redo::StaticKeyRow;

use crate::installation::Installation;

/// The file in the data directory.
const FILE: &str = "keys.used";
/// Days after which a key is called old, or forgotten.
pub const DAYS_MAX: u64 = 90;
const DAY_MS: u64 = 24 * 3600 * 1000;

/// The day of each key's last use, in days since 1970 (UTC).
pub struct KeyUse {
    file: PathBuf,
    days: RwLock<Days>,
}

#[derive(Default)]
struct Days {
    last: HashMap<String, u64>,
    unsaved: bool,
}

impl KeyUse {
    /// What the file of a data directory says; nothing where it cannot be read.
    pub fn open(dir: &Path) -> Self {
        let file = dir.join(FILE);
        let last = std::fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Self { file, days: RwLock::new(Days { last, unsaved: false }) }
    }

    /// A request was signed with this key.
    pub fn used(&self, id: &KeyId, now_us: TimeUs) {
        let day = now_us / 1000 / DAY_MS;
        let known = self.days.read().unwrap_or_else(PoisonError::into_inner).last.get(id.as_str()).copied();
        if known.is_none_or(|known| known < day) {
            let mut days = self.days.write().unwrap_or_else(PoisonError::into_inner);
            days.last.insert(id.as_str().to_owned(), day);
            days.unsaved = true;
        }
    }

    /// The beginning of the day of its last use, in milliseconds since 1970.
    pub fn last_ms(&self, id: &KeyId) -> Option<u64> {
        self.days.read().unwrap_or_else(PoisonError::into_inner).last.get(id.as_str()).map(|day| day * DAY_MS)
    }

    /// Writes what is new. Blocks.
    ///
    /// # Errors
    /// The disk refuses; it is tried again at the next time.
    pub fn save(&self) -> std::io::Result<()> {
        let text = {
            let mut days = self.days.write().unwrap_or_else(PoisonError::into_inner);
            if !std::mem::take(&mut days.unsaved) {
                return Ok(());
            }
            serde_json::to_vec(&days.last).expect("text and numbers are JSON")
        };
        let written = RealDisk.replace(&self.file, &text, Durable::Yes);
        if written.is_err() {
            self.days.write().unwrap_or_else(PoisonError::into_inner).unsaved = true;
        }
        written
    }
}

/// How old a key is, in whole days.
pub fn age_days(row: &StaticKeyRow, now_us: TimeUs) -> u64 {
    (now_us / 1000).saturating_sub(row.created_ms) / DAY_MS
}

/// What is to be said about an active key, if anything.
pub fn nag(row: &StaticKeyRow, last_ms: Option<u64>, now_us: TimeUs) -> Option<String> {
    let age = age_days(row, now_us);
    let unused = (now_us / 1000).saturating_sub(last_ms.unwrap_or(row.created_ms)) / DAY_MS;
    match (age > DAYS_MAX, unused > DAYS_MAX) {
        _ if row.disabled_ms.is_some() => None,
        (_, true) => Some(format!("not used for {unused} days: disable it")),
        (true, false) => Some(format!("{age} days old: issue a new one and disable it, or use sessions")),
        (false, false) => None,
    }
}

impl Installation {
    /// A line for each static key that is old or forgotten.
    pub fn key_warnings(&self) -> Vec<String> {
        let keys = self.catalog().static_keys();
        let about = |key: &ringfence_store::IssuedKey| {
            let why = nag(&key.row, self.key_use.last_ms(&key.row.id), self.clock.now_us())?;
            Some(format!("static key `{}` of tenant `{}` is {why}", key.row.id, key.row.tenant))
        };
        keys.iter().filter_map(about).collect()
    }

    /// Sets the age of the oldest static key that works.
    pub fn measure_keys(&self) {
        let keys = self.catalog().static_keys();
        let active = keys.iter().filter(|key| key.row.disabled_ms.is_none());
        let oldest = active.map(|key| age_days(&key.row, self.clock.now_us())).max().unwrap_or(0);
        metrics::gauge!("ringfence_static_key_oldest_days").set(oldest as f64);
    }
}

#[cfg(test)]
mod tests {
    use ringfence_format::names::{Principal, Tenant};

    use super::*;

    fn row(created_day: u64) -> StaticKeyRow {
        StaticKeyRow {
            id: KeyId::parse("AKIATESTTESTTEST").expect("a key id"),
            tenant: Tenant::parse("acme").expect("a tenant"),
            principal: Principal::parse("alice").expect("a principal"),
            sealed_secret: vec![],
            created_ms: created_day * DAY_MS,
            disabled_ms: None,
        }
    }

    #[test]
    fn a_key_is_nagged_about_when_it_is_old_or_forgotten() {
        let us = |day: u64| day * DAY_MS * 1000;
        let said = |last: Option<u64>, day| nag(&row(100), last.map(|day| day * DAY_MS), us(day)).unwrap_or_default();
        assert_eq!(said(None, 190), "");
        assert!(said(None, 191).contains("not used for 91 days"));
        assert!(said(Some(180), 191).contains("91 days old"));
        assert!(said(Some(180), 271).contains("not used for 91 days"));
        let disabled = StaticKeyRow { disabled_ms: Some(1), ..row(100) };
        assert_eq!(nag(&disabled, None, us(900)), None);
    }

    #[test]
    fn the_day_of_the_last_use_survives_and_a_request_of_the_same_day_writes_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let (used, id) = (KeyUse::open(dir.path()), row(0).id);
        assert_eq!(used.last_ms(&id), None);
        used.used(&id, 7 * DAY_MS * 1000 + 5);
        used.save().expect("written");
        std::fs::remove_file(dir.path().join(FILE)).expect("it was there");
        used.used(&id, 7 * DAY_MS * 1000 + 6);
        used.save().expect("nothing to do");
        assert!(!dir.path().join(FILE).exists());
        used.used(&id, 8 * DAY_MS * 1000);
        used.used(&id, 3 * DAY_MS * 1000);
        used.save().expect("written");
        assert_eq!(KeyUse::open(dir.path()).last_ms(&id), Some(8 * DAY_MS), "a clock set back takes nothing away");
    }
}
