//! The account's credits, of which something may spend all the time; mints cost none. Pure: time is an argument.

use crate::clock::Instant;

/// As one account had it.
const USUAL: f64 = 5916.25;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Balance {
    left: f64,
    /// Credits.
    spent_a_second: f64,
    since: Instant,
}

impl Balance {
    pub(super) fn new(now: Instant) -> Balance {
        Balance { left: USUAL, spent_a_second: 0.0, since: now }
    }

    /// To a hundredth; it ends at zero.
    pub(super) fn left(&self, now: Instant) -> f64 {
        let left = self.left - self.spent_a_second * now.since(self.since).as_secs_f64();
        (left.max(0.0) * 100.0).round() / 100.0
    }

    /// So many are left from now on, or as many as there are, and so many are spent a second.
    pub(super) fn change(&mut self, left: Option<f64>, spent_a_second: Option<f64>, now: Instant) {
        self.left = left.unwrap_or_else(|| self.left(now));
        self.spent_a_second = spent_a_second.unwrap_or(self.spent_a_second);
        self.since = now;
    }

    /// What is not as usual: what is left, and spent a second.
    pub(super) fn shown(&self, now: Instant) -> Option<(f64, f64)> {
        let is_usual = self.left == USUAL && self.spent_a_second == 0.0;
        (!is_usual).then(|| (self.left(now), self.spent_a_second))
    }
}
