//! The last quarter of an hour, in steps of five seconds. Pure: what was counted is an argument.

use std::{collections::VecDeque, time::Duration};

use serde::Serialize;

use crate::web::{Recent, Spread};

pub(super) const STEP: Duration = Duration::from_secs(5);

/// 15 minutes.
pub(super) const STEPS: usize = 180;

/// One minute: long enough for a percentile to mean something, short enough to show what happens now.
const MINUTE: usize = 12;

/// What has been counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// Links asked for.
    pub(super) asked: u64,
    /// Of these links, how many were asked for in a way that none could come of.
    pub(super) mistaken: u64,
    /// Of these links, how many were answered out of memory.
    pub(super) hits: u64,
    /// Of these links, how many there should have been and were not: kie.ai was asked and gave none, or was not asked,
    /// since it is unwell or there was no room. What it says of a file is its answer.
    pub(super) no_link: u64,
    pub(super) minted: u64,
    /// Without what kie.ai says of files, as `no_link`.
    pub(super) mints_failed: u64,
    /// Mints that were wanted and not asked of kie.ai: kept back by the budget, or by one of the rules that pass after
    /// a while.
    pub(super) withheld_by_budget: u64,
    pub(super) withheld_for_a_while: u64,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    /// How long the step was: under load, or over a suspend, longer than it should be.
    took: Duration,
    /// What was counted within the step.
    counts: Totals,
    p99_micros: Option<u64>,
    least_life: Option<Duration>,
}

/// What was counted in each step, and the latencies of the last minute.
#[derive(Debug, Default)]
pub(super) struct History {
    before: Totals,
    samples: VecDeque<Sample>,
    latencies: VecDeque<Spread>,
}

/// The last minute.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Minute {
    /// Seconds that it covers: less than 60 after a start.
    pub(super) seconds: u64,
    /// Links asked for, a second.
    pub(super) per_second: f64,
    /// Shares of the links asked for, without what callers asked wrongly; nothing where nobody asked.
    pub(super) hit_ratio: Option<f64>,
    pub(super) no_link_ratio: Option<f64>,
    pub(super) latency_ms: Option<Latency>,
    /// Of all links that were handed out.
    pub(super) least_life_left_seconds: Option<u64>,
    pub(super) minted: u64,
    pub(super) mints_failed: u64,
    /// Wanted, and not asked of kie.ai: no budget, a pause, an open breaker.
    pub(super) mints_withheld: u64,
    /// Of these mints, how many were withheld by a pause or an open breaker.
    #[serde(skip)]
    pub(super) withheld_for_a_while: u64,
}

/// From a request's head to its answer's head; batches apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Latency {
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

/// One value a step, oldest first; `null` where there was nothing to measure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Lines {
    pub(super) step_seconds: u64,
    pub(super) asked_per_second: Vec<f64>,
    pub(super) hit_ratio: Vec<Option<f64>>,
    pub(super) no_link_per_second: Vec<f64>,
    /// Mints that failed are included.
    pub(super) mints_per_second: Vec<f64>,
    pub(super) mints_failed_per_second: Vec<f64>,
    pub(super) latency_p99_ms: Vec<Option<f64>>,
    pub(super) least_life_left_seconds: Vec<Option<u64>>,
}

impl History {
    /// Ends a step that took so long.
    pub(super) fn sample(&mut self, took: Duration, totals: Totals, recent: Recent) {
        let counts = totals.since(&self.before);
        self.before = totals;
        let p99_micros = (!recent.latencies.is_empty()).then(|| recent.latencies.within(0.99));
        self.samples.push_back(Sample { took, counts, p99_micros, least_life: recent.least_life });
        self.latencies.push_back(recent.latencies);
        if self.samples.len() > STEPS {
            self.samples.pop_front();
        }
        if self.latencies.len() > MINUTE {
            self.latencies.pop_front();
        }
    }

    /// `totals` are those of this moment: what was counted since the last step is in the numbers and their shares, so that
    /// a page which says what is the case now does not say that nothing is. It is in no rate.
    pub(super) fn minute(&self, totals: &Totals) -> Minute {
        let samples = || self.samples.iter().rev().take(MINUTE);
        let so_far = totals.since(&self.before);
        let stepped = |count: fn(&Totals) -> u64| samples().map(|sample| count(&sample.counts)).sum::<u64>();
        let sum = |count: fn(&Totals) -> u64| stepped(count) + count(&so_far);
        let took: Duration = samples().map(|sample| sample.took).sum();
        let seconds = took.as_secs();
        let asked = sum(|counts| counts.asked);
        let rightly = asked - sum(|counts| counts.mistaken).min(asked);
        let ratio = |count: u64| (rightly > 0).then(|| count as f64 / rightly as f64);
        Minute {
            seconds,
            per_second: if took.is_zero() { 0.0 } else { stepped(|counts| counts.asked) as f64 / took.as_secs_f64() },
            hit_ratio: ratio(sum(|counts| counts.hits)),
            no_link_ratio: ratio(sum(|counts| counts.no_link)),
            latency_ms: self.latency(),
            least_life_left_seconds: samples().filter_map(|sample| sample.least_life).min().map(|life| life.as_secs()),
            minted: sum(|counts| counts.minted),
            mints_failed: sum(|counts| counts.mints_failed),
            mints_withheld: sum(|counts| counts.withheld_by_budget + counts.withheld_for_a_while),
            withheld_for_a_while: sum(|counts| counts.withheld_for_a_while),
        }
    }

