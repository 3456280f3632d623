//! What a replica keeps of the fleet's quota by itself: its share, what it owes, and who waits for a token of which the fleet's
//! bucket does not know. Pure.

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use super::{
    bucket::Bucket,
    others::{Live, Others},
};
use crate::{
    clock::Instant,
    shared::{self, Debt, Quota, Take},
};

#[derive(Debug)]
pub(super) struct Local {
    seen: shared::Fleet,
    debt: Debt,
    bucket: Bucket,
    /// Tokens that the fleet's bucket held with the last beat; `None` before the first.
    held: Option<(f64, Instant)>,
    /// Tokens that this replica has had since, of that bucket or of its share.
    taken: u32,
    /// So many questions for one are under way.
    asked: u32,
    others: Others,
    /// How many replicas see the tier, of how many that were seen within a minute.
    there: (NonZeroU32, NonZeroU32),
    present: Present,
    /// Requests that wait for tokens of the share, by numbers that each has had alone.
    waiting: BTreeMap<u64, Token>,
    next_number: u64,
}

/// Who is there, by a beat.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Present {
    /// So many have beaten of late, and know who else has found the tier.
    pub(super) together: u32,
    /// So many of these are apart.
    pub(super) apart: u32,
    /// So many more have just found the tier, and will know in a second.
    pub(super) listening: u32,
    /// So many were seen within a minute.
    pub(super) of: u32,
}

#[cfg(test)]
impl Present {
    /// Nobody listens.
    pub(super) fn known(together: u32, of: u32, apart: u32) -> Present {
        Present { together, of, apart, listening: 0 }
    }
}

/// How the fleet's bucket hears of a token of the share that is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    /// The next bill tells of it, or keeps it.
    Untold,
    /// It was told of while the request waits: the rest of the rate is for others.
    Told,
    /// It is told of when the request goes, as this replica went by its share when that came, or at the bill; told at once,
    /// the bucket would have refilled it long before. As long as there is one, this replica is apart, and the others leave it
    /// its share.
    Kept,
}

/// How new requests take tokens of the fleet's bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Together {
    /// What those who see the tier may send together: the others may be cut off, and keep their shares.
    pub(super) quota: Quota,
    /// What part of it those who are apart leave: waits are divided by it, as the bucket gives tokens for them, too, meanwhile.
    /// Nothing where all are apart: then a token is taken that is there already, or none.
    rest: f64,
    /// So many are apart: for each of them a token is left, as their turns may come at once.
    apart: u32,
    /// Some have just found the tier: in a second it is the quota of more.
    grows: bool,
    /// Where all are apart: how long this replica goes by its share, as its own that wait go first.
    queue: Duration,
}

impl Together {
    /// Nobody is apart.
    pub(super) fn all_of(quota: Quota) -> Together {
        Together { quota, rest: 1.0, apart: 0, grows: false, queue: Duration::ZERO }
    }

    /// Whether turns may soon come faster than they do now.
    pub(super) fn may_speed_up(self) -> bool {
        self.grows || self.apart > 0
    }

    /// How many tokens to leave in the bucket, where `keep` are to be left for other reasons.
    pub(super) fn keep(self, keep: u32) -> u32 {
        keep.saturating_add(self.apart).min(self.quota.burst.get() - 1)
    }

    /// How far ahead the bucket is to look for a turn that comes within this wait.
    pub(super) fn reach(self, longest_wait: Duration) -> Duration {
        longest_wait.mul_f64(self.rest)
    }

    /// When the turn comes that the bucket has given after `wait`, and would be full `ahead` of then.
    pub(super) fn wait(self, wait: Duration, ahead: Duration) -> Duration {
        let left = self.quota.period.saturating_mul(self.keep(0));
        self.stretched(wait.max((ahead + left).saturating_sub(self.quota.window())))
    }

    /// When there would be a turn, where the bucket would give one after `wait`. It may be sooner, as some that are apart now
    /// will not be.
    pub(super) fn retry_after(self, wait: Duration) -> Duration {
        self.stretched(wait).max(self.queue)
    }

