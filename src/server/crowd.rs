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

/// How many connections without a place may at one time wait for a place, or be told that there is none. Connections
/// beyond that are dropped without a word.
const AT_THE_DOOR: usize = 64;
const FEW_AT_THE_DOOR: usize = 8;

/// How long a new connection waits for the place of a connection that was asked to go: that one goes at once or not at
/// all.
const SOON: Duration = Duration::from_millis(200);

/// So many bytes of answers may wait on a connection before they count against the budget of all connections: an answer
/// or a few find room, however many bytes wait on other connections.
const OWN_UNREAD: usize = 16 * 1024;

/// All connections of one interface. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Crowd(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limit: usize,
    places: Arc<Semaphore>,
    /// Numbers offers in their order.
    next: AtomicU64,
    offers: Mutex<Offers>,
    turned_away: AtomicU64,
    door: Arc<Semaphore>,
    /// A permit for each byte of answers that may wait to be read over HTTP/2, on all connections together.
    unread: Arc<Semaphore>,
    unread_limit: usize,
}

/// Connections that would give way: the willing first, and within each kind the oldest offer first. An offer that was
/// made anew finds its new place when its turn comes: with every request an offer is made anew, and connections that are
/// served must not wait for each other.
#[derive(Debug, Default)]
struct Offers {
    open: BTreeMap<(Offer, u64), Activity>,
    /// All connections.
    all: BTreeMap<u64, Activity>,
}

/// When a connection gives way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Offer {
    Willing,
    /// Gives way only where no connection is willing.
    Reluctant,
}

/// One connection's place, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Member {
    crowd: Crowd,
    activity: Activity,
    /// The connection's offer to give way.
    offer: Option<Offer>,
    number: u64,
    _place: OwnedSemaphorePermit,
}

impl Crowd {
    /// `unread` bounds the bytes of answers that wait to be read.
    pub(super) fn new(limit: usize, unread: usize) -> Crowd {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        let unread = unread.min(Semaphore::MAX_PERMITS);
        Crowd(Arc::new(Shared {
            limit,
            places: Arc::new(Semaphore::new(limit)),
            next: AtomicU64::default(),
            offers: Mutex::default(),
            turned_away: AtomicU64::default(),
            // Each connection at the door is an open file, too.
            door: Arc::new(Semaphore::new((limit / 4).clamp(FEW_AT_THE_DOOR, AT_THE_DOOR))),
            unread: Arc::new(Semaphore::new(unread)),
            unread_limit: unread,
        }))
    }

    /// Connections that have a place.
    pub(super) fn present(&self) -> usize {
        self.0.limit.saturating_sub(self.0.places.available_permits())
    }

    /// Connections that found no place.
    pub(super) fn turned_away(&self) -> u64 {
        self.0.turned_away.load(Relaxed)
    }

    /// A place, if there is one. The connection offers to give way until something is known of it.
    pub(super) fn enter(&self, activity: &Activity) -> Option<Member> {
        let place = Arc::clone(&self.0.places).try_acquire_owned().ok()?;
        Some(self.member(activity, place))
    }

    /// The place of a connection that was asked to go.
    pub(super) async fn enter_soon(&self, activity: &Activity) -> Option<Member> {
        let place = Arc::clone(&self.0.places).acquire_owned();
        let place = tokio::time::timeout(SOON, place).await.ok()?.ok()?;
        Some(self.member(activity, place))
    }

    fn member(&self, activity: &Activity, place: OwnedSemaphorePermit) -> Member {
        // The number of its first offer names the connection: no other connection has it.
        let number = self.next();
        activity.offer().anew(number);
        let mut offers = self.offers();
        offers.add(Offer::Reluctant, activity);
        offers.all.insert(number, activity.clone());
        drop(offers);
        let offer = Some(Offer::Reluctant);
        Member { crowd: self.clone(), activity: activity.clone(), offer, number, _place: place }
    }

