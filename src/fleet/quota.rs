//! The fleet's quota, as each request to kie.ai meets it: a token of the tier's bucket, or, while the tier is away, of
//! this replica's share.

use std::{future::Future, num::NonZeroU32, pin::Pin, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use super::{
    BEHIND, Fleet, Inner,
    bucket::Bucket,
    others::{Live, Others},
    realm::Realm,
};
use crate::{
    clock::Instant,
    shared::{self, Debt, Quota, Request, Take},
    upstream::{self, Ask, Reason, Refused},
};

/// Times cross the tier in whole milliseconds.
const ROUNDING: Duration = Duration::from_millis(2);

/// A token that is spent already is taken however late it comes.
const PROMISED: Duration = Duration::from_secs(120);

/// What this replica keeps of the quota by itself.
#[derive(Debug)]
pub(super) struct Local {
    seen: shared::Fleet,
    debt: Debt,
    bucket: Bucket,
    /// The tier is away, and the share counts.
    is_away: bool,
    /// What the fleet's bucket held with the last beat; `None` before the first.
    level: Option<(f64, Instant)>,
    /// Tokens that this replica has taken there since.
    taken: u32,
    others: Others,
    /// How many replicas are together, of how many that were seen within a minute.
    together: (NonZeroU32, NonZeroU32),
    /// Requests that wait for the tokens that they were promised.
    waiting: u32,
    /// Those of them whose tokens are of the share, and that the fleet's bucket does not know of.
    untold: u32,
    /// So often these were told.
    tellings: u64,
    /// Of those that were told, so many did not reach it.
    unheard: u32,
    /// When the last token comes that the fleet's bucket has promised here.
    promised_until: Option<Instant>,
}

/// A request that waits for its token.
struct Waiting<'a> {
    inner: &'a Inner,
    /// It is of the share, and when the fleet's bucket was told last, it was not there.
    told_before: Option<u64>,
}

