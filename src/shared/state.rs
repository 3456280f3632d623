//! Whether the tier is used: a breaker of its own, one for the one connection. Pure: `now` and jitter are arguments.
//!
//! ```text
//! Up      --silent for a moment--> Suspect: nobody asks it, but what it was asked may still be answered
//! Suspect --all answered-->        Up, on the same connection; Down at the third time in ten seconds
//!         --silent for longer-->   Down
//! any     --broken, or it takes no writes--> Down
//! Down    --tried again after a growing delay, and it takes writes--> Up
//! ```

use std::{collections::VecDeque, time::Duration};

use crate::clock::Instant;

/// A connection that is silent for so long is given up.
const GIVEN_UP_AFTER: Duration = Duration::from_millis(500);

/// The first delay between two tries to connect; it doubles.
const FIRST_DELAY: Duration = Duration::from_millis(25);
const LONGEST_DELAY: Duration = Duration::from_millis(500);

/// A tier that was up for less than this flaps.
const STEADY: Duration = Duration::from_secs(10);

/// So often within `STEADY` may it be silent for a moment before it counts as flapping.
const TRIPS: usize = 3;

/// For so long a flapping tier is left alone at first: each time four times as long, since each try costs a cohort of
/// callers their whole budget.
const FIRST_HOLD: Duration = Duration::from_millis(100);
const LONGEST_HOLD: Duration = Duration::from_secs(10);

/// Whether the tier is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    Up,
    Suspect,
    Down,
}

impl State {
    pub const ALL: [State; 3] = [State::Up, State::Suspect, State::Down];

    pub fn as_str(self) -> &'static str {
        match self {
            State::Up => "up",
            State::Suspect => "suspect",
            State::Down => "down",
        }
    }
}

/// How the tier is, and has been of late.
#[derive(Debug)]
pub(super) struct Health {
    phase: Phase,
    /// When it was silent for a moment; the last few times.
    trips: VecDeque<Instant>,
    /// How long it was last left alone because it flaps; zero where it does not.
    hold: Duration,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Up { since: Instant },
    Suspect { since: Instant, up_since: Instant },
    Down { next_try: Instant, delay: Duration },
}

impl Health {
    /// It is down, and the first try is due.
    pub(super) fn new(now: Instant) -> Health {
        let phase = Phase::Down { next_try: now, delay: FIRST_DELAY };
        Health { phase, trips: VecDeque::new(), hold: Duration::ZERO }
    }

    pub(super) fn state(&self) -> State {
        match self.phase {
            Phase::Up { .. } => State::Up,
            Phase::Suspect { .. } => State::Suspect,
            Phase::Down { .. } => State::Down,
        }
    }

    /// When to connect next; only while it is down.
    pub(super) fn next_try(&self) -> Option<Instant> {
        match self.phase {
            Phase::Down { next_try, .. } => Some(next_try),
            Phase::Up { .. } | Phase::Suspect { .. } => None,
        }
    }

    /// When to call `silent` next, where the oldest unanswered call was made at `asked_at` and answers are due after
    /// `patience`.
    pub(super) fn silent_at(&self, asked_at: Instant, patience: Duration) -> Option<Instant> {
        match self.phase {
            Phase::Up { .. } => Some(asked_at + patience),
            Phase::Suspect { since, .. } => Some(since + GIVEN_UP_AFTER),
            Phase::Down { .. } => None,
        }
    }

    /// No answer came in time.
    pub(super) fn silent(&mut self, now: Instant, jitter: f64) {
        match self.phase {
            Phase::Up { since } => {
                self.trips.retain(|trip| now.since(*trip) < STEADY);
                if self.trips.len() == TRIPS {
                    self.trips.pop_front();
                }
                self.trips.push_back(now);
                // What flapped has no more patience until it has been up for a while.
                let is_on_trial = !self.hold.is_zero() && now.since(since) < STEADY;
                if is_on_trial || self.trips.len() == TRIPS {
                    self.go_down(since, now, jitter);
                } else {
                    self.phase = Phase::Suspect { since: now, up_since: since };
                }
            }
            Phase::Suspect { up_since, .. } => self.go_down(up_since, now, jitter),
            Phase::Down { .. } => {}
        }
    }

