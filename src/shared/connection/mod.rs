//! The one connection to the tier: whoever asks waits no longer than its budget, from when the question was sent, and not at
//! all while the tier is away. Time in which this process has no core is not the tier's (`starved`).
//!
//! One task has the connection and decides (`state`) whether it is used. There is one breaker for all operations: with
//! two, a request would pay for both.

use std::{
    collections::BTreeMap,
    fmt,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use futures_util::{
    FutureExt as _,
    future::BoxFuture,
    stream::{FuturesUnordered, StreamExt as _},
};
use prometheus_client::registry::Registry;
use redis::{Value, aio::MultiplexedConnection};
use serde::{Serialize, Serializer};
use tokio::sync::{
    OwnedSemaphorePermit, Semaphore, mpsc,
    oneshot::{self, error::TryRecvError},
    watch,
};
use tokio_util::sync::CancellationToken;

use super::{
    dial::Dialer,
    fault::{self, Error, Fault},
    life::Withheld,
    line::Line,
    metrics::Metrics,
    names::Names,
    scripts::{self, Commands, Operation, Request},
    seal::Rejection,
    starved::{self, Moment, Starved, TICK},
    state::{Health, State},
    url::Address,
};
use crate::clock::{Clock, Instant};

/// Calls under way at once; beyond them, the tier counts as away.
const MOST_CALLS: usize = 1024;

/// Reasons that the log says of one time that the tier is away.
const MOST_TOLD: usize = 8;

/// Where the tier is, and how long it may be silent.
#[derive(Debug, Clone)]
pub struct Config {
    pub address: Address,
    /// `shared.timeout`: a tier that is silent for so long is not asked any more until it has answered.
    pub timeout: Duration,
}

/// The way to the tier. Cheap to clone.
#[derive(Clone)]
pub struct Tier(Arc<Inner>);

struct Inner {
    calls: mpsc::Sender<Call>,
    permits: Arc<Semaphore>,
    shared: Arc<Shared>,
    state: watch::Receiver<State>,
    clock: Clock,
    address: String,
}

/// What the task and those who ask have in common.
struct Shared {
    /// Why the tier is away; kept when it is back.
    fault: Mutex<Option<String>>,
    starved: Starved,
    metrics: Metrics,
}

/// The tier, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Description {
    /// How it is spoken to, without names.
    pub address: String,
    pub state: State,
    /// Why it was away last.
    pub last_fault: Option<String>,
    pub calls_under_way: usize,
}

/// A question on its way to the task.
struct Call {
    commands: Commands,
    /// Whoever asked waits for no longer than this, once it is sent.
    budget: Duration,
    sent_at: SentAt,
    reply: oneshot::Sender<Result<Value, Error>>,
    permit: OwnedSemaphorePermit,
}

/// When a question was sent, once it was; until then the tier cannot be late.
type SentAt = Arc<OnceLock<Moment>>;

/// The task that has the connection; `run` it, or the tier stays away.
pub struct Supervisor {
    dialer: Dialer,
    calls: mpsc::Receiver<Call>,
    health: Health,
    /// What the log has said of this time that the tier is away: each reason once, not for each try.
    told: Vec<String>,
    state: watch::Sender<State>,
    shared: Arc<Shared>,
    timeout: Duration,
    clock: Clock,
}

/// A trip that is under way: one question, or several.
struct UnderWay {
    operation: Operation,
    asked_at: Moment,
    askers: Vec<Asker>,
}

/// One that asked, and waits for its part of the answer.
struct Asker {
    /// Whether it waits on when the tier falls silent, which may answer all the same: its own budget ends the wait about
    /// then, or it must hear, however late, whether a token was given or paid for.
    outlasts_silence: bool,
    /// `None` once whoever asked was told to do without.
    reply: Option<oneshot::Sender<Result<Value, Error>>>,
    _permit: OwnedSemaphorePermit,
}

type Answer = (u64, Result<Value, Fault>);

impl Tier {
    /// Notes that a value was found and not believed.
    pub fn rejected(&self, why: Rejection) {
        self.metrics().rejected(why);
    }

