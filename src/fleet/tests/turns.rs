//! When each request goes.

use super::*;
use crate::fleet::local::Present;

#[tokio::test(start_paused = true)]
async fn without_a_tier_a_replica_has_its_part_of_the_quota() {
    let time = VirtualTime::new();
    let clock = time.clock();
    let fleet = lonely(&clock, 10, 20);
    let began = clock.now();
    let caller = |patience| ask(Reason::Miss, began + Duration::from_secs(patience));
    for taken in 0..5 {
        assert_eq!(fleet.take(&caller(20)).await, Ok(()));
        assert_eq!(clock.now(), began, "{taken}");
    }
    // A quarter of ten a second.
    assert!(fleet.take(&ask(Reason::Refresh, began + Duration::from_secs(20))).await.is_err());
    assert_eq!(fleet.take(&caller(20)).await, Ok(()));
    let waited = began.until(clock.now());
    assert!((Duration::from_millis(411)..Duration::from_millis(415)).contains(&waited), "{waited:?}");
    assert!(matches!(fleet.take(&caller(2)).await, Err(Refused::Full(_))));
}

/// Of a share of five tokens.
#[tokio::test(start_paused = true)]
async fn who_has_no_time_left_for_the_tier_does_not_spend_what_others_ask_it_for() {
    let time = VirtualTime::new();
    let clock = time.clock();
    let fleet = up(at(&clock, tier(&clock).address(0), 10, 20)).await;
    let began = clock.now();
    let callers = (0..10).map(|_| async {
        let ask = ask(Reason::Miss, began + Duration::from_secs(20));
        ask.progress.waited(Duration::from_millis(20));
        fleet.take(&ask).await.unwrap();
        began.until(clock.now())
    });
    let mut went = futures_util::future::join_all(callers).await;
    went.sort_unstable();
    // As many as leave the share what the others have asked for; the rest at ten a second.
    for (place, at) in went.iter().enumerate() {
        let least = Duration::from_millis(100) * u32::try_from(place.saturating_sub(2)).unwrap();
        assert!(*at >= least, "{place}: {went:?}");
    }
    assert!(went[9] <= Duration::from_millis(1100), "{went:?}");
}

/// Five a second, as a replica that is apart goes by its share of two and tells of each token when that goes. Returns when.
async fn shares(fleet: &Fleet, clock: &Clock, began: crate::clock::Instant) -> Vec<Duration> {
    let realm = fleet.0.realms().remove(0);
    let mut went = Vec::new();
    for _ in 0..25 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        went.push(began.until(clock.now()));
        fleet.0.local().spent();
        fleet.0.pay(&realm).await;
    }
    went
}

/// No more than one in each `period`, and two besides.
fn assert_apart(mut went: Vec<Duration>, period: Duration) {
    went.sort_unstable();
    for (place, at) in went.iter().enumerate() {
        let least = period * u32::try_from(place.saturating_sub(2)).unwrap();
        assert!(*at >= least, "{place}: {went:?}");
    }
}

fn live() -> [(String, Option<Vec<u8>>); 2] {
    ["one", "other"].map(|name| (name.to_owned(), Some(vec![1])))
}

#[tokio::test(start_paused = true)]
async fn who_finds_no_turn_within_sight_asks_again_in_line_until_those_who_are_apart_have_left_one() {
    let time = VirtualTime::new();
    let clock = time.clock();
    let tier = tier(&clock);
    let one = &up(at(&clock, tier.address(0), 10, 20)).await;
    let apart = up(at(&clock, tier.address(1), 10, 20)).await;
    for fleet in [one, &apart] {
        fleet.0.local().saw(&live(), Present::known(2, 2, 1), 0.0, clock.now());
    }
    let (clock, began) = (&clock, clock.now());
    let turns = futures_util::future::join_all((0..20).map(|place| async move {
        tokio::time::sleep(ONE_BY_ONE * place).await;
        one.take(&ask(Reason::Miss, began + Duration::from_secs(20))).await.unwrap();
        began.until(clock.now())
    }));
    let (shares, turns) = tokio::join!(shares(&apart, clock, began), turns);
    assert!(turns.is_sorted(), "who came first goes first: {turns:?}");
    assert!((Duration::from_millis(3500)..Duration::from_millis(5500)).contains(&turns[19]), "{turns:?}");
    assert_apart([shares, turns].concat(), Duration::from_millis(100));
    assert_eq!(one.0.queue.turn(Duration::ZERO), None);
}

