//! A mint that asks the fleet first, once more where the tier comes back in time, and tells the fleet what came of it.

use std::{fmt, sync::Arc, time::Duration};

use super::{BEHIND, Fleet, Inner, leases::Lease, realm::Realm, seek::Sought, words};
use crate::{
    shared::{self, Content, FileNames, Holder, Kept, Put, Request},
    source::Source,
    upstream::{Ask, Error, FindFuture, Mint, MintFuture, Minted, Reason, Via, Welcome},
};

/// A fleet in front of whatever makes links by itself.
pub struct Minter {
    fleet: Fleet,
    alone: Arc<dyn Mint>,
}

/// Lets a file go where its mint comes to no end: on a panic, or where it is cancelled.
struct Guard<'a> {
    inner: &'a Inner,
    source: &'a Source,
    is_armed: bool,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if self.is_armed {
            self.inner.let_go(self.source);
        }
    }
}

impl Minter {
    pub fn new(fleet: Fleet, alone: Arc<dyn Mint>) -> Minter {
        Minter { fleet, alone }
    }

    async fn mint(&self, source: &Source, ask: Ask) -> Result<Minted, Error> {
        let inner = &self.fleet.0;
        // A mint whose link was of no use is made again by the same flight.
        let holder = inner.leases.holder(source).unwrap_or_else(|| inner.holder());
        let (mint, realm) = match inner.seek(source, &ask, &holder).await {
            Sought::Found(minted) => return Ok(minted),
            Sought::Failed(error) => return Err(error),
            Sought::Mine(realm) => (self.alone.mint(source, ask.clone()), realm),
            Sought::Alone => {
                let mut mint = self.alone.mint(source, ask.clone());
                tokio::select! {
                    // In this order the tier is asked for the link before it is asked for a token, and answers in that order.
                    biased;
                    sought = inner.look_again(source, &ask, &holder) => match sought {
                        Sought::Found(minted) => return Ok(minted),
                        Sought::Failed(error) => return Err(error),
                        Sought::Mine(realm) => (mint, realm),
                        Sought::Alone => return mint.await,
                    },
                    result = &mut mint => return result,
                }
            }
        };
        let file = realm.file(source);
        inner.leases.insert(source, Lease::new(&realm, file, holder, &ask.progress, inner.clock.now()));
        let mut guard = Guard { inner, source, is_armed: true };
        let reason = ask.reason;
        let result = mint.await;
        // A link is kept in memory first, then told.
        guard.is_armed = false;
        if let Err(error) = &result {
            inner.failed(source, error, reason);
        }
        result
    }
}

impl Mint for Minter {
    fn mint<'a>(&'a self, source: &'a Source, ask: Ask) -> MintFuture<'a> {
        Box::pin(self.mint(source, ask))
    }

    fn find<'a>(&'a self, sources: &'a [Source], welcome: &'a Welcome) -> FindFuture<'a> {
        Box::pin(self.fleet.0.find(sources, welcome))
    }

    fn can_find(&self) -> bool {
        self.fleet.0.realms().iter().any(|realm| realm.is_up())
    }

    fn kept(&self, source: &Source, minted: Option<&Minted>) {
        let inner = &self.fleet.0;
        match minted {
            Some(minted) if minted.via == Via::Kie => inner.put_link(source, minted),
            Some(_) => {}
            None => inner.let_go(source),
        }
    }
}

impl Inner {
    /// Lets a file go, whoever waits for it: another replica may mint it.
    fn let_go(&self, source: &Source) {
        if let Some(Lease { realm, file, holder, .. }) = self.leases.remove(source) {
            self.release(&realm, &file, &holder);
        }
    }

    pub(super) fn release(&self, realm: &Arc<Realm>, file: &FileNames, holder: &Holder) {
        // It lapses by itself.
        self.ask_behind(realm, Request::release(file, holder, None));
    }