    /// Asks a connection that has offered to give way to go; false where there is none.
    pub(super) fn make_room(&self) -> bool {
        self.offers().ask_one_to_go()
    }

    /// Leave to wait for a place, or to be told that there is none.
    pub(super) fn at_the_door(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0.door).try_acquire_owned().ok()
    }

    /// Charges the connection for so many bytes of an answer, until the peer has read it. Where the budget is used up,
    /// the connection that holds most is ended, and this peer has to ask again: an answer that waited here would take
    /// just as much memory.
    pub(super) fn charge(&self, activity: &Activity, bytes: usize) -> Option<Charge> {
        let permits = if activity.held() + bytes <= OWN_UNREAD {
            None
        } else {
            // An answer larger than the whole budget takes the whole budget.
            let permits = u32::try_from(bytes.min(self.0.unread_limit)).unwrap_or(u32::MAX);
            let Ok(permits) = Arc::clone(&self.0.unread).try_acquire_many_owned(permits) else {
                self.cut_the_largest();
                return None;
            };
            Some(permits)
        };
        activity.holds(bytes);
        Some(Charge { activity: activity.clone(), bytes, _permits: permits })
    }

    fn cut_the_largest(&self) {
        let offers = self.offers();
        let holds = offers.all.values().filter(|activity| activity.held() > 0 && !activity.is_cut());
        if let Some(largest) = holds.max_by_key(|activity| activity.held()) {
            largest.cut();
        }
    }

    pub(super) fn turns_one_away(&self) {
        self.0.turned_away.fetch_add(1, Relaxed);
    }

    fn next(&self) -> u64 {
        self.0.next.fetch_add(1, Relaxed)
    }

    fn offers(&self) -> MutexGuard<'_, Offers> {
        self.0.offers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Offers {
    /// Puts the connection's latest offer in its place.
    fn add(&mut self, offer: Offer, activity: &Activity) {
        self.open.insert((offer, activity.offer().is_open()), activity.clone());
    }

    fn remove(&mut self, offer: Offer, activity: &Activity) -> bool {
        self.open.remove(&(offer, activity.offer().opened())).is_some()
    }

    fn ask_one_to_go(&mut self) -> bool {
        while let Some(((offer, _), activity)) = self.open.pop_first() {
            if activity.offer().take_up() {
                activity.wake();
                return true;
            }
            self.add(offer, &activity);
        }
        false
    }
}

impl Member {
    /// From now on the connection would give way, after all that have made the same offer before.
    pub(super) fn offer(&mut self, offer: Offer) {
        self.activity.offer().anew(self.crowd.next());
        if self.offer == Some(offer) && !self.activity.offer().is_taken_up() {
            return;
        }
        let crowd = self.crowd.clone();
        let mut offers = crowd.offers();
        self.stay(&mut offers);
        offers.add(offer, &self.activity);
        self.offer = Some(offer);
    }

    pub(super) fn withdraw(&mut self) {
        if self.offer.is_some() {
            let crowd = self.crowd.clone();
            self.stay(&mut crowd.offers());
        }
    }

    pub(super) fn offered(&self) -> Option<Offer> {
        self.offer
    }

    pub(super) fn is_asked_to_go(&self) -> bool {
        self.offer.is_some() && self.activity.offer().is_taken_up() && self.activity.offer().is_latest()
    }

    /// Takes the offer back. If the connection was asked to go meanwhile, another connection is asked in its place.
    fn stay(&mut self, offers: &mut Offers) {
        if let Some(offer) = self.offer.take()
            && !offers.remove(offer, &self.activity)
        {
            offers.ask_one_to_go();
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut offers = self.crowd.offers();
        offers.all.remove(&self.number);
        if let Some(offer) = self.offer {
            offers.remove(offer, &self.activity);
        }
    }
}

/// Bytes of an answer, until it is read.
#[derive(Debug)]
pub(super) struct Charge {
    activity: Activity,
    bytes: usize,
    _permits: Option<OwnedSemaphorePermit>,
}

impl Charge {
    pub(super) fn activity(&self) -> &Activity {
        &self.activity
    }

