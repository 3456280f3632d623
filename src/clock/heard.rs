//! One answer's word on kie.ai's clock, as `KieClock` believes it and as a link's entry keeps it.

use std::{num::NonZeroU64, time::Duration};

use jiff::{SignedDuration, Timestamp};

use super::Instant;

/// `Date` and `Age` are cut to the second.
const ROUNDING: SignedDuration = SignedDuration::from_secs(1);

/// Two machines' clocks drift apart by less than this share of the time (1 ms a second; a good crystal has a
/// fiftieth of it).
pub(super) const DRIFT: u32 = 1000;

/// An answer that took longer (the machine slept meanwhile) may say too little of kie.ai's clock to push out another
/// answer.
const LONGEST_ANSWER: Duration = Duration::from_secs(60);

/// One answer's word on kie.ai's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// Answers are numbered as they come.
    pub(super) number: u64,
    pub(super) sent_at: Instant,
    pub(super) at: Instant,
    /// kie.ai's clock less ours; `None` where nothing has shown it yet.
    pub(super) ahead: Option<Bounds>,
    /// What this answer itself showed: `Date` and `Age` together, since the epoch.
    pub(super) shown: Option<SignedDuration>,
    /// Forward steps of the wall clock until this answer was asked for. Later steps are left out, since its `Date` may
    /// be from before them.
    pub(super) stepped: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) least: SignedDuration,
    pub(super) most: SignedDuration,
}

impl Bounds {
    /// kie.ai's clock showed `date`, plus the `age` for which a gateway had kept the answer, at some moment between
    /// `sent_at` and `received_at`.
    pub(super) fn new(shown: SignedDuration, age: Option<Duration>, sent_at: Instant, received_at: Instant) -> Bounds {
        let rounding = if age.is_some() { ROUNDING + ROUNDING } else { ROUNDING };
        Bounds {
            least: shown.saturating_sub(signed(received_at.since_origin())),
            most: shown.saturating_add(rounding).saturating_sub(signed(sent_at.since_origin())),
        }
    }
}

impl Heard {
    /// When the answer was asked for.
    pub fn asked_at(&self) -> Instant {
        self.sent_at
    }

    /// When the answer came.
    pub fn at(&self) -> Instant {
        self.at
    }

    /// What kie.ai's clock showed with this answer. `None` where the answer had no `Date`.
    pub fn shown(&self) -> Option<Timestamp> {
        Timestamp::from_duration(self.shown?).ok()
    }

    /// The least that kie.ai's clock can have shown when this answer was asked for: kie.ai may have signed at once, and
    /// dated its answer when it had all been sent. `None` where the answer had no `Date`.
    pub fn asked_at_kie_s(&self) -> Option<Timestamp> {
        let took = self.sent_at.until(self.at);
        Timestamp::from_duration(self.shown?.saturating_sub(signed(took + took / DRIFT))).ok()
    }

    pub(super) fn took_long(&self) -> bool {
        self.sent_at.until(self.at) > LONGEST_ANSWER
    }
}

/// An answer's word as a link's entry keeps it, in 48 bytes rather than 88: nanoseconds, which fit for 584 years after
/// the clocks' origin and until the year 2262. A `Date` beyond that counts as that year's.
#[derive(Debug, Clone, Copy)]
pub struct PackedHeard {
    pub(super) number: u64,
    pub(super) sent_at: u64,
    pub(super) at: u64,
    pub(super) least: i64,
    /// The most less the least. `Date` is cut to the second, so they are never the same.
    pub(super) width: Option<NonZeroU64>,
    pub(super) stepped: u64,
}

impl From<Heard> for PackedHeard {
    fn from(heard: Heard) -> PackedHeard {
        let Heard { number, sent_at, at, ahead, shown: _, stepped } = heard;
        let least = ahead.map_or(0, |bounds| signed_nanos(bounds.least));
        let width =
            ahead.map(|bounds| NonZeroU64::new(signed_nanos(bounds.most).abs_diff(least)).unwrap_or(NonZeroU64::MIN));
        PackedHeard {
            number,
            sent_at: nanos(sent_at.since_origin()),
            at: nanos(at.since_origin()),
            least,
            width,
            stepped: nanos(stepped),
        }
    }
}

impl From<PackedHeard> for Heard {
    fn from(packed: PackedHeard) -> Heard {
        let PackedHeard { number, sent_at, at, least, width, stepped } = packed;
        let ahead = width.map(|width| Bounds {
            least: SignedDuration::from_nanos(least),
            most: SignedDuration::from_nanos(least.saturating_add_unsigned(width.get())),
        });
        Heard {
            number,
            sent_at: Instant::from_origin(Duration::from_nanos(sent_at)),
            at: Instant::from_origin(Duration::from_nanos(at)),
            ahead,
            shown: None,
            stepped: Duration::from_nanos(stepped),
        }
    }
}

impl PackedHeard {
    /// The most that kie.ai's clock can have been ahead of ours. `None` where nothing had shown it.
    pub(super) fn most(&self) -> Option<i64> {
        Some(self.least.saturating_add_unsigned(self.width?.get()))
    }
}

/// Of 584 years and more, all that fits.
pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Of 292 years and more either way, all that fits.
pub(super) fn signed_nanos(duration: SignedDuration) -> i64 {
    let most = if duration.is_negative() { i64::MIN } else { i64::MAX };
    i64::try_from(duration.as_nanos()).unwrap_or(most)
}

pub(super) fn since_epoch(at: Timestamp) -> SignedDuration {
    at.as_duration()
}

/// Fits up to 292 billion years; beyond that it saturates.
pub(super) fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
mod tests {
    use super::{super::KieClock, *};

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: f64) -> Instant {
        Instant::from_origin(Duration::from_secs_f64(seconds))
    }

    fn shown(seconds: i64) -> Option<Timestamp> {
        Some(Timestamp::from_second(1_780_000_000 + seconds).unwrap())
    }

    #[test]
    fn packed_it_says_the_same() {
        let kie = KieClock::default();
        kie.look(Timestamp::from_second(1_780_000_000).unwrap(), at(0.0));
        kie.look(Timestamp::from_second(1_780_000_075).unwrap(), at(1.0));
        let undated = KieClock::default().heard(None, None, at(100.000_000_001), at(100.5));
        let before_boot = kie.heard(Some(Timestamp::UNIX_EPOCH), None, at(100.0), at(4.0e6));
        let aged = kie.heard(shown(7), Some(900 * SECOND), at(0.1), at(0.2));
        for heard in [undated, before_boot, aged, kie.heard(shown(34), None, at(33.33), at(33.83))] {
            assert_eq!(Heard::from(PackedHeard::from(heard)), Heard { shown: None, ..heard });
        }
        assert_eq!(size_of::<PackedHeard>(), 48);
    }

    #[test]
    fn a_date_that_does_not_fit_gives_a_packed_word_no_more_life() {
        for (date, later) in [(Timestamp::MIN, 0), (Timestamp::MAX, 0), (Timestamp::MAX, 200_000_000_000)] {
            let kie = KieClock::default();
            let then = kie.heard(Some(date), None, at(0.0), at(9.0));
            kie.heard(shown(20 + later), None, at(20.0), at(20.5));
            let ahead = |then: &Heard| kie.ahead_since(then, at(21.0));
            assert!(ahead(&PackedHeard::from(then).into()) >= ahead(&then).min(Duration::from_secs(1_000_000_000)));
        }
    }
}
