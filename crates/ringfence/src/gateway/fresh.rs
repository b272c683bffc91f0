//! How old what a gateway knows may be.

use std::time::{Duration, Instant};

/// The two limits of age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// F: older, and sessions that may reach restricted data are refused.
    pub fresh: Duration,
    /// F_max: older, and everything is.
    pub most: Duration,
}

impl Limits {
    /// F and F_max of a gateway at home (5 s, 10 s) or elsewhere (30 s, 60 s).
    pub fn at(site: &str) -> Self {
        let fresh_s = if site == "home" { 5 } else { 30 };
        Self { fresh: Duration::from_secs(fresh_s), most: Duration::from_secs(2 * fresh_s) }
    }

    /// With limits of the operator's, who may only lower them.
    ///
    /// # Errors
    /// Which one is higher than it may be, in words.
    pub fn lowered(self, fresh_s: Option<u64>, most_s: Option<u64>) -> Result<Self, String> {
        let lower = |name: &str, given: Option<u64>, limit: Duration| match given.map(Duration::from_secs) {
            None => Ok(limit),
            Some(given) if !given.is_zero() && given <= limit => Ok(given),
            Some(_) => Err(format!("`{name}` is 1 to {} s at this site: it can only be lowered", limit.as_secs())),
        };
        let most = lower("--most", most_s, self.most)?;
        let fresh = lower("--fresh", fresh_s, self.fresh)?.min(most);
        Ok(Self { fresh, most })
    }
}

/// How well a gateway knows what is revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Younger than F.
    Fresh,
    /// Between F and F_max.
    Ageing,
    /// Older than F_max, or nothing is known yet.
    Stale,
}

/// The age of the newest checkpoint that was followed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Freshness {
    seen: Option<Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    /// By both clocks, for one of them may stand still or be set.
    at: Instant,
    at_s: u64,
    /// How old it was then.
    age: Duration,
    /// Up to when its witnesses vouched for it, by their clocks.
    vouched_s: Option<u64>,
}

impl Freshness {
    /// A checkpoint was followed that was asked for at this time. Witnesses
    /// vouch for it up to theirs; without them, it was the newest when it was
    /// asked for, as far as whoever answered said.
    pub fn note(&mut self, asked: Instant, asked_s: u64, vouched_s: Option<u64>) {
        // The same cosignatures read again are not younger than before,
        // whatever the clock here was set to.
        let known_s = self.seen.and_then(|seen| seen.vouched_s);
        if vouched_s.is_none() || vouched_s > known_s {
            let age = Duration::from_secs(vouched_s.map_or(0, |vouched_s| asked_s.saturating_sub(vouched_s)));
            self.seen = Some(Seen { at: asked, at_s: asked_s, age, vouched_s });
        }
    }

    /// How old what is known is; nothing where nothing is.
    pub fn age(&self, now: Instant, now_s: u64) -> Option<Duration> {
        self.seen.map(|seen| seen.age(now, now_s))
    }

    /// Held against the limits.
    pub fn standing(&self, limits: Limits, now: Instant, now_s: u64) -> Standing {
        match self.age(now, now_s) {
            Some(age) if age <= limits.fresh => Standing::Fresh,
            Some(age) if age <= limits.most => Standing::Ageing,
            _ => Standing::Stale,
        }
    }
}

impl Seen {
    fn age(&self, now: Instant, now_s: u64) -> Duration {
        let by_wall = Duration::from_secs(now_s.saturating_sub(self.at_s));
        self.age + now.saturating_duration_since(self.at).max(by_wall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn limits_can_only_be_lowered_and_home_has_the_lower_ones() {
        let home = Limits::at("home");
        assert_eq!((home.fresh, home.most), (5 * S, 10 * S));
        let away = Limits::at("cloud");
        assert_eq!((away.fresh, away.most), (30 * S, 60 * S));
        assert_eq!(away.lowered(Some(2), Some(4)), Ok(Limits { fresh: 2 * S, most: 4 * S }));
        assert_eq!(away.lowered(None, Some(4)), Ok(Limits { fresh: 4 * S, most: 4 * S }));
        for (fresh, most) in [(Some(31), None), (None, Some(61)), (Some(0), None), (None, Some(0))] {
            assert!(away.lowered(fresh, most).is_err());
        }
    }

    #[test]
    fn age_grows_by_the_faster_clock_and_old_cosignatures_do_not_renew_it() {
        let (limits, start) = (Limits { fresh: 5 * S, most: 10 * S }, Instant::now());
        let mut fresh = Freshness::default();
        assert_eq!(fresh.standing(limits, start, 100), Standing::Stale);
        fresh.note(start, 100, None);
        for (after, wall_s, standing) in [
            (0, 100, Standing::Fresh),
            (5, 100, Standing::Fresh),
            (6, 100, Standing::Ageing),
            (0, 106, Standing::Ageing),
            (11, 50, Standing::Stale),
            (0, 111, Standing::Stale),
        ] {
            assert_eq!(fresh.standing(limits, start + after * S, wall_s), standing, "{after} {wall_s}");
        }
        let mut vouched = Freshness::default();
        vouched.note(start, 100, Some(97));
        assert_eq!(vouched.age(start, 100), Some(3 * S));
        vouched.note(start + 4 * S, 104, Some(97));
        assert_eq!(vouched.age(start + 4 * S, 104), Some(7 * S));
        // Its clock set back makes an old cosignature no younger.
        vouched.note(start + 8 * S, 60, Some(97));
        assert!(vouched.age(start + 8 * S, 108).is_some_and(|age| age >= 8 * S));
        vouched.note(start + 9 * S, 109, Some(109));
        assert_eq!(vouched.age(start + 9 * S, 109), Some(Duration::ZERO));
    }
}
