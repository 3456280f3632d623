//! Whether another replica has a file's link, or is minting it.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use jiff::Timestamp;

use super::{BEHIND, Inner, poll::TOGETHER, realm::Realm, words};
use crate::{
    clock::{Instant, Witness},
    link::Link,
    shared::{self, Content, FileNames, Holder, Kept, LEASE, Look, Newer, PEEK, Peek, Rejection, Request, State},
    source::Source,
    upstream::{Ask, Error, Minted, Reason, Via, Welcome},
};

/// One mint of another replica is waited for no longer than this, and than half the time that is left.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// A refresh that finds another replica minting its file comes again after this.
const REFRESH_AGAIN: Duration = Duration::from_secs(1);

/// Looks that find nothing that will do, another holder, or no tier; then it is done without.
const ROUNDS: u32 = 6;

/// What came of it.
pub(super) enum Sought {
    Found(Minted),
    Failed(Error),
    /// This replica mints it, for all.
    Mine(Arc<Realm>),
    /// The tier is done without.
    Alone,
}

/// What a value is good for.
pub(super) enum Judged {
    Link(Minted),
    Refusal(Error),
    /// It will not do: it is too old, or dead, or not wanted; only what was minted later may.
    Passed(Timestamp),
    /// It is not believed.
    Rejected,
}

impl Judged {
    /// What it ends the search with; `None` where only what `newer` says may do.
    fn settle(self, newer: &mut Newer) -> Option<Sought> {
        match self {
            Judged::Link(minted) => return Some(Sought::Found(minted)),
            Judged::Refusal(error) => return Some(Sought::Failed(error)),
            Judged::Passed(minted_at) => *newer = Newer::Than(minted_at),
            Judged::Rejected => *newer = Newer::Never,
        }
        None
    }
}

enum Waited {
    Sought(Sought),
    /// Nobody mints it any more.
    Free,
}

/// Which values will do before any was seen.
fn at_first(ask: &Ask) -> Newer {
    if ask.welcome.is_some() { Newer::Any } else { Newer::Never }
}

/// When a mint of another replica has been waited for long enough.
fn steal_at(since: Instant, deadline: Instant) -> Instant {
    since + LONGEST_WAIT.min(since.until(deadline) / 2)
}

impl Inner {
    /// Asks the tier for the file, for as long as this mint may wait for the tier; waits for another replica's mint.
    pub(super) async fn seek(self: &Arc<Inner>, source: &Source, ask: &Ask, holder: &Holder) -> Sought {
        let realms = self.realms();
        let Some((newest, older)) = realms.split_first() else { return Sought::Alone };
        let file = newest.file(source);
        let mut newer = at_first(ask);
        for _ in 0..ROUNDS {
            if ask.progress.left_of(self.config.tier.timeout).is_zero() || !newest.is_up() {
                return Sought::Alone;
            }
            let request = Request::look(&file, newest.names.fleet(), Some(holder), newer);
            match newest.ask_for(request, &ask.progress, self.config.tier.timeout).await {
                Ok(Look::Hit { sealed, beacon }) => {
                    if let Some(sought) = self.judge(newest, &file, &sealed, beacon, ask).settle(&mut newer) {
                        return sought;
                    }
                }
                Ok(Look::Mine) => {
                    return match self.seek_in_older(source, ask, older).await {
                        Some(minted) => {
                            self.release(newest, &file, holder);
                            Sought::Found(minted)
                        }
                        None => Sought::Mine(Arc::clone(newest)),
                    };
                }
                Ok(Look::Wait { .. }) if ask.reason == Reason::Refresh => {
                    return Sought::Failed(Error::MintedElsewhere { retry_after: REFRESH_AGAIN });
                }
                Ok(Look::Wait { holder: from, .. }) => match self.wait(newest, &file, ask, holder, from, newer).await {
                    Waited::Sought(sought) => return sought,
                    // What was rejected may have been replaced.
                    Waited::Free if newer == Newer::Never && ask.welcome.is_some() => newer = Newer::Any,
                    Waited::Free => {}
                },
                // The last two are told only to those who have no holder.
                Err(_) | Ok(Look::Failed { .. } | Look::Free) => return Sought::Alone,
            }
        }
        Sought::Alone
    }

