//! How many connections one interface has, and which of them gives way when there are too many.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::activity::Activity;

/// Connections that find no place may wait for one, or be told that there is none, by this many at once; beyond them they are
/// dropped without a word.
const AT_THE_DOOR: usize = 64;
const FEW_AT_THE_DOOR: usize = 8;

/// How long one waits for the place of another that was asked to go, which happens at once if it happens at all.
const SOON: Duration = Duration::from_millis(200);

/// All connections of one interface. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Crowd(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limit: usize,
    places: Arc<Semaphore>,
    offers: Mutex<Offers>,
    turned_away: AtomicU64,
    door: Arc<Semaphore>,
}

/// Connections that would give way: the willing first, and of each kind the one that has offered it for longest.
#[derive(Debug, Default)]
struct Offers {
    next: u64,
    open: BTreeMap<(Offer, u64), Activity>,
}

/// When a connection gives way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Offer {
    Willing,
    /// Where nobody is willing.
    Reluctant,
}

/// One connection's place, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Member {
    crowd: Crowd,
    activity: Activity,
    /// Its offer to give way. Where that is not open any more, it was taken up.
    offer: Option<(Offer, u64)>,
    _place: OwnedSemaphorePermit,
}

impl Crowd {
    pub(crate) fn new(limit: usize) -> Crowd {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        Crowd(Arc::new(Shared {
            limit,
            places: Arc::new(Semaphore::new(limit)),
            offers: Mutex::default(),
            turned_away: AtomicU64::default(),
            // Each is an open file, too.
            door: Arc::new(Semaphore::new((limit / 4).clamp(FEW_AT_THE_DOOR, AT_THE_DOOR))),
        }))
    }

    /// Connections that have a place.
    pub(crate) fn present(&self) -> usize {
        self.0.limit.saturating_sub(self.0.places.available_permits())
    }

    /// Connections that found no place.
    pub(crate) fn turned_away(&self) -> u64 {
        self.0.turned_away.load(Relaxed)
    }

    /// A place, if there is one. It offers to give way until something is known of it.
    pub(super) fn enter(&self, activity: &Activity) -> Option<Member> {
        let place = Arc::clone(&self.0.places).try_acquire_owned().ok()?;
        Some(self.member(activity, place))
    }

    /// The place of one that was asked to go.
    pub(super) async fn enter_soon(&self, activity: &Activity) -> Option<Member> {
        let place = Arc::clone(&self.0.places).acquire_owned();
        let place = tokio::time::timeout(SOON, place).await.ok()?.ok()?;
        Some(self.member(activity, place))
    }

    fn member(&self, activity: &Activity, place: OwnedSemaphorePermit) -> Member {
        let offer = Some(self.offers().add(Offer::Reluctant, activity));
        Member { crowd: self.clone(), activity: activity.clone(), offer, _place: place }
    }

    /// Asks one of those that have offered it to go. Whether there is one.
    pub(super) fn make_room(&self) -> bool {
        self.offers().ask_one_to_go()
    }

    /// Leave to wait for a place, or to be told that there is none.
    pub(super) fn at_the_door(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0.door).try_acquire_owned().ok()
    }

    pub(super) fn turns_one_away(&self) {
        self.0.turned_away.fetch_add(1, Relaxed);
    }

    fn offers(&self) -> MutexGuard<'_, Offers> {
        self.0.offers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Offers {
    fn add(&mut self, offer: Offer, activity: &Activity) -> (Offer, u64) {
        let offer = (offer, self.next);
        self.next += 1;
        self.open.insert(offer, activity.clone());
        offer
    }

    fn ask_one_to_go(&mut self) -> bool {
        let Some((_, activity)) = self.open.pop_first() else { return false };
        activity.wake();
        true
    }
}

impl Member {
    /// From now on it would give way, as the last of its kind.
    pub(super) fn offer(&mut self, offer: Offer) {
        let crowd = self.crowd.clone();
        let mut offers = crowd.offers();
        self.stay(&mut offers);
        self.offer = Some(offers.add(offer, &self.activity));
    }

    pub(super) fn withdraw(&mut self) {
        if self.offer.is_some() {
            let crowd = self.crowd.clone();
            self.stay(&mut crowd.offers());
        }
    }

    pub(super) fn offered(&self) -> Option<Offer> {
        self.offer.map(|(offer, _)| offer)
    }

    pub(super) fn is_asked_to_go(&self) -> bool {
        self.offer.is_some_and(|offer| !self.crowd.offers().open.contains_key(&offer))
    }

    /// Takes its offer back. Where it was asked to go meanwhile, another is asked in its place.
    fn stay(&mut self, offers: &mut Offers) {
        if let Some(offer) = self.offer.take()
            && offers.open.remove(&offer).is_none()
        {
            offers.ask_one_to_go();
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(offer) = self.offer {
            self.crowd.offers().open.remove(&offer);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn enter(crowd: &Crowd) -> Option<Member> {
        crowd.enter(&Activity::default())
    }

    #[tokio::test]
    async fn whoever_has_offered_for_longest_gives_way() {
        let crowd = Crowd::new(3);
        let [mut first, mut second, third] = std::array::from_fn(|_| enter(&crowd).unwrap());
        first.withdraw();
        second.offer(Offer::Reluctant);
        assert!(enter(&crowd).is_none() && crowd.make_room());
        assert_eq!([&first, &second, &third].map(Member::is_asked_to_go), [false, false, true]);
        let activity = Activity::default();
        let mut fourth = Box::pin(crowd.enter_soon(&activity));
        assert!(fourth.as_mut().now_or_never().is_none(), "it has not gone yet");
        drop(third);
        let fourth = fourth.await.unwrap();
        assert_eq!(crowd.present(), 3);
        assert!(crowd.make_room());
        assert!(second.is_asked_to_go() && !fourth.is_asked_to_go());
    }

    #[test]
    fn the_willing_go_before_the_reluctant() {
        let crowd = Crowd::new(3);
        let [first, mut second, mut third] = std::array::from_fn(|_| enter(&crowd).unwrap());
        third.offer(Offer::Willing);
        second.offer(Offer::Willing);
        for asked in [[false, false, true], [false, true, true], [true, true, true]] {
            assert!(crowd.make_room());
            assert_eq!([&first, &second, &third].map(Member::is_asked_to_go), asked);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn where_nobody_offers_or_goes_there_is_no_place() {
        let crowd = Crowd::new(2);
        let mut members = [enter(&crowd).unwrap(), enter(&crowd).unwrap()];
        members.iter_mut().for_each(Member::withdraw);
        assert!(enter(&crowd).is_none() && !crowd.make_room());
        assert!(crowd.enter_soon(&Activity::default()).await.is_none());
        let [gone, _stays] = members;
        drop(gone);
        assert!(enter(&crowd).is_some());
    }

    #[test]
    fn where_one_stays_though_it_was_asked_another_is_asked_in_its_place() {
        let crowd = Crowd::new(3);
        let [mut first, mut second, third] = std::array::from_fn(|_| enter(&crowd).unwrap());
        assert!(crowd.make_room());
        assert!(first.is_asked_to_go() && !second.is_asked_to_go());
        first.offer(Offer::Reluctant);
        assert!(second.is_asked_to_go() && !third.is_asked_to_go());
        second.withdraw();
        assert!(third.is_asked_to_go() && !first.is_asked_to_go());
        // Nobody is asked in the place of one that goes.
        drop(third);
        assert!(!first.is_asked_to_go());
        assert_eq!(crowd.present(), 2);
    }
}
