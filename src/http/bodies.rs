//! Request bodies: read whole, within bounds of bytes and of time that all of them share.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use axum::{extract::Request, http::header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::places::Places;
use crate::{
    upstream::Party,
    web::problem::{Kind, Problem},
};

/// The whole body, bounded in bytes and in time. `taken` bounds all bodies that are read together, by the bytes that
/// have come: a peer that announces much and sends little keeps nobody out.
pub(crate) async fn read_body(
    request: Request,
    limit: usize,
    patience: Duration,
    taken: &mut Taken,
) -> Result<Vec<u8>, Problem> {
    let too_large = || {
        let detail = format!("The body is longer than {limit} bytes.");
        Problem::refused(Kind::BodyTooLarge, detail)
    };
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > limit as u64) {
        return Err(too_large());
    }
    let (arrivals, held) = (taken.budget.arrivals.clone(), taken.held.clone());
    let mut body = Limited::new(request.into_body(), limit);
    let whole = async {
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                if error.is::<LengthLimitError>() {
                    too_large()
                } else {
                    Problem::refused(Kind::MalformedRequest, "The body broke off.")
                }
            })?;
            if let Ok(data) = frame.into_data() {
                taken.take(data.len()).await?;
                bytes.extend_from_slice(&data);
            }
        }
        Ok(bytes)
    };
    let whole = tokio::time::timeout(patience, whole);
    tokio::pin!(whole);
    let arrived = match futures_util::poll!(whole.as_mut()) {
        Poll::Ready(arrived) => arrived,
        Poll::Pending => {
            let mut arrival = arrivals.enter(&held);
            tokio::select! {
                biased;
                arrived = whole => arrived,
                () = arrival.displaced() => return Err(Problem::refused(
                    Kind::Overloaded,
                    "Many requests are still sending their bodies, and this one has been for long, or has sent much. Try again.",
                )),
            }
        }
    };
    arrived.unwrap_or_else(|_elapsed| {
        let detail = format!("The body did not arrive within {}.", humantime::format_duration(patience));
        Err(Problem::refused(Kind::MalformedRequest, detail))
    })
}

/// Bodies up to this size take nothing of the shared budget: a source URL has a tenth of it. Larger bodies are odd, and
/// over HTTP/2 a few connections can have thousands of them half-sent.
pub(crate) const USUAL_BODY: usize = 2 * 1024;

/// What one request takes of the budget that all of its kind share; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    budget: Budget,
    held: Held,
    taken: Option<OwnedSemaphorePermit>,
    /// Bytes that the request may still take outside the budget: a small request finds room however large other
    /// requests are.
    own: usize,
}

impl Taken {
    pub(crate) fn of(budget: &Budget, own: usize, party: &Party) -> Taken {
        Taken { budget: budget.clone(), held: Held::new(budget, party), taken: None, own }
    }

    pub(crate) async fn take(&mut self, bytes: usize) -> Result<(), Problem> {
        let beyond = bytes.saturating_sub(self.own);
        self.own = self.own.saturating_sub(bytes);
        let permits = u32::try_from(beyond).unwrap_or(u32::MAX);
        let Some(more) = self.budget.find(permits, &self.held).await else {
            return Err(Problem::refused(
                Kind::Overloaded,
                "Too many large requests are under way. Try again after Retry-After seconds, or with less.",
            ));
        };
        self.held.add(beyond);
        match &mut self.taken {
            Some(taken) => taken.merge(more),
            None => self.taken = Some(more),
        }
        Ok(())
    }
}

/// Bytes that the bodies of one kind of request share. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    /// A permit for each byte.
    bytes: Arc<Semaphore>,
    places: Places,
    pub(crate) arrivals: Arrivals,
}

impl Budget {
    pub(crate) fn new(bytes: usize, places: &Places, arrivals: &Arrivals) -> Budget {
        let bytes = Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS)));
        Budget { bytes, places: places.clone(), arrivals: arrivals.clone() }
    }

    /// So many bytes; if need be, those of answers that nobody reads.
    pub(crate) fn take(&self, bytes: u32) -> Option<OwnedSemaphorePermit> {
        loop {
            if let Ok(taken) = Arc::clone(&self.bytes).try_acquire_many_owned(bytes) {
                return Some(taken);
            }
            if !self.places.give_up_one() {
                return None;
            }
        }
    }

    /// So many bytes; if need be, those of bodies that are still coming, too.
    pub(crate) async fn find(&self, bytes: u32, own: &Held) -> Option<OwnedSemaphorePermit> {
        loop {
            if let Some(taken) = self.take(bytes) {
                return Some(taken);
            }
            if !self.arrivals.displace(bytes as usize, own) {
                return None;
            }
            let room = Arc::clone(&self.bytes).acquire_many_owned(bytes);
            if let Ok(Ok(taken)) = tokio::time::timeout(SOON, room).await {
                return Some(taken);
            }
        }
    }
}

/// How long to wait for the bytes of bodies that were told to go, which they do at once.
const SOON: Duration = Duration::from_millis(200);

/// Requests whose body is still coming. A new request always finds room: the body that has been coming for longest
/// makes room for it. So a body that takes its time holds up nobody. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Arrivals(Arc<(usize, Mutex<Coming>)>);

