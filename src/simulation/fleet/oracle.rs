//! Watches a fleet and fails it at the first broken promise. Knows the promises, not how they are kept.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::source::Source;

/// How many requests for one file may be under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mints {
    /// And one more for each lease that was lost a moment ago.
    One,
    /// One for each replica: they may not see each other.
    OneEach,
}

/// Who sees the tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    All,
    None,
}

/// What is promised in one schedule.
#[derive(Debug, Clone)]
pub(super) struct Promises {
    pub(super) margin: Duration,
    pub(super) rate: f64,
    pub(super) burst: f64,
    pub(super) mints: Mints,
    /// A machine's clock that runs slow keeps a link for so much longer, over its whole life.
    pub(super) drift: Duration,
}

pub(super) struct Oracle {
    promises: Promises,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The replicas that have a request for a file under way.
    in_flight: HashMap<Source, Vec<usize>>,
    /// An ideal token bucket, and when it held so much.
    tokens: Option<(f64, Duration)>,
    /// What is allowed besides what that has, and has not been needed, until when: for a tier that lost its memory, and
    /// for the last outage.
    lost: Allowance,
    outage: Allowance,
    /// What of that the tier had given when it went away.
    given: f64,
    /// While the quota is watched, whether all replicas see the tier, or none does.
    counted: Option<Sight>,
    /// Links: when they end, and when they were asked for.
    links: HashMap<String, (Duration, Duration)>,
    /// How much of the time each replica was paused it cannot know of.
    unknown: HashMap<usize, Duration>,
    flushed_at: Option<Duration>,
    /// Files that were forgotten, and when all were told.
    forgotten: HashMap<Source, Duration>,
    broken: Option<String>,
    totals: Totals,
}

/// What has happened, over one schedule or many.
#[derive(Debug, Default, Clone)]
pub(super) struct Totals {
    pub(super) links: u64,
    pub(super) problems: u64,
    pub(super) requests: u64,
    pub(super) counted: u64,
    pub(super) shared: u64,
    pub(super) joined: u64,
    pub(super) second_mints: u64,
    pub(super) limited: u64,
    pub(super) excused: u64,
    pub(super) pauses: u64,
    pub(super) kills: u64,
    pub(super) forgotten: u64,
    pub(super) compared: u64,
    pub(super) tier_calls: u64,
    pub(super) tier_faults: u64,
    pub(super) outages: u64,
    pub(super) flushes: u64,
}

/// For so long after a file was forgotten everywhere, other replicas may still hand out its link: they hear of it with
/// their next beat, a second apart.
const HEARD_WITHIN: Duration = Duration::from_millis(1500);

impl Oracle {
    pub(super) fn new(promises: Promises) -> Oracle {
        Oracle { promises, state: Mutex::default() }
    }

    /// A request of this replica leaves for kie.ai: for this file, of which so many leases were lost a moment ago.
    pub(super) fn request(&self, replica: usize, file: Option<(&Source, usize)>, now: Duration) {
        let mut state = self.lock();
        state.totals.requests += 1;
        let Promises { rate, burst, mints, .. } = self.promises;
        let (tokens, at) = state.tokens.unwrap_or((burst, now));
        let tokens = (tokens + now.saturating_sub(at).as_secs_f64() * rate).min(burst) - 1.0;
        if let Some(sight) = state.counted {
            state.totals.counted += 1;
            let more = state.lost.draw(-tokens.min(0.0), now);
            let besides = -state.outage.draw(more, now);
            state.hold(besides > -1e-6, || {
                format!("P3: {sight:?}: kie.ai sees {:.1} more than the budget of {burst}", -besides)
            });
        }
        state.tokens = Some((tokens.max(0.0), now));
        let Some((source, lost)) = file else { return };
        let replicas = state.in_flight.entry(source.clone()).or_default();
        let (is_twice, others) = (replicas.contains(&replica), replicas.len());
        replicas.push(replica);
        state.totals.second_mints += u64::from(others > 0);
        state.hold(!is_twice, || "P2: one replica has two requests for one file on their way".to_owned());
        let is_allowed = mints == Mints::OneEach || others <= lost;
        state.hold(is_allowed, || {
            format!("P2: {others} other requests for one file are on their way, {lost} leases were lost")
        });
    }

    pub(super) fn request_over(&self, replica: usize, source: &Source) {
        let mut state = self.lock();
        let replicas = state.in_flight.get_mut(source).expect("it had begun");
        let at = replicas.iter().position(|other| *other == replica).expect("it had begun");
        replicas.remove(at);
    }

    /// Who sees the tier from now on; `None` where some do.
    pub(super) fn count_quota(&self, counted: Option<Sight>) {
        self.lock().counted = counted;
    }

    pub(super) fn made(&self, link: &str, ends: Duration, asked_at: Duration) {
        self.lock().links.insert(link.to_owned(), (ends, asked_at));
    }

    /// A replica cannot know of this much time that has passed.
    pub(super) fn paused(&self, replica: usize, time: Duration) {
        let mut state = self.lock();
        state.totals.pauses += 1;
        *state.unknown.entry(replica).or_default() += time;
    }

    /// The replica has had a sign of its pauses: what it cannot know of is no more than this.
    pub(super) fn knows(&self, replica: usize, all_but: Duration) {
        if let Some(unknown) = self.lock().unknown.get_mut(&replica) {
            *unknown = (*unknown).min(all_but);
        }
    }

    /// All replicas were told to forget the file.
    pub(super) fn forgotten(&self, source: &Source, now: Duration) {
        let mut state = self.lock();
        state.totals.forgotten += 1;
        // The numbers that replicas know may be those of before and after.
        if state.flushed_at.is_none_or(|at| now > at + HEARD_WITHIN) {
            state.forgotten.insert(source.clone(), now);
        }
    }

