//! Whether this process should be sent requests. Local facts only: the state of kie.ai never changes it, since a
//! sidecar's readiness is its app's readiness.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use crate::upstream::Kie;

/// Shared between the life cycle, which sets it, and the probes, which show it.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Flags>);

#[derive(Debug, Default)]
struct Flags {
    key: AtomicBool,
    listening: AtomicBool,
    draining: AtomicBool,
    started: AtomicBool,
    /// For people; it is shown and does not count.
    upstream: OnceLock<Kie>,
}

/// One line of `?verbose`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Check {
    pub name: &'static str,
    pub ok: bool,
}

impl Readiness {
    pub fn key_loaded(&self) {
        self.0.key.store(true, Ordering::Release);
        self.note_start();
    }

    pub fn listeners_bound(&self) {
        self.0.listening.store(true, Ordering::Release);
        self.note_start();
    }

    /// From now on `?verbose` tells how kie.ai is.
    pub fn show_upstream(&self, kie: Kie) {
        let _ = self.0.upstream.set(kie);
    }

    pub fn upstream(&self) -> Option<&Kie> {
        self.0.upstream.get()
    }

    pub fn draining(&self) {
        self.0.draining.store(true, Ordering::Release);
    }

    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Acquire)
    }

    pub fn is_ready(&self) -> bool {
        self.checks().iter().all(|check| check.ok)
    }

    /// Whether it has been ready once.
    pub fn has_started(&self) -> bool {
        self.0.started.load(Ordering::Acquire)
    }

    pub fn checks(&self) -> [Check; 3] {
        [
            Check { name: "key", ok: self.0.key.load(Ordering::Acquire) },
            Check { name: "listeners", ok: self.0.listening.load(Ordering::Acquire) },
            Check { name: "not-draining", ok: !self.0.draining.load(Ordering::Acquire) },
        ]
    }

    fn note_start(&self) {
        if self.is_ready() {
            self.0.started.store(true, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_with_a_key_and_listeners_until_it_drains() {
        let readiness = Readiness::default();
        assert!(!readiness.is_ready());
        readiness.key_loaded();
        assert!(!readiness.is_ready() && !readiness.has_started());
        readiness.listeners_bound();
        assert!(readiness.is_ready() && readiness.has_started());
        readiness.draining();
        assert!(!readiness.is_ready() && readiness.has_started());
    }
}
