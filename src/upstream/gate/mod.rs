//! The gate: the one way to kie.ai. Every request passes it, retries included, and says on its way back how it went.
//!
//! Five rules stand in it, each pure: the breaker (is kie.ai well?), the account (does it serve us?), the pause (has it
//! said 429?), the window (how many at once?) and the budget (how many a second?). Callers who must wait take turns
//! (`queue`); a refresh takes only what they leave. A caller whose turn cannot come in time is told so at once.
//!
//! A link in use must not die because kie.ai was unwell a moment ago: a refresh that cannot be put off any more is a
//! probe of its own, past breaker, account and window, one at a time.

mod account;
mod breaker;
mod budget;
mod pause;
mod queue;
mod window;

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

pub use self::breaker::BreakerState;
use self::{
    account::Account,
    breaker::{Breaker, Failure},
    budget::Budget,
    pause::Pause,
    queue::Queue,
    window::Window,
};
use super::{
    Condition, Party, Patience,
    error::{AccountTrouble, Error},
    suspicion::FileId,
};
use crate::clock::{Clock, Instant};

/// The timer's resolution: a sleep shorter than this would spin.
const TICK: Duration = Duration::from_millis(1);

/// The longest time that a refused caller is told to stay away; by then everything may be different.
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
    /// Requests that may wait for their turn, even requests whose callers have left.
    pub waiting: usize,
    /// A turn that comes later than this before the deadline is no use: a request takes time, too.
    pub reserve: Duration,
}

/// Urgent refreshes that are past breaker and account leave at least this far apart.
const URGENT_EVERY: Duration = Duration::from_secs(1);

/// Who wants to pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Priority {
    /// Somebody waits: may queue.
    Caller,
    /// Nobody waits: passes at once or not at all.
    Refresh,
    /// Callers will wait for its file in a moment: may queue, and is a probe where others may not pass.
    UrgentRefresh,
    /// No mint: passes like a refresh, and finds out nothing for mints but whether the key is taken.
    Aside,
}

/// A request that wants to pass.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) priority: Priority,
    /// The party that asks.
    pub(super) party: Party,
    pub(super) file: FileId,
    /// Whether this file failed when it was last asked for.
    pub(super) seen_to_fail: bool,
    /// The version of the key that the request would carry.
    pub(super) key: u64,
}

/// Why somebody may not pass, and when it is worth coming back.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The budget has no room within the deadline.
    Budget(Duration),
    /// kie.ai has said 429, and the pause outlasts the deadline.
    Paused(Duration),
    /// kie.ai is unwell.
    Unwell(Duration),
    /// kie.ai refuses the account.
    Account {
        error: Error,
        retry_after: Duration,
    },
    ShuttingDown,
}

/// How a request went, as far as it tells how kie.ai is.
#[derive(Debug, Clone)]
pub(super) enum Verdict {
    /// It answered like somebody who is well.
    Well,
    /// 429 or 433.
    Limited(Option<Duration>),
    /// kie.ai did not serve, and its answer concerns the account, or may; or a gateway in front of it answered.
    Account(Error),
    /// It took the key, in an answer that says nothing of mints.
    KeyTaken,
    /// It answered, and failed.
    Failed,
    /// No answer came.
    Silent,
    /// No answer came over a connection that was open already: the connection may be to blame.
    SilentConnection,
    /// Nothing can be told: the request's task was cancelled, or the connection was closed already.
    Unknown,
}

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Gate(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    clock: Clock,
    /// The queue or the rules have changed: `drive` must look again.
    changed: Notify,
}

struct State {
    breaker: Breaker,
    account: Account,
    pause: Pause,
    window: Window,
    budget: Budget,
    reserve: Duration,
    waiting: usize,
    queue: Queue<Waiter>,
    urgent: Urgent,
    /// Until then, room to come has been promised to requests that were sent away.
    promised_until: Instant,
}

/// The urgent refresh that is past breaker, account and window.
#[derive(Debug, Default)]
struct Urgent {
    under_way: bool,
    last: Option<Instant>,
}

struct Waiter {
    wanted: Wanted,
    patience: Patience,
    turn: oneshot::Sender<Result<Permit, Refusal>>,
}

/// Leave for one request. Where it is dropped without a report, the request was cut short.
pub(super) struct Permit {
    gate: Gate,
    pass: Option<Pass>,
}

/// A request under way, for the rules that its answer concerns.
#[derive(Debug, Clone, Copy)]
struct Concern {
    file: FileId,
    key: u64,
    sent_at: Instant,
    seen_to_fail: bool,
    /// The account's rule waits for this request's answer.
    account_probe: bool,
}

