//! The token bucket of this replica's share, while the shared tier, which keeps the fleet's bucket, is away. Pure.

use std::time::Duration;

use crate::{
    clock::Instant,
    shared::{Quota, Take},
};

/// A bucket as a time: when it would be full (GCRA), as the tier keeps it, too.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    /// `None` where it is full.
    full_at: Option<Instant>,
    /// Of the share that it was last.
    period: Duration,
}

impl Bucket {
    /// In how long it would be full.
    fn ahead(&self, now: Instant) -> Duration {
        self.full_at.map(|full_at| now.until(full_at)).unwrap_or_default()
    }

    /// Has so many tokens from now on, if it had more; less than none where some to come are promised already.
    pub(super) fn leave(&mut self, tokens: f64, quota: Quota, now: Instant) {
        let had = self.ahead(now).as_secs_f64() / self.period.as_secs_f64().max(f64::MIN_POSITIVE);
        let missing = (f64::from(quota.burst.get()) - tokens).max(had);
        self.full_at = Some(now + quota.period.mul_f64(missing));
        self.period = quota.period;
    }

    /// Nobody waits for what was promised: it is empty, where it had less.
    pub(super) fn owes_nobody(&mut self, quota: Quota, now: Instant) {
        if self.ahead(now) > quota.window() {
            (self.full_at, self.period) = (Some(now + quota.window()), quota.period);
        }
    }

    /// What it holds; less than nothing where tokens to come are promised already.
    pub(super) fn tokens(&self, quota: Quota, now: Instant) -> f64 {
        f64::from(quota.burst.get()) - self.ahead(now).as_secs_f64() / quota.period.as_secs_f64()
    }

    /// How long what is promised already has to wait.
    pub(super) fn queue(&self, quota: Quota, now: Instant) -> Duration {
        self.ahead(now).saturating_sub(quota.window())
    }

    /// One token is not needed after all.
    pub(super) fn give_back(&mut self, quota: Quota) {
        self.full_at = self.full_at.map(|full_at| full_at - quota.period);
    }

    /// A token, now or within the wait, which leaves `keep` tokens for others. Only a token that is given is counted.
    pub(super) fn take(&mut self, quota: Quota, longest_wait: Duration, keep: u32, now: Instant) -> Take {
        let ahead = self.ahead(now);
        let wait = (ahead + quota.period.saturating_mul(keep.saturating_add(1))).saturating_sub(quota.window());
        if wait > longest_wait {
            return Take::Full { retry_after: wait };
        }
        let ahead = ahead + quota.period;
        (self.full_at, self.period) = (Some(now + ahead), quota.period);
        Take::Go { wait: ahead.saturating_sub(quota.window()) }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    const QUOTA: Quota = Quota { period: Duration::from_millis(100), burst: NonZeroU32::new(4).unwrap() };

    fn at(millis: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(millis))
    }

    fn go(millis: u64) -> Take {
        Take::Go { wait: Duration::from_millis(millis) }
    }

    fn full(millis: u64) -> Take {
        Take::Full { retry_after: Duration::from_millis(millis) }
    }

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_the_rate() {
        let mut bucket = Bucket::default();
        let taken: Vec<_> = (0..6).map(|_| bucket.take(QUOTA, Duration::from_secs(1), 0, at(1000))).collect();
        assert_eq!(taken, [go(0), go(0), go(0), go(0), go(100), go(200)]);
        assert_eq!(bucket.take(QUOTA, Duration::from_millis(299), 0, at(1000)), full(300));
        assert_eq!(bucket.take(QUOTA, Duration::ZERO, 0, at(1300)), go(0), "what was refused is not counted");
    }

    #[test]
    fn what_is_given_back_is_there_again() {
        let mut bucket = Bucket::default();
        for _ in 0..5 {
            bucket.take(QUOTA, Duration::from_secs(1), 0, at(1000));
        }
        bucket.give_back(QUOTA);
        assert_eq!(bucket.take(QUOTA, Duration::from_secs(1), 0, at(1000)), go(100));
        let mut full = Bucket::default();
        full.give_back(QUOTA);
        let taken: Vec<_> = (0..5).map(|_| full.take(QUOTA, Duration::ZERO, 0, at(1000))).collect();
        assert_eq!(taken, [go(0), go(0), go(0), go(0), self::full(100)], "no more than it holds");
    }

    #[test]
    fn what_must_be_left_is_left() {
        let mut bucket = Bucket::default();
        let taken: Vec<_> = (0..4).map(|_| bucket.take(QUOTA, Duration::ZERO, 1, at(1000))).collect();
        assert_eq!(taken, [go(0), go(0), go(0), full(100)]);
        assert_eq!(bucket.take(QUOTA, Duration::ZERO, 0, at(1000)), go(0));
    }

    #[test]
    fn it_begins_with_what_it_is_given() {
        for (tokens, first) in [(0.0, full(100)), (-3.0, full(400)), (0.5, full(50)), (1.0, go(0)), (9.0, go(0))] {
            let mut bucket = Bucket::default();
            bucket.leave(tokens, QUOTA, at(1000));
            assert!((bucket.tokens(QUOTA, at(1000)) - tokens.min(4.0)).abs() < 1e-9, "{tokens}");
            assert_eq!(bucket.take(QUOTA, Duration::ZERO, 0, at(1000)), first, "{tokens}");
        }
    }

    #[test]
    fn what_it_has_spent_it_does_not_get_anew() {
        let mut bucket = Bucket::default();
        for _ in 0..3 {
            bucket.take(QUOTA, Duration::ZERO, 0, at(1000));
        }
        bucket.leave(4.0, QUOTA, at(1000));
        let mut narrower = Bucket { ..bucket };
        narrower.leave(4.0, Quota { period: QUOTA.period * 10, ..QUOTA }, at(1000));
        assert_eq!(narrower.take(Quota { period: QUOTA.period * 10, ..QUOTA }, Duration::ZERO, 0, at(1000)), go(0));
        assert_eq!(
            narrower.take(Quota { period: QUOTA.period * 10, ..QUOTA }, Duration::ZERO, 0, at(1000)),
            full(1000)
        );
        assert_eq!(bucket.take(QUOTA, Duration::ZERO, 0, at(1000)), go(0));
        assert_eq!(bucket.take(QUOTA, Duration::ZERO, 0, at(1000)), full(100));
    }
}
