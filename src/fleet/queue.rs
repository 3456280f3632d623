//! The queue of a replica's requests for which the tier has no turn within sight. The first of them asks it again, and who comes
//! later waits behind.

use std::{
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Held by the first.
    first: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: u32,
    /// In how long there would be a turn for the first, as the tier has told last.
    retry_after: Duration,
}

/// Who drops it leaves the queue.
pub(super) struct Place<'a> {
    queue: &'a Queue,
    first: Option<tokio::sync::MutexGuard<'a, ()>>,
}

impl Queue {
    /// In how long there would be a turn for whoever comes now, if each that waits takes a `period`; `None` where nobody waits.
    pub(super) fn turn(&self, period: Duration) -> Option<Duration> {
        let State { waiting, retry_after } = *self.state();
        (waiting > 0).then(|| retry_after.saturating_add(period.saturating_mul(waiting)))
    }

    pub(super) fn heard(&self, retry_after: Duration) {
        self.state().retry_after = retry_after;
    }

    /// Waits until it is the first. `None` where nothing is `left` before: the patience of a flight may grow meanwhile.
    pub(super) async fn join(&self, left: impl Fn() -> Duration) -> Option<Place<'_>> {
        self.state().waiting += 1;
        let mut place = Place { queue: self, first: None };
        let mut first = pin!(self.first.lock());
        loop {
            let left = left();
            if left.is_zero() {
                return None;
            }
            if let Ok(first) = tokio::time::timeout(left, &mut first).await {
                place.first = Some(first);
                return Some(place);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.first = None;
        self.queue.state().waiting -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const PERIOD: Duration = Duration::from_millis(100);

    #[tokio::test(start_paused = true)]
    async fn who_came_first_is_first_and_whose_patience_grows_waits_on() {
        let queue = Queue::default();
        assert_eq!(queue.turn(PERIOD), None);
        let began = tokio::time::Instant::now();
        let patience = Cell::new(Duration::from_secs(1));
        let until = |patience: Duration| move || patience.saturating_sub(began.elapsed());
        let first = queue.join(until(PERIOD)).await.unwrap();
        queue.heard(Duration::from_secs(2));
        assert_eq!(queue.turn(PERIOD), Some(Duration::from_millis(2100)));
        let grows = queue.join(|| until(patience.get())());
        let waits = queue.join(until(Duration::from_secs(9)));
        let gives_up = queue.join(until(Duration::from_secs(2)));
        let leaves = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert_eq!(queue.turn(PERIOD), Some(Duration::from_millis(2400)));
            patience.set(Duration::from_secs(5));
            tokio::time::sleep(Duration::from_secs(3)).await;
            drop(first);
        };
        let grows = async {
            assert!(grows.await.is_some());
            began.elapsed()
        };
        let waits = async {
            assert!(waits.await.is_some());
            began.elapsed()
        };
        let (grew, waited, gave_up, ()) = tokio::join!(grows, waits, gives_up, leaves);
        assert!(grew <= waited && waited < Duration::from_secs(4) && gave_up.is_none(), "{grew:?} {waited:?}");
        assert_eq!(queue.turn(PERIOD), None);
    }
}
