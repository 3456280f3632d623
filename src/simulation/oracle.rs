//! Watches a schedule and fails it at the first broken promise. Knows the promises, not how they are kept.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use crate::{clock::Instant, source::Source};

/// What is promised in one schedule.
#[derive(Debug, Clone)]
pub(super) struct Promises {
    pub(super) margin: Duration,
    pub(super) rate: f64,
    pub(super) burst: f64,
}

pub(super) struct Oracle {
    promises: Promises,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Requests on their way, by file.
    in_flight: HashMap<Source, u32>,
    /// An ideal token bucket, without the product's guard.
    tokens: Option<(f64, Instant)>,
    /// When kie.ai said 429, and until when no request may leave. A request whose turn had come may still leave at that
    /// moment.
    paused: Option<(Instant, Instant)>,
    /// When each link ends, by kie.ai's reckoning.
    ends: HashMap<String, Instant>,
    /// The hypervisor paused the machine, and nothing has shown it yet: what is handed out meanwhile may be dead.
    unseen_pause: bool,
    /// The first broken promise: a panic inside a flight's task is caught there, and must not be missed.
    broken: Option<String>,
    totals: Totals,
}

/// What has happened, over one schedule or many.
#[derive(Debug, Default, Clone)]
pub(super) struct Totals {
    pub(super) links: u64,
    pub(super) problems: u64,
    pub(super) requests: u64,
    pub(super) limited: u64,
    pub(super) left: u64,
    pub(super) outages_unnoticed: u64,
    pub(super) suspends: u64,
    pub(super) short_lived: u64,
    pub(super) unseen_pauses: u64,
    pub(super) excused: u64,
    pub(super) repeated: u64,
    pub(super) spoilt_files: u64,
    pub(super) silenced: u64,
    pub(super) corners: u64,
}

impl Oracle {
    pub(super) fn new(promises: Promises) -> Oracle {
        Oracle { promises, state: Mutex::default() }
    }

    /// A request leaves for kie.ai; `just_woken` says that its turn may have come before the machine slept.
    pub(super) fn request(&self, source: &Source, now: Instant, just_woken: bool) {
        let mut state = self.lock();
        state.totals.requests += 1;
        let in_flight = state.in_flight.entry(source.clone()).or_default();
        *in_flight += 1;
        let alone = *in_flight == 1;
        state.hold(alone, "P2: a second request for one file is on its way");
        let (tokens, at) = state.tokens.unwrap_or((self.promises.burst, now));
        let tokens = (tokens + now.since(at).as_secs_f64() * self.promises.rate).min(self.promises.burst);
        // Nobody can keep a request from leaving after a sleep that began between its turn and its first byte.
        let tokens = if just_woken { tokens } else { tokens - 1.0 };
        // A nanosecond's rounding is no broken promise.
        state.hold(tokens > -1e-6, "P3: kie.ai sees more than the budget");
        state.tokens = Some((tokens, now));
        let paused = state.paused.is_some_and(|(since, until)| since < now && now < until);
        state.hold(!paused || just_woken, "P3: a request leaves during the pause after a 429");
    }

    /// The request is over: answered, failed or abandoned.
    pub(super) fn request_over(&self, source: &Source) {
        *self.lock().in_flight.get_mut(source).expect("it had begun") -= 1;
    }

    /// kie.ai has said 429, and every request must wait at least this long.
    pub(super) fn limited(&self, now: Instant, pause: Duration) {
        let mut state = self.lock();
        state.totals.limited += 1;
        let until = state.paused.map_or(now, |(_, until)| until).max(now + pause);
        state.paused = Some((now, until));
    }

    /// kie.ai has made a link that ends at `ends`.
    pub(super) fn made(&self, link: &str, ends: Instant) {
        let mut state = self.lock();
        // A link that is given twice keeps the earlier of its two ends.
        let known = state.ends.entry(link.to_owned()).or_insert(ends);
        *known = (*known).min(ends);
    }

    /// kie.ai gives the link again, and it ends later now.
    pub(super) fn renewed(&self, link: &str, ends: Instant) {
        let mut state = self.lock();
        state.totals.repeated += 1;
        state.ends.insert(link.to_owned(), ends);
    }

    /// From now on kielink cannot know how late it is, until a sign comes.
    pub(super) fn paused_unseen(&self) {
        let mut state = self.lock();
        state.totals.unseen_pauses += 1;
        state.unseen_pause = true;
    }

    /// The pause has shown itself: in an answer that was asked for after the pause, or by a step of the wall clock.
    pub(super) fn sign_of_the_pause(&self) {
        self.lock().unseen_pause = false;
    }

    /// A caller is handed this link.
    pub(super) fn handed_out(&self, link: &str, now: Instant) {
        let mut state = self.lock();
        state.totals.links += 1;
        let ends = *state.ends.get(link).expect("P1: a link that kie.ai never made");
        let left = now.until(ends);
        if state.unseen_pause && left < self.promises.margin {
            state.totals.excused += 1;
            return;
        }
        assert!(left >= self.promises.margin, "P1: a link with {left:?} of life left was handed out");
    }

    pub(super) fn problem(&self) {
        self.lock().totals.problems += 1;
    }

    /// A caller has its answer, link or problem, after `waited`; it had `patience` to wait.
    pub(super) fn answered(&self, waited: Duration, patience: Duration) {
        let most = patience + Duration::from_millis(2);
        assert!(waited <= most, "a caller with {patience:?} to wait was answered after {waited:?}");
    }

    pub(super) fn count(&self, what: impl FnOnce(&mut Totals)) {
        what(&mut self.lock().totals);
    }

    /// The end: what happened, unless a promise was broken on the way.
    pub(super) fn totals(&self) -> Totals {
        let state = self.lock();
        if let Some(broken) = &state.broken {
            panic!("{broken}");
        }
        state.totals.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl State {
    fn hold(&mut self, holds: bool, promise: &str) {
        if !holds {
            self.broken.get_or_insert_with(|| promise.to_owned());
        }
    }
}

impl Totals {
    pub(super) fn add(&mut self, other: &Totals) {
        self.links += other.links;
        self.problems += other.problems;
        self.requests += other.requests;
        self.limited += other.limited;
        self.left += other.left;
        self.outages_unnoticed += other.outages_unnoticed;
        self.suspends += other.suspends;
        self.short_lived += other.short_lived;
        self.unseen_pauses += other.unseen_pauses;
        self.excused += other.excused;
        self.repeated += other.repeated;
        self.spoilt_files += other.spoilt_files;
        self.silenced += other.silenced;
        self.corners += other.corners;
    }

    pub(super) fn assert_eventful(&self, schedules: u64) {
        // Few schedules may lack some kind of event by chance.
        if schedules < 100 {
            return;
        }
        // Each kind is weighed by how seldom a schedule has it, so that one bound does for all kinds.
        let each = [
            self.links / 5,
            self.problems,
            self.requests,
            self.limited * 5,
            self.left,
            self.outages_unnoticed * 20,
            self.suspends * 5,
            self.short_lived * 10,
            self.unseen_pauses * 10,
            self.excused * 100,
            self.repeated * 10,
            self.spoilt_files * 50,
            self.silenced * 50,
            self.corners * 50,
        ];
        assert!(each.iter().all(|count| *count >= schedules), "too little happened in {schedules} schedules: {self:?}");
    }
}
