//! The fleet's quota, as each request to kie.ai meets it: a token of the tier's bucket, or, while the tier is away, of
//! this replica's share.

use std::{future::Future, num::NonZeroU32, pin::Pin, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use super::{BEHIND, Fleet, Inner, bucket::Bucket, realm::Realm};
use crate::{
    clock::Instant,
    shared::{self, Debt, Quota, Request, Take},
    upstream::{self, Ask, Reason, Refused},
};

/// Times cross the tier in whole milliseconds.
const ROUNDING: Duration = Duration::from_millis(2);

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
    /// How many replicas are together, of how many that were seen within a minute.
    together: (NonZeroU32, NonZeroU32),
    /// Requests that wait for the tokens that they were promised.
    waiting: u32,
    /// When the last token comes that the fleet's bucket has promised here.
    promised_until: Option<Instant>,
}

/// A request that waits for its token.
struct Waiting<'a>(&'a Inner);

impl<'a> Waiting<'a> {
    fn new(inner: &'a Inner) -> Waiting<'a> {
        inner.local().waiting += 1;
        Waiting(inner)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.local().waiting -= 1;
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
            together: (NonZeroU32::MIN, NonZeroU32::MIN),
            waiting: 0,
            promised_until: None,
        };
        local.away(quota, now);
        local
    }

    pub(super) fn replicas(&self) -> NonZeroU32 {
        self.seen.replicas()
    }

    /// What those who see the tier may send together: others may be cut off, and keep their shares.
    fn of_those_together(&self, quota: Quota) -> Quota {
        quota.part(self.together.0, self.together.1)
    }