#[derive(Debug, Default)]
struct Coming {
    next: u64,
    bodies: BTreeMap<u64, (Held, oneshot::Sender<()>)>,
}

/// What a body that is coming holds, of which budget, and whose body it is. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    bytes: Arc<AtomicUsize>,
    of: Arc<Semaphore>,
    address: u64,
}

#[derive(Debug)]
pub(crate) struct Arrival {
    arrivals: Arrivals,
    number: u64,
    displaced: oneshot::Receiver<()>,
}

impl Held {
    pub(crate) fn new(shared: &Budget, party: &Party) -> Held {
        Held { bytes: Arc::default(), of: Arc::clone(&shared.bytes), address: party.address }
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Relaxed);
    }

    fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }
}

impl Arrivals {
    pub(crate) fn new(limit: usize) -> Arrivals {
        Arrivals(Arc::new((limit.max(1), Mutex::default())))
    }

    pub(crate) fn enter(&self, held: &Held) -> Arrival {
        let (sender, displaced) = oneshot::channel();
        let mut coming = self.lock();
        while coming.bodies.len() >= self.0.0
            && let Some((_, (_, longest))) = coming.bodies.pop_first()
        {
            // It may have gone by itself.
            let _ = longest.send(());
        }
        let number = coming.next;
        coming.next += 1;
        coming.bodies.insert(number, (held.clone(), sender));
        drop(coming);
        Arrival { arrivals: self.clone(), number, displaced }
    }

    /// Tells bodies to go that hold so many bytes together. First comes the address whose bodies hold most, with these
    /// bytes counted as `own`'s; of its bodies, the one that has been coming for longest. False where none goes.
    fn displace(&self, bytes: usize, own: &Held) -> bool {
        let mut coming = self.lock();
        let mut freed = 0;
        while freed < bytes {
            let mut by_address = HashMap::from([(own.address, own.bytes() + bytes)]);
            let others = coming.bodies.iter().filter(|(_, (held, _))| {
                Arc::ptr_eq(&held.of, &own.of) && !Arc::ptr_eq(&held.bytes, &own.bytes) && held.bytes() > 0
            });
            let others: Vec<_> = others.map(|(number, (held, _))| (*number, held.address, held.bytes())).collect();
            for (_, address, held) in &others {
                *by_address.entry(*address).or_default() += held;
            }
            let most = by_address.into_iter().max_by_key(|(_, held)| *held).map(|(address, _)| address);
            let Some((number, ..)) = others.into_iter().find(|(_, address, _)| Some(*address) == most) else { break };
            let Some((held, longest)) = coming.bodies.remove(&number) else { break };
            freed += held.bytes();
            let _ = longest.send(());
        }
        freed > 0
    }

    fn lock(&self) -> MutexGuard<'_, Coming> {
        self.0.1.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Arrival {
    /// Resolves when another body has taken this one's room.
    pub(crate) async fn displaced(&mut self) {
        if (&mut self.displaced).await.is_err() {
            // The sender is dropped only with `self`.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.arrivals.lock().bodies.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn the_address_whose_bodies_hold_most_makes_room_by_the_one_that_has_been_coming_for_longest() {
        let (arrivals, of) = (Arrivals::new(9), Arc::new(Semaphore::new(0)));
        let held = |address, bytes| Held { bytes: Arc::new(AtomicUsize::new(bytes)), of: Arc::clone(&of), address };
        let all = [held(1, 70), held(2, 30), held(2, 20), held(2, 10)];
        let mut bodies: Vec<_> = all.iter().map(|held| arrivals.enter(held)).collect();
        let other = Held { of: Arc::new(Semaphore::new(0)), ..held(2, 100) };
        let mut others = arrivals.enter(&other);
        let mut is_gone = |n: usize| bodies[n].displaced().now_or_never().is_some();
        assert!(arrivals.displace(10, &held(3, 0)));
        assert!(is_gone(0) && !is_gone(1));
        assert!(arrivals.displace(20, &all[3]));
        assert!(is_gone(1) && !is_gone(2), "of its own");
        assert!(arrivals.displace(1, &all[3]));
        assert!(!arrivals.displace(1, &all[3]), "it is the last one itself");
        assert!(others.displaced().now_or_never().is_none(), "room of another kind");
    }

    #[test]
    fn a_body_that_has_been_coming_for_longest_makes_room() {
        let arrivals = Arrivals::new(2);
        let held = Held { bytes: Arc::default(), of: Arc::new(Semaphore::new(0)), address: 0 };
        let mut bodies: Vec<_> = (0..4).map(|_| arrivals.enter(&held)).collect();
        let displaced: Vec<_> = bodies.iter_mut().map(|body| body.displaced().now_or_never().is_some()).collect();
        assert_eq!(displaced, [true, true, false, false]);
        drop(bodies.remove(2));
        let _fifth = arrivals.enter(&held);
        assert!(bodies[2].displaced().now_or_never().is_none(), "there was room");
        drop(bodies);
        assert_eq!(arrivals.lock().bodies.len(), 1);
    }
}
