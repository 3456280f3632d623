//! Which waiter passes next: peers take turns by their address, then by their connection, then by their request. Pure.
//!
//! One queue for all, first come, first served, would let one batch of cold files keep everybody else waiting for as
//! long as its quota takes.

use std::{collections::HashMap, hash::Hash, time::Duration};

use crate::{clock::Instant, upstream::Party};

/// A peer that got nothing for so long goes before peers that did.
const FORGET: Duration = Duration::from_secs(10);

/// The waiters in the order in which they came, and when each peer was served last.
pub(super) struct Queue<W> {
    waiting: Vec<(Party, W)>,
    served: Served,
}

/// When each address, connection and request was served last.
#[derive(Default)]
struct Served {
    addresses: HashMap<u64, Instant>,
    connections: HashMap<u64, Instant>,
    requests: HashMap<u64, Instant>,
}

/// The smaller turn goes first: at each level, the peer that was served longer ago, or never.
type Turn = [Option<Instant>; 3];

impl Served {
    fn turn(&self, party: &Party, now: Instant) -> Turn {
        let last = |served: &HashMap<u64, Instant>, key| served.get(&key).copied().filter(|at| now.since(*at) < FORGET);
        [
            last(&self.addresses, party.address),
            last(&self.connections, party.connection),
            last(&self.requests, party.request),
        ]
    }

    fn note(&mut self, party: &Party, now: Instant) {
        for (served, key) in [
            (&mut self.addresses, party.address),
            (&mut self.connections, party.connection),
            (&mut self.requests, party.request),
        ] {
            served.insert(key, now);
            // Only as many stay as the quota lets through in that time.
            if served.len().is_power_of_two() {
                served.retain(|_, at| now.since(*at) < FORGET);
            }
        }
    }
}

