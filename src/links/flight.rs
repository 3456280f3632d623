//! The flight table: one mint under way per file, any number of callers waiting for it.
//!
//! Knows neither links nor kie.ai: it is generic over the key, the result, and a note that all waiters of a flight
//! share. The first caller leads the flight, every later caller joins it. The lead is a value with a `Drop`: whether
//! the flight landed, failed, panicked or was cancelled, its table entry goes and its waiters wake.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use tokio::sync::watch;

use super::sync::Mutex;

/// All flights under way. Cheap to clone.
pub(super) struct Flights<K, V, N> {
    table: Arc<Mutex<HashMap<K, Flight<V, N>>>>,
}

/// Ends a flight when it is dropped; `land` gives it a result first.
pub(super) struct Lead<K: Eq + Hash, V, N> {
    key: K,
    flights: Flights<K, V, N>,
    result: watch::Sender<Option<V>>,
}

/// One caller that waits. Dropping it disturbs nobody.
pub(super) struct Waiter<V>(watch::Receiver<Option<V>>);

pub(super) enum Role<K: Eq + Hash, V, N> {
    /// No flight was under way: fly this one.
    Lead(Lead<K, V, N>),
    /// A flight was under way, and this is its note.
    Join(Waiter<V>, N),
}

struct Flight<V, N> {
    result: watch::Receiver<Option<V>>,
    note: N,
}

impl<K: Eq + Hash + Clone, V: Clone, N: Clone> Flights<K, V, N> {
    pub(super) fn new() -> Flights<K, V, N> {
        Flights { table: Arc::new(Mutex::new(HashMap::new())) }
    }

    /// Joins the flight for `key`, or begins it with this note.
    pub(super) fn join(&self, key: &K, note: &N) -> Role<K, V, N> {
        let mut table = self.table.lock().expect("no code panics while holding the table");
        if let Some(Flight { result, note }) = table.get(key) {
            return Role::Join(Waiter(result.clone()), note.clone());
        }
        let (sender, receiver) = watch::channel(None);
        table.insert(key.clone(), Flight { result: receiver, note: note.clone() });
        Role::Lead(Lead { key: key.clone(), flights: self.clone(), result: sender })
    }

    /// The note of the flight for `key`, if one is under way.
    pub(super) fn note(&self, key: &K) -> Option<N> {
        self.table.lock().expect("no code panics while holding the table").get(key).map(|flight| flight.note.clone())
    }

    pub(super) fn is_under_way(&self, key: &K) -> bool {
        self.table.lock().expect("no code panics while holding the table").contains_key(key)
    }

    pub(super) fn keys(&self) -> Vec<K> {
        self.table.lock().expect("no code panics while holding the table").keys().cloned().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.table.lock().expect("no code panics while holding the table").len()
    }
}

impl<K, V, N> Clone for Flights<K, V, N> {
    fn clone(&self) -> Flights<K, V, N> {
        Flights { table: Arc::clone(&self.table) }
    }
}

impl<K: Eq + Hash, V, N> Lead<K, V, N> {
    pub(super) fn waiter(&self) -> Waiter<V> {
        Waiter(self.result.subscribe())
    }

    /// Ends the flight with a result. What the result describes must be visible to newcomers before this, since the
    /// next caller for this key leads a flight of its own.
    pub(super) fn land(self, result: V) {
        // The result first, the table entry second (`drop`): a caller that asks in between finds the result.
        self.result.send_replace(Some(result));
    }
}

impl<K: Eq + Hash, V, N> Drop for Lead<K, V, N> {
    fn drop(&mut self) {
        // A poisoned table would strand every later caller; removal is safe in any state.
        let mut table = self.flights.table.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        table.remove(&self.key);
    }
}

impl<V: Clone> Waiter<V> {
    /// The result of the flight, or `None` when it was lost (its task panicked or was cancelled).
    /// Cancel safe: a dropped wait changes nothing.
    pub(super) async fn wait(mut self) -> Option<V> {
        // `Err` means that the lead is gone; it may have landed just before.
        let _ = self.0.wait_for(Option::is_some).await;
        self.0.borrow().clone()
    }
}