    /// All that it was asked is answered.
    pub(super) fn answered(&mut self) {
        if let Phase::Suspect { up_since, .. } = self.phase {
            self.phase = Phase::Up { since: up_since };
        }
    }

    /// The connection is broken, or the tier takes no writes.
    pub(super) fn broken(&mut self, now: Instant, jitter: f64) {
        match self.phase {
            Phase::Up { since: up_since } | Phase::Suspect { up_since, .. } => self.go_down(up_since, now, jitter),
            Phase::Down { .. } => {}
        }
    }

    /// A try to connect has succeeded: the tier takes writes.
    pub(super) fn connected(&mut self, now: Instant) {
        self.phase = Phase::Up { since: now };
    }

    /// A try to connect has failed.
    pub(super) fn try_failed(&mut self, now: Instant, jitter: f64) {
        if let Phase::Down { delay, .. } = self.phase {
            self.phase = Phase::Down { next_try: now + jittered(delay, jitter), delay: (delay * 2).min(LONGEST_DELAY) };
        }
    }

    fn go_down(&mut self, up_since: Instant, now: Instant, jitter: f64) {
        // What was up for long has earned a quick try; but not what was silent again and again.
        let is_flapping = now.since(up_since) < STEADY || self.trips.len() >= TRIPS;
        self.hold = if is_flapping { (self.hold * 4).clamp(FIRST_HOLD, LONGEST_HOLD) } else { Duration::ZERO };
        let delay = self.hold.max(FIRST_DELAY);
        self.phase = Phase::Down { next_try: now + jittered(delay, jitter), delay: FIRST_DELAY };
    }
}