impl<W> Queue<W> {
    pub(super) fn new() -> Queue<W> {
        Queue { waiting: Vec::new(), served: Served::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn push(&mut self, party: Party, waiter: W) {
        self.waiting.push((party, waiter));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &W> {
        self.waiting.iter().map(|(_, waiter)| waiter)
    }

    /// The waiter whose turn it is, and its index for `take`. Several parties may wait for one request (`all`): the
    /// request has the best of their turns.
    pub(super) fn next<P: Iterator<Item = Party>>(&self, now: Instant, all: impl Fn(&W) -> P) -> Option<(usize, &W)> {
        let turn = |(_, (party, waiter)): &(usize, &(Party, W))| {
            all(waiter).map(|party| self.served.turn(&party, now)).min().unwrap_or_else(|| self.served.turn(party, now))
        };
        // Of equal turns the first wins: its request came first.
        let (index, (_, waiter)) = self.waiting.iter().enumerate().min_by_key(turn)?;
        Some((index, waiter))
    }

    pub(super) fn take(&mut self, index: usize) -> W {
        self.waiting.remove(index).1
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Takes out the newest waiter of the address that has most, provided that `party`'s address would still have fewer
    /// with one more. A request that another address waits for, too (`all`), stays.
    pub(super) fn displace<P: Iterator<Item = Party>>(&mut self, party: &Party, all: impl Fn(&W) -> P) -> Option<W> {
        let is_alone = |(own, waiter): &(Party, W)| all(waiter).all(|other| other.address == own.address);
        let counts = counted(self.waiting.iter().filter(|one| is_alone(one)).map(|(own, _)| own.address));
        let own = counts.get(&party.address).copied().unwrap_or_default();
        let (most, _) = counts.into_iter().filter(|(_, count)| own + 1 < *count).max_by_key(|(_, count)| *count)?;
        let newest = self.waiting.iter().rposition(|one| one.0.address == most && is_alone(one))?;
        Some(self.take(newest))
    }

    /// Takes out the waiters for which `goes` is true.
    pub(super) fn extract(&mut self, goes: impl Fn(&W) -> bool) -> Vec<W> {
        self.waiting.extract_if(.., |(_, waiter)| goes(waiter)).map(|(_, waiter)| waiter).collect()
    }

    /// A request of this party has passed.
    pub(super) fn served(&mut self, party: &Party, now: Instant) {
        self.served.note(party, now);
    }

    /// How many requests will pass before one more of `party`, as far as can be foreseen.
    pub(super) fn ahead_of(&self, party: &Party, now: Instant) -> usize {
        let own = self.served.turn(party, now);
        let mut ahead = self.waiting.iter().filter(|(other, _)| other.request == party.request).count();
        let within: [fn(&Party, &Party) -> bool; 3] =
            [|one, other| one.connection == other.connection, |one, other| one.address == other.address, |_, _| true];
        let key: [fn(&Party) -> u64; 3] = [|party| party.request, |party| party.connection, |party| party.address];
        // From the innermost level to the outermost. For each request ahead so far, every other group of the level has
        // a turn; and one turn more, unless the group comes behind in the first round.
        for level in 0..3 {
            let others = self.waiting.iter().map(|(other, _)| other).filter(|other| within[level](party, other));
            let turn = own[2 - level];
            let counts = counted(others.filter(|other| key[level](other) != key[level](party)).map(|other| {
                let is_behind = turn < self.served.turn(other, now)[2 - level];
                (key[level](other), is_behind)
            }));
            let rounds = ahead;
            ahead += counts
                .into_iter()
                .map(|((_, is_behind), count)| count.min(if is_behind { rounds } else { rounds + 1 }))
                .sum::<usize>();
        }
        ahead
    }
}

fn counted<K: Eq + Hash>(keys: impl Iterator<Item = K>) -> HashMap<K, usize> {
    let mut counts = HashMap::new();
    for key in keys {
        *counts.entry(key).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(100_000 + millis))
    }

    fn party(address: u64, connection: u64, request: u64) -> Party {
        Party { address, connection, request }
    }

    /// The requests in the order in which they pass, one every 100 ms.
    fn order(parties: &[Party]) -> Vec<u64> {
        let mut queue = Queue::new();
        parties.iter().for_each(|party| queue.push(*party, *party));
        let mut order = Vec::new();
        while let Some((index, party)) = queue.next(at(order.len() as u64 * 100), |party| std::iter::once(*party)) {
            let party = *party;
            queue.take(index);
            queue.served(&party, at(order.len() as u64 * 100));
            order.push(party.request);
        }
        order
    }

    #[test]
    fn one_party_is_served_in_the_order_in_which_it_asked_and_several_take_turns() {
        let batch = party(1, 1, 1);
        assert_eq!(order(&[batch, batch, batch]), [1, 1, 1]);
        let on_the_same_connection = party(1, 1, 2);
        assert_eq!(order(&[batch, batch, batch, on_the_same_connection]), [1, 2, 1, 1]);
        let other_connections = [party(1, 2, 3), party(1, 3, 4)];
        assert_eq!(order(&[batch, batch, batch, other_connections[0], other_connections[1]]), [1, 3, 4, 1, 1]);
        // One address with many connections, and one with one.
        let many: Vec<Party> = (0..6).map(|n| party(1, n, n)).collect();
        let other = [party(2, 10, 10), party(2, 10, 11)];
        assert_eq!(order(&[&many[..], &other].concat()), [0, 10, 1, 11, 2, 3, 4, 5]);
    }

    #[test]
    fn who_got_nothing_for_a_while_goes_first() {
        let mut queue = Queue::new();
        let (greedy, modest) = (party(1, 1, 1), party(2, 2, 2));
        queue.served(&modest, at(0));
        queue.served(&greedy, at(9000));
        queue.push(greedy, "greedy");
        queue.push(modest, "modest");
        assert_eq!(queue.next(at(9500), |_| std::iter::empty()).map(|(_, who)| *who), Some("modest"));
        queue.served(&modest, at(9600));
        assert_eq!(queue.next(at(9700), |_| std::iter::empty()).map(|(_, who)| *who), Some("greedy"));
        assert_eq!(
            queue.next(at(19_700), |_| std::iter::empty()).map(|(_, who)| *who),
            Some("greedy"),
            "both long ago: who came first"
        );
    }

    #[test]
    fn who_joins_a_request_of_another_lends_it_its_turn() {
        let (greedy, modest) = (party(1, 1, 1), party(2, 2, 2));
        let mut queue = Queue::new();
        for n in 0..9 {
            queue.push(greedy, if n == 5 { vec![greedy, modest] } else { vec![greedy] });
        }
        queue.served(&greedy, at(0));
        let next = queue.next(at(100), |parties| parties.clone().into_iter());
        assert_eq!(next.map(|(index, _)| index), Some(5));
    }

    #[test]
    fn the_newest_of_who_has_most_makes_room_for_who_has_less() {
        let (greedy, modest, third) = (party(1, 1, 1), party(2, 2, 2), party(3, 3, 3));
        let mut queue = Queue::new();
        for (n, parties) in [vec![greedy], vec![greedy], vec![greedy, modest], vec![modest]].into_iter().enumerate() {
            queue.push(parties[0], (n, parties));
        }
        let parties = |(_, parties): &(usize, Vec<Party>)| parties.clone().into_iter();
        assert!(queue.displace(&greedy, parties).is_none());
        assert!(queue.displace(&modest, parties).is_none(), "it has as many then");
        assert_eq!(queue.displace(&third, parties).map(|(n, _)| n), Some(1), "but for whom another waits, too");
        assert!(queue.displace(&third, parties).is_none());
        assert_eq!(queue.len(), 3);
    }

    #[test]
    fn turns_are_foreseen_as_they_come() {
        let batch = party(1, 1, 1);
        let crowds: [(&str, Vec<Party>, Party); 6] = [
            ("nobody", vec![], batch),
            ("its own", vec![batch; 9], batch),
            ("a batch", vec![batch; 9], party(2, 2, 2)),
            ("a batch on the same connection", vec![batch; 9], party(1, 1, 2)),
            ("many connections of one address", (0..9).map(|n| party(1, n, n)).collect(), party(1, 20, 20)),
            ("many connections of another", (0..9).map(|n| party(1, n, n)).collect(), party(2, 20, 20)),
        ];
        for (what, crowd, newcomer) in crowds {
            let mut queue = Queue::new();
            crowd.iter().for_each(|party| queue.push(*party, *party));
            let foreseen = queue.ahead_of(&newcomer, at(0));
            let order = order(&[crowd, vec![newcomer]].concat());
            let came = order.iter().rposition(|request| *request == newcomer.request).unwrap();
            assert_eq!(foreseen, came, "{what}");
        }
    }

    #[test]
    fn memory_of_who_was_served_is_bounded() {
        let mut queue = Queue::<()>::new();
        for n in 0..100_000 {
            queue.served(&party(n, n, n), at(n * 10));
        }
        assert!(queue.served.requests.len() <= 4096, "{}", queue.served.requests.len());
    }
}
