//! How old the newest checkpoint may be that a gateway judges sessions by.
//!
//! A revocation counts at a gateway once it has a checkpoint that covers it. So
//! a gateway that hears nothing new must stop by itself: for what is restricted
//! as soon as news is late, for everything once it is very late. One that holds
//! the log itself is as fresh as its quorum of witnesses; without a quorum it
//! has nothing to wait for.

/// Limits on age, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// F: older, and restricted data is refused.
    pub restricted_s: u64,
    /// F_max: older, and everything is refused.
    pub all_s: u64,
}

/// What a gateway may still serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    /// Everything.
    All,
    /// All but what is restricted: the newest checkpoint is older than F.
    ButRestricted,
    /// Nothing: the newest checkpoint is older than F_max, or there is none.
    Nothing,
}

/// A clock that was set back by more than this makes a checkpoint of the future,
/// in seconds; its age is not known then.
const FUTURE_S_MAX: u64 = 5;

impl Freshness {
    /// Where the log is.
    pub const HOME: Self = Self { restricted_s: 5, all_s: 60 };
    /// In a cloud.
    pub const ELSEWHERE: Self = Self { restricted_s: 30, all_s: 300 };

    /// What may be served at `now_s` by a checkpoint of `checkpoint_s`, both in
    /// Unix seconds; `None` where there is none.
    pub fn serves(&self, checkpoint_s: Option<u64>, now_s: u64) -> Serves {
        let Some(at_s) = checkpoint_s.filter(|at_s| *at_s <= now_s.saturating_add(FUTURE_S_MAX)) else {
            return Serves::Nothing;
        };
        match now_s.saturating_sub(at_s) {
            age_s if age_s > self.all_s => Serves::Nothing,
            age_s if age_s > self.restricted_s => Serves::ButRestricted,
            _ => Serves::All,
        }
    }
}

impl Serves {
    /// Whether data may be served.
    pub fn may(self, restricted: bool) -> bool {
        match self {
            Self::All => true,
            Self::ButRestricted => !restricted,
            Self::Nothing => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a14_a_gateway_without_news_stops_by_itself_restricted_data_first() {
        let now_s = 10_000;
        for limits in [Freshness::HOME, Freshness::ELSEWHERE] {
            let at = |age_s| limits.serves(Some(now_s - age_s), now_s);
            assert_eq!([at(0), at(limits.restricted_s)], [Serves::All; 2]);
            assert_eq!([at(limits.restricted_s + 1), at(limits.all_s)], [Serves::ButRestricted; 2]);
            assert_eq!([at(limits.all_s + 1), at(now_s)], [Serves::Nothing; 2]);
            assert_eq!(limits.serves(None, now_s), Serves::Nothing);
            assert_eq!(limits.serves(Some(now_s + 5), now_s), Serves::All);
            assert_eq!(limits.serves(Some(now_s + 6), now_s), Serves::Nothing, "the clock is wrong");
        }
        assert!(Serves::All.may(true) && Serves::ButRestricted.may(false));
        assert!(!Serves::ButRestricted.may(true) && !Serves::Nothing.may(false));
    }
}
