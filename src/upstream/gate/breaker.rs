//! The breaker: while kie.ai is unwell, callers are told so at once instead of waiting. Pure.

use std::time::Duration;

use crate::clock::Instant;

/// Failures in a row that open it. More than one caller's attempts in all three forms of asking, so that one odd
/// file does not shut out the others.
const THRESHOLD: u32 = 10;

/// How long it stays open: doubled after each failed probe, jittered by a fifth either way.
const FIRST_DELAY: Duration = Duration::from_secs(1);
/// With `attempt_timeout` on top, recovery is noticed within half a minute.
const LONGEST_DELAY: Duration = Duration::from_secs(12);

#[derive(Debug)]
pub(super) struct Breaker {
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed {
        failures: u32,
    },
    Open {
        until: Instant,
        opened: u32,
        /// From here a refresh may probe.
        refresh_at: Instant,
    },
    /// The probe is on its way.
    HalfOpen {
        opened: u32,
    },
}

/// Whether a request may go, as far as the breaker is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    Go,
    /// As the one that closes it, or keeps it open.
    Probe,
    /// Not before this.
    Shut(Instant),
}

impl Breaker {
    pub(super) fn new() -> Breaker {
        Breaker { state: State::Closed { failures: 0 } }
    }

    /// A refresh of a link that kie.ai has made before may probe a little earlier than callers, whose files may be what
    /// ails it: whoever asks for odd files all the time must not be the only one to try.
    pub(super) fn admission(&self, is_refresh: bool, now: Instant) -> Admission {
        match self.state {
            State::Closed { .. } => Admission::Go,
            State::Open { refresh_at, .. } if is_refresh && now >= refresh_at => Admission::Probe,
            State::Open { refresh_at, .. } if is_refresh => Admission::Shut(refresh_at),
            State::Open { until, .. } if now < until => Admission::Shut(until),
            State::Open { .. } => Admission::Probe,
            State::HalfOpen { .. } => Admission::Shut(now),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed { .. })
    }

    pub(super) fn state(&self) -> &'static str {
        match self.state {
            State::Closed { .. } => "closed",
            State::Open { .. } => "open",
            State::HalfOpen { .. } => "half-open",
        }
    }

    /// The probe sets out.
    pub(super) fn probing(&mut self) {
        if let State::Open { opened, .. } = self.state {
            self.state = State::HalfOpen { opened };
        }
    }

    /// kie.ai answered like somebody who is well. True when that closed it.
    pub(super) fn well(&mut self) -> bool {
        let was_closed = matches!(self.state, State::Closed { .. });
        self.state = State::Closed { failures: 0 };
        !was_closed
    }

    /// kie.ai failed, or was not to be reached. `jitter` in `0.0..1.0`. True when that opened it.
    pub(super) fn unwell(&mut self, was_probe: bool, jitter: f64, now: Instant) -> bool {
        match self.state {
            State::Closed { failures } if failures + 1 < THRESHOLD => {
                self.state = State::Closed { failures: failures + 1 };
                false
            }
            State::Closed { .. } => {
                self.open(0, jitter, now);
                true
            }
            State::HalfOpen { opened } if was_probe => {
                self.open(opened, jitter, now);
                false
            }
            // Stragglers from before it opened.
            State::Open { .. } | State::HalfOpen { .. } => false,
        }
    }

    /// The probe came to no end: another may try.
    pub(super) fn probe_lost(&mut self, now: Instant) {
        if let State::HalfOpen { opened } = self.state {
            self.state = State::Open { until: now, opened, refresh_at: now };
        }
    }

    fn open(&mut self, opened: u32, jitter: f64, now: Instant) {
        let delay = FIRST_DELAY.saturating_mul(1 << opened.min(8)).min(LONGEST_DELAY).mul_f64(0.8 + 0.4 * jitter);
        self.state = State::Open { until: now + delay, opened: opened + 1, refresh_at: now + delay.mul_f64(0.75) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(millis))
    }

    fn opened() -> Breaker {
        let mut breaker = Breaker::new();
        let flips: Vec<bool> = (0..THRESHOLD).map(|_| breaker.unwell(false, 0.5, at(0))).collect();
        assert_eq!(flips.iter().position(|flip| *flip), Some(THRESHOLD as usize - 1));
        breaker
    }

    #[test]
    fn it_opens_at_the_threshold_and_a_success_before_starts_over() {
        let mut breaker = Breaker::new();
        for _ in 1..THRESHOLD {
            assert!(!breaker.unwell(false, 0.5, at(0)));
        }
        assert!(!breaker.well());
        for _ in 1..THRESHOLD {
            assert!(!breaker.unwell(false, 0.5, at(0)));
        }
        assert_eq!(breaker.admission(false, at(0)), Admission::Go);
        assert!(breaker.unwell(false, 0.5, at(0)));
        assert_eq!(breaker.admission(false, at(0)), Admission::Shut(at(1000)));
    }

    #[test]
    fn one_probe_goes_when_the_delay_is_over() {
        let mut breaker = opened();
        assert_eq!(breaker.admission(false, at(999)), Admission::Shut(at(1000)));
        assert_eq!(breaker.admission(false, at(1000)), Admission::Probe);
        breaker.probing();
        assert_eq!(breaker.admission(false, at(1000)), Admission::Shut(at(1000)));
        assert!(breaker.well());
        assert_eq!(breaker.admission(false, at(1000)), Admission::Go);
    }

    #[test]
    fn delays_double_up_to_the_longest_with_jitter_around_them() {
        let mut breaker = opened();
        let mut now = at(1000);
        for expected in [2000, 4000, 8000, 12_000, 12_000] {
            breaker.probing();
            assert!(!breaker.unwell(true, 0.5, now));
            assert_eq!(breaker.admission(false, now), Admission::Shut(now + Duration::from_millis(expected)));
            now = now + Duration::from_millis(expected);
        }
        for (jitter, expected) in [(0.0, 9600), (1.0, 14_400)] {
            breaker.probing();
            breaker.unwell(true, jitter, now);
            assert_eq!(breaker.admission(false, now), Admission::Shut(now + Duration::from_millis(expected)));
            now = now + Duration::from_millis(expected);
        }
    }

    #[test]
    fn a_refresh_may_probe_before_callers_do() {
        let mut breaker = opened();
        assert_eq!(breaker.admission(true, at(749)), Admission::Shut(at(750)));
        assert_eq!(breaker.admission(true, at(750)), Admission::Probe);
        assert_eq!(breaker.admission(false, at(750)), Admission::Shut(at(1000)));
        breaker.probing();
        assert_eq!(breaker.admission(true, at(750)), Admission::Shut(at(750)));
    }

    #[test]
    fn stragglers_do_not_prolong_it_and_a_lost_probe_lets_another_try() {
        let mut breaker = opened();
        assert!(!breaker.unwell(false, 0.5, at(500)));
        assert_eq!(breaker.admission(false, at(500)), Admission::Shut(at(1000)));
        breaker.probing();
        assert!(!breaker.unwell(false, 0.5, at(1100)));
        breaker.probe_lost(at(1200));
        assert_eq!(breaker.admission(false, at(1200)), Admission::Probe);
    }
}
