//! What a connection is at: who has to act next. The connection's stream and its service note here what they see.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::{Poll, Waker},
};

use tokio::time::Instant;

/// HTTP/2 reads at most so many bytes at a time. Then the requests among them have their turn, and drop their heads:
/// HTTP/2 reads all that has arrived before the first request is looked at, and one byte of a head can stand for a
/// header that takes 72 bytes in memory.
pub(super) const BYTES_A_TURN: usize = 512;

/// What one connection is at. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Activity(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    tally: Tally,
    /// Requests that wait for the peer to send more of their body: some of `Tally::OURS`, or the one that `at_once` holds, beside
    /// which there is no other.
    awaited: AtomicUsize,
    /// Requests that have begun. Changed by the connection's task alone.
    begun: AtomicU64,
    /// Whether anything has come.
    is_heard: AtomicBool,
    /// Whether a head has begun and not ended.
    is_in_head: AtomicBool,
    /// Whether something that was written has not been taken. Changed by the connection's task alone.
    is_unflushed: AtomicBool,
    is_http_2: AtomicBool,
    /// Bytes of answers that wait to be read, over HTTP/2.
    held: AtomicUsize,
    /// Since when each piece of these answers waits, the oldest first.
    untaken: Mutex<Untaken>,
    /// Whether the connection has to go at once.
    is_cut: AtomicBool,
    /// Whether it is to end once what has come is answered.
    is_ending: AtomicBool,
    /// Whether the stream shall look for bytes that have arrived and were not announced yet, and whether it found any.
    looks_again: AtomicBool,
    has_unread: AtomicBool,
    /// Bytes of HTTP/2 that may yet be read until the connection has its next turn.
    may_read: AtomicUsize,
    /// The connection's task, once it has had a turn. Not an `AtomicWaker`, which forgets the task when it wakes it.
    task: Mutex<Option<Waker>>,
    offer: OfferMade,
}

/// Three counts in one number, so that each change that a request makes is one locked operation.
#[derive(Debug, Default)]
struct Tally(AtomicU64);

impl Tally {
    /// A request that waits for us: for its answer, or for the next part of it.
    const OURS: u64 = 1;
    /// A request whose answer is not yet handed over to the last byte; ours are among them. A connection has as many as it has
    /// streams (256 at most, `Config`), and those that were reset a moment ago, of 65,535 that find room. A request that is
    /// answered at once is not open.
    const OPEN: u64 = 1 << 16;
    /// A request begins or ends, a part of its body comes, or a part of an answer is taken. Wraps: it is compared for equality
    /// alone.
    const MOVE: u64 = 1 << 32;

    fn add(&self, change: u64) {
        self.0.fetch_add(change, Relaxed);
    }

    /// Ours, open, and moves.
    fn read(&self) -> (u16, u16, u32) {
        let tally = self.0.load(Relaxed);
        (tally as u16, (tally >> 16) as u16, (tally >> 32) as u32)
    }
}

/// A connection's offer to give way (`crowd`), as far as it changes without the lock that all connections share.
#[derive(Debug, Default)]
pub(super) struct OfferMade {
    /// The number of the latest offer.
    latest: AtomicU64,
    /// The number under which it stands among all open offers; changed only with the lock.
    opened: AtomicU64,
    /// Whether the connection was asked to go.
    is_taken_up: AtomicBool,
}

impl OfferMade {
    /// The offer is made anew, under a larger number.
    pub(super) fn anew(&self, number: u64) {
        self.latest.store(number, SeqCst);
    }

    /// It stands among all open offers now, under the number that is returned.
    pub(super) fn is_open(&self) -> u64 {
        let number = self.latest.load(SeqCst);
        self.opened.store(number, Relaxed);
        self.is_taken_up.store(false, SeqCst);
        number
    }

    pub(super) fn opened(&self) -> u64 {
        self.opened.load(Relaxed)
    }

    /// Asks the connection to go; false where it has made its offer anew. (Of this and of `anew`, whichever comes second
    /// sees the other: hence the order.) Until the offer is open again, it says that it is taken up.
    pub(super) fn take_up(&self) -> bool {
        self.is_taken_up.store(true, SeqCst);
        self.is_latest()
    }

