//! How long a connection may stay as it is, and when it gives way to another.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

use super::{
    activity::{Activity, Phase},
    crowd::Member,
};

/// A head that takes longer than this is no hurried caller's.
const SLOW_HEAD: Duration = Duration::from_secs(1);

/// Where another connection has no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GivesWay {
    /// A connection gives way on which nothing is under way, or whose peer is slow: with a head, or to read its answer.
    Quiet,
    /// The one on which nothing has happened for longest gives way, whatever it is at. For an interface whose answers come at
    /// once and have to come: whoever sends half a request to each place would keep probes out.
    Any,
}

/// How long a connection may stay as it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// For a head to arrive, from its first byte on, and for the first byte of a connection. A peer that has read nothing for
    /// so long gives way.
    pub(crate) head: Duration,
    /// Between requests.
    pub(crate) idle: Duration,
    pub(crate) gives_way: GivesWay,
}

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// Its time between requests is over.
    Idle,
    /// Another needs its place.
    GivesWay,
    /// The peer is too slow, or holds too much.
    TooSlow,
}

impl Patience {
    /// After how much time in this phase it gives way, and is let go in any case.
    fn limits(self, phase: Phase) -> (Option<Duration>, Option<Duration>) {
        let at_once = Some(Duration::ZERO);
        let (gives_way, over) = match phase {
            Phase::Silent => (at_once, Some(self.head)),
            Phase::Head => (Some(SLOW_HEAD.min(self.head)), Some(self.head)),
            Phase::Busy => (None, None),
            // A slow reader may stand still as long as nobody minds, but not for ever.
            Phase::Unread => (Some(self.head), Some(self.head.max(self.idle))),
            Phase::Idle => (at_once, Some(self.idle)),
        };
        match self.gives_way {
            GivesWay::Quiet => (gives_way, over),
            GivesWay::Any => (at_once, over),
        }
    }
}

