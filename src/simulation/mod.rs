//! Random schedules of everything that can happen to kielink's heart, on a virtual clock and without sockets:
//! callers that ask, insist and leave; a kie.ai that is slow, limits, fails, lies, refuses, gives links again, falls
//! silent and comes back; machines that sleep, are paused and have clocks that step; memory that is short. After every
//! step the promises are checked:
//!
//! - P1: a link that is handed out has at least the margin of life left, by kie.ai's own reckoning (but for those
//!   between a pause that no clock of the machine saw and its first sign, which are counted);
//! - P2: at most one request for a file is on its way;
//! - P3: kie.ai never sees more than the budget, nor anything during a pause;
//! - P5: an outage shorter than the refresh window is not noticed by users of a link, whenever it begins and whatever
//!   kind it is;
//! - P6: one file that kie.ai cannot make, or a connection that fell silent, is not noticed by users of other files;
//! - every caller gets exactly one answer, within its deadline;
//! - and whatever has happened, links flow again two minutes after kie.ai is well.
//!
//! What runs is the real `Links` and the real `upstream::Kie`; only the wire is a model. A failure names its seed:
//! `SIM_SEED=n cargo test simulation` runs that one; `SIM_SCHEDULES=1000000 cargo test --release simulation` runs many.

mod fleet;
mod kie;
mod oracle;
mod schedule;

use std::{
    num::NonZeroU32,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// How many schedules run in all, unless `SIM_SCHEDULES` says otherwise; spread over `PARTS` tests that run side by
/// side.
const SCHEDULES: u64 = 10_000;
const PARTS: u64 = 4;

/// What has happened, over one schedule or many.
trait Events: Default {
    fn add(&mut self, other: &Self);

    /// Fails where too little has happened.
    fn assert_eventful(&self, schedules: u64);
}

impl Events for oracle::Totals {
    fn add(&mut self, other: &oracle::Totals) {
        self.add(other);
    }

    fn assert_eventful(&self, schedules: u64) {
        self.assert_eventful(schedules);
    }
}

fn run_part<E: Events>(part: u64, schedules: u64, run: fn(u64) -> E) {
    if let Some(seed) = number("SIM_SEED") {
        if seed % PARTS == part {
            run(seed);
        }
        return;
    }
    let schedules = number("SIM_SCHEDULES").unwrap_or(schedules);
    let mut totals = E::default();
    for seed in (0..schedules).filter(|seed| seed % PARTS == part) {
        match catch_unwind(AssertUnwindSafe(|| run(seed))) {
            Ok(seen) => totals.add(&seen),
            Err(_) => panic!("schedule {seed} broke a promise (above); SIM_SEED={seed} runs it alone"),
        }
    }
    // A simulation in which nothing happens proves nothing.
    totals.assert_eventful(schedules / PARTS);
}

#[expect(clippy::disallowed_methods, reason = "a knob of the test, not of the product")]
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

fn non_zero(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).expect("a rate above zero")
}

#[test]
fn the_promises_hold_part_1() {
    run_part(0, SCHEDULES, schedule::run);
}

#[test]
fn the_promises_hold_part_2() {
    run_part(1, SCHEDULES, schedule::run);
}

#[test]
fn the_promises_hold_part_3() {
    run_part(2, SCHEDULES, schedule::run);
}

#[test]
fn the_promises_hold_part_4() {
    run_part(3, SCHEDULES, schedule::run);
}