    fn stretched(self, wait: Duration) -> Duration {
        if self.rest > 0.0 { wait.div_f64(self.rest) } else { wait }
    }
}

/// Tokens that the fleet's bucket is told of.
#[derive(Debug)]
pub(super) struct Bill {
    /// Of those who see the tier: the bucket gives it to them, and the others keep theirs.
    pub(super) quota: Quota,
    debt: Debt,
    /// The numbers of those who wait for theirs.
    waiting: Vec<u64>,
    /// What PAY is to take for all of them: some until the bucket is empty at most, and some also beyond that.
    pub(super) tokens: u32,
    pub(super) beyond: u32,
}

impl Local {
    /// Before the tier is there, the share is as full as a bucket is at a start.
    pub(super) fn new(presumed: NonZeroU32) -> Local {
        Local {
            seen: shared::Fleet::new(presumed),
            debt: Debt::default(),
            bucket: Bucket::default(),
            held: None,
            taken: 0,
            asked: 0,
            others: Others::new(),
            there: (NonZeroU32::MIN, NonZeroU32::MIN),
            present: Present::default(),
            waiting: BTreeMap::new(),
            next_number: 0,
        }
    }

    pub(super) fn replicas(&self) -> NonZeroU32 {
        self.seen.replicas().max(self.others.remembered())
    }

    /// `None` where it is not known who has found the tier: then this replica goes by its share.
    pub(super) fn together(&self, quota: Quota, now: Instant) -> Option<Together> {
        let ((there, _), apart) = (self.there, self.present.apart);
        let rest = f64::from(there.get().saturating_sub(apart)) / f64::from(there.get());
        let queues = rest == 0.0 && self.is_apart();
        let queue = if queues { self.bucket.queue(quota.share(self.replicas()), now) } else { Duration::ZERO };
        let grows = self.present.listening > 0;
        let together = Together { quota: self.part(quota), rest, apart, grows, queue };
        self.others.are_known().then_some(together)
    }

    /// What those who see the tier may send together.
    fn part(&self, quota: Quota) -> Quota {
        let (there, of) = self.there;
        quota.part(there, of)
    }

    /// Whether new requests do not ask the tier, be it away or just found.
    fn goes_by_share(&self) -> bool {
        self.held.is_none() || !self.others.are_known()
    }

