//! Places for requests that cannot be answered at once: requests that wait for a link, and batches until they are read to
//! the end. What memory knows needs no place.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use hyper::body::Frame;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::{Clock, Instant},
    links::{Share, Shares},
    upstream::Party,
    web::problem::{Kind, Problem},
};

/// Places among the requests in flight. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Places(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shares: Shares,
    /// The connections on which at least one request has a place: bounded, so that other connections find room beside
    /// them.
    connections: Shares,
    waiting: Mutex<HashMap<u64, Weak<Waiting>>>,
    clock: Clock,
    /// A peer that has taken nothing of its answer for so long gives its place up where another request needs it. Where
    /// its address has most of these places, it does so after a tenth of that time.
    patience: Duration,
    unread: Mutex<Unread>,
}

/// Answers whose last part the peer has not taken yet, the longest wait first.
#[derive(Debug, Default)]
struct Unread {
    next: u64,
    answers: BTreeMap<u64, (Instant, Arc<Slot>)>,
    /// The answers' numbers by address. An address without an answer is not here.
    by_address: HashMap<u64, BTreeSet<u64>>,
}

/// One place. Given back when the last copy is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    share: Arc<Share>,
    connection: Arc<Waiting>,
}

/// A connection with requests that have a place.
#[derive(Debug)]
struct Waiting {
    share: Share,
    /// The connection's.
    number: u64,
    is_kept: OnceLock<bool>,
    /// Only one of its requests hears that another connection has taken the share: this tells them all.
    displaced: CancellationToken,
}

/// Where an answer's body lies, so that it can be taken away from a peer that does not read: the connection of such a
/// peer would never ask for it.
#[derive(Debug)]
struct Slot {
    address: u64,
    connection: u64,
    contents: Mutex<Option<Contents>>,
}

#[derive(Debug)]
struct Contents {
    body: Body,
    _place: Place,
    /// The answer's number in `Unread`.
    unread: Option<u64>,
}

impl Places {
    /// So many places (`limit`), on so many connections.
    pub(crate) fn new(limit: usize, connections: usize, patience: Duration, clock: Clock) -> Places {
        Places(Arc::new(Inner {
            shares: Shares::new(limit),
            connections: Shares::new(connections),
            waiting: Mutex::default(),
            clock,
            patience,
            unread: Mutex::default(),
        }))
    }

    pub(crate) fn taken(&self) -> usize {
        self.0.shares.taken()
    }

    /// A place. Where there is none left, it is that of an answer which nobody reads, one of the address that has most
    /// places, or that of an answer which is read slowly by an address that has more places.
    pub(crate) fn take(&self, party: &Party) -> Result<Place, Problem> {
        let connection = self.connection(party).ok_or_else(overloaded)?;
        let shares = &self.0.shares;
        let share = self.share(shares, party).or_else(|| {
            // Tried once: where another request was quicker to take that place, this one is refused.
            self.give_up_one_for(party.address).then(|| shares.free(party.address)).flatten()
        });
        Ok(Place { share: Arc::new(share.ok_or_else(overloaded)?), connection })
    }

    fn share(&self, shares: &Shares, party: &Party) -> Option<Share> {
        loop {
            if let Some(free) = shares.free(party.address) {
                return Some(free);
            }
            if !self.give_up_one() {
                return shares.take(party.address);
            }
        }
    }

