//! The ends of links that kie.ai gives again and again. A link that does not say its end keeps the end that it had when
//! kie.ai gave it first.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{
    clock::{Heard, Instant, KieClock},
    link,
    upstream::{Minted, Via},
};

/// A link that is given again so long after its end counts as new.
const REMEMBERED: Duration = link::LIFE;

/// At the default `upstream.rate`, more than 25 minutes of links that are all different; some 2 MB at most.
const MOST: usize = 16 * 1024;

/// First ends, remembered by a keyed hash of the link, bounded in number and in time.
pub(super) struct FirstEnds {
    hash: RandomState,
    memory: Mutex<Memory>,
    /// kie.ai has given a link again after its end: it renews links without changing them.
    renews: AtomicBool,
}

#[derive(Default)]
struct Memory {
    ends: HashMap<u64, FirstEnd>,
    /// The oldest first.
    order: VecDeque<u64>,
}

#[derive(Clone, Copy)]
struct FirstEnd {
    ends_at: Instant,
    /// The end if kie.ai signed the link only when the answer came: a machine that sleeps leaves a request under way
    /// for hours.
    ends_at_last: Instant,
    heard: Heard,
    /// A gateway had kept the answer: perhaps only by that gateway's word has the link ended.
    was_kept: bool,
}

impl Memory {
    fn remember(&mut self, key: u64, end: FirstEnd, now: Instant) {
        if self.ends.insert(key, end).is_none() {
            self.order.push_back(key);
        }
        while let Some(oldest) = self.order.front() {
            let is_over = self.ends.get(oldest).is_none_or(|end| end.ends_at_last + REMEMBERED <= now);
            if !is_over && self.order.len() <= MOST {
                return;
            }
            self.ends.remove(oldest);
            self.order.pop_front();
        }
    }
}

impl FirstEnds {
    pub(super) fn new() -> FirstEnds {
        FirstEnds { hash: RandomState::new(), memory: Mutex::default(), renews: AtomicBool::new(false) }
    }

    /// `minted` with the end that its link really has. A link that was given before, and has not ended since, has its
    /// first end. When kie.ai gives a link again after its first end, it has evidently renewed the link, and from then
    /// on repeated links count as new.
    pub(super) fn bound(&self, minted: Minted, kie_clock: &KieClock) -> Minted {
        if minted.says_its_end {
            return minted;
        }
        let (key, now) = (self.hash.hash_one(minted.link.as_str()), minted.sent_at);
        // Not `now`: a gateway may have kept the answer.
        let given_at = minted.ends_at - link::LIFE;
        let is_own = minted.via == Via::Kie;
        let new = FirstEnd {
            ends_at: minted.ends_at,
            // Another replica has said when its link ends, whoever signed it when; and its word is no answer of kie.ai's.
            ends_at_last: if is_own { minted.ends_at + now.until(minted.heard.at()) } else { minted.ends_at },
            heard: minted.heard,
            was_kept: given_at < now || !is_own,
        };
        let mut memory = self.lock();
        let Some(first) = memory.ends.get(&key).copied().filter(|_| !self.renews()) else {
            memory.remember(key, new, now);
            return minted;
        };
        // Judged by our clock alone: otherwise an answer with a wrong `Date` would make a living link seem renewed.
        if given_at >= first.ends_at_last {
            memory.remember(key, new, now);
            if !first.was_kept && !self.renews.swap(true, Ordering::Relaxed) {
                tracing::info!(
                    "kie.ai has given a link again after its end: it renews links without changing them, so repeated \
                     links count as new ones from now on",
                );
            }
            return minted;
        }
        // A new end may be the earlier one: a gateway that keeps answers gives a known link with even less life.
        if minted.ends_at + kie_clock.ahead_since(&first.heard, now) <= first.ends_at {
            return minted;
        }
        Minted { ends_at: first.ends_at, heard: first.heard, ..minted }
    }

