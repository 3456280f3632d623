mod beats;

use std::num::NonZeroU32;

use super::*;
use crate::shared::{
    Content, Error, Kept,
    testing::{Replica, Server, eventually},
};

const PATIENCE: Duration = Duration::from_secs(30);
const HOURS: &str = "7200000";

/// A replica's view of one file, with answers that must come.
struct View<'a> {
    replica: &'a Replica,
    file: FileNames,
    member: crate::shared::Replica,
}

impl<'a> View<'a> {
    fn of(replica: &'a Replica) -> View<'a> {
        let (file, member) = (replica.names.file("https://h.example/a"), crate::shared::Replica::random());
        View { replica, file, member }
    }

    fn fleet(&self) -> &FleetNames {
        self.replica.names.fleet()
    }

    async fn ask<T>(&self, request: Request<T>) -> T {
        self.replica.tier.ask(request, PATIENCE).await.unwrap()
    }

    async fn look(&self, flight: Option<u64>, newer: Newer) -> Look {
        let holder = flight.map(|flight| self.member.holder(flight));
        self.ask(Request::look(&self.file, self.fleet(), holder.as_ref(), newer)).await
    }

    async fn polls(&self, newer: Newer, flight: u64) -> Vec<bool> {
        let holder = self.member.holder(flight);
        self.ask(Request::poll([(&self.file, newer, &holder)])).await
    }

    fn link(&self, minted_at: i64) -> Vec<u8> {
        let kept =
            Kept { minted_at: at(minted_at), ends_at: at(minted_at + 1200), text: "https://h.example/l".to_owned() };
        self.replica.seals.seal(&self.file.link, &Content::Link(kept))
    }

    async fn put(&self, flight: u64, minted_at: i64) -> Put {
        let holder = self.member.holder(flight);
        self.ask(Request::put(&self.file, &holder, self.link(minted_at), PATIENCE)).await
    }

    async fn finds(&self) -> Option<i64> {
        let Look::Hit { sealed, .. } = self.look(None, Newer::Any).await else { return None };
        match self.replica.seals.open(&self.file.link, &sealed).unwrap() {
            Content::Link(kept) => Some(kept.minted_at.as_second() - at(0).as_second()),
            other => panic!("{other:?}"),
        }
    }

    async fn take(&self, quota: Quota, longest_wait: Duration, keep: u32) -> Take {
        self.ask(Request::take(self.fleet(), quota, longest_wait, keep, Level::default())).await.take
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_780_000_000 + seconds).unwrap()
}

fn quota(period: Duration, burst: u32) -> Quota {
    Quota { period, burst: NonZeroU32::new(burst).unwrap() }
}

/// A period that no test lives to see the end of.
fn slow(burst: u32) -> Quota {
    quota(Duration::from_secs(100), burst)
}

#[tokio::test]
async fn one_replica_mints_and_the_others_wait_and_find_its_link() {
    let Some(server) = Server::start(&[]) else { return };
    let replica = Replica::of(&server).await;
    let (one, other) = (View::of(&replica), View::of(&replica));
    assert_eq!(one.look(None, Newer::Any).await, Look::Free);
    assert_eq!(one.look(Some(1), Newer::Any).await, Look::Mine);
    assert_eq!(one.look(Some(1), Newer::Any).await, Look::Mine, "its own lease is no obstacle");
    let Look::Wait { left, holder } = other.look(Some(1), Newer::Any).await else { panic!() };
    assert!(left <= LEASE);
    assert_eq!(holder, one.member.holder(1));
    assert!(matches!(other.look(None, Newer::Any).await, Look::Wait { .. }));
    assert!(matches!(one.look(Some(2), Newer::Any).await, Look::Wait { .. }), "another flight is another holder");
    assert_eq!(one.put(1, 0).await, Put::Kept);
    assert_eq!(other.finds().await, Some(0));
    assert_eq!(other.look(None, Newer::Than(at(-1))).await, other.look(None, Newer::Any).await);
    assert_eq!(other.look(None, Newer::Than(at(0))).await, Look::Free, "the lease ended with the link");
    assert_eq!(other.look(Some(2), Newer::Never).await, Look::Mine);
    assert_eq!(other.finds().await, Some(0), "it is served meanwhile");
}

#[tokio::test]
async fn a_lease_is_renewed_released_and_stolen_by_the_right_holder_only() {
    let Some(server) = Server::start(&[]) else { return };
    let replica = Replica::of(&server).await;
    let (one, other) = (View::of(&replica), View::of(&replica));
    let elsewhere = replica.names.file("https://h.example/b");
    let (ours, theirs) = (one.member.holder(1), other.member.holder(1));
    assert_eq!(one.look(Some(1), Newer::Any).await, Look::Mine);
    server.run(&["PEXPIRE", &one.file.lease, "30000"]);
    let leases = [(&one.file, &theirs), (&elsewhere, &ours), (&one.file, &ours)];
    assert_eq!(one.ask(Request::renew(leases)).await, [false, false, true]);
    let redis::Value::Int(left) = server.run(&["PTTL", &one.file.lease]) else { panic!() };
    assert!(left <= 2000, "{left}");
    assert_eq!(one.ask(Request::renew([])).await, Vec::<bool>::new());
    assert!(!other.ask(Request::release(&one.file, &theirs, None)).await);
    assert!(matches!(other.look(None, Newer::Any).await, Look::Wait { .. }));
    assert!(!other.ask(Request::steal(&one.file, &theirs, &one.member.holder(2))).await, "it has another holder");
    assert!(!other.ask(Request::steal(&elsewhere, &theirs, &ours)).await, "nobody has it");
    assert!(other.ask(Request::steal(&one.file, &theirs, &ours)).await);
    assert!(!one.ask(Request::steal(&one.file, &one.member.holder(3), &ours)).await, "somebody was faster");
    assert!(!one.ask(Request::release(&one.file, &ours, None)).await);
    assert!(other.ask(Request::release(&one.file, &theirs, None)).await);
    assert_eq!(one.look(None, Newer::Any).await, Look::Free);
    server.run(&["SET", &one.file.lease, &"x".repeat(1000), "PX", "2000"]);
    let Look::Wait { holder, .. } = one.look(Some(1), Newer::Any).await else { panic!() };
    assert_eq!(holder.as_str().len(), 64, "what somebody else put there");
}

#[tokio::test]
async fn those_who_waited_hear_why_a_mint_failed_and_those_who_want_to_mint_may() {
    let Some(server) = Server::start(&[]) else { return };
    let replica = Replica::of(&server).await;
    let (one, other) = (View::of(&replica), View::of(&replica));
    assert_eq!(one.look(Some(1), Newer::Any).await, Look::Mine);
    let failure = Content::Failure { at: at(5), text: "upstream-error".to_owned() };
    let sealed = replica.seals.seal(&one.file.lease, &failure);
    assert!(one.ask(Request::release(&one.file, &one.member.holder(1), Some(sealed.clone()))).await);
    server.run(&["PERSIST", &one.file.lease]);
    assert_eq!(other.look(None, Newer::Any).await, Look::Failed { sealed: sealed.clone() });
    assert_eq!(replica.seals.open(&one.file.lease, &sealed), Ok(failure));
    assert_eq!(other.look(Some(1), Newer::Any).await, Look::Mine);
}

#[tokio::test]
async fn a_late_put_neither_brings_back_nor_replaces() {
    let Some(server) = Server::start(&[]) else { return };
    let replica = Replica::of(&server).await;
    let (one, other) = (View::of(&replica), View::of(&replica));
    assert_eq!(one.look(Some(1), Newer::Any).await, Look::Mine);
    assert!(one.ask(Request::drop(&one.file, one.fleet())).await > 0);
    assert_eq!(one.put(1, 0).await, Put::Forgotten, "it was minted before it was forgotten");
    assert_eq!(one.finds().await, None);
    assert_eq!(other.look(Some(1), Newer::Any).await, Look::Mine);
    assert_eq!(other.put(1, 2).await, Put::Kept, "and this one after");
    server.run(&["DEL", &one.file.tombstone]);
    assert_eq!(one.put(1, 1).await, Put::Older);
    assert_eq!(one.finds().await, Some(2));
    assert_eq!(one.put(1, 3).await, Put::Kept, "a lost lease does not matter to the newest");
    assert_eq!(one.look(Some(3), Newer::Never).await, Look::Mine);
    assert_eq!(other.put(9, 4).await, Put::Kept);
    assert!(matches!(other.look(Some(9), Newer::Never).await, Look::Wait { .. }), "another's lease stays");
    let redis::Value::Int(left) = server.run(&["PTTL", &one.file.link]) else { panic!() };
    assert!((1..=30_000).contains(&left), "{left}");
}

#[tokio::test]
async fn one_of_many_gets_the_lease() {
    let Some(server) = Server::start(&[]) else { return };
    let replica = Replica::of(&server).await;
    let views: Vec<_> = (0..40).map(|_| View::of(&replica)).collect();
    let looks = futures_util::future::join_all(views.iter().map(|view| view.look(Some(1), Newer::Any))).await;
    assert_eq!(looks.iter().filter(|look| **look == Look::Mine).count(), 1);
}

#[tokio::test]
async fn a_lease_from_before_the_tier_s_clock_was_set_back_is_free() {
    let Some(server) = Server::start(&[]) else { return };
    let replica = Replica::of(&server).await;
    let (one, other) = (View::of(&replica), View::of(&replica));
    for spoil in [&["PEXPIRE", &one.file.lease, HOURS][..], &["PERSIST", &one.file.lease]] {
        server.run(&["DEL", &one.file.lease]);
        assert_eq!(one.look(Some(1), Newer::Any).await, Look::Mine);
        server.run(spoil);
        assert_eq!(other.look(None, Newer::Any).await, Look::Free);
        assert_eq!(other.look(Some(1), Newer::Any).await, Look::Mine);
    }
}

#[tokio::test]
async fn a_lease_with_a_name_that_no_holder_has_is_free() {
    let Some(server) = Server::start(&[]) else { return };
    let replica = Replica::of(&server).await;
    let view = View::of(&replica);
    for name in ["'\\255'", "'a b'", "''"] {
        let put = format!("return redis.call('SET', KEYS[1], {name}, 'PX', 3000)");
        server.run(&["EVAL", &put, "1", &view.file.lease]);
        assert_eq!(view.look(None, Newer::Any).await, Look::Free, "{name}");
        assert_eq!(view.look(Some(1), Newer::Any).await, Look::Mine, "{name}");
    }
}

#[tokio::test]
async fn what_somebody_else_put_there_is_no_obstacle() {
    let Some(server) = Server::start(&[]) else { return };
    let replica = Replica::of(&server).await;
    let view = View::of(&replica);
    let fleet = view.fleet().clone();
    let names = [&view.file.link, &view.file.lease, &view.file.tombstone, &fleet.bucket, &fleet.pause, &fleet.beacon];
    let more = [&fleet.beats, &fleet.members, &fleet.records, &fleet.deletions, &fleet.sequence];
    let (far_future, long) = ("1L0000ffffffffffff", "1L0000ffffffffffff".repeat(1000));
    let mut kinds = vec![["RPUSH", "1"]];
    let texts = [
        "nonsense",
        "9223372036854775807",
        "1.5",
        "nan",
        // It shows no time, though some locales sort it behind any.
        "1L\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}",
        &long,
        // It is minted in 10889.
        far_future,
    ];
    kinds.extend(texts.map(|value| ["SET", value]));
    for kind in kinds {
        let what = &kind[1][..kind[1].len().min(40)];
        for name in names.into_iter().chain(more) {
            server.run(&["DEL", name]);
            server.run(&[kind[0], name, kind[1]]);
        }
        server.run(&["DEL", &view.file.tombstone]);
        let _ = view.look(None, Newer::Any).await;
        if kind[1] != far_future {
            server.run(&["SET", &view.file.lease, "another"]);
            assert_eq!(view.put(1, 0).await, Put::Kept, "nothing newer: {what}");
            server.run(&["DEL", &view.file.link, &view.file.lease]);
            server.run(&[kind[0], &view.file.link, kind[1]]);
        }
        assert_eq!(view.look(Some(1), Newer::Never).await, Look::Mine, "{what}");
        assert_eq!(view.polls(Newer::Never, 1).await, [false], "{what}");
        let is_seen = kind[0] == "SET" && kind[1] != long;
        assert_eq!(view.polls(Newer::Any, 1).await, [is_seen], "{what}");
        assert_eq!(view.put(1, 0).await, Put::Kept);
        assert_eq!(view.finds().await, Some(0));
        assert!(matches!(view.take(slow(5), Duration::ZERO, 0).await, Take::Full { .. }));
        assert!(view.ask(Request::pay(&fleet, slow(5), 1, 0, Level::default())).await);
        let beacon = replica.seals.seal(&fleet.beacon, &Content::Beacon { at: at(1) });
        let told = if kind[1] == far_future { far_future.as_bytes().to_vec() } else { beacon.clone() };
        let beat = view.ask(beat_of(&view, None, Some(beacon), false)).await;
        assert_eq!((beat.live.len(), beat.missed, beat.beacon), (1, false, Some(told)), "{what}");
        let redis::Value::Int(left) = server.run(&["PTTL", &fleet.beacon]) else { panic!("no number") };
        assert!((1..=30_000).contains(&left), "it ends in time: {what}");
        let dropped = view.ask(Request::drop(&view.file, &fleet)).await;
        assert!(dropped >= 1);
        let beat = view.ask(beat_of(&view, Some(dropped), None, false)).await;
        assert_eq!((beat.sequence, beat.missed), (dropped, false), "{what}");
        let peek = view.ask(Request::peek([&view.file], &fleet)).await;
        assert_eq!(peek.links, [None]);
        server.run(&["FLUSHALL"]);
    }
    assert_eq!(replica.tier.state(), crate::shared::State::Up);
}

#[test]
fn the_trial_uses_every_command_that_any_script_uses() {
    let used: std::collections::BTreeSet<_> = Operation::ALL.into_iter().flat_map(commands_of).collect();
    assert_eq!(commands_of(Operation::Trial), used);
}

#[tokio::test]
async fn names_that_no_replica_has_harm_no_beat() {
    let Some(server) = Server::start(&[]) else { return };
    let replica = Replica::of(&server).await;
    let (view, other) = (View::of(&replica), View::of(&replica));
    let fleet = view.fleet();
    view.ask(beat_of(&other, None, None, false)).await;
    let dropped = view.ask(Request::drop(&view.file, fleet)).await;
    // More than a connection takes in one answer.
    for name in ["'\\255'", "string.rep('x', 4 * 1024 * 1024)"] {
        let put = format!(
            "local name = {name}
            redis.call('ZADD', KEYS[1], 1, name)
            redis.call('HSET', KEYS[2], name, name, ARGV[1], name)
            redis.call('ZADD', KEYS[3], '+inf', name)"
        );
        let keys = [&fleet.members, &fleet.records, &fleet.deletions];
        server.run(&["EVAL", &put, "3", keys[0], keys[1], keys[2], other.member.as_str()]);
    }
    let beat = view.ask(beat_of(&view, Some(dropped - 1), None, false)).await;
    assert_eq!((beat.sequence, beat.missed, beat.forgotten.len()), (dropped, false, 1));
    let live: Vec<_> = beat.live.iter().map(|(name, record)| (name.as_str(), record.is_some())).collect();
    assert_eq!(live, [(other.member.as_str(), false), (view.member.as_str(), true)]);
    assert_eq!(replica.tier.state(), crate::shared::State::Up);
}

#[tokio::test]
async fn whoever_waits_for_many_mints_is_told_which_are_over() {
    let Some(server) = Server::start(&[]) else { return };
    let replica = Replica::of(&server).await;
    let view = View::of(&replica);
    assert_eq!(view.polls(Newer::Any, 1).await, [true], "nobody mints it");
    assert_eq!(view.look(Some(1), Newer::Any).await, Look::Mine);
    assert_eq!(view.polls(Newer::Any, 1).await, [false]);
    assert_eq!(view.polls(Newer::Any, 2).await, [true], "another holder");
    assert_eq!(view.put(2, 5).await, Put::Kept);
    for (newer, is_new) in
        [(Newer::Any, true), (Newer::Than(at(4)), true), (Newer::Than(at(5)), false), (Newer::Never, false)]
    {
        assert_eq!(view.polls(newer, 1).await, [is_new], "{newer:?}");
    }
    let failure = Request::release(&view.file, &view.member.holder(1), Some(b"failure".to_vec()));
    assert!(view.ask(failure).await);
    assert_eq!(view.polls(Newer::Never, 1).await, [true], "it has failed");
    // LOOK tells so much of a name.
    server.run(&["SET", &view.file.lease, &"x".repeat(65), "PX", "3000"]);
    let Look::Wait { holder, .. } = view.look(None, Newer::Never).await else { panic!() };
    let asked = Request::poll([(&view.file, Newer::Never, &holder)]);
    assert_eq!(view.ask(asked).await, [false]);
    assert!(view.ask(Request::steal(&view.file, &view.member.holder(1), &holder)).await, "as LOOK tells it");
    // Each file has its own answer, and one question has `PEEK` of them at most.
    let files: Vec<_> = (0..PEEK + 3).map(|number| replica.names.file(&number.to_string())).collect();
    let holder = view.member.holder(1);
    view.ask(Request::look(&files[7], view.fleet(), Some(&holder), Newer::Any)).await;
    let polled = view.ask(Request::poll(files.iter().map(|file| (file, Newer::Any, &holder)))).await;
    let waits: Vec<_> = (0..polled.len()).filter(|place| !polled[*place]).collect();
    assert_eq!((polled.len(), waits), (PEEK, vec![7]));
}

#[tokio::test]
async fn many_links_are_seen_at_once_with_the_beacon() {
    let Some(server) = Server::start(&[]) else { return };
    let replica = Replica::of(&server).await;
    let view = View::of(&replica);
    let files: Vec<_> =
        (0..PEEK + 3).map(|number| replica.names.file(&format!("https://h.example/{number}"))).collect();
    for place in [0, 2, PEEK - 1] {
        let holder = view.member.holder(0);
        view.ask(Request::put(&files[place], &holder, view.link(0), PATIENCE)).await;
    }
    let beacon = replica.seals.seal(&view.fleet().beacon, &Content::Beacon { at: at(0) });
    view.ask(beat_of(&view, None, Some(beacon.clone()), false)).await;
    let peek = view.ask(Request::peek(&files, view.fleet())).await;
    assert_eq!(peek.beacon, Some(beacon));
    assert_eq!(peek.links.len(), PEEK);
    let found: Vec<_> =
        peek.links.iter().enumerate().filter_map(|(place, link)| link.as_ref().map(|_| place)).collect();
    assert_eq!(found, [0, 2, PEEK - 1]);
}

#[tokio::test]
async fn a_new_bucket_is_empty_and_a_tier_that_forgets_gives_no_second_burst() {
    let Some(server) = Server::start(&[]) else { return };
    let replica = Replica::of(&server).await;
    let view = View::of(&replica);
    for _ in 0..2 {
        let Take::Full { retry_after } = view.take(slow(20), Duration::ZERO, 0).await else { panic!() };
        assert!((99..=100).contains(&retry_after.as_secs()), "{retry_after:?}");
        let Take::Go { wait } = view.take(slow(20), Duration::from_secs(110), 0).await else { panic!() };
        assert!((99..=100).contains(&wait.as_secs()), "{wait:?}");
        server.run(&["FLUSHALL"]);
    }
}

/// Sets the bucket so that so many tokens of `slow` are in it.
fn fill(server: &Server, view: &View<'_>, burst: u32, tokens: u32) {
    let left = (burst - tokens) * 100_000 + 3_600_000;
    server.run(&["SET", &view.fleet().bucket, "0", "PX", &left.to_string()]);
}

#[tokio::test]
async fn a_full_bucket_gives_its_burst_at_once_and_leaves_what_it_must() {
    let Some(server) = Server::start(&[]) else { return };
    let replica = Replica::of(&server).await;
    let view = View::of(&replica);
    for (tokens, keep, given) in [(20, 0, 20), (20, 5, 15), (3, 0, 3), (3, 3, 0), (0, 0, 0)] {
        fill(&server, &view, 20, tokens);
        let mut gone = 0;
        while view.take(slow(20), Duration::ZERO, keep).await == (Take::Go { wait: Duration::ZERO }) {
            gone += 1;
        }
        assert_eq!(gone, given, "{tokens} tokens, of which {keep} are to be left");
    }
}

#[tokio::test]
async fn only_tokens_that_are_given_count() {
    let Some(server) = Server::start(&[]) else { return };
    let replica = Replica::of(&server).await;
    let view = View::of(&replica);
    fill(&server, &view, 20, 0);
    for _ in 0..50 {
        assert!(matches!(view.take(slow(20), Duration::ZERO, 0).await, Take::Full { .. }));
    }
    let Take::Go { wait } = view.take(slow(20), Duration::from_secs(120), 0).await else { panic!() };
    assert!(wait <= Duration::from_secs(100));
    let Take::Full { retry_after } = view.take(slow(20), Duration::from_secs(110), 0).await else { panic!() };
    assert_eq!(retry_after, Duration::from_secs(120), "200 s, which nobody would wait for");
}

#[tokio::test]
async fn a_fleet_that_asks_at_once_gets_no_more_than_the_rate() {
    let Some(server) = Server::start(&[]) else { return };
    // Of which the tier's clock shows no whole number.
    let (period, burst) = (Duration::from_micros(3_400), 5);
    let mut replicas = Vec::new();
    for _ in 0..4 {
        replicas.push(Replica::of(&server).await);
    }
    let clock = crate::clock::Clock::system();
    let began = clock.now();
    let view = View::of(&replicas[0]);
    assert!(matches!(view.take(quota(period, burst), Duration::ZERO, 0).await, Take::Full { .. }));
    let taking = replicas.iter().map(|replica| async {
        let (view, mut given) = (View::of(replica), 0);
        while given < 50 {
            match view.take(quota(period, burst), Duration::ZERO, 0).await {
                Take::Go { .. } => given += 1,
                Take::Full { .. } => tokio::task::yield_now().await,
                Take::Paused { .. } => panic!(),
            }
        }
        given
    });
    let given: u32 = futures_util::future::join_all(taking).await.into_iter().sum();
    let took = clock.now().since(began);
    // One for the rounding to whole milliseconds at both ends.
    let most = took.as_micros() / period.as_micros() + 1;
    assert!(u128::from(given) <= most, "{given} in {took:?}, which has {most}");
}

#[tokio::test]
async fn what_was_spent_without_asking_is_paid_once_and_a_burst_at_most() {
    let Some(server) = Server::start(&[]) else { return };
    let replica = Replica::of(&server).await;
    let view = View::of(&replica);
    for (tokens, debt, left) in [(20, 5, 15), (20, 20, 0), (20, 1000, 0), (5, 10, 0)] {
        fill(&server, &view, 20, tokens);
        assert!(view.ask(Request::pay(view.fleet(), slow(20), debt, 0, Level::default())).await);
        let mut gone = 0;
        while matches!(view.take(slow(20), Duration::ZERO, 0).await, Take::Go { .. }) {
            gone += 1;
        }
        assert_eq!(gone, left, "{tokens} - {debt}");
    }
}

/// How the bucket is after a token that may come within two minutes.
async fn level_after(view: &View<'_>, quota: Quota, known: Level) -> Level {
    let request = Request::take(view.fleet(), quota, Duration::from_secs(120), 0, known);
    view.ask(request).await.bucket.unwrap()
}

fn is_about(level: Level, given: u64, seconds: u64) -> bool {
    level.given == given
        && (u128::from(seconds * 1000 - 1900)..=u128::from(seconds * 1000)).contains(&level.ahead.as_millis())
}

#[tokio::test]
async fn a_bucket_that_has_lost_its_memory_hears_of_it_from_whoever_asks() {
    let Some(server) = Server::start(&[]) else { return };
    let replica = Replica::of(&server).await;
    let view = View::of(&replica);
    let quota = quota(Duration::from_secs(2), 5);
    let known = |given, seconds| Level { given, ahead: Duration::from_secs(seconds) };
    // Empty at first: five tokens are missing.
    let nothing = Level::default();
    for (given, seconds) in [(1, 12), (2, 14), (3, 16)] {
        let level = level_after(&view, quota, nothing).await;
        assert!(is_about(level, given, seconds), "{level:?}");
    }
    let level = level_after(&view, quota, known(3, 100)).await;
    assert!(is_about(level, 4, 18), "as many as are known of: {level:?}");
    server.run(&["FLUSHALL"]);
    let level = level_after(&view, quota, known(4, 18)).await;
    assert!(is_about(level, 5, 20), "{level:?}");
    let level = level_after(&view, quota, known(9, 30)).await;
    assert!(is_about(level, 10, 32), "somebody knows of more: {level:?}");
    let level = level_after(&view, quota, known(4, 18)).await;
    assert!(is_about(level, 11, 34), "and somebody of less: {level:?}");
    // As a failover does that loses the last writes.
    server.run(&["SET", &view.fleet().bucket, "3000", "PX", "3600000"]);
    let beat = view.ask(beat_of_who_knows(&view, known(11, 34))).await;
    assert!(is_about(beat.bucket, 11, 34), "{:?}", beat.bucket);
    server.run(&["FLUSHALL"]);
    assert!(view.ask(Request::pay(view.fleet(), quota, 5, 2, known(11, 34))).await);
    let level = level_after(&view, quota, nothing).await;
    assert!(is_about(level, 19, 40), "{level:?}");
    server.run(&["FLUSHALL"]);
    let level = level_after(&view, quota, known(2, 1)).await;
    assert!(is_about(level, 3, 12), "a new one is empty at least: {level:?}");
    let beat = view.ask(beat_of_who_knows(&view, known(1_000_000_000_000, 3600))).await;
    assert!(is_about(beat.bucket, 1_000_000_000_000, 130), "and no emptier than ever: {:?}", beat.bucket);
    let beat = view.ask(beat_of_who_knows(&view, nothing)).await;
    assert_eq!(beat.bucket.given, 1_000_000_000_000, "all digits of it are kept");
}

#[tokio::test]
async fn a_count_that_somebody_made_up_is_answered_like_any() {
    let Some(server) = Server::start(&[]) else { return };
    let replica = Replica::of(&server).await;
    let view = View::of(&replica);
    let quota = quota(Duration::from_secs(2), 5);
    let mut known = Level::default();
    for value in ["2199023255551000", "2251799813685247", "2251799813685248", "9007199254740993"] {
        server.run(&["SET", &view.fleet().bucket, value, "PX", "3600000"]);
        for _ in 0..2 {
            known = level_after(&view, quota, known).await;
            known = view.ask(beat_of_who_knows(&view, known)).await.bucket;
        }
        server.run(&["FLUSHALL"]);
        known = level_after(&view, quota, known).await;
        assert!(known.given <= MOST_GIVEN && known.ahead <= Duration::from_secs(30), "{value}: {known:?}");
    }
}

#[tokio::test]
async fn what_went_beside_the_bucket_is_taken_beyond_empty() {
    let Some(server) = Server::start(&[]) else { return };
    let replica = Replica::of(&server).await;
    let view = View::of(&replica);
    let quota = quota(Duration::from_secs(2), 5);
    for (held, tokens, beyond, seconds) in
        [(5, 0, 3, 6), (5, 3, 0, 6), (0, 5, 0, 10), (0, 5, 3, 16), (3, 5, 3, 16), (0, 0, 1000, 130)]
    {
        let ahead = 2000 * (5 - held);
        server.run(&["SET", &view.fleet().bucket, "0", "PX", &(3_600_000 + ahead).to_string()]);
        assert!(view.ask(Request::pay(view.fleet(), quota, tokens, beyond, Level::default())).await);
        let beat = view.ask(beat_of(&view, None, None, false)).await;
        assert!(is_about(beat.bucket, (tokens + beyond).into(), seconds), "{tokens} {beyond}: {:?}", beat.bucket);
    }
}

#[tokio::test]
async fn a_bucket_from_before_the_tier_s_clock_was_set_back_is_empty_and_no_more() {
    let Some(server) = Server::start(&[]) else { return };
    let replica = Replica::of(&server).await;
    let view = View::of(&replica);
    let quota = quota(Duration::from_millis(100), 20);
    for spoil in [&["PEXPIRE", &view.fleet().bucket, "10800000"][..], &["PERSIST", &view.fleet().bucket]] {
        server.run(&["SET", &view.fleet().bucket, "0", "PX", "3600000"]);
        server.run(spoil);
        let Take::Full { retry_after } = view.take(quota, Duration::ZERO, 0).await else { panic!("{spoil:?}") };
        assert!(retry_after <= Duration::from_millis(100), "{retry_after:?}");
        eventually("a token", || async { matches!(view.take(quota, Duration::ZERO, 0).await, Take::Go { .. }) }).await;
        // Also while nobody takes any.
        server.run(spoil);
        let beat = view.ask(beat_of(&view, None, None, false)).await;
        assert_eq!(beat.bucket.ahead, slow(5).window(), "{spoil:?}");
        let redis::Value::Int(left) = server.run(&["PTTL", &view.fleet().bucket]) else { panic!("no number") };
        assert!((4_090_000..=4_100_000).contains(&left), "an hour and a window: {left}");
    }
}

#[tokio::test]
async fn a_minute_by_which_the_tier_s_clock_was_set_back_is_no_queue_to_who_knows_what_was_given() {
    let Some(server) = Server::start(&[]) else { return };
    let replica = Replica::of(&server).await;
    let view = View::of(&replica);
    let quota = quota(Duration::from_millis(100), 20);
    let take = async |known| view.ask(Request::take(view.fleet(), quota, 4 * quota.window(), 0, known)).await;
    let known = take(Level::default()).await.bucket.unwrap();
    server.run(&["PEXPIRE", &view.fleet().bucket, "3662000"]);
    assert!(matches!(take(Level { given: known.given - 1, ..known }).await.take, Take::Full { .. }), "others took it");
    let Take::Go { wait } = take(known).await.take else { panic!("no turn") };
    assert!(wait <= Duration::from_millis(200), "{wait:?}");
}

#[tokio::test]
async fn a_bucket_stays_full_through_a_quiet_hour_as_long_as_replicas_live() {
    let Some(server) = Server::start(&[]) else { return };
    let replica = Replica::of(&server).await;
    let view = View::of(&replica);
    // It has been full for an hour less a minute.
    server.run(&["SET", &view.fleet().bucket, "0", "PX", "60000"]);
    view.ask(beat_of(&view, None, None, false)).await;
    let redis::Value::Int(left) = server.run(&["PTTL", &view.fleet().bucket]) else { panic!("no number") };
    assert!((3_590_000..=3_600_000).contains(&left), "{left}");
    assert!(matches!(view.take(quota(Duration::from_millis(100), 20), Duration::ZERO, 0).await, Take::Go { .. }));
}

#[tokio::test]
async fn a_pause_holds_for_all_the_longer_one_and_no_longer_than_two_minutes() {
    let Some(server) = Server::start(&[]) else { return };
    let replica = Replica::of(&server).await;
    let view = View::of(&replica);
    let pause = async |seconds| view.ask(Request::pause(view.fleet(), Duration::from_secs(seconds))).await.as_secs();
    let left = async || view.ask(Request::pause_left(view.fleet())).await.as_secs();
    assert_eq!(left().await, 0);
    assert_eq!(server.run(&["EXISTS", &view.fleet().pause]), redis::Value::Int(0), "nobody has asked for one");
    assert_eq!(pause(100).await, 100);
    assert!((90..=100).contains(&left().await));
    assert!((90..=100).contains(&pause(5).await));
    let Take::Paused { left } = view.take(slow(1), Duration::ZERO, 0).await else { panic!() };
    assert!((90..=100).contains(&left.as_secs()));
    assert_eq!(pause(3600).await, 120);
    server.run(&["PEXPIRE", &view.fleet().pause, HOURS]);
    let beat = view.ask(beat_of(&view, None, None, false)).await;
    assert_eq!(beat.pause.as_secs(), 10);
    let Take::Paused { left } = view.take(slow(1), Duration::ZERO, 0).await else { panic!() };
    assert_eq!(left.as_secs(), 10, "the tier's clock was set back");
    server.run(&["PEXPIRE", &view.fleet().pause, HOURS]);
    assert_eq!(pause(1).await, 1);
}

fn beat_of_who_knows(view: &View<'_>, bucket: Level) -> Request<Beat> {
    let saying =
        Saying { replica: &view.member, record: vec![1], sequence: None, beacon: None, goodbye: false, bucket };
    Request::beat(view.fleet(), quota(Duration::from_secs(2), 5), saying)
}

fn beat_of(view: &View<'_>, sequence: Option<i64>, beacon: Option<Vec<u8>>, goodbye: bool) -> Request<Beat> {
    let record = view
        .replica
        .seals
        .seal(&view.fleet().records, &Content::Member { at: at(0), text: view.member.as_str().to_owned() });
    let (replica, bucket) = (&view.member, Level::default());
    Request::beat(view.fleet(), slow(5), Saying { replica, record, sequence, beacon, goodbye, bucket })
}

#[test]
fn an_answer_to_looks_has_a_part_for_each() {
    let two = Value::Array(vec![Value::Int(1), Value::Int(2)]);
    assert_eq!(parts(Operation::Look, two.clone(), 2), Some(vec![Value::Int(1), Value::Int(2)]));
    assert_eq!(parts(Operation::Take, two.clone(), 1), Some(vec![two.clone()]));
    for count in [0, 1, 3] {
        assert_eq!(parts(Operation::Look, two.clone(), count), None, "{count}");
    }
    assert_eq!(parts(Operation::Look, Value::Int(1), 1), None);
}

#[test]
fn answers_of_a_wrong_type_are_errors() {
    use redis::Value::{Array, BulkString, Int, Nil, Okay};
    let bulk = |text: &str| BulkString(text.as_bytes().to_vec());
    let file = FileNames { id: String::new(), link: String::new(), lease: String::new(), tombstone: String::new() };
    let names = crate::shared::Names::new(&crate::key::ApiKey::new("first-key").unwrap().fleet_secret());
    let look = Request::look(&file, names.fleet(), None, Newer::Any).read;
    let answers = [
        Nil,
        Okay,
        Int(1),
        bulk("hit"),
        Array(vec![]),
        Array(vec![bulk("hit")]),
        Array(vec![bulk("hit"), bulk("x")]),
        Array(vec![bulk("hit"), Nil, Nil]),
        Array(vec![bulk("hit"), bulk("x"), Int(1)]),
        Array(vec![bulk("hit"), bulk("x"), Nil, Nil]),
        Array(vec![bulk("wait"), Int(1)]),
        Array(vec![bulk("wait"), Int(-1), bulk("a.1")]),
        Array(vec![bulk("wait"), bulk("1"), bulk("a.1")]),
        Array(vec![bulk("wait"), Int(1), Int(1)]),
        Array(vec![bulk("else")]),
        Array(vec![Int(1), Int(1)]),
        BulkString(vec![0xff]),
    ];
    let take = Request::take(names.fleet(), slow(1), PATIENCE, 0, Level::default()).read;
    let replica = crate::shared::Replica::random();
    let bucket = Level::default();
    let saying = Saying { replica: &replica, record: Vec::new(), sequence: None, beacon: None, goodbye: false, bucket };
    let beat = Request::beat(names.fleet(), slow(1), saying).read;
    for answer in answers {
        assert_eq!(look(answer.clone()), None, "{answer:?}");
        assert_eq!(take(answer.clone()), None, "{answer:?}");
        assert_eq!(beat(answer.clone()), None, "{answer:?}");
    }
    let hours = Int(7_200_000);
    let wait = Some(Look::Wait { left: 2 * LEASE, holder: Holder::heard("a.1".to_owned()) });
    assert_eq!(look(Array(vec![bulk("wait"), hours.clone(), bulk("a.1")])), wait, "what is read is clamped");
    let paused = Taken { take: Take::Paused { left: LONGEST_PAUSE }, bucket: None };
    assert_eq!(take(Array(vec![bulk("paused"), hours.clone()])), Some(paused));
    let bucket = |given: &str| Array(vec![Int(1500), bulk(given)]);
    let level = Level { given: 7, ahead: Duration::from_millis(1500) };
    let go = Taken { take: Take::Go { wait: LONGEST_WAIT }, bucket: Some(level) };
    assert_eq!(take(Array(vec![bulk("go"), hours.clone(), bucket("7")])), Some(go));
    for (given, ahead) in [(MOST_GIVEN, 1), (MOST_GIVEN + 1, 1), (u64::MAX, 1)] {
        let most = Level { given: MOST_GIVEN, ahead: Duration::from_millis(ahead) };
        assert_eq!(super::level(Array(vec![Int(1), bulk(&given.to_string())])), Some(most), "{given}");
    }
    for given in ["", "-1", "1.5", "1e3", "18446744073709551616"] {
        assert_eq!(take(Array(vec![bulk("go"), hours.clone(), bucket(given)])), None, "{given}");
    }
    assert_eq!(take(Array(vec![bulk("go"), hours])), None, "and how the bucket is");
}

#[test]
fn an_answer_is_its_question_s_by_number_only() {
    use redis::Value::{Array, BulkString, Int, Nil, Okay};
    let number = BulkString(b"7".to_vec());
    assert_eq!(answer_to(7, Array(vec![number.clone(), Nil])), Some(Nil));
    for answer in [
        Okay,
        Nil,
        Array(vec![number.clone()]),
        Array(vec![number.clone(), Nil, Nil]),
        Array(vec![Int(7), Nil]),
        Array(vec![BulkString(b"8".to_vec()), Nil]),
        Array(vec![BulkString(b"07".to_vec()), Nil]),
    ] {
        assert_eq!(answer_to(7, answer.clone()), None, "{answer:?}");
    }
}

#[tokio::test]
async fn a_question_that_the_tier_does_not_take_harms_no_other() {
    let Some(server) = Server::start(&[]) else { return };
    let replica = Replica::of(&server).await;
    let view = View::of(&replica);
    let mut nonsense = Request::pay(view.fleet(), slow(1), 1, 0, Level::default());
    nonsense.arguments[0] = b"no number".to_vec();
    assert_eq!(replica.tier.ask(nonsense, PATIENCE).await, Err(Error::Refused));
    assert_eq!(view.look(None, Newer::Any).await, Look::Free);
    let mut other = Request::take(view.fleet(), slow(1), Duration::ZERO, 0, Level::default());
    other.read = |_| None;
    assert_eq!(replica.tier.ask(other, PATIENCE).await, Err(Error::Malformed));
    assert_eq!(view.look(None, Newer::Any).await, Look::Free);
}
