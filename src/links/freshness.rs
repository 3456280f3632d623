//! What an entry is good for, given a wish and the time. Pure.

use std::time::Duration;

use crate::clock::Instant;

/// The points of an entry's life. `minted_at` is the moment before the mint was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    pub minted_at: Instant,
    pub refresh_at: Instant,
    pub deadline: Instant,
    /// When the link really ends, margin or not.
    pub ends_at: Instant,
}

/// The same points in 24 bytes rather than 64, since there is one for each link in memory. The points after the mint are
/// counted from it in whole milliseconds, rounded down: no point may come later for being kept. No link lives for the 49
/// days that fit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Life {
    /// Nanoseconds after the clock's origin.
    minted_at: u64,
    refresh_after: u32,
    deadline_after: u32,
    ends_after: u32,
}

impl From<Times> for Life {
    fn from(times: Times) -> Life {
        let minted_at = u64::try_from(times.minted_at.since_origin().as_nanos()).unwrap_or(u64::MAX);
        let after = |point| u32::try_from(times.minted_at.until(point).as_millis()).unwrap_or(u32::MAX);
        Life {
            minted_at,
            refresh_after: after(times.refresh_at),
            deadline_after: after(times.deadline),
            ends_after: after(times.ends_at),
        }
    }
}

impl Life {
    pub(super) fn times(self) -> Times {
        let minted_at = Instant::from_origin(Duration::from_nanos(self.minted_at));
        let at = |after: u32| minted_at + Duration::from_millis(after.into());
        Times {
            minted_at,
            refresh_at: at(self.refresh_after),
            deadline: at(self.deadline_after),
            ends_at: at(self.ends_after),
        }
    }
}

/// What a caller wants of a link beyond being alive (RFC 9111 section 5.2.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wish {
    /// No older than this; `no-cache` is zero.
    pub max_age: Option<Duration>,
    /// At least this much time to the deadline: a wish, which a link that was minted a moment ago need not fulfil.
    pub min_fresh: Option<Duration>,
    /// Never ask kie.ai.
    pub only_if_cached: bool,
}

/// The verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Serve it.
    Fresh,
    /// Serve it and refresh it behind.
    Due,
    /// Alive, but not what this caller wants.
    TooOld,
    /// Never serve it.
    Dead,
}

impl Freshness {
    pub fn as_str(self) -> &'static str {
        match self {
            Freshness::Fresh => "fresh",
            Freshness::Due => "due",
            Freshness::TooOld => "too-old",
            Freshness::Dead => "dead",
        }
    }
}

/// For so long before its deadline, a link in use is refreshed past everything that keeps other requests from kie.ai.
/// It is enough for a probe that meets silence (`attempt_timeout`, 8 s) and a few that do not.
pub(super) const URGENT: Duration = Duration::from_secs(15);

impl Times {
    /// Whether a refresh must not be put off any more.
    pub(super) fn is_about_to_die(&self, now: Instant) -> bool {
        now.until(self.deadline) <= URGENT
    }

    /// The same life, where `gone` more time has passed by kie.ai's clock than by ours. How long we keep a link (`ttl`)
    /// is our own affair; how long it lives is not.
    pub(super) fn less(self, gone: Duration, margin: Duration) -> Times {
        if gone.is_zero() {
            return self;
        }
        let ends_at = self.ends_at - gone;
        Times {
            minted_at: self.minted_at,
            refresh_at: self.refresh_at - gone,
            deadline: self.deadline.min(ends_at - margin),
            ends_at,
        }
    }