    /// The tier has lost its memory. Some replicas do not know what its bucket gave since their last beat: as much may go once
    /// more. Nor does whoever had not heard of it hear what was forgotten. `full_in` is when the bucket would have been full.
    pub(super) fn flushed(&self, full_in: Duration, given: usize, now: Duration) {
        let mut state = self.lock();
        state.totals.flushes += 1;
        state.forgotten.clear();
        state.flushed_at = Some(now);
        state.lost.draw(0.0, now);
        // One is for rounding.
        state.lost.tokens += given as f64 + 1.0;
        state.lost.until = state.lost.until.max(now + full_in + Duration::from_secs(2));
    }

    /// No replica sees the tier any more. Each has heard with its last beat, a second ago, what the bucket held, and has as
    /// much of the rate as the others since; what it has given since to others no replica knows: that goes besides their
    /// shares. What it gave before the last outage may still be waited for.
    pub(super) fn away(&self, given: usize, now: Duration) {
        let mut state = self.lock();
        state.totals.outages += 1;
        state.counted = Some(Sight::None);
        state.outage.draw(0.0, now);
        state.given = state.outage.tokens.min(state.given).max(given as f64);
        state.outage = Allowance { tokens: self.promises.rate + state.given, until: Duration::MAX };
    }

    /// The tier is there again. Replicas find it one after the other: the others hear each up to a second before it asks, and
    /// what it goes by until then, its share, is told to the tier a second later.
    pub(super) fn back(&self, now: Duration) {
        let mut state = self.lock();
        state.counted = Some(Sight::All);
        // Who waited goes by the share: for as long as a caller's patience, and until the last has found it.
        state.outage.tokens += self.promises.rate;
        state.outage.until = now + Duration::from_secs(40);
    }

    /// A caller of `replica` that asked at `asked_at` is handed this link.
    pub(super) fn handed_out(&self, replica: usize, source: &Source, link: &str, asked_at: Duration, now: Duration) {
        let mut state = self.lock();
        state.totals.links += 1;
        let (ends, minted_at) = *state.links.get(link).expect("P1: a link that kie.ai never made");
        let (left, unknown) = (ends.saturating_sub(now), state.unknown.get(&replica).copied().unwrap_or_default());
        let least = self.promises.margin.saturating_sub(self.promises.drift);
        if left < least && left + unknown >= least {
            state.totals.excused += 1;
        }
        state.hold(left + unknown >= least, || {
            format!("P1: a link with {left:?} of life left was handed out by {replica} ({unknown:?} unknown)")
        });
        if let Some(forgotten) = state.forgotten.get(source).copied() {
            let is_new = minted_at >= forgotten || asked_at < forgotten + HEARD_WITHIN;
            state.hold(is_new, || {
                format!("a link that was forgotten at {forgotten:?}, asked for at {minted_at:?}, was handed out by {replica} at {now:?} to a caller of {asked_at:?}")
            });
        }
    }

    pub(super) fn answered(&self, waited: Duration, patience: Duration) {
        let most = patience + patience / 1000 + Duration::from_millis(3);
        self.lock()
            .hold(waited <= most, || format!("a caller with {patience:?} to wait was answered after {waited:?}"));
    }

    pub(super) fn count(&self, what: impl FnOnce(&mut Totals)) {
        what(&mut self.lock().totals);
    }

    /// Fails where a promise was broken.
    pub(super) fn check(&self) {
        if let Some(broken) = &self.lock().broken {
            panic!("{broken}");
        }
    }

    pub(super) fn totals(&self) -> Totals {
        self.check();
        self.lock().totals.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// So many tokens more, until then.
#[derive(Debug, Default, Clone, Copy)]
struct Allowance {
    tokens: f64,
    until: Duration,
}

impl Allowance {
    /// What it does not cover.
    fn draw(&mut self, tokens: f64, now: Duration) -> f64 {
        if now > self.until {
            self.tokens = 0.0;
        }
        let drawn = tokens.min(self.tokens);
        self.tokens -= drawn;
        tokens - drawn
    }
}

impl State {
    fn hold(&mut self, holds: bool, promise: impl FnOnce() -> String) {
        if !holds {
            self.broken.get_or_insert_with(promise);
        }
    }
}

impl Totals {
    /// How often each kind of event must happen, for each schedule.
    const LEAST: f64 = 0.01;

    fn each(&mut self) -> [&mut u64; 17] {
        let Totals {
            links, problems, requests, counted, shared, joined, second_mints, limited, excused, pauses, ..
        } = self;
        let Totals { kills, forgotten, compared, tier_calls, tier_faults, outages, flushes, .. } = self;
        [
            links,
            problems,
            requests,
            counted,
            shared,
            joined,
            second_mints,
            limited,
            excused,
            pauses,
            kills,
            forgotten,
            compared,
            tier_calls,
            tier_faults,
            outages,
            flushes,
        ]
    }

    pub(super) fn add(&mut self, other: &Totals) {
        for (ours, theirs) in self.each().into_iter().zip(other.clone().each()) {
            *ours += *theirs;
        }
    }

    pub(super) fn assert_eventful(&self, schedules: u64) {
        // Few schedules may lack some kind of event by chance.
        if schedules < 100 {
            return;
        }
        let least = (schedules as f64 * Totals::LEAST) as u64;
        let mut own = self.clone();
        assert!(
            own.each().into_iter().all(|count| *count >= least),
            "too little happened in {schedules} schedules: {self:?}"
        );
    }
}
