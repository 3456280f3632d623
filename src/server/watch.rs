//! How long a connection may stay as it is, and when it gives way to another.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

use super::{
    activity::{Activity, Phase},
    crowd::{Member, Offer},
};

/// Which connection gives way where another has no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivesWay {
    /// A connection gives way where nothing is under way, where its peer has not read for some time, or where it waits
    /// for more of a request, however little of that has come. A connection that waits for us does not give way.
    Quiet,
    /// The connection on which nothing has happened for longest gives way, whatever it is at. For an interface whose
    /// answers come at once and have to come: a peer that sent half a request on each place would keep probes out.
    Any,
}

/// How long a connection may stay as it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Time for a head to arrive, from its first byte on, and for the first byte of a connection. A peer that has read
    /// nothing for so long gives way.
    pub(super) head: Duration,
    /// Between requests.
    pub(super) idle: Duration,
    pub(super) gives_way: GivesWay,
}

/// How long a peer may take to send a request, once it is connected or has begun, before its connection counts as idle
/// where another needs the place. Where all connections are that new, the oldest gives way all the same: otherwise a
/// peer that comes back as soon as it is sent away would have every place for itself.
const MOMENT: Duration = Duration::from_secs(1);

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

/// The limits of one phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limits {
    /// How the connection offers to give way before it is willing.
    at_first: Option<Offer>,
    /// After how much time it is willing to give way.
    willing: Option<Duration>,
    /// After how much time it is let go in any case.
    over: Option<Duration>,
}

impl Limits {
    fn offer(self, quiet: Duration) -> Option<Offer> {
        if self.willing.is_some_and(|willing| quiet >= willing) { Some(Offer::Willing) } else { self.at_first }
    }
}

impl Patience {
    fn limits(self, phase: Phase) -> Limits {
        let (at_first, willing, over) = match phase {
            Phase::Silent | Phase::Head => (Some(Offer::Reluctant), Some(MOMENT), Some(self.head)),
            // The service that reads the body knows how long to wait.
            Phase::Body => (Some(Offer::Reluctant), Some(MOMENT), None),
            Phase::Busy => (None, None, None),
            // A slow reader may stand still as long as nobody needs its place, but not for ever.
            Phase::Unread => (None, Some(self.head), Some(self.head.max(self.idle))),
            Phase::Idle => (None, Some(Duration::ZERO), Some(self.idle)),
        };
        match self.gives_way {
            GivesWay::Quiet => Limits { at_first, willing, over },
            GivesWay::Any => Limits { at_first: None, willing: Some(Duration::ZERO), over },
        }
    }
}

/// Watches one connection. To be polled by its task, after the connection itself has had its turn.
pub(super) struct Watch {
    activity: Activity,
    member: Member,
    patience: Patience,
    seen: (Phase, u32),
    /// When the connection was first seen so.
    since: Instant,
    timer: Pin<Box<Sleep>>,
    /// Whether the timer will wake the task.
    is_set: bool,
}

