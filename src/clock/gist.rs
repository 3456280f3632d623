//! What hits ask of kie.ai's clock: the gist of what is known, without a lock.

use std::{
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use crossbeam_utils::atomic::AtomicCell;

use super::{
    Instant,
    heard::PackedHeard,
    told::{self, BEACONS, Told},
};

/// Two numbers that show of most links, in a few instructions, that nothing contradicts them; and the beacons, for links that
/// one of them contradicts. In a fleet that is nothing unusual: a beacon is the upper bound of another replica, up to a
/// second above the truth, since `Date` is cut to the second.
#[derive(Debug)]
pub(super) struct Gist {
    /// All forward steps of the wall clock, in nanoseconds.
    stepped: AtomicU64,
    /// The greatest of what answers and beacons have shown: kie.ai's clock is ahead of ours by so many nanoseconds at least.
    least: AtomicI64,
    /// Read whole; whoever reads while it is written waits for that.
    apart: AtomicCell<Apart>,
}

/// The same, answers and beacons apart.
#[derive(Debug, Clone, Copy)]
struct Apart {
    stepped: u64,
    /// The greatest of what the answers have shown.
    least: i64,
    beacons: [Told; BEACONS],
}

impl Default for Gist {
    /// No answer yet.
    fn default() -> Gist {
        let least = i64::MIN;
        let apart = AtomicCell::new(Apart { stepped: 0, least, beacons: [Told::NOTHING; BEACONS] });
        Gist { stepped: AtomicU64::new(0), least: AtomicI64::new(least), apart }
    }
}

impl Gist {
    /// `answers`: the greatest of what the answers that are believed have shown; `i64::MAX` where it is too much for 64 bits.
    pub(super) fn note(&self, stepped: u64, answers: Option<i64>, told: &[Told]) {
        let mut beacons = [Told::NOTHING; BEACONS];
        for (place, told) in beacons.iter_mut().zip(told) {
            *place = *told;
        }
        let least = answers.unwrap_or(i64::MIN);
        self.apart.store(Apart { stepped, least, beacons });
        let least = told.iter().map(|told| told.ahead()).fold(least, i64::max);
        self.least.store(least, Ordering::Release);
        self.stepped.store(stepped, Ordering::Release);
    }

    /// How much more time has passed at kie.ai than here since `then`, at most. `None` where more must be known to say it:
    /// after a later step of the wall clock, or an answer whose clock is ahead of all that `then` leaves possible. (Drift
    /// between the two is not looked at for answers: it only excuses more.)
    pub(super) fn ahead_since(&self, then: &PackedHeard, now: Instant) -> Option<Duration> {
        let most = then.most();
        let agrees = |least: i64, stepped: u64| {
            most.is_none_or(|most| least <= most) && least != i64::MAX && stepped == then.stepped
        };
        if agrees(self.least.load(Ordering::Acquire), self.stepped.load(Ordering::Acquire)) {
            return Some(Duration::ZERO);
        }
        let apart = self.apart.load();
        agrees(apart.least, apart.stepped).then(|| told::ahead_since(&apart.beacons, then, now))
    }
}
