//! The fleet's quota as one replica keeps it: how large its own part is while the tier is away, and what it owes when
//! the tier is back. Pure.

use std::{collections::VecDeque, num::NonZeroU32, time::Duration};

use crate::clock::Instant;

/// A part of the fleet that was cut off for longer than this is no longer counted, and adds its share.
pub const REMEMBERED: Duration = Duration::from_secs(60);

/// Nobody queues for longer; the number stands in `bucket.lua`, too.
const LONGEST_QUEUE: Duration = Duration::from_secs(120);

/// A token bucket: one token each `period`, at most `burst` of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    pub period: Duration,
    pub burst: NonZeroU32,
}

impl Quota {
    /// The part of one of so many replicas. The period is what is divided: whole tokens would leave nothing of a low
    /// rate among many. Each has a burst of one at least, so more replicas than burst may send that many at once.
    pub fn share(self, replicas: NonZeroU32) -> Quota {
        self.part(NonZeroU32::MIN, replicas)
    }

    /// The part of some of all replicas: what those keep to who are together while others are cut off, and spend their
    /// shares. All of it where nobody is missing.
    pub fn part(self, of: NonZeroU32, all: NonZeroU32) -> Quota {
        if of >= all {
            return self;
        }
        let burst = u64::from(self.burst.get()) * u64::from(of.get()) / u64::from(all.get());
        let burst = NonZeroU32::new(burst as u32).unwrap_or(NonZeroU32::MIN);
        Quota { period: self.period.saturating_mul(all.get()) / of.get(), burst }
    }

    /// The time in which an empty bucket fills.
    pub fn window(self) -> Duration {
        self.period.saturating_mul(self.burst.get())
    }

    /// What a bucket holds that would be full in so long; less than nothing where tokens to come are promised already. One
    /// that somebody's clock has spoilt begins empty, and BEAT mends it; what says so all the same is forged.
    pub fn tokens(self, ahead: Duration) -> f64 {
        if self.period.is_zero() || ahead > self.window() + LONGEST_QUEUE {
            return 0.0;
        }
        f64::from(self.burst.get()) - ahead.as_secs_f64() / self.period.as_secs_f64()
    }
}

/// How the fleet's bucket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Level {
    /// So many tokens it has given since it began: it grows with each, unless the tier loses its memory.
    pub given: u64,
    /// In how long it would be full.
    pub ahead: Duration,
}

/// What a replica knows of the fleet's bucket, and tells it: one that has given fewer tokens has lost its memory.
#[derive(Debug, Clone, Copy, Default)]
pub struct Known(Option<(u64, Instant)>);

impl Known {
    /// The bucket, asked at `asked_at`, is like this. Answers that come together are read in any order.
    pub fn heard(&mut self, level: Level, asked_at: Instant) {
        let full_at = asked_at + level.ahead;
        if self.0.is_none_or(|known| known <= (level.given, full_at)) {
            self.0 = Some((level.given, full_at));
        }
    }

    /// How the bucket is now, unless it has given more since: no further ahead than it is, but for a millisecond.
    pub fn level(&self, now: Instant) -> Level {
        self.0.map_or(Level::default(), |(given, full_at)| Level { given, ahead: now.until(full_at) })
    }
}

/// How many replicas there are, as far as this one knows.
#[derive(Debug)]
pub struct Fleet {
    /// What to believe before any was seen (`shared.replicas`).
    presumed: NonZeroU32,
    /// How many were live, and when that was seen; the oldest first, each less than the one before: what a later and
    /// greater number outdoes is not kept.
    seen: VecDeque<(Instant, NonZeroU32)>,
}

impl Fleet {
    pub fn new(presumed: NonZeroU32) -> Fleet {
        Fleet { presumed, seen: VecDeque::new() }
    }

    /// Notes how many were live with a beat.
    pub fn saw(&mut self, live: u32, now: Instant) {
        // Whoever sees a fleet is part of it.
        let live = NonZeroU32::new(live).unwrap_or(NonZeroU32::MIN);
        self.seen.retain(|(at, count)| now.since(*at) < REMEMBERED && *count > live);
        self.seen.push_back((now, live));
    }

    /// The most that were seen live within the minute before the last beat: while the tier is away, nobody knows
    /// better.
    pub fn replicas(&self) -> NonZeroU32 {
        self.seen.front().map_or(self.presumed, |(_, most)| *most)
    }
}

/// Tokens spent that the fleet's bucket was not told of.
#[derive(Debug, Default)]
pub struct Debt(u32);

impl Debt {
    pub fn spent(&mut self) {
        self.0 = self.0.saturating_add(1);
    }

    /// This debt and that.
    pub fn and(&mut self, other: Debt) {
        self.0 = self.0.saturating_add(other.0);
    }

