//! The gate: the one way to kie.ai. Every request passes it, retries included, and says on its way back how it went.
//!
//! Four rules stand in it, each pure: the breaker (is kie.ai well?), the pause (has it said 429?), the window (how
//! many at once?) and the budget (how many a second?). Callers who must wait stand in one queue, first come, first
//! served; a refresh takes only what callers leave. Whoever's turn cannot come in time is told so at once.

mod breaker;
mod budget;
mod pause;
mod window;

use std::{
    collections::VecDeque,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use self::{breaker::Breaker, budget::Budget, pause::Pause, window::Window};
use super::Condition;
use crate::clock::{Clock, Instant};

/// The timer's resolution: a sleep shorter than this would spin.
const TICK: Duration = Duration::from_millis(1);

/// Whoever is sent away need not stay away longer than this; by then everything may be different.
const LONGEST_PROMISE: Duration = Duration::from_secs(60);

/// How much kie.ai is asked.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Requests a second.
    pub rate: NonZeroU32,
    /// Requests at once after a quiet time.
    pub burst: NonZeroU32,
    /// Requests under way at once.
    pub in_flight: NonZeroU32,
    /// A turn that comes later than this before the deadline is no use: a request takes time, too.
    pub reserve: Duration,
}

/// Who wants to pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Priority {
    /// Somebody waits: may queue.
    Caller,
    /// Nobody waits: passes at once or not at all.
    Refresh,
}

/// Why somebody may not pass, and when it is worth coming back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The budget has no room within the deadline.
    Budget(Duration),
    /// kie.ai has said 429, and the pause outlasts the deadline.
    Paused(Duration),
    /// kie.ai is unwell.
    Unwell(Duration),
    ShuttingDown,
}

/// How a request went, as far as it tells how kie.ai is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It answered, whatever it answered.
    Well,
    /// 429 or 433.
    Limited(Option<Duration>),
    /// It failed, or was not to be reached.
    Unwell,
    /// Nothing can be told: cut short by our own deadline, a connection that was dead already.
    Unknown,
}

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Gate(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    clock: Clock,
    /// The queue or the rules have changed: whoever drives must look again.
    changed: Notify,
}

struct State {
    breaker: Breaker,
    pause: Pause,
    window: Window,
    budget: Budget,
    reserve: Duration,
    queue: VecDeque<Waiter>,
    /// Until here, room that will come has been promised to those who were sent away.
    promised_until: Instant,
}

struct Waiter {
    deadline: Instant,
    turn: oneshot::Sender<Result<Permit, Refusal>>,
}

/// Leave for one request. Dropped without a report, it was cut short.
pub(super) struct Permit {
    gate: Gate,
    pass: Option<Pass>,
}

#[derive(Debug, Clone, Copy)]
struct Pass {
    sent_at: Instant,
    /// Pause or breaker wait for this one's answer.
    pause_probe: bool,
    breaker_probe: bool,
}

/// What the rules say about the next request.
enum Admission {
    Go(Pass),
    Wait(Instant),
    /// For an answer to come back.
    WaitForAnswer,
    Shut(Instant),
}

impl Gate {
    pub(super) fn new(config: &Config, clock: Clock) -> Gate {
        let state = State {
            breaker: Breaker::new(),
            pause: Pause::default(),
            window: Window::new(config.in_flight.get(), clock.now()),
            budget: Budget::new(config.rate, config.burst, clock.now()),
            reserve: config.reserve,
            queue: VecDeque::new(),
            promised_until: clock.now(),
        };
        Gate(Arc::new(Inner { state: Mutex::new(state), clock, changed: Notify::new() }))
    }

    /// Waits for leave to send one request; a turn that cannot come before `deadline` is refused at once.
    /// Needs `drive` to run beside it. Cancel safe.
    pub(super) async fn pass(&self, priority: Priority, deadline: Instant) -> Result<Permit, Refusal> {
        let turn = {
            let mut state = self.lock();
            let now = self.0.clock.now();
            if state.queue.is_empty() || priority == Priority::Refresh {
                // Callers come first: a refresh does not pass a queue.
                let admission =
                    if state.queue.is_empty() { state.admit(priority, now) } else { Admission::WaitForAnswer };
                match admission {
                    Admission::Go(pass) => return Ok(self.permit(pass)),
                    Admission::Shut(until) => return Err(Refusal::Unwell(now.until(until))),
                    // No promise is made to a refresh: it takes what is left when it comes again.
                    Admission::Wait(_) | Admission::WaitForAnswer if priority == Priority::Refresh => {
                        if let Some(until) = state.pause.until(now) {
                            return Err(Refusal::Paused(now.until(until)));
                        }
                        let next = state.turn(state.queue.len(), now);
                        return Err(Refusal::Budget(now.until(next)));
                    }
                    Admission::Wait(_) | Admission::WaitForAnswer => {}
                }
            }
            let place = state.queue.len();
            if state.turn(place, now) + state.reserve > deadline {
                return Err(state.refusal(place, deadline, now));
            }
            let (sender, turn) = oneshot::channel();
            state.queue.push_back(Waiter { deadline, turn: sender });
            turn
        };
        self.0.changed.notify_one();
        turn.await.unwrap_or(Err(Refusal::ShuttingDown))
    }

