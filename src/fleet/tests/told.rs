//! What replicas tell each other, and when.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use super::*;
use crate::{
    telemetry::trace::Span,
    upstream::{Doubt, GateConfig, Kie, KieConfig, Transport},
};

/// Nothing is asked of kie.ai here.
struct Nobody;

impl Transport for Nobody {
    fn send<'a>(&'a self, _: &'a Source, _: Option<&'a Doubt>, _: Duration, _: &'a Span) -> MintFuture<'a> {
        Box::pin(async { Err::<Minted, _>(Error::Timeout) })
    }

    fn key_version(&self) -> u64 {
        0
    }
}

/// Has it beat; the flag tells that it has heard that `source` is to be forgotten.
fn beats(fleet: &Fleet, source: &Source) -> Arc<AtomicBool> {
    let some = |number| NonZeroU32::new(number).unwrap();
    let gate = GateConfig {
        rate: some(10),
        burst: some(20),
        in_flight: some(20),
        waiting: 10,
        reserve: Duration::from_secs(2),
    };
    let config = KieConfig { gate, attempt_timeout: Duration::from_secs(1), attempts: 1 };
    let Inner { clock, tasks, stop, .. } = &*fleet.0;
    let kie = Kie::new(&config, Nobody, clock.clone(), tasks, stop.clone());
    let has_heard = Arc::new(AtomicBool::new(false));
    let (source, heard) = (source.clone(), Arc::clone(&has_heard));
    let forget = move |forgotten: Forgotten| {
        heard.fetch_or(forgotten.is_meant(&source), Relaxed);
    };
    tasks.spawn(fleet.clone().run(kie, || 0, forget, stop.clone()));
    has_heard
}

