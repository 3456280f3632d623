//! How long this process was without a core, or busy with something else, while it waited for the tier. That is no time that the
//! tier has had: a busy machine wakes this process late, and the tier's as well where both are on it.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::clock::Instant;

/// The task that has the connection wants to be woken after this at most, while it waits for answers.
pub(super) const TICK: Duration = Duration::from_millis(2);

/// So late is nobody starved yet: tokio's timers count whole milliseconds.
const SLACK: Duration = Duration::from_millis(2);

/// The time in all, in nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Starved(AtomicU64);

/// A time, and how much had been added up then.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    at: Instant,
    starved: Duration,
}

impl Starved {
    /// A wait that began then, and was to end within `TICK`, has ended.
    pub(super) fn woken(&self, began: Instant, now: Instant) {
        let due = began + TICK;
        if is_late(due, now) {
            let late = due.until(now);
            self.0.fetch_add(u64::try_from(late.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    pub(super) fn moment(&self, at: Instant) -> Moment {
        Moment { at, starved: self.total() }
    }

    /// This moment, moved on by what was starved since, but by two budgets at most: callers wait as well.
    pub(super) fn counts_from(&self, moment: Moment, budget: Duration) -> Instant {
        moment.at + self.since(moment).min(budget * 2)
    }

    /// The time since, without what was starved; but a third of it at least, so that several waits that share a budget take
    /// three of it at most.
    pub(super) fn spent(&self, moment: Moment, now: Instant) -> Duration {
        let wall = moment.at.until(now);
        wall.saturating_sub(self.since(moment)).max(wall / 3)
    }

    fn since(&self, moment: Moment) -> Duration {
        self.total().saturating_sub(moment.starved)
    }

    fn total(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// Whether somebody who was to be woken then was starved.
pub(super) fn is_late(due: Instant, now: Instant) -> bool {
    due.until(now) > SLACK
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(millis))
    }

    #[test]
    fn who_is_woken_late_has_not_spent_that_time_on_the_tier() {
        let starved = Starved::default();
        for (began, woken, late) in [(0, 2, 0), (0, 4, 0), (0, 5, 3), (10, 10, 0), (10, 40, 28)] {
            let before = starved.total();
            starved.woken(at(began), at(woken));
            assert_eq!(starved.total() - before, Duration::from_millis(late), "{began} {woken}");
        }
        let moment = starved.moment(at(100));
        starved.woken(at(100), at(115));
        for (now, spent) in [(115, 5), (121, 8), (130, 17)] {
            assert_eq!(starved.spent(moment, at(now)), Duration::from_millis(spent), "{now}");
        }
    }

    #[test]
    fn what_is_late_by_that_is_put_off_by_twice_its_time_at_most() {
        let starved = Starved::default();
        let moment = starved.moment(at(100));
        for (began, woken, counts_from) in [(100, 103, 100), (103, 120, 115), (120, 147, 140), (147, 9999, 140)] {
            starved.woken(at(began), at(woken));
            assert_eq!(starved.counts_from(moment, Duration::from_millis(20)), at(counts_from), "{woken}");
        }
    }
}
