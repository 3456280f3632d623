//! How long a link lives on another machine than the one that minted it. Pure.
//!
//! kie.ai's clock is the only one that crosses machines. A link rests in the tier with its end by that clock; each
//! replica has an upper bound of its own of what that clock shows now (`clock::KieClock::upper_bound`). Neither the
//! tier's clock, nor how long it has kept a value, nor anybody's wall clock has a say. So a tier that lies, delays or
//! replays can make no dead link live: its values say too much only of the past.

use std::time::Duration;

use jiff::Timestamp;

use super::seal::Kept;
use crate::{
    clock::{Heard, Instant},
    link,
};

/// A kept link, judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alive {
    /// Not served from here on: its end less the margin.
    pub deadline: Instant,
    /// When it ends.
    pub ends_at: Instant,
    /// Since its mint, at most.
    pub age: Duration,
}

/// Why a kept link is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Withheld {
    /// Less than the margin may be left.
    Dead,
    /// Nothing has shown yet what kie.ai's clock shows.
    NoClock,
}

impl Withheld {
    pub const ALL: [Withheld; 2] = [Withheld::Dead, Withheld::NoClock];

    pub fn as_str(self) -> &'static str {
        match self {
            Withheld::Dead => "dead",
            Withheld::NoClock => "no-clock",
        }
    }
}

/// When a link that came with this answer was minted and ends, by kie.ai's clock. It has `left` from the moment at which
/// it was asked for. `None` where the answer does not say what kie.ai's clock shows: then nobody else could judge it.
pub fn kept(heard: &Heard, left: Duration, text: String) -> Option<Kept> {
    let ends_at = heard.asked_at_kie_s()?.checked_add(left.min(link::LIFE)).ok()?;
    Some(Kept { minted_at: heard.shown()?, ends_at, text })
}

/// Judges a kept link or refusal (whose margin is zero) at `now`, where kie.ai's clock shows `kie_now` at most.
///
/// # Errors
/// When it must not be served.
pub fn judge(kept: &Kept, kie_now: Option<Timestamp>, margin: Duration, now: Instant) -> Result<Alive, Withheld> {
    let kie_now = kie_now.ok_or(Withheld::NoClock)?;
    // Zero where it has passed.
    let until = |then: Timestamp, from: Timestamp| Duration::try_from(then.duration_since(from)).unwrap_or_default();
    let left = until(kept.ends_at, kie_now).min(link::LIFE);
    let served = left.checked_sub(margin).filter(|served| !served.is_zero()).ok_or(Withheld::Dead)?;
    Ok(Alive { deadline: now + served, ends_at: now + left, age: until(kie_now, kept.minted_at) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::KieClock;

    const MARGIN: Duration = Duration::from_secs(60);

    fn kie_s(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(1_780_000_000_000 + millis).unwrap()
    }

    fn at(millis: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(millis))
    }

    fn link(minted_at: i64, ends_at: i64) -> Kept {
        Kept { minted_at: kie_s(minted_at), ends_at: kie_s(ends_at), text: String::new() }
    }

    #[test]
    fn a_link_is_served_until_a_margin_before_its_end() {
        for (kie_now, alive) in [
            (0, Some((at(1_145_000), at(1_205_000), Duration::ZERO))),
            (500_000, Some((at(645_000), at(705_000), Duration::from_secs(500)))),
            (1_139_999, Some((at(5001), at(65_001), Duration::from_millis(1_139_999)))),
            (1_140_000, None),
            (1_200_000, None),
            (i64::MAX / 10_000_000, None),
        ] {
            let judged = judge(&link(0, 1_200_000), Some(kie_s(kie_now)), MARGIN, at(5000));
            let expected = alive.map(|(deadline, ends_at, age)| Alive { deadline, ends_at, age });
            assert_eq!(judged, expected.ok_or(Withheld::Dead), "{kie_now}");
        }
        assert_eq!(judge(&link(0, 1_200_000), None, MARGIN, at(5000)), Err(Withheld::NoClock));
    }

    #[test]
    fn a_link_from_a_clock_ahead_of_this_one_has_no_more_than_a_link_s_life() {
        let alive = judge(&link(9_000_000, 10_200_000), Some(kie_s(0)), MARGIN, at(0)).unwrap();
        assert_eq!((alive.ends_at, alive.age), (at(1_200_000), Duration::ZERO));
    }

    #[test]
    fn refusals_have_no_margin() {
        assert!(judge(&link(0, 30_000), Some(kie_s(29_999)), Duration::ZERO, at(0)).is_ok());
        assert_eq!(judge(&link(0, 30_000), Some(kie_s(30_000)), Duration::ZERO, at(0)), Err(Withheld::Dead));
    }

    #[test]
    fn an_answer_without_a_date_gives_nothing_to_keep() {
        let kie = KieClock::default();
        kie.heard(Some(kie_s(0)), None, at(0), at(10));
        let undated = kie.heard(None, None, at(20), at(30));
        assert_eq!(kept(&undated, link::LIFE, String::new()), None);
    }

    proptest! {
        /// A link is signed at some moment between the request and its answer, whose `Date` is cut to the second. It is
        /// read by another machine, whose clock has nothing to do with the first one's, and who last heard of kie.ai's
        /// clock at some other time. All clocks may drift.
        #[test]
        fn no_link_is_served_by_another_machine_after_its_margin(
            signed_at in 10_000i64..20_000,
            signed_after in 0i64..5000,
            answered_after in 0i64..5000,
            heard_at in 0i64..1_300_000,
            heard_after in 0i64..5000,
            asked_at in 1i64..1_300_000,
            offset in 0u64..10_000_000,
            drift in -400i64..400,
        ) {
            // By kie.ai's clock, which is the true one here.
            let second = |millis: i64| kie_s(millis.div_euclid(1000) * 1000);
            let local = |millis: i64, offset: u64| at((millis + millis * drift / 1_000_000) as u64 + offset);
            let sent = signed_at - signed_after;
            let received = signed_at + answered_after;
            let minting = KieClock::default();
            let heard = minting.heard(Some(second(received)), None, local(sent, 777), local(received, 777));
            let kept = kept(&heard, link::LIFE, String::new()).unwrap();

            let asked_at = asked_at.max(heard_at + heard_after).max(received);
            let reading = KieClock::default();
            let shown = Some(second(heard_at + heard_after / 2));
            reading.heard(shown, None, local(heard_at, offset), local(heard_at + heard_after, offset));
            let now = local(asked_at, offset);
            let ends = signed_at + 1_200_000;
            if let Ok(alive) = judge(&kept, reading.upper_bound(now), MARGIN, now) {
                // Half a second for the drift of the deadline itself, over twenty minutes.
                prop_assert!(alive.deadline <= local(ends - 60_000, offset) + Duration::from_millis(500));
            } else {
                let lost = (heard_after + signed_after + answered_after + 2000 + 3000) as u64;
                prop_assert!(local(ends - 60_000, offset) <= now + Duration::from_millis(lost));
            }
        }
    }
}
