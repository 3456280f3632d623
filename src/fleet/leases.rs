//! The files that this replica mints for the whole fleet.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::realm::Realm;
use crate::{
    clock::Instant,
    shared::{FileNames, Holder},
    source::Source,
    upstream::Progress,
};

/// A mint that takes longer than this after its first request has hung: another replica may try.
const HELD_AFTER_SENDING: Duration = Duration::from_secs(4);

/// No flight takes longer; what is held for longer was left behind.
const LONGEST: Duration = Duration::from_secs(120);

/// A lease that this replica has, or had a moment ago.
#[derive(Debug, Clone)]
pub(super) struct Lease {
    pub(super) realm: Arc<Realm>,
    pub(super) file: FileNames,
    pub(super) holder: Holder,
    progress: Arc<Progress>,
    since: Instant,
}

impl Lease {
    pub(super) fn new(
        realm: &Arc<Realm>,
        file: FileNames,
        holder: Holder,
        progress: &Arc<Progress>,
        since: Instant,
    ) -> Lease {
        Lease { realm: Arc::clone(realm), file, holder, progress: Arc::clone(progress), since }
    }

    /// Whether it is to be renewed.
    pub(super) fn is_wanted(&self, now: Instant) -> bool {
        self.progress.first_sent_at().is_none_or(|sent_at| now.since(sent_at) < HELD_AFTER_SENDING)
    }
}

/// All of them, by file: there is one flight for each.
#[derive(Debug, Default)]
pub(super) struct Leases(Mutex<HashMap<Source, Lease>>);

impl Leases {
    pub(super) fn insert(&self, source: &Source, lease: Lease) {
        self.lock().insert(source.clone(), lease);
    }

    pub(super) fn remove(&self, source: &Source) -> Option<Lease> {
        self.lock().remove(source)
    }

    pub(super) fn holder(&self, source: &Source) -> Option<Holder> {
        self.lock().get(source).map(|lease| lease.holder.clone())
    }

    /// Those that are to be renewed.
    pub(super) fn wanted(&self, now: Instant) -> Vec<Lease> {
        let mut leases = self.lock();
        leases.retain(|_, lease| now.since(lease.since) < LONGEST);
        leases.values().filter(|lease| lease.is_wanted(now)).cloned().collect()
    }

    pub(super) fn take_all(&self) -> Vec<Lease> {
        self.lock().drain().map(|(_, lease)| lease).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Source, Lease>> {
        // Every section is one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
