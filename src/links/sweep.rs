//! Links that are past their deadline leave memory: nobody is given them, and an idle process would hold them for ever.

use std::time::Duration;

use moka::notification::RemovalCause;
use tokio_util::sync::CancellationToken;

use super::{Inner, Links, Note, flight::Role};
use crate::{clock::Instant, source::Source, upstream::Party};

/// For so long at most, memory is held by links that are dead. A look at each of 60,000 links takes some 20 ms.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

impl Links {
    /// Sweeps every minute, until `stop`.
    pub async fn sweep_until(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(SWEEP_EVERY) => {}
            }
            let links = self.clone();
            // Callers' links must not wait for it.
            let sweep = self.0.tasks.spawn_blocking(move || links.sweep());
            let _ = sweep.await;
        }
    }

    /// Removes the links that are past their deadline.
    ///
    /// By our own clock alone: what kie.ai's clock takes from a link it may give back, since one of its answers may be
    /// wrong.
    pub(crate) fn sweep(&self) {
        let now = self.0.clock.now();
        for (source, entry) in &self.0.entries {
            if now >= entry.own_deadline() {
                self.0.sweep_out(&source, now);
            }
        }
        // The cache does so by itself only where it is used.
        self.0.entries.run_pending_tasks();
    }
}

impl Inner {
    fn sweep_out(&self, source: &Source, now: Instant) {
        // Whoever holds a file's flight is the only one to put its links into the cache: none that lives comes in
        // between. A caller that joins finds the flight lost in a moment, and goes round.
        let Role::Lead(_lead) = self.flights.join(source, &Note::until(now, Party::default())) else { return };
        if self.entries.get(source).is_some_and(|newest| now >= newest.own_deadline()) {
            self.remove(source, RemovalCause::Expired);
        }
    }

    /// Takes what is there of `source` out of the cache, and counts it.
    pub(super) fn remove(&self, source: &Source, cause: RemovalCause) {
        if self.entries.remove(source).is_some() {
            self.metrics.evicted(cause);
        }
    }
}
