//! Mints of other replicas that are waited for, all together: one trip for all their files.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::sync::oneshot;

use super::{BEHIND, Inner, realm::Realm};
use crate::shared::{self, FileNames, Holder, Newer, PEEK, Request};

/// Those who come within this time ask together.
pub(super) const TOGETHER: Duration = Duration::from_millis(40);

/// Those who ask together next.
#[derive(Default)]
pub(super) struct Polls(Mutex<Vec<Poll>>);

struct Poll {
    file: FileNames,
    newer: Newer,
    from: Holder,
    tell: oneshot::Sender<Result<bool, shared::Error>>,
}

impl Polls {
    /// Returns whether nobody else asks yet.
    fn add(&self, poll: Poll) -> bool {
        let mut polls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        polls.push(poll);
        polls.len() == 1
    }

    fn take(&self) -> Vec<Poll> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Inner {
    /// Whether there is anything new to see of a file that `from` was minting: a value that will do, or another lease. Takes
    /// `TOGETHER` at most, and a trip.
    ///
    /// # Errors
    /// When the tier does not answer within `BEHIND`.
    ///
    /// Cancel safe: whoever else asks hears the answer.
    pub(super) async fn poll(
        &self,
        realm: &Arc<Realm>,
        file: &FileNames,
        newer: Newer,
        from: &Holder,
    ) -> Result<bool, shared::Error> {
        let (tell, told) = oneshot::channel();
        if realm.polls.add(Poll { file: file.clone(), newer, from: from.clone(), tell }) {
            let realm = Arc::clone(realm);
            self.spawn(async move {
                tokio::time::sleep(TOGETHER).await;
                realm.poll_all().await;
            });
        }
        told.await.unwrap_or(Err(shared::Error::Away))
    }
}

impl Realm {
    async fn poll_all(&self) {
        let mut polls = self.polls.take();
        polls.retain(|poll| !poll.tell.is_closed());
        let mut trips = Vec::new();
        while !polls.is_empty() {
            let rest = polls.split_off(polls.len().min(PEEK));
            trips.push(self.poll_some(std::mem::replace(&mut polls, rest)));
        }
        join_all(trips).await;
    }

    async fn poll_some(&self, polls: Vec<Poll>) {
        let asked = polls.iter().map(|poll| (&poll.file, poll.newer, &poll.from));
        let changed = self.ask(Request::poll(asked), BEHIND).await;
        for (place, poll) in polls.into_iter().enumerate() {
            let changed = match &changed {
                Ok(changed) => changed.get(place).copied().ok_or(shared::Error::Malformed),
                Err(why) => Err(*why),
            };
            // Whoever is gone needs no answer.
            let _ = poll.tell.send(changed);
        }
    }
}

impl fmt::Debug for Polls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Polls").finish_non_exhaustive()
    }
}