#[tokio::test(start_paused = true)]
async fn what_several_beats_had_forgotten_is_looked_for_at_once() {
    let time = VirtualTime::new();
    let (one, other) = (lonely(&time.clock(), 10, 20), lonely(&time.clock(), 10, 20));
    let source = |number| Source::parse(&format!("https://h.kie.ai/{number}")).unwrap();
    let forgotten = |fleet: &Fleet, number| {
        let realm = fleet.0.realms().remove(0);
        let ids = HashSet::from([realm.file(&source(number)).id]);
        Forgotten::of(realm, ids)
    };
    let all = forgotten(&one, 1).and(forgotten(&one, 2)).and(forgotten(&other, 3));
    let meant: Vec<_> = (0..5).filter(|number| all.is_meant(&source(*number))).collect();
    assert_eq!(meant, [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn who_could_not_be_told_of_a_delete_hears_of_it_as_soon_as_the_tier_answers() {
    let time = VirtualTime::new();
    let clock = time.clock();
    let tier = tier(&clock);
    let fleet = up(at(&clock, tier.address(0), 10, 20)).await;
    let (source, realm) = (Source::parse("https://h.kie.ai/a").unwrap(), fleet.0.realms().remove(0));
    tier.behave(shared::model::Manner::Silent);
    assert_eq!(fleet.forget(&source).await, Told::Unreachable);
    assert_eq!(fleet.state(), State::Suspect);
    tier.behave(shared::model::Manner::Answers);
    let fleet = up(fleet).await;
    let late = async || {
        let put = Request::put(&realm.file(&source), &fleet.0.holder(), b"1L0000000000000000".to_vec(), BEHIND);
        realm.ask(put, BEHIND).await
    };
    // The question itself was done late; that it was is not known.
    tier.flush();
    assert_eq!(late().await, Ok(shared::Put::Kept));
    fleet.0.catch_up(&realm).await;
    assert_eq!(late().await, Ok(shared::Put::Forgotten));
}

/// Has a link, which it tells the tier of; both know what kie.ai's clock shows.
fn mints(fleet: &Fleet, other: &Fleet, source: &Source) {
    let now = fleet.0.clock.now();
    let shown = jiff::Timestamp::from_second(1_780_000_000).unwrap() + now.since_origin();
    let [heard, _] = [fleet, other].map(|each| each.0.kie_clock.heard(Some(shown), None, now, now));
    let link = Link::parse("https://h.example/l", &Policy::default()).unwrap();
    let minted = Minted { link, sent_at: now, ends_at: now + link::LIFE, heard, says_its_end: false, via: Via::Kie };
    Minter::new(fleet.clone(), Arc::new(Script::default())).kept(source, Some(&minted));
}

/// Whether the tier has a link for it.
async fn finds(fleet: &Fleet, source: &Source) -> bool {
    let ask = ask(Reason::Miss, fleet.0.clock.now() + Duration::from_secs(5));
    Minter::new(fleet.clone(), Arc::new(Script::default())).mint(source, ask).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn what_the_tier_has_missed_it_is_told_once_it_answers() {
    let time = VirtualTime::new();
    let clock = time.clock();
    let tier = tier(&clock);
    let [gone, minted] = ["gone", "minted"].map(|name| Source::parse(&format!("https://h.kie.ai/{name}")).unwrap());
    let (fleet, other) = pair(&clock, &tier).await;
    beats(&fleet, &gone);
    let has_heard = beats(&other, &gone);
    tier.cut_off(0, true);
    down(&fleet).await;
    mints(&fleet, &other, &minted);
    assert_eq!(fleet.forget(&gone).await, Told::Unreachable);
    fleet.limited(Duration::from_secs(30));
    let to_the_other = async || {
        let ask = ask(Reason::Miss, clock.now() + Duration::from_secs(5));
        (finds(&other, &minted).await, other.take(&ask).await)
    };
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (has_link, taken) = to_the_other().await;
    assert!(!has_link && taken.is_ok() && !has_heard.load(Relaxed), "{taken:?}");
    tier.cut_off(0, false);
    let fleet = up(fleet).await;
    tokio::time::sleep(Duration::from_millis(2200)).await;
    let (has_link, taken) = to_the_other().await;
    assert!(has_link && has_heard.load(Relaxed));
    let Err(Refused::Paused(left)) = taken else { panic!("{taken:?}") };
    assert!((20..24).contains(&left.as_secs()), "{left:?}");
    let Untold { pause_until, forgotten, links, .. } = fleet.0.realms()[0].later().take(clock.now());
    assert_eq!((pause_until, forgotten.len(), links.len()), (None, 0, 0), "once");
}

#[tokio::test(start_paused = true)]
async fn what_was_forgotten_while_the_address_changed_is_heard_of_at_the_new_one() {
    let time = VirtualTime::new();
    let clock = time.clock();
    let tier = tier(&clock);
    let gone = Source::parse("https://h.kie.ai/gone").unwrap();
    let (fleet, other) = pair(&clock, &tier).await;
    let has_heard = beats(&fleet, &gone);
    beats(&other, &gone);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    fleet.take(&ask(Reason::Miss, clock.now() + Duration::from_secs(5))).await.unwrap();
    tier.cut_off(0, true);
    assert_eq!(other.forget(&gone).await, Told::Told);
    let given = |fleet: &Fleet| fleet.0.realms()[0].known(clock.now()).given;
    let known = given(&fleet);
    fleet.0.move_to(tier.address(2));
    assert_eq!((given(&fleet), known), (known, 1));
    let fleet = up(fleet).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(has_heard.load(Relaxed));
    assert_eq!(fleet.state(), State::Up);
}

#[tokio::test(start_paused = true)]
async fn a_delete_that_a_failover_has_lost_is_told_again() {
    let time = VirtualTime::new();
    let clock = time.clock();
    let tier = tier(&clock);
    let gone = Source::parse("https://h.kie.ai/gone").unwrap();
    let (fleet, other) = pair(&clock, &tier).await;
    beats(&fleet, &gone);
    let has_heard = beats(&other, &gone);
    mints(&other, &fleet, &gone);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(finds(&fleet, &gone).await);
    tier.replicate();
    assert_eq!(fleet.forget(&gone).await, Told::Told);
    // Nobody has heard of it.
    tier.fail_over();
    let fleet = up(fleet).await;
    tokio::time::sleep(Duration::from_millis(2200)).await;
    assert!(has_heard.load(Relaxed) && !finds(&fleet, &gone).await);
}

#[tokio::test(start_paused = true)]
async fn an_older_delete_is_told_again_where_the_link_is_back_and_costs_no_link_that_was_minted_since() {
    let time = VirtualTime::new();
    let clock = time.clock();
    let tier = tier(&clock);
    let [gone, again] = ["gone", "again"].map(|name| Source::parse(&format!("https://h.kie.ai/{name}")).unwrap());
    let (fleet, other) = pair(&clock, &tier).await;
    beats(&fleet, &gone);
    mints(&other, &fleet, &gone);
    mints(&other, &fleet, &again);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fleet.forget(&again).await, Told::Told);
    // Longer than a tombstone keeps a link away.
    let long = || tokio::time::sleep(shared::TOMBSTONE + Duration::from_secs(5));
    long().await;
    mints(&other, &fleet, &again);
    tokio::time::sleep(Duration::from_secs(1)).await;
    tier.replicate();
    assert_eq!(fleet.forget(&gone).await, Told::Told);
    long().await;
    assert!(!finds(&other, &gone).await && finds(&other, &again).await);
    tier.fail_over();
    let (_fleet, other) = (up(fleet).await, up(other).await);
    tokio::time::sleep(Duration::from_millis(2200)).await;
    assert!(!finds(&other, &gone).await && finds(&other, &again).await);
}

#[tokio::test(start_paused = true)]
async fn who_begins_without_the_tier_hears_what_was_forgotten_before() {
    let time = VirtualTime::new();
    let clock = time.clock();
    let tier = tier(&clock);
    let gone = Source::parse("https://h.kie.ai/gone").unwrap();
    let other = up(at(&clock, tier.address(1), 10, 20)).await;
    tier.cut_off(0, true);
    let fleet = at(&clock, tier.address(0), 10, 20);
    let has_heard = beats(&fleet, &gone);
    tokio::time::sleep(Duration::from_secs(1)).await;
    mints(&fleet, &other, &gone);
    let earlier = Source::parse("https://h.kie.ai/earlier").unwrap();
    mints(&fleet, &other, &earlier);
    assert_eq!(other.forget(&earlier).await, Told::Told);
    // More than the tier's list holds.
    for number in 0..1100 {
        other.forget(&Source::parse(&format!("https://h.kie.ai/{number}")).unwrap()).await;
    }
    assert_eq!(other.forget(&gone).await, Told::Told);
    // Longer than a tombstone keeps a link away.
    tokio::time::sleep(Duration::from_secs(60)).await;
    tier.cut_off(0, false);
    let _fleet = up(fleet).await;
    tokio::time::sleep(Duration::from_millis(2200)).await;
    assert!(has_heard.load(Relaxed) && !finds(&other, &gone).await && !finds(&other, &earlier).await);
}

/// Makes no link within ten seconds.
struct Slow;

impl Mint for Slow {
    fn mint<'a>(&'a self, _source: &'a Source, _ask: Ask) -> MintFuture<'a> {
        Box::pin(async {
            tokio::time::sleep(Duration::from_secs(10)).await;
            Err::<Minted, _>(Error::Timeout)
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_is_held_and_let_go_where_the_tier_is_now() {
    let time = VirtualTime::new();
    let clock = time.clock();
    let tier = tier(&clock);
    let source = Source::parse("https://h.kie.ai/slow").unwrap();
    let (fleet, other) = pair(&clock, &tier).await;
    beats(&fleet, &source);
    let deadline = clock.now() + Duration::from_secs(20);
    let minter = Minter::new(fleet.clone(), Arc::new(Slow));
    let realm = other.0.realms().remove(0);
    let look = async || {
        let request = Request::look(&realm.file(&source), realm.names.fleet(), None, shared::Newer::Any);
        realm.ask(request, BEHIND).await.unwrap()
    };
    let moves = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        fleet.0.move_to(tier.address(2));
        tokio::time::sleep(Duration::from_secs(8)).await;
        assert!(matches!(look().await, shared::Look::Wait { .. }), "it would be minted twice");
    };
    let (minted, ()) = tokio::join!(minter.mint(&source, ask(Reason::Miss, deadline)), moves);
    assert!(matches!(minted, Err(Error::Timeout)));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!matches!(look().await, shared::Look::Wait { .. }), "nobody waits for it");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_turn_without_the_tier_finds_what_it_has_at_its_new_address() {
    let time = VirtualTime::new();
    let clock = time.clock();
    let tier = tier(&clock);
    let source = Source::parse("https://h.kie.ai/slow").unwrap();
    let (fleet, other) = pair(&clock, &tier).await;
    tier.cut_off(0, true);
    down(&fleet).await;
    mints(&other, &fleet, &source);
    let deadline = clock.now() + Duration::from_secs(20);
    let minter = Minter::new(fleet.clone(), Arc::new(Slow));
    let moves = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        fleet.0.move_to(tier.address(2));
    };
    let (minted, ()) = tokio::join!(minter.mint(&source, ask(Reason::Miss, deadline)), moves);
    assert_eq!(minted.map(|minted| minted.via).map_err(drop), Ok(Via::Shared));
}

#[tokio::test(start_paused = true)]
async fn a_replica_whose_connection_comes_and_goes_is_left_its_part_all_the_while() {
    let time = VirtualTime::new();
    let clock = time.clock();
    let tier = tier(&clock);
    let (one, other) = pair(&clock, &tier).await;
    let source = Source::parse("https://h.kie.ai/a").unwrap();
    for fleet in [&one, &other] {
        beats(fleet, &source);
    }
    let part = || one.0.local().together(one.0.quota, clock.now()).map(|together| together.quota);
    let (whole, half) = (one.0.quota, one.0.quota.share(NonZeroU32::new(2).unwrap()));
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(part(), Some(whole));
    tier.cut_off(1, true);
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(part(), Some(half), "it is missed");
    for _ in 0..5 {
        tier.cut_off(1, false);
        up(other.clone()).await;
        // So that it has beaten.
        tokio::time::sleep(Duration::from_millis(300)).await;
        tier.cut_off(1, true);
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(part(), Some(half));
        }
    }
    tier.cut_off(1, false);
    up(other).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(part(), Some(whole), "it has stayed");
}
