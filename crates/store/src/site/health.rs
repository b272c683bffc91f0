//! Whether a site is asked at all: a circuit breaker, one for each site.
//!
//! ```text
//!            failures_max in a row              rest is over
//!   closed ───────────────────────▶ open ───────────────────▶ half-open
//!     ▲                              ▲                            │
//!     │          trial succeeded     │        trial failed        │
//!     └──────────────────────────────┴────────────────────────────┘
//! ```
//!
//! While it is open nobody waits for the site: calls are refused at once with
//! [`SiteError::Resting`], so that writes are placed elsewhere and reads take
//! another copy. The trial is Ringfence's own ([`Site::try_again`]), never a
//! client's request. Each failed trial doubles the rest, up to a longest.
//!
//! What counts is that callers would wait: no answer in time, and whatever
//! fails on a network. A missing or damaged chunk is a good site's answer, "too
//! many requests" that of a busy one. A site that is full, refuses, or is a
//! directory whose disk fails at once is passed over by new writes for a while,
//! and read as always: a disk that was remounted read-only gives out what it has.
//!
//! [`Site::try_again`]: super::Site::try_again

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use ringfence_db::clock::{Clock, SystemClock};
use ringfence_format::names::SiteId;

use super::{Patience, SiteError};

/// The breaker's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Breaker {
    /// The site is asked.
    Closed,
    /// It is tried out; nobody else asks it.
    HalfOpen,
    /// It is left in peace.
    Open,
}

/// What is known of a site's health.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct HealthReport {
    /// Whether it is asked.
    pub breaker: Breaker,
    /// Failures since the last success.
    pub failures: u32,
    /// What the last failure said; none since the last success.
    pub why: Option<String>,
    /// When it is tried again, milliseconds since the epoch; while open only.
    pub next_trial_ms: Option<u64>,
    /// Why new writes pass it over although it is asked: it is full, or refuses.
    pub passed_over: Option<String>,
}

/// The breaker of one site, shared by all that ask it.
pub(in crate::site) struct Health {
    site: SiteId,
    /// A directory: what fails there fails at once.
    local: bool,
    failures_max: u32,
    rest_min: Duration,
    rest_max: Duration,
    clock: OnceLock<Arc<dyn Clock>>,
    inner: Mutex<Inner>,
}

struct Inner {
    breaker: Breaker,
    failures: u32,
    why: Option<String>,
    /// The next rest.
    rest: Duration,
    /// When the rest began; the clock may be set back.
    since_us: u64,
    until_us: u64,
    passed_over: Option<(u64, String)>,
}

impl Health {
    pub(in crate::site) fn new(site: &SiteId, patience: &Patience, local: bool) -> Arc<Self> {
        Arc::new(Self {
            site: site.clone(),
            local,
            failures_max: patience.failures_max.max(1),
            rest_min: patience.rest_min,
            rest_max: patience.rest_max.max(patience.rest_min),
            clock: OnceLock::new(),
            inner: Mutex::new(Inner {
                breaker: Breaker::Closed,
                failures: 0,
                why: None,
                rest: patience.rest_min,
                since_us: 0,
                until_us: 0,
                passed_over: None,
            }),
        })
    }

    /// The time to go by; the first call counts, the machine's clock until then.
    pub(in crate::site) fn keep_time(&self, clock: Arc<dyn Clock>) {
        let _already_set = self.clock.set(clock);
    }

    /// Refuses at once while the breaker is not closed.
    pub(in crate::site) fn admit(&self) -> Result<(), SiteError> {
        let inner = self.lock();
        match inner.breaker {
            Breaker::Closed => Ok(()),
            Breaker::Open | Breaker::HalfOpen => {
                let why = inner.why.clone().unwrap_or_default();
                Err(SiteError::Resting { site: self.site.clone(), why })
            }
        }
    }

    /// Does `work` if the site is asked at all, and notes how it went.
    pub(in crate::site) async fn watch<T>(
        &self,
        work: impl Future<Output = Result<T, SiteError>>,
    ) -> Result<T, SiteError> {
        self.admit()?;
        let result = work.await;
        self.note(result.as_ref().err());
        result
    }

