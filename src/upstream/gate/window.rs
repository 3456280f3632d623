//! How many requests may be on their way at once: few at first, more as kie.ai keeps up. Pure.
//!
//! kie.ai publishes no limit for this call, and about three a second of another one drew 429. A burst of cold files
//! must not find out the hard way: the first requests learn how kie.ai is before the rest follow.

use std::time::Duration;

use crate::clock::Instant;

/// Requests at once while nothing is known.
const START: u32 = 3;

/// Knowledge older than this is none.
const FORGET: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Window {
    in_flight: u32,
    size: u32,
    max: u32,
    last_answer: Option<Instant>,
}

impl Window {
    pub(super) fn new(max: u32) -> Window {
        Window { in_flight: 0, size: START.min(max), max, last_answer: None }
    }

    pub(super) fn has_room(&self) -> bool {
        self.in_flight < self.size
    }

    /// A request sets out.
    pub(super) fn enter(&mut self, now: Instant) {
        let quiet = self.last_answer.is_none_or(|last| now.since(last) >= FORGET);
        if quiet && self.in_flight == 0 {
            self.size = START.min(self.max);
        }
        self.in_flight += 1;
    }

    /// kie.ai kept up. The window grows only where it was the limit, so that single requests prove nothing.
    pub(super) fn good(&mut self, now: Instant) {
        if self.in_flight >= self.size {
            self.size = (self.size + 1).min(self.max);
        }
        self.leave(now);
    }

    /// kie.ai limited or failed.
    pub(super) fn bad(&mut self, now: Instant) {
        self.size = START.min(self.max);
        self.leave(now);
    }

    /// The request came to no end.
    pub(super) fn lost(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    #[cfg(test)]
    fn in_flight(&self) -> u32 {
        self.in_flight
    }

    fn leave(&mut self, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.last_answer = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_origin(Duration::from_secs(seconds))
    }

    fn fill(window: &mut Window, now: Instant) -> u32 {
        let mut entered = 0;
        while window.has_room() {
            window.enter(now);
            entered += 1;
        }
        entered
    }

    /// Lets everything out again, refilling meanwhile as a queue would.
    fn round(window: &mut Window, now: Instant) {
        for _ in 0..window.in_flight() {
            window.good(now);
            fill(window, now);
        }
    }

    #[test]
    fn it_doubles_a_round_up_to_the_limit() {
        let mut window = Window::new(32);
        assert_eq!(fill(&mut window, at(1)), 3);
        let sizes: Vec<u32> = (0..5)
            .map(|_| {
                round(&mut window, at(1));
                window.in_flight()
            })
            .collect();
        assert_eq!(sizes, [6, 12, 24, 32, 32]);
    }

    #[test]
    fn single_requests_prove_nothing() {
        let mut window = Window::new(32);
        for _ in 0..20 {
            window.enter(at(1));
            window.good(at(1));
        }
        assert_eq!(fill(&mut window, at(1)), 3);
    }

    #[test]
    fn a_failure_or_a_quiet_time_starts_over() {
        let mut window = Window::new(32);
        fill(&mut window, at(1));
        round(&mut window, at(1));
        window.bad(at(1));
        while window.in_flight() > 0 {
            window.lost();
        }
        assert_eq!(fill(&mut window, at(1)), 3);
        round(&mut window, at(1));
        while window.in_flight() > 0 {
            window.good(at(1));
        }
        window.enter(at(11));
        assert_eq!(1 + fill(&mut window, at(11)), 3, "ten quiet seconds");
    }

    #[test]
    fn a_small_limit_is_kept_from_the_start() {
        let mut window = Window::new(1);
        assert_eq!(fill(&mut window, at(1)), 1);
        round(&mut window, at(1));
        assert_eq!(window.in_flight(), 1);
    }
}
