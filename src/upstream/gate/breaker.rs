//! The breaker: while kie.ai is unwell, callers are told so at once instead of waiting. Pure.

use std::time::Duration;

use serde::Serialize;

use super::FileId;
use crate::clock::Instant;

/// So many attempts in a row that got no answer at all open the breaker, and so do as many different files that failed
/// with no good answer between. One file that kie.ai cannot make never opens it, however often it is asked for.
const THRESHOLD: usize = 5;

/// How long it stays open: doubled after each failed probe, jittered by a fifth either way.
const FIRST_DELAY: Duration = Duration::from_secs(1);
/// With `attempt_timeout` on top, recovery is noticed within half a minute.
const LONGEST_DELAY: Duration = Duration::from_secs(12);

/// A file that has failed may itself be what ails kie.ai. It is a probe only after this many delays, so that a file
/// that was never seen to fail comes first where one is asked for.
const SEEN_TO_FAIL: f64 = 1.5;

#[derive(Debug)]
pub(super) struct Breaker {
    state: State,
    /// Attempts in a row without an answer.
    silent: usize,
    /// Different files that have failed since the last good answer; at most `THRESHOLD`.
    failed: Vec<FileId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open {
        until: Instant,
        opened: u32,
        /// From then on a file that was seen to fail may be the probe, too.
        any_file_at: Instant,
    },
    /// The probe is on its way.
    HalfOpen {
        opened: u32,
        /// Whether the probe's file had failed before. Such a probe tells little, and keeps no other file from being
        /// the probe.
        seen_to_fail: bool,
    },
}

/// What others are told of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BreakerState {
    /// Requests pass.
    Closed,
    /// Nothing is asked.
    Open,
    /// One request finds out.
    HalfOpen,
}

impl BreakerState {
    pub const ALL: [BreakerState; 3] = [BreakerState::Closed, BreakerState::Open, BreakerState::HalfOpen];

    /// By its usual name.
    pub fn as_str(self) -> &'static str {
        match self {
            BreakerState::Closed => "closed",
            BreakerState::Open => "open",
            BreakerState::HalfOpen => "half-open",
        }
    }
}

/// Whether a request may go, as far as the breaker is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    Go,
    /// Go as the probe, which closes the breaker or keeps it open.
    Probe,
    /// Not before this.
    Shut(Instant),
}

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// No answer at all.
    Silent,
    /// An answer that failed.
    Answered,
}

impl Breaker {
    pub(super) fn new() -> Breaker {
        Breaker { state: State::Closed, silent: 0, failed: Vec::new() }
    }