    fn latency(&self) -> Option<Latency> {
        let mut all = Recent::default().latencies;
        for latencies in &self.latencies {
            all.add(latencies);
        }
        let at = |quantile| all.within(quantile) as f64 / 1000.0;
        (!all.is_empty()).then(|| Latency { p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1.0) })
    }

    pub(super) fn lines(&self) -> Lines {
        let per_second = |count: fn(&Totals) -> u64| {
            let rates =
                self.samples.iter().map(|sample| count(&sample.counts) as f64 / sample.took.max(STEP).as_secs_f64());
            rates.collect::<Vec<_>>()
        };
        let samples = || self.samples.iter();
        let hit_ratio = |sample: &Sample| {
            let Totals { asked, mistaken, hits, .. } = sample.counts;
            let rightly = asked.saturating_sub(mistaken);
            (rightly > 0).then(|| hits as f64 / rightly as f64)
        };
        Lines {
            step_seconds: STEP.as_secs(),
            asked_per_second: per_second(|counts| counts.asked),
            hit_ratio: samples().map(hit_ratio).collect(),
            no_link_per_second: per_second(|counts| counts.no_link),
            mints_per_second: per_second(|counts| counts.minted + counts.mints_failed),
            mints_failed_per_second: per_second(|counts| counts.mints_failed),
            latency_p99_ms: samples().map(|sample| Some(sample.p99_micros? as f64 / 1000.0)).collect(),
            least_life_left_seconds: samples().map(|sample| Some(sample.least_life?.as_secs())).collect(),
        }
    }
}

impl Totals {
    fn since(&self, before: &Totals) -> Totals {
        let since = |count: fn(&Totals) -> u64| count(self).saturating_sub(count(before));
        Totals {
            asked: since(|totals| totals.asked),
            hits: since(|totals| totals.hits),
            mistaken: since(|totals| totals.mistaken),
            no_link: since(|totals| totals.no_link),
            minted: since(|totals| totals.minted),
            mints_failed: since(|totals| totals.mints_failed),
            withheld_by_budget: since(|totals| totals.withheld_by_budget),
            withheld_for_a_while: since(|totals| totals.withheld_for_a_while),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recent(micros: &[u64], least_life: Option<u64>) -> Recent {
        Recent { latencies: micros.iter().copied().collect(), least_life: least_life.map(Duration::from_secs) }
    }

    #[test]
    fn nothing_has_no_ratio_and_no_latency() {
        let mut history = History::default();
        let none = Totals::default();
        assert_eq!((history.minute(&none).seconds, history.minute(&none).hit_ratio), (0, None));
        let one = Totals { asked: 1, no_link: 1, ..none };
        assert_eq!((history.minute(&one).seconds, history.minute(&one).no_link_ratio), (0, Some(1.0)), "a moment ago");
        history.sample(STEP, Totals::default(), Recent::default());
        let minute = history.minute(&none);
        assert_eq!((minute.seconds, minute.per_second, minute.hit_ratio, minute.latency_ms), (5, 0.0, None, None));
        assert_eq!(history.lines().hit_ratio, [None]);
    }

    #[test]
    fn the_last_minute_is_twelve_steps_and_what_is_older_does_not_count() {
        let mut history = History::default();
        let mut totals = Totals { asked: 600, no_link: 600, ..Totals::default() };
        history.sample(STEP, totals, recent(&[9_000_000], Some(61)));
        for _ in 0..12 {
            // The 11th is a caller's mistake.
            totals.asked += 11;
            totals.mistaken += 1;
            totals.hits += 9;
            totals.minted += 1;
            history.sample(STEP, totals, recent(&[100, 200], Some(800)));
        }
        let minute = history.minute(&totals);
        assert_eq!((minute.seconds, minute.per_second, minute.minted), (60, 2.2, 12));
        assert_eq!((minute.hit_ratio, minute.no_link_ratio), (Some(0.9), Some(0.0)));
        assert_eq!(history.lines().hit_ratio[12], Some(0.9));
        assert_eq!(minute.least_life_left_seconds, Some(800));
        assert_eq!(minute.latency_ms.map(|latency| (latency.p50, latency.max)), Some((0.101, 0.203)));
        let lines = history.lines();
        assert_eq!(lines.asked_per_second.len(), 13);
        assert_eq!((lines.asked_per_second[0], lines.asked_per_second[12]), (120.0, 2.2));
        assert_eq!(lines.least_life_left_seconds[0], Some(61));
    }

    #[test]
    fn it_forgets_after_a_quarter_of_an_hour() {
        let mut history = History::default();
        for _ in 0..3 * STEPS {
            history.sample(STEP, Totals::default(), Recent::default());
        }
        assert_eq!((history.samples.len(), history.latencies.len()), (STEPS, MINUTE));
        assert_eq!(STEPS as u64 * STEP.as_secs(), 15 * 60);
    }
}