impl Watch {
    pub(super) fn new(activity: Activity, member: Member, patience: Patience) -> Watch {
        let (seen, since) = (activity.now(), Instant::now());
        Watch {
            activity,
            member,
            patience,
            seen,
            since,
            timer: Box::pin(tokio::time::sleep_until(since)),
            is_set: false,
        }
    }

    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<Over> {
        if self.activity.is_cut() {
            return Poll::Ready(Over::TooSlow);
        }
        let seen = self.activity.now();
        let before = std::mem::replace(&mut self.seen, seen);
        let now = Instant::now();
        if seen != before {
            self.since = now;
        }
        let mut limits = self.patience.limits(seen.0);
        if seen.0 == Phase::Unread && self.activity.is_http_2() {
            // What is written may have links in it, which would be old if they were taken later.
            limits.over = Some(self.patience.head);
        }
        let quiet = now - self.since;
        if limits.over.is_some_and(|over| quiet >= over) {
            return Poll::Ready(if seen.0 == Phase::Idle { Over::Idle } else { Over::TooSlow });
        }
        // SECURITY: a link may grow old here unnoticed. The peer may have taken other answers meanwhile, but not this
        // one.
        let untaken = self.activity.untaken_since().and_then(|since| since.checked_add(self.patience.head));
        if untaken.is_some_and(|until| now >= until) {
            return Poll::Ready(Over::TooSlow);
        }
        // A head that goes on does not spare a connection: only a request does, or an answer that was taken.
        let has_moved = seen.1 != before.1;
        match (limits.offer(quiet), self.member.offered()) {
            (None, _) => self.member.withdraw(),
            // A request that begins makes an idle connection reluctant again.
            (Some(offer), offered) if has_moved || offered.is_none_or(|offered| offered < offer) => {
                self.member.offer(offer);
            }
            (Some(_), _) if self.member.is_asked_to_go() => return Poll::Ready(Over::GivesWay),
            (Some(offer), offered) if offered != Some(offer) => self.member.offer(offer),
            (Some(_), _) => {}
        }
        let next = [limits.willing, limits.over].into_iter().flatten().filter(|after| *after > quiet).min();
        let next = next.and_then(|after| self.since.checked_add(after));
        let Some(next) = next.into_iter().chain(untaken).min() else { return Poll::Pending };
        // A timer that goes off early costs less than one that is set anew with every request.
        if self.timer.deadline() > next || self.timer.is_elapsed() {
            self.timer.as_mut().reset(next);
            self.is_set = false;
        }
        if !self.is_set || now >= self.timer.deadline() {
            self.is_set = true;
            // A task that has used up its turn would be told "not yet", and never be woken by the timer.
            let timer = tokio::task::unconstrained(self.timer.as_mut());
            if std::pin::pin!(timer).poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        Poll::Pending
    }

    /// Whether something has come after all since the connection was over; `has_unread` tells of bytes that were not
    /// read yet.
    pub(super) fn is_revived(&self, has_unread: bool) -> bool {
        let reads = matches!(self.seen.0, Phase::Silent | Phase::Head | Phase::Body | Phase::Idle);
        self.activity.now() != self.seen || (has_unread && reads)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::Arc};

    use axum::http::Request;

    use super::{
        super::{account::Account, crowd::Crowd},
        *,
    };

    const HEAD: Duration = Duration::from_secs(10);
    const IDLE: Duration = Duration::from_secs(75);
    const PATIENCE: Patience = Patience { head: HEAD, idle: IDLE, gives_way: GivesWay::Quiet };

    #[test]
    fn each_phase_has_its_limits() {
        let (at_once, reluctant) = (Some(Duration::ZERO), Some(Offer::Reluctant));
        for (phase, at_first, willing, over) in [
            (Phase::Silent, reluctant, Some(MOMENT), Some(HEAD)),
            (Phase::Head, reluctant, Some(MOMENT), Some(HEAD)),
            (Phase::Body, reluctant, Some(MOMENT), None),
            (Phase::Busy, None, None, None),
            (Phase::Unread, None, Some(HEAD), Some(IDLE)),
            (Phase::Idle, None, at_once, Some(IDLE)),
        ] {
            let limits = PATIENCE.limits(phase);
            assert_eq!(limits, Limits { at_first, willing, over }, "{phase:?}");
            if let Some(willing) = willing {
                assert_eq!(limits.offer(willing), Some(Offer::Willing), "{phase:?}");
                let before = willing.checked_sub(Duration::from_nanos(1));
                assert_eq!(before.and_then(|before| limits.offer(before)), at_first, "{phase:?}");
            }
            let any = Patience { gives_way: GivesWay::Any, ..PATIENCE };
            assert_eq!(any.limits(phase), Limits { at_first: None, willing: at_once, over }, "{phase:?}");
        }
        let short = Patience { idle: Duration::from_secs(1), ..PATIENCE };
        assert_eq!(short.limits(Phase::Unread).over, Some(HEAD));
    }

    fn watch(crowd: &Crowd) -> (Activity, Watch) {
        let activity = Activity::default();
        let member = crowd.enter(&activity).unwrap();
        (activity.clone(), Watch::new(activity, member, PATIENCE))
    }

    /// How it ends, and after how many seconds.
    async fn over(watch: &mut Watch) -> (Over, u64) {
        let began = Instant::now();
        let activity = watch.activity.clone();
        let over = poll_fn(|cx| {
            // As the connection's turn does.
            activity.wakes(cx.waker());
            watch.poll_over(cx)
        })
        .await;
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
    async fn a_head_that_begins_on_an_idle_connection_ends_in_its_own_time() {
        let crowd = Crowd::new(9, 0);
        for is_http_2 in [false, true] {
            let (activity, mut watch) = self::watch(&crowd);
            activity.heard(false);
            if is_http_2 {
                activity.speaks_http_2();
            }
            assert_eq!(over(&mut watch).await, (Over::Idle, 75), "HTTP/2: {is_http_2}");
        }
        let (activity, mut watch) = self::watch(&crowd);
        activity.heard(false);
        // The timer is set for the end of its idleness.
        for _ in 0..2 {
            assert!(poll_fn(|cx| Poll::Ready(watch.poll_over(cx).is_pending())).await);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        activity.heard(true);
        assert_eq!(over(&mut watch).await, (Over::TooSlow, 10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_to_go_goes_at_once() {
        let (activity, mut watch) = self::watch(&Crowd::new(1, 0));
        // A task of its own: it looks when it is woken.
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move { over(&mut watch).await });
        tokio::time::sleep(Duration::from_secs(5)).await;
        activity.cut();
        assert_eq!(tasks.join_next().await.unwrap().unwrap(), (Over::TooSlow, 5));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_looked_at_again_has_offered_to_go_for_no_less_time() {
        let crowd = Crowd::new(2, 0);
        let [(_, mut first), (_, mut second)] = std::array::from_fn(|_| {
            let (activity, watch) = self::watch(&crowd);
            activity.heard(false);
            (activity, watch)
        });
        for watch in [&mut first, &mut second] {
            assert!(poll_fn(|cx| Poll::Ready(watch.poll_over(cx).is_pending())).await);
        }
        assert!(poll_fn(|cx| Poll::Ready(first.poll_over(cx).is_pending())).await);
        assert!(crowd.make_room());
        assert!(first.member.is_asked_to_go() && !second.member.is_asked_to_go());
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
        // Where the connection waits for an answer to be read, the next request is not read.
        activity.wrote();
        assert_eq!(over(&mut watch).await, (Over::TooSlow, 75));
        assert!(!watch.is_revived(true));
    }

    #[tokio::test(start_paused = true)]
    async fn it_gives_way_when_it_is_quiet_and_stays_when_a_request_has_begun_and_another_can_go() {
        let crowd = Crowd::new(4, 0);
        let (activity, mut watch) = self::watch(&crowd);
        let mut others: [_; 3] = std::array::from_fn(|_| self::watch(&crowd).1);
        activity.heard(false);
        let ask = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            others.iter_mut().for_each(|other| other.member.offer(Offer::Willing));
            assert!(crowd.make_room());
            assert!(!others[0].member.is_asked_to_go(), "they have been idle for less time");
            activity.heard(true);
            activity.wake();
            // Of two that are awake, either may be first.
            for _ in 0..2 {
                tokio::task::yield_now().await;
            }
            assert!(others[0].member.is_asked_to_go(), "in its place");
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert!(crowd.make_room());
            assert!(others[1].member.is_asked_to_go(), "a head that has just begun is not interrupted");
            tokio::time::sleep(Duration::from_millis(600)).await;
            others[2].member.offer(Offer::Willing);
            assert!(crowd.make_room());
            assert!(!others[2].member.is_asked_to_go(), "one that goes no further is as good as idle");
        };
        let (ended, ()) = tokio::join!(over(&mut watch), ask);
        assert_eq!(ended, (Over::GivesWay, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn where_all_are_new_half_a_request_gives_way_at_once_and_one_that_waits_for_us_does_not() {
        let crowd = Crowd::new(1, 0);
        let (activity, mut watch) = self::watch(&crowd);
        activity.heard(true);
        let _request =
            Account::new(&activity, &Arc::default(), &Crowd::new(1, 1 << 20)).open(&Request::new(()).into_parts().0);
        let ask = async {
            activity.wake();
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert!(!crowd.make_room());
        };
        tokio::select! {
            ended = over(&mut watch) => panic!("{ended:?}"),
            () = ask => {}
        }
        drop(watch);
        for has_begun in [false, true] {
            let (activity, mut watch) = self::watch(&crowd);
            activity.heard(has_begun);
            if has_begun {
                assert!(poll_fn(|cx| Poll::Ready(watch.poll_over(cx).is_pending())).await);
            }
            assert!(crowd.make_room());
            assert_eq!(over(&mut watch).await, (Over::GivesWay, 0));
        }
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

        for (is_http_2, seconds) in [(false, 75), (true, 10)] {
            let (activity, mut watch) = self::watch(&crowd);
            if is_http_2 {
                activity.speaks_http_2();
            }
            activity.wrote();
            assert_eq!(over(&mut watch).await, (Over::TooSlow, seconds));
        }
    }
}
