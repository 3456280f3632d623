//! The quota: how many requests a second kie.ai may see, retries included. Pure.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::StateInformationMiddleware,
    state::{InMemoryState, NotKeyed},
};

use crate::clock::Instant;

/// The share of rate and burst that is kept back. What kie.ai *sees* must stay within the budget, and requests that
/// left evenly spaced may arrive closer together.
const GUARD: f64 = 0.03;
const SMALL_BURST: u32 = 10;

/// A token bucket (GCRA).
pub(super) struct Budget {
    limiter: RateLimiter<NotKeyed, InMemoryState, Given, StateInformationMiddleware>,
    time: Given,
    period: Duration,
    burst: f64,
    /// Tokens at a moment; from there they grow.
    known: (f64, Instant),
}

/// The clock that the limiter insists on asking: it shows the `now` that it was given.
#[derive(Clone, Debug)]
struct Given(Arc<AtomicU64>);

impl Clock for Given {
    type Instant = Duration;

    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

impl Given {
    fn set(&self, now: Instant) {
        // 580 years of uptime fit.
        self.0.store(u64::try_from(now.since_origin().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Budget {
    pub(super) fn new(rate: NonZeroU32, burst: NonZeroU32, now: Instant) -> Budget {
        let period = Duration::from_secs_f64((1.0 + GUARD) / f64::from(rate.get()));
        let time = Given(Arc::default());
        time.set(now);
        // Of a small burst nothing can be kept back.
        let kept_back = if burst.get() < SMALL_BURST { 0 } else { (f64::from(burst.get()) * GUARD).ceil() as u32 };
        let burst = NonZeroU32::new(burst.get() - kept_back).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(period).expect("a positive rate has a period").allow_burst(burst);
        let limiter = RateLimiter::direct_with_clock(quota, time.clone()).with_middleware();
        Budget { limiter, time, period, burst: f64::from(burst.get()), known: (f64::from(burst.get()), now) }
    }

    /// Takes a token, or tells when the next one is there.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        self.time.set(now);
        match self.limiter.check() {
            Ok(left) => {
                self.known = (f64::from(left.remaining_burst_capacity()), now);
                Ok(())
            }
            Err(not_until) => {
                let wait = not_until.wait_time_from(now.since_origin());
                self.known = (1.0 - wait.as_secs_f64() / self.period.as_secs_f64(), now);
                Err(now + wait)
            }
        }
    }

    /// The time between two tokens.
    pub(super) fn period(&self) -> Duration {
        self.period
    }

    /// Tokens there are, at most `burst`; below one, the next is still filling.
    pub(super) fn tokens(&self, now: Instant) -> f64 {
        let (tokens, at) = self.known;
        (tokens + now.since(at).as_secs_f64() / self.period.as_secs_f64()).min(self.burst)
    }

    /// Tokens after a quiet time, and how many are added a second: a little less than what was set.
    pub(super) fn bounds(&self) -> (f64, f64) {
        (self.burst, self.period.as_secs_f64().recip())
    }

    /// When a request with `ahead` others in front of it gets a token, if nothing else holds them up.
    pub(super) fn turn(&self, ahead: usize, now: Instant) -> Instant {
        let missing = ahead as f64 + 1.0 - self.tokens(now);
        if missing <= 0.0 { now } else { now + self.period.mul_f64(missing) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(millis))
    }

    fn budget(rate: u32, burst: u32) -> Budget {
        Budget::new(NonZeroU32::new(rate).unwrap(), NonZeroU32::new(burst).unwrap(), at(1000))
    }

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_the_rate() {
        let mut budget = budget(10, 10);
        assert_eq!((0..20).filter(|_| budget.take(at(1000)).is_ok()).count(), 9, "one is kept back");
        let next = budget.take(at(1000)).unwrap_err();
        assert_eq!(next, at(1103));
        assert!(budget.take(at(1102)).is_err());
        assert!(budget.take(at(1103)).is_ok());
        assert!(budget.take(at(1205)).is_err());
    }

    #[test]
    fn a_long_quiet_time_fills_it_up_to_the_burst() {
        let mut budget = budget(10, 5);
        let later = at(3_600_000);
        assert_eq!((0..9).filter(|_| budget.take(later).is_ok()).count(), 5);
    }

    #[test]
    fn no_window_of_a_second_sees_more_than_rate_and_burst() {
        let mut budget = budget(10, 10);
        let taken: Vec<u64> = (1000..11_000).filter(|millis| budget.take(at(*millis)).is_ok()).collect();
        let in_window = |from: u64| taken.iter().filter(|millis| (from..from + 1000).contains(millis)).count();
        assert_eq!(in_window(1000), 18);
        assert!((2000..10_000).all(|from| in_window(from) <= 10));
    }

    #[test]
    fn turns_are_foreseen_as_they_come() {
        let mut budget = budget(10, 2);
        assert_eq!(budget.turn(1, at(1000)), at(1000));
        assert_eq!(budget.turn(2, at(1000)), at(1103));
        budget.take(at(1000)).unwrap();
        budget.take(at(1000)).unwrap();
        for ahead in 0..5 {
            assert_eq!(budget.turn(ahead, at(1050)), at(1000 + 103 * (ahead as u64 + 1)));
        }
    }
}
