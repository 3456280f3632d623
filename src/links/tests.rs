//! Lookups and flights on paused time, with a mint that the test holds in its hands.

use std::sync::Mutex;

use tokio::{sync::oneshot, task::JoinHandle};

use super::{mint::refresh_backoff, *};
use crate::{
    clock::testing::VirtualTime,
    key::ApiKey,
    link::{self, Link, Policy},
    telemetry::trace::Tracer,
    upstream::{Answer, Ask, MintFuture, Minted},
};

const SECOND: Duration = Duration::from_secs(1);

type Result1 = Result<Minted, upstream::Error>;

/// Mints that have set out and wait for the test's word.
#[derive(Default)]
struct Script {
    under_way: Mutex<Vec<(Source, Reason, oneshot::Sender<Result1>)>>,
    begun: Mutex<u32>,
    patiences: Mutex<Vec<Patience>>,
}

impl Mint for Script {
    fn mint<'a>(&'a self, source: &'a Source, ask: Ask) -> MintFuture<'a> {
        let (sender, receiver) = oneshot::channel();
        *self.begun.lock().unwrap() += 1;
        self.patiences.lock().unwrap().push(ask.patience);
        self.under_way.lock().unwrap().push((source.clone(), ask.reason, sender));
        Box::pin(async move { receiver.await.expect("the test decides about every mint") })
    }
}

struct Bench {
    links: Links,
    script: Arc<Script>,
    time: Arc<VirtualTime>,
    clock: Clock,
    kie_clock: KieClock,
    tasks: TaskTracker,
}

fn bench_with(change: impl FnOnce(&mut Config)) -> Bench {
    let time = VirtualTime::new();
    let clock = time.clock();
    let script = Arc::new(Script::default());
    let (tasks, kie_clock) = (TaskTracker::new(), KieClock::default());
    let mut config = Config::for_tests();
    change(&mut config);
    let links = Links::new(
        config,
        Parts {
            mint: Arc::clone(&script) as Arc<dyn Mint>,
            clock: clock.clone(),
            kie_clock: kie_clock.clone(),
            log_hash: ApiKey::new("a-test-key").unwrap().log_hash(),
            tracer: Tracer::default(),
            noted: telemetry::Failures::default(),
            tasks: tasks.clone(),
            stop: CancellationToken::new(),
        },
    );
    fastrand::seed(1);
    Bench { links, script, time, clock, kie_clock, tasks }
}

fn bench() -> Bench {
    bench_with(|_| {})
}

fn source() -> Source {
    Source::parse("https://file.kie.ai/a.png").unwrap()
}

fn refused() -> upstream::Error {
    upstream::Error::SourceRefused(Answer { http_status: 200, code: Some(422), message: None })
}

impl Bench {
    /// A caller in a task of its own, waiting by the time this returns.
    async fn caller(&self, wish: Wish) -> JoinHandle<Result<Lookup, Error>> {
        let (links, deadline) = (self.links.clone(), self.clock.now() + 20 * SECOND);
        let task = self.tasks.spawn(async move { links.get(&source(), &wish, deadline).await });
        settle().await;
        task
    }

    async fn get(&self, wish: Wish) -> Result<Lookup, Error> {
        self.links.get(&source(), &wish, self.clock.now() + 20 * SECOND).await
    }

    /// Ends the oldest mint under way.
    async fn land(&self, result: Result1) {
        let (_, _, sender) = self.script.under_way.lock().unwrap().remove(0);
        let _ = sender.send(result);
        settle().await;
    }

    fn link(&self, name: &str) -> Minted {
        let sent_at = self.clock.now();
        let link = Link::parse(&format!("https://h.example/{name}"), &Policy::default()).unwrap();
        // kie.ai's clock is the true one.
        let date = jiff::Timestamp::from_second(1_780_000_000).unwrap() + self.time.peek().since_origin();
        let heard = self.kie_clock.heard(Some(date), None, sent_at, sent_at);
        Minted { link, sent_at, ends_at: sent_at + link::LIFE, heard, says_its_end: false, via: upstream::Via::Kie }
    }