impl<'a> Waiting<'a> {
    fn new(inner: &'a Inner) -> Waiting<'a> {
        inner.local().waiting += 1;
        Waiting { inner, told_before: None }
    }

    /// For a token of the share, which is spent.
    fn of_the_share(inner: &'a Inner) -> Waiting<'a> {
        let mut local = inner.local();
        local.debt.spent();
        local.waiting += 1;
        local.untold += 1;
        let told_before = Some(local.tellings);
        drop(local);
        Waiting { inner, told_before }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut local = self.inner.local();
        local.waiting -= 1;
        local.untold -= u32::from(self.told_before == Some(local.tellings));
    }
}

impl Local {
    /// Before the tier is there, the share is as full as a bucket is at a start.
    pub(super) fn new(presumed: NonZeroU32, quota: Quota, now: Instant) -> Local {
        let mut local = Local {
            seen: shared::Fleet::new(presumed),
            debt: Debt::default(),
            bucket: Bucket::default(),
            is_away: false,
            level: None,
            taken: 0,
            others: Others::new(),
            together: (NonZeroU32::MIN, NonZeroU32::MIN),
            waiting: 0,
            untold: 0,
            tellings: 0,
            unheard: 0,
            promised_until: None,
        };
        local.away(quota, now);
        local
    }

    pub(super) fn replicas(&self) -> NonZeroU32 {
        self.seen.replicas().max(self.others.remembered())
    }

    /// What those who see the tier may send together: others may be cut off, and keep their shares.
    fn of_those_together(&self, quota: Quota) -> Quota {
        quota.part(self.together.0, self.together.1)
    }

    /// A beat has told which replicas are live, how many of them are together, and what the fleet's bucket holds. Where that
    /// has lost the promises that it made here, so many are to be made anew: their requests go all the same.
    pub(super) fn saw(&mut self, live: &Live, together: (u32, u32), level: f64, quota: Quota, now: Instant) -> u32 {
        self.seen.saw(u32::try_from(live.len()).unwrap_or(u32::MAX), now);
        // Whoever hears it is one of them.
        let some = |count| NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN);
        let (present, remembered) = (some(together.0), some(together.1));
        self.together = match self.others.heard(live, now) {
            None => (present, remembered),
            Some((heard, of)) => (present.min(heard), remembered.max(of)),
        };
        (self.level, self.taken) = (Some((level, now)), 0);
        let ahead = self.promised_until.map(|until| now.until(until)).unwrap_or_default();
        // Of a bucket that has made them, less than none of it is left; one token is for rounding.
        if ahead.is_zero() || level <= 1.0 - ahead.as_secs_f64() / quota.period.as_secs_f64() {
            return 0;
        }
        self.promised_until = None;
        self.waiting - self.untold
    }

    /// The fleet's bucket, asked at `asked_at`, has given a token that comes after this wait. One that comes before another
    /// that was promised earlier is of a bucket that has lost its promises: so many are to be made anew.
    fn given(&mut self, wait: Duration, asked_at: Instant, now: Instant) -> u32 {
        let is_lost = self.promised_until.is_some_and(|until| now + wait + ROUNDING < until);
        let at = Some(asked_at + wait);
        self.promised_until = if is_lost { at } else { self.promised_until.max(at) };
        if is_lost { self.waiting - self.untold } else { 0 }
    }

    /// The tier is not there, for nobody. Who has just begun knows of no others, whom it could listen for.
    pub(super) fn lost(&mut self) {
        if self.level.is_some() {
            self.others.lost(self.replicas());
        }
    }

    /// The tier is away. What its bucket held last is shared out: all replicas' parts together are no more than that.
    pub(super) fn away(&mut self, quota: Quota, now: Instant) {
        if std::mem::replace(&mut self.is_away, true) {
            return;
        }
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

    /// The tier is there: how many tokens it is to be told of that come, and that were spent a moment ago; and what PAY takes
    /// for those that were spent while it was away, which it has refilled since. Who was away with the others answers for
    /// them, too: what they have spent would be taken for a burst that nobody has used.
    fn back(&mut self, quota: Quota) -> (u32, u32, Option<NonZeroU32>) {
        self.is_away = false;
        self.tellings += 1;
        let untold = std::mem::take(&mut self.untold);
        let unheard = std::mem::take(&mut self.unheard);
        let again = unheard.min(self.waiting - untold);
        self.debt.settled(untold);
        (again..unheard).for_each(|_| self.debt.spent());
        if self.others.is_lost() {
            return (untold + again, 0, self.debt.owed(quota, self.replicas()));
        }
        let spent = self.debt.owed(quota, NonZeroU32::MIN).map_or(0, NonZeroU32::get);
        self.debt = Debt::default();
        (untold + again, spent, None)
    }

    fn take(&mut self, quota: Quota, longest_wait: Duration, keep: u32, now: Instant) -> Take {
        let share = quota.share(self.replicas());
        let keep = keep.min(share.burst.get() - 1);
        self.bucket.take(share, longest_wait, keep, now)
    }

    /// The last token of the share is not needed: the tier has given one.
    fn give_back(&mut self, quota: Quota) {
        self.bucket.give_back(quota.share(self.replicas()));
    }
}

/// When a request goes, and whose token it has.
enum Turn {
    Tier(Duration),
    Share(Duration),
    /// It has waited, and whose it is shows later.
    Paid,
}

/// A question for a token that was asked, and may be answered late.
type Taking = BoxFuture<'static, Result<Take, shared::Error>>;

impl Inner {
    /// Tells the tier of the tokens of the share: of those that were spent since it was told last, and of those to come.
    /// Returns how many requests wait for these.
    pub(super) async fn pay(&self, realm: &Realm) -> u32 {
        let ((to_come, spent, owed), debt) = {
            let mut local = self.local();
            (local.back(self.quota), local.debt.tokens())
        };
        if let Some(owed) = owed {
            let request = Request::pay(realm.names.fleet(), self.quota, owed.get());
            if realm.tier.ask(request, BEHIND).await.is_ok() {
                self.local().debt.settled(debt);
            }
        }
        self.promise(realm, to_come + spent).await;
        to_come
    }

    /// Requests that wait for tokens which the fleet's bucket does not know of go when these come: it has that many fewer.
    pub(super) async fn promise(&self, realm: &Realm, tokens: u32) {
        for told in 0..tokens {
            let request = Request::take(realm.names.fleet(), self.quota, PROMISED, 0);
            if realm.tier.ask(request, BEHIND).await.is_err() {
                // It is told when it answers again.
                self.local().unheard += tokens - told;
                return;
            }
        }
    }

    async fn take(self: &Arc<Inner>, ask: &Ask) -> Result<(), Refused> {
        let now = self.clock.now();
        let (longest_wait, keep) = match ask.reason {
            // What callers need is left.
            Reason::Refresh if !ask.urgent => (Duration::ZERO, self.quota.burst.get() / 4),
            Reason::Refresh | Reason::Miss | Reason::Forced => {
                (now.until(ask.patience.deadline() - self.config.reserve), 0)
            }
        };
        let (mut wait, mut late) = (None, None);
        for (place, realm) in self.realms().into_iter().enumerate() {
            let left = ask.progress.left_of(self.config.tier.timeout);
            let is_newest = place == 0;
            if left.is_zero() || !realm.is_up() || (is_newest && !self.local().others.are_known()) {
                continue;
            }
            let asked_at = self.clock.now();
            let mut taking = self.taking(realm, is_newest, longest_wait, keep);
            let taken = tokio::time::timeout(left, &mut taking).await;
            ask.progress.waited(asked_at.until(self.clock.now()));
            match taken {
                Ok(Ok(taken)) => wait = wait.max(Some(granted(taken)?)),
                // As if it were away.
                Ok(Err(_)) => {}
                Err(_) => late = late.or(Some(taking)),
            }
        }
        let turn = match (wait, late) {
            (Some(wait), _) => Turn::Tier(wait),
            (None, None) => Turn::Share(self.take_of_the_share(longest_wait, keep)?),
            (None, Some(taking)) => self.take_late(taking, longest_wait, keep).await?,
        };
        let (wait, _waiting) = match turn {
            Turn::Paid => return Ok(()),
            Turn::Tier(wait) => (wait, Waiting::new(self)),
            Turn::Share(wait) => (wait, Waiting::of_the_share(self)),
        };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }

    fn taking(self: &Arc<Inner>, realm: Arc<Realm>, is_newest: bool, longest_wait: Duration, keep: u32) -> Taking {
        let fleet = Arc::clone(self);
        Box::pin(async move {
            let quota = fleet.local().of_those_together(fleet.quota);
            let keep = keep.min(quota.burst.get() - 1);
            let request = Request::take(realm.names.fleet(), quota, longest_wait, keep);
            let asked_at = fleet.clock.now();
            let taken = realm.tier.ask(request, BEHIND).await;
            let Ok(Take::Go { wait }) = taken else { return taken };
            let lost = {
                let mut local = fleet.local();
                local.taken += 1;
                // Until the whole bucket has come so far, of which those together ask for less.
                let wait = (wait + quota.window()).saturating_sub(fleet.quota.window());
                if is_newest { local.given(wait, asked_at, fleet.clock.now()) } else { 0 }
            };
            if lost > 0 {
                let renewing = Arc::clone(&fleet);
                fleet.tasks.spawn(async move { renewing.promise(&realm, lost).await });
            }
            taken
        })
    }

    /// The tier was asked, and has not answered in time. The share tells when the request may go; who has to wait for that
    /// hears the tier's answer meanwhile. A token that the tier gives is the one that counts, however late.
    async fn take_late(
        self: &Arc<Inner>,
        mut taking: Taking,
        longest_wait: Duration,
        keep: u32,
    ) -> Result<Turn, Refused> {
        let share = self.take_of_the_share(longest_wait, keep);
        let began = self.clock.now();
        match tokio::time::timeout(share.unwrap_or(BEHIND), &mut taking).await {
            Ok(Ok(taken)) => {
                if share.is_ok() {
                    self.local().give_back(self.quota);
                }
                granted(taken).map(Turn::Tier)
            }
            Ok(Err(_)) => Ok(Turn::Share(share?.saturating_sub(began.until(self.clock.now())))),
            Err(_) => {
                share?;
                let fleet = Arc::clone(self);
                self.tasks.spawn(async move {
                    if !matches!(taking.await, Ok(Take::Go { .. })) {
                        fleet.local().debt.spent();
                    }
                });
                Ok(Turn::Paid)
            }
        }
    }

    fn take_of_the_share(&self, longest_wait: Duration, keep: u32) -> Result<Duration, Refused> {
        let now = self.clock.now();
        let mut local = self.local();
        local.away(self.quota, now);
        granted(local.take(self.quota, longest_wait, keep, now))
    }
}

fn granted(taken: Take) -> Result<Duration, Refused> {
    match taken {
        Take::Go { wait } => Ok(wait),
        Take::Full { retry_after } => Err(Refused::Full(retry_after)),
        Take::Paused { left } => Err(Refused::Paused(left)),
    }
}

impl upstream::Quota for Fleet {
    fn take<'a>(&'a self, ask: &'a Ask) -> Pin<Box<dyn Future<Output = Result<(), Refused>> + Send + 'a>> {
        Box::pin(self.0.take(ask))
    }

    fn limited(&self, pause: Duration) {
        if pause.is_zero() {
            return;
        }
        for realm in self.0.realms() {
            self.0.tasks.spawn(async move {
                // Whoever does not hear of it is told 429 by kie.ai.
                let _ = realm.tier.ask(Request::pause(realm.names.fleet(), pause), BEHIND).await;
            });
        }
    }
}

#[cfg(test)]
impl Fleet {
    /// Whether this replica asks the tier for its tokens, and owes it nothing but what it tells with its next beat.
    pub(crate) fn is_square(&self) -> bool {
        let local = self.0.local();
        local.others.are_known() && local.debt.tokens() == local.untold
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTA: Quota = Quota { period: Duration::from_millis(100), burst: NonZeroU32::new(4).unwrap() };

    fn at(millis: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(millis))
    }

    /// Which waits for the fifteen tokens that it was promised.
    fn waiting() -> Local {
        let mut local = Local::new(NonZeroU32::MIN, QUOTA, at(1000));
        local.back(QUOTA);
        for token in 1..=15 {
            assert_eq!(local.given(Duration::from_millis(token * 100), at(1000), at(1010)), 0);
            local.waiting += 1;
        }
        local
    }

    #[test]
    fn promises_that_the_bucket_has_lost_are_made_anew_once() {
        for (level, now, anew) in
            [(-15.0, 1000, 0), (-10.0, 1500, 0), (-30.0, 1500, 0), (-3.0, 1500, 15), (4.0, 2400, 15), (4.0, 2500, 0)]
        {
            let mut local = waiting();
            let mut saw = || local.saw(&live(&["one"]), (1, 1), level, QUOTA, at(now));
            assert_eq!(saw(), anew, "{level} at {now}");
            assert_eq!(saw(), 0);
        }
        let mut local = waiting();
        let wait = Duration::from_millis(100);
        assert_eq!(local.given(wait, at(1500), at(1510)), 15, "a token that comes before those of before");
        assert_eq!(local.given(wait * 2, at(1500), at(1510)), 0);
        let mut late = waiting();
        assert_eq!(late.given(wait * 11, at(1500), at(1900)), 0, "a late answer is no sign");
    }

    /// Replicas of these names, which have all said something.
    fn live(names: &[&str]) -> Vec<(String, Option<Vec<u8>>)> {
        names.iter().map(|name| ((*name).to_owned(), Some(vec![1]))).collect()
    }

    fn some(number: u32) -> NonZeroU32 {
        NonZeroU32::new(number).unwrap()
    }

    #[test]
    fn what_is_promised_is_not_owed_and_what_was_spent_is_paid_once() {
        let mut local = waiting();
        local.saw(&live(&["a"]), (1, 1), -15.0, QUOTA, at(1000));
        local.lost();
        local.away(QUOTA, at(3000));
        (0..17).for_each(|_| local.debt.spent());
        local.untold = 15;
        assert_eq!(local.back(QUOTA), (15, 0, Some(some(2))));
        assert_eq!(local.back(QUOTA), (0, 0, Some(some(2))), "PAY was not answered");
        local.debt.settled(2);
        assert_eq!(local.back(QUOTA), (0, 0, None));
    }

    #[test]
    fn who_waits_for_a_token_of_the_tier_is_not_promised_another() {
        let mut local = waiting();
        local.away(QUOTA, at(1100));
        assert_eq!(local.back(QUOTA), (0, 0, None));
        local.untold = 3;
        assert_eq!(
            local.saw(&live(&["a"]), (1, 1), 4.0, QUOTA, at(1100)),
            12,
            "those of the share are told of besides"
        );
    }

    #[test]
    fn what_the_tier_was_not_told_of_is_told_again_as_far_as_it_still_comes() {
        let mut local = waiting();
        local.unheard = 20;
        assert_eq!(local.back(QUOTA), (15, 4, None), "the rest was spent; a burst at most");
        assert_eq!(local.back(QUOTA), (0, 0, None));
    }

    #[test]
    fn who_was_away_with_the_others_answers_for_them() {
        let mut local = Local::new(NonZeroU32::MIN, QUOTA, at(0));
        let all = live(&["a", "b", "c"]);
        local.saw(&all, (3, 3), 4.0, QUOTA, at(0));
        local.debt.spent();
        assert_eq!(local.back(QUOTA), (0, 1, None), "a question that was not answered");
        local.debt.spent();
        local.lost();
        assert_eq!(local.back(QUOTA), (0, 0, Some(some(3))));
        local.debt.spent();
        assert_eq!(local.back(QUOTA), (0, 0, Some(some(4))), "a burst at most");
        local.debt.settled(2);
        // A tier that has lost its memory.
        local.saw(&all[..1], (1, 1), 0.0, QUOTA, at(1000));
        assert_eq!((local.replicas(), local.of_those_together(QUOTA)), (some(3), QUOTA.part(some(1), some(3))));
        local.debt.spent();
        assert_eq!(local.back(QUOTA), (0, 1, None), "spent while the others are listened for");
    }

    #[test]
    fn a_share_that_was_spent_is_no_fuller_after_the_next_outage() {
        let mut local = Local::new(NonZeroU32::MIN, QUOTA, at(0));
        local.saw(&live(&["a"]), (1, 1), 4.0, QUOTA, at(0));
        for outage in 0..3 {
            local.away(QUOTA, at(10));
            let taken = (0..10).filter(|_| matches!(local.take(QUOTA, Duration::ZERO, 0, at(10)), Take::Go { .. }));
            assert_eq!(taken.count(), if outage == 0 { 4 } else { 0 });
            local.back(QUOTA);
        }
    }
}