    pub(super) fn admission(&self, seen_to_fail: bool, now: Instant) -> Admission {
        match self.state {
            State::Closed => Admission::Go,
            // Where one file alone has opened the breaker, perhaps only that file ails: all other files go on.
            State::Open { .. } | State::HalfOpen { .. } if !seen_to_fail && self.failed.len() == 1 => Admission::Go,
            State::Open { until, any_file_at, .. } => {
                let from = if seen_to_fail { any_file_at } else { until };
                if now < from { Admission::Shut(from) } else { Admission::Probe }
            }
            State::HalfOpen { seen_to_fail: true, .. } if !seen_to_fail => Admission::Probe,
            State::HalfOpen { .. } => Admission::Shut(now),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.state != State::Closed
    }

    pub(super) fn state(&self) -> BreakerState {
        match self.state {
            State::Closed => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// The probe sets out.
    pub(super) fn probing(&mut self, seen_to_fail: bool) {
        if let State::Open { opened, .. } | State::HalfOpen { opened, .. } = self.state {
            self.state = State::HalfOpen { opened, seen_to_fail };
        }
    }

    /// kie.ai answered like somebody who is well. True when that closed it.
    pub(super) fn well(&mut self) -> bool {
        let was_open = self.is_open();
        *self = Breaker::new();
        was_open
    }

    /// An attempt for `file` failed. `jitter` in `0.0..1.0`. True when that opened it.
    pub(super) fn failed(
        &mut self,
        file: FileId,
        failure: Failure,
        was_probe: bool,
        jitter: f64,
        now: Instant,
    ) -> bool {
        self.silent = if failure == Failure::Silent { self.silent + 1 } else { 0 };
        if !self.failed.contains(&file) && self.failed.len() < THRESHOLD {
            self.failed.push(file);
        }
        match self.state {
            State::Closed => {
                let opens = self.silent >= THRESHOLD || self.failed.len() >= THRESHOLD;
                if opens {
                    self.open(0, jitter, now);
                }
                opens
            }
            State::HalfOpen { opened, .. } if was_probe => {
                self.open(opened, jitter, now);
                false
            }
            // Stragglers from before it opened.
            State::Open { .. } | State::HalfOpen { .. } => false,
        }
    }

    /// The probe came to no end: another may try.
    pub(super) fn probe_lost(&mut self, now: Instant) {
        if let State::HalfOpen { opened, .. } = self.state {
            self.state = State::Open { until: now, opened, any_file_at: now };
        }
    }

    fn open(&mut self, opened: u32, jitter: f64, now: Instant) {
        let delay = FIRST_DELAY.saturating_mul(1 << opened.min(8)).min(LONGEST_DELAY).mul_f64(0.8 + 0.4 * jitter);
        let any_file_at = now + delay.mul_f64(SEEN_TO_FAIL);
        self.state = State::Open { until: now + delay, opened: opened + 1, any_file_at };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(millis))
    }

    /// The attempts, by file and kind, at which it opens; `None` where it stays closed.
    fn opens_at(attempts: &[(FileId, Failure)]) -> Option<usize> {
        let mut breaker = Breaker::new();
        attempts.iter().position(|(file, failure)| breaker.failed(*file, *failure, false, 0.5, at(0)))
    }

    fn opened() -> Breaker {
        let mut breaker = Breaker::new();
        for file in 0..THRESHOLD as u64 {
            breaker.failed(file, Failure::Answered, false, 0.5, at(0));
        }
        assert!(breaker.is_open());
        breaker
    }

    #[test]
    fn different_files_open_it_and_one_file_never_does() {
        let answered = |file| (file, Failure::Answered);
        assert_eq!(opens_at(&[1, 2, 3, 4, 5].map(answered)), Some(4));
        assert_eq!(opens_at(&[1; 100].map(answered)), None);
        assert_eq!(opens_at(&[1, 2, 1, 2, 3, 4, 1, 4, 5].map(answered)), Some(8));
    }

    #[test]
    fn silence_opens_it_whichever_file_it_was() {
        let silent = |file| (file, Failure::Silent);
        assert_eq!(opens_at(&[1; 9].map(silent)), Some(4));
        assert_eq!(opens_at(&[1, 2, 1, 2, 1].map(silent)), Some(4));
        let mut mixed = [1; 9].map(silent);
        mixed[3] = (1, Failure::Answered);
        assert_eq!(opens_at(&mixed), Some(8), "five in a row");
    }

    #[test]
    fn a_good_answer_between_starts_over() {
        let mut breaker = Breaker::new();
        for round in 0..3 {
            for file in 1..THRESHOLD as u64 {
                assert!(!breaker.failed(file + round, Failure::Silent, false, 0.5, at(0)));
            }
            assert!(!breaker.well());
        }
    }

    #[test]
    fn one_probe_goes_when_the_delay_is_over() {
        let mut breaker = opened();
        assert_eq!(breaker.admission(false, at(999)), Admission::Shut(at(1000)));
        assert_eq!(breaker.admission(false, at(1000)), Admission::Probe);
        breaker.probing(false);
        assert_eq!(breaker.admission(false, at(1000)), Admission::Shut(at(1000)));
        assert!(breaker.well());
        assert_eq!(breaker.admission(false, at(1000)), Admission::Go);
    }

    #[test]
    fn what_one_file_alone_brings_about_keeps_no_other_waiting() {
        let mut breaker = Breaker::new();
        for _ in 0..THRESHOLD {
            breaker.failed(1, Failure::Silent, false, 0.5, at(0));
        }
        assert_eq!(breaker.admission(true, at(0)), Admission::Shut(at(1500)));
        assert_eq!(breaker.admission(false, at(0)), Admission::Go);
        breaker.probing(true);
        assert_eq!(breaker.admission(true, at(1500)), Admission::Shut(at(1500)), "one at a time");
        assert_eq!(breaker.admission(false, at(1500)), Admission::Go);
        breaker.failed(2, Failure::Silent, false, 0.5, at(1500));
        assert_eq!(breaker.admission(false, at(1500)), Admission::Probe, "the probe's file had failed before");
        breaker.probing(false);
        assert_eq!(breaker.admission(false, at(1500)), Admission::Shut(at(1500)), "it is no longer one file");
    }

    #[test]
    fn a_file_that_was_never_seen_to_fail_is_the_probe_before_one_that_was() {
        let breaker = opened();
        assert_eq!(breaker.admission(true, at(1000)), Admission::Shut(at(1500)));
        assert_eq!(breaker.admission(false, at(1000)), Admission::Probe);
        assert_eq!(breaker.admission(true, at(1500)), Admission::Probe);
    }

    #[test]
    fn delays_double_up_to_the_longest_with_jitter_around_them() {
        let mut breaker = opened();
        let mut now = at(1000);
        for (jitter, expected) in
            [(0.5, 2000), (0.5, 4000), (0.5, 8000), (0.5, 12_000), (0.5, 12_000), (0.0, 9600), (1.0, 14_400)]
        {
            breaker.probing(false);
            assert!(!breaker.failed(1, Failure::Silent, true, jitter, now));
            assert_eq!(breaker.admission(false, now), Admission::Shut(now + Duration::from_millis(expected)));
            now = now + Duration::from_millis(expected);
        }
    }

    #[test]
    fn stragglers_do_not_prolong_it_and_a_lost_probe_lets_another_try() {
        let mut breaker = opened();
        assert!(!breaker.failed(9, Failure::Silent, false, 0.5, at(500)));
        assert_eq!(breaker.admission(false, at(500)), Admission::Shut(at(1000)));
        breaker.probing(false);
        assert!(!breaker.failed(9, Failure::Silent, false, 0.5, at(1100)));
        breaker.probe_lost(at(1200));
        assert_eq!(breaker.admission(true, at(1200)), Admission::Probe);
    }
}
