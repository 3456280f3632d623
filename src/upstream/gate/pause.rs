//! The pause after a 429: nobody asks, then one does, then everybody. Pure.

use std::time::Duration;

use crate::clock::Instant;

/// Pauses after the first, second, … 429 in a row, as kie.ai's clients back off. It never sent a `Retry-After`.
const LADDER: [Duration; 4] =
    [Duration::from_secs(2), Duration::from_secs(5), Duration::from_secs(12), Duration::from_secs(30)];

/// A `Retry-After: 0` would be no pause at all.
const SHORTEST: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Pause {
    state: State,
    /// 429s in a row, each after a pause.
    step: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    None,
    /// Nobody asks before `until`; then one probe does.
    Until { since: Instant, until: Instant },
    /// The probe is on its way, since `until`.
    Probing { since: Instant, until: Instant },
}

/// Whether a request may go, as far as the pause is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    Go,
    /// Go as the probe, which ends the pause or prolongs it.
    Probe,
    Wait(Instant),
    /// Until the probe is back.
    WaitForProbe,
}

impl Pause {
    pub(super) fn admission(&self, now: Instant) -> Admission {
        match self.state {
            State::None => Admission::Go,
            State::Until { until, .. } if now < until => Admission::Wait(until),
            State::Until { .. } => Admission::Probe,
            State::Probing { .. } => Admission::WaitForProbe,
        }
    }

    /// The probe sets out.
    pub(super) fn probing(&mut self) {
        if let State::Until { since, until } = self.state {
            self.state = State::Probing { since, until };
        }
    }

    /// kie.ai said 429 to a request sent at `sent_at`.
    pub(super) fn limited(&mut self, sent_at: Instant, retry_after: Option<Duration>, now: Instant) {
        if let State::Until { since, until } | State::Probing { since, until } = self.state
            && sent_at <= since
        {
            // Sent before the pause began, or in that very moment: no reason for a longer step, but the pause counts
            // from here.
            let pause = retry_after.unwrap_or(LADDER[0]).max(SHORTEST);
            self.state = State::Until { since: now, until: until.max(now + pause) };
            return;
        }
        let ladder = LADDER[self.step.min(LADDER.len() - 1)];
        let pause = match retry_after {
            Some(asked) if self.step == 0 => asked.max(SHORTEST),
            // The pause was honoured, and the answer was 429 again.
            Some(asked) => asked.max(LADDER[(self.step - 1).min(LADDER.len() - 1)]),
            None => ladder,
        };
        self.step += 1;
        self.state = State::Until { since: now, until: now + pause };
    }

    /// kie.ai said 429 to somebody else, which is no 429 in a row here.
    pub(super) fn told(&mut self, pause: Duration, now: Instant) {
        self.state = State::Until { since: now, until: now + pause };
    }

    /// kie.ai gave any other answer to a request sent at `sent_at`.
    pub(super) fn answered(&mut self, sent_at: Instant) {
        match self.state {
            State::None => self.step = 0,
            // Sent before the pause began: it tells nothing about now.
            State::Until { since, .. } | State::Probing { since, .. } if sent_at <= since => {}
            State::Until { .. } | State::Probing { .. } => *self = Pause::default(),
        }
    }

    /// The probe came to no end: another may try.
    pub(super) fn probe_lost(&mut self, now: Instant) {
        if let State::Probing { since, .. } = self.state {
            self.state = State::Until { since, until: now };
        }
    }

    /// When the pause ends at the earliest; `None` without one.
    pub(super) fn until(&self, now: Instant) -> Option<Instant> {
        match self.state {
            State::None => None,
            State::Until { until, .. } => Some(until.max(now)),
            State::Probing { .. } => Some(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_origin(Duration::from_secs(seconds))
    }

    fn seconds(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[test]
    fn the_pauses_grow_until_a_probe_is_answered() {
        let mut pause = Pause::default();
        let mut now = at(100);
        for expected in [2, 5, 12, 30, 30] {
            pause.limited(now, None, now);
            let until = now + Duration::from_secs(expected);
            assert_eq!(pause.admission(until - Duration::from_nanos(1)), Admission::Wait(until));
            assert_eq!(pause.admission(until), Admission::Probe);
            pause.probing();
            assert_eq!(pause.admission(until), Admission::WaitForProbe);
            now = until;
        }
        pause.answered(now);
        assert_eq!(pause.admission(now), Admission::Go);
        pause.limited(now, None, now);
        assert_eq!(pause.admission(now), Admission::Wait(now + LADDER[0]));
    }

    #[test]
    fn retry_after_is_honoured_and_escalated_when_it_did_not_help() {
        let mut pause = Pause::default();
        let mut now = at(100);
        for (retry_after, expected) in [(0, 1), (1, 2), (1, 5), (60, 60)] {
            pause.limited(now, seconds(retry_after), now);
            let until = now + Duration::from_secs(expected);
            assert_eq!(pause.until(now), Some(until));
            pause.probing();
            now = until;
        }
    }

    #[test]
    fn stragglers_neither_escalate_nor_end_a_pause() {
        let mut pause = Pause::default();
        pause.limited(at(100), None, at(101));
        pause.limited(at(100), None, at(102));
        assert_eq!(pause.until(at(102)), Some(at(104)), "the second of three in flight: two seconds from there");
        pause.limited(at(100), seconds(9), at(102));
        assert_eq!(pause.until(at(102)), Some(at(111)), "the third asks for longer");
        pause.answered(at(100));
        assert_eq!(pause.admission(at(102)), Admission::Wait(at(111)));
        pause.limited(at(102), None, at(103));
        assert_eq!(pause.until(at(103)), Some(at(111)), "sent in the moment of the 429, it does not shorten the pause");
        pause.answered(at(103));
        assert_eq!(pause.admission(at(103)), Admission::Wait(at(111)), "nor end it");
        pause.limited(at(111), None, at(111));
        assert_eq!(pause.until(at(111)), Some(at(116)), "the second step");
    }

    #[test]
    fn a_straggler_that_meets_the_probe_begins_the_pause_anew() {
        let mut pause = Pause::default();
        pause.limited(at(100), None, at(101));
        pause.probing();
        pause.limited(at(100), None, at(104));
        pause.answered(at(103));
        assert_eq!(pause.admission(at(105)), Admission::Wait(at(106)), "the probe had left before");
    }

    #[test]
    fn a_lost_probe_lets_another_try() {
        let mut pause = Pause::default();
        pause.limited(at(100), None, at(100));
        pause.probing();
        pause.probe_lost(at(103));
        assert_eq!(pause.admission(at(103)), Admission::Probe);
    }
}