#[derive(Debug, Clone, Copy)]
struct Pass {
    concern: Concern,
    /// Whose probe the request is: the pause, the breaker, or an urgent refresh waits for its answer.
    pause_probe: bool,
    breaker_probe: bool,
    urgent_probe: bool,
}

/// What the rules say about the next request.
enum Admission {
    Go(Pass),
    Wait(Instant),
    /// For an answer to come back.
    WaitForAnswer,
    Shut(Refusal),
}

impl Wanted {
    fn concern(&self, account_probe: bool, now: Instant) -> Concern {
        let Wanted { file, key, seen_to_fail, .. } = *self;
        Concern { file, key, sent_at: now, seen_to_fail, account_probe }
    }
}

impl Gate {
    pub(super) fn new(config: &Config, clock: Clock) -> Gate {
        let state = State {
            breaker: Breaker::new(),
            account: Account::default(),
            pause: Pause::default(),
            window: Window::new(config.in_flight.get(), clock.now()),
            budget: Budget::new(config.rate, config.burst, clock.now()),
            reserve: config.reserve,
            waiting: config.waiting,
            queue: Queue::new(),
            urgent: Urgent::default(),
            promised_until: clock.now(),
        };
        Gate(Arc::new(Inner { state: Mutex::new(state), clock, changed: Notify::new() }))
    }