    /// Looks once more for a file whose mint waits for its turn at kie.ai without the tier, as soon as the tier answers: else all
    /// that waited while it was away would mint what others have minted. The mint goes on meanwhile: its turn is not given up
    /// for another replica's mint, which may be far from its own turn, or fail. `Alone` once the mint was sent, which is paid
    /// for, and goes on. Cancel safe: a lease of which nobody heard lapses within two seconds.
    pub(super) async fn look_again(self: &Arc<Inner>, source: &Source, ask: &Ask, holder: &Holder) -> Sought {
        let realms = self.realms();
        let Some(newest) = realms.first() else { return Sought::Alone };
        let (file, mut newer) = (newest.file(source), at_first(ask));
        let is_sent = || ask.progress.first_sent_at().is_some();
        for _ in 0..ROUNDS {
            if newest.tier().changes().wait_for(|state| *state == State::Up).await.is_err() {
                // It is at another address now.
                continue;
            }
            if is_sent() {
                break;
            }
            let request = Request::look(&file, newest.names.fleet(), Some(holder), newer);
            let sought = match newest.ask(request, BEHIND).await {
                Ok(Look::Mine) => return Sought::Mine(Arc::clone(newest)),
                Ok(Look::Hit { sealed, beacon }) => {
                    match self.judge(newest, &file, &sealed, beacon, ask).settle(&mut newer) {
                        Some(sought) => sought,
                        None => continue,
                    }
                }
                Ok(Look::Wait { .. }) if ask.reason == Reason::Refresh && !ask.urgent => {
                    Sought::Failed(Error::MintedElsewhere { retry_after: REFRESH_AGAIN })
                }
                Ok(Look::Wait { holder: from, .. }) => {
                    match self.wait(newest, &file, ask, holder, from, newer).await {
                        Waited::Sought(Sought::Mine(realm)) => return Sought::Mine(realm),
                        Waited::Free | Waited::Sought(Sought::Alone) => continue,
                        // This replica's own mint may do better.
                        Waited::Sought(Sought::Failed(error)) if !error.is_refusal() => break,
                        Waited::Sought(sought) => sought,
                    }
                }
                Ok(Look::Failed { .. } | Look::Free) | Err(shared::Error::Refused | shared::Error::Malformed) => break,
                Err(shared::Error::Busy) => {
                    tokio::time::sleep(TOGETHER).await;
                    continue;
                }
                Err(shared::Error::Away | shared::Error::Late) => continue,
            };
            // Its turn may have come while the tier was asked.
            return if is_sent() { Sought::Alone } else { sought };
        }
        Sought::Alone
    }

    /// Links that other replicas have minted of many files, in one trip for each 64 and each key in use, all at once,
    /// within the time that one request may wait for the tier. Those of the newest key come first.
    pub(super) async fn find(&self, sources: &[Source], welcome: &Welcome) -> Vec<Option<Minted>> {
        let realms = self.realms();
        let each = realms.iter().filter(|realm| realm.is_up()).map(|realm| self.find_in(realm, sources, welcome));
        let mut found = vec![None; sources.len()];
        for in_one in join_all(each).await {
            for (found, in_one) in found.iter_mut().zip(in_one) {
                *found = found.take().or(in_one);
            }
        }
        found
    }

    async fn find_in(&self, realm: &Realm, sources: &[Source], welcome: &Welcome) -> Vec<Option<Minted>> {
        let mut found = vec![None; sources.len()];
        // The other half is for the flights that follow.
        let budget = self.config.tier.timeout / 2;
        let files: Vec<_> = sources.iter().map(|source| realm.file(source)).collect();
        let trips = files.chunks(PEEK).map(|files| realm.ask(Request::peek(files, realm.names.fleet()), budget));
        let peeked = join_all(trips).await;
        for (chunk, peeked) in peeked.into_iter().enumerate() {
            let Ok(Peek { beacon, links }) = peeked else { continue };
            self.hear_beacon(realm, beacon.as_deref());
            for (place, sealed) in links.into_iter().enumerate() {
                let at = chunk * PEEK + place;
                let (Some(sealed), Some(file)) = (sealed, files.get(at)) else { continue };
                // What is not believed is told by the flight that follows, which looks again.
                if let Ok(Content::Link(kept)) = realm.seals.open(&file.link, &sealed)
                    && let Judged::Link(minted) = self.judge_link(realm, &kept, Some(welcome))
                {
                    found[at] = Some(minted);
                }
            }
        }
        found
    }