    fn mints(&self) -> u32 {
        *self.script.begun.lock().unwrap()
    }

    fn reasons(&self) -> Vec<Reason> {
        self.script.under_way.lock().unwrap().iter().map(|(_, reason, _)| *reason).collect()
    }

    /// An entry in the cache, just minted.
    async fn warm(&self) {
        let caller = self.caller(Wish::default()).await;
        self.land(Ok(self.link("first"))).await;
        caller.await.unwrap().unwrap();
    }
}

/// Lets every task run until it waits for something.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

fn name(lookup: &Lookup) -> &str {
    lookup.entry.link.as_str().rsplit('/').next().unwrap()
}

fn forced(max_age: u64) -> Wish {
    Wish { max_age: Some(Duration::from_secs(max_age)), ..Wish::default() }
}

fn fresher(min_fresh: u64) -> Wish {
    Wish { min_fresh: Some(Duration::from_secs(min_fresh)), ..Wish::default() }
}

#[tokio::test(start_paused = true)]
async fn one_leads_and_the_others_join() {
    let bench = bench();
    let callers = [bench.caller(Wish::default()).await, bench.caller(forced(0)).await, bench.caller(fresher(9)).await];
    assert_eq!(bench.mints(), 1);
    bench.land(Ok(bench.link("a"))).await;
    let mut outcomes = Vec::new();
    for caller in callers {
        outcomes.push(caller.await.unwrap().unwrap().found);
    }
    assert_eq!(outcomes, [Found::Miss, Found::Joined, Found::Joined]);
    assert_eq!(bench.get(Wish::default()).await.unwrap().found, Found::Hit);
}