    /// Also for the moment in which an offer that was made anew is put in its new place: `is_latest` tells.
    pub(super) fn is_taken_up(&self) -> bool {
        self.is_taken_up.load(SeqCst)
    }

    /// Whether it has not been made anew since it was opened.
    pub(super) fn is_latest(&self) -> bool {
        self.latest.load(SeqCst) == self.opened()
    }
}

#[derive(Debug, Default)]
struct Untaken {
    next: u64,
    since: BTreeMap<u64, Instant>,
}

/// Who has to act next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing has come yet.
    Silent,
    /// A head has begun.
    Head,
    /// A request waits for us.
    Busy,
    /// We wait for a request's body, and for nothing else.
    Body,
    /// An answer waits for the peer to read it.
    Unread,
    /// Everything that was asked for has been answered, and taken.
    Idle,
}

impl Activity {
    /// The phase, and a number that changes with everything that happens.
    pub(super) fn now(&self) -> (Phase, u32) {
        let inner = &*self.0;
        let ((ours, open, moves), awaited) = (inner.tally.read(), inner.awaited.load(Relaxed));
        let phase = if usize::from(ours) > awaited {
            Phase::Busy
        } else if open > ours || inner.is_unflushed.load(Relaxed) {
            Phase::Unread
        } else if awaited > 0 {
            Phase::Body
        } else if inner.is_in_head.load(Relaxed) {
            Phase::Head
        } else if inner.is_heard.load(Relaxed) {
            Phase::Idle
        } else {
            Phase::Silent
        };
        (phase, moves)
    }

    pub(super) fn heard(&self, is_in_head: bool) {
        self.0.is_heard.store(true, Relaxed);
        self.0.is_in_head.store(is_in_head, Relaxed);
    }

    pub(super) fn speaks_http_2(&self) {
        self.0.is_http_2.store(true, Relaxed);
    }

    pub(super) fn is_http_2(&self) -> bool {
        self.0.is_http_2.load(Relaxed)
    }

    pub(super) fn wrote(&self) {
        self.0.is_unflushed.store(true, Relaxed);
    }

    /// Everything written has been taken.
    pub(super) fn flushed(&self) {
        if self.0.is_unflushed.load(Relaxed) {
            self.0.is_unflushed.store(false, Relaxed);
            self.0.tally.add(Tally::MOVE);
        }
    }

    /// Whether something that was written has not been taken.
    pub(super) fn has_unflushed(&self) -> bool {
        self.0.is_unflushed.load(Relaxed)
    }

    /// The connection's answers hold so many bytes more.
    pub(super) fn holds(&self, bytes: usize) {
        self.0.held.fetch_add(bytes, Relaxed);
    }

    pub(super) fn gives_back(&self, bytes: usize) {
        self.0.held.fetch_sub(bytes, Relaxed);
    }

    pub(super) fn held(&self) -> usize {
        self.0.held.load(Relaxed)
    }

    /// Since when the peer has not taken a piece of an answer over HTTP/2, whatever else it has taken.
    pub(super) fn untaken_since(&self) -> Option<Instant> {
        // Looked at in each turn of each connection: HTTP/1 need not take the lock.
        if !self.is_http_2() {
            return None;
        }
        self.untaken().since.first_key_value().map(|(_, since)| *since)
    }

    /// From now on it is the peer's turn to take a piece of an answer. Returns the piece's number.
    pub(super) fn hands_over(&self) -> u64 {
        let mut untaken = self.untaken();
        let number = untaken.next;
        untaken.next += 1;
        untaken.since.insert(number, Instant::now());
        drop(untaken);
        self.wake();
        number
    }

    /// The piece has been taken, or never will be.
    pub(super) fn takes_off(&self, number: u64) {
        self.untaken().since.remove(&number);
        self.0.tally.add(Tally::MOVE);
    }

    fn untaken(&self) -> MutexGuard<'_, Untaken> {
        self.0.untaken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn offer(&self) -> &OfferMade {
        &self.0.offer
    }

