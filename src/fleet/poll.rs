//! Mints of other replicas that are waited for, all together: one trip for each 64.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::sync::oneshot;

use super::{BEHIND, Inner, realm::Realm};
use crate::{
    clock::Instant,
    shared::{self, FileNames, Holder, Newer, PEEK, Request},
};

/// Those who come within this time ask together.
pub(super) const TOGETHER: Duration = Duration::from_millis(40);

/// How often it is asked whether a mint is over, by how long it has been waited for: about, in steps of `TOGETHER`. A mint takes
/// some hundred milliseconds.
const ASK_EVERY: [(Duration, Duration); 3] = [
    (Duration::from_secs(5), Duration::from_millis(250)),
    (Duration::from_secs(1), Duration::from_millis(100)),
    (Duration::ZERO, TOGETHER),
];

/// Who waits for mints of other replicas.
#[derive(Default)]
pub(super) struct Polls(Mutex<Vec<Poll>>);

/// One that waits, and is told once.
struct Poll {
    file: FileNames,
    newer: Newer,
    from: Holder,
    since: Instant,
    /// When it is asked about next.
    due: Instant,
    tell: oneshot::Sender<Result<(), shared::Error>>,
}

impl Polls {
    /// Returns whether nobody waited before: then nobody is about to ask.
    fn add(&self, more: Vec<Poll>) -> bool {
        let mut polls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = polls.is_empty() && !more.is_empty();
        polls.extend(more);
        is_first
    }

    /// Those that are due, and the others. Whoever is gone needs no answer.
    fn take(&self, now: Instant) -> (Vec<Poll>, Vec<Poll>) {
        let polls = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        polls.into_iter().filter(|poll| !poll.tell.is_closed()).partition(|poll| poll.due <= now)
    }
}

/// When it is asked again, after a mint was waited for so long.
fn ask_again_after(waited: Duration) -> Duration {
    ASK_EVERY.iter().find(|(from, _)| waited >= *from).map_or(TOGETHER, |(_, every)| *every)
}

impl Inner {
    /// Waits until the mint of `from`, who is waited for `since` then, is over (a value is there that will do, or another lease
    /// or none), or `until` then.
    ///
    /// # Errors
    /// As the tier's answer: it is done without. `Busy`: to be asked again.
    ///
    /// Cancel safe: nobody asks for it any more.
    pub(super) async fn mint_ends(
        self: &Arc<Inner>,
        realm: &Arc<Realm>,
        file: &FileNames,
        newer: Newer,
        from: &Holder,
        since: Instant,
        until: Instant,
    ) -> Result<(), shared::Error> {
        let (tell, told) = oneshot::channel();
        let now = self.clock.now();
        let due = now + ask_again_after(since.until(now)).saturating_sub(TOGETHER);
        self.watch(realm, vec![Poll { file: file.clone(), newer, from: from.clone(), since, due, tell }]);
        match tokio::time::timeout(now.until(until), told).await {
            Ok(told) => told.unwrap_or(Err(shared::Error::Away)),
            Err(_) => Ok(()),
        }
    }

    fn watch(self: &Arc<Inner>, realm: &Arc<Realm>, polls: Vec<Poll>) {
        if realm.polls.add(polls) {
            let (inner, realm) = (Arc::clone(self), Arc::clone(realm));
            self.spawn(async move {
                tokio::time::sleep(TOGETHER).await;
                inner.poll_all(&realm).await;
            });
        }
    }

    async fn poll_all(self: &Arc<Inner>, realm: &Arc<Realm>) {
        let (mut due, later) = realm.polls.take(self.clock.now());
        self.watch(realm, later);
        let mut trips = Vec::new();
        while !due.is_empty() {
            let rest = due.split_off(due.len().min(PEEK));
            trips.push(self.poll_some(realm, std::mem::replace(&mut due, rest)));
        }
        join_all(trips).await;
    }

    /// Tells those whose mints are over, and puts the others back.
    async fn poll_some(self: &Arc<Inner>, realm: &Arc<Realm>, polls: Vec<Poll>) {
        let asked = polls.iter().map(|poll| (&poll.file, poll.newer, &poll.from));
        let over = realm.ask(Request::poll(asked), BEHIND).await;
        let now = self.clock.now();
        let mut again = Vec::new();
        for (place, poll) in polls.into_iter().enumerate() {
            let is_over = match &over {
                Ok(over) => over.get(place).copied().ok_or(shared::Error::Malformed),
                Err(why) => Err(*why),
            };
            match is_over {
                Ok(false) => {
                    let every = ask_again_after(poll.since.until(now));
                    again.push(Poll { due: now + every.saturating_sub(TOGETHER), ..poll });
                }
                // Whoever is gone needs no answer.
                Ok(true) => drop(poll.tell.send(Ok(()))),
                Err(why) => drop(poll.tell.send(Err(why))),
            }
        }
        self.watch(realm, again);
    }
}

impl fmt::Debug for Polls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Polls").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mint_of_another_is_asked_for_less_often_the_longer_it_takes() {
        for (waited, every) in [(0, 40), (999, 40), (1000, 100), (4999, 100), (5000, 250), (60_000, 250)] {
            assert_eq!(ask_again_after(Duration::from_millis(waited)), Duration::from_millis(every), "{waited}");
        }
    }
}