    /// Tells the others what kie.ai has said; of a trouble of our own, only that they may try.
    fn failed(&self, source: &Source, error: &Error, reason: Reason) {
        let Some(Lease { realm, file, holder, .. }) = self.leases.remove(source) else { return };
        let now = self.clock.now();
        // A refresh gives up early, since nobody waited for it, and so does a caller with little patience where kie.ai may
        // serve a moment later: callers of other replicas, who wait, had better try.
        let is_told = error.is_refusal() || reason != Reason::Refresh && !error.is_transient();
        let (Some(text), Some(at)) = (words::write(error).filter(|_| is_told), self.kie_clock.beacon(now)) else {
            return self.release(&realm, &file, &holder);
        };
        if error.is_refusal() {
            let life = self.config.negative_ttl;
            if let Ok(ends_at) = at.checked_add(life)
                && !life.is_zero()
            {
                let kept = Kept { minted_at: at, ends_at, text };
                let sealed = realm.seals.seal(&file.link, &Content::Refusal(kept));
                // Whoever does not find it asks kie.ai.
                return self.ask_behind(&realm, Request::put(&file, &holder, sealed, life));
            }
        }
        let sealed = realm.seals.seal(&file.lease, &Content::Failure { at, text });
        self.ask_behind(&realm, Request::release(&file, &holder, Some(sealed)));
    }

    /// Tells the others of a link that is in memory here. Nobody waits for that.
    fn put_link(self: &Arc<Inner>, source: &Source, minted: &Minted) {
        let lease = self.leases.remove(source);
        self.realms().iter().for_each(|realm| realm.later().drop_link(source));
        let Some(realm) = self.serving() else { return };
        let holder = match lease {
            // The key on trial was not the one that minted, so that its fleet's lease is of no use to this link.
            Some(lease) if lease.realm.fingerprint != realm.fingerprint => {
                self.release(&lease.realm, &lease.file, &lease.holder);
                self.holder()
            }
            Some(lease) => lease.holder,
            None => self.holder(),
        };
        if !realm.is_up() {
            return realm.later().put(source, minted);
        }
        let Some((sealed, life)) = self.sealed(&realm, source, minted) else {
            // Nobody else could judge it.
            let file = realm.file(source);
            return self.release(&realm, &file, &holder);
        };
        let file = realm.file(source);
        let (fleet, source, minted) = (Arc::clone(self), source.clone(), minted.clone());
        self.spawn(async move {
            if fleet.put(&realm, &file, &holder, sealed, life).await.is_err() {
                realm.later().put(&source, &minted);
            }
        });
    }

    pub(super) async fn put(
        &self,
        realm: &Realm,
        file: &FileNames,
        holder: &Holder,
        sealed: Vec<u8>,
        life: Duration,
    ) -> Result<(), shared::Error> {
        match realm.ask(Request::put(file, holder, sealed, life), BEHIND).await {
            Ok(Put::Kept | Put::Forgotten) => Ok(()),
            Ok(Put::Older) => {
                self.metrics.duplicate();
                Ok(())
            }
            Err(error @ (shared::Error::Away | shared::Error::Late | shared::Error::Busy)) => Err(error),
            // It would be refused again.
            Err(shared::Error::Refused | shared::Error::Malformed) => Ok(()),
        }
    }

    /// A link as it rests in the tier, and for how long; `None` where its answer does not say what kie.ai's clock shows.
    pub(super) fn sealed(&self, realm: &Realm, source: &Source, minted: &Minted) -> Option<(Vec<u8>, Duration)> {
        let left = minted.heard.asked_at().until(minted.ends_at);
        let kept = shared::kept(&minted.heard, left, minted.link.as_str().to_owned())?;
        let sealed = realm.seals.seal(&realm.file(source).link, &Content::Link(kept));
        Some((sealed, self.clock.now().until(minted.ends_at)))
    }
}

impl fmt::Debug for Minter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Minter").finish_non_exhaustive()
    }
}
