//! Which node to talk to: the one seed, the master that sentinels know, or the owner of our slot in a cluster.
//!
//! All seeds are asked at once, each time anew: during a failover some are frozen, and some know it later than others.

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use redis::Value;

use super::{
    fault::Fault,
    line::Lines,
    url::{Endpoint, Topology},
};

/// The nodes that may be the one, the most likely first.
pub(super) async fn candidates(lines: &Lines, slot: u16) -> Result<Vec<Endpoint>, Fault> {
    let address = lines.address();
    let none = match &address.topology {
        Topology::Standalone => return Ok(address.seeds.clone()),
        Topology::Sentinel { .. } => Fault::NoMaster,
        Topology::Cluster => Fault::NoOwner,
    };
    let mut asked: FuturesUnordered<_> =
        address.seeds.iter().map(|seed| ask(lines, &address.topology, seed, slot)).collect();
    let (mut votes, mut last, mut is_unknown) = (Vec::new(), None, false);
    while let Some(answer) = asked.next().await {
        match answer {
            Ok(Some(endpoint)) => votes.push(endpoint),
            Ok(None) => is_unknown = true,
            Err(fault) => last = Some(fault),
        }
        // Nobody needs to wait for a frozen seed.
        if winner_of(&votes, address.seeds.len()) {
            break;
        }
    }
    match last.filter(|_| !is_unknown) {
        _ if !votes.is_empty() => Ok(by_votes(&votes)),
        Some(fault) => Err(fault),
        // What one seed says tells more than another's silence.
        None => Err(none),
    }
}

/// Whom one seed names.
async fn ask(lines: &Lines, topology: &Topology, seed: &Endpoint, slot: u16) -> Result<Option<Endpoint>, Fault> {
    let mut line = lines.open(seed).await?;
    match topology {
        Topology::Standalone => Ok(Some(seed.clone())),
        Topology::Sentinel { master } => {
            let mut command = redis::cmd("SENTINEL");
            command.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
            let answer = match line.ask(&command).await {
                // Most sentinels have no password, those that have one have the same.
                Err(Fault::Refused(code)) if code.is("NOAUTH") => {
                    lines.log_in(&mut line).await?;
                    line.ask(&command).await
                }
                answer => answer,
            };
            master_of(answer?).ok_or(Fault::Garbage)
        }
        Topology::Cluster => {
            lines.log_in(&mut line).await?;
            owner_of(slot, line.ask(redis::cmd("CLUSTER").arg("SLOTS")).await?, seed).ok_or(Fault::Garbage)
        }
    }
}

/// Whether one endpoint has the votes of most seeds.
fn winner_of(votes: &[Endpoint], seeds: usize) -> bool {
    votes.iter().any(|one| votes.iter().filter(|other| *other == one).count() > seeds / 2)
}

/// Each endpoint once, that with the most votes first.
fn by_votes(votes: &[Endpoint]) -> Vec<Endpoint> {
    let mut counted: Vec<(usize, &Endpoint)> = Vec::new();
    for vote in votes {
        match counted.iter_mut().find(|(_, known)| *known == vote) {
            Some((count, _)) => *count += 1,
            None => counted.push((1, vote)),
        }
    }
    counted.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    counted.into_iter().map(|(_, endpoint)| endpoint.clone()).collect()
}

/// The answer of a sentinel: host and port, or nothing. The outer `None` where it makes no sense.
pub(super) fn master_of(answer: Value) -> Option<Option<Endpoint>> {
    match answer {
        Value::Nil => Some(None),
        Value::Array(parts) => {
            let [host, port] = <[Value; 2]>::try_from(parts).ok()?;
            let port = text(port)?.parse().ok().filter(|port| *port > 0)?;
            let host = text(host).filter(|host| !host.is_empty())?;
            Some(Some(Endpoint { host, port }))
        }
        _ => None,
    }
}

