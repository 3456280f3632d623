//! The queue at the gate, on paused time and without sockets.

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::*;
use crate::clock::testing::VirtualTime;

struct Bench {
    gate: Gate,
    time: Arc<VirtualTime>,
    clock: Clock,
    stop: CancellationToken,
}

const SECOND: Duration = Duration::from_secs(1);

const SOMEBODY: Party = Party { address: 1, connection: 1, request: 1 };

/// Requests that may wait.
const WAITING: usize = 60;

fn bench(rate: u32, burst: u32, in_flight: u32) -> Bench {
    let time = VirtualTime::new();
    let clock = time.clock();
    let number = |number| NonZeroU32::new(number).unwrap();
    let config = Config {
        rate: number(rate),
        burst: number(burst),
        in_flight: number(in_flight),
        waiting: WAITING,
        reserve: Duration::from_millis(500),
    };
    let gate = Gate::new(&config, clock.clone());
    let stop = CancellationToken::new();
    #[expect(clippy::disallowed_methods, reason = "a test has no tracker")]
    tokio::spawn(gate.clone().drive(stop.clone()));
    Bench { gate, time, clock, stop }
}

fn wanted(priority: Priority, file: FileId) -> Wanted {
    Wanted { priority, party: SOMEBODY, file, seen_to_fail: false, key: 1 }
}

impl Bench {
    fn within(&self, patience: Duration) -> Patience {
        Patience::until(self.clock.now() + patience, SOMEBODY)
    }

    async fn caller(&self, patience: Duration) -> Result<Permit, Refusal> {
        self.caller_for(1, patience).await
    }

    async fn caller_for(&self, file: FileId, patience: Duration) -> Result<Permit, Refusal> {
        self.gate.pass(wanted(Priority::Caller, file), &self.within(patience)).await
    }

    async fn refresh(&self) -> Result<Permit, Refusal> {
        self.gate.pass(wanted(Priority::Refresh, 1), &self.within(20 * SECOND)).await
    }

    async fn urgent_refresh(&self) -> Result<Permit, Refusal> {
        self.gate.pass(wanted(Priority::UrgentRefresh, 1), &self.within(20 * SECOND)).await
    }

    /// A caller in a task of its own, standing in the queue by the time this returns.
    async fn queued(&self, patience: Duration) -> JoinHandle<Result<Permit, Refusal>> {
        let (gate, patience) = (self.gate.clone(), self.within(patience));
        #[expect(clippy::disallowed_methods, reason = "a test has no tracker")]
        let task = tokio::spawn(async move { gate.pass(wanted(Priority::Caller, 1), &patience).await });
        tokio::task::yield_now().await;
        task
    }
}

fn refusal(result: Result<Permit, Refusal>) -> Refusal {
    result.map(|_| ()).expect_err("a refusal")
}

#[tokio::test(start_paused = true)]
async fn callers_pass_in_the_order_in_which_they_came() {
    let bench = bench(10, 1, 1);
    let first = bench.caller(20 * SECOND).await.unwrap();
    let second = bench.queued(20 * SECOND).await;
    let third = bench.queued(20 * SECOND).await;
    first.report(Verdict::Well);
    let second = second.await.unwrap().unwrap();
    assert!(!third.is_finished());
    second.report(Verdict::Well);
    third.await.unwrap().unwrap().report(Verdict::Well);
}

