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

/// A refusal for haste comes quickly (a whole mint takes about 325 ms). When none has come for this long, twice as
/// many may go, so that a slow kie.ai does not make callers wait in line; up to a limit, so that a dead one is not
/// flooded.
const SILENCE: Duration = Duration::from_millis(400);
const SILENT_MAX: u32 = 16;

#[derive(Debug)]
pub(super) struct Window {
    in_flight: u32,
    size: u32,
    max: u32,
    /// When the size last changed, or the first request set out.
    since: Instant,
    last_answer: Option<Instant>,
    /// A connection fell silent: a few requests are to find out whether new connections are any better.
    doubtful: bool,
}

/// Whether a request may go, as far as the window is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    Go,
    Wait(Instant),
    WaitForAnswer,
}

impl Window {
    pub(super) fn new(max: u32, now: Instant) -> Window {
        Window { in_flight: 0, size: START.min(max), max, since: now, last_answer: None, doubtful: false }
    }

    /// While connections are doubtful, one more request may go for a file that was never seen to fail: perhaps it is
    /// the other files that ail.
    pub(super) fn admission(&mut self, seen_to_fail: bool, now: Instant) -> Admission {
        if self.in_flight < self.size || (self.doubtful && !seen_to_fail && self.in_flight < (START + 1).min(self.max))
        {
            return Admission::Go;
        }
        let silent_max = if self.doubtful { START } else { SILENT_MAX }.min(self.max);
        if self.size >= silent_max {
            return Admission::WaitForAnswer;
        }
        if now < self.since + SILENCE {
            return Admission::Wait(self.since + SILENCE);
        }
        self.resize((self.size * 2).min(silent_max), now);
        Admission::Go
    }

    /// Whether one more may be under way at all.
    pub(super) fn has_room(&self) -> bool {
        self.in_flight < self.max
    }

    /// A request sets out.
    pub(super) fn enter(&mut self, now: Instant) {
        if self.in_flight == 0 {
            let quiet = self.last_answer.is_none_or(|last| now.since(last) >= FORGET);
            self.resize(if quiet { START.min(self.max) } else { self.size }, now);
        }
        self.in_flight += 1;
    }

    /// kie.ai kept up. The window grows only where it was the limit, so that single requests prove nothing.
    pub(super) fn good(&mut self, now: Instant) {
        self.doubtful = false;
        if self.in_flight >= self.size {
            self.resize((self.size + 1).min(self.max), now);
        }
        self.leave(now);
    }

    /// kie.ai limited or failed.
    pub(super) fn bad(&mut self, now: Instant) {
        self.resize(START.min(self.max), now);
        self.leave(now);
    }

    /// No answer came over a connection that was open already.
    pub(super) fn silent_connection(&mut self, now: Instant) {
        self.doubtful = true;
        self.resize(START.min(self.max), now);
        self.lost();
    }

    /// The request came to no end.
    pub(super) fn lost(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    fn resize(&mut self, size: u32, now: Instant) {
        self.size = size;
        self.since = now;
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
        while window.admission(true, now) == Admission::Go {
            window.enter(now);
            entered += 1;
        }
        entered
    }

    /// Lets everything out again, refilling meanwhile as a queue would.
    fn round(window: &mut Window, now: Instant) {
        for _ in 0..window.in_flight {
            window.good(now);
            fill(window, now);
        }
    }

    #[test]
    fn it_doubles_a_round_up_to_the_limit() {
        let mut window = Window::new(32, at(1));
        assert_eq!(fill(&mut window, at(1)), 3);
        let sizes: Vec<u32> = (0..5)
            .map(|_| {
                round(&mut window, at(1));
                window.in_flight
            })
            .collect();
        assert_eq!(sizes, [6, 12, 24, 32, 32]);
    }

    #[test]
    fn silence_opens_it_by_and_by_up_to_a_limit() {
        let mut window = Window::new(32, at(0));
        let mut now = at(100);
        assert_eq!(fill(&mut window, now), 3);
        for entered in [3, 6, 4] {
            assert_eq!(window.admission(true, now), Admission::Wait(now + SILENCE));
            now = now + SILENCE;
            assert_eq!(fill(&mut window, now), entered);
        }
        assert_eq!(window.admission(true, now + 60 * SILENCE), Admission::WaitForAnswer);
        let mut small = Window::new(2, at(0));
        fill(&mut small, now);
        assert_eq!(small.admission(true, now + SILENCE), Admission::WaitForAnswer);
    }

    #[test]
    fn after_a_silent_connection_a_few_find_out_whether_new_ones_are_better() {
        let mut window = Window::new(32, at(0));
        fill(&mut window, at(100));
        window.silent_connection(at(108));
        window.lost();
        window.lost();
        assert_eq!(fill(&mut window, at(108)), 3);
        assert_eq!(window.admission(true, at(120)), Admission::WaitForAnswer);
        assert_eq!(window.admission(false, at(120)), Admission::Go, "one that was never seen to fail");
        window.good(at(120));
        assert_eq!(fill(&mut window, at(120)), 2, "one good answer: it grows again");
    }

    #[test]
    fn single_requests_prove_nothing() {
        let mut window = Window::new(32, at(1));
        for _ in 0..20 {
            window.enter(at(1));
            window.good(at(1));
        }
        assert_eq!(fill(&mut window, at(1)), 3);
    }

    #[test]
    fn a_failure_or_a_quiet_time_starts_over() {
        let mut window = Window::new(32, at(1));
        fill(&mut window, at(1));
        round(&mut window, at(1));
        window.bad(at(1));
        while window.in_flight > 0 {
            window.lost();
        }
        assert_eq!(fill(&mut window, at(1)), 3);
        round(&mut window, at(1));
        while window.in_flight > 0 {
            window.good(at(1));
        }
        window.enter(at(11));
        assert_eq!(1 + fill(&mut window, at(11)), 3, "ten quiet seconds");
    }

    #[test]
    fn a_small_limit_is_kept_from_the_start() {
        let mut window = Window::new(1, at(1));
        assert_eq!(fill(&mut window, at(1)), 1);
        round(&mut window, at(1));
        assert_eq!(window.in_flight, 1);
    }
}
