//! Whether this process should be sent requests. Local facts only: the state of kie.ai never changes it, since a
//! sidecar's readiness is its app's readiness.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Ready once nothing is left to wait for, until it drains. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Readiness(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    latches: Box<[(&'static str, AtomicBool)]>,
    is_draining: AtomicBool,
}

/// One thing that the start waits for. A latch that is dropped without having been opened stays shut: that part of the
/// start has failed.
#[derive(Debug)]
pub(crate) struct Latch {
    readiness: Readiness,
    index: usize,
}

/// One line of `?verbose`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) ok: bool,
}

impl Readiness {
    /// Not ready before each of the latches has been opened.
    pub(crate) fn waiting_for<const N: usize>(names: [&'static str; N]) -> (Readiness, [Latch; N]) {
        let latches = names.map(|name| (name, AtomicBool::new(false))).into();
        let readiness = Readiness(Arc::new(Inner { latches, is_draining: AtomicBool::new(false) }));
        let latches = std::array::from_fn(|index| Latch { readiness: readiness.clone(), index });
        (readiness, latches)
    }

    /// Not ready from now on.
    pub(crate) fn drain(&self) {
        self.0.is_draining.store(true, Ordering::Release);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.0.is_draining.load(Ordering::Acquire)
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.has_started() && !self.is_draining()
    }

    /// Whether everything that the start waits for has come. Draining does not undo it.
    pub(crate) fn has_started(&self) -> bool {
        self.0.latches.iter().all(|(_, is_open)| is_open.load(Ordering::Acquire))
    }

    /// Why it is ready or not.
    pub(crate) fn checks(&self) -> Vec<Check> {
        let latches = self.0.latches.iter().map(|(name, is_open)| Check { name, ok: is_open.load(Ordering::Acquire) });
        latches.chain([Check { name: "not-draining", ok: !self.is_draining() }]).collect()
    }
}

impl Latch {
    pub(crate) fn open(self) {
        self.readiness.0.latches[self.index].1.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_once_every_latch_is_open_until_it_drains() {
        let (readiness, [key, listeners]) = Readiness::waiting_for(["key", "listeners"]);
        assert!(!readiness.is_ready());
        key.open();
        assert!(!readiness.is_ready() && !readiness.has_started());
        listeners.open();
        assert!(readiness.is_ready() && readiness.has_started());
        readiness.drain();
        assert!(!readiness.is_ready() && readiness.has_started());
        let names: Vec<_> = readiness.checks().into_iter().map(|check| (check.name, check.ok)).collect();
        assert_eq!(names, [("key", true), ("listeners", true), ("not-draining", false)]);
    }

    #[test]
    fn a_latch_that_is_dropped_unopened_stays_shut() {
        let (readiness, [key, listeners]) = Readiness::waiting_for(["key", "listeners"]);
        key.open();
        drop(listeners);
        assert!(!readiness.is_ready() && !readiness.has_started());
    }
}