#[tokio::test(start_paused = true)]
async fn whose_turn_cannot_come_in_time_is_told_at_once_and_when_to_come_back() {
    let bench = bench(1, 1, 32);
    bench.caller(20 * SECOND).await.unwrap().report(Verdict::Well);
    let before = bench.clock.now();
    let waiting = bench.queued(3 * SECOND).await;
    let Refusal::Budget(late) = refusal(bench.caller(2 * SECOND).await) else { panic!("another refusal") };
    assert_eq!(bench.clock.now(), before, "at once");
    // Two tokens at 1.03 s each and half a second of reserve, less the two seconds that the caller has.
    assert_eq!(late, Duration::from_millis(560));
    let Refusal::Budget(later) = refusal(bench.caller(2 * SECOND).await) else { panic!("another refusal") };
    assert_eq!(later, Duration::from_millis(560 + 1030), "room comes for one after the other");
    assert!(waiting.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_refresh_takes_only_what_callers_leave() {
    let bench = bench(10, 2, 32);
    assert!(bench.refresh().await.is_ok());
    bench.caller(SECOND).await.unwrap().report(Verdict::Well);
    assert!(bench.refresh().await.is_err(), "the burst is used up");
    let waiting = bench.queued(5 * SECOND).await;
    tokio::time::sleep(Duration::from_millis(90)).await;
    assert!(bench.refresh().await.is_err(), "a caller waits for the next token");
    waiting.await.unwrap().unwrap().report(Verdict::Well);
    tokio::time::sleep(SECOND).await;
    assert!(bench.refresh().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_429_pauses_everybody_and_one_probe_ends_it() {
    let bench = bench(100, 100, 32);
    bench.caller(SECOND).await.unwrap().report(Verdict::Limited(None));
    assert!(matches!(refusal(bench.caller(SECOND).await), Refusal::Paused(left) if left == 2 * SECOND));
    assert!(bench.refresh().await.is_err());
    let mut waiting = Vec::new();
    for _ in 0..5 {
        waiting.push(bench.queued(20 * SECOND).await);
    }
    tokio::time::sleep(Duration::from_millis(1999)).await;
    assert!(waiting.iter().all(|task| !task.is_finished()));
    tokio::time::sleep(Duration::from_millis(10)).await;
    let finished: Vec<bool> = waiting.iter().map(JoinHandle::is_finished).collect();
    assert_eq!(finished, [true, false, false, false, false], "one probe");
    waiting.remove(0).await.unwrap().unwrap().report(Verdict::Well);
    for task in waiting {
        task.await.unwrap().unwrap().report(Verdict::Well);
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_outlasts_a_waiting_caller_sends_it_away_at_once() {
    let bench = bench(100, 100, 1);
    let first = bench.caller(SECOND).await.unwrap();
    let waiting = bench.queued(5 * SECOND).await;
    first.report(Verdict::Limited(Some(60 * SECOND)));
    assert!(matches!(refusal(waiting.await.unwrap()), Refusal::Paused(left) if left == 60 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_sends_everybody_away_until_a_probe_succeeds() {
    let bench = bench(1000, 1000, 1);
    for file in 2..6 {
        bench.caller_for(file, SECOND).await.unwrap().report(Verdict::Silent);
    }
    let last = bench.caller(SECOND).await.unwrap();
    let waiting = bench.queued(20 * SECOND).await;
    last.report(Verdict::Silent);
    assert!(matches!(refusal(waiting.await.unwrap()), Refusal::Unwell(_)), "the queue is sent away, too");
    let Refusal::Unwell(delay) = refusal(bench.caller(20 * SECOND).await) else { panic!("another refusal") };
    assert!(delay >= Duration::from_millis(800) && delay <= Duration::from_millis(1200), "{delay:?}");
    tokio::time::sleep(delay).await;
    let probe = bench.caller(SECOND).await.unwrap();
    assert!(matches!(refusal(bench.caller(SECOND).await), Refusal::Unwell(_)), "one probe");
    probe.report(Verdict::Well);
    assert!(bench.caller(SECOND).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_dropped_lets_another_try() {
    let bench = bench(100, 100, 32);
    bench.caller(SECOND).await.unwrap().report(Verdict::Limited(Some(SECOND)));
    let probe = bench.caller(20 * SECOND).await.unwrap();
    let waiting = bench.queued(20 * SECOND).await;
    assert!(!waiting.is_finished());
    drop(probe);
    waiting.await.unwrap().unwrap().report(Verdict::Well);
}

#[tokio::test(start_paused = true)]
async fn no_more_wait_than_may_and_the_newest_of_who_has_most_makes_room() {
    let bench = bench(1, 1, 1);
    let _first = bench.caller(SECOND).await.unwrap();
    let mut waiting = Vec::new();
    for _ in 0..WAITING {
        waiting.push(bench.queued(100 * SECOND).await);
    }
    assert!(matches!(refusal(bench.caller(100 * SECOND).await), Refusal::Budget(_)), "its own is the newest");
    let other = Party { address: 2, connection: 2, request: 2 };
    let patience = Patience::until(bench.clock.now() + 20 * SECOND, other);
    let gate = bench.gate.clone();
    let wanted = Wanted { party: other, ..wanted(Priority::Caller, 2) };
    let mut pass = std::pin::pin!(gate.pass(wanted, &patience));
    assert!(futures_util::poll!(&mut pass).is_pending());
    let newest = waiting.pop().unwrap().await.unwrap();
    assert!(matches!(refusal(newest), Refusal::Budget(_)));
    assert!(waiting.iter().all(|task| !task.is_finished()));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_the_queue_holds_nobody_up() {
    let bench = bench(1, 1, 32);
    bench.caller(SECOND).await.unwrap().report(Verdict::Well);
    let leaver = bench.queued(20 * SECOND).await;
    let stayer = bench.queued(20 * SECOND).await;
    let before = bench.clock.now();
    leaver.abort();
    stayer.await.unwrap().unwrap().report(Verdict::Well);
    assert!(bench.clock.now().since(before) < 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn shutdown_sends_everybody_away() {
    let bench = bench(1, 1, 32);
    bench.caller(SECOND).await.unwrap().report(Verdict::Well);
    let waiting = bench.queued(20 * SECOND).await;
    bench.stop.cancel();
    assert!(matches!(refusal(waiting.await.unwrap()), Refusal::ShuttingDown));
}

#[tokio::test(start_paused = true)]
async fn a_suspended_machine_finds_its_budget_refilled_and_its_pause_over() {
    let bench = bench(1, 3, 32);
    bench.caller(SECOND).await.unwrap().report(Verdict::Limited(Some(60 * SECOND)));
    bench.time.suspend(3600 * SECOND);
    bench.caller(SECOND).await.unwrap().report(Verdict::Well);
    assert!(bench.caller(SECOND).await.is_ok());
    assert!(bench.caller(SECOND).await.is_ok());
}

fn account_refused() -> Verdict {
    let answer = crate::upstream::Answer { http_status: 200, code: Some(402), message: None };
    Verdict::Account(Error::CreditsExhausted(answer))
}

#[tokio::test(start_paused = true)]
async fn one_bad_file_stops_nobody() {
    let bench = bench(1000, 1000, 32);
    for _ in 0..100 {
        bench.caller_for(7, SECOND).await.unwrap().report(Verdict::Failed);
    }
    assert!(bench.caller_for(1, SECOND).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_refused_account_is_told_at_once_and_probed_by_one() {
    let bench = bench(1000, 1000, 32);
    let straggler = bench.caller(SECOND).await.unwrap();
    tokio::time::sleep(SECOND).await;
    bench.caller(SECOND).await.unwrap().report(account_refused());
    let before = bench.clock.now();
    let told = refusal(bench.caller_for(2, 20 * SECOND).await);
    assert!(matches!(told, Refusal::Account { retry_after, .. } if retry_after == 5 * SECOND), "{told:?}");
    assert_eq!(bench.clock.now(), before);
    straggler.report(Verdict::Well);
    assert!(bench.caller_for(2, SECOND).await.is_err(), "it was sent before");
    tokio::time::sleep(5 * SECOND).await;
    let probe = bench.caller_for(2, SECOND).await.unwrap();
    assert!(bench.caller_for(3, SECOND).await.is_err(), "one at a time");
    drop(probe);
    bench.caller_for(3, SECOND).await.unwrap().report(Verdict::Well);
    assert!(bench.caller_for(4, SECOND).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_urgent_refresh_passes_breaker_account_and_window_one_at_a_time() {
    for verdict in [Verdict::Silent, account_refused()] {
        let bench = bench(1000, 1000, 32);
        for file in 2..7 {
            if let Ok(permit) = bench.caller_for(file, SECOND).await {
                permit.report(verdict.clone());
            }
        }
        assert!(bench.caller(SECOND).await.is_err() && bench.refresh().await.is_err());
        let probe = bench.urgent_refresh().await.unwrap();
        tokio::time::sleep(SECOND / 2).await;
        assert!(bench.urgent_refresh().await.is_err(), "one is under way");
        probe.report(verdict);
        assert!(bench.urgent_refresh().await.is_err(), "a second apart");
        tokio::time::sleep(SECOND / 2).await;
        bench.urgent_refresh().await.unwrap().report(Verdict::Well);
        assert!(bench.caller(SECOND).await.is_ok(), "what it finds out is for all");
    }
    let bench = bench(1000, 1000, 32);
    let hanging: Vec<Permit> =
        [bench.caller(SECOND).await, bench.caller(SECOND).await, bench.caller(SECOND).await].map(Result::unwrap).into();
    assert!(bench.refresh().await.is_err(), "the window is full");
    assert!(bench.urgent_refresh().await.is_ok());
    drop(hanging);
}

#[tokio::test(start_paused = true)]
async fn an_urgent_refresh_passes_neither_a_429_nor_the_budget() {
    let bench = bench(1, 1, 32);
    bench.caller(SECOND).await.unwrap().report(Verdict::Limited(Some(10 * SECOND)));
    let waiting = tokio::time::timeout(9 * SECOND, bench.urgent_refresh()).await;
    assert!(waiting.is_err(), "it stands in the queue");
}

#[tokio::test(start_paused = true)]
async fn patience_that_grows_while_it_waits_is_a_later_deadline() {
    for grows in [false, true] {
        let bench = bench(100, 100, 1);
        let first = bench.caller(SECOND).await.unwrap();
        let patience = bench.within(11 * SECOND);
        let (gate, shared) = (bench.gate.clone(), patience.clone());
        #[expect(clippy::disallowed_methods, reason = "a test has no tracker")]
        let waiting = tokio::spawn(async move { gate.pass(wanted(Priority::Caller, 1), &shared).await });
        tokio::task::yield_now().await;
        if grows {
            patience.extend(bench.clock.now() + 30 * SECOND, Party::default());
        }
        first.report(Verdict::Limited(Some(12 * SECOND)));
        assert_eq!(waiting.await.unwrap().is_ok(), grows);
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_cold_files_keeps_another_caller_waiting_for_one_turn() {
    let bench = bench(10, 1, 32);
    bench.caller(SECOND).await.unwrap().report(Verdict::Well);
    let mut batch = Vec::new();
    for _ in 0..100 {
        batch.push(bench.queued(20 * SECOND).await);
    }
    let before = bench.clock.now();
    let other = Party { address: 2, connection: 2, request: 2 };
    let other = Wanted { party: other, ..wanted(Priority::Caller, 9) };
    bench
        .gate
        .pass(other, &Patience::until(bench.clock.now() + 2 * SECOND, other.party))
        .await
        .unwrap()
        .report(Verdict::Well);
    assert!(bench.clock.now().since(before) < SECOND / 2);
}
