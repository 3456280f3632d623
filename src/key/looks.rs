//! When the key file is looked into: one look at a time, however many ask, and no caller waits for a slow one. Pure.
//!
//! A look reads a file, which may take for ever on a dead mount; it runs on a thread of its own (`rotation` starts it).
//! A caller that asks while a look is under way may have come after the file was read: one later look answers all such
//! callers. A thread that does not come back is given up and another is started in its place, so that a file is read
//! again once it can be; but only so many, since each given-up thread still exists.

use std::time::Duration;

use crate::clock::Instant;

/// No caller waits for a look that takes longer than this.
const PATIENCE: Duration = Duration::from_millis(250);

/// A look that takes longer than this is complained of.
const SLOW_AFTER: Duration = Duration::from_millis(1500);

/// A look that takes longer than this will most likely never end.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// The most threads that are given up and have not come back; with the one under way, three.
const MOST_STUCK: usize = 2;

/// The looks asked for, and those under way.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// Looks asked for: the number of the last request.
    asked: u64,
    /// The last look to begin answers the requests up to this number.
    begun: u64,
    /// The next look is to be acted on even if the file says what it said before.
    again: bool,
    under_way: Option<UnderWay>,
    threads: u64,
    stuck: usize,
}

#[derive(Debug)]
struct UnderWay {
    thread: u64,
    since: Instant,
}

/// One reading of the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// The look answers all requests up to this number.
    pub(super) number: u64,
    /// Whether to act on what it finds even if that is no news.
    pub(super) again: bool,
}

/// What became of a request for a look.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// The number of the look that answers it.
    pub(super) number: u64,
    /// The thread to start for it, where none is at work.
    pub(super) start: Option<u64>,
    /// How long the answer is worth waiting for.
    pub(super) patience: Duration,
}

impl Looks {
    pub(super) fn ask(&mut self, again: bool, now: Instant) -> Asked {
        self.asked += 1;
        self.again |= again;
        let taking = self.taking(now);
        let gives_up = taking.is_some_and(|taking| taking >= STUCK_AFTER) && self.stuck < MOST_STUCK;
        if gives_up {
            self.stuck += 1;
        }
        let starts = taking.is_none() || gives_up;
        if starts {
            self.threads += 1;
            self.under_way = Some(UnderWay { thread: self.threads, since: now });
        }
        let is_quick = starts || taking.is_some_and(|taking| taking < PATIENCE);
        Asked {
            number: self.asked,
            start: starts.then_some(self.threads),
            patience: if is_quick { PATIENCE } else { Duration::ZERO },
        }
    }

    /// What `thread` does next; `None` ends it.
    pub(super) fn begin(&mut self, thread: u64, now: Instant) -> Option<Look> {
        if !self.is_at_work(thread) {
            return None;
        }
        if self.begun == self.asked {
            self.under_way = None;
            return None;
        }
        self.begun = self.asked;
        self.under_way = Some(UnderWay { thread, since: now });
        Some(Look { number: self.asked, again: std::mem::take(&mut self.again) })
    }

    /// `thread` has read the file. False where the thread had been given up: what it read is old.
    pub(super) fn ended(&mut self, thread: u64) -> bool {
        let is_at_work = self.is_at_work(thread);
        if !is_at_work {
            self.stuck -= 1;
        }
        is_at_work
    }

    /// `thread` could not be started.
    pub(super) fn failed(&mut self, thread: u64) {
        if self.is_at_work(thread) {
            self.under_way = None;
        }
    }

    pub(super) fn is_slow(&self, now: Instant) -> bool {
        self.taking(now).is_some_and(|taking| taking >= SLOW_AFTER)
    }

    fn is_at_work(&self, thread: u64) -> bool {
        self.under_way.as_ref().is_some_and(|under_way| under_way.thread == thread)
    }

    fn taking(&self, now: Instant) -> Option<Duration> {
        self.under_way.as_ref().map(|under_way| now.since(under_way.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(milliseconds))
    }

    #[test]
    fn who_asks_while_a_look_is_under_way_is_answered_by_the_next() {
        let mut looks = Looks::default();
        assert_eq!(looks.ask(false, at(0)), Asked { number: 1, start: Some(1), patience: PATIENCE });
        assert_eq!(looks.begin(1, at(0)), Some(Look { number: 1, again: false }));
        for number in 2..100 {
            let again = number == 50;
            assert_eq!(looks.ask(again, at(249)), Asked { number, start: None, patience: PATIENCE });
        }
        assert!(looks.ended(1));
        assert_eq!(looks.begin(1, at(250)), Some(Look { number: 99, again: true }), "one look for all of them");
        assert!(looks.ended(1));
        assert_eq!(looks.begin(1, at(251)), None);
        assert_eq!(looks.ask(false, at(252)).start, Some(2), "the first thread has ended");
        assert_eq!(looks.begin(2, at(252)), Some(Look { number: 100, again: false }));
    }

    #[test]
    fn a_look_that_takes_long_is_not_waited_for_and_soon_complained_of() {
        let mut looks = Looks::default();
        assert!(looks.ask(true, at(0)).patience == PATIENCE && !looks.is_slow(at(0)));
        assert!(looks.begin(1, at(0)).is_some());
        assert_eq!(looks.ask(true, at(249)).patience, PATIENCE);
        assert_eq!(looks.ask(true, at(250)).patience, Duration::ZERO);
        assert!(!looks.is_slow(at(1499)) && looks.is_slow(at(1500)));
        assert!(looks.ended(1));
        assert!(looks.begin(1, at(5000)).is_some() && !looks.is_slow(at(5001)), "the next one has just begun");
    }

    #[test]
    fn stuck_threads_are_given_up_one_by_one_and_only_so_many() {
        let mut looks = Looks::default();
        assert_eq!(looks.ask(false, at(0)).start, Some(1));
        assert!(looks.begin(1, at(0)).is_some());
        assert_eq!(looks.ask(false, at(9_999)).start, None);
        assert_eq!(looks.ask(false, at(10_000)).start, Some(2));
        assert!(looks.begin(2, at(10_000)).is_some());
        assert_eq!(looks.ask(false, at(20_000)).start, Some(3));
        assert!(looks.begin(3, at(20_000)).is_some());
        for seconds in 30..1000 {
            assert_eq!(
                looks.ask(false, at(seconds * 1000)),
                Asked { number: 4 + seconds - 30 + 1, start: None, patience: Duration::ZERO }
            );
        }
        assert!(!looks.ended(1), "what it read is old");
        assert_eq!(looks.begin(1, at(1_000_000)), None, "and it ends");
        assert_eq!(looks.ask(false, at(1_000_000)).start, Some(4), "one more may be started in its place");
        assert!(looks.begin(4, at(1_000_000)).is_some() && looks.ended(4));
        assert_eq!(looks.begin(4, at(1_000_001)), None);
        assert!(!looks.is_slow(at(2_000_000)), "nothing is under way");
    }

    #[test]
    fn a_thread_that_cannot_be_started_holds_up_none_that_can() {
        let mut looks = Looks::default();
        assert_eq!(looks.ask(false, at(0)).start, Some(1));
        looks.failed(1);
        assert_eq!(looks.ask(false, at(1)).start, Some(2));
    }
}