    /// While one key takes the place of another, replicas that have not heard of it yet mint with the old one.
    async fn seek_in_older(&self, source: &Source, ask: &Ask, older: &[Arc<Realm>]) -> Option<Minted> {
        ask.welcome.as_ref()?;
        for realm in older.iter().filter(|realm| realm.is_up()) {
            let file = realm.file(source);
            if ask.progress.left_of(self.config.tier.timeout).is_zero() {
                return None;
            }
            let request = Request::look(&file, realm.names.fleet(), None, Newer::Any);
            let look = realm.ask_for(request, &ask.progress, self.config.tier.timeout).await;
            if let Ok(Look::Hit { sealed, beacon }) = look
                && let Judged::Link(minted) = self.judge(realm, &file, &sealed, beacon, ask)
            {
                return Some(minted);
            }
        }
        None
    }

    /// Waits for another replica's mint. No question is charged, and one that is answered late is no reason to mint the file
    /// twice: it is the mint that is waited for. A tier that is silent for `shared.timeout` meanwhile is done without, and so is one
    /// that goes on giving what is no use, or the lease to others: the deadline grows with each caller that joins, and might never come.
    async fn wait(
        self: &Arc<Inner>,
        realm: &Arc<Realm>,
        file: &FileNames,
        ask: &Ask,
        holder: &Holder,
        mut from: Holder,
        mut newer: Newer,
    ) -> Waited {
        let (mut since, mut in_vain) = (self.clock.now(), 0);
        while in_vain < ROUNDS {
            // A look now and then also finds a lease that lasts longer than any.
            let now = self.clock.now();
            let until = steal_at(since, ask.patience.deadline()).min(now + LEASE).max(now + TOGETHER);
            let look = match self.mint_ends(realm, file, newer, &from, since, until).await {
                Ok(()) => realm.ask(Request::look(file, realm.names.fleet(), None, newer), BEHIND).await,
                Err(why) => Err(why),
            };
            match look {
                Ok(Look::Hit { sealed, beacon }) => {
                    match self.judge(realm, file, &sealed, beacon, ask).settle(&mut newer) {
                        Some(Sought::Found(minted)) => {
                            return Waited::Sought(Sought::Found(Minted { via: Via::Joined, ..minted }));
                        }
                        Some(sought) => return Waited::Sought(sought),
                        None => in_vain += 1,
                    }
                }
                Ok(Look::Failed { sealed }) => {
                    let error = self.failure(realm, file, &sealed);
                    return error.map_or(Waited::Free, |error| Waited::Sought(Sought::Failed(error)));
                }
                // Of all that waited for the one before, this one was the first to try.
                Ok(Look::Wait { holder: other, .. }) if other != from => {
                    (from, since, in_vain) = (other, self.clock.now(), in_vain + 1);
                }
                Ok(Look::Wait { .. }) if self.clock.now() < steal_at(since, ask.patience.deadline()) => {}
                Ok(Look::Wait { .. }) => match realm.ask(Request::steal(file, holder, &from), BEHIND).await {
                    Ok(true) => return Waited::Sought(Sought::Mine(Arc::clone(realm))),
                    Ok(false) => in_vain += 1,
                    Err(_) => return Waited::Sought(Sought::Alone),
                },
                Ok(Look::Free) => return Waited::Free,
                // Of many that ask at once, some do later.
                Err(shared::Error::Busy) if self.clock.now() < steal_at(since, ask.patience.deadline()) => {}
                Err(_) | Ok(Look::Mine) => return Waited::Sought(Sought::Alone),
            }
        }
        Waited::Sought(Sought::Alone)
    }

    /// Why another replica's mint failed.
    pub(super) fn failure(&self, realm: &Realm, file: &FileNames, sealed: &[u8]) -> Option<Error> {
        match realm.seals.open(&file.lease, sealed) {
            Ok(Content::Failure { text, .. }) => {
                let cause = Box::new(words::read(&text)?);
                Some(Error::Relayed { cause, left: Duration::ZERO })
            }
            Ok(_) => {
                realm.rejected(Rejection::Malformed);
                None
            }
            Err(why) => {
                realm.rejected(why);
                None
            }
        }
    }