/// One of ten that were away together is the first to be back. The others follow within a second.
#[tokio::test(start_paused = true)]
async fn the_pace_of_a_few_is_kept_no_longer_than_the_others_listen() {
    let time = VirtualTime::new();
    let clock = time.clock();
    let tier = tier(&clock);
    let (fleet, clock) = (&up(at(&clock, tier.address(0), 10, 20)).await, &clock);
    let began = clock.now();
    fleet.0.local().saw(&live(), Present { listening: 9, ..Present::known(1, 10, 0) }, 0.0, began);
    let turns = futures_util::future::join_all((0..20).map(|place| async move {
        tokio::time::sleep(ONE_BY_ONE * place).await;
        fleet.take(&ask(Reason::Miss, began + Duration::from_secs(20))).await.unwrap();
        began.until(clock.now())
    }));
    let others = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        fleet.0.local().saw(&live(), Present::known(10, 10, 0), 0.0, clock.now());
    };
    let (turns, ()) = tokio::join!(turns, others);
    assert!((Duration::from_secs(2)..Duration::from_secs(5)).contains(&turns[19]), "{turns:?}");
    assert_apart(turns, Duration::from_millis(100));
}

/// The other one is cut off, and goes by its share, too.
#[tokio::test(start_paused = true)]
async fn who_is_apart_leaves_its_part_and_no_more_where_others_are_cut_off() {
    let time = VirtualTime::new();
    let clock = time.clock();
    let tier = tier(&clock);
    let (fleet, clock) = (&up(at(&clock, tier.address(0), 10, 20)).await, &clock);
    let began = clock.now();
    fleet.0.local().saw(&live(), Present::known(1, 2, 1), 0.0, began);
    let callers = futures_util::future::join_all((0..20).map(|place| async move {
        tokio::time::sleep(ONE_BY_ONE * place).await;
        let taken = fleet.take(&ask(Reason::Miss, began + Duration::from_secs(7))).await;
        taken.is_ok().then(|| began.until(clock.now()))
    }));
    let (shares, turns) = tokio::join!(shares(fleet, clock, began), callers);
    assert_apart([shares, turns.into_iter().flatten().collect()].concat(), Duration::from_millis(200));
    assert_eq!(fleet.0.queue.turn(Duration::ZERO), None);
}

#[tokio::test(start_paused = true)]
async fn who_is_woken_long_after_its_turn_takes_another_one() {
    let time = VirtualTime::new();
    let clock = time.clock();
    let fleet = &up(at(&clock, tier(&clock).address(0), 10, 20)).await;
    let began = clock.now();
    let callers = futures_util::future::join_all((0..10).map(|place| async move {
        tokio::time::sleep(ONE_BY_ONE * place).await;
        fleet.take(&ask(Reason::Miss, began + Duration::from_secs(30))).await.unwrap();
    }));
    let sleep = async {
        tokio::time::sleep(Duration::from_millis(550)).await;
        time.suspend(Duration::from_secs(5));
    };
    tokio::join!(callers, sleep);
    let given = fleet.0.realms()[0].known(clock.now()).given;
    assert!((14..=16).contains(&given), "{given} tokens for ten requests, half of which slept through their turns");
}

#[tokio::test(start_paused = true)]
async fn whose_turn_comes_while_kie_ai_has_told_another_replica_to_pause_does_not_go() {
    let time = VirtualTime::new();
    let clock = &time.clock();
    let tier = tier(clock);
    let (one, other) = (&up(at(clock, tier.address(0), 10, 20)).await, up(at(clock, tier.address(1), 10, 20)).await);
    let began = clock.now();
    let callers = futures_util::future::join_all((0..10).map(|place| async move {
        tokio::time::sleep(ONE_BY_ONE * place).await;
        let taken = one.take(&ask(Reason::Miss, began + Duration::from_secs(20))).await;
        (taken, began.until(clock.now()))
    }));
    let limit = async {
        tokio::time::sleep(Duration::from_millis(550)).await;
        other.limited(Duration::from_secs(30));
    };
    let (went, ()) = tokio::join!(callers, limit);
    for (place, (taken, at)) in went.iter().enumerate() {
        match taken {
            Ok(()) => assert!(*at < Duration::from_millis(556), "{place}: {went:?}"),
            Err(Refused::Paused(left)) => {
                let ends = began.until(clock.now()).max(*at + *left);
                assert!((Duration::from_millis(30_550)..Duration::from_millis(30_560)).contains(&ends), "{went:?}");
            }
            Err(Refused::Full(_)) => panic!("{went:?}"),
        }
    }
    let gone = went.iter().filter(|(taken, _)| taken.is_ok()).count();
    assert!((4..=6).contains(&gone), "{went:?}");
    // No turn comes earlier for that it was asked a little before.
    assert!(
        went.iter()
            .enumerate()
            .all(|(place, (_, at))| *at + Duration::from_millis(6) >= ONE_BY_ONE * 10 * place as u32),
        "{went:?}"
    );
}
