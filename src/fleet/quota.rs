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
        };
        local.away(quota, now);
        local
    }

    pub(super) fn replicas(&self) -> NonZeroU32 {
        self.seen.replicas()
    }

    /// A beat has told how many replicas are live and which of them are together, and what the fleet's bucket holds.
    pub(super) fn saw(&mut self, live: u32, together: (u32, u32), level: f64, now: Instant) {
        self.seen.saw(live, now);
        (self.level, self.taken) = (Some((level, now)), 0);
        // Whoever hears it is one of them.
        let some = |count| NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN);
        self.together = (some(together.0), some(together.1));
    }

    /// What those who see the tier may send together: others may be cut off, and keep their shares.
    fn of_those_together(&self, quota: Quota) -> Quota {
        quota.part(self.together.0, self.together.1)
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
        self.bucket.set(tokens, share, now);
    }

    /// The tier is back: what it is owed, and how many tokens are promised here that have not come yet.
    pub(super) fn back(&mut self, quota: Quota, now: Instant) -> (Option<NonZeroU32>, u32) {
        let was_away = std::mem::replace(&mut self.is_away, false);
        let promised = if was_away { self.bucket.promised(quota.share(self.replicas()), now) } else { 0 };
        let owed = self.debt.settle(quota).and_then(|owed| NonZeroU32::new(owed.get().saturating_sub(promised)));
        (owed, promised)
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
        for realm in self.realms() {
            let left = ask.progress.left_of(self.config.tier.timeout);
            if left.is_zero() || !realm.is_up() {
                continue;
            }
            let asked_at = self.clock.now();
            let mut taking = self.taking(realm, longest_wait, keep);
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
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }

    fn taking(self: &Arc<Inner>, realm: Arc<Realm>, longest_wait: Duration, keep: u32) -> Taking {
        let fleet = Arc::clone(self);
        Box::pin(async move {
            let quota = fleet.local().of_those_together(fleet.quota);
            let keep = keep.min(quota.burst.get() - 1);
            let request = Request::take(realm.names.fleet(), quota, longest_wait, keep);
            let taken = realm.tier.ask(request, BEHIND).await;
            if matches!(taken, Ok(Take::Go { .. })) {
                fleet.local().taken += 1;
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

    #[test]
    fn a_debt_that_shows_when_the_tier_is_back_already_is_paid_with_the_next_beat() {
        let some = |number| NonZeroU32::new(number).unwrap();
        let at = |seconds| Instant::from_origin(Duration::from_secs(seconds));
        let quota = Quota { period: Duration::from_millis(100), burst: some(20) };
        let mut local = Local::new(some(1), quota, at(0));
        assert_eq!(local.back(quota, at(1)), (None, 0));
        // A question for a token that was asked before, and has no answer.
        local.debt.spent();
        assert_eq!(local.back(quota, at(2)), (Some(some(1)), 0));
        assert_eq!(local.back(quota, at(3)), (None, 0), "once");
    }
}
