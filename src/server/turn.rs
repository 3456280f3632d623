//! One turn of a connection's task, in which it is not woken for what it takes itself.
//!
//! hyper (1.12) wakes whoever hands it a request's body when a piece of it is taken, also where the piece was the last one. It is
//! the connection's own task that hands it over and takes it, in one turn, and it would have a second turn for nothing.

use std::{
    cell::Cell,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

use super::activity::Activity;

thread_local! {
    /// While something is taken: whether its connection's task was woken for it. The thread's and not the task's: what other
    /// threads wake the task for must get through.
    static WOKEN: Cell<Option<bool>> = const { Cell::new(None) };
}

/// A connection's turns.
#[derive(Debug)]
pub(super) struct Turns {
    activity: Activity,
    /// The task's waker, and the one that stands for it.
    waker: Option<(Waker, Waker)>,
}

/// A task's waker that is quiet while something is taken.
struct Muted(Waker);

impl Wake for Muted {
    fn wake(self: Arc<Muted>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Muted>) {
        // While something is taken, nothing else on this thread wakes a connection.
        if WOKEN.get().is_some() {
            WOKEN.set(Some(true));
        } else {
            self.0.wake_by_ref();
        }
    }
}

impl Turns {
    pub(super) fn new(activity: Activity) -> Turns {
        Turns { activity, waker: None }
    }

    /// Polls the connection, once. From now on the activity wakes the task.
    pub(super) fn poll<C: Future>(&mut self, connection: Pin<&mut C>, cx: &Context<'_>) -> Poll<C::Output> {
        self.activity.takes_its_turn();
        connection.poll(&mut Context::from_waker(self.waker(cx.waker())))
    }

    fn waker(&mut self, task: &Waker) -> &Waker {
        let known = self.waker.take().filter(|(known, _)| known.will_wake(task));
        let (_, waker) = self.waker.insert(known.unwrap_or_else(|| {
            self.activity.wakes(task);
            (task.clone(), Waker::from(Arc::new(Muted(task.clone()))))
        }));
        waker
    }
}

/// Takes something in a connection's turn. Returns with it whether the connection's task was to be woken for that, and was not.
pub(super) fn take<T>(take: impl FnOnce() -> T) -> (T, bool) {
    struct Over;
    impl Drop for Over {
        fn drop(&mut self) {
            WOKEN.set(None);
        }
    }
    WOKEN.set(Some(false));
    let _over = Over;
    let taken = take();
    (taken, WOKEN.get() == Some(true))
}

#[cfg(test)]
pub(super) mod testing {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::Relaxed},
        },
        task::Wake,
    };

    /// A task that counts how often it is woken.
    #[derive(Default)]
    pub(in crate::server) struct Woken(AtomicUsize);

    impl Woken {
        /// How often, since the last call.
        pub(in crate::server) fn take(&self) -> usize {
            self.0.swap(0, Relaxed)
        }
    }

    impl Wake for Woken {
        fn wake(self: Arc<Woken>) {
            self.0.fetch_add(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{panic::catch_unwind, thread};

    use super::{testing::Woken, *};

    #[test]
    fn only_what_it_takes_itself_does_not_wake_a_task() {
        let tasks: [_; 2] = std::array::from_fn(|_| Arc::new(Woken::default()));
        let woken = || [&tasks[0], &tasks[1]].map(|task| task.take());
        let [task, other] = [&tasks[0], &tasks[1]].map(|task| Waker::from(Arc::clone(task)));
        let activity = Activity::default();
        let mut turns = Turns::new(activity.clone());
        let first = turns.waker(&task).clone();
        assert!(first.will_wake(turns.waker(&task)), "one for all turns");
        first.wake_by_ref();
        activity.wake();
        assert_eq!(woken(), [2, 0]);
        assert_eq!(take(|| 7), (7, false));
        assert_eq!(take(|| first.wake_by_ref()), ((), true));
        let second = first.clone();
        assert_eq!(take(move || second.wake()), ((), true));
        assert_eq!(woken(), [0, 0]);
        let ((), is_to_wake) = take(|| thread::scope(|scope| drop(scope.spawn(|| first.wake_by_ref()).join())));
        assert_eq!((is_to_wake, woken()), (false, [1, 0]), "another thread tells it something else");
        assert!(catch_unwind(|| take(|| panic!("while it takes"))).is_err());
        first.wake_by_ref();
        assert_eq!(woken(), [1, 0]);
        turns.waker(&other).wake_by_ref();
        activity.wake();
        assert_eq!(woken(), [0, 2], "polled by another task now");
    }
}
