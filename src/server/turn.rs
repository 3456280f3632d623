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
    /// While something is taken: whether its connection's task was woken for it.
    static WOKEN: Cell<Option<bool>> = const { Cell::new(None) };
}

/// A connection's turns.
#[derive(Debug)]
pub(super) struct Turns {
    activity: Activity,
    /// The task, and what stands for its waker.
    waker: Option<(Arc<Task>, Waker)>,
}

#[derive(Debug)]
struct Task(Waker);

impl Wake for Task {
    fn wake(self: Arc<Task>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Task>) {
        // Whoever else wakes the task is on another thread, or here when nothing is being taken.
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
        let known = self.waker.take().filter(|(known, _)| known.0.will_wake(task));
        let (_, waker) = self.waker.insert(known.unwrap_or_else(|| {
            self.activity.wakes(task);
            let task = Arc::new(Task(task.clone()));
            (Arc::clone(&task), Waker::from(task))
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
mod tests {
    use std::{panic::catch_unwind, thread};

    use futures_util::task::{ArcWake, waker};

    use super::*;

    #[test]
    fn only_what_it_takes_itself_does_not_wake_a_task() {
        #[derive(Default)]
        struct Count(std::sync::atomic::AtomicUsize);
        impl ArcWake for Count {
            fn wake_by_ref(count: &Arc<Count>) {
                count.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let [count, other] = std::array::from_fn(|_| Arc::new(Count::default()));
        let counted = || [&count, &other].map(|count| count.0.load(std::sync::atomic::Ordering::Relaxed));
        let mut turns = Turns::new(Activity::default());
        let task = waker(Arc::clone(&count));
        let first = turns.waker(&task).clone();
        assert!(first.will_wake(turns.waker(&task)), "one for all turns");
        first.wake_by_ref();
        assert_eq!(counted(), [1, 0]);
        assert_eq!(take(|| 7), (7, false));
        assert_eq!(take(|| first.wake_by_ref()), ((), true));
        let second = first.clone();
        assert_eq!(take(move || second.wake()), ((), true));
        assert_eq!(counted(), [1, 0]);
        let ((), woken) = take(|| thread::scope(|scope| drop(scope.spawn(|| first.wake_by_ref()).join())));
        assert_eq!((woken, counted()), (false, [2, 0]), "another thread tells it something else");
        assert!(catch_unwind(|| take(|| panic!("while it takes"))).is_err());
        first.wake_by_ref();
        assert_eq!(counted(), [3, 0]);
        let moved = waker(Arc::clone(&other));
        turns.waker(&moved).wake_by_ref();
        assert_eq!(counted(), [3, 1], "polled by another task now");
    }
}