/// `jitter` in `0.0..1.0` shortens by a quarter at most, so that a fleet does not come back as one.
fn jittered(delay: Duration, jitter: f64) -> Duration {
    delay.mul_f64(1.0 - jitter / 4.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    fn at(millis: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(millis))
    }

    fn up(now: Instant) -> Health {
        let mut health = Health::new(now);
        health.connected(now);
        health
    }

    #[test]
    fn the_first_try_is_due_at_once_and_the_next_after_growing_delays() {
        let mut health = Health::new(at(0));
        assert_eq!((health.state(), health.next_try()), (State::Down, Some(at(0))));
        let mut now = at(0);
        for delay in [25, 50, 100, 200, 400, 500, 500] {
            health.try_failed(now, 0.0);
            assert_eq!(health.next_try(), Some(now + delay * MILLISECOND));
            now = now + delay * MILLISECOND;
        }
        health.try_failed(now, 0.999);
        let next = health.next_try().unwrap();
        assert!((375..=376).contains(&now.until(next).as_millis()), "jitter only shortens");
    }

    #[test]
    fn a_late_answer_heals_and_silence_does_not() {
        let mut health = up(at(0));
        assert_eq!(health.silent_at(at(20_000), 20 * MILLISECOND), Some(at(20_020)));
        health.silent(at(20_020), 0.0);
        assert_eq!(health.state(), State::Suspect);
        assert_eq!(health.silent_at(at(20_000), 20 * MILLISECOND), Some(at(20_520)));
        health.answered();
        assert_eq!(health.state(), State::Up);
        health.silent(at(40_000), 0.0);
        health.silent(at(40_500), 0.0);
        assert_eq!((health.state(), health.next_try()), (State::Down, Some(at(40_525))));
        assert_eq!(health.silent_at(at(40_000), 20 * MILLISECOND), None);
    }

    #[test]
    fn what_breaks_after_ten_good_seconds_is_tried_at_once_and_what_broke_before_is_not() {
        for (up_for, delay) in [(9_999, 100), (10_000, 25)] {
            let mut health = up(at(0));
            health.broken(at(up_for), 0.0);
            assert_eq!(health.next_try(), Some(at(up_for + delay)));
        }
    }

    #[test]
    fn each_hold_of_a_flapping_tier_is_longer_and_ten_good_seconds_end_them() {
        let mut health = up(at(0));
        let mut now = at(0);
        for hold in [100, 400, 1600, 6400, 10_000, 10_000] {
            now = now + 50 * MILLISECOND;
            health.broken(now, 0.0);
            assert_eq!(health.next_try(), Some(now + hold * MILLISECOND));
            now = now + hold * MILLISECOND;
            health.connected(now);
        }
        now = now + STEADY;
        health.broken(now, 0.0);
        assert_eq!(health.next_try(), Some(now + FIRST_DELAY));
    }

    #[test]
    fn the_third_silence_in_ten_seconds_is_a_hold() {
        for (third, state) in [(10_999, State::Down), (11_000, State::Suspect)] {
            let mut health = up(at(0));
            // It has been up for long.
            for silent_at in [101_000, 105_000] {
                health.silent(at(silent_at), 0.0);
                health.answered();
            }
            health.silent(at(100_000 + third), 0.0);
            assert_eq!(health.state(), state);
            if state == State::Down {
                assert_eq!(health.next_try(), Some(at(100_000 + third + 100)));
            }
        }
    }

    /// 100 ms of answers, 100 ms of silence, for a minute, with callers at every moment.
    #[test]
    fn few_cohorts_pay_for_a_flapping_tier() {
        let patience = 20 * MILLISECOND;
        let (mut health, mut paid, mut asked_at) = (Health::new(at(0)), 0, None);
        for millis in 0..60_000 {
            let (now, is_answering) = (at(millis), millis / 100 % 2 == 0);
            if is_answering && asked_at.take().is_some() {
                health.answered();
            }
            if health.next_try().is_some_and(|due| due <= now) {
                if is_answering {
                    health.connected(now)
                } else {
                    health.try_failed(now, 0.0)
                }
                asked_at = None;
            }
            if health.state() == State::Up && !is_answering {
                asked_at.get_or_insert(now);
            }
            if asked_at.and_then(|asked_at| health.silent_at(asked_at, patience)).is_some_and(|due| due <= now) {
                paid += usize::from(health.state() == State::Up);
                health.silent(now, 0.0);
            }
        }
        assert!((3..=12).contains(&paid), "{paid} cohorts");
    }

    #[derive(Debug, Clone, Copy)]
    enum Event {
        Silent,
        Answered,
        Broken,
        Connected,
        TryFailed,
    }

    proptest! {
        #[test]
        fn it_is_tried_again_within_ten_seconds_whatever_happened(events in prop::collection::vec(
            (0u32..3000, prop_oneof![Just(Event::Silent), Just(Event::Answered), Just(Event::Broken), Just(Event::Connected), Just(Event::TryFailed)]),
            0..100,
        ), jitter in 0.0f64..1.0) {
            let mut health = Health::new(at(0));
            let mut now = at(0);
            for (after, event) in events {
                now = now + after * MILLISECOND;
                match event {
                    Event::Silent => health.silent(now, jitter),
                    Event::Answered => health.answered(),
                    Event::Broken => health.broken(now, jitter),
                    Event::Connected if health.state() == State::Down => health.connected(now),
                    Event::Connected => {}
                    Event::TryFailed if health.next_try().is_some_and(|due| due <= now) => health.try_failed(now, jitter),
                    Event::TryFailed => {}
                }
                match health.state() {
                    State::Up => prop_assert_eq!(health.next_try(), None),
                    State::Suspect => prop_assert!(health.silent_at(now, MILLISECOND).is_some_and(|due| due <= now + GIVEN_UP_AFTER)),
                    State::Down => prop_assert!(health.next_try().is_some_and(|due| due <= now + LONGEST_HOLD)),
                }
                prop_assert!(health.trips.len() <= TRIPS);
            }
        }
    }
}
