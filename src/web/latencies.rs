//! Spread for people: counted without a lock, to within a thirty-second of each.

use std::{
    array,
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Nobody waits longer; what does, counts as this.
const LONGEST_MICROS: u64 = 60_000_000;

/// Up to 64 microseconds each has a count of its own; beyond, each doubling has 32.
const COUNTS: usize = index(LONGEST_MICROS) + 1;

const fn index(micros: u64) -> usize {
    if micros < 64 {
        return micros as usize;
    }
    let doublings = micros.ilog2() as usize;
    (doublings - 4) * 32 + (micros >> (doublings - 5)) as usize - 32
}

/// The longest latency that is counted at `index`, in microseconds.
fn longest_at(index: usize) -> u64 {
    if index < 64 {
        return index as u64;
    }
    ((index as u64 % 32 + 33) << (index / 32 - 1)) - 1
}

/// What happens, until somebody takes it.
#[derive(Debug)]
pub(super) struct Counting {
    latencies: [AtomicU32; COUNTS],
    /// Whole seconds.
    least_life: AtomicU64,
}

impl Default for Counting {
    fn default() -> Counting {
        Counting { latencies: array::from_fn(|_| AtomicU32::new(0)), least_life: AtomicU64::new(u64::MAX) }
    }
}

impl Counting {
    pub(super) fn latency(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).min(LONGEST_MICROS);
        self.latencies[index(micros)].fetch_add(1, Relaxed);
    }

    pub(super) fn life(&self, left: Duration) {
        let seconds = left.as_secs();
        // Once a second at most is it the least: to look first spares the other threads a write.
        if seconds < self.least_life.load(Relaxed) {
            self.least_life.fetch_min(seconds, Relaxed);
        }
    }

    pub(super) fn take(&self) -> Recent {
        let least_life = self.least_life.swap(u64::MAX, Relaxed);
        Recent {
            latencies: Spread(self.latencies.iter().map(|count| count.swap(0, Relaxed)).collect()),
            least_life: (least_life != u64::MAX).then(|| Duration::from_secs(least_life)),
        }
    }
}

/// What has happened since the last look.
#[derive(Debug, Clone, Default)]
pub struct Recent {
    pub latencies: Spread,
    /// Least life left of a link that was handed out, in whole seconds.
    pub least_life: Option<Duration>,
}

/// How many requests took how long.
#[derive(Debug, Clone)]
pub struct Spread(Box<[u32]>);

impl Default for Spread {
    fn default() -> Spread {
        Spread([0; COUNTS].into())
    }
}

impl Spread {
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|count| *count == 0)
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> u32 {
        self.0.iter().sum()
    }

    pub fn add(&mut self, more: &Spread) {
        self.0.iter_mut().zip(&more.0).for_each(|(count, more)| *count = count.saturating_add(*more));
    }

    /// The latency, in microseconds, within which this share of the requests was answered; 0 where there were none.
    pub fn within(&self, share: f64) -> u64 {
        let all: u64 = self.0.iter().map(|count| u64::from(*count)).sum();
        let wanted = ((all as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        let found = self.0.iter().position(|count| {
            seen += u64::from(*count);
            seen >= wanted
        });
        found.map_or(0, longest_at)
    }
}

/// Of microseconds.
#[cfg(test)]
impl FromIterator<u64> for Spread {
    fn from_iter<I: IntoIterator<Item = u64>>(all: I) -> Spread {
        let counting = Counting::default();
        all.into_iter().for_each(|micros| counting.latency(Duration::from_micros(micros)));
        counting.take().latencies
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_latency_is_counted_within_a_thirty_second_of_itself() {
        let mut before = None;
        for micros in (0..10_000).chain((10_000..=LONGEST_MICROS).step_by(997)).chain([LONGEST_MICROS]) {
            let at = index(micros);
            assert!(longest_at(at) >= micros && longest_at(at) - micros <= micros / 32, "{micros}");
            assert!(at >= before.unwrap_or(0) && at < COUNTS, "{micros}");
            before = Some(at);
        }
    }

    #[test]
    fn what_is_taken_is_gone() {
        let counting = Counting::default();
        for millis in [1, 2, 3, 100_000_000] {
            counting.latency(Duration::from_millis(millis));
            counting.life(Duration::from_secs(900 - millis.min(3)));
        }
        let recent = counting.take();
        assert_eq!(recent.least_life, Some(Duration::from_secs(897)));
        let within: Vec<_> = [0.0, 0.25, 0.5, 0.75, 1.0].map(|share| recent.latencies.within(share)).into();
        assert!(within.is_sorted() && (1_000..1_032).contains(&within[0]) && within[0] == within[1], "{within:?}");
        assert!((3_000..3_100).contains(&within[3]) && within[4] >= LONGEST_MICROS, "{within:?}");
        let nothing = counting.take();
        assert!(nothing.latencies.is_empty() && nothing.least_life.is_none());
        assert_eq!(nothing.latencies.within(0.99), 0);
    }
}
