//! How often kie.ai may be called: tokens that come back as time passes.
//!
//! Pure: the time is an argument. It does not know how a call over the quota is answered.

use crate::clock::Instant;

/// Holds at most a second's worth of calls, and gets them back evenly.
pub(super) struct Quota {
    per_second: u32,
    tokens: f64,
    counted_at: Instant,
}

impl Quota {
    /// Full from the beginning. With `per_second` 0 every call is over the quota.
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        Self { per_second, tokens: f64::from(per_second), counted_at: now }
    }

    /// Whether one more call is within the quota; if so, it is counted.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let full = f64::from(self.per_second);
        self.tokens = (self.tokens + now.since(self.counted_at).as_secs_f64() * full).min(full);
        self.counted_at = now;
        let within = self.tokens >= 1.0;
        if within {
            self.tokens -= 1.0;
        }
        within
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(millis))
    }

    #[test]
    fn a_second_holds_as_many_calls_as_the_quota_says() {
        let mut quota = Quota::new(2, at(0));
        let table = [
            (0, true),
            (0, true),
            (0, false),
            (499, false),
            (500, true),
            (501, false),
            (60_000, true), // unused calls do not pile up
            (60_000, true),
            (60_000, false),
        ];
        for (index, (millis, expected)) in table.into_iter().enumerate() {
            assert_eq!(quota.take(at(millis)), expected, "row {index}");
        }
    }

    #[test]
    fn a_quota_of_none_refuses_every_call() {
        let mut quota = Quota::new(0, at(0));
        assert!(!quota.take(at(0)));
        assert!(!quota.take(at(60_000)));
    }
}
