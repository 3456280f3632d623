//! Which of the other replicas have found the tier again, after it was away. Each finds it at another time, up to ten
//! seconds apart where it comes and goes, and until then goes by its share. Pure.

use std::{collections::HashMap, num::NonZeroU32, time::Duration};

use crate::{clock::Instant, shared::REMEMBERED};

/// Within this time of a beat all others have beaten, but for who is a little late.
const ROUND: Duration = Duration::from_millis(900);

/// Live replicas, and what each has said last: sealed anew each time, so that no two are the same. `None` where a replica is
/// remembered, but what it said is not.
pub(super) type Live = [(String, Option<Vec<u8>>)];

type Said = HashMap<String, Option<Vec<u8>>>;

#[derive(Debug, Default)]
enum Sight {
    /// Each that lives has been heard.
    #[default]
    Everybody,
    /// The tier is away.
    Nobody,
    /// The first beat has come, with what each had said before.
    Listening(Instant, Said),
    /// The next ones have come, and some have said nothing new.
    Somebody(Instant, Said),
}

#[derive(Debug)]
pub(super) struct Others {
    sight: Sight,
    /// So many replicas there were when the tier was there last, this one among them. One that has lost its memory does not
    /// know of them.
    of: NonZeroU32,
}

impl Others {
    pub(super) fn new() -> Others {
        Others { sight: Sight::Everybody, of: NonZeroU32::MIN }
    }

    /// The tier is away from all of so many.
    pub(super) fn lost(&mut self, of: NonZeroU32) {
        *self = Others { sight: Sight::Nobody, of };
    }

    /// A beat has come. Tells how many replicas have been heard since the tier is there, this one among them, of how many;
    /// `None` where it was never away, or all have been heard.
    pub(super) fn heard(&mut self, live: &Live, now: Instant) -> Option<(NonZeroU32, NonZeroU32)> {
        let (since, said) = match std::mem::take(&mut self.sight) {
            Sight::Everybody => return None,
            Sight::Nobody => {
                self.sight = Sight::Listening(now, live.iter().cloned().collect());
                return Some((NonZeroU32::MIN, self.of));
            }
            Sight::Listening(since, said) if since.until(now) < ROUND => {
                self.sight = Sight::Listening(since, said);
                return Some((NonZeroU32::MIN, self.of));
            }
            Sight::Listening(since, said) | Sight::Somebody(since, said) => (since, said),
        };
        let heard = live.iter().filter(|(replica, record)| said.get(replica) != Some(record)).count();
        let is_all = heard == live.len() && heard >= self.of.get() as usize;
        if is_all || since.until(now) >= REMEMBERED {
            self.of = NonZeroU32::MIN;
            return None;
        }
        self.sight = Sight::Somebody(since, said);
        let heard = u32::try_from(heard).unwrap_or(u32::MAX);
        Some((NonZeroU32::new(heard).unwrap_or(NonZeroU32::MIN), self.of))
    }

    /// So many are to be reckoned with, whatever the tier knows.
    pub(super) fn remembered(&self) -> NonZeroU32 {
        self.of
    }

    /// Whether the tier was away, and no beat has come since.
    pub(super) fn is_lost(&self) -> bool {
        matches!(self.sight, Sight::Nobody)
    }

    /// Whether the others are to take this replica for absent: it goes by its share, and the beat that is made now does not tell it
    /// yet who has found the tier. One whose connection comes and goes never gets any further, and each time would be missed anew.
    pub(super) fn is_listening(&self, now: Instant) -> bool {
        match self.sight {
            Sight::Nobody => true,
            Sight::Listening(since, _) => since.until(now) < ROUND,
            Sight::Everybody | Sight::Somebody(..) => false,
        }
    }

    /// Whether those who have found the tier are known. Until then one's share goes on: the shares of those who have not, and
    /// the whole rate, would be twice the rate.
    pub(super) fn are_known(&self) -> bool {
        matches!(self.sight, Sight::Everybody | Sight::Somebody(..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(millis))
    }

    fn some(number: u32) -> NonZeroU32 {
        NonZeroU32::new(number).unwrap()
    }

    /// Replicas a, b, c, and what each has said last.
    fn live(records: &[u8]) -> Vec<(String, Option<Vec<u8>>)> {
        ["a", "b", "c"]
            .into_iter()
            .zip(records)
            .map(|(replica, record)| (replica.to_owned(), Some(vec![*record])))
            .collect()
    }

    fn pair(heard: u32, of: u32) -> Option<(NonZeroU32, NonZeroU32)> {
        Some((some(heard), some(of)))
    }

    #[test]
    fn who_has_said_nothing_since_the_tier_is_back_may_go_by_its_share() {
        let mut others = Others::new();
        assert_eq!((others.heard(&live(&[1, 1, 1]), at(0)), others.are_known()), (None, true), "at the start");
        others.lost(some(3));
        assert!(others.is_lost() && !others.are_known());
        for (now, records, heard, are_known, why) in [
            (5000, [3, 1, 1], pair(1, 3), false, "what they have said before"),
            (5800, [4, 2, 1], pair(1, 3), false, "too early to tell"),
            (6000, [5, 2, 1], pair(2, 3), true, "one is missing"),
            (7000, [6, 3, 1], pair(2, 3), true, "still"),
            (8000, [7, 4, 2], None, true, "all are there"),
            (9000, [8, 4, 2], None, true, "who is late now is not missing"),
        ] {
            assert_eq!((others.heard(&live(&records), at(now)), others.are_known()), (heard, are_known), "{why}");
            assert!(!others.is_lost());
        }
        assert_eq!(others.remembered(), some(1));
    }

    #[test]
    fn who_was_there_is_reckoned_with_though_the_tier_has_lost_its_memory() {
        let mut others = Others::new();
        others.lost(some(3));
        assert_eq!(others.heard(&live(&[1]), at(0)), pair(1, 3));
        assert_eq!(others.heard(&live(&[2]), at(1000)), pair(1, 3));
        assert_eq!(others.heard(&live(&[3, 1]), at(2000)), pair(2, 3));
        assert_eq!(others.heard(&live(&[4, 2]), at(59_999)), pair(2, 3));
        assert_eq!(others.remembered(), some(3));
        assert_eq!(others.heard(&live(&[5, 3]), at(60_000)), None, "a minute later it is gone");
        assert_eq!(others.remembered(), some(1));
        let mut more = Others::new();
        more.lost(some(2));
        more.heard(&live(&[1]), at(0));
        assert_eq!(more.heard(&live(&[2, 1, 1]), at(1000)), None, "others have come");
    }

    #[test]
    fn a_tier_that_goes_again_is_lost_again() {
        let mut others = Others::new();
        others.lost(some(2));
        others.heard(&live(&[1, 1]), at(0));
        others.lost(some(2));
        assert!(others.is_lost());
        assert_eq!(others.heard(&live(&[2, 2]), at(5000)), pair(1, 2));
    }

    #[test]
    fn until_it_knows_who_has_found_the_tier_a_replica_says_so() {
        let mut others = Others::new();
        assert!(!others.is_listening(at(0)), "at the start");
        for back_at in [1000, 2000] {
            others.lost(some(2));
            assert!(others.is_listening(at(back_at)), "it is away");
            others.heard(&live(&[1, 1]), at(back_at));
            let listens = [899, 900].map(|after| others.is_listening(at(back_at + after)));
            assert_eq!(listens, [true, false], "the beat that is made then tells it");
        }
        others.heard(&live(&[2, 1]), at(3000));
        assert!(!others.is_listening(at(3000)), "one is missing");
    }
}