    pub fn judge(&self, wish: &Wish, now: Instant) -> Freshness {
        if now >= self.deadline {
            return Freshness::Dead;
        }
        let too_old = wish.max_age.is_some_and(|max_age| now.since(self.minted_at) > max_age);
        let too_short = wish.min_fresh.is_some_and(|min_fresh| now.until(self.deadline) < min_fresh);
        if too_old || too_short {
            return Freshness::TooOld;
        }
        if now >= self.refresh_at { Freshness::Due } else { Freshness::Fresh }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_boundary_belongs_to_the_later_side() {
        let at = |seconds: f64| Instant::from_origin(Duration::from_secs_f64(seconds));
        let times = Times { minted_at: at(100.0), refresh_at: at(820.0), deadline: at(1240.0), ends_at: at(1300.0) };
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let any = Wish::default();
        let max_age = |age| Wish { max_age: seconds(age), ..any };
        let min_fresh = |left| Wish { min_fresh: seconds(left), ..any };
        for (wish, now, verdict) in [
            (any, 100.0, Freshness::Fresh),
            (any, 819.999, Freshness::Fresh),
            (any, 820.0, Freshness::Due),
            (any, 1239.999, Freshness::Due),
            (any, 1240.0, Freshness::Dead),
            (any, 9999.0, Freshness::Dead),
            (max_age(0), 100.0, Freshness::Fresh),
            (max_age(0), 100.001, Freshness::TooOld),
            (max_age(10), 110.0, Freshness::Fresh),
            (max_age(10), 110.001, Freshness::TooOld),
            (max_age(10), 1240.0, Freshness::Dead),
            (min_fresh(1140), 100.0, Freshness::Fresh),
            (min_fresh(1140), 100.001, Freshness::TooOld),
            (min_fresh(60), 1180.0, Freshness::Due),
            (min_fresh(60), 1180.001, Freshness::TooOld),
        ] {
            assert_eq!(times.judge(&wish, at(now)), verdict, "{wish:?} at {now}");
        }
    }

    #[test]
    fn what_is_gone_at_kie_ai_is_gone_of_the_life_and_not_of_the_ttl() {
        let at = |seconds: u64| Instant::from_origin(Duration::from_secs(seconds));
        let seconds = Duration::from_secs;
        let full = Times { minted_at: at(5000), refresh_at: at(5720), deadline: at(6140), ends_at: at(6200) };
        assert_eq!(full.less(seconds(0), seconds(60)), full);
        let less = full.less(seconds(75), seconds(60));
        assert_eq!((less.refresh_at, less.deadline, less.ends_at), (at(5645), at(6065), at(6125)));
        assert_eq!(full.less(seconds(1171), seconds(60)).judge(&Wish::default(), at(5000)), Freshness::Dead);
        let short_ttl = Times { deadline: at(5030), ..full };
        assert_eq!(short_ttl.less(seconds(75), seconds(60)).deadline, at(5030));
        assert_eq!(short_ttl.less(seconds(1130), seconds(60)).deadline, at(5010));
    }

    proptest! {
        #[test]
        fn a_kept_life_is_the_same_or_less_by_under_a_millisecond(
            minted_at in 0..u64::MAX / 2,
            after in prop::array::uniform3(0..1_300_000_000_000_u64),
        ) {
            let minted_at = Instant::from_origin(Duration::from_nanos(minted_at));
            let [refresh_at, deadline, ends_at] = after.map(|after| minted_at + Duration::from_nanos(after));
            let times = Times { minted_at, refresh_at, deadline, ends_at };
            let kept = Life::from(times).times();
            prop_assert_eq!(kept.minted_at, times.minted_at);
            for (kept, point) in
                [(kept.refresh_at, refresh_at), (kept.deadline, deadline), (kept.ends_at, ends_at)]
            {
                prop_assert!(kept <= point && kept.until(point) < Duration::from_millis(1));
            }
        }
    }

    #[test]
    fn a_refresh_is_urgent_in_the_last_seconds() {
        let at = |seconds: u64| Instant::from_origin(Duration::from_secs(seconds));
        let times = Times { minted_at: at(0), refresh_at: at(720), deadline: at(1140), ends_at: at(1200) };
        for (now, urgent) in [(720, false), (1124, false), (1125, true), (1140, true), (1300, true)] {
            assert_eq!(times.is_about_to_die(at(now)), urgent, "{now}");
        }
    }
}