    /// What a value is good for that was found under a file's name.
    pub(super) fn judge(
        &self,
        realm: &Realm,
        file: &FileNames,
        sealed: &[u8],
        beacon: Option<Vec<u8>>,
        ask: &Ask,
    ) -> Judged {
        self.hear_beacon(realm, beacon.as_deref());
        match realm.seals.open(&file.link, sealed) {
            Ok(Content::Link(kept)) => self.judge_link(realm, &kept, ask.welcome.as_ref()),
            Ok(Content::Refusal(kept)) => self.judge_refusal(realm, &kept, ask),
            Ok(Content::Failure { .. } | Content::Beacon { .. } | Content::Member { .. } | Content::Credits { .. }) => {
                realm.rejected(Rejection::Malformed);
                Judged::Rejected
            }
            Err(why) => {
                realm.rejected(why);
                Judged::Rejected
            }
        }
    }

    /// The beacon comes with every value: a replica that was paused does not know how late it is.
    pub(super) fn hear_beacon(&self, realm: &Realm, beacon: Option<&[u8]>) {
        let Some(sealed) = beacon else { return };
        match realm.seals.open(&realm.names.fleet().beacon, sealed) {
            Ok(Content::Beacon { at }) => self.kie_clock.told(Witness::Beacon, at, self.clock.now()),
            Ok(_) => realm.rejected(Rejection::Malformed),
            Err(why) => realm.rejected(why),
        }
    }

    fn judge_link(&self, realm: &Realm, kept: &Kept, welcome: Option<&Welcome>) -> Judged {
        let passed = Judged::Passed(kept.minted_at);
        let now = self.clock.now();
        self.kie_clock.told(Witness::Mint, kept.minted_at, now);
        let alive = match shared::judge(kept, self.kie_clock.upper_bound(now), self.config.margin, now) {
            Ok(alive) => alive,
            Err(why) => {
                realm.tier().withheld(why);
                return passed;
            }
        };
        let Some(welcome) = welcome else { return passed };
        // SECURITY: whoever sealed it has checked it; this replica's rules may be stricter.
        let Ok(link) = Link::parse(&kept.text, &self.config.links) else {
            realm.rejected(Rejection::Malformed);
            return passed;
        };
        let is_young = alive.age <= self.config.force_interval;
        let is_welcome = welcome.other_than.as_ref() != Some(&link)
            && (is_young
                || welcome.max_age.is_none_or(|max_age| alive.age <= max_age)
                    && welcome.min_fresh.is_none_or(|least| now.until(alive.deadline) >= least));
        if !is_welcome {
            return passed;
        }
        Judged::Link(Minted {
            link,
            sent_at: now - alive.age,
            ends_at: alive.ends_at,
            // Nothing that is known now contradicts it; what comes later may.
            heard: self.kie_clock.heard(None, None, now, now),
            says_its_end: false,
            via: Via::Shared,
        })
    }

    fn judge_refusal(&self, realm: &Realm, kept: &Kept, ask: &Ask) -> Judged {
        let passed = Judged::Passed(kept.minted_at);
        let now = self.clock.now();
        let Some(welcome) = &ask.welcome else { return passed };
        let alive = match shared::judge(kept, self.kie_clock.upper_bound(now), Duration::ZERO, now) {
            Ok(alive) => alive,
            Err(why) => {
                realm.tier().withheld(why);
                return passed;
            }
        };
        // Whoever insists asks whether the refusal still stands.
        let is_asked_again = ask.reason != Reason::Refresh
            && welcome.max_age.is_some_and(|max_age| alive.age > max_age.max(self.config.force_interval));
        match words::read(&kept.text) {
            Some(cause) if cause.is_refusal() && !is_asked_again => {
                Judged::Refusal(Error::Relayed { cause: Box::new(cause), left: now.until(alive.ends_at) })
            }
            Some(_) | None => passed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mint_of_another_is_waited_for_ten_seconds_and_half_the_time_that_is_left() {
        let at = |millis| Instant::from_origin(Duration::from_millis(millis));
        for (since, deadline, steals) in [
            (1000, 61_000, 11_000),
            (1000, 21_000, 11_000),
            (1000, 20_000, 10_500),
            // The next one is waited for again.
            (11_000, 21_000, 16_000),
            (16_000, 21_000, 18_500),
            (21_000, 21_000, 21_000),
            (22_000, 21_000, 22_000),
        ] {
            assert_eq!(steal_at(at(since), at(deadline)), at(steals), "{since} {deadline}");
        }
    }
}
