//! What hits ask of kie.ai's clock: the gist of what is known, without a lock.

use std::{
    array,
    sync::atomic::{
        AtomicI64, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
        fence,
    },
    time::Duration,
};

use super::{
    Instant,
    heard::PackedHeard,
    told::{self, BEACONS, Told},
};

/// Two numbers show of most links, in a few instructions, that nothing contradicts them. The others are for links that a
/// beacon contradicts. In a fleet that is nothing unusual: a beacon is an upper bound, up to a second above the truth, since
/// `Date` is cut to the second.
#[derive(Debug)]
pub(super) struct Gist {
    /// All forward steps of the wall clock, in nanoseconds.
    stepped: AtomicU64,
    /// The greatest of what answers and beacons have shown: kie.ai's clock is ahead of ours by so many nanoseconds at least.
    all: AtomicI64,
    /// Odd while any of it is written (a sequence lock): whoever reads all of it meanwhile asks the state.
    version: AtomicU64,
    /// The greatest of what the answers have shown.
    answers: AtomicI64,
    /// When each was heard, and what it tells.
    beacons: [(AtomicU64, AtomicI64); BEACONS],
}

/// What a gist says when nobody writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) stepped: u64,
    /// `i64::MIN` where there is no answer; `i64::MAX` where one shows too much for 64 bits.
    pub(super) answers: i64,
    pub(super) beacons: [Told; BEACONS],
}

impl Default for Gist {
    /// Nothing is known yet.
    fn default() -> Gist {
        let nothing = || AtomicI64::new(i64::MIN);
        let beacons = array::from_fn(|_| (AtomicU64::new(0), nothing()));
        Gist { stepped: AtomicU64::new(0), all: nothing(), version: AtomicU64::new(0), answers: nothing(), beacons }
    }
}

impl Gist {
    /// One at a time.
    pub(super) fn note(&self, known: &Known) {
        let version = self.version.load(Relaxed);
        self.version.store(version + 1, Relaxed);
        fence(Release);
        let all = known.beacons.iter().map(|beacon| beacon.ahead).fold(known.answers, i64::max);
        self.all.store(all, Release);
        self.stepped.store(known.stepped, Release);
        self.answers.store(known.answers, Relaxed);
        for ((at, ahead), beacon) in self.beacons.iter().zip(&known.beacons) {
            at.store(beacon.at, Relaxed);
            ahead.store(beacon.ahead, Relaxed);
        }
        self.version.store(version + 2, Release);
    }

    /// `None` while it is written.
    fn read(&self) -> Option<Known> {
        let version = self.version.load(Acquire);
        let beacon = |(at, ahead): &(AtomicU64, AtomicI64)| Told { at: at.load(Relaxed), ahead: ahead.load(Relaxed) };
        let known = Known {
            stepped: self.stepped.load(Relaxed),
            answers: self.answers.load(Relaxed),
            beacons: array::from_fn(|number| beacon(&self.beacons[number])),
        };
        fence(Acquire);
        (version.is_multiple_of(2) && self.version.load(Relaxed) == version).then_some(known)
    }

    /// How much more time has passed at kie.ai than here since `then`, at most. `None` where the state must be asked: after a
    /// later step of the wall clock, or an answer whose clock is ahead of all that `then` leaves possible (drift between the
    /// two is not looked at: it only excuses more), and while something is noted.
    pub(super) fn ahead_since(&self, then: &PackedHeard, now: Instant) -> Option<Duration> {
        let most = then.most();
        let agrees = |least: i64, stepped: u64| {
            most.is_none_or(|most| least <= most) && least != i64::MAX && stepped == then.stepped
        };
        if agrees(self.all.load(Acquire), self.stepped.load(Acquire)) {
            return Some(Duration::ZERO);
        }
        let known = self.read()?;
        agrees(known.answers, known.stepped).then(|| told::ahead_since(&known.beacons, then, now))
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicBool, thread};

    use super::*;

    #[test]
    fn whoever_reads_gets_all_of_one_state_or_nothing() {
        let (gist, over) = (&Gist::default(), &AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(move || {
                for number in 1.. {
                    let beacons = [Told { at: number, ahead: 0 }; BEACONS];
                    gist.note(&Known { stepped: number, answers: 0, beacons });
                    if over.load(Relaxed) {
                        break;
                    }
                    // So that somebody can read.
                    if number % 8 == 0 {
                        thread::yield_now();
                    }
                }
            });
            let (mut mixed, mut states, mut last) = (0, 0, 0);
            while states < 100_000 {
                match gist.read() {
                    Some(known) if known.stepped != last => {
                        last = known.stepped;
                        states += 1;
                        mixed += usize::from(known.beacons.iter().any(|beacon| beacon.at != known.stepped));
                    }
                    _ => thread::yield_now(),
                }
            }
            over.store(true, Relaxed);
            assert_eq!(mixed, 0);
        });
    }
}