/// Watches one connection. To be polled by its task, after the connection itself.
pub(super) struct Watch {
    activity: Activity,
    member: Member,
    patience: Patience,
    seen: (Phase, u64),
    /// When it was first seen so.
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Watch {
    pub(super) fn new(activity: Activity, member: Member, patience: Patience) -> Watch {
        let (seen, since) = (activity.now(), Instant::now());
        Watch { activity, member, patience, seen, since, timer: Box::pin(tokio::time::sleep_until(since)) }
    }

    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<Over> {
        self.activity.wakes(cx.waker());
        if self.activity.is_cut() {
            return Poll::Ready(Over::TooSlow);
        }
        let seen = self.activity.now();
        let before = std::mem::replace(&mut self.seen, seen);
        let now = Instant::now();
        if seen != before {
            self.since = now;
        }
        let (gives_way, over) = self.patience.limits(seen.0);
        let quiet = now - self.since;
        if over.is_some_and(|over| quiet >= over) {
            return Poll::Ready(if seen.0 == Phase::Idle { Over::Idle } else { Over::TooSlow });
        }
        // A head that goes on is no reason to be spared: only a request, or an answer that was taken.
        let has_moved = seen.1 != before.1;
        match gives_way {
            Some(after) if quiet >= after => {
                if has_moved || !self.member.has_offered() {
                    self.member.offer();
                } else if self.member.is_asked_to_go() {
                    return Poll::Ready(Over::GivesWay);
                }
            }
            Some(_) | None => self.member.withdraw(),
        }
        let next = [gives_way, over].into_iter().flatten().filter(|after| *after > quiet).min();
        let Some(next) = next.and_then(|after| self.since.checked_add(after)) else { return Poll::Pending };
        // A timer that goes off early costs less than one that is set anew with every request.
        if self.timer.deadline() > next || self.timer.is_elapsed() {
            self.timer.as_mut().reset(next);
        }
        if self.timer.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Whether something has come after all since it was over; `has_unread` tells of bytes that were not read yet.
    pub(super) fn is_revived(&self, has_unread: bool) -> bool {
        let reads = matches!(self.seen.0, Phase::Silent | Phase::Head | Phase::Idle);
        self.activity.now() != self.seen || (has_unread && reads)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::{super::crowd::Crowd, *};

    const HEAD: Duration = Duration::from_secs(10);
    const IDLE: Duration = Duration::from_secs(75);
    const PATIENCE: Patience = Patience { head: HEAD, idle: IDLE, gives_way: GivesWay::Quiet };

    #[test]
    fn each_phase_has_its_limits() {
        let at_once = Some(Duration::ZERO);
        for (phase, limits) in [
            (Phase::Silent, (at_once, Some(HEAD))),
            (Phase::Head, (Some(SLOW_HEAD), Some(HEAD))),
            (Phase::Busy, (None, None)),
            (Phase::Unread, (Some(HEAD), Some(IDLE))),
            (Phase::Idle, (at_once, Some(IDLE))),
        ] {
            assert_eq!(PATIENCE.limits(phase), limits, "{phase:?}");
            let any = Patience { gives_way: GivesWay::Any, ..PATIENCE };
            assert_eq!(any.limits(phase), (at_once, limits.1), "{phase:?}");
        }
        let short = Patience { idle: Duration::from_secs(1), ..PATIENCE };
        assert_eq!(short.limits(Phase::Unread).1, Some(HEAD));
    }

    fn watch(crowd: &Crowd) -> (Activity, Watch) {
        let activity = Activity::default();
        let member = crowd.enter(&activity).unwrap();
        (activity.clone(), Watch::new(activity, member, PATIENCE))
    }

    /// How it ends, and after how many seconds.
    async fn over(watch: &mut Watch) -> (Over, u64) {
        let began = Instant::now();
        let over = poll_fn(|cx| watch.poll_over(cx)).await;
        (over, began.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_s_time_counts_from_its_first_byte_and_an_idle_connection_has_its_own() {
        let crowd = Crowd::new(9, 0);
        let (_silent, mut watch) = self::watch(&crowd);
        assert_eq!(over(&mut watch).await, (Over::TooSlow, 10));

        let (activity, mut watch) = self::watch(&crowd);
        activity.heard(false);
        let late = async {
            tokio::time::sleep(Duration::from_secs(70)).await;
            activity.heard(true);
            activity.wake();
            // More of it, in small pieces, is no progress.
            for _ in 0..9 {
                tokio::time::sleep(Duration::from_secs(1)).await;
                activity.heard(true);
                activity.wake();
            }
            std::future::pending::<()>().await;
        };
        let ended = tokio::select! {
            ended = over(&mut watch) => ended,
            () = late => unreachable!("it never ends"),
        };
        assert_eq!(ended, (Over::TooSlow, 80));

        let (activity, mut watch) = self::watch(&crowd);
        activity.heard(false);
        assert_eq!(over(&mut watch).await, (Over::Idle, 75));
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_at_the_last_moment_is_served_where_it_is_read() {
        let crowd = Crowd::new(9, 0);
        let (activity, mut watch) = self::watch(&crowd);
        activity.heard(false);
        assert_eq!(over(&mut watch).await, (Over::Idle, 75));
        assert!(!watch.is_revived(false) && watch.is_revived(true));
        activity.heard(true);
        assert!(watch.is_revived(false), "it has been read already");
        // Where it waits for an answer to be read, the next request is not.
        activity.wrote();
        assert_eq!(over(&mut watch).await, (Over::TooSlow, 75));
        assert!(!watch.is_revived(true));
    }

    #[tokio::test(start_paused = true)]
    async fn it_gives_way_when_it_is_quiet_and_stays_when_something_has_come() {
        let crowd = Crowd::new(1, 0);
        let (activity, mut watch) = self::watch(&crowd);
        activity.heard(false);
        let ask = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(crowd.make_room());
            activity.heard(true);
            tokio::time::sleep(Duration::from_millis(999)).await;
            assert!(!crowd.make_room(), "a head that has just begun is not interrupted");
            tokio::time::sleep(Duration::from_millis(1)).await;
            activity.heard(false);
            activity.wake();
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(crowd.make_room());
        };
        let (ended, ()) = tokio::join!(over(&mut watch), ask);
        assert_eq!(ended, (Over::GivesWay, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn where_any_gives_way_half_a_head_spares_nobody_and_a_request_does() {
        for has_asked in [false, true] {
            let crowd = Crowd::new(2, 0);
            let (activity, mut watch) = self::watch(&crowd);
            watch.patience.gives_way = GivesWay::Any;
            let (_other, later) = self::watch(&crowd);
            let ask = async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                assert!(crowd.make_room());
                activity.heard(true);
                if has_asked {
                    activity.wrote();
                    activity.flushed();
                }
                activity.wake();
            };
            let (ended, ()) = tokio::join!(over(&mut watch), ask);
            assert_eq!(ended, if has_asked { (Over::TooSlow, 11) } else { (Over::GivesWay, 1) });
            assert_eq!(later.member.is_asked_to_go(), has_asked, "another goes in its place");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_nothing_gives_way_after_a_while_and_is_let_go_in_the_end() {
        let crowd = Crowd::new(1, 0);
        let (activity, mut watch) = self::watch(&crowd);
        activity.heard(false);
        activity.wrote();
        let ask = async {
            tokio::time::sleep(Duration::from_secs(9)).await;
            assert!(!crowd.make_room());
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert!(crowd.make_room());
        };
        let (ended, ()) = tokio::join!(over(&mut watch), ask);
        assert_eq!(ended, (Over::GivesWay, 11));
        drop(watch);

        let (activity, mut watch) = self::watch(&crowd);
        activity.wrote();
        assert_eq!(over(&mut watch).await, (Over::TooSlow, 75));
    }
}