    /// Whether kie.ai was seen to renew links without changing them.
    pub(super) fn renews(&self) -> bool {
        self.renews.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        // A panic in between leaves at worst a key without its end, which is passed over.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{Link, Policy};

    fn at(seconds: u64) -> Instant {
        Instant::from_origin(Duration::from_secs(seconds))
    }

    impl FirstEnds {
        /// Where kie.ai's clock agrees with ours.
        fn end(&self, minted: Minted) -> Instant {
            self.bound(minted, &KieClock::default()).ends_at
        }
    }

    fn minted(text: &str, sent_at: u64) -> Minted {
        let heard = KieClock::default().heard(None, None, at(sent_at), at(sent_at));
        let link = Link::parse(text, &Policy::default()).unwrap();
        Minted {
            link,
            sent_at: at(sent_at),
            ends_at: at(sent_at) + link::LIFE,
            heard,
            says_its_end: false,
            via: Via::Kie,
        }
    }

    #[test]
    fn a_link_that_is_given_again_keeps_its_first_end_until_that_has_passed() {
        let ends = FirstEnds::new();
        for (sent_at, end) in [(100, 1300), (820, 1300), (1299, 1300), (1300, 2500), (1400, 2600)] {
            assert_eq!(ends.end(minted("https://h.example/a", sent_at)), at(end), "{sent_at}");
        }
        assert!(ends.renews());
        assert_eq!(ends.end(minted("https://h.example/b", 1400)), at(2600));
        assert_eq!(ends.end(minted("https://h.example/b", 1500)), at(2700), "of any file");
    }

    #[test]
    fn what_was_dead_when_it_came_and_is_given_again_is_not_renewed() {
        let (ends, kie) = (FirstEnds::new(), KieClock::default());
        let heard = kie.heard(None, None, at(100), at(2000));
        ends.bound(Minted { heard, ..minted("https://h.example/a", 100) }, &kie);
        for (sent_at, end) in [(2001, 1300), (3199, 1300), (3200, 4400)] {
            assert_eq!(ends.end(minted("https://h.example/a", sent_at)), at(end), "{sent_at}");
        }
    }

    #[test]
    fn another_link_has_an_end_of_its_own() {
        let ends = FirstEnds::new();
        ends.end(minted("https://h.example/a", 100));
        assert_eq!(ends.end(minted("https://h.example/b", 200)), at(1400));
    }

    #[test]
    fn they_are_bounded_in_number_and_in_time() {
        let ends = FirstEnds::new();
        for number in 0..MOST as u64 + 9 {
            ends.end(minted(&format!("https://h.example/{number}"), 100));
        }
        assert_eq!(ends.lock().ends.len(), MOST);
        assert_eq!(ends.end(minted("https://h.example/9", 200)), at(1300), "the oldest went first");
        ends.end(minted("https://h.example/later", 2500));
        let memory = ends.lock();
        assert_eq!((memory.ends.len(), memory.order.len()), (1, 1));
    }

    #[test]
    fn a_link_that_says_its_end_is_believed() {
        let ends = FirstEnds::new();
        ends.end(minted("https://h.example/a", 100));
        let told = Minted { says_its_end: true, ..minted("https://h.example/a", 200) };
        assert_eq!(ends.end(told), at(1400));
    }

    #[test]
    fn what_only_kie_ai_s_clock_shows_renews_nothing_until_the_first_end_has_passed_here() {
        let ends = FirstEnds::new();
        let kie = KieClock::default();
        let given = |sent_at: u64, shown: i64| {
            let date = jiff::Timestamp::from_second(1_780_000_000 + shown).unwrap();
            let heard = kie.heard(Some(date), None, at(sent_at), at(sent_at));
            ends.bound(Minted { heard, ..minted("https://h.example/a", sent_at) }, &kie).ends_at
        };
        assert_eq!(given(100, 100), at(1300));
        assert_eq!(given(200, 1100), at(1300), "1,000 s have passed there, and its end has not");
        assert_eq!(given(200, 1402), at(1300));
        assert_eq!(given(210, 1412), at(1300), "the first answer may have been misdated");
        assert_eq!(given(1300, 2502), at(2500));
    }

    #[test]
    fn an_end_that_kie_ai_s_clock_has_brought_nearer_is_not_put_off_by_a_kept_answer() {
        let (ends, kie) = (FirstEnds::new(), KieClock::default());
        let heard = |now: u64, shown: i64| {
            let date = jiff::Timestamp::from_second(1_780_000_000 + shown).unwrap();
            kie.heard(Some(date), None, at(now), at(now))
        };
        ends.bound(Minted { heard: heard(100, 100), ..minted("https://h.example/a", 100) }, &kie);
        // 560 s later there than here, an answer comes that a gateway kept for 861 s.
        let kept = Minted { heard: heard(700, 1260), ..minted("https://h.example/a", 700) };
        let bound = ends.bound(Minted { ends_at: at(1039), ..kept }, &kie);
        assert!(bound.ends_at - kie.ahead_since(&bound.heard, at(700)) <= at(740));
        // An answer that was kept for longer than the end is past was given before the end.
        let kept = Minted { heard: heard(900, 1460), ..minted("https://h.example/a", 900) };
        let bound = ends.bound(Minted { ends_at: at(1239), ..kept }, &kie);
        assert!(bound.ends_at - kie.ahead_since(&bound.heard, at(900)) <= at(740));
    }

    #[test]
    fn what_a_gateway_had_kept_proves_no_renewal() {
        let (ends, kie) = (FirstEnds::new(), KieClock::default());
        ends.bound(Minted { ends_at: at(100), ..minted("https://h.example/a", 100) }, &kie);
        assert_eq!(ends.end(minted("https://h.example/a", 200)), at(1400));
        assert!(!ends.renews());
    }
}