    /// A beat has told how many replicas are live and which of them are together, and what the fleet's bucket holds. Where that has lost the promises
    /// that it made here, so many are to be made anew: their requests go all the same.
    pub(super) fn saw(&mut self, live: u32, together: (u32, u32), level: f64, quota: Quota, now: Instant) -> u32 {
        self.seen.saw(live, now);
        // Whoever hears it is one of them.
        let some = |count| NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN);
        self.together = (some(together.0), some(together.1));
        (self.level, self.taken) = (Some((level, now)), 0);
        let ahead = self.promised_until.map(|until| now.until(until)).unwrap_or_default();
        // Of a bucket that has made them, less than none of it is left; one token is for rounding.
        if ahead.is_zero() || level <= 1.0 - ahead.as_secs_f64() / quota.period.as_secs_f64() {
            return 0;
        }
        self.promised_until = None;
        self.waiting
    }

    /// The fleet's bucket, asked at `asked_at`, has given a token that comes after this wait. One that comes before another
    /// that was promised earlier is of a bucket that has lost its promises: so many are to be made anew.
    fn given(&mut self, wait: Duration, asked_at: Instant, now: Instant) -> u32 {
        let is_lost = self.promised_until.is_some_and(|until| now + wait + ROUNDING < until);
        let at = Some(asked_at + wait);
        self.promised_until = if is_lost { at } else { self.promised_until.max(at) };
        if is_lost { self.waiting } else { 0 }
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

    /// The tier is back: what was spent meanwhile, and how many tokens are promised here that have not come yet.
    fn back(&mut self) -> (Debt, u32) {
        let was_away = std::mem::replace(&mut self.is_away, false);
        let promised = if was_away { self.waiting } else { 0 };
        self.debt.unspent(promised);
        (std::mem::take(&mut self.debt), promised)
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

/// A question for a token that was asked, and may be answered late.
type Taking = BoxFuture<'static, Result<Take, shared::Error>>;

impl Inner {
    /// The tier is back, and is told what was spent meanwhile.
    pub(super) async fn pay(&self, realm: &Realm) {
        let ((debt, promised), replicas) = {
            let mut local = self.local();
            (local.back(), local.replicas())
        };
        if let Some(owed) = debt.owed(self.quota, replicas) {
            let request = Request::pay(realm.names.fleet(), self.quota, owed.get());
            if realm.tier.ask(request, BEHIND).await.is_err() {
                self.local().debt.add(debt);
            }
        }
        self.promise(realm, promised).await;
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
        // A tier that is back is paid before it is asked for more.
        let realms = if self.local().debt.is_none() { self.realms() } else { Vec::new() };
        for (place, realm) in realms.into_iter().enumerate() {
            let left = ask.progress.left_of(self.config.tier.timeout);
            if left.is_zero() || !realm.is_up() {
                continue;
            }
            let asked_at = self.clock.now();
            let mut taking = self.taking(realm, place == 0, longest_wait, keep);
            let taken = tokio::time::timeout(left, &mut taking).await;
            ask.progress.waited(asked_at.until(self.clock.now()));
            match taken {
                Ok(Ok(taken)) => wait = wait.max(Some(granted(taken)?)),
                // As if it were away.
                Ok(Err(_)) => {}
                Err(_) => late = late.or(Some(taking)),
            }
        }
        let wait = match (wait, late) {
            (Some(wait), _) => wait,
            (None, None) => {
                let wait = self.take_of_the_share(longest_wait, keep)?;
                self.local().debt.spent();
                wait
            }
            (None, Some(taking)) => self.take_late(taking, longest_wait, keep).await?,
        };
        if !wait.is_zero() {
            let _waiting = Waiting::new(self);
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
    ) -> Result<Duration, Refused> {
        let share = self.take_of_the_share(longest_wait, keep);
        let began = self.clock.now();
        match tokio::time::timeout(share.unwrap_or(BEHIND), &mut taking).await {
            Ok(Ok(taken)) => {
                if share.is_ok() {
                    self.local().give_back(self.quota);
                }
                granted(taken)
            }
            Ok(Err(_)) => {
                let wait = share?;
                self.local().debt.spent();
                Ok(wait.saturating_sub(began.until(self.clock.now())))
            }
            Err(_) => {
                share?;
                let fleet = Arc::clone(self);
                self.tasks.spawn(async move {
                    if !matches!(taking.await, Ok(Take::Go { .. })) {
                        fleet.local().debt.spent();
                    }
                });
                Ok(Duration::ZERO)
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
mod tests {
    use super::*;

    const QUOTA: Quota = Quota { period: Duration::from_millis(100), burst: NonZeroU32::new(4).unwrap() };

    fn at(millis: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(millis))
    }

    /// Which waits for the fifteen tokens that it was promised.
    fn waiting() -> Local {
        let mut local = Local::new(NonZeroU32::MIN, QUOTA, at(1000));
        local.back();
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
            assert_eq!(local.saw(1, (1, 1), level, QUOTA, at(now)), anew, "{level} at {now}");
            assert_eq!(local.saw(1, (1, 1), level, QUOTA, at(now)), 0);
        }
        let mut local = waiting();
        let wait = Duration::from_millis(100);
        assert_eq!(local.given(wait, at(1500), at(1510)), 15, "a token that comes before those of before");
        assert_eq!(local.given(wait * 2, at(1500), at(1510)), 0);
        let mut late = waiting();
        assert_eq!(late.given(wait * 11, at(1500), at(1900)), 0, "a late answer is no sign");
    }

    #[test]
    fn what_is_promised_is_not_owed_and_what_was_spent_is_though_more_is_promised() {
        let mut local = waiting();
        local.away(QUOTA, at(3000));
        (0..17).for_each(|_| local.debt.spent());
        let (debt, promised) = local.back();
        assert_eq!((debt.owed(QUOTA, NonZeroU32::MIN), promised), (NonZeroU32::new(2), 15));
    }

    #[test]
    fn a_debt_that_shows_when_the_tier_is_back_already_is_paid_with_the_next_beat() {
        let some = |number| NonZeroU32::new(number).unwrap();
        let at = |seconds| Instant::from_origin(Duration::from_secs(seconds));
        let quota = Quota { period: Duration::from_millis(100), burst: some(20) };
        let mut local = Local::new(some(1), quota, at(0));
        let owed = |local: &mut Local| {
            let (debt, promised) = local.back();
            assert_eq!(promised, 0);
            debt.owed(quota, some(1))
        };
        assert_eq!(owed(&mut local), None);
        // A question for a token that was asked before, and has no answer.
        local.debt.spent();
        assert_eq!(owed(&mut local), Some(some(1)));
        assert_eq!(owed(&mut local), None, "once");
    }
}