    /// Notes the outcome of one call.
    pub(in crate::site) fn note(&self, error: Option<&SiteError>) {
        let mut inner = self.lock();
        match error {
            None => {
                if inner.breaker == Breaker::Closed {
                    inner.failures = 0;
                    inner.why = None;
                    inner.rest = self.rest_min;
                }
            }
            Some(error) if self.is_waited_for(error) => {
                inner.failures = inner.failures.saturating_add(1);
                inner.why = Some(error.why());
                // What was under way when it opened changes nothing more.
                if inner.breaker == Breaker::Closed && inner.failures >= self.failures_max {
                    self.open(&mut inner);
                }
            }
            Some(error) if error.speaks_against_writes() => {
                let until_us = self.now_us().saturating_add(micros(self.rest_max));
                inner.passed_over = Some((until_us, error.why()));
            }
            // It answered.
            Some(_) => {}
        }
    }

    fn is_waited_for(&self, error: &SiteError) -> bool {
        match error {
            SiteError::Timeout { .. } => true,
            SiteError::Retryable { .. } | SiteError::Config { .. } => !self.local,
            _ => false,
        }
    }

    /// Whether a trial is due; whoever gets `true` must end it.
    pub(in crate::site) fn begin_trial(&self) -> bool {
        let now_us = self.now_us();
        let mut inner = self.lock();
        let rested = now_us >= inner.until_us || now_us < inner.since_us;
        let due = inner.breaker == Breaker::Open && rested;
        if due {
            inner.breaker = Breaker::HalfOpen;
        }
        due
    }

    /// Ends a trial. Its failures in a row stay counted after a success, less
    /// one: a site that fails its first calls again rests again at once, longer.
    pub(in crate::site) fn end_trial(&self, error: Option<&SiteError>) {
        let mut inner = self.lock();
        if inner.breaker != Breaker::HalfOpen {
            return;
        }
        match error {
            Some(error) if !matches!(error, SiteError::Busy { .. }) => {
                inner.why = Some(error.why());
                self.open(&mut inner);
            }
            _ => {
                tracing::info!(site = %self.site, "the site answers again");
                inner.breaker = Breaker::Closed;
                inner.failures = self.failures_max - 1;
            }
        }
    }

    /// Lets calls through again, for an operator who looks at the site.
    pub(in crate::site) fn close(&self) {
        let mut inner = self.lock();
        if inner.breaker == Breaker::Open {
            inner.breaker = Breaker::Closed;
            inner.failures = self.failures_max - 1;
        }
    }

    /// Whether a new write may be placed there.
    pub(in crate::site) fn takes_writes(&self) -> bool {
        let now_us = self.now_us();
        let inner = self.lock();
        inner.breaker == Breaker::Closed && inner.passed_over(now_us).is_none()
    }

    /// Whether it is asked at all.
    pub(in crate::site) fn is_asked(&self) -> bool {
        self.lock().breaker == Breaker::Closed
    }

    pub(in crate::site) fn report(&self) -> HealthReport {
        let now_us = self.now_us();
        let inner = self.lock();
        HealthReport {
            breaker: inner.breaker,
            failures: inner.failures,
            why: inner.why.clone(),
            next_trial_ms: (inner.breaker == Breaker::Open).then_some(inner.until_us / 1000),
            passed_over: inner.passed_over(now_us),
        }
    }

    fn open(&self, inner: &mut Inner) {
        let why = inner.why.as_deref().unwrap_or_default();
        let rest = inner.rest;
        tracing::warn!(site = %self.site, "the site rests for {} s after {} failures in a row: {why}", rest.as_secs(), inner.failures);
        metrics::counter!("ringfence_site_rests_total", "site" => self.site.to_string()).increment(1);
        inner.breaker = Breaker::Open;
        inner.since_us = self.now_us();
        inner.until_us = inner.since_us.saturating_add(micros(rest));
        inner.rest = rest.saturating_mul(2).min(self.rest_max);
    }