    /// Waits for leave to send one request; a turn that cannot come while there is patience is refused at once.
    /// Needs `drive` to run beside it. Cancel safe.
    pub(super) async fn pass(&self, wanted: Wanted, patience: &Patience) -> Result<Permit, Refusal> {
        let turn = {
            let mut state = self.lock();
            let now = self.0.clock.now();
            let is_refresh = matches!(wanted.priority, Priority::Refresh | Priority::Aside);
            // Callers come first: a refresh does not pass a queue.
            let admission = if state.queue.is_empty() { state.admit(&wanted, now) } else { Admission::WaitForAnswer };
            let admission = match admission {
                Admission::Shut(_) | Admission::Wait(_) | Admission::WaitForAnswer => {
                    state.admit_urgent(&wanted, now).map_or(admission, Admission::Go)
                }
                Admission::Go(_) => admission,
            };
            match admission {
                Admission::Go(pass) => return Ok(self.permit(pass)),
                Admission::Shut(refusal) => return Err(refusal),
                // No promise is made to a refresh: it takes what is left when it comes again.
                Admission::Wait(_) | Admission::WaitForAnswer if is_refresh => {
                    if let Some(until) = state.pause.until(now) {
                        return Err(Refusal::Paused(now.until(until)));
                    }
                    let next = state.turn(state.queue.ahead_of(&wanted.party, now), now);
                    return Err(Refusal::Budget(now.until(next)));
                }
                Admission::Wait(_) | Admission::WaitForAnswer => {}
            }
            let ahead = state.queue.ahead_of(&wanted.party, now);
            if state.turn(ahead, now) + state.reserve > patience.deadline() {
                return Err(state.refusal(ahead, patience.deadline(), now));
            }
            if state.queue.len() >= state.waiting {
                let displaced = state.queue.displace(&wanted.party, |waiter| waiter.patience.parties());
                let refusal = state.refusal(ahead, patience.deadline(), now);
                match displaced {
                    // The displaced request is told, unless it has left already.
                    Some(waiter) => drop(waiter.turn.send(Err(refusal))),
                    None => return Err(refusal),
                }
            }
            let (sender, turn) = oneshot::channel();
            state.queue.push(wanted.party, Waiter { wanted, patience: patience.clone(), turn: sender });
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

    /// Nobody asks for this time: kie.ai has said 429 to another replica of the fleet. A pause that is longer stays.
    pub(super) fn pause(&self, pause: Duration) {
        let now = self.0.clock.now();
        let mut state = self.lock();
        if state.pause.until(now).is_none_or(|until| until < now + pause) {
            tracing::warn!(pause_ms = millis(pause), "kie.ai limits another replica: nothing is minted for a while");
            state.pause.told(pause, now);
        }
        drop(state);
        self.0.changed.notify_one();
    }

    /// Requests that may go at once, as far as the budget is concerned.
    pub(super) fn tokens(&self) -> f64 {
        let now = self.0.clock.now();
        // The number is below zero where a request has been told when the next token comes.
        self.lock().budget.tokens(now).max(0.0)
    }

    /// The most tokens there can be, and how many are added a second.
    pub(super) fn budget_bounds(&self) -> (f64, f64) {
        self.lock().budget.bounds()
    }

    /// Whether kie.ai refuses the key of this version.
    pub(super) fn refuses_key(&self, key: u64) -> bool {
        self.lock().account.refuses_key(key)
    }

    pub(super) fn is_out_of_credits(&self) -> bool {
        self.lock().account.trouble() == Some(AccountTrouble::Credits)
    }

    pub(super) fn breaker(&self) -> BreakerState {
        self.lock().breaker.state()
    }

    pub(super) fn condition(&self) -> Condition {
        let now = self.0.clock.now();
        let state = self.lock();
        if state.breaker.is_open() {
            Condition::Unwell
        } else if let Some(trouble) = state.account.trouble() {
            match trouble {
                AccountTrouble::Unavailable => Condition::Unwell,
                AccountTrouble::Key | AccountTrouble::Credits | AccountTrouble::Disabled => Condition::Refusing,
            }
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
        let waiters = self.lock().queue.extract(|_| true);
        for waiter in waiters {
            let _ = waiter.turn.send(Err(Refusal::ShuttingDown));
        }
    }

    /// Grants and refuses whatever can be decided now; returns when to look again at the latest.
    fn let_through(&self, now: Instant) -> Option<Instant> {
        let mut decided = Vec::new();
        let wake_at = {
            let mut state = self.lock();
            drop(state.queue.extract(|waiter| waiter.turn.is_closed()));
            state.refuse_the_late(now, &mut decided);
            let mut wake_at = None;
            while let Some((index, next)) = state.queue.next(now, |waiter| waiter.patience.parties()) {
                let wanted = next.wanted;
                let decision = match state.admit(&wanted, now) {
                    Admission::Go(pass) => Ok(self.permit(pass)),
                    Admission::Shut(refusal) => Err(refusal),
                    Admission::Wait(until) => {
                        wake_at = Some(until);
                        break;
                    }
                    Admission::WaitForAnswer => break,
                };
                let waiter = state.queue.take(index);
                if decision.is_ok() {
                    // All parties that wait for the request have had their turn, too.
                    waiter.patience.parties().for_each(|party| state.queue.served(&party, now));
                }
                decided.push((waiter, decision));
            }
            // Look again at the latest when the next waiter has run out of time.
            let too_late = state.queue.iter().map(|waiter| waiter.patience.deadline() - state.reserve + TICK).min();
            wake_at.into_iter().chain(too_late).min()
        };
        // Outside the lock: a permit that nobody takes any more is dropped, and its report takes the lock.
        for (waiter, decision) in decided {
            let _ = waiter.turn.send(decision);
        }
        wake_at
    }

    fn report(&self, pass: Pass, verdict: &Verdict) {
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
    fn admit(&mut self, wanted: &Wanted, now: Instant) -> Admission {
        let is_aside = wanted.priority == Priority::Aside;
        let breaker_probe = match self.breaker.admission(wanted.seen_to_fail, now) {
            breaker::Admission::Go => false,
            // It finds out nothing for mints, and need not wait for one that does.
            breaker::Admission::Probe if is_aside => false,
            breaker::Admission::Probe => true,
            breaker::Admission::Shut(until) => return Admission::Shut(Refusal::Unwell(now.until(until))),
        };
        let admission = match is_aside {
            true => self.account.admission_aside(wanted.key, now),
            false => self.account.admission(wanted.key, wanted.seen_to_fail, now),
        };
        let account_probe = match admission {
            account::Admission::Go => false,
            account::Admission::Probe => true,
            account::Admission::Told(error, until) => {
                return Admission::Shut(Refusal::Account { error, retry_after: now.until(until) });
            }
        };
        let pause_probe = match self.pause.admission(now) {
            pause::Admission::Go => false,
            pause::Admission::Probe if is_aside => false,
            pause::Admission::Probe => true,
            pause::Admission::Wait(until) => return Admission::Wait(until),
            pause::Admission::WaitForProbe => return Admission::WaitForAnswer,
        };
        match self.window.admission(wanted.seen_to_fail, now) {
            window::Admission::Go => {}
            window::Admission::Wait(until) => return Admission::Wait(until),
            window::Admission::WaitForAnswer => return Admission::WaitForAnswer,
        }
        // The budget comes last, since it is the only rule that is used up.
        if let Err(until) = self.budget.take(now) {
            return Admission::Wait(until);
        }
        if breaker_probe {
            self.breaker.probing(wanted.seen_to_fail);
        }
        if account_probe {
            self.account.probing();
        }
        if pause_probe {
            self.pause.probing();
        }
        self.window.enter(now);
        self.queue.served(&wanted.party, now);
        let concern = wanted.concern(account_probe, now);
        Admission::Go(Pass { concern, pause_probe, breaker_probe, urgent_probe: false })
    }

    /// Lets an urgent refresh past breaker, account and window; never past a pause after a 429, the budget, or
    /// `upstream.in_flight`.
    fn admit_urgent(&mut self, wanted: &Wanted, now: Instant) -> Option<Pass> {
        let is_due = !self.urgent.under_way && self.urgent.last.is_none_or(|last| now >= last + URGENT_EVERY);
        if wanted.priority != Priority::UrgentRefresh || !is_due {
            return None;
        }
        let may_go = matches!(self.pause.admission(now), pause::Admission::Go) && self.window.has_room();
        if !may_go || self.budget.take(now).is_err() {
            return None;
        }
        self.urgent = Urgent { under_way: true, last: Some(now) };
        self.window.enter(now);
        let concern = wanted.concern(false, now);
        Some(Pass { concern, pause_probe: false, breaker_probe: false, urgent_probe: true })
    }

    fn report(&mut self, pass: Pass, verdict: &Verdict, now: Instant) {
        let Pass { concern, pause_probe, breaker_probe, urgent_probe } = pass;
        if urgent_probe {
            self.urgent.under_way = false;
        }
        match verdict {
            Verdict::Well => {
                self.window.good(now);
                self.pause.answered(concern.sent_at);
                if self.account.well(concern.sent_at) {
                    tracing::info!("kie.ai serves the account again");
                }
                self.close_breaker();
            }
            Verdict::Limited(retry_after) => {
                self.window.bad(now);
                self.pause.limited(concern.sent_at, *retry_after, now);
                let pause = self.pause.until(now).map(|until| now.until(until)).unwrap_or_default();
                tracing::warn!(pause_ms = millis(pause), "kie.ai limits the rate: nothing is minted for a while");
                // A kie.ai that counts requests is not unwell.
                self.close_breaker();
            }
            Verdict::Account(error) => {
                // kie.ai keeps up, and yet there is no reason to send more.
                self.window.lost();
                self.pause.answered(concern.sent_at);
                if self.account.heard(error, concern, now) {
                    tracing::warn!(%error, "kie.ai refuses the account: it is asked now and then whether it still does");
                }
                self.close_breaker();
            }
            Verdict::KeyTaken => {
                self.window.lost();
                if self.account.key_taken(concern.sent_at) {
                    tracing::info!("kie.ai takes the API key again");
                }
            }
            Verdict::Failed | Verdict::Silent => {
                self.window.bad(now);
                // Perhaps kie.ai did not even hear the probe: whether it still limits is to be found out.
                if pause_probe {
                    self.pause.probe_lost(now);
                }
                let failure = if matches!(verdict, Verdict::Silent) { Failure::Silent } else { Failure::Answered };
                if self.breaker.failed(concern.file, failure, breaker_probe, fastrand::f64(), now) {
                    tracing::warn!("kie.ai is unwell: the breaker opens, misses fail fast");
                }
            }
            Verdict::SilentConnection | Verdict::Unknown => {
                if matches!(verdict, Verdict::SilentConnection) {
                    self.window.silent_connection(now);
                } else {
                    self.window.lost();
                }
                if pause_probe {
                    self.pause.probe_lost(now);
                }
                if breaker_probe {
                    self.breaker.probe_lost(now);
                }
            }
        }
        if concern.account_probe {
            // The probe is over, whatever became of it; where it was refused, another probe is due later.
            self.account.probe_lost();
        }
    }

    fn close_breaker(&mut self) {
        if self.breaker.well() {
            tracing::info!("kie.ai is well again: the breaker closes");
        }
    }

    /// When a request with `ahead` others in front of it passes, as far as can be foreseen.
    fn turn(&self, ahead: usize, now: Instant) -> Instant {
        let start = self.pause.until(now).unwrap_or(now);
        // Tokens go on filling while everybody pauses.
        self.budget.turn(ahead, start).max(start)
    }

    /// Why a request with `ahead` others in front of it cannot pass by `deadline`, and when it is worth coming back.
    ///
    /// Requests sent away in one moment are told different times, since room comes for one after the other.
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

    /// Refuses waiters that have waited for as long as they may, and waiters that cannot pass in time even if nobody
    /// else waited.
    fn refuse_the_late(&mut self, now: Instant, decided: &mut Vec<(Waiter, Result<Permit, Refusal>)>) {
        let first = self.turn(0, now) + self.reserve;
        for waiter in self.queue.extract(|waiter| first > waiter.patience.deadline()) {
            let refusal = self.refusal(0, waiter.patience.deadline(), now);
            decided.push((waiter, Err(refusal)));
        }
    }
}

impl Permit {
    /// Must be called with how the request went: a dropped permit reports `Unknown`.
    pub(super) fn report(mut self, verdict: Verdict) {
        if let Some(pass) = self.pass.take() {
            self.gate.report(pass, &verdict);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(pass) = self.pass.take() {
            self.gate.report(pass, &Verdict::Unknown);
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