    fn connection(&self, party: &Party) -> Option<Arc<Waiting>> {
        let known = self.waiting().get(&party.connection).and_then(Weak::upgrade);
        if let Some(known) = known.filter(|known| !known.displaced.is_cancelled()) {
            return Some(known);
        }
        let shares = &self.0.connections;
        let share = self.share(shares, party).or_else(|| {
            self.give_up_connection_for(party.address);
            shares.free(party.address)
        })?;
        let waiting = Arc::new(Waiting {
            share,
            number: party.connection,
            is_kept: OnceLock::new(),
            displaced: CancellationToken::new(),
        });
        let mut all = self.waiting();
        // At most as many as there are shares, and as many again that are over.
        if all.len() >= self.0.connections.taken() * 2 {
            all.retain(|_, waiting| waiting.strong_count() > 0);
        }
        all.insert(party.connection, Arc::downgrade(&waiting));
        Some(waiting)
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, Weak<Waiting>>> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops the answer of which its peer has taken nothing for longest, if that is long enough, and with it all that
    /// the answer holds. False where there is no such answer.
    pub(crate) fn give_up_one(&self) -> bool {
        self.give_up(|unread, now| {
            let (number, (since, _)) = unread.answers.first_key_value()?;
            (now.since(*since) >= self.0.patience).then_some(*number)
        })
    }

    /// The same with the answers of an address that has more places than `address`: each of these answers may be read
    /// fast enough to keep its place, and yet all together shut other addresses out.
    fn give_up_one_for(&self, address: u64) -> bool {
        self.give_up(|unread, now| self.slow(&self.0.shares, address, unread, now))
    }

    /// The same with all answers of a connection, whose address is on more connections: it is the last one that frees its share.
    fn give_up_connection_for(&self, address: u64) {
        let unread = self.unread();
        let Some(slow) = self.slow(&self.0.connections, address, &unread, self.0.clock.now()) else { return };
        let connection_of = |number: &u64| (unread.answers[number].1.address, unread.answers[number].1.connection);
        let found = connection_of(&slow);
        let numbers: Vec<u64> =
            unread.answers.keys().copied().filter(|number| connection_of(number) == found).collect();
        drop(unread);
        for number in numbers {
            self.give_up(|unread, _| unread.answers.contains_key(&number).then_some(number));
        }
    }

    /// The answer that has stood for longest, and long enough, of the address that has most of `shares`, if that is more than
    /// `address` would have with one more.
    fn slow(&self, shares: &Shares, address: u64, unread: &Unread, now: Instant) -> Option<u64> {
        let has_stood = |number: &u64| now.since(unread.answers[number].0) >= self.0.patience / 10;
        let first = |other: &u64| unread.by_address.get(other)?.first().copied();
        unread.answers.first_key_value().filter(|(number, _)| has_stood(number))?;
        let slow =
            unread.by_address.keys().copied().filter(|other| first(other).is_some_and(|first| has_stood(&first)));
        first(&shares.fuller(address, slow)?)
    }

    fn give_up(&self, which: impl Fn(&Unread, Instant) -> Option<u64>) -> bool {
        loop {
            let mut unread = self.unread();
            let Some(number) = which(&unread, self.0.clock.now()) else { return false };
            let Some(slot) = unread.remove(number) else { return false };
            drop(unread);
            let mut contents = slot.lock();
            // Or the peer has begun to read again at this moment.
            if contents.as_ref().is_some_and(|contents| contents.unread == Some(number)) {
                let answer = contents.take();
                drop(contents);
                drop(answer);
                tracing::debug!("an answer that its peer did not read made room for another");
                return true;
            }
        }
    }

    fn unread(&self) -> MutexGuard<'_, Unread> {
        self.0.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Unread {
    fn add(&mut self, address: u64, since: Instant, slot: Arc<Slot>) -> u64 {
        let number = self.next;
        self.next += 1;
        self.answers.insert(number, (since, slot));
        self.by_address.entry(address).or_default().insert(number);
        number
    }

    fn remove(&mut self, number: u64) -> Option<Arc<Slot>> {
        let (_, slot) = self.answers.remove(&number)?;
        if let Entry::Occupied(mut numbers) = self.by_address.entry(slot.address) {
            numbers.get_mut().remove(&number);
            if numbers.get().is_empty() {
                numbers.remove();
            }
        }
        Some(slot)
    }
}

impl Place {
    /// What `work` comes to, unless another request takes the place meanwhile, or the connection's share.
    pub(crate) async fn hold<T>(&self, work: impl Future<Output = T>) -> Result<T, Problem> {
        let Waiting { share: connection, displaced, .. } = &*self.connection;
        tokio::select! {
            biased;
            done = work => return Ok(done),
            () = self.share.displaced() => {}
            () = connection.displaced() => displaced.cancel(),
            () = displaced.cancelled() => {}
        }
        Err(overloaded())
    }

    /// From now on, as the answer is written, no other request takes the place, unless the peer does not read.
    pub(crate) fn keep(&self) -> Result<(), Problem> {
        let Waiting { share, is_kept, .. } = &*self.connection;
        let is_own = self.share.keep() && *is_kept.get_or_init(|| share.keep());
        if is_own { Ok(()) } else { Err(overloaded()) }
    }
}

fn overloaded() -> Problem {
    Problem::refused(Kind::Overloaded, "Too many requests are under way. Try again after Retry-After seconds.")
}

/// Keeps the place that a handler attached to its answer until the last part of the answer is taken.
pub(crate) async fn keep(State(places): State<Places>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let Some(place) = response.extensions_mut().remove::<Place>() else { return response };
    if response.body().size_hint().exact().is_some() {
        return response;
    }
    response.map(|body| Body::new(Kept::new(places, place, body)))
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Option<Contents>> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer that is made as it is read.
struct Kept {
    places: Places,
    slot: Arc<Slot>,
}

/// What the connection hears of an answer that was given up.
#[derive(Debug, thiserror::Error)]
#[error("the peer did not read its answer")]
struct GivenUp;

impl Kept {
    fn new(places: Places, place: Place, body: Body) -> Kept {
        let (address, connection) = (place.share.address(), place.connection.number);
        let contents = Mutex::new(Some(Contents { body, _place: place, unread: None }));
        Kept { places, slot: Arc::new(Slot { address, connection, contents }) }
    }
}

impl HttpBody for Kept {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let mut slot = this.slot.lock();
        let Some(contents) = slot.as_mut() else { return Poll::Ready(Some(Err(axum::Error::new(GivenUp)))) };
        if let Some(number) = contents.unread.take() {
            this.places.unread().remove(number);
        }
        let frame = Pin::new(&mut contents.body).poll_frame(cx);
        match &frame {
            Poll::Ready(Some(Ok(_))) => {
                let now = this.places.0.clock.now();
                contents.unread = Some(this.places.unread().add(this.slot.address, now, Arc::clone(&this.slot)));
            }
            // The place is given back with the answer, at the latest.
            Poll::Ready(Some(Err(_)) | None) | Poll::Pending => {}
        }
        frame
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let contents = self.slot.lock().take();
        if let Some(number) = contents.and_then(|contents| contents.unread) {
            self.places.unread().remove(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{FutureExt, stream};
    use http_body_util::BodyExt;

    use super::*;
    use crate::clock::testing::VirtualTime;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn answer(places: &Places) -> Kept {
        let parts = ["a", "b", "c"].map(|part| Ok::<_, Infallible>(Bytes::from(part)));
        let body = Body::from_stream(futures_util::stream::iter(parts));
        Kept::new(places.clone(), places.take(&Party::default()).unwrap(), body)
    }

    fn read(answer: &mut Kept) -> Option<Result<Bytes, axum::Error>> {
        let frame = answer.frame().now_or_never().expect("it is there");
        frame.map(|frame| frame.map(|frame| frame.into_data().unwrap()))
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_reads_keeps_its_place_until_another_needs_it() {
        let time = VirtualTime::new();
        let places = Places::new(2, 2, PATIENCE, time.clock());
        let (mut first, mut second) = (answer(&places), answer(&places));
        assert_eq!(places.taken(), 2);
        assert_eq!(read(&mut first).unwrap().unwrap(), "a");
        time.suspend(Duration::from_secs(5));
        assert_eq!(read(&mut second).unwrap().unwrap(), "a");
        time.suspend(Duration::from_millis(4999));
        assert!(places.take(&Party::default()).is_err(), "it may yet be read");
        time.suspend(Duration::from_millis(1));
        let place = places.take(&Party::default()).unwrap();
        assert!(places.take(&Party::default()).is_err(), "the second has had less time");
        // As long as nobody needs its place, time does not matter.
        time.suspend(PATIENCE * 100);
        assert_eq!(read(&mut second).unwrap().unwrap(), "b");
        assert!(read(&mut first).unwrap().is_err(), "it was broken off");
        drop((place, first, second));
        assert_eq!((places.taken(), places.unread().answers.len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_us_is_not_unread() {
        let time = VirtualTime::new();
        let places = Places::new(1, 1, PATIENCE, time.clock());
        let body = Body::from_stream(futures_util::stream::pending::<Result<Bytes, Infallible>>());
        let mut waiting = Kept::new(places.clone(), places.take(&Party::default()).unwrap(), body);
        assert!(waiting.frame().now_or_never().is_none());
        time.suspend(PATIENCE * 100);
        assert!(places.take(&Party::default()).is_err());
        drop(waiting);
        assert!(places.take(&Party::default()).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_with_fewer_places_gets_that_of_an_answer_which_is_read_slowly() {
        let time = VirtualTime::new();
        let places = Places::new(4, 9, PATIENCE, time.clock());
        let take = |address| places.take(&Party { address, connection: address, request: 0 });
        let kept = || {
            let place = take(1).unwrap();
            place.keep().unwrap();
            let pieces = stream::iter((0..9).map(|_| Ok::<_, Infallible>(Bytes::from("piece"))));
            Kept::new(places.clone(), place, Body::from_stream(pieces))
        };
        let (mut slow, mut slower, mut waits) = (kept(), kept(), kept());
        waits.slot.lock().as_mut().unwrap().body = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        for answer in [&mut slower, &mut slow] {
            assert_eq!(read(answer).unwrap().unwrap(), "piece");
        }
        assert!(waits.frame().now_or_never().is_none());
        let own = take(2).unwrap();
        time.suspend(PATIENCE / 10 - Duration::from_millis(1));
        assert!(take(2).is_err(), "they may yet be read");
        time.suspend(Duration::from_millis(1));
        assert!(take(1).is_err(), "of their own address");
        let other = take(2).unwrap();
        assert!(read(&mut slower).unwrap().is_err() && read(&mut slow).unwrap().is_ok());
        time.suspend(PATIENCE / 10);
        assert!(take(2).is_err(), "it would have more than is left to the first");
        drop((own, other, slow, slower, waits));
        let unread = places.unread();
        assert_eq!((places.taken(), unread.answers.len(), unread.by_address.len()), (0, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_whose_answers_are_read_slowly_makes_room_for_another_address() {
        let time = VirtualTime::new();
        let places = Places::new(9, 3, PATIENCE, time.clock());
        let take = |address, connection| places.take(&Party { address, connection, request: 0 });
        let mut slow: Vec<Kept> = [1, 1, 2, 3]
            .map(|connection| {
                let place = take(1, connection).unwrap();
                place.keep().unwrap();
                let pieces = stream::iter((0..9).map(|_| Ok::<_, Infallible>(Bytes::from("piece"))));
                Kept::new(places.clone(), place, Body::from_stream(pieces))
            })
            .into();
        for answer in &mut slow {
            assert_eq!(read(answer).unwrap().unwrap(), "piece");
        }
        assert!(take(2, 4).is_err(), "they may yet be read");
        time.suspend(PATIENCE / 10);
        assert!(take(1, 5).is_err(), "of their own address");
        let other = take(2, 4).unwrap();
        let is_whole: Vec<bool> = slow.iter_mut().map(|answer| read(answer).unwrap().is_ok()).collect();
        assert_eq!(is_whole, [false, false, true, true], "all answers of one connection");
        drop((slow, other));
        assert_eq!((places.taken(), places.0.connections.taken()), (0, 0));
    }

    #[tokio::test]
    async fn so_many_connections_wait_and_all_requests_of_one_make_room_for_another_address() {
        let places = Places::new(9, 2, PATIENCE, VirtualTime::new().clock());
        let take = |address, connection| places.take(&Party { address, connection, request: 0 });
        let first = [take(1, 1).unwrap(), take(1, 1).unwrap()];
        let second = [take(1, 2).unwrap(), take(1, 2).unwrap()];
        assert!(take(1, 3).is_err(), "another would leave no room for hits");
        assert_eq!(places.taken(), 4);
        let other = take(2, 4).unwrap();
        let forever = std::future::pending::<()>;
        let mut holding: Vec<_> =
            first.iter().chain(&second).map(|place| Box::pin(place.hold(forever()).fuse())).collect();
        // The first request that hears of it tells the others.
        for _ in 0..2 {
            holding.iter_mut().for_each(|place| drop(place.as_mut().now_or_never()));
        }
        drop(holding);
        assert!(second.iter().all(|place| place.connection.displaced.is_cancelled()), "the newest");
        assert!(!first[0].connection.displaced.is_cancelled());
        assert!(second[0].keep().is_err() && first[0].keep().is_ok() && first[1].keep().is_ok());
        assert!(take(1, 2).is_err(), "it has no share any more");
        drop((first, other));
        assert!(take(1, 2).is_ok());
        drop(second);
        assert_eq!((places.taken(), places.0.connections.taken()), (0, 0));
    }
}