    fn now_us(&self) -> u64 {
        self.clock.get().map_or_else(|| SystemClock.now_us(), |clock| clock.now_us())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn passed_over(&self, now_us: u64) -> Option<String> {
        self.passed_over.as_ref().filter(|(until_us, _)| now_us < *until_us).map(|(_, why)| why.clone())
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use ringfence_db::clock::ManualClock;

    use super::*;

    fn health() -> (Arc<Health>, Arc<ManualClock>) {
        let patience = Patience {
            failures_max: 3,
            rest_min: Duration::from_secs(5),
            rest_max: Duration::from_secs(15),
            ..Patience::default()
        };
        let health = Health::new(&site(), &patience, false);
        let clock = Arc::new(ManualClock::new(1_000_000_000));
        health.keep_time(clock.clone());
        (health, clock)
    }

    fn site() -> SiteId {
        SiteId::parse("cloud").expect("a name")
    }

    fn down() -> SiteError {
        SiteError::timeout(&site(), Duration::from_secs(1))
    }

    fn trip(health: &Health) {
        while health.is_asked() {
            health.note(Some(&down()));
        }
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_them_does_not() {
        let (health, _) = health();
        for error in [Some(down()), Some(down()), None, Some(down()), Some(down())] {
            health.note(error.as_ref());
            assert!(health.admit().is_ok());
        }
        health.note(Some(&down()));
        assert!(matches!(health.admit(), Err(SiteError::Resting { .. })));
        assert_eq!(health.report().breaker, Breaker::Open);
    }

    #[test]
    fn what_a_good_site_answers_never_opens_it() {
        let (health, _) = health();
        for _ in 0..10 {
            health.note(Some(&SiteError::not_found(&site(), "x")));
            health.note(Some(&SiteError::corrupt(&site(), "x", "short")));
            health.note(Some(&SiteError::Busy { site: site() }));
        }
        assert!(health.admit().is_ok() && health.takes_writes());
    }

    #[test]
    fn a_full_site_is_read_and_not_written_to_for_a_while() {
        let (health, clock) = health();
        health.note(Some(&SiteError::Full { site: site() }));
        assert!(health.admit().is_ok() && !health.takes_writes());
        clock.advance_us(15_000_000);
        assert!(health.takes_writes());
    }

    #[test]
    fn a_directory_that_fails_at_once_is_still_read() {
        let patience = Patience::default();
        let health = Health::new(&site(), &patience, true);
        for _ in 0..10 {
            health.note(Some(&SiteError::retryable(&site(), "input/output error")));
            health.note(Some(&SiteError::refused(&site(), "read-only file system")));
        }
        assert!(health.admit().is_ok() && !health.takes_writes());
        (0..patience.failures_max).for_each(|_| health.note(Some(&down())));
        assert!(health.admit().is_err(), "one that hangs is not");
    }

    #[test]
    fn a_trial_comes_after_the_rest_and_each_failed_one_doubles_it() {
        let (health, clock) = health();
        trip(&health);
        for rest_s in [5, 10, 15, 15] {
            clock.advance_us((rest_s - 1) * 1_000_000);
            assert!(!health.begin_trial());
            clock.advance_us(1_000_000);
            assert!(health.begin_trial() && !health.begin_trial(), "one trial at a time");
            assert!(health.admit().is_err(), "clients do not take part in it");
            health.end_trial(Some(&down()));
        }
        clock.advance_us(15_000_000);
        assert!(health.begin_trial());
        health.end_trial(None);
        assert!(health.admit().is_ok());
    }

    #[test]
    fn a_site_that_fails_right_after_its_trial_rests_at_once_and_longer() {
        let (health, clock) = health();
        trip(&health);
        clock.advance_us(5_000_000);
        assert!(health.begin_trial());
        health.end_trial(None);
        health.note(Some(&down()));
        clock.advance_us(9_000_000);
        assert!(!health.begin_trial());
        clock.advance_us(1_000_000);
        assert!(health.begin_trial());
        health.end_trial(None);
        health.note(None);
        trip(&health);
        clock.advance_us(5_000_000);
        assert!(health.begin_trial(), "a success makes the next rest short again");
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_keep_it_open() {
        let (health, _) = health();
        trip(&health);
        health.lock().since_us += 3_600_000_000;
        health.lock().until_us += 3_600_000_000;
        assert!(health.begin_trial());
    }
}
