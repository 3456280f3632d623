//! How long this process was without a core, or busy with something else, while it waited for the tier. That is no time that the
//! tier has had: a busy machine wakes this process late, and the tier's as well where both are on it.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::clock::Instant;

/// The task that has the connection wants to be woken after this at most, while it waits for answers.
pub(super) const TICK: Duration = Duration::from_millis(2);

/// So late is nobody starved yet: tokio's timers count whole milliseconds.
const SLACK: Duration = Duration::from_millis(2);

/// How long the task that has the connection was without a core.
#[derive(Debug, Default)]
pub(super) struct Starved(Mutex<Count>);

#[derive(Debug, Default)]
struct Count {
    /// In all, without a lateness that lasts.
    total: Duration,
    /// When it wants to have run again at the latest; `None` where it waits for no answer.
    due: Option<Instant>,
}

/// A time, and how much had been added up then.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    at: Instant,
    starved: Duration,
}

impl Count {
    fn total(&self, now: Instant) -> Duration {
        let late = self.due.filter(|due| is_late(*due, now)).map_or(Duration::ZERO, |due| due.until(now));
        self.total + late
    }
}

impl Starved {
    /// The task runs now.
    pub(super) fn runs(&self, now: Instant) {
        let mut count = self.lock();
        *count = Count { total: count.total(now), due: Some(now + TICK) };
    }

    /// The task waits for no answer from now on: whoever wakes it next is not late.
    pub(super) fn rests(&self, now: Instant) {
        let mut count = self.lock();
        *count = Count { total: count.total(now), due: None };
    }

    pub(super) fn moment(&self, at: Instant) -> Moment {
        Moment { at, starved: self.lock().total(at) }
    }

    /// The moment, moved on by what was starved from then until now, but by two budgets at most: callers wait as well.
    pub(super) fn counts_from(&self, moment: Moment, budget: Duration, now: Instant) -> Instant {
        moment.at + self.since(moment, now).min(budget * 2)
    }

    /// The time since, without what was starved; but a third of it at least, so that several waits that share a budget take
    /// three of it at most.
    pub(super) fn spent(&self, moment: Moment, now: Instant) -> Duration {
        let wall = moment.at.until(now);
        wall.saturating_sub(self.since(moment, now)).max(wall / 3)
    }

    fn since(&self, moment: Moment, now: Instant) -> Duration {
        self.lock().total(now).saturating_sub(moment.starved)
    }

    fn lock(&self) -> MutexGuard<'_, Count> {
        // Every section is one assignment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        // It waited for nothing before.
        starved.runs(at(100));
        let moment = starved.moment(at(100));
        for (runs, spent) in [(102, 2), (106, 6), (111, 8), (113, 10), (115, 12), (148, 16), (190, 30)] {
            // Nobody has to wait until it runs again to see that it does not.
            assert_eq!(starved.spent(moment, at(runs)), Duration::from_millis(spent), "{runs}, not yet");
            starved.runs(at(runs));
            assert_eq!(starved.spent(moment, at(runs)), Duration::from_millis(spent), "{runs}");
        }
        let moment = starved.moment(at(190));
        starved.rests(at(200));
        for runs in [false, true] {
            assert_eq!(
                starved.spent(moment, at(250)),
                Duration::from_millis(52),
                "nobody was to wake it; runs: {runs}"
            );
            starved.runs(at(250));
        }
    }

    #[test]
    fn what_is_late_by_that_is_put_off_by_twice_its_time_at_most() {
        let starved = Starved::default();
        starved.runs(at(100));
        let moment = starved.moment(at(100));
        for (runs, counts_from) in [(103, 100), (120, 115), (149, 140), (9999, 140)] {
            for seen_by in ["others", "itself"] {
                let found = starved.counts_from(moment, Duration::from_millis(20), at(runs));
                assert_eq!(found, at(counts_from), "{runs}, seen by {seen_by}");
                starved.runs(at(runs));
            }
        }
    }
}