    /// How long requests pause after a 429; `None` without one.
    pub(super) fn pause_left(&self) -> Option<Duration> {
        let now = self.0.clock.now();
        self.lock().pause.until(now).map(|until| now.until(until))
    }

    /// Requests that may go at once, as far as the budget is concerned.
    pub(super) fn tokens(&self) -> f64 {
        let now = self.0.clock.now();
        // Below zero where somebody has been told when the next one comes.
        self.lock().budget.tokens(now).max(0.0)
    }

    /// The most tokens there can be, and how many are added a second.
    pub(super) fn budget_bounds(&self) -> (f64, f64) {
        self.lock().budget.bounds()
    }

    /// The breaker's state, by its usual name.
    pub(super) fn breaker(&self) -> &'static str {
        self.lock().breaker.state()
    }

    pub(super) fn condition(&self) -> Condition {
        let now = self.0.clock.now();
        let state = self.lock();
        if state.breaker.is_open() {
            Condition::Unwell
        } else if state.pause.until(now).is_some() {
            Condition::Limiting
        } else {
            Condition::Well
        }
    }

    /// Lets the queue through as the rules allow, until `stop`.
    pub(super) async fn drive(self, stop: CancellationToken) {
        loop {
            let now = self.0.clock.now();
            let wake_at = self.let_through(now);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.0.changed.notified() => {}
                () = sleep_until(wake_at, now) => {}
            }
        }
        let waiters = std::mem::take(&mut self.lock().queue);
        for waiter in waiters {
            let _ = waiter.turn.send(Err(Refusal::ShuttingDown));
        }
    }

    /// Grants and refuses whatever can be decided now; returns when to look again at the latest.
    fn let_through(&self, now: Instant) -> Option<Instant> {
        let mut decided = Vec::new();
        let wake_at = {
            let mut state = self.lock();
            state.queue.retain(|waiter| !waiter.turn.is_closed());
            let mut wake_at = None;
            while !state.queue.is_empty() {
                match state.admit(Priority::Caller, now) {
                    Admission::Go(pass) => {
                        let waiter = state.queue.pop_front().expect("the queue is not empty");
                        decided.push((waiter, Ok(self.permit(pass))));
                    }
                    Admission::Shut(until) => {
                        let refusal = Refusal::Unwell(now.until(until));
                        decided.extend(state.queue.drain(..).map(|waiter| (waiter, Err(refusal))));
                    }
                    Admission::Wait(until) => {
                        wake_at = Some(until);
                        break;
                    }
                    Admission::WaitForAnswer => break,
                }
            }
            state.refuse_the_late(now, &mut decided);
            // At the latest when one in the queue has come too late.
            let too_late = state.queue.iter().map(|waiter| waiter.deadline - state.reserve + TICK).min();
            wake_at.into_iter().chain(too_late).min()
        };
        // Outside the lock: a permit that nobody takes any more comes back through it.
        for (waiter, decision) in decided {
            let _ = waiter.turn.send(decision);
        }
        wake_at
    }

    fn report(&self, pass: Pass, verdict: Verdict) {
        let now = self.0.clock.now();
        self.lock().report(pass, verdict, now);
        self.0.changed.notify_one();
    }

    fn permit(&self, pass: Pass) -> Permit {
        Permit { gate: self.clone(), pass: Some(pass) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every section leaves the state whole; a panic in between cannot happen in arithmetic on it.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn admit(&mut self, priority: Priority, now: Instant) -> Admission {
        let breaker_probe = match self.breaker.admission(priority == Priority::Refresh, now) {
            breaker::Admission::Go => false,
            breaker::Admission::Probe => true,
            breaker::Admission::Shut(until) => return Admission::Shut(until),
        };
        let pause_probe = match self.pause.admission(now) {
            pause::Admission::Go => false,
            pause::Admission::Probe => true,
            pause::Admission::Wait(until) => return Admission::Wait(until),
            pause::Admission::WaitForProbe => return Admission::WaitForAnswer,
        };
        match self.window.admission(now) {
            window::Admission::Go => {}
            window::Admission::Wait(until) => return Admission::Wait(until),
            window::Admission::WaitForAnswer => return Admission::WaitForAnswer,
        }
        // Last, since it is the only one that is used up.
        if let Err(until) = self.budget.take(now) {
            return Admission::Wait(until);
        }
        if breaker_probe {
            self.breaker.probing();
        }
        if pause_probe {
            self.pause.probing();
        }
        self.window.enter(now);
        Admission::Go(Pass { sent_at: now, pause_probe, breaker_probe })
    }

    fn report(&mut self, pass: Pass, verdict: Verdict, now: Instant) {
        match verdict {
            Verdict::Well => {
                self.window.good(now);
                self.pause.answered(pass.sent_at);
                self.close_breaker();
            }
            Verdict::Limited(retry_after) => {
                self.window.bad(now);
                self.pause.limited(pass.sent_at, retry_after, now);
                let pause = self.pause.until(now).map(|until| now.until(until)).unwrap_or_default();
                tracing::warn!(pause_ms = millis(pause), "kie.ai limits the rate: nothing is minted for a while");
                // Whoever counts requests is not unwell.
                self.close_breaker();
            }
            Verdict::Unwell => {
                self.window.bad(now);
                // Perhaps it did not even hear us: whether it still limits is to be found out.
                if pass.pause_probe {
                    self.pause.probe_lost(now);
                }
                if self.breaker.unwell(pass.breaker_probe, fastrand::f64(), now) {
                    tracing::warn!("kie.ai is unwell: the breaker opens, misses fail fast");
                }
            }
            Verdict::Unknown => {
                self.window.lost();
                if pass.pause_probe {
                    self.pause.probe_lost(now);
                }
                if pass.breaker_probe {
                    self.breaker.probe_lost(now);
                }
            }
        }
    }

    fn close_breaker(&mut self) {
        if self.breaker.well() {
            tracing::info!("kie.ai is well again: the breaker closes");
        }
    }

    /// When somebody with `ahead` others in front of it passes, as far as can be foreseen.
    fn turn(&self, ahead: usize, now: Instant) -> Instant {
        let start = self.pause.until(now).unwrap_or(now);
        // Tokens go on filling while everybody pauses.
        self.budget.turn(ahead, start).max(start)
    }

    /// Why the one with `ahead` others in front of it cannot pass by `deadline`, and when it is worth coming back.
    ///
    /// Those sent away in one moment are told different times, as room will come for one after the other.
    fn refusal(&mut self, ahead: usize, deadline: Instant, now: Instant) -> Refusal {
        let paused = self.pause.until(now).map(|until| now.until(until)).unwrap_or_default();
        if now + paused + self.reserve > deadline && !paused.is_zero() {
            return Refusal::Paused(paused);
        }
        let late = (deadline - self.reserve).until(self.turn(ahead, now));
        let room_at = (now + late).max(self.promised_until).min(now + LONGEST_PROMISE);
        self.promised_until = room_at + self.budget.period();
        Refusal::Budget(now.until(room_at))
    }

    fn refuse_the_late(&mut self, now: Instant, decided: &mut Vec<(Waiter, Result<Permit, Refusal>)>) {
        let mut place = 0;
        while place < self.queue.len() {
            let deadline = self.queue[place].deadline;
            if self.turn(place, now) + self.reserve > deadline {
                let refusal = self.refusal(place, deadline, now);
                let waiter = self.queue.remove(place).expect("the place is in the queue");
                decided.push((waiter, Err(refusal)));
            } else {
                place += 1;
            }
        }
    }
}

impl Permit {
    /// Must be called with how the request went; `Unknown` is what a drop says.
    pub(super) fn report(mut self, verdict: Verdict) {
        if let Some(pass) = self.pass.take() {
            self.gate.report(pass, verdict);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(pass) = self.pass.take() {
            self.gate.report(pass, Verdict::Unknown);
        }
    }
}

async fn sleep_until(at: Option<Instant>, now: Instant) {
    match at {
        Some(at) => tokio::time::sleep(now.until(at).max(TICK)).await,
        None => std::future::pending().await,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
