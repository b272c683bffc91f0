//! Equal alarms close together: the first stands alone, the rest are counted.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ringfence_format::limits::ALARM_SUBJECTS_MAX;
use ringfence_format::names::{Realm, Tenant};

use super::{Alarm, AlarmKind};

/// What is counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct About {
    kind: AlarmKind,
    realm: Option<Realm>,
    tenant: Option<Tenant>,
    /// Whether it stands for every subject beyond those counted apart.
    others: bool,
}

/// How long equal alarms are counted before they are recorded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// At first; doubles while the flood goes on.
    pub(super) first: Duration,
    /// At most.
    pub(super) longest: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), longest: Duration::from_secs(60) }
    }
}

/// What becomes of an alarm.
pub(super) enum Admitted {
    /// Record it now; who follows is counted until its [`Flood::over`].
    First(Alarm, About),
    /// It was counted.
    Counted,
}

/// So many alarms that followed one on record, and the last of them.
#[derive(Clone, Debug)]
pub(super) struct Repeats {
    pub(super) last: Alarm,
    pub(super) count: u64,
}

/// Counts what follows.
#[derive(Debug, Default)]
pub(super) struct Flood {
    pub(super) pace: Pace,
    counting: Mutex<HashMap<About, Option<Repeats>>>,
}

impl Flood {
    pub(super) fn new(pace: Pace) -> Self {
        Self { pace, counting: Mutex::default() }
    }

    pub(super) fn admit(&self, alarm: Alarm) -> Admitted {
        let mut counting = self.lock();
        let mut about =
            About { kind: alarm.kind, realm: alarm.realm.clone(), tenant: alarm.tenant.clone(), others: false };
        if counting.len() >= ALARM_SUBJECTS_MAX && !counting.contains_key(&about) {
            about = About { realm: None, tenant: None, others: true, ..about };
        }
        match counting.get_mut(&about) {
            None => {
                counting.insert(about.clone(), None);
                Admitted::First(alarm, about)
            }
            Some(repeats) => {
                let count = repeats.as_ref().map_or(0, |r| r.count) + 1;
                *repeats = Some(Repeats { last: alarm, count });
                Admitted::Counted
            }
        }
    }

    /// The time of a subject is over: what followed, for the record; the
    /// counting goes on. If nothing did, it ends.
    pub(super) fn over(&self, about: &About) -> Option<Repeats> {
        let mut counting = self.lock();
        let repeats = counting.get_mut(about)?.take();
        if repeats.is_none() {
            counting.remove(about);
        }
        repeats
    }

    /// What was counted and not recorded, for a shutdown.
    pub(super) fn all(&self) -> Vec<Repeats> {
        self.lock().drain().filter_map(|(_, repeats)| repeats).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<About, Option<Repeats>>> {
        self.counting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alarm(tenant: &str, detail: &str) -> Alarm {
        let tenant = Some(Tenant::parse(tenant).expect("a tenant"));
        Alarm { kind: AlarmKind::RetiredKey, realm: None, tenant, detail: detail.into(), of: None }
    }

    fn first(flood: &Flood, alarm: Alarm) -> Option<About> {
        match flood.admit(alarm) {
            Admitted::First(_, about) => Some(about),
            Admitted::Counted => None,
        }
    }

    #[test]
    fn the_first_stands_alone_and_a_flood_is_one_record_for_each_time() {
        let flood = Flood::default();
        let about = first(&flood, alarm("a", "1")).expect("the first");
        for n in 2..=1000 {
            assert!(first(&flood, alarm("a", &n.to_string())).is_none());
        }
        assert!(first(&flood, alarm("b", "1")).is_some(), "another subject is not hidden by it");
        let repeats = flood.over(&about).expect("counted");
        assert_eq!((repeats.count, repeats.last.detail.as_str()), (999, "1000"));
        assert!(first(&flood, alarm("a", "1001")).is_none(), "the flood may go on");
        assert_eq!(flood.over(&about).expect("counted").count, 1);
        assert!(flood.over(&about).is_none());
        assert!(first(&flood, alarm("a", "1002")).is_some(), "after a quiet time the next one stands alone");
    }

    #[test]
    fn a_flood_about_everybody_costs_a_bounded_number_of_records() {
        let flood = Flood::default();
        let firsts = (0..50_000).filter(|n| first(&flood, alarm(&format!("t{n}"), "")).is_some()).count();
        assert_eq!(firsts, ALARM_SUBJECTS_MAX + 1);
        assert_eq!(flood.all().iter().map(|r| r.count).sum::<u64>(), 50_000 - firsts as u64, "none is lost");
    }
}