#[tokio::test(start_paused = true)]
async fn a_flight_outlives_the_caller_that_began_it() {
    let bench = bench();
    let caller = bench.caller(Wish::default()).await;
    caller.abort();
    settle().await;
    let joined = bench.caller(Wish::default()).await;
    bench.land(Ok(bench.link("a"))).await;
    assert_eq!(joined.await.unwrap().unwrap().found, Found::Joined);
    assert_eq!(bench.mints(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_error_is_shared_and_not_repeated_but_the_next_caller_asks_again() {
    let bench = bench();
    let callers = [bench.caller(Wish::default()).await, bench.caller(Wish::default()).await];
    bench.land(Err(upstream::Error::Timeout)).await;
    for caller in callers {
        assert!(matches!(caller.await.unwrap(), Err(Error::Upstream(_))));
    }
    assert_eq!(bench.mints(), 1);
    tokio::time::sleep(SECOND).await;
    let _next = bench.caller(Wish::default()).await;
    assert_eq!(bench.mints(), 2);
}

#[tokio::test(start_paused = true)]
async fn past_the_refresh_point_it_serves_at_once_and_renews_behind() {
    let bench = bench();
    bench.warm().await;
    bench.time.suspend(12 * 60 * SECOND);
    let lookup = bench.get(Wish::default()).await.unwrap();
    assert_eq!((lookup.found, name(&lookup)), (Found::HitRefresh, "first"));
    bench.get(Wish::default()).await.unwrap();
    settle().await;
    assert_eq!(bench.reasons(), [Reason::Refresh], "one refresh for any number of hits");
    bench.land(Ok(bench.link("second"))).await;
    let lookup = bench.get(Wish::default()).await.unwrap();
    assert_eq!((lookup.found, name(&lookup)), (Found::Hit, "second"));
}

#[tokio::test(start_paused = true)]
async fn a_failed_refresh_is_tried_again_with_back_off_until_the_deadline_and_not_served_beyond() {
    let bench = bench();
    bench.warm().await;
    bench.time.suspend(12 * 60 * SECOND);
    let mut tries = 0;
    for _ in 0..7 * 60 {
        let lookup = bench.get(Wish::default()).await;
        if lookup.as_ref().is_ok_and(|lookup| lookup.found == Found::HitRefresh) {
            settle().await;
            if !bench.reasons().is_empty() {
                tries += 1;
                bench.land(Err(upstream::Error::Timeout)).await;
            }
        }
        tokio::time::sleep(SECOND).await;
        if bench.mints() == 0 {
            break;
        }
        if bench.clock.now().since(lookup.unwrap().times.minted_at) >= 19 * 60 * SECOND {
            break;
        }
    }
    assert!((10..60).contains(&tries), "{tries}");
    let _miss = bench.caller(Wish::default()).await;
    assert_eq!(bench.reasons(), [Reason::Miss]);
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_joined_a_refresh_is_not_served_by_its_failure() {
    let bench = bench();
    bench.warm().await;
    bench.time.suspend(18 * 60 * SECOND);
    bench.get(Wish::default()).await.unwrap();
    settle().await;
    bench.time.suspend(60 * SECOND);
    let caller = bench.caller(Wish::default()).await;
    assert_eq!(bench.reasons(), [Reason::Refresh]);
    bench.land(Err(upstream::Error::Timeout)).await;
    assert_eq!(bench.reasons(), [Reason::Miss], "it leads a flight of its own");
    bench.land(Ok(bench.link("b"))).await;
    assert_eq!(name(&caller.await.unwrap().unwrap()), "b");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_served_at_the_deadline_though_the_machine_slept() {
    let bench = bench();
    bench.warm().await;
    bench.time.suspend(19 * 60 * SECOND);
    let caller = bench.caller(Wish::default()).await;
    assert!(!caller.is_finished());
    assert_eq!(bench.reasons(), [Reason::Miss]);
}

#[tokio::test(start_paused = true)]
async fn a_link_that_died_on_its_way_to_the_caller_is_minted_again() {
    let bench = bench();
    let caller = bench.caller(Wish::default()).await;
    let old = bench.link("a");
    bench.time.suspend(3600 * SECOND);
    bench.land(Ok(old)).await;
    assert_eq!(bench.mints(), 2);
    bench.land(Ok(bench.link("b"))).await;
    // The caller's deadline passed while the machine slept, but the answer is there and alive.
    assert_eq!(name(&caller.await.unwrap().unwrap()), "b");
}

#[tokio::test(start_paused = true)]
async fn a_link_with_too_little_life_is_minted_once_more_and_then_given_up() {
    let bench = bench();
    let caller = bench.caller(Wish::default()).await;
    for _ in 0..2 {
        let short = Minted { ends_at: bench.clock.now() + 30 * SECOND, ..bench.link("short") };
        bench.land(Ok(short)).await;
    }
    let Err(Error::Upstream(error)) = caller.await.unwrap() else { panic!("it was emitted") };
    assert!(matches!(*error, upstream::Error::ShortLived));
    assert_eq!(bench.mints(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_lost_flight_lets_its_callers_lead_their_own() {
    let bench = bench();
    let caller = bench.caller(Wish::default()).await;
    // The mint panics: its task ends, the guard clears the table.
    drop(bench.script.under_way.lock().unwrap().remove(0));
    settle().await;
    assert_eq!(bench.mints(), 2);
    bench.land(Ok(bench.link("b"))).await;
    assert_eq!(name(&caller.await.unwrap().unwrap()), "b");
}

#[tokio::test(start_paused = true)]
async fn a_forced_mint_happens_once_per_interval_for_any_number_of_callers() {
    let bench = bench();
    bench.warm().await;
    tokio::time::sleep(2 * SECOND).await;
    let callers = [bench.caller(forced(0)).await, bench.caller(forced(0)).await, bench.caller(fresher(1139)).await];
    assert_eq!(bench.reasons(), [Reason::Forced]);
    bench.land(Ok(bench.link("second"))).await;
    for caller in callers {
        assert_eq!(name(&caller.await.unwrap().unwrap()), "second");
    }
    tokio::time::sleep(9 * SECOND).await;
    let lookup = bench.get(forced(0)).await.unwrap();
    assert_eq!((lookup.found, name(&lookup)), (Found::Hit, "second"), "within the interval");
    tokio::time::sleep(SECOND).await;
    let _caller = bench.caller(forced(0)).await;
    assert_eq!(bench.reasons(), [Reason::Forced]);
}

#[tokio::test(start_paused = true)]
async fn more_life_than_a_fresh_link_has_gets_the_freshest_there_is() {
    let bench = bench();
    let caller = bench.caller(fresher(9999)).await;
    bench.land(Ok(bench.link("a"))).await;
    assert!(caller.await.unwrap().is_ok());
    tokio::time::sleep(9 * SECOND).await;
    assert_eq!(name(&bench.get(fresher(9999)).await.unwrap()), "a", "once per interval, the first mint included");
    tokio::time::sleep(SECOND).await;
    let caller = bench.caller(fresher(9999)).await;
    bench.land(Ok(bench.link("b"))).await;
    assert_eq!(name(&caller.await.unwrap().unwrap()), "b");
    assert_eq!(name(&bench.get(fresher(9999)).await.unwrap()), "b", "once per interval");
}

#[tokio::test(start_paused = true)]
async fn a_failed_forced_mint_leaves_the_link_and_counts_for_the_interval() {
    let bench = bench();
    bench.warm().await;
    tokio::time::sleep(SECOND).await;
    let caller = bench.caller(forced(0)).await;
    bench.land(Err(upstream::Error::Timeout)).await;
    assert!(caller.await.unwrap().is_err());
    assert_eq!(name(&bench.get(Wish::default()).await.unwrap()), "first");
    assert_eq!(name(&bench.get(forced(0)).await.unwrap()), "first");
    assert_eq!(bench.mints(), 2);
}

#[tokio::test(start_paused = true)]
async fn only_if_cached_never_asks() {
    let bench = bench();
    let wish = Wish { only_if_cached: true, ..Wish::default() };
    assert!(matches!(bench.get(wish).await, Err(Error::NotCached)));
    bench.warm().await;
    assert_eq!(bench.get(wish).await.unwrap().found, Found::Hit);
    let picky = Wish { max_age: Some(Duration::ZERO), ..wish };
    tokio::time::sleep(SECOND).await;
    assert!(matches!(bench.get(picky).await, Err(Error::NotCached)));
    bench.time.suspend(12 * 60 * SECOND);
    assert_eq!(bench.get(wish).await.unwrap().found, Found::HitRefresh);
    settle().await;
    assert_eq!(bench.mints(), 1, "not even to refresh");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_remembered_and_forgotten() {
    let bench = bench();
    let caller = bench.caller(Wish::default()).await;
    bench.land(Err(refused())).await;
    assert!(matches!(caller.await.unwrap(), Err(Error::Upstream(_))));
    assert!(matches!(bench.get(Wish::default()).await, Err(Error::Refused(_))));
    assert!(matches!(bench.get(forced(0)).await, Err(Error::Refused(_))), "no-cache, but a moment ago");
    bench.time.suspend(11 * SECOND);
    let caller = bench.caller(forced(0)).await;
    assert_eq!(bench.mints(), 2, "no-cache asks whether it still stands");
    bench.land(Ok(bench.link("a"))).await;
    assert!(caller.await.unwrap().is_ok());
    assert_eq!(bench.get(Wish::default()).await.unwrap().found, Found::Hit);
}

#[tokio::test(start_paused = true)]
async fn callers_that_wait_are_bounded_and_those_whom_memory_answers_are_not() {
    let bench = bench_with(|config| config.waiting = 2);
    bench.warm().await;
    tokio::time::sleep(SECOND).await;
    let waiting = [bench.caller(forced(0)).await, bench.caller(forced(0)).await];
    assert!(waiting.iter().all(|task| !task.is_finished()));
    assert!(matches!(bench.get(forced(0)).await, Err(Error::Crowded)));
    assert_eq!(bench.get(Wish::default()).await.unwrap().found, Found::Hit);
    bench.land(Ok(bench.link("b"))).await;
    for task in waiting {
        task.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_beyond_the_deadline() {
    let bench = bench();
    let before = bench.clock.now();
    assert!(matches!(bench.get(Wish::default()).await, Err(Error::TimedOut)));
    assert_eq!(bench.clock.now().since(before).as_secs(), 20);
}

#[test]
fn refreshes_are_tried_more_often_towards_the_deadline() {
    for (failures, left_ms, pause_ms) in [
        (1, 420_000, 500),
        (2, 420_000, 1000),
        (4, 420_000, 4000),
        (40, 420_000, 60_000),
        (40, 40_000, 10_000),
        (40, 20_000, 5000),
        (40, 18_000, 3000),
        (40, 16_100, 1100),
        (40, 15_999, 1000),
        (1, 10_000, 500),
        (40, 10_000, 1000),
        (40, 0, 500),
    ] {
        let pause = refresh_backoff(failures, None, Duration::from_millis(left_ms), 0.0);
        assert_eq!(pause.as_millis(), pause_ms, "{failures} failures, {left_ms} ms left");
    }
    assert_eq!(refresh_backoff(1, None, 420 * SECOND, 0.999).as_millis(), 624, "jitter lengthens it");
    let shut = Some(12 * SECOND);
    assert_eq!(refresh_backoff(1, shut, 420 * SECOND, 0.0), 12 * SECOND, "as soon as kie.ai may be asked again");
    assert_eq!(refresh_backoff(1, shut, 20 * SECOND, 0.0), 5 * SECOND, "or as it is urgent");
    assert_eq!(refresh_backoff(9, shut, 10 * SECOND, 0.0), SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_only_kie_ai_s_clock_saw_withholds_a_link_from_the_next_answer_on() {
    let bench = bench();
    bench.warm().await;
    bench.time.pause_unseen(1170 * SECOND);
    assert_eq!(bench.get(Wish::default()).await.unwrap().found, Found::Hit, "nothing has shown it yet");
    bench.link("of another file");
    let caller = bench.caller(Wish::default()).await;
    assert_eq!(bench.reasons(), [Reason::Miss]);
    bench.land(Ok(bench.link("second"))).await;
    assert_eq!(name(&caller.await.unwrap().unwrap()), "second");
    let lookup = bench.get(Wish::default()).await.unwrap();
    assert_eq!((lookup.found, name(&lookup)), (Found::Hit, "second"));
}

#[tokio::test(start_paused = true)]
async fn a_short_pause_takes_as_much_of_the_life_and_a_wrong_clock_gives_it_back() {
    let bench = bench();
    bench.warm().await;
    let left = |lookup: &Lookup| lookup.now.until(lookup.times.deadline).as_secs();
    assert_eq!(left(&bench.get(Wish::default()).await.unwrap()), 1140);
    let date = |ahead: u64| {
        let shown = bench.time.peek().since_origin() + Duration::from_secs(ahead);
        Some(jiff::Timestamp::from_second(1_780_000_000).unwrap() + shown)
    };
    let now = bench.clock.now();
    bench.kie_clock.heard(date(300), None, now, now);
    let lookup = bench.get(Wish::default()).await.unwrap();
    assert!((838..=840).contains(&left(&lookup)), "{}", left(&lookup));
    assert_eq!(lookup.now.until(lookup.times.ends_at), lookup.now.until(lookup.times.deadline) + 60 * SECOND);
    for _ in 0..3 {
        bench.kie_clock.heard(date(0), None, now, now);
    }
    assert_eq!(left(&bench.get(Wish::default()).await.unwrap()), 1140);
}

#[tokio::test(start_paused = true)]
async fn the_same_link_again_is_no_new_life() {
    let bench = bench();
    bench.warm().await;
    let ends_at = bench.get(Wish::default()).await.unwrap().times.ends_at;
    for _ in 0..2 {
        tokio::time::sleep(300 * SECOND).await;
        let caller = bench.caller(forced(0)).await;
        bench.land(Ok(bench.link("first"))).await;
        let lookup = caller.await.unwrap().unwrap();
        assert_eq!(lookup.times.ends_at, ends_at);
    }
    tokio::time::sleep(600 * SECOND).await;
    let caller = bench.caller(Wish::default()).await;
    bench.land(Ok(bench.link("first"))).await;
    assert_eq!(caller.await.unwrap().unwrap().times.ends_at, bench.clock.now() + link::LIFE, "kie.ai has renewed it");
}

#[tokio::test(start_paused = true)]
async fn what_is_past_its_deadline_leaves_memory_within_a_minute_whether_or_not_anybody_asks() {
    let bench = bench();
    let stop = CancellationToken::new();
    let sweeping = bench.tasks.spawn(bench.links.clone().sweep_until(stop.clone()));
    bench.warm().await;
    let expired = || bench.links.0.metrics.evictions("expired");
    tokio::time::sleep(19 * 60 * SECOND).await;
    assert_eq!((bench.links.0.entries.entry_count(), expired()), (1, 0));
    tokio::time::sleep(61 * SECOND).await;
    assert_eq!((bench.links.0.entries.entry_count(), expired()), (0, 1));
    // The machine slept.
    bench.warm().await;
    bench.time.suspend(3600 * SECOND);
    tokio::time::sleep(61 * SECOND).await;
    assert_eq!((bench.links.entry_count(), bench.links.weight(), expired()), (0, 0, 2));
    stop.cancel();
    sweeping.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_sweep_leaves_what_lives_what_only_another_clock_calls_dead_and_what_is_being_minted() {
    let bench = bench();
    bench.warm().await;
    let now = bench.clock.now();
    let date = |ahead: u64| {
        let shown = bench.time.peek().since_origin() + Duration::from_secs(ahead);
        Some(jiff::Timestamp::from_second(1_780_000_000).unwrap() + shown)
    };
    bench.kie_clock.heard(date(3600), None, now, now);
    bench.links.sweep();
    for _ in 0..3 {
        bench.kie_clock.heard(date(0), None, now, now);
    }
    assert_eq!(bench.get(Wish::default()).await.unwrap().found, Found::Hit, "one wrong clock destroys nothing");
    bench.time.suspend(19 * 60 * SECOND);
    let caller = bench.caller(Wish::default()).await;
    bench.links.sweep();
    assert!(bench.links.explain(&source()).entry.is_some(), "what is on its way will take its place");
    bench.land(Ok(bench.link("second"))).await;
    assert_eq!(name(&caller.await.unwrap().unwrap()), "second");
    bench.links.sweep();
    assert_eq!(bench.get(Wish::default()).await.unwrap().found, Found::Hit);
    let evictions = |cause| bench.links.0.metrics.evictions(cause);
    assert_eq!((evictions("expired"), evictions("explicit")), (0, 0), "it was replaced");
    bench.links.forget(&source());
    bench.links.forget(&source());
    assert_eq!((evictions("expired"), evictions("explicit")), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_comes_upon_the_sweep_gets_its_link_all_the_same() {
    let bench = bench();
    // The sweep holds the file's flight.
    let note = Note::until(bench.clock.now(), Party::default());
    let Role::Lead(lead) = bench.links.0.flights.join(&source(), &note) else { panic!("no flight is under way") };
    let caller = bench.caller(Wish::default()).await;
    assert_eq!(bench.mints(), 0);
    drop(lead);
    settle().await;
    bench.land(Ok(bench.link("a"))).await;
    assert_eq!(caller.await.unwrap().unwrap().found, Found::Miss);
}

#[tokio::test(start_paused = true)]
async fn a_joiner_waits_by_its_own_patience_and_not_by_the_first_caller_s() {
    let bench = bench();
    let ask = |patience: u32| {
        let (links, deadline) = (bench.links.clone(), bench.clock.now() + patience * SECOND);
        bench.tasks.spawn(async move { links.get(&source(), &Wish::default(), deadline).await })
    };
    let first = ask(6);
    // The first flight begins while this sleeps.
    tokio::time::sleep(5 * SECOND).await;
    let joiner = ask(6);
    tokio::time::sleep(2 * SECOND).await;
    assert!(matches!(first.await.unwrap(), Err(Error::TimedOut)));
    bench.land(Ok(bench.link("a"))).await;
    assert_eq!(joiner.await.unwrap().unwrap().found, Found::Joined);
    assert_eq!(bench.mints(), 1);
    let Some(patience) = bench.script.patiences.lock().unwrap().pop() else { panic!("one was asked for") };
    assert_eq!(patience.deadline(), bench.clock.now() + 4 * SECOND, "as long as anybody waits");
}

#[tokio::test(start_paused = true)]
async fn a_link_that_comes_after_everybody_s_patience_is_there_for_the_next_one() {
    let bench = bench();
    let caller = bench.caller(Wish::default()).await;
    tokio::time::sleep(21 * SECOND).await;
    assert!(matches!(caller.await.unwrap(), Err(Error::TimedOut)));
    bench.land(Ok(bench.link("a"))).await;
    assert_eq!(bench.get(Wish::default()).await.unwrap().found, Found::Hit);
}

#[tokio::test(start_paused = true)]
async fn who_asks_after_a_delete_gets_a_link_that_was_asked_for_later() {
    let bench = bench();
    let before = bench.caller(Wish::default()).await;
    bench.links.forget(&source());
    let after = bench.caller(Wish::default()).await;
    assert_eq!(bench.mints(), 1, "one request at a time");
    bench.land(Ok(bench.link("old"))).await;
    assert_eq!(name(&before.await.unwrap().unwrap()), "old");
    assert_eq!(bench.mints(), 2);
    bench.land(Ok(bench.link("new"))).await;
    assert_eq!(name(&after.await.unwrap().unwrap()), "new");
    assert_eq!(name(&bench.get(Wish::default()).await.unwrap()), "new");
}

#[tokio::test(start_paused = true)]
async fn a_file_that_failed_is_told_at_once_and_asked_for_after_its_back_off() {
    let bench = bench();
    for back_off in [1, 2, 4] {
        let caller = bench.caller(Wish::default()).await;
        bench.land(Err(upstream::Error::Failed(Answer { http_status: 500, code: None, message: None }))).await;
        assert!(caller.await.unwrap().is_err());
        let mints = bench.mints();
        tokio::time::sleep(back_off * SECOND - Duration::from_millis(1)).await;
        let Err(Error::Upstream(error)) = bench.get(Wish::default()).await else { panic!("it is not asked for") };
        assert!(
            matches!(&*error, upstream::Error::Recalled { cause, .. } if cause.kind() == crate::kind::Kind::UpstreamError)
        );
        assert_eq!(bench.mints(), mints);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let caller = bench.caller(Wish::default()).await;
    bench.land(Ok(bench.link("a"))).await;
    assert!(caller.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_minds_a_links_age_does_not_take_another_replicas_old_one_by_joining() {
    let bench = bench();
    tokio::time::sleep(300 * SECOND).await;
    let any = bench.caller(Wish::default()).await;
    let young = bench.caller(Wish { max_age: Some(60 * SECOND), ..Wish::default() }).await;
    assert_eq!(bench.mints(), 1, "they share a flight");
    let mut old = bench.link("old");
    old.via = Via::Shared;
    old.sent_at = old.sent_at - 300 * SECOND;
    bench.land(Ok(old)).await;
    let any = any.await.unwrap().unwrap();
    assert_eq!((name(&any), any.found), ("old", Found::Shared));
    assert_eq!(bench.reasons(), [Reason::Forced], "the other asks on");
    bench.land(Ok(bench.link("young"))).await;
    assert_eq!(name(&young.await.unwrap().unwrap()), "young");
}
