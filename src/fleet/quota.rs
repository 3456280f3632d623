//! The fleet's quota, as each request to kie.ai meets it: a token of the fleet's bucket in the tier, or, while the tier is
//! away or late, or it is not known who has found it, of this replica's share.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use super::{BEHIND, Fleet, Inner, local::Together, realm::Realm};
use crate::{
    clock::Instant,
    shared::{self, Request, Take},
    upstream::{self, Ask, Progress, Reason, Refused},
};

/// While some replicas are apart, or have just found the tier, turns come more slowly than they soon may. One that is taken further
/// ahead than this would come too late, and kie.ai be idle.
const SIGHT: Duration = Duration::from_secs(1);

/// Who finds none within sight asks again when there may be one, or after `SIGHT` if that is sooner; and then so much later, up to
/// twice, so that replicas are not in step.
const ASKED_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Who is woken so long after its turn takes another one: all that waited in a process that was stopped would go at once, and
/// what they had is refilled.
const TOO_LATE: Duration = Duration::from_secs(1);

/// A turn may have been given long before kie.ai told another replica to pause. An answer takes half a millisecond as a rule; one
/// that takes longer than this delays the turn.
const PAUSE_ASKED_BEFORE: Duration = Duration::from_millis(5);

/// A request that waits for a token of the share.
struct Waiting<'a> {
    inner: &'a Inner,
    number: u64,
    /// Its turn has come, so that its token is spent. Else it was dropped before: another replica has the link, nobody
    /// wants it any more, or kie.ai has asked for a pause.
    has_gone: bool,
}

impl<'a> Waiting<'a> {
    fn new(inner: &'a Inner) -> Waiting<'a> {
        Waiting { inner, number: inner.local().waits(), has_gone: false }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.inner.local().ended(self.number, self.has_gone, self.inner.quota, self.inner.clock.now());
        self.inner.untold.notify_one();
    }
}

/// A question for a token that is under way.
struct Asking<'a>(&'a Inner);