    pub(super) fn cut(&self) {
        self.0.is_cut.store(true, Relaxed);
        self.wake();
    }

    pub(super) fn is_cut(&self) -> bool {
        self.0.is_cut.load(Relaxed)
    }

    /// What has come is answered, and nothing else.
    pub(super) fn ends(&self) {
        self.0.is_ending.store(true, Relaxed);
    }

    pub(super) fn is_ending(&self) -> bool {
        self.0.is_ending.load(Relaxed)
    }

    /// Requests that have begun, and how many of them are not over.
    pub(super) fn requests(&self) -> (u64, u16) {
        let (_, open, _) = self.0.tally.read();
        (self.0.begun.load(Relaxed), open)
    }

    /// Whether bytes have arrived that the connection does not know of yet. `poll` must poll the connection, which then
    /// reads.
    pub(super) fn has_unread(&self, poll: impl FnOnce()) -> bool {
        self.0.has_unread.store(false, Relaxed);
        self.0.looks_again.store(true, Relaxed);
        poll();
        self.0.looks_again.store(false, Relaxed);
        self.0.has_unread.load(Relaxed)
    }

    pub(super) fn looks_again(&self) -> bool {
        self.0.looks_again.load(Relaxed)
    }

    pub(super) fn found_unread(&self) {
        self.0.has_unread.store(true, Relaxed);
    }

    /// To be called before the connection is polled: until the next call, HTTP/2 reads at most `BYTES_A_TURN`.
    pub(super) fn takes_its_turn(&self) {
        self.0.may_read.store(BYTES_A_TURN, Relaxed);
    }

    pub(super) fn may_read(&self) -> usize {
        self.0.may_read.load(Relaxed)
    }

    pub(super) fn has_read(&self, bytes: usize) {
        self.0.may_read.fetch_sub(bytes, Relaxed);
    }

    /// From now on `wake` wakes this task. To be called before the connection is looked at, and again only where another task
    /// polls it.
    pub(super) fn wakes(&self, task: &Waker) {
        *self.task() = Some(task.clone());
    }

    pub(super) fn wake(&self) {
        // Not while the lock is held: others would wait for the runtime. To wake a task that is awake publishes what has changed
        // as well (tokio 1.48), or the numbers here, which are relaxed, could be missed.
        let task = self.task().clone();
        task.into_iter().for_each(Waker::wake);
    }

    fn task(&self) -> MutexGuard<'_, Option<Waker>> {
        self.0.task.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For noting whether a request's body is waited for.
    pub(super) fn awaits(&self) -> Awaited {
        Awaited { activity: self.clone(), is_awaited: false }
    }

    /// Over HTTP/2 each request is a task of its own: the connection's task may have looked before this change.
    fn wake_for_stream(&self) {
        if self.is_http_2() {
            self.wake();
        }
    }

    /// A request has begun. To be called by the connection's task.
    pub(super) fn begin(&self) -> UnderWay {
        let inner = &*self.0;
        inner.begun.store(inner.begun.load(Relaxed) + 1, Relaxed);
        inner.tally.add(Tally::OURS + Tally::OPEN + Tally::MOVE);
        UnderWay { activity: self.clone(), is_ours: true }
    }

    /// A request has come and is answered in this turn: `wrote` and `flushed` tell whether its peer takes the answer. To be
    /// called by the connection's task, while nothing is unflushed, and before anything is flushed but that answer.
    pub(super) fn answered(&self) {
        let inner = &*self.0;
        inner.begun.store(inner.begun.load(Relaxed) + 1, Relaxed);
        inner.tally.add(Tally::MOVE);
    }
}

/// One request, until its answer is handed over or the request is cancelled.
#[derive(Debug)]
pub(super) struct UnderWay {
    activity: Activity,
    is_ours: bool,
}

impl UnderWay {
    pub(super) fn activity(&self) -> &Activity {
        &self.activity
    }

