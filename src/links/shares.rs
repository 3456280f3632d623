//! Places that callers share by their address. As long as places are free, any address may have any number. When none
//! is left, an address with fewer places takes one from the address that has most.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    sync::{
        Arc, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use tokio::sync::Notify;

use super::sync::Mutex;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shares(Arc<Mutex<Table>>);

#[derive(Debug)]
struct Table {
    limit: usize,
    taken: usize,
    next: u64,
    /// Places that can be taken away, by address, the oldest first. An address without such a place is not here.
    holders: HashMap<u64, BTreeMap<u64, Arc<Notify>>>,
    /// How many places each address has that cannot be taken away.
    kept: HashMap<u64, usize>,
}

/// One place. Given back when it is dropped, unless another caller has it already.
#[derive(Debug)]
pub struct Share {
    shares: Shares,
    address: u64,
    number: u64,
    displaced: Arc<Notify>,
    is_kept: AtomicBool,
}

impl Shares {
    pub fn new(limit: usize) -> Shares {
        Shares(Arc::new(Mutex::new(Table { limit, taken: 0, next: 0, holders: HashMap::new(), kept: HashMap::new() })))
    }

    pub fn taken(&self) -> usize {
        self.table().taken
    }

    /// The address among `others` that has most places, if `address` would still have fewer with one more.
    pub fn fuller(&self, address: u64, others: impl Iterator<Item = u64>) -> Option<u64> {
        let table = self.table();
        // An address with no more than its part is not asked to give, whoever reads fast enough to keep more.
        let kept_alone = table.kept.keys().filter(|kept| !table.holders.contains_key(kept)).count();
        let addresses = table.holders.len() + kept_alone + usize::from(table.held(address) == 0);
        let part = table.limit / addresses;
        let (most, held) = others.map(|other| (other, table.held(other))).max_by_key(|(_, held)| *held)?;
        (held > part && table.held(address) + 1 < held).then_some(most)
    }

    /// A place that nobody has.
    pub fn free(&self, address: u64) -> Option<Share> {
        let mut table = self.table();
        if table.taken >= table.limit {
            return None;
        }
        table.taken += 1;
        Some(self.hand_out(&mut table, address))
    }

    /// A free place; otherwise the newest place that can be taken away from the address that has most, provided that
    /// `address` would still have fewer than that address has now.
    pub fn take(&self, address: u64) -> Option<Share> {
        if let Some(free) = self.free(address) {
            return Some(free);
        }
        let mut table = self.table();
        // Each of these addresses holds a place, so there are no more addresses than places.
        let most = table.holders.keys().copied().max_by_key(|other| table.held(*other))?;
        if table.held(address) + 1 >= table.held(most) {
            return None;
        }
        let (_, newest) = table.remove(most, None)?;
        newest.notify_one();
        Some(self.hand_out(&mut table, address))
    }

    fn hand_out(&self, table: &mut Table, address: u64) -> Share {
        let (number, displaced) = (table.next, Arc::new(Notify::new()));
        table.next += 1;
        table.holders.entry(address).or_default().insert(number, Arc::clone(&displaced));
        Share { shares: self.clone(), address, number, displaced, is_kept: AtomicBool::new(false) }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // The table is whole at any time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn held(&self, address: u64) -> usize {
        self.holders.get(&address).map_or(0, BTreeMap::len) + self.kept.get(&address).copied().unwrap_or_default()
    }

    /// Takes out the place with this number, or the newest, of the places that can be taken away.
    fn remove(&mut self, address: u64, number: Option<u64>) -> Option<(u64, Arc<Notify>)> {
        let held = self.holders.get_mut(&address)?;
        let removed = match number {
            Some(number) => held.remove_entry(&number),
            None => held.pop_last(),
        };
        if held.is_empty() {
            self.holders.remove(&address);
        }
        removed
    }
}

impl Share {
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Resolves once another caller has taken this place.
    pub async fn displaced(&self) {
        self.displaced.notified().await;
    }

