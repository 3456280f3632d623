//! How many connections one interface has, and which of them gives way when there are too many.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::activity::Activity;

/// Connections that are turned away may be told so by this many at once; beyond them they are dropped without a word.
const FAREWELLS: usize = 64;
const FEW_FAREWELLS: usize = 8;

/// All connections of one interface. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Crowd(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limit: usize,
    inner: Mutex<Inner>,
    turned_away: AtomicU64,
    farewells: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Connections that are not asked to go.
    present: usize,
    /// Those that would give way, the one that has done so for longest first.
    offers: BTreeMap<u64, Activity>,
    next: u64,
}

/// One connection's place, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Member {
    crowd: Crowd,
    activity: Activity,
    /// Its offer to give way. Where that is not among the others any more, it was taken up.
    offer: Option<u64>,
}

impl Crowd {
    pub(crate) fn new(limit: usize) -> Crowd {
        Crowd(Arc::new(Shared {
            limit,
            inner: Mutex::default(),
            turned_away: AtomicU64::default(),
            // Each is an open file, too.
            farewells: Arc::new(Semaphore::new((limit / 4).clamp(FEW_FAREWELLS, FAREWELLS))),
        }))
    }

    /// Connections that are open.
    pub(crate) fn present(&self) -> usize {
        self.lock().present
    }

    /// Connections that found no place.
    pub(crate) fn turned_away(&self) -> u64 {
        self.0.turned_away.load(Relaxed)
    }

    /// A place for a connection, if need be that of another, which is asked to go. It offers to give way itself until
    /// something is known of it.
    pub(super) fn enter(&self, activity: &Activity) -> Option<Member> {
        let mut inner = self.lock();
        while inner.present >= self.0.limit {
            if !inner.ask_one_to_go() {
                return None;
            }
        }
        inner.present += 1;
        let offer = Some(inner.offer(activity));
        drop(inner);
        Some(Member { crowd: self.clone(), activity: activity.clone(), offer })
    }

    /// Asks the one that has offered it for longest to go. Whether there is one.
    pub(super) fn make_room(&self) -> bool {
        self.lock().ask_one_to_go()
    }

    /// Leave to tell a connection why it is turned away.
    pub(super) fn turn_away(&self) -> Option<OwnedSemaphorePermit> {
        self.0.turned_away.fetch_add(1, Relaxed);
        Arc::clone(&self.0.farewells).try_acquire_owned().ok()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn offer(&mut self, activity: &Activity) -> u64 {
        let offer = self.next;
        self.next += 1;
        self.offers.insert(offer, activity.clone());
        offer
    }

    fn ask_one_to_go(&mut self) -> bool {
        let Some((_, activity)) = self.offers.pop_first() else { return false };
        self.present -= 1;
        activity.wake();
        true
    }
}

impl Member {
    /// From now on it would give way.
    pub(super) fn offer(&mut self) {
        let crowd = self.crowd.clone();
        let mut inner = crowd.lock();
        self.take_back(&mut inner);
        self.offer = Some(inner.offer(&self.activity));
    }

    /// It will not give way, also if it was asked to meanwhile.
    pub(super) fn withdraw(&mut self) {
        if self.offer.is_some() {
            let crowd = self.crowd.clone();
            self.take_back(&mut crowd.lock());
        }
    }

    pub(super) fn has_offered(&self) -> bool {
        self.offer.is_some()
    }

    pub(super) fn is_asked_to_go(&self) -> bool {
        self.offer.is_some_and(|offer| !self.crowd.lock().offers.contains_key(&offer))
    }

    fn take_back(&mut self, inner: &mut Inner) {
        if let Some(offer) = self.offer.take()
            && inner.offers.remove(&offer).is_none()
        {
            // It was asked to go, and stays: for now there is one more than there should be.
            inner.present += 1;
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let crowd = self.crowd.clone();
        let mut inner = crowd.lock();
        self.take_back(&mut inner);
        inner.present -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(crowd: &Crowd) -> Option<Member> {
        crowd.enter(&Activity::default())
    }

    #[test]
    fn whoever_has_offered_for_longest_gives_way() {
        let crowd = Crowd::new(3);
        let [mut first, mut second, third] = std::array::from_fn(|_| enter(&crowd).unwrap());
        first.withdraw();
        second.offer();
        let fourth = enter(&crowd).unwrap();
        assert_eq!([&first, &second, &third, &fourth].map(Member::is_asked_to_go), [false, false, true, false]);
        drop(third);
        assert_eq!(crowd.present(), 3);
        let _fifth = enter(&crowd).unwrap();
        assert!(second.is_asked_to_go() && !fourth.is_asked_to_go());
    }

    #[test]
    fn where_nobody_offers_the_new_one_is_turned_away() {
        let crowd = Crowd::new(2);
        let mut members = [enter(&crowd).unwrap(), enter(&crowd).unwrap()];
        members.iter_mut().for_each(Member::withdraw);
        assert!(enter(&crowd).is_none());
        assert!(!crowd.make_room());
        let [gone, _stays] = members;
        drop(gone);
        assert!(enter(&crowd).is_some());
    }

    #[test]
    fn whoever_stays_though_it_was_asked_is_made_up_for_by_two_others() {
        let crowd = Crowd::new(2);
        let (mut first, second) = (enter(&crowd).unwrap(), enter(&crowd).unwrap());
        let third = enter(&crowd).unwrap();
        assert!(first.is_asked_to_go());
        first.withdraw();
        assert_eq!(crowd.present(), 3);
        let fourth = enter(&crowd).unwrap();
        assert!(second.is_asked_to_go() && third.is_asked_to_go() && !fourth.is_asked_to_go());
        assert_eq!(crowd.present(), 2);
        drop((first, second, third, fourth));
        assert_eq!(crowd.present(), 0);
    }
}