    /// Notes that a link was found, and must not be served.
    pub fn withheld(&self, why: Withheld) {
        self.metrics().withheld(why);
    }

    /// Adds what is known of the tier to what `/metrics` shows; `state` tells whether it is used now.
    pub fn register(&self, registry: &mut Registry, state: impl Fn() -> State + Clone + Send + Sync + 'static) {
        self.metrics().register(registry, state);
    }

    /// Does not connect: the tier is away until the supervisor runs and has found it.
    pub fn new(config: Config, names: Names, clock: Clock) -> (Tier, Supervisor) {
        Tier::counting(config, names, clock, Metrics::default())
    }

    /// For another API key, whose names are others, or at another address. Counts where this one does.
    pub fn beside(&self, config: Config, names: Names, clock: Clock) -> (Tier, Supervisor) {
        Tier::counting(config, names, clock, self.metrics().clone())
    }

    fn counting(config: Config, names: Names, clock: Clock, metrics: Metrics) -> (Tier, Supervisor) {
        let Config { address, timeout } = config;
        let (calls, received) = mpsc::channel(MOST_CALLS);
        let (changes, state) = watch::channel(State::Down);
        let shared = Arc::new(Shared { fault: Mutex::default(), starved: Starved::default(), metrics });
        let inner = Inner {
            calls,
            permits: Arc::new(Semaphore::new(MOST_CALLS)),
            shared: Arc::clone(&shared),
            state,
            clock: clock.clone(),
            address: address.describe(),
        };
        let supervisor = Supervisor {
            dialer: Dialer::new(address, names),
            calls: received,
            health: Health::new(clock.now()),
            told: Vec::new(),
            state: changes,
            shared,
            timeout,
            clock,
        };
        (Tier(Arc::new(inner)), supervisor)
    }

    /// Asks the tier. Waits for `budget` at most, from when the question is sent, and not at all while the tier is away. Where
    /// this process has no core for that, or for the answer, for two budgets more. Cancel safe; but what was asked may be done
    /// all the same, then as after an error.
    ///
    /// # Errors
    /// Whoever asked must do without the tier, whatever the error.
    pub fn ask<T>(
        &self,
        request: Request<T>,
        budget: Duration,
    ) -> impl Future<Output = Result<T, Error>> + Send + use<T> {
        let tier = self.clone();
        let (operation, read) = (request.operation(), request.read);
        let commands = request.commands();
        async move {
            // In a box, or all of it would be built in at each place that asks: 20 KB and more of the image.
            let (answer, took) = Box::pin(tier.exchange(commands, budget)).await;
            let result = answer.and_then(|answer| read(answer).ok_or(Error::Malformed));
            tier.0.shared.metrics.asked(operation, result.as_ref().err().copied(), took);
            result
        }
    }

    /// Tells how much time has been spent on the tier since, each time that it is asked.
    pub fn stopwatch(&self) -> impl Fn() -> Duration + Send + Sync + use<> {
        let tier = Arc::clone(&self.0);
        let moment = tier.shared.starved.moment(tier.clock.now());
        move || tier.shared.starved.spent(moment, tier.clock.now())
    }

    /// Also tells how long it was waited for, if it was sent.
    async fn exchange(&self, commands: Commands, budget: Duration) -> (Result<Value, Error>, Option<Duration>) {
        let sent_at = SentAt::default();
        let answer = self.answer(commands, budget, &sent_at).await;
        (answer, sent_at.get().map(|sent_at| self.0.shared.starved.spent(*sent_at, self.0.clock.now())))
    }