    /// Keeps this place from being taken away. True where nobody has taken it yet.
    pub fn keep(&self) -> bool {
        let mut table = self.shares.table();
        let is_own = table.remove(self.address, Some(self.number)).is_some();
        if is_own {
            self.is_kept.store(true, Relaxed);
            *table.kept.entry(self.address).or_default() += 1;
        }
        is_own
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut table = self.shares.table();
        if *self.is_kept.get_mut() {
            table.taken -= 1;
            if let Entry::Occupied(mut kept) = table.kept.entry(self.address) {
                *kept.get_mut() -= 1;
                if *kept.get() == 0 {
                    kept.remove();
                }
            }
        } else if table.remove(self.address, Some(self.number)).is_some() {
            table.taken -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn take(shares: &Shares, address: u64, many: usize) -> Vec<Share> {
        std::iter::repeat_with(|| shares.take(address)).take(many).flatten().collect()
    }

    fn displaced(places: &[Share]) -> usize {
        places.iter().filter(|place| place.displaced().now_or_never().is_some()).count()
    }

    #[test]
    fn one_address_may_have_all_places_until_another_asks() {
        let shares = Shares::new(8);
        let many = take(&shares, 1, 20);
        assert_eq!((many.len(), displaced(&many)), (8, 0));
        let few = take(&shares, 2, 3);
        assert_eq!((few.len(), displaced(&many[..5]), displaced(&many[5..])), (3, 0, 3), "the newest");
        let third = take(&shares, 3, 20);
        assert_eq!((third.len(), displaced(&many), displaced(&few)), (2, 2, 0), "of the one that has most");
        assert!(shares.take(1).is_none() && shares.take(2).is_none());
        assert_eq!(shares.taken(), 8);
        drop(many);
        assert_eq!(shares.taken(), 5, "those that were taken away are not given back once more");
        drop((few, third));
        assert_eq!((shares.taken(), shares.table().holders.len()), (0, 0));
    }

    #[test]
    fn two_addresses_that_ask_again_and_again_come_to_rest() {
        let shares = Shares::new(7);
        let one = take(&shares, 1, 9);
        let other = take(&shares, 2, 9);
        assert_eq!((other.len(), displaced(&one)), (3, 3));
        assert!(shares.take(1).is_none() && shares.take(2).is_none());
    }

    #[test]
    fn what_is_kept_is_taken_away_from_nobody() {
        let shares = Shares::new(4);
        let places = take(&shares, 1, 4);
        assert!(places[3].keep());
        let other = shares.take(2).unwrap();
        assert_eq!((displaced(&places[..2]), displaced(&places[2..3])), (0, 1));
        assert!(!places[2].keep(), "it is another's");
        assert_eq!((shares.fuller(2, [1, 2].into_iter()), shares.fuller(1, [1, 2].into_iter())), (Some(1), None));
        drop(places);
        assert_eq!(shares.taken(), 1);
        drop(other);
        assert_eq!(shares.taken(), 0);
    }

    #[test]
    fn only_an_address_with_more_than_its_part_is_asked_to_give() {
        let shares = Shares::new(9);
        let (many, few) = (take(&shares, 1, 6), take(&shares, 2, 3));
        assert!(many.iter().chain(&few).all(Share::keep));
        assert_eq!(shares.fuller(3, [2].into_iter()), None, "it has less than half");
        assert_eq!(shares.fuller(3, [1, 2].into_iter()), Some(1));
    }

    #[test]
    fn what_is_kept_counts_for_its_address() {
        let shares = Shares::new(8);
        let kept = take(&shares, 1, 6);
        assert!(kept.iter().all(Share::keep));
        let waiting = take(&shares, 2, 2);
        assert!(shares.take(1).is_none(), "it has most, though none of it can be taken away");
        assert_eq!(displaced(&waiting), 0);
        drop(kept);
        assert_eq!((shares.taken(), shares.table().kept.len()), (2, 0));
    }
}
