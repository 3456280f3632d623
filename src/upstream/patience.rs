//! How long a mint is worth going on with: as long as anybody waits for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::clock::Instant;

/// The latest deadline of all who wait for one mint; it moves when one more joins. No request begins after it; one that
/// is under way is finished all the same, for whoever asks next. Cheap to clone: clones share it.
#[derive(Debug, Clone)]
pub struct Patience(Arc<AtomicU64>);

impl Patience {
    pub fn until(deadline: Instant) -> Patience {
        Patience(Arc::new(AtomicU64::new(nanos(deadline))))
    }

    /// One more waits, until then.
    pub fn extend(&self, deadline: Instant) {
        self.0.fetch_max(nanos(deadline), Ordering::Relaxed);
    }

    pub fn deadline(&self) -> Instant {
        Instant::from_origin(Duration::from_nanos(self.0.load(Ordering::Relaxed)))
    }
}

/// 580 years of uptime fit.
fn nanos(at: Instant) -> u64 {
    u64::try_from(at.since_origin().as_nanos()).unwrap_or(u64::MAX)
}
