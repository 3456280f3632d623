//! What a replica keeps of the fleet's quota by itself: its share, what it owes, and who waits for which token. Pure.

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use tokio::sync::watch;

use super::{
    bucket::Bucket,
    others::{Live, Others},
};
use crate::{
    clock::Instant,
    shared::{self, Debt, Quota, Take},
};

/// Times cross the tier in whole milliseconds.
const ROUNDING: Duration = Duration::from_millis(2);

#[derive(Debug)]
pub(super) struct Local {
    seen: shared::Fleet,
    debt: Debt,
    bucket: Bucket,
    /// What the fleet's bucket held with the last beat; `None` before the first.
    level: Option<(f64, Instant)>,
    /// Tokens that this replica has had since, of there or of the share.
    taken: u32,
    /// So many questions for one are under way.
    asked: u32,
    others: Others,
    /// How many replicas are together, of how many that were seen within a minute.
    together: (NonZeroU32, NonZeroU32),
    /// Requests that wait for the tokens that they were promised, by numbers that each has had alone.
    waiting: BTreeMap<u64, Waiter>,
    next_number: u64,
    promised: Option<Promised>,
}

/// What the fleet's bucket has promised here.
#[derive(Debug, Clone, Copy)]
struct Promised {
    /// When the last of these tokens comes.
    until: Instant,
    heard_at: Instant,
}

/// A request that waits for its token.
#[derive(Debug)]
struct Waiter {
    /// The fleet's bucket has given one for it.
    is_told: bool,
    /// When it goes.
    turn: watch::Sender<Instant>,
    /// Later is of no use to it.
    at_last: Instant,
}

/// A token that the fleet's bucket does not know of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Untold {
    /// Its request has gone.
    Spent,
    /// It is waited for by this number, and comes when the share gives it: what the fleet's bucket gives belongs to those, too,
    /// who have not found the tier yet, and go at the pace of theirs.
    Waiting(u64),
    /// It is waited for by this number, and comes when the fleet's bucket gives it.
    Moving(u64),
}

impl Untold {
    fn number(self) -> Option<u64> {
        match self {
            Untold::Spent => None,
            Untold::Waiting(number) | Untold::Moving(number) => Some(number),
        }
    }
}

impl Local {
    /// Before the tier is there, the share is as full as a bucket is at a start.
    pub(super) fn new(presumed: NonZeroU32) -> Local {
        Local {
            seen: shared::Fleet::new(presumed),
            debt: Debt::default(),
            bucket: Bucket::default(),
            level: None,
            taken: 0,
            asked: 0,
            others: Others::new(),
            together: (NonZeroU32::MIN, NonZeroU32::MIN),
            waiting: BTreeMap::new(),
            next_number: 0,
            promised: None,
        }
    }

    pub(super) fn replicas(&self) -> NonZeroU32 {
        self.seen.replicas().max(self.others.remembered())
    }

    /// What those who see the tier may send together: others may be cut off, and keep their shares.
    pub(super) fn of_those_together(&self, quota: Quota) -> Quota {
        quota.part(self.together.0, self.together.1)
    }

