//! Who waits for a mint, and how long the mint is worth going on with.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::Party;
use crate::clock::Instant;

/// How many parties are remembered of all that wait for one mint. A mint has the best
/// turn of all its parties; beyond the first few, another one rarely has a better turn, and each would need memory.
const PARTIES: usize = 4;

/// The latest deadline of all waiters of one mint, and the parties by which they take turns; both grow when a caller
/// joins. No request begins after the deadline; a request under way is finished all the same, for the next caller.
/// Cheap to clone: clones share it.
#[derive(Debug, Clone)]
pub struct Patience(Arc<Waiting>);

#[derive(Debug)]
struct Waiting {
    /// Nanoseconds from the clock's origin.
    deadline: AtomicU64,
    parties: Mutex<[Option<Party>; PARTIES]>,
}

impl Patience {
    /// A caller of `party` waits until `deadline`.
    pub fn until(deadline: Instant, party: Party) -> Patience {
        let mut parties = [None; PARTIES];
        parties[0] = Some(party);
        Patience(Arc::new(Waiting { deadline: AtomicU64::new(nanos(deadline)), parties: Mutex::new(parties) }))
    }

    /// One more caller waits, until `deadline`.
    pub fn extend(&self, deadline: Instant, party: Party) {
        self.0.deadline.fetch_max(nanos(deadline), Ordering::Relaxed);
        let mut parties = self.0.parties.lock().unwrap_or_else(PoisonError::into_inner);
        // Another request of the same connection waits no less.
        let is_known = parties.iter().flatten().any(|known| known.connection == party.connection);
        if let Some(free) = parties.iter_mut().find(|free| free.is_none()).filter(|_| !is_known) {
            *free = Some(party);
        }
    }

    pub fn deadline(&self) -> Instant {
        Instant::from_origin(Duration::from_nanos(self.0.deadline.load(Ordering::Relaxed)))
    }

    /// At least one.
    pub(super) fn parties(&self) -> impl Iterator<Item = Party> + use<> {
        let parties = *self.0.parties.lock().unwrap_or_else(PoisonError::into_inner);
        parties.into_iter().flatten()
    }
}

/// 580 years of uptime fit.
fn nanos(at: Instant) -> u64 {
    u64::try_from(at.since_origin().as_nanos()).unwrap_or(u64::MAX)
}