    pub fn tokens(&self) -> u32 {
        self.0
    }

    /// What PAY takes where each of so many replicas has spent as much: a burst at most, since the rest has been refilled
    /// meanwhile.
    pub fn owed(&self, quota: Quota, replicas: NonZeroU32) -> u32 {
        self.0.saturating_mul(replicas.get()).min(quota.burst.get())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn some(number: u32) -> NonZeroU32 {
        NonZeroU32::new(number).unwrap()
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_origin(Duration::from_secs(seconds))
    }

    fn quota(millis: u64, burst: u32) -> Quota {
        Quota { period: Duration::from_millis(millis), burst: some(burst) }
    }

    #[test]
    fn a_share_is_the_rate_divided_and_one_token_at_least() {
        for (replicas, share) in
            [(1, quota(103, 20)), (3, quota(309, 6)), (10, quota(1030, 2)), (20, quota(2060, 1)), (25, quota(2575, 1))]
        {
            assert_eq!(quota(103, 20).share(some(replicas)), share, "{replicas}");
        }
        assert_eq!(quota(103, 20).window(), Duration::from_millis(2060));
    }

    #[test]
    fn those_who_are_together_leave_the_others_their_shares() {
        for (of, all, part) in [
            (1, 1, quota(100, 20)),
            (3, 2, quota(100, 20)),
            (9, 10, Quota { period: Duration::from_nanos(111_111_111), burst: some(18) }),
            (2, 4, quota(200, 10)),
            (1, 25, quota(2500, 1)),
        ] {
            assert_eq!(quota(100, 20).part(some(of), some(all)), part, "{of} of {all}");
        }
    }

    #[test]
    fn what_a_bucket_holds_shows_in_how_long_it_would_be_full() {
        let quota = quota(100, 20);
        for (millis, tokens) in [(0, 20.0), (1_500, 5.0), (3_000, -10.0), (122_000, -1200.0), (122_001, 0.0)] {
            assert_eq!(quota.tokens(Duration::from_millis(millis)), tokens, "{millis}");
        }
    }

    proptest! {
        #[test]
        fn all_shares_together_are_the_quota(millis in 1u64..100_000, burst in 1u32..1000, replicas in 1u32..1000) {
            let (whole, share) = (quota(millis, burst), quota(millis, burst).share(some(replicas)));
            prop_assert_eq!(share.period, whole.period * replicas);
            prop_assert!(share.burst.get() * replicas <= burst.max(replicas));
        }

        #[test]
        fn the_most_of_the_last_minute_counts(beats in prop::collection::vec((0u64..40, 1u32..30), 1..60)) {
            let mut fleet = Fleet::new(some(4));
            let (mut now, mut seen) = (0, Vec::new());
            for (after, live) in beats {
                now += after;
                seen.push((now, live));
                fleet.saw(live, at(now));
                let most = seen.iter().filter(|(when, _)| now - when < 60).map(|(_, live)| *live).max();
                prop_assert_eq!(Some(fleet.replicas().get()), most);
            }
        }
    }

    #[test]
    fn who_has_never_seen_anybody_believes_what_was_set() {
        let mut fleet = Fleet::new(some(4));
        assert_eq!(fleet.replicas().get(), 4);
        fleet.saw(0, at(1));
        assert_eq!(fleet.replicas().get(), 1);
    }

    #[test]
    fn what_is_known_of_the_bucket_is_the_last_that_it_gave_whenever_that_is_heard() {
        let mut known = Known::default();
        assert_eq!(known.level(at(1)), Level::default());
        let level = |given, seconds| Level { given, ahead: Duration::from_secs(seconds) };
        for (given, ahead, asked_at, then) in [
            (5, 7, 10, (5, 7)),
            // Before that, and heard later.
            (4, 7, 10, (5, 7)),
            (6, 1, 10, (6, 1)),
            (6, 0, 10, (6, 1)),
            (6, 1, 11, (6, 2)),
        ] {
            known.heard(level(given, ahead), at(asked_at));
            assert_eq!(known.level(at(10)), level(then.0, then.1), "{given}");
        }
        assert_eq!(known.level(at(11)), level(6, 1));
        assert_eq!(known.level(at(13)), level(6, 0), "it is full");
    }

    #[test]
    fn a_burst_is_the_most_that_is_owed() {
        for (spent, replicas, owed) in
            [(0, 5, 0), (1, 1, 1), (1, 5, 5), (4, 5, 20), (5, 5, 20), (20, 1, 20), (21, 1, 20), (500, u32::MAX, 20)]
        {
            let mut debt = Debt::default();
            (0..spent).for_each(|_| debt.spent());
            assert_eq!(debt.owed(quota(100, 20), some(replicas)), owed, "{spent} of {replicas}");
        }
    }
}