impl<'a> Asking<'a> {
    fn new(inner: &'a Inner) -> Asking<'a> {
        inner.local().asks(true);
        Asking(inner)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.local().asks(false);
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
    /// Tells the fleet's bucket of each token that it does not know of.
    pub(super) async fn pay(&self, realm: &Realm) {
        let Some(bill) = self.local().bill(self.quota) else { return };
        let known = realm.known(self.clock.now());
        let request = Request::pay(realm.names.fleet(), bill.quota, bill.tokens, bill.beyond, known);
        if realm.ask(request, BEHIND).await.is_err() {
            self.local().unpaid(bill);
        }
    }

    /// Does so as soon as there may be one.
    pub(super) async fn pay_on(&self) {
        loop {
            self.untold.notified().await;
            if let Some(realm) = self.realms().first().filter(|realm| realm.is_up()) {
                self.pay(realm).await;
            }
        }
    }

    /// Has all replicas ask kie.ai nothing until then. Where the tier does not hear of it now, it does as soon as it answers;
    /// meanwhile who asks is told 429 by kie.ai.
    pub(super) async fn pause(&self, realm: &Realm, until: Instant) {
        let left = self.clock.now().until(until);
        if !left.is_zero() && realm.ask(Request::pause(realm.names.fleet(), left), BEHIND).await.is_err() {
            realm.later().pause(until);
        }
    }

    async fn take(self: &Arc<Inner>, ask: &Ask) -> Result<(), Refused> {
        loop {
            let (wait, mut waiting) = match self.turn(ask).await? {
                Turn::Paid => return Ok(()),
                Turn::Tier(wait) => (wait, None),
                Turn::Share(wait) => (wait, Some(Waiting::new(self))),
            };
            let due = self.clock.now() + wait;
            if !wait.is_zero() {
                self.await_turn(due, ask).await?;
            }
            if let Some(waiting) = &mut waiting {
                waiting.has_gone = true;
            }
            if self.clock.now() < due + TOO_LATE {
                return Ok(());
            }
        }
    }

    /// Waits for a turn, and asks just before it whether kie.ai has told another replica to pause since it was given.
    async fn await_turn(&self, due: Instant, ask: &Ask) -> Result<(), Refused> {
        tokio::time::sleep(self.clock.now().until(due).saturating_sub(PAUSE_ASKED_BEFORE)).await;
        let mut pause = Duration::ZERO;
        for realm in self.realms().iter().filter(|realm| realm.is_up()) {
            let patience = self.clock.now().until(due) + ask.progress.left_of(self.config.tier.timeout);
            let asked_at = self.clock.now().max(due);
            if let Ok(left) = realm.ask(Request::pause_left(realm.names.fleet()), patience).await {
                pause = pause.max(left);
            }
            // Until it is due nobody waits for the tier.
            ask.progress.waited(asked_at.until(self.clock.now()));
        }
        if !pause.is_zero() {
            return Err(Refused::Paused(pause));
        }
        tokio::time::sleep(self.clock.now().until(due)).await;
        Ok(())
    }

    async fn turn(self: &Arc<Inner>, ask: &Ask) -> Result<Turn, Refused> {
        let is_wanted = ask.reason != Reason::Refresh || ask.urgent;
        let left = || match is_wanted {
            true => self.clock.now().until(ask.patience.deadline() - self.config.reserve),
            false => Duration::ZERO,
        };
        // What callers need is left.
        let keep = if is_wanted { 0 } else { self.quota.burst.get() / 4 };
        let behind = || self.queue.turn(self.quota.period);
        let mut place = None;
        loop {
            let longest_wait = left();
            if let Some(retry_after) = behind().filter(|_| place.is_none() && !longest_wait.is_zero()) {
                if retry_after >= longest_wait {
                    return Err(Refused::Full(retry_after));
                }
                place = self.queue.join(left).await;
                if place.is_none() {
                    return Err(Refused::Full(behind().unwrap_or(self.quota.period)));
                }
                continue;
            }
            let together = self.local().together(self.quota, self.clock.now());
            let may_speed_up = together.is_some_and(Together::may_speed_up);
            let sight = if may_speed_up { longest_wait.min(SIGHT) } else { longest_wait };
            // Who waits in any case loses nothing by the time that the tier takes.
            let unhurried = Progress::default();
            let progress = if place.is_some() { &unhurried } else { &*ask.progress };
            match self.take_once(progress, together, longest_wait, sight, keep).await {
                Err(Refused::Full(retry_after)) if may_speed_up && retry_after < longest_wait => {
                    self.queue.heard(retry_after);
                    if place.is_none() {
                        place = self.queue.join(left).await;
                    } else {
                        // Not all replicas at once.
                        let a_little = ASKED_AGAIN_AFTER.mul_f64(1.0 + fastrand::f64());
                        tokio::time::sleep(retry_after.saturating_sub(sight).min(SIGHT) + a_little).await;
                    }
                    if place.is_none() {
                        return Err(Refused::Full(behind().unwrap_or(self.quota.period)));
                    }
                }
                taken => return taken,
            }
        }
    }

    async fn take_once(
        self: &Arc<Inner>,
        progress: &Progress,
        together: Option<Together>,
        longest_wait: Duration,
        sight: Duration,
        keep: u32,
    ) -> Result<Turn, Refused> {
        let (mut wait, mut late) = (None, None);
        for (place, realm) in self.realms().into_iter().enumerate().filter(|(_, realm)| realm.is_up()) {
            let left = progress.left_of(self.config.tier.timeout);
            let is_newest = place == 0;
            // Who is together is known of the newest realm alone.
            let others = (Some(Together::all_of(self.quota)), longest_wait);
            let (together, sight) = if is_newest { (together, sight) } else { others };
            let Some(together) = together else { continue };
            let asked_at = self.clock.now();
            // Asked also where no time is left to wait for the answer: the token counts.
            let mut taking = self.taking(Arc::clone(&realm), is_newest, together, sight, keep);
            let taken = tokio::time::timeout(left, &mut taking).await;
            progress.waited(asked_at.until(self.clock.now()));
            match taken {
                Ok(Ok(taken)) => wait = wait.max(Some(granted(taken)?)),
                // As if it were away.
                Ok(Err(_)) => {}
                Err(_) => late = late.or(Some((realm, taking))),
            }
        }
        Ok(match (wait, late) {
            // A token of an older key's bucket is beside one of the share.
            (Some(wait), _) if together.is_none() => Turn::Share(self.take_of_the_share(longest_wait, keep)?.max(wait)),
            (Some(wait), _) => Turn::Tier(wait),
            (None, None) => Turn::Share(self.take_of_the_share(longest_wait, keep)?),
            (None, Some((realm, taking))) => self.take_late(&realm, taking, longest_wait, keep).await?,
        })
    }

    fn taking(
        self: &Arc<Inner>,
        realm: Arc<Realm>,
        is_newest: bool,
        together: Together,
        sight: Duration,
        keep: u32,
    ) -> Taking {
        let fleet = Arc::clone(self);
        Box::pin(async move {
            let asking = is_newest.then(|| Asking::new(&fleet));
            let (longest_wait, keep) = (together.reach(sight), together.keep(keep));
            let asked_at = fleet.clock.now();
            let names = realm.names.fleet();
            let request = Request::take(names, together.quota, longest_wait, keep, realm.known(asked_at));
            let taken = realm.ask(request, BEHIND).await;
            drop(asking);
            let taken = taken?;
            if let Some(bucket) = taken.bucket {
                realm.heard(bucket, asked_at);
                if is_newest {
                    fleet.local().given();
                }
            }
            let ahead = taken.bucket.unwrap_or_default().ahead;
            Ok(match taken.take {
                Take::Go { wait } => Take::Go { wait: together.wait(wait, ahead) },
                Take::Full { retry_after } => Take::Full { retry_after: together.retry_after(retry_after) },
                paused @ Take::Paused { .. } => paused,
            })
        })
    }

    /// The tier was asked, and has not answered in time. The share tells when the request may go; who has to wait for that
    /// hears the tier's answer meanwhile. A token that the tier gives is the one that counts, however late; and where those that
    /// are asked for are all that the share has, its answer is waited for until it is silent.
    async fn take_late(
        self: &Arc<Inner>,
        realm: &Realm,
        mut taking: Taking,
        longest_wait: Duration,
        keep: u32,
    ) -> Result<Turn, Refused> {
        let share = self.take_of_the_share(longest_wait, keep);
        let began = self.clock.now();
        let is_enough = self.local().has_more_than_is_asked(self.quota, began);
        let patience = async {
            // Better late than refused, for as long as there is a connection.
            let Ok(wait) = share else { return tokio::time::sleep(BEHIND).await };
            if !is_enough {
                let _ = tokio::time::timeout(BEHIND, realm.tier().goes_silent()).await;
            }
            tokio::time::sleep(wait.saturating_sub(began.until(self.clock.now()))).await;
        };
        let answer = tokio::select! {
            biased;
            answer = &mut taking => Some(answer),
            () = patience => None,
        };
        match answer {
            Some(Ok(taken)) => {
                if share.is_ok() {
                    self.local().give_back(self.quota);
                }
                granted(taken).map(Turn::Tier)
            }
            Some(Err(_)) => Ok(Turn::Share(share?.saturating_sub(began.until(self.clock.now())))),
            None => {
                share?;
                let fleet = Arc::clone(self);
                self.spawn(async move {
                    if !matches!(taking.await, Ok(Take::Go { .. })) {
                        fleet.local().spent();
                        fleet.untold.notify_one();
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
        let until = self.0.clock.now() + pause;
        for realm in self.0.realms() {
            let fleet = Arc::clone(&self.0);
            self.0.spawn(async move { fleet.pause(&realm, until).await });
        }
    }
}

#[cfg(test)]
impl Fleet {
    /// Whether this replica asks the tier for its tokens, and has told it of all that was spent. Who waits may be untold.
    pub(crate) fn is_square(&self) -> bool {
        self.0.local().is_square()
    }

    /// Whether the others leave this replica its share.
    pub(crate) fn is_apart(&self) -> bool {
        self.0.local().is_apart()
    }
}
