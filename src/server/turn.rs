//! A connection's turns.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
};

use super::activity::Activity;

/// Gives a connection its turns.
#[derive(Debug)]
pub(super) struct Turns {
    activity: Activity,
    /// The task that the activity wakes.
    task: Option<Waker>,
}

impl Turns {
    pub(super) fn new(activity: Activity) -> Turns {
        Turns { activity, task: None }
    }

    /// Polls the connection, once. From now on the activity wakes the task.
    pub(super) fn poll<C: Future>(&mut self, connection: Pin<&mut C>, cx: &mut Context<'_>) -> Poll<C::Output> {
        self.activity.takes_its_turn();
        if self.task.as_ref().is_none_or(|task| !task.will_wake(cx.waker())) {
            self.activity.wakes(cx.waker());
            self.task = Some(cx.waker().clone());
        }
        connection.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        pin::pin,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::Relaxed},
        },
        task::Wake,
    };

    use super::*;

    /// A task that counts how often it is woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Woken>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn the_activity_wakes_the_task_that_polled_last() {
        let activity = Activity::default();
        let mut turns = Turns::new(activity.clone());
        let mut connection = pin!(poll_fn(|_| Poll::<()>::Pending));
        let tasks: [_; 2] = std::array::from_fn(|_| Arc::new(Woken::default()));
        for (turn, woken) in [(0, [1, 0]), (0, [2, 0]), (1, [2, 1]), (0, [3, 1])] {
            let waker = Waker::from(Arc::clone(&tasks[turn]));
            assert!(turns.poll(connection.as_mut(), &mut Context::from_waker(&waker)).is_pending());
            activity.wake();
            assert_eq!([&tasks[0], &tasks[1]].map(|task| task.0.load(Relaxed)), woken);
        }
    }
}
