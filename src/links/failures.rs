//! Files for which there was no link a moment ago: refused by kie.ai, or failed. Their callers are told at once.

use std::{sync::Arc, time::Duration};

use crate::{clock::Instant, source::Source, upstream};

/// A file that failed is asked for again after this, doubled each time it fails again.
const FIRST_DELAY: Duration = Duration::from_secs(1);
/// The same as the breaker's: once kie.ai is well again, a failed file is found well within this time.
const LONGEST_DELAY: Duration = Duration::from_secs(12);

/// A file that has not failed for so long after its back-off starts over.
const FORGET: Duration = Duration::from_secs(60);

/// How long a failed file counts as seen to fail. Longer than `FORGET`: in an outage other files are the probes, so a
/// bad file may go unasked for minutes, and must not pass for a good file afterwards.
const SEEN: Duration = Duration::from_secs(10 * 60);

/// What went wrong with files, bounded by bytes.
pub(super) struct Failures {
    memory: moka::sync::Cache<Source, Failure>,
    /// How long a refusal is remembered.
    negative_ttl: Duration,
}

/// Why there was no link for one file.
#[derive(Debug, Clone)]
pub struct Failure {
    pub error: Arc<upstream::Error>,
    pub since: Instant,
    /// kie.ai is not asked before this.
    pub until: Instant,
    /// Failures in a row; a refusal is no failure.
    failures: u32,
}

impl Failures {
    pub(super) fn new(negative_ttl: Duration, max_bytes: u64) -> Failures {
        let memory = moka::sync::Cache::builder()
            .max_capacity(max_bytes)
            .weigher(|source: &Source, _| {
                u32::try_from(source.key().len() + super::entry::OVERHEAD).unwrap_or(u32::MAX)
            })
            // This bounds memory only: whether a failure still holds is decided below, on our own clock.
            .time_to_live(negative_ttl.max(upstream::LONGEST_RETRY_AFTER + SEEN))
            .build();
        Failures { memory, negative_ttl }
    }

    /// Notes that a mint of `source` has failed with `error`. An error that does not concern the file is not
    /// remembered.
    pub(super) fn remember(&self, source: &Source, error: &Arc<upstream::Error>, now: Instant) {
        let (failures, delay) = if error.is_refusal() {
            let left = match &**error {
                // It has been remembered by another replica for a while.
                upstream::Error::Relayed { left, .. } => *left,
                _ => self.negative_ttl,
            };
            (0, left.min(self.negative_ttl))
        } else if error.is_failure_of_the_file() {
            let failures = self.recent(source, FORGET, now).map_or(0, |seen| seen.failures).saturating_add(1);
            (failures, backoff(failures).max(error.retry_after().unwrap_or_default()))
        } else {
            return;
        };
        if !delay.is_zero() {
            let failure = Failure { error: Arc::clone(error), since: now, until: now + delay, failures };
            self.memory.insert(source.clone(), failure);
        }
    }

    /// The failure of `source`, if it still holds.
    pub(super) fn recall(&self, source: &Source, now: Instant) -> Option<Failure> {
        self.memory.get(source).filter(|failure| now < failure.until)
    }

    /// Whether `source` failed when it was last asked for; a refusal is an answer, not a failure.
    pub(super) fn has_failed(&self, source: &Source, now: Instant) -> bool {
        self.recent(source, SEEN, now).is_some_and(|failure| failure.failures > 0)
    }

    /// All files of which something is remembered.
    pub(super) fn sources(&self) -> impl Iterator<Item = Source> + '_ {
        self.memory.iter().map(|(source, _)| Source::clone(&source))
    }

    /// Forgets what went wrong with `source`: there is a link after all.
    pub(super) fn forget(&self, source: &Source) {
        self.memory.invalidate(source);
    }

    fn recent(&self, source: &Source, how_long: Duration, now: Instant) -> Option<Failure> {
        self.memory.get(source).filter(|failure| now < failure.until + how_long)
    }
}

/// The pause after the `failures`-th failure in a row.
fn backoff(failures: u32) -> Duration {
    FIRST_DELAY.saturating_mul(1 << failures.saturating_sub(1).min(8)).min(LONGEST_DELAY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{Answer, Error};

    fn at(seconds: u64) -> Instant {
        Instant::from_origin(Duration::from_secs(seconds))
    }

    fn answer(http_status: u16, code: Option<i64>) -> Answer {
        Answer { http_status, code, message: None }
    }

    struct Bench {
        failures: Failures,
        source: Source,
    }

    fn bench() -> Bench {
        let failures = Failures::new(Duration::from_secs(30), 1 << 20);
        Bench { failures, source: Source::parse("https://h.kie.ai/a").unwrap() }
    }

    impl Bench {
        /// For how many seconds the file is not asked for, when this is what kie.ai says at `now`.
        fn seconds(&self, error: Error, now: u64) -> u64 {
            self.failures.remember(&self.source, &Arc::new(error), at(now));
            let recalled = self.failures.recall(&self.source, at(now));
            let Some(failure) = recalled else { return 0 };
            assert!(self.failures.recall(&self.source, failure.until).is_none());
            at(now).until(failure.until).as_secs()
        }
    }

    #[test]
    fn a_refusal_holds_for_its_ttl_and_not_longer() {
        let bench = bench();
        assert_eq!(bench.seconds(Error::SourceRefused(answer(200, Some(422))), 100), 30);
        assert!(!bench.failures.has_failed(&bench.source, at(100)));
        bench.failures.forget(&bench.source);
        assert!(bench.failures.recall(&bench.source, at(100)).is_none());
    }

    #[test]
    fn a_file_that_fails_again_and_again_is_asked_for_less_and_less() {
        let bench = bench();
        let mut now = 100;
        for delay in [1, 2, 4, 8, 12, 12] {
            assert_eq!(bench.seconds(Error::Failed(answer(500, None)), now), delay);
            now += delay;
            assert!(bench.failures.has_failed(&bench.source, at(now)));
        }
        now += 60;
        assert!(bench.failures.has_failed(&bench.source, at(now)));
        assert_eq!(bench.seconds(Error::Timeout, now), 1, "it starts over");
        assert!(!bench.failures.has_failed(&bench.source, at(now + 601)));
    }

    #[test]
    fn what_kie_ai_asks_for_is_waited_for() {
        let unavailable = Error::Unavailable { answer: answer(503, None), retry_after: Duration::from_secs(120) };
        assert_eq!(bench().seconds(unavailable, 100), 120);
    }

    #[test]
    fn what_is_not_about_the_file_is_not_held_against_it() {
        let pause = Duration::from_secs(9);
        for error in [
            Error::NoBudget { retry_after: pause },
            Error::Unwell { retry_after: pause },
            Error::KeyRefused(answer(200, Some(401))),
            Error::CreditsExhausted(answer(200, Some(402))),
            Error::Maintenance { answer: answer(200, Some(455)), retry_after: None },
            Error::Failed(answer(200, Some(505))),
            Error::RateLimited { answer: answer(200, Some(429)), retry_after: Some(pause) },
            Error::ShuttingDown,
        ] {
            assert_eq!(bench().seconds(error.clone(), 100), 0, "{error:?}");
        }
        for error in [Error::KeyRefused(answer(403, None)), Error::CreditsExhausted(answer(200, Some(500)))] {
            assert_eq!(bench().seconds(error.clone(), 100), 1, "{error:?}");
        }
    }
}