    /// Says whose turn it is: ours to give the peer more, or the peer's to take what it was given.
    pub(super) fn is_ours(&mut self, is_ours: bool) {
        let inner = &*self.activity.0;
        match (self.is_ours, is_ours) {
            (false, true) => inner.tally.add(Tally::OURS),
            (true, false) => inner.tally.add(Tally::MOVE - Tally::OURS),
            (true, true) | (false, false) => {}
        }
        self.is_ours = is_ours;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.is_ours(false);
        let inner = &*self.activity.0;
        inner.tally.add(Tally::MOVE - Tally::OPEN);
        self.activity.wake_for_stream();
    }
}

/// Whether the next part of a request's body is waited for.
#[derive(Debug)]
pub(super) struct Awaited {
    activity: Activity,
    is_awaited: bool,
}

impl Awaited {
    /// Notes what a look at the body found.
    pub(super) fn note<T>(&mut self, found: &Poll<T>) {
        if found.is_ready() {
            self.activity.0.tally.add(Tally::MOVE);
        }
        self.set(found.is_pending());
    }

    fn set(&mut self, is_awaited: bool) {
        let inner = &*self.activity.0;
        match (self.is_awaited, is_awaited) {
            (false, true) => drop(inner.awaited.fetch_add(1, Relaxed)),
            (true, false) => drop(inner.awaited.fetch_sub(1, Relaxed)),
            (true, true) | (false, false) => return,
        }
        self.is_awaited = is_awaited;
        self.activity.wake_for_stream();
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        self.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(activity: &Activity) -> Phase {
        activity.now().0
    }

    #[test]
    fn it_tells_who_has_to_act_next() {
        let activity = Activity::default();
        assert_eq!(phase(&activity), Phase::Silent);
        activity.heard(true);
        assert_eq!(phase(&activity), Phase::Head);
        let mut request = activity.begin();
        activity.heard(true);
        assert_eq!(phase(&activity), Phase::Busy, "the head is that of the next one");
        request.is_ours(false);
        assert_eq!(phase(&activity), Phase::Unread);
        request.is_ours(true);
        assert_eq!(phase(&activity), Phase::Busy);
        activity.wrote();
        drop(request);
        activity.heard(false);
        assert_eq!(phase(&activity), Phase::Unread);
        activity.flushed();
        assert_eq!(phase(&activity), Phase::Idle);
        assert_eq!(activity.requests(), (1, 0));
    }

    #[test]
    fn everything_that_happens_is_a_move_and_nothing_else_is() {
        let activity = Activity::default();
        let mut moves = 0;
        let mut moved = || std::mem::replace(&mut moves, activity.now().1) != activity.now().1;
        activity.heard(true);
        assert!(!moved(), "a byte more of a head");
        let mut request = activity.begin();
        assert!(moved());
        request.is_ours(false);
        assert!(moved());
        request.is_ours(false);
        activity.wrote();
        assert!(!moved(), "what nobody has taken");
        activity.flushed();
        assert!(moved());
        activity.flushed();
        assert!(!moved());
        drop(request);
        assert!(moved());
    }

    #[test]
    fn a_request_s_body_is_the_peer_s_to_send_while_nothing_else_is_under_way() {
        let activity = Activity::default();
        let request = activity.begin();
        let mut awaited = activity.awaits();
        assert_eq!(phase(&activity), Phase::Busy, "nobody has asked for it yet");
        awaited.note(&Poll::<()>::Pending);
        assert_eq!(phase(&activity), Phase::Body);
        let mut other = activity.begin();
        assert_eq!(phase(&activity), Phase::Busy, "another waits for us");
        other.is_ours(false);
        assert_eq!(phase(&activity), Phase::Unread);
        drop(other);
        let before = activity.now();
        awaited.note(&Poll::Ready("a part"));
        assert_eq!(phase(&activity), Phase::Busy);
        awaited.note(&Poll::<()>::Pending);
        assert_eq!(activity.now().0, before.0);
        assert_ne!(activity.now().1, before.1, "a part of it has come");
        drop(awaited);
        assert_eq!(phase(&activity), Phase::Busy, "nobody wants the rest");
        drop(request);
    }
}