/// The answer of a cluster's node: ranges of slots, each with its master first. The outer `None` where it makes no
/// sense; the inner where nobody has the slot.
pub(super) fn owner_of(slot: u16, answer: Value, seed: &Endpoint) -> Option<Option<Endpoint>> {
    let Value::Array(ranges) = answer else { return None };
    for range in ranges {
        let Value::Array(range) = range else { return None };
        let mut range = range.into_iter();
        let (Value::Int(first), Value::Int(last)) = (range.next()?, range.next()?) else { return None };
        if !(first..=last).contains(&i64::from(slot)) {
            continue;
        }
        let Value::Array(node) = range.next()? else { return None };
        let mut node = node.into_iter();
        let (host, Value::Int(port)) = (node.next()?, node.next()?) else { return None };
        let host = match host {
            // A node that does not know its own name is where it was asked.
            Value::Nil => seed.host.clone(),
            host => text(host).map(|host| if matches!(host.as_str(), "" | "?") { seed.host.clone() } else { host })?,
        };
        let port = u16::try_from(port).ok().filter(|port| *port > 0)?;
        return Some(Some(Endpoint { host, port }));
    }
    Some(None)
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn endpoint(host: &str, port: u16) -> Endpoint {
        Endpoint { host: host.to_owned(), port }
    }

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn range(first: i64, last: i64, host: Value, port: i64) -> Value {
        let node = |host, port| Value::Array(vec![host, Value::Int(port), bulk("id")]);
        Value::Array(vec![Value::Int(first), Value::Int(last), node(host, port), node(bulk("replica"), 9)])
    }

    #[test]
    fn the_master_is_read_as_a_sentinel_says_it() {
        for (answer, master) in [
            (Value::Nil, Some(None)),
            (Value::Array(vec![bulk("10.0.0.1"), bulk("6379")]), Some(Some(endpoint("10.0.0.1", 6379)))),
            (Value::Array(vec![bulk(""), bulk("6379")]), None),
            (Value::Array(vec![bulk("a"), bulk("0")]), None),
            (Value::Array(vec![bulk("a"), Value::Int(6379)]), None),
            (Value::Array(vec![bulk("a")]), None),
            (Value::Okay, None),
        ] {
            assert_eq!(master_of(answer.clone()), master, "{answer:?}");
        }
    }

    #[test]
    fn the_owner_is_the_master_of_the_range_that_has_the_slot() {
        let slots = |host: Value| Value::Array(vec![range(0, 99, bulk("a"), 1), range(100, 200, host, 2)]);
        for (slot, answer, owner) in [
            (99, slots(bulk("b")), Some(Some(endpoint("a", 1)))),
            (100, slots(bulk("b")), Some(Some(endpoint("b", 2)))),
            (200, slots(Value::Nil), Some(Some(endpoint("seed", 2)))),
            (200, slots(bulk("")), Some(Some(endpoint("seed", 2)))),
            (200, slots(bulk("?")), Some(Some(endpoint("seed", 2)))),
            (200, slots(Value::Int(1)), None),
            (201, slots(bulk("b")), Some(None)),
            (1, Value::Array(vec![range(0, 99, bulk("a"), 70_000)]), None),
            (1, Value::Array(vec![Value::Nil]), None),
            (1, Value::Array(vec![Value::Array(vec![])]), None),
            (1, Value::Nil, None),
        ] {
            assert_eq!(owner_of(slot, answer.clone(), &endpoint("seed", 7)), owner, "{slot} {answer:?}");
        }
    }

    #[test]
    fn the_most_votes_come_first_and_most_of_all_seeds_end_the_count() {
        let [a, b] = [endpoint("a", 1), endpoint("b", 1)];
        let votes = [b.clone(), a.clone(), a.clone()];
        assert_eq!(by_votes(&votes), [a.clone(), b.clone()]);
        assert_eq!(by_votes(&votes[..2]), [b, a]);
        assert!(winner_of(&votes, 3) && !winner_of(&votes, 4) && !winner_of(&votes[..2], 3) && !winner_of(&[], 1));
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Nil),
            Just(Value::Okay),
            any::<i64>().prop_map(Value::Int),
            (0i64..20_000).prop_map(Value::Int),
            prop::collection::vec(any::<u8>(), 0..8).prop_map(Value::BulkString),
        ];
        leaf.prop_recursive(3, 40, 5, |inner| prop::collection::vec(inner, 0..5).prop_map(Value::Array))
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(answer in values(), slot in 0u16..16_384) {
            let _ = owner_of(slot, answer.clone(), &endpoint("seed", 7));
            let _ = master_of(answer);
        }
    }
}
