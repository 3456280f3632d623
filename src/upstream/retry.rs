//! When to ask kie.ai again. Pure, but for the retry budget, whose crate reads tokio's clock.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tower::retry::budget::{Budget as _, TpsBudget};

use super::error::Error;
use crate::clock::Instant;

/// The first pause between two attempts; it doubles, jittered, up to `LONGEST_PAUSE`.
/// A gateway's hiccup is over in a few hundred milliseconds, and a caller waits meanwhile.
const FIRST_PAUSE: Duration = Duration::from_millis(150);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The most keys that one mint meets when somebody puts one after the other into the file: each key is refused but
/// once, and costs one call.
const MOST_KEYS: u32 = 6;

/// Retries of all mints together: at most a fifth on top of the mints of the last ten seconds, so that retries never
/// multiply an outage; and one a second besides, so that a quiet kielink may retry, too.
pub(super) struct RetryBudget(TpsBudget);

impl RetryBudget {
    pub(super) fn new() -> RetryBudget {
        RetryBudget(TpsBudget::new(Duration::from_secs(10), 1, 0.2))
    }

    /// A mint begins.
    pub(super) fn deposit(&self) {
        self.0.deposit();
    }
}

/// The attempts of one mint.
pub(super) struct Retries {
    left: u32,
    pauses: ExponentialBackoff,
    revived: bool,
    /// Keys that have been refused and replaced meanwhile.
    replaced: u32,
    /// Whether it has waited out a pause already.
    paused: bool,
}

impl Retries {
    /// `attempts` in all, the first included.
    pub(super) fn new(attempts: u32, seed: u64) -> Retries {
        let pauses = ExponentialBuilder::new()
            .with_min_delay(FIRST_PAUSE)
            .with_max_delay(LONGEST_PAUSE)
            .without_max_times()
            .with_jitter()
            .with_jitter_seed(seed)
            .build();
        Retries { left: attempts.saturating_sub(1), pauses, revived: false, replaced: 0, paused: false }
    }

    /// How long to wait before the next attempt, or `None` when `error` is final: not transient, the attempts used
    /// up, or no time left before `deadline`.
    pub(super) fn after(
        &mut self,
        error: &Error,
        budget: &RetryBudget,
        now: Instant,
        deadline: Instant,
    ) -> Option<Duration> {
        if !error.is_transient() {
            return None;
        }
        // With another key at once, and again where that one has been replaced meanwhile, too.
        if matches!(error, Error::KeyReplaced(_)) {
            self.replaced += 1;
            return (self.replaced <= MOST_KEYS && now < deadline).then_some(Duration::ZERO);
        }
        // A kept connection that was closed or fell silent in the meantime says nothing about kie.ai. The first such
        // failure is repeated at once, for free, over a fresh connection.
        if error.is_of_a_kept_connection() && !self.revived {
            self.revived = true;
            return (now < deadline).then_some(Duration::ZERO);
        }
        self.left = self.left.checked_sub(1)?;
        if matches!(error, Error::RateLimited { .. }) {
            // The gate's pause is longer than any of ours, and lets one probe through: nothing is multiplied. A caller
            // that is limited again after the pause is told so; the next pause is longer than callers like to wait.
            return (!std::mem::replace(&mut self.paused, true) && now < deadline).then_some(Duration::ZERO);
        }
        // The answer says when to come back; a caller who would wait for long is told instead.
        let asked = error.retry_after().unwrap_or_default();
        if asked > LONGEST_PAUSE {
            return None;
        }
        let pause = self.pauses.next()?.max(asked);
        (now + pause < deadline && budget.0.withdraw()).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::error::Answer;

    fn failed() -> Error {
        Error::Failed(Answer { http_status: 502, code: None, message: None })
    }

    /// A budget that nothing has been taken from.
    fn plenty() -> RetryBudget {
        RetryBudget::new()
    }

    #[test]
    fn retries_stay_within_a_fifth_of_the_mints_and_a_small_reserve() {
        let budget = RetryBudget::new();
        let now = Instant::from_origin(Duration::ZERO);
        let granted = |mints: usize| {
            (0..mints).for_each(|_| budget.deposit());
            let retry =
                |_: &usize| Retries::new(2, 7).after(&failed(), &budget, now, now + Duration::from_secs(20)).is_some();
            (0..mints).filter(retry).count()
        };
        let first = granted(100);
        assert!((20..=32).contains(&first), "{first}");
        assert!(granted(100) <= 20);
    }

    #[test]
    fn attempts_are_counted_with_the_first() {
        let now = Instant::from_origin(Duration::ZERO);
        let later = now + Duration::from_secs(20);
        for (attempts, retries) in [(0, 0), (1, 0), (2, 1), (3, 2)] {
            let mut plan = Retries::new(attempts, 7);
            let granted = (0..9).filter(|_| plan.after(&failed(), &plenty(), now, later).is_some()).count();
            assert_eq!(granted, retries, "{attempts} attempts");
        }
    }

    #[test]
    fn pauses_grow_and_are_bounded() {
        let now = Instant::from_origin(Duration::ZERO);
        let mut plan = Retries::new(50, 7);
        let pauses: Vec<_> =
            (0..49).map_while(|_| plan.after(&failed(), &plenty(), now, now + Duration::from_secs(3600))).collect();
        assert_eq!(pauses.len(), 49);
        assert!(pauses[0] >= FIRST_PAUSE && pauses[0] <= 2 * FIRST_PAUSE, "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= 2 * LONGEST_PAUSE), "{pauses:?}");
    }

    #[test]
    fn no_retry_begins_at_or_after_the_deadline() {
        let now = Instant::from_origin(Duration::ZERO);
        assert_eq!(Retries::new(3, 7).after(&failed(), &plenty(), now, now + FIRST_PAUSE), None);
        assert_eq!(Retries::new(3, 7).after(&failed(), &plenty(), now, now), None);
    }

    #[test]
    fn a_rate_limit_is_waited_out_once() {
        let now = Instant::from_origin(Duration::ZERO);
        let answer = Answer { http_status: 200, code: Some(429), message: None };
        let limited = Error::RateLimited { answer, retry_after: None };
        let mut plan = Retries::new(5, 7);
        assert_eq!(plan.after(&limited, &plenty(), now, now + FIRST_PAUSE), Some(Duration::ZERO));
        assert_eq!(plan.after(&limited, &plenty(), now, now + FIRST_PAUSE), None);
    }

    #[test]
    fn final_errors_are_not_retried() {
        let now = Instant::from_origin(Duration::ZERO);
        let refused = Error::SourceRefused(Answer { http_status: 200, code: Some(422), message: None });
        assert_eq!(Retries::new(3, 7).after(&refused, &plenty(), now, now + Duration::from_secs(20)), None);
    }
}