    async fn answer(&self, commands: Commands, budget: Duration, sent_at: &SentAt) -> Result<Value, Error> {
        if self.state() != State::Up {
            return Err(Error::Away);
        }
        let permit = Arc::clone(&self.0.permits).try_acquire_owned().map_err(|_| Error::Busy)?;
        let (reply, mut answer) = oneshot::channel();
        let call = Call { commands, budget, sent_at: Arc::clone(sent_at), reply, permit };
        self.0.calls.try_send(call).map_err(|_| Error::Away)?;
        let asked_at = self.0.clock.now();
        let patience = || {
            let now = self.0.clock.now();
            let sent_at = sent_at.get().map(|sent_at| self.0.shared.starved.counts_from(*sent_at, budget, now));
            patience(asked_at, sent_at, budget, now)
        };
        let mut due = asked_at;
        loop {
            while let Some(patience) = patience() {
                due = self.0.clock.now() + patience;
                // An answer that is there counts, however late this task is woken. Where there is none any more, the task that has
                // the connection has ended.
                if let Ok(answer) = tokio::time::timeout(patience, &mut answer).await {
                    return answer.unwrap_or(Err(Error::Away));
                }
            }
            // It may have come, and the task that is to read it has had no turn yet.
            match starved::is_late(due, self.0.clock.now()) {
                true => tokio::time::sleep(TICK).await,
                false => tokio::task::yield_now().await,
            }
            match answer.try_recv() {
                Ok(answer) => return answer,
                Err(TryRecvError::Empty) if patience().is_some() => {}
                Err(TryRecvError::Empty) => return Err(Error::Late),
                Err(TryRecvError::Closed) => return Err(Error::Away),
            }
        }
    }

    /// Whether the tier is used now.
    pub fn state(&self) -> State {
        *self.0.state.borrow()
    }

    /// Completes when the tier is not used (any more): it is silent, or away. Cancel safe.
    pub async fn goes_silent(&self) {
        // It is away for good where nobody tells any more.
        let _ = self.changes().wait_for(|state| *state != State::Up).await;
    }

    /// Tells of changes: what was put off while the tier was away is done when it is up again.
    pub fn changes(&self) -> watch::Receiver<State> {
        self.0.state.clone()
    }

    /// What people may know of it.
    pub fn describe(&self) -> Description {
        Description {
            address: self.0.address.clone(),
            state: self.state(),
            last_fault: self.0.shared.fault(),
            calls_under_way: MOST_CALLS - self.0.permits.available_permits(),
        }
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.0.shared.metrics
    }
}

/// How much longer an answer is waited for; `None` if no longer. A question waits for twice the budget to be sent, where this
/// process has more to do than it can; from then on the tier has all of it, and what was starved since, within three budgets
/// in all.
fn patience(asked_at: Instant, sent_at: Option<Instant>, budget: Duration, now: Instant) -> Option<Duration> {
    let until = sent_at.map_or((now + budget).min(asked_at + budget * 2), |sent_at| sent_at + budget);
    Some(now.until(until.min(asked_at + budget * 3))).filter(|left| !left.is_zero())
}

impl Shared {
    fn fault(&self) -> Option<String> {
        // Every section is one assignment.
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_fault(&self, fault: String) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
    }
}