    pub(super) fn covers(&self, bytes: usize) -> bool {
        self.bytes >= bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.activity.gives_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn where_too_many_answers_wait_the_connection_that_holds_most_is_ended() {
        let crowd = Crowd::new(3, OWN_UNREAD * 3);
        let [small, large, new] = std::array::from_fn(|_| Activity::default());
        let _members = [&small, &large, &new].map(|activity| crowd.enter(activity).unwrap());
        let own = crowd.charge(&small, OWN_UNREAD).unwrap();
        let _beyond = crowd.charge(&small, 1).unwrap();
        let large_ones = [0; 2].map(|_| crowd.charge(&large, OWN_UNREAD).unwrap());
        let _more = crowd.charge(&large, OWN_UNREAD).unwrap();
        let first = crowd.charge(&new, OWN_UNREAD).unwrap();
        assert!(crowd.charge(&new, OWN_UNREAD).is_none(), "its own is used up, and so is what all share");
        assert_eq!([&small, &large, &new].map(Activity::is_cut), [false, true, false]);
        drop(large_ones);
        assert!(crowd.charge(&new, OWN_UNREAD).is_some());
        drop((own, first));
        assert_eq!((small.held(), new.held()), (1, 0));
        let little = Crowd::new(1, 1000);
        assert!(little.charge(&new, OWN_UNREAD * 2).is_some(), "nothing is larger than all there is");
    }

    #[test]
    fn of_the_connections_that_hold_answers_each_is_ended_once_and_who_has_gone_or_holds_none_is_not() {
        let crowd = Crowd::new(4, OWN_UNREAD * 2);
        let [largest, large, gone, new] = std::array::from_fn(|_| Activity::default());
        let [_largest, _large, member, _new] = [&largest, &large, &gone, &new].map(|held| crowd.enter(held).unwrap());
        let _own = [(&largest, OWN_UNREAD), (&large, OWN_UNREAD - 1), (&gone, OWN_UNREAD)]
            .map(|(activity, bytes)| crowd.charge(activity, bytes).unwrap());
        let _shared = [&largest, &gone].map(|activity| crowd.charge(activity, OWN_UNREAD).unwrap());
        drop(member);
        for cut in [[true, false], [true, true], [true, true]] {
            assert!(crowd.charge(&new, OWN_UNREAD + 1).is_none());
            assert_eq!([&largest, &large].map(Activity::is_cut), cut);
            assert!(!gone.is_cut() && !new.is_cut());
        }
    }

    #[test]
    fn a_charge_covers_as_much_as_it_is_for() {
        let charge = Crowd::new(1, 0).charge(&Activity::default(), 100).unwrap();
        assert!(charge.covers(99) && charge.covers(100) && !charge.covers(101));
    }

    #[test]
    fn a_quarter_as_many_as_have_a_place_wait_at_the_door_within_bounds() {
        for (limit, most) in [(1, FEW_AT_THE_DOOR), (100, 25), (100_000, AT_THE_DOOR)] {
            let crowd = Crowd::new(limit, 0);
            let waiting = std::iter::from_fn(|| crowd.at_the_door()).take(1000).collect::<Vec<_>>();
            assert_eq!(waiting.len(), most, "{limit}");
        }
    }

    fn enter(crowd: &Crowd) -> Option<Member> {
        crowd.enter(&Activity::default())
    }

    #[tokio::test]
    async fn whoever_has_offered_for_longest_gives_way() {
        let crowd = Crowd::new(3, 0);
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
        let crowd = Crowd::new(3, 0);
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
        let crowd = Crowd::new(2, 0);
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
        let crowd = Crowd::new(3, 0);
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
        // Nor is a connection asked that has gone.
        drop(first);
        assert!(!crowd.make_room());
    }
}