    /// A beat, asked for at `asked_at`, has told which replicas are live, how many of them are together, and what the fleet's
    /// bucket holds.
    pub(super) fn saw(
        &mut self,
        live: &Live,
        together: (u32, u32),
        level: f64,
        quota: Quota,
        asked_at: Instant,
        now: Instant,
    ) {
        self.seen.saw(u32::try_from(live.len()).unwrap_or(u32::MAX), now);
        // Whoever hears it is one of them.
        let some = |count| NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN);
        let (present, remembered) = (some(together.0), some(together.1));
        self.together = match self.others.heard(live, now) {
            None => (present, remembered),
            Some((heard, of)) => (present.min(heard), remembered.max(of)),
        };
        (self.level, self.taken) = (Some((level, now)), 0);
        let ahead = self.promised_before(asked_at).map_or(Duration::ZERO, |until| now.until(until));
        // Of a bucket that has made them, less than none of it is left; one token is for rounding.
        if !ahead.is_zero() && level > 1.0 - ahead.as_secs_f64() / quota.period.as_secs_f64() {
            self.promised = None;
            self.forget_promises(None);
        }
    }

    /// The fleet's bucket, asked at `asked_at`, has given a token that comes after this wait, for what it was told of, if it was.
    /// One that comes before another that was promised earlier is of a bucket that has lost its promises. Returns whether it has.
    pub(super) fn given(&mut self, wait: Duration, asked_at: Instant, now: Instant, told: Option<Untold>) -> bool {
        self.taken += 1;
        let comes_at = asked_at + wait;
        let is_lost = self.promised_before(asked_at).is_some_and(|until| now + wait + ROUNDING < until);
        if is_lost || self.promised.is_none_or(|promised| promised.until < comes_at) {
            self.promised = Some(Promised { until: comes_at, heard_at: now });
        }
        if is_lost {
            self.forget_promises(told.and_then(Untold::number));
        }
        is_lost
    }

    /// Until when tokens come that the bucket had promised here before it was asked. Answers that come together are read in any
    /// order.
    fn promised_before(&self, asked_at: Instant) -> Option<Instant> {
        self.promised.filter(|promised| promised.heard_at <= asked_at).map(|promised| promised.until)
    }

    /// All are to be made anew, but for the one just made: their requests go all the same.
    fn forget_promises(&mut self, but: Option<u64>) {
        for (number, waiter) in &mut self.waiting {
            waiter.is_told = but == Some(*number);
        }
    }

    /// What the fleet's bucket is to be told of next. It is taken for told.
    pub(super) fn next_untold(&mut self) -> Option<Untold> {
        if self.debt.settle_one() {
            return Some(Untold::Spent);
        }
        let (number, waiter) = self.waiting.iter_mut().find(|(_, waiter)| !waiter.is_told)?;
        waiter.is_told = true;
        Some(if self.others.are_known() { Untold::Moving(*number) } else { Untold::Waiting(*number) })
    }

    /// It was not told.
    pub(super) fn unheard(&mut self, untold: Untold) {
        match untold.number().and_then(|number| self.waiting.get_mut(&number)) {
            Some(waiter) => waiter.is_told = false,
            None => self.debt.spent(),
        }
    }

    /// A question for a token begins, or is over.
    pub(super) fn asks(&mut self, begins: bool) {
        if begins { self.asked += 1 } else { self.asked -= 1 }
    }

    /// A request waits for its token, until its turn. `is_told`: the token is the fleet's, and not of the share.
    pub(super) fn waits(&mut self, turn: Instant, at_last: Instant, is_told: bool) -> (u64, watch::Receiver<Instant>) {
        let (turn, mine) = watch::channel(turn);
        let number = self.next_number;
        self.next_number += 1;
        self.waiting.insert(number, Waiter { is_told, turn, at_last });
        (number, mine)
    }

    /// The fleet's bucket has given a token to who waits by this number.
    pub(super) fn move_to(&self, number: u64, comes_at: Instant) {
        // Earlier or later it would go beside those whose turn it is then. Where that is too late, it keeps its own: all that
        // have one deadline would go at that.
        if let Some(waiter) = self.waiting.get(&number).filter(|waiter| comes_at <= waiter.at_last) {
            waiter.turn.send_replace(comes_at);
        }
    }

    /// A request that waited goes, or is given up: its token is spent.
    pub(super) fn ended(&mut self, number: u64) {
        if self.waiting.remove(&number).is_some_and(|waiter| !waiter.is_told) {
            self.debt.spent();
        }
    }

    /// A token of the share was spent that nobody has told of.
    pub(super) fn spent(&mut self) {
        self.debt.spent();
    }

    /// PAY was not heard.
    pub(super) fn owes(&mut self, debt: Debt) {
        self.debt.and(debt);
    }

    /// Whether it is known which of the others have found the tier.
    pub(super) fn knows_others(&self) -> bool {
        self.others.are_known()
    }

    #[cfg(test)]
    pub(super) fn owes_nothing(&self) -> bool {
        self.debt.tokens() == 0
    }

    /// The tier is not there, for nobody. Who has just begun knows of no others, whom it could listen for.
    pub(super) fn lost(&mut self) {
        if self.level.is_some() {
            self.others.lost(self.replicas());
        }
    }

    /// The tier is away, or late. What its bucket held last is shared out: all replicas' parts together are no more than that.
    pub(super) fn away(&mut self, quota: Quota, now: Instant) {
        let replicas = self.replicas();
        let share = quota.share(replicas);
        let tokens = match self.level {
            Some((level, at)) => {
                let since = at.until(now).as_secs_f64() / share.period.as_secs_f64();
                level / f64::from(replicas.get()) + since - f64::from(self.taken)
            }
            None => f64::from(share.burst.get()),
        };
        self.bucket.leave(tokens, share, now);
    }

    /// The tier is there: what PAY is to take for those tokens that were spent while it was away, which it has refilled since.
    /// Who was away with the others answers for them, too: what they have spent would be taken for a burst that nobody has
    /// used. Otherwise the debt is cut to a burst.
    pub(super) fn back(&mut self, quota: Quota) -> Option<(Debt, NonZeroU32)> {
        if !self.others.is_lost() {
            self.debt.cap(quota.burst);
            return None;
        }
        let debt = std::mem::take(&mut self.debt);
        let owed = debt.owed(quota, self.replicas())?;
        Some((debt, owed))
    }

    pub(super) fn take(&mut self, quota: Quota, longest_wait: Duration, keep: u32, now: Instant) -> Take {
        let share = quota.share(self.replicas());
        let keep = keep.min(share.burst.get() - 1);
        let taken = self.bucket.take(share, longest_wait, keep, now);
        self.taken += u32::from(matches!(taken, Take::Go { .. }));
        taken
    }

    /// Whether the questions under way, if all are granted, leave the share anything, one of which is that of whoever asks this.
    pub(super) fn has_more_than_is_asked(&self, quota: Quota, now: Instant) -> bool {
        let share = quota.share(self.replicas());
        self.bucket.tokens(share, now) >= f64::from(self.asked.saturating_sub(1))
    }

    /// The last token of the share is not needed: the tier has given one.
    pub(super) fn give_back(&mut self, quota: Quota) {
        self.bucket.give_back(quota.share(self.replicas()));
        self.taken = self.taken.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTA: Quota = Quota { period: Duration::from_millis(100), burst: NonZeroU32::new(4).unwrap() };

    fn at(millis: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(millis))
    }

    fn some(number: u32) -> NonZeroU32 {
        NonZeroU32::new(number).unwrap()
    }

    /// Replicas of these names, which have all said something.
    fn live(names: &[&str]) -> Vec<(String, Option<Vec<u8>>)> {
        names.iter().map(|name| ((*name).to_owned(), Some(vec![1]))).collect()
    }

    impl Local {
        fn wait(&mut self, number: u64, is_told: bool) {
            let turn = watch::Sender::new(at(3000));
            self.waiting.insert(number, Waiter { is_told, turn, at_last: at(5000) });
        }

        /// Which of those who wait are not told of.
        fn untold(&self) -> Vec<u64> {
            self.waiting.iter().filter(|(_, waiter)| !waiter.is_told).map(|(number, _)| *number).collect()
        }
    }

    /// Three wait for tokens that they were promised, the last of which comes at 2.5 s; this was heard at 1 s.
    fn waiting() -> Local {
        let mut local = Local::new(NonZeroU32::MIN);
        local.back(QUOTA);
        for number in 0..3 {
            let wait = Duration::from_millis(1300 + number * 100);
            assert!(!local.given(wait, at(1000), at(1000), None));
            local.wait(number, true);
        }
        local
    }

    #[test]
    fn promises_that_the_bucket_has_lost_are_made_anew() {
        for (level, asked_at, now, is_lost, why) in [
            (-15.0, 1000, 1000, false, "all are there"),
            (-10.0, 1500, 1500, false, "as many as are left"),
            (-9.0, 1500, 1500, false, "and one for rounding"),
            (-8.9, 1500, 1500, true, "more than rounding takes"),
            (-30.0, 1500, 1500, false, "others were promised some, too"),
            (-3.0, 1500, 1500, true, "some are missing"),
            (4.0, 2400, 2400, true, "the last one, too"),
            (4.0, 2500, 2500, false, "none is left"),
            (4.0, 999, 1500, false, "it was asked before they were made"),
        ] {
            let mut local = waiting();
            local.saw(&live(&["one"]), (1, 1), level, QUOTA, at(asked_at), at(now));
            assert_eq!(local.untold().len(), if is_lost { 3 } else { 0 }, "{why}");
            if is_lost {
                while local.next_untold().is_some() {}
                local.saw(&live(&["one"]), (1, 1), level, QUOTA, at(now), at(now));
                assert_eq!(local.untold(), [0; 0], "{why}: once");
            }
        }
    }

    #[test]
    fn a_token_that_comes_before_those_that_were_promised_tells_that_they_are_lost() {
        for (wait, asked_at, now, is_lost, why) in [
            (100, 1500, 1510, true, "it comes first"),
            (1100, 1500, 1510, false, "it comes last"),
            (700, 1500, 1900, false, "a late answer: it may come last"),
            (998, 1500, 1500, false, "it comes last but for what rounding takes"),
            (997, 1500, 1500, true, "no rounding takes so much"),
            (100, 999, 1010, false, "asked before they were made"),
        ] {
            let mut local = waiting();
            assert_eq!(
                local.given(Duration::from_millis(wait), at(asked_at), at(now), Some(Untold::Moving(1))),
                is_lost,
                "{why}"
            );
            assert_eq!(local.untold(), if is_lost { vec![0, 2] } else { vec![] }, "{why}");
            assert!(!is_lost || !local.given(Duration::from_millis(wait + 100), at(now), at(now), None), "once");
        }
    }

    #[test]
    fn answers_that_come_together_are_read_in_any_order() {
        let mut local = Local::new(NonZeroU32::MIN);
        for wait in [300, 100, 200] {
            assert!(!local.given(Duration::from_millis(wait), at(1000), at(1005), None), "{wait}");
        }
        assert!(local.given(Duration::from_millis(100), at(1005), at(1005), None), "the last one came at 1.3 s");
    }

    #[test]
    fn each_token_that_the_bucket_does_not_know_of_is_told_once() {
        let mut local = waiting();
        local.wait(7, false);
        local.wait(8, false);
        local.debt.spent();
        let told: Vec<_> = std::iter::from_fn(|| local.next_untold()).collect();
        assert_eq!(told, [Untold::Spent, Untold::Moving(7), Untold::Moving(8)]);
        // What was not heard is told again, for whoever waits still and for whoever is gone.
        local.ended(7);
        assert_eq!(local.debt.tokens(), 0, "it was told of");
        told.iter().for_each(|untold| local.unheard(*untold));
        assert_eq!((local.debt.tokens(), local.untold()), (2, vec![8]));
        local.ended(8);
        assert_eq!(local.debt.tokens(), 3, "spent without a word");
        local.ended(2);
        assert_eq!(local.debt.tokens(), 3, "the tier's own");
        // The others have not been heard.
        local.saw(&live(&["a", "b"]), (2, 2), 0.0, QUOTA, at(2500), at(2500));
        local.lost();
        local.saw(&live(&["a", "b"]), (2, 2), 0.0, QUOTA, at(3000), at(3000));
        local.wait(9, false);
        let told: Vec<_> = std::iter::from_fn(|| local.next_untold()).collect();
        assert_eq!(told, [Untold::Spent, Untold::Spent, Untold::Spent, Untold::Waiting(9)]);
    }

    #[test]
    fn who_waits_goes_when_the_fleet_s_bucket_says_unless_that_is_too_late() {
        for (comes, turn) in [(1000, 1000), (4000, 4000), (5000, 5000), (5001, 3000)] {
            let mut local = waiting();
            local.wait(7, false);
            local.move_to(7, at(comes));
            assert_eq!(*local.waiting[&7].turn.borrow(), at(turn), "{comes}");
        }
    }

    #[test]
    fn questions_under_way_may_be_all_that_the_share_has() {
        for (asked, is_enough) in [(1, true), (4, true), (5, false)] {
            let mut local = Local::new(NonZeroU32::MIN);
            local.asked = asked;
            // Of four, one is taken, and one question is that of whoever took it.
            local.take(QUOTA, Duration::ZERO, 0, at(0));
            assert_eq!(local.has_more_than_is_asked(QUOTA, at(0)), is_enough, "{asked}");
            let left = (0..9).filter(|_| matches!(local.take(QUOTA, Duration::ZERO, 0, at(0)), Take::Go { .. }));
            assert_eq!(left.count(), 3, "what was asked for is not spent yet");
        }
    }

    #[test]
    fn who_was_away_with_the_others_answers_for_them() {
        let mut local = Local::new(NonZeroU32::MIN);
        let all = live(&["a", "b", "c"]);
        local.saw(&all, (3, 3), 4.0, QUOTA, at(0), at(0));
        local.debt.spent();
        assert!(local.back(QUOTA).is_none() && local.debt.tokens() == 1, "a question that was not answered");
        local.lost();
        let (debt, owed) = local.back(QUOTA).unwrap();
        assert_eq!((debt.tokens(), owed, local.debt.tokens()), (1, some(3), 0));
        assert!(local.back(QUOTA).is_none(), "it is asked for once");
        local.debt.spent();
        local.debt.and(debt);
        assert_eq!(local.back(QUOTA).map(|(_, owed)| owed), Some(some(4)), "PAY was not answered; a burst at most");
        // A tier that has lost its memory.
        local.saw(&all[..1], (1, 1), 0.0, QUOTA, at(1000), at(1000));
        assert_eq!((local.replicas(), local.of_those_together(QUOTA)), (some(3), QUOTA.part(some(1), some(3))));
        (0..9).for_each(|_| local.debt.spent());
        assert!(local.back(QUOTA).is_none() && local.debt.tokens() == 4, "the rest was refilled");
    }

    #[test]
    fn a_share_that_was_spent_is_no_fuller_after_the_next_outage() {
        let mut local = Local::new(NonZeroU32::MIN);
        local.saw(&live(&["a"]), (1, 1), 4.0, QUOTA, at(0), at(0));
        for outage in 0..3 {
            local.away(QUOTA, at(10));
            let taken = (0..10).filter(|_| matches!(local.take(QUOTA, Duration::ZERO, 0, at(10)), Take::Go { .. }));
            assert_eq!(taken.count(), if outage == 0 { 4 } else { 0 });
            local.back(QUOTA);
        }
    }
}