    /// A beat has told which replicas are live, who of them is there, and what the fleet's bucket holds.
    pub(super) fn saw(&mut self, live: &Live, present: Present, held: f64, now: Instant) {
        self.seen.saw(u32::try_from(live.len()).unwrap_or(u32::MAX), now);
        // Whoever hears it is one of them.
        let some = |count| NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN);
        let (together, of) = (some(present.together), some(present.of));
        self.there = match self.others.heard(live, now) {
            None => (together, of),
            Some((heard, others)) => (together.min(heard), of.max(others)),
        };
        self.present = present;
        (self.held, self.taken) = (Some((held, now)), 0);
    }

    /// The fleet's bucket has given a token.
    pub(super) fn given(&mut self) {
        self.taken += 1;
    }

    /// What the fleet's bucket is to be told of now; `None` where that is nothing. It is taken for told.
    pub(super) fn bill(&mut self, quota: Quota) -> Option<Bill> {
        let quota = if self.others.are_known() { self.part(quota) } else { quota };
        let debt = std::mem::take(&mut self.debt);
        let goes_by_share = self.goes_by_share();
        let mut waiting = Vec::new();
        for (number, token) in self.waiting.iter_mut().filter(|(_, token)| **token == Token::Untold) {
            *token = if goes_by_share { Token::Kept } else { Token::Told };
            if !goes_by_share {
                waiting.push(*number);
            }
        }
        // They come beside all that the bucket has given.
        let waited = u32::try_from(waiting.len()).unwrap_or(u32::MAX);
        let (tokens, beyond) = if self.others.is_lost() || self.held.is_none() {
            // Who was away with the others answers for them, too: what they have spent would be taken for a burst that nobody
            // has used. It has been refilled since.
            (debt.owed(quota, self.replicas()), waited)
        } else {
            (0, waited.saturating_add(debt.owed(quota, NonZeroU32::MIN)))
        };
        (tokens > 0 || beyond > 0).then_some(Bill { quota, debt, waiting, tokens, beyond })
    }

    /// No answer came. Where it was paid all the same it is paid twice, which is the safe side.
    pub(super) fn unpaid(&mut self, bill: Bill) {
        self.debt.and(bill.debt);
        for number in bill.waiting {
            match self.waiting.get_mut(&number) {
                Some(token) => *token = Token::Untold,
                None => self.debt.spent(),
            }
        }
    }

    /// Whether the others are to leave this replica its share.
    pub(super) fn is_apart(&self) -> bool {
        self.waiting.values().any(|token| *token == Token::Kept)
    }

    /// Whether the others are to take it for absent.
    pub(super) fn is_listening(&self, now: Instant) -> bool {
        self.others.is_listening(now)
    }

    /// A question for a token begins, or is over.
    pub(super) fn asks(&mut self, begins: bool) {
        if begins { self.asked += 1 } else { self.asked -= 1 }
    }

    /// A request waits for a token of the share. Returns its number.
    pub(super) fn waits(&mut self) -> u64 {
        self.next_number += 1;
        let token = if self.goes_by_share() { Token::Kept } else { Token::Untold };
        self.waiting.insert(self.next_number, token);
        self.next_number
    }

    /// A request waits no more. Where it has gone, its token is spent; else its turn passes unused, and only what was told of it
    /// stays paid.
    pub(super) fn ended(&mut self, number: u64, has_gone: bool, quota: Quota, now: Instant) {
        if self.waiting.remove(&number).is_some_and(|token| token != Token::Told) && has_gone {
            self.debt.spent();
        }
        // Nobody comes behind turns that nobody has.
        if self.waiting.is_empty() && self.asked == 0 {
            self.bucket.owes_nobody(quota.share(self.replicas()), now);
        }
    }

    /// A token of the share was spent that nobody has told of.
    pub(super) fn spent(&mut self) {
        self.debt.spent();
    }

    /// Whether it knows who has found the tier, and has told it of all that was spent.
    #[cfg(test)]
    pub(super) fn is_square(&self) -> bool {
        self.others.are_known() && self.debt.tokens() == 0
    }

    /// The tier is not there, for nobody. Who has just begun knows of no others, whom it could listen for.
    pub(super) fn lost(&mut self) {
        if self.held.is_some() {
            self.others.lost(self.replicas());
        }
    }

    /// The tier is away, or late. What its bucket held last is shared out: all replicas' parts together are no more than that.
    pub(super) fn away(&mut self, quota: Quota, now: Instant) {
        let replicas = self.replicas();
        let share = quota.share(replicas);
        let tokens = match self.held {
            Some((held, at)) => {
                let since = at.until(now).as_secs_f64() / share.period.as_secs_f64();
                held / f64::from(replicas.get()) + since - f64::from(self.taken)
            }
            None => f64::from(share.burst.get()),
        };
        self.bucket.leave(tokens, share, now);
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

    fn told(bill: &Bill) -> (u32, u32) {
        (bill.tokens, bill.beyond)
    }

    #[test]
    fn each_token_that_the_bucket_does_not_know_of_is_told_once() {
        let mut local = Local::new(NonZeroU32::MIN);
        local.saw(&live(&["a"]), Present::known(1, 1, 0), 4.0, at(0));
        assert!(local.bill(QUOTA).is_none());
        let (stays, leaves) = (local.waits(), local.waits());
        local.spent();
        let bill = local.bill(QUOTA).unwrap();
        assert_eq!(told(&bill), (0, 3));
        assert!(local.bill(QUOTA).is_none(), "it is taken for told");
        local.ended(leaves, true, QUOTA, at(0));
        assert_eq!(local.debt.tokens(), 0, "it was told of");
        // What was not heard is told again, for whoever waits still and for whoever is gone.
        local.unpaid(bill);
        assert_eq!(local.debt.tokens(), 2);
        assert_eq!(told(&local.bill(QUOTA).unwrap()), (0, 3));
        local.ended(stays, true, QUOTA, at(0));
        assert!(local.bill(QUOTA).is_none());
        let untold = local.waits();
        local.ended(untold, true, QUOTA, at(0));
        assert_eq!(told(&local.bill(QUOTA).unwrap()), (0, 1), "spent without a word");
        let given_up = local.waits();
        for _ in 0..9 {
            local.take(QUOTA, Duration::from_secs(9), 0, at(0));
        }
        let goes_on = local.waits();
        local.ended(given_up, false, QUOTA, at(0));
        assert_eq!(local.bucket.queue(QUOTA, at(0)), Duration::from_millis(500));
        local.ended(goes_on, false, QUOTA, at(0));
        assert!(local.bill(QUOTA).is_none(), "not spent");
        let next = local.take(QUOTA, Duration::from_secs(9), 0, at(0));
        assert_eq!(next, Take::Go { wait: QUOTA.period }, "nobody is before it, and nothing is left");
        (0..9).for_each(|_| local.spent());
        assert_eq!(told(&local.bill(QUOTA).unwrap()), (0, 4), "a burst at most: the rest was refilled");
    }

    #[test]
    fn who_waited_while_the_tier_was_away_is_told_of_when_it_goes_and_until_then_its_replica_is_apart() {
        let mut local = Local::new(NonZeroU32::MIN);
        local.saw(&live(&["a"]), Present::known(1, 1, 0), 4.0, at(0));
        let (told_of, waits) = (local.waits(), local.waits());
        assert_eq!(told(&local.bill(QUOTA).unwrap()), (0, 2));
        assert!(!local.is_apart());
        local.ended(told_of, true, QUOTA, at(0));
        local.lost();
        let first = local.waits();
        assert!(local.bill(QUOTA).is_none());
        assert!(local.is_apart());
        local.saw(&live(&["a"]), Present::known(1, 1, 1), 4.0, at(1000));
        let last = local.waits();
        local.saw(&live(&["a"]), Present::known(1, 1, 1), 4.0, at(2000));
        assert!(local.bill(QUOTA).is_none(), "when it came, it was not known who has found the tier");
        // Its first is to go in 100 ms, its second in 200.
        for _ in 0..6 {
            local.take(QUOTA, Duration::from_secs(1), 0, at(2000));
        }
        let together = local.together(QUOTA, at(2000)).unwrap();
        let (reach, keep) = (together.reach(Duration::from_secs(9)), together.keep(0));
        assert_eq!((reach, keep), (Duration::ZERO, 1), "who is apart alone leaves nothing but what is there");
        let retry_after = [50, 300].map(|wait| together.retry_after(Duration::from_millis(wait)));
        assert_eq!(retry_after, [200, 300].map(Duration::from_millis), "its own that wait go first");
        local.ended(waits, true, QUOTA, at(0));
        local.ended(first, true, QUOTA, at(0));
        assert_eq!(told(&local.bill(QUOTA).unwrap()), (0, 1));
        // The tier is late for once.
        local.waits();
        assert_eq!(told(&local.bill(QUOTA).unwrap()), (0, 1), "it is there, and told at once");
        assert!(local.is_apart());
        local.ended(last, true, QUOTA, at(0));
        assert_eq!(told(&local.bill(QUOTA).unwrap()), (0, 1));
        assert!(!local.is_apart());
    }

    #[test]
    fn those_together_leave_who_is_away_or_apart_its_share() {
        let some_of = |there, of, rest, apart| Together {
            quota: QUOTA.part(some(there), some(of)),
            rest,
            apart,
            grows: false,
            queue: Duration::ZERO,
        };
        for (there, of, apart, together) in [
            (4, 4, 0, some_of(4, 4, 1.0, 0)),
            (3, 4, 0, some_of(3, 4, 1.0, 0)),
            (4, 4, 3, some_of(4, 4, 0.25, 3)),
            (2, 4, 1, some_of(2, 4, 0.5, 1)),
            (4, 4, 4, some_of(4, 4, 0.0, 4)),
            (3, 4, 4, some_of(3, 4, 0.0, 4)),
        ] {
            let mut local = Local::new(NonZeroU32::MIN);
            local.saw(&live(&["a", "b", "c", "d"]), Present::known(there, of, apart), 4.0, at(0));
            assert_eq!(local.together(QUOTA, at(0)), Some(together), "{there} of {of}, {apart} apart");
            for (listening, may_speed_up) in [(0, apart > 0), (1, true)] {
                let present = Present { listening, ..Present::known(there, of, apart) };
                local.saw(&live(&["a", "b", "c", "d"]), present, 4.0, at(0));
                assert_eq!(local.together(QUOTA, at(0)).map(Together::may_speed_up), Some(may_speed_up));
            }
            local.lost();
            assert_eq!(local.together(QUOTA, at(0)), None, "nobody knows");
        }
    }

    #[test]
    fn new_requests_take_turns_at_the_pace_that_those_who_are_apart_leave() {
        let millis = Duration::from_millis;
        // A window of 400 ms, of 4 tokens.
        let of = |rest, apart| Together { rest, apart, ..Together::all_of(QUOTA) };
        for (together, keep, wait, ahead, turn) in [
            (Together::all_of(QUOTA), 0, 0, 100, 0),
            (Together::all_of(QUOTA), 0, 200, 600, 200),
            (of(0.5, 1), 1, 0, 300, 0),
            (of(0.5, 1), 1, 0, 400, 200),
            (of(0.5, 1), 1, 200, 600, 600),
            (of(0.25, 9), 3, 0, 200, 400),
            (of(0.0, 1), 1, 0, 300, 0),
        ] {
            assert_eq!(together.keep(0), keep, "{together:?}");
            assert_eq!(together.keep(2), (keep + 2).min(3), "{together:?}");
            assert_eq!(together.wait(millis(wait), millis(ahead)), millis(turn), "{together:?} {wait} {ahead}");
        }
        assert_eq!((of(0.5, 1).reach(millis(1000)), of(0.5, 1).retry_after(millis(700))), (millis(500), millis(1400)));
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
        local.saw(&all, Present::known(3, 3, 0), 4.0, at(0));
        local.spent();
        local.lost();
        local.waits();
        let bill = local.bill(QUOTA).unwrap();
        assert_eq!(told(&bill), (3, 0), "the others have spent as much");
        assert!(local.bill(QUOTA).is_none());
        local.spent();
        local.unpaid(bill);
        assert_eq!(told(&local.bill(QUOTA).unwrap()), (4, 0), "a burst at most");
        // A tier that has lost its memory.
        local.saw(&all[..1], Present::known(1, 1, 0), 0.0, at(1000));
        local.saw(&all[..1], Present::known(1, 1, 0), 0.0, at(2000));
        assert_eq!((local.replicas(), local.there), (some(3), (some(1), some(3))));
        local.spent();
        assert_eq!(told(&local.bill(QUOTA).unwrap()), (0, 1));
        // The same holds for what was spent before the tier was there for the first time.
        let mut local = Local::new(some(3));
        local.spent();
        local.waits();
        assert_eq!(told(&local.bill(QUOTA).unwrap()), (3, 0));
        assert!(local.is_apart());
    }

    #[test]
    fn a_share_that_was_spent_is_no_fuller_after_the_next_outage() {
        let mut local = Local::new(NonZeroU32::MIN);
        local.saw(&live(&["a"]), Present::known(1, 1, 0), 4.0, at(0));
        for outage in 0..3 {
            local.away(QUOTA, at(10));
            let taken = (0..10).filter(|_| matches!(local.take(QUOTA, Duration::ZERO, 0, at(10)), Take::Go { .. }));
            assert_eq!(taken.count(), if outage == 0 { 4 } else { 0 });
            local.bill(QUOTA);
        }
    }
}