impl Supervisor {
    /// Keeps the connection until `stop`. Whoever asks after that does without the tier.
    pub async fn run(mut self, stop: CancellationToken) {
        let supervise = async {
            loop {
                // A panic is a defect of ours, after which the tier is worth another try all the same.
                let fault = AssertUnwindSafe(self.connect_and_serve()).catch_unwind().await.unwrap_or_else(|_| {
                    let now = self.clock.now();
                    self.health.broken(now, fastrand::f64());
                    self.health.try_failed(now, fastrand::f64());
                    Fault::Defect
                });
                self.went_down(&fault);
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = supervise => {}
        }
        self.state.send_replace(State::Down);
    }

    async fn connect_and_serve(&mut self) -> Fault {
        let line = self.connect().await;
        let fault = self.serve(line).await;
        self.shared.starved.rests(self.clock.now());
        fault
    }

    /// Tries until there is a connection. Who saw the tier up a moment ago is told that it is away.
    async fn connect(&mut self) -> Line {
        loop {
            let made = self.try_once().await;
            let now = self.clock.now();
            match made {
                Ok(line) => {
                    self.health.connected(now);
                    self.told.clear();
                    tracing::info!("the shared tier is up");
                    self.publish();
                    return line;
                }
                Err(fault) => {
                    self.health.try_failed(now, fastrand::f64());
                    self.went_down(&fault);
                }
            }
        }
    }

    /// The next try, when it is due.
    async fn try_once(&mut self) -> Result<Line, Fault> {
        let Supervisor { dialer, calls, health, clock, .. } = self;
        let wait = health.next_try().map_or(Duration::ZERO, |due| clock.now().until(due));
        let attempt = async {
            tokio::time::sleep(wait).await;
            dialer.dial().await
        };
        tokio::pin!(attempt);
        loop {
            tokio::select! {
                biased;
                made = &mut attempt => return made,
                Some(call) = calls.recv() => call.refuse(),
            }
        }
    }

    /// Asks what there is to ask, until the connection is given up. Whoever waits then is told that the tier is away.
    async fn serve(&mut self, mut line: Line) -> Fault {
        let mut answers: FuturesUnordered<BoxFuture<'static, Answer>> = FuturesUnordered::new();
        let mut under_way: BTreeMap<u64, UnderWay> = BTreeMap::new();
        let mut count = 0;
        loop {
            let oldest = under_way.first_key_value().map(|(_, trip)| trip.asked_at);
            let silent_at = self.silent_at(oldest);
            if silent_at.is_none() {
                self.shared.starved.rests(self.clock.now());
            }
            let tick = silent_at.map_or(TICK, |at| self.clock.now().until(at)).min(TICK);
            // All that has come is looked at before more is read, or an answer without an end could grow while others
            // renew its allowance.
            let event = match answers.next().now_or_never().flatten() {
                Some(answer) => Event::Answer(answer),
                None => tokio::select! {
                    // What has come is read before anybody says that nothing came: if this task had no time to run, the
                    // tier is not to blame.
                    biased;
                    () = &mut line.driver => Event::Lost,
                    Some(answer) = answers.next() => Event::Answer(answer),
                    () = tokio::time::sleep(tick), if silent_at.is_some() => Event::Tick,
                    Some(call) = self.calls.recv() => Event::Call(call),
                },
            };
            let now = self.clock.now();
            self.shared.starved.runs(now);
            match event {
                Event::Call(call) if self.health.state() == State::Up => {
                    let (asked_at, trips) = self.trips(call).await;
                    for (commands, askers) in trips {
                        under_way.insert(count, UnderWay { operation: commands.operation(), asked_at, askers });
                        answers.push(Box::pin(exchange(count, line.connection.clone(), commands)));
                        count += 1;
                    }
                }
                Event::Call(call) => call.refuse(),
                Event::Answer((number, answer)) => {
                    line.allowance.renew();
                    let (answer, lasting) = match answer {
                        Ok(value) => (Ok(value), None),
                        Err(Fault::Refused(code)) if !code.is_lasting() => {
                            tracing::debug!(%code, "the shared tier refused a question");
                            (Err(Error::Refused), None)
                        }
                        Err(fault) => (Err(Error::Away), Some(fault)),
                    };
                    if let Some(trip) = under_way.remove(&number) {
                        trip.end(answer);
                    }
                    if let Some(fault) = lasting {
                        self.health.broken(now, fastrand::f64());
                        return fault;
                    }
                    // What was asked before the silence has been asked for as long as the first: only all of it heals.
                    if under_way.is_empty() {
                        self.health.answered();
                    }
                }
                Event::Tick if self.silent_at(oldest).is_some_and(|at| at > now) => {}
                Event::Tick => {
                    self.health.silent(now, fastrand::f64());
                    let told = under_way
                        .values_mut()
                        .flat_map(|trip| &mut trip.askers)
                        .filter(|asker| !asker.outlasts_silence);
                    for reply in told.filter_map(|asker| asker.reply.take()) {
                        let _ = reply.send(Err(Error::Away));
                    }
                    self.shared.metrics.tripped();
                    if self.health.state() == State::Down {
                        return Fault::Silent;
                    }
                }
                Event::Lost => {
                    self.health.broken(now, fastrand::f64());
                    // The last answer tells why, if any does.
                    let last = answers.next().now_or_never().flatten().and_then(|(_, answer)| answer.err());
                    return match last {
                        None | Some(Fault::Lost) => line.allowance.fault(),
                        Some(fault) => fault,
                    };
                }
            }
            self.publish();
        }
    }

    /// When the tier is silent that was asked then, and has not answered.
    fn silent_at(&self, oldest: Option<Moment>) -> Option<Instant> {
        let asked_at = self.shared.starved.counts_from(oldest?, self.timeout, self.clock.now());
        self.health.silent_at(asked_at, self.timeout)
    }

    /// The trips to make now: `first`, and all that has been asked since. LOOKs that follow each other go in one. From the moment
    /// on that is returned, too, the tier may be to blame.
    async fn trips(&mut self, first: Call) -> (Moment, Vec<(Commands, Vec<Asker>)>) {
        if first.commands.operation() == Operation::Look {
            // Tasks that are about to ask do so before the trip begins: a server without a free core answers many questions
            // in one trip in a third of the time that it needs for them one by one.
            tokio::task::yield_now().await;
            self.shared.starved.runs(self.clock.now());
        }
        let now = self.shared.starved.moment(self.clock.now());
        let mut trips: Vec<(Commands, Vec<Asker>)> = Vec::new();
        let mut next = Some(first);
        while let Some(Call { commands, budget, sent_at, reply, permit }) = next {
            let _ = sent_at.set(now);
            let must_hear = matches!(commands.operation(), Operation::Take | Operation::Pay);
            let outlasts_silence = must_hear || budget <= self.timeout;
            let asker = Asker { outlasts_silence, reply: Some(reply), _permit: permit };
            match trips.last_mut() {
                Some((trip, askers)) if trip.goes_with(&commands) => {
                    trip.and(commands);
                    askers.push(asker);
                }
                _ => trips.push((commands, vec![asker])),
            }
            next = self.calls.try_recv().ok();
        }
        (now, trips)
    }

    fn went_down(&mut self, fault: &Fault) {
        let fault = Chain(fault).to_string();
        // What is behind it shows where the next connection is tried.
        if self.told.len() < MOST_TOLD && !self.told.contains(&fault) {
            tracing::warn!(%fault, "the shared tier is away; this replica does without it");
            self.told.push(fault.clone());
        }
        self.shared.set_fault(fault);
        self.publish();
    }

    fn publish(&self) {
        let state = self.health.state();
        self.state.send_if_modified(|known| std::mem::replace(known, state) != state);
    }
}

impl UnderWay {
    /// Gives each that asked its part of the answer, or all of them the error.
    fn end(self, answer: Result<Value, Error>) {
        let count = self.askers.len();
        let parts = answer.and_then(|answer| {
            let parts = scripts::parts(self.operation, answer, count).ok_or(Error::Malformed)?;
            Ok(parts.into_iter().map(Ok).collect::<Vec<_>>())
        });
        let parts = parts.unwrap_or_else(|error| vec![Err(error); count]);
        for (asker, part) in self.askers.into_iter().zip(parts) {
            if let Some(waiting) = asker.reply {
                // Whoever asked may have gone.
                let _ = waiting.send(part);
            }
        }
    }
}

enum Event {
    Lost,
    Answer(Answer),
    /// It is time to see whether the tier is silent.
    Tick,
    Call(Call),
}

impl Call {
    fn refuse(self) {
        let _ = self.reply.send(Err(Error::Away));
    }
}

/// By the script's name; and once by its text, where the tier does not know it (any more).
async fn exchange(number: u64, mut connection: MultiplexedConnection, commands: Commands) -> Answer {
    let by_name = fault::read(connection.send_packed_command(&commands.by_name(number)).await);
    let answer = match by_name {
        Err(Fault::Refused(code)) if code.is("NOSCRIPT") => {
            fault::read(connection.send_packed_command(&commands.by_text(number)).await)
        }
        answer => answer,
    };
    (number, answer.and_then(|answer| scripts::answer_to(number, answer).ok_or(Fault::Misaligned)))
}

/// A fault and what is behind it, in one line.
struct Chain<'a>(&'a Fault);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = std::error::Error::source(self.0);
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl fmt::Debug for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tier").field("state", &self.state()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervisor").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
